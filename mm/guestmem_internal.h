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
 * struct guestmem_late - the late units of one file, which have left it in pieces
 * @refs: one for the file, one for each late unit and one if @work is queued
 * @nr_held: number of units that are late because a piece of them is still in use
 * @nr_back: number of units whose pieces are all back, but that aren't in the pool yet
 * @list: the units whose pieces are all back
 * @work: returns the units of @list to the pool
 * @wait: where tasks wait for @nr_back to become 0
 *
 * The struct outlives the file, as the last reference to a piece may be dropped at any time.
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
 * struct guestmem_origin - the metadata that a hugetlb folio had before it was split
 * @h: the hstate that the unit came from
 * @pfn: the unit's first pfn
 * @nr_out: number of base pages that haven't come back, see guestmem_origin.c
 * @list: entry in the list of all origins, under hugetlb_lock
 * @free_node: entry in @late->list, used when all pages are back
 * @rcu: frees the origin after a grace period, as readers look it up under RCU
 * @hpg_flags: the value of folio->private
 * @spool: the file's reservation
 * @late: the file's late units, NULL unless this unit is one of them
 * @held: this unit is counted in @late->nr_held
 * @h_cg: hugetlb cgroup that is charged for the usage, under hugetlb_lock
 * @h_cg_rsvd: hugetlb cgroup that is charged for the reservation
 * @memcg_data: memcg that is charged, or 0
 * @poison: the failed pages, a list of struct raw_hwp_page.  Entries are added under
 *	hugetlb_lock, as long as the page isn't part of a frozen folio, and are never
 *	removed
 * @optimized: the vmemmap was optimized, i.e. tails had no struct pages, and is going to
 *	be optimized again if the unit isn't split after all
 *
 * As long as an origin exists, the counters of hugetlb, of its cgroup and of the
 * memcg count one huge page in use.
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

/* Takes the place of a folio in the page cache while its struct pages change. */
#define GUESTMEM_PLACEHOLDER	xa_mk_value(0)

/* Marks a unit that is whole again, but has more struct pages than it needs. */
#define GUESTMEM_TRIM_MARK	PAGECACHE_TAG_TOWRITE

/* How many struct pages to rewrite before other tasks may run. */
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
