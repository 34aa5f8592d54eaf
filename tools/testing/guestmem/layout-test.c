// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of mm/guestmem_layout.c: all cases where that is feasible, random cases
 * otherwise.
 */
#include <errno.h>
#include <getopt.h>
#include <time.h>

#include "layout-test.h"

/*
 * guestmem_block_order()
 */

static void label_range(const struct window *win, unsigned long *labels, pgoff_t start,
			pgoff_t end)
{
	pgoff_t i;

	for (i = win->start; i < win->end; i++)
		labels[i - win->start] = i >= start && i < end;
}

static bool check_block_order(const struct window *win, const unsigned long *labels,
			      pgoff_t index, pgoff_t start, pgoff_t end, unsigned int max_order)
{
	unsigned int want = oracle_block(win, labels, index, max_order).order;
	unsigned int got = guestmem_block_order(index, start, end, max_order);

	return got == want ||
	       failed("page %#lx of [%#lx, %#lx), at most %u: order %u, but should be %u",
		      index, start, end, max_order, got, want);
}

/* Checks all ranges within a window, all pages of each, all limits. */
static bool check_all_ranges(const struct window *win, unsigned int order)
{
	unsigned long *labels = alloc(window_size(win), sizeof(*labels));
	pgoff_t start, end, index;
	unsigned int max_order;
	bool good = true;

	for (start = win->start; start < win->end && good; start++) {
		for (end = start + 1; end <= win->end && good; end++) {
			label_range(win, labels, start, end);
			for (index = start; index < end && good; index++) {
				for (max_order = 0; max_order <= order && good; max_order++)
					good = check_block_order(win, labels, index, start, end,
								 max_order);
			}
		}
	}
	free(labels);
	return good;
}

static bool test_block_order_exhaustive(unsigned int order)
{
	struct window first = make_window(0, order, 1);
	struct window third = make_window(3UL << order, order, 1);
	struct window last = make_window(NR_INDEXES - (1UL << order), order, 1);

	return check_all_ranges(&first, order) && check_all_ranges(&third, order) &&
	       check_all_ranges(&last, order);
}

static bool test_block_order_random(unsigned int order)
{
	unsigned long *labels = alloc(2UL << order, sizeof(*labels));
	unsigned long round, i;
	bool good = true;

	for (round = rounds_of(order); round && good; round--) {
		struct window win = random_window(order, 2);
		unsigned int max_order = order;
		pgoff_t start, end;

		/* Both units together may be one block, too, but only if they are aligned. */
		if (one_in(4))
			max_order = random_below(order + 2);
		random_range(&win, &start, &end);
		label_range(&win, labels, start, end);
		good = check_block_order(&win, labels, start, start, end, max_order) &&
		       check_block_order(&win, labels, end - 1, start, end, max_order);
		for (i = 0; i < 6 && good; i++)
			good = check_block_order(&win, labels, start + random_below(end - start),
						 start, end, max_order);
	}
	free(labels);
	return good;
}

/* Checks cases that have too many pages for an array. */
static bool test_block_order_known(unsigned int order)
{
	static const struct {
		pgoff_t index, start, end;
		unsigned int max_order, want;
	} cases[] = {
		{ 0, 0, NR_INDEXES, 63, 52 },
		{ NR_INDEXES - 1, 0, NR_INDEXES, 63, 52 },
		{ NR_INDEXES - 1, 0, NR_INDEXES, 18, 18 },
		{ NR_INDEXES - 1, 1, NR_INDEXES, 63, 51 },
		{ NR_INDEXES / 2 - 1, 1, NR_INDEXES, 63, 50 },
		{ 1, 1, NR_INDEXES, 63, 0 },
		{ 2, 1, NR_INDEXES, 63, 1 },
		{ 0, 0, NR_INDEXES - 1, 63, 51 },
		{ NR_INDEXES - 2, 0, NR_INDEXES - 1, 63, 0 },
		{ 0, 0, ULONG_MAX, UINT_MAX, 63 },
		{ ULONG_MAX - 1, 0, ULONG_MAX, UINT_MAX, 0 },
		{ 1UL << 63, 0, ULONG_MAX, UINT_MAX, 62 },
		{ 1UL << 63, 1UL << 63, ULONG_MAX, UINT_MAX, 62 },
	};
	unsigned int i, got;

	(void)order;
	for (i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		got = guestmem_block_order(cases[i].index, cases[i].start, cases[i].end,
					   cases[i].max_order);
		if (got != cases[i].want)
			return failed("page %#lx of [%#lx, %#lx), at most %u: order %u, not %u",
				      cases[i].index, cases[i].start, cases[i].end,
				      cases[i].max_order, got, cases[i].want);
	}
	return true;
}

/*
 * guestmem_next_extent()
 */

struct pair {
	struct window win;
	struct block *present, *wanted;
	pgoff_t start, end;
	bool outside;
};

static unsigned int pair_order(struct pair *pair, const struct block *blocks, pgoff_t index)
{
	if (index < pair->start || index >= pair->end) {
		pair->outside = true;
		return 0;
	}
	return blocks[index - pair->win.start].order;
}

