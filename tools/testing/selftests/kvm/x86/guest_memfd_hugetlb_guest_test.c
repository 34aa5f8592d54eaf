// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a guest sees of a guest_memfd file made of HugeTLB pages, and how KVM
 * maps it: zeroes in what is new or was punched, the right page at every
 * address whatever the offsets of the memslot, and mappings as huge as the huge
 * page, the slot and the relative alignment of gfn and file offset allow.
 *
 * A guest writes a tag of its own into every page of a memslot.  Then the same
 * file is looked at through another, aligned slot: a page that was mapped in
 * the wrong place is found where it does not belong.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "cgroup_util.h"
#include "guest_memfd_hugetlb.h"
#include "numaif.h"
#include "processor.h"
#include "ucall_common.h"

/* Guest memory for all slots of this test, mapped 1:1 in the guest. */
#define TEST_GPA		(8ULL * SZ_1G)
#define TEST_GPA_SIZE		(4ULL * SZ_1G)
#define TEST_SLOT		10

#define PAGES_2M		(SZ_2M / PAGE_SIZE)
#define PAGES_1G		(SZ_1G / PAGE_SIZE)

#define MAX_VCPUS		3
#define NR_ALLOCATORS		2

enum guest_op {
	OP_READ,		/* one word of every stride */
	OP_WRITE_TAGS,		/* tag + i into the i-th stride */
	OP_CHECK_TAGS,
	OP_CHECK_ZERO,		/* every word of every stride */
	OP_CHURN,		/* a tag that comes back, or was punched */
};

struct guest_request {
	enum guest_op op;
	u64 gva;
	u64 nr;
	u64 stride;
	u64 tag;
};

static struct guest_request requests[MAX_VCPUS];

static void guest_check_zero(struct guest_request *r)
{
	u64 *p = (u64 *)r->gva, *end = (u64 *)(r->gva + r->nr * r->stride);

	for (; p < end; p++)
		__GUEST_ASSERT(!*p, "0x%lx should be zero, is 0x%lx", (u64)p, *p);
}

static void guest_churn(struct guest_request *r, u64 i)
{
	u64 gva = r->gva + i * r->stride, tag = gva ^ r->tag, val;

	val = READ_ONCE(*(u64 *)gva);
	__GUEST_ASSERT(!val || val == tag, "0x%lx should be 0 or 0x%lx, is 0x%lx",
		       gva, tag, val);
	WRITE_ONCE(*(u64 *)gva, tag);
	val = READ_ONCE(*(u64 *)gva);
	__GUEST_ASSERT(!val || val == tag, "0x%lx should be 0 or 0x%lx, is 0x%lx",
		       gva, tag, val);
}

static void guest_code(u64 cpu)
{
	struct guest_request *r = &requests[cpu];
	u64 i, val;

	for (;;) {
		for (i = 0; i < r->nr && r->op != OP_CHECK_ZERO; i++) {
			u64 *p = (u64 *)(r->gva + i * r->stride);

			switch (r->op) {
			case OP_READ:
				(void)READ_ONCE(*p);
				break;
			case OP_WRITE_TAGS:
				WRITE_ONCE(*p, r->tag + i);
				break;
			case OP_CHECK_TAGS:
				val = READ_ONCE(*p);
				__GUEST_ASSERT(val == r->tag + i,
					       "0x%lx should be 0x%lx, is 0x%lx",
					       (u64)p, r->tag + i, val);
				break;
			case OP_CHURN:
				guest_churn(r, i);
				break;
			default:
				GUEST_FAIL("Unknown request %d", r->op);
			}
		}
		if (r->op == OP_CHECK_ZERO)
			guest_check_zero(r);
		GUEST_SYNC(0);
	}
}

static void set_request(struct kvm_vcpu *vcpu, enum guest_op op, u64 gva,
			u64 nr, u64 stride, u64 tag)
{
	struct guest_request *r = addr_gva2hva(vcpu->vm, (gva_t)&requests[vcpu->id]);

	*r = (struct guest_request) {
		.op = op, .gva = gva, .nr = nr, .stride = stride, .tag = tag,
	};
}

static void assert_request_done(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		return;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		TEST_FAIL("Unexpected exit: %s",
			  exit_reason_str(vcpu->run->exit_reason));
	}
}

static void guest_do(struct kvm_vcpu *vcpu, enum guest_op op, u64 gva, u64 nr,
		     u64 stride, u64 tag)
{
	set_request(vcpu, op, gva, nr, stride, tag);
	vcpu_run(vcpu);
	assert_request_done(vcpu);
}

