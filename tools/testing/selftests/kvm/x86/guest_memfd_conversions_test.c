// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of the conversion of single pages of a guest_memfd between private and
 * shared, in place.  Contents and pages stay, and exactly the pages of the range
 * change.  Host and guest see the state of the file, whatever was allocated or
 * mapped when the state changed.
 */
#include <sched.h>
#include <sys/wait.h>

#include <linux/kernel-page-flags.h>

#include "guest_memfd_conversions.h"

FIXTURE(conversion)
{
	struct test_file f;
};

FIXTURE_VARIANT(conversion)
{
	u64 flags;
};

FIXTURE_VARIANT_ADD(conversion, init_private)
{
	.flags = 0,
};

FIXTURE_VARIANT_ADD(conversion, init_shared)
{
	.flags = GUEST_MEMFD_FLAG_INIT_SHARED,
};

FIXTURE_SETUP(conversion)
{
	test_file_create(&self->f, variant->flags);
}

FIXTURE_TEARDOWN(conversion)
{
	test_file_free(&self->f);
}

TEST_F(conversion, initial_state)
{
	struct test_file *f = &self->f;

	TEST_ASSERT_EQ(allocated_pages(f), NO_PAGES);
	host_check(f, ALL_PAGES);
	/* Accesses of the host to private pages don't allocate pages either. */
	TEST_ASSERT_EQ(allocated_pages(f), ~f->private);
	guest_check(f, ALL_PAGES);
	TEST_ASSERT_EQ(allocated_pages(f), ALL_PAGES);
}

/* Host and guest write all of a page in turn, and see what the other wrote. */
TEST_F(conversion, single_page_both_ways)
{
	struct test_file *f = &self->f;
	const int page = 5;
	char *mem = page_of(f, page);
	int round, i;

	for (round = 0; round < 3; round++) {
		set_private(f, page, 1);
		check(f, page_mask(page, 1));
		guest_write(f, page_mask(page, 1));
		check(f, page_mask(page, 1));

		set_shared(f, page, 1);
		check(f, page_mask(page, 1));
		for (i = 8; i < PAGE_SIZE - 8; i++) {
			TEST_ASSERT(!round || mem[i] == (char)(i * round),
				    "Byte %d should be as it was, is 0x%x", i, mem[i]);
			mem[i] = i * (round + 1);
		}
		guest_write(f, page_mask(page, 1));
		check(f, page_mask(page, 1));
		host_write(f, page_mask(page, 1));
		check(f, page_mask(page, 1));

		set_private(f, page, 1);
		check(f, page_mask(page, 1));
	}
	check(f, ALL_PAGES);
}

static u64 pfn_of(struct test_file *f, int page)
{
	/* Fault the page in. */
	(void)READ_ONCE(*first_word(page_of(f, page)));
	return pagemap_entry(page_of(f, page)) & GENMASK_ULL(54, 0);
}

/* Read the entry of @pfn in an array of u64 by page frame number, e.g. /proc/kpageflags. */
static u64 read_by_pfn(const char *path, u64 pfn)
{
	int fd = open(path, O_RDONLY);
	u64 val;

	TEST_ASSERT(fd >= 0, "Cannot open %s", path);
	TEST_ASSERT_EQ(pread(fd, &val, sizeof(val), pfn * sizeof(val)), sizeof(val));
	close(fd);
	return val;
}

/* A conversion doesn't copy a page: the page frame is the same before, in between and after. */
TEST_F(conversion, page_frame_stays)
{
	struct test_file *f = &self->f;
	u64 pfn[NR_PAGES], flags;
	int i;

	guest_write(f, ALL_PAGES);
	set_all(f, false);
	for (i = 0; i < NR_PAGES; i++)
		pfn[i] = pfn_of(f, i);
	if (!pfn[0])
		SKIP(return, "needs root for page frame numbers");

	set_all(f, true);
	for (i = 0; i < NR_PAGES; i++) {
		flags = read_by_pfn("/proc/kpageflags", pfn[i]);
		TEST_ASSERT(!(flags & (BIT_ULL(KPF_BUDDY) | BIT_ULL(KPF_NOPAGE))),
			    "Page %d should not have been freed, flags 0x%lx", i, flags);
		TEST_ASSERT_EQ(read_by_pfn("/proc/kpagecount", pfn[i]), 0);
	}
	TEST_ASSERT_EQ(allocated_pages(f), ALL_PAGES);
	TEST_ASSERT_EQ(mapped_pages(f), NO_PAGES);
	guest_write(f, ALL_PAGES);

	set_all(f, false);
	for (i = 0; i < NR_PAGES; i++)
		TEST_ASSERT_EQ(pfn_of(f, i), pfn[i]);
	check(f, ALL_PAGES);
}

