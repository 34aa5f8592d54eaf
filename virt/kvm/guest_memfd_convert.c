// SPDX-License-Identifier: GPL-2.0
/*
 * Private and shared memory of guest_memfd: which page is which, and conversion
 * in place from one to the other.
 *
 * What a page is
 * --------------
 * All pages of a file start out the same, private or, with
 * GUEST_MEMFD_FLAG_INIT_SHARED, shared.  One bit per page says whether the page
 * has been converted since.  The bits come in chunks of GMEM_CHUNK_PAGES, in an
 * xarray, and exist only where a chunk is mixed:
 *
 *   NULL, or 0		no page of the chunk is converted
 *   1			all pages of the chunk are converted
 *   a gmem_chunk	look at the bit
 *
 * All of it is proportional to what has been converted, and not to the size of
 * the file, which may be anything.  Bits of pages behind the end of the file are never looked at.
 *
 * The file may be converted at any time, independent of what is allocated.  Bits
 * are changed with invalidate_lock held for write.  Whoever holds it, for read
 * or for write, gets an answer that is and stays true.  Anybody else may look as
 * well, under RCU, and has to deal with the answer being stale: KVM's page fault
 * handlers take a snapshot of mmu_invalidate_seq before they look, and check
 * with mmu_lock held that no invalidation has started since, as there is no
 * conversion without an invalidation.
 *
 * How a page is converted
 * -----------------------
 * A conversion is a transaction: the whole range is converted, or nothing is.
 * Everything happens with invalidate_lock held for write, i.e. there are no
 * faults, neither of the guest nor of user space.  All that can fail is done
 * first, and changes nothing that anybody could see:
 *
 *  - Allocate what it takes to store the new state.  See gmem_prepare_state().
 *  - To private only: unmap the memory from user space and verify that nobody
 *    else has a reference to it.  As nobody can get at the memory anymore, there
 *    can't be new references, i.e. a look at the reference count is enough.  See
 *    gmem_prepare_private().
 *
 * From here on nothing can fail: remove the mappings of the guest, let the
 * architecture take back what becomes shared, change the bits.  Memory becomes
 * private, as far as the architecture has to do something about that, when the
 * guest accesses it for the first time.
 */
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/pagemap.h>
#include <linux/swap.h>
#include <linux/xarray.h>

#include <trace/events/kvm.h>

#include "guest_memfd.h"

#ifdef CONFIG_HAVE_KVM_GMEM_CONVERSION_OPT_IN
/*
 * Off: a file is either private or shared, and whether a gfn is private is up
 * to the VM's memory attributes.  On: it's the file that decides, page by page.
 */
bool __ro_after_init gmem_in_place_conversion;
EXPORT_SYMBOL_FOR_KVM_INTERNAL(gmem_in_place_conversion);
module_param(gmem_in_place_conversion, bool, 0444);
#endif

/* 16 MiB with 4K pages, at the price of 1 KiB for a chunk that is mixed. */
#define GMEM_CHUNK_SHIFT	12
#define GMEM_CHUNK_PAGES	BIT(GMEM_CHUNK_SHIFT)

struct gmem_chunk {
	struct rcu_head rcu;
	/* The number of bits that are set, i.e. of pages that are converted. */
	unsigned long nr_converted;
	unsigned long converted[BITS_TO_LONGS(GMEM_CHUNK_PAGES)];
};

#define GMEM_RESERVED		xa_mk_value(0)
#define GMEM_ALL_CONVERTED	xa_mk_value(1)

/* Don't let anybody be killed because of a conversion that's way too large. */
#define GMEM_STATE_GFP		(GFP_KERNEL_ACCOUNT | __GFP_RETRY_MAYFAIL)

/*
 * How often to look at a folio before giving up on somebody else's reference.
 * Those that are there for a reason, e.g. for DMA, don't go away.  All others
 * are dropped as soon as their owner gets to run, e.g. a vCPU that has looked up
 * the folio and is about to find out that it must not map it.  Let the owner run
 * if it doesn't do so right now: all in all, this waits for a few milliseconds.
 */
#define GMEM_MAX_TRIES		64
#define GMEM_BUSY_TRIES		16
#define GMEM_SLEEP_MIN_US	20
#define GMEM_SLEEP_MAX_US	100

