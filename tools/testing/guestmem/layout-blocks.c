// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of guestmem_block_order(): all cases where that is feasible, random cases
 * otherwise.
 */
#include "layout-test.h"

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

static const struct test tests[] = {
	{ "block_order_exhaustive", test_block_order_exhaustive, 0, 7 },
	{ "block_order_random_2m", test_block_order_random, 9, 9 },
	{ "block_order_random_32m", test_block_order_random, 13, 13 },
	{ "block_order_random_1g", test_block_order_random, 18, 18 },
	{ "block_order_known", test_block_order_known, 0, 0 },
};

ADD_TESTS
