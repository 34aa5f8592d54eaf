// SPDX-License-Identifier: GPL-2.0
/**
 * DOC: Origins
 *
 * A hugetlb folio that is split leaves an *origin* behind.  The origin has all that
 * is needed to turn the pages of the folio, the *pieces*, into a hugetlb folio again.
 *
 * A merge does so while all pieces are in the page cache.  Otherwise a worker does so
 * when the last piece is freed.  A piece that leaves the page cache may be in use for
 * as long as a user has a reference to it, e.g. for DMA.  The final folio_put() may
 * come in any context, and when the file, the VM and KVM are gone.  The page type of
 * the piece, PGTY_guestmem, tells it to call guestmem_free_folio() instead of giving
 * the piece to the buddy allocator.  The piece keeps its type and its contents, and
 * waits with a reference count of 0 until all pages of the unit are back.
 */
#define pr_fmt(fmt) "guestmem: " fmt

#include <linux/hugetlb.h>
#include <linux/hugetlb_cgroup.h>
#include <linux/kvm_types.h>
#include <linux/sched/signal.h>
#include <linux/set_memory.h>
#include <linux/slab.h>

#include "guestmem_internal.h"
#include "hugetlb_internal.h"
#include "hugetlb_vmemmap.h"
#include "internal.h"
#include "page_alloc.h"

/* All origins by pfn, each as one entry of the unit's order.  Read under RCU. */
static DEFINE_XARRAY(guestmem_origins);

/* The origins of all units that are split, under hugetlb_lock. */
static LIST_HEAD(guestmem_origin_list);

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
 * guestmem_origin_alloc - allocate the origin of a unit that is about to be split
 * @h: the hstate that the unit comes from
 * @pfn: the unit's first pfn
 *
 * Context: may sleep.
 * Return: the origin, which is in the table already, or NULL if there's no memory.
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
 * guestmem_origin_free - remove an origin from the table and free it
 * @origin: the origin of a unit that is whole again, or that wasn't split after all
 *
 * Context: may sleep.
 */
void guestmem_origin_free(struct guestmem_origin *origin)
{
	VM_WARN_ON_ONCE(!list_empty(&origin->list));

	/* Storing NULL takes no memory. */
	guestmem_origin_store(origin, NULL);
	kfree_rcu(origin, rcu);
}

/**
 * guestmem_origin_find - look up the origin of a piece
 * @pfn: any pfn of a unit that is split
 *
 * Context: any.  The caller makes sure that the piece doesn't come back meanwhile, e.g.
 *	because it is part of the page cache, or still in use.
 * Return: the origin, or NULL if the page isn't part of a piece.
 */
struct guestmem_origin *guestmem_origin_find(unsigned long pfn)
{
	return xa_load(&guestmem_origins, pfn);
}

/**
 * guestmem_origin_next - find the next origin
 * @pfn: where to begin to look; set to where the origin was found
 *
 * Context: any.  The origin may be about to be freed.
 * Return: the origin, or NULL if there are no more.
 */
struct guestmem_origin *guestmem_origin_next(unsigned long *pfn)
{
	return xa_find(&guestmem_origins, pfn, ULONG_MAX, XA_PRESENT);
}

/**
 * guestmem_find_poison - find a page that has failed
 * @poison: list of struct raw_hwp_page, of a hugetlb folio or of an origin
 * @pfn: the first page of a range
 * @nr_pages: number of pages
 *
 * Context: any.  The caller keeps the list from being moved to another owner.
 * Return: a page of the range that has failed, or NULL.
 */
struct page *guestmem_find_poison(struct llist_head *poison, unsigned long pfn,
				  unsigned long nr_pages)
{
	struct raw_hwp_page *p;

	llist_for_each_entry(p, READ_ONCE(poison->first), node) {
		if (page_to_pfn(p->page) - pfn < nr_pages)
			return p->page;
	}

	return NULL;
}

/* Tell whether the list of failed pages was lost, i.e. each page of the unit may be one. */
static bool guestmem_is_unreliable(const struct guestmem_origin *origin)
{
	return test_bit(HPG_raw_hwp_unreliable, &origin->hpg_flags);
}

