// SPDX-License-Identifier: GPL-2.0-only
/*
 * Charge HugeTLB pages of guest_memfd files to cgroups.
 *
 * The reservation is charged to the cgroup of the task that creates the file, a page to
 * the cgroup of the task that allocates it.  A limit is an error for tasks of its
 * cgroup only.  Everything is uncharged when the pages or the file are freed.
 */
#include <limits.h>

#include "guest_memfd_fixture.h"
#include "cgroup_util.h"

#define CREATOR		"guest_memfd_creator"
#define ALLOCATOR	"guest_memfd_allocator"

#define _test_data_cgroup		gmem
#define _fixture_variant_cgroup	gmem_variant

static char root[PATH_MAX];
static char *creator, *allocator;

static const char *setup(struct gmem *self, const struct gmem_variant *variant)
{
	const char *missing = gmem_setup_vm(self, variant);

	if (missing)
		return missing;
	if (cg_find_unified_root(root, sizeof(root), NULL))
		return "needs a mounted cgroup2 hierarchy";
	if (cg_read_strstr(root, "cgroup.controllers", "hugetlb"))
		return "needs the hugetlb controller in cgroup2";
	if (cg_read_strstr(root, "cgroup.subtree_control", "hugetlb"))
		TEST_ASSERT(!cg_write(root, "cgroup.subtree_control", "+hugetlb"),
			    "Enabling the hugetlb controller should succeed");

	creator = cg_name(root, CREATOR);
	allocator = cg_name(root, ALLOCATOR);
	TEST_ASSERT(!cg_create(creator) && !cg_create(allocator),
		    "Creating cgroups should succeed");
	return NULL;
}

GMEM_FIXTURE_SETUP(cgroup, setup(self, variant));
GMEM_VARIANTS(cgroup, 4, 2);

FIXTURE_TEARDOWN_PARENT(cgroup)
{
	int i;

	EXPECT_NOTHING_LEFT_BEHIND();
	EXPECT_EQ(0, cg_find_unified_root(root, sizeof(root), NULL));

	/* A cgroup whose last task has just exited may be busy for a moment. */
	creator = cg_name(root, CREATOR);
	allocator = cg_name(root, ALLOCATOR);
	for (i = 0; i < 100; i++) {
		rmdir(creator);
		rmdir(allocator);
		if (access(creator, F_OK) && access(allocator, F_OK))
			return;
		usleep(20 * 1000);
	}
	EXPECT_TRUE(false) {
		TH_LOG("cgroups cannot be removed");
	}
}

static const char *size_name(struct gmem *self)
{
	return self->unit == SZ_1G ? "1GB" : "2MB";
}

/* The kernel counts charges in bytes, the macros below count them in units. */
static void __assert_charge(const char *cgroup, const char *size_name, const char *what,
			    long bytes)
{
	char file[32];
	long now;

	snprintf(file, sizeof(file), "hugetlb.%s.%s", size_name, what);
	now = cg_read_long(cgroup, file);
	TEST_ASSERT(now == bytes, "%s of %s should be %ld, is %ld", file, cgroup, bytes, now);
}

static void __set_limit(const char *cgroup, const char *size_name, const char *what, long bytes)
{
	char file[32];

	snprintf(file, sizeof(file), "hugetlb.%s.%s", size_name, what);
	TEST_ASSERT(!cg_write_numeric(cgroup, file, bytes), "Setting %s should succeed", file);
}

static void enter(const char *cgroup)
{
	TEST_ASSERT(!cg_enter_current(cgroup), "Entering %s should succeed", cgroup);
}

#define assert_charge(cgroup, what, nr_units)				\
	__assert_charge(cgroup, size_name(self), what, (nr_units) * self->unit)

#define set_limit(cgroup, what, nr_units)				\
	__set_limit(cgroup, size_name(self), what, (nr_units) * self->unit)

