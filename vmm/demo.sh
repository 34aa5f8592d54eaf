#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# demo.sh SIZES PAGE_SIZES: ./gmem demo runs this in its machine. The first part that fails
# is the last.
set -e

/gmem-vmm compare --kernel /bzImage --initrd /initramfs --append quiet \
	--private "$1" --hugepage "$2"
cat <<END

Pages of a unit, shared and taken back

The guest uses all of its 1G, all the time. It shares single pages of it, by a hypercall, and
the host writes to them. Each step costs the guest a fault for the page, and no more. In the
map a cell is 2M: [ a piece begins, # it goes on, s has a shared page among 4K pages and other
small pieces.

END
/gmem-vmm show --payload /flip --memory 16M --private 1G --hugepage 1G
cat <<END

An ordinary Linux in units of 1G: its kernel, its page tables, everything

Nothing is private here, and nothing can convert. The VMM writes all of the memory, as if it
restored a snapshot, then loads the kernel. It has the memory in huge pages, and so has the guest.

END
/gmem-vmm show --kernel /bzImage --initrd /shared --append quiet --shared 2G --hugepage 1G \
	--populate
