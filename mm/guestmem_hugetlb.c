// SPDX-License-Identifier: GPL-2.0
/**
 * DOC: Words
 *
 * Guest memory made of hugetlb pages: the allocator behind guest_memfd.
 *
 * A *unit* is one hugetlb page of a file: huge_page_size() bytes, naturally
 * aligned in the file.  All units of a file have the same size.
 *
 * A file's *reservation* is the promise, made when the file is created, that
 * every unit can be allocated.  The reservation is a hugetlb subpool whose
 * minimum and maximum are the number of units: allocating a unit takes a page out
 * of the reservation, and a unit that is freed, in any context, goes back to the
 * pool and is reserved again.
 *
 * A unit is *whole* while it is one hugetlb folio.  Otherwise it is split, at *cuts*,
 * into several folios, its *pieces*, and has an *origin*, which keeps the metadata of
 * the hugetlb folio.  A *layout* says how pages are cut into folios, and the *wanted*
 * order is the largest one that a folio may have.  A *late* unit has left its file in
 * pieces.  To *isolate* failed pages is to split a folio around them, and to *trim* a
 * whole unit is to free the struct pages that only pieces need.
 */

/**
 * DOC: Rules
 *
 * - All pages of a unit are in the page cache, as one folio or in pieces, or none is.
 *   A unit enters the page cache zeroed and up to date, and only
 *   guestmem_hugetlb_remove() takes it out.  Generic truncation never sees a unit.
 * - A hugetlb folio is never mapped by user space.
 * - Units come from memory that may be pinned for long, i.e. neither from CMA
 *   nor from ZONE_MOVABLE, as guest memory doesn't move.
 * - The pool's counters, the hugetlb cgroup and the memcg see units exactly as
 *   they see pages of a hugetlbfs file, no matter whether units are whole or split.
 * - Pieces aren't accounted as page cache, and never return to the buddy allocator.
 */

/**
 * DOC: Locks
 *
 * From the outside in::
 *
 *   mapping->invalidate_lock   for read to get or allocate units, for write to
 *                              remove them; not needed by the last user
 *     unit bit                 allocation of one unit, guestmem_hugetlb.busy
 *       folio lock             memory_failure() and the last user take it without
 *                              any of the above
 *         hugetlb_lock, i_pages
 *           subpool lock
 *
 * The unit bit does what the fault mutex does for hugetlbfs.  Clearing a unit takes
 * long, so a task that waits must be killable, and a task must not have to wait just
 * because its unit hashes to the same mutex.  The alternative, clearing a unit without
 * any lock and throwing it away if another task was faster, needs one page more than
 * the reservation has.
 */

#include <linux/cma.h>
#include <linux/guestmem.h>
#include <linux/hugetlb.h>
#include <linux/hugetlb_cgroup.h>
#include <linux/kvm_types.h>
#include <linux/mempolicy.h>
#include <linux/mmzone.h>
#include <linux/pagemap.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/swap.h>
#include <linux/wait_bit.h>

#include "guestmem_internal.h"
#include "hugetlb_internal.h"
#include "internal.h"

/**
 * struct guestmem_hugetlb - the units of one file
 * @h: the hstate that they come from
 * @spool: the reservation
 * @h_cg_rsvd: hugetlb cgroup that is charged for the reservation
 * @nr_units: number of units in the file, and of bits in @busy
 * @late: units that have left the file in pieces
 * @files: entry in guestmem_hugetlb_files
 * @busy: a bit per unit, set by the task that is allocating the unit
 */
struct guestmem_hugetlb {
	struct hstate *h;
	struct hugepage_subpool *spool;
	struct hugetlb_cgroup *h_cg_rsvd;
	unsigned long nr_units;
	struct guestmem_late *late;
	struct list_head files;
	unsigned long *busy;
};

/* All files, to compare their reservations with what the pool has. */
static LIST_HEAD(guestmem_hugetlb_files);
static DEFINE_MUTEX(guestmem_hugetlb_files_lock);

