/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A machine for benchmarks: one vCPU, 2M of ordinary memory with the guest's program, and
 * two slots of guest_memfd in 4K pages. The same on a kernel that converts in place and on
 * one that does not; vm->in_place says which it is.
 */
#ifndef BENCH_VM_H
#define BENCH_VM_H

#include <stdbool.h>

#include <linux/kvm.h>

#include "guest.h"

/* A file, all of it one slot. */
struct gmem {
	int fd;
	__u64 base, size;
	/*
	 * Where the host finds what is shared, mapped once and for all: in place, the file
	 * itself; else anonymous memory, the other half of the slot.
	 */
	__u8 *shared;
};

struct vm {
	int kvm_fd, fd, vcpu_fd;
	struct kvm_run *run;
	struct command *command;	/* in ordinary memory */
	__u8 *low;			/* ordinary memory */
	struct gmem small, large;
	bool in_place;

	/* What to do about a guest that wants a conversion; 0 or a KVM_E* for the guest. */
	__s64 (*convert)(struct vm *vm, __u64 gpa, __u64 pages, bool to_shared);
};

void vm_create(struct vm *vm);
struct gmem *vm_gmem(struct vm *vm, __u64 gpa);
/* Let the guest carry out vm->command. */
void vm_run(struct vm *vm);
void __attribute__((noreturn, format(printf, 1, 2))) die(const char *fmt, ...);

#endif
