// SPDX-License-Identifier: GPL-2.0
/**
 * DOC: Page cache
 *
 * No other task may use folios while their struct pages change.  A split and a merge both
 *
 *  - *detach* the folios: a value, the *placeholder*, replaces them in the page cache.
 *    Lookups take it for "nothing there" and return at once, and folios can replace it
 *    without allocating memory;
 *  - *freeze* the reference counts, so that code that looks up struct pages by pfn
 *    sees free pages;
 *  - change the struct pages, no matter how long that takes;
 *  - *attach* the new folios to the page cache and unfreeze them.
 *
 * No task misses a folio that isn't in the page cache for a moment: the caller holds
 * invalidate_lock for write.
 *
 * This file has all code that changes the page cache of a file made of units, and its
 * number of pages.
 */
#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched.h>
#include <linux/sizes.h>

#include "internal.h"

#include "guestmem_layout.h"
#include "guestmem_pages.h"
#include "guestmem_cache.h"

/* Takes the place of a folio in the page cache while its struct pages change. */
#define GUESTMEM_PLACEHOLDER	xa_mk_value(0)

/* Go to the entry at @index, from the node of the last one if that is on the way. */
static void guestmem_go_to(struct xa_state *xas, pgoff_t index, unsigned int order)
{
	const unsigned int sibs = order % XA_CHUNK_SHIFT;
	unsigned int span;

	if (xas_is_node(xas)) {
		span = xas->xa_node->shift + XA_CHUNK_SHIFT;
		if (order < span && !((index ^ xas->xa_index) >> span)) {
			xas_advance(xas, index);
			xas->xa_shift = order - sibs;
			xas->xa_sibs = (1U << sibs) - 1;
			return;
		}
	}

	xas_set_order(xas, index, order);
}

/*
 * Replace an entry by another one of the same order.  In contrast to xas_store(), this never
 * needs memory, and is fast if the entry takes many slots.
 */
static void guestmem_replace(struct address_space *mapping, pgoff_t index,
			     unsigned int order, void *entry)
{
	XA_STATE_ORDER(xas, &mapping->i_pages, index, order);

	lockdep_assert_held(&mapping->i_pages.xa_lock);

	xas_split(&xas, entry, order);
}

/*
 * Go to the entry of a block that has cut @nr of @p inside, to split it into halves.
 * Returns the head of the piece that is stored in both of them.
 */
static struct page *guestmem_go_to_stage(struct xa_state *xas, struct page *page,
					 const struct guestmem_pieces *p, unsigned int nr,
					 unsigned int order)
{
	pgoff_t index = round_down(p->cuts.at[nr], 1UL << order);

	guestmem_go_to(xas, index, order - 1);

	return page + (guestmem_stage_entry(&p->cuts, index, order) - p->cuts.index);
}

/**
 * guestmem_alloc_nodes - allocate the nodes that the page cache needs for pieces
 * @nodes: set to the nodes
 * @page: the first page of a folio in the page cache
 * @p: the layout of its pieces, given by cuts
 *
 * Context: may sleep.
 * Return: 0 or -ENOMEM.  The caller passes the nodes to either guestmem_attach_cuts() or
 *	guestmem_free_nodes().
 */
int guestmem_alloc_nodes(struct xa_state *nodes, struct page *page,
			 const struct guestmem_pieces *p)
{
	struct guestmem_stages stages;
	unsigned int nr, order;
	struct page *entry;

	*nodes = (struct xa_state)__XA_STATE(&p->mapping->i_pages, 0, 0, 0);
	if (p->cuts.order < XA_CHUNK_SHIFT)
		return 0;

	/* A node has its entries from the start.  The one that is needed last comes first. */
	for (nr = GUESTMEM_NR_CUTS; nr--;) {
		stages = guestmem_plan_stages(&p->cuts, nr);
		for (order = stages.last; order <= stages.first; order++) {
			/* Both halves are in the node that has the entry. */
			if (order % XA_CHUNK_SHIFT)
				continue;

			entry = guestmem_go_to_stage(nodes, page, p, nr, order);
			xas_split_alloc(nodes, entry, order, GFP_KERNEL);
			if (xas_error(nodes))
				return xas_error(nodes);
		}
	}

	return 0;
}

