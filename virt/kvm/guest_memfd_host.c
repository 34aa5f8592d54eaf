// SPDX-License-Identifier: GPL-2.0
/*
 * Take memory of guest_memfd away from the host, before it becomes private.
 *
 * Unmap the memory from user space, and wait until it has no reference but that of the
 * page cache.  As the host can't get at the memory anymore, there can't be new
 * references, i.e. a look at the reference count is enough.
 *
 * This file calls guest_memfd_change.c, for the ranges that have to change, and
 * guest_memfd_invalidate.c.
 */
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/swap.h>

#include "guest_memfd.h"
#include "guest_memfd_convert.h"

/* Does something to all folios of a batch. */
typedef int (*kvm_gmem_batch_fn)(struct gmem_conversion *c, struct folio_batch *fbatch);

/*
 * Unmap folios from user space.  Fails only if the task is killed.  The folio lock
 * waits for a fault that has seen the memory when it was shared: the fault holds the
 * lock until the PTE is there.
 */
static int kvm_gmem_unmap_batch(struct gmem_conversion *c, struct folio_batch *fbatch)
{
	struct address_space *mapping = c->inode->i_mapping;
	unsigned int i;
	int r;

	kvm_gmem_assert_locked(c->inode);

	for (i = 0; i < folio_batch_count(fbatch); i++) {
		struct folio *folio = fbatch->folios[i];

		r = folio_lock_killable(folio);
		if (r)
			return r;

		if (folio_mapped(folio))
			unmap_mapping_pages(mapping, folio->index,
					    folio_nr_pages(folio), false);
		folio_unlock(folio);
	}

	return 0;
}

/* Whether nothing but the page cache, and one reference of the caller, uses the folio. */
static bool kvm_gmem_folio_is_unused(struct folio *folio)
{
	return !folio_mapped(folio) &&
	       folio_ref_count(folio) == folio_expected_ref_count(folio) + 1;
}

/* Whether a vCPU may have a reference to the folio. */
static bool kvm_gmem_vcpu_may_use(struct inode *inode, struct folio *folio)
{
	return !folio_maybe_dma_pinned(folio) && kvm_gmem_vcpu_is_running(inode);
}

/*
 * Per-CPU batches have references to folios that were just allocated or, if mlocked,
 * just unmapped.  Returns true, and keeps a reference to the folio, if the conversion
 * has to give up for the batches to be drained.  A CPU can't drain its batch while its
 * task doesn't let others run, and the whole VM would wait with it.  So the caller of
 * the conversion drops the lock, drains the batches, and begins again.
 */
static bool kvm_gmem_give_up_to_drain(struct gmem_conversion *c, struct folio *folio)
{
	/* Pieces of huge pages are in none of the batches, and DMA takes its time. */
	if (GMEM_I(c->inode)->hugetlb || !c->may_drain || folio_maybe_dma_pinned(folio))
		return false;

	folio_get(folio);
	c->undrained = folio;

	return true;
}

static int kvm_gmem_wait_for_folio(struct gmem_conversion *c, struct folio *folio)
{
	struct inode *inode = c->inode;
	int tries;

	for (tries = 0; !kvm_gmem_folio_is_unused(folio); tries++) {
		/*
		 * memory_failure() keeps a reference to ordinary folios, which looks
		 * like any other.  Ignore it: poisoned memory is never accessed.
		 */
		if (folio_test_hwpoison(folio) && !GMEM_I(inode)->hugetlb)
			return 0;

		if (tries >= GMEM_USER_TRIES) {
			if (c->vcpu_tries == GMEM_VCPU_TRIES ||
			    !kvm_gmem_vcpu_may_use(inode, folio))
				return -EAGAIN;
			c->vcpu_tries++;
		}

		if (fatal_signal_pending(current))
			return -EINTR;

		if (tries < GMEM_BUSY_TRIES) {
			cpu_relax();
			continue;
		}

		if (kvm_gmem_give_up_to_drain(c, folio))
			return -EAGAIN;

		usleep_range_state(GMEM_SLEEP_MIN_US, GMEM_SLEEP_MAX_US,
				   TASK_KILLABLE);
	}

	return 0;
}

