// SPDX-License-Identifier: GPL-2.0
/*
 * guest_memfd files that are made of hugetlb pages.
 *
 * mm/guestmem_units.c allocates and frees huge pages, and mm/guestmem_reshape.c splits
 * them.  This file tells mm how large folios may be, and decides what happens
 * to the parts of a huge page: which of them are isolated, for user space or because
 * memory has failed, and which are freed, or zeroed, when a hole is punched.
 *
 * This file calls guest_memfd_state.c and guest_memfd_invalidate.c.
 */
#include <linux/fs.h>
#include <linux/guestmem.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/xarray.h>

#include "guest_memfd.h"

/* Returns the order of a huge page of the file before it is split. */
unsigned int kvm_gmem_unit_order(struct inode *inode)
{
	struct guestmem_hugetlb *gh = GMEM_I(inode)->hugetlb;

	return gh ? guestmem_hugetlb_order(gh) : 0;
}

/*
 * Returns the largest order that the folio of a page may have: the pages of a folio are
 * all private or all shared.
 */
static unsigned int kvm_gmem_wanted_order(struct address_space *mapping, pgoff_t index)
{
	struct inode *inode = mapping->host;
	unsigned int order = kvm_gmem_unit_order(inode);
	pgoff_t start = round_down(index, 1UL << order), end = start + (1UL << order);
	bool private = kvm_gmem_is_private_mem(inode, index);

	kvm_gmem_assert_state_stable(inode);

	start = kvm_gmem_find_prev_end(inode, start, index, !private);
	end = kvm_gmem_find_next_start(inode, index, end, !private);

	return guestmem_hugetlb_block_order(GMEM_I(inode)->hugetlb, index, start, end);
}

/*
 * Whether the host maps memory of the file as huge as it can.  If the memory may become
 * private, page by page, then the host maps it page by page, too.
 */
bool kvm_gmem_is_mapped_huge(struct inode *inode)
{
	return GMEM_I(inode)->hugetlb && !GMEM_I(inode)->may_convert;
}

static void kvm_gmem_add_counts(struct kvm *kvm, const struct guestmem_counts *counts)
{
	struct kvm_vm_stat_generic *stat = &kvm->stat.generic;

	atomic64_add(counts->splits, &stat->gmem_splits);
	atomic64_add(counts->merges, &stat->gmem_merges);
	atomic64_add(counts->split_units, &stat->gmem_split_units);
}

/*
 * Add what has happened to the huge pages of a file since the last time to the statistics of
 * its VM.  If several VMs had files of one inode, this would be the first of them.
 */
void kvm_gmem_count_units(struct inode *inode)
{
	struct gmem_inode *gi = GMEM_I(inode);
	struct guestmem_counts counts;
	struct gmem_file *f;

	kvm_gmem_assert_bindings_stable(inode);

	/* kvm_gmem_remove_hugetlb() counts the end of a file that is closed. */
	if (!gi->hugetlb || list_empty(&gi->gmem_file_list) ||
	    !guestmem_hugetlb_take_counts(gi->hugetlb, &counts))
		return;

	f = list_first_entry(&gi->gmem_file_list, struct gmem_file, entry);
	kvm_gmem_add_counts(f->kvm, &counts);
}

/* Returns the folio of a page, with a reference.  Allocates a huge page if need be. */
struct folio *kvm_gmem_get_hugetlb_folio(struct inode *inode, pgoff_t index)
{
	struct gmem_inode *gi = GMEM_I(inode);
	struct folio *folio;

	kvm_gmem_assert_state_stable(inode);

	folio = guestmem_hugetlb_get_folio(gi->hugetlb, inode->i_mapping, index,
					   &gi->policy, kvm_gmem_wanted_order);
	/* The memory may have failed before it was part of the file. */
	if (!IS_ERR(folio) && folio_test_hwpoison(folio))
		WRITE_ONCE(gi->poisoned, true);

	/* A huge page may be split from the start. */
	kvm_gmem_count_units(inode);

	return folio;
}

/*
 * Whether user space may have pinned all of a large folio.  There is no use in waiting for
 * that with invalidate_lock held.
 */
