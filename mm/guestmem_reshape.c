// SPDX-License-Identifier: GPL-2.0
/**
 * DOC: Reshape
 *
 * A reshape splits folios of a file where pages must not be one folio anymore, and
 * merges folios where pages may be one folio again::
 *
 *   |                        2M                       |   one hugetlb folio
 *   |          1M           |   512K    | .. |4K|4K|..|   a page, and what's left
 *
 * A folio is split at *cuts*, i.e. indexes that must be the start of a folio.  The
 * folio becomes the largest naturally aligned blocks that fit between the cuts, the
 * *pieces*.  Pieces are ordinary folios of the page cache, but they are kept away
 * from reclaim and accounting: they aren't on the LRU, and they don't count as page
 * cache.
 *
 * A split is *prepared*, which detaches and freezes the folio and gets all the memory, and
 * then either *committed* or *aborted*, neither of which can fail.
 */
#include <linux/delay.h>
#include <linux/guestmem.h>
#include <linux/hugetlb.h>
#include <linux/kvm_types.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>

#include <trace/events/guestmem.h>

#include "internal.h"

#include "guestmem_layout.h"
#include "guestmem_pages.h"
#include "guestmem_vmemmap.h"
#include "guestmem_origin.h"
#include "guestmem_poison.h"
#include "guestmem_cache.h"
#include "guestmem_reserve.h"
#include "guestmem_reshape.h"

/*
 * The fields of struct guestmem_reshape and of its splits:
 *
 *   gh         the file's reservation
 *   mapping    the file
 *   splits     the folios, at most one at either end of a range
 *   nr_splits  the number of entries of splits that are in use
 *
 *   folio      the folio, frozen and detached, with its lock held
 *   origin     that of the folio's unit, a new one if the folio is a hugetlb folio
 *   cuts       the indexes where to split, both are the same if there is only one
 *   own        pages for the vmemmap, see guestmem_vmemmap.c
 *   nodes      nodes for the page cache, see guestmem_cache.c
 */
static_assert(ARRAY_SIZE(((struct guestmem_split *)NULL)->cuts) == GUESTMEM_NR_CUTS);

/* How long to wait: a short-lived reference is dropped within a few milliseconds. */
#define GUESTMEM_MAX_TRIES	64
#define GUESTMEM_BUSY_TRIES	16
#define GUESTMEM_SLEEP_MIN_US	20
#define GUESTMEM_SLEEP_MAX_US	100

/*
 * Wait a moment for other users to drop a reference, for a few milliseconds all in all.
 * @tries is how often the caller has waited already.  Returns false if that is enough.
 */
static bool guestmem_wait_for_reference(int tries)
{
	if (tries == GUESTMEM_MAX_TRIES)
		return false;

	if (tries < GUESTMEM_BUSY_TRIES)
		cpu_relax();
	else
		usleep_range(GUESTMEM_SLEEP_MIN_US, GUESTMEM_SLEEP_MAX_US);

	return true;
}

/*
 * Detach a folio, which has a reference of the caller, and lock it.  Returns 0, -EINTR, or
 * -EAGAIN if the folio is in use.
 */
static int guestmem_detach_folio(struct folio *folio)
{
	int tries;

	for (tries = 0;; tries++) {
		if (folio_lock_killable(folio))
			return -EINTR;

		if (guestmem_try_detach(folio))
			return 0;

		/* memory_failure() has a reference while it waits for the lock. */
		folio_unlock(folio);
		if (fatal_signal_pending(current))
			return -EINTR;

		if (!guestmem_wait_for_reference(tries))
			return -EAGAIN;
	}
}

/* Get the layout of the pieces that a split makes. */
static struct guestmem_pieces guestmem_split_pieces(const struct guestmem_split *split,
						    struct address_space *mapping)
{
	return (struct guestmem_pieces){
		.mapping = mapping,
		.optimized = split->origin->optimized,
		.cuts = {
			.index = split->folio->index,
			.order = folio_order(split->folio),
			.at = { split->cuts[0], split->cuts[1] },
		},
	};
}

/* Have a folio as it was before guestmem_prepare_folio(). */
static void guestmem_unprepare_folio(struct guestmem_split *split)
{
	guestmem_vmemmap_release(&split->own);
	if (folio_test_hugetlb(split->folio))
		guestmem_origin_free(split->origin);
}

/* Prepare to split one folio.  Consumes the caller's reference on success. */
static int guestmem_prepare_folio(struct guestmem_split *split,
				  struct address_space *mapping)
{
	struct folio *folio = split->folio;
	struct guestmem_pieces p;
	int r;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	INIT_LIST_HEAD(&split->own);
	if (folio_test_hugetlb(folio)) {
		split->origin = guestmem_origin_alloc(folio_hstate(folio), folio);
		if (!split->origin)
			return -ENOMEM;
	} else {
		split->origin = guestmem_origin_find(folio_pfn(folio));
	}

