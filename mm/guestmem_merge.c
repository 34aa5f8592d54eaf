// SPDX-License-Identifier: GPL-2.0
/**
 * DOC: Merge
 *
 * If a block may be one folio again, then a merge replaces all folios of the block by
 * that folio.  A folio that has a reference beside those of the page cache, or has a
 * poisoned page, stays as it is, and the blocks next to it are merged as far as possible.
 *
 * A block that has been detached can't be put back, as the nodes of its folios are gone.
 * So all that can fail comes before that, and joining struct pages can't fail, neither here
 * nor for late units.
 *
 * A reason to put a merge off belongs in guestmem_reshape_merge(), which tells its caller
 * to try again.  The functions that it calls also merge units that leave their file.
 */
#include <linux/guestmem.h>
#include <linux/hugetlb.h>
#include <linux/kvm_types.h>
#include <linux/pagemap.h>

#include <trace/events/guestmem.h>

#include "internal.h"

#include "guestmem_layout.h"
#include "guestmem_pages.h"
#include "guestmem_vmemmap.h"
#include "guestmem_origin.h"
#include "guestmem_cache.h"
#include "guestmem_reserve.h"
#include "guestmem_merge.h"

/*
 * All folios of a block are frozen with a lock held and interrupts disabled, which
 * limits their number: begin with blocks that are small.
 */
#define GUESTMEM_SMALL_ORDER	9U
#define GUESTMEM_MAX_FOLIOS	(2U << GUESTMEM_SMALL_ORDER)

/*
 * A block of a unit that is split, all of which is in the page cache.  No other task splits
 * or removes a folio.
 */
struct guestmem_block {
	struct guestmem_hugetlb *gh;
	struct address_space *mapping;
	/* Valid until the unit is whole. */
	struct guestmem_origin *origin;
	struct page *page;
	pgoff_t index;
	unsigned int order;
};

/* Get the block that begins with a folio. */
static struct guestmem_block guestmem_block_at(struct guestmem_hugetlb *gh,
					       struct folio *folio, unsigned int order)
{
	return (struct guestmem_block){
		.gh = gh,
		.mapping = folio->mapping,
		.origin = guestmem_origin_find(folio_pfn(folio)),
		.page = &folio->page,
		.index = folio->index,
		.order = order,
	};
}

/* Get a smaller block of a block. */
static struct guestmem_block guestmem_block_part(const struct guestmem_block *block,
						 unsigned long first, unsigned int order)
{
	struct guestmem_block part = *block;

	part.page += first;
	part.index += first;
	part.order = order;

	return part;
}

static void guestmem_trace_merge(const struct guestmem_block *block, int ret)
{
	trace_guestmem_merge(block->mapping,
			     guestmem_unit_pfn(block->gh, page_to_pfn(block->page)),
			     block->index, block->order, ret);
}

/* Make one folio of all folios of a block.  Returns false if that isn't possible now. */
static bool guestmem_make_folio(const struct guestmem_block *block)
{
	struct guestmem_origin *origin = block->origin;
	struct folio *folio = (struct folio *)block->page;

	lockdep_assert_held_write(&block->mapping->invalidate_lock);

	if (!guestmem_try_detach_block(block->page, block->order, GUESTMEM_MAX_FOLIOS)) {
		guestmem_trace_merge(block, -EBUSY);
		return false;
	}

	guestmem_vmemmap_join(block->page, block->order, origin->optimized);
	folio->mapping = block->mapping;
	folio->index = block->index;
	__folio_mark_uptodate(folio);

	if (huge_page_order(origin->h) == block->order) {
		guestmem_origin_give(origin, folio);
		guestmem_origin_free(origin);
		atomic_long_dec(&block->gh->nr_split_units);
	}
	atomic_long_inc(&block->gh->nr_merges);

	guestmem_attach(folio, block->mapping, folio_nr_pages(folio));
	guestmem_trace_merge(block, 0);
	return true;
}

static unsigned int guestmem_order_at(struct page *page)
{
	return folio_order(page_folio(page));
}

/*
 * Tell whether a block is part of one folio already.  A unit also has to be a hugetlb folio,
 * and has no origin then.
 */
static bool guestmem_is_merged(const struct guestmem_block *block)
{
	struct folio *folio = page_folio(block->page);

	if (folio_test_hugetlb(folio))
		return true;

	return folio_order(folio) >= block->order &&
	       block->order < huge_page_order(block->origin->h);
}

/* Tell whether a block of a unit that is split has a failed page. */
static bool guestmem_block_is_poisoned(const struct guestmem_block *block)
{
	return guestmem_origin_is_poisoned(block->origin, page_to_pfn(block->page),
					   1UL << block->order);
}

