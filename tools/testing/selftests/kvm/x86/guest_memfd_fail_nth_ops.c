// SPDX-License-Identifier: GPL-2.0-only
#include "guest_memfd_fail_nth.h"

/* For operations that must not fail, with or without memory. */
static void check_never_fails(struct context *ctx, int error)
{
	TEST_FAIL("Failed with %s", strerror(-error));
}

/* Conversion. */

const struct conversion small_conversions[] = {
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

const struct conversion huge_conversions[] = {
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
	convert_fd(ctx->fd, r->first, r->nr, private);
}

static void read_layout(struct context *ctx)
{
	free(ctx->layout);
	ctx->layout = guestmem_has_units() ? guestmem_read_units() : NULL;
}

static void prepare_conversion(struct context *ctx)
{
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

static int run_conversion(struct context *ctx)
{
	const struct conversion *c = ctx->conversion;

	return try_convert(ctx->fd, c->range.first, c->range.nr, c->to_private,
			   &ctx->error_offset);
}

static void check_conversion_failed(struct context *ctx, int error)
{
	const struct conversion *c = ctx->conversion;
	u64 i = ctx->error_offset / PAGE_SIZE;

	TEST_ASSERT_EQ(error, -ENOMEM);
	/* Nothing has been split or merged. */
	if (ctx->layout)
		guestmem_assert_unchanged(ctx->layout);
	TEST_ASSERT(is_in(&c->range, i) && !(ctx->error_offset % PAGE_SIZE),
		    "%s: error_offset 0x%lx is elsewhere", c->name, ctx->error_offset);
	TEST_ASSERT_EQ(nr_mapped(ctx), ctx->nr_mapped);
	assert_file(ctx, was_private);
}

static void check_conversion_done(struct context *ctx)
{
	assert_file(ctx, becomes_private);
}

const struct fail_nth_op op_convert = {
	NULL, prepare_conversion, run_conversion, check_conversion_failed, check_conversion_done,
};

/* Creation. */

static int run_create(struct context *ctx)
{
	ctx->new_fd = ctx->huge ? __vm_create_guest_memfd_hugetlb(ctx->vm, SZ_4M, 0, 21) :
				  __vm_create_guest_memfd(ctx->vm, SZ_4M, GUEST_MEMFD_FLAG_MMAP);
	return ctx->new_fd < 0 ? -errno : 0;
}

static void check_create_failed(struct context *ctx, int error)
{
	TEST_ASSERT_EQ(error, -ENOMEM);
	TEST_ASSERT_EQ(nr_open_fds(), ctx->nr_fds);
	assert_reservation(ctx);
}

static void undo_create(struct context *ctx)
{
	kvm_close(ctx->new_fd);
	assert_reservation(ctx);
}

const struct fail_nth_op op_create = {
	"create", NULL, run_create, check_create_failed, NULL, undo_create,
};

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

static void prepare_bind(struct context *ctx)
{
	TEST_ASSERT_EQ(set_region(ctx, 0), 0);
}

static int run_bind(struct context *ctx)
{
	return set_region(ctx, ctx->size);
}

static void check_bind_failed(struct context *ctx, int error)
{
	TEST_ASSERT_EQ(error, -ENOMEM);
	guest_read(ctx, 0, NO_MEMSLOT);
}

static void check_bound(struct context *ctx)
{
	guest_do_probes(ctx, false);
}

const struct fail_nth_op op_bind = {
	"bind", prepare_bind, run_bind, check_bind_failed, check_bound,
};

static int run_unbind(struct context *ctx)
{
	return set_region(ctx, 0);
}

static void check_unbind_failed(struct context *ctx, int error)
{
	TEST_ASSERT_EQ(error, -ENOMEM);
	check_bound(ctx);
}

static void check_unbound(struct context *ctx)
{
	guest_read(ctx, 0, NO_MEMSLOT);
}

static void undo_unbind(struct context *ctx)
{
	set_slot(ctx);
}

const struct fail_nth_op op_unbind = {
	"unbind", NULL, run_unbind, check_unbind_failed, check_unbound, undo_unbind,
};

/* Allocation of @len bytes at @offset, where the file has a hole. */

static void prepare_allocation(struct context *ctx)
{
	punch_fd(ctx->fd, ctx->offset, ctx->len);
	TEST_ASSERT_EQ(nr_cached(ctx), ctx->nr_cached);
	ctx->nr_mapped = nr_mapped(ctx);
}

static int run_fallocate(struct context *ctx)
{
	return fallocate(ctx->fd, FALLOC_FL_KEEP_SIZE, ctx->offset, ctx->len) ? -errno : 0;
}

static int run_punch(struct context *ctx)
{
	return fallocate(ctx->fd, PUNCH, ctx->offset, ctx->len) ? -errno : 0;
}

/* Check after an allocation has failed.  Some of the pages may be there. */
static void check_allocation_failed(struct context *ctx, int error)
{
	long nr = nr_cached(ctx) - ctx->nr_cached;

	/* System calls that access unmapped memory don't say why they fail. */
	TEST_ASSERT(error == -ENOMEM || (error == -EFAULT && ctx->may_efault), "error %d", error);
	TEST_ASSERT(nr >= 0 && nr <= ctx->len / PAGE_SIZE, "%ld pages were allocated", nr);
	assert_reservation(ctx);
}

static void check_allocated(struct context *ctx)
{
	u64 i;

	TEST_ASSERT_EQ(nr_cached(ctx), ctx->nr_cached + ctx->len / PAGE_SIZE);
	for (i = ctx->offset / PAGE_SIZE; i < (ctx->offset + ctx->len) / PAGE_SIZE;
	     i += ctx->unit / PAGE_SIZE)
		guest_read(ctx, i, 0);
	assert_reservation(ctx);
}

const struct fail_nth_op op_allocate = {
	"fallocate", prepare_allocation, run_fallocate, check_allocation_failed, check_allocated,
};

static void check_punched(struct context *ctx)
{
	TEST_ASSERT_EQ(nr_cached(ctx), ctx->nr_cached);
	assert_reservation(ctx);
}

static void prepare_punch(struct context *ctx)
{
	TEST_ASSERT_EQ(run_fallocate(ctx), 0);
}

const struct fail_nth_op op_punch = {
	"punch", prepare_punch, run_punch, check_never_fails, check_punched,
};

/* Faults of the host: of user space, and of the kernel on its behalf. */

static void prepare_host_fault(struct context *ctx)
{
	prepare_allocation(ctx);
	gmem_set_shared(ctx->fd, ctx->offset, ctx->len);
}

static int run_host_fault(struct context *ctx)
{
	TEST_ASSERT_EQ(READ_ONCE(*(u64 *)(ctx->mem + ctx->offset)), 0);
	return 0;
}

const struct fail_nth_op op_host_fault = {
	"host fault", prepare_host_fault, run_host_fault, check_never_fails, check_allocated,
};

/*
 * Have the host fault.  Returns 0, or -ENOMEM after SIGBUS.  Without memory for the
 * pieces of a huge page, the fault ends in SIGBUS, neither in a loop nor in the OOM
 * killer.
 */
static int run_huge_host_fault(struct context *ctx)
{
	u64 val;

	if (!sigbus_try_read((u64 *)(ctx->mem + ctx->offset), &val))
		return -ENOMEM;
	TEST_ASSERT_EQ(val, 0);
	return 0;
}

const struct fail_nth_op op_huge_host_fault = {
	"host fault", prepare_host_fault, run_huge_host_fault, check_allocation_failed,
	check_allocated,
};

static int run_host_syscall(struct context *ctx)
{
	return write(ctx->pipe[1], ctx->mem + ctx->offset, 8) == 8 ? 0 : -errno;
}

static int run_host_pin(struct context *ctx)
{
	struct iovec iov = { ctx->mem + ctx->offset, 8 };

	return vmsplice(ctx->pipe[1], &iov, 1, 0) == 8 ? 0 : -errno;
}

static void undo_pipe(struct context *ctx)
{
	u64 val;

	TEST_ASSERT_EQ(read(ctx->pipe[0], &val, sizeof(val)), sizeof(val));
	TEST_ASSERT_EQ(val, 0);
}

const struct fail_nth_op op_host_syscall = {
	"host system call", prepare_host_fault, run_host_syscall, check_allocation_failed,
	check_allocated, undo_pipe,
};

const struct fail_nth_op op_host_pin = {
	"host pin", prepare_host_fault, run_host_pin, check_allocation_failed,
	check_allocated, undo_pipe,
};

/* Faults of the guest. */

static void prepare_guest_fault(struct context *ctx)
{
	prepare_allocation(ctx);
	request_read(ctx, ctx->offset / PAGE_SIZE, 0);
}

static void check_guest_fault_done(struct context *ctx)
{
	assert_request_done(ctx->vcpu);
	check_allocated(ctx);
}

const struct fail_nth_op op_guest_fault = {
	NULL, prepare_guest_fault, enter_guest, check_allocation_failed, check_guest_fault_done,
};

static int run_prefault(struct context *ctx)
{
	struct kvm_pre_fault_memory range = {
		.gpa = TEST_GPA + ctx->offset,
		.size = ctx->len,
	};

	return __vcpu_ioctl(ctx->vcpu, KVM_PRE_FAULT_MEMORY, &range) ? -errno : 0;
}

const struct fail_nth_op op_prefault = {
	NULL, prepare_allocation, run_prefault, check_allocation_failed, check_allocated,
};

/* Prepare the first fault of a new VM, for which nothing is preallocated. */
static void prepare_first_fault(struct context *ctx)
{
	create_file(ctx);
	request_read(ctx, 0, 0);
}

static void check_first_fault_failed(struct context *ctx, int error)
{
	/* KVM doesn't find out why it can't access the guest's ordinary memory. */
	TEST_ASSERT(error == -ENOMEM || error == -EFAULT, "error %d", error);
}

static void check_first_fault_done(struct context *ctx)
{
	assert_request_done(ctx->vcpu);
}

const struct fail_nth_op op_first_fault = {
	"first guest fault", prepare_first_fault, enter_guest, check_first_fault_failed,
	check_first_fault_done, destroy_context,
};

/* A page of a huge page fails. */

#define BAD_PAGE	5
#define OTHER_PAGE	7

void replace_lost_unit(struct context *ctx)
{
	struct hugetlb_pool now;
	int tries = 0;

	punch_fd(ctx->fd, ctx->offset, ctx->len);
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
static void prepare_poison(struct context *ctx)
{
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
	request_read(ctx, ctx->offset / PAGE_SIZE + OTHER_PAGE, 0);
}

/* Without memory to split the huge page, the kernel maps no page of it. */
static void check_poison_failed(struct context *ctx, int error)
{
	TEST_ASSERT_EQ(error, -ENOMEM);
	TEST_ASSERT_EQ(nr_mapped(ctx), ctx->nr_mapped);
	TEST_EXPECT_SIGBUS((void)READ_ONCE(ctx->mem[ctx->offset + OTHER_PAGE * PAGE_SIZE]));
}

static void check_bad_page(struct context *ctx)
{
	request_read(ctx, ctx->offset / PAGE_SIZE + BAD_PAGE, 0);
	TEST_ASSERT_EQ(enter_guest(ctx), -EHWPOISON);
	TEST_ASSERT_EQ(ctx->vcpu->run->exit_reason, KVM_EXIT_MEMORY_FAULT);
	guest_start_over(ctx->vcpu);
}

static void check_poison_faulted(struct context *ctx)
{
	assert_request_done(ctx->vcpu);
	check_bad_page(ctx);
}

const struct fail_nth_op op_fault_beside_poison = {
	"guest fault beside poison", prepare_poison, enter_guest, check_poison_failed,
	check_poison_faulted,
};

static int run_conversion_of_other_page(struct context *ctx)
{
	return try_convert(ctx->fd, ctx->offset / PAGE_SIZE + OTHER_PAGE, 1, false,
			   &ctx->error_offset);
}

static void check_poison_not_converted(struct context *ctx, int error)
{
	check_poison_failed(ctx, error);
	TEST_ASSERT_EQ(ctx->error_offset, ctx->offset + OTHER_PAGE * PAGE_SIZE);
}

static void check_poison_converted(struct context *ctx)
{
	TEST_ASSERT_EQ(READ_ONCE(ctx->mem[ctx->offset + OTHER_PAGE * PAGE_SIZE]), 0);
	guest_read(ctx, ctx->offset / PAGE_SIZE + OTHER_PAGE, 0);
	check_bad_page(ctx);
}

const struct fail_nth_op op_convert_beside_poison = {
	"conversion beside poison", prepare_poison, run_conversion_of_other_page,
	check_poison_not_converted, check_poison_converted,
};

void check_lost_is_retried(struct context *ctx)
{
	const char *kind = "fail_page_alloc";
	unsigned long start, end;
	struct hugetlb_pool now;
	long nr;

	TEST_ASSERT(find_function("guestmem_lost_workfn", &start, &end), "Cannot find the worker");
	fail_in(kind, start, end, true);
	punch_fd(ctx->fd, ctx->offset, ctx->len);
	usleep(1000 * 1000);
	nr = nr_injected(kind);
	hugetlb_read_pool(ctx->unit, &now);
	fail_in(kind, 0, -1, false);
	TEST_ASSERT(nr >= 3 && nr < 100, "%s should fail now and then, not %ld times", kind, nr);
	TEST_ASSERT_EQ(now.total, ctx->pool.total);
	/* This returns when the pool has lost the huge page, and the failed page is free. */
	replace_lost_unit(ctx);
}

void prepare_poison_without_vmemmap(struct context *ctx)
{
	struct kernel_counters before, now;

	punch_fd(ctx->fd, ctx->offset, ctx->len);
	read_kernel_counters(&before);
	gmem_set_shared(ctx->fd, ctx->offset, ctx->len);
	WRITE_ONCE(ctx->mem[ctx->offset], 0);
	ctx->pfn = read_pagemap_pfn(ctx->mem + ctx->offset) + BAD_PAGE;
	read_kernel_counters(&now);
	TEST_ASSERT(now.memmap > before.memmap, "A huge page in pieces should have struct pages");
	gmem_set_private(ctx->fd, ctx->offset, ctx->len);
	punch_fd(ctx->fd, ctx->offset, ctx->len);
	read_kernel_counters(&now);
	TEST_ASSERT_EQ(now.memmap, before.memmap);
	allocate_fd(ctx->fd, ctx->offset, ctx->len);
	TEST_ASSERT_EQ(write_pfn(CORRUPT_PFN, ctx->pfn), 0);
}
