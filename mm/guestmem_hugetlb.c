// SPDX-License-Identifier: GPL-2.0
/**
 * DOC: Words
 *
 * Guest memory made of hugetlb pages: the allocator behind guest_memfd.
 *
 * unit
 *   One hugetlb page of a file: huge_page_size() bytes, naturally aligned in the file.
 *   All units of a file have the same size.
 * reservation
 *   The promise, made when a file is created, that every unit can be allocated.  It is a
 *   hugetlb subpool.  To allocate a unit is to *take* a page out of the reservation.  A
 *   unit that is freed goes back to the pool and *returns* to the reservation.
 * pinnable
 *   Free memory that units can be made of, i.e. neither CMA nor ZONE_MOVABLE.
 * whole
 *   A unit is whole while it is one hugetlb folio.  Otherwise it is *split*, if only into
 *   one piece.
 * piece
 *   One of the folios that a unit is split into.
 * origin
 *   The metadata of the hugetlb folio, for as long as the unit is split.  The origin *takes*
 *   it from the folio, and *gives* it back.
 * layout
 *   How pages are cut into folios.  The *wanted* order is the largest one that a folio may
 *   have.
 * cut
 *   An index where a folio has to start.
 * block
 *   A naturally aligned range of a power of two pages, be it one folio or several.
 * stage
 *   One of the steps that split an entry of the page cache into one for each piece.
 * reshape
 *   To split folios or to merge them.  A split is *prepared*, and then *committed* or
 *   *aborted*.
 * freeze
 *   To make the reference count 0, so that no other task can get a reference.
 * detach
 *   To freeze a folio, and replace it by a *placeholder* in the page cache.  The opposite
 *   is to *attach* it.
 * break, join
 *   To make struct pages of pieces of those of a folio, and the other way around.  To
 *   *scrub* and *prep* them are the two parts of that.
 * poison
 *   The pages of a unit that have failed.  To *isolate* poison is to split a folio around
 *   it.
 * late
 *   A late unit has left its file in pieces.  It is *held* while a reference to a piece
 *   exists, and *back* when all pieces have come back.
 * lost
 *   A unit with poison is lost to the pool when it leaves its file.  Its page is *dropped*
 *   from the reservation, and *replaced* if the pool has another one.
 * optimized
 *   A unit is optimized if hugetlb has freed the struct pages of its tails.  The unit has
 *   *own* pages of the vmemmap, and *shared tail pages*.
 * busy
 *   A unit is busy while a task allocates it.
 */

/**
 * DOC: Files
 *
 * A file may call those above it in this list, and none below.  Its #include lines are in
 * the same order, and there is one header for each.  A script draws which file calls which
 * from the code, and fails if there is a circle.
 *
 * ==================== ===============================================================
 * guestmem_layout.c    arithmetic of layouts, which knows nothing of the kernel
 * guestmem_pages.c     struct pages: break a folio into pieces, join pieces
 * guestmem_vmemmap.c   the memory that has the struct pages of an optimized unit
 * guestmem_trace.c     tracepoints, in include/trace/events/guestmem.h
 * guestmem_origin.c    origins: their table, and what they know of a unit
 * guestmem_poison.c    memory failure of units and of pieces
 * guestmem_cache.c     the page cache: add, detach, attach and remove folios
 * guestmem_reserve.c   the reservation of a file
 * guestmem_lost.c      units with failed pages, which the pool loses
 * guestmem_late.c      late units
 * guestmem_reshape.c   split folios
 * guestmem_merge.c     merge folios
 * guestmem_units.c     units: allocate one, unmap its pieces, remove one
 * guestmem_hugetlb.c   files made of units: what KVM calls
 * guestmem_debug.c     debugfs, and a check of everything that must be true
 * ==================== ===============================================================
 *
 * tools/testing/guestmem tests guestmem_layout.c in user space.  The KUnit tests in mm/tests
 * test all that splits, merges and removes units, for late and for poisoned ones as well.
 * Tests of the rest are selftests of KVM: guest_memfd_hugetlb_test of units and files,
 * guest_memfd_hugetlb_create_test and guest_memfd_hugetlb_cgroup_test of reservations,
 * guest_memfd_release_test of units that are in use when they leave their file, and
 * guest_memfd_fail_nth_test of allocations that fail.
 *
 * Functions and data are called guestmem_*, be they static or not.  KVM uses what is in
 * include/linux/guestmem.h, and the rest of mm uses what is in mm/guestmem.h.
 */

