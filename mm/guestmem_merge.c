// SPDX-License-Identifier: GPL-2.0
/**
 * DOC: Merge
 *
 * If a block may be one folio again, then a merge replaces all folios of the block by
 * that folio.  A folio that has a reference beside those of the page cache, or has a
 * poisoned page, stays as it is, and the blocks next to it are merged as far as possible.
 *
 * The first struct page of a piece has had a reference count, and becomes the struct
 * page of a tail.  The struct page remains an ordinary, writable one as long as a task
 * that has seen the reference count may still use it, see guestmem_reshape_barrier().
 */
#include <linux/hugetlb.h>
#include <linux/kvm_types.h>
#include <linux/pagemap.h>

#include "guestmem_internal.h"
#include "hugetlb_vmemmap.h"
#include "internal.h"

/**
 * guestmem_join_pages - make one folio of all pages of several folios
 * @page: the first page of the folios, which have a reference count of 0
 * @order: order of the new folio
 *
 * Context: may sleep.
 */
void guestmem_join_pages(struct page *page, unsigned int order)
{
	unsigned long nr_pages = 1UL << order, i, nr;

	for (i = 0; i < nr_pages; i += nr) {
		struct folio *folio = (struct folio *)(page + i);

		nr = folio_nr_pages(folio);
		guestmem_scrub_head(folio);
		if (i)
			page[i].mapping = TAIL_MAPPING;
		if (!(i % GUESTMEM_RESCHED_PAGES))
			cond_resched();
	}

	guestmem_prep_folio(page, order);
}

static void guestmem_unfreeze_range(struct address_space *mapping, pgoff_t start,
				    pgoff_t end)
{
	XA_STATE(xas, &mapping->i_pages, start);
	struct folio *folio;

	if (start == end)
		return;

	xas_for_each(&xas, folio, end - 1)
		folio_ref_unfreeze(folio, folio_nr_pages(folio));
}

static bool guestmem_freeze_folio(struct folio *folio)
{
	if (folio_mapped(folio) || folio_test_hwpoison(folio) ||
	    !folio_ref_freeze(folio, folio_nr_pages(folio)))
		return false;

	/*
	 * A fault that has mapped a page gave its reference away, and the reference is gone
	 * if the page was unmapped since.  But the fault still has the folio lock.
	 * memory_failure() sets PG_hwpoison before it drops its reference.
	 */
	if (likely(!folio_test_locked(folio) && !folio_test_hwpoison(folio)))
		return true;

	folio_ref_unfreeze(folio, folio_nr_pages(folio));
	return false;
}

/*
 * All folios of a block are frozen with a lock held and interrupts disabled, which
 * limits their number: begin with blocks that are small.
 */
#define GUESTMEM_MERGE_ORDER	9U
#define GUESTMEM_MERGE_FOLIOS	(2U << GUESTMEM_MERGE_ORDER)

/*
 * Freeze all folios of a block, or none.  Returns false if a folio is in use, if there
 * is a hole, i.e. a folio that another task is about to change, or if there are too
 * many folios.
 */
static bool guestmem_freeze_block(struct address_space *mapping, pgoff_t index,
				  unsigned int order)
{
	pgoff_t end = index + (1UL << order), next = index;
	XA_STATE(xas, &mapping->i_pages, index);
	unsigned int nr_folios = 0;
	struct folio *folio;

	lockdep_assert_held(&mapping->i_pages.xa_lock);

	xas_for_each(&xas, folio, end - 1) {
		if (nr_folios++ == GUESTMEM_MERGE_FOLIOS || xa_is_value(folio) ||
		    folio->index != next || !guestmem_freeze_folio(folio))
			break;

		next = folio_next_index(folio);
	}

	if (next == end)
		return true;

	guestmem_unfreeze_range(mapping, index, next);
	return false;
}