	p = guestmem_split_pieces(split, mapping);
	r = guestmem_vmemmap_prepare(&split->own, &folio->page, &p);
	if (r)
		goto err_unprepare;

	r = guestmem_alloc_nodes(&split->nodes, &folio->page, &p);
	if (r)
		goto err_unprepare;

	r = guestmem_detach_folio(folio);
	if (r)
		goto err_nodes;

	/* From here on no other task can find the folio. */
	if (guestmem_uniform) {
		r = guestmem_split_placeholder(&p);
		if (r)
			goto err_attach;
	}

	return 0;

err_attach:
	guestmem_attach(folio, mapping, folio_nr_pages(folio) + 1);
	folio_unlock(folio);
err_nodes:
	guestmem_free_nodes(&split->nodes);
err_unprepare:
	guestmem_unprepare_folio(split);
	return r;
}

/* Put a folio back that was prepared. */
static void guestmem_abort_folio(struct guestmem_split *split,
				 struct address_space *mapping)
{
	struct folio *folio = split->folio;

	lockdep_assert_held_write(&mapping->invalidate_lock);
	VM_WARN_ON_ONCE_FOLIO(!folio_test_locked(folio), folio);

	guestmem_attach(folio, mapping, folio_nr_pages(folio) + 1);
	folio_unlock(folio);
	guestmem_free_nodes(&split->nodes);
	guestmem_unprepare_folio(split);
	folio_put(folio);
}

/* Trace that a folio, which was of @order, is split, or why it isn't. */
static void guestmem_trace_split(const struct guestmem_reshape *r,
				 const struct guestmem_split *split, unsigned int order,
				 int ret)
{
	struct folio *folio = split->folio;

	trace_guestmem_split(r->mapping, guestmem_unit_pfn(r->gh, folio_pfn(folio)),
			     folio->index, order, split->cuts[0], split->cuts[1], ret);
}

/* Split a folio that was prepared.  The pieces have the references of the page cache only. */
static void guestmem_commit_folio(struct guestmem_reshape *r, struct guestmem_split *split)
{
	struct folio *folio = split->folio;
	struct address_space *mapping = r->mapping;
	struct guestmem_pieces p = guestmem_split_pieces(split, mapping);

	lockdep_assert_held_write(&mapping->invalidate_lock);
	VM_WARN_ON_ONCE_FOLIO(!folio_test_locked(folio), folio);

	if (folio_test_hugetlb(folio)) {
		guestmem_origin_take(split->origin, folio);
		atomic_long_inc(&r->gh->nr_split_units);
	}
	atomic_long_inc(&r->gh->nr_splits);

	guestmem_vmemmap_break(&split->own, &folio->page, &p);
	guestmem_origin_mark_poison(split->origin, folio_pfn(folio), 1UL << p.cuts.order);
	guestmem_attach_cuts(&folio->page, &p, &split->nodes);
	guestmem_trace_split(r, split, p.cuts.order, 0);

	/* The folio is the first piece by now. */
	folio_unlock(folio);
}

/* Add a folio to those that are split, with one cut for now. */
static void guestmem_add_folio(struct guestmem_reshape *r, struct folio *folio, pgoff_t cut)
{
	struct guestmem_split *split = &r->splits[r->nr_splits++];

	/* The page cache keeps its reference meanwhile. */
	folio_get(folio);
	split->folio = folio;
	split->cuts[0] = cut;
	split->cuts[1] = cut;
}

/* Prepare all folios that were added.  See guestmem_reshape_prepare(). */
static int guestmem_prepare_folios(struct guestmem_reshape *r, pgoff_t *err_index)
{
	int i, ret;

	for (i = 0; i < r->nr_splits; i++) {
		ret = guestmem_prepare_folio(&r->splits[i], r->mapping);
		if (ret)
			goto err_abort;
	}

	return 0;

err_abort:
	*err_index = r->splits[i].folio->index;
	guestmem_trace_split(r, &r->splits[i], folio_order(r->splits[i].folio), ret);
	if (i)
		guestmem_abort_folio(&r->splits[0], r->mapping);
	for (; i < r->nr_splits; i++)
		folio_put(r->splits[i].folio);
	r->nr_splits = 0;

	return ret;
}

