// SPDX-License-Identifier: GPL-2.0
/*
 * Take memory of guest_memfd away from guests.
 *
 * kvm_gmem_invalidate_start() begins the invalidation of a range: until it ends, no
 * vCPU maps a page of the range.  kvm_gmem_invalidate_unmap() removes the guests'
 * mappings of parts of the range, as often as is necessary.  Guests can get at these
 * parts until kvm_gmem_invalidate_flush().  kvm_gmem_invalidate_end() ends it.
 *
 * kvm_gmem_zap_start() begins an invalidation and unmaps all of the range, with
 * mmu_lock taken once.
 *
 * For most types of VM, memory that is unmapped belongs to the host.  For others, the
 * architecture has to take it back, see kvm_gmem_reclaim_folio().
 *
 * This file calls no other file of guest_memfd.
 */
#include <linux/error-injection.h>
#include <linux/fs.h>
#include <linux/guestmem.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/pagemap.h>

#include "kvm_mm.h"
#include "guest_memfd.h"

#define kvm_gmem_for_each_file(f, inode) \
	list_for_each_entry(f, &GMEM_I(inode)->gmem_file_list, entry)

/* The memslots that have pages of a range, from @index on. */
struct gmem_slots {
	struct xarray *bindings;
	pgoff_t index;
	pgoff_t end;
};

static struct gmem_slots kvm_gmem_slots(struct gmem_file *f, pgoff_t start, pgoff_t end)
{
	return (struct gmem_slots) {
		.bindings = &f->bindings,
		.index = start,
		.end = end,
	};
}

/* Returns the next memslot, or NULL. */
static struct kvm_memory_slot *kvm_gmem_next_slot(struct gmem_slots *slots)
{
	struct kvm_memory_slot *slot;

	/* Most of the time there's only one memslot, which has all of the range. */
	if (slots->index >= slots->end)
		return NULL;

	slot = xa_load(slots->bindings, slots->index);
	if (!slot)
		slot = xa_find(slots->bindings, &slots->index, slots->end - 1, XA_PRESENT);
	if (slot)
		slots->index = slot->gmem.pgoff + slot->npages;

	return slot;
}

#define kvm_gmem_for_each_slot(slot, f, start, end)				\
	for (struct gmem_slots __slots = kvm_gmem_slots(f, start, end);	\
	     ((slot) = kvm_gmem_next_slot(&__slots));)

/* Returns the filter for all gfns that guests may have mapped from the file. */
enum kvm_gfn_range_filter kvm_gmem_get_invalidate_filter(struct inode *inode)
{
	/* A page is private or shared. */
	if (gmem_in_place_conversion)
		return KVM_FILTER_PRIVATE | KVM_FILTER_SHARED;

	if (GMEM_I(inode)->flags & GUEST_MEMFD_FLAG_INIT_SHARED)
		return KVM_FILTER_SHARED;

	/* The memslot is GMEM_ONLY, i.e. has both private and shared gfns. */
	if (GMEM_I(inode)->flags & GUEST_MEMFD_FLAG_MMAP)
		return KVM_FILTER_PRIVATE | KVM_FILTER_SHARED;

	return KVM_FILTER_PRIVATE;
}

/* Returns the part of a range that is in a memslot. */
static struct kvm_gfn_range kvm_gmem_gfn_range(struct kvm_memory_slot *slot,
					       pgoff_t start, pgoff_t end)
{
	pgoff_t pgoff = slot->gmem.pgoff;

	return (struct kvm_gfn_range) {
		.start = slot->base_gfn + max(pgoff, start) - pgoff,
		.end = slot->base_gfn + min(pgoff + slot->npages, end) - pgoff,
		.slot = slot,
		.may_block = true,
	};
}

/* Unmap the part of a range that is in a memslot.  Returns whether to flush TLBs. */
static bool kvm_gmem_unmap_slot(struct kvm *kvm, struct kvm_memory_slot *slot,
				pgoff_t start, pgoff_t end,
				enum kvm_gfn_range_filter attr_filter)
{
	struct kvm_gfn_range range = kvm_gmem_gfn_range(slot, start, end);
	bool flush;

	lockdep_assert_held(&kvm->mmu_lock);

	range.attr_filter = attr_filter;
	flush = kvm_mmu_unmap_gfn_range(kvm, &range);
#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_INVALIDATE
	kvm_arch_gmem_invalidate_range(kvm, &range);
#endif
	return flush;
}

