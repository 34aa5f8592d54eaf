/* SPDX-License-Identifier: GPL-2.0 */
/* How the benchmarks measure, and how they print results. */
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include <linux/types.h>

#define ARRAY_SIZE(array)	(sizeof(array) / sizeof((array)[0]))

/* Returns the TSC. With -icount, the TSC is the number of instructions. */
static inline __u64 clock_now(void)
{
	__u32 low, high;

	asm volatile("lfence; rdtsc" : "=a"(low), "=d"(high) :: "memory");
	return (__u64)high << 32 | low;
}

/* Prints one line of the table. Sorts the values, and returns the median. */
__u64 print_row(const char *title, __u64 *values, int nr);

#endif