/**
 * guestmem_origin_is_poisoned - tell whether a part of a split unit has a failed page
 * @origin: the origin
 * @pfn: the first page
 * @nr_pages: number of pages
 *
 * Context: any.  The answer is stable as long as all folios of the range are frozen.
 * Return: true if a page has failed, or if that isn't known.
 */
bool guestmem_origin_is_poisoned(struct guestmem_origin *origin, unsigned long pfn,
				 unsigned long nr_pages)
{
	return guestmem_is_unreliable(origin) ||
	       guestmem_find_poison(&origin->poison, pfn, nr_pages);
}

/**
 * guestmem_origin_mark_poison - set PG_hwpoison of folios that have failed pages
 * @origin: the origin
 * @pfn: the first page of the range that has the folios
 * @nr_pages: number of pages in the range
 *
 * As for hugetlb folios, the flag of a large piece says that the piece has a failed page,
 * and the list says which page that is.
 *
 * Context: may sleep.  The folios are frozen.
 */
void guestmem_origin_mark_poison(struct guestmem_origin *origin, unsigned long pfn,
				 unsigned long nr_pages)
{
	struct raw_hwp_page *p;
	struct folio *folio;
	unsigned long i;

	llist_for_each_entry(p, READ_ONCE(origin->poison.first), node) {
		if (page_to_pfn(p->page) - pfn < nr_pages)
			folio_set_hwpoison(page_folio(p->page));
	}

	for (i = 0; guestmem_is_unreliable(origin) && i < nr_pages;
	     i += folio_nr_pages(folio)) {
		folio = pfn_folio(pfn + i);
		folio_set_hwpoison(folio);
		cond_resched();
	}
}

/**
 * guestmem_origin_take - move the metadata of a hugetlb folio to its origin
 * @origin: the origin
 * @folio: the folio, with a reference count of 0 and struct pages of its own
 *
 * Afterwards the folio isn't a hugetlb folio anymore.
 *
 * Context: any in which interrupts can be enabled.
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

	/* guestmem_origin_mark_poison() is going to mark the pieces one by one. */
	origin->poison.first = __llist_del_all(raw_hwp_list_head(folio));
	folio_clear_hwpoison(folio);

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
 * guestmem_origin_give - turn a folio into the hugetlb folio that it was before
 * @origin: the origin, which the caller has to free
 * @folio: a folio as large as the unit, with a reference count of 0 and without poison
 *
 * Context: any in which interrupts can be enabled.
 */
void guestmem_origin_give(struct guestmem_origin *origin, struct folio *folio)
{
	spin_lock_irq(&hugetlb_lock);
	VM_WARN_ON_ONCE(!llist_empty(&origin->poison));
	__guestmem_origin_give(origin, folio);
	spin_unlock_irq(&hugetlb_lock);
}

/**
 * guestmem_optimize_folio - free the struct pages that a hugetlb folio doesn't need
 * @h: the hstate that the folio comes from
 * @folio: the folio, with a reference count of 0
 *
 * The folio's first struct page is copied, and must not change meanwhile.  The folio is
 * taken off the list because a task that adds or removes its neighbour in the list would
 * write to that struct page.
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
 * guestmem_move_cgroup - move the charges for split units of a hugetlb cgroup
 * @h: the hstate of the units
 * @h_cg: the cgroup, which goes offline
 *
 * hugetlb can't find split units, as these aren't on any of its own lists.
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
#else
void guestmem_lose_folio(struct folio *folio)
{
}
#endif

/*
 * Free the huge page of a unit whose pages are all back, without references.  The huge
 * page has more struct pages than it needs, which does no harm to its next user.
 */
static void guestmem_free_unit(struct guestmem_origin *origin)
{
	struct folio *folio = pfn_folio(origin->pfn);
	struct hugepage_subpool *spool = NULL;
	bool poisoned;

	guestmem_join_pages(&folio->page, huge_page_order(origin->h));

	/* Once the folio is a hugetlb folio, memory_failure() looks again at what the page is. */
	spin_lock_irq(&hugetlb_lock);
	__guestmem_origin_give(origin, folio);
	poisoned = guestmem_origin_is_poisoned(origin, origin->pfn,
					       pages_per_huge_page(origin->h));
	if (poisoned) {
		raw_hwp_list_head(folio)->first = __llist_del_all(&origin->poison);
		folio_set_hwpoison(folio);
		spool = origin->spool;
		hugetlb_set_folio_subpool(folio, NULL);
	} else {
		folio_clear_hugetlb_guestmem(folio);
	}
	spin_unlock_irq(&hugetlb_lock);

	if (!poisoned) {
		guestmem_trim_later(origin->h, folio);
		guestmem_origin_free(origin);
		free_huge_folio(folio);
		return;
	}

	guestmem_origin_free(origin);
	/* If there is no subpool, this was done when the unit left the file. */
	if (spool)
		guestmem_replace_unit(spool);
	folio_ref_unfreeze(folio, 1);
	guestmem_lose_folio(folio);
}