/* The guest cannot do it: KVM_RUN fails, and says where. */
static void guest_do_fails(struct kvm_vcpu *vcpu, u64 gva, int error)
{
	int r;

	set_request(vcpu, OP_READ, gva, 1, PAGE_SIZE, 0);
	r = _vcpu_run(vcpu);
	TEST_ASSERT(r < 0 && errno == error,
		    "KVM_RUN should fail with %s, got %d, errno %d",
		    strerror(error), r, errno);
	TEST_ASSERT_EQ(vcpu->run->exit_reason, KVM_EXIT_MEMORY_FAULT);
	TEST_ASSERT_EQ(vcpu->run->memory_fault.flags, KVM_MEMORY_EXIT_FLAG_PRIVATE);
	TEST_ASSERT_EQ(vcpu->run->memory_fault.gpa, gva);
	TEST_ASSERT_EQ(vcpu->run->memory_fault.size, PAGE_SIZE);
}

/* How much of the guest is mapped how, and by how many faults. */
struct mappings {
	long nr_4k, nr_2m, nr_1g;
	long faults;
};

static struct mappings read_mappings(struct kvm_vcpu *vcpu)
{
	return (struct mappings) {
		.nr_4k = vm_get_stat(vcpu->vm, pages_4k),
		.nr_2m = vm_get_stat(vcpu->vm, pages_2m),
		.nr_1g = vm_get_stat(vcpu->vm, pages_1g),
		.faults = vcpu_get_stat(vcpu, pf_fixed),
	};
}

static void assert_mappings(struct kvm_vcpu *vcpu, struct mappings before,
			    struct mappings want, const char *what)
{
	struct mappings now = read_mappings(vcpu);

	TEST_ASSERT(now.nr_4k - before.nr_4k == want.nr_4k &&
		    now.nr_2m - before.nr_2m == want.nr_2m &&
		    now.nr_1g - before.nr_1g == want.nr_1g &&
		    now.faults - before.faults == want.faults,
		    "%s: mapped %ld x 4K, %ld x 2M, %ld x 1G by %ld faults, should be %ld x 4K, %ld x 2M, %ld x 1G by %ld",
		    what, now.nr_4k - before.nr_4k, now.nr_2m - before.nr_2m,
		    now.nr_1g - before.nr_1g, now.faults - before.faults,
		    want.nr_4k, want.nr_2m, want.nr_1g, want.faults);
}

/*
 * The largest mappings possible of @nr pages at @gfn, what backs them being at
 * @backing pages from an aligned address and in pages of at most @max.
 */
static struct mappings largest_mappings(u64 gfn, u64 backing, u64 nr, size_t max)
{
	const u64 end = gfn + nr;
	struct mappings m = {};

	while (gfn < end) {
		u64 step = 1;

		if (max >= SZ_1G && !(gfn % PAGES_1G) && !(backing % PAGES_1G) &&
		    gfn + PAGES_1G <= end)
			step = PAGES_1G;
		else if (max >= SZ_2M && !(gfn % PAGES_2M) && !(backing % PAGES_2M) &&
			 gfn + PAGES_2M <= end)
			step = PAGES_2M;

		m.nr_1g += step == PAGES_1G;
		m.nr_2m += step == PAGES_2M;
		m.nr_4k += step == 1;
		m.faults++;
		gfn += step;
		backing += step;
	}
	return m;
}

static struct mappings add_mappings(struct mappings a, struct mappings b)
{
	return (struct mappings) {
		.nr_4k = a.nr_4k + b.nr_4k,
		.nr_2m = a.nr_2m + b.nr_2m,
		.nr_1g = a.nr_1g + b.nr_1g,
		.faults = a.faults + b.faults,
	};
}

FIXTURE(guest)
{
	struct hugetlb_pool pool;
	struct kvm_vcpu *vcpus[MAX_VCPUS];
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	size_t unit, size;
	void *hva;
	int nr;
	int fd;
};

FIXTURE_VARIANT(guest)
{
	u8 size_log2;
	int nr_units;
};

FIXTURE_VARIANT_ADD(guest, 2m)
{
	.size_log2 = 21,
	.nr_units = 8,
};

FIXTURE_VARIANT_ADD(guest, 1g)
{
	.size_log2 = 30,
	.nr_units = 1,
};

static void *map_aligned_hva(size_t size)
{
	void *mem = kvm_mmap(size + SZ_1G, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);

	return align_ptr_up(mem, SZ_1G);
}