static void kvm_gmem_invalidate_start_file(struct gmem_file *f, pgoff_t start, pgoff_t end)
{
	struct gmem_slots slots = kvm_gmem_slots(f, start, end);
	struct kvm_memory_slot *slot = kvm_gmem_next_slot(&slots);
	struct kvm *kvm = f->kvm;
	struct kvm_gfn_range range;

	if (!slot)
		return;

	KVM_MMU_LOCK(kvm);
	kvm_mmu_invalidate_start(kvm);
	do {
		range = kvm_gmem_gfn_range(slot, start, end);
		kvm_mmu_invalidate_range_add(kvm, range.start, range.end);
		slot = kvm_gmem_next_slot(&slots);
	} while (slot);
	KVM_MMU_UNLOCK(kvm);
}

/* Begin the invalidation of a range.  Unmaps nothing. */
void kvm_gmem_invalidate_start(struct inode *inode, pgoff_t start, pgoff_t end)
{
	struct gmem_file *f;

	kvm_gmem_assert_bindings_stable(inode);

	kvm_gmem_for_each_file(f, inode)
		kvm_gmem_invalidate_start_file(f, start, end);
}

static void kvm_gmem_zap_start_file(struct gmem_file *f, pgoff_t start, pgoff_t end,
				    enum kvm_gfn_range_filter attr_filter)
{
	struct gmem_slots slots = kvm_gmem_slots(f, start, end);
	struct kvm_memory_slot *slot = kvm_gmem_next_slot(&slots);
	struct kvm *kvm = f->kvm;
	bool flush = false;

	if (!slot)
		return;

	KVM_MMU_LOCK(kvm);
	kvm_mmu_invalidate_start(kvm);
	do {
		flush |= kvm_gmem_unmap_slot(kvm, slot, start, end, attr_filter);
		slot = kvm_gmem_next_slot(&slots);
	} while (slot);

	/* TLBs may still have pages that a conversion has unmapped. */
	if (flush || f->needs_flush)
		kvm_flush_remote_tlbs(kvm);
	KVM_MMU_UNLOCK(kvm);

	/* Without mmu_lock, flushing caches is slow. */
	kvm_arch_guest_memory_reclaimed(kvm);
}

/* Begin the invalidation of a range, and unmap all of the range. */
void kvm_gmem_zap_start(struct inode *inode, pgoff_t start, pgoff_t end,
			enum kvm_gfn_range_filter attr_filter)
{
	struct gmem_file *f;

	kvm_gmem_assert_bindings_stable(inode);

	kvm_gmem_for_each_file(f, inode)
		kvm_gmem_zap_start_file(f, start, end, attr_filter);
}

static void kvm_gmem_invalidate_end_file(struct gmem_file *f, pgoff_t start, pgoff_t end)
{
	struct gmem_slots slots = kvm_gmem_slots(f, start, end);
	struct kvm *kvm = f->kvm;

	if (!kvm_gmem_next_slot(&slots))
		return;

	KVM_MMU_LOCK(kvm);
	kvm_mmu_invalidate_end(kvm);
	KVM_MMU_UNLOCK(kvm);
}

/* End an invalidation, of the very range that it was begun for. */
void kvm_gmem_invalidate_end(struct inode *inode, pgoff_t start, pgoff_t end)
{
	struct gmem_file *f;

	kvm_gmem_assert_bindings_stable(inode);

	kvm_gmem_for_each_file(f, inode)
		kvm_gmem_invalidate_end_file(f, start, end);
}

/* Unmap all memory that one VM has of the file. */
void kvm_gmem_zap_file(struct inode *inode, struct gmem_file *f)
{
	kvm_gmem_assert_bindings_stable(inode);

	kvm_gmem_zap_start_file(f, 0, -1ul, kvm_gmem_get_invalidate_filter(inode));
	kvm_gmem_invalidate_end_file(f, 0, -1ul);
}

/*
 * Unmap a part of a range whose invalidation has begun, of which there may be many.
 * The guest can get at the memory until kvm_gmem_invalidate_flush(), which the caller
 * calls before it does anything with the memory.  mmu_lock is dropped meanwhile: the
 * invalidation keeps vCPUs from mapping anything there, and no other path reuses or
 * changes the memory without invalidate_lock.
 */
void kvm_gmem_invalidate_unmap(struct inode *inode, pgoff_t start, pgoff_t end,
			       enum kvm_gfn_range_filter attr_filter)
{
	struct kvm_memory_slot *slot;
	struct gmem_file *f;

	kvm_gmem_assert_locked(inode);

	kvm_gmem_for_each_file(f, inode) {
		kvm_gmem_for_each_slot(slot, f, start, end) {
			KVM_MMU_LOCK(f->kvm);
			if (kvm_gmem_unmap_slot(f->kvm, slot, start, end, attr_filter))
				WRITE_ONCE(f->needs_flush, true);
			KVM_MMU_UNLOCK(f->kvm);
		}
	}
}

