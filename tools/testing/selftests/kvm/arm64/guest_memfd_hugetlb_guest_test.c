// SPDX-License-Identifier: GPL-2.0-only
/*
 * Use an INIT_SHARED guest_memfd file made of HugeTLB pages in an ordinary guest.
 *
 * The guest must find the right page at every address, for any offsets of the memslot,
 * and zeroes in new and in punched pages.  KVM must map blocks as large as the huge
 * page, the slot, the relative alignment of gfn and file offset, and the hypervisor
 * allow.
 */
#include "guest_memfd_fixture.h"
#include "guest_memfd_mappings.h"

GMEM_GUEST_FIXTURE();

TEST_F(guest, largest_mappings)
{
	const struct mappings want = largest_mappings(0, 0, self->nr_pages, self->unit);
	const struct mappings unit = largest_mappings(0, 0, self->unit_pages, self->unit);
	const u64 pages = self->unit_pages;
	int i;

	add_whole_slot();
	assert_whole_slot((struct mappings) {}, "not used yet");

	for (i = 0; i < self->nr; i++) {
		u64 gpa = TEST_GPA + i * self->unit;

		/* The guest may use any page of a unit first. */
		if (nr_mappings(unit) < pages)
			guest_do(self->vcpu, OP_WRITE_TAGS, gpa + (i + 7) * PAGE_SIZE, 1,
				 PAGE_SIZE, 0);
		guest_do(self->vcpu, OP_WRITE_TAGS, gpa, pages, PAGE_SIZE, TAG(i * pages));
		assert_mappings(self->vm, gpa, self->unit, unit, "unit");
		assert_pool(i + 1, self->nr - i - 1);
	}
	assert_whole_slot(want, "file");

	guest_do_faults(self->vcpu, OP_CHECK_TAGS, TEST_GPA, self->nr_pages, TAG(0), 0, "read");
	guest_do_faults(self->vcpus[1], OP_CHECK_TAGS, TEST_GPA, self->nr_pages, TAG(0), 0,
			"read by another vCPU");
	assert_pool(self->nr, 0);
}

/* Access one page of each 2M.  If each access takes a fault, KVM doesn't map 1G blocks. */
TEST_F(guest, faults)
{
	const struct mappings want = largest_mappings(0, 0, self->nr_pages, self->unit);
	const u64 blocks = self->size / SZ_2M;

	add_whole_slot();
	allocate_fd(self->fd, 0, self->size);
	assert_pool(self->nr, 0);

	if (want.nr_4k) {
		guest_do_faults(self->vcpu, OP_WRITE_TAGS, TEST_GPA, self->nr_pages, TAG(0),
				want.nr_4k, "4K");
		return;
	}

	__guest_do_faults(self->vcpu, OP_WRITE_TAGS, TEST_GPA, blocks, SZ_2M, TAG(0),
			  nr_mappings(want), "a page in each 2M");
	guest_do_faults(self->vcpu, OP_WRITE_TAGS, TEST_GPA, self->nr_pages, TAG(0), 0, "all");
	do_pages(OP_CHECK_TAGS, 0, self->nr_pages, TAG(0));
}

TEST_F(guest, zeroed)
{
	/* Start over with a pool full of another user's data. */
	close(self->fd);
	hugetlb_dirty_pool(self->unit);
	self->fd = gmem_create(self, GMEM_SHARED);
	add_whole_slot();
	do_pages(OP_CHECK_ZERO, 0, self->nr_pages, 0);
	assert_whole_slot(largest_mappings(0, 0, self->nr_pages, self->unit), "read");

	do_pages(OP_WRITE_TAGS, 0, self->nr_pages, TAG(0));
	punch_fd(self->fd, 0, self->size);
	assert_whole_slot((struct mappings) {}, "punched");
	assert_pool(0, self->nr);
	do_pages(OP_CHECK_ZERO, 0, self->nr_pages, 0);
	assert_pool(self->nr, 0);
}

