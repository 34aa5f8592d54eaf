/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The common part of tests of guest mappings on arm64: an INIT_SHARED file made of HugeTLB
 * pages of any size, in a slot of a guest.
 *
 * On any host, there must be about as many exits as there are mappings to make.
 */
#ifndef SELFTEST_KVM_ARM64_GUEST_MEMFD_MAPPINGS_H
#define SELFTEST_KVM_ARM64_GUEST_MEMFD_MAPPINGS_H

#include "guest_memfd_util.h"

#define _test_data_guest	gmem
#define _fixture_variant_guest	gmem_variant

/* The fixture of such tests.  The address range of the slot has no memory: KVM must not use it. */
#define GMEM_GUEST_FIXTURE()						\
struct gmem_variant;							\
GMEM_FIXTURE(guest, setup_mappings(self, variant))			\
GMEM_VARIANT_OF_UNITS(guest, 64k, 16, 80);				\
GMEM_VARIANT_OF_UNITS(guest, 2m, 21, 8);				\
GMEM_VARIANT_OF_UNITS(guest, 32m, 25, 2);				\
GMEM_VARIANT_OF_UNITS(guest, 1g, 30, 1)

extern void *slot_hva;

const char *setup_mappings(struct gmem *self, const struct gmem_variant *variant);

/* Skip all tests if the host has other pages than 4K, and print what the tests go by. */
void init_mappings(void);

#define add_whole_slot()						\
	add_slot(self->vm, TEST_GPA, self->size, slot_hva, self->fd, 0)
#define assert_whole_slot(want, what)					\
	assert_mappings(self->vm, TEST_GPA, self->size, want, what)

/* Let the guest do something with each of @nr pages of a slot for all of the file. */
#define do_pages(op, first, nr, tag)					\
	guest_do(self->vcpu, op, gpa_of(first), nr, PAGE_SIZE, tag)

/*
 * Let the guest do something with @nr strides, and assert that it took @want faults.
 * Interrupts of the host are exits as well.  But there is at most one per millisecond,
 * and there are far fewer of them than there would be faults if every other mapping was
 * too small.
 */
void __guest_do_faults(struct kvm_vcpu *vcpu, enum guest_op op, u64 gva, u64 nr, u64 stride,
		       u64 tag, long want, const char *what);

#define guest_do_faults(vcpu, op, gva, nr, tag, want, what)		\
	__guest_do_faults(vcpu, op, gva, nr, PAGE_SIZE, tag, want, what)

#endif /* SELFTEST_KVM_ARM64_GUEST_MEMFD_MAPPINGS_H */