TEST_F(cgroup, reservation_is_the_creators)
{
	int fd, fd2;

	enter(creator);
	fd = gmem_create(self, 0);
	assert_charge(creator, "rsvd.current", self->nr);
	assert_charge(creator, "current", 0);

	/* The task that allocates doesn't pay for the reservation. */
	enter(allocator);
	allocate_fd(fd, 0, self->size);
	assert_charge(creator, "rsvd.current", self->nr);
	assert_charge(allocator, "rsvd.current", 0);

	/* The reservation's charge doesn't change with the file's pages, but goes with the file. */
	punch_fd(fd, 0, self->unit);
	assert_charge(creator, "rsvd.current", self->nr);
	fd2 = kvm_dup(fd);
	close(fd);
	assert_charge(creator, "rsvd.current", self->nr);
	close(fd2);
	assert_charge(creator, "rsvd.current", 0);
	assert_pool(0, 0);
}

TEST_F(cgroup, reservation_limit)
{
	int fd;

	set_limit(creator, "rsvd.max", self->nr - 1);
	enter(creator);
	assert_error(__gmem_create(self, self->size, 0), ENOMEM);
	assert_charge(creator, "rsvd.current", 0);
	assert_pool(0, 0);

	/* A bad size is EINVAL, even over the limit. */
	assert_error(__gmem_create(self, self->size + page_size, 0), EINVAL);

	/* Creation up to the limit succeeds. */
	self->size -= self->unit;
	fd = gmem_create(self, 0);
	assert_charge(creator, "rsvd.current", self->nr - 1);
	assert_pool(0, self->nr - 1);
	close(fd);
	assert_charge(creator, "rsvd.current", 0);

	/* A pool that is too small leaves no charge behind. */
	set_limit(creator, "rsvd.max", BIT(20));
	self->size = (hugetlb_available(&self->pool) + 1) * self->unit;
	assert_error(__gmem_create(self, self->size, 0), ENOMEM);
	assert_charge(creator, "rsvd.current", 0);
	assert_pool(0, 0);
}

TEST_F(cgroup, usage_is_the_allocators)
{
	int fd;

	enter(creator);
	fd = gmem_create(self, 0);
	allocate_fd(fd, 0, page_size);
	assert_charge(creator, "current", 1);

	enter(allocator);
	allocate_fd(fd, 0, 2 * self->unit);
	assert_charge(creator, "current", 1);
	assert_charge(allocator, "current", 1);
	punch_fd(fd, page_size, self->unit - page_size);
	assert_charge(creator, "current", 1);

	/* A page is uncharged where it was charged, no matter which task punches. */
	punch_fd(fd, 0, self->unit);
	assert_charge(creator, "current", 0);
	assert_charge(allocator, "current", 1);

	close(fd);
	assert_charge(allocator, "current", 0);
	assert_pool(0, 0);
}

TEST_F(cgroup, usage_limit)
{
	int fd = gmem_create(self, 0);

	set_limit(allocator, "max", 1);
	enter(allocator);
	allocate_fd(fd, 0, self->unit);
	assert_error(fallocate(fd, FALLOC_FL_KEEP_SIZE, self->unit, page_size), ENOMEM);
	assert_charge(allocator, "current", 1);
	assert_pool(1, self->nr - 1);

	/* A unit that is allocated already costs nothing. */
	allocate_fd(fd, 0, self->unit);

	/* A unit that is freed makes room for another one. */
	punch_fd(fd, 0, self->unit);
	assert_charge(allocator, "current", 0);
	allocate_fd(fd, self->unit, self->unit);
	assert_charge(allocator, "current", 1);

	/* The limit is for this cgroup, not for the file. */
	enter(creator);
	allocate_fd(fd, 0, self->size);
	assert_charge(creator, "current", self->nr - 1);
	assert_pool(self->nr, 0);
	close(fd);
	assert_charge(creator, "current", 0);
	assert_charge(allocator, "current", 0);
}

/*
 * Remove a cgroup, and wait until the hugetlb controller is through with it.  Returns
 * false if the controller isn't done within ten seconds.
 */
static bool remove_and_wait(const char *root, const char *cgroup)
{
	const char *key = "nr_dying_subsys_hugetlb ";
	long before = cg_read_key_long(root, "cgroup.stat", key);
	int i;

	TEST_ASSERT(before >= 0, "cgroup.stat should have %s", key);
	for (i = 0; i < 100 && rmdir(cgroup); i++)
		usleep(20 * 1000);
	TEST_ASSERT(access(cgroup, F_OK), "rmdir(%s) should succeed, errno %d", cgroup, errno);
	for (i = 0; i < 500; i++) {
		if (cg_read_key_long(root, "cgroup.stat", key) <= before)
			return true;
		usleep(20 * 1000);
	}
	return false;
}

