/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The environment of guest_memfd_fail_nth_test: a file with contents in a memslot,
 * a guest that reads the contents, and the checks that all of it is as it should
 * be.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_FAIL_NTH_H
#define SELFTEST_KVM_GUEST_MEMFD_FAIL_NTH_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/sizes.h>

#include "guest_memfd_hugetlb.h"
#include "guestmem_units.h"
#include "kvm_util.h"
#include "page_info.h"
#include "processor.h"
#include "text_file.h"
#include "ucall_common.h"

#define TEST_SLOT		10
#define TEST_GPA		(4ULL * SZ_1G)

/* The file has many of the blocks in which the kernel stores the state, whatever their size is. */
#define SMALL_SIZE		(2ULL * SZ_1G)
/* The page cache needs another node for the last units. */
#define HUGE_UNITS		12

/* The guest reads this value where there is no memslot. */
#define NO_MEMSLOT		0x6f6e206d656d6f72ull
#define STAMP(index)		(0x7a6a000000000000ull + (index))

/* A word that the guest reads or writes.  Each page has one. */
struct guest_word {
	u64 gva;
	u64 val;
};

#define MAX_WORDS		64

struct guest_request {
	bool write;
	u64 nr;
	struct guest_word words[MAX_WORDS];
};

static struct guest_request request;

static void guest_code(void)
{
	u64 i, val;

	for (;;) {
		for (i = 0; i < request.nr; i++) {
			struct guest_word *w = &request.words[i];

			if (request.write) {
				WRITE_ONCE(*(u64 *)w->gva, w->val);
				continue;
			}
			val = READ_ONCE(*(u64 *)w->gva);
			__GUEST_ASSERT(val == w->val, "0x%lx should be 0x%lx, is 0x%lx",
				       w->gva, w->val, val);
		}
		GUEST_SYNC(0);
	}
}

/* Pages that the test looks at.  Some have contents, others are holes. */
struct probe {
	u64 index;
	bool hole;
};

static const struct probe small_probes[] = {
	{ 0 }, { 1 }, { 2, true }, { 3 }, { 511 }, { 512 }, { 513, true }, { 4095 }, { 4096 },
	{ 4097, true }, { 5000 }, { 5001 }, { 32767 }, { 32768 }, { 32769 }, { 70000 },
	{ 70001, true }, { 262143 }, { 262144 }, { 262145, true }, { 300000 }, { 300001 },
	{ 400000, true }, { 524286, true }, { 524287 },
};

/* The first and last page of some units, and of converted ranges. */
static const struct probe huge_probes[] = {
	{ 0 }, { 511 }, { 512 }, { 514 }, { 515 }, { 516 }, { 1023 }, { 1024 },
	{ 2048, true }, { 2560 }, { 3000 }, { 3001 }, { 3071 }, { 3072, true }, { 3584 },
	{ 4094 }, { 4095 },
};

struct range {
	u64 first, nr;
};

/* A conversion, and the state of the file before it.  Ranges are in pages. */
struct conversion {
	const char *name;
	bool init_private;
	/* These ranges aren't in the initial state of the file. */
	struct range other[4];
	struct range range;
	bool to_private;
};

static bool is_in(const struct range *r, u64 i)
{
	return i >= r->first && i < r->first + r->nr;
}

static bool was_private(const struct conversion *c, u64 i)
{
	int other = 0, n;

	for (n = 0; n < ARRAY_SIZE(c->other); n++)
		other |= is_in(&c->other[n], i);
	return c->init_private != other;
}

static bool becomes_private(const struct conversion *c, u64 i)
{
	return is_in(&c->range, i) ? c->to_private : was_private(c, i);
}

/* All operations work on this. */
struct context {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	struct hugetlb_pool pool;
	const struct probe *probes;
	int nr_probes;
	size_t unit, size;
	bool huge;
	int fd;
	char *mem;
	/* For the current operation. */
	const struct conversion *conversion;
	u64 error_offset;
	u64 offset, len;
	bool may_efault;
	int new_fd, nr_fds;
	int pipe[2];
	long nr_cached;
	long nr_mapped;
	/* The page that has failed. */
	u64 pfn;
	/* How huge pages are split. */
	char *layout;
};

