/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Counters of what guest_memfd_conversions_stress_test has reached: all events that
 * are meant to happen, and each operation in each of the states that a huge page can
 * be in.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_STRESS_MATRIX_H
#define SELFTEST_KVM_GUEST_MEMFD_STRESS_MATRIX_H

#include <linux/bits.h>

#include "test_util.h"

/* Where an event can happen. */
#define IN_NONE			0
#define IN_SMALL		BIT(0)
#define IN_HUGE			BIT(1)
#define IN_BOTH			(IN_SMALL | IN_HUGE)
#define IN_POISONED		BIT(2)
/* The test has walkers, and those that look for 1G have something to look for. */
#define IN_WALKED		BIT(3)
#define IN_WALKED_2M		BIT(4)

enum event {
#define EVENT(name, ...)	EVENT_##name,
#include "guest_memfd_stress_list.h"
	NR_EVENTS
};

enum unit_op {
#define OP(name)		OP_##name,
#include "guest_memfd_stress_list.h"
	NR_OPS
};

enum unit_state {
#define STATE(name)		STATE_##name,
#include "guest_memfd_stress_list.h"
	NR_STATES
};

struct hits {
	u64 events[NR_EVENTS];
	u64 ops[NR_OPS][NR_STATES];
};

/* One column of the table of events. */
struct hits_column {
	const char *name;
	const struct hits *hits;
	int where;
	/* The run was long enough to reach everything. */
	bool complete;
};

void add_hits(struct hits *to, const struct hits *from);

/* Print the table of events.  Returns whether all that should happen did. */
bool print_events(const struct hits_column *columns, int nr);

/*
 * Print the matrix of operations x states.  A huge page can be in more than one state
 * at a time.  Returns whether each operation was reached in each state, or the run
 * was too short for that.
 */
bool print_matrix(const struct hits_column *col);

#endif /* SELFTEST_KVM_GUEST_MEMFD_STRESS_MATRIX_H */