struct gmem_conversion {
	struct inode *inode;
	pgoff_t start;
	pgoff_t end;
	bool to_private;
	/* The whole range has to change, i.e. there's no need to look again. */
	bool solid;
	/* The chunk that has all of the range, if it's just one and if it exists. */
	struct gmem_chunk *chunk;
	/* Where it failed, if that can be said. */
	pgoff_t err_index;
};

static bool gmem_starts_private(struct inode *inode)
{
	return !(GMEM_I(inode)->flags & GUEST_MEMFD_FLAG_INIT_SHARED);
}

static pgoff_t gmem_nr_pages(struct inode *inode)
{
	return i_size_read(inode) >> PAGE_SHIFT;
}

void kvm_gmem_init_state(struct inode *inode)
{
	xa_init_flags(&GMEM_I(inode)->converted, XA_FLAGS_ACCOUNT);
	GMEM_I(inode)->uniform_chunk = ULONG_MAX;
}

/* The file isn't in use anymore, but somebody may be looking under RCU. */
void kvm_gmem_free_state(struct inode *inode)
{
	struct xarray *xa = &GMEM_I(inode)->converted;
	unsigned long index;
	void *entry;

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

	return gmem_starts_private(inode) != converted;
}

/*
 * Whether a gfn is private if it's up to guest_memfd.  What has no memory isn't
 * private, that needs guest_memfd.  The caller holds kvm->srcu or slots_lock, no
 * matter what else: slot->gmem.inode is freed after an RCU grace period.
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

/* Look for a bit in a chunk.  Returns @end if there is none before. */
static pgoff_t gmem_find_in_chunk(struct gmem_chunk *chunk, pgoff_t index,
				  pgoff_t end, bool converted)
{
	unsigned long bit = index & (GMEM_CHUNK_PAGES - 1);
	pgoff_t base = index - bit;
	unsigned long nr_bits = min(end - base, GMEM_CHUNK_PAGES);

	if (converted)
		return base + find_next_bit(chunk->converted, nr_bits, bit);

	return base + find_next_zero_bit(chunk->converted, nr_bits, bit);
}

/* Find the first page of the range, at or after @index, that is @private. */
static pgoff_t gmem_find_next(struct gmem_conversion *c, pgoff_t index, bool private)
{
	bool converted = gmem_starts_private(c->inode) != private;
	struct xarray *xa = &GMEM_I(c->inode)->converted;
	unsigned long nr, next;
	void *entry;

	if (index < c->end && c->chunk)
		return gmem_find_in_chunk(c->chunk, index, c->end, converted);

	while (index < c->end) {
		nr = index >> GMEM_CHUNK_SHIFT;
		if (converted) {
			/* There is nothing to find where there is no entry. */
			entry = xa_find(xa, &nr, (c->end - 1) >> GMEM_CHUNK_SHIFT,
					XA_PRESENT);
			if (!entry)
				return c->end;
			index = max(index, nr << GMEM_CHUNK_SHIFT);
		} else {
			entry = xa_load(xa, nr);
			if (!entry)
				return index;
		}

		/* No overflow, a file has at most LLONG_MAX bytes. */
		next = min(c->end, (nr + 1) << GMEM_CHUNK_SHIFT);
		if (!xa_is_value(entry))
			index = gmem_find_in_chunk(entry, index, next, converted);
		else if ((entry == GMEM_ALL_CONVERTED) != converted)
			index = next;

		if (index < next)
			return index;

		cond_resched();
	}

	return c->end;
}

/*
 * Find the next range [@first, @last) that has to change.  Continues at @last,
 * where the previous range ended.
 */
static bool gmem_next_range(struct gmem_conversion *c, pgoff_t *first, pgoff_t *last)
{
	if (*last == c->end)
		return false;

	if (c->solid) {
		*first = *last;
		*last = c->end;
	} else {
		*first = gmem_find_next(c, *last, !c->to_private);
		*last = gmem_find_next(c, *first, c->to_private);
	}

	return *first < *last;
}

static unsigned long gmem_chunk_nr_pages(struct inode *inode, pgoff_t nr)
{
	return min(gmem_nr_pages(inode) - (nr << GMEM_CHUNK_SHIFT), GMEM_CHUNK_PAGES);
}

