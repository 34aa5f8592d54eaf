// SPDX-License-Identifier: GPL-2.0
/*
 * The state of guest_memfd: change it.
 *
 * A conversion trims its range to the pages that have to change, prepares the state,
 * which may fail, and flips bits, which can't fail.  If another step of the conversion
 * fails in between, it collapses what it has prepared.  All of this happens with
 * invalidate_lock held for write.
 *
 * See guest_memfd_state.c, which is the only other file of guest_memfd that this one
 * calls.
 */
#include <linux/fs.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/xarray.h>

#include "guest_memfd.h"
#include "guest_memfd_state.h"
#include "guest_memfd_convert.h"

/* Don't let a conversion that is way too large invoke the OOM killer. */
#define GMEM_STATE_GFP		(GFP_KERNEL_ACCOUNT | __GFP_RETRY_MAYFAIL)

/* Find the first @private page of the range, from @index on.  Returns c->end if none. */
static pgoff_t kvm_gmem_find_next(struct gmem_conversion *c, pgoff_t index, bool private)
{
	if (index < c->end && c->chunk)
		return kvm_gmem_find_in_chunk(c->chunk, index, c->end,
					      kvm_gmem_starts_private(c->inode) != private);

	return kvm_gmem_find_next_start(c->inode, index, c->end, private);
}

/*
 * Find the next range [@first, @last) that has to change.  Returns false if there is no
 * other range.
 */
bool kvm_gmem_next_range(struct gmem_ranges *ranges, pgoff_t *first, pgoff_t *last)
{
	struct gmem_conversion *c = ranges->c;

	kvm_gmem_assert_locked(c->inode);

	if (ranges->index == c->end)
		return false;

	if (c->all_change) {
		*first = ranges->index;
		*last = c->end;
	} else {
		*first = kvm_gmem_find_next(c, ranges->index, !c->to_private);
		*last = kvm_gmem_find_next(c, *first, c->to_private);
	}

	ranges->index = *last;
	return *first < *last;
}

/* Leave out pages at both ends of the range that already are as they should be. */
void kvm_gmem_trim_range(struct gmem_conversion *c)
{
	pgoff_t first, last, start = c->end, end = c->end;
	pgoff_t nr = c->start >> GMEM_CHUNK_SHIFT;
	int nr_ranges = 0;
	void *entry;

	kvm_gmem_assert_locked(c->inode);

	if (nr == (c->end - 1) >> GMEM_CHUNK_SHIFT) {
		entry = xa_load(&GMEM_I(c->inode)->converted, nr);
		if (entry && !xa_is_value(entry))
			c->chunk = entry;
	}

	kvm_gmem_for_each_range(c, first, last) {
		if (!nr_ranges++)
			start = first;
		end = last;
		c->nr_pages += last - first;
	}

	c->start = start;
	c->end = end;
	c->all_change = nr_ranges == 1;
}

static unsigned long kvm_gmem_chunk_nr_pages(struct inode *inode, pgoff_t nr)
{
	return min(kvm_gmem_nr_pages(inode) - (nr << GMEM_CHUNK_SHIFT), GMEM_CHUNK_PAGES);
}