static bool kvm_gmem_is_pinned_huge(struct inode *inode, struct folio *folio)
{
	if (folio_order(folio) != PMD_ORDER && folio_order(folio) != PUD_ORDER)
		return false;

	return kvm_gmem_is_mapped_huge(inode) && !folio_test_hugetlb(folio) &&
	       folio_ref_count(folio) > folio_nr_pages(folio) + folio_mapcount(folio);
}

/*
 * Unmap a folio that is larger than @order from user space, unless it is pinned.  All of it
 * is going to be mapped again, by smaller mappings.
 */
static int kvm_gmem_unmap_larger_folio(struct inode *inode, pgoff_t index,
				       unsigned int order)
{
	struct address_space *mapping = inode->i_mapping;
	struct folio *folio = xa_load(&mapping->i_pages, index);

	if (!folio || folio_order(folio) <= order)
		return 0;

	if (kvm_gmem_is_pinned_huge(inode, folio))
		return -EAGAIN;

	if (folio_mapped(folio))
		unmap_mapping_pages(mapping, folio->index, folio_nr_pages(folio), false);

	return 0;
}

/*
 * Make a folio of its own out of a block that user space is about to map, by one entry of a
 * page table, and may pin from then on.  In files that convert, the block is a single page,
 * and a reference then tells exactly which page is in use.  For the guest nothing changes.
 * Does nothing if the block isn't part of a larger folio anymore.  Returns -EAGAIN if that
 * folio is in use.
 */
int kvm_gmem_isolate_block(struct inode *inode, pgoff_t index, unsigned int order)
{
	struct address_space *mapping = inode->i_mapping;
	struct guestmem_reshape reshape;
	pgoff_t err_index;
	int r;

	kvm_gmem_assert_locked(inode);

	index = round_down(index, 1UL << order);
	if (!kvm_gmem_is_shared_mem(inode, index))
		return -EFAULT;

	r = kvm_gmem_unmap_larger_folio(inode, index, order);
	if (!r)
		r = guestmem_reshape_prepare_block(&reshape, GMEM_I(inode)->hugetlb, mapping,
						   index, order, &err_index);
	if (!r) {
		guestmem_reshape_commit(&reshape);
		kvm_gmem_count_units(inode);
	}

	return r;
}

/*
 * Split a huge page, or a piece of one, around a page that has failed.  Takes
 * invalidate_lock.  Returns -EHWPOISON if the page at @index has failed.
 */
int kvm_gmem_isolate_poison(struct inode *inode, pgoff_t index)
{
	struct address_space *mapping = inode->i_mapping;
	struct folio *folio;
	pgoff_t err_index;
	int r;

	if (down_write_killable(&mapping->invalidate_lock))
		return -EINTR;

	folio = xa_load(&mapping->i_pages, index);
	if (folio && kvm_gmem_is_pinned_huge(inode, folio))
		r = guestmem_page_is_poisoned(folio, index) ? -EHWPOISON : -EAGAIN;
	else
		r = guestmem_isolate_poison(GMEM_I(inode)->hugetlb, mapping, index, &err_index);
	kvm_gmem_count_units(inode);
	filemap_invalidate_unlock(mapping);

	return r;
}

/*
 * Split huge pages and pieces around all failed pages of a range, whose other pages then
 * convert, and merge, like any other memory.
 */
int kvm_gmem_isolate_poison_range(struct inode *inode, pgoff_t start, pgoff_t end,
				  pgoff_t *err_index)
{
	struct address_space *mapping = inode->i_mapping;
	unsigned long index;
	struct folio *folio;
	pgoff_t err;
	int r;

	kvm_gmem_assert_locked(inode);

	if (!GMEM_I(inode)->hugetlb || !READ_ONCE(GMEM_I(inode)->poisoned))
		return 0;

	xa_for_each_range(&mapping->i_pages, index, folio, start, end - 1) {
		r = guestmem_isolate_poison(GMEM_I(inode)->hugetlb, mapping, index, &err);
		if (r && r != -EHWPOISON) {
			*err_index = max(start, err);
			return r;
		}

		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}

	return 0;
}

