/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What tests of guest_memfd files made of HugeTLB pages expect of the pool, and of
 * what was split, while they run and when all is over.  Their fixtures have
 *
 *	struct hugetlb_pool pool;
 *	struct kernel_counters counters;	before anything was created
 *	struct kvm_vm *vm;			NULL if the test was skipped
 *	int nr;					units of the file
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_LEFT_BEHIND_H
#define SELFTEST_KVM_GUEST_MEMFD_LEFT_BEHIND_H

#include "guestmem_units.h"
#include "hugetlb_util.h"
#include "kernel_counters.h"
#include "test_util.h"

/* The number of units in use, all others being reserved. */
#define assert_nr_allocated(present)						\
({										\
	int __present = present;						\
										\
	assert_pool(__present, self->nr - __present);				\
})

/* As above, as soon as who is the last to go has had the time. */
#define assert_nr_allocated_settles(present)					\
({										\
	int __present = present;						\
										\
	TEST_ASSERT_POOL_SETTLES(&self->pool, -__present, self->nr - __present); \
})

/* The number of units that have left their files, but are in use. */
static inline void assert_nr_late(int nr)
{
	int nr_late;

	guestmem_nr_units(&nr_late);
	TEST_ASSERT(nr_late == nr, "%d units should have left their files, not %d:\n%s",
		    nr, nr_late, guestmem_read_units());
}

/*
 * For teardown in the parent.  All pages are back but for @nr_lost, which have left the
 * pool, there's nothing split, which is where the kernel looks at what was, and counters
 * are what they were.  Reading these drains per-CPU batches, i.e. it comes last: pages are
 * back without.
 */
#define EXPECT_NOTHING_LEFT(nr_lost)						\
do {										\
	const long __nr_lost = nr_lost;						\
	struct kernel_counters __now;						\
	int __nr, __nr_late = 0;						\
	const char *__diff;							\
										\
	hugetlb_pool_lose(&self->pool, __nr_lost);				\
	__diff = hugetlb_pool_settle(&self->pool, 0, 0);			\
	EXPECT_EQ(NULL, __diff) {						\
		TH_LOG("Pool not restored: %s", __diff);			\
	}									\
	__nr = guestmem_has_units() ? guestmem_nr_units(&__nr_late) : 0;	\
	EXPECT_EQ(0, __nr + __nr_late);						\
	/* The vmemmap of what isn't of a pool any more isn't shared. */		\
	self->counters.memmap += __nr_lost * (long)self->pool.size / 4096 / 64;	\
	__diff = self->vm ? kernel_counters_settle(&self->counters, &__now) : NULL; \
	EXPECT_EQ(NULL, __diff) {						\
		TH_LOG("Left behind: %s", __diff);				\
	}									\
} while (0)

#endif /* SELFTEST_KVM_GUEST_MEMFD_LEFT_BEHIND_H */