/**
 * DOC: Rules
 *
 * - All pages of a unit are in the page cache, as one folio or in pieces, or none is.
 *   A unit enters the page cache zeroed and up to date, and only
 *   guestmem_hugetlb_remove() takes it out.  Generic truncation never sees a unit.
 * - A hugetlb folio is never mapped by user space, and a large piece only as a whole, by
 *   one entry of a page table.  So a mapping, or a reference, doesn't write to struct pages
 *   of tails that an optimized unit shares.
 * - Units come from memory that may be pinned for long, i.e. neither from CMA
 *   nor from ZONE_MOVABLE, as guest memory doesn't move.
 * - The pool's counters, the hugetlb cgroup and the memcg see units exactly as
 *   they see pages of a hugetlbfs file, no matter whether units are whole or split.
 * - Pieces aren't accounted as page cache, and never return to the buddy allocator.
 */

/**
 * DOC: Locks
 *
 * From the outside in::
 *
 *   mapping->invalidate_lock   for read to get or allocate units, for write to split,
 *                              merge and remove them
 *     unit bit                 allocation of one unit, guestmem_hugetlb.busy
 *       folio lock             memory_failure() takes it without any of the above
 *         hugetlb_lock, subpool lock, i_pages   no two of them at a time
 *
 * The counters of the pool are under hugetlb_lock, and those of a subpool under its own
 * lock.  A page that returns is counted by the subpool first, and by the pool a moment
 * later.
 *
 * The unit bit does what the fault mutex does for hugetlbfs.  Clearing a unit takes
 * long, so a task that waits must be killable, and a task must not have to wait just
 * because its unit hashes to the same mutex.  The alternative, clearing a unit without
 * any lock and throwing it away if another task was faster, needs one page more than
 * the reservation has.
 */

#include <linux/guestmem.h>
#include <linux/highmem.h>
#include <linux/hugetlb.h>
#include <linux/kvm_types.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <linux/wait_bit.h>

#include "guestmem_layout.h"
#include "guestmem_reserve.h"
#include "guestmem_late.h"
#include "guestmem_units.h"

/**
 * guestmem_hugetlb_create - reserve the huge pages of a file
 * @size: size of the file in bytes
 * @size_log2: log2 of the huge page size, 0 for the default huge page size
 *
 * No unit is allocated, but all of them are guaranteed to be there later, subject
 * to the memory policy, the cpuset and the cgroup of the task that allocates.  The
 * current task's hugetlb cgroup is charged for the reservation.
 *
 * Context: may sleep.
 * Return: the reservation, to be released with guestmem_hugetlb_destroy().
 *	-EINVAL: no such huge page size, or @size isn't a multiple of it.
 *	-ENOMEM: the pool or the cgroup can't cover @size, or too many pages of the
 *	pool are CMA or movable memory.
 */
struct guestmem_hugetlb *guestmem_hugetlb_create(loff_t size, unsigned int size_log2)
{
	struct guestmem_hugetlb *gh;
	struct hstate *h;
	int ret;

	if (size_log2 >= BITS_PER_LONG)
		return ERR_PTR(-EINVAL);

	h = size_log2 ? size_to_hstate(1UL << size_log2) : &default_hstate;
	if (!hugepages_supported() || !h)
		return ERR_PTR(-EINVAL);

	if (size <= 0 || size & (huge_page_size(h) - 1))
		return ERR_PTR(-EINVAL);

	gh = kzalloc_obj(*gh, GFP_KERNEL_ACCOUNT);
	if (!gh)
		return ERR_PTR(-ENOMEM);

	gh->h = h;
	gh->nr_units = size >> huge_page_shift(h);
	gh->late = guestmem_late_alloc();
	if (!gh->late) {
		ret = -ENOMEM;
		goto err_free;
	}

	ret = guestmem_reserve(gh);
	if (ret)
		goto err_late;

	/* The reservation has succeeded, so the size is sane. */
	gh->busy = kvcalloc(BITS_TO_LONGS(gh->nr_units), sizeof(*gh->busy),
			    GFP_KERNEL_ACCOUNT);
	if (!gh->busy) {
		ret = -ENOMEM;
		goto err_unreserve;
	}

	return gh;

err_unreserve:
	guestmem_unreserve(gh);
err_late:
	guestmem_late_put(gh->late);
err_free:
	kfree(gh);
	return ERR_PTR(ret);
}
EXPORT_SYMBOL_FOR_KVM(guestmem_hugetlb_create);

