/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Read and change HugeTLB pools, compare them with an earlier state, and keep other
 * users from having their pages.
 */
#ifndef SELFTEST_KVM_HUGETLB_UTIL_H
#define SELFTEST_KVM_HUGETLB_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <linux/types.h>

#define HUGETLB_MAX_NODES	8

/*
 * One pool at one moment.  The kernel has no per-node count of reserved pages, as a
 * reservation is not for a node.
 */
struct hugetlb_pool {
	size_t size;
	long total;
	long free;
	long rsvd;
	long surp;
	int nr_nodes;
	long node_total[HUGETLB_MAX_NODES];
	long node_free[HUGETLB_MAX_NODES];
	long node_surp[HUGETLB_MAX_NODES];
};

bool hugetlb_size_supported(size_t size);
size_t hugetlb_default_size(void);

/* Read the counters of a pool, and assert that those of the nodes add up. */
void hugetlb_read_pool(size_t size, struct hugetlb_pool *pool);

/* Pages that are neither in use nor reserved. */
static inline long hugetlb_available(const struct hugetlb_pool *pool)
{
	return pool->free - pool->rsvd;
}

/*
 * Return how a pool differs from @start with @free and @rsvd pages more in it, as text
 * in a static buffer, or NULL if it does not differ.
 */
const char *hugetlb_pool_diff(const struct hugetlb_pool *start, long free, long rsvd);

/* As above, but wait for the pool to become like that, as the last user may be slow to go. */
const char *hugetlb_pool_settle(const struct hugetlb_pool *start, long free, long rsvd);

/* Assert that right now the pool is @start plus @free and @rsvd pages. */
#define TEST_ASSERT_POOL(start, free, rsvd)				\
do {									\
	const char *__diff = hugetlb_pool_diff(start, free, rsvd);	\
									\
	TEST_ASSERT(!__diff, "%s", __diff);				\
} while (0)

/* As above, but the last user may still be on its way out. */
#define TEST_ASSERT_POOL_SETTLES(start, free, rsvd)			\
do {									\
	const char *__diff = hugetlb_pool_settle(start, free, rsvd);	\
									\
	TEST_ASSERT(!__diff, "%s", __diff);				\
} while (0)

/* Return why a pool has no free page on nodes 0 and 1, as text in a static buffer, or NULL. */
const char *hugetlb_missing_nodes(const struct hugetlb_pool *pool);

void bind_to_node(void *mem, size_t size, int node);

/*
 * Map and touch @nr pages of a pool, on @node unless that is negative.  If there aren't
 * enough pages, __hugetlb_hog() returns NULL, and hugetlb_hog() fails the test.  It returns
 * NULL for no pages.
 */
void *__hugetlb_hog(size_t size, long nr, int node);
void *hugetlb_hog(size_t size, long nr, int node);
void hugetlb_unhog(void *mem, size_t size, long nr);

/* Expect from now on that @nr of the pool's free pages have left it for good. */
static inline void hugetlb_pool_lose(struct hugetlb_pool *pool, long nr)
{
	pool->total -= nr;
	pool->free -= nr;
}

/* Set an attribute of a pool: nr_hugepages, nr_overcommit_hugepages. */
void hugetlb_write_attr(size_t size, const char *attr, long val);

/* Make a pool as large as it was at @start, on each of the nodes. */
void hugetlb_resize_pool(const struct hugetlb_pool *start);

/* Leave a non-zero pattern in all pages of a pool that are free and not reserved. */
void hugetlb_dirty_pool(size_t size);

#endif /* SELFTEST_KVM_HUGETLB_UTIL_H */
