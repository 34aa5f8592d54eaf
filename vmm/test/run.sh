#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# vmm/test/run.sh linux|shared|payload|flip|refused: boot a machine and run vmm/test/cases.sh there.
# ./gmem check (the tests vmm*) calls this, and names the kernel to be tested in GMEM_VARIANT.

. "$(dirname "$0")/../../harness/lib/common.sh"
use demo timeouts

opt_arch=x86_64 opt_variant=${GMEM_VARIANT:-default} opt_icount=""
what=${1:?linux, shared, payload, flip or refused}
args=(--id "check-vmm-$what-$opt_variant" --variant "$opt_variant" --plan --pools
	--hugepages 1G=2 --hugepages 2M=64 --timeout "$(scaled 300)"
	--file "$vmm_out/bin/gmem-vmm:/" --file "$vmm_out/bin/payload:/"
	--file "$vmm_out/bin/flip:/" --file "$GMEM_TOP/vmm/test/cases.sh:/")
vmm_programs || die "no VMM"
[[ $what == refused ]] || args+=(--append "$vmm_append")
case $what in
linux) initramfs="test" ;;
shared) initramfs=shared ;;
*) initramfs= ;;
esac
if [[ $initramfs ]]; then
	vmm_ready || die "nothing to boot in the VMM"
	args+=(--file "$vmm_out/guest/bzImage:/" --file "$vmm_out/guest/$initramfs:/initramfs")
fi
exec "$GMEM_TOP/harness/cmd/run" "${args[@]}" -- /bin/sh /cases.sh "$what"
