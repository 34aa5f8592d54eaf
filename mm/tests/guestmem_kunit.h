/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_TESTS_GUESTMEM_KUNIT_H
#define _MM_TESTS_GUESTMEM_KUNIT_H

#include <kunit/test.h>
#include <linux/guestmem.h>
#include <linux/hugetlb.h>
#include <linux/mempolicy.h>
#include <linux/mount.h>
#include <linux/prandom.h>

#define MAX_UNITS	3
#define NR_READERS	2

struct test_size {
	const char *name;
	unsigned int shift;
	int nr_units;
	int nr_steps;
};

/* The model's entry for a page. */
struct model_page {
	bool shared;
	bool poisoned;
	/* Log2 of the number of pages of the folio. */
	u8 order;
};

struct guestmem_test {
	struct vfsmount *mnt;
	struct inode *inode;
	struct address_space *mapping;
	struct guestmem_hugetlb *gh;
	struct hstate *h;
	struct shared_policy policy;
	unsigned long nr_free, nr_resv;
	pgoff_t nr_pages;
	unsigned int unit_order;
	struct model_page *pages;
	struct rnd_state rnd;
	bool present[MAX_UNITS];
	/* The unit has been split into one piece. */
	bool one_piece[MAX_UNITS];
	const struct test_size *size;
	struct task_struct *readers[NR_READERS];
	struct page *page;
	/* The number of split units, according to guestmem_hugetlb_take_counts(). */
	long nr_split_units;
	int nr_poisoned;
	int nr_lost;
};

/* guestmem_kunit.c */
extern const struct test_size guestmem_test_sizes[2];
void guestmem_test_size_desc(const struct test_size *size, char *desc);
void guestmem_test_reset_orders(struct guestmem_test *t, int unit);
unsigned long guestmem_test_nr_nodes(struct guestmem_test *t);
void guestmem_test_check(struct kunit *test, const char *what);
void guestmem_test_get_unit(struct kunit *test, int unit);
void guestmem_test_remove_unit(struct kunit *test, int unit);
void guestmem_test_split(struct kunit *test, pgoff_t start, pgoff_t end);
void guestmem_test_convert(struct kunit *test, pgoff_t start, pgoff_t end, bool shared);
int guestmem_test_init(struct kunit *test);
void guestmem_test_exit(struct kunit *test);

#endif /* _MM_TESTS_GUESTMEM_KUNIT_H */
