/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _GUESTMEM_LAYOUT_TEST_H
#define _GUESTMEM_LAYOUT_TEST_H

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guestmem_layout.h"

#define PAGE_SHIFT	12
#define NR_INDEXES	((ULONG_MAX >> PAGE_SHIFT) + 1)

/* Prints why a test fails, and is false. */
#define failed(...)	(printf("# "), printf(__VA_ARGS__), end_failed())

/* The block that a page is part of. */
struct block {
	pgoff_t start;
	unsigned int order;
};

/* Pages in a row, aligned to a unit.  Arrays are indexed from the first one. */
struct window {
	pgoff_t start, end;
	unsigned int unit_order;
};

/* layout-oracle.c */
extern unsigned long rounds;

void random_init(unsigned long seed);
unsigned long random_below(unsigned long limit);
bool one_in(unsigned long n);
void *alloc(unsigned long nr, size_t size);
bool end_failed(void);
unsigned long rounds_of(unsigned int order);

struct window make_window(pgoff_t start, unsigned int unit_order, unsigned long nr_units);
struct window random_window(unsigned int unit_order, unsigned long nr_units);
unsigned long window_size(const struct window *win);
void random_range(const struct window *win, pgoff_t *start, pgoff_t *end);

bool same_block(struct block a, struct block b);
struct block oracle_block(const struct window *win, const unsigned long *labels,
			  pgoff_t index, unsigned int max_order);
void fill_block(const struct window *win, struct block *blocks, pgoff_t start,
		unsigned int order);
void oracle_layout(const struct window *win, const unsigned long *labels,
		   struct block *blocks);
unsigned long count_blocks(const struct window *win, const struct block *blocks);

/* layout-steps.c */
bool test_steps(unsigned int order);
bool test_counts_2m(unsigned int order);
bool test_counts_1g(unsigned int order);

#endif /* _GUESTMEM_LAYOUT_TEST_H */
