// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of both functions of mm/guestmem_layout.c together: layouts that change step
 * by step.  Private pages are always in the largest possible block.  Shared blocks are
 * split at the edges of a conversion and where the host uses a page, and aren't merged.
 */
#include "layout-test.h"

struct file {
	struct window win;
	bool *private, *used;
	/* The blocks of the oracle, those of the functions, and these after the next step. */
	struct block *oracle, *blocks, *next;
	unsigned long *labels;
	/* Where to cut blocks, and whether to cut those that are private or the others. */
	pgoff_t cuts[2];
	bool cut_private;
	/* How many blocks the last reshape() split or made. */
	unsigned int nr_extents;
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
	file->next = alloc(nr, sizeof(*file->next));
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
	free(file->next);
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

static unsigned int file_present(void *arg, pgoff_t index)
{
	return block_at(arg, index)->order;
}

static unsigned int file_cut(void *arg, pgoff_t index)
{
	struct file *file = arg;
	struct block block = *block_at(file, index);
	pgoff_t start = block.start, end = block.start + (1UL << block.order);
	unsigned int i;

	for (i = 0; i < 2 && *private_at(file, index) == file->cut_private; i++) {
		if (file->cuts[i] <= index)
			start = max(start, file->cuts[i]);
		else
			end = min(end, file->cuts[i]);
	}
	return guestmem_block_order(index, start, end, block.order);
}

static unsigned int file_merged(void *arg, pgoff_t index)
{
	struct file *file = arg;
	pgoff_t start = index, end = index + 1;

	if (!*private_at(file, index))
		return block_at(file, index)->order;
	while (start > file->win.start && *private_at(file, start - 1))
		start--;
	while (end < file->win.end && *private_at(file, end))
		end++;
	return guestmem_block_order(index, start, end, file->win.unit_order);
}

static bool reshape(struct file *file, guestmem_order_fn wanted, bool merge)
{
	pgoff_t index = file->win.start;
	struct guestmem_extent ext;

	file->nr_extents = 0;
	memcpy(file->next, file->blocks, window_size(&file->win) * sizeof(*file->next));
	while (guestmem_next_extent(&index, file->win.end, file, file_present, wanted, &ext)) {
		pgoff_t i, end = ext.index + (1UL << ext.order);

		if (ext.merge != merge)
			return failed("%s at %#lx, order %u", ext.merge ? "merge" : "split",
				      ext.index, ext.order);
		if (end > file->win.end)
			return failed("extent at %#lx, order %u", ext.index, ext.order);
		if (index != end)
			return failed("extent at %#lx, order %u, but continued at %#lx",
				      ext.index, ext.order, index);
		file->nr_extents++;
		for (i = ext.index; i < end;) {
			unsigned int order = wanted(file, i);

			if (order > ext.order || i % (1UL << order))
				return failed("no block of order %u at %#lx", order, i);
			fill_block(&file->win, file->next, i, order);
			i += 1UL << order;
		}
	}
	memcpy(file->blocks, file->next, window_size(&file->win) * sizeof(*file->next));
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
	file->cuts[0] = start;
	file->cuts[1] = end;
	file->cut_private = !private;
	if (!reshape(file, file_cut, false))
		return false;
	if (file->nr_extents > 2)
		return failed("%u blocks to be cut", file->nr_extents);
	oracle_step(file, start, end, &private);
	if (!reshape(file, file_merged, true))
		return false;
	if (file->nr_extents && !private)
		return failed("merges what is shared");
	return check_file(file);
}

/* Has the host use a page, unless the page is private. */
static bool isolate(struct file *file, pgoff_t index)
{
	if (*private_at(file, index))
		return true;
	file->cuts[0] = index;
	file->cuts[1] = index + 1;
	file->cut_private = false;
	if (!reshape(file, file_cut, false))
		return false;
	if (file->nr_extents > 1)
		return failed("%u blocks to be cut", file->nr_extents);
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

bool test_steps(unsigned int order)
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

bool test_counts_1g(unsigned int order)
{
	return check_count(order, 12345, 12345, 19) && check_count(order, 12345, 234567, 36) &&
	       test_counts(order);
}

bool test_counts_2m(unsigned int order)
{
	return check_count(order, 123, 123, 10) && test_counts(order);
}
