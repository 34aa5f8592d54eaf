// SPDX-License-Identifier: GPL-2.0
/*
 * Guest memory: a unit enters and leaves a file.  See guestmem_hugetlb.c.
 */
#include <linux/guestmem.h>
#include <linux/hugetlb.h>
#include <linux/mempolicy.h>
#include <linux/pagemap.h>
#include <linux/sched/mm.h>

#include <trace/events/guestmem.h>

#include "internal.h"

#include "guestmem_origin.h"
#include "guestmem_cache.h"
#include "guestmem_reserve.h"
#include "guestmem_lost.h"
#include "guestmem_late.h"
#include "guestmem_reshape.h"
#include "guestmem_merge.h"
#include "guestmem_units.h"

/* Allocate a hugetlb folio for the unit that contains @index.  Returns it, or an ERR_PTR. */
static struct folio *guestmem_alloc_folio(struct guestmem_hugetlb *gh,
					  struct address_space *mapping, pgoff_t index,
					  struct shared_policy *policy)
{
	struct mempolicy_interpreted mpoli = { .mode = MPOL_DEFAULT };
	unsigned int order = huge_page_order(gh->h), pin_flags;
	u8 flags = HUGETLB_ALLOC_USE_GLOBAL_RESERVATIONS;
	gfp_t gfp = htlb_alloc_mask(gh->h);
	struct mempolicy *pol;
	struct folio *folio;

	pol = mpol_shared_policy_lookup(policy, index);

	pin_flags = memalloc_pin_save();
	mpoli.nid = mpol_huge_node(pol, mapping->host->i_ino + (index >> order),
				   gfp, &mpoli.nodemask);
#ifdef CONFIG_NUMA
	mpoli.mode = pol ? pol->mode : get_task_policy(current)->mode;
#endif
	folio = hugetlb_alloc_folio(gh->h, &mpoli, current->mm, flags);
	memalloc_pin_restore(pin_flags);

	mpol_cond_put(pol);
	return folio;
}

/*
 * Make an ordinary hugetlb folio of a unit, and return false.  But a poisoned unit stays
 * a unit until the pool loses it: drop it from the reservation, and return true.
 */
static bool guestmem_drop_if_poisoned(struct guestmem_hugetlb *gh, struct folio *folio)
{
	bool poisoned;

	/* memory_failure() poisons hugetlb folios under hugetlb_lock. */
	spin_lock_irq(&hugetlb_lock);
	poisoned = folio_test_hwpoison(folio);
	if (poisoned)
		hugetlb_set_folio_subpool(folio, NULL);
	else
		folio_clear_hugetlb_guestmem(folio);
	spin_unlock_irq(&hugetlb_lock);

	if (poisoned)
		guestmem_drop_page(gh->spool);

	return poisoned;
}

/*
 * Drop the reference to a unit that isn't in the file.  A poisoned one is lost, and is
 * replaced before it can become a free page, unless the file is on its way out.
 */
static void guestmem_put_unit(struct guestmem_hugetlb *gh, struct folio *folio,
			      bool may_replace)
{
	if (!guestmem_drop_if_poisoned(gh, folio)) {
		folio_put(folio);
		return;
	}

	if (may_replace)
		guestmem_replace_page(gh);
	guestmem_lose_folio(folio);
}

/**
 * guestmem_alloc_unit - allocate a unit, and add it to the file
 * @gh: the file's reservation
 * @mapping: the file
 * @index: the index of any page of the unit
 * @policy: memory policies of the file
 * @wanted: how large the folios of the unit may be
 *
 * Context: may sleep.  The caller holds invalidate_lock, and keeps other tasks from
 *	allocating the same unit.
 * Return: the folio at @index, up to date, unlocked and with a reference, or an error with
 *	all counters as they were, see guestmem_hugetlb_get_folio().
 */
