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
void label_cuts(const struct window *win, unsigned long *labels,
		const struct guestmem_cuts *cuts);
unsigned long count_blocks(const struct window *win, const struct block *blocks);

/* layout-test.c */
struct test {
	const char *name;
	bool (*run)(unsigned int order);
	unsigned int first_order, last_order;
};

struct test_list {
	const struct test *tests;
	unsigned long nr;
	struct test_list *next;
};

void add_tests(struct test_list *list);

/* Has the array "tests" of a file run, each test once for each of its orders. */
#define ADD_TESTS							\
	static struct test_list test_list = {				\
		.tests = tests, .nr = sizeof(tests) / sizeof(*tests),	\
	};								\
									\
	static void __attribute__((constructor)) add_tests_of_file(void)	\
	{								\
		add_tests(&test_list);					\
	}

#endif /* _GUESTMEM_LAYOUT_TEST_H */