/**
 * guestmem_reshape_prepare - prepare to split folios that cross the ends of a range
 * @r: set to the folios that have been prepared
 * @gh: the file's reservation
 * @mapping: the file
 * @start: the first page of the range
 * @end: the page after the last one
 * @err_index: if it fails, set to the first page of the folio that it failed at
 *
 * Afterwards, no other task can find these folios, and the caller has to call
 * either guestmem_reshape_commit() or guestmem_reshape_abort().
 *
 * Context: may sleep, for a few milliseconds if a folio is in use.
 *	The caller holds invalidate_lock for write.
 * Return: 0, or an error with everything as it was.
 *	-EAGAIN: the folio is in use.
 *	-ENOMEM: no memory for page cache, vmemmap or the folio's metadata.
 *	-EINTR: the task was killed.
 */
int guestmem_reshape_prepare(struct guestmem_reshape *r, struct guestmem_hugetlb *gh,
			     struct address_space *mapping, pgoff_t start, pgoff_t end,
			     pgoff_t *err_index)
{
	pgoff_t cuts[] = { start, end };
	struct folio *folio = NULL;
	int i;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	r->gh = gh;
	r->mapping = mapping;
	r->nr_splits = 0;

	for (i = 0; i < ARRAY_SIZE(cuts); i++) {
		/* Both ends are often those of one folio, or inside of it. */
		if (!folio || cuts[i] > folio_next_index(folio))
			folio = xa_load(&mapping->i_pages, cuts[i]);
		if (!folio || cuts[i] == folio->index || cuts[i] == folio_next_index(folio))
			continue;

		if (r->nr_splits && r->splits[0].folio == folio)
			r->splits[0].cuts[1] = cuts[i];
		else
			guestmem_add_folio(r, folio, cuts[i]);
	}

	return guestmem_prepare_folios(r, err_index);
}
EXPORT_SYMBOL_FOR_KVM(guestmem_reshape_prepare);

/**
 * guestmem_reshape_prepare_block - prepare to make a folio of its own of a block
 * @r: set to the folio that has been prepared, if there is one
 * @gh: the file's reservation
 * @mapping: the file
 * @index: the first page of the block
 * @order: log2 of the number of pages, at most that of a unit
 * @err_index: as for guestmem_reshape_prepare()
 *
 * After guestmem_reshape_commit(), no folio that has pages of the block also has other ones,
 * or is a hugetlb folio: user space may map a folio that is as large as the block.
 *
 * Context: as for guestmem_reshape_prepare().
 * Return: as for guestmem_reshape_prepare().
 */
int guestmem_reshape_prepare_block(struct guestmem_reshape *r, struct guestmem_hugetlb *gh,
				   struct address_space *mapping, pgoff_t index,
				   unsigned int order, pgoff_t *err_index)
{
	pgoff_t end = index + (1UL << order);
	struct folio *folio;
	int ret;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	r->gh = gh;
	r->mapping = mapping;
	r->nr_splits = 0;

	folio = xa_load(&mapping->i_pages, index);
	if (!folio || (folio_order(folio) <= order && !folio_test_hugetlb(folio)))
		return 0;

	guestmem_add_folio(r, folio, index);
	r->splits[0].cuts[1] = end;
	ret = guestmem_prepare_folios(r, err_index);
	trace_guestmem_isolate(mapping, guestmem_unit_pfn(gh, folio_pfn(folio)), index, order,
			       ret);
	return ret;
}
EXPORT_SYMBOL_FOR_KVM(guestmem_reshape_prepare_block);

/**
 * guestmem_reshape_max_order - get the order of the largest folio that is going to be split
 * @r: the folios that have been prepared
 *
 * Context: any.
 * Return: the order, or 0 if no folio has to be split.
 */
unsigned int guestmem_reshape_max_order(const struct guestmem_reshape *r)
{
	unsigned int order = 0;
	int i;

	for (i = 0; i < r->nr_splits; i++)
		order = max(order, folio_order(r->splits[i].folio));

	return order;
}
EXPORT_SYMBOL_FOR_KVM(guestmem_reshape_max_order);

/**
 * guestmem_reshape_abort - put the folios back that were prepared
 * @r: the folios that have been prepared
 *
 * Context: may sleep.  The caller holds invalidate_lock for write.
 */
void guestmem_reshape_abort(struct guestmem_reshape *r)
{
	int i;

	lockdep_assert_held_write(&r->mapping->invalidate_lock);

	for (i = 0; i < r->nr_splits; i++)
		guestmem_abort_folio(&r->splits[i], r->mapping);
}
EXPORT_SYMBOL_FOR_KVM(guestmem_reshape_abort);

/**
 * guestmem_reshape_commit - split the folios that were prepared
 * @r: the folios that have been prepared
 *
 * Context: may sleep.  The caller holds invalidate_lock for write.
 */
