// SPDX-License-Identifier: GPL-2.0-only
/*
 * An operation on guest_memfd that fails for lack of memory changes nothing.  Every allocation
 * of every operation fails once.  Afterwards all is as before: which pages are private, what is
 * in memory, and what is allocated, mapped, and reserved.  The same operation succeeds then.
 *
 * The host tells whether a page is private, as it gets SIGBUS then.  Both host and
 * guest tell what is in a page.
 */
#include "guest_memfd_fixture.h"
#include "guest_memfd_fail_nth.h"

FIXTURE(fail_nth)
{
	struct kernel_counters before;
	struct context ctx;
};

FIXTURE_VARIANT(fail_nth)
{
	bool huge;
};

GMEM_VARIANT(fail_nth, small, .huge = false);
GMEM_VARIANT(fail_nth, huge, .huge = true);
FIXTURE_SETUP(fail_nth)
{
	if (variant->huge)
		SKIP_IF(return, missing_units(SZ_2M, HUGE_UNITS + 2, &self->ctx.pool));

	read_kernel_counters(&self->before);
	create_context(&self->ctx, variant->huge);
	TEST_ASSERT(!pipe2(self->ctx.pipe, O_CLOEXEC), "pipe2() should succeed");
	/* This opens files when it is called for the first time. */
	fail_nth_arm(0, FAIL_ONE);
	self->ctx.nr_fds = nr_open_fds();
	sigbus_start(true);
}

FIXTURE_TEARDOWN(fail_nth)
{
	struct kernel_counters after;
	const char *leak = NULL;

	if (!self->ctx.vm)
		return;

	destroy_context(&self->ctx);
	if (variant->huge)
		leak = hugetlb_pool_settle(&self->ctx.pool, 0, 0);
	leak = leak ?: kernel_counters_settle(&self->before, &after);
	EXPECT_EQ(NULL, leak) {
		TH_LOG("Left behind: %s", leak);
	}
}

/* Sweep an operation, and check it for leaks.  Returns how often the operation failed. */
static unsigned int check_sweep(struct context *ctx, const struct fail_nth_op *op,
				enum fail_nth_mode mode, unsigned int min_failed,
				unsigned int repeat)
{
	struct fail_nth_result r = fail_nth_sweep(op, ctx, mode);

	ksft_print_msg("%-32s %3u allocations, %3u make it fail%s\n", op->name, r.injected,
		       r.failed, mode == FAIL_REST ? " with all after it" : "");
	TEST_ASSERT(r.failed >= min_failed, "%s: where are the allocations?", op->name);
	fail_nth_check_leaks(op, ctx, mode, repeat ? r.injected : 0, repeat);
	return r.failed;
}

/*
 * Sweep an operation in both modes.  Returns how often the operation failed in the
 * second sweep.  The first sweep also makes sure that user space has all of its own
 * pages.
 */
static unsigned int check_sweeps(struct context *ctx, const struct fail_nth_op *op,
				 unsigned int min_failed, unsigned int repeat)
{
	check_sweep(ctx, op, FAIL_ONE, 0, 0);
	return check_sweep(ctx, op, FAIL_REST, min_failed, repeat);
}

TEST_F(fail_nth, create)
{
	check_sweeps(&self->ctx, &op_create, 2, 256);
}

TEST_F(fail_nth, bind)
{
	check_sweeps(&self->ctx, &op_bind, 2, 64);
	check_sweeps(&self->ctx, &op_unbind, 1, 64);
}

TEST_F(fail_nth, convert)
{
	const struct conversion *all = variant->huge ? huge_conversions : small_conversions;
	struct fail_nth_op op = op_convert;
	const int nr = NR_CONVERSIONS;
	unsigned int nr_failed = 0;
	int i;

	for (i = 0; i < nr; i++) {
		op.name = all[i].name;
		self->ctx.conversion = &all[i];
		nr_failed += check_sweeps(&self->ctx, &op, 0, 64);
	}
	/* Some conversions need no allocation, but certainly not all. */
	TEST_ASSERT(nr_failed >= nr / 2, "Where are the allocations?");
}

/* Have operations work on @nr pages of the file that aren't allocated. */
static void set_hole(struct context *ctx, u64 nr)
{
	ctx->offset = ctx->huge ? 10 * SZ_2M : 400000 * PAGE_SIZE;
	ctx->len = ctx->huge ? SZ_2M : nr * PAGE_SIZE;
}

TEST_F(fail_nth, allocate)
{
	set_hole(&self->ctx, 16);
	check_sweeps(&self->ctx, &op_allocate, 1, 64);
	check_sweeps(&self->ctx, &op_punch, 0, 64);
}

TEST_F(fail_nth, guest_fault)
{
	struct fail_nth_op fault = op_guest_fault, prefault = op_prefault;

	set_hole(&self->ctx, 1);
	fault.name = "guest fault, private";
	check_sweeps(&self->ctx, &fault, 1, 64);
	prefault.name = "prefault, private";
	check_sweeps(&self->ctx, &prefault, 1, 64);

	gmem_set_shared(self->ctx.fd, self->ctx.offset, self->ctx.len);
	fault.name = "guest fault, shared";
	check_sweeps(&self->ctx, &fault, 1, 64);
	prefault.name = "prefault, shared";
	check_sweeps(&self->ctx, &prefault, 1, 64);
}

TEST_F(fail_nth, host_fault)
{
	set_hole(&self->ctx, 1);
	if (variant->huge) {
		check_sweeps(&self->ctx, &op_huge_host_fault, 1, 64);
	} else {
		/* The kernel retries the fault, and the allocation that failed succeeds then. */
		check_sweep(&self->ctx, &op_host_fault, FAIL_ONE, 0, 64);
	}

	self->ctx.may_efault = true;
	check_sweeps(&self->ctx, &op_host_syscall, 1, 64);
	check_sweeps(&self->ctx, &op_host_pin, 1, 64);
}

TEST_F(fail_nth, poison)
{
	if (!variant->huge)
		SKIP(return, "is about huge pages");
	if (!can_inject_memory_failure())
		SKIP(return, "needs CONFIG_HWPOISON_INJECT");

	set_hole(&self->ctx, 1);
	/* Don't look for leaks: each of the many rounds would cost a huge page. */
	check_sweeps(&self->ctx, &op_fault_beside_poison, 2, 0);
	check_sweeps(&self->ctx, &op_convert_beside_poison, 2, 0);
	replace_lost_unit(&self->ctx);
}

/* A huge page leaves the pool as soon as there is memory for that. */
TEST_F(fail_nth, lost_unit)
{
	if (!variant->huge)
		SKIP(return, "is about huge pages");
	if (!can_inject_memory_failure() ||
	    access("/sys/kernel/debug/fail_page_alloc/require-start", F_OK))
		SKIP(return, "needs HWPOISON_INJECT and FAULT_INJECTION_STACKTRACE_FILTER");

	set_hole(&self->ctx, 1);
	prepare_poison_without_vmemmap(&self->ctx);
	check_lost_is_retried(&self->ctx);
}

/* Here, each run starts with a new VM and a new file. */
TEST_F(fail_nth, first_fault)
{
	struct context ctx = { .size = SZ_2M, .unit = PAGE_SIZE };

	if (variant->huge)
		SKIP(return, "no difference");

	check_sweeps(&ctx, &op_first_fault, 10, 0);
}

int main(int argc, char *argv[])
{
	gmem_init(NEEDS_PRIVATE_VM | NEEDS_CONVERSION);
	TEST_REQUIRE_FAIL_NTH();

	return test_harness_run(argc, argv);
}
