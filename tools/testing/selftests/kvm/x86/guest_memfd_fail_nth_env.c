// SPDX-License-Identifier: GPL-2.0-only
#include "guest_memfd_fail_nth.h"

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

bool is_in(const struct range *r, u64 i)
{
	return i >= r->first && i < r->first + r->nr;
}

bool was_private(const struct conversion *c, u64 i)
{
	int other = 0, n;

	for (n = 0; n < ARRAY_SIZE(c->other); n++)
		other |= is_in(&c->other[n], i);
	return c->init_private != other;
}

bool becomes_private(const struct conversion *c, u64 i)
{
	return is_in(&c->range, i) ? c->to_private : was_private(c, i);
}

int enter_guest(struct context *ctx)
{
	int r;

	do {
		r = __vcpu_run(ctx->vcpu) ? -errno : 0;
	} while (r == -EINTR);
	return r;
}

static void run_vcpu(struct context *ctx)
{
	struct kvm_run *run = ctx->vcpu->run;
	const u64 no_memslot = NO_MEMSLOT;
	int r;

	while (!(r = enter_guest(ctx)) && run->exit_reason == KVM_EXIT_MMIO)
		memcpy(run->mmio.data, &no_memslot, sizeof(no_memslot));
	TEST_ASSERT(!r, "KVM_RUN failed with %s, exit %s, gpa 0x%llx, flags 0x%llx", strerror(-r),
		    exit_reason_str(run->exit_reason), run->memory_fault.gpa,
		    run->memory_fault.flags);
	assert_request_done(ctx->vcpu);
}

void request_read(struct context *ctx, u64 index, u64 val)
{
	add_word(set_request(ctx->vcpu, OP_CHECK_WORDS, 0, 0, 0, 0), gpa_of(index), val);
}

void guest_do_probes(struct context *ctx, bool write)
{
	enum guest_op op = write ? OP_WRITE_WORDS : OP_CHECK_WORDS;
	struct guest_request *r = set_request(ctx->vcpu, op, 0, 0, 0, 0);
	int i;

	for (i = 0; i < ctx->nr_probes; i++) {
		if (!ctx->probes[i].hole)
			add_word(r, gpa_of(ctx->probes[i].index), STAMP(ctx->probes[i].index));
	}
	run_vcpu(ctx);
}

void guest_read(struct context *ctx, u64 index, u64 val)
{
	request_read(ctx, index, val);
	run_vcpu(ctx);
}

long nr_cached(struct context *ctx)
{
	struct hugetlb_pool now;

	if (ctx->huge) {
		hugetlb_read_pool(ctx->unit, &now);
		return (ctx->pool.free - now.free) * (ctx->unit / PAGE_SIZE);
	}
	return nr_cached_pages(ctx->fd);
}

long nr_mapped(struct context *ctx)
{
	return nr_mappings(read_mappings(ctx->vcpu));
}

void assert_reservation(struct context *ctx)
{
	long allocated = nr_cached(ctx) / (long)(ctx->unit / PAGE_SIZE);

	if (ctx->huge)
		TEST_ASSERT_POOL(&ctx->pool, -allocated, ctx->size / ctx->unit - allocated);
}

void set_slot(struct context *ctx)
{
	add_slot(ctx->vm, TEST_GPA, ctx->size, ctx->mem, ctx->fd, 0);
}

void create_file(struct context *ctx)
{
	struct gmem g = { .unit = ctx->unit, .size = ctx->size };

	ctx->vm = __create_guest(VM_TYPE_PRIVATE, &ctx->vcpu, 1);
	g.vm = ctx->vm;
	ctx->fd = gmem_create(&g, GUEST_MEMFD_FLAG_MMAP);
	ctx->mem = gmem_map(&g, ctx->fd);
	set_slot(ctx);
}

void create_context(struct context *ctx, bool huge)
{
	ctx->huge = huge;
	ctx->unit = huge ? SZ_2M : PAGE_SIZE;
	ctx->size = huge ? HUGE_UNITS * SZ_2M : SMALL_SIZE;
	ctx->probes = huge ? huge_probes : small_probes;
	ctx->nr_probes = huge ? ARRAY_SIZE(huge_probes) : ARRAY_SIZE(small_probes);

	create_file(ctx);
	guest_do_probes(ctx, true);
	ctx->nr_cached = nr_cached(ctx);
	assert_reservation(ctx);
}

void destroy_context(struct context *ctx)
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

void assert_file(struct context *ctx, bool (*private)(const struct conversion *c, u64 i))
{
	int i;

	TEST_ASSERT_EQ(nr_cached(ctx), ctx->nr_cached);
	for (i = 0; i < ctx->nr_probes; i++) {
		const struct probe *p = &ctx->probes[i];
		bool is_private = private(ctx->conversion, p->index);

		assert_private(ctx, p->index, is_private, p->hole ? 0 : STAMP(p->index));
		/* The access has allocated a page in the hole. */
		if (p->hole && !is_private)
			punch_fd(ctx->fd, align_down(p->index * PAGE_SIZE, ctx->unit),
				 ctx->unit);
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

long nr_injected(const char *kind)
{
	char path[64], text[24];

	snprintf(path, sizeof(path), "/sys/kernel/debug/%s/times", kind);
	TEST_ASSERT(read_text_file(path, text, sizeof(text)), "%s should be there", path);
	return MAX_FAILURES - atol(text);
}

bool find_function(const char *name, unsigned long *start, unsigned long *end)
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

void fail_in(const char *kind, unsigned long start, unsigned long end, bool any_task)
{
	/* In between, all allocations of all tasks would fail. */
	write_fault_attr(kind, "task-filter", 1);
	write_fault_attr(kind, "require-start", start);
	write_fault_attr(kind, "require-end", end);
	write_fault_attr(kind, "times", any_task ? MAX_FAILURES : -1);
	if (any_task)
		write_fault_attr(kind, "task-filter", 0);
}
