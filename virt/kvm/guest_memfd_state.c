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
 */
#include <linux/fs.h>
#include <linux/guestmem.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/xarray.h>

#include "guest_memfd.h"
#include "guest_memfd_convert.h"

/* With 4K pages, a chunk has the bits of 16 MiB.  A mixed chunk takes 1 KiB. */
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

/* Don't let a conversion that is way too large invoke the OOM killer. */
#define GMEM_STATE_GFP		(GFP_KERNEL_ACCOUNT | __GFP_RETRY_MAYFAIL)

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

/* Free the state.  The file isn't in use, but other tasks may be looking under RCU. */
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

/* Returns the number of chunks that an entry of @order stands for. */
static unsigned long gmem_entry_size(unsigned int order)
{
	return 1UL << order;
}

/* Returns the first chunk after those that share the entry of chunk @nr. */
static unsigned long gmem_entry_end(struct xarray *xa, unsigned long nr)
{
	unsigned long size = gmem_entry_size(xa_get_order(xa, nr));

	return round_down(nr, size) + size;
}

/* Find the first @converted bit of a chunk, from @index on.  Returns @end if none. */
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

/* Find the first @private page of the range, from @index on.  Returns c->end if none. */
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
			/* Chunks without an entry have no page that is converted. */
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
		next = min(c->end, gmem_entry_end(xa, nr) << GMEM_CHUNK_SHIFT);
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
 * where the previous range ended.  Returns false if there is no other range.
 */
bool kvm_gmem_next_range(struct gmem_conversion *c, pgoff_t *first, pgoff_t *last)
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

/* Returns the last @converted bit before @bit, or ULONG_MAX. */
static unsigned long gmem_find_last_in_chunk(struct gmem_chunk *chunk,
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
	bool converted = gmem_starts_private(inode) != private;
	unsigned long nr, base, bit;
	void *entry;
	bool all;

	while (index > start) {
		nr = (index - 1) >> GMEM_CHUNK_SHIFT;
		base = nr << GMEM_CHUNK_SHIFT;
		entry = xa_load(&GMEM_I(inode)->converted, nr);
		if (!entry || xa_is_value(entry)) {
			all = entry == GMEM_ALL_CONVERTED;
			if (all == converted)
				return index;
		} else {
			bit = gmem_find_last_in_chunk(entry, index - base, converted);
			if (bit != ULONG_MAX)
				return max(start, base + bit + 1);
		}

		index = max(start, base);
	}

	return start;
}

pgoff_t kvm_gmem_find_next_start(struct inode *inode, pgoff_t index, pgoff_t end,
				 bool private)
{
	struct gmem_conversion c = { .inode = inode, .end = end };

	return gmem_find_next(&c, index, private);
}

/*
 * Returns the largest order that the folio of a page may have: the pages of a folio are
 * all private or all shared.  The answer is stable if the caller holds invalidate_lock.
 */
unsigned int kvm_gmem_wanted_order(struct address_space *mapping, pgoff_t index)
{
	struct inode *inode = mapping->host;
	unsigned int order = kvm_gmem_unit_order(inode);
	pgoff_t start = round_down(index, 1UL << order), end = start + (1UL << order);
	bool private = kvm_gmem_is_private_mem(inode, index);

	start = kvm_gmem_find_prev_end(inode, start, index, !private);
	end = kvm_gmem_find_next_start(inode, index, end, !private);

	return guestmem_hugetlb_block_order(GMEM_I(inode)->hugetlb, index, start, end);
}

static unsigned long gmem_chunk_nr_pages(struct inode *inode, pgoff_t nr)
{
	return min(gmem_nr_pages(inode) - (nr << GMEM_CHUNK_SHIFT), GMEM_CHUNK_PAGES);
}

/* Clip a range of pages to chunk @nr, and make it relative to the start of the chunk. */
static void gmem_clip_range(pgoff_t nr, pgoff_t start, pgoff_t end,
			    unsigned long *first, unsigned long *last)
{
	pgoff_t base = nr << GMEM_CHUNK_SHIFT;

	*first = max(start, base) - base;
	*last = min(end, base + GMEM_CHUNK_PAGES) - base;
}

/*
 * Mark all pages of a chunk, and of all chunks that share its entry, as converted or
 * not.  Doesn't take any memory.
 */
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

/* Replace a chunk whose bits are all the same, or an entry that is only reserved. */
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
 * Collapse an entry, but keep the chunk that was the last one to become uniform, as
 * guests convert the very same pages back and forth.
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

	/* The other chunk may be mixed again, or replaced by a value, in the meantime. */
	entry = other == ULONG_MAX ? NULL : xa_load(&gi->converted, other);
	if (entry && !xa_is_value(entry))
		gmem_collapse_entry(inode, other, entry);
}

