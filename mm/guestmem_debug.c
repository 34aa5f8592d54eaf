// SPDX-License-Identifier: GPL-2.0
/**
 * DOC: Debugging
 *
 * With CONFIG_DEBUG_GUESTMEM, /sys/kernel/debug/guestmem/units shows all units that are
 * split, one line each::
 *
 *   pfn 0x140000 order 18 out 0 ino 41 index 0x0 folios 19: 0*2 1 2 3 4 ... 17
 *   pfn 0x180000 out 1
 *
 * The list at the end has the orders of all folios, in the order of the file, with
 * repetitions counted.  "out" is the number of pages that have left the page cache
 * and aren't back yet.  The second kind of line is that of a late unit, or of a unit that
 * is being split or merged.
 *
 * Reading the file also checks everything that must be true of a unit, and the struct
 * pages that the tails of all huge pages share.  A violation is one more line, which
 * begins with "BAD".  The last line has the number of units and of violations.
 *
 * tools/testing/selftests/kvm/lib/guestmem_units.c and tools/mm/guestmem-units.c parse the
 * lines.  The former takes one of the first kind whose format has changed for one of the
 * second kind.
 *
 * The kernel parameter guestmem_uniform is for comparison: a folio is split into single
 * pages at once, and is merged when all of the unit may be one folio.
 */
#define pr_fmt(fmt) "guestmem: " fmt

#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/hugetlb.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>

#include "internal.h"

#include "guestmem_pages.h"
#include "guestmem_vmemmap.h"
#include "guestmem_origin.h"
#include "guestmem_debug.h"

struct guestmem_check {
	struct seq_file *m;
	unsigned long nr_units;
	unsigned long nr_bad;
	/* Run-length encoding of orders. */
	unsigned int order;
	unsigned long nr_orders;
};

static __printf(3, 4) void guestmem_bad(struct guestmem_check *c, struct page *page,
					const char *fmt, ...)
{
	struct va_format vaf;
	va_list args;

	va_start(args, fmt);
	vaf.fmt = fmt;
	vaf.va = &args;
	/* Show the first 20, which is enough to find out what's wrong. */
	if (c->nr_bad++ < 20) {
		if (c->m)
			seq_printf(c->m, "\nBAD pfn 0x%lx: %pV",
				   page ? page_to_pfn(page) : 0, &vaf);
		else
			pr_err("pfn 0x%lx: %pV\n", page ? page_to_pfn(page) : 0, &vaf);
	}
	va_end(args);
}

static void guestmem_flush_orders(struct guestmem_check *c)
{
	if (c->nr_orders == 1)
		seq_printf(c->m, " %u", c->order);
	else if (c->nr_orders)
		seq_printf(c->m, " %u*%lu", c->order, c->nr_orders);
	c->nr_orders = 0;
}

static void guestmem_add_order(struct guestmem_check *c, unsigned int order)
{
	if (c->nr_orders && c->order != order)
		guestmem_flush_orders(c);

	c->order = order;
	c->nr_orders++;
}

/* Check a page that is not the first one of its folio. */
static void guestmem_check_tail(struct guestmem_check *c, struct folio *folio,
				unsigned long i)
{
	struct page *page = folio_page(folio, i);

	if (page_folio(page) != folio)
		guestmem_bad(c, page, "tail of another folio");
	if (page->flags.f & PAGE_FLAGS_CHECK_AT_PREP && i > 1)
		guestmem_bad(c, page, "tail with flags 0x%lx", page->flags.f);
	if (PageHWPoison(page))
		guestmem_bad(c, page, "tail with poison");
	if (page_ref_count(page))
		guestmem_bad(c, page, "tail with refcount %d", page_ref_count(page));
	/* Struct pages 1 to 3 have other uses. */
	if (i > 3 && page->mapping != TAIL_MAPPING)
		guestmem_bad(c, page, "tail with mapping %p", page->mapping);
	if (i > 3 && page->private)
		guestmem_bad(c, page, "tail with private 0x%lx", page->private);
	if (page_to_nid(page) != folio_nid(folio) || page_zonenum(page) != folio_zonenum(folio))
		guestmem_bad(c, page, "tail in another zone");
}

#ifdef CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP
/* Check that a folio of an optimized unit has one page of the vmemmap, and shares others. */
static void guestmem_check_vmemmap(struct guestmem_check *c, struct folio *folio)
{
	struct page **tails = folio_zone(folio)->vmemmap_tails, *page, *want = NULL;
	unsigned long nr_pages = folio_nr_pages(folio), i;
	int order;

	if (!IS_ALIGNED(folio_pfn(folio), GUESTMEM_VMEMMAP_PAGES))
		return;

	page = guestmem_vmemmap_page(&folio->page);
	for (order = 0; order < NR_VMEMMAP_TAILS; order++) {
		if (page == tails[order])
			guestmem_bad(c, &folio->page, "head in a shared tail page");
	}

	if (folio_order(folio) >= VMEMMAP_TAIL_MIN_ORDER)
		want = tails[folio_order(folio) - VMEMMAP_TAIL_MIN_ORDER];
	for (i = GUESTMEM_VMEMMAP_PAGES; i < nr_pages; i += GUESTMEM_VMEMMAP_PAGES) {
		if (guestmem_vmemmap_page(folio_page(folio, i)) != want)
			guestmem_bad(c, folio_page(folio, i), "tail of order %u isn't shared",
				     folio_order(folio));
	}
}

