// SPDX-License-Identifier: GPL-2.0
/**
 * DOC: Lost
 *
 * A unit with failed pages doesn't return to the pool when it leaves its file: the pool
 * *loses* it.  All of its pages become ordinary free memory, but the failed ones, which
 * are taken off the buddy lists and never used again.
 */
#define pr_fmt(fmt) "guestmem: " fmt

#include <linux/hugetlb.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/set_memory.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include "hugetlb_internal.h"
#include "hugetlb_vmemmap.h"
#include "internal.h"
#include "page_alloc.h"

#include "guestmem_lost.h"

#ifdef CONFIG_MEMORY_FAILURE
/**
 * struct guestmem_lost - a huge page with failed pages that the pool is going to lose
 * @list: entry of guestmem_lost_list
 * @folio: the huge page, which has a reference until it is freed
 * @pages: the pages that have failed
 * @nr_pages: number of @pages
 * @unmapped: pages were taken out of the direct map, see set_mce_nospec()
 */
struct guestmem_lost {
	struct list_head list;
	struct folio *folio;
	struct page **pages;
	unsigned int nr_pages;
	bool unmapped;
};

static LIST_HEAD(guestmem_lost_list);
static DEFINE_SPINLOCK(guestmem_lost_lock);
static void guestmem_lost_workfn(struct work_struct *work);
static DECLARE_DELAYED_WORK(guestmem_lost_work, guestmem_lost_workfn);

/*
 * How long the worker waits before it tries to free a huge page, and tries again.  The
 * callers of memory_failure() need the first delay: they take a page out of the direct map
 * when memory_failure() has returned.  Later ones are for memory for the struct pages, and
 * for the last reference.
 */
#define GUESTMEM_LOST_DELAY	(HZ / 10 + 1)

/*
 * Make a copy of the failed pages of a frozen folio, as hugetlb forgets them.  Returns
 * false if there's no memory.
 */
static bool guestmem_note_poison(struct guestmem_lost *lost)
{
	struct llist_head *poison = raw_hwp_list_head(lost->folio);
	struct raw_hwp_page *p;
	unsigned int nr = 0;

	llist_for_each_entry(p, poison->first, node)
		nr++;

	lost->pages = kmalloc_objs(*lost->pages, nr);
	if (!lost->pages)
		return false;

	llist_for_each_entry(p, poison->first, node) {
		lost->pages[lost->nr_pages++] = p->page;
		lost->unmapped |= !kernel_page_present(p->page);
	}

	return true;
}

/* Map the failed pages again, as the page allocator may write to all pages that are freed. */
static void guestmem_map_poison(struct guestmem_lost *lost)
{
	unsigned int i;

	for (i = 0; lost->unmapped && i < lost->nr_pages; i++)
		clear_mce_nospec(page_to_pfn(lost->pages[i]));
}

/*
 * Free a huge page to the buddy lists.  Returns false if there is another reference, or if
 * memory is short: all steps that need memory come first.  free_huge_folio() doesn't return
 * the page to the pool, as it is still marked as a unit.  memory_failure() waits as long as
 * the folio is frozen, and then finds a free page.
 */
static bool guestmem_free_lost(struct guestmem_lost *lost)
{
	struct folio *folio = lost->folio;

	if (!folio_ref_freeze(folio, 1))
		return false;

	if (hugetlb_vmemmap_restore_folio(folio_hstate(folio), folio) ||
	    !guestmem_note_poison(lost)) {
		folio_ref_unfreeze(folio, 1);
		return false;
	}

	guestmem_map_poison(lost);
	free_huge_folio(folio);
	return true;
}

/* Take the failed pages off the buddy lists. */
static void guestmem_take_poison(struct guestmem_lost *lost)
{
	struct page *page;
	unsigned int i;

	for (i = 0; i < lost->nr_pages; i++) {
		page = lost->pages[i];
		if (!take_page_off_buddy(page)) {
			pr_err("%#lx: poisoned page has been allocated again\n",
			       page_to_pfn(page));
			continue;
		}

		page_ref_inc(page);
		if (lost->unmapped)
			set_mce_nospec(page_to_pfn(page));
	}
}

/*
 * Take a huge page out of the pool, and take its failed pages off the buddy lists.
 * Returns false if that isn't possible yet.
 */
static bool guestmem_try_lose(struct guestmem_lost *lost)
{
	struct zone *zone = folio_zone(lost->folio);
	bool done;

	if (folio_ref_count(lost->folio) != 1)
		return false;

	/*
	 * Have pages freed to the buddy lists right away, and not to the lists of a CPU.
	 * This comes before the folio is frozen: memory offlining holds the same lock, and
	 * waits for frozen folios.
	 */
	zone_pcp_disable(zone);
	done = guestmem_free_lost(lost);
	if (done)
		guestmem_take_poison(lost);
	zone_pcp_enable(zone);

	return done;
}

static void guestmem_lost_workfn(struct work_struct *work)
{
	struct guestmem_lost *lost, *next;
	LIST_HEAD(list);
	LIST_HEAD(again);

	spin_lock(&guestmem_lost_lock);
	list_splice_init(&guestmem_lost_list, &list);
	spin_unlock(&guestmem_lost_lock);

	list_for_each_entry_safe(lost, next, &list, list) {
		list_del(&lost->list);
		if (guestmem_try_lose(lost)) {
			kfree(lost->pages);
			kfree(lost);
		} else {
			list_add(&lost->list, &again);
		}
		cond_resched();
	}

	if (list_empty(&again))
		return;

	spin_lock(&guestmem_lost_lock);
	list_splice(&again, &guestmem_lost_list);
	spin_unlock(&guestmem_lost_lock);
	queue_delayed_work(system_dfl_wq, &guestmem_lost_work, GUESTMEM_LOST_DELAY);
}

/**
 * guestmem_lose_folio - take a huge page with failed pages out of the pool
 * @folio: the hugetlb folio, not part of a file, without a subpool, and still marked as
 *	a unit, i.e. memory_failure() has a reference while it adds a failed page
 *
 * Consumes the caller's reference.  A worker frees the huge page to the buddy lists and
 * takes the failed pages off these lists, i.e. the number of huge pages falls by one.
 * The huge page stays in use for ever if it isn't known which pages have failed, or if it
 * is a gigantic page that can't be freed at run time.
 *
 * Context: may sleep.
 */
void guestmem_lose_folio(struct folio *folio)
{
	struct guestmem_lost *lost;

	if (folio_test_hugetlb_raw_hwp_unreliable(folio) ||
	    hstate_is_gigantic_no_runtime(folio_hstate(folio))) {
		pr_err("%#lx: huge page with a poisoned page is lost\n", folio_pfn(folio));
		return;
	}

	lost = kzalloc_obj(*lost, GFP_KERNEL | __GFP_NOFAIL);
	lost->folio = folio;

	spin_lock(&guestmem_lost_lock);
	list_add(&lost->list, &guestmem_lost_list);
	spin_unlock(&guestmem_lost_lock);
	queue_delayed_work(system_dfl_wq, &guestmem_lost_work, GUESTMEM_LOST_DELAY);
}
#endif
