// SPDX-License-Identifier: GPL-2.0
/**
 * DOC: Trim
 *
 * With an optimized vmemmap, the struct pages of a hugetlb folio's tails are read-only.
 * A unit that was split has writable struct pages of its own, and keeps them when it
 * becomes whole.  A task may have seen one of them with a reference count, when it was
 * the head of a piece, and may be about to increment the count.  The increment is an
 * atomic write even if the count is 0 by now.  Waiting for RCU readers isn't enough, as a
 * task may be preempted in between.  After a grace period of tasks, all of them have
 * been elsewhere, and the unit can be *trimmed*.
 *
 * A unit that leaves its file returns to the pool as it is, as user space must not have to
 * wait for the grace period.  When the grace period is over, the unit is trimmed if it is
 * free, and left alone if it is in use.  A unit that stays in its file gets a mark, which it
 * loses when it is split, and is trimmed if it still has the mark after the grace period.
 */
#include <linux/guestmem.h>
#include <linux/hugetlb.h>
#include <linux/kvm_types.h>
#include <linux/memory_hotplug.h>
#include <linux/pagemap.h>
#include <linux/rcupdate.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "hugetlb_internal.h"
#include "hugetlb_vmemmap.h"

#include "guestmem_pages.h"
#include "guestmem_cache.h"
#include "guestmem_reserve.h"
#include "guestmem_trim.h"

/* A task that needs a grace period draws a ticket.  A grace period is for many tickets. */
static atomic_long_t guestmem_tickets;
static long guestmem_passed;
static DECLARE_WAIT_QUEUE_HEAD(guestmem_barrier_wait);

static void guestmem_barrier_workfn(struct work_struct *work);
static DECLARE_WORK(guestmem_barrier_work, guestmem_barrier_workfn);

/* The tickets of units that were returned to the pool, by pfn. */
static DEFINE_XARRAY(guestmem_untrimmed);

static long guestmem_draw_ticket(void)
{
	return atomic_long_inc_return(&guestmem_tickets);
}

static bool guestmem_ticket_passed(long ticket)
{
	return READ_ONCE(guestmem_passed) >= ticket;
}

/*
 * Tell hugetlb_optimize_free_folio() whether a free unit may be trimmed.  The unit may have
 * been in use, and split, and returned with another ticket since @ticket was drawn.
 */
static bool guestmem_may_trim(struct folio *folio, void *ticket)
{
	lockdep_assert_held(&hugetlb_lock);

	return xa_load(&guestmem_untrimmed, folio_pfn(folio)) == ticket &&
	       !folio_test_hwpoison(folio);
}

/* Trim the units with tickets up to @passed that are free, and forget about the others. */
static void guestmem_trim_free_units(long passed)
{
	unsigned long pfn;
	struct page *page;
	void *ticket;

	xa_for_each(&guestmem_untrimmed, pfn, ticket) {
		if (xa_to_value(ticket) > passed)
			continue;

		page = pfn_to_online_page(pfn);
		if (page)
			hugetlb_optimize_free_folio((struct folio *)page, guestmem_may_trim,
						    ticket);

		xa_cmpxchg(&guestmem_untrimmed, pfn, ticket, NULL, GFP_KERNEL);
		cond_resched();
	}
}

static void guestmem_barrier_workfn(struct work_struct *work)
{
	long ticket = atomic_long_read(&guestmem_tickets);

	synchronize_rcu_tasks();

	guestmem_trim_free_units(ticket);

	WRITE_ONCE(guestmem_passed, ticket);
	wake_up_all(&guestmem_barrier_wait);
}

/**
 * guestmem_trim_later - have a unit trimmed after it has returned to the pool
 * @h: the hstate that the unit comes from
 * @folio: the unit, with a reference or frozen
 *
 * Context: may sleep.
 */
void guestmem_trim_later(struct hstate *h, struct folio *folio)
{
	long ticket;

	if (!hugetlb_vmemmap_optimize_enabled(h) || folio_test_hwpoison(folio) ||
	    folio_test_hugetlb_vmemmap_optimized(folio))
		return;

	/*
	 * Store the ticket before the unit is free, so that an older ticket in the table
	 * isn't taken for this one.  If there's no memory for it the unit stays as it is.
	 */
	ticket = guestmem_draw_ticket();
	xa_store(&guestmem_untrimmed, folio_pfn(folio), xa_mk_value(ticket), GFP_KERNEL);
	queue_work(system_dfl_wq, &guestmem_barrier_work);
}

/**
 * guestmem_reshape_barrier - wait until no task sees pieces that were merged
 * @cancelled: set by guestmem_reshape_cancel(), or NULL
 *
 * Context: may sleep for long.  The caller doesn't hold any lock, and isn't a task of
 *	user space.
 * Return: false if the wait was cancelled.
 */
bool guestmem_reshape_barrier(const bool *cancelled)
{
	long ticket = guestmem_draw_ticket();

	queue_work(system_dfl_wq, &guestmem_barrier_work);
	wait_event_idle(guestmem_barrier_wait, guestmem_ticket_passed(ticket) ||
			(cancelled && READ_ONCE(*cancelled)));

	return !cancelled || !READ_ONCE(*cancelled);
}
EXPORT_SYMBOL_FOR_KVM(guestmem_reshape_barrier);

/**
 * guestmem_reshape_cancel - have guestmem_reshape_barrier() stop waiting
 * @cancelled: the flag that guestmem_reshape_barrier() looks at, set to true
 *
 * Context: any.
 */
void guestmem_reshape_cancel(bool *cancelled)
{
	WRITE_ONCE(*cancelled, true);
	wake_up_all(&guestmem_barrier_wait);
}
EXPORT_SYMBOL_FOR_KVM(guestmem_reshape_cancel);

/**
 * guestmem_reshape_needs_trim - tell whether guestmem_reshape_trim() does anything
 * @gh: the file's reservation
 *
 * Context: any.
 * Return: false if units take as much memory when they are split as they do when
 *	they are whole.
 */
bool guestmem_reshape_needs_trim(struct guestmem_hugetlb *gh)
{
	return hugetlb_vmemmap_optimize_enabled(gh->h);
}
EXPORT_SYMBOL_FOR_KVM(guestmem_reshape_needs_trim);

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
	struct hstate *h = gh->h;
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
			guestmem_set_trim_mark(mapping, index);
			marked = true;
		}
		cond_resched();
	}

	return marked;
}
EXPORT_SYMBOL_FOR_KVM(guestmem_reshape_mark);

/* Trim a unit unless it is split, or trimmed already.  Returns false if it is in use. */
static bool guestmem_trim_unit(struct hstate *h, struct address_space *mapping,
			       pgoff_t index)
{
	struct folio *folio = filemap_get_folio(mapping, index);
	bool detached;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	if (IS_ERR(folio))
		return true;

	if (!folio_test_hugetlb(folio) || folio_test_hugetlb_vmemmap_optimized(folio)) {
		folio_put(folio);
		return true;
	}

	detached = guestmem_try_detach(folio, NULL);
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
	struct hstate *h = gh->h;
	bool trimmed = true;
	pgoff_t index;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	for (index = start; index < end; index += pages_per_huge_page(h)) {
		if (guestmem_has_trim_mark(mapping, index))
			trimmed &= guestmem_trim_unit(h, mapping, index);
		cond_resched();
	}

	return trimmed;
}
EXPORT_SYMBOL_FOR_KVM(guestmem_reshape_trim);
