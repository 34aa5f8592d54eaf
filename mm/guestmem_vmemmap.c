// SPDX-License-Identifier: GPL-2.0
/**
 * DOC: Vmemmap
 *
 * A page of the vmemmap has 64 struct pages.  With an optimized vmemmap, a hugetlb folio
 * has one such page of its own, for its head.  The rest of its struct pages are those of
 * tails, which are all the same: a page that the zone has for tails of this order, the
 * *shared tail page*, is mapped in their place.
 *
 * The vmemmap of a unit follows the unit's layout.  A page of the vmemmap is the unit's
 * own if a folio begins at its first struct page, and is a shared tail page of that
 * folio's order otherwise::
 *
 *   |4K|4K| .. |256K|  512K  |        1M         |     2M      |     folios
 *   |own       |own |own|tail|own|tail|tail|tail|own|tail| .. |     vmemmap
 *
 * So folios of less than 64 pages have struct pages like any other, a larger folio has
 * those of its first 64 pages, and no layout takes more memory than a vmemmap that isn't
 * optimized.  A unit that isn't optimized when it is split never has shared tail pages.
 *
 * A split maps pages that were allocated when it was prepared, and a merge frees pages.
 * Either flushes the TLB once for each folio that it splits or makes, before any folio has
 * a reference again.  Until then a CPU may see the old page or the new one, and finds a
 * reference count of 0 in both.
 *
 * The page that a merge takes away had the head of a piece.  A task may have seen its
 * reference count, and may be about to increment the count if it still is the same.  The
 * task may be preempted in between, for any time, and isn't within a RCU reader in all
 * cases.  The increment fails, as the count is 0 in the shared tail page as well, but
 * x86's cmpxchg needs the permission to write even if it doesn't change anything.  In the
 * same way, folio_unlock() may be about to clear PG_waiters, which isn't set there either.
 * So the shared tail page is writable where it takes the place of a page of the unit's
 * own, until the unit has a page of its own there again, or until hugetlb restores all
 * struct pages.  Elsewhere it is read-only.  An architecture where a task that has reserved
 * an address, as LL/SC does, must not find another page there can't do the same.
 */
#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <linux/pgtable.h>
#include <linux/unroll.h>
#include <linux/vmstat.h>

#include <asm/tlbflush.h>

#include "hugetlb_vmemmap.h"
#include "internal.h"

#include "guestmem_pages.h"
#include "guestmem_vmemmap.h"

/* A page of this memory that can't be had isn't worth an invocation of the OOM killer. */
#define GUESTMEM_VMEMMAP_GFP	(GFP_KERNEL_ACCOUNT | __GFP_RETRY_MAYFAIL)

/* How many PTEs to write per iteration of a loop. */
#define GUESTMEM_PTE_BATCH	16

static_assert(IS_ENABLED(CONFIG_X86_64));

/* Get the PTE that maps a page of the vmemmap, which hugetlb has optimized. */
static pte_t *guestmem_vmemmap_pte(unsigned long addr)
{
	pmd_t *pmd = pmd_off_k(addr);

	VM_WARN_ON_ONCE(pmd_leaf(*pmd));
	return pte_offset_kernel(pmd, addr);
}

/*
 * Tell where the next folio begins that needs a page of the vmemmap.  @i is where the last
 * one began, both relative to the first page of @p, and @order is set to the order of the
 * folio at @i.
 */
static unsigned long guestmem_next_own(const struct guestmem_pieces *p, unsigned long i,
				       unsigned int *order)
{
	*order = guestmem_piece_order(p, p->cuts.index + i);

	return i + max(1UL << *order, GUESTMEM_VMEMMAP_PAGES);
}

/**
 * guestmem_vmemmap_page - get the page of the vmemmap that has a struct page
 * @page: any page of an optimized unit
 *
 * Context: any.  The caller keeps the unit from being split or merged.
 * Return: the page, which may be the zone's shared tail page of any order.
 */
