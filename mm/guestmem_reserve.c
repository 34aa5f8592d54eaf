// SPDX-License-Identifier: GPL-2.0
/**
 * DOC: Reservation
 *
 * A file's *reservation* is a hugetlb subpool whose minimum and maximum are the number of
 * units.  To allocate a unit is to *take* a page out of the reservation, and
 * free_huge_folio() *returns* the page, in any context.
 *
 * A page that the pool is about to lose is *dropped* from the reservation, which then lacks
 * it, and is *replaced* by another page of the pool as soon as there is one.
 */
#include <linux/cma.h>
#include <linux/hugetlb.h>
#include <linux/hugetlb_cgroup.h>
#include <linux/jiffies.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/mutex.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>

#include "hugetlb_internal.h"

#include "guestmem_reserve.h"

/* All files, to compare their reservations with what the pool has. */
static LIST_HEAD(guestmem_files);
static DEFINE_MUTEX(guestmem_files_lock);

/* How long an allocation waits for a unit of which a piece is in use. */
#define GUESTMEM_LATE_TIMEOUT	(HZ / 10)

/* How long an allocation waits for any unit that has left the file. */
#define GUESTMEM_UNIT_TIMEOUT	(30 * HZ)

/* How long the release of a file waits for a page that is half way back to the pool. */
#define GUESTMEM_SETTLE_TICKS	10

/* How many free pages to look at with interrupts disabled. */
#define GUESTMEM_FREE_BATCH	256UL

static unsigned long guestmem_nr_rsvd_pages(const struct guestmem_hugetlb *gh)
{
	return gh->nr_units << huge_page_order(gh->h);
}

/* Tell whether there is any memory that FOLL_LONGTERM refuses. */
static bool guestmem_has_unpinnable_memory(void)
{
	struct zone *zone;

	if (IS_ENABLED(CONFIG_CMA) && totalcma_pages)
		return true;

	for_each_populated_zone(zone) {
		if (zone_idx(zone) == ZONE_MOVABLE)
			return true;
	}

	return false;
}

/*
 * Look at the first @nr free pages of a node, and move them behind the others.  Returns
 * how many of them units can be made of.
 */
static unsigned long guestmem_count_pinnable(struct hstate *h, int nid, unsigned long nr)
{
	struct list_head *head = &h->hugepage_freelists[nid], *last = NULL;
	unsigned long nr_found = 0;
	struct folio *folio;

	guard(spinlock_irq)(&hugetlb_lock);

	list_for_each_entry(folio, head, lru) {
		if (!nr--)
			break;
		if (folio_is_longterm_pinnable(folio) && !folio_test_hwpoison(folio))
			nr_found++;
		last = &folio->lru;
	}
	if (last)
		list_rotate_to_front(last->next == head ? head->next : last->next, head);

	return nr_found;
}

/*
 * Tell whether there are enough pinnable pages for all units that files have yet to
 * allocate.  The global reservation counts pages of any kind, but units need pinnable
 * ones.  A file that can't ever get its units is refused when it is created.  Users of
 * hugetlbfs may still take the pages later, which can't be prevented here.
 * The lists are as long as the pool is large, so don't look at them without reason,
 * no further than necessary, and at a few pages at a time.  The number is an estimate
 * if pages come and go at the same time.
 */
static bool guestmem_pool_is_pinnable(struct hstate *h)
{
	unsigned long nr_needed = 0, nr_found = 0;
	unsigned long nr_left, nr;
	struct guestmem_hugetlb *gh;
	int nid;

	lockdep_assert_held(&guestmem_files_lock);

	if (!guestmem_has_unpinnable_memory())
		return true;

	list_for_each_entry(gh, &guestmem_files, files) {
		if (gh->h == h)
			nr_needed += READ_ONCE(gh->spool->rsv_hpages);
	}

	for_each_node_state(nid, N_MEMORY) {
		nr_left = READ_ONCE(h->free_huge_pages_node[nid]);
		for (; nr_left && nr_found < nr_needed; nr_left -= nr) {
			nr = min(nr_left, GUESTMEM_FREE_BATCH);
			nr_found += guestmem_count_pinnable(h, nid, nr);
			cond_resched();
		}
	}

	return nr_found >= nr_needed;
}