FIXTURE_SETUP(guest)
{
	const struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = VM_TYPE_PRIVATE,
	};
	gva_t warm;
	int i, op;

	self->unit = BIT_ULL(variant->size_log2);
	self->nr = variant->nr_units;
	self->size = self->nr * self->unit;

	if (!hugetlb_size_supported(self->unit))
		SKIP(return, "needs huge pages of %zu kB", self->unit / 1024);
	hugetlb_read_pool(self->unit, &self->pool);
	if (hugetlb_available(&self->pool) < self->nr)
		SKIP(return, "needs %d x %zu kB page, have %ld", self->nr,
		     self->unit / 1024, hugetlb_available(&self->pool));

	self->vm = __vm_create_with_vcpus(shape, MAX_VCPUS, 0, guest_code, self->vcpus);
	self->vcpu = self->vcpus[0];
	virt_map_level(self->vm, TEST_GPA, TEST_GPA, TEST_GPA_SIZE, PG_LEVEL_1G);
	self->hva = map_aligned_hva(TEST_GPA_SIZE);

	/* Let the guest's own code and data fault in, they are not to be counted. */
	warm = vm_alloc_page(self->vm);
	for (i = 0; i < MAX_VCPUS; i++) {
		vcpu_args_set(self->vcpus[i], 1, (u64)i);
		for (op = OP_READ; op <= OP_CHURN; op++)
			guest_do(self->vcpus[i], op, warm, 1, sizeof(u64),
				 op == OP_CHURN ? warm : 0);
	}

	self->fd = vm_create_guest_memfd_hugetlb(self->vm, self->size, 0, variant->size_log2);
}

FIXTURE_TEARDOWN_PARENT(guest)
{
	const char *diff = hugetlb_pool_settle(&self->pool, 0, 0);

	EXPECT_EQ(NULL, diff) {
		TH_LOG("Pool not restored: %s", diff);
	}
}

#define assert_pool(allocated, reserved)				\
	TEST_ASSERT_POOL(&self->pool, -(allocated), reserved)

static void add_slot(struct kvm_vm *vm, u64 gpa, u64 size, void *hva, int fd, u64 offset)
{
	vm_set_user_memory_region2(vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD, gpa,
				   size, hva, fd, offset);
	vm_mem_set_private(vm, gpa, size);
}

static void delete_slot(struct kvm_vm *vm, u64 gpa, u64 size)
{
	vm_set_user_memory_region2(vm, TEST_SLOT, 0, gpa, 0, NULL, 0, 0);
	vm_mem_set_shared(vm, gpa, size);
}

#define add_whole_slot()						\
	add_slot(self->vm, TEST_GPA, self->size, self->hva, self->fd, 0)
#define delete_whole_slot()						\
	delete_slot(self->vm, TEST_GPA, self->size)

/* Private memory is not where the slot's userspace address is. */
static void assert_hva_unused(void *hva, size_t size)
{
	const size_t nr = size / PAGE_SIZE;
	unsigned char *vec = malloc(nr);
	size_t i;

	TEST_ASSERT(!mincore(hva, size, vec), "mincore() should succeed");
	for (i = 0; i < nr; i++)
		TEST_ASSERT(!(vec[i] & 1), "Page %zu of the slot's hva was touched", i);
	free(vec);
}

TEST_F(guest, one_fault_per_unit)
{
	const u64 pages = self->unit / PAGE_SIZE;
	struct mappings before, want;
	int i;

	add_whole_slot();
	want = largest_mappings(0, 0, pages, self->unit);
	TEST_ASSERT_EQ(want.faults, 1);

	for (i = 0; i < self->nr; i++) {
		u64 gpa = TEST_GPA + i * self->unit;

		/* Begin in the middle: it does not matter which page is first. */
		before = read_mappings(self->vcpu);
		guest_do(self->vcpu, i & 1 ? OP_READ : OP_WRITE_TAGS,
			 gpa + self->unit / 2, pages / 2, PAGE_SIZE, 1);
		assert_mappings(self->vcpu, before, want, "second half");
		guest_do(self->vcpu, OP_READ, gpa, pages, PAGE_SIZE, 0);
		guest_do(self->vcpu, OP_WRITE_TAGS, gpa, pages, PAGE_SIZE, 1);
		assert_mappings(self->vcpu, before, want, "whole unit");
		assert_pool(i + 1, self->nr - i - 1);
	}
	guest_do(self->vcpu, OP_CHECK_TAGS, TEST_GPA, pages, PAGE_SIZE, 1);
	assert_hva_unused(self->hva, self->size);
}

/* Of a file that can be mmap()ed KVM does not even look at the userspace address. */
TEST_F(guest, userspace_address_is_ignored)
{
	const u64 pages = self->size / PAGE_SIZE;
	struct mappings before;

	close(self->fd);
	self->fd = vm_create_guest_memfd_hugetlb(self->vm, self->size, GUEST_MEMFD_FLAG_MMAP,
						 variant->size_log2);
	self->hva = (void *)PAGE_SIZE;
	add_whole_slot();
	before = read_mappings(self->vcpu);
	guest_do(self->vcpu, OP_WRITE_TAGS, TEST_GPA, pages, PAGE_SIZE, 1);
	assert_mappings(self->vcpu, before, largest_mappings(0, 0, pages, self->unit), "all");
	guest_do(self->vcpu, OP_CHECK_TAGS, TEST_GPA, pages, PAGE_SIZE, 1);
}

