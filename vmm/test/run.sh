#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# vmm/test/run.sh: boot a machine and run vmm/test/cases.sh there. Called by ./gmem check (the
# test vmm), which says in GMEM_VARIANT which kernel is to be tested.

. "$(dirname "$0")/../../harness/lib/common.sh"
for lib in packages base series tree kernel guest selftests timeouts demo; do
	# shellcheck source=/dev/null
	. "$GMEM_TOP/harness/lib/$lib.sh"
done

opt_arch=x86_64 opt_variant=${GMEM_VARIANT:-default} opt_icount=""
vmm_ready || die "no VMM, or nothing to boot in it"
exec "$GMEM_TOP/harness/cmd/run" --id "check-vmm-$opt_variant" --variant "$opt_variant" --plan --pools \
	--hugepages 1G=1,2M=64 --timeout "$(scaled 300)" --file "$vmm_out/bin/gmem-vmm:/" \
	--file "$vmm_out/guest/bzImage:/" --file "$vmm_out/guest/test:/initramfs" \
	--file "$GMEM_TOP/vmm/test/cases.sh:/" -- /bin/sh /cases.sh
