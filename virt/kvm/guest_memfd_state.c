// SPDX-License-Identifier: GPL-2.0
/*
 * The state of guest_memfd: which pages are private, and which are shared.
 *
 * All pages of a file start out the same, private or, with
 * GUEST_MEMFD_FLAG_INIT_SHARED, shared.  One bit per page says whether the page
 * is converted, i.e. not as it was at the start.  The bits come in chunks of
 * GMEM_CHUNK_PAGES, in an xarray, and exist only where a chunk is mixed:
 *
 *   NULL, or 0		no page of the chunk is converted
 *   1			all pages of the chunk are converted
 *   a gmem_chunk	look at the bit
 *
 * One value may stand for many chunks.  For chunks without an entry, a conversion
 * stores as few entries as possible, each as large as a slot of a node on some level
 * of the xarray.  A later conversion that covers only a part of such an entry splits it.
 *
 * All of this is proportional to the number of conversions, not to the size of a
 * conversion, nor to the size of the file, which may be anything.  No code looks at
 * bits of pages behind the end of the file.
 *
 * Any page may be converted at any time, allocated or not.  Bits are changed with
 * invalidate_lock held for write.  A task that holds the lock, for read or for write,
 * gets an answer that is and stays true.  Other tasks may look under RCU, and have
 * to deal with a stale answer.  KVM's page fault handlers do so as follows: they take
 * a snapshot of mmu_invalidate_seq before they look, and check with mmu_lock held
 * that no invalidation has started since.  Every conversion has an invalidation.
 *
 * This file looks up the state, and calls no other file of guest_memfd.
 */
#include <linux/fs.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/xarray.h>

#include "guest_memfd.h"
#include "guest_memfd_state.h"

#ifdef CONFIG_HAVE_KVM_GMEM_CONVERSION_OPT_IN
/*
 * Off: a file is either private or shared, and the VM's memory attributes decide
 * whether a gfn is private.  On: the file decides, page by page.
 */
bool __ro_after_init gmem_in_place_conversion;
EXPORT_SYMBOL_FOR_KVM_INTERNAL(gmem_in_place_conversion);
module_param(gmem_in_place_conversion, bool, 0444);
#endif

void kvm_gmem_init_state(struct inode *inode)
{
	xa_init_flags(&GMEM_I(inode)->converted, XA_FLAGS_ACCOUNT);
	GMEM_I(inode)->uniform_chunk = ULONG_MAX;
}

/* Free the state of a file that has no user.  Other tasks may be looking under RCU. */
void kvm_gmem_free_state(struct inode *inode)
{
	struct xarray *xa = &GMEM_I(inode)->converted;
	unsigned long index;
	void *entry;

	kvm_gmem_assert_exclusive(inode);

	xa_for_each(xa, index, entry) {
		if (!xa_is_value(entry))
			kfree_rcu((struct gmem_chunk *)entry, rcu);
	}
	xa_destroy(xa);
}

/*
 * Whether a page of the file is private, i.e. inaccessible to user space.  The
 * answer is stable if the caller holds invalidate_lock, see above.
 */
bool kvm_gmem_is_private_mem(struct inode *inode, pgoff_t index)
{
	bool converted = false;
	void *entry;

	guard(rcu)();

	entry = xa_load(&GMEM_I(inode)->converted, index >> GMEM_CHUNK_SHIFT);
	if (xa_is_value(entry))
		converted = entry == GMEM_ALL_CONVERTED;
	else if (entry)
		converted = test_bit(index & (GMEM_CHUNK_PAGES - 1),
				     ((struct gmem_chunk *)entry)->converted);

	return kvm_gmem_starts_private(inode) != converted;
}

/*
 * Whether a gfn is private, if guest_memfd decides that.  A gfn without memory
 * isn't private, as private memory needs guest_memfd.  The caller holds kvm->srcu or
 * slots_lock, and needs no other lock: slot->gmem.inode is freed after an RCU grace
 * period.
 */
