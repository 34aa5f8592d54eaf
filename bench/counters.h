/* SPDX-License-Identifier: GPL-2.0 */
/* Counters of the kernel, for costs that instructions don't show. */
#ifndef BENCH_COUNTERS_H
#define BENCH_COUNTERS_H

#include <stdbool.h>

#include <linux/types.h>

/* Memory, in pages of 4K. */
struct kernel_memory {
	long used;		/* of all memory that is not reserved for huge pages */
	long struct_pages;	/* part of used, and so are user_tables */
	long user_tables;
	long guest_tables;	/* KVM's page tables, part of used as well */
	long slab;
};

void read_memory(struct kernel_memory *memory);

/*
 * Count the nodes of xarrays that are allocated between begin and end. begin returns false if
 * the slab allocator of this kernel doesn't allow it, end returns the number of nodes.
 */
bool count_nodes_begin(void);
long count_nodes_end(void);

/* Returns the number of faults, of all guests, that have mapped a page. */
__u64 guest_faults(void);
/*
 * Start to count the guest's TLB misses, for data, and return how many there were. begin returns
 * false if the processor doesn't count them.
 */
bool count_tlb_begin(void);
__u64 count_tlb_end(void);
/* Returns the CPU time that kernel workers have used until now, in ns. */
__u64 workers_time(void);

#endif