/**
 * guestmem_free_nodes - free nodes that the page cache turned out not to need
 * @nodes: the nodes
 *
 * Context: any but NMI.
 */
void guestmem_free_nodes(struct xa_state *nodes)
{
	xas_destroy(nodes);
}

/**
 * guestmem_try_detach - replace a folio by a placeholder, and freeze it
 * @folio: the folio, which is large, with a reference of the caller
 *
 * Context: any in which interrupts can be enabled.  The caller holds invalidate_lock for
 *	write.
 * Return: false if there are other references than those of the page cache and the caller.
 */
bool guestmem_try_detach(struct folio *folio)
{
	struct address_space *mapping = folio->mapping;
	bool frozen;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	/* The page cache has a reference per page, the caller has one. */
	xa_lock_irq(&mapping->i_pages);
	frozen = folio_ref_freeze(folio, folio_nr_pages(folio) + 1);
	if (frozen)
		guestmem_replace(mapping, folio->index, folio_order(folio),
				 GUESTMEM_PLACEHOLDER);
	xa_unlock_irq(&mapping->i_pages);

	return frozen;
}

/* Unfreeze all folios of a range of pages. */
static void guestmem_unfreeze_range(struct page *page, struct page *end)
{
	struct folio *folio;

	for (; page < end; page += folio_nr_pages(folio)) {
		folio = (struct folio *)page;
		folio_ref_unfreeze(folio, folio_nr_pages(folio));
	}
}

static bool guestmem_try_freeze(struct folio *folio)
{
	if (folio_mapped(folio) || folio_test_hwpoison(folio) ||
	    !folio_ref_freeze(folio, folio_nr_pages(folio)))
		return false;

	/*
	 * A fault that has mapped a page gave its reference away, and the reference is gone
	 * if the page was unmapped since.  But the fault still has the folio lock.
	 * memory_failure() sets PG_hwpoison before it drops its reference.
	 */
	if (likely(!folio_test_locked(folio) && !folio_test_hwpoison(folio)))
		return true;

	folio_ref_unfreeze(folio, folio_nr_pages(folio));
	return false;
}

/* Freeze all folios of a block, or none.  They are in the page cache, one after the other. */
static bool guestmem_try_freeze_block(struct page *page, unsigned int order,
				      unsigned int max_folios)
{
	struct page *next = page, *end = page + (1UL << order);
	unsigned int nr_folios = 0;
	struct folio *folio;

	for (; next < end; next += folio_nr_pages(folio)) {
		folio = (struct folio *)next;
		if (nr_folios++ == max_folios || !guestmem_try_freeze(folio)) {
			guestmem_unfreeze_range(page, next);
			return false;
		}
	}

	return true;
}

/**
 * guestmem_try_detach_block - replace all folios of a block by one placeholder
 * @page: the first page of the block, all of which is in the page cache
 * @order: log2 of the number of pages
 * @max_folios: how many folios the block may have.  All of them are frozen with a lock held
 *	and interrupts disabled
 *
 * Context: may sleep.  The caller holds invalidate_lock for write, and has no reference.
 * Return: true if the folios are frozen, and false if nothing has changed: a folio is in
 *	use, or has failed pages, or there are too many folios, or there's no memory.
 */
bool guestmem_try_detach_block(struct page *page, unsigned int order,
			       unsigned int max_folios)
{
	struct folio *folio = (struct folio *)page;
	struct address_space *mapping = folio->mapping;
	XA_STATE_ORDER(xas, &mapping->i_pages, folio->index, order);
	bool frozen;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	do {
		xas_lock_irq(&xas);
		frozen = guestmem_try_freeze_block(page, order, max_folios);
		if (frozen) {
			/*
			 * Storing frees all nodes below, and may need a node above
			 * if the xarray has shrunk since the unit was split.
			 */
			xas_store(&xas, GUESTMEM_PLACEHOLDER);
			if (xas_error(&xas)) {
				guestmem_unfreeze_range(page, page + (1UL << order));
				frozen = false;
			}
		}
		xas_unlock_irq(&xas);
	} while (xas_nomem(&xas, GFP_KERNEL));

	return frozen;
}

