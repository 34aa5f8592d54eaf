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
 * No other task may know the folios while their struct pages change.  A split and a
 * merge both
 *
 *  - replace the folios in the page cache by a value, the placeholder.  Lookups take
 *    it for "nothing there" and return at once, and folios can replace it without
 *    allocating memory;
 *  - freeze the reference counts, so that code that looks up struct pages by pfn
 *    sees free pages;
 *  - change the struct pages, no matter how long that takes;
 *  - put the new folios into the page cache and unfreeze them.
 *
 * No task misses a folio that isn't in the page cache for a moment: the caller holds
 * invalidate_lock for write.
 */
#include <linux/delay.h>
#include <linux/hugetlb.h>
#include <linux/kvm_types.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>

#include "guestmem_internal.h"
#include "hugetlb_vmemmap.h"
#include "internal.h"

/* How long to wait: a short-lived reference is dropped within a few milliseconds. */
#define GUESTMEM_MAX_TRIES	64
#define GUESTMEM_BUSY_TRIES	16
#define GUESTMEM_SLEEP_MIN_US	20
#define GUESTMEM_SLEEP_MAX_US	100

/* Get the order of page cache entries one level of nodes below an entry of @order. */
static unsigned int guestmem_lower_order(unsigned int order)
{
	return order ? rounddown(order - 1, XA_CHUNK_SHIFT) : 0;
}

/* Reset struct pages 1 to 3, which a large folio uses for other things. */
static void guestmem_scrub_overlays(struct page *page, unsigned int order)
{
	unsigned int i;

	for (i = 1; i < min(4UL, 1UL << order); i++) {
		page[i].flags.f &= ~PAGE_FLAGS_CHECK_AT_PREP;
		page[i].mapping = TAIL_MAPPING;
		page[i].__folio_index = 0;
		page[i].private = 0;
		atomic_set(&page[i]._mapcount, -1);
		set_page_count(page + i, 0);
#ifdef CONFIG_MEMCG
		page[i].memcg_data = 0;
#endif
	}
}

/* Reset the head of a folio that isn't one anymore: leave nothing but zone and node. */
void guestmem_scrub_head(struct folio *folio)
{
	unsigned int order = folio_order(folio);

	if (folio_test_clear_mlocked(folio))
		zone_stat_mod_folio(folio, NR_MLOCK, -folio_nr_pages(folio));

	guestmem_scrub_overlays(&folio->page, order);

	folio->flags.f &= ~(PAGE_FLAGS_CHECK_AT_PREP | __PG_HWPOISON);
	folio->mapping = NULL;
	folio->index = 0;
	folio->private = NULL;
	folio->page.page_type = UINT_MAX;
#ifdef CONFIG_MEMCG
	folio->memcg_data = 0;
#endif
}

static void guestmem_set_tails(struct page *page, struct page *end, unsigned long info)
{
	for (; page < end; page++)
		WRITE_ONCE(page->compound_info, info);
}

/* Make a folio of pages that have no references.  Its reference count stays 0. */
void guestmem_prep_folio(struct page *page, unsigned int order)
{
	struct folio *folio = (struct folio *)page;
	unsigned long i, end, info, nr_pages = 1UL << order;

	page->private = 0;
	INIT_LIST_HEAD(&page->lru);
	if (!order)
		return;

	__folio_set_head(folio);
	/* All tails have the same compound_info, and there are a lot of them. */
	set_compound_head(page + 1, page, order);
	info = page[1].compound_info;
	for (i = 1; i < nr_pages; i = end) {
		end = min(nr_pages, i + GUESTMEM_RESCHED_PAGES);
		guestmem_set_tails(page + i, page + end, info);
		cond_resched();
	}
	prep_compound_head(page, order);
}

static void guestmem_prep_piece(struct page *page, unsigned int order,
				struct address_space *mapping, pgoff_t index)
{
	struct folio *folio = (struct folio *)page;

