// SPDX-License-Identifier: GPL-2.0
/*
 * Merge the huge pages of a guest_memfd that conversions have split.
 *
 * A conversion merges the private memory of its range as far as possible.  Memory that
 * was private before may be in use, e.g. by a fault that is about to map it, so a worker
 * tries the rest again later.
 *
 * This file calls guest_memfd_state.c and guest_memfd_hugetlb.c.
 */
#include <linux/fs.h>
#include <linux/guestmem.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sizes.h>
#include <linux/workqueue.h>

#include "guest_memfd.h"
#include "guest_memfd_convert.h"

/*
 * Merge the private pages of a range with each other, and with private pages next to
 * the range.  Returns true if all of that is merged, false if a folio is in use or if
 * there's no memory.
 */
static bool kvm_gmem_merge_range(struct inode *inode, pgoff_t start, pgoff_t end)
{
	pgoff_t nr_pages = 1UL << kvm_gmem_unit_order(inode);
	pgoff_t index, last, lo, hi;
	bool merged = true;

	kvm_gmem_assert_locked(inode);

	for (index = start; index < end; index = last) {
		index = kvm_gmem_find_next_start(inode, index, end, true);
		if (index == end)
			break;

		lo = kvm_gmem_find_prev_end(inode, round_down(index, nr_pages), index, false);
		hi = kvm_gmem_find_next_start(inode, index, round_up(end, nr_pages), false);
		last = min(end, hi);

		merged &= guestmem_reshape_merge(GMEM_I(inode)->hugetlb, inode->i_mapping,
						 index, last, lo, hi);
	}

	return merged;
}

/*
 * Queue the work for a range.  If an earlier range is still queued, the range grows to
 * have both, and the work runs at the earlier of the two times.
 */
static void kvm_gmem_queue_merge(struct gmem_inode *gi, pgoff_t start, pgoff_t end,
				 unsigned long delay)
{
	unsigned long at = jiffies + delay;

	kvm_gmem_assert_locked(&gi->vfs_inode);

	if (gi->merge_start == gi->merge_end) {
		gi->merge_start = start;
		gi->merge_end = end;
	} else {
		gi->merge_start = min(gi->merge_start, start);
		gi->merge_end = max(gi->merge_end, end);
		if (time_before_eq(gi->merge_at, at))
			return;
	}

	gi->merge_at = at;
	mod_delayed_work(system_dfl_long_wq, &gi->merge_work, delay);
}

static void kvm_gmem_requeue_merge(struct gmem_inode *gi, pgoff_t start, pgoff_t end)
{
	kvm_gmem_assert_locked(&gi->vfs_inode);

	if (gi->merge_tries < GMEM_MERGE_TRIES)
		kvm_gmem_queue_merge(gi, start, end, GMEM_MERGE_DELAY << gi->merge_tries);
}

/* Returns the end of a step: other tasks may have the lock after it. */
static pgoff_t kvm_gmem_next_step(struct inode *inode, pgoff_t index, pgoff_t end)
{
	unsigned long nr_pages = 1UL << kvm_gmem_unit_order(inode);

	return min(end, index + max(nr_pages, SZ_1G / PAGE_SIZE));
}

static void kvm_gmem_merge_step(struct gmem_inode *gi, pgoff_t start, pgoff_t end)
{
	struct inode *inode = &gi->vfs_inode;

	filemap_invalidate_lock(inode->i_mapping);
	if (!kvm_gmem_merge_range(inode, start, end))
		kvm_gmem_requeue_merge(gi, start, end);
	kvm_gmem_count_units(inode);
	filemap_invalidate_unlock(inode->i_mapping);
}

static void kvm_gmem_merge_workfn(struct work_struct *work)
{
	struct gmem_inode *gi = container_of(to_delayed_work(work), struct gmem_inode,
					     merge_work);
	struct inode *inode = &gi->vfs_inode;
	pgoff_t start, end, index, next;

	filemap_invalidate_lock(inode->i_mapping);
	start = gi->merge_start;
	end = gi->merge_end;
	gi->merge_end = start;
	gi->merge_tries++;
	filemap_invalidate_unlock(inode->i_mapping);

	for (index = start; index < end && !READ_ONCE(gi->merge_cancelled); index = next) {
		next = kvm_gmem_next_step(inode, index, end);
		kvm_gmem_merge_step(gi, index, next);
	}
}

void kvm_gmem_init_merge(struct inode *inode)
{
	INIT_DELAYED_WORK(&GMEM_I(inode)->merge_work, kvm_gmem_merge_workfn);
	GMEM_I(inode)->merge_start = 0;
	GMEM_I(inode)->merge_end = 0;
	GMEM_I(inode)->merge_cancelled = false;
}

/* Stop the worker of a file that is closed, i.e. that has no more conversions. */
void kvm_gmem_cancel_merge(struct inode *inode)
{
	WRITE_ONCE(GMEM_I(inode)->merge_cancelled, true);
	cancel_delayed_work_sync(&GMEM_I(inode)->merge_work);
}

/* Merge the folios that can be merged now, and have the worker merge the others later. */
void kvm_gmem_merge(struct gmem_conversion *c)
{
	struct gmem_inode *gi = GMEM_I(c->inode);

	kvm_gmem_assert_locked(c->inode);

	if (!gi->hugetlb || kvm_gmem_merge_range(c->inode, c->start, c->end))
		return;

	gi->merge_tries = 0;
	kvm_gmem_queue_merge(gi, c->inv_start, c->inv_end, GMEM_MERGE_DELAY);
}
