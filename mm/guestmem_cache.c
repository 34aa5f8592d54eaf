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

static void guestmem_stage_state(struct xa_state *xas, struct xarray *xa,
				 const struct guestmem_stage *stage)
{
	*xas = (struct xa_state)
		__XA_STATE(xa, stage->index, 0, 0);
	xas_set_order(xas, stage->index, stage->lower_order);
}

/**
 * guestmem_alloc_nodes - allocate the nodes that the page cache needs for pieces
 * @nodes: set to the nodes
 * @p: the layout, given by cuts, of a folio in the page cache
 *
 * Context: may sleep.
 * Return: 0 or -ENOMEM.  The caller releases the nodes with guestmem_free_nodes(), unless
 *	guestmem_try_detach() has made use of them.
 */
int guestmem_alloc_nodes(struct guestmem_nodes *nodes, const struct guestmem_pieces *p)
{
	unsigned int nr_stages, i;
	struct xa_state *xas;
	int r;

	nodes->nr_stages = 0;
	nr_stages = guestmem_plan_stages(&p->cuts, XA_CHUNK_SHIFT, nodes->stages,
					 GUESTMEM_MAX_STAGES);
	if (WARN_ON_ONCE(nr_stages > GUESTMEM_MAX_STAGES))
		return -EIO;

	for (i = 0; i < nr_stages; i++) {
		xas = &nodes->xas[i];
		guestmem_stage_state(xas, &p->mapping->i_pages, &nodes->stages[i]);
		xas_split_alloc(xas, GUESTMEM_PLACEHOLDER, nodes->stages[i].order, GFP_KERNEL);
		nodes->nr_stages++;
		r = xas_error(xas);
		if (r) {
			guestmem_free_nodes(nodes);
			return r;
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
void guestmem_free_nodes(struct guestmem_nodes *nodes)
{
	while (nodes->nr_stages)
		xas_destroy(&nodes->xas[--nodes->nr_stages]);
}

/* Replace a frozen folio by placeholders, as many as there are nodes for. */
static void guestmem_detach(struct folio *folio, struct guestmem_nodes *nodes)
{
	struct address_space *mapping = folio->mapping;
	XA_STATE_ORDER(xas, &mapping->i_pages, folio->index, folio_order(folio));
	unsigned int i;

	lockdep_assert_held(&mapping->i_pages.xa_lock);

	/* The first stage is that of all of the folio. */
	if (!nodes || !nodes->nr_stages) {
		xas_store(&xas, GUESTMEM_PLACEHOLDER);
		return;
	}

	for (i = 0; i < nodes->nr_stages; i++)
		xas_split(&nodes->xas[i], GUESTMEM_PLACEHOLDER, nodes->stages[i].order);
	nodes->nr_stages = 0;
}

/**
 * guestmem_try_detach - replace a folio by placeholders, and freeze it
 * @folio: the folio, with a reference of the caller
 * @nodes: the nodes for its pieces, in use if the function returns true; NULL if the folio
 *	is going to return as it is
 *
 * Context: any in which interrupts can be enabled.  The caller holds invalidate_lock for
 *	write.
 * Return: false if there are other references than those of the page cache and the caller.
 */
bool guestmem_try_detach(struct folio *folio, struct guestmem_nodes *nodes)
{
	struct address_space *mapping = folio->mapping;
	bool frozen;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	/* The page cache has a reference per page, the caller has one. */
	xa_lock_irq(&mapping->i_pages);
	frozen = folio_ref_freeze(folio, folio_nr_pages(folio) + 1);
	if (frozen)
		guestmem_detach(folio, nodes);
	xa_unlock_irq(&mapping->i_pages);

	return frozen;
}

static void guestmem_unfreeze_range(struct address_space *mapping, pgoff_t start,
				    pgoff_t end)
{
	XA_STATE(xas, &mapping->i_pages, start);
	struct folio *folio;

	lockdep_assert_held(&mapping->i_pages.xa_lock);

	if (start == end)
		return;

	xas_for_each(&xas, folio, end - 1)
		folio_ref_unfreeze(folio, folio_nr_pages(folio));
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

/* Freeze all folios of a block, or none. */
static bool guestmem_try_freeze_block(struct address_space *mapping, pgoff_t index,
				      unsigned int order, unsigned int max_folios)
{
	pgoff_t end = index + (1UL << order), next = index;
	XA_STATE(xas, &mapping->i_pages, index);
	unsigned int nr_folios = 0;
	struct folio *folio;

	lockdep_assert_held(&mapping->i_pages.xa_lock);

	xas_for_each(&xas, folio, end - 1) {
		if (nr_folios++ == max_folios || xa_is_value(folio) ||
		    folio->index != next || !guestmem_try_freeze(folio))
			break;

		next = folio_next_index(folio);
	}

	if (next == end)
		return true;

	guestmem_unfreeze_range(mapping, index, next);
	return false;
}

/**
 * guestmem_try_detach_block - replace all folios of a block by one placeholder
 * @mapping: the file
 * @index: the first page of the block
 * @order: log2 of the number of pages
 * @max_folios: how many folios the block may have.  All of them are frozen with a lock held
 *	and interrupts disabled
 *
 * Context: may sleep.  The caller holds invalidate_lock for write, and has no reference.
 * Return: true if the folios are frozen, and false if nothing has changed: a folio is in
 *	use, or has failed pages, or there are too many folios, or there's no memory.
 */
bool guestmem_try_detach_block(struct address_space *mapping, pgoff_t index,
			       unsigned int order, unsigned int max_folios)
{
	XA_STATE_ORDER(xas, &mapping->i_pages, index, order);
	bool frozen;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	do {
		xas_lock_irq(&xas);
		frozen = guestmem_try_freeze_block(mapping, index, order, max_folios);
		if (frozen) {
			/*
			 * Storing frees all nodes below, and may need a node above
			 * if the xarray has shrunk since the unit was split.
			 */
			xas_store(&xas, GUESTMEM_PLACEHOLDER);
			if (xas_error(&xas)) {
				guestmem_unfreeze_range(mapping, index,
							index + (1UL << order));
				frozen = false;
			}
		}
		xas_unlock_irq(&xas);
	} while (xas_nomem(&xas, GFP_KERNEL));

	return frozen;
}

/**
 * guestmem_attach - replace placeholders by a folio, and unfreeze it
 * @folio: the folio, frozen, with its mapping and its index
 * @mapping: the file
 * @nr_refs: number of references that the folio has from now on
 *
 * This frees the nodes below, and takes no memory: the nodes that the folio needs have been
 * there when it was detached.
 *
 * Context: any in which interrupts can be enabled.  The caller holds invalidate_lock for
 *	write.
 */
void guestmem_attach(struct folio *folio, struct address_space *mapping, int nr_refs)
{
	XA_STATE_ORDER(xas, &mapping->i_pages, folio->index, folio_order(folio));

	lockdep_assert_held_write(&mapping->invalidate_lock);

	xa_lock_irq(&mapping->i_pages);
	xas_store(&xas, folio);
	VM_WARN_ON_ONCE(xas_error(&xas));
	folio_ref_unfreeze(folio, nr_refs);
	xa_unlock_irq(&mapping->i_pages);
}

/* Move from one entry to the next one, or to any other, in the same node if possible. */
static void guestmem_move_to(struct xa_state *xas, pgoff_t index, unsigned int order)
{
	const unsigned int sibs = order % XA_CHUNK_SHIFT;
	const unsigned int shift = order - sibs;
	const unsigned int span = shift + XA_CHUNK_SHIFT;

	if (!xas_is_node(xas) || xas->xa_node->shift != shift ||
	    (index ^ xas->xa_index) >> span) {
		xas_set_order(xas, index, order);
		return;
	}

	xas_advance(xas, index);
	xas->xa_sibs = (1U << sibs) - 1;
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
		guestmem_move_to(&xas, folio->index, order);
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
	struct xarray *xa = &p->mapping->i_pages;
	struct guestmem_stage stage;
	struct xa_state xas;
	unsigned int order;

	for (index = p->cuts.index; index < end; index += 1UL << order) {
		order = guestmem_piece_order(p, index);

		for (stage.order = xa_get_order(xa, index); stage.order > order;
		     stage.order = stage.lower_order) {
			stage.index = round_down(index, 1UL << stage.order);
			stage.lower_order = guestmem_lower_order(stage.order, XA_CHUNK_SHIFT);

			guestmem_stage_state(&xas, xa, &stage);
			xas_split_alloc(&xas, GUESTMEM_PLACEHOLDER, stage.order, GFP_KERNEL);
			if (xas_error(&xas))
				return xas_error(&xas);

			xas_lock_irq(&xas);
			xas_split(&xas, GUESTMEM_PLACEHOLDER, stage.order);
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
 * the piece is mapped: the type and the number of mappings are one and the same word.
 */
static bool guestmem_try_set_type(struct folio *folio)
{
	const unsigned int type = (unsigned int)PGTY_guestmem << 24;

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