/* When one page is converted, no other page loses contents, state or mappings. */
TEST_F(conversion, neighbours_are_untouched)
{
	struct test_file *f = &self->f;
	int page, private;

	guest_write(f, ALL_PAGES);
	for (page = 0; page < NR_PAGES; page++) {
		for (private = 1; private >= 0; private--) {
			u64 self_mask = page_mask(page, 1), was = f->private, mapped;

			mapped = mapped_pages(f);
			convert(f, page, 1, private);
			TEST_ASSERT_EQ(mapped_pages(f) | self_mask, mapped | self_mask);
			assert_unmapped(f, f->private != was ? self_mask : NO_PAGES);
			host_check(f, ALL_PAGES);
		}
		if (page % 3)
			set_private(f, page, 1);
		guest_write(f, page_mask(page, 1));
	}
	check(f, ALL_PAGES);
}

static const struct {
	int first, nr;
} ranges[] = {
	{ 0, NR_PAGES }, { 0, 1 }, { NR_PAGES - 1, 1 }, { 1, NR_PAGES - 2 },
	{ 7, 2 }, { 8, 8 }, { 15, 33 }, { 31, 2 }, { 32, 32 }, { 0, 32 },
	{ 3, 50 }, { 62, 2 },
};

TEST_F(conversion, ranges_are_exact)
{
	struct test_file *f = &self->f;
	int i, private;

	guest_write(f, ALL_PAGES);
	for (private = 0; private < 2; private++) {
		for (i = 0; i < ARRAY_SIZE(ranges); i++) {
			set_all(f, !private);
			guest_check(f, ALL_PAGES);
			convert(f, ranges[i].first, ranges[i].nr, private);
			assert_unmapped(f, page_mask(ranges[i].first, ranges[i].nr));
			host_check(f, ALL_PAGES);
		}
	}
	check(f, ALL_PAGES);
}

/* A conversion doesn't touch pages of its range that are in the wanted state already. */
TEST_F(conversion, unchanged_pages_keep_mappings)
{
	struct test_file *f = &self->f;
	int i, private;
	u64 was;

	guest_write(f, ALL_PAGES);
	for (private = 0; private < 2; private++) {
		for (i = 0; i < ARRAY_SIZE(ranges); i++) {
			set_all(f, !private);
			convert(f, ranges[i].first + ranges[i].nr / 2, 1, private);
			convert(f, ranges[i].first + ranges[i].nr / 4, 1, private);
			guest_check(f, ALL_PAGES);

			was = f->private;
			convert(f, ranges[i].first, ranges[i].nr, private);
			assert_unmapped(f, f->private ^ was);
			host_check(f, ALL_PAGES);
		}
	}
	check(f, ALL_PAGES);
}

TEST_F(conversion, repeated_call_is_a_nop)
{
	struct test_file *f = &self->f;
	u64 mapped, before;
	int private, i;

	guest_write(f, ALL_PAGES);
	for (private = 0; private < 2; private++) {
		set_all(f, private);
		check(f, ALL_PAGES);
		mapped = mapped_pages(f);
		TEST_ASSERT_EQ(mapped, private ? NO_PAGES : ALL_PAGES);

		before = nr_faults(f);
		for (i = 0; i < 3; i++) {
			set_all(f, private);
			convert(f, 9, 20, private);
		}
		TEST_ASSERT_EQ(mapped_pages(f), mapped);
		guest_check(f, ALL_PAGES);
		assert_faults(f, before, 0);
		check(f, ALL_PAGES);
	}
}