/* Clip a range of pages to a chunk, and make it relative to it. */
static void gmem_clip_range(pgoff_t nr, pgoff_t start, pgoff_t end,
			    unsigned long *first, unsigned long *last)
{
	pgoff_t base = nr << GMEM_CHUNK_SHIFT;

	*first = max(start, base) - base;
	*last = min(end, base + GMEM_CHUNK_PAGES) - base;
}

/* Replace what the entry of a chunk is, which doesn't take any memory. */
static void gmem_store_uniform(struct inode *inode, pgoff_t nr, bool converted)
{
	struct xarray *xa = &GMEM_I(inode)->converted;
	void *old;

	if (converted)
		old = xa_store(xa, nr, GMEM_ALL_CONVERTED, GFP_NOWAIT);
	else
		old = xa_erase(xa, nr);

	if (WARN_ON_ONCE(xa_is_err(old)))
		return;

	if (old && !xa_is_value(old))
		kfree_rcu((struct gmem_chunk *)old, rcu);
}

/* Replace a chunk whose bits are all the same, or an entry that isn't used. */
static void gmem_collapse_entry(struct inode *inode, pgoff_t nr, void *entry)
{
	struct gmem_chunk *chunk = entry;

	if (entry == GMEM_ALL_CONVERTED)
		return;

	if (entry == GMEM_RESERVED || !chunk->nr_converted)
		gmem_store_uniform(inode, nr, false);
	else if (chunk->nr_converted == gmem_chunk_nr_pages(inode, nr))
		gmem_store_uniform(inode, nr, true);
}

/*
 * As above, but keep the chunk that is the last one to become uniform, as guests
 * convert the very same pages back and forth.
 */
static void gmem_collapse_chunk(struct inode *inode, pgoff_t nr, void *entry)
{
	struct gmem_inode *gi = GMEM_I(inode);
	struct gmem_chunk *chunk = entry;
	unsigned long other;

	if (xa_is_value(entry)) {
		gmem_collapse_entry(inode, nr, entry);
		return;
	}

	if (nr == gi->uniform_chunk ||
	    (chunk->nr_converted &&
	     chunk->nr_converted != gmem_chunk_nr_pages(inode, nr)))
		return;

	other = gi->uniform_chunk;
	gi->uniform_chunk = nr;

	/* It may have become mixed or something else in the meantime. */
	entry = other == ULONG_MAX ? NULL : xa_load(&gi->converted, other);
	if (entry && !xa_is_value(entry))
		gmem_collapse_entry(inode, other, entry);
}

/*
 * Make sure that gmem_flip() doesn't need memory for this chunk.  That doesn't
 * change what any page is.
 */
static int gmem_prepare_chunk(struct inode *inode, pgoff_t nr, pgoff_t start,
			      pgoff_t end, bool converted)
{
	struct xarray *xa = &GMEM_I(inode)->converted;
	unsigned long first, last, nr_pages;
	struct gmem_chunk *chunk;
	void *entry;
	int r;

	entry = xa_load(xa, nr);
	if (entry && !xa_is_value(entry))
		return 0;

	if (converted ? entry == GMEM_ALL_CONVERTED : !entry || entry == GMEM_RESERVED)
		return 0;

	nr_pages = gmem_chunk_nr_pages(inode, nr);
	gmem_clip_range(nr, start, end, &first, &last);
	if (!first && last == nr_pages)
		return entry ? 0 : xa_err(xa_store(xa, nr, GMEM_RESERVED, GMEM_STATE_GFP));

	chunk = kzalloc_obj(*chunk, GMEM_STATE_GFP);
	if (!chunk)
		return -ENOMEM;

	if (entry) {
		bitmap_set(chunk->converted, 0, nr_pages);
		chunk->nr_converted = nr_pages;
	}

	r = xa_err(xa_store(xa, nr, chunk, GMEM_STATE_GFP));
	if (r)
		kfree(chunk);

	return r;
}

