#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# demo-arm64.sh: ./gmem demo --arch arm64 runs this in its machine.
set -e

exec /gmem-vmm-arm64 --kernel /Image --initrd /initramfs --append quiet --memory 1G --hugepage 1G \
	--cpus 2 --disk /disk --tap tap0
