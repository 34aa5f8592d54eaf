/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_GUESTMEM_LAYOUT_H
#define _MM_GUESTMEM_LAYOUT_H

/*
 * Arithmetic about layouts.  A layout says how a range of pages is cut into folios,
 * i.e. into naturally aligned blocks of a power of two pages.  The code uses no
 * folios and no locks, and doesn't allocate, so that tools/testing/guestmem can
 * compile it for user space.
 */

#ifdef __KERNEL__
#include <linux/types.h>
#else
#include "guestmem_layout_user.h"
#endif

/**
 * typedef guestmem_order_fn - a layout
 * @arg: the data that the layout needs
 * @index: the index of any page of the file
 *
 * Return: the order of the block that contains @index.
 */
typedef unsigned int (*guestmem_order_fn)(void *arg, pgoff_t index);

/**
 * struct guestmem_extent - a range in which two layouts differ
 * @index: first page, aligned to @order
 * @order: log2 of the number of pages
 * @merge: true if one block is wanted instead of several, false if it's the opposite
 */
struct guestmem_extent {
	pgoff_t index;
	unsigned int order;
	bool merge;
};

unsigned int guestmem_block_order(pgoff_t index, pgoff_t start, pgoff_t end,
				  unsigned int max_order);
bool guestmem_next_extent(pgoff_t *index, pgoff_t end, void *arg,
			  guestmem_order_fn present, guestmem_order_fn wanted,
			  struct guestmem_extent *ext);

#endif /* _MM_GUESTMEM_LAYOUT_H */
