/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Fixtures of tests of guest_memfd.  All of them have the same data.  In front of a
 * fixture NAME, tell that:
 *
 *	#define _test_data_NAME		gmem
 *	#define _fixture_variant_NAME	gmem_variant
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_FIXTURE_H
#define SELFTEST_KVM_GUEST_MEMFD_FIXTURE_H

#include "guest_memfd_util.h"
#include "kselftest_harness.h"

/* Zeroing 1G takes long, especially in an emulated kernel with debugging on. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	600

/* In the setup of a fixture, or in a test: skip if @why isn't NULL.  @statement is return. */
#define SKIP_IF(statement, why)						\
do {									\
	const char *__why = why;					\
									\
	if (__why)							\
		SKIP(statement, "%s", __why);				\
} while (0)

/* A fixture without a teardown.  @setup is a call that returns why the tests can't run, or NULL. */
#define GMEM_FIXTURE_SETUP(type, setup)					\
FIXTURE(type);								\
struct gmem_variant;							\
FIXTURE_SETUP(type)							\
{									\
	SKIP_IF({ }, setup);						\
}

#define EXPECT_NOTHING_LEFT_BEHIND()					\
do {									\
	const char *left = gmem_left_behind(self);			\
									\
	EXPECT_EQ(NULL, left) {						\
		TH_LOG("Left behind: %s", left);			\
	}								\
} while (0)

/* A fixture.  When a test's processes are gone, nothing may be left behind. */
#define GMEM_FIXTURE(type, setup)					\
struct gmem_variant;							\
GMEM_FIXTURE_SETUP(type, setup)						\
FIXTURE_TEARDOWN_PARENT(type)						\
{									\
	EXPECT_NOTHING_LEFT_BEHIND();					\
}

/* As above, for a file of 4K pages, which the test's own process closes and frees with its VM. */
#define GMEM_SMALL_FIXTURE(type, setup)					\
struct gmem_variant;							\
GMEM_FIXTURE_SETUP(type, setup)						\
FIXTURE_TEARDOWN(type)							\
{									\
	close(self->fd);						\
	kvm_vm_free(self->vm);						\
}

#define GMEM_VARIANT(fixture, variant, ...)				\
struct gmem_variant;							\
FIXTURE_VARIANT_ADD(fixture, variant) { __VA_ARGS__ }

#define GMEM_VARIANT_OF_UNITS(fixture, variant, log2, nr, ...)		\
struct gmem_variant;							\
FIXTURE_VARIANT_ADD(fixture, variant) { .size_log2 = log2, .nr_units = nr, __VA_ARGS__ }

/* Variants for files of @nr_2m units of 2M, and of @nr_1g units of 1G. */
#define GMEM_VARIANTS(type, nr_2m, nr_1g)				\
struct gmem_variant;							\
GMEM_VARIANT_OF_UNITS(type, 2m, 21, nr_2m);				\
GMEM_VARIANT_OF_UNITS(type, 1g, 30, nr_1g)

/* A variant for each initial state. */
#define GMEM_VARIANTS_OF_STATE(type)					\
struct gmem_variant;							\
GMEM_VARIANT(type, init_private, .flags = 0);				\
GMEM_VARIANT(type, init_shared, .flags = GUEST_MEMFD_FLAG_INIT_SHARED)

/* The fixture of tests of huge pages that are split. */
#define _test_data_reshape		gmem
#define _fixture_variant_reshape	gmem_variant
#define GMEM_RESHAPE_FIXTURE(setup)					\
struct gmem_variant;							\
GMEM_FIXTURE(reshape, setup)						\
GMEM_VARIANTS(reshape, 10, 2)

/* A test that is a call of a function. */
#define GMEM_TEST(fixture, test, call)					\
struct gmem_variant;							\
TEST_F(fixture, test)							\
{									\
	call;								\
}

/* main() of a program that has no arguments of its own. */
#define GMEM_TEST_MAIN(needs)						\
int main(int argc, char *argv[])					\
{									\
	gmem_init(needs);						\
	exit(test_harness_run(argc, argv));				\
}

#endif /* SELFTEST_KVM_GUEST_MEMFD_FIXTURE_H */
