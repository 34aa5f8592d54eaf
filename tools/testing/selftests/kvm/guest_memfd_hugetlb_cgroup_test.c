// SPDX-License-Identifier: GPL-2.0-only
/*
 * Charge HugeTLB pages of guest_memfd files to cgroups.
 *
 * The reservation is charged to the cgroup of the task that creates the file, a page to
 * the cgroup of the task that allocates it.  A limit is an error for tasks of its
 * cgroup only.  Everything is uncharged when the pages or the file are freed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/bitmap.h>

#include "cgroup_util.h"
#include "guest_memfd_hugetlb.h"
#include "memory_failure.h"
#include "memory_holder.h"

#define CREATOR		"guest_memfd_creator"
#define ALLOCATOR	"guest_memfd_allocator"

/* For functions with the fixture as an argument. */
#define cgroup_fixture	_test_data_cgroup

FIXTURE(cgroup)
{
	struct hugetlb_pool pool;
	struct kvm_vm *vm;
	size_t unit, size;
	char root[PATH_MAX];
	char *creator, *allocator;
	char controller[16];
	int nr;
};

FIXTURE_VARIANT(cgroup)
{
	u8 size_log2;
	int nr_units;
	const char *name;
};

FIXTURE_VARIANT_ADD(cgroup, 2m)
{
	.size_log2 = 21,
	.nr_units = 4,
	.name = "2MB",
};

FIXTURE_VARIANT_ADD(cgroup, 1g)
{
	.size_log2 = 30,
	.nr_units = 2,
	.name = "1GB",
};

FIXTURE_SETUP(cgroup)
{
	const char *missing = setup_units();

	if (missing)
		SKIP(return, "%s", missing);
	if (cg_find_unified_root(self->root, sizeof(self->root), NULL))
		SKIP(return, "needs a mounted cgroup2 hierarchy");
	if (cg_read_strstr(self->root, "cgroup.controllers", "hugetlb"))
		SKIP(return, "needs the hugetlb controller in cgroup2");
	if (cg_read_strstr(self->root, "cgroup.subtree_control", "hugetlb"))
		TEST_ASSERT(!cg_write(self->root, "cgroup.subtree_control", "+hugetlb"),
			    "Enabling the hugetlb controller should succeed");

	self->creator = cg_name(self->root, CREATOR);
	self->allocator = cg_name(self->root, ALLOCATOR);
	TEST_ASSERT(!cg_create(self->creator) && !cg_create(self->allocator),
		    "Creating cgroups should succeed");
	self->vm = vm_create_barebones_type(VM_TYPE_PRIVATE);
}