/**
 * guestmem_attach - replace a placeholder by a folio, and unfreeze it
 * @folio: the folio, frozen, which is large, with its mapping and its index
 * @mapping: the file
 * @nr_refs: number of references that the folio has from now on
 *
 * Context: any in which interrupts can be enabled.  The caller holds invalidate_lock for
 *	write.
 */
void guestmem_attach(struct folio *folio, struct address_space *mapping, int nr_refs)
{
	XA_STATE_ORDER(xas, &mapping->i_pages, folio->index, folio_order(folio));

	lockdep_assert_held_write(&mapping->invalidate_lock);

	xa_lock_irq(&mapping->i_pages);
	/* There may be many placeholders, whose nodes this frees. */
	if (guestmem_uniform)
		xas_store(&xas, folio);
	else
		guestmem_replace(mapping, folio->index, folio_order(folio), folio);
	folio_ref_unfreeze(folio, nr_refs);
	xa_unlock_irq(&mapping->i_pages);
}

/**
 * guestmem_attach_pieces - replace placeholders by pieces, and unfreeze these
 * @page: the first page of the pieces, which are frozen
 * @p: the layout of the pieces
 *
 * The placeholders are small enough already, so no memory is needed.
 *
 * Context: may sleep.  The caller holds invalidate_lock, for write unless the pieces are
 *	new ones that no other task looks for.
 */
void guestmem_attach_pieces(struct page *page, const struct guestmem_pieces *p)
{
	struct address_space *mapping = p->mapping;
	unsigned long nr_pages = 1UL << p->cuts.order, i;
	XA_STATE(xas, &mapping->i_pages, p->cuts.index);
	unsigned int batch = 0, order;
	struct folio *folio;

	lockdep_assert_held(&mapping->invalidate_lock);

	xa_lock_irq(&mapping->i_pages);
	for (i = 0; i < nr_pages; i += 1UL << order) {
		folio = (struct folio *)(page + i);
		order = folio_order(folio);
		guestmem_go_to(&xas, folio->index, order);
		xas_store(&xas, folio);
		VM_WARN_ON_ONCE(xas_error(&xas));
		folio_ref_unfreeze(folio, 1U << order);

		if (++batch % SZ_1K)
			continue;

		xas_pause(&xas);
		xa_unlock_irq(&mapping->i_pages);
		cond_resched();
		xa_lock_irq(&mapping->i_pages);
	}
	xa_unlock_irq(&mapping->i_pages);
}

/* Split an entry at a cut.  In the end, there is an entry for each piece. */
static void guestmem_split_entry(struct xa_state *xas, struct page *page,
				 const struct guestmem_pieces *p, unsigned int nr,
				 unsigned int order)
{
	struct page *entry = guestmem_go_to_stage(xas, page, p, nr, order);
	pgoff_t middle = xas->xa_index + (1UL << (order - 1));
	struct page *right = page + (middle - p->cuts.index);

	xas_split(xas, entry, order);
	if (entry == right || guestmem_has_cut(&p->cuts, middle, order - 1))
		return;

	/* This replaces an entry of any order. */
	guestmem_go_to(xas, middle, 0);
	xas_store(xas, right);
}

/**
 * guestmem_attach_cuts - replace a placeholder by pieces, and unfreeze these
 * @page: the first page of the pieces, which are frozen
 * @p: the layout of the pieces, given by cuts
 * @nodes: the nodes of guestmem_alloc_nodes(), in use or freed afterwards
 *
 * Until all entries are as they have to be, lookups without a lock may find another piece
 * than that of their page, but can't get a reference to it.
 *
 * Context: may sleep.  The caller holds invalidate_lock for write.
 */
