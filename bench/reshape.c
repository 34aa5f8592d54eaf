// SPDX-License-Identifier: GPL-2.0
/*
 * What does it cost to split and to merge huge pages?
 *
 * The program measures a file of 1 GiB in huge pages of 2M, then a file in huge pages of 1G. In
 * one huge page, single pages become shared and private again, then all pages do. Afterwards,
 * the host touches pages of a file that is shared from the start. The program counts instructions
 * by RDTSC, as in convert.c; other results are memory and faults of the guest.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "counters.h"
#include "measure.h"
#include "vm.h"

#define SIZE			LARGE_SIZE

#define MAX_REPEATS		9
#define NR_RANDOM		64
#define TOUCH_SPAN		(64 * MIB)

/* The kernel gives back struct pages of a merged huge page after a second. */
#define SETTLE_TRIES		100
#define SETTLE_DELAY_US		(100 * 1000)

static struct vm vm;
static struct gmem gmem = { .slot = 1, .base = LARGE_BASE, .size = SIZE };
/* The huge page that is measured, in the middle of the file. */
static __u64 unit, unit_size;
static long whole_struct_pages;
static const char *size_name, *hvo;
static bool quick;
static int repeats;

/* Other tasks may have freed a little meanwhile. */
static __u64 kib(long pages)
{
	return pages < 0 ? 0 : pages * (PAGE / 1024);
}

static void begin_section(const char *title)
{
	printf("section\t%s, HVO %s: %s\n", size_name, hvo, title);
}

static __u64 timed(__u64 gpa, __u64 size, bool to_shared)
{
	__u64 start = clock_now();

	gmem_convert(&gmem, gpa, size, to_shared);
	return clock_now() - start;
}

static volatile __u64 *host_word_at(__u64 gpa)
{
	return (volatile __u64 *)(gmem.shared + (gpa - gmem.base));
}

/* Waits until a huge page that is whole again takes as little memory as it did at first. */
static void settle(void)
{
	struct kernel_memory memory;

	for (int i = 0; i < SETTLE_TRIES; i++) {
		usleep(SETTLE_DELAY_US);
		read_memory(&memory);
		if (memory.struct_pages == whole_struct_pages)
			return;
	}
	die("%ld pages of struct pages, once %ld", memory.struct_pages, whole_struct_pages);
}

/* Each file gets a machine of its own, so that it has no page tables of an earlier file. */
static void add_file(__u64 flags, int shift)
{
	struct kernel_memory memory;

	vm_create(&vm);
	if (!vm.in_place)
		die("this kernel doesn't convert in place");
	gmem.flags = flags;
	gmem.huge_page_shift = shift;
	unit_size = 1ULL << shift;
	unit = gmem.base + (SIZE / 2 & -unit_size);
	vm_add_gmem(&vm, &gmem);
	read_memory(&memory);
	whole_struct_pages = memory.struct_pages;
}

static void del_file(void)
{
	vm_del_gmem(&vm, &gmem);
	vm_destroy(&vm);
}

static void populate(__u64 gpa, __u64 size)
{
	if (fallocate(gmem.fd, FALLOC_FL_KEEP_SIZE, gpa - gmem.base, size))
		die("fallocate()");
}

/* Each repeat starts with the same value, and so gets the same pages. */
static __u64 random_state;

static __u64 next_random(__u64 below)
{
	random_state = random_state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (random_state >> 33) % below;
}

/*
 * The steps that one huge page takes. When the neighbor of the first page is converted, it is a
 * folio of its own already, as it is the other half of a block of 8K.
 */
enum { THE_PAGE, NEIGHBOR, HALFWAY, ALL };

static const struct step {
	const char *title;
	int which;
	bool to_shared, print_faults;
} steps[] = {
	{ "first 4K to shared (split)", THE_PAGE, true, true },
	{ "next 4K to shared, adjacent", NEIGHBOR, true, false },
	{ "next 4K to shared, half-way", HALFWAY, true, true },
	{ "4K to private, not the last, half-way", HALFWAY, false, false },
	{ "4K to private, not the last, adjacent", NEIGHBOR, false, false },
	{ "last 4K to private (merge)", THE_PAGE, false, true },
	{ "first 4K to shared again, at once", THE_PAGE, true, false },
	{ "and to private again", THE_PAGE, false, false },
	{ "whole unit to shared", ALL, true, true },
	{ "whole unit to private", ALL, false, false },
};