TEST_F(guest, prefault_maps_huge)
{
	const u64 pages = self->size / PAGE_SIZE;
	struct kvm_pre_fault_memory range = {
		.gpa = TEST_GPA,
		.size = self->size,
	};
	struct mappings before, want;

	add_whole_slot();
	before = read_mappings(self->vcpu);
	want = largest_mappings(0, 0, pages, self->unit);
	want.faults = 0;

	while (range.size) {
		int r = __vcpu_ioctl(self->vcpu, KVM_PRE_FAULT_MEMORY, &range);

		TEST_ASSERT(!r || errno == EINTR, KVM_IOCTL_ERROR(KVM_PRE_FAULT_MEMORY, r));
	}
	assert_pool(self->nr, 0);

	/* Prefaults are not counted among the faults, and leave none to take. */
	before.faults = read_mappings(self->vcpu).faults;
	guest_do(self->vcpu, OP_WRITE_TAGS, TEST_GPA, pages, PAGE_SIZE, 1);
	assert_mappings(self->vcpu, before, want, "after prefault");
}

TEST_F(guest, zeroed)
{
	const u64 pages = self->unit / PAGE_SIZE;
	int i;

	/* Start over with a pool full of somebody else's data. */
	close(self->fd);
	hugetlb_dirty_pool(self->unit);
	self->fd = vm_create_guest_memfd_hugetlb(self->vm, self->size, 0, variant->size_log2);
	add_whole_slot();

	guest_do(self->vcpu, OP_CHECK_ZERO, TEST_GPA, self->size / PAGE_SIZE, PAGE_SIZE, 0);

	for (i = 0; i < self->nr; i++) {
		u64 gpa = TEST_GPA + i * self->unit;

		guest_do(self->vcpu, OP_WRITE_TAGS, gpa, pages, PAGE_SIZE, ~0ull / 3);
		kvm_fallocate(self->fd, PUNCH, i * self->unit, self->unit);
		assert_pool(self->nr - 1, 1);
		/* By fallocate() or by the guest itself. */
		if (i & 1)
			kvm_fallocate(self->fd, FALLOC_FL_KEEP_SIZE, i * self->unit, PAGE_SIZE);
		guest_do(self->vcpu, OP_CHECK_ZERO, gpa, pages, PAGE_SIZE, 0);
		assert_pool(self->nr, 0);
	}
}

TEST_F(guest, punch_part_zeroes)
{
	const u64 pages = self->size / PAGE_SIZE;
	const struct {
		u64 first, nr;
	} holes[] = {
		{ 0, 1 },
		{ 1, 1 },
		{ pages - 1, 1 },
		{ 7, 256 },
		{ self->unit / PAGE_SIZE - 1, 2 },
		{ self->unit / PAGE_SIZE / 2, self->unit / PAGE_SIZE },
		{ 1, pages - 2 },
	};
	int i;

	add_whole_slot();
	for (i = 0; i < ARRAY_SIZE(holes); i++) {
		u64 first = holes[i].first, nr = holes[i].nr, end = first + nr;

		if (end > pages)
			continue;

		guest_do(self->vcpu, OP_WRITE_TAGS, TEST_GPA, pages, PAGE_SIZE, 1);
		kvm_fallocate(self->fd, PUNCH, first * PAGE_SIZE, nr * PAGE_SIZE);

		guest_do(self->vcpu, OP_CHECK_TAGS, TEST_GPA, first, PAGE_SIZE, 1);
		guest_do(self->vcpu, OP_CHECK_ZERO, TEST_GPA + first * PAGE_SIZE, nr, PAGE_SIZE, 0);
		guest_do(self->vcpu, OP_CHECK_TAGS, TEST_GPA + end * PAGE_SIZE, pages - end,
			 PAGE_SIZE, 1 + end);
		assert_pool(self->nr, 0);
	}
}

/*
 * Slots that begin and end anywhere.  All is in pages; @gfn is relative to
 * TEST_GPA, @hva to an address aligned to 1G.
 */
struct slot_case {
	const char *name;
	u64 gfn, pgoff, nr, hva;
};

