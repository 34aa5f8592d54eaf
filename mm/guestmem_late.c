// SPDX-License-Identifier: GPL-2.0
/**
 * DOC: Late units
 *
 * A merge makes a hugetlb folio of pieces while all of them are in the page cache.
 * Otherwise a worker does so when the last piece is freed: the unit is a *late* one.  A
 * piece that leaves the page cache may be in use for as long as a user has a reference to
 * it, e.g. for DMA.  The final folio_put() may come in any context, and when the file, the
 * VM and KVM are gone.  The page type of the piece, PGTY_guestmem, tells mm/folio.c, see
 * folio_type_has_owner(), to call guestmem_free_folio() instead of giving the piece to the
 * buddy allocator.  Without CONFIG_GUESTMEM_HUGETLB, that test is constant.  The piece
 * keeps its type and its contents, and waits with a reference count of 0 until all pages
 * of the unit are *back*.
 */
#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include <trace/events/guestmem.h>

#include "guestmem.h"
#include "internal.h"

#include "guestmem_pages.h"
#include "guestmem_vmemmap.h"
#include "guestmem_origin.h"
#include "guestmem_reserve.h"
#include "guestmem_lost.h"
#include "guestmem_late.h"

/*
 * Free the huge page of a unit whose pages are all back, without references.
 */
static void guestmem_free_unit(struct guestmem_origin *origin)
{
	struct folio *folio = pfn_folio(origin->pfn);
	struct hugepage_subpool *spool = origin->spool;
	bool poisoned;

	guestmem_vmemmap_join(&folio->page, huge_page_order(origin->h), origin->optimized);
	poisoned = guestmem_origin_give_back(origin, folio);
	trace_guestmem_late(NULL, origin->pfn, 0, huge_page_order(origin->h),
			    poisoned ? -EHWPOISON : 0);
	guestmem_origin_free(origin);

	if (!poisoned) {
		free_huge_folio(folio);
		return;
	}

	/* If there is no subpool, the page was dropped when the unit left the file. */
	if (spool)
		guestmem_exchange_page(spool);
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
 * Context: any.  The caller holds the file's invalidate_lock for write.
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
	origin = guestmem_origin_find(folio_pfn(folio));
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
