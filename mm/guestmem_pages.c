// SPDX-License-Identifier: GPL-2.0
/**
 * DOC: Pages
 *
 * A folio is *broken* into pieces, and pieces are *joined*, by rewriting struct pages.  No
 * other task may use the folios at that time: they are *frozen*, i.e. their reference count
 * is 0, and they aren't in the page cache.  With an optimized vmemmap, only the struct pages
 * of a folio's first 64 pages are its own, and guestmem_vmemmap.c sees to the others.
 *
 * To *scrub* a folio is to leave nothing of it but what struct pages have in common, i.e.
 * zone and node.  To *prep* one is to make a folio of struct pages that were scrubbed.
 */
#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/sched.h>
#include <linux/sizes.h>
#include <linux/unroll.h>

#include "internal.h"

#include "guestmem_layout.h"
#include "guestmem_pages.h"

/* How many struct pages to rewrite before other tasks may run. */
#define GUESTMEM_RESCHED_PAGES	SZ_4K

/* How many struct pages of tails to write per iteration of a loop. */
#define GUESTMEM_TAIL_BATCH	8

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
static void guestmem_scrub_head(struct folio *folio)
{
	unsigned int order = folio_order(folio);

	VM_WARN_ON_ONCE_FOLIO(folio_ref_count(folio), folio);

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

/* Without HVO, this loop is most of what a split and a merge of a 1G page cost. */
static void guestmem_set_tails(struct page *page, struct page *end, unsigned long info)
{
	unsigned int i;

	for (; end - page >= GUESTMEM_TAIL_BATCH; page += GUESTMEM_TAIL_BATCH) {
		unrolled_count(GUESTMEM_TAIL_BATCH)
		for (i = 0; i < GUESTMEM_TAIL_BATCH; i++)
			WRITE_ONCE(page[i].compound_info, info);
	}

	for (; page < end; page++)
		WRITE_ONCE(page->compound_info, info);
}

/* Make a folio of pages that have no references.  Its reference count stays 0. */
static void guestmem_prep_folio(struct page *page, unsigned int order, bool optimized)
{
	struct folio *folio = (struct folio *)page;
	unsigned long i, end, info, nr_pages = 1UL << order;

	page->private = 0;
	INIT_LIST_HEAD(&page->lru);
	if (!order)
		return;

	__folio_set_head(folio);
	if (optimized)
		nr_pages = min(nr_pages, GUESTMEM_VMEMMAP_PAGES);

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
				const struct guestmem_pieces *p, pgoff_t index)
{
	struct folio *folio = (struct folio *)page;

	guestmem_prep_folio(page, order, p->optimized);
	/* User space may map it, if the file lets it. */
	if (order == PMD_ORDER || order == PUD_ORDER)
		folio_set_large_rmappable(folio);
	folio->mapping = p->mapping;
	folio->index = index;
	__folio_mark_uptodate(folio);
}

#ifdef CONFIG_DEBUG_GUESTMEM
bool guestmem_uniform __ro_after_init;
core_param(guestmem_uniform, guestmem_uniform, bool, 0444);
#endif

/**
 * guestmem_piece_order - get the order of a piece
 * @p: the layout of a folio that becomes pieces
 * @index: the index of the piece's first page
 *
 * Context: any.
 * Return: log2 of the number of pages in the piece.
 */
unsigned int guestmem_piece_order(const struct guestmem_pieces *p, pgoff_t index)
{
	if (guestmem_uniform)
		return 0;

	if (p->wanted)
		return min(p->cuts.order, p->wanted(p->mapping, index));

	return guestmem_cut_order(&p->cuts, index);
}

/**
 * guestmem_break_pages - turn a folio into pieces
 * @page: the first page of the folio, frozen, which isn't a hugetlb folio
 * @p: the layout of the pieces
 *
 * The pieces are frozen, too.  The first piece inherits the folio lock, which a task may
 * be waiting for.
 *
 * Context: may sleep.
 */
void guestmem_break_pages(struct page *page, const struct guestmem_pieces *p)
{
	unsigned long nr_pages = 1UL << p->cuts.order, i;
	pgoff_t index = p->cuts.index;
	unsigned long keep = BIT(PG_locked) | BIT(PG_waiters);
	unsigned int order;

	/* The first page of a folio that leaves the pool has PG_hwpoison if it has failed. */
	if (!p->mapping)
		keep |= __PG_HWPOISON;

	keep &= page->flags.f;
	guestmem_scrub_head((struct folio *)page);
	page->flags.f |= keep;

	for (i = 0; i < nr_pages; i += 1UL << order) {
		order = guestmem_piece_order(p, index + i);
		guestmem_prep_piece(page + i, order, p, index + i);
		cond_resched();
	}
}

/**
 * guestmem_join_pages - make one folio of all pages of several folios
 * @page: the first page of the folios, which are frozen
 * @order: order of the new folio
 * @optimized: the pages are part of a unit with an optimized vmemmap
 *
 * The new folio is frozen, too.
 *
 * Context: may sleep.
 */
void guestmem_join_pages(struct page *page, unsigned int order, bool optimized)
{
	unsigned long nr_pages = 1UL << order, i, nr;

	for (i = 0; i < nr_pages; i += nr) {
		struct folio *folio = (struct folio *)(page + i);

		nr = folio_nr_pages(folio);
		guestmem_scrub_head(folio);
		if (i)
			page[i].mapping = TAIL_MAPPING;
		if (!(i % GUESTMEM_RESCHED_PAGES))
			cond_resched();
	}

	guestmem_prep_folio(page, order, optimized);
}