static void guestmem_late_workfn(struct work_struct *work)
{
	struct guestmem_late *late = container_of(work, struct guestmem_late, work);
	struct llist_node *list = llist_del_all(&late->list);
	struct guestmem_origin *origin, *next;

	llist_for_each_entry_safe(origin, next, list, free_node) {
		guestmem_free_unit(origin);
		if (atomic_long_dec_and_test(&late->nr_back))
			wake_up_all(&late->wait);
		guestmem_late_put(late);
		cond_resched();
	}

	guestmem_late_put(late);
}

/**
 * guestmem_late_alloc - allocate a struct guestmem_late for a file
 *
 * Context: may sleep.
 * Return: the struct, which the caller releases with guestmem_late_put(), or NULL.
 */
struct guestmem_late *guestmem_late_alloc(void)
{
	struct guestmem_late *late = kzalloc_obj(*late, GFP_KERNEL_ACCOUNT);

	if (!late)
		return NULL;

	refcount_set(&late->refs, 1);
	init_llist_head(&late->list);
	INIT_WORK(&late->work, guestmem_late_workfn);
	init_waitqueue_head(&late->wait);
	return late;
}

/**
 * guestmem_late_put - drop a reference to the late units of a file
 * @late: the late units
 *
 * Context: any but NMI.
 */
void guestmem_late_put(struct guestmem_late *late)
{
	if (refcount_dec_and_test(&late->refs))
		kfree(late);
}

/**
 * guestmem_late_add - add a unit that is about to leave its file in pieces
 * @late: the file's late units
 * @origin: the origin of the unit, which has all of its pieces in the page cache
 * @held: count the unit in @late->nr_held until all pieces are back
 *
 * Context: any.
 */
void guestmem_late_add(struct guestmem_late *late, struct guestmem_origin *origin,
		       bool held)
{
	refcount_inc(&late->refs);
	origin->late = late;
	origin->held = held;
	if (held)
		atomic_long_inc(&late->nr_held);
}

/**
 * guestmem_late_sync - wait until units whose pieces are all back are in the pool
 * @late: the late units of one file
 *
 * Returns early if the task is killed, unless it is exiting.  Doesn't wait for a unit
 * as long as a piece of it has a reference, nor for units of other files.
 *
 * Context: may sleep.
 */
void guestmem_late_sync(struct guestmem_late *late)
{
	if (current->flags & PF_EXITING)
		wait_event(late->wait, !atomic_long_read(&late->nr_back));
	else
		wait_event_killable(late->wait, !atomic_long_read(&late->nr_back));
}

/**
 * guestmem_free_folio - take back a piece that isn't in the page cache
 * @folio: the piece, of type PGTY_guestmem and with a reference count of 0
 *
 * Context: any but NMI.
 */
void guestmem_free_folio(struct folio *folio)
{
	unsigned long nr_pages = folio_nr_pages(folio);
	struct guestmem_origin *origin;
	struct guestmem_late *late;

	/* The origin can't go away before this piece is back. */
	origin = xa_load(&guestmem_origins, folio_pfn(folio));
	if (WARN_ON_ONCE(!origin))
		return;

	/* The last caller sees what all others have done to their pages. */
	if (!atomic_long_sub_and_test(nr_pages, &origin->nr_out))
		return;

	/* From here on guestmem_late_sync() waits for the unit. */
	late = origin->late;
	atomic_long_inc(&late->nr_back);
	if (origin->held)
		atomic_long_dec(&late->nr_held);

	/* The worker may free the origin, and put late, before the work is queued. */
	refcount_inc(&late->refs);
	llist_add(&origin->free_node, &late->list);
	if (!queue_work(system_dfl_wq, &late->work))
		guestmem_late_put(late);
}
