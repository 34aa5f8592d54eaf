// SPDX-License-Identifier: GPL-2.0
/**
 * DOC: Poison
 *
 * A memory failure costs the page that has failed, and no other.
 *
 * The failed pages of a unit are kept in a list, as a tail of a unit may have no struct
 * page of its own that could be written to.  The list is that of the hugetlb folio's raw
 * error pages while the unit is whole, and the origin's list while the unit is split.
 * PG_hwpoison of a large folio says that the list has a page of this folio, and
 * PG_hwpoison of a folio of one page says that this page has failed.
 *
 * memory_failure() adds to the list while it has a reference to the folio and holds the
 * folio lock, i.e. neither list nor flag change in a folio that is frozen.  So it waits
 * until a reshape is finished, and no reshape waits for it in turn.  A page of a late unit
 * that is back has no reference, and gets none: memory_failure() adds it under hugetlb_lock
 * alone.
 *
 * memory_failure() keeps no reference, as a failed page isn't used again: a folio with
 * poison isn't mapped before it has been split around the failed pages, and a merge leaves
 * these alone.  The unit leaves the pool when it leaves the file.
 */
#include <linux/err.h>
#include <linux/guestmem.h>
#include <linux/hugetlb.h>
#include <linux/kvm_types.h>
#include <linux/pagemap.h>

#include <trace/events/guestmem.h>

#include "guestmem.h"
#include "internal.h"

#include "guestmem_origin.h"
#include "guestmem_poison.h"

/**
 * guestmem_is_unit - tell whether a page is part of a unit of guest memory
 * @page: the page
 *
 * The unit may be whole, split, or on its way from one to the other.
 *
 * Context: any.  The answer is stable if the caller has a reference to the folio, or if
 *	it holds hugetlb_lock.
 * Return: true if it is.
 */
bool guestmem_is_unit(struct page *page)
{
	struct folio *folio;

	if (guestmem_origin_find(page_to_pfn(page)))
		return true;

	folio = page_folio(page);
	if (folio_test_hugetlb(folio) && folio_test_hugetlb_guestmem(folio))
		return true;

	/* The unit may have been split since the first look. */
	return guestmem_origin_find(page_to_pfn(page));
}

/**
 * guestmem_page_is_poisoned - tell whether a page has failed
 * @folio: the folio that has the page
 * @index: index of the page in the file
 *
 * Context: any.  The caller has a reference.
 * Return: true if the page has failed, or if that isn't known.
 */
bool guestmem_page_is_poisoned(struct folio *folio, pgoff_t index)
{
	unsigned long pfn = folio_pfn(folio) + (index - folio->index);

	if (!folio_test_hwpoison(folio))
		return false;

	if (!folio_test_large(folio))
		return true;

	if (!folio_test_hugetlb(folio))
		return guestmem_origin_is_poisoned(guestmem_origin_find(pfn), pfn, 1);

	return folio_test_hugetlb_raw_hwp_unreliable(folio) ||
	       guestmem_find_poison(raw_hwp_list_head(folio), pfn, 1);
}
EXPORT_SYMBOL_FOR_KVM(guestmem_page_is_poisoned);

/* Get the list that has the failed pages of a folio. */
static struct llist_head *guestmem_poison_list(struct folio *folio)
{
	if (folio_test_hugetlb(folio))
		return raw_hwp_list_head(folio);

	return &guestmem_origin_find(folio_pfn(folio))->poison;
}

/**
 * guestmem_folio_poison - find any failed page of a folio
 * @folio: the folio, which has PG_hwpoison set
 *
 * Context: any.  The caller holds invalidate_lock for write, i.e. the folio isn't split or
 *	merged.
 * Return: the page, or NULL if it isn't known which pages have failed.
 */
struct page *guestmem_folio_poison(struct folio *folio)
{
	lockdep_assert_held_write(&folio->mapping->invalidate_lock);

	return guestmem_find_poison(guestmem_poison_list(folio), folio_pfn(folio),
				    folio_nr_pages(folio));
}

/**
 * guestmem_next_poison - find the next failed page of a folio
 * @folio: the folio
 * @index: where to begin, an index in the file
 *
 * Context: any.  The caller has a reference.
 * Return: the index of the first page at or after @index that has failed, or ULONG_MAX.
 */
pgoff_t guestmem_next_poison(struct folio *folio, pgoff_t index)
{
	unsigned long pfn = folio_pfn(folio), end = pfn + folio_nr_pages(folio);
	unsigned long first = pfn + (index - folio->index), next = ULONG_MAX;
	struct raw_hwp_page *p;

	if (!folio_test_hwpoison(folio) || first >= end)
		return ULONG_MAX;

	if (guestmem_page_is_poisoned(folio, index))
		return index;

	/* From here on the folio is large, and it's known which pages have failed. */
	if (!folio_test_large(folio))
		return ULONG_MAX;

	llist_for_each_entry(p, READ_ONCE(guestmem_poison_list(folio)->first), node) {
		pfn = page_to_pfn(p->page);
		if (pfn > first && pfn < end)
			next = min(next, pfn);
	}

	return next == ULONG_MAX ? next : index + (next - first);
}
EXPORT_SYMBOL_FOR_KVM(guestmem_next_poison);

