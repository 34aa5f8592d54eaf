// SPDX-License-Identifier: GPL-2.0-only
/*
 * An operation on guest_memfd that fails for lack of memory changes nothing.  Every allocation
 * of every operation fails once.  Afterwards all is as before: which pages are private, what is
 * in memory, and what is allocated, mapped, and reserved.  The same operation succeeds then.
 *
 * The host tells whether a page is private, as it gets SIGBUS then.  Both host and
 * guest tell what is in a page.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/uio.h>

#include <linux/falloc.h>

#include "fail_nth.h"
#include "guest_memfd_fail_nth.h"
#include "kernel_counters.h"
#include "memory_failure.h"

/* Conversion. */

static const struct conversion small_conversions[] = {
	{ "page to shared", true, {}, { 5000, 1 }, false },
	{ "page to private", false, {}, { 5000, 1 }, true },
	{ "last page to shared", true, {}, { 524287, 1 }, false },
	{ "beside one to shared", true, { { 5001, 1 } }, { 5000, 1 }, false },
	{ "last of its kind to shared", false, { { 5000, 1 } }, { 5000, 1 }, false },
	{ "hole to shared", true, {}, { 400000, 1 }, false },
	{ "range to shared", true, {}, { 1, 300000 }, false },
	{ "range to private", false, {}, { 1, 300000 }, true },
	{ "all to shared", true, {}, { 0, 524288 }, false },
	{ "all to private", false, {}, { 0, 524288 }, true },
	{ "mixed to shared", true, { { 3, 1 }, { 512, 4096 }, { 32768, 1 }, { 300000, 1 } },
	  { 2, 300000 }, false },
	{ "mixed to private", true, { { 3, 1 }, { 512, 4096 }, { 32768, 1 }, { 300000, 1 } },
	  { 2, 300000 }, true },
	{ "mixed, uniform edges, to shared", true, { { 5000, 1 }, { 70000, 2 } },
	  { 100, 200000 }, false },
	{ "mixed, uniform edges, to private", false, { { 5000, 1 }, { 70000, 2 } },
	  { 100, 200000 }, true },
	{ "all mixed to private", false, { { 4096, 4096 }, { 70000, 1 }, { 262144, 262144 } },
	  { 0, 524288 }, true },
	{ "all mixed to shared", false, { { 4096, 4096 }, { 70000, 1 }, { 262144, 262144 } },
	  { 0, 524288 }, false },
};

#define UNITS(first, nr)	{ (first) * (SZ_2M / PAGE_SIZE), (nr) * (SZ_2M / PAGE_SIZE) }

static const struct conversion huge_conversions[] = {
	{ "unit to shared", true, {}, UNITS(1, 1), false },
	{ "unit to private", false, {}, UNITS(1, 1), true },
	{ "all to shared", true, {}, UNITS(0, HUGE_UNITS), false },
	{ "all to private", false, {}, UNITS(0, HUGE_UNITS), true },
	{ "mixed to shared", true, { UNITS(2, 1), UNITS(5, 2) }, UNITS(1, 6), false },
	{ "mixed to private", true, { UNITS(2, 1), UNITS(5, 2) }, UNITS(1, 6), true },
	{ "page to shared", true, {}, { 515, 1 }, false },
	{ "page to private", false, {}, { 515, 1 }, true },
	{ "page back to private", true, { { 515, 1 } }, { 515, 1 }, true },
	{ "beside one to shared", true, { { 515, 1 } }, { 514, 1 }, false },
	{ "both ends to shared", true, {}, { 515, 2486 }, false },
	{ "both ends to private", false, {}, { 515, 2486 }, true },
	{ "split ends to shared", true, { { 514, 1 }, { 3001, 10 } }, { 515, 2486 }, false },
	{ "split ends to private", true, { { 515, 1 }, { 1000, 600 }, { 2999, 10 } },
	  { 515, 2486 }, true },
	{ "part of hole to shared", true, {}, { 2050, 7 }, false },
	{ "split units to private", false, { { 3, 1 }, { 516, 20 }, { 3000, 2000 } },
	  UNITS(0, HUGE_UNITS), true },
};