static unsigned int pair_present(void *arg, pgoff_t index)
{
	struct pair *pair = arg;

	return pair_order(pair, pair->present, index);
}

static unsigned int pair_wanted(void *arg, pgoff_t index)
{
	struct pair *pair = arg;

	return pair_order(pair, pair->wanted, index);
}

static bool differs(const struct pair *pair, pgoff_t index)
{
	return !same_block(pair->present[index - pair->win.start],
			   pair->wanted[index - pair->win.start]);
}

/* Checks that one layout has a single block there, and the other several inside of it. */
static bool check_extent(const struct pair *pair, const struct guestmem_extent *ext)
{
	const struct block *single = ext->merge ? pair->wanted : pair->present;
	const struct block *several = ext->merge ? pair->present : pair->wanted;
	struct block whole = { ext->index, ext->order };
	pgoff_t i;

	for (i = ext->index; i < ext->index + (1UL << ext->order); i++) {
		struct block piece = several[i - pair->win.start];

		if (!differs(pair, i))
			return failed("page %#lx is part of an extent, but is as it should be", i);
		if (!same_block(single[i - pair->win.start], whole))
			return failed("page %#lx: the extent is no block%s", i,
				      ext->merge ? " that is wanted" : " that is present");
		if (piece.order >= ext->order || piece.start < ext->index)
			return failed("page %#lx: not within the extent before or after", i);
	}
	return true;
}

static bool check_no_extent(const struct pair *pair, pgoff_t start, pgoff_t end)
{
	pgoff_t i;

	for (i = start; i < end; i++) {
		if (differs(pair, i))
			return failed("page %#lx isn't as it should be, but in no extent", i);
	}
	return true;
}

static bool check_pair(struct pair *pair)
{
	pgoff_t index = pair->start, done = pair->start;
	struct guestmem_extent ext;

	while (guestmem_next_extent(&index, pair->end, pair, pair_present, pair_wanted, &ext)) {
		if (ext.order > pair->win.unit_order || ext.index % (1UL << ext.order) ||
		    ext.index < done || ext.index + (1UL << ext.order) > pair->end)
			return failed("extent at %#lx, order %u, after %#lx, before %#lx",
				      ext.index, ext.order, done, pair->end);
		if (index != ext.index + (1UL << ext.order))
			return failed("extent at %#lx, order %u, but continued at %#lx",
				      ext.index, ext.order, index);
		if (!check_no_extent(pair, done, ext.index) || !check_extent(pair, &ext))
			return false;
		done = index;
	}
	if (!check_no_extent(pair, done, pair->end))
		return false;
	if (index != pair->end)
		return failed("ends at %#lx instead of %#lx", index, pair->end);
	if (pair->outside)
		return failed("asks for pages outside of [%#lx, %#lx)", pair->start, pair->end);
	return true;
}

static unsigned long nr_layouts(unsigned int order)
{
	unsigned long halves = order ? nr_layouts(order - 1) : 0;

	return 1 + halves * halves;
}

/* Makes layout number @nr of a block: it is whole, or both halves have a layout. */
static void numbered_layout(const struct window *win, struct block *blocks, pgoff_t start,
			    unsigned int order, unsigned long nr)
{
	unsigned long halves;

	if (!nr) {
		fill_block(win, blocks, start, order);
		return;
	}
	halves = nr_layouts(order - 1);
	numbered_layout(win, blocks, start, order - 1, (nr - 1) / halves);
	numbered_layout(win, blocks, start + (1UL << (order - 1)), order - 1, (nr - 1) % halves);
}

/* Checks all pairs of layouts of a unit. */
static bool test_next_extent_exhaustive(unsigned int order)
{
	struct window win = make_window(5UL << order, order, 1);
	unsigned long nr = nr_layouts(order), size = 1UL << order, i, j;
	struct block *layouts = alloc(nr << order, sizeof(*layouts));
	bool good = true;

	for (i = 0; i < nr; i++)
		numbered_layout(&win, layouts + i * size, win.start, order, i);
	for (i = 0; i < nr && good; i++) {
		for (j = 0; j < nr && good; j++) {
			struct pair pair = {
				.win = win, .start = win.start, .end = win.end,
				.present = layouts + i * size, .wanted = layouts + j * size,
			};

			good = check_pair(&pair);
			if (!good)
				failed("layouts %lu and %lu of order %u", i, j, order);
		}
	}
	free(layouts);
	return good;
}

static void random_layout(const struct window *win, struct block *blocks, pgoff_t start,
			  unsigned int order, unsigned int percent)
{
	if (!order || random_below(100) >= percent) {
		fill_block(win, blocks, start, order);
		return;
	}
	random_layout(win, blocks, start, order - 1, percent);
	random_layout(win, blocks, start + (1UL << (order - 1)), order - 1, percent);
}

static void random_layouts(const struct window *win, struct block *blocks)
{
	unsigned int percent = random_below(101);
	pgoff_t start;

	for (start = win->start; start < win->end; start += 1UL << win->unit_order)
		random_layout(win, blocks, start, win->unit_order, percent);
}