static const struct slot_case slot_cases[] = {
	{ "aligned",			0,		0,		4 * PAGES_2M,	0 },
	{ "hva unaligned",		0,		0,		4 * PAGES_2M,	1 },
	{ "gfn unaligned",		1,		0,		4 * PAGES_2M,	0 },
	{ "gfn unaligned as hva",	1,		0,		4 * PAGES_2M,	1 },
	{ "pgoff unaligned",		0,		1,		4 * PAGES_2M,	0 },
	{ "pgoff unaligned as hva",	0,		1,		4 * PAGES_2M,	1 },
	{ "gfn as pgoff",		1,		1,		4 * PAGES_2M,	0 },
	{ "gfn as pgoff as hva",	1,		1,		4 * PAGES_2M,	1 },
	{ "gfn as pgoff mod 2M",	PAGES_2M + 5,	5,		3 * PAGES_2M,	0 },
	{ "gfn, pgoff, hva differ",	3,		2,		3 * PAGES_2M,	1 },
	{ "at 2M in the file",		0,		PAGES_2M,	3 * PAGES_2M,	0 },
	{ "at 2M in the guest",		PAGES_2M,	0,		3 * PAGES_2M,	0 },
	{ "odd size",			0,		0,		3 * PAGES_2M - 1, 0 },
	{ "odd size and start",		511,		511,		2 * PAGES_2M + 2, 511 },
	{ "within 2M",			7,		7,		100,		7 },
	{ "one page",			0,		0,		1,		0 },
	{ "last page of 2M",		511,		511,		1,		0 },
	{ "2M in two halves",		256,		0,		PAGES_2M,	0 },
	{ "2M over an edge",		0,		256,		PAGES_2M,	256 },
};

/* What a guest writes into a page of the file, and the host into one of its own. */
#define TAG(pgoff)	(0x7a67000000000000ull + (pgoff))
#define TAG2(pgoff)	(0x7a68000000000000ull + (pgoff))
#define HOST_TAG(page)	(0x7a69000000000000ull + (page))

TEST_F(guest, slots_at_odd_offsets)
{
	const u64 unit_pages = self->unit / PAGE_SIZE;
	const u64 window = 6 * PAGES_2M;
	struct mappings before;
	int i;

	for (i = 0; i < ARRAY_SIZE(slot_cases); i++) {
		const struct slot_case *c = &slot_cases[i];
		u64 gpa = TEST_GPA + c->gfn * PAGE_SIZE, size = c->nr * PAGE_SIZE;
		void *hva = self->hva + c->hva * PAGE_SIZE;
		u64 end = c->pgoff + c->nr;

		kvm_fallocate(self->fd, PUNCH, 0, self->size);

		/* Write through the slot in question ... */
		add_slot(self->vm, gpa, size, hva, self->fd, c->pgoff * PAGE_SIZE);
		before = read_mappings(self->vcpu);
		guest_do(self->vcpu, OP_WRITE_TAGS, gpa, c->nr, PAGE_SIZE, TAG(c->pgoff));
		assert_mappings(self->vcpu, before,
				largest_mappings(c->gfn, c->pgoff, c->nr, self->unit), c->name);
		guest_do(self->vcpu, OP_CHECK_TAGS, gpa, c->nr, PAGE_SIZE, TAG(c->pgoff));
		assert_pool(DIV_ROUND_UP(end, unit_pages) - c->pgoff / unit_pages,
			    self->nr - DIV_ROUND_UP(end, unit_pages) + c->pgoff / unit_pages);
		assert_hva_unused(hva, size);
		delete_slot(self->vm, gpa, size);

		/* ... see what became of it, write in turn ... */
		add_whole_slot();
		guest_do(self->vcpu, OP_CHECK_ZERO, TEST_GPA, c->pgoff, PAGE_SIZE, 0);
		guest_do(self->vcpu, OP_CHECK_TAGS, TEST_GPA + c->pgoff * PAGE_SIZE,
			 c->nr, PAGE_SIZE, TAG(c->pgoff));
		guest_do(self->vcpu, OP_CHECK_ZERO, TEST_GPA + end * PAGE_SIZE,
			 window - end, PAGE_SIZE, 0);
		guest_do(self->vcpu, OP_WRITE_TAGS, TEST_GPA, window, PAGE_SIZE, TAG2(0));
		delete_whole_slot();

		/* ... and look at that from there. */
		add_slot(self->vm, gpa, size, hva, self->fd, c->pgoff * PAGE_SIZE);
		guest_do(self->vcpu, OP_CHECK_TAGS, gpa, c->nr, PAGE_SIZE, TAG2(c->pgoff));
		delete_slot(self->vm, gpa, size);
	}
}

/* A hole in a slot that is not aligned as the file is. */
TEST_F(guest, punch_through_odd_slot)
{
	const u64 gpa = TEST_GPA + 5 * PAGE_SIZE, pgoff = 3, nr = 3 * PAGES_2M;
	const u64 first = PAGES_2M + 1, holes = PAGES_2M;

	add_slot(self->vm, gpa, nr * PAGE_SIZE, self->hva, self->fd, pgoff * PAGE_SIZE);
	guest_do(self->vcpu, OP_WRITE_TAGS, gpa, nr, PAGE_SIZE, 1);
	kvm_fallocate(self->fd, PUNCH, (pgoff + first) * PAGE_SIZE, holes * PAGE_SIZE);
	guest_do(self->vcpu, OP_CHECK_TAGS, gpa, first, PAGE_SIZE, 1);
	guest_do(self->vcpu, OP_CHECK_ZERO, gpa + first * PAGE_SIZE, holes, PAGE_SIZE, 0);
	guest_do(self->vcpu, OP_CHECK_TAGS, gpa + (first + holes) * PAGE_SIZE,
		 nr - first - holes, PAGE_SIZE, 1 + first + holes);
}