/* Wait until unmapped folios are unused.  Returns an error if one stays in use. */
static int kvm_gmem_check_batch(struct gmem_conversion *c, struct folio_batch *fbatch)
{
	unsigned int i;
	int r;

	kvm_gmem_assert_locked(c->inode);

	/*
	 * Pairs with get_user_pages_fast(), which takes the reference first and
	 * then checks that the PTE is still there.
	 */
	smp_mb();

	for (i = 0; i < folio_batch_count(fbatch); i++) {
		r = kvm_gmem_wait_for_folio(c, fbatch->folios[i]);
		if (r) {
			c->err_index = max(c->start, fbatch->folios[i]->index);
			return r;
		}
	}

	return 0;
}

static int kvm_gmem_unmap_and_check_batch(struct gmem_conversion *c,
					  struct folio_batch *fbatch)
{
	int r;

	r = kvm_gmem_unmap_batch(c, fbatch);
	return r ?: kvm_gmem_check_batch(c, fbatch);
}

/* Call @fn for all folios of a range. */
static int kvm_gmem_walk_folios(struct gmem_conversion *c, pgoff_t index, pgoff_t end,
				kvm_gmem_batch_fn fn)
{
	struct address_space *mapping = c->inode->i_mapping;
	struct folio_batch fbatch;
	int r = 0;

	folio_batch_init(&fbatch);
	while (!r && index < end && filemap_get_folios(mapping, &index, end - 1, &fbatch)) {
		r = fn(c, &fbatch);

		folio_batch_release(&fbatch);
		cond_resched();

		if (!r && fatal_signal_pending(current))
			r = -EINTR;
	}

	return r;
}

/* Whether user space may have mapped pages of the file. */
static bool kvm_gmem_is_mapped(struct address_space *mapping)
{
	bool mapped;

	/*
	 * Without a VMA there is nothing to unmap, as there are no new faults.  Take
	 * the lock, because a VMA that is being changed isn't there for a moment.
	 */
	i_mmap_lock_read(mapping);
	mapped = mapping_mapped(mapping);
	i_mmap_unlock_read(mapping);

	return mapped;
}

/*
 * Make sure that only the guest can get at memory that is to become private.  This
 * takes two passes, unless the range fits in one folio_batch and all of it changes: if
 * folios are in per-CPU batches, these have to be drained after all folios were unmapped.
 */
int kvm_gmem_take_from_host(struct gmem_conversion *c)
{
	struct address_space *mapping = c->inode->i_mapping;
	bool mapped = kvm_gmem_is_mapped(mapping);
	pgoff_t first, last;
	int r;

	kvm_gmem_assert_locked(c->inode);

	if (c->all_change && c->end - c->start <= FOLIO_BATCH_SIZE)
		return kvm_gmem_walk_folios(c, c->start, c->end,
					    mapped ? kvm_gmem_unmap_and_check_batch :
						     kvm_gmem_check_batch);

	if (mapped) {
		kvm_gmem_for_each_range(c, first, last) {
			/*
			 * Much faster than folio by folio, which then only deals with
			 * pending faults.
			 */
			unmap_mapping_pages(mapping, first, last - first, false);

			r = kvm_gmem_walk_folios(c, first, last, kvm_gmem_unmap_batch);
			if (r)
				return r;
		}
	}

	kvm_gmem_for_each_range(c, first, last) {
		r = kvm_gmem_walk_folios(c, first, last, kvm_gmem_check_batch);
		if (r)
			return r;
	}

	return 0;
}

/*
 * Drain per-CPU batches, without the lock, if a conversion has given up for that: those
 * of this CPU first, as they are enough more often than not.  Returns true if the
 * conversion has to begin again.
 */
bool kvm_gmem_drain(struct gmem_conversion *c)
{
	if (!c->undrained)
		return false;

	/* Waits for other CPUs, and SIGKILL doesn't end that. */
	if (!fatal_signal_pending(current))
		lru_cache_drain_for_folio(c->undrained, 1, NULL);
	folio_put(c->undrained);

	return true;
}
