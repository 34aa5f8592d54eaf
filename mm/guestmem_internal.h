/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_GUESTMEM_INTERNAL_H
#define _MM_GUESTMEM_INTERNAL_H

#include <linux/atomic.h>
#include <linux/fs.h>
#include <linux/guestmem.h>
#include <linux/hugetlb.h>
#include <linux/list.h>
#include <linux/llist.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/sizes.h>
#include <linux/types.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "guestmem_layout.h"

/**
 * struct guestmem_late - units of one file that have left it in pieces
 * @refs: one of the file, one for each of these units and one if @work is queued
 * @nr_held: number of units that are late because of a piece that is still in use
 * @nr_back: number of units that are complete, but not yet in the pool
 * @list: the units that are complete
 * @work: returns them to the pool
 * @wait: for @nr_back to become 0
 *
 * Outlives the file: the last reference to a piece may be dropped at any time.
 */
struct guestmem_late {
	refcount_t refs;
	atomic_long_t nr_held;
	atomic_long_t nr_back;
	struct llist_head list;
	struct work_struct work;
	wait_queue_head_t wait;
};

/**
 * struct guestmem_origin - what a hugetlb folio knew before it was split
 * @h: where it came from
 * @pfn: its first pfn
 * @nr_out: number of base pages that haven't come back, see guestmem_origin.c
 * @list: all origins, under hugetlb_lock
 * @free_node: used when all pages are back
 * @rcu: freed after a grace period, the table is looked up under RCU
 * @hpg_flags: what was in folio->private
 * @spool: the file's reservation
 * @late: the file's units that have left it in pieces, NULL unless this is one of them
 * @held: this unit is counted in @late->nr_held
 * @h_cg: hugetlb cgroup that is charged for the usage, under hugetlb_lock
 * @h_cg_rsvd: hugetlb cgroup that is charged for the reservation
 * @memcg_data: memcg that is charged, or 0
 * @poison: the pages that have failed, of struct raw_hwp_page.  Entries are added
 *	under hugetlb_lock, as long as the page isn't part of a frozen folio, and are
 *	never removed
 * @optimized: the vmemmap was optimized, i.e. tails had no struct pages, and is going to
 *	be so again if the unit isn't split after all
 *
 * As long as there is an origin, the counters of hugetlb, of its cgroup and of
 * the memcg count one huge page in use.
 */
struct guestmem_origin {
	struct hstate *h;
	unsigned long pfn;
	atomic_long_t nr_out;
	struct list_head list;
	struct llist_node free_node;
	struct rcu_head rcu;

	unsigned long hpg_flags;
	struct hugepage_subpool *spool;
	struct guestmem_late *late;
	struct hugetlb_cgroup *h_cg;
	struct hugetlb_cgroup *h_cg_rsvd;
	unsigned long memcg_data;
	struct llist_head poison;
	bool optimized;
	bool held;
};

/* guestmem_hugetlb.c */
struct hstate *guestmem_hugetlb_hstate(const struct guestmem_hugetlb *gh);
void guestmem_cut_reservation(struct hugepage_subpool *spool);
void guestmem_replace_unit(struct hugepage_subpool *spool);

/* guestmem_origin.c */
struct guestmem_origin *guestmem_origin_alloc(struct hstate *h, unsigned long pfn);
void guestmem_origin_free(struct guestmem_origin *origin);
struct guestmem_origin *guestmem_origin_find(unsigned long pfn);
struct guestmem_origin *guestmem_origin_next(unsigned long *pfn);
void guestmem_origin_take(struct guestmem_origin *origin, struct folio *folio);
void guestmem_origin_give(struct guestmem_origin *origin, struct folio *folio);
bool guestmem_origin_is_poisoned(struct guestmem_origin *origin, unsigned long pfn,
				 unsigned long nr_pages);
struct page *guestmem_find_poison(struct llist_head *poison, unsigned long pfn,
				  unsigned long nr_pages);
void guestmem_origin_mark_poison(struct guestmem_origin *origin, unsigned long pfn,
				 unsigned long nr_pages);
void guestmem_lose_folio(struct folio *folio);
void guestmem_optimize_folio(struct hstate *h, struct folio *folio);
struct guestmem_late *guestmem_late_alloc(void);
void guestmem_late_put(struct guestmem_late *late);
void guestmem_late_add(struct guestmem_late *late, struct guestmem_origin *origin,
		       bool held);
void guestmem_late_sync(struct guestmem_late *late);

/* Takes the place of folios in the page cache. */
#define GUESTMEM_PLACEHOLDER	xa_mk_value(0)

/* What is whole again, but has more struct pages than it needs. */
#define GUESTMEM_TRIM_MARK	PAGECACHE_TAG_TOWRITE

/* Rewriting struct pages: how many of them until others may run. */
#define GUESTMEM_RESCHED_PAGES	SZ_4K

/* guestmem_reshape.c */
void guestmem_scrub_head(struct folio *folio);
void guestmem_prep_folio(struct page *page, unsigned int order);
bool guestmem_wait_for_reference(int tries);
bool guestmem_try_detach(struct folio *folio);
void guestmem_attach(struct folio *folio, struct address_space *mapping, int nr_refs);
int guestmem_add_split(struct address_space *mapping, struct folio *folio,
		       pgoff_t index, guestmem_wanted_fn wanted);
void guestmem_remove_piece(struct address_space *mapping, struct folio *folio);

/* guestmem_merge.c */
void guestmem_join_pages(struct page *page, unsigned int order);
bool guestmem_merge_unit(struct address_space *mapping, pgoff_t index,
			 unsigned int order);

/* guestmem_trim.c */
void guestmem_trim_later(struct hstate *h, struct folio *folio);

/* guestmem_debug.c */
unsigned long guestmem_check_mapping(struct address_space *mapping);

#endif /* _MM_GUESTMEM_INTERNAL_H */