	guestmem_prep_folio(page, order);
	folio->mapping = mapping;
	folio->index = index;
	__folio_mark_uptodate(folio);
}

/* A layout of pieces: given by two cuts, or by the caller of guestmem_add_split(). */
struct guestmem_pieces {
	struct address_space *mapping;
	guestmem_wanted_fn wanted;
	pgoff_t index;
	unsigned int order;
	pgoff_t cuts[2];
};

static unsigned int guestmem_piece_order(struct guestmem_pieces *p, pgoff_t index)
{
	pgoff_t start = p->index, end = p->index + (1UL << p->order);
	int i;

	if (p->wanted)
		return min(p->order, p->wanted(p->mapping, index));

	for (i = 0; i < ARRAY_SIZE(p->cuts); i++) {
		if (p->cuts[i] <= index)
			start = max(start, p->cuts[i]);
		else
			end = min(end, p->cuts[i]);
	}

	return guestmem_block_order(index, start, end, p->order);
}

/* Turn a folio with a reference count of 0 and struct pages of its own into pieces. */
static void guestmem_break_pages(struct page *page, struct guestmem_pieces *p)
{
	unsigned long nr_pages = 1UL << p->order, i;
	unsigned long lock;
	unsigned int order;

	/* The first piece inherits the folio lock, which a task may be waiting for. */
	lock = page->flags.f & (BIT(PG_locked) | BIT(PG_waiters));
	guestmem_scrub_head((struct folio *)page);
	page->flags.f |= lock;

	for (i = 0; i < nr_pages; i += 1UL << order) {
		order = guestmem_piece_order(p, p->index + i);
		guestmem_prep_piece(page + i, order, p->mapping, p->index + i);
		cond_resched();
	}
}

/*
 * Put pieces into the page cache in place of placeholders.  The placeholders are small
 * enough already, so no memory is needed.
 */
static void guestmem_store_pieces(struct page *page, struct guestmem_pieces *p)
{
	struct address_space *mapping = p->mapping;
	unsigned long nr_pages = 1UL << p->order, i;
	unsigned int batch = 0;
	struct folio *folio;

	xa_lock_irq(&mapping->i_pages);
	for (i = 0; i < nr_pages; i += folio_nr_pages(folio)) {
		folio = (struct folio *)(page + i);

		XA_STATE_ORDER(xas, &mapping->i_pages, folio->index, folio_order(folio));

		xas_store(&xas, folio);
		VM_WARN_ON_ONCE(xas_error(&xas));
		folio_ref_unfreeze(folio, folio_nr_pages(folio));

		if (++batch % SZ_1K)
			continue;

		xa_unlock_irq(&mapping->i_pages);
		cond_resched();
		xa_lock_irq(&mapping->i_pages);
	}
	xa_unlock_irq(&mapping->i_pages);
}

/*
 * A step that makes room for pieces.  A placeholder of the folio's order is split where
 * there is a cut, one level of nodes after the other: xas_split() doesn't support more
 * than one level.
 */
struct guestmem_stage {
	struct xa_state xas;
	unsigned int order;
};

/* Two cuts, and the xarray's levels below a hugetlb page of any architecture. */
#define GUESTMEM_MAX_STAGES	(2 * DIV_ROUND_UP(MAX_FOLIO_ORDER, XA_CHUNK_SHIFT))

struct guestmem_split_state {
	struct guestmem_stage stages[GUESTMEM_MAX_STAGES];
	unsigned int nr_stages;
};

static int guestmem_add_stage(struct guestmem_split_state *s, struct xarray *xa,
			      pgoff_t index, unsigned int order)
{
	struct guestmem_stage *stage;

	if (WARN_ON_ONCE(s->nr_stages == GUESTMEM_MAX_STAGES))
		return -EIO;

	stage = &s->stages[s->nr_stages++];
	stage->order = order;
	stage->xas = (struct xa_state)
		__XA_STATE(xa, index, 0, 0);
	xas_set_order(&stage->xas, round_down(index, 1UL << order),
		      guestmem_lower_order(order));
	xas_split_alloc(&stage->xas, GUESTMEM_PLACEHOLDER, order, GFP_KERNEL);

	return xas_error(&stage->xas);
}