/**
 * guestmem_reserve - reserve the huge pages of a file, and charge a cgroup for that
 * @gh: the file's units, with @gh->h and @gh->nr_units set
 *
 * Context: may sleep.
 * Return: 0, or -ENOMEM if the cgroup or the pool can't cover the reservation, or if too many
 *	pages of the pool are CMA or movable memory.
 */
int guestmem_reserve(struct guestmem_hugetlb *gh)
{
	int idx = hstate_index(gh->h);
	unsigned int pin_flags;
	bool pinnable;

	if (hugetlb_cgroup_charge_cgroup_rsvd(idx, guestmem_nr_rsvd_pages(gh),
					      &gh->h_cg_rsvd))
		return -ENOMEM;

	/* The subpool may need new surplus pages, which have to be pinnable as well. */
	pin_flags = memalloc_pin_save();
	gh->spool = hugepage_new_subpool(gh->h, gh->nr_units, gh->nr_units);
	memalloc_pin_restore(pin_flags);
	if (!gh->spool)
		goto err_uncharge;

	mutex_lock(&guestmem_files_lock);
	list_add(&gh->files, &guestmem_files);
	pinnable = guestmem_pool_is_pinnable(gh->h);
	if (!pinnable)
		list_del(&gh->files);
	mutex_unlock(&guestmem_files_lock);
	if (!pinnable)
		goto err_unreserve;

	return 0;

err_unreserve:
	hugepage_put_subpool(gh->spool);
err_uncharge:
	hugetlb_cgroup_uncharge_cgroup_rsvd(idx, guestmem_nr_rsvd_pages(gh),
					    gh->h_cg_rsvd);
	return -ENOMEM;
}

/*
 * Wait a moment until the global reservation has @nr pages.  free_huge_folio() returns a
 * page to the subpool first and to the global reservation a moment later, and holds no lock
 * in between.  Subtracting @nr must not make the global reservation negative.
 */
static void guestmem_wait_for_reservation(struct hstate *h, unsigned long nr)
{
	int i;

	for (i = 0; i < GUESTMEM_SETTLE_TICKS && READ_ONCE(h->resv_huge_pages) < nr; i++)
		schedule_timeout_uninterruptible(1);
}

/**
 * guestmem_unreserve - give up the reservation of a file, and its charge
 * @gh: the file's units
 *
 * Units may still be in use.  The pool lacks them until they return, and they aren't
 * reserved then: from here on, the subpool only counts these units, and is freed with the
 * last of them.
 *
 * Context: may sleep.
 */
void guestmem_unreserve(struct guestmem_hugetlb *gh)
{
	long nr;

	mutex_lock(&guestmem_files_lock);
	list_del(&gh->files);
	mutex_unlock(&guestmem_files_lock);

	nr = hugepage_subpool_drop_reserve(gh->spool);

	guestmem_wait_for_reservation(gh->h, nr);
	hugetlb_acct_memory(gh->h, -nr);
	hugepage_put_subpool(gh->spool);
	hugetlb_cgroup_uncharge_cgroup_rsvd(hstate_index(gh->h),
					    guestmem_nr_rsvd_pages(gh),
					    gh->h_cg_rsvd);
}

/*
 * Add a page to the reservation, unless it has @limit pages or the file is gone.  Returns
 * false if the pool has no page for it.
 */
static bool guestmem_reserve_page(struct hugepage_subpool *spool, long limit)
{
	unsigned int pin_flags;
	int ret;

	pin_flags = memalloc_pin_save();
	ret = hugetlb_acct_memory(spool->hstate, 1);
	memalloc_pin_restore(pin_flags);
	if (ret)
		return false;

	if (!hugepage_subpool_grow(spool, limit))
		hugetlb_acct_memory(spool->hstate, -1);
	return true;
}

