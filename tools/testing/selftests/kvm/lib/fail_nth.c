// SPDX-License-Identifier: GPL-2.0-only

#include <linux/kernel.h>

#include "fail_nth.h"
#include "kvm_syscalls.h"
#include "kernel_files.h"

/* Far more allocations than any operation needs, i.e. one that gets here goes round in circles. */
#define MAX_NTH			2000

/* Growth in one try isn't a leak, growth in every try is. */
#define LEAK_TRIES		4
/* How long to wait for memory that is freed late. */
#define LEAK_DELAYS		20
#define LEAK_DELAY_US		(50 * 1000)
/* Leaks of smaller objects aren't worth the time to find them. */
#define LEAK_MIN_OBJECT		64

static struct knob {
	const char *path;
	const char *value;
	char saved[32];
} knobs[] = {
	/* Don't spare allocations that may sleep, nor user pages, nor single pages ... */
	{ "/sys/kernel/debug/failslab/ignore-gfp-wait", "N" },
	{ "/sys/kernel/debug/fail_page_alloc/ignore-gfp-wait", "N" },
	{ "/sys/kernel/debug/fail_page_alloc/ignore-gfp-highmem", "N" },
	{ "/sys/kernel/debug/fail_page_alloc/min-order", "0" },
	/* ... and don't print a trace for each failure. */
	{ "/sys/kernel/debug/failslab/verbose", "0" },
	{ "/sys/kernel/debug/fail_page_alloc/verbose", "0" },
	/* Fail all allocations of tasks that want failures. */
	{ "/sys/kernel/debug/failslab/task-filter", "Y" },
	{ "/sys/kernel/debug/failslab/times", "-1" },
	{ "/sys/kernel/debug/failslab/probability", "100" },
	{ "/sys/kernel/debug/fail_page_alloc/task-filter", "Y" },
	{ "/sys/kernel/debug/fail_page_alloc/times", "-1" },
	{ "/sys/kernel/debug/fail_page_alloc/probability", "100" },
};

static pid_t knobs_owner;
static __thread int fail_nth_fd = -1;
static __thread int make_it_fail_fd = -1;

static void fail_nth_restore(void)
{
	struct knob *k;

	/* Do nothing when a child of the process that has set the knobs exits. */
	if (getpid() != knobs_owner)
		return;
	/* Go backwards, so that each filter is restored after its probability. */
	for (k = knobs + ARRAY_SIZE(knobs); k-- > knobs; )
		write_text_file(k->path, k->saved);
}

bool fail_nth_init(void)
{
	struct knob *k;

	if (access("/proc/thread-self/fail-nth", W_OK))
		return false;
	for (k = knobs; k < knobs + ARRAY_SIZE(knobs); k++) {
		if (!read_text_file(k->path, k->saved, sizeof(k->saved)))
			return false;
	}

	knobs_owner = getpid();
	atexit(fail_nth_restore);
	for (k = knobs; k < knobs + ARRAY_SIZE(knobs); k++) {
		if (!write_text_file(k->path, k->value))
			return false;
	}
	return true;
}

static void open_files(void)
{
	if (fail_nth_fd >= 0)
		return;
	fail_nth_fd = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	make_it_fail_fd = open("/proc/thread-self/make-it-fail", O_RDWR | O_CLOEXEC);
	TEST_ASSERT(fail_nth_fd >= 0 && make_it_fail_fd >= 0, "Cannot open fail-nth");
}

void fail_nth_arm(unsigned int nth, enum fail_nth_mode mode)
{
	char text[16];
	int len;

	open_files();
	len = snprintf(text, sizeof(text), "%u", nth);
	TEST_ASSERT_EQ(pwrite(fail_nth_fd, text, len, 0), len);
	/* make-it-fail has no effect as long as fail-nth has something left to count. */
	if (nth && mode == FAIL_REST)
		TEST_ASSERT_EQ(pwrite(make_it_fail_fd, "1", 1, 0), 1);
}

bool fail_nth_disarm(void)
{
	char text[16] = "";

	/* None of these calls allocates memory. */
	TEST_ASSERT_EQ(pwrite(make_it_fail_fd, "0", 1, 0), 1);
	TEST_ASSERT(pread(fail_nth_fd, text, sizeof(text) - 1, 0) > 0, "Cannot read fail-nth");
	TEST_ASSERT_EQ(pwrite(fail_nth_fd, "0", 1, 0), 1);
	/* An allocation has failed if nothing is left of the count. */
	return atoi(text) == 0;
}

static int run_with_nth_failing(const struct fail_nth_op *op, struct context *ctx,
				enum fail_nth_mode mode, unsigned int nth, bool *injected)
{
	int error;