static void guestmem_free_stages(struct guestmem_split_state *s)
{
	while (s->nr_stages)
		xas_destroy(&s->stages[--s->nr_stages].xas);
}

static bool guestmem_is_cut(pgoff_t cut, pgoff_t index, unsigned int order)
{
	return cut > index && cut < index + (1UL << order);
}

static int guestmem_alloc_stages(struct guestmem_split_state *s,
				 struct guestmem_pieces *p)
{
	struct xarray *xa = &p->mapping->i_pages;
	unsigned int order, i;
	pgoff_t block;
	int r;

	for (i = 0; i < ARRAY_SIZE(p->cuts); i++) {
		for (order = p->order; order; order = guestmem_lower_order(order)) {
			block = round_down(p->cuts[i], 1UL << order);
			if (block < p->index || !guestmem_is_cut(p->cuts[i], block, order))
				break;

			/* A stage of the other cut splits this block already. */
			if (i && guestmem_is_cut(p->cuts[0], block, order))
				continue;

			r = guestmem_add_stage(s, xa, block, order);
			if (r) {
				guestmem_free_stages(s);
				return r;
			}
		}
	}

	return 0;
}

/* Replace a frozen folio by placeholders. */
static void guestmem_detach(struct folio *folio, struct guestmem_split_state *s)
{
	struct address_space *mapping = folio->mapping;
	XA_STATE_ORDER(xas, &mapping->i_pages, folio->index, folio_order(folio));
	unsigned int i;

	lockdep_assert_held(&mapping->i_pages.xa_lock);

	xas_store(&xas, GUESTMEM_PLACEHOLDER);
	xas_clear_mark(&xas, GUESTMEM_TRIM_MARK);
	for (i = 0; i < s->nr_stages; i++)
		xas_split(&s->stages[i].xas, GUESTMEM_PLACEHOLDER, s->stages[i].order);
}

/*
 * Replace placeholders by a frozen folio, and unfreeze it with @nr_refs references.  This
 * frees the nodes below, and takes no memory: the nodes that the folio needs have been
 * there when it was detached.
 */
void guestmem_attach(struct folio *folio, struct address_space *mapping, int nr_refs)
{
	XA_STATE_ORDER(xas, &mapping->i_pages, folio->index, folio_order(folio));

	xa_lock_irq(&mapping->i_pages);
	xas_store(&xas, folio);
	VM_WARN_ON_ONCE(xas_error(&xas));
	xas_clear_mark(&xas, GUESTMEM_TRIM_MARK);
	folio_ref_unfreeze(folio, nr_refs);
	xa_unlock_irq(&mapping->i_pages);
}

static bool __guestmem_try_detach(struct folio *folio, struct guestmem_split_state *s)
{
	struct address_space *mapping = folio->mapping;
	bool frozen;

	/* The page cache has a reference per page, the caller has one. */
	xa_lock_irq(&mapping->i_pages);
	frozen = folio_ref_freeze(folio, folio_nr_pages(folio) + 1);
	if (frozen)
		guestmem_detach(folio, s);
	xa_unlock_irq(&mapping->i_pages);

	return frozen;
}

/*
 * Take a folio out of the page cache, and freeze it.  The folio is going to return as it
 * is.  The caller has a reference.  Returns false if there are other references.
 */
bool guestmem_try_detach(struct folio *folio)
{
	struct guestmem_split_state s = {};

	return __guestmem_try_detach(folio, &s);
}

/**
 * guestmem_wait_for_reference - wait a moment for other users to drop a reference
 * @tries: how often the caller has waited already
 *
 * Context: may sleep, for a few milliseconds all in all.
 * Return: false if the caller has waited long enough.
 */
