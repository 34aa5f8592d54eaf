/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A guest that reads, writes and checks its memory page by page as it is told to,
 * and the counters of what KVM did for it: the number of mappings of each size, and
 * the number of faults.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_GUEST_H
#define SELFTEST_KVM_GUEST_MEMFD_GUEST_H

#include <errno.h>
#include <string.h>

#include <linux/sizes.h>

#include "guest_memfd_hugetlb.h"
#include "processor.h"
#include "ucall_common.h"

/* Guest memory for all slots of this test, mapped 1:1 in the guest. */
#define TEST_GPA		(8ULL * SZ_1G)
#define TEST_GPA_SIZE		(4ULL * SZ_1G)
#define TEST_SLOT		10

#define PAGES_2M		(SZ_2M / PAGE_SIZE)
#define PAGES_1G		(SZ_1G / PAGE_SIZE)

#define MAX_VCPUS		3

/* Values that guest and host write into pages.  Only the host writes HOST_TAG(). */
#define TAG(pgoff)	(0x7a67000000000000ull + (pgoff))
#define TAG2(pgoff)	(0x7a68000000000000ull + (pgoff))
#define HOST_TAG(page)	(0x7a69000000000000ull + (page))

enum guest_op {
	OP_READ,		/* one word of every stride */
	OP_WRITE_TAGS,		/* tag + i into the i-th stride */
	OP_CHECK_TAGS,
	OP_CHECK_ZERO,		/* every word of every stride */
	OP_CHURN,		/* write a tag; before and after, find it or 0 */
};

struct guest_request {
	enum guest_op op;
	u64 gva;
	u64 nr;
	u64 stride;
	u64 tag;
};

static struct guest_request requests[MAX_VCPUS];

static inline void guest_check_zero(struct guest_request *r)
{
	u64 *p = (u64 *)r->gva, *end = (u64 *)(r->gva + r->nr * r->stride);

	for (; p < end; p++)
		__GUEST_ASSERT(!*p, "0x%lx should be zero, is 0x%lx", (u64)p, *p);
}

static inline void guest_churn(struct guest_request *r, u64 i)
{
	u64 gva = r->gva + i * r->stride, tag = gva ^ r->tag, val;

	val = READ_ONCE(*(u64 *)gva);
	__GUEST_ASSERT(!val || val == tag, "0x%lx should be 0 or 0x%lx, is 0x%lx",
		       gva, tag, val);
	WRITE_ONCE(*(u64 *)gva, tag);
	val = READ_ONCE(*(u64 *)gva);
	__GUEST_ASSERT(!val || val == tag, "0x%lx should be 0 or 0x%lx, is 0x%lx",
		       gva, tag, val);
}

static inline void guest_code(u64 cpu)
{
	struct guest_request *r = &requests[cpu];
	u64 i, val;

	for (;;) {
		for (i = 0; i < r->nr && r->op != OP_CHECK_ZERO; i++) {
			u64 *p = (u64 *)(r->gva + i * r->stride);

			switch (r->op) {
			case OP_READ:
				(void)READ_ONCE(*p);
				break;
			case OP_WRITE_TAGS:
				WRITE_ONCE(*p, r->tag + i);
				break;
			case OP_CHECK_TAGS:
				val = READ_ONCE(*p);
				__GUEST_ASSERT(val == r->tag + i,
					       "0x%lx should be 0x%lx, is 0x%lx",
					       (u64)p, r->tag + i, val);
				break;
			case OP_CHURN:
				guest_churn(r, i);
				break;
			default:
				GUEST_FAIL("Unknown request %d", r->op);
			}
		}
		if (r->op == OP_CHECK_ZERO)
			guest_check_zero(r);
		GUEST_SYNC(0);
	}
}

static inline void set_request(struct kvm_vcpu *vcpu, enum guest_op op, u64 gva,
			       u64 nr, u64 stride, u64 tag)
{
	struct guest_request *r = addr_gva2hva(vcpu->vm, (gva_t)&requests[vcpu->id]);

	*r = (struct guest_request) {
		.op = op, .gva = gva, .nr = nr, .stride = stride, .tag = tag,
	};
}

static inline void assert_request_done(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		return;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		TEST_FAIL("Unexpected exit: %s",
			  exit_reason_str(vcpu->run->exit_reason));
	}
}

static inline void guest_do(struct kvm_vcpu *vcpu, enum guest_op op, u64 gva, u64 nr,
			    u64 stride, u64 tag)
{
	set_request(vcpu, op, gva, nr, stride, tag);
	vcpu_run(vcpu);
	assert_request_done(vcpu);
}

