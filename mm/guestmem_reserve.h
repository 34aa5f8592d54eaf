/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_GUESTMEM_RESERVE_H
#define _MM_GUESTMEM_RESERVE_H

#include <linux/atomic.h>
#include <linux/hugetlb.h>
#include <linux/list.h>
#include <linux/math.h>

struct address_space;
struct guestmem_late;
struct hugepage_subpool;
struct hugetlb_cgroup;

/**
 * struct guestmem_hugetlb - the units of one file, and their reservation
 * @h: the hstate that they come from
 * @spool: the reservation
 * @h_cg_rsvd: hugetlb cgroup that is charged for the reservation
 * @nr_units: number of units in the file, and of bits in @busy
 * @files: entry in the list of all files, under guestmem_files_lock
 * @late: units that have left the file in pieces
 * @busy: a bit per unit, set by the task that is allocating the unit
 * @nr_splits: see struct guestmem_counts, since guestmem_hugetlb_take_counts()
 * @nr_merges: as above
 * @nr_split_units: as above
 *
 * Unless it says otherwise, a field doesn't change as long as the struct exists.
 */
struct guestmem_hugetlb {
	struct hstate *h;
	struct hugepage_subpool *spool;
	struct hugetlb_cgroup *h_cg_rsvd;
	unsigned long nr_units;
	struct list_head files;
	struct guestmem_late *late;
	unsigned long *busy;

	atomic_long_t nr_splits;
	atomic_long_t nr_merges;
	atomic_long_t nr_split_units;
};

/* Get the first pfn of the unit that has a page. */
static inline unsigned long guestmem_unit_pfn(const struct guestmem_hugetlb *gh,
					      unsigned long pfn)
{
	return round_down(pfn, pages_per_huge_page(gh->h));
}

int guestmem_reserve(struct guestmem_hugetlb *gh);
void guestmem_unreserve(struct guestmem_hugetlb *gh);
int guestmem_take_page(struct guestmem_hugetlb *gh, struct address_space *mapping,
		       const atomic_long_t *nr_held);
void guestmem_return_page(struct guestmem_hugetlb *gh);
bool guestmem_replace_page(struct guestmem_hugetlb *gh);
void guestmem_drop_page(struct hugepage_subpool *spool);
void guestmem_exchange_page(struct hugepage_subpool *spool);

#endif /* _MM_GUESTMEM_RESERVE_H */
