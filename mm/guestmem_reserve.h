/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_GUESTMEM_RESERVE_H
#define _MM_GUESTMEM_RESERVE_H

#include <linux/atomic.h>
#include <linux/list.h>

struct address_space;
struct guestmem_late;
struct hstate;
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
};

int guestmem_reserve(struct guestmem_hugetlb *gh);
void guestmem_unreserve(struct guestmem_hugetlb *gh);
int guestmem_take_page(struct guestmem_hugetlb *gh, struct address_space *mapping,
		       const atomic_long_t *nr_held);
void guestmem_return_page(struct guestmem_hugetlb *gh);
bool guestmem_replace_page(struct guestmem_hugetlb *gh);
void guestmem_drop_page(struct hugepage_subpool *spool);
void guestmem_exchange_page(struct hugepage_subpool *spool);

#endif /* _MM_GUESTMEM_RESERVE_H */
