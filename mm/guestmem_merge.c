// SPDX-License-Identifier: GPL-2.0
/**
 * DOC: Merge
 *
 * All folios of a block that may be one folio again are replaced by it, unless one of
 * them has a reference beside those of the page cache, or has a poisoned page.  Then the
 * blocks next to that folio are merged as far as possible.
 *
 * What was the first struct page of a piece has had a reference count, and becomes
 * that of a tail.  It remains an ordinary, writable struct page until all tasks that may
 * have seen it with a reference count are past that, see guestmem_reshape_barrier().
 */
#include <linux/hugetlb.h>
#include <linux/kvm_types.h>
#include <linux/pagemap.h>

#include "guestmem_internal.h"
#include "hugetlb_vmemmap.h"
#include "internal.h"

/**
 * guestmem_join_pages - make one folio of all pages of several
 * @page: the first page, of folios with a reference count of 0
 * @order: order of what becomes of them
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
	 * A fault that has mapped a page gave its reference away, and it's gone if the
	 * page was unmapped since.  But the fault still has the folio lock.  Poison is
	 * there before memory_failure() drops its reference.
	 */
	if (likely(!folio_test_locked(folio) && !folio_test_hwpoison(folio)))
		return true;

	folio_ref_unfreeze(folio, folio_nr_pages(folio));
	return false;
}

/*
 * All folios of a block are frozen with a lock held and interrupts disabled, which
 * limits their number: begin with those that are small.
 */
#define GUESTMEM_MERGE_ORDER	9U
#define GUESTMEM_MERGE_FOLIOS	(2U << GUESTMEM_MERGE_ORDER)

/*
 * Freeze all folios of a block, or none: there may be a hole, i.e. a folio that
 * another task is about to change, and a folio may be in use.
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

/* Make one folio of all that are in a block. */
static bool guestmem_merge_block(struct address_space *mapping, pgoff_t index,
				 unsigned int order)
{
	XA_STATE_ORDER(xas, &mapping->i_pages, index, order);
	struct guestmem_origin *origin;
	struct folio *folio;
	bool frozen;

	/* All of it is there, and no other task splits or removes anything. */
	folio = xa_load(&mapping->i_pages, index);
	origin = guestmem_origin_find(folio_pfn(folio));

	do {
		xas_lock_irq(&xas);
		frozen = guestmem_freeze_block(mapping, index, order);
		if (frozen) {
			/*
			 * This frees all nodes below.  It may need one above, if
			 * the xarray has shrunk since the unit was split.
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

/* Whether memory has failed in a block of a unit that is split. */
static bool guestmem_block_is_poisoned(struct address_space *mapping, pgoff_t index,
				       unsigned int order)
{
	unsigned long pfn = folio_pfn(xa_load(&mapping->i_pages, index));

	return guestmem_origin_is_poisoned(guestmem_origin_find(pfn), pfn, 1UL << order);
}

/*
 * Merge a block or, if there's something in it that can't be merged, what's next to
 * that: try both halves unless they are of @min_order, i.e. have been tried before.
 * Poison stays, i.e. returns true if nothing is left that may be merged later.
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

/* What can't be merged is of no use to the caller unless it wants it @partly merged. */
static bool guestmem_merge(struct address_space *mapping, pgoff_t index,
			   unsigned int order, bool partly)
{
	unsigned int lower = min(order, GUESTMEM_MERGE_ORDER), present;
	pgoff_t next = index, end = index + (1UL << order);
	bool merged = true;

	/* A unit is there as a whole. */
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
 * guestmem_reshape_merge - have folios as large as possible
 * @gh: the file's reservation
 * @mapping: the file
 * @start: the first page of the range
 * @end: the page after the last one
 * @lo: the first page of the range that may be merged, includes @start
 * @hi: the page after the last one, includes @end
 *
 * Context: may sleep.  The caller holds invalidate_lock for write, and nothing of
 *	[@lo, @hi) is mapped by user space.
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
			/* A unit is there as a whole, or it isn't there. */
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
 * guestmem_reshape_mark - find out which units have more struct pages than they need
 * @gh: the file's reservation
 * @mapping: the file
 * @start: the first page of a range, at the start of a unit
 * @end: the page after the last one
 *
 * Context: may sleep.  The caller holds invalidate_lock for write.
 * Return: true if there are any, for guestmem_reshape_trim().
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
 * guestmem_reshape_needs_trim - whether guestmem_reshape_trim() does anything
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
 * guestmem_reshape_trim - free the struct pages that only pieces needed
 * @gh: the file's reservation
 * @mapping: the file
 * @start: the first page of a range, at the start of a unit
 * @end: the page after the last one
 *
 * Does so for those units that guestmem_reshape_mark() has found, if they haven't been
 * split and merged since.
 *
 * Context: may sleep.  The caller holds invalidate_lock for write, and has called
 *	guestmem_reshape_barrier() in between.
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

/* Make a hugetlb folio of a unit that is about to be removed from the file. */
bool guestmem_merge_unit(struct address_space *mapping, pgoff_t index,
			 unsigned int order)
{
	if (guestmem_block_is_poisoned(mapping, index, order))
		return false;

	return guestmem_merge(mapping, index, order, false);
}
