/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Sweeps of failing allocations.
 *
 * An operation runs with its first allocation failing, then with its second one, and so
 * on until no allocation is left to fail.  Each time the operation either succeeds all
 * the same, or fails.  If it fails, nothing may have happened, and the same operation
 * without an injected failure must succeed.
 *
 * The kernel likes to retry, e.g. to allocate a node of an xarray.  So a second kind of
 * sweep fails not only the nth allocation, but all after it as well.
 *
 * The sweeps need a kernel with CONFIG_FAILSLAB, CONFIG_FAIL_PAGE_ALLOC and
 * CONFIG_FAULT_INJECTION_DEBUG_FS.
 */
#ifndef SELFTEST_KVM_FAIL_NTH_H
#define SELFTEST_KVM_FAIL_NTH_H

#include <stdbool.h>

#include "test_util.h"

/* The things that operations work on, defined by the test. */
struct context;

/* An operation.  A function that isn't needed may be NULL. */
struct fail_nth_op {
	const char *name;
	/* Prepare the operation.  Allocations don't fail here. */
	void (*prepare)(struct context *ctx);
	/* Run it, return 0 or a negative errno.  Allocations fail in the calling thread only. */
	int (*run)(struct context *ctx);
	/*
	 * After a failure, assert that the operation may fail with @error, and that
	 * nothing happened.
	 */
	void (*check_failed)(struct context *ctx, int error);
	/*
	 * After a success, at the first or at the second try, assert that the operation
	 * took place.
	 */
	void (*check_done)(struct context *ctx);
	/* Undo the operation, so that prepare() can be called again. */
	void (*undo)(struct context *ctx);
};

enum fail_nth_mode {
	/* One allocation fails. */
	FAIL_ONE,
	/*
	 * The nth allocation and all after it fail.  Don't use this for faults of user
	 * space, which are repeated until they succeed.
	 */
	FAIL_REST,
};

struct fail_nth_result {
	/* The number of allocations, each of which was made to fail. */
	unsigned int injected;
	/* The number of those that made the operation fail. */
	unsigned int failed;
};

/*
 * Prepare the kernel to fail all allocations that can fail, without a word on the
 * console.  Returns false if the kernel doesn't support that.  The settings are
 * restored at exit.
 */
bool fail_nth_init(void);

#define TEST_REQUIRE_FAIL_NTH()						\
	__TEST_REQUIRE(fail_nth_init(), "needs fault injection (failslab, fail_page_alloc)")

/* Let this thread's @nth allocation from here on fail, or none if @nth is 0. */
void fail_nth_arm(unsigned int nth, enum fail_nth_mode mode);

/* Let no more allocations fail.  Returns whether one has failed. */
bool fail_nth_disarm(void);

struct fail_nth_result fail_nth_sweep(const struct fail_nth_op *op, struct context *ctx,
				      enum fail_nth_mode mode);

/*
 * Fail each of the first @nr allocations again and again, and assert that the kernel
 * doesn't need more and more memory.  check_failed() and check_done() aren't called.
 */
void fail_nth_check_leaks(const struct fail_nth_op *op, struct context *ctx,
			  enum fail_nth_mode mode, unsigned int nr, unsigned int repeat);

#endif /* SELFTEST_KVM_FAIL_NTH_H */