static void gmem_collapse_range(struct gmem_conversion *c)
{
	unsigned long nr;
	void *entry;

	xa_for_each_range(&GMEM_I(c->inode)->converted, nr, entry,
			  c->start >> GMEM_CHUNK_SHIFT,
			  (c->end - 1) >> GMEM_CHUNK_SHIFT) {
		gmem_collapse_chunk(c->inode, nr, entry);
		cond_resched();
	}
}

static int gmem_prepare_state(struct gmem_conversion *c)
{
	bool converted = gmem_starts_private(c->inode) != c->to_private;
	pgoff_t nr = c->start >> GMEM_CHUNK_SHIFT;
	pgoff_t last = (c->end - 1) >> GMEM_CHUNK_SHIFT;
	int r;

	if (c->chunk)
		return 0;

	for (;;) {
		r = fatal_signal_pending(current) ? -EINTR :
		    gmem_prepare_chunk(c->inode, nr, c->start, c->end, converted);
		if (r) {
			c->err_index = max(c->start, nr << GMEM_CHUNK_SHIFT);
			gmem_collapse_range(c);
			return r;
		}

		if (nr == last)
			return 0;

		/* It's only at the edges that bits may have to be cleared. */
		nr = converted ? nr + 1 : last;
		cond_resched();
	}
}

static void gmem_flip_chunk(struct gmem_chunk *chunk, unsigned long first,
			    unsigned long last, bool converted)
{
	unsigned long bit;

	for (bit = first; bit < last; bit++) {
		if (test_bit(bit, chunk->converted) == converted)
			continue;

		assign_bit(bit, chunk->converted, converted);
		chunk->nr_converted += converted ? 1 : -1;
	}
}

/* Can't fail, everything that it takes is there, i.e. there are no holes. */
static void gmem_flip(struct gmem_conversion *c)
{
	bool converted = gmem_starts_private(c->inode) != c->to_private;
	unsigned long first, last, nr;
	void *entry;

	if (c->chunk) {
		nr = c->start >> GMEM_CHUNK_SHIFT;
		gmem_clip_range(nr, c->start, c->end, &first, &last);
		gmem_flip_chunk(c->chunk, first, last, converted);
		gmem_collapse_chunk(c->inode, nr, c->chunk);
		return;
	}

	xa_for_each_range(&GMEM_I(c->inode)->converted, nr, entry,
			  c->start >> GMEM_CHUNK_SHIFT,
			  (c->end - 1) >> GMEM_CHUNK_SHIFT) {
		gmem_clip_range(nr, c->start, c->end, &first, &last);
		/* A value is what all of it is supposed to become if it's not all. */
		if (!first && last == gmem_chunk_nr_pages(c->inode, nr))
			gmem_store_uniform(c->inode, nr, converted);
		else if (!xa_is_value(entry))
			gmem_flip_chunk(entry, first, last, converted);

		cond_resched();
	}

	/* Not one by one, as that may collapse any chunk, not just the one. */
	gmem_collapse_range(c);
}

/*
 * Unmap folios from user space.  A fault that has seen the memory when it was
 * shared holds the folio lock until the PTE is there.
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

/* The page cache has references to the folio, and so has the caller, one. */
static bool gmem_folio_is_unused(struct folio *folio)
{
	return !folio_mapped(folio) &&
	       folio_ref_count(folio) == folio_expected_ref_count(folio) + 1;
}

static int gmem_wait_for_folio(struct folio *folio, enum lru_cache_drained *drained)
{
	int tries;

	for (tries = 0; !gmem_folio_is_unused(folio); tries++) {
		/*
		 * memory_failure() keeps a reference, and nobody can access what
		 * is poisoned.
		 */
		if (folio_test_hwpoison(folio))
			return 0;

		if (tries == GMEM_MAX_TRIES)
			return -EAGAIN;

		if (fatal_signal_pending(current))
			return -EINTR;

		/*
		 * Per-CPU batches have references to folios that were allocated
		 * or, if mlocked, unmapped just now.  Drains them only once.
		 */
		lru_cache_drain_for_folio(folio, 1, drained);
		if (tries < GMEM_BUSY_TRIES)
			cpu_relax();
		else
			usleep_range_state(GMEM_SLEEP_MIN_US, GMEM_SLEEP_MAX_US,
					   TASK_KILLABLE);
	}

	return 0;
}