TEST_F(conversion, before_allocation)
{
	struct test_file *f = &self->f;

	set_shared(f, 0, 32);
	set_private(f, 32, 32);
	set_private(f, 10, 4);
	set_shared(f, 40, 4);
	TEST_ASSERT_EQ(allocated_pages(f), NO_PAGES);
	TEST_ASSERT_EQ(f->private, (page_mask(32, 32) & ~page_mask(40, 4)) | page_mask(10, 4));

	/* Host, guest or fallocate() may allocate the pages. */
	host_check(f, page_mask(0, 12));
	TEST_ASSERT_EQ(allocated_pages(f), page_mask(0, 10));
	guest_check(f, page_mask(9, 3));
	TEST_ASSERT_EQ(allocated_pages(f), page_mask(0, 12));
	fallocate_pages(f, FALLOC_FL_KEEP_SIZE, 38, 4);
	TEST_ASSERT_EQ(allocated_pages(f), page_mask(0, 12) | page_mask(38, 4));
	check(f, ALL_PAGES);
}

/* Convert ranges that are only partly allocated, in several patterns. */
TEST_F(conversion, allocation_layouts)
{
	static const u64 layouts[] = {
		NO_PAGES, ALL_PAGES, 0x5555555555555555ULL, 0xaaaaaaaaaaaaaaaaULL,
		0x00000000ffffffffULL, 0xffff0000ffff0000ULL, 0x0000000000000001ULL,
		0x8000000000000000ULL, 0x8000000000000001ULL, 0x00f0000100000200ULL,
	};
	struct test_file *f = &self->f;
	int i, page, private;

	for (i = 0; i < ARRAY_SIZE(layouts); i++) {
		punch_pages(f, 0, NR_PAGES);
		set_all(f, false);
		host_write(f, layouts[i]);

		for (private = 1; private >= 0; private--) {
			set_all(f, private);
			TEST_ASSERT_EQ(allocated_pages(f), layouts[i]);
			guest_check(f, layouts[i]);
		}
		for (page = 0; page < NR_PAGES; page += 3)
			set_private(f, page, 2 <= NR_PAGES - page ? 2 : 1);
		TEST_ASSERT_EQ(allocated_pages(f), layouts[i]);
		check(f, ALL_PAGES);
	}
}

TEST_F(conversion, punch_keeps_state)
{
	struct test_file *f = &self->f;

	set_all(f, false);
	host_write(f, ALL_PAGES);
	set_private(f, 0, 32);
	check(f, ALL_PAGES);

	/* The hole is partly private, partly shared. */
	punch_pages(f, 16, 32);
	TEST_ASSERT_EQ(allocated_pages(f), ~page_mask(16, 32));
	check(f, ALL_PAGES);

	punch_pages(f, 0, NR_PAGES);
	TEST_ASSERT_EQ(allocated_pages(f), NO_PAGES);
	host_check(f, ALL_PAGES);
	TEST_ASSERT_EQ(allocated_pages(f), page_mask(32, 32));
	guest_write(f, ALL_PAGES);
	check(f, ALL_PAGES);

	/* Convert pages while they aren't allocated. */
	punch_pages(f, 0, NR_PAGES);
	set_private(f, 40, 8);
	set_shared(f, 8, 8);
	fallocate_pages(f, FALLOC_FL_KEEP_SIZE, 0, NR_PAGES);
	check(f, ALL_PAGES);
}

