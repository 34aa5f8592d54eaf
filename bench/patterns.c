// SPDX-License-Identifier: GPL-2.0
/*
 * What do guests pay who share memory in the ways that guests do?
 *
 * First single pages, one after the other, next to each other and far away. Then patterns: one page
 * in each 2M, all pages in ascending and in random order, a bounce buffer, and the units that a
 * guest of SEV-SNP splits while it boots. A file is all private and allocated at first, and all
 * private again afterwards, with as much memory as at first. No vCPU runs. With uniform splits
 * (guestmem_uniform on the kernel's command line), huge pages become pages of 4K at once.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "file.h"

#define SIZE			LARGE_SIZE
#define NR_PAGES		(SIZE / PAGE)
#define BLOCK			(2 * MIB)
#define NR_BLOCKS		(SIZE / BLOCK)
#define BOUNCE_SIZE		(64 * MIB)
#define REPEATS			5

static bool quick;
static __u32 order[NR_PAGES];

/* The sum over pages that are converted one by one. */
static __u64 convert_each(struct file *file, __u32 nr, __u64 (*gpa)(struct file *file, __u32 i),
			  bool to_shared)
{
	__u64 sum = 0;

	for (__u32 i = 0; i < nr; i++)
		sum += file_convert(file, gpa(file, i), PAGE, to_shared);
	return sum;
}

static __u64 one_in_each_block(struct file *file, __u32 i)
{
	return file->gmem.base + i * BLOCK + BLOCK / 2;
}

static __u64 ascending(struct file *file, __u32 i)
{
	return file->gmem.base + i * PAGE;
}

static __u64 at_random(struct file *file, __u32 i)
{
	return file->gmem.base + order[i] * PAGE;
}

static void print_left(const struct kernel_memory *before)
{
	struct kernel_memory after;

	read_memory(&after);
	print_value(kib(after.struct_pages - before->struct_pages),
		    "left behind: struct pages, KiB");
}

static void measure_pattern(struct file *file, const char *name, __u32 nr,
			    __u64 (*gpa)(struct file *file, __u32 i))
{
	struct kernel_memory before, shared;
	__u64 to_shared, to_private;

	read_memory(&before);
	to_shared = convert_each(file, nr, gpa, true);
	read_memory(&shared);
	to_private = convert_each(file, nr, gpa, false);
	begin_section("%s: %s", file->kind->name, name);
	print_value(to_shared, "to shared, all");
	print_value(to_private, "to private, all");
	print_value(kib(shared.used - before.used), "memory while shared, KiB");
	print_left(&before);
}

static void measure_bounce_buffer(struct file *file)
{
	__u64 gpa = file->gmem.base + SIZE / 4, to_shared[REPEATS], to_private[REPEATS];

	for (int i = 0; i < REPEATS; i++) {
		to_shared[i] = file_convert(file, gpa, BOUNCE_SIZE, true);
		to_private[i] = file_convert(file, gpa, BOUNCE_SIZE, false);
	}
	begin_section("%s: a bounce buffer of 64M", file->kind->name);
	print_row("to shared, at once", to_shared, REPEATS);
	print_row("to private, at once", to_private, REPEATS);
	for (int i = 0; i < REPEATS; i++) {
		to_shared[i] = 0;
		to_private[i] = 0;
		for (__u64 at = 0; at < BOUNCE_SIZE; at += BLOCK)
			to_shared[i] += file_convert(file, gpa + at, BLOCK, true);
		for (__u64 at = 0; at < BOUNCE_SIZE; at += BLOCK)
			to_private[i] += file_convert(file, gpa + at, BLOCK, false);
	}
	print_row("to shared, by calls of 2M", to_shared, REPEATS);
	print_row("to private, by calls of 2M", to_private, REPEATS);
}

/* The first pages of a huge page. */
enum { THE_PAGE, NEIGHBOR, HALFWAY };

static const struct step {
	const char *title;
	int which;
	bool to_shared;
} steps[] = {
	{ "first 4K to shared", THE_PAGE, true },
	{ "next 4K to shared, adjacent", NEIGHBOR, true },
	{ "next 4K to shared, half-way", HALFWAY, true },
	{ "4K to private, half-way", HALFWAY, false },
	{ "4K to private, adjacent", NEIGHBOR, false },
	{ "last 4K to private", THE_PAGE, false },
};

static __u64 step_gpa(struct file *file, const struct step *step)
{
	__u64 page = file->unit + file->unit_size / 4;

	if (step->which == NEIGHBOR)
		return page + PAGE;
	return step->which == HALFWAY ? page + file->unit_size / 2 : page;
}

static void measure_memory_of_split(struct file *file)
{
	__u64 all[REPEATS], gpa = step_gpa(file, &steps[0]);
	struct kernel_memory before, after;

	for (int i = 0; i < REPEATS; i++) {
		read_memory(&before);
		gmem_convert(&file->gmem, gpa, PAGE, true);
		read_memory(&after);
		gmem_convert(&file->gmem, gpa, PAGE, false);
		all[i] = kib(after.used - before.used);
	}
	print_row("memory taken by the first split, KiB", all, REPEATS);
}

