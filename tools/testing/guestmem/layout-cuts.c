// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of cuts: into which pieces a block is cut, and how the page cache makes room for
 * these.
 */
#include "layout-test.h"

/*
 * guestmem_cut_order()
 */

static bool check_cut_order(const struct window *win, const unsigned long *labels,
			    const struct guestmem_cuts *cuts, pgoff_t index)
{
	unsigned int want = oracle_block(win, labels, index, cuts->order).order;
	unsigned int got = guestmem_cut_order(cuts, index);

	return got == want ||
	       failed("page %#lx, cuts %#lx and %#lx: order %u, but should be %u",
		      index, cuts->at[0], cuts->at[1], got, want);
}

/* Checks all pairs of cuts of a unit, also those at its ends and outside, all pages. */
static bool check_all_cuts(const struct window *win)
{
	struct guestmem_cuts cuts = { .index = win->start, .order = win->unit_order };
	unsigned long *labels = alloc(window_size(win), sizeof(*labels));
	pgoff_t first = win->start ? win->start - 1 : 0, index;
	bool good = true;

	for (cuts.at[0] = first; cuts.at[0] <= win->end + 1 && good; cuts.at[0]++) {
		for (cuts.at[1] = first; cuts.at[1] <= win->end + 1 && good; cuts.at[1]++) {
			label_cuts(win, labels, &cuts);
			for (index = win->start; index < win->end && good; index++)
				good = check_cut_order(win, labels, &cuts, index);
		}
	}
	free(labels);
	return good;
}

static bool test_cut_order_exhaustive(unsigned int order)
{
	struct window first = make_window(0, order, 1);
	struct window third = make_window(3UL << order, order, 1);
	struct window last = make_window(NR_INDEXES - (1UL << order), order, 1);

	return check_all_cuts(&first) && check_all_cuts(&third) && check_all_cuts(&last);
}

static bool test_cut_order_random(unsigned int order)
{
	unsigned long *labels = alloc(1UL << order, sizeof(*labels));
	unsigned long round, i;
	bool good = true;

	for (round = rounds_of(order); round && good; round--) {
		struct window win = random_window(order, 1);
		struct guestmem_cuts cuts = { .index = win.start, .order = order };

		random_range(&win, &cuts.at[0], &cuts.at[1]);
		label_cuts(&win, labels, &cuts);
		good = check_cut_order(&win, labels, &cuts, cuts.at[0]) &&
		       check_cut_order(&win, labels, &cuts, cuts.at[1] - 1);
		for (i = 0; i < 6 && good; i++)
			good = check_cut_order(&win, labels, &cuts,
					       win.start + random_below(1UL << order));
	}
	free(labels);
	return good;
}

/*
 * guestmem_plan_stages(): entries of the page cache are split as the plan says, in an array
 * that has the entry of each page.
 */

#define MAX_STAGES	64

/* Log2 of the number of slots of a node: those of Linux, and smaller ones for more levels. */
static const unsigned int node_shifts[] = { 1, 2, 3, 4, 6 };

#define NR_NODE_SHIFTS	(sizeof(node_shifts) / sizeof(*node_shifts))

/* The oracle: tries all orders below. */
static unsigned int oracle_lower_order(unsigned int order, unsigned int node_shift)
{
	do {
		order--;
	} while (order % node_shift);
	return order;
}

static bool test_lower_order(unsigned int order)
{
	unsigned int i, got, want;

	for (i = 0; i < NR_NODE_SHIFTS; i++) {
		got = guestmem_lower_order(order, node_shifts[i]);
		want = oracle_lower_order(order, node_shifts[i]);
		if (got != want)
			return failed("order %u, node shift %u: %u, but should be %u", order,
				      node_shifts[i], got, want);
	}
	return true;
}

static bool has_cut(const struct guestmem_cuts *cuts, const struct guestmem_stage *stage)
{
	pgoff_t end = stage->index + (1UL << stage->order), i;

	/* The first page of a block may be a cut, but doesn't cut this block. */
	for (i = stage->index + 1; i < end; i++) {
		if (i == cuts->at[0] || i == cuts->at[1])
			return true;
	}
	return false;
}

/* Splits the entry of a stage.  There must be this entry, and a reason to split it. */
static bool run_stage(const struct window *win, struct block *entries,
		      const struct guestmem_cuts *cuts, const struct guestmem_stage *stage,
		      unsigned int node_shift)
{
	struct block want = { stage->index, stage->order };
	pgoff_t i, end = stage->index + (1UL << stage->order);

	if (stage->index < win->start || end > win->end || !stage->order)
		return failed("stage at %#lx, order %u", stage->index, stage->order);
	if (!same_block(entries[stage->index - win->start], want))
		return failed("stage at %#lx, order %u: no such entry", stage->index,
			      stage->order);
	if (stage->lower_order != oracle_lower_order(stage->order, node_shift))
		return failed("stage at %#lx, order %u: split to order %u", stage->index,
			      stage->order, stage->lower_order);
	if (!has_cut(cuts, stage))
		return failed("stage at %#lx, order %u: nothing to cut", stage->index,
			      stage->order);
	for (i = stage->index; i < end; i += 1UL << stage->lower_order)
		fill_block(win, entries, i, stage->lower_order);
	return true;
}