/* A hole unmaps each block that it touches, as a whole, and no other block. */
TEST_F(guest, punch)
{
	const u64 unit = self->unit_pages;
	const struct {
		u64 first, nr;
	} holes[] = {
		{ 0, 1 },
		{ self->nr_pages - 1, 1 },
		{ self->nr_pages / 2 - 1, 1 },
		{ self->nr_pages / 2 - 1, 2 },
		{ self->nr_pages / 4 + 3, 100 },
		{ 0, unit },
		{ self->nr_pages - unit, unit },
		{ unit - 1, 2 },
		{ unit / 2, unit },
		{ 1, self->nr_pages - 2 },
	};
	const struct mappings all = largest_mappings(0, 0, self->nr_pages, self->unit);
	const u64 block = all.nr_1g ? PAGES_1G : all.nr_2m ? PAGES_2M : 1;
	struct mappings want;
	int i;

	add_whole_slot();
	for (i = 0; i < ARRAY_SIZE(holes); i++) {
		u64 first = holes[i].first, nr = holes[i].nr, end = first + nr, touched;
		char what[64];

		if (end > self->nr_pages)
			continue;

		snprintf(what, sizeof(what), "%lu pages at %lu", nr, first);
		do_pages(OP_WRITE_TAGS, 0, self->nr_pages, TAG(0));
		assert_whole_slot(all, what);

		punch_fd(self->fd, first * PAGE_SIZE, nr * PAGE_SIZE);
		touched = (align_up(end, block) - align_down(first, block)) / block;
		want = all;
		if (all.nr_1g)
			want.nr_1g -= touched;
		else if (all.nr_2m)
			want.nr_2m -= touched;
		else
			want.nr_4k -= touched;
		assert_whole_slot(want, what);

		guest_do_faults(self->vcpu, OP_CHECK_TAGS, TEST_GPA, first, TAG(0),
				first % block ? 1 : 0, what);
		do_pages(OP_CHECK_ZERO, first, nr, 0);
		guest_do_faults(self->vcpu, OP_CHECK_TAGS, TEST_GPA + end * PAGE_SIZE,
				self->nr_pages - end, TAG(end), 0, what);
		assert_whole_slot(all, what);
		assert_pool(self->nr, 0);
	}
}

static const struct slot_case slot_cases[] = {
	{ "aligned",			0,		0,		4 * PAGES_2M },
	{ "gfn unaligned",		1,		0,		4 * PAGES_2M },
	{ "pgoff unaligned",		0,		1,		4 * PAGES_2M },
	{ "gfn as pgoff",		1,		1,		4 * PAGES_2M },
	{ "gfn as pgoff mod 2M",	PAGES_2M + 5,	5,		3 * PAGES_2M },
	{ "gfn and pgoff differ",	3,		2,		3 * PAGES_2M },
	{ "at 64K in the file",		0,		16,		3 * PAGES_2M },
	{ "at 2M in the file",		0,		PAGES_2M,	3 * PAGES_2M },
	{ "at 2M in the guest",		PAGES_2M,	0,		3 * PAGES_2M },
	{ "odd size",			0,		0,		3 * PAGES_2M - 1 },
	{ "odd size and start",		511,		511,		2 * PAGES_2M + 2 },
	{ "within 2M",			7,		7,		100 },
	{ "one page",			0,		0,		1 },
	{ "last page of 2M",		511,		511,		1 },
	{ "2M in two halves",		256,		0,		PAGES_2M },
	{ "2M over an edge",		0,		256,		PAGES_2M },
	{ "file at 2M",			PAGES_2M,	0,		0 },
	{ "file but for 2M",		PAGES_2M,	PAGES_2M,	0 },
	{ "file but for a page",	1,		1,		0 },
	{ "file at 1G - 2M",		PAGES_1G - PAGES_2M, 0,		0 },
};

