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

/*
 * guestmem_plan_stages(): entries of the page cache are split as the plan says, in an array
 * that has the entry of each page, and in another one that has the page whose folio the
 * entry points to.
 */

static bool has_cut(const struct guestmem_cuts *cuts, struct block block)
{
	pgoff_t end = block.start + (1UL << block.order), i;

	/* The first page of a block may be a cut, but doesn't cut this block. */
	for (i = block.start + 1; i < end; i++) {
		if (i == cuts->at[0] || i == cuts->at[1])
			return true;
	}
	return false;
}

static void point_to(const struct window *win, pgoff_t *folios, struct block block,
		     pgoff_t folio)
{
	unsigned long i;

	for (i = 0; i < 1UL << block.order; i++)
		folios[block.start - win->start + i] = folio;
}

/* Splits an entry.  There must be this entry, and a reason to split it. */
static bool run_stage(const struct window *win, struct block *entries, pgoff_t *folios,
		      const struct guestmem_cuts *cuts, struct block block)
{
	struct block left = { block.start, block.order - 1 };
	struct block right = { block.start + (1UL << left.order), left.order };
	pgoff_t folio;

	if (!same_block(entries[block.start - win->start], block))
		return failed("%#lx, order %u: no such entry", block.start, block.order);
	if (!has_cut(cuts, block) || !guestmem_has_cut(cuts, block.start, block.order))
		return failed("%#lx, order %u: nothing to cut", block.start, block.order);

	folio = guestmem_stage_entry(cuts, block.start, block.order);
	if (folio != left.start && folio != right.start)
		return failed("%#lx, order %u: entry is %#lx", block.start, block.order, folio);

	fill_block(win, entries, left.start, left.order);
	fill_block(win, entries, right.start, right.order);
	point_to(win, folios, block, folio);
	if (!guestmem_has_cut(cuts, right.start, right.order))
		point_to(win, folios, right, right.start);
	return true;
}

/* Checks that each piece has an entry, which points to the piece. */
static bool check_entries(const struct window *win, const struct block *entries,
			  const pgoff_t *folios, const struct block *pieces)
{
	unsigned long i;

	for (i = 0; i < window_size(win); i++) {
		if (!same_block(entries[i], pieces[i]))
			return failed("page %#lx: entry of order %u, piece of order %u",
				      win->start + i, entries[i].order, pieces[i].order);
		if (folios[i] != pieces[i].start)
			return failed("page %#lx: entry points to %#lx", win->start + i,
				      folios[i]);
	}
	return true;
}

static bool check_stages(const struct window *win, struct block *entries, pgoff_t *folios,
			 const struct block *pieces, const struct guestmem_cuts *cuts)
{
	struct guestmem_stages stages;
	struct block block;
	unsigned int i;

	fill_block(win, entries, win->start, win->unit_order);
	point_to(win, folios, entries[0], win->start);
	for (i = 0; i < GUESTMEM_NR_CUTS; i++) {
		stages = guestmem_plan_stages(cuts, i);
		if (stages.first > win->unit_order || !stages.last)
			return failed("orders %u to %u", stages.first, stages.last);

		for (block.order = stages.first; block.order >= stages.last; block.order--) {
			block.start = round_down(cuts->at[i], 1UL << block.order);
			if (!run_stage(win, entries, folios, cuts, block))
				return false;
		}
	}
	return check_entries(win, entries, folios, pieces);
}

static bool check_cuts(const struct window *win, const struct guestmem_cuts *cuts)
{
	unsigned long *labels = alloc(window_size(win), sizeof(*labels));
	struct block *entries = alloc(window_size(win), sizeof(*entries));
	struct block *pieces = alloc(window_size(win), sizeof(*pieces));
	pgoff_t *folios = alloc(window_size(win), sizeof(*folios));
	bool good;

	label_cuts(win, labels, cuts);
	oracle_layout(win, labels, pieces);
	good = check_stages(win, entries, folios, pieces, cuts) ||
	       failed("cuts %#lx and %#lx", cuts->at[0], cuts->at[1]);
	free(labels);
	free(entries);
	free(pieces);
	free(folios);
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