FIXTURE_TEARDOWN_PARENT(cgroup)
{
	int i;

	EXPECT_POOL_RESTORED(&self->pool);

	/* A cgroup whose last task has just exited may be busy for a moment. */
	for (i = 0; i < 100; i++) {
		char *creator = cg_name(self->root, CREATOR);
		char *allocator = cg_name(self->root, ALLOCATOR);

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

#define create_file()							\
	vm_create_guest_memfd_hugetlb(self->vm, self->size, 0, variant->size_log2)

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

static void __set_limit(const char *cgroup, const char *size_name, const char *what,
			long bytes)
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
	__assert_charge(cgroup, variant->name, what, (nr_units) * self->unit)

#define set_limit(cgroup, what, nr_units)				\
	__set_limit(cgroup, variant->name, what, (nr_units) * self->unit)

TEST_F(cgroup, reservation_is_the_creators)
{
	int fd, fd2;

	enter(self->creator);
	fd = create_file();
	assert_charge(self->creator, "rsvd.current", self->nr);
	assert_charge(self->creator, "current", 0);

	/* The task that allocates doesn't pay for the reservation. */
	enter(self->allocator);
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->size);
	assert_charge(self->creator, "rsvd.current", self->nr);
	assert_charge(self->allocator, "rsvd.current", 0);

	/* The reservation's charge doesn't change with the file's pages, but goes with the file. */
	kvm_fallocate(fd, PUNCH, 0, self->unit);
	assert_charge(self->creator, "rsvd.current", self->nr);
	fd2 = kvm_dup(fd);
	close(fd);
	assert_charge(self->creator, "rsvd.current", self->nr);
	close(fd2);
	assert_charge(self->creator, "rsvd.current", 0);
	assert_pool(0, 0);
}

TEST_F(cgroup, reservation_limit)
{
	int fd;

	set_limit(self->creator, "rsvd.max", self->nr - 1);
	enter(self->creator);
	fd = __vm_create_guest_memfd_hugetlb(self->vm, self->size, 0, variant->size_log2);
	TEST_ASSERT(fd < 0 && errno == ENOMEM,
		    "Creation over rsvd.max should fail with ENOMEM, got %d errno %d", fd, errno);
	assert_charge(self->creator, "rsvd.current", 0);
	assert_pool(0, 0);

	/* A bad size is EINVAL, even over the limit. */
	fd = __vm_create_guest_memfd_hugetlb(self->vm, self->size + page_size, 0,
					     variant->size_log2);
	TEST_ASSERT(fd < 0 && errno == EINVAL,
		    "Creation should fail with EINVAL, got %d errno %d", fd, errno);

	/* Creation up to the limit succeeds. */
	self->size -= self->unit;
	fd = create_file();
	assert_charge(self->creator, "rsvd.current", self->nr - 1);
	assert_pool(0, self->nr - 1);
	close(fd);
	assert_charge(self->creator, "rsvd.current", 0);

	/* A pool that is too small leaves no charge behind. */
	set_limit(self->creator, "rsvd.max", BIT(20));
	fd = __vm_create_guest_memfd_hugetlb(self->vm,
					     (hugetlb_available(&self->pool) + 1) * self->unit,
					     0, variant->size_log2);
	TEST_ASSERT(fd < 0 && errno == ENOMEM,
		    "Creation should fail with ENOMEM, got %d errno %d", fd, errno);
	assert_charge(self->creator, "rsvd.current", 0);
	assert_pool(0, 0);
}

TEST_F(cgroup, usage_is_the_allocators)
{
	int fd;

	enter(self->creator);
	fd = create_file();
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, page_size);
	assert_charge(self->creator, "current", 1);

	enter(self->allocator);
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 2 * self->unit);
	assert_charge(self->creator, "current", 1);
	assert_charge(self->allocator, "current", 1);
	kvm_fallocate(fd, PUNCH, page_size, self->unit - page_size);
	assert_charge(self->creator, "current", 1);

	/* A page is uncharged where it was charged, no matter which task punches. */
	kvm_fallocate(fd, PUNCH, 0, self->unit);
	assert_charge(self->creator, "current", 0);
	assert_charge(self->allocator, "current", 1);

	close(fd);
	assert_charge(self->allocator, "current", 0);
	assert_pool(0, 0);
}

TEST_F(cgroup, usage_limit)
{
	int fd = create_file();

	set_limit(self->allocator, "max", 1);
	enter(self->allocator);
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->unit);
	TEST_ASSERT(fallocate(fd, FALLOC_FL_KEEP_SIZE, self->unit, page_size) && errno == ENOMEM,
		    "fallocate() over the limit should fail with ENOMEM, errno %d", errno);
	assert_charge(self->allocator, "current", 1);
	assert_pool(1, self->nr - 1);

	/* A unit that is allocated already costs nothing. */
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->unit);

	/* A unit that is freed makes room for another one. */
	kvm_fallocate(fd, PUNCH, 0, self->unit);
	assert_charge(self->allocator, "current", 0);
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, self->unit, self->unit);
	assert_charge(self->allocator, "current", 1);

	/* The limit is for this cgroup, not for the file. */
	enter(self->creator);
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->size);
	assert_charge(self->creator, "current", self->nr - 1);
	assert_pool(self->nr, 0);
	close(fd);
	assert_charge(self->creator, "current", 0);
	assert_charge(self->allocator, "current", 0);
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

/* Removing a cgroup waits until nothing is charged to it, so charges have to move to its parent. */
TEST_F(cgroup, remove_while_allocated)
{
	int fd = create_file();

	enter(self->allocator);
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->unit);
	assert_charge(self->allocator, "current", 1);
	TEST_ASSERT(!cg_enter_current(self->root), "Leaving a cgroup should succeed");

	TEST_ASSERT(remove_and_wait(self->root, self->allocator),
		    "A cgroup should go away although a unit was charged to it");
	assert_pool(1, self->nr - 1);

	/* The unit can be used and freed as ever. */
	kvm_fallocate(fd, PUNCH, 0, page_size);
	kvm_fallocate(fd, PUNCH, 0, self->unit);
	assert_pool(0, self->nr);
	close(fd);
	assert_pool(0, 0);
}

