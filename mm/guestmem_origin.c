// SPDX-License-Identifier: GPL-2.0
/**
 * DOC: Origins
 *
 * A hugetlb folio that is split leaves an *origin* behind: what it takes to turn
 * its pages, the *pieces*, into a hugetlb folio again.
 *
 * That is done by a merge, as long as all pieces are in the page cache, or when
 * the last piece is freed.  A piece that leaves the page cache may be in use for
 * as long as somebody has a reference to it, e.g. for DMA.  Its page type,
 * PGTY_guestmem, tells the final folio_put(), which may come in any context and
 * when the file, the VM and KVM are gone, to call guestmem_free_folio() instead
 * of giving the piece to the buddy allocator.  The piece keeps type and contents
 * and waits, with a reference count of 0, until all of the unit is back.
 */
#include <linux/hugetlb.h>
#include <linux/hugetlb_cgroup.h>
#include <linux/kvm_types.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "guestmem_internal.h"
#include "hugetlb_vmemmap.h"
#include "internal.h"

/* All origins by pfn, each as one entry of the unit's order.  Read under RCU. */
static DEFINE_XARRAY(guestmem_origins);

/* All origins, under hugetlb_lock. */
static LIST_HEAD(guestmem_origin_list);

/* Those whose pages are all back. */
static LLIST_HEAD(guestmem_free_list);
static void guestmem_free_workfn(struct work_struct *work);
static DECLARE_WORK(guestmem_free_work, guestmem_free_workfn);

static int guestmem_origin_store(struct guestmem_origin *origin, void *entry)
{
	XA_STATE_ORDER(xas, &guestmem_origins, origin->pfn, huge_page_order(origin->h));

	do {
		xas_lock(&xas);
		xas_store(&xas, entry);
		xas_unlock(&xas);
	} while (xas_nomem(&xas, GFP_KERNEL));

	return xas_error(&xas);
}

/**
 * guestmem_origin_alloc - allocate what splitting a unit takes
 * @h: where it comes from
 * @pfn: its first pfn
 *
 * Context: may sleep.
 * Return: the origin, which is in the table already, or NULL.
 */
struct guestmem_origin *guestmem_origin_alloc(struct hstate *h, unsigned long pfn)
{
	struct guestmem_origin *origin = kzalloc_obj(*origin, GFP_KERNEL_ACCOUNT);

	if (!origin)
		return NULL;

	origin->h = h;
	origin->pfn = pfn;
	atomic_long_set(&origin->nr_out, pages_per_huge_page(h));
	INIT_LIST_HEAD(&origin->list);

	if (guestmem_origin_store(origin, origin)) {
		kfree(origin);
		return NULL;
	}

	return origin;
}

/**
 * guestmem_origin_free - free what isn't needed anymore, or not after all
 * @origin: the origin
 *
 * Context: may sleep.
 */
void guestmem_origin_free(struct guestmem_origin *origin)
{
	VM_WARN_ON_ONCE(!list_empty(&origin->list));

	/* Takes no memory. */
	guestmem_origin_store(origin, NULL);
	kfree_rcu(origin, rcu);
}

/**
 * guestmem_origin_find - look up the origin of a piece
 * @pfn: any pfn of a unit that is split
 *
 * Context: any.  The caller keeps the piece from coming back, e.g. because it is
 *	part of the page cache, or has not come back yet.
 * Return: the origin, NULL if it isn't a piece.
 */
struct guestmem_origin *guestmem_origin_find(unsigned long pfn)
{
	return xa_load(&guestmem_origins, pfn);
}

/**
 * guestmem_origin_next - find an origin
 * @pfn: where to begin to look, and where it has been found
 *
 * Context: any.  The origin may be on its way out.
 * Return: an origin, or NULL if there are no more.
 */
struct guestmem_origin *guestmem_origin_next(unsigned long *pfn)
{
	return xa_find(&guestmem_origins, pfn, ULONG_MAX, XA_PRESENT);
}

