// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of the conversion of single pages of a guest_memfd between private and
 * shared, in place.  Contents and pages stay, and exactly the pages of the range
 * change.  Host and guest see the state of the file, whatever was allocated or
 * mapped when the state changed.
 */
#include "guest_memfd_fixture.h"
#include "guest_memfd_conversions.h"

#define _test_data_conversion		gmem
#define _fixture_variant_conversion	gmem_variant

GMEM_SMALL_FIXTURE(conversion, create_small_file(self, variant->flags, true));
GMEM_VARIANTS_OF_STATE(conversion);

TEST_F(conversion, initial_state)
{
	TEST_ASSERT_EQ(allocated_pages(self), NO_PAGES);
	host_check_set(self, ALL_PAGES);
	/* Accesses of the host to private pages don't allocate pages either. */
	TEST_ASSERT_EQ(allocated_pages(self), ~private_pages(self));
	guest_check_set(self, ALL_PAGES);
	TEST_ASSERT_EQ(allocated_pages(self), ALL_PAGES);
}

/* Host and guest write all of a page in turn, and see what the other wrote. */
TEST_F(conversion, single_page_both_ways)
{
	const int page = 5;
	char *mem = addr_of(self, page);
	int round, i;

	for (round = 0; round < 3; round++) {
		set_private(page, 1);
		check(self, page_mask(page, 1));
		guest_write_set(self, page_mask(page, 1));
		check(self, page_mask(page, 1));

		set_shared(page, 1);
		check(self, page_mask(page, 1));
		for (i = 8; i < PAGE_SIZE - 8; i++) {
			TEST_ASSERT(!round || mem[i] == (char)(i * round),
				    "Byte %d should be as it was, is 0x%x", i, mem[i]);
			mem[i] = i * (round + 1);
		}
		guest_write_set(self, page_mask(page, 1));
		check(self, page_mask(page, 1));
		host_write_set(self, page_mask(page, 1));
		check(self, page_mask(page, 1));

		set_private(page, 1);
		check(self, page_mask(page, 1));
	}
	check(self, ALL_PAGES);
}

static u64 pfn_of(struct gmem *self, int page)
{
	/* Fault the page in. */
	(void)READ_ONCE(*word_of(self, page));
	return read_pagemap_pfn(addr_of(self, page));
}

/* A conversion doesn't copy a page: the page frame is the same before, in between and after. */
TEST_F(conversion, page_frame_stays)
{
	u64 pfn[NR_PAGES], flags;
	int i;

	guest_write_set(self, ALL_PAGES);
	set_all(self, false);
	for (i = 0; i < NR_PAGES; i++)
		pfn[i] = pfn_of(self, i);
	if (!pfn[0])
		SKIP(return, "needs root for page frame numbers");

	set_all(self, true);
	for (i = 0; i < NR_PAGES; i++) {
		flags = read_kpageflags(pfn[i]);
		TEST_ASSERT(!(flags & (BIT_ULL(KPF_BUDDY) | BIT_ULL(KPF_NOPAGE))),
			    "Page %d should not have been freed, flags 0x%lx", i, flags);
		TEST_ASSERT_EQ(read_by_pfn("/proc/kpagecount", pfn[i]), 0);
	}
	TEST_ASSERT_EQ(allocated_pages(self), ALL_PAGES);
	TEST_ASSERT_EQ(mapped_pages(self), NO_PAGES);
	guest_write_set(self, ALL_PAGES);

	set_all(self, false);
	for (i = 0; i < NR_PAGES; i++)
		TEST_ASSERT_EQ(pfn_of(self, i), pfn[i]);
	check(self, ALL_PAGES);
}

/* When one page is converted, no other page loses contents, state or mappings. */
TEST_F(conversion, neighbours_are_untouched)
{
	int page, private;

	guest_write_set(self, ALL_PAGES);
	for (page = 0; page < NR_PAGES; page++) {
		for (private = 1; private >= 0; private--) {
			u64 self_mask = page_mask(page, 1), was = private_pages(self), mapped;

			mapped = mapped_pages(self);
			convert(self, page, 1, private);
			TEST_ASSERT_EQ(mapped_pages(self) | self_mask, mapped | self_mask);
			assert_unmapped(private_pages(self) != was ? self_mask : NO_PAGES);
			host_check_set(self, ALL_PAGES);
		}
		if (page % 3)
			set_private(page, 1);
		guest_write_set(self, page_mask(page, 1));
	}
	check(self, ALL_PAGES);
}