static void set_range(struct context *ctx, const struct range *r, bool private)
{
	gmem_set_memory_attributes(ctx->fd, r->first * PAGE_SIZE, r->nr * PAGE_SIZE,
				   private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0);
}

static void read_layout(struct context *ctx)
{
	free(ctx->layout);
	ctx->layout = guestmem_has_units() ? guestmem_read_units() : NULL;
}

/* Assert that nothing has been split or merged. */
static void assert_layout(struct context *ctx)
{
	char *now;

	if (!ctx->layout)
		return;

	now = guestmem_read_units();
	TEST_ASSERT(!strcmp(now, ctx->layout), "Units should be\n%s\nare\n%s", ctx->layout, now);
	free(now);
}

static void prepare_conversion(void *data)
{
	struct context *ctx = data;
	const struct conversion *c = ctx->conversion;
	const struct range all = { 0, ctx->size / PAGE_SIZE };
	int i;

	/* KVM may keep memory of an earlier conversion, but not if all of the file changes. */
	set_range(ctx, &all, !c->init_private);
	set_range(ctx, &all, c->init_private);
	for (i = 0; i < ARRAY_SIZE(c->other); i++) {
		if (c->other[i].nr)
			set_range(ctx, &c->other[i], !c->init_private);
	}

	/* Let the guest map the pages, and the host those that it can map. */
	guest_do_probes(ctx, false);
	for (i = 0; i < ctx->nr_probes; i++) {
		const struct probe *p = &ctx->probes[i];

		if (!p->hole && !was_private(c, p->index))
			(void)READ_ONCE(*(u64 *)(ctx->mem + p->index * PAGE_SIZE));
	}
	ctx->nr_mapped = nr_mapped(ctx);
	read_layout(ctx);
}

static int run_conversion(void *data)
{
	struct context *ctx = data;
	const struct conversion *c = ctx->conversion;

	return __gmem_set_memory_attributes(ctx->fd, c->range.first * PAGE_SIZE,
					    c->range.nr * PAGE_SIZE,
					    c->to_private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
					    &ctx->error_offset) ? -errno : 0;
}

static void check_conversion_failed(void *data, int error)
{
	struct context *ctx = data;
	const struct conversion *c = ctx->conversion;
	u64 i = ctx->error_offset / PAGE_SIZE;

	TEST_ASSERT_EQ(error, -ENOMEM);
	assert_layout(ctx);
	TEST_ASSERT(is_in(&c->range, i) && !(ctx->error_offset % PAGE_SIZE),
		    "%s: error_offset 0x%lx is elsewhere", c->name, ctx->error_offset);
	TEST_ASSERT_EQ(nr_mapped(ctx), ctx->nr_mapped);
	assert_file(ctx, was_private);
}

static void check_conversion_done(void *data)
{
	assert_file(data, becomes_private);
}

/* Creation. */

static int run_create(void *data)
{
	struct context *ctx = data;

	ctx->new_fd = ctx->huge ? __vm_create_guest_memfd_hugetlb(ctx->vm, SZ_4M, 0, 21) :
				  __vm_create_guest_memfd(ctx->vm, SZ_4M, GUEST_MEMFD_FLAG_MMAP);
	return ctx->new_fd < 0 ? -errno : 0;
}

static void check_create_failed(void *data, int error)
{
	struct context *ctx = data;

	TEST_ASSERT_EQ(error, -ENOMEM);
	TEST_ASSERT_EQ(nr_open_fds(), ctx->nr_fds);
	assert_reservation(ctx);
}

static void undo_create(void *data)
{
	struct context *ctx = data;

	kvm_close(ctx->new_fd);
	assert_reservation(ctx);
}