static void leave_and_remove(const char *cgroup, const char *what)
{
	TEST_ASSERT(!cg_enter_current(root), "Leaving a cgroup should succeed");
	TEST_ASSERT(remove_and_wait(root, cgroup),
		    "A cgroup should go away although %s was charged to it", what);
}

/* Removing a cgroup waits until nothing is charged to it, so charges have to move to its parent. */
TEST_F(cgroup, remove_while_allocated)
{
	int fd = gmem_create(self, 0);

	enter(allocator);
	allocate_fd(fd, 0, self->unit);
	assert_charge(allocator, "current", 1);
	leave_and_remove(allocator, "a unit");
	assert_pool(1, self->nr - 1);

	/* The unit can be used and freed as ever. */
	punch_fd(fd, 0, page_size);
	punch_fd(fd, 0, self->unit);
	assert_pool(0, self->nr);
	close(fd);
	assert_pool(0, 0);
}

/* Create and map a file that the host uses page by page, i.e. whose units are split. */
static char *map_shared_file(struct gmem *self)
{
	self->fd = gmem_create(self, GMEM_SHARED);
	self->mem = gmem_map(self, self->fd);
	return self->mem;
}

static void unmap_shared_file(struct gmem *self)
{
	kvm_munmap(self->mem, self->size);
	close(self->fd);
}

TEST_F(cgroup, usage_limit_of_a_fault)
{
	char *mem = map_shared_file(self);

	set_limit(allocator, "max", 1);
	enter(allocator);
	WRITE_ONCE(mem[0], 1);

	/* The fault raises SIGBUS, it isn't repeated for ever. */
	TEST_EXPECT_SIGBUS(WRITE_ONCE(mem[self->unit], 1));
	assert_charge(allocator, "current", 1);
	assert_pool(1, self->nr - 1);

	WRITE_ONCE(mem[self->unit - 1], 1);
	enter(creator);
	WRITE_ONCE(mem[self->unit], 1);
	assert_charge(creator, "current", 1);

	unmap_shared_file(self);
	assert_charge(allocator, "current", 0);
	assert_charge(creator, "current", 0);
}

TEST_F(cgroup, split_is_one_unit)
{
	char *mem;

	enter(creator);
	mem = map_shared_file(self);
	enter(allocator);
	WRITE_ONCE(mem[page_size], 1);
	WRITE_ONCE(mem[self->unit / 2], 1);
	assert_charge(creator, "rsvd.current", self->nr);
	assert_charge(creator, "current", 0);
	assert_charge(allocator, "current", 1);
	enter(creator);
	WRITE_ONCE(mem[self->unit - 1], 1);
	assert_charge(creator, "current", 0);
	assert_charge(allocator, "current", 1);

	punch_fd(self->fd, 0, self->unit);
	assert_charge(allocator, "current", 0);
	WRITE_ONCE(mem[self->unit], 1);
	assert_charge(creator, "current", 1);
	unmap_shared_file(self);
	assert_charge(creator, "current", 0);
	assert_charge(creator, "rsvd.current", 0);
}

/* A held page of a closed file costs one unit, and no reservation. */
TEST_F(cgroup, held_and_closed)
{
	struct holder h;
	char *mem;

	enter(creator);
	mem = map_shared_file(self);
	enter(allocator);
	vmsplice_open_and_hold(&h, mem);
	unmap_shared_file(self);
	assert_charge(creator, "rsvd.current", 0);
	assert_charge(allocator, "current", 1);
	assert_pool(1, 0);

	vmsplice_release(&h);
	TEST_ASSERT_POOL_SETTLES(&self->pool, 0, 0);
	assert_charge(allocator, "current", 0);
}

TEST_F(cgroup, remove_while_split)
{
	char *mem = map_shared_file(self);

	enter(allocator);
	WRITE_ONCE(mem[page_size], 1);
	assert_charge(allocator, "current", 1);
	leave_and_remove(allocator, "a unit that is split");
	assert_pool(1, self->nr - 1);

	WRITE_ONCE(mem[0], 1);
	TEST_ASSERT_EQ(READ_ONCE(mem[page_size]), 1);
	punch_fd(self->fd, 0, self->unit);
	assert_pool(0, self->nr);
	unmap_shared_file(self);
	assert_pool(0, 0);
}