/* Flush from TLBs the pages that kvm_gmem_invalidate_unmap() has unmapped. */
void kvm_gmem_invalidate_flush(struct inode *inode)
{
	struct gmem_file *f;

	kvm_gmem_assert_locked(inode);

	kvm_gmem_for_each_file(f, inode) {
		if (!f->needs_flush)
			continue;

		/* memory_failure() may look meanwhile, see kvm_gmem_zap_poison(). */
		kvm_flush_remote_tlbs(f->kvm);
		WRITE_ONCE(f->needs_flush, false);
		kvm_arch_guest_memory_reclaimed(f->kvm);
	}
}

/* Unmap the failed pages of a folio.  Returns whether to flush TLBs. */
static bool kvm_gmem_unmap_poison(struct gmem_file *f, struct folio *folio,
				  enum kvm_gfn_range_filter attr_filter)
{
	struct kvm_memory_slot *slot;
	bool flush = false;
	pgoff_t index;

	for (index = guestmem_next_poison(folio, folio->index); index != ULONG_MAX;
	     index = guestmem_next_poison(folio, index + 1)) {
		kvm_gmem_for_each_slot(slot, f, index, index + 1) {
			KVM_MMU_LOCK(f->kvm);
			flush |= kvm_gmem_unmap_slot(f->kvm, slot, index, index + 1,
						     attr_filter);
			KVM_MMU_UNLOCK(f->kvm);
		}
	}

	return flush;
}

/*
 * Unmap the failed pages of a folio, and no other page: some types of guests lose the
 * contents of a page that is unmapped.  A fault that has seen all of the folio must not
 * map it, though, i.e. the invalidation is that of the whole folio.
 */
void kvm_gmem_zap_poison(struct inode *inode, struct folio *folio)
{
	pgoff_t start = folio->index, end = start + folio_nr_pages(folio);
	enum kvm_gfn_range_filter attr_filter;
	struct gmem_file *f;
	bool flush;

	lockdep_assert_held(&GMEM_I(inode)->bindings_lock);

	attr_filter = kvm_gmem_get_invalidate_filter(inode);
	kvm_gmem_invalidate_start(inode, start, end);

	kvm_gmem_for_each_file(f, inode) {
		flush = kvm_gmem_unmap_poison(f, folio, attr_filter);

		/* A conversion may have unmapped the page and not flushed TLBs yet. */
		if (!flush && !READ_ONCE(f->needs_flush))
			continue;

		kvm_flush_remote_tlbs(f->kvm);
		kvm_arch_guest_memory_reclaimed(f->kvm);
	}

	kvm_gmem_invalidate_end(inode, start, end);
}

/* Whether there's a vCPU that may be handling a page fault, or is about to. */
bool kvm_gmem_vcpu_is_running(struct inode *inode)
{
	struct kvm_vcpu *vcpu;
	struct gmem_file *f;
	unsigned long i;

	kvm_gmem_assert_bindings_stable(inode);

	kvm_gmem_for_each_file(f, inode) {
		kvm_for_each_vcpu(i, vcpu, f->kvm) {
			if (mutex_is_locked(&vcpu->mutex))
				return true;
		}
	}

	return false;
}

/*
 * Whether there's a VM that may not have given its memory back.  Not inlined, so that a test
 * can have all callers take a VM for bugged.
 */
noinline bool kvm_gmem_is_bugged(struct inode *inode)
{
	struct gmem_file *f;

	kvm_gmem_assert_bindings_stable(inode);

	kvm_gmem_for_each_file(f, inode) {
		if (f->kvm->vm_bugged)
			return true;
	}

	return false;
}
ALLOW_ERROR_INJECTION(kvm_gmem_is_bugged, TRUE);

#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_SPLIT
/* Whether a memslot has both the page at @index and the one before. */
static bool kvm_gmem_get_edge(struct kvm_memory_slot *slot, pgoff_t index,
			      struct kvm_gmem_edge *edge)
{
	if (!slot || index <= slot->gmem.pgoff || index >= slot->gmem.pgoff + slot->npages)
		return false;

	edge->slot = slot;
	edge->gfn = slot->base_gfn + index - slot->gmem.pgoff;
	return true;
}

static int kvm_gmem_split_mappings_file(struct gmem_file *f, pgoff_t start, pgoff_t end)
{
	struct kvm_memory_slot *slot = xa_load(&f->bindings, start);
	struct kvm_gmem_edge edges[2];
	int nr_edges;

	nr_edges = kvm_gmem_get_edge(slot, start, &edges[0]);
	/* Most of the time there's only one memslot. */
	if (!slot || end > slot->gmem.pgoff + slot->npages)
		slot = xa_load(&f->bindings, end);
	nr_edges += kvm_gmem_get_edge(slot, end, &edges[nr_edges]);
	if (!nr_edges)
		return 0;

	return kvm_arch_gmem_split_mappings(f->kvm, edges, nr_edges);
}
#endif