/* None of the range is a hugetlb folio with optimized vmemmap. */
static bool guestmem_scan_poison(struct page *page, unsigned long nr_pages)
{
	unsigned long i;

	for (i = 0; IS_ENABLED(CONFIG_MEMORY_FAILURE) && i < nr_pages; i++) {
		if (PageHWPoison(page + i))
			return true;
	}

	return false;
}

/* Poisoned pages that units had or got while they were split, under hugetlb_lock. */
static unsigned long guestmem_failures;

/**
 * guestmem_nr_failures - how many memory failures there have been
 *
 * Context: any that interrupts can be enabled in.
 * Return: a number for guestmem_origin_give().
 */
unsigned long guestmem_nr_failures(void)
{
	guard(spinlock_irq)(&hugetlb_lock);

	return guestmem_failures;
}

#ifdef CONFIG_MEMORY_FAILURE
/**
 * guestmem_test_set_hwpoison - poison a page that isn't part of a hugetlb folio
 * @page: the page
 *
 * It may have become part of one since memory_failure() looked, by way of a merge.
 * The poison of a hugetlb folio is kept elsewhere, nobody would see the page's flag,
 * and if it's a tail it may not even be writable.
 *
 * Context: any that interrupts can be enabled in.
 * Return: 1 if the page has been poisoned before, 0 if not.
 *	-EAGAIN: it's part of a hugetlb folio.
 */
int guestmem_test_set_hwpoison(struct page *page)
{
	guard(spinlock_irq)(&hugetlb_lock);

	if (folio_test_hugetlb(page_folio(page)))
		return -EAGAIN;

	if (TestSetPageHWPoison(page))
		return 1;

	/* A unit has an origin until it's a hugetlb folio again. */
	if (guestmem_origin_find(page_to_pfn(page)))
		WRITE_ONCE(guestmem_failures, guestmem_failures + 1);

	return 0;
}
#endif

/**
 * guestmem_origin_take - move what a hugetlb folio knows to its origin
 * @origin: the origin
 * @folio: the folio, with a reference count of 0 and struct pages of its own
 *
 * From here on it is no hugetlb folio anymore.
 *
 * Context: any that interrupts can be enabled in.
 */
void guestmem_origin_take(struct guestmem_origin *origin, struct folio *folio)
{
	spin_lock_irq(&hugetlb_lock);

	origin->hpg_flags = (unsigned long)folio->private;
	origin->spool = hugetlb_folio_subpool(folio);
	origin->h_cg = hugetlb_cgroup_from_folio(folio);
	origin->h_cg_rsvd = hugetlb_cgroup_from_folio_rsvd(folio);
#ifdef CONFIG_MEMCG
	origin->memcg_data = folio->memcg_data;
	folio->memcg_data = 0;
#endif

	/* Nobody can miss what is poisoned from here on. */
	if (folio_test_hwpoison(folio))
		WRITE_ONCE(guestmem_failures, guestmem_failures + 1);
	folio_clear_hugetlb_hwpoison(folio);

	list_del_init(&folio->lru);
	list_add(&origin->list, &guestmem_origin_list);
	folio->private = NULL;
	__folio_clear_hugetlb(folio);

	spin_unlock_irq(&hugetlb_lock);
}

static void __guestmem_origin_give(struct guestmem_origin *origin, struct folio *folio)
{
	lockdep_assert_held(&hugetlb_lock);

	__folio_set_hugetlb(folio);
	folio->private = (void *)origin->hpg_flags;
	folio_clear_hugetlb_migratable(folio);
	hugetlb_set_folio_subpool(folio, origin->spool);
	set_hugetlb_cgroup(folio, origin->h_cg);
	set_hugetlb_cgroup_rsvd(folio, origin->h_cg_rsvd);
#ifdef CONFIG_MEMCG
	folio->memcg_data = origin->memcg_data;
#endif

	list_del_init(&origin->list);
	list_add(&folio->lru, &origin->h->hugepage_activelist);
}