/* Find out whether somebody has a reference to folios that are unmapped. */
static int gmem_check_folios(struct gmem_conversion *c, struct folio_batch *fbatch,
			     enum lru_cache_drained *drained)
{
	unsigned int i;
	int r;

	/*
	 * Pairs with get_user_pages_fast(), which takes the reference first and
	 * then checks that the PTE is still there.
	 */
	smp_mb();

	for (i = 0; i < folio_batch_count(fbatch); i++) {
		r = gmem_wait_for_folio(fbatch->folios[i], drained);
		if (r) {
			c->err_index = max(c->start, fbatch->folios[i]->index);
			return r;
		}
	}

	return 0;
}

/* Unmap all folios of a range that is to become private, check them, or both. */
static int gmem_prepare_range(struct gmem_conversion *c, pgoff_t index, pgoff_t end,
			      bool unmap, bool check, enum lru_cache_drained *drained)
{
	struct address_space *mapping = c->inode->i_mapping;
	struct folio_batch fbatch;
	int r = 0;

	folio_batch_init(&fbatch);
	while (!r && index < end && filemap_get_folios(mapping, &index, end - 1, &fbatch)) {
		if (unmap)
			r = gmem_unmap_folios(mapping, &fbatch);
		if (!r && check)
			r = gmem_check_folios(c, &fbatch, drained);

		folio_batch_release(&fbatch);
		cond_resched();

		if (!r && fatal_signal_pending(current))
			r = -EINTR;
	}

	return r;
}

/*
 * Make sure that nobody but the guest can get at what is to become private.  Takes
 * two passes unless it can be done in one go: if folios are in per-CPU batches
 * then those have to be drained after all folios were unmapped.
 */
static int gmem_prepare_private(struct gmem_conversion *c)
{
	enum lru_cache_drained drained = LRU_CACHE_NOT_DRAINED;
	struct address_space *mapping = c->inode->i_mapping;
	pgoff_t first, last;
	bool mapped;
	int r;

	/*
	 * There are no new faults, and thus there's nothing to unmap if there's
	 * no VMA.  A VMA that is being changed isn't there for a moment.
	 */
	i_mmap_lock_read(mapping);
	mapped = mapping_mapped(mapping);
	i_mmap_unlock_read(mapping);

	if (c->solid && c->end - c->start <= FOLIO_BATCH_SIZE)
		return gmem_prepare_range(c, c->start, c->end, mapped, true, &drained);

	last = c->start;
	while (mapped && gmem_next_range(c, &first, &last)) {
		/* Much faster than folio by folio, which then is about faults. */
		unmap_mapping_pages(mapping, first, last - first, false);

		r = gmem_prepare_range(c, first, last, true, false, NULL);
		if (r)
			return r;
	}

	last = c->start;
	while (gmem_next_range(c, &first, &last)) {
		r = gmem_prepare_range(c, first, last, false, true, &drained);
		if (r)
			return r;
	}

	return 0;
}

/*
 * Leave alone what is as it should be already.  Huge pages can't be split (yet),
 * i.e. what's left of the range must not begin, end or be interrupted within a
 * huge page.
 */
static int gmem_trim_range(struct gmem_conversion *c)
{
	pgoff_t nr_pages = 1UL << kvm_gmem_unit_order(c->inode);
	pgoff_t first, last = c->start, start = c->end, end = c->end;
	pgoff_t nr = c->start >> GMEM_CHUNK_SHIFT;
	int nr_ranges = 0;
	void *entry;

	if (nr == (c->end - 1) >> GMEM_CHUNK_SHIFT) {
		entry = xa_load(&GMEM_I(c->inode)->converted, nr);
		if (entry && !xa_is_value(entry))
			c->chunk = entry;
	}

	while (gmem_next_range(c, &first, &last)) {
		if (!IS_ALIGNED(first, nr_pages) || !IS_ALIGNED(last, nr_pages)) {
			/* The first page of the range in the first such huge page. */
			c->err_index = IS_ALIGNED(first, nr_pages) ?
				       round_down(last, nr_pages) : first;
			return -EOPNOTSUPP;
		}

		if (!nr_ranges++)
			start = first;
		end = last;
	}

	c->start = start;
	c->end = end;
	c->solid = nr_ranges == 1;

	return 0;
}

