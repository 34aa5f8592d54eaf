/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Sweeps of failing allocations.
 *
 * An operation runs with its first allocation failing, then with its second one,
 * and so on until it gets through without a failure.  Each time the operation
 * either succeeds all the same, or fails, and then nothing may have happened, and
 * the same again without an injected failure must succeed.
 *
 * As the kernel likes to try again, e.g. to allocate a node of an xarray, a second
 * kind of sweep fails not only the nth allocation, but all after it as well.
 *
 * Needs a kernel with CONFIG_FAILSLAB, CONFIG_FAIL_PAGE_ALLOC and
 * CONFIG_FAULT_INJECTION_DEBUG_FS.
 */
#ifndef SELFTEST_KVM_FAIL_NTH_H
#define SELFTEST_KVM_FAIL_NTH_H

#include <stdbool.h>

#include "test_util.h"

/* An operation; what isn't needed may be NULL. */
struct fail_nth_op {
	const char *name;
	/* Go where it starts from.  Allocations don't fail here. */
	void (*prepare)(void *ctx);
	/* Do it, return 0 or a negative errno.  Allocations fail in the calling thread only. */
	int (*run)(void *ctx);
	/* It failed: assert that the error is one it may have, and that nothing happened. */
	void (*check_failed)(void *ctx, int error);
	/* It succeeded, at the first or at the second try: assert that it did. */
	void (*check_done)(void *ctx);
	/* Go back, so that prepare() can be called again. */
	void (*undo)(void *ctx);
};

enum fail_nth_mode {
	/* One allocation fails. */
	FAIL_ONE,
	/*
	 * From there on all of them fail.  Not for what faults in user space, which
	 * is repeated until it succeeds.
	 */
	FAIL_REST,
};

struct fail_nth_result {
	/* How many allocations there are, i.e. were made to fail. */
	unsigned int injected;
	/* How many of those made the operation fail. */
	unsigned int failed;
};

/*
 * Let all allocations fail that can, without a word on the console.  Returns
 * false if the kernel can't.  What was changed is restored at exit.
 */
bool fail_nth_init(void);

#define TEST_REQUIRE_FAIL_NTH()						\
	__TEST_REQUIRE(fail_nth_init(), "needs fault injection (failslab, fail_page_alloc)")

/* Let the @nth allocation from here on fail, in this thread.  Never, if that's 0. */
void fail_nth_arm(unsigned int nth, enum fail_nth_mode mode);

/* No more.  Returns whether an allocation has failed. */
bool fail_nth_disarm(void);

struct fail_nth_result fail_nth_sweep(const struct fail_nth_op *op, void *ctx,
				      enum fail_nth_mode mode);

/*
 * Fail the same allocation again and again, for each of @nr allocations, and assert
 * that the kernel doesn't need more and more memory.  The checks aren't called.
 */
void fail_nth_check_leaks(const struct fail_nth_op *op, void *ctx, enum fail_nth_mode mode,
			  unsigned int nr, unsigned int repeat);

#endif /* SELFTEST_KVM_FAIL_NTH_H */
