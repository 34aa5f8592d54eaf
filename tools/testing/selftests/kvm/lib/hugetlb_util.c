// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/bitmap.h>

#include "hugetlb_util.h"
#include "kvm_syscalls.h"
#include "numaif.h"
#include "test_util.h"

#define POOL_DIR		"/sys/kernel/mm/hugepages/hugepages-%zukB"
#define NODE_POOL_DIR		"/sys/devices/system/node/node%d/hugepages/hugepages-%zukB"
#define SETTLE_TRIES		100
#define SETTLE_DELAY_US		(20 * 1000)

static long read_long(const char *path)
{
	FILE *f = fopen(path, "r");
	long val;

	TEST_ASSERT(f, "Cannot open %s", path);
	TEST_ASSERT(fscanf(f, "%ld", &val) == 1, "No number in %s", path);
	fclose(f);
	return val;
}

static long read_pool_attr(size_t size, const char *attr)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), POOL_DIR "/%s", size / 1024, attr);
	return read_long(path);
}

static long read_node_attr(int node, size_t size, const char *attr)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), NODE_POOL_DIR "/%s", node, size / 1024, attr);
	return read_long(path);
}

bool hugetlb_size_supported(size_t size)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), POOL_DIR, size / 1024);
	return !access(path, F_OK);
}

size_t hugetlb_default_size(void)
{
	char line[128];
	size_t kb = 0;
	FILE *f = fopen("/proc/meminfo", "r");

	TEST_ASSERT(f, "Cannot open /proc/meminfo");
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "Hugepagesize: %zu kB", &kb) == 1)
			break;
	fclose(f);
	return kb * 1024;
}

/*
 * Read the counters of a pool.  They are in many files: pages on their way from one
 * counter to another can be seen in neither or both, so the caller retries until two
 * readings agree.
 */
static void __hugetlb_read_pool(size_t size, struct hugetlb_pool *pool)
{
	char path[PATH_MAX];
	int node;

	memset(pool, 0, sizeof(*pool));
	pool->size = size;
	pool->total = read_pool_attr(size, "nr_hugepages");
	pool->free = read_pool_attr(size, "free_hugepages");
	pool->rsvd = read_pool_attr(size, "resv_hugepages");
	pool->surp = read_pool_attr(size, "surplus_hugepages");

	for (node = 0; node < HUGETLB_MAX_NODES; node++) {
		snprintf(path, sizeof(path), NODE_POOL_DIR, node, size / 1024);
		if (access(path, F_OK))
			continue;
		pool->nr_nodes = node + 1;
		pool->node_total[node] = read_node_attr(node, size, "nr_hugepages");
		pool->node_free[node] = read_node_attr(node, size, "free_hugepages");
		pool->node_surp[node] = read_node_attr(node, size, "surplus_hugepages");
	}
}

static bool pool_adds_up(const struct hugetlb_pool *pool)
{
	long total = 0, free = 0, surp = 0;
	int node;

	if (!pool->nr_nodes)
		return true;

	for (node = 0; node < pool->nr_nodes; node++) {
		total += pool->node_total[node];
		free += pool->node_free[node];
		surp += pool->node_surp[node];
	}
	return total == pool->total && free == pool->free && surp == pool->surp;
}

void hugetlb_read_pool(size_t size, struct hugetlb_pool *pool)
{
	struct hugetlb_pool again;
	int i;

	__hugetlb_read_pool(size, pool);
	for (i = 0; i < SETTLE_TRIES; i++) {
		__hugetlb_read_pool(size, &again);
		if (!memcmp(pool, &again, sizeof(again)) && pool_adds_up(pool))
			return;
		*pool = again;
	}

	TEST_ASSERT(pool_adds_up(pool),
		    "Counters of %zu kB pages do not add up: total %ld free %ld surplus %ld, node 0: %ld %ld %ld, node 1: %ld %ld %ld",
		    size / 1024, pool->total, pool->free, pool->surp,
		    pool->node_total[0], pool->node_free[0], pool->node_surp[0],
		    pool->node_total[1], pool->node_free[1], pool->node_surp[1]);
}