/* Clip a range of pages to chunk @nr, and make it relative to the start of the chunk. */
static void kvm_gmem_clip_range(pgoff_t nr, pgoff_t start, pgoff_t end,
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
static void kvm_gmem_store_uniform(struct inode *inode, pgoff_t nr, bool converted)
{
	struct xarray *xa = &GMEM_I(inode)->converted;
	void *old;

	kvm_gmem_assert_locked(inode);

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
static void kvm_gmem_collapse_entry(struct inode *inode, pgoff_t nr, void *entry)
{
	struct gmem_chunk *chunk = entry;

	if (entry == GMEM_ALL_CONVERTED)
		return;

	if (entry == GMEM_RESERVED || !chunk->nr_converted)
		kvm_gmem_store_uniform(inode, nr, false);
	else if (chunk->nr_converted == kvm_gmem_chunk_nr_pages(inode, nr))
		kvm_gmem_store_uniform(inode, nr, true);
}

/* Collapse the chunk that was the last one to become uniform. */
static void kvm_gmem_collapse_kept_chunk(struct inode *inode)
{
	struct gmem_inode *gi = GMEM_I(inode);
	void *entry;

	kvm_gmem_assert_locked(inode);

	if (gi->uniform_chunk == ULONG_MAX)
		return;

	/* The chunk may be mixed again, or replaced by a value, in the meantime. */
	entry = xa_load(&gi->converted, gi->uniform_chunk);
	if (entry && !xa_is_value(entry))
		kvm_gmem_collapse_entry(inode, gi->uniform_chunk, entry);
	gi->uniform_chunk = ULONG_MAX;
}

/*
 * Collapse an entry, but keep the chunk that was the last one to become uniform, as
 * guests convert the very same pages back and forth.
 */
static void kvm_gmem_collapse_chunk(struct inode *inode, pgoff_t nr, void *entry)
{
	struct gmem_inode *gi = GMEM_I(inode);
	struct gmem_chunk *chunk = entry;

	kvm_gmem_assert_locked(inode);

	if (xa_is_value(entry)) {
		kvm_gmem_collapse_entry(inode, nr, entry);
		return;
	}

	if (nr == gi->uniform_chunk ||
	    (chunk->nr_converted &&
	     chunk->nr_converted != kvm_gmem_chunk_nr_pages(inode, nr)))
		return;

	kvm_gmem_collapse_kept_chunk(inode);
	gi->uniform_chunk = nr;
}

/* Whether the conversion covers all pages that the chunks [@nr, @end) have. */
static bool kvm_gmem_covers(struct gmem_conversion *c, unsigned long nr, unsigned long end)
{
	pgoff_t start = nr << GMEM_CHUNK_SHIFT;
	pgoff_t last = min(kvm_gmem_nr_pages(c->inode), end << GMEM_CHUNK_SHIFT);

	return c->start <= start && last <= c->end;
}

/*
 * Split the entry of a chunk until the conversion covers all chunks that share it, or
 * until only this chunk has it.  The state of no page changes, and readers under RCU
 * see the value of the entry all the time.
 */
static int kvm_gmem_split_entry(struct gmem_conversion *c, unsigned long nr)
{
	struct xarray *xa = &GMEM_I(c->inode)->converted;
	unsigned long size, start;
	unsigned int order;
	void *entry;

	kvm_gmem_assert_locked(c->inode);

	for (;;) {
		XA_STATE(xas, xa, 0);

		entry = xa_load(xa, nr);
		order = xa_get_order(xa, nr);
		size = kvm_gmem_entry_size(order);
		start = round_down(nr, size);
		if (!order || kvm_gmem_covers(c, start, start + size))
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
 * Allocate the bits that kvm_gmem_flip_state() needs for a chunk that the conversion covers
 * only in part.  The state of no page changes.
 */
static int kvm_gmem_prepare_chunk(struct gmem_conversion *c, unsigned long nr,
				  bool converted)
{
	struct xarray *xa = &GMEM_I(c->inode)->converted;
	struct gmem_chunk *chunk;
	unsigned long nr_pages;
	void *entry;
	int r;

	kvm_gmem_assert_locked(c->inode);

	entry = xa_load(xa, nr);
	if (entry && !xa_is_value(entry))
		return 0;

	if (converted ? entry == GMEM_ALL_CONVERTED : !entry || entry == GMEM_RESERVED)
		return 0;

	chunk = kzalloc_obj(*chunk, GMEM_STATE_GFP);
	if (!chunk)
		return -ENOMEM;

	if (entry) {
		nr_pages = kvm_gmem_chunk_nr_pages(c->inode, nr);
		bitmap_set(chunk->converted, 0, nr_pages);
		chunk->nr_converted = nr_pages;
	}

	r = xa_err(xa_store(xa, nr, chunk, GMEM_STATE_GFP));
	if (r)
		kfree(chunk);

	return r;
}

/* Prepare the first or the last chunk of a conversion. */
static int kvm_gmem_prepare_edge(struct gmem_conversion *c, unsigned long nr,
				 bool converted)
{
	int r;

	r = kvm_gmem_split_entry(c, nr);
	if (!r && !kvm_gmem_covers(c, nr, nr + 1))
		r = kvm_gmem_prepare_chunk(c, nr, converted);
	if (r)
		c->err_index = max(c->start, nr << GMEM_CHUNK_SHIFT);

	return r;
}

/* Returns the order of the largest entry that begins at @nr and doesn't exceed @end. */
static unsigned int kvm_gmem_entry_order(unsigned long nr, unsigned long end)
{
	unsigned int order = 0, next = XA_CHUNK_SHIFT;

	while (IS_ALIGNED(nr, kvm_gmem_entry_size(next)) &&
	       kvm_gmem_entry_size(next) <= end - nr) {
		order = next;
		next += XA_CHUNK_SHIFT;
	}

	return order;
}

/* Reserve entries for a range of chunks, none of which has an entry. */
static int kvm_gmem_reserve_entries(struct gmem_conversion *c, unsigned long nr,
				    unsigned long end)
{
	unsigned int order;

	kvm_gmem_assert_locked(c->inode);

	for (; nr < end; nr += kvm_gmem_entry_size(order)) {
		XA_STATE(xas, &GMEM_I(c->inode)->converted, 0);

		order = kvm_gmem_entry_order(nr, end);
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
static int kvm_gmem_prepare_entries(struct gmem_conversion *c, unsigned long nr,
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

		r = kvm_gmem_reserve_entries(c, nr, next);
		if (r)
			return r;

		nr = next < end ? kvm_gmem_entry_end(xa, next) : end;
		cond_resched();
	}

	return 0;
}

/* Free what kvm_gmem_prepare_state() has allocated, and is of no use. */
void kvm_gmem_collapse_state(struct gmem_conversion *c)
{
	unsigned long nr;
	void *entry;

	kvm_gmem_assert_locked(c->inode);

	xa_for_each_range(&GMEM_I(c->inode)->converted, nr, entry,
			  c->start >> GMEM_CHUNK_SHIFT,
			  (c->end - 1) >> GMEM_CHUNK_SHIFT) {
		kvm_gmem_collapse_chunk(c->inode, nr, entry);
		cond_resched();
	}
}

/*
 * Store all chunks and entries that kvm_gmem_flip_state() needs.  Returns 0, or an error
 * with c->err_index set, if that is known, and nothing changed.
 */
int kvm_gmem_prepare_state(struct gmem_conversion *c)
{
	bool converted = kvm_gmem_starts_private(c->inode) != c->to_private;
	unsigned long nr = c->start >> GMEM_CHUNK_SHIFT;
	unsigned long last = (c->end - 1) >> GMEM_CHUNK_SHIFT;
	int r;

	kvm_gmem_assert_locked(c->inode);

	if (c->chunk)
		return 0;

	/* One value may take the place of many chunks if there is no such chunk among them. */
	if (nr <= GMEM_I(c->inode)->uniform_chunk && GMEM_I(c->inode)->uniform_chunk <= last)
		kvm_gmem_collapse_kept_chunk(c->inode);

	r = kvm_gmem_prepare_edge(c, nr, converted);
	if (!r && last != nr)
		r = kvm_gmem_prepare_edge(c, last, converted);

	/* To set bits, each chunk needs an entry.  To clear bits, only the edges do. */
	if (!r && converted)
		r = kvm_gmem_prepare_entries(c, nr, last + 1);
	if (r)
		kvm_gmem_collapse_state(c);

	return r;
}

/* Change bits of a chunk, with the invalidate_lock of its file held for write. */
static void kvm_gmem_flip_chunk(struct gmem_chunk *chunk, unsigned long first,
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

static void kvm_gmem_flip_range(struct gmem_conversion *c)
{
	bool converted = kvm_gmem_starts_private(c->inode) != c->to_private;
	unsigned long first, last, nr;
	void *entry;

	kvm_gmem_assert_locked(c->inode);

	if (c->chunk) {
		nr = c->start >> GMEM_CHUNK_SHIFT;
		kvm_gmem_clip_range(nr, c->start, c->end, &first, &last);
		kvm_gmem_flip_chunk(c->chunk, first, last, converted);
		kvm_gmem_collapse_chunk(c->inode, nr, c->chunk);
		return;
	}

	xa_for_each_range(&GMEM_I(c->inode)->converted, nr, entry,
			  c->start >> GMEM_CHUNK_SHIFT,
			  (c->end - 1) >> GMEM_CHUNK_SHIFT) {
		kvm_gmem_clip_range(nr, c->start, c->end, &first, &last);
		/*
		 * If the range covers only a part of a chunk, and the entry is a value,
		 * then that part already is as it should be.
		 */
		if (!first && last == kvm_gmem_chunk_nr_pages(c->inode, nr))
			kvm_gmem_store_uniform(c->inode, nr, converted);
		else if (!xa_is_value(entry))
			kvm_gmem_flip_chunk(entry, first, last, converted);

		cond_resched();
	}

	/* Not in the loop, as that may collapse another chunk that isn't flipped yet. */
	kvm_gmem_collapse_state(c);
}

/*
 * Change the bits.  Can't fail, as kvm_gmem_prepare_state() has stored all chunks and
 * entries that this needs.
 */
void kvm_gmem_flip_state(struct gmem_conversion *c)
{
	kvm_gmem_flip_range(c);

	/*
	 * The bits change before mmu_invalidate_seq does, in kvm_mmu_invalidate_end():
	 * a fault that reads the new number sees the new bits.  A fault that has read
	 * the old number is handled again.  Taking mmu_lock in between isn't enough, as
	 * earlier writes may become visible after the lock is taken.  Pairs with the
	 * smp_rmb() between reading mmu_invalidate_seq and kvm_mem_is_private() in
	 * kvm_mmu_faultin_pfn() on x86, and in pkvm_gmem_abort() on arm64.  gmem_abort()
	 * needs no such pair, as it maps private and shared memory alike.
	 */
	smp_wmb();
}