void guestmem_attach_cuts(struct page *page, const struct guestmem_pieces *p,
			  struct xa_state *nodes)
{
	struct address_space *mapping = p->mapping;
	struct guestmem_stages stages;
	unsigned int nr, order;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	if (guestmem_uniform) {
		guestmem_attach_pieces(page, p);
		guestmem_free_nodes(nodes);
		return;
	}

	xa_lock_irq(&mapping->i_pages);
	/* A whole unit may become one piece. */
	if (!guestmem_has_cut(&p->cuts, p->cuts.index, p->cuts.order))
		guestmem_replace(mapping, p->cuts.index, p->cuts.order, page);
	for (nr = 0; nr < GUESTMEM_NR_CUTS; nr++) {
		stages = guestmem_plan_stages(&p->cuts, nr);
		for (order = stages.first; order >= stages.last; order--)
			guestmem_split_entry(nodes, page, p, nr, order);
	}
	VM_WARN_ON_ONCE(nodes->xa_alloc);

	guestmem_unfreeze_range(page, page + (1UL << p->cuts.order));
	xa_unlock_irq(&mapping->i_pages);
}

/**
 * guestmem_add_whole - add a new unit to a file, as one folio
 * @folio: the unit, a hugetlb folio
 * @mapping: the file
 * @index: the index of the unit's first page
 *
 * Context: may sleep.  The caller holds invalidate_lock and the folio lock, and keeps other
 *	tasks from adding the same unit.
 * Return: 0 or -ENOMEM.
 */
int guestmem_add_whole(struct folio *folio, struct address_space *mapping, pgoff_t index)
{
	lockdep_assert_held(&mapping->invalidate_lock);
	VM_WARN_ON_ONCE_FOLIO(!folio_test_locked(folio), folio);

	return __filemap_add_folio(mapping, folio, index, GFP_KERNEL, NULL);
}

/**
 * guestmem_split_placeholder - split a placeholder until pieces can be stored in its place
 * @p: the layout of the pieces
 *
 * Context: may sleep.  The caller holds invalidate_lock, for write unless the placeholder is
 *	that of a new unit.
 * Return: 0, or -ENOMEM with some placeholders split.
 */
int guestmem_split_placeholder(const struct guestmem_pieces *p)
{
	pgoff_t end = p->cuts.index + (1UL << p->cuts.order), index;
	XA_STATE(xas, &p->mapping->i_pages, 0);
	unsigned int order, old, new;

	for (index = p->cuts.index; index < end; index += 1UL << order) {
		order = guestmem_piece_order(p, index);

		for (old = xa_get_order(xas.xa, index); old > order; old = new) {
			new = guestmem_lower_order(old, XA_CHUNK_SHIFT);
			xas_set_order(&xas, round_down(index, 1UL << old), new);
			xas_split_alloc(&xas, GUESTMEM_PLACEHOLDER, old, GFP_KERNEL);
			if (xas_error(&xas))
				return xas_error(&xas);

			xas_lock_irq(&xas);
			xas_split(&xas, GUESTMEM_PLACEHOLDER, old);
			xas_unlock_irq(&xas);
		}

		cond_resched();
	}

	return 0;
}

/**
 * guestmem_add_placeholders - make room for a new unit in pieces
 * @p: the layout of the pieces
 *
 * Context: may sleep.  The caller holds invalidate_lock, and keeps other tasks from adding
 *	the same unit.
 * Return: 0, or -ENOMEM with everything as it was.
 */
int guestmem_add_placeholders(const struct guestmem_pieces *p)
{
	XA_STATE_ORDER(xas, &p->mapping->i_pages, p->cuts.index, p->cuts.order);
	int r;

	lockdep_assert_held(&p->mapping->invalidate_lock);

	do {
		xas_lock_irq(&xas);
		xas_store(&xas, GUESTMEM_PLACEHOLDER);
		xas_unlock_irq(&xas);
	} while (xas_nomem(&xas, GFP_KERNEL));

	r = xas_error(&xas);
	if (r)
		return r;

	r = guestmem_split_placeholder(p);
	if (r) {
		xas_set_order(&xas, p->cuts.index, p->cuts.order);
		xas_lock_irq(&xas);
		xas_store(&xas, NULL);
		xas_unlock_irq(&xas);
	}

	return r;
}

