#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# cases.sh linux|payload|refused: the VMM in a machine with one 1G page and 64 2M pages. Guests
# that must work, and mistakes that must be found and named. "refused": the machine was
# booted without in-place conversion.

nr=0 failed=0

vmm() {
	private=$1 page=$2
	shift 2
	# shellcheck disable=SC2086 # a list of words
	/gmem-vmm run $guest --private "$private" --hugepage "$page" "$@" >/tmp/out 2>&1
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

# works NAME SIZE PAGE: the VMM's own checks cover the rest.
works() {
	name=$1
	shift
	vmm "$@"
	result $? "$name"
}

# fails NAME TEXT SIZE PAGE [OPTION]...: with an exit status of 1, and says TEXT.
fails() {
	name=$1 text=$2
	shift 2
	vmm "$@"
	[ $? = 1 ] && grep -qF -- "$text" /tmp/out
	result $? "$name"
}

linux() {
	guest="--kernel /bzImage --initrd /initramfs --append quiet"
	echo "1..8"
	works guest_in_1g_pages 1G 1G
	works guest_in_2m_pages 128M 2M
	works guest_in_4k_pages 128M 0
	# Not one of the numbers may look as if the data had been in guest_memfd, in private.
	fails shared_by_mistake_is_found "the host can read 32768 pages of private memory" \
		128M 0 --mistake shared
	fails not_in_the_file_is_found "a change by -64 and 0 was expected" \
		128M 2M --mistake ordinary
	fails pool_too_small "needs 2 huge pages of 1G; the pool has 1 free, 0 of them promised" 2G 1G
	fails not_a_multiple "huge_page_size_log2 30): Invalid argument" 128M 1G
	fails no_such_page_size "this machine has no huge pages of 64K" 128M 64K
}

# What the host sees is checked by the VMM and, from within the guest, by asking the VMM.
payload() {
	guest="--payload /payload --memory 16M"
	echo "1..5"
	works conversions_of_4k_pages 64M 0
	works conversions_of_2m_units 128M 2M
	fails conversion_not_done_is_found "the host's access to a shared page" \
		64M 0 --mistake deaf
	fails shared_from_the_start_is_found "the host's access to a private page" \
		64M 0 --mistake shared
	fails no_room "needs 16384 huge pages of 2M" 32G 2M
}

refused() {
	guest="--payload /payload --memory 16M"
	echo "1..2"
	fails no_conversion_in_place "boot the host with kvm.gmem_in_place_conversion=1" 64M 0
	fails no_conversion_in_huge_pages "boot the host with kvm.gmem_in_place_conversion=1" 64M 2M
}

echo "KTAP version 1"
case $1 in
linux) linux ;;
payload) payload ;;
refused) refused ;;
esac
exit $failed
