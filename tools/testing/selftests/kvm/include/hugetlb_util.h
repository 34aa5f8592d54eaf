/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * HugeTLB pools as a test sees them: what is in them, what became of it, and
 * ways to keep other users from having it.
 */
#ifndef SELFTEST_KVM_HUGETLB_UTIL_H
#define SELFTEST_KVM_HUGETLB_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <linux/types.h>

#define HUGETLB_MAX_NODES	8

/*
 * One pool at one moment.  There is no per-node count of reserved pages: a
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
 * Describe how a pool differs from @start with @free and @rsvd pages more in
 * it; NULL if it does not.  The text is in a static buffer.
 */
const char *hugetlb_pool_diff(const struct hugetlb_pool *start, long free, long rsvd);

/* Wait for a pool to become what is asked for: what is last to go may be slow. */
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

/*
 * Map and touch @nr pages of a pool, on @node unless that is negative.  NULL if
 * they cannot be had.
 */
void *__hugetlb_hog(size_t size, long nr, int node);
void *hugetlb_hog(size_t size, long nr, int node);
void hugetlb_unhog(void *mem, size_t size, long nr);

/* What is expected of a pool from now on: @nr of its free pages have left it for good. */
static inline void hugetlb_pool_lose(struct hugetlb_pool *pool, long nr)
{
	pool->total -= nr;
	pool->free -= nr;
}

/* Set an attribute of a pool: nr_hugepages, nr_overcommit_hugepages. */
void hugetlb_write_attr(size_t size, const char *attr, long val);

/* Make a pool as large as it was, on each of the nodes. */
void hugetlb_resize_pool(const struct hugetlb_pool *start);

/* Leave a non-zero pattern in all free pages of a pool. */
void hugetlb_dirty_pool(size_t size);

#endif /* SELFTEST_KVM_HUGETLB_UTIL_H */