/* Make one folio of all folios of a block.  Returns false if that isn't possible now. */
static bool guestmem_merge_block(struct address_space *mapping, pgoff_t index,
				 unsigned int order)
{
	XA_STATE_ORDER(xas, &mapping->i_pages, index, order);
	struct guestmem_origin *origin;
	struct folio *folio;
	bool frozen;

	/* All pages are there, and no other task splits or removes a folio. */
	folio = xa_load(&mapping->i_pages, index);
	origin = guestmem_origin_find(folio_pfn(folio));

	do {
		xas_lock_irq(&xas);
		frozen = guestmem_freeze_block(mapping, index, order);
		if (frozen) {
			/*
			 * Storing frees all nodes below, and may need a node above
			 * if the xarray has shrunk since the unit was split.
			 */
			xas_store(&xas, GUESTMEM_PLACEHOLDER);
			if (xas_error(&xas)) {
				guestmem_unfreeze_range(mapping, index,
							index + (1UL << order));
				frozen = false;
			}
		}
		xas_unlock_irq(&xas);
	} while (xas_nomem(&xas, GFP_KERNEL));

	if (!frozen)
		return false;

	guestmem_join_pages(&folio->page, order);
	folio->mapping = mapping;
	folio->index = index;
	__folio_mark_uptodate(folio);

	if (huge_page_order(origin->h) == order) {
		guestmem_origin_give(origin, folio);
		guestmem_origin_free(origin);
	}

	guestmem_attach(folio, mapping, folio_nr_pages(folio));
	return true;
}

static unsigned int guestmem_order_at(struct address_space *mapping, pgoff_t index)
{
	return folio_order(xa_load(&mapping->i_pages, index));
}

/* Tell whether a block of a unit that is split has a failed page. */
static bool guestmem_block_is_poisoned(struct address_space *mapping, pgoff_t index,
				       unsigned int order)
{
	unsigned long pfn = folio_pfn(xa_load(&mapping->i_pages, index));

	return guestmem_origin_is_poisoned(guestmem_origin_find(pfn), pfn, 1UL << order);
}

/*
 * Merge a block.  If a folio in it can't be merged then try both halves of the block,
 * unless they are of @min_order, i.e. have been tried before.  Returns true if nothing is
 * left that may be merged later.  A folio with a failed page never may.
 */
static bool guestmem_merge_blocks(struct address_space *mapping, pgoff_t index,
				  unsigned int order, unsigned int min_order)
{
	bool merged;

	if (guestmem_order_at(mapping, index) >= order)
		return true;

	merged = guestmem_block_is_poisoned(mapping, index, order);
	if (!merged && guestmem_merge_block(mapping, index, order))
		return true;

	cond_resched();
	if (--order > min_order) {
		merged &= guestmem_merge_blocks(mapping, index, order, min_order);
		merged &= guestmem_merge_blocks(mapping, index + (1UL << order), order,
						min_order);
	}

	return merged;
}

/*
 * Merge a block, beginning with small blocks.  If one of these can't be merged then the
 * rest is of no use to the caller, unless it wants the block @partly merged.
 */
static bool guestmem_merge(struct address_space *mapping, pgoff_t index,
			   unsigned int order, bool partly)
{
	unsigned int lower = min(order, GUESTMEM_MERGE_ORDER), present;
	pgoff_t next = index, end = index + (1UL << order);
	bool merged = true;

	/* All pages of a unit are there. */
	while (next < end) {
		merged &= guestmem_merge_blocks(mapping, next, lower, partly ? 0 : lower);
		if (!merged && !partly)
			return false;

		present = max(lower, guestmem_order_at(mapping, next));
		next += 1UL << present;
		cond_resched();
	}

	if (order > lower)
		merged = guestmem_merge_blocks(mapping, index, order, partly ? lower : order);

	return merged;
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
	unsigned int order, unit_order = guestmem_hugetlb_order(gh), present;
	pgoff_t index = start;
	bool merged = true;
	struct folio *folio;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	while (index < end) {
		order = guestmem_block_order(index, lo, hi, unit_order);
		index = round_down(index, 1UL << order);

		folio = filemap_get_folio(mapping, index);
		if (IS_ERR(folio)) {
			/* All pages of a unit are there, or none is. */
			index = round_down(index, 1UL << unit_order) + (1UL << unit_order);
			cond_resched();
			continue;
		}

		present = folio_order(folio);
		folio_put(folio);

		if (present < order)
			merged &= guestmem_merge(mapping, index, order, true);

		index += 1UL << order;
		cond_resched();
	}

	return merged;
}
EXPORT_SYMBOL_FOR_KVM(guestmem_reshape_merge);