/* Assert that KVM_RUN fails with @error when the guest reads at @gva, and says where. */
static inline void guest_do_fails(struct kvm_vcpu *vcpu, u64 gva, int error)
{
	int r;

	set_request(vcpu, OP_READ, gva, 1, PAGE_SIZE, 0);
	r = _vcpu_run(vcpu);
	TEST_ASSERT(r < 0 && errno == error,
		    "KVM_RUN should fail with %s, got %d, errno %d",
		    strerror(error), r, errno);
	TEST_ASSERT_EQ(vcpu->run->exit_reason, KVM_EXIT_MEMORY_FAULT);
	TEST_ASSERT_EQ(vcpu->run->memory_fault.flags, KVM_MEMORY_EXIT_FLAG_PRIVATE);
	TEST_ASSERT_EQ(vcpu->run->memory_fault.gpa, gva);
	TEST_ASSERT_EQ(vcpu->run->memory_fault.size, PAGE_SIZE);
}

/* The number of mappings of each size in a VM, and the number of faults of a vCPU. */
struct mappings {
	long nr_4k, nr_2m, nr_1g;
	long faults;
};

static inline struct mappings read_mappings(struct kvm_vcpu *vcpu)
{
	return (struct mappings) {
		.nr_4k = vm_get_stat(vcpu->vm, pages_4k),
		.nr_2m = vm_get_stat(vcpu->vm, pages_2m),
		.nr_1g = vm_get_stat(vcpu->vm, pages_1g),
		.faults = vcpu_get_stat(vcpu, pf_fixed),
	};
}

static inline void assert_mappings(struct kvm_vcpu *vcpu, struct mappings before,
				   struct mappings want, const char *what)
{
	struct mappings now = read_mappings(vcpu);

	TEST_ASSERT(now.nr_4k - before.nr_4k == want.nr_4k &&
		    now.nr_2m - before.nr_2m == want.nr_2m &&
		    now.nr_1g - before.nr_1g == want.nr_1g &&
		    now.faults - before.faults == want.faults,
		    "%s: mapped %ld x 4K, %ld x 2M, %ld x 1G by %ld faults, should be %ld x 4K, %ld x 2M, %ld x 1G by %ld",
		    what, now.nr_4k - before.nr_4k, now.nr_2m - before.nr_2m,
		    now.nr_1g - before.nr_1g, now.faults - before.faults,
		    want.nr_4k, want.nr_2m, want.nr_1g, want.faults);
}

/*
 * Return the largest possible mappings of @nr pages at @gfn, by one fault each.
 * The memory behind @gfn is @backing pages away from an aligned address, and
 * consists of pages of at most @max bytes.
 */
static inline struct mappings largest_mappings(u64 gfn, u64 backing, u64 nr, size_t max)
{
	const u64 end = gfn + nr;
	struct mappings m = {};

	while (gfn < end) {
		u64 step = 1;

		if (max >= SZ_1G && !(gfn % PAGES_1G) && !(backing % PAGES_1G) &&
		    gfn + PAGES_1G <= end)
			step = PAGES_1G;
		else if (max >= SZ_2M && !(gfn % PAGES_2M) && !(backing % PAGES_2M) &&
			 gfn + PAGES_2M <= end)
			step = PAGES_2M;

		m.nr_1g += step == PAGES_1G;
		m.nr_2m += step == PAGES_2M;
		m.nr_4k += step == 1;
		m.faults++;
		gfn += step;
		backing += step;
	}
	return m;
}

/* Create a VM, and vCPUs that have already faulted in what they need. */
static inline struct kvm_vm *__create_guest(int type, struct kvm_vcpu **vcpus, int nr)
{
	const struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = type,
	};
	struct kvm_vm *vm;
	gva_t warm;
	int i, op;

	vm = __vm_create_with_vcpus(shape, nr, 0, guest_code, vcpus);
	virt_map_level(vm, TEST_GPA, TEST_GPA, TEST_GPA_SIZE, PG_LEVEL_1G);

	/* The guest's own code and data are not to be counted. */
	warm = vm_alloc_page(vm);
	for (i = 0; i < nr; i++) {
		vcpu_args_set(vcpus[i], 1, (u64)i);
		for (op = OP_READ; op <= OP_CHURN; op++)
			guest_do(vcpus[i], op, warm, 1, sizeof(u64),
				 op == OP_CHURN ? warm : 0);
	}
	return vm;
}

static inline struct kvm_vm *create_guest(struct kvm_vcpu **vcpus, int nr)
{
	return __create_guest(VM_TYPE_PRIVATE, vcpus, nr);
}

/*
 * A slot that begins and ends anywhere.  All fields are in pages; @gfn is relative
 * to TEST_GPA, @hva to an address aligned to 1G.
 */
struct slot_case {
	const char *name;
	u64 gfn, pgoff, nr, hva;
};

static inline void *map_aligned_hva(size_t size)
{
	void *mem = kvm_mmap(size + SZ_1G, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);

	return align_ptr_up(mem, SZ_1G);
}

static inline void add_slot(struct kvm_vm *vm, u64 gpa, u64 size, void *hva, int fd, u64 offset)
{
	vm_set_user_memory_region2(vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD, gpa,
				   size, hva, fd, offset);
}

static inline void delete_slot(struct kvm_vm *vm, u64 gpa)
{
	vm_set_user_memory_region2(vm, TEST_SLOT, 0, gpa, 0, NULL, 0, 0);
}

#endif /* SELFTEST_KVM_GUEST_MEMFD_GUEST_H */