/* How long an allocation waits for a unit of which a piece is in use. */
#define GMH_LATE_TIMEOUT	(HZ / 10)

/* How long an allocation waits for any unit that has left the file. */
#define GMH_UNIT_TIMEOUT	(30 * HZ)

static unsigned long gmh_rsvd_base_pages(const struct guestmem_hugetlb *gh)
{
	return gh->nr_units << huge_page_order(gh->h);
}

/* How long the release of a file waits for a page that is half way back to the pool. */
#define GMH_SETTLE_TICKS	10

/* How many free pages to look at with interrupts disabled. */
#define GMH_FREE_BATCH		256UL

/* Tell whether there is any memory that FOLL_LONGTERM refuses. */
static bool gmh_has_unpinnable_memory(void)
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
static unsigned long gmh_count_pinnable(struct hstate *h, int nid, unsigned long nr)
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
 * if pages come and go meanwhile.
 */
static bool gmh_pool_is_pinnable(struct hstate *h)
{
	unsigned long nr_needed = 0, nr_found = 0;
	unsigned long nr_left, nr;
	struct guestmem_hugetlb *gh;
	int nid;

	lockdep_assert_held(&guestmem_hugetlb_files_lock);

	if (!gmh_has_unpinnable_memory())
		return true;

	list_for_each_entry(gh, &guestmem_hugetlb_files, files) {
		if (gh->h == h)
			nr_needed += READ_ONCE(gh->spool->rsv_hpages);
	}

	for_each_node_state(nid, N_MEMORY) {
		nr_left = READ_ONCE(h->free_huge_pages_node[nid]);
		for (; nr_left && nr_found < nr_needed; nr_left -= nr) {
			nr = min(nr_left, GMH_FREE_BATCH);
			nr_found += gmh_count_pinnable(h, nid, nr);
			cond_resched();
		}
	}

	return nr_found >= nr_needed;
}

static int gmh_reserve(struct guestmem_hugetlb *gh)
{
	int idx = hstate_index(gh->h);
	unsigned int pin_flags;
	bool pinnable;

	if (hugetlb_cgroup_charge_cgroup_rsvd(idx, gmh_rsvd_base_pages(gh),
					      &gh->h_cg_rsvd))
		return -ENOMEM;

	/* The subpool may need new surplus pages, which have to be pinnable as well. */
	pin_flags = memalloc_pin_save();
	gh->spool = hugepage_new_subpool(gh->h, gh->nr_units, gh->nr_units);
	memalloc_pin_restore(pin_flags);
	if (!gh->spool)
		goto err_uncharge;

	mutex_lock(&guestmem_hugetlb_files_lock);
	list_add(&gh->files, &guestmem_hugetlb_files);
	pinnable = gmh_pool_is_pinnable(gh->h);
	if (!pinnable)
		list_del(&gh->files);
	mutex_unlock(&guestmem_hugetlb_files_lock);
	if (!pinnable)
		goto err_unreserve;

	return 0;

err_unreserve:
	hugepage_put_subpool(gh->spool);
err_uncharge:
	hugetlb_cgroup_uncharge_cgroup_rsvd(idx, gmh_rsvd_base_pages(gh),
					    gh->h_cg_rsvd);
	return -ENOMEM;
}

/*
 * Wait a moment until the global reservation has @nr pages.  free_huge_folio() returns a
 * page to the subpool first and to the global reservation a moment later, and holds no lock
 * in between.  Subtracting @nr must not make the global reservation negative.
 */
static void gmh_wait_for_reservation(struct hstate *h, unsigned long nr)
{
	int i;

	for (i = 0; i < GMH_SETTLE_TICKS && READ_ONCE(h->resv_huge_pages) < nr; i++)
		schedule_timeout_uninterruptible(1);
}

/*
 * Give up the reservation and its charge, no matter whether units are still in use.  The
 * pool lacks such units until they return, and they aren't reserved then.  From here on,
 * the subpool only counts these units, and is freed with the last of them.
 */