bool kvm_gmem_is_private_gfn(struct kvm *kvm, gfn_t gfn)
{
	struct kvm_memory_slot *slot = gfn_to_memslot(kvm, gfn);
	struct inode *inode;

	if (!slot || !kvm_slot_has_gmem(slot))
		return false;

	guard(rcu)();

	/* NULL if the file was closed, or if the memslot is being deleted. */
	inode = READ_ONCE(slot->gmem.inode);
	if (!inode)
		return false;

	return kvm_gmem_is_private_mem(inode, kvm_gmem_get_index(slot, gfn));
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(kvm_gmem_is_private_gfn);

/*
 * Find the first @converted bit of a chunk, from @index on.  Returns @end if there is none.
 * The caller holds the invalidate_lock of the chunk's file.
 */
pgoff_t kvm_gmem_find_in_chunk(struct gmem_chunk *chunk, pgoff_t index, pgoff_t end,
			       bool converted)
{
	unsigned long bit = index & (GMEM_CHUNK_PAGES - 1);
	pgoff_t base = index - bit;
	unsigned long nr_bits = min(end - base, GMEM_CHUNK_PAGES);

	if (converted)
		return base + find_next_bit(chunk->converted, nr_bits, bit);

	return base + find_next_zero_bit(chunk->converted, nr_bits, bit);
}

/* Returns the first @private page of [@index, @end), or @end. */
pgoff_t kvm_gmem_find_next_start(struct inode *inode, pgoff_t index, pgoff_t end,
				 bool private)
{
	bool converted = kvm_gmem_starts_private(inode) != private;
	struct xarray *xa = &GMEM_I(inode)->converted;
	unsigned long nr, next;
	void *entry;

	kvm_gmem_assert_state_stable(inode);

	while (index < end) {
		nr = index >> GMEM_CHUNK_SHIFT;
		if (converted) {
			/* Chunks without an entry have no page that is converted. */
			entry = xa_find(xa, &nr, (end - 1) >> GMEM_CHUNK_SHIFT, XA_PRESENT);
			if (!entry)
				return end;
			index = max(index, nr << GMEM_CHUNK_SHIFT);
		} else {
			entry = xa_load(xa, nr);
			if (!entry)
				return index;
		}

		/* No overflow, a file has at most LLONG_MAX bytes. */
		next = min(end, kvm_gmem_entry_end(xa, nr) << GMEM_CHUNK_SHIFT);
		if (!xa_is_value(entry))
			index = kvm_gmem_find_in_chunk(entry, index, next, converted);
		else if ((entry == GMEM_ALL_CONVERTED) != converted)
			index = next;

		if (index < next)
			return index;

		cond_resched();
	}

	return end;
}

/* Returns the last @converted bit before @bit, or ULONG_MAX. */
static unsigned long kvm_gmem_find_last_in_chunk(struct gmem_chunk *chunk,
						 unsigned long bit, bool converted)
{
	unsigned long word, mask = ~0UL;

	if (bit % BITS_PER_LONG)
		mask = BIT(bit % BITS_PER_LONG) - 1;

	for (bit = round_up(bit, BITS_PER_LONG); bit; bit -= BITS_PER_LONG) {
		word = chunk->converted[BIT_WORD(bit - 1)];
		word = (converted ? word : ~word) & mask;
		if (word)
			return bit - BITS_PER_LONG + __fls(word);
		mask = ~0UL;
	}

	return ULONG_MAX;
}

/* Returns the page after the last @private page of [@start, @index), or @start. */
pgoff_t kvm_gmem_find_prev_end(struct inode *inode, pgoff_t start, pgoff_t index,
			       bool private)
{
	bool converted = kvm_gmem_starts_private(inode) != private;
	unsigned long nr, base, bit;
	void *entry;
	bool all;

	kvm_gmem_assert_state_stable(inode);

	while (index > start) {
		nr = (index - 1) >> GMEM_CHUNK_SHIFT;
		base = nr << GMEM_CHUNK_SHIFT;
		entry = xa_load(&GMEM_I(inode)->converted, nr);
		if (!entry || xa_is_value(entry)) {
			all = entry == GMEM_ALL_CONVERTED;
			if (all == converted)
				return index;
		} else {
			bit = kvm_gmem_find_last_in_chunk(entry, index - base, converted);
			if (bit != ULONG_MAX)
				return max(start, base + bit + 1);
		}

		index = max(start, base);
	}

	return start;
}