/* Do nothing but KVM_RUN, as allocations fail meanwhile.  Returns 0 or a negative errno. */
static int enter_guest(void *data)
{
	struct context *ctx = data;
	int r;

	do {
		r = __vcpu_run(ctx->vcpu) ? -errno : 0;
	} while (r == -EINTR);
	return r;
}

static void assert_guest_done(struct context *ctx)
{
	struct kvm_run *run = ctx->vcpu->run;
	struct ucall uc;

	switch (get_ucall(ctx->vcpu, &uc)) {
	case UCALL_SYNC:
		return;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		TEST_FAIL("Unexpected exit: %s", exit_reason_str(run->exit_reason));
	}
}

static void run_guest(struct context *ctx)
{
	struct kvm_run *run = ctx->vcpu->run;
	const u64 no_memslot = NO_MEMSLOT;

	int r;

	while (!(r = enter_guest(ctx)) && run->exit_reason == KVM_EXIT_MMIO)
		memcpy(run->mmio.data, &no_memslot, sizeof(no_memslot));
	TEST_ASSERT(!r, "KVM_RUN failed with %s, exit %s, gpa 0x%llx, flags 0x%llx", strerror(-r),
		    exit_reason_str(run->exit_reason), run->memory_fault.gpa,
		    run->memory_fault.flags);
	assert_guest_done(ctx);
}

static void set_request(struct context *ctx, bool write)
{
	struct guest_request *r = addr_gva2hva(ctx->vm, (gva_t)&request);

	r->nr = 0;
	r->write = write;
}

static void add_word(struct context *ctx, u64 index, u64 val)
{
	struct guest_request *r = addr_gva2hva(ctx->vm, (gva_t)&request);

	r->words[r->nr++] = (struct guest_word) { TEST_GPA + index * PAGE_SIZE, val };
}

/* Let the guest write or check all pages with contents. */
static void guest_do_probes(struct context *ctx, bool write)
{
	int i;

	set_request(ctx, write);
	for (i = 0; i < ctx->nr_probes; i++) {
		if (!ctx->probes[i].hole)
			add_word(ctx, ctx->probes[i].index, STAMP(ctx->probes[i].index));
	}
	run_guest(ctx);
}

static void guest_read(struct context *ctx, u64 index, u64 val)
{
	set_request(ctx, false);
	add_word(ctx, index, val);
	run_guest(ctx);
}

/* Return how much of the file is allocated, in pages. */
static long nr_cached(struct context *ctx)
{
	struct hugetlb_pool now;

	if (ctx->huge) {
		hugetlb_read_pool(ctx->unit, &now);
		return (ctx->pool.free - now.free) * (ctx->unit / PAGE_SIZE);
	}
	return nr_cached_pages(ctx->fd);
}

static long nr_mapped(struct context *ctx)
{
	return vm_get_stat(ctx->vm, pages_4k) + vm_get_stat(ctx->vm, pages_2m);
}

/* Assert that each unit of the file is either allocated or reserved. */
static void assert_reservation(struct context *ctx)
{
	long allocated = nr_cached(ctx) / (long)(ctx->unit / PAGE_SIZE);

	if (ctx->huge)
		TEST_ASSERT_POOL(&ctx->pool, -allocated, ctx->size / ctx->unit - allocated);
}

static void set_slot(struct context *ctx)
{
	vm_set_user_memory_region2(ctx->vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD, TEST_GPA, ctx->size,
				   ctx->mem, ctx->fd, 0);
}

/* Create a VM, and a private file with contents in a memslot. */
static void create_context(struct context *ctx, bool huge)
{
	const struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = VM_TYPE_PRIVATE,
	};

	ctx->huge = huge;
	ctx->unit = huge ? SZ_2M : PAGE_SIZE;
	ctx->size = huge ? HUGE_UNITS * SZ_2M : SMALL_SIZE;
	ctx->probes = huge ? huge_probes : small_probes;
	ctx->nr_probes = huge ? ARRAY_SIZE(huge_probes) : ARRAY_SIZE(small_probes);

	ctx->vm = __vm_create_with_vcpus(shape, 1, 0, guest_code, &ctx->vcpu);
	virt_map_level(ctx->vm, TEST_GPA, TEST_GPA, SMALL_SIZE, PG_LEVEL_2M);
	ctx->fd = huge ? vm_create_guest_memfd_hugetlb(ctx->vm, ctx->size,
						       GUEST_MEMFD_FLAG_MMAP, 21) :
			 vm_create_guest_memfd(ctx->vm, ctx->size, GUEST_MEMFD_FLAG_MMAP);
	ctx->mem = kvm_mmap(ctx->size, PROT_READ | PROT_WRITE, MAP_SHARED, ctx->fd);
	set_slot(ctx);
	guest_do_probes(ctx, true);
	ctx->nr_cached = nr_cached(ctx);
	assert_reservation(ctx);
}

