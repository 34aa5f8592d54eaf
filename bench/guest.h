/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The interface between the benchmarks' guest and the process that runs it. The guest is no
 * Linux: its code is the functions of guest.c, copied into ordinary memory, in 64-bit mode, with
 * every address mapped to itself. The guest carries out one command after the other and says
 * "done" by writing to a port.
 */
#ifndef BENCH_GUEST_H
#define BENCH_GUEST_H

#include <linux/types.h>

#define PAGE			4096ULL
#define MIB			(256 * PAGE)
#define GIB			(1024 * MIB)

/* Ordinary memory, and the addresses in it. */
#define LOW_SIZE		(2 * MIB)
#define PML4_ADDR		0x1000
#define PDPT_ADDR		0x2000
#define COMMAND_ADDR		0x10000		/* of the first vCPU, the next one's follows */
#define COMMAND_SIZE		0x4000
#define STACK_TOP		0x80000		/* the same downwards */
#define STACK_SIZE		0x4000
#define MAX_VCPUS		8
#define CODE_ADDR		0x100000

/* The two slots that are made of guest_memfd. */
#define SMALL_BASE		(4 * GIB)
#define SMALL_SIZE		(64 * MIB)
#define LARGE_BASE		(8 * GIB)
#define LARGE_SIZE		(1 * GIB)

#define PORT_DONE		0x500
#define MAX_REPS		128

enum guest_op {
	GUEST_WRITE,		/* a word of its own into each page: guest_word() */
	GUEST_READ,		/* one word of each page */
	GUEST_HYPERCALLS,	/* how long does a conversion take that converts nothing? */
	GUEST_ROUND_TRIPS,	/* to shared, read, to private, read */
};

/* One repetition: the times by the guest's clock, to shared and back, and the words it read. */
struct sample {
	__u64 to_shared, access_shared, to_private, access_private;
	__u64 seen_shared, seen_private;
	__s64 error;		/* of the hypercalls, 0: none */
};

struct command {
	__u64 op, gpa, pages, reps;
	struct sample samples[MAX_REPS];
};

/* The guest's word in a page at @gpa before round trip @rep, and the host's word after that. */
static inline __attribute__((always_inline)) __u64 guest_word(__u64 gpa, __u64 rep)
{
	return (gpa + rep) * 0x9e3779b97f4a7c15ULL | 1;
}

static inline __attribute__((always_inline)) __u64 host_word(__u64 gpa, __u64 rep)
{
	return ~guest_word(gpa, rep);
}

/* The section of guest.c; the linker defines its bounds. */
extern const __u8 __start_guest[], __stop_guest[];
void guest_main(volatile struct command *command);

#endif