#define NR_STEPS	ARRAY_SIZE(steps)

static __u64 step_gpa(const struct step *step)
{
	__u64 page = unit + unit_size / 4;

	switch (step->which) {
	case ALL:
		return unit;
	case NEIGHBOR:
		return page + PAGE;
	case HALFWAY:
		return page + unit_size / 2;
	default:
		return page;
	}
}

/* The guest uses all of the unit again. Returns how many faults that takes. */
static __u64 use_again(__u64 gpa, bool single_page)
{
	__u64 before = guest_faults();

	vm_guest(&vm, GUEST_READ, unit, unit_size, 0);
	before = guest_faults() - before;
	if (single_page) {
		if (*host_word_at(gpa) != guest_word(gpa, 0))
			die("the host doesn't see what the guest wrote at 0x%llx", gpa);
		*host_word_at(gpa) = guest_word(gpa, 0);
	}
	return before;
}

static void print_steps(__u64 values[NR_STEPS][MAX_REPEATS],
			__u64 faults[NR_STEPS][MAX_REPEATS])
{
	char title[80];

	for (unsigned int i = 0; i < NR_STEPS; i++)
		print_row(steps[i].title, values[i], repeats);
	for (unsigned int i = 0; i < NR_STEPS && faults; i++) {
		if (!steps[i].print_faults)
			continue;
		snprintf(title, sizeof(title), "guest's faults: %s", steps[i].title);
		print_row(title, faults[i], repeats);
	}
}

/* Takes the steps one after the other, from a huge page that has been whole for long. */
static void take_steps(int repeat, __u64 values[NR_STEPS][MAX_REPEATS],
		       __u64 faults[NR_STEPS][MAX_REPEATS])
{
	for (unsigned int i = 0; i < NR_STEPS; i++) {
		const struct step *step = &steps[i];
		__u64 gpa = step_gpa(step);
		bool all = step->which == ALL;

		if (!i || (all && step->to_shared))
			settle();
		values[i][repeat] = timed(gpa, all ? unit_size : PAGE, step->to_shared);
		if (faults)
			faults[i][repeat] = use_again(gpa, step->to_shared && !all);
	}
}

static void measure_steps(bool in_use)
{
	__u64 values[NR_STEPS][MAX_REPEATS], faults[NR_STEPS][MAX_REPEATS];

	for (int i = 0; i < repeats; i++)
		take_steps(i, values, in_use ? faults : NULL);
	print_steps(values, in_use ? faults : NULL);
}

/* Converts random pages one after the other, and back in the same order. */
static void measure_random(void)
{
	__u64 to_shared[MAX_REPEATS] = {}, to_private[MAX_REPEATS] = {};
	__u64 gpas[NR_RANDOM];

	for (int i = 0; i < repeats; i++) {
		settle();
		random_state = 1;
		gmem_convert(&gmem, unit, PAGE, true);
		for (int p = 0; p < NR_RANDOM; p++) {
			gpas[p] = unit + (1 + next_random(unit_size / PAGE - 1)) * PAGE;
			to_shared[i] += timed(gpas[p], PAGE, true);
		}
		for (int p = 0; p < NR_RANDOM; p++)
			to_private[i] += timed(gpas[p], PAGE, false);
		gmem_convert(&gmem, unit, PAGE, false);
		to_shared[i] /= NR_RANDOM;
		to_private[i] /= NR_RANDOM;
	}
	print_row("next 64 pages to shared, at random, each", to_shared, repeats);
	print_row("and to private, none is the last, each", to_private, repeats);
}

static long nodes_of_first_page(__u64 gpa)
{
	settle();
	if (!count_nodes_begin())
		return -1;
	gmem_convert(&gmem, gpa, PAGE, true);
	return count_nodes_end();
}

static void measure_nodes(__u64 gpa)
{
	__u64 values[MAX_REPEATS];
	long nodes;

	for (int i = 0; i < repeats; i++) {
		nodes = nodes_of_first_page(gpa);
		gmem_convert(&gmem, gpa, PAGE, false);
		if (nodes < 0)
			return;
		values[i] = nodes;
	}
	print_row("xarray nodes taken by the first split", values, repeats);
}