/* Memslots.  Here, a file starts without one. */

/* Set or delete the memslot, without the library, whose function has allocations of its own. */
static int set_region(struct context *ctx, u64 size)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = TEST_SLOT,
		.flags = size ? KVM_MEM_GUEST_MEMFD : 0,
		.guest_phys_addr = TEST_GPA,
		.memory_size = size,
		.userspace_addr = (uintptr_t)ctx->mem,
		.guest_memfd = ctx->fd,
	};

	return ioctl(ctx->vm->fd, KVM_SET_USER_MEMORY_REGION2, &region) ? -errno : 0;
}

static void prepare_bind(void *data)
{
	struct context *ctx = data;

	TEST_ASSERT_EQ(set_region(ctx, 0), 0);
}

static int run_bind(void *data)
{
	struct context *ctx = data;

	return set_region(ctx, ctx->size);
}

static void check_bind_failed(void *data, int error)
{
	TEST_ASSERT_EQ(error, -ENOMEM);
	guest_read(data, 0, NO_MEMSLOT);
}

static void check_bound(void *data)
{
	guest_do_probes(data, false);
}

static int run_unbind(void *data)
{
	return set_region(data, 0);
}

static void check_unbind_failed(void *data, int error)
{
	TEST_ASSERT_EQ(error, -ENOMEM);
	check_bound(data);
}

static void check_unbound(void *data)
{
	guest_read(data, 0, NO_MEMSLOT);
}

static void undo_unbind(void *data)
{
	set_slot(data);
}

/* Allocation of @len bytes at @offset, where the file has a hole. */

static void prepare_allocation(void *data)
{
	struct context *ctx = data;

	kvm_fallocate(ctx->fd, PUNCH, ctx->offset, ctx->len);
	TEST_ASSERT_EQ(nr_cached(ctx), ctx->nr_cached);
	ctx->nr_mapped = nr_mapped(ctx);
}

static int run_fallocate(void *data)
{
	struct context *ctx = data;

	return fallocate(ctx->fd, FALLOC_FL_KEEP_SIZE, ctx->offset, ctx->len) ? -errno : 0;
}

static int run_punch(void *data)
{
	struct context *ctx = data;

	return fallocate(ctx->fd, PUNCH, ctx->offset, ctx->len) ? -errno : 0;
}

/* Check after an allocation has failed.  Some of the pages may be there. */
static void check_allocation_failed(void *data, int error)
{
	struct context *ctx = data;
	long nr = nr_cached(ctx) - ctx->nr_cached;

	/* System calls that access unmapped memory don't say why they fail. */
	TEST_ASSERT(error == -ENOMEM || (error == -EFAULT && ctx->may_efault), "error %d", error);
	TEST_ASSERT(nr >= 0 && nr <= ctx->len / PAGE_SIZE, "%ld pages were allocated", nr);
	assert_reservation(ctx);
}

static void check_allocated(void *data)
{
	struct context *ctx = data;
	u64 i;

	TEST_ASSERT_EQ(nr_cached(ctx), ctx->nr_cached + ctx->len / PAGE_SIZE);
	for (i = ctx->offset / PAGE_SIZE; i < (ctx->offset + ctx->len) / PAGE_SIZE;
	     i += ctx->unit / PAGE_SIZE)
		guest_read(ctx, i, 0);
	assert_reservation(ctx);
}

static void check_punched(void *data)
{
	struct context *ctx = data;

	TEST_ASSERT_EQ(nr_cached(ctx), ctx->nr_cached);
	assert_reservation(ctx);
}

static void prepare_punch(void *data)
{
	TEST_ASSERT_EQ(run_fallocate(data), 0);
}

/* Faults of the host: of user space, and of the kernel on its behalf. */

static void prepare_host_fault(void *data)
{
	struct context *ctx = data;

	prepare_allocation(ctx);
	gmem_set_shared(ctx->fd, ctx->offset, ctx->len);
}