static void gmh_unreserve(struct guestmem_hugetlb *gh)
{
	struct hugepage_subpool *spool = gh->spool;
	long nr;

	mutex_lock(&guestmem_hugetlb_files_lock);
	list_del(&gh->files);
	mutex_unlock(&guestmem_hugetlb_files_lock);

	spin_lock_irq(&spool->lock);
	nr = spool->rsv_hpages;
	spool->rsv_hpages = 0;
	spool->min_hpages = -1;
	spin_unlock_irq(&spool->lock);

	gmh_wait_for_reservation(gh->h, nr);
	hugetlb_acct_memory(gh->h, -nr);
	hugepage_put_subpool(spool);
	hugetlb_cgroup_uncharge_cgroup_rsvd(hstate_index(gh->h),
					    gmh_rsvd_base_pages(gh),
					    gh->h_cg_rsvd);
}

/**
 * guestmem_hugetlb_create - reserve the huge pages of a file
 * @size: size of the file in bytes
 * @size_log2: log2 of the huge page size, 0 for the default huge page size
 *
 * No unit is allocated, but all of them are guaranteed to be there later, subject
 * to the memory policy, the cpuset and the cgroup of the task that allocates.  The
 * current task's hugetlb cgroup is charged for the reservation.
 *
 * Context: may sleep.
 * Return: the reservation, to be released with guestmem_hugetlb_destroy().
 *	-EINVAL: no such huge page size, or @size isn't a multiple of it.
 *	-ENOMEM: the pool or the cgroup can't cover @size, or too many pages of the
 *	pool are CMA or movable memory.
 */
struct guestmem_hugetlb *guestmem_hugetlb_create(loff_t size, unsigned int size_log2)
{
	struct guestmem_hugetlb *gh;
	struct hstate *h;
	int ret;

	if (size_log2 >= BITS_PER_LONG)
		return ERR_PTR(-EINVAL);

	h = size_log2 ? size_to_hstate(1UL << size_log2) : &default_hstate;
	if (!hugepages_supported() || !h)
		return ERR_PTR(-EINVAL);

	if (size <= 0 || size & (huge_page_size(h) - 1))
		return ERR_PTR(-EINVAL);

	gh = kzalloc_obj(*gh, GFP_KERNEL_ACCOUNT);
	if (!gh)
		return ERR_PTR(-ENOMEM);

	gh->h = h;
	gh->nr_units = size >> huge_page_shift(h);
	gh->late = guestmem_late_alloc();
	if (!gh->late) {
		ret = -ENOMEM;
		goto err_free;
	}

	ret = gmh_reserve(gh);
	if (ret)
		goto err_late;

	/* The reservation has succeeded, so the size is sane. */
	gh->busy = kvcalloc(BITS_TO_LONGS(gh->nr_units), sizeof(*gh->busy),
			    GFP_KERNEL_ACCOUNT);
	if (!gh->busy) {
		ret = -ENOMEM;
		goto err_unreserve;
	}

	return gh;

err_unreserve:
	gmh_unreserve(gh);
err_late:
	guestmem_late_put(gh->late);
err_free:
	kfree(gh);
	return ERR_PTR(ret);
}
EXPORT_SYMBOL_FOR_KVM(guestmem_hugetlb_create);

/**
 * guestmem_hugetlb_destroy - give up the reservation of a file
 * @gh: the reservation
 *
 * The file is gone, or doesn't exist yet, and has no units.  A unit that is still in use,
 * e.g. because a piece of it is pinned, keeps neither any other unit nor the charge for
 * the reservation: the pool lacks this one page only.
 *
 * Context: may sleep.
 */
void guestmem_hugetlb_destroy(struct guestmem_hugetlb *gh)
{
	gmh_unreserve(gh);
	guestmem_late_put(gh->late);
	kvfree(gh->busy);
	kfree(gh);
}
EXPORT_SYMBOL_FOR_KVM(guestmem_hugetlb_destroy);