static const struct {
	int first, nr;
} ranges[] = {
	{ 0, NR_PAGES }, { 0, 1 }, { NR_PAGES - 1, 1 }, { 1, NR_PAGES - 2 },
	{ 7, 2 }, { 8, 8 }, { 15, 33 }, { 31, 2 }, { 32, 32 }, { 0, 32 },
	{ 3, 50 }, { 62, 2 },
};

/*
 * Convert ranges, and assert that the guest has lost its mappings of the pages that have
 * changed, and no others.  With @in_part, two pages of the range are in the wanted state
 * before.
 */
static void test_ranges(struct gmem *self, bool in_part)
{
	int i, private;
	u64 was;

	guest_write_set(self, ALL_PAGES);
	for (private = 0; private < 2; private++) {
		for (i = 0; i < ARRAY_SIZE(ranges); i++) {
			const int first = ranges[i].first, nr = ranges[i].nr;

			set_all(self, !private);
			if (in_part) {
				convert(self, first + nr / 2, 1, private);
				convert(self, first + nr / 4, 1, private);
			}
			guest_check_set(self, ALL_PAGES);

			was = private_pages(self);
			convert(self, first, nr, private);
			assert_unmapped(private_pages(self) ^ was);
			host_check_set(self, ALL_PAGES);
		}
	}
	check(self, ALL_PAGES);
}

GMEM_TEST(conversion, ranges_are_exact, test_ranges(self, false))
GMEM_TEST(conversion, unchanged_pages_keep_mappings, test_ranges(self, true))

TEST_F(conversion, repeated_call_is_a_nop)
{
	u64 mapped, before;
	int private, i;

	guest_write_set(self, ALL_PAGES);
	for (private = 0; private < 2; private++) {
		set_all(self, private);
		check(self, ALL_PAGES);
		mapped = mapped_pages(self);
		TEST_ASSERT_EQ(mapped, private ? NO_PAGES : ALL_PAGES);

		before = nr_faults(self);
		for (i = 0; i < 3; i++) {
			set_all(self, private);
			convert(self, 9, 20, private);
		}
		TEST_ASSERT_EQ(mapped_pages(self), mapped);
		guest_check_set(self, ALL_PAGES);
		assert_faults(before, 0);
		check(self, ALL_PAGES);
	}
}

TEST_F(conversion, before_allocation)
{
	set_shared(0, 32);
	set_private(32, 32);
	set_private(10, 4);
	set_shared(40, 4);
	TEST_ASSERT_EQ(allocated_pages(self), NO_PAGES);
	TEST_ASSERT_EQ(private_pages(self),
		       (page_mask(32, 32) & ~page_mask(40, 4)) | page_mask(10, 4));

	/* Host, guest or fallocate() may allocate the pages. */
	host_check_set(self, page_mask(0, 12));
	TEST_ASSERT_EQ(allocated_pages(self), page_mask(0, 10));
	guest_check_set(self, page_mask(9, 3));
	TEST_ASSERT_EQ(allocated_pages(self), page_mask(0, 12));
	allocate(self, 38, 4);
	TEST_ASSERT_EQ(allocated_pages(self), page_mask(0, 12) | page_mask(38, 4));
	check(self, ALL_PAGES);
}

/* Convert ranges that are only partly allocated, in several patterns. */
TEST_F(conversion, allocation_layouts)
{
	static const u64 layouts[] = {
		NO_PAGES, ALL_PAGES, 0x5555555555555555ULL, 0xaaaaaaaaaaaaaaaaULL,
		0x00000000ffffffffULL, 0xffff0000ffff0000ULL, 0x0000000000000001ULL,
		0x8000000000000000ULL, 0x8000000000000001ULL, 0x00f0000100000200ULL,
	};
	int i, page, private;

	for (i = 0; i < ARRAY_SIZE(layouts); i++) {
		punch(self, 0, NR_PAGES);
		set_all(self, false);
		host_write_set(self, layouts[i]);

		for (private = 1; private >= 0; private--) {
			set_all(self, private);
			TEST_ASSERT_EQ(allocated_pages(self), layouts[i]);
			guest_check_set(self, layouts[i]);
		}
		for (page = 0; page < NR_PAGES; page += 3)
			set_private(page, 2 <= NR_PAGES - page ? 2 : 1);
		TEST_ASSERT_EQ(allocated_pages(self), layouts[i]);
		check(self, ALL_PAGES);
	}
}