bool guestmem_wait_for_reference(int tries)
{
	if (tries == GUESTMEM_MAX_TRIES)
		return false;

	if (tries < GUESTMEM_BUSY_TRIES)
		cpu_relax();
	else
		usleep_range(GUESTMEM_SLEEP_MIN_US, GUESTMEM_SLEEP_MAX_US);

	return true;
}

static int guestmem_detach_folio(struct folio *folio, struct guestmem_split_state *s)
{
	int tries;

	for (tries = 0;; tries++) {
		if (folio_lock_killable(folio))
			return -EINTR;

		if (__guestmem_try_detach(folio, s))
			return 0;

		/* memory_failure() has a reference while it waits for the lock. */
		folio_unlock(folio);
		if (fatal_signal_pending(current))
			return -EINTR;

		if (!guestmem_wait_for_reference(tries))
			return -EAGAIN;
	}
}

/* Prepare to split one folio.  Consumes the caller's reference on success. */
static int guestmem_prepare_folio(struct guestmem_split *split,
				  struct address_space *mapping)
{
	struct folio *folio = split->folio;
	struct guestmem_split_state s = {};
	struct guestmem_pieces p = {
		.mapping = mapping,
		.index = folio->index,
		.order = folio_order(folio),
		.cuts = { split->cuts[0], split->cuts[1] },
	};
	int r;

	r = guestmem_alloc_stages(&s, &p);
	if (r)
		return r;

	split->origin = NULL;
	if (folio_test_hugetlb(folio)) {
		split->origin = guestmem_origin_alloc(folio_hstate(folio), folio_pfn(folio));
		if (!split->origin) {
			r = -ENOMEM;
			goto err_free;
		}
	}

	r = guestmem_detach_folio(folio, &s);
	if (r)
		goto err_origin;

	/* From here on no other task can find the folio.  The stages' nodes are in use. */
	if (split->origin) {
		split->origin->optimized = folio_test_hugetlb_vmemmap_optimized(folio);
		r = hugetlb_vmemmap_restore_folio(split->origin->h, folio);
		if (r)
			goto err_attach;
	}

	return 0;

err_attach:
	guestmem_attach(folio, mapping, folio_nr_pages(folio) + 1);
	s.nr_stages = 0;
	folio_unlock(folio);
err_origin:
	if (split->origin)
		guestmem_origin_free(split->origin);
err_free:
	guestmem_free_stages(&s);
	return r;
}

static void guestmem_abort_folio(struct guestmem_split *split,
				 struct address_space *mapping)
{
	struct folio *folio = split->folio;

	/* Tails were tails all the time: no need for guestmem_reshape_barrier(). */
	if (split->origin && split->origin->optimized)
		guestmem_optimize_folio(split->origin->h, folio);

	guestmem_attach(folio, mapping, folio_nr_pages(folio) + 1);
	folio_unlock(folio);
	folio_put(folio);

	if (split->origin)
		guestmem_origin_free(split->origin);
}

static void guestmem_commit_folio(struct guestmem_split *split,
				  struct address_space *mapping)
{
	struct folio *folio = split->folio;
	unsigned long pfn = folio_pfn(folio);
	struct guestmem_pieces p = {
		.mapping = mapping,
		.index = folio->index,
		.order = folio_order(folio),
		.cuts = { split->cuts[0], split->cuts[1] },
	};

	if (split->origin)
		guestmem_origin_take(split->origin, folio);

	guestmem_break_pages(&folio->page, &p);
	guestmem_origin_mark_poison(guestmem_origin_find(pfn), pfn, 1UL << p.order);
	guestmem_store_pieces(&folio->page, &p);

	/* The folio is the first piece by now. */
	folio_unlock(folio);
}