/**
 * guestmem_origin_give - turn a folio into the hugetlb folio that it once was
 * @origin: the origin, to be freed by the caller
 * @folio: a folio as large as that, with a reference count of 0
 * @nr_failures: guestmem_nr_failures() from before the caller looked for poison
 *
 * Nobody else gets a reference until guestmem_show_folio() is called.
 *
 * Context: may sleep.
 * Return: false if there's a poisoned page, and the folio is what it was.
 */
bool guestmem_origin_give(struct guestmem_origin *origin, struct folio *folio,
			  unsigned long nr_failures)
{
	spin_lock_irq(&hugetlb_lock);

	/* See guestmem_test_set_hwpoison(). */
	while (nr_failures != guestmem_failures) {
		nr_failures = guestmem_failures;
		spin_unlock_irq(&hugetlb_lock);

		if (guestmem_scan_poison(&folio->page, folio_nr_pages(folio)))
			return false;

		spin_lock_irq(&hugetlb_lock);
	}

	__guestmem_origin_give(origin, folio);
	spin_unlock_irq(&hugetlb_lock);

	return true;
}

/**
 * guestmem_hide_folio - keep others away from a hugetlb folio
 * @folio: the folio
 *
 * memory_failure() takes a reference if the folio can be migrated.  If that fails it
 * takes the folio for a free one, and so it must not see one that is frozen.
 *
 * Context: any that interrupts can be enabled in.
 * Return: for guestmem_show_folio().  False as well if somebody else does the same.
 */
bool guestmem_hide_folio(struct folio *folio)
{
	bool hidden;

	spin_lock_irq(&hugetlb_lock);
	hidden = folio_test_hugetlb_migratable(folio);
	folio_clear_hugetlb_migratable(folio);
	spin_unlock_irq(&hugetlb_lock);

	return hidden;
}

/**
 * guestmem_show_folio - let others have a hugetlb folio again
 * @folio: the folio, not frozen
 * @hidden: what guestmem_hide_folio() has returned
 *
 * Context: any that interrupts can be enabled in.
 */
void guestmem_show_folio(struct folio *folio, bool hidden)
{
	if (!hidden)
		return;

	spin_lock_irq(&hugetlb_lock);
	folio_set_hugetlb_migratable(folio);
	spin_unlock_irq(&hugetlb_lock);
}

/**
 * guestmem_optimize_folio - free struct pages of a hugetlb folio
 * @h: where it comes from
 * @folio: the folio, hidden and with a reference count of 0
 *
 * The first of its struct pages is copied, and must not change meanwhile.  Hence take
 * it off the list, others would write to it when they add or remove what is next to it.
 *
 * Context: may sleep.
 */
void guestmem_optimize_folio(struct hstate *h, struct folio *folio)
{
	spin_lock_irq(&hugetlb_lock);
	list_del_init(&folio->lru);
	spin_unlock_irq(&hugetlb_lock);

	hugetlb_vmemmap_optimize_folio(h, folio);

	spin_lock_irq(&hugetlb_lock);
	list_add(&folio->lru, &h->hugepage_activelist);
	spin_unlock_irq(&hugetlb_lock);
}

#ifdef CONFIG_CGROUP_HUGETLB
/**
 * guestmem_move_cgroup - a hugetlb cgroup goes offline, find its charges
 * @h: huge pages of which size
 * @h_cg: the cgroup
 *
 * Units that are split aren't on any of hugetlb's own lists.
 *
 * Context: hugetlb_lock held.
 */
void guestmem_move_cgroup(struct hstate *h, struct hugetlb_cgroup *h_cg)
{
	struct guestmem_origin *origin;

	lockdep_assert_held(&hugetlb_lock);

	list_for_each_entry(origin, &guestmem_origin_list, list) {
		if (origin->h == h && origin->h_cg == h_cg)
			origin->h_cg = hugetlb_cgroup_move_charge(h, h_cg,
								  pfn_to_nid(origin->pfn));
	}
}
#endif

/**
 * guestmem_has_poison - whether memory has failed in a range
 * @page: the first page, none of the range is a hugetlb folio with optimized vmemmap
 * @nr_pages: number of pages
 *
 * Takes no time if there is no poisoned page, and never was one in a split unit.
 *
 * Context: any.
 * Return: true if there is a poisoned page.
 */