/*
 * Slots of which one half is private and the other shared: what is private is
 * aligned as the offset in the file, what is shared as the userspace address,
 * and that one is aligned says nothing of the other.
 */
static const struct slot_case mixed_cases[] = {
	{ "both aligned",		0,		0,		4 * PAGES_2M,	0 },
	{ "hva unaligned",		0,		0,		4 * PAGES_2M,	1 },
	{ "pgoff unaligned",		0,		1,		4 * PAGES_2M,	0 },
	{ "both unaligned",		0,		1,		4 * PAGES_2M,	2 },
	{ "both unaligned alike",	0,		1,		4 * PAGES_2M,	1 },
	{ "gfn as hva",			1,		0,		4 * PAGES_2M,	1 },
	{ "gfn as pgoff",		1,		1,		4 * PAGES_2M,	0 },
	{ "gfn as both",		1,		1,		4 * PAGES_2M,	1 },
};

TEST_F(guest, mixed_slots)
{
	const u64 hva_pages = 6 * PAGES_2M;
	struct hugetlb_pool pool_2m;
	struct mappings before, want;
	u64 i, page;
	void *mem;

	hugetlb_read_pool(SZ_2M, &pool_2m);
	if (hugetlb_available(&pool_2m) < (long)(hva_pages / PAGES_2M))
		SKIP(return, "needs %llu x 2M page for shared memory, have %ld",
		     hva_pages / PAGES_2M, hugetlb_available(&pool_2m));

	mem = hugetlb_hog(SZ_2M, hva_pages / PAGES_2M, -1);
	for (page = 0; page < hva_pages; page++)
		*(u64 *)(mem + page * PAGE_SIZE) = HOST_TAG(page);

	for (i = 0; i < ARRAY_SIZE(mixed_cases); i++) {
		const struct slot_case *c = &mixed_cases[i];
		u64 gpa = TEST_GPA + c->gfn * PAGE_SIZE, size = c->nr * PAGE_SIZE;
		/* The limit between the halves is at a multiple of 2M in the guest. */
		u64 nr_private = c->nr / 2 - c->gfn % PAGES_2M;
		u64 nr_shared = c->nr - nr_private;
		u64 gpa_shared = gpa + nr_private * PAGE_SIZE;

		kvm_fallocate(self->fd, PUNCH, 0, self->size);
		add_slot(self->vm, gpa, size, mem + c->hva * PAGE_SIZE, self->fd,
			 c->pgoff * PAGE_SIZE);
		vm_mem_set_shared(self->vm, gpa_shared, nr_shared * PAGE_SIZE);

		before = read_mappings(self->vcpu);
		want = add_mappings(largest_mappings(c->gfn, c->pgoff, nr_private, self->unit),
				    largest_mappings(c->gfn + nr_private, c->hva + nr_private,
						     nr_shared, SZ_2M));
		guest_do(self->vcpu, OP_WRITE_TAGS, gpa, nr_private, PAGE_SIZE, TAG(c->pgoff));
		guest_do(self->vcpu, OP_CHECK_TAGS, gpa_shared, nr_shared, PAGE_SIZE,
			 HOST_TAG(c->hva + nr_private));
		assert_mappings(self->vcpu, before, want, c->name);

		/* The guest's pages are not the host's, nor the other way round. */
		guest_do(self->vcpu, OP_WRITE_TAGS, gpa_shared, nr_shared, PAGE_SIZE, TAG2(0));
		for (page = 0; page < hva_pages; page++) {
			u64 *p = mem + page * PAGE_SIZE, slot_page = page - c->hva;
			bool written = slot_page >= nr_private && slot_page < c->nr;
			u64 tag = written ? TAG2(slot_page - nr_private) : HOST_TAG(page);

			TEST_ASSERT(*p == tag, "%s: host page %lu should be 0x%lx, is 0x%lx",
				    c->name, page, tag, *p);
			*p = HOST_TAG(page);
		}

		/* The other way round: what was private is shared, and vice versa. */
		vm_mem_set_shared(self->vm, gpa, nr_private * PAGE_SIZE);
		vm_mem_set_private(self->vm, gpa_shared, nr_shared * PAGE_SIZE);
		guest_do(self->vcpu, OP_CHECK_TAGS, gpa, nr_private, PAGE_SIZE, HOST_TAG(c->hva));
		guest_do(self->vcpu, OP_WRITE_TAGS, gpa_shared, nr_shared, PAGE_SIZE,
			 TAG(c->pgoff + nr_private));
		delete_slot(self->vm, gpa, size);

		add_whole_slot();
		guest_do(self->vcpu, OP_CHECK_ZERO, TEST_GPA, c->pgoff, PAGE_SIZE, 0);
		guest_do(self->vcpu, OP_CHECK_TAGS, TEST_GPA + c->pgoff * PAGE_SIZE,
			 c->nr, PAGE_SIZE, TAG(c->pgoff));
		delete_whole_slot();
	}
	hugetlb_unhog(mem, SZ_2M, hva_pages / PAGES_2M);
}