/*
 * Split guest mappings that have both pages of a range and other pages, with all pages
 * that such a mapping may have being invalidated.  Returns 0, or an error with nothing
 * changed.
 */
int kvm_gmem_split_mappings(struct inode *inode, pgoff_t start, pgoff_t end)
{
#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_SPLIT
	struct gmem_file *f;
	int r;

	kvm_gmem_assert_bindings_stable(inode);

	kvm_gmem_for_each_file(f, inode) {
		r = kvm_gmem_split_mappings_file(f, start, end);
		if (r)
			return r;
	}
#endif
	return 0;
}

#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_MAY_CONVERT
static int kvm_gmem_may_convert_slot(struct kvm *kvm, struct kvm_memory_slot *slot,
				     pgoff_t start, pgoff_t end, bool to_private,
				     struct kvm_gmem_request *request, pgoff_t *err_index)
{
	struct kvm_gfn_range range = kvm_gmem_gfn_range(slot, start, end);
	bool first = request && !request->vcpu;
	gfn_t gfn;
	int r;

	KVM_MMU_LOCK(kvm);
	r = kvm_arch_gmem_may_convert(kvm, &range, to_private, request, &gfn);
	KVM_MMU_UNLOCK(kvm);

	if (r) {
		*err_index = kvm_gmem_get_index(slot, gfn);
	} else if (first && request->vcpu) {
		request->range = range;
		request->to_private = to_private;
	}

	return r;
}
#endif

/*
 * Ask architecture code whether a range may be converted, and find the vCPU that has asked for
 * that.  The answer holds for as long as the range is being invalidated, and for a request as
 * long as the vCPU waits.  Returns 0, or an error and the page that it stems from.
 */
int kvm_gmem_may_convert(struct inode *inode, pgoff_t start, pgoff_t end, bool to_private,
			 struct kvm_gmem_request *request, pgoff_t *err_index)
{
#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_MAY_CONVERT
	struct kvm_memory_slot *slot;
	struct gmem_file *f;
	int r;

	kvm_gmem_assert_bindings_stable(inode);

	kvm_gmem_for_each_file(f, inode) {
		kvm_gmem_for_each_slot(slot, f, start, end) {
			r = kvm_gmem_may_convert_slot(f->kvm, slot, start, end, to_private,
						      request, err_index);
			if (r)
				return r;
		}
	}
#endif
	return 0;
}

/*
 * Let architecture code do what a vCPU has asked for.  If that fails, e.g. as the vCPU doesn't
 * wait any more, nothing has changed.
 */
int kvm_gmem_complete_request(struct kvm_gmem_request *request, pgoff_t *err_index)
{
	int r = 0;
#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_MAY_CONVERT
	gfn_t gfn;

	if (!request->vcpu)
		return 0;

	KVM_MMU_LOCK(request->vcpu->kvm);
	r = kvm_arch_gmem_complete_request(request, &gfn);
	KVM_MMU_UNLOCK(request->vcpu->kvm);

	if (r)
		*err_index = kvm_gmem_get_index(request->range.slot, gfn);
#endif
	return r;
}

/* As above, for the failed pages of a folio. */
int kvm_gmem_may_convert_poison(struct inode *inode, struct folio *folio)
{
#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_MAY_CONVERT
	pgoff_t index, err_index;
	int r;

	for (index = guestmem_next_poison(folio, folio->index); index != ULONG_MAX;
	     index = guestmem_next_poison(folio, index + 1)) {
		r = kvm_gmem_may_convert(inode, index, index + 1, false, NULL, &err_index);
		if (r)
			return r;
	}
#endif
	return 0;
}

#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_RECLAIM
/*
 * Take the part of a folio within [start, end) back from the guest.  memory_failure()
 * may take pages out of the direct map, but not as long as the folio is locked, and the
 * architecture must not access those that have failed, not even to flush them.
 */
int kvm_gmem_reclaim_folio(struct folio *folio, pgoff_t start, pgoff_t end)
{
	int r = 0;

	VM_WARN_ON_ONCE_FOLIO(!folio_test_locked(folio), folio);

	start = max(start, folio->index);
	end = min(end, folio_next_index(folio));
	if (folio_test_hwpoison(folio)) {
		for (; !r && start < end; start++)
			r = kvm_arch_gmem_reclaim(folio_file_pfn(folio, start), 1,
						  guestmem_page_is_poisoned(folio, start));
		return r;
	}

	return kvm_arch_gmem_reclaim(folio_file_pfn(folio, start), end - start, false);
}
#endif
