// SPDX-License-Identifier: GPL-2.0
/**
 * DOC: Trim
 *
 * With an optimized vmemmap, the struct pages of a hugetlb folio's tails are read-only.
 * A unit that was split has writable struct pages of its own, and keeps them when it
 * becomes whole: a task that has seen one of them with a reference count, when it was
 * the head of a piece, may be about to increment the count, and that is an atomic write
 * even if the count is 0 by now.  It isn't enough to wait for RCU readers, as a task may
 * be preempted in between.  After a grace period of tasks, all of them have been
 * elsewhere, and the unit can be *trimmed*.
 *
 * Nothing that user space waits for waits for that: a unit returns to the pool as it is,
 * and is trimmed when the grace period is over if it is free then.  If it is in use, it
 * is left alone.
 */
#include <linux/hugetlb.h>
#include <linux/kvm_types.h>
#include <linux/memory_hotplug.h>
#include <linux/rcupdate.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "guestmem_internal.h"
#include "hugetlb_internal.h"
#include "hugetlb_vmemmap.h"

/* A task that needs a grace period draws a ticket, one grace period is for many tickets. */
static atomic_long_t guestmem_tickets;
static long guestmem_passed;
static DECLARE_WAIT_QUEUE_HEAD(guestmem_barrier_wait);

static void guestmem_barrier_workfn(struct work_struct *work);
static DECLARE_WORK(guestmem_barrier_work, guestmem_barrier_workfn);

/* Units that were returned to the pool, by pfn: the ticket. */
static DEFINE_XARRAY(guestmem_untrimmed);

static long guestmem_draw_ticket(void)
{
	return atomic_long_inc_return(&guestmem_tickets);
}

static bool guestmem_ticket_passed(long ticket)
{
	return READ_ONCE(guestmem_passed) >= ticket;
}

/* It may have been in use, and split, and returned once more since the ticket was drawn. */
static bool guestmem_may_trim(struct folio *folio, void *ticket)
{
	lockdep_assert_held(&hugetlb_lock);

	return xa_load(&guestmem_untrimmed, folio_pfn(folio)) == ticket &&
	       !folio_test_hwpoison(folio);
}

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
 * guestmem_trim_later - have a unit trimmed that is about to return to the pool
 * @h: where it comes from
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
	 * The ticket is in the table before the unit is free, for an older one not to be
	 * taken for it.  Without memory for that the unit stays as it is.
	 */
	ticket = guestmem_draw_ticket();
	xa_store(&guestmem_untrimmed, folio_pfn(folio), xa_mk_value(ticket), GFP_KERNEL);
	queue_work(system_dfl_wq, &guestmem_barrier_work);
}

/**
 * guestmem_reshape_barrier - wait for tasks that see pieces that were merged
 * @cancelled: set by guestmem_reshape_cancel(), or NULL
 *
 * Context: may sleep for long, the caller doesn't hold any lock.  Not for a task of a
 *	user.
 * Return: false if it was cancelled.
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
 * guestmem_reshape_cancel - don't wait in guestmem_reshape_barrier() any longer
 * @cancelled: becomes true
 *
 * Context: any.
 */
void guestmem_reshape_cancel(bool *cancelled)
{
	WRITE_ONCE(*cancelled, true);
	wake_up_all(&guestmem_barrier_wait);
}
EXPORT_SYMBOL_FOR_KVM(guestmem_reshape_cancel);