TEST_F(conversion, punch_keeps_state)
{
	set_all(self, false);
	host_write_set(self, ALL_PAGES);
	set_private(0, 32);
	check(self, ALL_PAGES);

	/* The hole is partly private, partly shared. */
	punch(self, 16, 32);
	TEST_ASSERT_EQ(allocated_pages(self), ~page_mask(16, 32));
	check(self, ALL_PAGES);

	punch(self, 0, NR_PAGES);
	TEST_ASSERT_EQ(allocated_pages(self), NO_PAGES);
	host_check_set(self, ALL_PAGES);
	TEST_ASSERT_EQ(allocated_pages(self), page_mask(32, 32));
	guest_write_set(self, ALL_PAGES);
	check(self, ALL_PAGES);

	/* Convert pages while they aren't allocated. */
	punch(self, 0, NR_PAGES);
	set_private(40, 8);
	set_shared(8, 8);
	allocate(self, 0, NR_PAGES);
	check(self, ALL_PAGES);
}

/* The guest's memory doesn't depend on the host's page tables. */
TEST_F(conversion, host_mapping_does_not_matter)
{
	u64 before;

	set_all(self, false);
	host_write_set(self, ALL_PAGES);
	set_private(48, 16);
	guest_check_set(self, ALL_PAGES);
	before = nr_faults(self);

	kvm_madvise(self->mem, TEST_SIZE, MADV_DONTNEED);
	TEST_ASSERT_EQ(mapped_pages(self), NO_PAGES);
	guest_check_set(self, ALL_PAGES);
	assert_faults(before, 0);
	host_check_set(self, ALL_PAGES);

	TEST_ASSERT(!mprotect(self->mem, TEST_SIZE, PROT_NONE), "mprotect() should succeed");
	guest_write_set(self, ALL_PAGES);
	TEST_ASSERT(!mprotect(self->mem, TEST_SIZE, PROT_READ | PROT_WRITE),
		    "mprotect() should succeed");
	host_check_set(self, ALL_PAGES);

	kvm_munmap(self->mem, TEST_SIZE);
	guest_write_set(self, ALL_PAGES);
	assert_faults(before, 0);

	/* The slot doesn't need a mapping at its userspace address either. */
	set_private(0, 8);
	set_shared(50, 8);
	assert_unmapped(page_mask(0, 8) | page_mask(50, 8));
	self->mem = gmem_map(self, self->fd);
	check(self, ALL_PAGES);
	kvm_munmap(self->mem, TEST_SIZE);
}

TEST_F(conversion, pre_fault_follows_state)
{
	u64 before;

	set_private(0, 16);
	set_shared(16, 16);
	before = nr_faults(self);
	prefault(self->vcpu, 8 * PAGE_SIZE, 16 * PAGE_SIZE);
	TEST_ASSERT_EQ(allocated_pages(self), page_mask(8, 16));
	guest_write_set(self, page_mask(8, 16));
	assert_faults(before, 0);
	check(self, page_mask(0, 32));

	/* A conversion unmaps prefaulted pages like pages that were faulted in. */
	set_shared(8, 8);
	set_private(16, 8);
	assert_unmapped(page_mask(8, 16) | page_mask(32, 32));
	check(self, ALL_PAGES);

	set_private(8, 8);
	set_shared(16, 8);
	prefault(self->vcpu, 0, TEST_SIZE);
	assert_unmapped(NO_PAGES);
	check(self, ALL_PAGES);
}

/* Check all pages in a child, which has the mapping as well. */
static void check_in_child(struct gmem *self)
{
	pid_t pid = kvm_fork();

	if (!pid) {
		host_check_set(self, ALL_PAGES);
		_exit(0);
	}
	assert_child_succeeds(pid);
}