/* Check that nothing has written to the tails that all huge pages of a zone share. */
static void guestmem_check_shared_tails(struct guestmem_check *c)
{
	const unsigned long cpupid = ((1UL << LAST_CPUPID_WIDTH) - 1) << LAST_CPUPID_PGSHIFT;
	struct page *want = (struct page *)get_zeroed_page(GFP_KERNEL), *page;
	struct zone *zone;
	int order, i;

	if (!want)
		return;

	for_each_populated_zone(zone) {
		for (order = 0; order < NR_VMEMMAP_TAILS; order++) {
			if (!zone->vmemmap_tails[order])
				continue;

			init_compound_tail(want, NULL, order + VMEMMAP_TAIL_MIN_ORDER, zone);
			page = page_address(zone->vmemmap_tails[order]);
			for (i = 0; i < GUESTMEM_VMEMMAP_PAGES; i++, page++) {
				/* One that was there at boot isn't reset in all parts. */
				want->lru.prev = page->lru.prev;
				want->flags.f &= ~cpupid;
				want->flags.f |= page->flags.f & cpupid;
				if (memcmp(page, want, sizeof(*page)))
					guestmem_bad(c, NULL, "shared tail %d of order %d",
						     i, order + VMEMMAP_TAIL_MIN_ORDER);
			}
		}
	}

	free_page((unsigned long)want);
}
#else
static void guestmem_check_vmemmap(struct guestmem_check *c, struct folio *folio)
{
}

static void guestmem_check_shared_tails(struct guestmem_check *c)
{
}
#endif

/* Tell whether PG_hwpoison is set exactly if the list has a page of the folio. */
static bool guestmem_poison_is_consistent(struct folio *folio)
{
	unsigned long pfn = folio_pfn(folio);
	struct guestmem_origin *origin;

	guard(spinlock_irq)(&hugetlb_lock);

	origin = guestmem_origin_find(pfn);
	return folio_test_hwpoison(folio) ==
	       guestmem_origin_is_poisoned(origin, pfn, folio_nr_pages(folio));
}

/* Check a folio of the page cache. */
static void guestmem_check_piece(struct guestmem_check *c, struct folio *folio,
				 struct address_space *mapping, pgoff_t index)
{
	struct page *page = &folio->page;
	unsigned long nr_pages = folio_nr_pages(folio), i;

	if (folio->mapping != mapping || folio->index != index)
		guestmem_bad(c, page, "mapping %p index 0x%lx, not %p 0x%lx",
			     folio->mapping, folio->index, mapping, index);
	if (page_has_type(page))
		guestmem_bad(c, page, "type 0x%x", page->page_type);
	if (!IS_ALIGNED(index, nr_pages) || !IS_ALIGNED(folio_pfn(folio), nr_pages))
		guestmem_bad(c, page, "order %u isn't aligned", folio_order(folio));
	if (folio_ref_count(folio) < nr_pages + folio_mapcount(folio))
		guestmem_bad(c, page, "refcount %d", folio_ref_count(folio));
	if (folio_mapped(folio) && folio_test_large(folio) && folio_order(folio) != PMD_ORDER &&
	    folio_order(folio) != PUD_ORDER)
		guestmem_bad(c, page, "order %u and mapped", folio_order(folio));
	if (!folio_test_uptodate(folio))
		guestmem_bad(c, page, "not up to date");
	if (!guestmem_poison_is_consistent(folio))
		guestmem_bad(c, page, "poison");
	if (folio_test_lru(folio) || folio_test_private(folio) || folio->private)
		guestmem_bad(c, page, "on the LRU or private");
#ifdef CONFIG_MEMCG
	if (folio->memcg_data)
		guestmem_bad(c, page, "charged");
#endif
	if (xa_load(&mapping->i_pages, index) != folio ||
	    xa_load(&mapping->i_pages, index + nr_pages - 1) != folio ||
	    xa_get_order(&mapping->i_pages, index) != folio_order(folio))
		guestmem_bad(c, page, "page cache entry");

	for (i = 1; i < nr_pages; i++)
		guestmem_check_tail(c, folio, i);

	if (guestmem_origin_find(folio_pfn(folio))->optimized)
		guestmem_check_vmemmap(c, folio);
}

static void guestmem_check_unit(struct guestmem_check *c, struct guestmem_origin *origin,
				struct address_space *mapping)
{
	unsigned long nr_pages = pages_per_huge_page(origin->h), nr_folios = 0, i;
	struct page *page = pfn_to_page(origin->pfn);
	pgoff_t index = page_folio(page)->index;
	struct folio *folio;