/* Changes a layout in some places. */
static void change_layout(const struct window *win, struct block *blocks)
{
	unsigned long nr;

	for (nr = 1 + random_below(8); nr; nr--) {
		pgoff_t index = win->start + random_below(window_size(win));
		unsigned int order = random_below(win->unit_order + 1);

		order = max(order, blocks[index - win->start].order);
		random_layout(win, blocks, index >> order << order, order, random_below(101));
	}
}

/* Returns the larger block of a page: in the other layout, it is one block or several. */
static struct block common_block(const struct pair *pair, pgoff_t index)
{
	struct block a = pair->present[index - pair->win.start];
	struct block b = pair->wanted[index - pair->win.start];

	return a.order > b.order ? a : b;
}

static bool test_next_extent_random(unsigned int order)
{
	unsigned long nr_units = 3, round;
	struct block *present = alloc(nr_units << order, sizeof(*present));
	struct block *wanted = alloc(nr_units << order, sizeof(*wanted));
	bool good = true;

	for (round = rounds_of(order); round && good; round--) {
		struct pair pair = { .present = present, .wanted = wanted };
		struct block first, last;

		pair.win = random_window(order, nr_units);
		random_layouts(&pair.win, present);
		random_layouts(&pair.win, wanted);
		if (!one_in(4)) {
			memcpy(wanted, present, (nr_units << order) * sizeof(*wanted));
			change_layout(&pair.win, wanted);
		}
		pair.start = pair.win.start;
		pair.end = pair.win.end;
		good = check_pair(&pair);

		first = common_block(&pair, pair.win.start + random_below(nr_units << order));
		last = common_block(&pair, first.start + random_below(pair.win.end - first.start));
		pair.start = first.start;
		pair.end = last.start + (1UL << last.order);
		good = good && check_pair(&pair);
	}
	free(present);
	free(wanted);
	return good;
}

static const struct test {
	const char *name;
	bool (*run)(unsigned int order);
	unsigned int first_order, last_order;
} tests[] = {
	{ "block_order_exhaustive", test_block_order_exhaustive, 0, 7 },
	{ "block_order_random_2m", test_block_order_random, 9, 9 },
	{ "block_order_random_32m", test_block_order_random, 13, 13 },
	{ "block_order_random_1g", test_block_order_random, 18, 18 },
	{ "block_order_known", test_block_order_known, 0, 0 },
	{ "next_extent_exhaustive", test_next_extent_exhaustive, 0, 4 },
	{ "next_extent_random_small", test_next_extent_random, 0, 8 },
	{ "next_extent_random_2m", test_next_extent_random, 9, 9 },
	{ "next_extent_random_32m", test_next_extent_random, 13, 13 },
	{ "next_extent_random_1g", test_next_extent_random, 18, 18 },
	{ "counts_2m", test_counts_2m, 9, 9 },
	{ "counts_1g", test_counts_1g, 18, 18 },
	{ "steps_small", test_steps, 0, 7 },
	{ "steps_2m", test_steps, 9, 9 },
	{ "steps_32m", test_steps, 13, 13 },
	{ "steps_1g", test_steps, 18, 18 },
};

#define NR_TESTS	(sizeof(tests) / sizeof(*tests))

static unsigned long number(const char *text)
{
	unsigned long value;
	char *end;

	errno = 0;
	value = strtoul(text, &end, 0);
	if (errno || end == text || *end) {
		fprintf(stderr, "%s: what's that?\n", text);
		exit(EXIT_FAILURE);
	}
	return value;
}

int main(int argc, char **argv)
{
	unsigned long seed, nr_failed = 0;
	struct timespec now;
	unsigned int i, order;
	int option;

	clock_gettime(CLOCK_REALTIME, &now);
	seed = (now.tv_sec * 1000000000UL + now.tv_nsec) & 0xffffffff;
	while ((option = getopt(argc, argv, "s:r:")) != -1) {
		if (option == 's') {
			seed = number(optarg);
		} else if (option == 'r') {
			rounds = number(optarg);
		} else {
			fprintf(stderr, "usage: %s [-s SEED] [-r ROUNDS]\n", argv[0]);
			return EXIT_FAILURE;
		}
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("KTAP version 1\n1..%zu\n", NR_TESTS);
	printf("# seed %#lx, %lu rounds (-s, -r; for make: SEED=, ROUNDS=)\n", seed, rounds);

	for (i = 0; i < NR_TESTS; i++) {
		const struct test *test = &tests[i];
		bool good = true;

		for (order = test->first_order; order <= test->last_order && good; order++) {
			/* A test does the same, no matter which tests ran before it. */
			random_init(seed + i * 1000 + order);
			good = test->run(order);
		}
		printf("%sok %u %s\n", good ? "" : "not ", i + 1, test->name);
		nr_failed += !good;
	}
	printf("# Totals: pass:%lu fail:%lu skip:0 error:0\n", NR_TESTS - nr_failed, nr_failed);
	return nr_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
