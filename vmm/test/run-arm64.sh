#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# vmm/test/run-arm64.sh: boot a machine and run vmm/test/cases-arm64.sh there. ./gmem check (the
# test vmm_arm64) calls this, and names the kernel to be tested in GMEM_VARIANT.

. "$(dirname "$0")/../../harness/lib/common.sh"
use demo-arm64 timeouts

opt_arch=arm64 opt_variant=${GMEM_VARIANT:-default} opt_icount=""
vmm_arm64_ready || die "no VMM"
kernel_build arm64 "$opt_variant" "" || die "nothing to boot in the VMM"
exec "$GMEM_TOP/harness/cmd/run" --arch arm64 --id "check-vmm-arm64-$opt_variant" \
	--variant "$opt_variant" --plan --pools --expect-taint U \
	--hugepages 1G=1,2M=160 --timeout "$(scaled 300)" \
	--file "$vmm_arm64/gmem-vmm-arm64:/" --file "$kernel:/Image" \
	--file "$vmm_arm64/initramfs:/initramfs" --file "$vmm_arm64/disk:/disk" \
	--file "$GMEM_TOP/vmm/test/cases-arm64.sh:/" -- /bin/sh /cases-arm64.sh
