// SPDX-License-Identifier: GPL-2.0
/*
 * Conversion of guest_memfd between private and shared, in place.
 *
 * A conversion is a transaction: it converts the whole range, or nothing.  It holds
 * invalidate_lock for write from its first step to its last one, i.e. there are no
 * faults, neither of the guest nor of user space.  The steps that can fail come
 * first, and change nothing that guest or host could see:
 *
 *  - Allocate memory for the new state, see kvm_gmem_prepare_state().
 *  - To private only: unmap the memory from user space and verify that it
 *    has no other reference.  As the host can't get at the memory anymore, there
 *    can't be new references, i.e. a look at the reference count is enough.  See
 *    gmem_prepare_private().
 *  - Huge pages only: prepare to split the folios at both ends of the range, and
 *    split the guest's mappings there, so that memory next to the range stays
 *    mapped.
 *
 * If per-CPU batches are in the way, the conversion undoes these steps, drops the
 * lock, drains the batches, and begins again with the first one.
 *
 * The steps that follow fail only if a VM or hardware is broken: split the folios,
 * remove the mappings of the guest, let the architecture take back memory that
 * becomes shared, change the bits.  If the architecture has to do something to make
 * memory private, it does so when the guest accesses the memory for the first time.
 *
 * Finally, memory that has become private is merged with private memory next to it,
 * as far as possible.  A worker tries the rest again later, see gmem_merge().
 */
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/guestmem.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/pagemap.h>
#include <linux/swap.h>
#include <linux/xarray.h>

#include <trace/events/kvm.h>

#include "guest_memfd.h"
#include "guest_memfd_convert.h"

#ifdef CONFIG_HAVE_KVM_GMEM_CONVERSION_OPT_IN
/*
 * Off: a file is either private or shared, and the VM's memory attributes decide
 * whether a gfn is private.  On: the file decides, page by page.
 */
bool __ro_after_init gmem_in_place_conversion;
EXPORT_SYMBOL_FOR_KVM_INTERNAL(gmem_in_place_conversion);
module_param(gmem_in_place_conversion, bool, 0444);
#endif

/*
 * How often to look at a folio before giving up on the reference of another user.
 * References that are there for a reason, e.g. for DMA, don't go away.  All others
 * are dropped as soon as their owner gets to run, e.g. a vCPU that has looked up
 * the folio and is about to find out that it must not map it.  After
 * GMEM_BUSY_TRIES, sleep between two looks for the owner to run.  GMEM_MAX_TRIES
 * take a few milliseconds.
 *
 * On a busy host a vCPU may have to wait longer than that for a CPU.  If a vCPU may
 * have the reference, give it GMEM_VCPU_TRIES more, once per conversion.  These take
 * some tens of milliseconds.
 */
#define GMEM_MAX_TRIES		64
#define GMEM_VCPU_TRIES		512
#define GMEM_BUSY_TRIES		16
#define GMEM_SLEEP_MIN_US	20
#define GMEM_SLEEP_MAX_US	100

/*
 * How often a conversion begins again after it had per-CPU batches drained.  Host threads
 * that allocate or, if mlocked, map pages of the range meanwhile fill batches once more.
 */
#define GMEM_MAX_DRAINS		4

/*
 * Unmap folios from user space.  Fails only if the task is killed.  The folio lock
 * waits for a fault that has seen the memory when it was shared: the fault holds the
 * lock until the PTE is there.
 */
