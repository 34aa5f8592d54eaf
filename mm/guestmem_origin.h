/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_GUESTMEM_ORIGIN_H
#define _MM_GUESTMEM_ORIGIN_H

#include <linux/atomic.h>
#include <linux/list.h>
#include <linux/llist.h>
#include <linux/types.h>

struct folio;
struct guestmem_late;
struct hstate;
struct hugepage_subpool;
struct hugetlb_cgroup;
struct page;

/**
 * struct guestmem_origin - the metadata that a hugetlb folio had before it was split
 * @h: the hstate that the unit came from
 * @pfn: the unit's first pfn
 * @nr_out: number of base pages that haven't come back, see guestmem_late.c
 * @list: entry in the list of all origins, under hugetlb_lock
 * @free_node: entry in @late->list, used when all pages are back
 * @rcu: frees the origin after a grace period, as readers look it up under RCU
 * @hpg_flags: the value of folio->private
 * @spool: the file's reservation
 * @late: the file's late units, NULL unless this unit is one of them
 * @h_cg: hugetlb cgroup that is charged for the usage, under hugetlb_lock
 * @h_cg_rsvd: hugetlb cgroup that is charged for the reservation
 * @memcg_data: memcg that is charged, or 0
 * @poison: the failed pages, a list of struct raw_hwp_page.  Entries are added under
 *	hugetlb_lock, for a page that is back or isn't part of a frozen folio, and are
 *	never removed
 * @optimized: the vmemmap is optimized, see guestmem_vmemmap.c
 * @held: this unit is counted in @late->nr_held
 *
 * As long as an origin exists, the counters of hugetlb, of its cgroup and of the
 * memcg count one huge page in use.  The fields whose lock isn't mentioned are set before
 * the first piece is found in the page cache, or, @late, @held and @spool, with
 * invalidate_lock held for write while all pieces are in the page cache.
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

struct guestmem_origin *guestmem_origin_alloc(struct hstate *h, struct folio *folio);
void guestmem_origin_free(struct guestmem_origin *origin);
struct guestmem_origin *guestmem_origin_find(unsigned long pfn);
struct guestmem_origin *guestmem_origin_next(unsigned long *pfn);
void guestmem_origin_take(struct guestmem_origin *origin, struct folio *folio);
void guestmem_origin_give(struct guestmem_origin *origin, struct folio *folio);
bool guestmem_origin_give_back(struct guestmem_origin *origin, struct folio *folio);
struct page *guestmem_find_poison(struct llist_head *poison, unsigned long pfn,
				  unsigned long nr_pages);
bool guestmem_origin_is_poisoned(struct guestmem_origin *origin, unsigned long pfn,
				 unsigned long nr_pages);
void guestmem_origin_mark_poison(struct guestmem_origin *origin, unsigned long pfn,
				 unsigned long nr_pages);

#endif /* _MM_GUESTMEM_ORIGIN_H */
