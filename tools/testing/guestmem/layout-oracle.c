// SPDX-License-Identifier: GPL-2.0
/*
 * The expected results of the tests of mm/guestmem_layout.c, and their random choices.
 *
 * The oracle has one array entry per page and no arithmetic: it tries one block
 * after the other and looks at each page of the block.
 */
#include "layout-test.h"

unsigned long rounds = 1600;
static unsigned long long random_state;

void random_init(unsigned long seed)
{
	random_state = seed;
}

/* splitmix64 */
static unsigned long random_long(void)
{
	unsigned long long x = random_state += 0x9e3779b97f4a7c15ULL;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

unsigned long random_below(unsigned long limit)
{
	return random_long() % limit;
}

bool one_in(unsigned long n)
{
	return !random_below(n);
}

void *alloc(unsigned long nr, size_t size)
{
	void *mem = calloc(nr, size);

	if (!mem) {
		perror("calloc");
		exit(EXIT_FAILURE);
	}
	return mem;
}

/* Ends the line of a message.  Returns false, the result of the test. */
bool end_failed(void)
{
	printf("\n");
	return false;
}

/* Returns the number of rounds: fewer if each round has more pages to look at. */
unsigned long rounds_of(unsigned int order)
{
	unsigned long nr = order > 9 ? rounds >> (order - 9) : rounds;

	return max(nr, rounds / 80 + 1);
}

struct window make_window(pgoff_t start, unsigned int unit_order, unsigned long nr_units)
{
	return (struct window){ start, start + (nr_units << unit_order), unit_order };
}

/* Returns a window at the start of a file, at the end of the longest one, or between. */
struct window random_window(unsigned int unit_order, unsigned long nr_units)
{
	unsigned long nr = NR_INDEXES >> unit_order;
	unsigned long unit = random_below(nr - nr_units + 1);

	if (one_in(3))
		unit = 0;
	else if (one_in(3))
		unit = nr - nr_units;
	return make_window(unit << unit_order, unit_order, nr_units);
}

unsigned long window_size(const struct window *win)
{
	return win->end - win->start;
}

/* Returns any index up to the end, preferably at the edge of a block or next to it. */
static pgoff_t random_index(const struct window *win)
{
	pgoff_t index = win->start + random_below(window_size(win) + 1);

	if (one_in(2))
		index -= index % (1UL << random_below(win->unit_order + 1));
	if (one_in(4) && index < win->end)
		index++;
	else if (one_in(4) && index > win->start)
		index--;
	return index;
}

void random_range(const struct window *win, pgoff_t *start, pgoff_t *end)
{
	do {
		*start = random_index(win);
		*end = one_in(4) ? *start + 1 : random_index(win);
	} while (*start >= *end || *end > win->end);
}

bool same_block(struct block a, struct block b)
{
	return a.start == b.start && a.order == b.order;
}

/* The oracle: grows the block of a page for as long as all its pages are alike. */
struct block oracle_block(const struct window *win, const unsigned long *labels,
			  pgoff_t index, unsigned int max_order)
{
	struct block block = { index, 0 };
	unsigned int order;

	for (order = 1; order <= max_order; order++) {
		unsigned long size = 1UL << order;
		pgoff_t start = index / size * size, i;

		if (start < win->start || start + size > win->end)
			break;
		for (i = start; i < start + size; i++) {
			if (labels[i - win->start] != labels[index - win->start])
				return block;
		}
		block.start = start;
		block.order = order;
	}
	return block;
}

void fill_block(const struct window *win, struct block *blocks, pgoff_t start,
		unsigned int order)
{
	pgoff_t i;

	for (i = start; i < start + (1UL << order); i++)
		blocks[i - win->start] = (struct block){ start, order };
}

void oracle_layout(const struct window *win, const unsigned long *labels,
		   struct block *blocks)
{
	pgoff_t index;

	for (index = win->start; index < win->end;) {
		struct block block = oracle_block(win, labels, index, win->unit_order);

		fill_block(win, blocks, block.start, block.order);
		index = block.start + (1UL << block.order);
	}
}

/* Labels each page with the number of cuts up to it: no block may have two labels. */
void label_cuts(const struct window *win, unsigned long *labels,
		const struct guestmem_cuts *cuts)
{
	pgoff_t i;

	for (i = win->start; i < win->end; i++)
		labels[i - win->start] = (cuts->at[0] <= i) + (cuts->at[1] <= i);
}

unsigned long count_blocks(const struct window *win, const struct block *blocks)
{
	unsigned long nr = 0;
	pgoff_t i;

	for (i = win->start; i < win->end; i++)
		nr += blocks[i - win->start].start == i;
	return nr;
}