	lockdep_assert_held_write(&mapping->invalidate_lock);

	for (i = 0; i < nr_pages; i += folio_nr_pages(folio)) {
		folio = (struct folio *)(page + i);
		nr_folios++;
	}

	seq_printf(c->m, "pfn 0x%lx order %u out %lu ino %llu index 0x%lx folios %lu:",
		   origin->pfn, huge_page_order(origin->h),
		   nr_pages - atomic_long_read(&origin->nr_out),
		   (u64)mapping->host->i_ino, index, nr_folios);

	for (i = 0; i < nr_pages; i += folio_nr_pages(folio)) {
		folio = (struct folio *)(page + i);
		guestmem_add_order(c, folio_order(folio));
		guestmem_check_piece(c, folio, mapping, index + i);
		cond_resched();
	}

	guestmem_flush_orders(c);
	seq_putc(c->m, '\n');
}

/**
 * guestmem_check_mapping - check all split units of a file
 * @mapping: the file
 *
 * Context: may sleep.  The caller keeps the file from being changed.
 * Return: the number of violations, details are in the kernel log.
 */
unsigned long guestmem_check_mapping(struct address_space *mapping)
{
	struct guestmem_check c = {};
	struct folio *folio;
	unsigned long i;

	xa_for_each(&mapping->i_pages, i, folio) {
		if (xa_is_value(folio))
			guestmem_bad(&c, NULL, "placeholder at 0x%lx", i);
		else if (folio_test_hugetlb(folio) == !!guestmem_origin_find(folio_pfn(folio)))
			guestmem_bad(&c, &folio->page, "origin");
		else if (!folio_test_hugetlb(folio))
			guestmem_check_piece(&c, folio, mapping, i);
		else if (folio_test_hugetlb_vmemmap_optimized(folio))
			guestmem_check_vmemmap(&c, folio);
		cond_resched();
	}

	guestmem_check_shared_tails(&c);
	return c.nr_bad;
}

/* A copy of what an origin says of its unit, as the origin may be about to be freed. */
struct guestmem_unit {
	unsigned long pfn;
	unsigned long nr_pages;
	long nr_out;
	struct address_space *mapping;
	struct guestmem_origin *origin;
};

/*
 * Find the next unit and, if it is part of a file, lock the file.  Returns -ENOENT if
 * there are no more units, and -EAGAIN if the caller has to try again.
 * A unit isn't changed without the lock, and as long as a unit is part of a file the
 * file doesn't go away, nor does its module.  Until the lock is held, nothing but RCU
 * keeps the inode.
 */
static int guestmem_lock_unit(struct guestmem_unit *u)
{
	guard(rcu)();

	u->mapping = NULL;
	u->origin = guestmem_origin_next(&u->pfn);
	if (!u->origin)
		return -ENOENT;

	u->pfn = u->origin->pfn;
	u->nr_pages = pages_per_huge_page(u->origin->h);
	u->nr_out = atomic_long_read(&u->origin->nr_out);

	spin_lock_irq(&hugetlb_lock);
	if (!list_empty(&u->origin->list))
		u->mapping = READ_ONCE(pfn_folio(u->pfn)->mapping);
	spin_unlock_irq(&hugetlb_lock);

	if (!u->mapping)
		return 0;

	if (!down_write_trylock(&u->mapping->invalidate_lock))
		return -EAGAIN;

	if (guestmem_origin_find(u->pfn) == u->origin &&
	    READ_ONCE(pfn_folio(u->pfn)->mapping) == u->mapping)
		return 0;

	up_write(&u->mapping->invalidate_lock);
	return -EAGAIN;
}

static void guestmem_unlock_unit(struct guestmem_unit *u)
{
	/* The last user may be waiting for the lock, just to free the inode. */
	guard(rcu)();

	up_write(&u->mapping->invalidate_lock);
}

static int guestmem_units_show(struct seq_file *m, void *v)
{
	struct guestmem_check c = { .m = m };
	struct guestmem_unit u = {};
	int r;

	while ((r = guestmem_lock_unit(&u)) != -ENOENT) {
		if (r == -EAGAIN) {
			schedule_timeout_killable(1);
			if (fatal_signal_pending(current))
				return -EINTR;
			continue;
		}

		if (u.mapping) {
			guestmem_check_unit(&c, u.origin, u.mapping);
			guestmem_unlock_unit(&u);
		} else {
			seq_printf(m, "pfn 0x%lx out %ld\n", u.pfn, u.nr_out);
		}

		c.nr_units++;
		u.pfn += u.nr_pages;
	}

	guestmem_check_shared_tails(&c);
	if (c.nr_bad)
		seq_putc(m, '\n');
	seq_printf(m, "%lu units, %lu bad\n", c.nr_units, c.nr_bad);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(guestmem_units);

static int __init guestmem_debug_init(void)
{
	struct dentry *dir = debugfs_create_dir("guestmem", NULL);

	debugfs_create_file("units", 0400, dir, NULL, &guestmem_units_fops);
	return 0;
}
late_initcall(guestmem_debug_init);
