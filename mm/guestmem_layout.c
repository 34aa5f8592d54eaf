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
 * guestmem_has_cut - tell whether a block has to be split
 * @cuts: a block of pages, and where it is cut
 * @index: the first page of a smaller block, or of the same
 * @order: log2 of its number of pages
 *
 * Context: any.
 * Return: true if a cut is inside of the smaller block.
 */
bool guestmem_has_cut(const struct guestmem_cuts *cuts, pgoff_t index, unsigned int order)
{
	unsigned int i;

	for (i = 0; i < GUESTMEM_NR_CUTS; i++) {
		if (guestmem_is_cut(cuts->at[i], index, order))
			return true;
	}

	return false;
}

/**
 * guestmem_plan_stages - plan how to split the page cache's entry for a block at a cut
 * @cuts: the block, which has one entry, and where it is cut
 * @nr: the number of the cut
 *
 * In each stage, the entry that has the cut inside is split into halves.  The plan for the
 * second cut is for after that for the first one.  When both are done, there is an entry
 * for each piece.
 *
 * Context: any.
 * Return: the orders of the entries that are split, none if the first is less than the last.
 */
struct guestmem_stages guestmem_plan_stages(const struct guestmem_cuts *cuts,
					    unsigned int nr)
{
	struct guestmem_stages stages = { .first = 0, .last = 1 };
	pgoff_t cut = cuts->at[nr], other = cuts->at[0];

	if (!guestmem_is_cut(cut, cuts->index, cuts->order))
		return stages;

	stages.first = cuts->order;
	stages.last = __ffs(cut) + 1;

	/* The first cut has split all entries that had both cuts inside. */
	if (nr && guestmem_is_cut(other, cuts->index, cuts->order))
		stages.first = __fls((min(cut, other) - 1) ^ max(cut, other));

	return stages;
}

/**
 * guestmem_stage_entry - choose the piece that is stored when an entry is split
 * @cuts: the block, which has one entry, and where it is cut
 * @index: the first page of the entry that is split
 * @order: log2 of the number of pages of this entry, at least 1
 *
 * As xas_split() stores one and the same thing in both halves, make it that of a half which
 * is a piece.
 *
 * Context: any.
 * Return: the first page of either half.
 */
pgoff_t guestmem_stage_entry(const struct guestmem_cuts *cuts, pgoff_t index,
			     unsigned int order)
{
	pgoff_t middle = index + (1UL << --order);

	if (guestmem_has_cut(cuts, index, order) && !guestmem_has_cut(cuts, middle, order))
		return middle;

	return index;
}
