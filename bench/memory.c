// SPDX-License-Identifier: GPL-2.0
/*
 * How much memory does the kernel need for 1 GiB of guest memory, of which some pages are shared?
 *
 * Struct pages, stage-2 page tables and slab pages are counters of the kernel. Nodes of the page
 * cache, and of the table in which pieces find their huge page, are counted as in counters.c.
 * All figures say how much more it is than before the pages were shared and before the guest
 * touched all of the GiB.
 */
#include <stdio.h>

#include "file.h"

#define SIZE			LARGE_SIZE
#define NR_PAGES		(SIZE / PAGE)
#define MAX_SHARED		10000

static const __u32 counts[] = { 0, 1, 10, 1000, MAX_SHARED };
static __u32 order[NR_PAGES];

static void convert_first(struct file *file, __u32 nr, bool to_shared)
{
	for (__u32 i = 0; i < nr; i++)
		gmem_convert(&file->gmem, file->gmem.base + order[i] * PAGE, PAGE, to_shared);
}

static void measure_shared(const struct kind *kind, __u32 nr)
{
	struct kernel_memory before, after;
	struct file file;
	long nodes = -1;

	file_create(&file, kind, SIZE, false);
	file_populate(&file, file.gmem.base, SIZE);
	if (count_nodes_begin()) {
		convert_first(&file, nr, true);
		nodes = count_nodes_end();
		convert_first(&file, nr, false);
	}
	read_memory(&before);
	convert_first(&file, nr, true);
	file_touch(&file, file.gmem.base, SIZE);
	read_memory(&after);

	begin_section("%s: of 1 GiB, %u pages are shared", kind->name, nr);
	print_value(kib(after.struct_pages - before.struct_pages), "more struct pages, KiB");
	if (nodes >= 0)
		print_value(nodes, "more nodes of xarrays");
	print_value(kib(after.slab - before.slab), "more slab pages, KiB");
	print_value(kib(after.guest_tables - before.guest_tables),
		    "page tables of the guest, all touched, KiB");
	print_value(kib(after.used - before.used), "all of it, KiB");
	file_destroy(&file);
}

int main(int argc, char **argv)
{
	bool quick = bench_begin(argc, argv, "memory");

	printf("how\tin place\n");
	random_begin();
	random_order(order, NR_PAGES);
	for (unsigned int i = 0; i < NR_KINDS; i++) {
		if (quick && kinds[i].shift == 12)
			continue;
		for (unsigned int c = 0; c < ARRAY_SIZE(counts); c++) {
			if (!quick || counts[c] < MAX_SHARED)
				measure_shared(&kinds[i], counts[c]);
		}
	}
	return bench_end();
}
