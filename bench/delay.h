/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The longest time with interrupts off, found by a timer.
 *
 * perf's cpu-clock is an hrtimer, whose handler takes down the time while it is in the interrupt.
 * The timer expires every 20 us; if interrupts are off then, the interrupt comes when they are on
 * again. So the longest delay is a lower bound of the longest time with interrupts off. It comes
 * close if the same work is done often, as the timer and the work don't know each other.
 */
#ifndef BENCH_DELAY_H
#define BENCH_DELAY_H

#include <stdbool.h>

#include <linux/types.h>

/* Starts the timer. Returns false if this kernel doesn't have it. */
bool delay_begin(void);
/* Takes what the timer has found so far. To be called often enough for its buffer: each 50 ms. */
void delay_collect(void);
/*
 * Stops the timer. Returns the longest delay, in ns, less the shortest one, and says on stderr in
 * which function interrupts were enabled again.
 */
__u64 delay_end(const char *what);

#endif
