// SPDX-License-Identifier: GPL-2.0-only
#include "guest_memfd_guest.h"

struct mappings read_mappings(struct kvm_vcpu *vcpu)
{
	return (struct mappings) {
		.nr_4k = vm_get_stat(vcpu->vm, pages_4k),
		.nr_2m = vm_get_stat(vcpu->vm, pages_2m),
		.nr_1g = vm_get_stat(vcpu->vm, pages_1g),
		.faults = vcpu_get_stat(vcpu, pf_fixed),
	};
}

void assert_mappings(struct kvm_vcpu *vcpu, struct mappings before, struct mappings want,
		     const char *what)
{
	struct mappings now = mappings_minus(read_mappings(vcpu), before);

	TEST_ASSERT(now.nr_4k == want.nr_4k && now.nr_2m == want.nr_2m &&
		    now.nr_1g == want.nr_1g && now.faults == want.faults,
		    "%s: mapped %ld x 4K, %ld x 2M, %ld x 1G by %ld faults, should be %ld x 4K, %ld x 2M, %ld x 1G by %ld",
		    what, now.nr_4k, now.nr_2m, now.nr_1g, now.faults,
		    want.nr_4k, want.nr_2m, want.nr_1g, want.faults);
}