/* vCPUs and host threads that all want the same unit at the same time. */
struct racer {
	struct kvm_vcpu *vcpu;
	pthread_barrier_t *barrier;
	int fd, rounds;
	u64 offset;
};

static void *race(void *data)
{
	struct racer *r = data;
	int i;

	for (i = 0; i < r->rounds; i++) {
		pthread_barrier_wait(r->barrier);
		if (r->vcpu)
			guest_do(r->vcpu, OP_WRITE_TAGS, TEST_GPA + r->offset, 1, PAGE_SIZE, 1);
		else
			kvm_fallocate(r->fd, FALLOC_FL_KEEP_SIZE, r->offset, PAGE_SIZE);
		pthread_barrier_wait(r->barrier);
		/* The main thread looks at the pool and punches. */
		pthread_barrier_wait(r->barrier);
	}
	return NULL;
}

TEST_F(guest, race_to_one_unit)
{
	const int nr = MAX_VCPUS + NR_ALLOCATORS, rounds = self->unit > SZ_2M ? 3 : 100;
	long rest = hugetlb_available(&self->pool) - self->nr;
	struct racer racers[MAX_VCPUS + NR_ALLOCATORS];
	pthread_t threads[MAX_VCPUS + NR_ALLOCATORS];
	pthread_barrier_t barrier;
	void *hog;
	int i;

	/* Who loses must do without another page: leave none. */
	hog = rest ? hugetlb_hog(self->unit, rest, -1) : NULL;
	kvm_fallocate(self->fd, FALLOC_FL_KEEP_SIZE, 0, self->size);
	kvm_fallocate(self->fd, PUNCH, 0, self->unit);
	add_whole_slot();

	pthread_barrier_init(&barrier, NULL, nr + 1);
	for (i = 0; i < nr; i++) {
		racers[i] = (struct racer) {
			.vcpu = i < MAX_VCPUS ? self->vcpus[i] : NULL,
			.barrier = &barrier,
			.fd = self->fd,
			.rounds = rounds,
			.offset = self->unit / nr / PAGE_SIZE * PAGE_SIZE * i,
		};
		kvm_pthread_create(&threads[i], NULL, race, &racers[i]);
	}
	for (i = 0; i < rounds; i++) {
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
		assert_pool(rest + self->nr, 0);
		kvm_fallocate(self->fd, PUNCH, 0, self->unit);
		assert_pool(rest + self->nr - 1, 1);
		pthread_barrier_wait(&barrier);
	}
	for (i = 0; i < nr; i++)
		kvm_pthread_join(threads[i], NULL);
	if (rest)
		hugetlb_unhog(hog, self->unit, rest);
}

/* vCPUs that write tags while others punch: a tag is there or zero, never another. */
struct churner {
	struct kvm_vcpu *vcpu;
	size_t size, unit;
	time_t end;
	u32 seed;
	int fd;
	long done;
};

static void *churn(void *data)
{
	struct churner *c = data;

	while (time(NULL) < c->end) {
		u64 r = (u64)rand_r(&c->seed) << 16 ^ rand_r(&c->seed);
		u64 offset = r % (c->size / PAGE_SIZE) * PAGE_SIZE;
		u64 nr = min((c->size - offset) / PAGE_SIZE, 64ull);

		if (c->vcpu)
			guest_do(c->vcpu, OP_CHURN, TEST_GPA + offset, nr, PAGE_SIZE, TAG(0));
		else if (r & BIT(40))
			kvm_fallocate(c->fd, PUNCH, offset, nr * PAGE_SIZE);
		else
			kvm_fallocate(c->fd, PUNCH, offset / c->unit * c->unit, c->unit);
		c->done++;
	}
	return NULL;
}

TEST_F(guest, punch_under_running_guest)
{
	const int nr = MAX_VCPUS + NR_ALLOCATORS;
	struct churner churners[MAX_VCPUS + NR_ALLOCATORS];
	pthread_t threads[MAX_VCPUS + NR_ALLOCATORS];
	int i;

	add_whole_slot();
	for (i = 0; i < nr; i++) {
		churners[i] = (struct churner) {
			.vcpu = i < MAX_VCPUS ? self->vcpus[i] : NULL,
			.size = self->size,
			.unit = self->unit,
			.end = time(NULL) + 5,
			.seed = kvm_random_seed + i,
			.fd = self->fd,
		};
		kvm_pthread_create(&threads[i], NULL, churn, &churners[i]);
	}
	for (i = 0; i < nr; i++)
		kvm_pthread_join(threads[i], NULL);
	TH_LOG("seed %#x, rounds of vCPU 0: %ld, holes: %ld", kvm_random_seed,
	       churners[0].done, churners[MAX_VCPUS].done);

	kvm_fallocate(self->fd, PUNCH, 0, self->size);
	assert_pool(0, self->nr);
	guest_do(self->vcpu, OP_CHECK_ZERO, TEST_GPA, self->size / PAGE_SIZE, PAGE_SIZE, 0);
	assert_pool(self->nr, 0);
}