/**
 * guestmem_hugetlb_order - get the order of a file's units
 * @gh: the reservation
 *
 * Return: log2 of the number of pages in a unit.
 */
unsigned int guestmem_hugetlb_order(const struct guestmem_hugetlb *gh)
{
	return huge_page_order(gh->h);
}
EXPORT_SYMBOL_FOR_KVM(guestmem_hugetlb_order);

/* Get the hstate that the units of a file come from. */
struct hstate *guestmem_hugetlb_hstate(const struct guestmem_hugetlb *gh)
{
	return gh->h;
}

/**
 * guestmem_hugetlb_block_order - find the largest folio that fits into a range
 * @gh: the reservation
 * @index: a page of the range
 * @start: the first page of the range
 * @end: the page after the last one
 *
 * Return: the order of the largest naturally aligned block of pages that contains
 *	@index, and that is part of the range and of a unit.
 */
unsigned int guestmem_hugetlb_block_order(const struct guestmem_hugetlb *gh,
					  pgoff_t index, pgoff_t start, pgoff_t end)
{
	return guestmem_block_order(index, start, end, huge_page_order(gh->h));
}
EXPORT_SYMBOL_FOR_KVM(guestmem_hugetlb_block_order);

static struct folio *gmh_alloc_hugetlb_folio(struct guestmem_hugetlb *gh,
					     struct address_space *mapping,
					     pgoff_t index,
					     struct shared_policy *policy)
{
	struct mempolicy_interpreted mpoli = { .mode = MPOL_DEFAULT };
	unsigned int order = huge_page_order(gh->h), pin_flags;
	u8 flags = HUGETLB_ALLOC_USE_GLOBAL_RESERVATIONS;
	gfp_t gfp = htlb_alloc_mask(gh->h);
	struct mempolicy *pol;
	struct folio *folio;

	pol = mpol_shared_policy_lookup(policy, index);

	pin_flags = memalloc_pin_save();
	mpoli.nid = mpol_huge_node(pol, mapping->host->i_ino + (index >> order),
				   gfp, &mpoli.nodemask);
#ifdef CONFIG_NUMA
	mpoli.mode = pol ? pol->mode : get_task_policy(current)->mode;
#endif
	folio = hugetlb_alloc_folio(gh->h, &mpoli, current->mm, flags);
	memalloc_pin_restore(pin_flags);

	mpol_cond_put(pol);
	return folio;
}

/*
 * Add a page to the reservation, unless it has @limit pages or the file is gone.  Returns
 * false if the pool has no page for it.
 */
static bool gmh_reserve_page(struct hugepage_subpool *spool, long limit)
{
	unsigned int pin_flags;
	bool missing;
	int ret;

	pin_flags = memalloc_pin_save();
	ret = hugetlb_acct_memory(spool->hstate, 1);
	memalloc_pin_restore(pin_flags);
	if (ret)
		return false;

	spin_lock_irq(&spool->lock);
	missing = spool->min_hpages != -1 && spool->max_hpages < limit;
	if (missing) {
		spool->max_hpages++;
		spool->min_hpages++;
		spool->rsv_hpages++;
	}
	spin_unlock_irq(&spool->lock);

	if (!missing)
		hugetlb_acct_memory(spool->hstate, -1);
	return true;
}

/*
 * Try to reserve another page in place of a unit that was poisoned.  Returns true if the
 * reservation has one page more than before, or if it lacks none.
 */
static bool gmh_replace_poisoned(struct guestmem_hugetlb *gh)
{
	return gmh_reserve_page(gh->spool, gh->nr_units);
}