static int run_host_fault(void *data)
{
	struct context *ctx = data;

	TEST_ASSERT_EQ(READ_ONCE(*(u64 *)(ctx->mem + ctx->offset)), 0);
	return 0;
}

/*
 * Have the host fault.  Returns 0, or -ENOMEM after SIGBUS.  Without memory for the
 * pieces of a huge page, the fault ends in SIGBUS, neither in a loop nor in the OOM
 * killer.
 */
static int run_huge_host_fault(void *data)
{
	struct sigaction old, new = { .sa_handler = expect_sigbus_handler };
	int r = -ENOMEM;

	sigaction(SIGBUS, &new, &old);
	if (!sigsetjmp(expect_sigbus_jmpbuf, 1))
		r = run_host_fault(data);
	sigaction(SIGBUS, &old, NULL);
	return r;
}

static int run_host_syscall(void *data)
{
	struct context *ctx = data;

	return write(ctx->pipe[1], ctx->mem + ctx->offset, 8) == 8 ? 0 : -errno;
}

static int run_host_pin(void *data)
{
	struct context *ctx = data;
	struct iovec iov = { ctx->mem + ctx->offset, 8 };

	return vmsplice(ctx->pipe[1], &iov, 1, 0) == 8 ? 0 : -errno;
}

static void undo_pipe(void *data)
{
	struct context *ctx = data;
	u64 val;

	TEST_ASSERT_EQ(read(ctx->pipe[0], &val, sizeof(val)), sizeof(val));
	TEST_ASSERT_EQ(val, 0);
}

/* Faults of the guest. */

static void prepare_guest_fault(void *data)
{
	struct context *ctx = data;

	prepare_allocation(ctx);
	set_request(ctx, false);
	add_word(ctx, ctx->offset / PAGE_SIZE, 0);
}

static void check_guest_fault_done(void *data)
{
	assert_guest_done(data);
	check_allocated(data);
}

static int run_prefault(void *data)
{
	struct context *ctx = data;
	struct kvm_pre_fault_memory range = {
		.gpa = TEST_GPA + ctx->offset,
		.size = ctx->len,
	};

	return __vcpu_ioctl(ctx->vcpu, KVM_PRE_FAULT_MEMORY, &range) ? -errno : 0;
}

/* Prepare the first fault of a new VM, for which nothing is preallocated. */
static void prepare_first_fault(void *data)
{
	struct context *ctx = data;

	ctx->vm = __vm_create_with_vcpus((struct vm_shape) {
		.mode = VM_MODE_DEFAULT,
		.type = VM_TYPE_PRIVATE,
	}, 1, 0, guest_code, &ctx->vcpu);
	virt_map_level(ctx->vm, TEST_GPA, TEST_GPA, SZ_2M, PG_LEVEL_2M);
	ctx->fd = vm_create_guest_memfd(ctx->vm, ctx->size, GUEST_MEMFD_FLAG_MMAP);
	ctx->mem = kvm_mmap(ctx->size, PROT_READ | PROT_WRITE, MAP_SHARED, ctx->fd);
	set_slot(ctx);
	set_request(ctx, false);
	add_word(ctx, 0, 0);
}

static void check_first_fault_failed(void *data, int error)
{
	/* KVM doesn't find out why it can't access the guest's ordinary memory. */
	TEST_ASSERT(error == -ENOMEM || error == -EFAULT, "error %d", error);
}

static void check_first_fault_done(void *data)
{
	assert_guest_done(data);
}

static void undo_first_fault(void *data)
{
	destroy_context(data);
}

/* A page of a huge page fails. */

#define BAD_PAGE	5
#define OTHER_PAGE	7