static int gmem_unmap_folios(struct address_space *mapping, struct folio_batch *fbatch)
{
	unsigned int i;
	int r;

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
static bool gmem_folio_is_unused(struct folio *folio)
{
	return !folio_mapped(folio) &&
	       folio_ref_count(folio) == folio_expected_ref_count(folio) + 1;
}

/* Whether a vCPU may have a reference to the folio. */
static bool gmem_vcpu_may_use(struct inode *inode, struct folio *folio)
{
	return !folio_maybe_dma_pinned(folio) && kvm_gmem_vcpu_is_running(inode);
}

/*
 * Per-CPU batches have references to folios that were just allocated or, if mlocked,
 * just unmapped.  Returns true, and keeps a reference to the folio, if the conversion
 * has to give up for the batches to be drained.  A CPU can't drain its batch while its
 * task doesn't let others run, and the whole VM would wait with it.  So the caller of
 * gmem_convert() drops the lock, drains the batches, and begins again.
 */
static bool gmem_has_to_drain(struct gmem_conversion *c, struct folio *folio)
{
	/* Pieces of huge pages are in none of the batches, and DMA takes its time. */
	if (GMEM_I(c->inode)->hugetlb || !c->may_drain || folio_maybe_dma_pinned(folio))
		return false;

	folio_get(folio);
	c->undrained = folio;

	return true;
}

static int gmem_wait_for_folio(struct gmem_conversion *c, struct folio *folio)
{
	struct inode *inode = c->inode;
	int tries;

	for (tries = 0; !gmem_folio_is_unused(folio); tries++) {
		/*
		 * memory_failure() keeps a reference to ordinary folios, which looks
		 * like any other.  Ignore it: poisoned memory is never accessed.
		 */
		if (folio_test_hwpoison(folio) && !GMEM_I(inode)->hugetlb)
			return 0;

		if (tries >= GMEM_MAX_TRIES) {
			if (c->vcpu_tries == GMEM_VCPU_TRIES ||
			    !gmem_vcpu_may_use(inode, folio))
				return -EAGAIN;
			c->vcpu_tries++;
		}

		if (fatal_signal_pending(current))
			return -EINTR;

		if (tries < GMEM_BUSY_TRIES) {
			cpu_relax();
			continue;
		}

		if (gmem_has_to_drain(c, folio))
			return -EAGAIN;

		usleep_range_state(GMEM_SLEEP_MIN_US, GMEM_SLEEP_MAX_US,
				   TASK_KILLABLE);
	}

	return 0;
}

/* Wait until unmapped folios are unused.  Returns an error if one stays in use. */
static int gmem_check_folios(struct gmem_conversion *c, struct folio_batch *fbatch)
{
	unsigned int i;
	int r;

	/*
	 * Pairs with get_user_pages_fast(), which takes the reference first and
	 * then checks that the PTE is still there.
	 */
	smp_mb();

	for (i = 0; i < folio_batch_count(fbatch); i++) {
		r = gmem_wait_for_folio(c, fbatch->folios[i]);
		if (r) {
			c->err_index = max(c->start, fbatch->folios[i]->index);
			return r;
		}
	}

	return 0;
}

/* Unmap all folios of a range that is to become private, check them, or both. */
static int gmem_prepare_range(struct gmem_conversion *c, pgoff_t index, pgoff_t end,
			      bool unmap, bool check)
{
	struct address_space *mapping = c->inode->i_mapping;
	struct folio_batch fbatch;
	int r = 0;

	folio_batch_init(&fbatch);
	while (!r && index < end && filemap_get_folios(mapping, &index, end - 1, &fbatch)) {
		if (unmap)
			r = gmem_unmap_folios(mapping, &fbatch);
		if (!r && check)
			r = gmem_check_folios(c, &fbatch);

		folio_batch_release(&fbatch);
		cond_resched();

		if (!r && fatal_signal_pending(current))
			r = -EINTR;
	}

	return r;
}

/*
 * Make sure that only the guest can get at memory that is to become private.  This
 * takes two passes, unless the range is solid and fits in one folio_batch: if folios
 * are in per-CPU batches, these have to be drained after all folios were unmapped.
 */
static int gmem_prepare_private(struct gmem_conversion *c)
{
	struct address_space *mapping = c->inode->i_mapping;
	pgoff_t first, last;
	bool mapped;
	int r;

	/*
	 * Without a VMA there is nothing to unmap, as there are no new faults.  Take
	 * the lock, because a VMA that is being changed isn't there for a moment.
	 */
	i_mmap_lock_read(mapping);
	mapped = mapping_mapped(mapping);
	i_mmap_unlock_read(mapping);

	if (c->solid && c->end - c->start <= FOLIO_BATCH_SIZE)
		return gmem_prepare_range(c, c->start, c->end, mapped, true);

	last = c->start;
	while (mapped && kvm_gmem_next_range(c, &first, &last)) {
		/* Much faster than folio by folio, which then only deals with pending faults. */
		unmap_mapping_pages(mapping, first, last - first, false);

		r = gmem_prepare_range(c, first, last, true, false);
		if (r)
			return r;
	}

	last = c->start;
	while (kvm_gmem_next_range(c, &first, &last)) {
		r = gmem_prepare_range(c, first, last, false, true);
		if (r)
			return r;
	}

	return 0;
}

#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_RECLAIM
/* Have the architecture take back memory that is about to become shared. */
static int gmem_reclaim_range(struct inode *inode, pgoff_t start, pgoff_t end)
{
	struct folio_batch fbatch;
	pgoff_t index = start;
	unsigned int i;
	int r = 0;

	folio_batch_init(&fbatch);
	while (!r && filemap_get_folios(inode->i_mapping, &index, end - 1, &fbatch)) {
		for (i = 0; !r && i < folio_batch_count(&fbatch); i++) {
			folio_lock(fbatch.folios[i]);
			r = kvm_gmem_reclaim_folio(fbatch.folios[i], start, end);
			folio_unlock(fbatch.folios[i]);
		}
		folio_batch_release(&fbatch);
		cond_resched();
	}

	return r;
}
#endif

/*
 * Take back memory that becomes shared, and that the guest doesn't have mapped anymore.
 * Fails only if something is broken: a VM that may have kept some of the memory, or
 * hardware that can't give it back.  Then all of the memory stays private, and the guest
 * has lost the part that was taken back already.
 */
static int gmem_reclaim(struct gmem_conversion *c)
{
	int r = 0;

	if (c->to_private)
		return 0;

	if (kvm_gmem_is_bugged(c->inode))
		return -EIO;

#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_RECLAIM
	pgoff_t first, last = c->start;

	while (!r && kvm_gmem_next_range(c, &first, &last))
		r = gmem_reclaim_range(c->inode, first, last);
#endif
	return r;
}

/* Remove the guest's mappings of exactly the pages that are going to change. */
static void gmem_unmap_from_guest(struct gmem_conversion *c,
				  enum kvm_gfn_range_filter attr_filter)
{
	pgoff_t first, last = c->start;

	while (kvm_gmem_next_range(c, &first, &last)) {
		kvm_gmem_unmap_range(c->inode, first, last, attr_filter);
		cond_resched();
	}

	/* One flush for all pages, before the first page is taken back. */
	kvm_gmem_flush_unmapped(c->inode);
}

/*
 * Begin an invalidation and remove the guest's mappings of the pages that change.
 * Split folios and guest mappings that cross an end of the range.  If that fails, e.g.
 * for lack of memory, nothing has changed, and the invalidation is over.
 */
static int gmem_take_from_guest(struct gmem_conversion *c)
{
	enum kvm_gfn_range_filter attr_filter;
	struct guestmem_reshape reshape;
	int r;

	attr_filter = c->to_private ? KVM_FILTER_SHARED : KVM_FILTER_PRIVATE;

	if (!GMEM_I(c->inode)->hugetlb) {
		/* All at once if no page in between has to stay mapped. */
		kvm_gmem_invalidate_start(c->inode, c->start, c->end,
					  c->solid ? attr_filter : 0);
		if (!c->solid)
			gmem_unmap_from_guest(c, attr_filter);
		return 0;
	}

	r = guestmem_reshape_prepare(&reshape, c->inode->i_mapping, c->start, c->end,
				     &c->err_index);
	if (r) {
		c->err_index = max(c->start, c->err_index);
		return r;
	}

	/*
	 * A fault on any page of a huge page may have seen a folio that is much larger
	 * than the range.  Stop the fault from mapping that folio.
	 */
	kvm_gmem_invalidate_start(c->inode, c->inv_start, c->inv_end, 0);

	/* Pages that don't change stay mapped. */
	r = kvm_gmem_split_mappings(c->inode, c->start, c->end);
	if (r) {
		c->err_index = c->start;
		kvm_gmem_invalidate_end(c->inode, c->inv_start, c->inv_end);
		guestmem_reshape_abort(&reshape);
		return r;
	}

	/* Nothing fails from here on. */
	guestmem_reshape_commit(&reshape);
	gmem_unmap_from_guest(c, attr_filter);

	return 0;
}

/*
 * Merge the private pages of a range with each other, and with private pages next to
 * the range.  Returns false if a folio is in use, or if there's no memory.
 */
static bool gmem_merge_range(struct inode *inode, pgoff_t start, pgoff_t end)
{
	pgoff_t nr_pages = 1UL << kvm_gmem_unit_order(inode);
	pgoff_t index, last, lo, hi;
	bool merged = true;

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

/* How often the worker tries to merge.  The delay doubles each time. */
#define GMEM_MERGE_TRIES	10
#define GMEM_MERGE_DELAY	(HZ / 100 + 1)
/* A merged unit isn't trimmed for a while, as it may be split again soon. */
#define GMEM_TRIM_DELAY		HZ

/*
 * Queue the work for a range.  If an earlier range is still queued, the range grows to
 * have both, and the work runs at the earlier of the two times.
 */
static void gmem_queue_merge(struct gmem_inode *gi, pgoff_t start, pgoff_t end,
			     unsigned long delay)
{
	unsigned long at = jiffies + delay;

	lockdep_assert_held_write(&gi->vfs_inode.i_mapping->invalidate_lock);

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

static void gmem_requeue_merge(struct gmem_inode *gi, pgoff_t start, pgoff_t end,
			       unsigned long delay)
{
	if (gi->merge_tries < GMEM_MERGE_TRIES)
		gmem_queue_merge(gi, start, end, delay << gi->merge_tries);
}

/* Returns the end of a step: other tasks may have the lock after it. */
static pgoff_t gmem_next_step(struct inode *inode, pgoff_t index, pgoff_t end)
{
	unsigned long nr_pages = 1UL << kvm_gmem_unit_order(inode);

	return min(end, index + max(nr_pages, SZ_1G / PAGE_SIZE));
}

static bool gmem_merge_some(struct gmem_inode *gi, pgoff_t start, pgoff_t end)
{
	struct inode *inode = &gi->vfs_inode;
	bool marked;

	filemap_invalidate_lock(inode->i_mapping);
	if (!gmem_merge_range(inode, start, end))
		gmem_requeue_merge(gi, start, end, GMEM_MERGE_DELAY);
	marked = guestmem_reshape_mark(gi->hugetlb, inode->i_mapping, start, end);
	filemap_invalidate_unlock(inode->i_mapping);

	return marked;
}

static void gmem_trim_some(struct gmem_inode *gi, pgoff_t start, pgoff_t end)
{
	struct address_space *mapping = gi->vfs_inode.i_mapping;

	filemap_invalidate_lock(mapping);
	if (!guestmem_reshape_trim(gi->hugetlb, mapping, start, end))
		gmem_requeue_merge(gi, start, end, GMEM_TRIM_DELAY);
	filemap_invalidate_unlock(mapping);
}

static void gmem_merge_workfn(struct work_struct *work)
{
	struct gmem_inode *gi = container_of(to_delayed_work(work), struct gmem_inode,
					     merge_work);
	struct inode *inode = &gi->vfs_inode;
	pgoff_t start, end, index, next;
	bool trim = false;

	filemap_invalidate_lock(inode->i_mapping);
	start = gi->merge_start;
	end = gi->merge_end;
	gi->merge_end = start;
	gi->merge_tries++;
	filemap_invalidate_unlock(inode->i_mapping);

	for (index = start; index < end && !READ_ONCE(gi->merge_cancelled); index = next) {
		next = gmem_next_step(inode, index, end);
		trim |= gmem_merge_some(gi, index, next);
	}

	if (!trim || !guestmem_reshape_barrier(&gi->merge_cancelled))
		return;

	for (index = start; index < end && !READ_ONCE(gi->merge_cancelled); index = next) {
		next = gmem_next_step(inode, index, end);
		gmem_trim_some(gi, index, next);
	}
}

void kvm_gmem_init_merge(struct inode *inode)
{
	INIT_DELAYED_WORK(&GMEM_I(inode)->merge_work, gmem_merge_workfn);
	GMEM_I(inode)->merge_start = 0;
	GMEM_I(inode)->merge_end = 0;
	GMEM_I(inode)->merge_cancelled = false;
}

/* Stop the worker.  The file is closed, i.e. there are no more conversions. */
void kvm_gmem_cancel_merge(struct inode *inode)
{
	guestmem_reshape_cancel(&GMEM_I(inode)->merge_cancelled);
	cancel_delayed_work_sync(&GMEM_I(inode)->merge_work);
}

/*
 * Merge the folios that can be merged now, and have the worker merge the others later.
 * Memory that was private before may be in use, e.g. by a fault that is about to map it.
 */
static void gmem_merge(struct gmem_conversion *c)
{
	struct gmem_inode *gi = GMEM_I(c->inode);
	bool merged;

	if (!gi->hugetlb)
		return;

	merged = gmem_merge_range(c->inode, c->start, c->end);
	if (merged && !(c->to_private && guestmem_reshape_needs_trim(gi->hugetlb)))
		return;

	gi->merge_tries = 0;
	gmem_queue_merge(gi, c->inv_start, c->inv_end,
			 merged ? GMEM_TRIM_DELAY : GMEM_MERGE_DELAY);
}

/*
 * Split units and pieces around the failed pages of the range.  The pages next to these
 * then convert, and merge, like any other memory.
 */
static int gmem_isolate_poison(struct gmem_conversion *c)
{
	struct address_space *mapping = c->inode->i_mapping;
	unsigned long index;
	struct folio *folio;
	pgoff_t err_index;
	int r;

	if (!GMEM_I(c->inode)->hugetlb || !READ_ONCE(GMEM_I(c->inode)->poisoned))
		return 0;

	xa_for_each_range(&mapping->i_pages, index, folio, c->start, c->end - 1) {
		r = guestmem_isolate_poison(mapping, index, &err_index);
		if (r && r != -EHWPOISON) {
			c->err_index = max(c->start, err_index);
			return r;
		}

		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}

	return 0;
}

static int gmem_convert(struct gmem_conversion *c)
{
	pgoff_t nr_pages = 1UL << kvm_gmem_unit_order(c->inode);
	int r;

	lockdep_assert_held_write(&c->inode->i_mapping->invalidate_lock);

	kvm_gmem_trim_range(c);
	if (c->start == c->end)
		return 0;

	c->inv_start = round_down(c->start, nr_pages);
	c->inv_end = round_up(c->end, nr_pages);

	/* A broken VM may keep the memory that it has. */
	if (!c->to_private && kvm_gmem_is_bugged(c->inode))
		return -EIO;

	r = gmem_isolate_poison(c);
	if (r)
		return r;

	r = kvm_gmem_prepare_state(c);
	if (r)
		return r;

	if (c->to_private)
		r = gmem_prepare_private(c);
	if (!r)
		r = gmem_take_from_guest(c);
	if (r) {
		kvm_gmem_collapse_range(c);
		return r;
	}

	/* Nothing fails from here on, unless a VM or hardware has just broken. */
	r = gmem_reclaim(c);
	if (r)
		kvm_gmem_collapse_range(c);
	else
		kvm_gmem_flip(c);

	kvm_gmem_invalidate_end(c->inode, c->inv_start, c->inv_end);

	/* Does nothing if all of the range is shared now. */
	gmem_merge(c);

	return r;
}

/*
 * Returns the attributes that a VM can set for its files.  Without a VM, returns those
 * that at least one type of VM can set.
 */
u64 kvm_gmem_supported_attributes(struct kvm *kvm)
{
	if (!gmem_in_place_conversion)
		return 0;

	if (kvm ? kvm_arch_has_private_mem(kvm) :
		  IS_ENABLED(CONFIG_KVM_GENERIC_MEMORY_ATTRIBUTES))
		return KVM_MEMORY_ATTRIBUTE_PRIVATE;

	return 0;
}

/*
 * Drain per-CPU batches, without the lock, if a conversion has given up for that: those
 * of this CPU first, as they are enough more often than not.  Returns whether to begin
 * again.
 */
static bool gmem_drain(struct gmem_conversion *c)
{
	if (!c->undrained)
		return false;

	/* Waits for other CPUs, and SIGKILL doesn't end that. */
	if (!fatal_signal_pending(current))
		lru_cache_drain_for_folio(c->undrained, 1, NULL);
	folio_put(c->undrained);

	return true;
}

static int gmem_set_attributes(struct file *file, struct kvm_memory_attributes2 *attrs,
			       pgoff_t *err_index)
{
	struct address_space *mapping = file->f_mapping;
	struct gmem_file *f = file->private_data;
	struct inode *inode = mapping->host;
	struct gmem_conversion c;
	int nr_drains = 0;
	u64 supported;
	int r;

	supported = kvm_gmem_supported_attributes(f->kvm);
	if (!supported || attrs->attributes & ~supported)
		return -EINVAL;
	if (attrs->flags || memchr_inv(attrs->reserved, 0, sizeof(attrs->reserved)))
		return -EINVAL;
	if (!attrs->size || attrs->offset + attrs->size < attrs->offset)
		return -EINVAL;
	if (!PAGE_ALIGNED(attrs->offset) || !PAGE_ALIGNED(attrs->size))
		return -EINVAL;
	if (attrs->offset + attrs->size > i_size_read(inode))
		return -EINVAL;

	do {
		c = (struct gmem_conversion) {
			.inode = inode,
			.start = attrs->offset >> PAGE_SHIFT,
			.end = (attrs->offset + attrs->size) >> PAGE_SHIFT,
			.to_private = attrs->attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE,
			.may_drain = nr_drains++ < GMEM_MAX_DRAINS,
			.err_index = ULONG_MAX,
		};

		if (down_write_killable(&mapping->invalidate_lock))
			return -EINTR;

		r = gmem_convert(&c);

		filemap_invalidate_unlock(mapping);
	} while (gmem_drain(&c));

	trace_kvm_gmem_convert(inode, c.start, c.end, c.to_private, r);

	*err_index = c.err_index;
	return r;
}

/* Whether a conversion that fails with @r fails because of a certain page. */
static bool gmem_error_has_offset(int r)
{
	return r == -EAGAIN || r == -EPERM || r == -ENOMEM || r == -EHWPOISON;
}

long kvm_gmem_ioctl(struct file *file, unsigned int ioctl, unsigned long arg)
{
	struct kvm_memory_attributes2 __user *uattrs = (void __user *)arg;
	struct kvm_memory_attributes2 attrs;
	pgoff_t err_index = ULONG_MAX;
	int r;

	if (ioctl != KVM_SET_MEMORY_ATTRIBUTES2 || !gmem_in_place_conversion)
		return -ENOTTY;

	if (copy_from_user(&attrs, uattrs, sizeof(attrs)))
		return -EFAULT;

	r = gmem_set_attributes(file, &attrs, &err_index);

	/* Without invalidate_lock, as the user memory may be a mapping of this very file. */
	if (gmem_error_has_offset(r) && err_index != ULONG_MAX &&
	    put_user((u64)err_index << PAGE_SHIFT, &uattrs->error_offset))
		return -EFAULT;

	return r;
}