/* Tell whether to wait for a page to return to the reservation. */
static bool gmh_page_may_return(struct guestmem_hugetlb *gh, struct address_space *mapping,
				unsigned long start)
{
	struct hugepage_subpool *spool = gh->spool;
	long nr_late = 0;

	/* A fault doesn't keep a reference for that long. */
	if (time_after(jiffies, start + GMH_UNIT_TIMEOUT))
		return false;

	if (time_after(jiffies, start + GMH_LATE_TIMEOUT))
		nr_late = atomic_long_read(&gh->late->nr_held);

	/* A page may have returned by now.  Otherwise see whether one is missing. */
	guard(spinlock_irq)(&spool->lock);
	return spool->used_hpages < spool->max_hpages ||
	       spool->used_hpages - nr_late > mapping->nrpages >> huge_page_order(gh->h);
}

/*
 * Take a page out of the reservation.  Returns 0, -EINTR or -ENOSPC.
 * The reservation covers all units.  If it has no page left then a unit that was removed
 * from the file is still in use.  Most often, a fault that was in flight when the hole was
 * punched has yet to drop its reference.  The fault only has to be scheduled for that, and
 * needs no lock that the caller has.  Wait for as long as there is a page that is neither in
 * the reservation nor in the file.  If there is none then a unit was poisoned, and no other
 * page could take its place.  Pieces that user space could map may also be pinned for an
 * unlimited time, so don't wait long for pieces.
 */
static int gmh_get_reserved_page(struct guestmem_hugetlb *gh,
				 struct address_space *mapping)
{
	struct hugepage_subpool *spool = gh->spool;
	unsigned long start = jiffies;

	while (hugepage_subpool_get_pages(spool, 1)) {
		if (fatal_signal_pending(current))
			return -EINTR;

		/* The pool may have a page by now to replace one that was cut out. */
		if (!gmh_page_may_return(gh, mapping, start) &&
		    (READ_ONCE(spool->max_hpages) == gh->nr_units ||
		     !gmh_replace_poisoned(gh)))
			return -ENOSPC;

		schedule_timeout_killable(1);
	}

	return 0;
}

/*
 * Make an ordinary hugetlb folio of a unit, and return false.  But a poisoned unit stays
 * a unit until the pool loses it: cut it out of the reservation, and return true.
 */
static bool gmh_cut_if_poisoned(struct guestmem_hugetlb *gh, struct folio *folio)
{
	bool poisoned;

	/* memory_failure() poisons hugetlb folios under hugetlb_lock. */
	spin_lock_irq(&hugetlb_lock);
	poisoned = folio_test_hwpoison(folio);
	if (poisoned)
		hugetlb_set_folio_subpool(folio, NULL);
	else
		folio_clear_hugetlb_guestmem(folio);
	spin_unlock_irq(&hugetlb_lock);

	if (poisoned)
		guestmem_cut_reservation(gh->spool);

	return poisoned;
}

/*
 * Drop the reference to a unit that isn't in the file.  A poisoned one is lost, and is
 * replaced before it can become a free page, unless the file is on its way out.
 */
static void gmh_put_unit(struct guestmem_hugetlb *gh, struct folio *folio, bool may_replace)
{
	if (!gmh_cut_if_poisoned(gh, folio)) {
		/* If a fault still has a reference then the unit keeps its struct pages. */
		guestmem_trim_later(gh->h, folio);
		folio_put(folio);
		return;
	}

	if (may_replace)
		gmh_replace_poisoned(gh);
	guestmem_lose_folio(folio);
}

/*
 * Allocate the unit that contains @index and add it to the file.  Returns the folio at
 * @index with a reference, or an ERR_PTR with all counters as they were.
 */
