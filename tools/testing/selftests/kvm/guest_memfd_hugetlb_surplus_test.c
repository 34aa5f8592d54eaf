// SPDX-License-Identifier: GPL-2.0-only
/*
 * Change the size of a pool below guest_memfd files made of HugeTLB pages.
 *
 * A file has the pages that were promised to it, surplus or not, used or not, until it
 * is closed.  Then none of them stays behind.
 *
 * The tests use 2M pages only, as a 1G page that was given up may not be had again.
 */
#include "guest_memfd_fixture.h"

#define _test_data_surplus		gmem
#define _fixture_variant_surplus	gmem_variant

#define NR_SURPLUS	4

FIXTURE(surplus);
FIXTURE_VARIANT(surplus);

FIXTURE_SETUP(surplus)
{
	if (!hugetlb_size_supported(SZ_2M))
		SKIP(return, "needs huge pages of 2M");
	hugetlb_read_pool(SZ_2M, &self->pool);
	if (self->pool.free != self->pool.total || hugetlb_available(&self->pool) < NR_SURPLUS)
		SKIP(return, "needs %d x 2M page and no other user of the pool, have %ld of %ld",
		     NR_SURPLUS, hugetlb_available(&self->pool), self->pool.total);
	self->vm = vm_create_barebones_type(VM_TYPE_PRIVATE);
}

FIXTURE_TEARDOWN_PARENT(surplus)
{
	hugetlb_write_attr(SZ_2M, "nr_overcommit_hugepages", 0);
	hugetlb_resize_pool(&self->pool);
	EXPECT_NOTHING_LEFT_BEHIND();
}

static void assert_all_surplus(long total, long free)
{
	struct hugetlb_pool now;

	hugetlb_read_pool(SZ_2M, &now);
	TEST_ASSERT(now.total == total && now.surp == total && now.free == free && now.rsvd == free,
		    "total %ld surplus %ld free %ld rsvd %ld, should be total and surplus %ld, free and rsvd %ld",
		    now.total, now.surp, now.free, now.rsvd, total, free);
}

/* Use a file whose pages are all surplus.  It has its pages, used or not, until it is closed. */
static void use_surplus(int fd)
{
	int i;

	for (i = 0; i < 3; i++) {
		allocate_fd(fd, 0, NR_SURPLUS * SZ_2M);
		assert_all_surplus(NR_SURPLUS, 0);
		punch_fd(fd, 0, SZ_2M);
		assert_all_surplus(NR_SURPLUS, 1);
		TEST_ASSERT(!__hugetlb_hog(SZ_2M, 1, -1),
			    "A page that is reserved should not be there for others");
		punch_fd(fd, 0, NR_SURPLUS * SZ_2M);
		assert_all_surplus(NR_SURPLUS, NR_SURPLUS);
	}
	close(fd);
	assert_all_surplus(0, 0);
}

TEST_F(surplus, overcommit)
{
	int fd;

	hugetlb_write_attr(SZ_2M, "nr_hugepages", 0);
	hugetlb_write_attr(SZ_2M, "nr_overcommit_hugepages", NR_SURPLUS);
	fd = __vm_create_guest_memfd_hugetlb(self->vm, (NR_SURPLUS + 1) * SZ_2M, 0, 21);
	assert_error(fd, ENOMEM);
	assert_all_surplus(0, 0);

	fd = vm_create_guest_memfd_hugetlb(self->vm, NR_SURPLUS * SZ_2M, 0, 21);
	hugetlb_write_attr(SZ_2M, "nr_overcommit_hugepages", 0);
	assert_all_surplus(NR_SURPLUS, NR_SURPLUS);
	use_surplus(fd);
}

/* The administrator takes all pages away, except those in use. */
TEST_F(surplus, pool_shrinks)
{
	int fd = vm_create_guest_memfd_hugetlb(self->vm, NR_SURPLUS * SZ_2M, 0, 21);

	allocate_fd(fd, 0, NR_SURPLUS * SZ_2M);
	hugetlb_write_attr(SZ_2M, "nr_hugepages", 0);
	use_surplus(fd);
}

TEST_F(surplus, pool_shrinks_before_use)
{
	struct hugetlb_pool now;
	int fd = vm_create_guest_memfd_hugetlb(self->vm, NR_SURPLUS * SZ_2M, 0, 21);

	/* Reserved pages stay in the pool, surplus or not. */
	hugetlb_write_attr(SZ_2M, "nr_hugepages", 0);
	hugetlb_read_pool(SZ_2M, &now);
	TEST_ASSERT(now.free >= NR_SURPLUS && now.rsvd == NR_SURPLUS,
		    "%d pages should be left and reserved, are %ld and %ld",
		    NR_SURPLUS, now.free, now.rsvd);
	allocate_fd(fd, 0, NR_SURPLUS * SZ_2M);
	punch_fd(fd, 0, NR_SURPLUS * SZ_2M);
	allocate_fd(fd, 0, NR_SURPLUS * SZ_2M);
	close(fd);
}

GMEM_TEST_MAIN(NEEDS_HUGETLB)