/**
 * guestmem_hugetlb_destroy - give up the reservation of a file
 * @gh: the reservation
 *
 * The file is gone, or doesn't exist yet, and has no units.  A unit that is still in use,
 * e.g. because a piece of it is pinned, keeps neither any other unit nor the charge for
 * the reservation: the pool lacks this one page only.
 *
 * Context: may sleep.
 */
void guestmem_hugetlb_destroy(struct guestmem_hugetlb *gh)
{
	guestmem_unreserve(gh);
	guestmem_late_put(gh->late);
	kvfree(gh->busy);
	kfree(gh);
}
EXPORT_SYMBOL_FOR_KVM(guestmem_hugetlb_destroy);

/**
 * guestmem_hugetlb_order - get the order of a file's units
 * @gh: the reservation
 *
 * Context: any.
 * Return: log2 of the number of pages in a unit.
 */
unsigned int guestmem_hugetlb_order(const struct guestmem_hugetlb *gh)
{
	return huge_page_order(gh->h);
}
EXPORT_SYMBOL_FOR_KVM(guestmem_hugetlb_order);

/**
 * guestmem_hugetlb_block_order - find the largest folio that fits into a range
 * @gh: the reservation
 * @index: a page of the range
 * @start: the first page of the range
 * @end: the page after the last one
 *
 * Context: any.
 * Return: the order of the largest naturally aligned block of pages that contains
 *	@index, and that is part of the range and of a unit.
 */
unsigned int guestmem_hugetlb_block_order(const struct guestmem_hugetlb *gh,
					  pgoff_t index, pgoff_t start, pgoff_t end)
{
	return guestmem_block_order(index, start, end, huge_page_order(gh->h));
}
EXPORT_SYMBOL_FOR_KVM(guestmem_hugetlb_block_order);

/**
 * guestmem_hugetlb_get_folio - get the folio at an index, allocate a unit if necessary
 * @gh: the file's reservation
 * @mapping: the file
 * @index: any index below the end of the file
 * @policy: memory policies of the file
 * @wanted: how large the folios of a new unit may be
 *
 * Context: may sleep.  The caller holds invalidate_lock.
 * Return: the folio, up to date, unlocked and with a reference.
 *	-ENOSPC: the memory policy or the cpuset confine the allocation to nodes
 *	that have no free page, a unit that was removed is still in use, or a
 *	poisoned unit could not be replaced.
 *	-ENOMEM: a cgroup is at its limit, or no memory for the page cache.
 *	-EINTR: the task was killed while it waited for a unit that another task is
 *	busy allocating, or that has yet to come back to the pool.
 */
struct folio *guestmem_hugetlb_get_folio(struct guestmem_hugetlb *gh,
					 struct address_space *mapping,
					 pgoff_t index,
					 struct shared_policy *policy,
					 guestmem_wanted_fn wanted)
{
	unsigned int order = huge_page_order(gh->h);
	unsigned long unit = index >> order;
	unsigned long *word = gh->busy + BIT_WORD(unit);
	int bit = unit % BITS_PER_LONG;
	struct folio *folio;

	lockdep_assert_held(&mapping->invalidate_lock);

	folio = filemap_get_folio(mapping, index);
	if (!IS_ERR(folio))
		return folio;

	if (WARN_ON_ONCE(unit >= gh->nr_units))
		return ERR_PTR(-EIO);

	if (wait_on_bit_lock(word, bit, TASK_KILLABLE))
		return ERR_PTR(-EINTR);

	folio = filemap_get_folio(mapping, index);
	if (IS_ERR(folio))
		folio = guestmem_alloc_unit(gh, mapping, index, policy, wanted);

	clear_and_wake_up_bit(bit, word);
	return folio;
}
EXPORT_SYMBOL_FOR_KVM(guestmem_hugetlb_get_folio);

/**
 * guestmem_hugetlb_zero_folio - clear a part of a unit
 * @folio: the unit
 * @first: first page to clear, relative to the folio
 * @nr_pages: number of pages to clear
 *
 * Context: may sleep.  The caller has locked the folio, which isn't poisoned:
 *	memory_failure() may take a page out of the direct map, but not as long
 *	as the folio is locked.
 */
void guestmem_hugetlb_zero_folio(struct folio *folio, pgoff_t first,
				 unsigned long nr_pages)
{
	VM_WARN_ON_ONCE_FOLIO(!folio_test_locked(folio), folio);

	for (; nr_pages; nr_pages--, first++) {
		clear_highpage(folio_page(folio, first));
		cond_resched();
	}
}
EXPORT_SYMBOL_FOR_KVM(guestmem_hugetlb_zero_folio);