static struct folio *gmh_alloc_unit(struct guestmem_hugetlb *gh,
				    struct address_space *mapping, pgoff_t index,
				    struct shared_policy *policy,
				    guestmem_wanted_fn wanted)
{
	pgoff_t start = round_down(index, 1UL << huge_page_order(gh->h));
	struct folio *folio;
	bool whole;
	int ret;

	ret = gmh_get_reserved_page(gh, mapping);
	if (ret)
		return ERR_PTR(ret);

	folio = gmh_alloc_hugetlb_folio(gh, mapping, index, policy);
	if (IS_ERR(folio)) {
		hugepage_subpool_put_pages(gh->spool, 1);
		return folio;
	}

	/* From here on free_huge_folio() puts the page back into the subpool. */
	hugetlb_set_folio_subpool(folio, gh->spool);
	folio_clear_hugetlb_restore_reserve(folio);

	/* From here on memory_failure() leaves it to guestmem_poison_page(), and waits. */
	folio_lock(folio);
	folio_set_hugetlb_guestmem(folio);

	folio_zero_user(folio, 0);
	folio_mark_uptodate(folio);

	whole = wanted(mapping, start) == huge_page_order(gh->h);
	ret = 0;
	if (whole)
		ret = __filemap_add_folio(mapping, folio, start, GFP_KERNEL, NULL);
	folio_unlock(folio);
	if (!whole)
		ret = guestmem_add_split(mapping, folio, start, wanted);

	if (ret) {
		gmh_put_unit(gh, folio, true);
		return ERR_PTR(ret);
	}

	inode_add_bytes(mapping->host, huge_page_size(gh->h));
	return whole ? folio : filemap_get_folio(mapping, index);
}

/**
 * guestmem_hugetlb_get_folio - get the folio at an index, allocate a unit if necessary
 * @gh: the file's reservation
 * @mapping: the file
 * @index: any index below the end of the file
 * @policy: memory policies of the file
 * @wanted: how large the folios of a new unit may be
 *
 * Context: may sleep.  The caller holds invalidate_lock.
 * Return: the folio, up to date, unlocked and with a reference.
 *	-ENOSPC: the memory policy or the cpuset confine the allocation to nodes
 *	that have no free page, a unit that was removed is still in use, or a
 *	poisoned unit could not be replaced.
 *	-ENOMEM: a cgroup is at its limit, or no memory for the page cache.
 *	-EINTR: the task was killed while it waited for a unit that another task is
 *	busy allocating, or that has yet to come back to the pool.
 */
struct folio *guestmem_hugetlb_get_folio(struct guestmem_hugetlb *gh,
					 struct address_space *mapping,
					 pgoff_t index,
					 struct shared_policy *policy,
					 guestmem_wanted_fn wanted)
{
	unsigned int order = huge_page_order(gh->h);
	unsigned long unit = index >> order;
	unsigned long *word = gh->busy + BIT_WORD(unit);
	int bit = unit % BITS_PER_LONG;
	struct folio *folio;

	lockdep_assert_held(&mapping->invalidate_lock);

	folio = filemap_get_folio(mapping, index);
	if (!IS_ERR(folio))
		return folio;

	if (WARN_ON_ONCE(unit >= gh->nr_units))
		return ERR_PTR(-EIO);

	if (wait_on_bit_lock(word, bit, TASK_KILLABLE))
		return ERR_PTR(-EINTR);

	folio = filemap_get_folio(mapping, index);
	if (IS_ERR(folio))
		folio = gmh_alloc_unit(gh, mapping, index, policy, wanted);

	clear_and_wake_up_bit(bit, word);
	return folio;
}
EXPORT_SYMBOL_FOR_KVM(guestmem_hugetlb_get_folio);

/**
 * guestmem_hugetlb_zero_folio - clear a part of a unit
 * @folio: the unit
 * @first: first page to clear, relative to the folio
 * @nr_pages: number of pages to clear
 *
 * Context: may sleep.  The caller has locked the folio, which isn't poisoned:
 *	memory_failure() may take a page out of the direct map, but not as long
 *	as the folio is locked.
 */
void guestmem_hugetlb_zero_folio(struct folio *folio, pgoff_t first,
				 unsigned long nr_pages)
{
	VM_WARN_ON_ONCE_FOLIO(!folio_test_locked(folio), folio);

	for (; nr_pages; nr_pages--, first++) {
		clear_highpage(folio_page(folio, first));
		cond_resched();
	}
}
EXPORT_SYMBOL_FOR_KVM(guestmem_hugetlb_zero_folio);

