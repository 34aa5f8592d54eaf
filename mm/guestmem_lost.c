// SPDX-License-Identifier: GPL-2.0
/**
 * DOC: Lost
 *
 * A unit with failed pages doesn't return to the pool when it leaves its file: the pool
 * *loses* it.  Its pages become ordinary free memory one by one, but the failed ones, which
 * never get to the buddy lists, as the page allocator may write to any page that is freed.
 * A failed page may be out of the direct map, or belong to a hypervisor, for good.
 */
#define pr_fmt(fmt) "guestmem: " fmt

#include <linux/hugetlb.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/page_owner.h>
#include <linux/pgalloc_tag.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include "hugetlb_internal.h"
#include "hugetlb_vmemmap.h"
#include "internal.h"
#include "page_alloc.h"

#include "guestmem_pages.h"
#include "guestmem_lost.h"

#ifdef CONFIG_MEMORY_FAILURE
/**
 * struct guestmem_lost - a huge page with failed pages that the pool is going to lose
 * @list: entry of guestmem_lost_list
 * @folio: the huge page, which has a reference until it is freed
 */
struct guestmem_lost {
	struct list_head list;
	struct folio *folio;
};

static LIST_HEAD(guestmem_lost_list);
static DEFINE_SPINLOCK(guestmem_lost_lock);
static void guestmem_lost_workfn(struct work_struct *work);
static DECLARE_DELAYED_WORK(guestmem_lost_work, guestmem_lost_workfn);

/* How long the worker waits for memory for struct pages, and for the last reference. */
#define GUESTMEM_LOST_DELAY	(HZ / 10 + 1)

static unsigned int guestmem_order_0(struct address_space *mapping, pgoff_t index)
{
	return 0;
}

/*
 * Free the pages of a frozen folio that isn't a hugetlb folio anymore, but has its list of
 * failed pages.  Each of these becomes a folio with a reference, which only
 * unpoison_memory() drops.
 */
static void guestmem_free_healthy(struct folio *folio)
{
	const unsigned int order = folio_order(folio);
	const struct guestmem_pieces pages = {
		.wanted = guestmem_order_0,
		.cuts.order = order,
	};
	struct page *page = &folio->page;
	unsigned long i;

	/* Let each failed page have PG_hwpoison. */
	folio_clear_hugetlb_hwpoison(folio);

	split_page_owner(page, order, 0);
	pgalloc_tag_split(folio, order, 0);
	guestmem_break_pages(page, &pages);

	for (i = 0; i < 1UL << order; i++, page++) {
		if (PageHWPoison(page))
			set_page_refcounted(page);
		else
			free_frozen_pages(page, 0);
		cond_resched();
	}
}

/*
 * Take a huge page out of the pool, and free its pages but the failed ones.  Returns false
 * if that isn't possible yet: there is another reference, or memory is short.  The lock
 * keeps memory_failure() and unpoison_memory() from looking at pages on the way.
 */
static bool guestmem_try_lose(struct folio *folio)
{
	guard(mutex)(&mf_mutex);

	if (!folio_ref_freeze(folio, 1))
		return false;

	if (hugetlb_vmemmap_restore_folio(folio_hstate(folio), folio)) {
		folio_ref_unfreeze(folio, 1);
		return false;
	}

	/* The pool forgets the folio, but leaves it alone, as it's still marked as a unit. */
	free_huge_folio(folio);
	guestmem_free_healthy(folio);
	return true;
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
		if (guestmem_try_lose(lost->folio))
			kfree(lost);
		else
			list_add(&lost->list, &again);
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
 * Consumes the caller's reference.  A worker frees all pages but the failed ones, i.e. the
 * number of huge pages falls by one.  The huge page stays in use for ever if it isn't known
 * which pages have failed, or if it is a gigantic page that can't be freed at run time.
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
	mod_delayed_work(system_dfl_wq, &guestmem_lost_work, 0);
}
#endif