/**
 * guestmem_replace_page - try to reserve another page in place of one that was dropped
 * @gh: the file's units
 *
 * Context: may sleep.
 * Return: true if the reservation has one page more than before, or if it lacks none.
 */
bool guestmem_replace_page(struct guestmem_hugetlb *gh)
{
	return guestmem_reserve_page(gh->spool, gh->nr_units);
}

/**
 * guestmem_drop_page - drop a page that the pool loses from a reservation
 * @spool: the reservation, which has one page in use for the page
 *
 * If the file is gone then the subpool only counts the pages in use, and is freed with the
 * last of them.
 *
 * Context: any in which interrupts can be enabled.
 */
void guestmem_drop_page(struct hugepage_subpool *spool)
{
	if (!hugepage_subpool_shrink(spool))
		hugepage_subpool_put_pages(spool, 1);
}

/**
 * guestmem_exchange_page - drop a page from a reservation, and replace it if possible
 * @spool: the reservation, which has one page in use for the page
 *
 * Context: may sleep.
 */
void guestmem_exchange_page(struct hugepage_subpool *spool)
{
	guestmem_reserve_page(spool, LONG_MAX);
	guestmem_drop_page(spool);
}

/* Tell whether to wait for a page to return to the reservation. */
static bool guestmem_page_may_return(struct guestmem_hugetlb *gh,
				     struct address_space *mapping,
				     const atomic_long_t *nr_held, unsigned long start)
{
	struct hugepage_subpool *spool = gh->spool;
	long nr_late = 0;

	/* A fault doesn't keep a reference for that long. */
	if (time_after(jiffies, start + GUESTMEM_UNIT_TIMEOUT))
		return false;

	if (time_after(jiffies, start + GUESTMEM_LATE_TIMEOUT))
		nr_late = atomic_long_read(nr_held);

	/* A page may have returned by now.  Otherwise see whether one is missing. */
	guard(spinlock_irq)(&spool->lock);
	return spool->used_hpages < spool->max_hpages ||
	       spool->used_hpages - nr_late > mapping->nrpages >> huge_page_order(gh->h);
}

/**
 * guestmem_take_page - take a page out of the reservation
 * @gh: the file's units
 * @mapping: the file
 * @nr_held: number of units that have left the file, and that a reference to a piece holds
 *
 * The reservation covers all units.  If it has no page left then a unit that was removed
 * from the file is still in use.  Most often, a fault that was in flight when the hole was
 * punched has yet to drop its reference.  The fault only has to be scheduled for that, and
 * needs no lock that the caller has.  Wait for as long as there is a page that is neither in
 * the reservation nor in the file.  If there is none then a unit was poisoned, and no other
 * page could take its place.  Pieces that user space could map may also be pinned for an
 * unlimited time, so don't wait long for pieces.
 *
 * Context: may sleep.
 * Return: 0.  The caller passes the page on to free_huge_folio(), or returns it with
 *	guestmem_return_page().
 *	-EINTR: the task was killed.
 *	-ENOSPC: no page returns in time.
 */
int guestmem_take_page(struct guestmem_hugetlb *gh, struct address_space *mapping,
		       const atomic_long_t *nr_held)
{
	struct hugepage_subpool *spool = gh->spool;
	unsigned long start = jiffies;

	while (hugepage_subpool_get_pages(spool, 1)) {
		if (fatal_signal_pending(current))
			return -EINTR;

		/* The pool may have a page by now to replace one that was dropped. */
		if (!guestmem_page_may_return(gh, mapping, nr_held, start) &&
		    (READ_ONCE(spool->max_hpages) == gh->nr_units ||
		     !guestmem_replace_page(gh)))
			return -ENOSPC;

		schedule_timeout_killable(1);
	}

	return 0;
}

/**
 * guestmem_return_page - return a page that no unit was made of to the reservation
 * @gh: the file's units
 *
 * Context: any but NMI.
 */
void guestmem_return_page(struct guestmem_hugetlb *gh)
{
	hugepage_subpool_put_pages(gh->spool, 1);
}
