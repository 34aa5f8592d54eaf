// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of the functions of mm/guestmem_layout.c together: layouts that change step by
 * step, as a file's folios do.  Private pages are always in the largest possible block.
 * Shared blocks are split at the edges of a conversion and where the host uses a page, and
 * aren't merged.
 */
#include "layout-test.h"

struct file {
	struct window win;
	bool *private, *used;
	/* The blocks of the oracle, and those of the functions. */
	struct block *oracle, *blocks;
	unsigned long *labels;
};

static bool *private_at(const struct file *file, pgoff_t index)
{
	return &file->private[index - file->win.start];
}

static struct block *block_at(const struct file *file, pgoff_t index)
{
	return &file->blocks[index - file->win.start];
}

static void file_init(struct file *file, struct window win, bool private)
{
	unsigned long nr = window_size(&win);

	*file = (struct file){ .win = win };
	file->private = alloc(nr, sizeof(*file->private));
	file->used = alloc(nr, sizeof(*file->used));
	file->oracle = alloc(nr, sizeof(*file->oracle));
	file->blocks = alloc(nr, sizeof(*file->blocks));
	file->labels = alloc(nr, sizeof(*file->labels));
	memset(file->private, private, nr * sizeof(*file->private));
	oracle_layout(&win, file->labels, file->oracle);
	memcpy(file->blocks, file->oracle, nr * sizeof(*file->blocks));
}

static void file_destroy(struct file *file)
{
	free(file->private);
	free(file->used);
	free(file->oracle);
	free(file->blocks);
	free(file->labels);
}

/*
 * Takes a step for the oracle.  Two pages may be in one block if both are private, or
 * if both were in one block and the same happened to both.
 */
static void oracle_step(struct file *file, pgoff_t start, pgoff_t end, const bool *private)
{
	unsigned long i;

	for (i = 0; i < window_size(&file->win); i++) {
		pgoff_t index = file->win.start + i;
		bool happened = index >= start && index < end;

		/* Nothing happens to a page that is shared already, unless the host uses it. */
		if (private && !*private && !file->private[i])
			happened = false;
		if (private && index >= start && index < end) {
			file->private[i] = *private;
			if (*private)
				file->used[i] = false;
		}
		if (!private && happened)
			file->used[i] = true;

		file->labels[i] = file->oracle[i].start * 2 + happened;
		if (file->private[i])
			file->labels[i] = ULONG_MAX;
	}
	oracle_layout(&file->win, file->labels, file->oracle);
}

/* Splits a block at two cuts, as a commit does. */
static bool cut_block(struct file *file, struct block block, const pgoff_t at[2])
{
	struct guestmem_cuts cuts = { block.start, block.order, { at[0], at[1] } };
	pgoff_t i, end = block.start + (1UL << block.order);

	for (i = block.start; i < end;) {
		unsigned int order = guestmem_cut_order(&cuts, i);

		if (order > block.order || i % (1UL << order))
			return failed("no block of order %u at %#lx", order, i);
		fill_block(&file->win, file->blocks, i, order);
		i += 1UL << order;
	}
	return true;
}

/*
 * Splits blocks that cross the ends of a range, as guestmem_reshape_prepare() and a commit
 * do: only private ones, or only shared ones.  Counts the blocks that are split.
 */
static bool split(struct file *file, pgoff_t start, pgoff_t end, bool private,
		  unsigned int *nr_split)
{
	const pgoff_t at[2] = { start, end };
	unsigned int i;

	*nr_split = 0;
	for (i = 0; i < 2; i++) {
		struct block block;

		if (at[i] == file->win.end || *private_at(file, at[i]) != private)
			continue;
		block = *block_at(file, at[i]);
		if (block.start == at[i])
			continue;
		if (!cut_block(file, block, at))
			return false;
		++*nr_split;
	}
	return true;
}

/* Merges private blocks, of a range and next to it, as guestmem_reshape_merge() does. */
static bool merge(struct file *file, pgoff_t start, pgoff_t end)
{
	pgoff_t lo = start, hi = end, index;
	unsigned int order;

	while (lo > file->win.start && *private_at(file, lo - 1))
		lo--;
	while (hi < file->win.end && *private_at(file, hi))
		hi++;

	for (index = start; index < end; index += 1UL << order) {
		order = guestmem_block_order(index, lo, hi, file->win.unit_order);
		index = index >> order << order;
		if (index < lo || index + (1UL << order) > hi)
			return failed("merges what is shared at %#lx, order %u", index, order);
		if (block_at(file, index)->order > order)
			return failed("splits the block at %#lx, order %u", index, order);
		if (block_at(file, index)->order < order)
			fill_block(&file->win, file->blocks, index, order);
	}
	return true;
}

/* Checks the blocks against the oracle, and the oracle's against single pages. */
static bool check_file(const struct file *file)
{
	unsigned long i;

	for (i = 0; i < window_size(&file->win); i++) {
		struct block got = file->blocks[i], want = file->oracle[i];

		if (!same_block(got, want))
			return failed("page %#lx: block at %#lx, order %u, but should be %#lx, %u",
				      file->win.start + i, got.start, got.order,
				      want.start, want.order);
		if (file->private[i] != file->private[got.start - file->win.start])
			return failed("page %#lx: not as its block", file->win.start + i);
		if (file->used[i] && got.order)
			return failed("page %#lx: used, but order %u", file->win.start + i,
				      got.order);
	}
	return true;
}

