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
	const struct fail_nth_op op = {
		"create", NULL, run_create, check_create_failed, NULL, undo_create,
	};

	check_sweeps(&self->ctx, &op, 2, 256);
}

TEST_F(fail_nth, bind)
{
	const struct fail_nth_op bind = {
		"bind", prepare_bind, run_bind, check_bind_failed, check_bound,
	};
	const struct fail_nth_op unbind = {
		"unbind", NULL, run_unbind, check_unbind_failed, check_unbound, undo_unbind,
	};

	check_sweeps(&self->ctx, &bind, 2, 64);
	check_sweeps(&self->ctx, &unbind, 1, 64);
}

TEST_F(fail_nth, convert)
{
	const struct conversion *all = variant->huge ? huge_conversions : small_conversions;
	const int nr = NR_CONVERSIONS;
	int i;
	unsigned int nr_failed = 0;

	for (i = 0; i < nr; i++) {
		struct fail_nth_op op = {
			all[i].name, prepare_conversion, run_conversion,
			check_conversion_failed, check_conversion_done,
		};

		self->ctx.conversion = &all[i];
		nr_failed += check_sweeps(&self->ctx, &op, 0, 64);
	}
	/* Some conversions need no allocation, but certainly not all. */
	TEST_ASSERT(nr_failed >= nr / 2, "Where are the allocations?");
}

TEST_F(fail_nth, allocate)
{
	const struct fail_nth_op allocate = {
		"fallocate", prepare_allocation, run_fallocate, check_allocation_failed,
		check_allocated,
	};
	const struct fail_nth_op punch = {
		"punch", prepare_punch, run_punch, check_never_fails, check_punched,
	};

	self->ctx.offset = variant->huge ? 10 * SZ_2M : 400000 * PAGE_SIZE;
	self->ctx.len = variant->huge ? SZ_2M : 16 * PAGE_SIZE;
	check_sweeps(&self->ctx, &allocate, 1, 64);
	check_sweeps(&self->ctx, &punch, 0, 64);
}

TEST_F(fail_nth, guest_fault)
{
	struct fail_nth_op op = {
		"guest fault, private", prepare_guest_fault, enter_guest,
		check_allocation_failed, check_guest_fault_done,
	};
	struct fail_nth_op prefault = {
		"prefault, private", prepare_allocation, run_prefault, check_allocation_failed,
		check_allocated,
	};

	self->ctx.offset = variant->huge ? 10 * SZ_2M : 400000 * PAGE_SIZE;
	self->ctx.len = self->ctx.unit;
	check_sweeps(&self->ctx, &op, 1, 64);
	check_sweeps(&self->ctx, &prefault, 1, 64);

	gmem_set_shared(self->ctx.fd, self->ctx.offset, self->ctx.len);
	op.name = "guest fault, shared";
	check_sweeps(&self->ctx, &op, 1, 64);
	prefault.name = "prefault, shared";
	check_sweeps(&self->ctx, &prefault, 1, 64);
}

TEST_F(fail_nth, host_fault)
{
	struct fail_nth_op op = {
		"host fault", prepare_host_fault, run_host_fault, check_never_fails,
		check_allocated,
	};

	self->ctx.offset = variant->huge ? 10 * SZ_2M : 400000 * PAGE_SIZE;
	self->ctx.len = self->ctx.unit;
	if (variant->huge) {
		op.run = run_huge_host_fault;
		op.check_failed = check_allocation_failed;
		check_sweeps(&self->ctx, &op, 1, 64);
	} else {
		/* The kernel retries the fault, and the allocation that failed succeeds then. */
		check_sweep(&self->ctx, &op, FAIL_ONE, 0, 64);
	}

	self->ctx.may_efault = true;
	op.check_failed = check_allocation_failed;
	op.undo = undo_pipe;
	op.name = "host system call";
	op.run = run_host_syscall;
	check_sweeps(&self->ctx, &op, 1, 64);

	op.name = "host pin";
	op.run = run_host_pin;
	check_sweeps(&self->ctx, &op, 1, 64);
}

TEST_F(fail_nth, poison)
{
	const struct fail_nth_op fault = {
		"guest fault beside poison", prepare_poison, enter_guest,
		check_poison_failed, check_poison_faulted,
	};
	const struct fail_nth_op convert = {
		"conversion beside poison", prepare_poison, run_conversion_of_other_page,
		check_poison_not_converted, check_poison_converted,
	};

	if (!variant->huge)
		SKIP(return, "is about huge pages");
	if (!can_inject_memory_failure())
		SKIP(return, "needs CONFIG_HWPOISON_INJECT");

	self->ctx.offset = 10 * SZ_2M;
	self->ctx.len = self->ctx.unit;
	/* Don't look for leaks: each of the many rounds would cost a huge page. */
	check_sweeps(&self->ctx, &fault, 2, 0);
	check_sweeps(&self->ctx, &convert, 2, 0);
	replace_lost_unit(&self->ctx);
}

/* A huge page leaves the pool as soon as there is memory for that. */
TEST_F(fail_nth, lost_unit)
{
	if (!variant->huge)
		SKIP(return, "is about huge pages");
	if (!can_inject_memory_failure() ||
	    access("/sys/kernel/debug/failslab/require-start", F_OK))
		SKIP(return, "needs HWPOISON_INJECT and FAULT_INJECTION_STACKTRACE_FILTER");

	self->ctx.offset = 10 * SZ_2M;
	self->ctx.len = self->ctx.unit;
	prepare_poison(&self->ctx);
	check_lost_is_retried(&self->ctx, "failslab");
	prepare_poison_without_vmemmap(&self->ctx);
	check_lost_is_retried(&self->ctx, "fail_page_alloc");
}

/* Here, each run starts with a new VM and a new file. */
TEST_F(fail_nth, first_fault)
{
	struct context ctx = { .size = SZ_2M, .unit = PAGE_SIZE };
	const struct fail_nth_op op = {
		"first guest fault", prepare_first_fault, enter_guest,
		check_first_fault_failed, check_first_fault_done, undo_first_fault,
	};

	if (variant->huge)
		SKIP(return, "no difference");

	check_sweeps(&ctx, &op, 10, 0);
}

int main(int argc, char *argv[])
{
	gmem_init(NEEDS_PRIVATE_VM | NEEDS_CONVERSION);
	TEST_REQUIRE_FAIL_NTH();

	return test_harness_run(argc, argv);
}