static void *run_until_fault(void *data)
{
	struct kvm_vcpu *vcpu = data;
	int r;

	do {
		r = _vcpu_run(vcpu);
		if (!r)
			assert_request_done(vcpu);
	} while (!r);
	return (void *)(long)errno;
}

TEST_F(guest, close_under_running_guest)
{
	pthread_t thread;
	void *error;

	add_whole_slot();
	set_request(self->vcpu, OP_CHURN, TEST_GPA, 16, PAGE_SIZE, TAG(0));
	kvm_pthread_create(&thread, NULL, run_until_fault, self->vcpu);
	usleep(100 * 1000);
	close(self->fd);
	TEST_ASSERT_POOL_SETTLES(&self->pool, 0, 0);

	kvm_pthread_join(thread, &error);
	TEST_ASSERT((long)error == EFAULT, "KVM_RUN should fail with EFAULT, errno %ld",
		    (long)error);
	TEST_ASSERT_EQ(self->vcpu->run->exit_reason, KVM_EXIT_MEMORY_FAULT);
}

TEST_F(guest, fault_without_page_on_node)
{
	const unsigned long node[] = { BIT(0), BIT(1) };
	const unsigned long maxnode = BITS_PER_TYPE(node[0]);
	long hogged = self->pool.node_free[1];
	struct hugetlb_pool now;
	void *mem, *hog;

	if (hogged < 1 || self->pool.node_free[0] < 1)
		SKIP(return, "needs a free page on nodes 0 and 1, have %ld and %ld",
		     self->pool.node_free[0], hogged);

	close(self->fd);
	self->size = self->unit;
	self->fd = vm_create_guest_memfd_hugetlb(self->vm, self->size, GUEST_MEMFD_FLAG_MMAP,
						 variant->size_log2);
	mem = kvm_mmap(self->size, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd);
	kvm_mbind(mem, self->size, MPOL_BIND, &node[1], maxnode, 0);
	hog = hugetlb_hog(self->unit, hogged, 1);
	add_whole_slot();

	guest_do_fails(self->vcpu, TEST_GPA, ENOSPC);
	assert_pool(hogged, 1);
	guest_do_fails(self->vcpu, TEST_GPA, ENOSPC);

	/* There is one again: go on as if nothing had happened. */
	hugetlb_unhog(hog, self->unit, hogged);
	vcpu_run(self->vcpu);
	assert_request_done(self->vcpu);
	assert_pool(1, 0);
	hugetlb_read_pool(self->unit, &now);
	TEST_ASSERT_EQ(now.node_free[1], hogged - 1);
}

/* The limit is that of the vCPU's thread, who touches is who allocates. */
TEST_F(guest, fault_over_cgroup_limit)
{
	const char *limit = self->unit == SZ_1G ? "hugetlb.1GB.max" : "hugetlb.2MB.max";
	char root[PATH_MAX], *cgroup;

	if (cg_find_unified_root(root, sizeof(root), NULL) ||
	    cg_read_strstr(root, "cgroup.controllers", "hugetlb") ||
	    cg_write(root, "cgroup.subtree_control", "+hugetlb"))
		SKIP(return, "needs the hugetlb controller in cgroup2");

	cgroup = cg_name(root, "guest_memfd_guest");
	TEST_ASSERT(!cg_create(cgroup) && !cg_write_numeric(cgroup, limit, 0) &&
		    !cg_enter_current(cgroup), "Entering a cgroup should succeed");
	add_whole_slot();

	guest_do_fails(self->vcpu, TEST_GPA, ENOMEM);
	assert_pool(0, self->nr);
	guest_do_fails(self->vcpu, TEST_GPA, ENOMEM);

	TEST_ASSERT(!cg_write_numeric(cgroup, limit, self->unit), "Setting a limit should succeed");
	vcpu_run(self->vcpu);
	assert_request_done(self->vcpu);
	assert_pool(1, self->nr - 1);
	TEST_ASSERT(!cg_enter_current(root) && !rmdir(cgroup), "Removing a cgroup should succeed");
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(VM_TYPE_PRIVATE));
	TEST_REQUIRE_GUEST_MEMFD_HUGETLB();

	return test_harness_run(argc, argv);
}