void guestmem_reshape_commit(struct guestmem_reshape *r)
{
	int i;

	lockdep_assert_held_write(&r->mapping->invalidate_lock);

	for (i = 0; i < r->nr_splits; i++)
		guestmem_commit_folio(r, &r->splits[i]);
}
EXPORT_SYMBOL_FOR_KVM(guestmem_reshape_commit);

/**
 * guestmem_isolate_poison - split a folio around its poisoned pages
 * @gh: the file's reservation
 * @mapping: the file
 * @index: any page of the folio
 * @err_index: if it fails, set to the first page of the folio that it failed at
 *
 * Afterwards, the folio at @index is the largest piece that contains @index and has no
 * failed page.  Other pieces may yet have to be split.
 *
 * Context: may sleep.  The caller holds invalidate_lock for write.
 * Return: 0, or an error, see guestmem_reshape_prepare().
 *	-EHWPOISON: the page itself is poisoned.
 */
int guestmem_isolate_poison(struct guestmem_hugetlb *gh, struct address_space *mapping,
			    pgoff_t index, pgoff_t *err_index)
{
	struct guestmem_reshape reshape;
	struct folio *folio;
	struct page *page;
	pgoff_t poisoned;
	int r;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	for (;;) {
		folio = xa_load(&mapping->i_pages, index);
		if (!folio || !folio_test_hwpoison(folio))
			return 0;

		*err_index = folio->index;
		if (!folio_test_large(folio))
			return -EHWPOISON;

		page = guestmem_folio_poison(folio);
		/* The list of failed pages has been lost. */
		if (!page)
			return -EHWPOISON;

		poisoned = folio->index + (page_to_pfn(page) - folio_pfn(folio));
		r = guestmem_reshape_prepare_block(&reshape, gh, mapping, poisoned, 0,
						   err_index);
		if (r)
			return r;

		guestmem_reshape_commit(&reshape);
	}
}
EXPORT_SYMBOL_FOR_KVM(guestmem_isolate_poison);

/*
 * Freeze a unit that was free until now.  A pfn walker may look at it and have a reference
 * for a moment, but has no use for it.
 */
static int guestmem_freeze_new(struct folio *folio)
{
	int tries;

	for (tries = 0; !folio_ref_freeze(folio, 1); tries++) {
		if (fatal_signal_pending(current))
			return -EINTR;

		if (!guestmem_wait_for_reference(tries))
			return -ENOSPC;
	}

	return 0;
}

/**
 * guestmem_add_split - add a new unit to a file, in pieces
 * @gh: the file's reservation
 * @mapping: the file
 * @folio: the unit, a hugetlb folio that only the caller knows
 * @index: the index of the unit's first page
 * @wanted: the order of each piece
 *
 * Context: may sleep.  The caller holds invalidate_lock, and keeps other tasks from adding
 *	the same unit.
 * Return: 0, and the caller's reference has become that of the page cache.
 *	-ENOMEM: no memory for page cache, vmemmap or the folio's metadata.
 *	-ENOSPC: the unit turns out to be in use.
 *	-EINTR: the task was killed.
 */
int guestmem_add_split(struct guestmem_hugetlb *gh, struct address_space *mapping,
		       struct folio *folio, pgoff_t index, guestmem_wanted_fn wanted)
{
	struct hstate *h = gh->h;
	struct guestmem_pieces p = {
		.mapping = mapping,
		.wanted = wanted,
		.cuts = { .index = index, .order = huge_page_order(h) },
	};
	struct guestmem_origin *origin;
	LIST_HEAD(own);
	int r;

	lockdep_assert_held(&mapping->invalidate_lock);

	origin = guestmem_origin_alloc(h, folio);
	if (!origin)
		return -ENOMEM;

	p.optimized = origin->optimized;
	r = guestmem_vmemmap_prepare(&own, &folio->page, &p);
	if (r)
		goto err_free;

	r = guestmem_freeze_new(folio);
	if (r)
		goto err_vmemmap;

	r = guestmem_add_placeholders(&p);
	if (r)
		goto err_unfreeze;

	guestmem_origin_take(origin, folio);
	guestmem_vmemmap_break(&own, &folio->page, &p);
	guestmem_origin_mark_poison(origin, origin->pfn, 1UL << p.cuts.order);
	guestmem_add_pieces(&folio->page, &p);
	atomic_long_inc(&gh->nr_splits);
	atomic_long_inc(&gh->nr_split_units);
	return 0;

err_unfreeze:
	folio_ref_unfreeze(folio, 1);
err_vmemmap:
	guestmem_vmemmap_release(&own);
err_free:
	guestmem_origin_free(origin);
	return r;
}
