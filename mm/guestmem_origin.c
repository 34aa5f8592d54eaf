// SPDX-License-Identifier: GPL-2.0
/**
 * DOC: Origins
 *
 * A hugetlb folio that is split leaves an *origin* behind.  The origin has all that is
 * needed to turn the pages of the folio, the *pieces*, into a hugetlb folio again: the
 * origin *takes* the metadata of the folio, and *gives* it back.  All origins are in a table,
 * where any pfn of the unit finds them.
 */
#include <linux/hugetlb.h>
#include <linux/hugetlb_cgroup.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/xarray.h>

#include "guestmem.h"
#include "hugetlb_internal.h"
#include "internal.h"

#include "guestmem_origin.h"

/* All origins by pfn, each as one entry of the unit's order.  Read under RCU. */
static DEFINE_XARRAY(guestmem_origins);

/* The origins of all units that are split, under hugetlb_lock. */
static LIST_HEAD(guestmem_origin_list);

/* Store @entry for all pages of a unit.  Returns 0 or -ENOMEM, NULL takes no memory. */
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
 * @folio: the unit, whole
 *
 * Context: may sleep.
 * Return: the origin, which is in the table already, or NULL if there's no memory.
 */
struct guestmem_origin *guestmem_origin_alloc(struct hstate *h, struct folio *folio)
{
	struct guestmem_origin *origin = kzalloc_obj(*origin, GFP_KERNEL_ACCOUNT);

	if (!origin)
		return NULL;

	origin->h = h;
	origin->pfn = folio_pfn(folio);
	origin->optimized = folio_test_hugetlb_vmemmap_optimized(folio);
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

	guestmem_origin_store(origin, NULL);
	kfree_rcu(origin, rcu);
}

/**
 * guestmem_origin_find - look up the origin of a piece
 * @pfn: any pfn of a unit that is split
 *
 * Context: any.  The caller makes sure that the piece doesn't come back, e.g.
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
 * @folio: the folio, frozen
 *
 * Afterwards the folio isn't a hugetlb folio anymore.
 *
 * Context: any in which interrupts can be enabled.
 */
void guestmem_origin_take(struct guestmem_origin *origin, struct folio *folio)
{
	VM_WARN_ON_ONCE_FOLIO(folio_ref_count(folio), folio);

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
	VM_WARN_ON_ONCE_FOLIO(folio_ref_count(folio), folio);

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
 * @folio: a folio as large as the unit, frozen and without poison
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
 * guestmem_origin_give_back - turn a folio that has left its file into a hugetlb folio
 * @origin: the origin, which the caller has to free
 * @folio: a folio as large as the unit, frozen
 *
 * Without failed pages, the hugetlb folio isn't a unit anymore.  With failed pages, it stays
 * a unit, without a subpool, until the pool loses it.
 *
 * Context: any in which interrupts can be enabled.
 * Return: true if the folio has failed pages.
 */
bool guestmem_origin_give_back(struct guestmem_origin *origin, struct folio *folio)
{
	guard(spinlock_irq)(&hugetlb_lock);

	/* Once the folio is a hugetlb folio, memory_failure() looks again at what the page is. */
	__guestmem_origin_give(origin, folio);

	if (!guestmem_origin_is_poisoned(origin, origin->pfn, pages_per_huge_page(origin->h))) {
		folio_clear_hugetlb_guestmem(folio);
		return false;
	}

	raw_hwp_list_head(folio)->first = __llist_del_all(&origin->poison);
	folio_set_hwpoison(folio);
	hugetlb_set_folio_subpool(folio, NULL);
	return true;
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
