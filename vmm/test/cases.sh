#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# The VMM in a machine with one 1G page and 64 2M pages: guests that must work, and
# mistakes that must be found and named.

nr=0 failed=0

vmm() {
	private=$1 page=$2
	shift 2
	/gmem-vmm run --kernel /bzImage --initrd /initramfs --append quiet --private "$private" \
		--hugepage "$page" "$@" >/tmp/out 2>&1
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

echo "KTAP version 1"
echo "1..8"
works guest_in_1g_pages 1G 1G
works guest_in_2m_pages 128M 2M
works guest_in_4k_pages 128M 0
# Not one of the numbers may look as if the data had been in guest_memfd.
fails shared_by_mistake_is_found "of ordinary memory are behind the private slot" \
	128M 0 --no-attribute
fails shared_by_mistake_in_2m_pages "a change by -64 and 0 was expected" \
	128M 2M --no-attribute
fails pool_too_small "needs 2 huge pages of 1G; the pool has 1 free, 0 of them promised" 2G 1G
fails not_a_multiple "huge_page_size_log2 30): Invalid argument" 128M 1G
fails no_such_page_size "this machine has no huge pages of 64K" 128M 64K
exit $failed
