/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The parts of guest_memfd_pkvm_stress_test: one VM is in guest_memfd_pkvm_stress_vm.c, and
 * the VMs that come and go are in guest_memfd_pkvm_stress_test.c.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_PKVM_STRESS_H
#define SELFTEST_KVM_GUEST_MEMFD_PKVM_STRESS_H

#include "guest_memfd_util.h"

#define MAX_VMS		8
/* The pages of a file that are used.  With more, actors would rarely meet. */
#define MAX_PAGES	(SZ_16M / PAGE_SIZE)

enum op {
	OP_FIRST, OP_TOUCH, OP_SHARED, OP_LOST, OP_SHORT, OP_CONVERT, OP_REFUSED, OP_HOST,
	OP_PUNCH, OP_PUNCH_BLOCK, OP_PUNCH_UNIT, OP_SLOT, OP_RECLAIM, OP_KCORE, OP_POISON,
	OP_SHARE, OP_UNSHARE, OP_SHARE_RANGE, OP_UNSHARE_RANGE, OP_MIXED, OP_DISAGREE, OP_FORGE,
	OP_PIN, OP_DEBUGFS, OP_KILL, OP_VM, NR_OPS
};

struct op_info {
	const char *name;
	/* Whether it can't be done here. */
	bool impossible;
};

extern struct op_info ops[];

/* All processes have this. */
struct totals {
	u64 ops[NR_OPS];
	/* First touches of the VMs that are running. */
	u64 progress[MAX_VMS];
	/* VMs with failed pages, each of which has lost a huge page. */
	int nr_poisoned_vms;
};

extern struct totals *totals;

#define load(counter)		__atomic_load_n(counter, __ATOMIC_SEQ_CST)
#define increment(counter)	__atomic_fetch_add(counter, 1, __ATOMIC_SEQ_CST)

static inline void count(enum op op)
{
	increment(&totals->ops[op]);
}

/* The VM of this process: its file, and the pages of the file that are used. */
extern struct gmem gmem;
extern u64 nr_pages;
/* Its place among the VMs that run at the same time. */
extern int vm_nr;
/* Whether to poison memory, and whether the process waits for being killed. */
extern bool may_poison, is_doomed;
extern s64 stop_ms;

/* Run a VM until its vCPUs can't go on, or for a second or so.  Returns if it isn't doomed. */
void run_vm(u32 seed);

#endif /* SELFTEST_KVM_GUEST_MEMFD_PKVM_STRESS_H */