/* Let the architecture take memory back that is about to become shared. */
static void gmem_reclaim_range(struct inode *inode, pgoff_t start, pgoff_t end)
{
#ifdef CONFIG_HAVE_KVM_ARCH_GMEM_RECLAIM
	struct folio_batch fbatch;
	pgoff_t index = start;
	unsigned int i;

	folio_batch_init(&fbatch);
	while (filemap_get_folios(inode->i_mapping, &index, end - 1, &fbatch)) {
		for (i = 0; i < folio_batch_count(&fbatch); i++)
			kvm_gmem_reclaim_folio(fbatch.folios[i], start, end);
		folio_batch_release(&fbatch);
		cond_resched();
	}
#endif
}

/*
 * Take exactly what is going to change away from the guest.  Fails only if a VM
 * isn't able to give memory back, in which case it can't be used anymore anyway.
 */
static int gmem_take_from_guest(struct gmem_conversion *c)
{
	enum kvm_gfn_range_filter attr_filter;
	pgoff_t first, last = c->start;

	attr_filter = c->to_private ? KVM_FILTER_SHARED : KVM_FILTER_PRIVATE;

	/* All at once if there's nothing in between that has to stay. */
	kvm_gmem_invalidate_start(c->inode, c->start, c->end,
				  c->solid ? attr_filter : 0);

	while (gmem_next_range(c, &first, &last)) {
		if (!c->solid)
			kvm_gmem_unmap_range(c->inode, first, last, attr_filter);
		if (!c->to_private)
			gmem_reclaim_range(c->inode, first, last);
	}

	return !c->to_private && kvm_gmem_is_bugged(c->inode) ? -EIO : 0;
}

static int gmem_convert(struct gmem_conversion *c)
{
	int r;

	lockdep_assert_held_write(&c->inode->i_mapping->invalidate_lock);

	r = gmem_trim_range(c);
	if (r || c->start == c->end)
		return r;

	r = gmem_prepare_state(c);
	if (r)
		return r;

	if (c->to_private) {
		r = gmem_prepare_private(c);
		if (r) {
			gmem_collapse_range(c);
			return r;
		}
	}

	/* Nothing fails from here on, unless a VM is broken beyond repair. */
	r = gmem_take_from_guest(c);
	if (!r)
		gmem_flip(c);
	else
		gmem_collapse_range(c);

	kvm_gmem_invalidate_end(c->inode, c->start, c->end);

	return r;
}

/* What a VM can set for its files or, without a VM, what the best of them can. */
u64 kvm_gmem_supported_attributes(struct kvm *kvm)
{
	if (!gmem_in_place_conversion)
		return 0;

	if (kvm ? kvm_arch_has_private_mem(kvm) :
		  IS_ENABLED(CONFIG_KVM_GENERIC_MEMORY_ATTRIBUTES))
		return KVM_MEMORY_ATTRIBUTE_PRIVATE;

	return 0;
}

static int gmem_set_attributes(struct file *file, struct kvm_memory_attributes2 *attrs,
			       pgoff_t *err_index)
{
	struct gmem_conversion c = { .inode = file_inode(file), .err_index = ULONG_MAX };
	struct address_space *mapping = file->f_mapping;
	struct gmem_file *f = file->private_data;
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
	if (attrs->offset + attrs->size > i_size_read(c.inode))
		return -EINVAL;

	c.start = attrs->offset >> PAGE_SHIFT;
	c.end = (attrs->offset + attrs->size) >> PAGE_SHIFT;
	c.to_private = attrs->attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE;

	if (down_write_killable(&mapping->invalidate_lock))
		return -EINTR;

	r = gmem_convert(&c);

	filemap_invalidate_unlock(mapping);

	trace_kvm_gmem_convert(c.inode, c.start, c.end, c.to_private, r);

	*err_index = c.err_index;
	return r;
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

	/* User memory may be this very file, i.e. invalidate_lock is dropped. */
	if (r && r != -EINTR && err_index != ULONG_MAX &&
	    put_user((u64)err_index << PAGE_SHIFT, &uattrs->error_offset))
		return -EFAULT;

	return r;
}