static void measure_memory(void)
{
	__u64 all[MAX_REPEATS], struct_pages[MAX_REPEATS];
	struct kernel_memory before, after;
	__u64 gpa = unit + unit_size / 4;

	for (int i = 0; i < repeats; i++) {
		settle();
		read_memory(&before);
		gmem_convert(&gmem, gpa, PAGE, true);
		read_memory(&after);
		gmem_convert(&gmem, gpa, PAGE, false);
		all[i] = kib(after.used - before.used);
		struct_pages[i] = kib(after.struct_pages - before.struct_pages);
	}
	print_row("memory taken by the first split, KiB", all, repeats);
	print_row("of that, struct pages", struct_pages, repeats);
	measure_nodes(gpa);
}

static __u64 workers_time_within(unsigned int seconds)
{
	__u64 before = workers_time();

	sleep(seconds);
	return workers_time() - before;
}

/* Measures the work that a worker does some time after a merge. */
static void measure_trim(void)
{
	__u64 values[MAX_REPEATS], idle;

	for (int i = 0; i < repeats; i++) {
		settle();
		idle = workers_time_within(5);
		gmem_convert(&gmem, unit, PAGE, true);
		gmem_convert(&gmem, unit, PAGE, false);
		values[i] = workers_time_within(5);
		values[i] -= values[i] < idle ? values[i] : idle;
	}
	print_row("struct pages given back, by a worker later", values, repeats);
}

/* These calls hold invalidate_lock for write as long as they take. */
static void measure_whole_file(const char *who, bool in_use)
{
	__u64 to_shared[MAX_REPEATS], to_private[MAX_REPEATS];
	char title[80];

	for (int i = 0; i < repeats; i++) {
		if (in_use)
			vm_guest(&vm, GUEST_READ, gmem.base, SIZE, 0);
		to_shared[i] = timed(gmem.base, SIZE, true);
		if (in_use)
			vm_guest(&vm, GUEST_READ, gmem.base, SIZE, 0);
		to_private[i] = timed(gmem.base, SIZE, false);
	}
	snprintf(title, sizeof(title), "to shared, %s", who);
	print_row(title, to_shared, repeats);
	snprintf(title, sizeof(title), "to private, %s", who);
	print_row(title, to_private, repeats);
}

static void measure_conversions(int shift)
{
	add_file(GUEST_MEMFD_FLAG_HUGETLB, shift);
	populate(unit, unit_size);
	begin_section("the host's calls, the guest doesn't run");
	measure_steps(false);
	measure_random();
	measure_memory();
	/* With 2M, the work is less than what workers do anyway. */
	if (!strcmp(hvo, "on") && unit_size == GIB)
		measure_trim();

	begin_section("the same, the guest has touched all of it");
	vm_guest(&vm, GUEST_WRITE, unit, unit_size, 0);
	measure_steps(true);

	populate(gmem.base, SIZE);
	vm_guest(&vm, GUEST_WRITE, gmem.base, SIZE, 0);
	begin_section("1 GiB in whole huge pages at once");
	measure_whole_file("mapped by the guest", true);
	measure_whole_file("not mapped", false);
	del_file();
}

/* The pages of a shared file that the host touches. */
static const struct pattern {
	const char *name;
	unsigned int nr;
	bool random, slow;
} patterns[] = {
	{ "1 page", 1, false, false },
	{ "16 pages in a row", 16, false, false },
	{ "16 random pages", 16, true, false },
	{ "1024 random pages", 1024, true, true },
	{ "one 2M block", 512, false, false },
	{ "64M in sequence", TOUCH_SPAN / PAGE, false, false },
};

static __u64 touch(const struct pattern *pattern, __u64 first, __u64 size)
{
	__u64 start, sum = 0, gpa;

	random_state = 1;
	for (unsigned int i = 0; i < pattern->nr; i++) {
		gpa = first + i * PAGE;
		if (pattern->random)
			gpa = gmem.base + next_random(size / PAGE) * PAGE;
		start = clock_now();
		*host_word_at(gpa) = gpa;
		sum += clock_now() - start;
	}
	return sum;
}