/* Whether the conversion covers all pages that the chunks [@nr, @end) have. */
static bool gmem_covers(struct gmem_conversion *c, unsigned long nr, unsigned long end)
{
	pgoff_t start = nr << GMEM_CHUNK_SHIFT;
	pgoff_t last = min(gmem_nr_pages(c->inode), end << GMEM_CHUNK_SHIFT);

	return c->start <= start && last <= c->end;
}

/*
 * Split the entry of a chunk until the conversion covers all chunks that share it, or
 * until only this chunk has it.  The state of no page changes, and readers under RCU
 * see the value of the entry all the time.
 */
static int gmem_split_entry(struct gmem_conversion *c, unsigned long nr)
{
	struct xarray *xa = &GMEM_I(c->inode)->converted;
	unsigned long size, start;
	unsigned int order;
	void *entry;

	for (;;) {
		XA_STATE(xas, xa, 0);

		entry = xa_load(xa, nr);
		order = xa_get_order(xa, nr);
		size = gmem_entry_size(order);
		start = round_down(nr, size);
		if (!order || gmem_covers(c, start, start + size))
			return 0;

		xas_set_order(&xas, start, order - XA_CHUNK_SHIFT);
		xas_split_alloc(&xas, entry, order, GMEM_STATE_GFP);
		if (xas_error(&xas))
			return xas_error(&xas);

		xas_lock(&xas);
		xas_split(&xas, entry, order);
		xas_unlock(&xas);
	}
}

/*
 * Allocate the bits that kvm_gmem_flip() needs for a chunk that the conversion covers
 * only in part.  The state of no page changes.
 */
static int gmem_prepare_chunk(struct gmem_conversion *c, unsigned long nr, bool converted)
{
	struct xarray *xa = &GMEM_I(c->inode)->converted;
	struct gmem_chunk *chunk;
	unsigned long nr_pages;
	void *entry;
	int r;

	entry = xa_load(xa, nr);
	if (entry && !xa_is_value(entry))
		return 0;

	if (converted ? entry == GMEM_ALL_CONVERTED : !entry || entry == GMEM_RESERVED)
		return 0;

	chunk = kzalloc_obj(*chunk, GMEM_STATE_GFP);
	if (!chunk)
		return -ENOMEM;

	if (entry) {
		nr_pages = gmem_chunk_nr_pages(c->inode, nr);
		bitmap_set(chunk->converted, 0, nr_pages);
		chunk->nr_converted = nr_pages;
	}

	r = xa_err(xa_store(xa, nr, chunk, GMEM_STATE_GFP));
	if (r)
		kfree(chunk);

	return r;
}

/* Prepare the first or the last chunk of a conversion. */
static int gmem_prepare_edge(struct gmem_conversion *c, unsigned long nr, bool converted)
{
	int r;

	r = gmem_split_entry(c, nr);
	if (!r && !gmem_covers(c, nr, nr + 1))
		r = gmem_prepare_chunk(c, nr, converted);
	if (r)
		c->err_index = max(c->start, nr << GMEM_CHUNK_SHIFT);

	return r;
}

/* Returns the order of the largest entry that begins at @nr and doesn't exceed @end. */
static unsigned int gmem_entry_order(unsigned long nr, unsigned long end)
{
	unsigned int order = 0, next = XA_CHUNK_SHIFT;

	while (IS_ALIGNED(nr, gmem_entry_size(next)) && gmem_entry_size(next) <= end - nr) {
		order = next;
		next += XA_CHUNK_SHIFT;
	}

	return order;
}

/* Reserve entries for a range of chunks, none of which has an entry. */
static int gmem_reserve_entries(struct gmem_conversion *c, unsigned long nr,
				unsigned long end)
{
	unsigned int order;

	for (; nr < end; nr += gmem_entry_size(order)) {
		XA_STATE(xas, &GMEM_I(c->inode)->converted, 0);

		order = gmem_entry_order(nr, end);
		xas_set_order(&xas, nr, order);
		do {
			xas_lock(&xas);
			xas_store(&xas, GMEM_RESERVED);
			xas_unlock(&xas);
		} while (xas_nomem(&xas, GMEM_STATE_GFP));

		if (xas_error(&xas)) {
			c->err_index = max(c->start, nr << GMEM_CHUNK_SHIFT);
			return xas_error(&xas);
		}
	}

	return 0;
}