bool guestmem_has_poison(struct page *page, unsigned long nr_pages)
{
	if (!IS_ENABLED(CONFIG_MEMORY_FAILURE) ||
	    likely(!atomic_long_read(&num_poisoned_pages) && !READ_ONCE(guestmem_failures)))
		return false;

	return guestmem_scan_poison(page, nr_pages);
}
EXPORT_SYMBOL_FOR_KVM(guestmem_has_poison);

/*
 * What has a poisoned page doesn't return to the pool.  It ends as what it would be
 * if it hadn't been split: a hugetlb folio in use that memory_failure() has got a
 * reference to.
 */
static void guestmem_keep_poisoned(struct guestmem_origin *origin, struct folio *folio)
{
	struct hugepage_subpool *spool = origin->spool;

	spin_lock_irq(&hugetlb_lock);
	__guestmem_origin_give(origin, folio);
	hugetlb_set_folio_subpool(folio, NULL);
	folio_set_hwpoison(folio);
	folio_set_hugetlb_raw_hwp_unreliable(folio);
	spin_unlock_irq(&hugetlb_lock);

	folio_ref_unfreeze(folio, 1);

	if (spool)
		guestmem_cut_reservation(spool);
}

/* All pages are back and nobody can have a reference: free the huge page. */
static void guestmem_free_unit(struct guestmem_origin *origin, bool may_optimize)
{
	struct page *page = pfn_to_page(origin->pfn);
	struct folio *folio = (struct folio *)page;
	unsigned long nr_failures = guestmem_nr_failures();

	if (guestmem_join_pages(page, huge_page_order(origin->h)) ||
	    !guestmem_origin_give(origin, folio, nr_failures)) {
		guestmem_keep_poisoned(origin, folio);
		guestmem_origin_free(origin);
		return;
	}

	/* It may have been split, and merged, and split again since it was optimized. */
	if (may_optimize && hugetlb_vmemmap_optimize_enabled(origin->h))
		guestmem_optimize_folio(origin->h, folio);
	guestmem_origin_free(origin);
	free_huge_folio(folio);
}

static void guestmem_free_workfn(struct work_struct *work)
{
	struct llist_node *list = llist_del_all(&guestmem_free_list);
	struct guestmem_origin *origin, *next;
	bool optimize = false;

	llist_for_each_entry(origin, list, free_node)
		optimize |= hugetlb_vmemmap_optimize_enabled(origin->h);

	/* See guestmem_reshape_barrier(). */
	if (optimize)
		synchronize_rcu_tasks();

	llist_for_each_entry_safe(origin, next, list, free_node) {
		guestmem_free_unit(origin, optimize);
		cond_resched();
	}
}

/**
 * guestmem_free_folio - a piece that isn't in the page cache is back
 * @folio: the piece, of type PGTY_guestmem and with a reference count of 0
 *
 * Context: any but NMI.
 */
void guestmem_free_folio(struct folio *folio)
{
	unsigned long nr_pages = folio_nr_pages(folio);
	struct guestmem_origin *origin;

	/* Can't go away before this piece is back. */
	origin = xa_load(&guestmem_origins, folio_pfn(folio));
	if (WARN_ON_ONCE(!origin))
		return;

	/* The last one to be back sees what the others have done to their pages. */
	if (!atomic_long_sub_and_test(nr_pages, &origin->nr_out))
		return;

	/*
	 * From here on it's worth waiting for the unit.  The file's reservation is there
	 * for as long as the unit isn't.
	 */
	if (origin->nr_late)
		atomic_long_dec(origin->nr_late);

	/* Always, for guestmem_origin_sync() not to miss what was added meanwhile. */
	llist_add(&origin->free_node, &guestmem_free_list);
	queue_work(system_dfl_wq, &guestmem_free_work);
}

/**
 * guestmem_origin_sync - wait until the huge pages that are back are free ones
 *
 * Context: may sleep.
 */
void guestmem_origin_sync(void)
{
	flush_work(&guestmem_free_work);
}