static void test_slot(struct gmem *self, const struct slot_case *c, u64 nr)
{
	const u64 margin = self->unit < SZ_2M ? 64 : 4 * PAGES_2M, unit = self->unit_pages;
	const u64 end = c->pgoff + nr, gpa = TEST_GPA + c->gfn * PAGE_SIZE;
	const u64 first = c->pgoff - min(c->pgoff, margin);
	const u64 last = min(end + margin, self->nr_pages);
	const struct mappings want = largest_mappings(c->gfn, c->pgoff, nr, self->unit);
	const u64 nr_units = (end - 1) / unit - c->pgoff / unit + 1;

	punch_fd(self->fd, 0, self->size);

	/* Write through the slot of the test case, ... */
	add_slot(self->vm, gpa, nr * PAGE_SIZE, slot_hva, self->fd, c->pgoff * PAGE_SIZE);
	guest_do_faults(self->vcpu, OP_WRITE_TAGS, gpa, nr, TAG(c->pgoff), nr_mappings(want),
			c->name);
	assert_mappings(self->vm, TEST_GPA, TEST_GPA_SIZE, want, c->name);
	guest_do_faults(self->vcpu, OP_CHECK_TAGS, gpa, nr, TAG(c->pgoff), 0, c->name);
	assert_pool(nr_units, self->nr - nr_units);
	delete_slot(self->vm, gpa);
	assert_mappings(self->vm, TEST_GPA, TEST_GPA_SIZE, (struct mappings) {}, c->name);

	/* ... check the file through a slot for all of it, write there, ... */
	add_whole_slot();
	do_pages(OP_CHECK_ZERO, first, c->pgoff - first, 0);
	do_pages(OP_CHECK_TAGS, c->pgoff, nr, TAG(c->pgoff));
	do_pages(OP_CHECK_ZERO, end, last - end, 0);
	do_pages(OP_WRITE_TAGS, first, last - first, TAG2(first));
	delete_slot(self->vm, TEST_GPA);

	/* ... and check the new contents through the slot of the test case. */
	add_slot(self->vm, gpa, nr * PAGE_SIZE, slot_hva, self->fd, c->pgoff * PAGE_SIZE);
	guest_do(self->vcpu, OP_CHECK_TAGS, gpa, nr, PAGE_SIZE, TAG2(c->pgoff));
	delete_slot(self->vm, gpa);
}

TEST_F(guest, slots_at_odd_offsets)
{
	u64 nr;
	int i;

	for (i = 0; i < ARRAY_SIZE(slot_cases); i++) {
		nr = slot_cases[i].nr ?: self->nr_pages - slot_cases[i].pgoff;

		/* Each page takes a fault, so use fewer pages. */
		if (self->unit < SZ_2M)
			nr = min_t(u64, nr, 600);
		test_slot(self, &slot_cases[i], nr);
	}
}

/*
 * The slot has an aligned block of gfns that is as large as a unit, but is backed by
 * halves of two units.
 */
TEST_F(guest, slot_off_by_half_a_unit)
{
	const size_t stride = self->unit > SZ_2M ? SZ_2M : PAGE_SIZE;
	const u64 gpa = TEST_GPA + self->unit / 2;
	struct mappings want;
	u64 nr;

	close(self->fd);
	self->nr = 2;
	self->size = 2 * self->unit;
	if (hugetlb_available(&self->pool) < self->nr)
		SKIP(return, "needs 2 x %zu kB page", self->unit / 1024);

	self->fd = gmem_create(self, GMEM_SHARED);
	nr = self->size / stride;

	add_slot(self->vm, gpa, self->size, slot_hva, self->fd, 0);
	want = largest_mappings(self->unit / 2 / PAGE_SIZE, 0, self->size / PAGE_SIZE, self->unit);
	TEST_ASSERT_EQ(nr_mappings(want), nr);
	__guest_do_faults(self->vcpu, OP_WRITE_TAGS, gpa, nr, stride, TAG(0), nr, "off by half");
	assert_mappings(self->vm, TEST_GPA, TEST_GPA_SIZE, want, "off by half");
	delete_slot(self->vm, gpa);

	add_whole_slot();
	guest_do(self->vcpu, OP_CHECK_TAGS, TEST_GPA, nr, stride, TAG(0));
	assert_whole_slot(largest_mappings(0, 0, self->size / PAGE_SIZE, self->unit), "aligned");
	assert_pool(self->nr, 0);
}

/*
 * A block that was mapped for a write becomes executable without being split.  The
 * first call into a block may fault, unless the CPU keeps the instruction cache
 * coherent.  Such a fault must make the whole block executable, not a part of it.
 */
