/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A machine for benchmarks: vCPUs, 2M of ordinary memory with the guest's program, and
 * slots of guest_memfd. The machine is the same on a kernel that converts in place and on one that
 * does not; vm->in_place says which kernel this is.
 */
#ifndef BENCH_VM_H
#define BENCH_VM_H

#include <stdbool.h>

#include <linux/kvm.h>

#include "guest.h"

/* A file, all of it one slot, or none. The caller of vm_add_gmem() sets the first lines. */
struct gmem {
	__u64 slot, base, size, flags, huge_page_shift;
	bool unbound;			/* no slot */
	int fd;
	/*
	 * The host's mapping of shared memory, made once and for all: in place, a mapping of the
	 * file itself; else anonymous memory, the other half of the slot.
	 */
	__u8 *shared;
};

struct vcpu {
	struct vm *vm;
	int fd;
	struct kvm_run *run;
	struct command *command;	/* in ordinary memory */
};

struct vm {
	int kvm_fd, fd, run_size;
	struct vcpu vcpus[MAX_VCPUS];
	int nr_vcpus;			/* vm_create() makes the first one */
	struct command *command;	/* that of the first vCPU */
	__u8 *low;			/* ordinary memory */
	bool in_place;
	bool ordinary;			/* set by the caller: no private memory */

	/* Converts for the guest; returns 0 or a KVM_E* for the guest. */
	__s64 (*convert)(struct vm *vm, __u64 gpa, __u64 pages, bool to_shared);
};

void vm_create(struct vm *vm);
void vm_destroy(struct vm *vm);
struct vcpu *vm_add_vcpu(struct vm *vm);
void vm_add_gmem(struct vm *vm, struct gmem *gmem);
/*
 * Adds shared memory of an ordinary VM: a guest_memfd file, or if @hugetlbfs, a file of
 * hugetlbfs of which KVM is told the address, as if it were a gmem.
 */
void vm_add_ordinary(struct vm *vm, struct gmem *gmem, bool hugetlbfs);
void vm_del_gmem(struct vm *vm, struct gmem *gmem);
/* Does the first part of that: deletes the slot and the host's mapping, and keeps the file. */
void vm_unbind_gmem(struct vm *vm, struct gmem *gmem);
/* Let a vCPU, or the first one, carry out a command. */
void vcpu_guest(struct vcpu *vcpu, enum guest_op op, __u64 gpa, __u64 size, int reps);
void vm_guest(struct vm *vm, enum guest_op op, __u64 gpa, __u64 size, int reps);
/* Maps the file anew, at the same address. */
void gmem_remap(const struct gmem *gmem);
/* Converts in place, on the file. */
void gmem_convert(const struct gmem *gmem, __u64 gpa, __u64 size, bool to_shared);
void __attribute__((noreturn, format(printf, 1, 2))) die(const char *fmt, ...);

#endif
