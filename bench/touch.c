// SPDX-License-Identifier: GPL-2.0
/*
 * What does it cost to give memory to a guest, and to take it away?
 *
 * The guest touches each page of 1 GiB for the first time, with and without memory allocated
 * beforehand, and again when all is mapped. In a loop over 1 GiB there is a tick of the timer that
 * costs more than a fault, so the guest also touches a single page, with memory allocated
 * beforehand. With a huge page of 1G, this maps all of it. The host allocates and frees the same
 * GiB while it is whole, and while single pages of it are shared.
 *
 * The cost of clearing the memory follows from two ways to allocate it: a huge page of 1G, and
 * 512 of 2M. Both clear 1 GiB by the same loop, so that the difference is the price of 511
 * allocations without the clearing, and one of them costs a 511th part of that.
 */
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "file.h"

#define SIZE			LARGE_SIZE
#define BLOCK			(2 * MIB)
#define REPEATS			3

/* By kind of file. */
static __u64 allocate_whole[NR_KINDS][REPEATS];

static __u64 smaller(__u64 a, __u64 b)
{
	return a < b ? a : b;
}

static __u64 allocate(struct file *file)
{
	__u64 start = clock_now();

	file_populate(file, file->gmem.base, SIZE);
	return clock_now() - start;
}

static __u64 punch(struct file *file, __u64 gpa, __u64 size)
{
	__u64 start = clock_now();

	file_punch(file, gpa, size);
	return clock_now() - start;
}

static __u64 read_clock(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec * 1000000000ULL + time.tv_nsec;
}

/* Punches, and returns for how many ns the task didn't run: it waited, or had to let others run. */
static __u64 punch_waits(struct file *file, __u64 gpa, __u64 size)
{
	__u64 wall = read_clock(CLOCK_MONOTONIC), cpu = read_clock(CLOCK_THREAD_CPUTIME_ID);

	file_punch(file, gpa, size);
	cpu = read_clock(CLOCK_THREAD_CPUTIME_ID) - cpu;
	wall = read_clock(CLOCK_MONOTONIC) - wall;
	return wall - smaller(wall, cpu);
}

/* Closes the file; its slot is deleted before, which doesn't count. */
static __u64 close_file(struct file *file)
{
	__u64 start;

	vm_unbind_gmem(&file->vm, &file->gmem);
	start = clock_now();
	close(file->gmem.fd);
	start = clock_now() - start;
	vm_destroy(&file->vm);
	return start;
}

static void measure_touch(int nr)
{
	__u64 cold[REPEATS], mapped[REPEATS], again[REPEATS], faults[REPEATS], map[REPEATS];
	__u64 one[REPEATS], misses[REPEATS];
	bool counted = false;
	struct file file;

	for (int i = 0; i < REPEATS; i++) {
		file_create(&file, &kinds[nr], SIZE, false);
		faults[i] = guest_faults();
		cold[i] = file_touch(&file, file.gmem.base, SIZE);
		faults[i] = guest_faults() - faults[i];
		counted = count_tlb_begin();
		again[i] = file_touch(&file, file.gmem.base, SIZE);
		if (counted)
			misses[i] = count_tlb_end();
		file_destroy(&file);

		file_create(&file, &kinds[nr], SIZE, false);
		allocate_whole[nr][i] = allocate(&file);
		mapped[i] = file_touch(&file, file.gmem.base, SIZE);
		file_destroy(&file);
		map[i] = mapped[i] - smaller(mapped[i], again[i]);

		file_create(&file, &kinds[nr], SIZE, false);
		allocate(&file);
		one[i] = file_touch(&file, file.gmem.base, PAGE);
		one[i] -= smaller(one[i], file_touch(&file, file.gmem.base, PAGE));
		file_destroy(&file);
	}
	begin_section("%s: the guest touches 1 GiB", kinds[nr].name);
	print_row("first touch, nothing allocated", cold, REPEATS);
	print_row("faults", faults, REPEATS);
	print_row("first touch, allocated before", mapped, REPEATS);
	print_row("touched again, all mapped", again, REPEATS);
	if (counted)
		print_row("touched again: the guest's TLB misses", misses, REPEATS);
	print_row("mapping it: allocated before, less again", map, REPEATS);
	print_row("the first access alone: allocated before, less again", one, REPEATS);
}

/* How many pages are shared, and where. */
enum { WHOLE, ONE_PAGE, ONE_IN_EACH };

static const char * const how_split[] = {
	[WHOLE] = "all private",
	[ONE_PAGE] = "one page shared",
	[ONE_IN_EACH] = "one page shared in each 2M",
};

static void share(struct file *file, int how, bool to_shared)
{
	__u64 step = how == ONE_IN_EACH ? BLOCK : SIZE;

	if (how == WHOLE)
		return;
	for (__u64 at = 0; at < SIZE; at += step)
		gmem_convert(&file->gmem, file->gmem.base + at + MIB, PAGE, to_shared);
}

static void measure_free(const struct kind *kind, int how)
{
	__u64 before[REPEATS], punched[REPEATS], part[REPEATS], closed[REPEATS], waits[REPEATS];
	struct file file;

	for (int i = 0; i < REPEATS; i++) {
		file_create(&file, kind, SIZE, false);
		/* The pages are shared before there is memory. */
		share(&file, how, true);
		before[i] = allocate(&file);
		part[i] = punch(&file, file.gmem.base + SIZE / 2, PAGE);
		punched[i] = punch(&file, file.gmem.base, SIZE);
		share(&file, how, false);
		allocate(&file);
		/* And the pages are shared when the memory is there. */
		share(&file, how, true);
		waits[i] = punch_waits(&file, file.gmem.base, SIZE);
		share(&file, how, false);
		allocate(&file);
		share(&file, how, true);
		closed[i] = close_file(&file);
	}
	begin_section("%s: 1 GiB, %s", kind->name, how_split[how]);
	print_row("allocate", before, REPEATS);
	print_row("punch 4K", part, REPEATS);
	print_row("punch all of it", punched, REPEATS);
	print_row("punch all of it: not running", waits, REPEATS);
	print_row("close", closed, REPEATS);
}

/* See above. The minimum of each is the one that a timer has disturbed least. */
static void print_clearing(void)
{
	__u64 small = allocate_whole[1][0], huge = allocate_whole[2][0], each;

	for (int i = 1; i < REPEATS; i++) {
		small = smaller(small, allocate_whole[1][i]);
		huge = smaller(huge, allocate_whole[2][i]);
	}
	each = (small - smaller(small, huge)) / (SIZE / BLOCK - 1);
	begin_section("clearing memory");
	print_value(huge, "allocate a huge page of 1G");
	print_value(small, "allocate 512 of 2M");
	print_value(each, "an allocation, without the clearing");
	print_value(huge - each, "clearing 1 GiB");
}

int main(int argc, char **argv)
{
	bool quick = bench_begin(argc, argv, "touch");

	printf("how\tin place\n");
	for (unsigned int i = 0; i < NR_KINDS; i++) {
		if (kinds[i].shift == 12 && quick)
			continue;
		measure_touch(i);
		for (int how = WHOLE; how <= ONE_IN_EACH; how++)
			measure_free(&kinds[i], how);
	}
	print_clearing();
	return bench_end();
}