/* Make sure that each chunk of a range has an entry. */
static int gmem_prepare_entries(struct gmem_conversion *c, unsigned long nr,
				unsigned long end)
{
	struct xarray *xa = &GMEM_I(c->inode)->converted;
	unsigned long next;
	int r;

	while (nr < end) {
		if (fatal_signal_pending(current))
			return -EINTR;

		next = nr;
		if (!xa_find(xa, &next, end - 1, XA_PRESENT))
			next = end;

		r = gmem_reserve_entries(c, nr, next);
		if (r)
			return r;

		nr = next < end ? gmem_entry_end(xa, next) : end;
		cond_resched();
	}

	return 0;
}

void kvm_gmem_collapse_range(struct gmem_conversion *c)
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

int kvm_gmem_prepare_state(struct gmem_conversion *c)
{
	bool converted = gmem_starts_private(c->inode) != c->to_private;
	unsigned long nr = c->start >> GMEM_CHUNK_SHIFT;
	unsigned long last = (c->end - 1) >> GMEM_CHUNK_SHIFT;
	int r;

	if (c->chunk)
		return 0;

	r = gmem_prepare_edge(c, nr, converted);
	if (!r && last != nr)
		r = gmem_prepare_edge(c, last, converted);

	/* To set bits, each chunk needs an entry.  To clear bits, only the edges do. */
	if (!r && converted)
		r = gmem_prepare_entries(c, nr, last + 1);
	if (r)
		kvm_gmem_collapse_range(c);

	return r;
}

static void gmem_flip_chunk(struct gmem_chunk *chunk, unsigned long first,
			    unsigned long last, bool converted)
{
	unsigned long bit, end, mask, old, *word;

	for (bit = first; bit < last; bit = end) {
		end = min(last, round_down(bit, BITS_PER_LONG) + BITS_PER_LONG);
		mask = GENMASK((end - 1) % BITS_PER_LONG, bit % BITS_PER_LONG);
		word = chunk->converted + BIT_WORD(bit);
		old = *word;

		/* Other tasks may be looking under RCU. */
		if (converted) {
			WRITE_ONCE(*word, old | mask);
			chunk->nr_converted += hweight_long(mask & ~old);
		} else {
			WRITE_ONCE(*word, old & ~mask);
			chunk->nr_converted -= hweight_long(mask & old);
		}
	}
}

static void gmem_flip_range(struct gmem_conversion *c)
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
		/*
		 * If the range covers only a part of a chunk, and the entry is a value,
		 * then that part already is as it should be.
		 */
		if (!first && last == gmem_chunk_nr_pages(c->inode, nr))
			gmem_store_uniform(c->inode, nr, converted);
		else if (!xa_is_value(entry))
			gmem_flip_chunk(entry, first, last, converted);

		cond_resched();
	}

	/* Not in the loop, as that may collapse another chunk that isn't flipped yet. */
	kvm_gmem_collapse_range(c);
}

/*
 * Change the bits.  Can't fail, as kvm_gmem_prepare_state() has stored all chunks and
 * entries that this needs.
 */
void kvm_gmem_flip(struct gmem_conversion *c)
{
	gmem_flip_range(c);

	/*
	 * The bits change before mmu_invalidate_seq does, in kvm_mmu_invalidate_end():
	 * a fault that reads the new number sees the new bits.  A fault that has read
	 * the old number is handled again.  Taking mmu_lock in between isn't enough, as
	 * earlier writes may become visible after the lock is taken.  Pairs with the
	 * smp_rmb() between reading mmu_invalidate_seq and kvm_mem_is_private() in
	 * kvm_mmu_faultin_pfn() on x86.  gmem_abort() on arm64 needs no such pair, as
	 * kvm_gmem_get_pfn() looks at the state with invalidate_lock held.
	 */
	smp_wmb();
}

/* Leave out pages at both ends of the range that already are as they should be. */
void kvm_gmem_trim_range(struct gmem_conversion *c)
{
	pgoff_t first, last = c->start, start = c->end, end = c->end;
	pgoff_t nr = c->start >> GMEM_CHUNK_SHIFT;
	int nr_ranges = 0;
	void *entry;

	if (nr == (c->end - 1) >> GMEM_CHUNK_SHIFT) {
		entry = xa_load(&GMEM_I(c->inode)->converted, nr);
		if (entry && !xa_is_value(entry))
			c->chunk = entry;
	}

	while (kvm_gmem_next_range(c, &first, &last)) {
		if (!nr_ranges++)
			start = first;
		end = last;
	}

	c->start = start;
	c->end = end;
	c->solid = nr_ranges == 1;
}