/* Punch the huge page, wait until the pool has lost it, and let another one replace it. */
static void replace_lost_unit(struct context *ctx)
{
	struct hugetlb_pool now;
	int tries = 0;

	kvm_fallocate(ctx->fd, PUNCH, ctx->offset, ctx->len);
	if (ctx->pfn) {
		do {
			hugetlb_read_pool(ctx->unit, &now);
			usleep(10 * 1000);
		} while (now.total == ctx->pool.total && ++tries < 1000);
		TEST_ASSERT_EQ(now.total, ctx->pool.total - 1);
	}
	hugetlb_write_attr(ctx->unit, "nr_hugepages", ctx->pool.total);
	TEST_ASSERT_EQ(nr_cached(ctx), ctx->nr_cached);
	if (ctx->pfn)
		TEST_ASSERT_EQ(write_pfn(UNPOISON_PFN, ctx->pfn), 0);
	ctx->pfn = 0;
}

/* Let a page fail in a huge page that is private and whole, and not used since. */
static void prepare_poison(void *data)
{
	struct context *ctx = data;
	char *bad = ctx->mem + ctx->offset + BAD_PAGE * PAGE_SIZE;

	replace_lost_unit(ctx);
	gmem_set_shared(ctx->fd, ctx->offset, ctx->len);
	WRITE_ONCE(*bad, 0);
	ctx->pfn = read_pagemap_pfn(bad);
	gmem_set_private(ctx->fd, ctx->offset, ctx->len);
	TEST_ASSERT_EQ(write_pfn(CORRUPT_PFN, ctx->pfn), 0);

	/* The kernel may have moved the guest's other memory when it looked for a huge page. */
	guest_do_probes(ctx, false);
	ctx->nr_mapped = nr_mapped(ctx);
	set_request(ctx, false);
	add_word(ctx, ctx->offset / PAGE_SIZE + OTHER_PAGE, 0);
}

/* Without memory to split the huge page, the kernel maps no page of it. */
static void check_poison_failed(void *data, int error)
{
	struct context *ctx = data;

	TEST_ASSERT_EQ(error, -ENOMEM);
	TEST_ASSERT_EQ(nr_mapped(ctx), ctx->nr_mapped);
	TEST_EXPECT_SIGBUS((void)READ_ONCE(ctx->mem[ctx->offset + OTHER_PAGE * PAGE_SIZE]));
}

static void check_bad_page(struct context *ctx)
{
	set_request(ctx, false);
	add_word(ctx, ctx->offset / PAGE_SIZE + BAD_PAGE, 0);
	TEST_ASSERT_EQ(enter_guest(ctx), -EHWPOISON);
	TEST_ASSERT_EQ(ctx->vcpu->run->exit_reason, KVM_EXIT_MEMORY_FAULT);
	vcpu_arch_set_entry_point(ctx->vcpu, guest_code);
}

static void check_poison_faulted(void *data)
{
	assert_guest_done(data);
	check_bad_page(data);
}

static int run_conversion_of_other_page(void *data)
{
	struct context *ctx = data;

	return __gmem_set_memory_attributes(ctx->fd, ctx->offset + OTHER_PAGE * PAGE_SIZE,
					    PAGE_SIZE, 0, &ctx->error_offset) ? -errno : 0;
}

static void check_poison_not_converted(void *data, int error)
{
	struct context *ctx = data;

	check_poison_failed(ctx, error);
	TEST_ASSERT_EQ(ctx->error_offset, ctx->offset + OTHER_PAGE * PAGE_SIZE);
}

static void check_poison_converted(void *data)
{
	struct context *ctx = data;

	TEST_ASSERT_EQ(READ_ONCE(ctx->mem[ctx->offset + OTHER_PAGE * PAGE_SIZE]), 0);
	guest_read(ctx, ctx->offset / PAGE_SIZE + OTHER_PAGE, 0);
	check_bad_page(ctx);
}

/*
 * The worker that takes huge pages out of the pool lacks memory of one kind.  The pool keeps
 * the huge page meanwhile, and loses it afterwards.
 */
