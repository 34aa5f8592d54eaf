#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# cases.sh linux|shared|payload|flip|refused: tests the VMM in a machine with two 1G pages and 64
# 2M pages. Some guests must work, and the VMM must find and name some mistakes. "refused": the
# machine was booted without in-place conversion.

nr=0 failed=0

vmm() {
	size=$1 page=$2
	shift 2
	# shellcheck disable=SC2086 # a list of words
	/gmem-vmm $guest "$size" --hugepage "$page" "$@" >/tmp/out 2>&1
}

result() {
	nr=$((nr + 1))
	if [ "$1" = 0 ]; then
		echo "ok $nr $2"
	else
		sed 's/^/# /' /tmp/out
		echo "not ok $nr $2"
		failed=1
	fi
}

# works NAME SIZE PAGE: the VMM returns 0, i.e. its own checks pass.
works() {
	name=$1
	shift
	vmm "$@"
	result $? "$name"
}

# says NAME TEXT SIZE PAGE [OPTION]...: the VMM works, and says TEXT.
says() {
	name=$1 text=$2
	shift 2
	vmm "$@" && grep -qF -- "$text" /tmp/out
	result $? "$name"
}

# fails NAME TEXT SIZE PAGE [OPTION]...: the VMM fails with an exit status of 1, and says TEXT.
fails() {
	name=$1 text=$2
	shift 2
	vmm "$@"
	[ $? = 1 ] && grep -qF -- "$text" /tmp/out
	result $? "$name"
}

linux() {
	guest="run --kernel /bzImage --initrd /initramfs --append quiet --private"
	echo "1..8"
	works guest_in_1g_pages 1G 1G
	works guest_in_2m_pages 128M 2M
	works guest_in_4k_pages 128M 0
	# None of the numbers may look as if the data had been in guest_memfd, and private.
	fails shared_by_mistake_is_found "the host can read 32768 pages of private memory" \
		128M 0 --mistake shared
	fails not_in_the_file_is_found "a change by -64 and 0 was expected" \
		128M 2M --mistake ordinary
	fails pool_too_small "needs 3 huge pages of 1G; the pool has 2 free, 0 of them promised" 3G 1G
	fails not_a_multiple "huge_page_size_log2 30): Invalid argument" 128M 1G
	fails no_such_page_size "this machine has no huge pages of 64K" 128M 64K
}

# A Linux that is all in shared memory, also the one that the host has populated.
shared() {
	guest="run --kernel /bzImage --initrd /initramfs --append quiet --shared"
	echo "1..8"
	says guest_in_shared_1g_pages "mapped into the guest: 2 x 1G" 2G 1G
	works guest_in_shared_2m_pages 128M 2M
	works guest_in_shared_4k_pages 128M 0
	says populated_1g_pages "mapped into the guest: 2 x 1G" 2G 1G --populate
	says populated_2m_pages "64 pieces: 64x2M" 128M 2M --populate
	works populated_4k_pages 128M 0 --populate
	fails mapped_small_is_found "the guest has 0 pages in huge mappings" \
		128M 2M --mistake small
	fails not_in_the_file_is_found "the file has 0 pages, the guest verified" \
		128M 2M --mistake ordinary
}

# The VMM checks what the host sees, and the guest does so by asking the VMM.
payload() {
	guest="run --payload /payload --memory 16M --private"
	echo "1..6"
	works conversions_of_4k_pages 64M 0
	works conversions_in_2m_units 128M 2M
	works conversions_in_1g_units 1G 1G
	fails conversion_not_done_is_found "the host's access to a shared page" \
		64M 0 --mistake deaf
	fails shared_from_the_start_is_found "the host's access to a private page" \
		64M 0 --mistake shared
	fails no_room "needs 16384 huge pages of 2M" 32G 2M
}

# numbers TEXT: prints the number after TEXT of each line that has TEXT.
numbers() {
	sed -n "s/.*$1\\([0-9]*\\).*/\\1/p" /tmp/out | paste -s -d ' '
}

# flips NAME SIZE PAGE PIECES TEXT NUMBERS: the VMM shows the unit several times. PIECES lists how
# many pieces the unit has each time, NUMBERS by how many pages of its size it is mapped, which is
# the number after TEXT. Each conversion of one page costs one fault, or two.
flips() {
	name=$1 pieces=$4 text=$5 mapped=$6
	vmm "$2" "$3" && [ "$(numbers "pieces ")" = "$pieces" ] &&
		[ "$(numbers "$text")" = "$mapped" ] &&
		[ "$(numbers "the last map " | awk '{ print $2 < 3 && $3 < 3 && $4 < 3 }')" = 1 ] &&
		! grep "computed:" /tmp/out
	result $? "$name"
}

flip() {
	guest="show --payload /flip --memory 16M --private"
	echo "1..4"
	flips pages_flip_in_1g_unit 1G 1G "1 19 36 19 440 1" "into the guest: " "1 0 0 0 0 1"
	flips pages_flip_in_2m_units 64M 2M "1 10 18 10 147 1" "x 1G, " "32 31 31 31 31 32"
	fails flip_not_done_is_found "the host's access to a shared page" 64M 2M --mistake deaf
	# If the kernel does not tell the pieces of a unit, KVM's counters still show a split.
	umount /sys/kernel/debug
	says pages_flip_unseen "31 of 32 blocks of 2M are whole" 64M 2M
}

refused() {
	guest="run --payload /payload --memory 16M --private"
	echo "1..2"
	fails no_conversion_in_place "boot the host with kvm.gmem_in_place_conversion=1" 64M 0
	fails no_conversion_in_huge_pages "boot the host with kvm.gmem_in_place_conversion=1" 64M 2M
}

echo "KTAP version 1"
case $1 in
linux) linux ;;
shared) shared ;;
payload) payload ;;
flip) flip ;;
refused) refused ;;
esac
exit $failed