/**
 * guestmem_add_pieces - add a new unit to a file, in pieces
 * @page: the first page of the pieces, which are frozen
 * @p: the layout of the pieces, which guestmem_add_placeholders() has made room for
 *
 * Context: may sleep.  The caller holds invalidate_lock, and keeps other tasks from adding
 *	the same unit.
 */
void guestmem_add_pieces(struct page *page, const struct guestmem_pieces *p)
{
	struct address_space *mapping = p->mapping;

	lockdep_assert_held(&mapping->invalidate_lock);

	xa_lock_irq(&mapping->i_pages);
	mapping->nrpages += 1UL << p->cuts.order;
	xa_unlock_irq(&mapping->i_pages);

	guestmem_attach_pieces(page, p);
}

/**
 * guestmem_remove_whole - remove a unit that is one folio from its file
 * @folio: the unit, not mapped by user space
 *
 * The caller keeps its reference.
 *
 * Context: may sleep.  The caller holds invalidate_lock for write.
 */
void guestmem_remove_whole(struct folio *folio)
{
	lockdep_assert_held_write(&folio->mapping->invalidate_lock);

	folio_lock(folio);
	VM_WARN_ON_ONCE_FOLIO(folio_mapped(folio), folio);

	folio_clear_dirty(folio);
	folio_clear_uptodate(folio);
	filemap_remove_folio(folio);
	folio_unlock(folio);
}

/*
 * Set the type that tells the last folio_put() where a piece belongs.  Returns false if
 * the piece is mapped: the type and the number of mappings of a page are one and the same
 * word.
 */
static bool guestmem_try_set_type(struct folio *folio)
{
	const unsigned int type = (unsigned int)PGTY_guestmem << 24;

	if (folio_test_large(folio) && folio_mapped(folio))
		return false;

	return cmpxchg(&folio->page.page_type, UINT_MAX, type) == UINT_MAX;
}

static void guestmem_remove_entry(struct address_space *mapping, struct folio *folio)
{
	XA_STATE_ORDER(xas, &mapping->i_pages, folio->index, folio_order(folio));

	xas_lock_irq(&xas);
	xas_store(&xas, NULL);
	WRITE_ONCE(folio->mapping, NULL);
	mapping->nrpages -= folio_nr_pages(folio);
	xas_unlock_irq(&xas);
}

/**
 * guestmem_remove_piece - remove a piece from its file
 * @folio: the piece, not mapped by user space
 *
 * Consumes the caller's reference.  If other users have one as well then the piece comes
 * back later.  A driver must not map a page of a file on its own.  A piece that it has
 * mapped in spite of that isn't unmapped here, and is lost.
 *
 * Context: may sleep.  The caller holds invalidate_lock for write.
 */
void guestmem_remove_piece(struct folio *folio)
{
	struct address_space *mapping = folio->mapping;
	bool typed;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	folio_lock(folio);
	/* A fault that was in flight may have mapped the piece, with the lock held. */
	if (folio_mapped(folio))
		unmap_mapping_folio(folio);

	/*
	 * Set the type before the mapping becomes NULL: TCP, e.g., maps a page that it
	 * has a reference to if the page has neither type nor mapping.
	 */
	typed = guestmem_try_set_type(folio);
	guestmem_remove_entry(mapping, folio);

	if (mapping->a_ops->free_folio)
		mapping->a_ops->free_folio(folio);

	folio_unlock(folio);

	if (typed)
		folio_put_refs(folio, folio_nr_pages(folio) + 1);
	else
		pr_warn_ratelimited("pfn %#lx is still mapped, and lost with its huge page\n",
				    folio_pfn(folio));
}
