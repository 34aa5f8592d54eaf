#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# cases-arm64.sh: tests the VMM for arm64 in a machine with one 1G page and 160 2M pages.

nr=0 failed=0

vmm() {
	cp /disk /tmp/disk
	/gmem-vmm-arm64 --kernel /Image --initrd /initramfs --append quiet --disk /tmp/disk \
		--tap tap0 "$@" >/tmp/out 2>&1
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

# works NAME OPTION...: the VMM returns 0, i.e. its own checks pass, all of them.
works() {
	name=$1
	shift
	vmm "$@" && ! grep -q "not measured" /tmp/out
	result $? "$name"
}

# fails NAME TEXT OPTION...: the VMM fails with an exit status of 1, and says TEXT.
fails() {
	name=$1 text=$2
	shift 2
	vmm "$@"
	[ $? = 1 ] && grep -qF -- "$text" /tmp/out
	result $? "$name"
}

echo "1..6"
works protected_1g --memory 1G --hugepage 1G
works protected_2m_its --memory 320M --hugepage 2M --its
works protected_4k --memory 320M
works vmm_that_converts_unasked --memory 320M --hugepage 2M --mistake greedy
fails vmm_that_refuses_is_found "and taken back 0 times" --memory 320M --hugepage 2M \
	--mistake refuse
works not_protected --memory 320M --hugepage 2M --unprotected
exit $failed
