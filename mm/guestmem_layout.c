// SPDX-License-Identifier: GPL-2.0
/*
 * Guest memory: what a split and a merge compute before they touch a folio.
 *
 * See guestmem_layout.h.  Calls nothing.
 */
#include "guestmem_layout.h"

#ifdef __KERNEL__
#include <linux/bitops.h>
#include <linux/math.h>
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
 * guestmem_cut_order - find the piece that a page is part of
 * @cuts: a block of pages, and where it is cut
 * @index: a page of the block
 *
 * The pieces are the largest naturally aligned blocks that fit between the cuts.
 *
 * Context: any.
 * Return: the order of the piece, at most that of the block.
 */
unsigned int guestmem_cut_order(const struct guestmem_cuts *cuts, pgoff_t index)
{
	pgoff_t start = cuts->index, end = cuts->index + (1UL << cuts->order);
	unsigned int i;

	for (i = 0; i < GUESTMEM_NR_CUTS; i++) {
		if (cuts->at[i] <= index)
			start = max(start, cuts->at[i]);
		else
			end = min(end, cuts->at[i]);
	}

	return guestmem_block_order(index, start, end, cuts->order);
}

/**
 * guestmem_lower_order - get the order of entries one level of nodes below an entry
 * @order: log2 of the number of pages of the entry, at least 1
 * @node_shift: log2 of the number of slots of a node of the page cache
 *
 * Context: any.
 * Return: the largest multiple of @node_shift below @order.
 */
unsigned int guestmem_lower_order(unsigned int order, unsigned int node_shift)
{
	return rounddown(order - 1, node_shift);
}

/* Tell whether a cut is inside of a block, i.e. neither at its start nor outside. */
static bool guestmem_is_cut(pgoff_t cut, pgoff_t index, unsigned int order)
{
	return cut > index && cut - index < 1UL << order;
}

/**
 * guestmem_plan_stages - plan how to split the page cache's entry for a block
 * @cuts: the block, which has one entry, and where it is cut
 * @node_shift: log2 of the number of slots of a node of the page cache
 * @stages: set to the entries that have to be split, one after the other
 * @max_stages: number of elements of @stages
 *
 * An entry is split into entries one level of nodes below, as xas_split() supports no
 * more than one level, and those that have a cut inside are split again.  When all is
 * done, storing a piece in the place of its entries takes no memory.
 *
 * Context: any.
 * Return: the number of stages, which may be larger than @max_stages.  Then the rest
 *	isn't stored.
 */
unsigned int guestmem_plan_stages(const struct guestmem_cuts *cuts, unsigned int node_shift,
				  struct guestmem_stage *stages, unsigned int max_stages)
{
	unsigned int order, lower_order, nr_stages = 0, i;
	pgoff_t cut, index;

	for (i = 0; i < GUESTMEM_NR_CUTS; i++) {
		cut = cuts->at[i];
		if (!guestmem_is_cut(cut, cuts->index, cuts->order))
			continue;

		for (order = cuts->order; order; order = lower_order) {
			lower_order = guestmem_lower_order(order, node_shift);
			index = round_down(cut, 1UL << order);
			if (!guestmem_is_cut(cut, index, order))
				break;

			/* A stage of the first cut splits this entry already. */
			if (i && guestmem_is_cut(cuts->at[0], index, order))
				continue;

			if (nr_stages < max_stages)
				stages[nr_stages] = (struct guestmem_stage){
					.index = index,
					.order = order,
					.lower_order = lower_order,
				};
			nr_stages++;
		}
	}

	return nr_stages;
}