/**
 * guestmem_reshape_prepare - prepare to split folios that cross the ends of a range
 * @r: set to the folios that have been prepared
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
int guestmem_reshape_prepare(struct guestmem_reshape *r, struct address_space *mapping,
			     pgoff_t start, pgoff_t end, pgoff_t *err_index)
{
	pgoff_t cuts[] = { start, end };
	struct guestmem_split *split;
	struct folio *folio;
	int i, ret;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	r->mapping = mapping;
	r->nr_splits = 0;

	for (i = 0; i < ARRAY_SIZE(cuts); i++) {
		folio = filemap_get_folio(mapping, cuts[i]);
		if (IS_ERR(folio))
			continue;

		if (cuts[i] == folio->index) {
			folio_put(folio);
			continue;
		}

		split = &r->splits[r->nr_splits];
		if (r->nr_splits && split[-1].folio == folio) {
			folio_put(folio);
			split[-1].cuts[1] = cuts[i];
			continue;
		}

		split->folio = folio;
		split->cuts[0] = cuts[i];
		split->cuts[1] = cuts[i];
		r->nr_splits++;
	}

	for (i = 0; i < r->nr_splits; i++) {
		ret = guestmem_prepare_folio(&r->splits[i], mapping);
		if (ret)
			goto err_abort;
	}

	return 0;

err_abort:
	*err_index = r->splits[i].folio->index;
	if (i)
		guestmem_abort_folio(&r->splits[0], mapping);
	for (; i < r->nr_splits; i++)
		folio_put(r->splits[i].folio);
	r->nr_splits = 0;

	return ret;
}
EXPORT_SYMBOL_FOR_KVM(guestmem_reshape_prepare);

/**
 * guestmem_reshape_abort - put the folios back that were prepared
 * @r: the folios that have been prepared
 *
 * Context: may sleep.  The caller holds invalidate_lock for write.
 */
void guestmem_reshape_abort(struct guestmem_reshape *r)
{
	int i;

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

	for (i = 0; i < r->nr_splits; i++)
		guestmem_commit_folio(&r->splits[i], r->mapping);
}
EXPORT_SYMBOL_FOR_KVM(guestmem_reshape_commit);

/* Split placeholders until the pieces can be stored in their place. */
static int guestmem_split_placeholders(struct guestmem_pieces *p)
{
	struct xarray *xa = &p->mapping->i_pages;
	pgoff_t end = p->index + (1UL << p->order), index;
	unsigned int order, entry_order;

	for (index = p->index; index < end; index += 1UL << order) {
		order = guestmem_piece_order(p, index);

		for (entry_order = xa_get_order(xa, index); entry_order > order;
		     entry_order = guestmem_lower_order(entry_order)) {
			XA_STATE(xas, xa, 0);

			xas_set_order(&xas, round_down(index, 1UL << entry_order),
				      guestmem_lower_order(entry_order));
			xas_split_alloc(&xas, GUESTMEM_PLACEHOLDER, entry_order, GFP_KERNEL);
			if (xas_error(&xas))
				return xas_error(&xas);

			xas_lock_irq(&xas);
			xas_split(&xas, GUESTMEM_PLACEHOLDER, entry_order);
			xas_unlock_irq(&xas);
		}

		cond_resched();
	}

	return 0;
}

/* Remove the placeholders of a unit whose pieces haven't been stored. */
static void guestmem_remove_placeholders(struct guestmem_pieces *p)
{
	XA_STATE_ORDER(xas, &p->mapping->i_pages, p->index, p->order);

	xas_lock_irq(&xas);
	xas_store(&xas, NULL);
	xas_unlock_irq(&xas);
}

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
 * @mapping: the file
 * @folio: the unit, a hugetlb folio that only the caller knows
 * @index: the index of the unit's first page
 * @wanted: the order of each piece
 *
 * Context: may sleep.  The caller keeps other tasks from adding the same unit.
 * Return: 0, and the caller's reference has become that of the page cache.
 *	-ENOMEM: no memory for page cache, vmemmap or the folio's metadata.
 *	-ENOSPC: the unit turns out to be in use.
 *	-EINTR: the task was killed.
 */
