/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A guest of a protected VM.  The host can't read its memory, so that it is told what to do,
 * and tells what came of it, by MMIO.
 */
#ifndef SELFTEST_KVM_PKVM_GUEST_H
#define SELFTEST_KVM_PKVM_GUEST_H

#include "guest_memfd_guest.h"
#include "kernel_files.h"
#include "kvm_util.h"

enum pkvm_op {
	PKVM_READ,		/* one word of each page */
	PKVM_WRITE,		/* tag + i into the i-th page, first and last word */
	PKVM_CHECK,		/* the same; the result is the address of a word that is wrong */
	PKVM_CHECK_ZERO,	/* all words */
	PKVM_SHARE,		/* hypercalls; the result is the first one that isn't 0 */
	PKVM_UNSHARE,
	PKVM_SHARE_RANGE,	/* one hypercall; the result is the number of pages, or its error */
	PKVM_UNSHARE_RANGE,
	PKVM_FEATURES,		/* the second word of the bitmap of services */
	PKVM_CALL,		/* MEM_SHARE with @gva, @nr and @tag as they are; its error */
	PKVM_OFF,		/* power off */
};

/* The words that the guest reads. */
struct pkvm_request {
	u64 op;
	u64 gva;
	u64 nr;
	u64 tag;
};

/* Whether the host can have protected VMs. */
bool has_protected_vms(void);

/* Returns why there can't be tests of such VMs, or NULL. */
const char *missing_for_protected_vms(void);

/* Create a protected VM, and map @nr pages of the test's memory 1:1 in the guest. */
struct kvm_vm *create_protected_vm(struct kvm_vcpu **vcpus, int nr_vcpus, u64 nr);

/*
 * Have the guest do something.  Returns 0 and its result, or the negative errno of KVM_RUN.
 * If the guest powers off, the result is ~0.  pkvm_resume() continues after an error.
 */
int pkvm_do(struct kvm_vcpu *vcpu, struct pkvm_request req, u64 *result);
int pkvm_resume(struct kvm_vcpu *vcpu, u64 *result);

/* Hypercalls return this if the hypervisor doesn't do what the guest asks for. */
#define PKVM_REFUSED	((u64)-3)

/* Have the guest begin anew, as after a reset. */
void pkvm_reset(struct kvm_vcpu *vcpu);

/* Have the guest do something with @nr pages of the test's memory, and assert the result. */
void assert_pkvm_do(struct kvm_vcpu *vcpu, enum pkvm_op op, u64 first, u64 nr, u64 tag,
		    u64 result);

/*
 * Have the guest read a page, and assert that KVM_RUN fails.  The vCPU can do nothing else
 * until it can read the page.
 */
void assert_pkvm_error(struct kvm_vcpu *vcpu, u64 page, int error, u32 exit_reason);

/* The same, if the guest had the page, and the host has taken it. */
static inline void assert_pkvm_lost(struct kvm_vcpu *vcpu, u64 page)
{
	assert_pkvm_error(vcpu, page, EFAULT, KVM_EXIT_UNKNOWN);
}

/* Open the list of what the hypervisor says about the guest's memory of a guest_memfd. */
FILE *pkvm_open_pages(struct kvm_vm *vm);
void pkvm_close_pages(FILE *file);

/* Assert that KVM and the hypervisor agree about each page of that. */
void assert_pkvm_agrees(struct kvm_vm *vm);

/* The entries that the guest has in a range, or that are poisoned, by size. */
struct pkvm_entries {
	long owned_2m, owned_4k, poisoned_2m, poisoned_4k, shared;
};

/* Assert the above, and what the hypervisor has of @nr pages of the test's memory. */
void __assert_pkvm_entries(struct kvm_vm *vm, u64 first, u64 nr,
			   const struct pkvm_entries *wanted);

#define assert_pkvm_entries(vm, first, nr, ...)				\
do {									\
	struct pkvm_entries __wanted = { __VA_ARGS__ };			\
									\
	__assert_pkvm_entries(vm, first, nr, &__wanted);		\
} while (0)

/* Wait for the counter of guests' page tables to be as it was, and return what it is. */
long settled_sec_page_tables(const struct kernel_counters *before);

#endif /* SELFTEST_KVM_PKVM_GUEST_H */