static void check_lost_is_retried(struct context *ctx, const char *kind)
{
	unsigned long start, end;
	struct hugetlb_pool now;
	long nr;

	TEST_ASSERT(find_function("guestmem_lost_workfn", &start, &end), "Cannot find the worker");
	fail_in(kind, start, end, true);
	kvm_fallocate(ctx->fd, PUNCH, ctx->offset, ctx->len);
	usleep(1000 * 1000);
	nr = nr_injected(kind);
	hugetlb_read_pool(ctx->unit, &now);
	fail_in(kind, 0, -1, false);
	TEST_ASSERT(nr >= 3 && nr < 100, "%s should fail now and then, not %ld times", kind, nr);
	TEST_ASSERT_EQ(now.total, ctx->pool.total);
	/* This returns when the pool has lost the huge page, and the failed page is free. */
	replace_lost_unit(ctx);
}

/*
 * Let a page fail in a huge page that was never split since it has shared its struct pages.
 * The host can't tell which huge page it is.  So it looks at one, and gives it back, and
 * once the pool has optimized its vmemmap, the file gets it again.
 */
static void prepare_poison_without_vmemmap(struct context *ctx)
{
	struct kernel_counters before, now;
	int tries;

	kvm_fallocate(ctx->fd, PUNCH, ctx->offset, ctx->len);
	read_kernel_counters(&before);
	gmem_set_shared(ctx->fd, ctx->offset, ctx->len);
	WRITE_ONCE(ctx->mem[ctx->offset], 0);
	ctx->pfn = read_pagemap_pfn(ctx->mem + ctx->offset) + BAD_PAGE;
	read_kernel_counters(&now);
	TEST_ASSERT(now.memmap > before.memmap, "A huge page in pieces should have struct pages");
	gmem_set_private(ctx->fd, ctx->offset, ctx->len);
	kvm_fallocate(ctx->fd, PUNCH, ctx->offset, ctx->len);
	for (tries = 0; now.memmap > before.memmap && tries < 1000; tries++) {
		usleep(10 * 1000);
		read_kernel_counters(&now);
	}
	TEST_ASSERT_EQ(now.memmap, before.memmap);
	kvm_fallocate(ctx->fd, FALLOC_FL_KEEP_SIZE, ctx->offset, ctx->len);
	TEST_ASSERT_EQ(write_pfn(CORRUPT_PFN, ctx->pfn), 0);
}

FIXTURE(fail_nth)
{
	struct kernel_counters before;
	struct context ctx;
};

FIXTURE_VARIANT(fail_nth)
{
	bool huge;
};

FIXTURE_VARIANT_ADD(fail_nth, small)
{
	.huge = false,
};

FIXTURE_VARIANT_ADD(fail_nth, huge)
{
	.huge = true,
};

FIXTURE_SETUP(fail_nth)
{
	const char *missing = NULL;

	if (variant->huge)
		missing = missing_units(SZ_2M, HUGE_UNITS + 2, &self->ctx.pool);
	if (missing)
		SKIP(return, "%s", missing);

	read_kernel_counters(&self->before);
	create_context(&self->ctx, variant->huge);
	TEST_ASSERT(!pipe2(self->ctx.pipe, O_CLOEXEC), "pipe2() should succeed");
	/* This opens files when it is called for the first time. */
	fail_nth_arm(0, FAIL_ONE);
	self->ctx.nr_fds = nr_open_fds();
}

FIXTURE_TEARDOWN(fail_nth)
{
	struct kernel_counters after;
	const char *leak;

	if (!self->ctx.vm)
		return;

	destroy_context(&self->ctx);
	if (variant->huge)
		EXPECT_POOL_RESTORED(&self->ctx.pool);
	leak = kernel_counters_settle(&self->before, &after);
	EXPECT_EQ(NULL, leak) {
		TH_LOG("Left behind: %s", leak);
	}
}

