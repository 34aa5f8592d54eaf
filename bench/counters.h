/* SPDX-License-Identifier: GPL-2.0 */
/* What the kernel counts, for what instructions don't show. */
#ifndef BENCH_COUNTERS_H
#define BENCH_COUNTERS_H

#include <stdbool.h>

#include <linux/types.h>

/* In pages of 4K. */
struct kernel_memory {
	long used;		/* of all that is not reserved for huge pages */
	long struct_pages;	/* the rest is parts of it */
	long user_tables;
};

void read_memory(struct kernel_memory *memory);

/*
 * How many nodes of xarrays does something take? begin, do it, end. False if that can't be
 * told with the slab allocator that this kernel has.
 */
bool count_nodes_begin(void);
long count_nodes_end(void);

/* Faults of all guests that have mapped something. */
__u64 guest_faults(void);
/* What kernel workers have done until now, in ns of their CPU time. */
__u64 workers_time(void);

#endif
