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

/* A folio is split at no more than two cuts at a time, the ends of a range. */
#define GUESTMEM_NR_CUTS	2

/**
 * struct guestmem_cuts - a block of pages, and where it is cut
 * @index: the first page of the block, aligned to its size
 * @order: log2 of the number of pages
 * @at: the cuts, i.e. indexes where a smaller block has to start.  A cut that isn't
 *	inside of the block has no effect, and both cuts may be the same.
 */
struct guestmem_cuts {
	pgoff_t index;
	unsigned int order;
	pgoff_t at[GUESTMEM_NR_CUTS];
};

/**
 * struct guestmem_stages - the entries of the page cache that are split because of a cut
 * @first: log2 of the number of pages of the first entry that is split into halves
 * @last: the same for the last one.  All orders in between have one, too.
 */
struct guestmem_stages {
	unsigned int first;
	unsigned int last;
};

unsigned int guestmem_block_order(pgoff_t index, pgoff_t start, pgoff_t end,
				  unsigned int max_order);
unsigned int guestmem_cut_order(const struct guestmem_cuts *cuts, pgoff_t index);
unsigned int guestmem_lower_order(unsigned int order, unsigned int node_shift);
bool guestmem_has_cut(const struct guestmem_cuts *cuts, pgoff_t index, unsigned int order);
struct guestmem_stages guestmem_plan_stages(const struct guestmem_cuts *cuts,
					    unsigned int nr);
pgoff_t guestmem_stage_entry(const struct guestmem_cuts *cuts, pgoff_t index,
			     unsigned int order);

#endif /* _MM_GUESTMEM_LAYOUT_H */