int guestmem_add_split(struct address_space *mapping, struct folio *folio,
		       pgoff_t index, guestmem_wanted_fn wanted)
{
	struct hstate *h = folio_hstate(folio);
	struct guestmem_pieces p = {
		.mapping = mapping,
		.wanted = wanted,
		.index = index,
		.order = huge_page_order(h),
	};
	XA_STATE_ORDER(xas, &mapping->i_pages, p.index, p.order);
	struct guestmem_origin *origin;
	int r;

	origin = guestmem_origin_alloc(h, folio_pfn(folio));
	if (!origin)
		return -ENOMEM;

	r = guestmem_freeze_new(folio);
	if (r)
		goto err_free;

	origin->optimized = folio_test_hugetlb_vmemmap_optimized(folio);
	r = hugetlb_vmemmap_restore_folio(h, folio);
	if (r)
		goto err_unfreeze;

	do {
		xas_lock_irq(&xas);
		xas_store(&xas, GUESTMEM_PLACEHOLDER);
		xas_unlock_irq(&xas);
	} while (xas_nomem(&xas, GFP_KERNEL));

	r = xas_error(&xas);
	if (r)
		goto err_unfreeze;

	r = guestmem_split_placeholders(&p);
	if (r)
		goto err_remove;

	guestmem_origin_take(origin, folio);
	guestmem_break_pages(&folio->page, &p);
	guestmem_origin_mark_poison(origin, origin->pfn, 1UL << p.order);

	xa_lock_irq(&mapping->i_pages);
	mapping->nrpages += 1UL << p.order;
	xa_unlock_irq(&mapping->i_pages);

	guestmem_store_pieces(&folio->page, &p);
	return 0;

err_remove:
	guestmem_remove_placeholders(&p);
err_unfreeze:
	if (origin->optimized && !folio_test_hugetlb_vmemmap_optimized(folio))
		guestmem_optimize_folio(h, folio);
	folio_ref_unfreeze(folio, 1);
err_free:
	guestmem_origin_free(origin);
	return r;
}

/*
 * Set the type that tells the last folio_put() where a piece belongs.  Returns false if
 * the piece is mapped: the type and the number of mappings are one and the same word.
 */
static bool guestmem_try_set_type(struct folio *folio)
{
	const unsigned int type = (unsigned int)PGTY_guestmem << 24;

	return cmpxchg(&folio->page.page_type, UINT_MAX, type) == UINT_MAX;
}

/**
 * guestmem_remove_piece - remove a piece from its file
 * @mapping: the file
 * @folio: the piece, not mapped by user space
 *
 * Consumes the caller's reference.  If other users have one as well then the piece comes
 * back later.  A driver must not map a page of a file on its own.  A piece that it has
 * mapped in spite of that isn't unmapped here, and is lost.
 *
 * Context: may sleep.  The caller holds invalidate_lock for write, or is the
 *	last user of the file.
 */
void guestmem_remove_piece(struct address_space *mapping, struct folio *folio)
{
	unsigned long nr_pages = folio_nr_pages(folio);
	XA_STATE_ORDER(xas, &mapping->i_pages, folio->index, folio_order(folio));
	bool typed;

	folio_lock(folio);
	/* A fault that was in flight may have mapped the piece, with the lock held. */
	if (folio_mapped(folio))
		unmap_mapping_folio(folio);

	/*
	 * Set the type before the mapping becomes NULL: TCP, e.g., maps a page that it
	 * has a reference to if the page has neither type nor mapping.
	 */
	typed = guestmem_try_set_type(folio);

	xas_lock_irq(&xas);
	xas_store(&xas, NULL);
	WRITE_ONCE(folio->mapping, NULL);
	mapping->nrpages -= nr_pages;
	xas_unlock_irq(&xas);

	if (mapping->a_ops->free_folio)
		mapping->a_ops->free_folio(folio);

	folio_unlock(folio);

	if (typed)
		folio_put_refs(folio, nr_pages + 1);
	else
		pr_warn_ratelimited("pfn %#lx is still mapped, and lost with its huge page\n",
				    folio_pfn(folio));
}