static void destroy_context(struct context *ctx)
{
	kvm_munmap(ctx->mem, ctx->size);
	kvm_close(ctx->fd);
	kvm_vm_free(ctx->vm);
}

/* Assert that the host can't read the page if it is private, and reads @val otherwise. */
static void assert_private(struct context *ctx, u64 index, bool private, u64 val)
{
	u64 *p = (u64 *)(ctx->mem + index * PAGE_SIZE);

	if (private)
		TEST_EXPECT_SIGBUS((void)READ_ONCE(*p));
	else
		TEST_ASSERT(READ_ONCE(*p) == val, "Page %lu should be 0x%lx, is 0x%lx", index,
			    val, *p);
}

static void assert_file(struct context *ctx, bool (*private)(const struct conversion *c, u64 i))
{
	int i;

	TEST_ASSERT_EQ(nr_cached(ctx), ctx->nr_cached);
	for (i = 0; i < ctx->nr_probes; i++) {
		const struct probe *p = &ctx->probes[i];
		bool is_private = private(ctx->conversion, p->index);

		assert_private(ctx, p->index, is_private, p->hole ? 0 : STAMP(p->index));
		/* The access has allocated a page in the hole. */
		if (p->hole && !is_private)
			kvm_fallocate(ctx->fd, PUNCH,
				      align_down(p->index * PAGE_SIZE, ctx->unit), ctx->unit);
	}
	guest_do_probes(ctx, false);
	TEST_ASSERT_EQ(nr_cached(ctx), ctx->nr_cached);
	assert_reservation(ctx);
}

#define MAX_FAILURES		1000

static void write_fault_attr(const char *kind, const char *attr, long val)
{
	char path[64], text[24];

	snprintf(path, sizeof(path), "/sys/kernel/debug/%s/%s", kind, attr);
	snprintf(text, sizeof(text), attr[0] == 'r' ? "0x%lx" : "%ld", val);
	TEST_ASSERT(write_text_file(path, text), "%s should be there", path);
}

static long nr_injected(const char *kind)
{
	char path[64], text[24];

	snprintf(path, sizeof(path), "/sys/kernel/debug/%s/times", kind);
	TEST_ASSERT(read_text_file(path, text, sizeof(text)), "%s should be there", path);
	return MAX_FAILURES - atol(text);
}

/* Find a function of the kernel, and where the next one starts. */
static bool find_function(const char *name, unsigned long *start, unsigned long *end)
{
	FILE *file = fopen("/proc/kallsyms", "r");
	unsigned long addr;
	char symbol[256];

	*start = 0;
	*end = 0;
	while (file && !*end && fscanf(file, "%lx %*c %255s%*[^\n]", &addr, symbol) == 2) {
		if (*start && addr > *start)
			*end = addr;
		else if (!strcmp(symbol, name))
			*start = addr;
	}
	if (file)
		fclose(file);
	return *end;
}

/* Have allocations of one kind fail that a function makes, in any task or only in some. */
static void fail_in(const char *kind, unsigned long start, unsigned long end, bool any_task)
{
	/* In between, all allocations of all tasks would fail. */
	write_fault_attr(kind, "task-filter", 1);
	write_fault_attr(kind, "require-start", start);
	write_fault_attr(kind, "require-end", end);
	write_fault_attr(kind, "times", any_task ? MAX_FAILURES : -1);
	if (any_task)
		write_fault_attr(kind, "task-filter", 0);
}

#endif /* SELFTEST_KVM_GUEST_MEMFD_FAIL_NTH_H */