/* The guest's memory doesn't depend on the host's page tables. */
TEST_F(conversion, host_mapping_does_not_matter)
{
	struct test_file *f = &self->f;
	u64 before;

	set_all(f, false);
	host_write(f, ALL_PAGES);
	set_private(f, 48, 16);
	guest_check(f, ALL_PAGES);
	before = nr_faults(f);

	kvm_madvise(f->mem, TEST_SIZE, MADV_DONTNEED);
	TEST_ASSERT_EQ(mapped_pages(f), NO_PAGES);
	guest_check(f, ALL_PAGES);
	assert_faults(f, before, 0);
	host_check(f, ALL_PAGES);

	TEST_ASSERT(!mprotect(f->mem, TEST_SIZE, PROT_NONE), "mprotect() should succeed");
	guest_write(f, ALL_PAGES);
	TEST_ASSERT(!mprotect(f->mem, TEST_SIZE, PROT_READ | PROT_WRITE),
		    "mprotect() should succeed");
	host_check(f, ALL_PAGES);

	kvm_munmap(f->mem, TEST_SIZE);
	guest_write(f, ALL_PAGES);
	assert_faults(f, before, 0);

	/* The slot doesn't need a mapping at its userspace address either. */
	set_private(f, 0, 8);
	set_shared(f, 50, 8);
	assert_unmapped(f, page_mask(0, 8) | page_mask(50, 8));
	f->mem = kvm_mmap(TEST_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd);
	check(f, ALL_PAGES);
	kvm_munmap(f->mem, TEST_SIZE);
}

static void pre_fault(struct test_file *f, int first, int nr)
{
	struct kvm_pre_fault_memory range = {
		.gpa = TEST_GPA + first * PAGE_SIZE,
		.size = nr * PAGE_SIZE,
	};

	while (range.size) {
		int r = __vcpu_ioctl(f->vcpu, KVM_PRE_FAULT_MEMORY, &range);

		TEST_ASSERT(!r || errno == EINTR, KVM_IOCTL_ERROR(KVM_PRE_FAULT_MEMORY, r));
	}
}

TEST_F(conversion, pre_fault_follows_state)
{
	struct test_file *f = &self->f;
	u64 before;

	set_private(f, 0, 16);
	set_shared(f, 16, 16);
	before = nr_faults(f);
	pre_fault(f, 8, 16);
	TEST_ASSERT_EQ(allocated_pages(f), page_mask(8, 16));
	guest_write(f, page_mask(8, 16));
	assert_faults(f, before, 0);
	check(f, page_mask(0, 32));

	/* A conversion unmaps prefaulted pages like pages that were faulted in. */
	set_shared(f, 8, 8);
	set_private(f, 16, 8);
	assert_unmapped(f, page_mask(8, 16) | page_mask(32, 32));
	check(f, ALL_PAGES);

	set_private(f, 8, 8);
	set_shared(f, 16, 8);
	pre_fault(f, 0, NR_PAGES);
	assert_unmapped(f, NO_PAGES);
	check(f, ALL_PAGES);
}

/* Check all pages in a child, which has the mapping as well. */
static void check_in_child(struct test_file *f)
{
	int status;
	pid_t pid = fork();

	TEST_ASSERT(pid >= 0, "fork() should succeed");
	if (!pid) {
		host_check(f, ALL_PAGES);
		_exit(0);
	}
	TEST_ASSERT(waitpid(pid, &status, 0) == pid && !status,
		    "The child should see what the parent sees, status %#x", status);
}

static void tell(int fd)
{
	TEST_ASSERT(write(fd, "", 1) == 1, "write() should succeed");
}

static bool wait_for(int fd)
{
	char c;

	return read(fd, &c, 1) == 1;
}

TEST_F(conversion, all_processes_see_it)
{
	struct test_file *f = &self->f;
	int to_child[2], to_parent[2], status;
	pid_t pid;

	set_all(f, false);
	host_write(f, ALL_PAGES);
	TEST_ASSERT(!pipe(to_child) && !pipe(to_parent), "pipe() should succeed");

	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() should succeed");
	if (!pid) {
		close(to_child[1]);
		/* Map the pages: the child has page tables of its own. */
		host_check(f, ALL_PAGES);
		TEST_ASSERT_EQ(mapped_pages(f), ALL_PAGES);
		tell(to_parent[1]);
		wait_for(to_child[0]);
		f->private = page_mask(4, 8);
		TEST_ASSERT_EQ(mapped_pages(f), ~f->private);
		host_check(f, ALL_PAGES);
		tell(to_parent[1]);
		wait_for(to_child[0]);
		f->private = page_mask(8, 8);
		host_check(f, ALL_PAGES);
		_exit(0);
	}
	close(to_parent[1]);
	TEST_ASSERT(wait_for(to_parent[0]), "The child should map it");
	set_private(f, 4, 8);
	guest_check(f, ALL_PAGES);
	tell(to_child[1]);
	TEST_ASSERT(wait_for(to_parent[0]), "The child should see it");
	set_shared(f, 4, 4);
	set_private(f, 12, 4);
	tell(to_child[1]);
	TEST_ASSERT(waitpid(pid, &status, 0) == pid && !status,
		    "The child should see what the parent sees, status %#x", status);
	check(f, ALL_PAGES);
	check_in_child(f);
}