/* Makes the file as it was before the host touched it, page tables included. */
static __u64 make_whole(void)
{
	__u64 spent = timed(gmem.base, SIZE, false);

	gmem_remap(&gmem);
	settle();
	gmem_convert(&gmem, gmem.base, SIZE, true);
	return spent;
}

struct touched {
	__u64 host[MAX_REPEATS], memory[MAX_REPEATS], struct_pages[MAX_REPEATS];
	__u64 user_tables[MAX_REPEATS], faults[MAX_REPEATS], to_private[MAX_REPEATS];
};

static void touch_once(struct touched *t, int i, const struct pattern *pattern)
{
	bool huge = gmem.flags & GUEST_MEMFD_FLAG_HUGETLB;
	struct kernel_memory before, after;

	read_memory(&before);
	t->host[i] = touch(pattern, unit, huge ? SIZE : TOUCH_SPAN);
	read_memory(&after);
	t->memory[i] = kib(after.used - before.used);
	t->struct_pages[i] = kib(after.struct_pages - before.struct_pages);
	t->user_tables[i] = kib(after.user_tables - before.user_tables);
	if (huge) {
		t->faults[i] = guest_faults();
		vm_guest(&vm, GUEST_READ, gmem.base, SIZE, 0);
		t->faults[i] = guest_faults() - t->faults[i];
	}
	t->to_private[i] = make_whole();
}

static void print_touched(struct touched *t, const char *name)
{
	const struct {
		const char *what;
		__u64 *values;
		bool of_huge;
	} rows[] = {
		{ "the host's accesses", t->host, false },
		{ "memory, KiB", t->memory, false },
		{ "of that, host's page tables", t->user_tables, false },
		{ "of that, struct pages", t->struct_pages, true },
		{ "guest's faults, all of it", t->faults, true },
		{ "all of it to private", t->to_private, false },
	};
	char title[80];

	for (unsigned int i = 0; i < ARRAY_SIZE(rows); i++) {
		if (rows[i].of_huge && !(gmem.flags & GUEST_MEMFD_FLAG_HUGETLB))
			continue;
		snprintf(title, sizeof(title), "%s: %s", name, rows[i].what);
		print_row(title, rows[i].values, repeats);
	}
}

static void measure_touches(const char *title)
{
	struct touched touched;

	begin_section(title);
	make_whole();
	for (unsigned int p = 0; p < ARRAY_SIZE(patterns); p++) {
		if (quick && patterns[p].slow)
			continue;
		for (int i = 0; i < repeats; i++)
			touch_once(&touched, i, &patterns[p]);
		print_touched(&touched, patterns[p].name);
	}
}

static void measure_host(int shift)
{
	add_file(GUEST_MEMFD_FLAG_HUGETLB | GUEST_MEMFD_FLAG_INIT_SHARED, shift);
	populate(gmem.base, SIZE);
	measure_touches("shared, whole, and the host touches");
	del_file();
}

/* Does the same for a file of 4K pages, which has nothing to be split. */
static void measure_host_4k(void)
{
	size_name = "4K";
	add_file(GUEST_MEMFD_FLAG_INIT_SHARED, 12);
	unit = gmem.base;
	populate(unit, TOUCH_SPAN);
	measure_touches("shared, allocated, and the host touches");
	del_file();
}

/* Returns "on" if huge pages that were reserved on the boot line have few struct pages. */
static const char *read_hvo(void)
{
	FILE *file = fopen("/proc/sys/vm/hugetlb_optimize_vmemmap", "r");
	int value = 0;

	if (file && fscanf(file, "%d", &value) != 1)
		die("/proc/sys/vm/hugetlb_optimize_vmemmap");
	if (file)
		fclose(file);
	return value ? "on" : "off";
}

int main(int argc, char **argv)
{
	quick = argc == 2 && !strcmp(argv[1], "--quick");
	if (argc > 1 && !quick) {
		fprintf(stderr, "usage: reshape [--quick]\n");
		return 64;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	hvo = read_hvo();
	printf("how\tHVO %s\n", hvo);
	repeats = quick ? 3 : MAX_REPEATS;
	size_name = "2M";
	measure_conversions(21);
	measure_host(21);
	size_name = "1G";
	measure_conversions(30);
	measure_host(30);
	if (!strcmp(hvo, "off"))
		measure_host_4k();
	printf("complete\n");
	return 0;
}