/* Unmap all pages of the units of a range. */
static void guestmem_unmap_units(struct guestmem_hugetlb *gh, struct address_space *mapping,
				 pgoff_t start, pgoff_t end)
{
	unsigned long index = start;
	struct folio *folio;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	unmap_mapping_pages(mapping, start, end - start, false);

	while (xa_find(&mapping->i_pages, &index, end - 1, XA_PRESENT)) {
		index = round_down(index, pages_per_huge_page(gh->h));
		folio = xa_load(&mapping->i_pages, index);
		if (!folio_test_hugetlb(folio))
			guestmem_unmap_pieces(gh, mapping, index);

		index += pages_per_huge_page(gh->h);
		if (!index || index >= end)
			break;
	}
}

/**
 * guestmem_hugetlb_unmap - unmap units from user space before they are removed
 * @gh: the file's reservation
 * @mapping: the file
 * @start: first index of the hole
 * @end: index after the last one
 *
 * A unit that is only partly in the hole stays mapped, as it isn't removed.
 *
 * Context: may sleep.  The caller holds invalidate_lock for write, until it has called
 *	guestmem_hugetlb_remove().
 */
void guestmem_hugetlb_unmap(struct guestmem_hugetlb *gh, struct address_space *mapping,
			    pgoff_t start, pgoff_t end)
{
	unsigned long nr_pages = pages_per_huge_page(gh->h);

	start = round_up(start, nr_pages);
	end = min(round_down(end, nr_pages), gh->nr_units << huge_page_order(gh->h));
	if (start < end)
		guestmem_unmap_units(gh, mapping, start, end);
}
EXPORT_SYMBOL_FOR_KVM(guestmem_hugetlb_unmap);

/**
 * guestmem_hugetlb_remove - remove units from a file
 * @gh: the file's reservation
 * @mapping: the file
 * @start: first index, at the start of a unit
 * @end: index after the last one, at the start of a unit, or ULONG_MAX for all
 *
 * A unit goes back to the pool, and is reserved for the file again, as soon as the
 * last reference to it, or to a piece of it, is dropped.  Units without a reference
 * are there when guestmem_hugetlb_sync() returns.
 *
 * Context: may sleep.  The caller holds invalidate_lock for write, and has called
 *	guestmem_hugetlb_unmap() unless it is the last user of the file, which isn't
 *	mapped then.
 */
void guestmem_hugetlb_remove(struct guestmem_hugetlb *gh,
			     struct address_space *mapping,
			     pgoff_t start, pgoff_t end)
{
	bool last = end == ULONG_MAX;
	unsigned long index = start;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	while (xa_find(&mapping->i_pages, &index, end - 1, XA_PRESENT)) {
		index = round_down(index, pages_per_huge_page(gh->h));
		guestmem_remove_unit(gh, mapping, index, !last);

		index += pages_per_huge_page(gh->h);
		if (!index || index >= end)
			break;
		cond_resched();
	}
}
EXPORT_SYMBOL_FOR_KVM(guestmem_hugetlb_remove);

/**
 * guestmem_hugetlb_sync - wait until units that were removed are in the pool
 * @gh: the file's reservation
 *
 * Doesn't wait for a unit as long as it, or a piece of it, has a reference, nor for
 * units of other files.
 *
 * Context: may sleep, the caller doesn't hold any lock.  Returns early if the task is
 *	killed.
 */
void guestmem_hugetlb_sync(struct guestmem_hugetlb *gh)
{
	guestmem_late_sync(gh->late);
}
EXPORT_SYMBOL_FOR_KVM(guestmem_hugetlb_sync);

/**
 * guestmem_hugetlb_take_counts - tell what has happened to a file's units
 * @gh: the file's reservation
 * @counts: set to what has happened since the last call
 *
 * Context: any.  The caller holds invalidate_lock, or is the last user of the file.
 * Return: false if nothing has happened, which leaves @counts alone.
 */
bool guestmem_hugetlb_take_counts(struct guestmem_hugetlb *gh,
				  struct guestmem_counts *counts)
{
	if (!atomic_long_read(&gh->nr_splits) && !atomic_long_read(&gh->nr_merges) &&
	    !atomic_long_read(&gh->nr_split_units))
		return false;

	counts->splits = atomic_long_xchg(&gh->nr_splits, 0);
	counts->merges = atomic_long_xchg(&gh->nr_merges, 0);
	counts->split_units = atomic_long_xchg(&gh->nr_split_units, 0);
	return true;
}
EXPORT_SYMBOL_FOR_KVM(guestmem_hugetlb_take_counts);