/* The unit is in use because a pipe holds a page of it, not because of a file. */
TEST_F(cgroup, remove_while_held)
{
	struct holder h;
	char *mem = map_shared_file(self);

	enter(allocator);
	vmsplice_open_and_hold(&h, mem);
	punch_fd(self->fd, 0, self->unit);
	assert_charge(allocator, "current", 1);
	leave_and_remove(allocator, "a unit that is held");
	assert_pool(1, self->nr - 1);
	vmsplice_release(&h);
	TEST_ASSERT_POOL_SETTLES(&self->pool, 0, self->nr);
	unmap_shared_file(self);
	assert_pool(0, 0);
}

TEST_F(cgroup, remove_while_reserved)
{
	int fd;

	enter(creator);
	fd = gmem_create(self, 0);
	allocate_fd(fd, 0, self->unit);
	TEST_ASSERT(!cg_enter_current(root), "Leaving a cgroup should succeed");

	/* The reservation may keep the cgroup alive, but rmdir() must succeed. */
	TEST_ASSERT(!rmdir(creator), "rmdir() should succeed, errno %d", errno);
	allocate_fd(fd, 0, self->size);
	assert_pool(self->nr, 0);
	punch_fd(fd, 0, self->unit);
	close(fd);
	assert_pool(0, 0);

	TEST_ASSERT(remove_and_wait(root, allocator), "Another cgroup should go away");
}

/* Despite the reservation, an allocation fails if a cpuset allows no node with a free page. */
TEST_F(cgroup, cpuset_without_pages)
{
	long hogged = self->pool.node_free[1];
	struct hugetlb_pool now;
	void *hog;
	int fd;

	SKIP_IF(return, hugetlb_missing_nodes(&self->pool));
	if (cg_read_strstr(root, "cgroup.controllers", "cpuset") ||
	    cg_write(root, "cgroup.subtree_control", "+cpuset"))
		SKIP(return, "needs the cpuset controller in cgroup2");
	TEST_ASSERT(!cg_write(allocator, "cpuset.mems", "1"),
		    "Setting cpuset.mems should succeed");

	self->size = self->unit;
	fd = gmem_create(self, 0);
	hog = hugetlb_hog(self->unit, hogged, 1);

	enter(allocator);
	assert_error(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, page_size), ENOSPC);
	assert_pool(hogged, 1);
	assert_charge(allocator, "current", 0);

	/* A file that could never be filled is not created. */
	assert_error(__gmem_create(self, self->unit, 0), ENOMEM);
	assert_pool(hogged, 1);

	hugetlb_unhog(hog, self->unit, hogged);
	allocate_fd(fd, 0, page_size);
	hugetlb_read_pool(self->unit, &now);
	TEST_ASSERT_EQ(now.node_free[1], hogged - 1);
	close(fd);
	assert_pool(0, 0);
}

/*
 * A huge page that has failed leaves the pool, and no cgroup is charged for it anymore.
 * This test comes last, as the huge page may not come back.
 */
TEST_F(cgroup, poisoned)
{
	struct hugetlb_pool lost = self->pool;
	char *mem;
	u64 pfn;

	if (!can_inject_memory_failure())
		SKIP(return, NEEDS_MEMORY_FAILURE);

	hugetlb_pool_lose(&lost, 1);
	enter(creator);
	mem = map_shared_file(self);
	enter(allocator);
	WRITE_ONCE(mem[page_size], 1);
	pfn = read_pagemap_pfn(mem + page_size);
	TEST_ASSERT(!write_pfn(CORRUPT_PFN, pfn), "Memory failure should be handled");
	assert_charge(creator, "rsvd.current", self->nr);
	assert_charge(allocator, "current", 1);

	punch_fd(self->fd, 0, self->unit);
	unmap_shared_file(self);
	assert_charge(creator, "rsvd.current", 0);
	/* In use until the pool has lost it. */
	TEST_ASSERT_POOL_SETTLES(&lost, 0, 0);
	assert_charge(allocator, "current", 0);
	leave_and_remove(allocator, "a page that has failed");

	/* Mend the page for other tests.  This works a moment after the pool has lost it. */
	mend_page(pfn);
	hugetlb_resize_pool(&self->pool);
}

GMEM_TEST_MAIN(NEEDS_HUGETLB)