static void measure_steps(struct file *file)
{
	__u64 values[ARRAY_SIZE(steps)][REPEATS];

	for (int i = 0; i < REPEATS; i++) {
		for (unsigned int s = 0; s < ARRAY_SIZE(steps); s++)
			values[s][i] = file_convert(file, step_gpa(file, &steps[s]), PAGE,
						    steps[s].to_shared);
	}
	begin_section("%s: single pages", file->kind->name);
	for (unsigned int s = 0; s < ARRAY_SIZE(steps); s++)
		print_row(steps[s].title, values[s], REPEATS);
	measure_memory_of_split(file);
}

static void measure_kind(const struct kind *kind)
{
	struct file file;

	file_create(&file, kind, SIZE, false);
	file_populate(&file, file.gmem.base, SIZE);
	if (kind->shift > 12)
		measure_steps(&file);
	measure_pattern(&file, "one page in each 2M", NR_BLOCKS, one_in_each_block);
	measure_bounce_buffer(&file);
	if (!quick) {
		measure_pattern(&file, "every page, ascending", NR_PAGES, ascending);
		random_begin();
		random_order(order, NR_PAGES);
		measure_pattern(&file, "every page, in random order", NR_PAGES, at_random);
	}
	file_destroy(&file);
}

/*
 * The boot of a guest of SEV-SNP with 16 GiB, as measured by others, by a quarter: of 622 huge
 * pages of 2M that were split, 30 became whole again; with 1G they were 6, and 2 became whole.
 * Here it is 156 blocks of 2M, each with one shared page, and 8 of these become private. The 8 are
 * in one GiB, the others in another one: two huge pages of 1G are split, one becomes whole.
 */
#define BOOT_SIZE		(4 * GIB)
#define BOOT_BLOCKS		156
#define BOOT_WHOLE		8

static __u64 boot_gpa(struct file *file, __u32 i)
{
	__u64 gib = i < BOOT_WHOLE ? 1 : 2;
	__u64 page = (i * 97) % (BLOCK / PAGE);

	return file->gmem.base + gib * GIB + order[i] * BLOCK + page * PAGE;
}

/* Returns how many units are split, from the list in debugfs. */
static long count_split(void)
{
	FILE *list = fopen("/sys/kernel/debug/guestmem/units", "r");
	long nr = -1, bad = -1;
	char *line = NULL;
	size_t size = 0;

	if (!list)
		die("/sys/kernel/debug/guestmem/units");
	while (getline(&line, &size, list) > 0)
		sscanf(line, "%ld units, %ld bad", &nr, &bad);
	fclose(list);
	free(line);
	if (bad)
		die("the kernel finds %ld faults in its huge pages", bad);
	return nr;
}

static void measure_boot(const struct kind *kind)
{
	__u64 to_shared, to_private;
	struct file file;
	long split;

	random_begin();
	random_order(order, NR_BLOCKS);
	file_create(&file, kind, BOOT_SIZE, false);
	/* All of it would take long, and what isn't converted doesn't count. */
	for (int i = 0; i < BOOT_BLOCKS; i++) {
		__u64 gpa = boot_gpa(&file, i) & -(kind->shift > 12 ? file.unit_size : BLOCK);

		file_populate(&file, gpa, kind->shift > 12 ? file.unit_size : BLOCK);
	}
	to_shared = convert_each(&file, BOOT_BLOCKS, boot_gpa, true);
	split = kind->shift > 12 ? count_split() : 0;
	to_private = convert_each(&file, BOOT_WHOLE, boot_gpa, false);
	begin_section("%s: an SNP guest of 4 GiB boots", kind->name);
	print_value(to_shared, "156 pages to shared, all");
	print_value(to_private, "8 of them to private, all");
	if (kind->shift > 12) {
		print_value(split, "huge pages split");
		print_value(split - count_split(), "whole again");
	}
	file_destroy(&file);
}

static const char *read_uniform(void)
{
	FILE *file = fopen("/proc/cmdline", "r");
	char line[4096] = "";

	if (!file || !fgets(line, sizeof(line), file))
		die("/proc/cmdline");
	fclose(file);
	return strstr(line, "guestmem_uniform") ? "uniform" : "pieces";
}

int main(int argc, char **argv)
{
	const char *how = read_uniform();

	quick = bench_begin(argc, argv, "patterns");
	printf("how\t%s\n", how);
	for (unsigned int i = 0; i < NR_KINDS; i++) {
		/* Pages of 4K have nothing to be split. */
		if (kinds[i].shift == 12 && !strcmp(how, "uniform"))
			continue;
		measure_kind(&kinds[i]);
		measure_boot(&kinds[i]);
	}
	return bench_end();
}