struct page *guestmem_vmemmap_page(struct page *page)
{
	unsigned long addr = (unsigned long)page;

	return pte_page(ptep_get(guestmem_vmemmap_pte(addr)));
}

/**
 * guestmem_vmemmap_release - free pages of the vmemmap that aren't mapped
 * @own: the pages, e.g. of guestmem_vmemmap_prepare() if the split is aborted
 *
 * Context: may sleep.
 */
void guestmem_vmemmap_release(struct list_head *own)
{
	struct page *page, *next;
	long nr_pages = 0;

	list_for_each_entry_safe(page, next, own, lru) {
		list_del(&page->lru);
		__free_page(page);
		nr_pages++;
	}

	memmap_pages_add(-nr_pages);
}

/**
 * guestmem_vmemmap_prepare - allocate the memory that the vmemmap needs for a split
 * @own: set to the pages
 * @page: the first page of the folio that is going to be split
 * @p: the layout of the pieces
 *
 * The memcg of the caller is charged.
 *
 * Context: may sleep.  The caller passes @own to either guestmem_vmemmap_break() or
 *	guestmem_vmemmap_release().
 * Return: 0, or -ENOMEM with no page allocated.
 */
int guestmem_vmemmap_prepare(struct list_head *own, struct page *page,
			     const struct guestmem_pieces *p)
{
	unsigned long nr_pages = 1UL << p->cuts.order, i;
	unsigned int order;
	struct page *new;
	long nr_own = 0;

	INIT_LIST_HEAD(own);
	/* The struct pages of a small folio are the unit's own. */
	if (!p->optimized || nr_pages <= GUESTMEM_VMEMMAP_PAGES)
		return 0;

	/* A merge needs those of orders that the split doesn't need, and must not fail. */
	for (order = VMEMMAP_TAIL_MIN_ORDER; order <= p->cuts.order; order++) {
		if (!hugetlb_vmemmap_tail(order, page_zone(page)))
			return -ENOMEM;
	}

	for (i = guestmem_next_own(p, 0, &order); i < nr_pages;
	     i = guestmem_next_own(p, i, &order)) {
		new = alloc_pages_node(page_to_nid(page), GUESTMEM_VMEMMAP_GFP, 0);
		if (!new)
			break;

		list_add(&new->lru, own);
		nr_own++;
		if (!(i % SZ_4K))
			cond_resched();
	}

	memmap_pages_add(nr_own);
	if (i < nr_pages) {
		guestmem_vmemmap_release(own);
		return -ENOMEM;
	}

	return 0;
}

/* Map a page of the unit's own.  The first struct page, of a head, isn't a tail anymore. */
static void guestmem_map_own(struct page *page, struct list_head *own)
{
	struct page *new = list_first_entry(own, struct page, lru);
	unsigned long addr = (unsigned long)page;

	list_del(&new->lru);
	copy_page(page_address(new), page);
	clear_compound_head(page_address(new));

	/* The contents are there before the page is. */
	smp_wmb();
	set_pte_at(&init_mm, addr, guestmem_vmemmap_pte(addr), mk_pte(new, PAGE_KERNEL));
}

/*
 * Map the shared tail page of an order for all struct pages of a range.  An entry that has
 * been writable stays so, see above.  A 1G page has 4095 of these entries: they are most of
 * what its split and its merge cost.
 */