struct folio *guestmem_alloc_unit(struct guestmem_hugetlb *gh,
				  struct address_space *mapping, pgoff_t index,
				  struct shared_policy *policy,
				  guestmem_wanted_fn wanted)
{
	pgoff_t start = round_down(index, 1UL << huge_page_order(gh->h));
	unsigned long pfn;
	struct folio *folio;
	bool whole;
	int ret;

	lockdep_assert_held(&mapping->invalidate_lock);

	ret = guestmem_take_page(gh, mapping, &gh->late->nr_held);
	if (ret)
		goto err_trace;

	folio = guestmem_alloc_folio(gh, mapping, index, policy);
	if (IS_ERR(folio)) {
		guestmem_return_page(gh);
		ret = PTR_ERR(folio);
		goto err_trace;
	}

	pfn = folio_pfn(folio);

	/* From here on free_huge_folio() puts the page back into the subpool. */
	hugetlb_set_folio_subpool(folio, gh->spool);
	folio_clear_hugetlb_restore_reserve(folio);

	/* From here on memory_failure() leaves it to guestmem_poison_page(), and waits. */
	folio_lock(folio);
	folio_set_hugetlb_guestmem(folio);

	folio_zero_user(folio, 0);
	folio_mark_uptodate(folio);

	whole = wanted(mapping, start) == huge_page_order(gh->h);
	ret = 0;
	if (whole)
		ret = guestmem_add_whole(folio, mapping, start);
	folio_unlock(folio);
	if (!whole)
		ret = guestmem_add_split(gh, mapping, folio, start, wanted);

	trace_guestmem_alloc(mapping, pfn, start, huge_page_order(gh->h), ret);
	if (ret) {
		guestmem_put_unit(gh, folio, true);
		return ERR_PTR(ret);
	}

	inode_add_bytes(mapping->host, huge_page_size(gh->h));
	return whole ? folio : filemap_get_folio(mapping, index);

err_trace:
	trace_guestmem_alloc(mapping, 0, start, huge_page_order(gh->h), ret);
	return ERR_PTR(ret);
}

/* Remove a unit that can't be merged: a piece is in use or poisoned, or memory is short. */
static void guestmem_remove_pieces(struct guestmem_hugetlb *gh,
				   struct address_space *mapping, pgoff_t index,
				   bool may_replace)
{
	pgoff_t end = index + pages_per_huge_page(gh->h);
	struct folio *folio = filemap_get_folio(mapping, index);
	struct guestmem_origin *origin;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	/* The unit has to be a late one before its last piece comes back. */
	origin = guestmem_origin_find(folio_pfn(folio));
	if (guestmem_origin_is_poisoned(origin, origin->pfn, pages_per_huge_page(gh->h))) {
		origin->spool = NULL;
		guestmem_drop_page(gh->spool);
		if (may_replace)
			guestmem_replace_page(gh);
		guestmem_late_add(gh->late, origin, false);
	} else {
		guestmem_late_add(gh->late, origin, true);
	}
	folio_put(folio);

	while (index < end) {
		folio = filemap_get_folio(mapping, index);
		if (WARN_ON_ONCE(IS_ERR(folio)))
			return;

		index = folio_next_index(folio);
		guestmem_remove_piece(folio);
		cond_resched();
	}
}

/**
 * guestmem_unmap_pieces - unmap the pieces of a unit from user space
 * @gh: the file's reservation
 * @mapping: the file
 * @index: the index of the unit's first page
 *
 * A fault that is under way holds the folio lock until the PTE is there.
 *
 * Context: may sleep.  The caller holds invalidate_lock for write.
 */
void guestmem_unmap_pieces(struct guestmem_hugetlb *gh, struct address_space *mapping,
			   pgoff_t index)
{
	pgoff_t end = index + pages_per_huge_page(gh->h);
	struct folio *folio;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	for (; index < end; index = folio_next_index(folio)) {
		folio = xa_load(&mapping->i_pages, index);
		folio_lock(folio);
		if (folio_mapped(folio))
			unmap_mapping_folio(folio);
		folio_unlock(folio);
		cond_resched();
	}
}

/**
 * guestmem_remove_unit - remove a unit from its file
 * @gh: the file's reservation
 * @mapping: the file
 * @index: the index of the unit's first page
 * @may_replace: if the unit is lost, try to reserve another page in its place
 *
 * The unit goes back to the pool when the last reference to it is dropped.
 *
 * Context: may sleep.  The caller holds invalidate_lock for write, and the unit isn't
 *	mapped by user space.
 */
void guestmem_remove_unit(struct guestmem_hugetlb *gh, struct address_space *mapping,
			  pgoff_t index, bool may_replace)
{
	unsigned int order = huge_page_order(gh->h);
	struct folio *folio;
	unsigned long pfn;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	folio = filemap_get_folio(mapping, index);
	if (WARN_ON_ONCE(IS_ERR(folio)))
		return;

	pfn = folio_pfn(folio);
	if (!folio_test_hugetlb(folio)) {
		folio_put(folio);
		if (!guestmem_merge_unit(gh, mapping, index)) {
			trace_guestmem_remove(mapping, pfn, index, order, -EBUSY);
			atomic_long_dec(&gh->nr_split_units);
			guestmem_remove_pieces(gh, mapping, index, may_replace);
			inode_sub_bytes(mapping->host, huge_page_size(gh->h));
			return;
		}
		folio = filemap_get_folio(mapping, index);
	}

	trace_guestmem_remove(mapping, pfn, index, order, 0);
	guestmem_remove_whole(folio);
	inode_sub_bytes(mapping->host, huge_page_size(gh->h));

	guestmem_put_unit(gh, folio, may_replace);
}