/* Create and map a file that the host uses page by page, i.e. whose units are split. */
static char *map_shared_file(struct cgroup_fixture *self, u8 size_log2, int *fd)
{
	*fd = vm_create_guest_memfd_hugetlb(self->vm, self->size, GUEST_MEMFD_FLAG_MMAP |
					    GUEST_MEMFD_FLAG_INIT_SHARED, size_log2);
	return kvm_mmap(self->size, PROT_READ | PROT_WRITE, MAP_SHARED, *fd);
}

TEST_F(cgroup, usage_limit_of_a_fault)
{
	char *mem;
	int fd;

	mem = map_shared_file(self, variant->size_log2, &fd);
	set_limit(self->allocator, "max", 1);
	enter(self->allocator);
	WRITE_ONCE(mem[0], 1);

	/* The fault raises SIGBUS, it isn't repeated for ever. */
	TEST_EXPECT_SIGBUS(WRITE_ONCE(mem[self->unit], 1));
	assert_charge(self->allocator, "current", 1);
	assert_pool(1, self->nr - 1);

	WRITE_ONCE(mem[self->unit - 1], 1);
	enter(self->creator);
	WRITE_ONCE(mem[self->unit], 1);
	assert_charge(self->creator, "current", 1);

	kvm_munmap(mem, self->size);
	close(fd);
	assert_charge(self->allocator, "current", 0);
	assert_charge(self->creator, "current", 0);
}

TEST_F(cgroup, split_is_one_unit)
{
	char *mem;
	int fd;

	enter(self->creator);
	mem = map_shared_file(self, variant->size_log2, &fd);
	enter(self->allocator);
	WRITE_ONCE(mem[page_size], 1);
	WRITE_ONCE(mem[self->unit / 2], 1);
	assert_charge(self->creator, "rsvd.current", self->nr);
	assert_charge(self->creator, "current", 0);
	assert_charge(self->allocator, "current", 1);
	enter(self->creator);
	WRITE_ONCE(mem[self->unit - 1], 1);
	assert_charge(self->creator, "current", 0);
	assert_charge(self->allocator, "current", 1);

	kvm_fallocate(fd, PUNCH, 0, self->unit);
	assert_charge(self->allocator, "current", 0);
	WRITE_ONCE(mem[self->unit], 1);
	assert_charge(self->creator, "current", 1);
	kvm_munmap(mem, self->size);
	close(fd);
	assert_charge(self->creator, "current", 0);
	assert_charge(self->creator, "rsvd.current", 0);
}

/* A held page of a closed file costs one unit, and no reservation. */
TEST_F(cgroup, held_and_closed)
{
	struct holder h;
	char *mem;
	int fd;

	enter(self->creator);
	mem = map_shared_file(self, variant->size_log2, &fd);
	enter(self->allocator);
	TEST_ASSERT(vmsplice_open(&h) && vmsplice_hold(&h, mem, 1),
		    "Holding a page should succeed, errno %d", errno);
	kvm_munmap(mem, self->size);
	close(fd);
	assert_charge(self->creator, "rsvd.current", 0);
	assert_charge(self->allocator, "current", 1);
	assert_pool(1, 0);

	vmsplice_release(&h);
	TEST_ASSERT_POOL_SETTLES(&self->pool, 0, 0);
	assert_charge(self->allocator, "current", 0);
}

TEST_F(cgroup, remove_while_split)
{
	char *mem;
	int fd;

	mem = map_shared_file(self, variant->size_log2, &fd);
	enter(self->allocator);
	WRITE_ONCE(mem[page_size], 1);
	assert_charge(self->allocator, "current", 1);
	TEST_ASSERT(!cg_enter_current(self->root), "Leaving a cgroup should succeed");

	TEST_ASSERT(remove_and_wait(self->root, self->allocator),
		    "A cgroup should go away although a unit that is split was charged to it");
	assert_pool(1, self->nr - 1);

	WRITE_ONCE(mem[0], 1);
	TEST_ASSERT_EQ(READ_ONCE(mem[page_size]), 1);
	kvm_fallocate(fd, PUNCH, 0, self->unit);
	assert_pool(0, self->nr);
	kvm_munmap(mem, self->size);
	close(fd);
	assert_pool(0, 0);
}

