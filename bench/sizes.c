// SPDX-License-Identifier: GPL-2.0
/*
 * What does it cost to convert 4K, 64K, 2M, 64M and 1G, to shared and back?
 *
 * Files of 1 GiB, in 4K pages and in huge pages of 2M and 1G. A file has a slot and the guest has
 * touched all of it, or it has no slot at all: the difference is KVM's work on page tables. All
 * else is private all the time, so that each range begins and ends as a part of whole huge pages.
 */
#include <stdio.h>

#include "file.h"

#define SIZE			LARGE_SIZE
#define MAX_REPEATS		5
#define SLOW			(64 * MIB)

static const struct range {
	const char *name;
	__u64 size;
} ranges[] = {
	{ "4K", PAGE }, { "64K", 16 * PAGE }, { "2M", 2 * MIB }, { "64M", 64 * MIB }, { "1G", GIB },
};

static bool quick;

static void use_all(struct file *file)
{
	if (!file->gmem.unbound)
		file_touch(file, file->gmem.base, SIZE);
}

static void measure_range(struct file *file, const struct range *range)
{
	/* In the middle of a huge page, aligned to its size. */
	__u64 gpa = file->gmem.base + (range->size < GIB ? 3 * SIZE / 4 : 0);
	__u64 to_shared[MAX_REPEATS], to_private[MAX_REPEATS];
	int repeats = range->size >= SLOW ? 3 : MAX_REPEATS;

	if (file->kind->shift == 21 && range->size < 2 * MIB)
		gpa += MIB;
	for (int i = 0; i < repeats; i++) {
		use_all(file);
		to_shared[i] = file_convert(file, gpa, range->size, true);
		use_all(file);
		to_private[i] = file_convert(file, gpa, range->size, false);
	}
	print_values(to_shared, repeats, "%s to shared", range->name);
	print_values(to_private, repeats, "%s to private", range->name);
}

static void measure_kind(const struct kind *kind, bool unbound)
{
	struct file file;

	file_create(&file, kind, SIZE, unbound);
	file_populate(&file, file.gmem.base, SIZE);
	begin_section("%s pages, %s", kind->name,
		      unbound ? "no slot" : "a slot, mapped by the guest");
	for (unsigned int i = 0; i < ARRAY_SIZE(ranges); i++) {
		if (!quick || ranges[i].size < SLOW)
			measure_range(&file, &ranges[i]);
	}
	file_destroy(&file);
}

int main(int argc, char **argv)
{
	quick = bench_begin(argc, argv, "sizes");
	printf("how\tin place\n");
	for (unsigned int i = 0; i < NR_KINDS; i++) {
		measure_kind(&kinds[i], true);
		measure_kind(&kinds[i], false);
	}
	return bench_end();
}