/* Checks that the entries are small enough, i.e. that a piece takes the place of some. */
static bool check_entries(const struct window *win, const struct block *entries,
			  const struct block *pieces)
{
	unsigned long i;

	for (i = 0; i < window_size(win); i++) {
		if (entries[i].order > pieces[i].order)
			return failed("page %#lx: entry of order %u, piece of order %u",
				      win->start + i, entries[i].order, pieces[i].order);
	}
	return true;
}

/* Checks that a plan that doesn't fit isn't stored beyond the end. */
static bool check_limit(const struct guestmem_cuts *cuts, unsigned int node_shift,
			const struct guestmem_stage *stages, unsigned int nr_stages)
{
	struct guestmem_stage some[MAX_STAGES];
	unsigned int nr, max;

	for (max = 0; max < nr_stages; max++) {
		memset(some, 0x5a, sizeof(some));
		nr = guestmem_plan_stages(cuts, node_shift, some, max);
		if (nr != nr_stages || memcmp(some, stages, max * sizeof(*some)) ||
		    some[max].order != 0x5a5a5a5a)
			return failed("%u of %u stages: not as if there were room for all", max,
				      nr_stages);
	}
	return true;
}

static bool check_stages(const struct window *win, struct block *entries,
			 const struct block *pieces, const struct guestmem_cuts *cuts)
{
	struct guestmem_stage stages[MAX_STAGES];
	unsigned int i, j, nr;

	for (i = 0; i < NR_NODE_SHIFTS; i++) {
		memset(stages, 0, sizeof(stages));
		nr = guestmem_plan_stages(cuts, node_shifts[i], stages, MAX_STAGES);
		if (nr > MAX_STAGES)
			return failed("%u stages", nr);

		fill_block(win, entries, win->start, win->unit_order);
		for (j = 0; j < nr; j++) {
			if (!run_stage(win, entries, cuts, &stages[j], node_shifts[i]))
				return failed("stage %u, cuts %#lx and %#lx, node shift %u", j,
					      cuts->at[0], cuts->at[1], node_shifts[i]);
		}
		if (!check_entries(win, entries, pieces) ||
		    !check_limit(cuts, node_shifts[i], stages, nr))
			return failed("cuts %#lx and %#lx, node shift %u", cuts->at[0],
				      cuts->at[1], node_shifts[i]);
	}
	return true;
}

static bool check_cuts(const struct window *win, const struct guestmem_cuts *cuts)
{
	unsigned long *labels = alloc(window_size(win), sizeof(*labels));
	struct block *entries = alloc(window_size(win), sizeof(*entries));
	struct block *pieces = alloc(window_size(win), sizeof(*pieces));
	bool good;

	label_cuts(win, labels, cuts);
	oracle_layout(win, labels, pieces);
	good = check_stages(win, entries, pieces, cuts);
	free(labels);
	free(entries);
	free(pieces);
	return good;
}

/* Checks all pairs of cuts of a unit, also those at its ends and outside. */
static bool test_stages_exhaustive(unsigned int order)
{
	struct window win = make_window(5UL << order, order, 1);
	struct guestmem_cuts cuts = { .index = win.start, .order = order };

	for (cuts.at[0] = win.start - 1; cuts.at[0] <= win.end + 1; cuts.at[0]++) {
		for (cuts.at[1] = win.start - 1; cuts.at[1] <= win.end + 1; cuts.at[1]++) {
			if (!check_cuts(&win, &cuts))
				return false;
		}
	}
	return true;
}

static bool test_stages_random(unsigned int order)
{
	unsigned long round;

	for (round = rounds_of(order); round; round--) {
		struct window win = random_window(order, 1);
		struct guestmem_cuts cuts = { .index = win.start, .order = order };

		random_range(&win, &cuts.at[0], &cuts.at[1]);
		if (one_in(4))
			cuts.at[1] = cuts.at[0];
		if (!check_cuts(&win, &cuts))
			return false;
	}
	return true;
}

static const struct test tests[] = {
	{ "cut_order_exhaustive", test_cut_order_exhaustive, 0, 6 },
	{ "cut_order_random_2m", test_cut_order_random, 9, 9 },
	{ "cut_order_random_32m", test_cut_order_random, 13, 13 },
	{ "cut_order_random_1g", test_cut_order_random, 18, 18 },
	{ "lower_order", test_lower_order, 1, 20 },
	{ "stages_exhaustive", test_stages_exhaustive, 0, 7 },
	{ "stages_random_2m", test_stages_random, 9, 9 },
	{ "stages_random_32m", test_stages_random, 13, 13 },
	{ "stages_random_1g", test_stages_random, 18, 18 },
};

ADD_TESTS