#ifdef CONFIG_MEMORY_FAILURE
/**
 * guestmem_test_set_hwpoison - poison a page that isn't part of a hugetlb folio
 * @page: the page
 *
 * The page may have become part of a hugetlb folio, or of a unit, since memory_failure()
 * looked.  Poison of these is kept elsewhere, and the struct page of a tail may not even
 * be writable.
 *
 * Context: any in which interrupts can be enabled.
 * Return: 1 if the page has been poisoned before, 0 if not.
 *	-EAGAIN: the page is part of a hugetlb folio, or of a unit.
 */
int guestmem_test_set_hwpoison(struct page *page)
{
	guard(spinlock_irq)(&hugetlb_lock);

	if (folio_test_hugetlb(page_folio(page)) || guestmem_is_unit(page))
		return -EAGAIN;

	return TestSetPageHWPoison(page);
}

/*
 * Poison a page that has left its file and has no reference anymore, while its unit waits
 * for the other pages.  Returns 0, -EHWPOISON if the page has been poisoned before, or
 * -EAGAIN if it isn't such a page.
 */
static int guestmem_poison_returned(struct page *page, struct raw_hwp_page *raw_hwp)
{
	struct guestmem_origin *origin = guestmem_origin_find(page_to_pfn(page));
	struct folio *folio = page_folio(page);
	int r = 0;

	lockdep_assert_held(&hugetlb_lock);

	/* If the origin isn't in the list, the unit isn't split yet, or no longer. */
	if (!origin || list_empty(&origin->list) || !folio_test_guestmem(folio) ||
	    folio_ref_count(folio))
		return -EAGAIN;

	if (guestmem_origin_is_poisoned(origin, page_to_pfn(page), 1))
		r = -EHWPOISON;
	else
		llist_add(&raw_hwp->node, &origin->poison);

	trace_guestmem_poison(NULL, origin->pfn, page_to_pfn(page) - origin->pfn, 0, r);
	return r;
}

/**
 * guestmem_get_folio - get the folio of a page that has failed
 * @page: a page that was part of a unit a moment ago
 * @raw_hwp: entry for the list of failed pages
 *
 * Context: may sleep, for as long as the folio is being split or merged.
 * Return: the folio, with a reference, for guestmem_poison_page().
 *	NULL: the page isn't in use, and is on its way back to the pool.  The page has
 *	been poisoned, and @raw_hwp is in use.
 *	-EHWPOISON: as above, but the page has been poisoned before.
 *	-ENOENT: the page isn't part of a unit anymore.
 */
struct folio *guestmem_get_folio(struct page *page, struct raw_hwp_page *raw_hwp)
{
	struct folio *folio;
	int r;

	for (;;) {
		folio = page_folio(page);
		if (!guestmem_is_unit(page))
			return ERR_PTR(-ENOENT);

		if (folio_try_get(folio)) {
			if (page_folio(page) == folio)
				return folio;
			folio_put(folio);
			continue;
		}

		spin_lock_irq(&hugetlb_lock);
		r = guestmem_poison_returned(page, raw_hwp);
		spin_unlock_irq(&hugetlb_lock);
		if (r != -EAGAIN)
			return ERR_PTR(r);

		schedule_timeout_uninterruptible(1);
	}
}

/**
 * guestmem_poison_page - poison a page
 * @folio: the folio that has the page
 * @raw_hwp: the page, in an entry for the list of failed pages
 *
 * Context: any in which interrupts can be enabled.  The caller has a reference to the
 *	folio, and has locked it.
 * Return: 0, and @raw_hwp is in use.
 *	-EHWPOISON: the page has been poisoned before.
 *	-ENOENT: the page isn't part of a unit anymore.
 */
int guestmem_poison_page(struct folio *folio, struct raw_hwp_page *raw_hwp)
{
	struct page *page = raw_hwp->page;
	pgoff_t index = folio->index + folio_page_idx(folio, page);
	struct guestmem_origin *origin;
	unsigned long unit;
	int r = 0;

	VM_WARN_ON_ONCE_FOLIO(!folio_test_locked(folio), folio);
	guard(spinlock_irq)(&hugetlb_lock);

	if (!guestmem_is_unit(page))
		return -ENOENT;

	if (guestmem_page_is_poisoned(folio, index)) {
		r = -EHWPOISON;
	} else {
		llist_add(&raw_hwp->node, guestmem_poison_list(folio));
		folio_set_hwpoison(folio);
	}

	origin = guestmem_origin_find(page_to_pfn(page));
	unit = origin ? origin->pfn : folio_pfn(folio);
	trace_guestmem_poison(folio->mapping, unit,
			      folio->mapping ? index : page_to_pfn(page) - unit, 0, r);
	return r;
}
#endif
