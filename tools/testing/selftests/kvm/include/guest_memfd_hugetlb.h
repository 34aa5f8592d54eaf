/* SPDX-License-Identifier: GPL-2.0-only */
/* Definitions for all tests of guest_memfd files made of HugeTLB pages. */
#ifndef SELFTEST_KVM_GUEST_MEMFD_HUGETLB_H
#define SELFTEST_KVM_GUEST_MEMFD_HUGETLB_H

#include <stdio.h>

#include <linux/bitmap.h>
#include <linux/falloc.h>

#include "hugetlb_util.h"
#include "kselftest_harness.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

#ifdef __x86_64__
#define VM_TYPE_PRIVATE		KVM_X86_SW_PROTECTED_VM
#else
#define VM_TYPE_PRIVATE		VM_TYPE_DEFAULT
#endif

#define PUNCH			(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)
#define TOO_MUCH		BIT_ULL(40)

/* Zeroing 1G takes long, especially in an emulated kernel with debugging on. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	600

static size_t __maybe_unused page_size;

static inline bool has_guest_memfd_hugetlb(void)
{
	return kvm_has_cap(KVM_CAP_GUEST_MEMFD) &&
	       kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) & GUEST_MEMFD_FLAG_HUGETLB;
}

/* On x86, there are huge pages only with kvm.gmem_in_place_conversion=1. */
#define TEST_REQUIRE_GUEST_MEMFD_HUGETLB()				\
	__TEST_REQUIRE(has_guest_memfd_hugetlb(), "guest_memfd without huge pages")

/*
 * Check that there can be files of @nr units in all.  Returns NULL, or the reason why
 * there can't be any, in a static buffer.  If there are pages of that size, @pool is
 * filled in.
 */
static __maybe_unused const char *missing_units(size_t unit, long nr,
						struct hugetlb_pool *pool)
{
	static char text[128];

	if (!has_guest_memfd_hugetlb())
		return "needs guest_memfd with huge pages";

	if (!hugetlb_size_supported(unit)) {
		snprintf(text, sizeof(text), "needs huge pages of %zu kB", unit / 1024);
		return text;
	}

	hugetlb_read_pool(unit, pool);
	if (hugetlb_available(pool) < nr) {
		snprintf(text, sizeof(text), "needs %ld x %zu kB page, have %ld",
			 nr, unit / 1024, hugetlb_available(pool));
		return text;
	}
	return NULL;
}

/*
 * Fill in a fixture's pool, size of a unit, size of all units and number of units from
 * its variant.  Returns what missing_units() returns.
 */
#define setup_units()							\
({									\
	self->unit = BIT_ULL(variant->size_log2);			\
	self->nr = variant->nr_units;					\
	self->size = self->nr * self->unit;				\
	missing_units(self->unit, self->nr, &self->pool);		\
})

/* For a parent's teardown, when the test's process is gone with all its files. */
#define EXPECT_POOL_RESTORED(pool)					\
do {									\
	const char *__diff = hugetlb_pool_settle(pool, 0, 0);		\
									\
	EXPECT_EQ(NULL, __diff) {					\
		TH_LOG("Pool not restored: %s", __diff);		\
	}								\
} while (0)

#define assert_pool(allocated, reserved)				\
	TEST_ASSERT_POOL(&self->pool, -(allocated), reserved)

#endif /* SELFTEST_KVM_GUEST_MEMFD_HUGETLB_H */