TEST_F(conversion, all_processes_see_it)
{
	int to_child[2], to_parent[2];
	pid_t pid;

	set_all(self, false);
	host_write_set(self, ALL_PAGES);
	kvm_pipe(to_child);
	kvm_pipe(to_parent);

	pid = kvm_fork();
	if (!pid) {
		close(to_child[1]);
		/* Map the pages: the child has page tables of its own. */
		host_check_set(self, ALL_PAGES);
		TEST_ASSERT_EQ(mapped_pages(self), ALL_PAGES);
		tell(to_parent[1]);
		wait_for(to_child[0]);
		guestmem_model_convert(&self->model, 4, 8, true);
		TEST_ASSERT_EQ(mapped_pages(self), ~private_pages(self));
		host_check_set(self, ALL_PAGES);
		tell(to_parent[1]);
		wait_for(to_child[0]);
		guestmem_model_convert(&self->model, 4, 4, false);
		guestmem_model_convert(&self->model, 12, 4, true);
		host_check_set(self, ALL_PAGES);
		_exit(0);
	}
	close(to_parent[1]);
	TEST_ASSERT(wait_for(to_parent[0]), "The child should map it");
	set_private(4, 8);
	guest_check_set(self, ALL_PAGES);
	tell(to_child[1]);
	TEST_ASSERT(wait_for(to_parent[0]), "The child should see it");
	set_shared(4, 4);
	set_private(12, 4);
	tell(to_child[1]);
	assert_child_succeeds(pid);
	check(self, ALL_PAGES);
	check_in_child(self);
}

/*
 * Write to the pages of @mask, each on another CPU.  A page that is mapped in an
 * mlock()ed area sits in a batch of the CPU that has touched it, and the batch has
 * a reference to the page.
 */
static void host_write_on_all_cpus(struct gmem *self, u64 mask)
{
	cpu_set_t possible, one;
	unsigned long page;
	int cpu = 0;

	kvm_sched_getaffinity(0, sizeof(possible), &possible);
	for_each_set_bit(page, &mask, NR_PAGES) {
		do {
			cpu = (cpu + 1) % CPU_SETSIZE;
		} while (!CPU_ISSET(cpu, &possible));
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		kvm_sched_setaffinity(0, sizeof(one), &one);
		host_write_set(self, page_mask(page, 1));
	}
	kvm_sched_setaffinity(0, sizeof(possible), &possible);
}

TEST_F(conversion, mlockall)
{
	char *mem;
	int round;

	/* One mapping is older than mlockall(), the other one is newer. */
	TEST_ASSERT(!mlockall(MCL_CURRENT | MCL_FUTURE), "mlockall() should succeed");
	mem = gmem_map(self, self->fd);

	for (round = 0; round < 8; round++) {
		set_all(self, false);
		host_write_on_all_cpus(self, ALL_PAGES);
		TEST_ASSERT_EQ(*(u64 *)mem, self->tags[0]);
		guest_check_set(self, ALL_PAGES);
		if (round & 1) {
			set_all(self, true);
		} else {
			int page;

			for (page = 0; page < NR_PAGES; page++)
				set_private(page, 1);
		}
		check(self, ALL_PAGES);
	}
	kvm_munmap(mem, TEST_SIZE);
	munlockall();
	set_all(self, false);
	check(self, ALL_PAGES);
}

TEST_F(conversion, slot_comes_and_goes)
{
	char *mem = gmem_map(self, self->fd), *slot_mem = self->mem;

	set_private(0, 32);
	set_shared(32, 32);
	guest_write_set(self, ALL_PAGES);

	/* The file can be converted without a slot as well. */
	delete_slot(self->vm, TEST_GPA);
	self->mem = mem;
	host_check_set(self, ALL_PAGES);
	set_shared(0, 8);
	set_private(48, 8);
	host_check_set(self, ALL_PAGES);

	add_slot(self->vm, TEST_GPA, TEST_SIZE, slot_mem, self->fd, 0);
	check(self, ALL_PAGES);
	self->mem = slot_mem;
	check(self, ALL_PAGES);
	kvm_munmap(mem, TEST_SIZE);
}

TEST_F(conversion, file_outlives_vm)
{
	char *mem = gmem_map(self, self->fd);

	set_private(0, 32);
	set_shared(32, 32);
	guest_write_set(self, ALL_PAGES);
	kvm_vm_free(self->vm);
	self->vm = NULL;

	self->mem = mem;
	host_check_set(self, ALL_PAGES);
	set_shared(0, NR_PAGES);
	host_check_set(self, ALL_PAGES);
	set_private(8, NR_PAGES - 8);
	host_check_set(self, ALL_PAGES);
	kvm_munmap(mem, TEST_SIZE);
}

GMEM_TEST_MAIN(NEEDS_CONVERSION)