	fail_nth_arm(nth, mode);
	error = op->run(ctx);
	*injected = fail_nth_disarm();

	TEST_ASSERT(!error || *injected,
		    "%s failed all by itself after %u injected failures: %s", op->name,
		    nth - 1, strerror(-error));
	return error;
}

static void run_again(const struct fail_nth_op *op, struct context *ctx, unsigned int nth,
		      int error)
{
	int again = op->run(ctx);

	TEST_ASSERT(!again, "%s failed with %s in allocation %u, then with %s without reason",
		    op->name, strerror(-error), nth, strerror(-again));
}

static void call(void (*fn)(struct context *ctx), struct context *ctx)
{
	if (fn)
		fn(ctx);
}

struct fail_nth_result fail_nth_sweep(const struct fail_nth_op *op, struct context *ctx,
				      enum fail_nth_mode mode)
{
	struct fail_nth_result result = {};
	unsigned int nth;
	bool injected;
	int error;

	for (nth = 1; ; nth++) {
		TEST_ASSERT(nth < MAX_NTH, "%s doesn't end", op->name);

		call(op->prepare, ctx);
		error = run_with_nth_failing(op, ctx, mode, nth, &injected);
		if (error) {
			result.failed++;
			if (op->check_failed)
				op->check_failed(ctx, error);
			run_again(op, ctx, nth, error);
		}
		call(op->check_done, ctx);
		call(op->undo, ctx);
		if (!injected)
			return result;
		result.injected++;
	}
}

static void repeat_nth(const struct fail_nth_op *op, struct context *ctx,
		       enum fail_nth_mode mode, unsigned int nth, unsigned int repeat)
{
	bool injected;
	int error;

	while (repeat--) {
		call(op->prepare, ctx);
		error = run_with_nth_failing(op, ctx, mode, nth, &injected);
		if (error)
			run_again(op, ctx, nth, error);
		call(op->undo, ctx);
	}
}

/*
 * Run an operation @repeat times with its @nth allocation failing, and return in @slab
 * and @all how many pages that has cost, of slabs and in all.  On entry these are the
 * pages that it may cost.  Waits for memory that is freed late, as long as the cost is
 * higher than that.  Returns whether it stays higher.
 */
static bool repeat_costs(const struct fail_nth_op *op, struct context *ctx, enum fail_nth_mode mode,
			 unsigned int nth, unsigned int repeat, long *slab, long *all)
{
	struct kernel_counters before, after;
	long max_slab = *slab, max_all = *all;
	int i;

	usleep(LEAK_DELAY_US);
	read_kernel_counters(&before);
	repeat_nth(op, ctx, mode, nth, repeat);
	for (i = 0; i < LEAK_DELAYS; i++) {
		read_kernel_counters(&after);
		*slab = after.slab - before.slab;
		*all = before.free - after.free;
		if (*slab <= max_slab && *all <= max_all)
			return false;
		usleep(LEAK_DELAY_US);
	}
	return true;
}

/*
 * Return whether an operation loses memory when its @nth allocation fails, and how much
 * in @slab and @all.  Some memory is freed only when there is enough of it, e.g. that
 * of vmalloc()ed areas, so an operation may need more and more memory for a while even
 * if nothing fails.  So compare with runs in which nothing fails, twice as many, as an
 * operation that fails runs twice.
 */
static bool nth_leaks(const struct fail_nth_op *op, struct context *ctx, enum fail_nth_mode mode,
		      unsigned int nth, unsigned int repeat, long *slab, long *all)
{
	const long max_slab = (repeat * LEAK_MIN_OBJECT - 1) / getpagesize();
	const long max_all = repeat / 2;
	long normal_slab = max_slab, normal_all = max_all;

	*slab = max_slab;
	*all = max_all;
	if (!repeat_costs(op, ctx, mode, nth, repeat, slab, all))
		return false;

	repeat_costs(op, ctx, mode, 0, 2 * repeat, &normal_slab, &normal_all);
	return *slab > max_slab + normal_slab || *all > max_all + normal_all;
}

void fail_nth_check_leaks(const struct fail_nth_op *op, struct context *ctx,
			  enum fail_nth_mode mode, unsigned int nr, unsigned int repeat)
{
	unsigned int nth, tries;
	long slab, all;

	for (nth = 1; nth <= nr; nth++) {
		for (tries = 0; tries < LEAK_TRIES; tries++) {
			if (!nth_leaks(op, ctx, mode, nth, repeat, &slab, &all))
				break;
		}
		TEST_ASSERT(tries < LEAK_TRIES,
			    "%s leaks if allocation %u fails: %u times cost %ld pages, and %ld for slabs",
			    op->name, nth, repeat, all, slab);
	}
}