const char *hugetlb_pool_diff(const struct hugetlb_pool *start, long free, long rsvd)
{
	static char text[256];
	struct hugetlb_pool now;

	hugetlb_read_pool(start->size, &now);
	if (now.total == start->total && now.surp == start->surp &&
	    now.free == start->free + free && now.rsvd == start->rsvd + rsvd)
		return NULL;

	snprintf(text, sizeof(text),
		 "Pool of %zu kB pages: total %ld free %ld rsvd %ld surplus %ld, should be total %ld free %ld rsvd %ld surplus %ld",
		 start->size / 1024, now.total, now.free, now.rsvd, now.surp,
		 start->total, start->free + free, start->rsvd + rsvd, start->surp);
	return text;
}

const char *hugetlb_pool_settle(const struct hugetlb_pool *start, long free, long rsvd)
{
	const char *diff;
	int i;

	for (i = 0; i < SETTLE_TRIES; i++) {
		diff = hugetlb_pool_diff(start, free, rsvd);
		if (!diff)
			break;
		usleep(SETTLE_DELAY_US);
	}
	return diff;
}

static int hugetlb_map_flags(size_t size)
{
	return MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB |
	       (__builtin_ctzl(size) << MAP_HUGE_SHIFT);
}

const char *hugetlb_missing_nodes(const struct hugetlb_pool *pool)
{
	static char text[80];

	if (pool->node_free[0] > 0 && pool->node_free[1] > 0)
		return NULL;
	snprintf(text, sizeof(text), "needs a free page on nodes 0 and 1, have %ld and %ld",
		 pool->node_free[0], pool->node_free[1]);
	return text;
}

void bind_to_node(void *mem, size_t size, int node)
{
	unsigned long nodemask = 1UL << node;

	kvm_mbind(mem, size, MPOL_BIND, &nodemask, BITS_PER_TYPE(nodemask), 0);
}

void *__hugetlb_hog(size_t size, long nr, int node)
{
	char *mem;
	long i;

	/*
	 * Make no reservation: it would have to be for any node.  MADV_POPULATE_WRITE
	 * returns an error where an access would raise SIGBUS.
	 */
	mem = mmap(NULL, nr * size, PROT_READ | PROT_WRITE,
		   hugetlb_map_flags(size) | MAP_NORESERVE, -1, 0);
	if (mem == MAP_FAILED)
		return NULL;
	if (node >= 0)
		bind_to_node(mem, nr * size, node);
	for (i = 0; i < nr; i++) {
		if (madvise(mem + i * size, size, MADV_POPULATE_WRITE)) {
			kvm_munmap(mem, nr * size);
			return NULL;
		}
	}
	return mem;
}

void *hugetlb_hog(size_t size, long nr, int node)
{
	void *mem = nr ? __hugetlb_hog(size, nr, node) : NULL;

	TEST_ASSERT(mem || !nr, "Cannot get %ld free pages of %zu kB (node %d)",
		    nr, size / 1024, node);
	return mem;
}

void hugetlb_unhog(void *mem, size_t size, long nr)
{
	if (nr)
		kvm_munmap(mem, nr * size);
}

static void write_long(const char *path, long val)
{
	FILE *f = fopen(path, "w");

	TEST_ASSERT(f && fprintf(f, "%ld", val) > 0 && !fclose(f), "Cannot write to %s", path);
}

void hugetlb_write_attr(size_t size, const char *attr, long val)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), POOL_DIR "/%s", size / 1024, attr);
	write_long(path, val);
}

void hugetlb_resize_pool(const struct hugetlb_pool *start)
{
	char path[PATH_MAX];
	int node;

	hugetlb_write_attr(start->size, "nr_hugepages", start->total);
	for (node = 0; node < start->nr_nodes; node++) {
		snprintf(path, sizeof(path), NODE_POOL_DIR "/nr_hugepages", node,
			 start->size / 1024);
		write_long(path, start->node_total[node]);
	}
}

void hugetlb_dirty_pool(size_t size)
{
	struct hugetlb_pool pool;
	long nr;
	void *mem;

	hugetlb_read_pool(size, &pool);
	nr = hugetlb_available(&pool);
	if (nr <= 0)
		return;

	mem = hugetlb_hog(size, nr, -1);
	memset(mem, 0xa5, nr * size);
	hugetlb_unhog(mem, size, nr);
}
