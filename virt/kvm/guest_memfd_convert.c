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
 *    has no other reference, see kvm_gmem_take_from_host().
 *  - Ask the architecture, which may know better than the host to whom memory belongs.
 *  - Huge pages only: prepare to split the folios at both ends of the range, and
 *    split the guest's mappings there, so that memory next to the range stays
 *    mapped.
 *  - If a vCPU waits for this very conversion, let the architecture tell the guest.
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
 * as far as possible.
 *
 * Only guest_memfd.c calls this file.
 */
#include <linux/fs.h>
#include <linux/guestmem.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/xarray.h>

#include <trace/events/kvm.h>

#include "guest_memfd.h"
#include "guest_memfd_convert.h"

#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_RECLAIM
/* Have the architecture take back memory that is about to become shared. */
static int kvm_gmem_reclaim_range(struct inode *inode, pgoff_t start, pgoff_t end)
{
	struct folio_batch fbatch;
	pgoff_t index = start;
	unsigned int i;
	int r = 0;

	kvm_gmem_assert_locked(inode);

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
static int kvm_gmem_reclaim(struct gmem_conversion *c)
{
	if (c->to_private)
		return 0;

	if (kvm_gmem_is_bugged(c->inode))
		return -EIO;

#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_RECLAIM
	pgoff_t first, last;
	int r;

	kvm_gmem_for_each_range(c, first, last) {
		r = kvm_gmem_reclaim_range(c->inode, first, last);
		if (r)
			return r;
	}
#endif
	return 0;
}

/* Returns the filter for the guest's mappings of pages before they change. */
static enum kvm_gfn_range_filter kvm_gmem_filter(struct gmem_conversion *c)
{
	return c->to_private ? KVM_FILTER_SHARED : KVM_FILTER_PRIVATE;
}

/* Remove the guest's mappings of exactly the pages that are going to change. */
static void kvm_gmem_unmap_from_guest(struct gmem_conversion *c)
{
	pgoff_t first, last;

	kvm_gmem_for_each_range(c, first, last) {
		kvm_gmem_invalidate_unmap(c->inode, first, last, kvm_gmem_filter(c));
		cond_resched();
	}

	/* One flush for all pages, before the first page is taken back. */
	kvm_gmem_invalidate_flush(c->inode);
}

/* Returns 0, or an error if the architecture doesn't let the host convert the pages. */
static int kvm_gmem_ask_guest(struct gmem_conversion *c)
{
	pgoff_t first, last;
	int r;

	if (!IS_ENABLED(CONFIG_HAVE_KVM_ARCH_GMEM_MAY_CONVERT))
		return 0;

	kvm_gmem_for_each_range(c, first, last) {
		r = kvm_gmem_may_convert(c->inode, first, last, c->to_private, &c->request,
					 &c->err_index);
		if (r)
			return r;
		cond_resched();
	}

	return 0;
}

/* The last step that fails, as nothing undoes it. */
static int kvm_gmem_answer_guest(struct gmem_conversion *c)
{
	if (!IS_ENABLED(CONFIG_HAVE_KVM_ARCH_GMEM_MAY_CONVERT))
		return 0;

	return kvm_gmem_complete_request(&c->request, &c->err_index);
}

/*
 * Begin an invalidation and remove the guest's mappings of the pages that change, none of
 * which is in a mapping with other pages.  If that fails, the invalidation is over.
 */
static int kvm_gmem_take_pages_from_guest(struct gmem_conversion *c)
{
	int r;

	if (c->all_change && !IS_ENABLED(CONFIG_HAVE_KVM_ARCH_GMEM_MAY_CONVERT)) {
		kvm_gmem_zap_start(c->inode, c->start, c->end, kvm_gmem_filter(c));
		return 0;
	}

	/* From here on, guests don't get any more of the pages. */
	kvm_gmem_invalidate_start(c->inode, c->start, c->end);

	r = kvm_gmem_ask_guest(c);
	if (!r)
		r = kvm_gmem_answer_guest(c);
	if (r) {
		kvm_gmem_invalidate_end(c->inode, c->start, c->end);
		return r;
	}

	/* Pages in between that don't change stay mapped. */
	kvm_gmem_unmap_from_guest(c);

	return 0;
}

/*
 * As above, for pages that may be in a mapping, or in a folio, with other pages: split both
 * where they cross an end of the range.
 */
static int kvm_gmem_take_huge_from_guest(struct gmem_conversion *c,
					 struct guestmem_reshape *reshape)
{
	int r;

	/*
	 * A fault on any page of a huge page may have seen a folio that is much larger
	 * than the range.  Stop the fault from mapping that folio.
	 */
	kvm_gmem_invalidate_start(c->inode, c->inv_start, c->inv_end);

	r = kvm_gmem_ask_guest(c);
	if (!r) {
		/* Pages that don't change stay mapped. */
		r = kvm_gmem_split_mappings(c->inode, c->start, c->end);
		if (r)
			c->err_index = c->start;
	}
	if (!r)
		r = kvm_gmem_answer_guest(c);
	if (r) {
		kvm_gmem_invalidate_end(c->inode, c->inv_start, c->inv_end);
		return r;
	}

	/* Nothing fails from here on. */
	guestmem_reshape_commit(reshape);
	kvm_gmem_unmap_from_guest(c);

	return 0;
}

/*
 * Begin an invalidation, remove the guest's mappings of the pages that change, and split
 * the folios that cross an end of the range.  If that fails, e.g. for lack of memory,
 * nothing has changed, and the invalidation is over.
 */
static int kvm_gmem_take_folios_from_guest(struct gmem_conversion *c)
{
	struct guestmem_reshape reshape;
	int r;

	r = guestmem_reshape_prepare(&reshape, GMEM_I(c->inode)->hugetlb,
				     c->inode->i_mapping, c->start, c->end, &c->err_index);
	if (r) {
		c->err_index = max(c->start, c->err_index);
		return r;
	}

	/*
	 * The guest maps shared memory as it was before user space isolated pages of it.
	 * But a mapping of private memory is never larger than the folio, and if the folio
	 * is smaller than a huge mapping then a fault maps one page of it at a time.
	 *
	 * The folios are frozen meanwhile.  An architecture that knows to whom memory
	 * belongs may keep some, with a reference.
	 */
	if (!c->to_private && guestmem_reshape_max_order(&reshape) < PMD_ORDER &&
	    !IS_ENABLED(CONFIG_HAVE_KVM_ARCH_GMEM_MAY_CONVERT)) {
		c->inv_start = c->start;
		c->inv_end = c->end;
		r = kvm_gmem_take_pages_from_guest(c);
		if (!r)
			guestmem_reshape_commit(&reshape);
	} else {
		r = kvm_gmem_take_huge_from_guest(c, &reshape);
	}

	if (r)
		guestmem_reshape_abort(&reshape);
	return r;
}

static int kvm_gmem_take_from_guest(struct gmem_conversion *c)
{
	if (GMEM_I(c->inode)->hugetlb)
		return kvm_gmem_take_folios_from_guest(c);

	return kvm_gmem_take_pages_from_guest(c);
}

static int kvm_gmem_convert(struct gmem_conversion *c)
{
	pgoff_t nr_pages = 1UL << kvm_gmem_unit_order(c->inode);
	int r;

	kvm_gmem_assert_locked(c->inode);

	kvm_gmem_trim_range(c);
	if (c->start == c->end)
		return 0;

	c->inv_start = round_down(c->start, nr_pages);
	c->inv_end = round_up(c->end, nr_pages);

	/* A broken VM may keep the memory that it has. */
	if (!c->to_private && kvm_gmem_is_bugged(c->inode))
		return -EIO;

	r = kvm_gmem_isolate_poison_range(c->inode, c->start, c->end, &c->err_index);
	if (r)
		return r;

	r = kvm_gmem_prepare_state(c);
	if (r)
		return r;

	if (c->to_private)
		r = kvm_gmem_take_from_host(c);
	if (!r)
		r = kvm_gmem_take_from_guest(c);
	if (r) {
		kvm_gmem_collapse_state(c);
		return r;
	}

	/* Nothing fails from here on, unless a VM or hardware has just broken. */
	r = kvm_gmem_reclaim(c);
	if (r)
		kvm_gmem_collapse_state(c);
	else
		kvm_gmem_flip_state(c);

	kvm_gmem_invalidate_end(c->inode, c->inv_start, c->inv_end);

	/* Otherwise, all of the range is shared now. */
	if (c->to_private || r)
		kvm_gmem_merge(c);

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

	if (kvm ? kvm_arch_has_private_mem(kvm) : kvm_arch_supports_private_mem())
		return KVM_MEMORY_ATTRIBUTE_PRIVATE;

	return 0;
}

static void kvm_gmem_count_conversion(struct kvm *kvm, struct gmem_conversion *c, int r)
{
	struct kvm_vm_stat_generic *stat = &kvm->stat.generic;

	if (r) {
		atomic64_inc(&stat->gmem_conversions_failed);
		return;
	}

	atomic64_inc(&stat->gmem_conversions);
	atomic64_add(c->nr_pages, &stat->gmem_pages_converted);
}

static int kvm_gmem_set_attributes(struct file *file, struct kvm_memory_attributes2 *attrs,
				   pgoff_t *err_index)
{
	struct address_space *mapping = file->f_mapping;
	struct gmem_file *f = file->private_data;
	struct inode *inode = mapping->host;
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

	for (;;) {
		struct gmem_conversion c = {
			.inode = inode,
			.start = attrs->offset >> PAGE_SHIFT,
			.end = (attrs->offset + attrs->size) >> PAGE_SHIFT,
			.to_private = attrs->attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE,
			.may_drain = nr_drains++ < GMEM_MAX_DRAINS,
			.err_index = ULONG_MAX,
		};

		if (down_write_killable(&mapping->invalidate_lock))
			return -EINTR;

		r = kvm_gmem_convert(&c);
		kvm_gmem_count_units(inode);

		filemap_invalidate_unlock(mapping);
		if (kvm_gmem_drain(&c))
			continue;

		kvm_gmem_count_conversion(f->kvm, &c, r);
		trace_kvm_gmem_convert(inode, c.start, c.end, c.to_private, r);

		*err_index = c.err_index;
		return r;
	}
}

/* Whether a conversion that fails with @r fails because of a certain page. */
static bool kvm_gmem_error_has_offset(int r)
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

	r = kvm_gmem_set_attributes(file, &attrs, &err_index);

	/* Without invalidate_lock, as the user memory may be a mapping of this very file. */
	if (kvm_gmem_error_has_offset(r) && err_index != ULONG_MAX &&
	    put_user((u64)err_index << PAGE_SHIFT, &uattrs->error_offset))
		return -EFAULT;

	return r;
}