static bool convert(struct file *file, pgoff_t start, pgoff_t end, bool private)
{
	unsigned int nr_split;

	if (!split(file, start, end, !private, &nr_split))
		return false;
	oracle_step(file, start, end, &private);
	if (private && !merge(file, start, end))
		return false;
	return check_file(file);
}

/* Has the host use a page, unless the page is private. */
static bool isolate(struct file *file, pgoff_t index)
{
	unsigned int nr_split;

	if (*private_at(file, index))
		return true;
	if (!split(file, index, index + 1, false, &nr_split))
		return false;
	if (nr_split > 1)
		return failed("%u blocks to be cut", nr_split);
	oracle_step(file, index, index + 1, NULL);
	return check_file(file);
}

static bool random_step(struct file *file)
{
	bool private = one_in(2);
	pgoff_t start, end;

	random_range(&file->win, &start, &end);
	if (one_in(3)) {
		if (isolate(file, start))
			return true;
		return failed("isolating page %#lx", start);
	}
	if (one_in(4)) {
		/* Whole units. */
		start = start >> file->win.unit_order << file->win.unit_order;
		end = start + (1UL << file->win.unit_order);
	}
	if (convert(file, start, end, private))
		return true;
	return failed("making [%#lx, %#lx) %s", start, end, private ? "private" : "shared");
}

static bool test_steps(unsigned int order)
{
	unsigned long nr_units = 3, round, nr_files, nr_steps, step;
	bool good = true;

	/* Fewer steps and files if they are large, as each step checks all pages. */
	nr_steps = order > 9 ? 40 : 100;
	nr_files = order > 9 ? rounds >> (order - 4) : rounds / 16;
	for (round = max(nr_files, 1UL); round && good; round--) {
		bool private = one_in(2);
		struct file file;

		file_init(&file, random_window(order, nr_units), private);
		for (step = 0; step < nr_steps && good; step++)
			good = random_step(&file);
		if (!good)
			failed("step %lu, order %u, [%#lx, %#lx), %s at first", step, order,
			       file.win.start, file.win.end, private ? "private" : "shared");
		/* If all pages are private, each unit is whole. */
		good = good && convert(&file, file.win.start, file.win.end, true);
		if (good && count_blocks(&file.win, file.blocks) != nr_units)
			good = failed("all private, but %lu blocks, not %lu",
				      count_blocks(&file.win, file.blocks), nr_units);
		file_destroy(&file);
	}
	return good;
}

/*
 * Checks the number of blocks of a unit if pages a and b are shared, each of them by a
 * conversion of its own, and that the unit is one block when all are private again.
 */
static bool check_count(unsigned int order, unsigned long a, unsigned long b, unsigned long want)
{
	struct window win = make_window(7UL << order, order, 1);
	struct file file;
	bool good;

	file_init(&file, win, true);
	good = convert(&file, win.start + a, win.start + a + 1, false) &&
	       convert(&file, win.start + b, win.start + b + 1, false);
	if (good && count_blocks(&win, file.blocks) != want)
		good = failed("pages %#lx, %#lx shared: %lu blocks of order <= %u, not %lu", a, b,
			      count_blocks(&win, file.blocks), order, want);
	good = good && convert(&file, win.start + a, win.start + a + 1, true) &&
	       convert(&file, win.start + b, win.start + b + 1, true);
	if (good && count_blocks(&win, file.blocks) != 1)
		good = failed("all private, but %lu blocks", count_blocks(&win, file.blocks));
	file_destroy(&file);

	/* The same if the host uses pages of a shared unit, but the unit stays split. */
	file_init(&file, win, false);
	good = good && isolate(&file, win.start + a) && isolate(&file, win.start + b);
	if (good && count_blocks(&win, file.blocks) != want)
		good = failed("pages %#lx, %#lx used: %lu blocks of order <= %u, not %lu", a, b,
			      count_blocks(&win, file.blocks), order, want);
	file_destroy(&file);
	return good;
}

static bool test_counts(unsigned int order)
{
	unsigned long half = 1UL << (order - 1), round;
	/* One page: 19 blocks of a unit of 1G, 10 of 2M. One in each half: 36 of 1G. */
	unsigned long one = order + 1, two = 2 * order;

	if (!check_count(order, 0, 0, one) || !check_count(order, half, half, one) ||
	    !check_count(order, 2 * half - 1, 2 * half - 1, one) ||
	    !check_count(order, 0, half, two) || !check_count(order, half - 1, half, two))
		return false;
	for (round = 0; round < 2; round++) {
		unsigned long a = random_below(half), b = half + random_below(half);

		if (!check_count(order, a, a, one) || !check_count(order, b, b, one) ||
		    !check_count(order, a, b, two))
			return false;
	}
	return true;
}

static bool test_counts_1g(unsigned int order)
{
	return check_count(order, 12345, 12345, 19) && check_count(order, 12345, 234567, 36) &&
	       test_counts(order);
}

static bool test_counts_2m(unsigned int order)
{
	return check_count(order, 123, 123, 10) && test_counts(order);
}

static const struct test tests[] = {
	{ "counts_2m", test_counts_2m, 9, 9 },
	{ "counts_1g", test_counts_1g, 18, 18 },
	{ "steps_small", test_steps, 0, 7 },
	{ "steps_2m", test_steps, 9, 9 },
	{ "steps_32m", test_steps, 13, 13 },
	{ "steps_1g", test_steps, 18, 18 },
};

ADD_TESTS