/* For operations that must not fail, with or without memory. */
static void check_never_fails(void *data, int error)
{
	TEST_FAIL("Failed with %s", strerror(-error));
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
		.name = "create",
		.run = run_create,
		.check_failed = check_create_failed,
		.undo = undo_create,
	};

	check_sweeps(&self->ctx, &op, 2, 256);
}

TEST_F(fail_nth, bind)
{
	const struct fail_nth_op bind = {
		.name = "bind",
		.prepare = prepare_bind,
		.run = run_bind,
		.check_failed = check_bind_failed,
		.check_done = check_bound,
	};
	const struct fail_nth_op unbind = {
		.name = "unbind",
		.run = run_unbind,
		.check_failed = check_unbind_failed,
		.check_done = check_unbound,
		.undo = undo_unbind,
	};

	check_sweeps(&self->ctx, &bind, 2, 64);
	check_sweeps(&self->ctx, &unbind, 1, 64);
}

TEST_F(fail_nth, convert)
{
	const struct conversion *all = variant->huge ? huge_conversions : small_conversions;
	int nr = variant->huge ? ARRAY_SIZE(huge_conversions) : ARRAY_SIZE(small_conversions), i;
	unsigned int nr_failed = 0;

	for (i = 0; i < nr; i++) {
		struct fail_nth_op op = {
			.name = all[i].name,
			.prepare = prepare_conversion,
			.run = run_conversion,
			.check_failed = check_conversion_failed,
			.check_done = check_conversion_done,
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
		.name = "fallocate",
		.prepare = prepare_allocation,
		.run = run_fallocate,
		.check_failed = check_allocation_failed,
		.check_done = check_allocated,
	};
	const struct fail_nth_op punch = {
		.name = "punch",
		.prepare = prepare_punch,
		.run = run_punch,
		.check_failed = check_never_fails,
		.check_done = check_punched,
	};

	self->ctx.offset = variant->huge ? 10 * SZ_2M : 400000 * PAGE_SIZE;
	self->ctx.len = variant->huge ? SZ_2M : 16 * PAGE_SIZE;
	check_sweeps(&self->ctx, &allocate, 1, 64);
	check_sweeps(&self->ctx, &punch, 0, 64);
}

TEST_F(fail_nth, guest_fault)
{
	struct fail_nth_op op = {
		.name = "guest fault, private",
		.prepare = prepare_guest_fault,
		.run = enter_guest,
		.check_failed = check_allocation_failed,
		.check_done = check_guest_fault_done,
	};
	struct fail_nth_op prefault = {
		.name = "prefault, private",
		.prepare = prepare_allocation,
		.run = run_prefault,
		.check_failed = check_allocation_failed,
		.check_done = check_allocated,
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
		.name = "host fault",
		.prepare = prepare_host_fault,
		.run = run_host_fault,
		.check_failed = check_never_fails,
		.check_done = check_allocated,
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
		.name = "guest fault beside poison",
		.prepare = prepare_poison,
		.run = enter_guest,
		.check_failed = check_poison_failed,
		.check_done = check_poison_faulted,
	};
	const struct fail_nth_op convert = {
		.name = "conversion beside poison",
		.prepare = prepare_poison,
		.run = run_conversion_of_other_page,
		.check_failed = check_poison_not_converted,
		.check_done = check_poison_converted,
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
		.name = "first guest fault",
		.prepare = prepare_first_fault,
		.run = enter_guest,
		.check_failed = check_first_fault_failed,
		.check_done = check_first_fault_done,
		.undo = undo_first_fault,
	};

	if (variant->huge)
		SKIP(return, "no difference");

	check_sweeps(&ctx, &op, 10, 0);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(VM_TYPE_PRIVATE));
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES) &
		     KVM_MEMORY_ATTRIBUTE_PRIVATE);
	TEST_REQUIRE_FAIL_NTH();

	return test_harness_run(argc, argv);
}