/* The unit is in use because a pipe holds a page of it, not because of a file. */
TEST_F(cgroup, remove_while_held)
{
	struct holder h;
	char *mem;
	int fd;

	mem = map_shared_file(self, variant->size_log2, &fd);
	enter(self->allocator);
	TEST_ASSERT(vmsplice_open(&h) && vmsplice_hold(&h, mem, 1),
		    "Holding a page should succeed, errno %d", errno);
	kvm_fallocate(fd, PUNCH, 0, self->unit);
	assert_charge(self->allocator, "current", 1);
	TEST_ASSERT(!cg_enter_current(self->root), "Leaving a cgroup should succeed");

	TEST_ASSERT(remove_and_wait(self->root, self->allocator),
		    "A cgroup should go away although a unit that is held was charged to it");
	assert_pool(1, self->nr - 1);
	vmsplice_release(&h);
	TEST_ASSERT_POOL_SETTLES(&self->pool, 0, self->nr);
	kvm_munmap(mem, self->size);
	close(fd);
	assert_pool(0, 0);
}

TEST_F(cgroup, remove_while_reserved)
{
	int fd;

	enter(self->creator);
	fd = create_file();
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->unit);
	TEST_ASSERT(!cg_enter_current(self->root), "Leaving a cgroup should succeed");

	/* The reservation may keep the cgroup alive, but rmdir() must succeed. */
	TEST_ASSERT(!rmdir(self->creator), "rmdir() should succeed, errno %d", errno);
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->size);
	assert_pool(self->nr, 0);
	kvm_fallocate(fd, PUNCH, 0, self->unit);
	close(fd);
	assert_pool(0, 0);

	TEST_ASSERT(remove_and_wait(self->root, self->allocator),
		    "Another cgroup should go away");
}

/* Despite the reservation, an allocation fails if a cpuset allows no node with a free page. */
TEST_F(cgroup, cpuset_without_pages)
{
	long hogged = self->pool.node_free[1];
	struct hugetlb_pool now;
	void *hog;
	int fd;

	if (hogged < 1 || self->pool.node_free[0] < 1)
		SKIP(return, "needs a free page on nodes 0 and 1, have %ld and %ld",
		     self->pool.node_free[0], hogged);
	if (cg_read_strstr(self->root, "cgroup.controllers", "cpuset") ||
	    cg_write(self->root, "cgroup.subtree_control", "+cpuset"))
		SKIP(return, "needs the cpuset controller in cgroup2");
	TEST_ASSERT(!cg_write(self->allocator, "cpuset.mems", "1"),
		    "Setting cpuset.mems should succeed");

	self->size = self->unit;
	fd = create_file();
	hog = hugetlb_hog(self->unit, hogged, 1);

	enter(self->allocator);
	TEST_ASSERT(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, page_size) && errno == ENOSPC,
		    "fallocate() should fail with ENOSPC, errno %d", errno);
	assert_pool(hogged, 1);
	assert_charge(self->allocator, "current", 0);

	/* A file that could never be filled is not created. */
	TEST_ASSERT(__vm_create_guest_memfd_hugetlb(self->vm, self->unit, 0,
						    variant->size_log2) < 0 && errno == ENOMEM,
		    "Creation should fail with ENOMEM, errno %d", errno);
	assert_pool(hogged, 1);

	hugetlb_unhog(hog, self->unit, hogged);
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, page_size);
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
	int fd;
	u64 pfn;

	if (!can_inject_memory_failure())
		SKIP(return, "needs root, debugfs and CONFIG_HWPOISON_INJECT");

	hugetlb_pool_lose(&lost, 1);
	enter(self->creator);
	mem = map_shared_file(self, variant->size_log2, &fd);
	enter(self->allocator);
	WRITE_ONCE(mem[page_size], 1);
	pfn = read_pagemap_pfn(mem + page_size);
	TEST_ASSERT(!write_pfn(CORRUPT_PFN, pfn), "Memory failure should be handled");
	assert_charge(self->creator, "rsvd.current", self->nr);
	assert_charge(self->allocator, "current", 1);

	kvm_fallocate(fd, PUNCH, 0, self->unit);
	kvm_munmap(mem, self->size);
	close(fd);
	assert_charge(self->creator, "rsvd.current", 0);
	/* In use until the pool has lost it. */
	TEST_ASSERT_POOL_SETTLES(&lost, 0, 0);
	assert_charge(self->allocator, "current", 0);
	TEST_ASSERT(!cg_enter_current(self->root), "Leaving a cgroup should succeed");
	TEST_ASSERT(remove_and_wait(self->root, self->allocator),
		    "A cgroup should go away although a page that has failed was charged to it");

	/* Mend the page for other tests.  This works a moment after the pool has lost it. */
	mend_page(pfn);
	hugetlb_resize_pool(&self->pool);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE_GUEST_MEMFD_HUGETLB();

	page_size = getpagesize();
	return test_harness_run(argc, argv);
}