TEST_F(guest, execute)
{
	const struct mappings want = largest_mappings(0, 0, self->nr_pages, self->unit);
	/* Use less than all of 1G: the emulator remembers every page that has code. */
	const u64 stride = self->unit > SZ_32M ? SZ_256K : PAGE_SIZE;
	const u64 nr = self->size / stride, blocks = self->size / SZ_2M;
	long exits, max_faults = min_t(long, nr_mappings(want), blocks);

	add_whole_slot();
	guest_do(self->vcpu, OP_WRITE_CODE, TEST_GPA, nr, stride, 0);
	assert_whole_slot(want, "code written");

	exits = vcpu_get_stat(self->vcpu, exits);
	guest_do(self->vcpu, OP_CALL, TEST_GPA, blocks, SZ_2M, 0);
	exits = vcpu_get_stat(self->vcpu, exits) - exits;
	TEST_ASSERT(exits <= max_faults + 64 + (long)blocks / 4,
		    "%ld exits for calls into %lu x 2M", exits, blocks);
	assert_whole_slot(want, "code executed");

	/* Call into every page that has code, then do it again as the first access to the page. */
	guest_do(self->vcpu, OP_CALL, TEST_GPA, nr, stride, 0);
	delete_slot(self->vm, TEST_GPA);
	add_whole_slot();
	__guest_do_faults(self->vcpu, OP_CALL, TEST_GPA, nr, stride, 0, nr_mappings(want),
			  "executed first");
	assert_whole_slot(want, "executed first");

	/* The guest can write to the pages and execute them again without a fault. */
	__guest_do_faults(self->vcpu, OP_WRITE_CODE, TEST_GPA, nr, stride, 0, 0, "rewritten");
	__guest_do_faults(self->vcpu, OP_CALL, TEST_GPA, nr, stride, 0, 0, "executed again");
}

TEST_F(guest, punch_under_running_guest)
{
	add_whole_slot();
	run_churners(self, 3, 1, NULL);

	/* vCPUs that raced to map the same block must have mapped the largest one. */
	do_pages(OP_CHURN, 0, self->nr_pages, TAG(0));
	assert_whole_slot(largest_mappings(0, 0, self->nr_pages, self->unit), "after all");
	assert_pool(self->nr, 0);
}

TEST_F(guest, close_unmaps)
{
	add_whole_slot();
	do_pages(OP_WRITE_TAGS, 0, self->nr_pages, TAG(0));
	close(self->fd);
	assert_whole_slot((struct mappings) {}, "file closed");
	TEST_ASSERT_POOL_SETTLES(&self->pool, 0, 0);

	TEST_ASSERT_EQ(guest_read_error(self->vcpu, TEST_GPA), EFAULT);
}

/* The number of guest physical address bits.  With so few, the top stage-2 table has 2M blocks. */
#define RAW_IPA_BITS	34

/* Memory for code, and an address without memory.  The stage-1 MMU is off. */
#define RAW_CODE_GPA	0
#define RAW_MMIO_GPA	SZ_1G

/* Read the word at x0, write it to x1, which ends KVM_RUN.  The next KVM_RUN starts over. */
static const u32 raw_code[] = {
	0xf9400002,		/* ldr x2, [x0] */
	0xf9000022,		/* str x2, [x1] */
	0x17fffffe,		/* b   . - 8 */
};

/* Create a VM and a vCPU with RAW_IPA_BITS, for which the library has no guest mode. */
static void create_raw_guest(struct kvm_vm *vm, struct kvm_vcpu *vcpu)
{
	int dev_fd = open_kvm_dev_path_or_exit(), size;
	struct kvm_vcpu_init init = {};
	void *code;

	vm->fd = ioctl(dev_fd, KVM_CREATE_VM, KVM_VM_TYPE_ARM_IPA_SIZE(RAW_IPA_BITS));
	TEST_ASSERT(vm->fd >= 0, KVM_IOCTL_ERROR(KVM_CREATE_VM, vm->fd));

	vcpu->vm = vm;
	vcpu->fd = __vm_ioctl(vm, KVM_CREATE_VCPU, NULL);
	TEST_ASSERT(vcpu->fd >= 0, KVM_IOCTL_ERROR(KVM_CREATE_VCPU, vcpu->fd));
	vm_ioctl(vm, KVM_ARM_PREFERRED_TARGET, &init);
	vcpu_ioctl(vcpu, KVM_ARM_VCPU_INIT, &init);

	size = ioctl(dev_fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
	TEST_ASSERT(size >= sizeof(*vcpu->run), KVM_IOCTL_ERROR(KVM_GET_VCPU_MMAP_SIZE, size));
	vcpu->run = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd);
	close(dev_fd);

	code = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	memcpy(code, raw_code, sizeof(raw_code));
	vm_set_user_memory_region(vm, 0, 0, RAW_CODE_GPA, PAGE_SIZE, code);
	vcpu_set_reg(vcpu, ARM64_CORE_REG(regs.pc), RAW_CODE_GPA);
	vcpu_set_reg(vcpu, ARM64_CORE_REG(regs.regs[1]), RAW_MMIO_GPA);
}