static int kvm_gmem_zero_pages(struct folio *folio, pgoff_t start, pgoff_t end)
{
#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_RECLAIM
	/*
	 * The host can't write to private memory.  If it can't have it back then the
	 * hole isn't one.
	 */
	if (kvm_arch_gmem_reclaim(folio_file_pfn(folio, start), end - start, false)) {
		pr_err_ratelimited("guest_memfd: cannot zero private memory at pfn 0x%llx\n",
				   folio_file_pfn(folio, start));
		return -EIO;
	}
#endif
	guestmem_hugetlb_zero_folio(folio, start - folio->index, end - start);
	return 0;
}

/* Zero the pages of a part of a folio that haven't failed. */
static int kvm_gmem_zero_folio(struct folio *folio, pgoff_t start, pgoff_t end)
{
	int r = 0;

	VM_WARN_ON_ONCE_FOLIO(!folio_test_locked(folio), folio);

	if (!folio_test_hwpoison(folio))
		return kvm_gmem_zero_pages(folio, start, end);

	for (; start < end; start++) {
		if (!guestmem_page_is_poisoned(folio, start))
			r = kvm_gmem_zero_pages(folio, start, start + 1) ?: r;
	}

	return r;
}

/*
 * Zero a part of a huge page in place, with the part invalidated.  A fault that is in
 * flight elsewhere in the huge page may map all of it again, which does no harm, as the
 * memory stays where it is: a guest that writes while the hole is being punched gets to
 * see either the data that it wrote or zeroes.
 */
static int kvm_gmem_zero_partial(struct inode *inode, pgoff_t start, pgoff_t end)
{
	pgoff_t next, err_index;
	struct folio *folio;
	int r = 0;

	kvm_gmem_assert_locked(inode);

	for (; start < end; start = next) {
		/* The pages next to the poison are zeroed even if that fails. */
		if (READ_ONCE(GMEM_I(inode)->poisoned))
			guestmem_isolate_poison(GMEM_I(inode)->hugetlb, inode->i_mapping, start,
						&err_index);

		/*
		 * If a page isn't there, then the whole huge page isn't there, and is
		 * going to be zeroed when it is allocated.
		 */
		folio = filemap_get_folio(inode->i_mapping, start);
		if (IS_ERR(folio))
			break;

		next = min(end, folio_next_index(folio));

		folio_lock(folio);
		r = kvm_gmem_zero_folio(folio, start, next) ?: r;
		folio_unlock(folio);
		folio_put(folio);
		cond_resched();
	}

	return r;
}

/*
 * Remove huge pages that are entirely part of a hole, and zero the parts of others.
 * Generic truncation must not see a part of a huge page, it would split it.
 */
int kvm_gmem_punch_hugetlb(struct inode *inode, pgoff_t start, pgoff_t end)
{
	struct guestmem_hugetlb *gh = GMEM_I(inode)->hugetlb;
	pgoff_t nr = 1UL << guestmem_hugetlb_order(gh), first, last;
	int r = 0;

	kvm_gmem_assert_locked(inode);

	end = min_t(pgoff_t, end, i_size_read(inode) >> PAGE_SHIFT);
	if (start >= end)
		return 0;

	first = round_up(start, nr);
	last = round_down(end, nr);

	/* A VM that is broken may have kept the memory that is to be zeroed. */
	if ((start < first || last < end) && kvm_gmem_is_bugged(inode))
		return -EIO;

	/* The hole begins and ends within one and the same page. */
	if (first > last)
		return kvm_gmem_zero_partial(inode, start, end);

	if (start < first)
		r = kvm_gmem_zero_partial(inode, start, first);
	if (first < last)
		guestmem_hugetlb_remove(gh, inode->i_mapping, first, last);
	if (last < end)
		r = kvm_gmem_zero_partial(inode, last, end) ?: r;
	return r;
}

/* Return all huge pages of a file that has no user anymore, and was that of a VM. */
void kvm_gmem_remove_hugetlb(struct inode *inode, struct kvm *kvm)
{
	struct guestmem_hugetlb *gh = GMEM_I(inode)->hugetlb;
	struct guestmem_counts counts;

	filemap_invalidate_lock(inode->i_mapping);
	guestmem_hugetlb_remove(gh, inode->i_mapping, 0, ULONG_MAX);
	filemap_invalidate_unlock(inode->i_mapping);
	if (guestmem_hugetlb_take_counts(gh, &counts))
		kvm_gmem_add_counts(kvm, &counts);
	guestmem_hugetlb_sync(gh);
}