/**
 * guestmem_reshape_mark - mark units that have more struct pages than they need
 * @gh: the file's reservation
 * @mapping: the file
 * @start: the first page of a range, at the start of a unit
 * @end: the page after the last one
 *
 * Context: may sleep.  The caller holds invalidate_lock for write.
 * Return: true if there are such units, for guestmem_reshape_trim().
 */
bool guestmem_reshape_mark(struct guestmem_hugetlb *gh, struct address_space *mapping,
			   pgoff_t start, pgoff_t end)
{
	struct hstate *h = guestmem_hugetlb_hstate(gh);
	bool marked = false;
	struct folio *folio;
	pgoff_t index;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	if (!guestmem_reshape_needs_trim(gh))
		return false;

	for (index = start; index < end; index += pages_per_huge_page(h)) {
		folio = xa_load(&mapping->i_pages, index);
		if (folio && folio_test_hugetlb(folio) && !folio_test_hwpoison(folio) &&
		    !folio_test_hugetlb_vmemmap_optimized(folio)) {
			xa_lock_irq(&mapping->i_pages);
			__xa_set_mark(&mapping->i_pages, index, GUESTMEM_TRIM_MARK);
			xa_unlock_irq(&mapping->i_pages);
			marked = true;
		}
		cond_resched();
	}

	return marked;
}
EXPORT_SYMBOL_FOR_KVM(guestmem_reshape_mark);

/**
 * guestmem_reshape_needs_trim - tell whether guestmem_reshape_trim() does anything
 * @gh: the file's reservation
 *
 * Return: false if units take as much memory when they are split as they do when
 *	they are whole.
 */
bool guestmem_reshape_needs_trim(struct guestmem_hugetlb *gh)
{
	return hugetlb_vmemmap_optimize_enabled(guestmem_hugetlb_hstate(gh));
}
EXPORT_SYMBOL_FOR_KVM(guestmem_reshape_needs_trim);

static bool guestmem_trim_unit(struct hstate *h, struct address_space *mapping,
			       pgoff_t index)
{
	struct folio *folio = filemap_get_folio(mapping, index);
	bool detached;

	if (IS_ERR(folio))
		return true;

	if (!folio_test_hugetlb(folio) || folio_test_hugetlb_vmemmap_optimized(folio)) {
		folio_put(folio);
		return true;
	}

	detached = guestmem_try_detach(folio);
	if (detached) {
		guestmem_optimize_folio(h, folio);
		guestmem_attach(folio, mapping, folio_nr_pages(folio) + 1);
	}
	folio_put(folio);

	return detached;
}

/**
 * guestmem_reshape_trim - free the struct pages that only pieces need
 * @gh: the file's reservation
 * @mapping: the file
 * @start: the first page of a range, at the start of a unit
 * @end: the page after the last one
 *
 * Trims the units that guestmem_reshape_mark() has marked, if they haven't been split
 * and merged since.
 *
 * Context: may sleep.  The caller holds invalidate_lock for write, and has called
 *	guestmem_reshape_barrier() after guestmem_reshape_mark().
 * Return: false if a unit is in use.
 */
bool guestmem_reshape_trim(struct guestmem_hugetlb *gh, struct address_space *mapping,
			   pgoff_t start, pgoff_t end)
{
	struct hstate *h = guestmem_hugetlb_hstate(gh);
	bool trimmed = true;
	pgoff_t index;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	for (index = start; index < end; index += pages_per_huge_page(h)) {
		if (xa_get_mark(&mapping->i_pages, index, GUESTMEM_TRIM_MARK))
			trimmed &= guestmem_trim_unit(h, mapping, index);
		cond_resched();
	}

	return trimmed;
}
EXPORT_SYMBOL_FOR_KVM(guestmem_reshape_trim);

/*
 * Make a hugetlb folio of a unit that is about to be removed from the file.  Returns
 * false if that isn't possible.
 */
bool guestmem_merge_unit(struct address_space *mapping, pgoff_t index,
			 unsigned int order)
{
	if (guestmem_block_is_poisoned(mapping, index, order))
		return false;

	return guestmem_merge(mapping, index, order, false);
}