/*
 * Write to the pages of @mask, each on another CPU.  A page that is mapped in an
 * mlock()ed area sits in a batch of the CPU that has touched it, and the batch has
 * a reference to the page.
 */
static void host_write_on_all_cpus(struct test_file *f, u64 mask)
{
	cpu_set_t possible, one;
	int cpu, page;

	kvm_sched_getaffinity(0, sizeof(possible), &possible);
	for (cpu = 0, page = 0; page < NR_PAGES; page++) {
		if (!(mask & BIT_ULL(page)))
			continue;
		do {
			cpu = (cpu + 1) % CPU_SETSIZE;
		} while (!CPU_ISSET(cpu, &possible));
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		kvm_sched_setaffinity(0, sizeof(one), &one);
		host_write(f, page_mask(page, 1));
	}
	kvm_sched_setaffinity(0, sizeof(possible), &possible);
}

TEST_F(conversion, mlockall)
{
	struct test_file *f = &self->f;
	char *mem;
	int round;

	/* One mapping is older than mlockall(), the other one is newer. */
	TEST_ASSERT(!mlockall(MCL_CURRENT | MCL_FUTURE), "mlockall() should succeed");
	mem = kvm_mmap(TEST_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd);

	for (round = 0; round < 8; round++) {
		set_all(f, false);
		host_write_on_all_cpus(f, ALL_PAGES);
		TEST_ASSERT_EQ(*first_word(mem), f->tag[0]);
		guest_check(f, ALL_PAGES);
		if (round & 1) {
			set_all(f, true);
		} else {
			int page;

			for (page = 0; page < NR_PAGES; page++)
				set_private(f, page, 1);
		}
		check(f, ALL_PAGES);
	}
	kvm_munmap(mem, TEST_SIZE);
	munlockall();
	set_all(f, false);
	check(f, ALL_PAGES);
}

TEST_F(conversion, slot_comes_and_goes)
{
	struct test_file *f = &self->f;
	char *mem = kvm_mmap(TEST_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd);

	set_private(f, 0, 32);
	set_shared(f, 32, 32);
	guest_write(f, ALL_PAGES);

	/* The file can be converted without a slot as well. */
	vm_mem_region_delete(f->vm, TEST_SLOT);
	f->mem = mem;
	host_check(f, ALL_PAGES);
	set_shared(f, 0, 8);
	set_private(f, 48, 8);
	host_check(f, ALL_PAGES);

	__vm_mem_add(f->vm, VM_MEM_SRC_ANONYMOUS, TEST_GPA, TEST_SLOT, NR_PAGES,
		     KVM_MEM_GUEST_MEMFD, f->fd, 0, GUEST_MEMFD_FLAG_MMAP);
	check(f, ALL_PAGES);
	f->mem = addr_gpa2hva(f->vm, TEST_GPA);
	check(f, ALL_PAGES);
	kvm_munmap(mem, TEST_SIZE);
}

TEST_F(conversion, file_outlives_vm)
{
	struct test_file *f = &self->f;
	char *mem = kvm_mmap(TEST_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd);

	set_private(f, 0, 32);
	set_shared(f, 32, 32);
	guest_write(f, ALL_PAGES);
	kvm_vm_free(f->vm);
	f->vm = NULL;

	f->mem = mem;
	host_check(f, ALL_PAGES);
	set_shared(f, 0, NR_PAGES);
	host_check(f, ALL_PAGES);
	set_private(f, 8, NR_PAGES - 8);
	host_check(f, ALL_PAGES);
	kvm_munmap(mem, TEST_SIZE);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_GUEST_MEMFD));
	TEST_REQUIRE_GMEM_CONVERSION();

	return test_harness_run(argc, argv);
}
