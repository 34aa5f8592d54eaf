/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The fixture of tests that need no running guest: a VM with private memory, a
 * pool that has what a file needs, and the check that the pool is as before once
 * a test's processes are gone.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_HUGETLB_FIXTURE_H
#define SELFTEST_KVM_GUEST_MEMFD_HUGETLB_FIXTURE_H

#include "guest_memfd_hugetlb.h"

FIXTURE(hugetlb)
{
	struct hugetlb_pool pool;
	struct kvm_vm *vm;
	size_t unit;
	size_t size;
	int nr;
};

FIXTURE_VARIANT(hugetlb)
{
	u8 size_log2;
	int nr_units;
};

FIXTURE_VARIANT_ADD(hugetlb, 2m)
{
	.size_log2 = 21,
	.nr_units = 4,
};

FIXTURE_VARIANT_ADD(hugetlb, 1g)
{
	.size_log2 = 30,
	.nr_units = 2,
};

FIXTURE_SETUP(hugetlb)
{
	self->unit = BIT_ULL(variant->size_log2);
	self->nr = variant->nr_units;
	self->size = self->nr * self->unit;

	if (!hugetlb_size_supported(self->unit))
		SKIP(return, "needs huge pages of %zu kB", self->unit / 1024);

	hugetlb_read_pool(self->unit, &self->pool);
	if (hugetlb_available(&self->pool) < self->nr)
		SKIP(return, "needs %d x %zu kB page, have %ld", self->nr,
		     self->unit / 1024, hugetlb_available(&self->pool));

	self->vm = vm_create_barebones_type(VM_TYPE_PRIVATE);
}

/* The parent checks: by now the test's process with all its files is gone. */
FIXTURE_TEARDOWN_PARENT(hugetlb)
{
	const char *diff = hugetlb_pool_settle(&self->pool, 0, 0);

	EXPECT_EQ(NULL, diff) {
		TH_LOG("Pool not restored: %s", diff);
	}
}

#define create_file(flags)						\
	vm_create_guest_memfd_hugetlb(self->vm, self->size, flags, variant->size_log2)

#define assert_pool(allocated, reserved)				\
	TEST_ASSERT_POOL(&self->pool, -(allocated), reserved)

#endif /* SELFTEST_KVM_GUEST_MEMFD_HUGETLB_FIXTURE_H */