static u64 raw_guest_read(struct kvm_vcpu *vcpu, u64 gpa)
{
	struct kvm_run *run = vcpu->run;
	u64 val;

	vcpu_set_reg(vcpu, ARM64_CORE_REG(regs.regs[0]), gpa);

	/* If KVM doesn't resolve a fault, the guest repeats it for ever. */
	alarm(60);
	TEST_ASSERT(!ioctl(vcpu->fd, KVM_RUN, NULL), "KVM_RUN failed, errno %d", errno);
	alarm(0);

	TEST_ASSERT(run->exit_reason == KVM_EXIT_MMIO && run->mmio.phys_addr == RAW_MMIO_GPA,
		    "Unexpected exit: %s", exit_reason_str(run->exit_reason));
	memcpy(&val, run->mmio.data, sizeof(val));
	return val;
}

/*
 * A small guest physical address space has no entry for 1G.  KVM has to map a 1G page
 * in parts, and each part is mapped and unmapped on its own.
 */
TEST_F(guest, small_address_space)
{
	const u64 last = self->size - PAGE_SIZE, mid = self->size / 2 + PAGE_SIZE;
	const u64 block = self->unit < SZ_2M ? 1 : PAGES_2M;
	struct mappings want = {};
	struct kvm_vcpu vcpu = {};
	struct kvm_vm vm = {};
	u64 *mem;

	close(self->fd);
	create_raw_guest(&vm, &vcpu);
	self->fd = vm_create_guest_memfd_hugetlb(&vm, self->size,
						 GUEST_MEMFD_FLAG_MMAP |
						 GUEST_MEMFD_FLAG_INIT_SHARED,
						 variant->size_log2);
	mem = kvm_mmap(self->size, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd);
	add_slot(&vm, TEST_GPA, self->size, mem, self->fd, 0);

	TEST_ASSERT_EQ(raw_guest_read(&vcpu, TEST_GPA), 0);
	count_mapping(&want, block);
	assert_mappings(&vm, TEST_GPA, self->size, want, "first page");

	TEST_ASSERT_EQ(raw_guest_read(&vcpu, TEST_GPA + last), 0);
	count_mapping(&want, block);
	assert_mappings(&vm, TEST_GPA, self->size, want, "first and last page");

	/* Unmap, and map again, a block behind another mapping. */
	TEST_ASSERT_EQ(raw_guest_read(&vcpu, TEST_GPA + mid), 0);
	punch_fd(self->fd, mid, PAGE_SIZE);
	TEST_ASSERT_EQ(raw_guest_read(&vcpu, TEST_GPA + mid), 0);
	TEST_ASSERT_EQ(raw_guest_read(&vcpu, TEST_GPA + last), 0);
	count_mapping(&want, block);
	assert_mappings(&vm, TEST_GPA, self->size, want, "hole between mappings");

	mem[mid / sizeof(*mem)] = TAG(0);
	TEST_ASSERT_EQ(raw_guest_read(&vcpu, TEST_GPA + mid), TAG(0));
}

/* arm64 has no use for memory that user space can't access. */
TEST_F(guest, not_mappable)
{
	int fd = vm_create_guest_memfd(self->vm, SZ_64K, 0), r;

	r = __vm_set_user_memory_region2(self->vm, TEST_SLOT + 1, KVM_MEM_GUEST_MEMFD,
					 TEST_GPA + TEST_GPA_SIZE, SZ_64K, NULL, fd, 0);
	assert_error(r, EINVAL);
	close(fd);
}

int main(int argc, char *argv[])
{
	init_mappings();
	return test_harness_run(argc, argv);
}
