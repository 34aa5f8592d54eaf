/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The fixture of tests that need no running guest.  It has a VM with private memory and
 * a pool with enough pages for a file, and checks that the pool is as before once a
 * test's processes are gone.
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
	const char *missing = setup_units();

	if (missing)
		SKIP(return, "%s", missing);

	self->vm = vm_create_barebones_type(VM_TYPE_PRIVATE);
}

FIXTURE_TEARDOWN_PARENT(hugetlb)
{
	EXPECT_POOL_RESTORED(&self->pool);
}

#define create_file(flags)						\
	vm_create_guest_memfd_hugetlb(self->vm, self->size, flags, variant->size_log2)

#endif /* SELFTEST_KVM_GUEST_MEMFD_HUGETLB_FIXTURE_H */
