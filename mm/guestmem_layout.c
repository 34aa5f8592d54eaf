// SPDX-License-Identifier: GPL-2.0
#include "guestmem_layout.h"

#ifdef __KERNEL__
#include <linux/bitops.h>
#include <linux/minmax.h>
#endif

/**
 * guestmem_block_order - find the largest block that fits into a range
 * @index: a page of the range
 * @start: the first page of the range
 * @end: the page after the last one
 * @max_order: limit of the order
 *
 * Blocks are naturally aligned.  On either side, compare @index with the nearest
 * page outside the range: a block that contains @index doesn't contain that page
 * if its order is at most the number of the most significant bit in which the two
 * differ.
 *
 * Context: any.
 * Return: the order of the largest block that contains @index, between 0 and
 *	@max_order.
 */
unsigned int guestmem_block_order(pgoff_t index, pgoff_t start, pgoff_t end,
				  unsigned int max_order)
{
	unsigned int order = min(max_order, __fls(index ^ end));

	if (start)
		order = min(order, __fls(index ^ (start - 1)));

	return order;
}

/**
 * guestmem_next_extent - find the next place where two layouts differ
 * @index: where to begin, at the start of a block in both layouts; the function
 *	sets it to where to continue
 * @end: where to stop, the end of a block in both layouts
 * @arg: passed to the layouts
 * @present: the layout that is there
 * @wanted: the layout that should be there
 * @ext: set to the place where they differ
 *
 * Two blocks either have no page in common, or one is part of the other.  So
 * wherever two layouts differ, a block of one is several blocks of the other.
 *
 * Context: that of @present and @wanted.
 * Return: true if there's a difference, false if there's none up to @end.
 */
bool guestmem_next_extent(pgoff_t *index, pgoff_t end, void *arg,
			  guestmem_order_fn present, guestmem_order_fn wanted,
			  struct guestmem_extent *ext)
{
	while (*index < end) {
		unsigned int old_order = present(arg, *index);
		unsigned int new_order = wanted(arg, *index);

		ext->index = *index;
		ext->order = max(old_order, new_order);
		ext->merge = old_order < new_order;

		*index += 1UL << ext->order;
		if (old_order != new_order)
			return true;
	}

	return false;
}