static void guestmem_map_tails(struct page *page, struct page *end, unsigned int order)
{
	struct page *tail = page_zone(page)->vmemmap_tails[order - VMEMMAP_TAIL_MIN_ORDER];
	const pteval_t writable = pgprot_val(PAGE_KERNEL) ^ pgprot_val(PAGE_KERNEL_RO);
	const pteval_t readonly = pte_val(mk_pte(tail, PAGE_KERNEL_RO));
	unsigned long addr = (unsigned long)page, next;
	pte_t *pte, *last;
	unsigned int i;

	for (; addr < (unsigned long)end; addr = next) {
		next = pmd_addr_end(addr, (unsigned long)end);
		pte = guestmem_vmemmap_pte(addr);
		last = pte + ((next - addr) >> PAGE_SHIFT);

		for (; last - pte >= GUESTMEM_PTE_BATCH; pte += GUESTMEM_PTE_BATCH) {
			unrolled_count(GUESTMEM_PTE_BATCH)
			for (i = 0; i < GUESTMEM_PTE_BATCH; i++)
				set_pte(pte + i, __pte(readonly | (pte_val(pte[i]) & writable)));
		}

		for (; pte < last; pte++)
			set_pte(pte, __pte(readonly | (pte_val(*pte) & writable)));
	}
}

/* Map own pages where folios are going to begin, and shared tails in between. */
static void guestmem_map_pieces(struct list_head *own, struct page *page,
				const struct guestmem_pieces *p)
{
	unsigned long nr_pages = 1UL << p->cuts.order, i, next;
	unsigned int order;

	if (nr_pages <= GUESTMEM_VMEMMAP_PAGES)
		return;

	for (i = 0; i < nr_pages; i = next) {
		next = guestmem_next_own(p, i, &order);
		/* The first page is the folio's own already, and has the folio lock. */
		if (i)
			guestmem_map_own(page + i, own);
		if (order >= VMEMMAP_TAIL_MIN_ORDER)
			guestmem_map_tails(page + i + GUESTMEM_VMEMMAP_PAGES, page + next, order);
		if (!(i % SZ_4K))
			cond_resched();
	}

	VM_WARN_ON_ONCE(!list_empty(own));
	flush_tlb_kernel_range((unsigned long)page, (unsigned long)(page + nr_pages));
}

/**
 * guestmem_vmemmap_break - turn a folio into pieces, and have the vmemmap follow
 * @own: the pages of guestmem_vmemmap_prepare(), which are in use from now on
 * @page: the first page of the folio, see guestmem_break_pages()
 * @p: the layout of the pieces
 *
 * Context: may sleep.
 */
void guestmem_vmemmap_break(struct list_head *own, struct page *page,
			    const struct guestmem_pieces *p)
{
	/* Afterwards, all struct pages that are written to are writable. */
	if (p->optimized)
		guestmem_map_pieces(own, page, p);

	guestmem_break_pages(page, p);
}

/* Find own pages that the vmemmap has because a folio begins there.  They stay mapped. */
static void guestmem_find_own(struct list_head *own, struct page *page, unsigned int order)
{
	unsigned long nr_pages = 1UL << order, i;

	for (i = folio_nr_pages((struct folio *)page); i < nr_pages;
	     i += folio_nr_pages((struct folio *)(page + i))) {
		if (IS_ALIGNED(i, GUESTMEM_VMEMMAP_PAGES))
			list_add(&guestmem_vmemmap_page(page + i)->lru, own);
	}
}

/**
 * guestmem_vmemmap_join - make one folio of several, and have the vmemmap follow
 * @page: the first page of the folios, see guestmem_join_pages()
 * @order: order of the new folio
 * @optimized: the pages are part of a unit with an optimized vmemmap
 *
 * Context: may sleep.
 */
void guestmem_vmemmap_join(struct page *page, unsigned int order, bool optimized)
{
	struct page *end = page + (1UL << order);
	LIST_HEAD(own);

	if (!optimized || order < VMEMMAP_TAIL_MIN_ORDER) {
		guestmem_join_pages(page, order, optimized);
		return;
	}

	guestmem_find_own(&own, page, order);
	guestmem_join_pages(page, order, true);
	guestmem_map_tails(page + GUESTMEM_VMEMMAP_PAGES, end, order);
	flush_tlb_kernel_range((unsigned long)page, (unsigned long)end);
	guestmem_vmemmap_release(&own);
}
