// SPDX-License-Identifier: GPL-2.0-only
#include <time.h>

#include "guest_memfd_mappings.h"

void *slot_hva;

void init_mappings(void)
{
	TEST_REQUIRE(getpagesize() == PAGE_SIZE);
	gmem_init(NEEDS_HUGETLB);
	ksft_print_msg("%s; mappings are %s\n", is_pkvm() ? "pKVM: blocks of 2M only" : "no pKVM",
		       can_read_mappings() ? "read from debugfs" : "told from the number of exits");
}

const char *setup_mappings(struct gmem *self, const struct gmem_variant *variant)
{
	const char *missing = gmem_setup(self, variant);

	if (missing)
		return missing;
	self->vm = create_guest(VM_TYPE_DEFAULT, self->vcpus, MAX_VCPUS);
	self->vcpu = self->vcpus[0];
	self->fd = gmem_create(self, GMEM_SHARED);
	slot_hva = kvm_mmap(TEST_GPA_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			    -1);
	return NULL;
}

void __guest_do_faults(struct kvm_vcpu *vcpu, enum guest_op op, u64 gva, u64 nr, u64 stride,
		       u64 tag, long want, const char *what)
{
	long exits = vcpu_get_stat(vcpu, exits), irqs;
	struct timespec start;

	clock_gettime(CLOCK_MONOTONIC, &start);
	guest_do(vcpu, op, gva, nr, stride, tag);
	irqs = 64 + min_t(long, nr / 4, timespec_to_ns(timespec_elapsed(start)) / 1000000);

	exits = vcpu_get_stat(vcpu, exits) - exits;
	TEST_ASSERT(exits >= want, "%s: %ld exits, should be %ld faults", what, exits, want);
	TEST_ASSERT(exits <= want + irqs,
		    "%s: %ld exits, should be %ld faults and up to %ld interrupts", what,
		    exits, want, irqs);
}
