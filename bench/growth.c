// SPDX-License-Identifier: GPL-2.0
/*
 * With what does the cost of a conversion grow?
 *
 * One page becomes shared, and private again: in huge pages of 2M and of 1G, in a file that has
 * more and more shared pages already, and in larger and larger files. No vCPU runs.
 */
#include <stdio.h>

#include "file.h"

#define SIZE			LARGE_SIZE
#define NR_PAGES		(SIZE / PAGE)
#define REPEATS			5
#define SAMPLES			64

static __u32 order[NR_PAGES];
static bool quick;

static void measure_pair(struct file *file, __u64 gib)
{
	__u64 to_shared[REPEATS], to_private[REPEATS];
	__u64 gpa = file->unit + file->unit_size / 4;

	for (int i = 0; i < REPEATS; i++) {
		to_shared[i] = file_convert(file, gpa, PAGE, true);
		to_private[i] = file_convert(file, gpa, PAGE, false);
	}
	print_values(to_shared, REPEATS, "%llu GiB: to shared", gib);
	print_values(to_private, REPEATS, "%llu GiB: to private", gib);
}

/* Unit sizes, and file sizes. Nothing but one huge page is allocated. */
static void measure_sizes(void)
{
	struct file file;

	for (unsigned int i = 1; i < NR_KINDS; i++) {
		begin_section("%s: one page of a file of", kinds[i].name);
		for (__u64 gib = 1; gib <= 4; gib *= 2) {
			file_create(&file, &kinds[i], gib * GIB, false);
			file_populate(&file, file.unit, file.unit_size);
			measure_pair(&file, gib);
			file_destroy(&file);
		}
	}
}

/* The mean of pages that are shared in addition, and become private again. */
static void measure_samples(struct file *file, __u32 nr_shared)
{
	__u64 to_shared = 0, to_private = 0;

	for (__u32 i = 0; i < SAMPLES; i++)
		to_shared += file_convert(file, file->gmem.base + order[nr_shared + i] * PAGE,
					  PAGE, true);
	for (__u32 i = 0; i < SAMPLES; i++)
		to_private += file_convert(file, file->gmem.base + order[nr_shared + i] * PAGE,
					   PAGE, false);
	print_value(to_shared / SAMPLES, "%u: to shared", nr_shared);
	print_value(to_private / SAMPLES, "%u: to private", nr_shared);
}

static void measure_shared(const struct kind *kind)
{
	__u32 max = quick ? 1000 : 100000, nr = 0;
	struct file file;

	file_create(&file, kind, SIZE, false);
	file_populate(&file, file.gmem.base, SIZE);
	begin_section("%s: mean of 64 more random pages of a GiB, of which are shared already",
		      kind->name);
	measure_samples(&file, 0);
	for (__u32 step = 1; step <= max; step *= 10) {
		for (; nr < step; nr++)
			gmem_convert(&file.gmem, file.gmem.base + order[nr] * PAGE, PAGE, true);
		measure_samples(&file, nr);
	}
	file_destroy(&file);
}

int main(int argc, char **argv)
{
	quick = bench_begin(argc, argv, "growth");
	printf("how\tin place\n");
	random_begin();
	random_order(order, NR_PAGES);
	measure_sizes();
	for (unsigned int i = 0; i < NR_KINDS; i++)
		measure_shared(&kinds[i]);
	return bench_end();
}
