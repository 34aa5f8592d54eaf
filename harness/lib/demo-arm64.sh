# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# Make the VMM for arm64 and its guest: for ./gmem demo --arch arm64, and for the test of that VMM.
#
#   out/vmm/arm64/gmem-vmm-arm64   the VMM, built against the headers of our kernel
#   out/vmm/arm64/initramfs        what the guest runs
#   out/vmm/arm64/disk             the guest's disk, which has a pattern
#
# The guest's kernel is the one that the machine itself boots.

use demo guest kernel packages selftests tree

vmm_arm64=$vmm_out/arm64

# vmm_arm64_ready: make all of these files current.
vmm_arm64_ready() {
	need build arm64
	locked "$vmm_arm64.lock" vmm_arm64_build
}

vmm_arm64_build() {
	local make=(make -C "$GMEM_TOP/vmm" arm64 O="$vmm_arm64") root=$vmm_arm64/root
	tree_ready "" || return
	kernel_env arm64
	locked "$GMEM_OUT/selftests-arm64.lock" selftest_headers || return
	make+=(CC="${cross}gcc" KHDR="$tree/build-headers-arm64/usr/include"
		FDT="$tree/scripts/dtc/libfdt")
	if [[ $GMEM_DRY ]] || ! "${make[@]}" -q >/dev/null 2>&1; then
		step "$GMEM_OUT/log/vmm-arm64.log" "building the VMM for arm64" "${make[@]}" || return
	fi
	[[ ! $GMEM_DRY ]] || return 0
	rm -rf "$root"
	mkdir -p "$root" && cp "$vmm_arm64/init-arm64" "$root/init" || return
	archive "$root" "$root.cpio" && mv "$root.cpio" "$vmm_arm64/initramfs" && rm -rf "$root" &&
		vmm_arm64_disk >"$vmm_arm64/disk.new" && mv "$vmm_arm64/disk.new" "$vmm_arm64/disk"
}

# Print 4 MiB, each 64-bit word of which is its offset times DISK_FACTOR of vmm/guest/mailbox.h.
vmm_arm64_disk() {
	perl -e 'use integer; my $factor = unpack("q<", pack("H*", "157c4a7fb979379e"));
		print pack("q<", 8 * $_ * $factor) for 0 .. (4 << 20) / 8 - 1'
}
