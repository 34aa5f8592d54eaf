/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Assertions about the pool and about split units, while a test of guest_memfd files
 * made of HugeTLB pages runs and when it is over.  Fixtures of such tests have
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

/* Assert that @present units are in use, and that all others are reserved. */
#define assert_nr_allocated(present)						\
({										\
	int __present = present;						\
										\
	assert_pool(__present, self->nr - __present);				\
})

/* As above, but give the last user of a unit the time to go. */
#define assert_nr_allocated_settles(present)					\
({										\
	int __present = present;						\
										\
	TEST_ASSERT_POOL_SETTLES(&self->pool, -__present, self->nr - __present); \
})

/* Assert that @nr units have left their files, but are in use. */
static inline void assert_nr_late(int nr)
{
	int nr_late;

	guestmem_nr_units(&nr_late);
	TEST_ASSERT(nr_late == nr, "%d units should have left their files, not %d:\n%s",
		    nr, nr_late, guestmem_read_units());
}

/*
 * Assert, in a parent's teardown, that nothing is left behind.  All pages are back in
 * the pool, except for @nr_lost pages that have left it.  No unit is split any more,
 * which the kernel's list of them tells.  The counters are as before.  Reading the
 * counters drains per-CPU batches, so it comes last: pages must come back without that.
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
	/* The vmemmap of a page that has left the pool isn't shared. */		\
	self->counters.memmap += __nr_lost * (long)self->pool.size / 4096 / 64;	\
	__diff = self->vm ? kernel_counters_settle(&self->counters, &__now) : NULL; \
	EXPECT_EQ(NULL, __diff) {						\
		TH_LOG("Left behind: %s", __diff);				\
	}									\
} while (0)

#endif /* SELFTEST_KVM_GUEST_MEMFD_LEFT_BEHIND_H */
