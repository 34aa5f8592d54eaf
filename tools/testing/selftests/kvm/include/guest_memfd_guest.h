/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A guest that reads, writes, executes and checks its memory page by page as it is told
 * to, and the number of mappings of each size, and of faults, that KVM needs for that.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_GUEST_H
#define SELFTEST_KVM_GUEST_MEMFD_GUEST_H

#include <linux/sizes.h>

#include "guestmem_units.h"
#include "kvm_util.h"
#include "processor.h"
#include "ucall_common.h"

#ifdef __aarch64__
#define PAGE_SIZE		SZ_4K
#endif

/* Guest memory for all slots of a test, mapped 1:1 in the guest. */
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
	OP_CHECK_ZERO,		/* every stride, all of it, or a word of every cache line */
	OP_CHURN,		/* write a tag; before and after, find it or 0 */
	OP_WRITE_WORDS,		/* those of the list */
	OP_CHECK_WORDS,
	OP_WRITE_CODE,		/* a function into every stride; arm64 only */
	OP_CALL,		/* the function in every stride */
	NR_GUEST_OPS
};

/* A word that the guest reads or writes. */
struct guest_word {
	u64 gva;
	u64 val;
};

#define MAX_GUEST_WORDS		128

/* The request of a vCPU is in one page, which the guest faults in before tests count faults. */
struct guest_request {
	enum guest_op op;
	u64 gva;
	u64 nr;
	u64 stride;
	u64 tag;
	struct guest_word words[MAX_GUEST_WORDS];
} __aligned(SZ_4K);

void gmem_guest_code(u64 cpu);

struct guest_request *set_request(struct kvm_vcpu *vcpu, enum guest_op op, u64 gva, u64 nr,
				  u64 stride, u64 tag);
/* Add a word to a request with a list. */
void add_word(struct guest_request *r, u64 gva, u64 val);

/* Assert that the guest has done what it was told to. */
void assert_request_done(struct kvm_vcpu *vcpu);

void guest_run(struct kvm_vcpu *vcpu);

void guest_do(struct kvm_vcpu *vcpu, enum guest_op op, u64 gva, u64 nr, u64 stride, u64 tag);

/*
 * Let the guest read at @gva.  Returns 0, or the error of KVM_RUN, which says that it is for
 * this page.
 */
int guest_read_error(struct kvm_vcpu *vcpu, u64 gva);

/* Assert that KVM_RUN fails with @error when the guest reads at @gva. */
void guest_do_fails(struct kvm_vcpu *vcpu, u64 gva, int error);

/* Let the guest wait for a request, in place of the access that can't succeed. */
void guest_start_over(struct kvm_vcpu *vcpu);

/* Have KVM map a range of the test's memory before the guest uses it. */
void prefault(struct kvm_vcpu *vcpu, u64 offset, u64 size);

/* Create a VM, and vCPUs that have faulted in nothing yet. */
struct kvm_vm *__create_guest(unsigned long type, struct kvm_vcpu **vcpus, int nr);

/* As above, but the vCPUs have faulted in all that they need for requests. */
struct kvm_vm *create_guest(unsigned long type, struct kvm_vcpu **vcpus, int nr);

static inline void add_slot(struct kvm_vm *vm, u64 gpa, u64 size, void *hva, int fd, u64 offset)
{
	vm_set_user_memory_region2(vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD, gpa, size, hva, fd,
				   offset);
}

static inline void delete_slot(struct kvm_vm *vm, u64 gpa)
{
	vm_set_user_memory_region2(vm, TEST_SLOT, 0, gpa, 0, NULL, 0, 0);
}

/*
 * A slot that begins and ends anywhere.  All fields are in pages; @gfn is relative
 * to TEST_GPA, @hva to an address aligned to 1G.  If @nr is 0, the slot ends with the file.
 */
struct slot_case {
	const char *name;
	u64 gfn, pgoff, nr, hva;
};

/* The number of mappings of each size, and the number of faults of a vCPU. */
struct mappings {
	long nr_4k, nr_2m, nr_1g;
	long faults;
};

static inline long nr_mappings(struct mappings m)
{
	return m.nr_4k + m.nr_2m + m.nr_1g;
}

static inline struct mappings mappings_plus(struct mappings a, struct mappings b, int sign)
{
	return (struct mappings) {
		.nr_4k = a.nr_4k + sign * b.nr_4k,
		.nr_2m = a.nr_2m + sign * b.nr_2m,
		.nr_1g = a.nr_1g + sign * b.nr_1g,
		.faults = a.faults + sign * b.faults,
	};
}

static inline struct mappings mappings_minus(struct mappings a, struct mappings b)
{
	return mappings_plus(a, b, -1);
}

/*
 * Return the largest possible mappings of @nr pages at @gfn, by one fault each.
 * The memory behind @gfn is @backing pages away from an aligned address, and
 * consists of pages of at most @max bytes.
 */
struct mappings largest_mappings(u64 gfn, u64 backing, u64 nr, size_t max);

/*
 * Return the mappings of a range of a file whose slot begins with the file, at a multiple of
 * 1G, if the guest has mapped all of the range, each mapping as large as its folio allows.
 */
struct mappings mappings_of_layout(const struct guestmem_model *m, u64 first, u64 nr);

void count_mapping(struct mappings *m, u64 nr_pages);

#ifdef __x86_64__
/* Return the mappings of a VM, and the faults of a vCPU. */
struct mappings read_mappings(struct kvm_vcpu *vcpu);

/* Assert that there are @want mappings and faults more than @before. */
void assert_mappings(struct kvm_vcpu *vcpu, struct mappings before, struct mappings want,
		     const char *what);
#else
bool is_pkvm(void);
bool can_read_mappings(void);

/* Assert what is mapped in a range.  Does nothing where that can't be read. */
void assert_mappings(struct kvm_vm *vm, u64 gpa, u64 size, struct mappings want,
		     const char *what);
#endif

#endif /* SELFTEST_KVM_GUEST_MEMFD_GUEST_H */