/**
 * guestmem_cut_reservation - cut a unit that is lost out of the reservation
 * @spool: the file's reservation, which has one page in use for the unit
 *
 * Context: any in which interrupts can be enabled.
 */
void guestmem_cut_reservation(struct hugepage_subpool *spool)
{
	spin_lock_irq(&spool->lock);
	/* The file is gone, and the subpool only counts the pages in use. */
	if (spool->min_hpages == -1) {
		spin_unlock_irq(&spool->lock);
		hugepage_subpool_put_pages(spool, 1);
		return;
	}

	spool->used_hpages--;
	spool->max_hpages--;
	spool->min_hpages--;
	spin_unlock_irq(&spool->lock);
}

/**
 * guestmem_replace_unit - cut out a unit that is lost, and replace it if possible
 * @spool: the file's reservation, which has one page in use for the unit
 *
 * Context: may sleep.
 */
void guestmem_replace_unit(struct hugepage_subpool *spool)
{
	gmh_reserve_page(spool, LONG_MAX);
	guestmem_cut_reservation(spool);
}

static void gmh_remove_folio(struct guestmem_hugetlb *gh,
			     struct address_space *mapping, struct folio *folio)
{
	folio_lock(folio);
	VM_WARN_ON_ONCE_FOLIO(folio_mapped(folio), folio);

	folio_clear_dirty(folio);
	folio_clear_uptodate(folio);
	filemap_remove_folio(folio);
	folio_unlock(folio);
}

/* Remove a unit that can't be merged: a piece is in use or poisoned, or memory is short. */
static void gmh_remove_pieces(struct guestmem_hugetlb *gh,
			      struct address_space *mapping, pgoff_t index,
			      bool may_replace)
{
	pgoff_t end = index + pages_per_huge_page(gh->h);
	struct folio *folio = filemap_get_folio(mapping, index);
	struct guestmem_origin *origin;

	/* The unit has to be a late one before its last piece comes back. */
	origin = guestmem_origin_find(folio_pfn(folio));
	if (guestmem_origin_is_poisoned(origin, origin->pfn, pages_per_huge_page(gh->h))) {
		origin->spool = NULL;
		guestmem_cut_reservation(gh->spool);
		if (may_replace)
			gmh_replace_poisoned(gh);
		guestmem_late_add(gh->late, origin, false);
	} else {
		guestmem_late_add(gh->late, origin, true);
	}
	folio_put(folio);

	while (index < end) {
		folio = filemap_get_folio(mapping, index);
		if (WARN_ON_ONCE(IS_ERR(folio)))
			return;

		index = folio_next_index(folio);
		guestmem_remove_piece(mapping, folio);
		cond_resched();
	}
}

/*
 * Unmap the pieces of a unit that is about to be removed.  A fault that is under way
 * holds the folio lock until the PTE is there.
 */
static void gmh_unmap_pieces(struct guestmem_hugetlb *gh, struct address_space *mapping,
			     pgoff_t index)
{
	pgoff_t end = index + pages_per_huge_page(gh->h);
	struct folio *folio;

	for (; index < end; index = folio_next_index(folio)) {
		folio = xa_load(&mapping->i_pages, index);
		/* Large folios are never mapped. */
		if (!folio_test_large(folio)) {
			folio_lock(folio);
			if (folio_mapped(folio))
				unmap_mapping_folio(folio);
			folio_unlock(folio);
		}
		cond_resched();
	}
}

static void gmh_remove_unit(struct guestmem_hugetlb *gh,
			    struct address_space *mapping, pgoff_t index,
			    bool may_replace)
{
	unsigned int order = huge_page_order(gh->h);
	struct folio *folio;

	folio = filemap_get_folio(mapping, index);
	if (WARN_ON_ONCE(IS_ERR(folio)))
		return;

	if (!folio_test_hugetlb(folio)) {
		folio_put(folio);
		if (!guestmem_merge_unit(mapping, index, order)) {
			gmh_remove_pieces(gh, mapping, index, may_replace);
			inode_sub_bytes(mapping->host, huge_page_size(gh->h));
			return;
		}
		folio = filemap_get_folio(mapping, index);
	}

	gmh_remove_folio(gh, mapping, folio);
	inode_sub_bytes(mapping->host, huge_page_size(gh->h));

	gmh_put_unit(gh, folio, may_replace);
}