/*
 * Merge a block.  If a folio in it can't be merged then try both halves of the block,
 * unless they are of @min_order, i.e. have been tried before.  Returns true if nothing is
 * left that may be merged later.  A folio with a failed page never may.
 */
static bool guestmem_merge_top_down(const struct guestmem_block *block,
				    unsigned int min_order)
{
	unsigned int order = block->order;
	struct guestmem_block half;
	bool done;

	lockdep_assert_held_write(&block->mapping->invalidate_lock);

	if (guestmem_is_merged(block))
		return true;

	done = guestmem_block_is_poisoned(block);
	if (!done && guestmem_make_folio(block))
		return true;

	cond_resched();
	if (--order > min_order) {
		half = guestmem_block_part(block, 0, order);
		done &= guestmem_merge_top_down(&half, min_order);
		half = guestmem_block_part(block, 1UL << order, order);
		done &= guestmem_merge_top_down(&half, min_order);
	}

	return done;
}

/*
 * Merge a block, beginning with small blocks.  If one of these can't be merged then the
 * rest is of no use to the caller, unless it wants the block @partly merged.  Returns true
 * if nothing is left that may be merged later.
 */
static bool guestmem_merge_bottom_up(const struct guestmem_block *block, bool partly)
{
	unsigned int lower = min(block->order, GUESTMEM_SMALL_ORDER), present;
	unsigned long nr_pages = 1UL << block->order, next = 0;
	struct guestmem_block small;
	bool done = true;

	while (next < nr_pages) {
		small = guestmem_block_part(block, next, lower);
		done &= guestmem_merge_top_down(&small, partly ? 0 : lower);
		if (!done && !partly)
			return false;

		present = max(lower, guestmem_order_at(small.page));
		next += 1UL << present;
		cond_resched();
	}

	if (block->order > lower)
		done &= guestmem_merge_top_down(block, partly ? lower : block->order);

	return done;
}

/**
 * guestmem_reshape_merge - merge the folios of a range as far as possible
 * @gh: the file's reservation
 * @mapping: the file
 * @start: the first page of the range
 * @end: the page after the last one
 * @lo: the first page of a range whose pages may be merged, at most @start
 * @hi: the page after the last one, at least @end
 *
 * Context: may sleep.  The caller holds invalidate_lock for write, and user space maps
 *	no page of [@lo, @hi).
 * Return: false if a folio that should be merged has a reference, or if there's no
 *	memory.  Such folios stay as they are, and all others are merged.  A folio with
 *	a poisoned page never should be merged.
 */
bool guestmem_reshape_merge(struct guestmem_hugetlb *gh, struct address_space *mapping,
			    pgoff_t start, pgoff_t end, pgoff_t lo, pgoff_t hi)
{
	unsigned int order, unit_order = huge_page_order(gh->h);
	struct guestmem_block block;
	pgoff_t index = start;
	bool done = true;
	struct folio *folio;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	while (index < end) {
		order = guestmem_block_order(index, lo, hi, unit_order);
		index = round_down(index, 1UL << order);

		folio = xa_load(&mapping->i_pages, index);
		if (!folio) {
			/* All pages of a unit are there, or none is. */
			index = round_down(index, 1UL << unit_order) + (1UL << unit_order);
			cond_resched();
			continue;
		}

		if (folio_order(folio) < order &&
		    (!guestmem_uniform || order == unit_order)) {
			block = guestmem_block_at(gh, folio, order);
			done &= guestmem_merge_bottom_up(&block, true);
		}

		index += 1UL << order;
		cond_resched();
	}

	return done;
}
EXPORT_SYMBOL_FOR_KVM(guestmem_reshape_merge);

/**
 * guestmem_merge_unit - make a hugetlb folio of a unit that is about to be removed
 * @gh: the file's reservation
 * @mapping: the file
 * @index: the index of the unit's first page
 *
 * Context: may sleep.  The caller holds invalidate_lock for write, and user space maps no
 *	page of the unit.
 * Return: false if a folio is in use, if a page has failed, or if there's no memory.  Some
 *	of the folios may have been merged.
 */
bool guestmem_merge_unit(struct guestmem_hugetlb *gh, struct address_space *mapping,
			 pgoff_t index)
{
	struct guestmem_block block;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	block = guestmem_block_at(gh, xa_load(&mapping->i_pages, index),
				  huge_page_order(gh->h));

	/* Nothing is left to be merged, but that may be because a page has failed. */
	return guestmem_merge_bottom_up(&block, false) &&
	       folio_test_hugetlb(page_folio(block.page));
}