static void gmh_unmap(struct guestmem_hugetlb *gh, struct address_space *mapping,
		      pgoff_t start, pgoff_t end)
{
	unsigned long index = start;
	struct folio *folio;

	unmap_mapping_pages(mapping, start, end - start, false);

	while (xa_find(&mapping->i_pages, &index, end - 1, XA_PRESENT)) {
		index = round_down(index, pages_per_huge_page(gh->h));
		folio = xa_load(&mapping->i_pages, index);
		if (!folio_test_hugetlb(folio))
			gmh_unmap_pieces(gh, mapping, index);

		index += pages_per_huge_page(gh->h);
		if (!index || index >= end)
			break;
	}
}

/**
 * guestmem_hugetlb_unmap - unmap units from user space before they are removed
 * @gh: the file's reservation
 * @mapping: the file
 * @start: first index of the hole
 * @end: index after the last one
 *
 * A unit that is only partly in the hole stays mapped, as it isn't removed.
 *
 * Context: may sleep.  The caller holds invalidate_lock for write, until it has called
 *	guestmem_hugetlb_remove().
 */
void guestmem_hugetlb_unmap(struct guestmem_hugetlb *gh, struct address_space *mapping,
			    pgoff_t start, pgoff_t end)
{
	unsigned long nr_pages = pages_per_huge_page(gh->h);

	start = round_up(start, nr_pages);
	end = min(round_down(end, nr_pages), gh->nr_units << huge_page_order(gh->h));
	if (start < end)
		gmh_unmap(gh, mapping, start, end);
}
EXPORT_SYMBOL_FOR_KVM(guestmem_hugetlb_unmap);

/**
 * guestmem_hugetlb_remove - remove units from a file
 * @gh: the file's reservation
 * @mapping: the file
 * @start: first index, at the start of a unit
 * @end: index after the last one, at the start of a unit, or ULONG_MAX for all
 *
 * A unit goes back to the pool, and is reserved for the file again, as soon as the
 * last reference to it, or to a piece of it, is dropped.  Units without a reference
 * are there when guestmem_hugetlb_sync() returns.
 *
 * Context: may sleep.  The caller holds invalidate_lock for write, and has called
 *	guestmem_hugetlb_unmap().  Or it is the last user of the file, which isn't
 *	mapped then.
 */
void guestmem_hugetlb_remove(struct guestmem_hugetlb *gh,
			     struct address_space *mapping,
			     pgoff_t start, pgoff_t end)
{
	bool last = end == ULONG_MAX;
	unsigned long index = start;

	while (xa_find(&mapping->i_pages, &index, end - 1, XA_PRESENT)) {
		index = round_down(index, pages_per_huge_page(gh->h));
		gmh_remove_unit(gh, mapping, index, !last);

		index += pages_per_huge_page(gh->h);
		if (!index || index >= end)
			break;
		cond_resched();
	}
}
EXPORT_SYMBOL_FOR_KVM(guestmem_hugetlb_remove);

/**
 * guestmem_hugetlb_sync - wait until units that were removed are in the pool
 * @gh: the file's reservation
 *
 * Doesn't wait for a unit as long as it, or a piece of it, has a reference, nor for
 * units of other files.
 *
 * Context: may sleep, the caller doesn't hold any lock.  Returns early if the task is
 *	killed.
 */
void guestmem_hugetlb_sync(struct guestmem_hugetlb *gh)
{
	guestmem_late_sync(gh->late);
}
EXPORT_SYMBOL_FOR_KVM(guestmem_hugetlb_sync);
