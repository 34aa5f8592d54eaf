// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of the conversion of guest_memfd files that are in several memslots or in
 * none, or are larger than memory.
 */
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "guest_memfd_conversions.h"

/*
 * One file in several slots.  In the guest, the slots are back to front, and a part
 * of the file is in no slot at all.
 */
FIXTURE(slots)
{
	struct test_file f;
};

static const struct {
	int first, nr, gfn;
} slots[] = {
	{ 0, 16, 128 },
	{ 16, 1, 127 },
	{ 17, 7, 64 },
	/* 24 to 39 are in no slot. */
	{ 40, 24, 0 },
};

#define UNBOUND_PAGES	page_mask(24, 16)

FIXTURE_SETUP(slots)
{
	struct test_file *f = &self->f;
	int i;

	__test_file_create(f, GUEST_MEMFD_FLAG_MMAP);
	f->mem = kvm_mmap(TEST_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd);
	for (i = 0; i < ARRAY_SIZE(slots); i++) {
		u64 gpa = TEST_GPA + slots[i].gfn * PAGE_SIZE;

		__vm_mem_add(f->vm, VM_MEM_SRC_ANONYMOUS, gpa, TEST_SLOT + i, slots[i].nr,
			     KVM_MEM_GUEST_MEMFD, f->fd, slots[i].first * PAGE_SIZE,
			     GUEST_MEMFD_FLAG_MMAP);
		test_file_map(f, gpa, slots[i].first, slots[i].nr);
	}
}

FIXTURE_TEARDOWN(slots)
{
	test_file_free(&self->f);
}

TEST_F(slots, convert_across_slots)
{
	static const struct {
		int first, nr;
	} ranges[] = {
		{ 0, NR_PAGES }, { 15, 3 }, { 16, 1 }, { 10, 20 }, { 24, 16 }, { 23, 18 },
		{ 30, 4 }, { 30, NR_PAGES - 30 }, { 0, 24 },
	};
	struct test_file *f = &self->f;
	int i, private;

	guest_write(f, ~UNBOUND_PAGES);
	for (i = 0; i < ARRAY_SIZE(ranges); i++) {
		u64 mask = page_mask(ranges[i].first, ranges[i].nr) & ~UNBOUND_PAGES;

		for (private = 0; private < 2; private++) {
			u64 before;

			set_all(f, !private);
			guest_check(f, ~UNBOUND_PAGES);
			convert(f, ranges[i].first, ranges[i].nr, private);
			before = nr_faults(f);
			guest_check(f, ~mask & ~UNBOUND_PAGES);
			assert_faults(f, before, 0);
			guest_check(f, mask);
			assert_faults(f, before, __builtin_popcountll(mask));
			host_check(f, ALL_PAGES);
		}
		host_write(f, ~f->private);
	}
}

/*
 * All of the slot's memory is in the file, whether the memory is shared or private,
 * and whether the file can be mapped or not.  KVM ignores the memory at the slot's
 * userspace address.
 */
TEST_F(slots, memory_is_in_the_file_only)
{
	const u64 gpa = TEST_GPA + 256 * PAGE_SIZE;
	struct test_file *f = &self->f;
	char *hva = kvm_mmap(TEST_SIZE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1);
	int i;

	memset(hva, 0xa5, TEST_SIZE);
	close(f->fd);
	f->fd = vm_create_guest_memfd(f->vm, TEST_SIZE, 0);
	vm_set_user_memory_region2(f->vm, TEST_SLOT + ARRAY_SIZE(slots), KVM_MEM_GUEST_MEMFD,
				   gpa, TEST_SIZE, hva, f->fd, 0);
	test_file_map(f, gpa, 0, NR_PAGES);

	set_shared(f, 0, 32);
	guest_check(f, ALL_PAGES);
	guest_write(f, ALL_PAGES);
	TEST_ASSERT_EQ(allocated_pages(f), ALL_PAGES);
	set_private(f, 16, 16);
	set_shared(f, 48, 16);
	guest_check(f, ALL_PAGES);
	guest_write(f, ALL_PAGES);

	for (i = 0; i < TEST_SIZE; i++)
		TEST_ASSERT_EQ((u8)hva[i], 0xa5);
	kvm_munmap(hva, TEST_SIZE);
	guest_check(f, ALL_PAGES);
}

TEST_F(slots, state_precedes_slot)
{
	const int first = 24, nr = 16;
	struct test_file *f = &self->f;
	u64 gpa = TEST_GPA + 256 * PAGE_SIZE, before;

	set_shared(f, 20, 12);
	host_write(f, page_mask(20, 12));
	set_private(f, 28, 8);

	__vm_mem_add(f->vm, VM_MEM_SRC_ANONYMOUS, gpa, TEST_SLOT + ARRAY_SIZE(slots), nr,
		     KVM_MEM_GUEST_MEMFD, f->fd, first * PAGE_SIZE, GUEST_MEMFD_FLAG_MMAP);
	test_file_map(f, gpa, first, nr);
	before = nr_faults(f);
	guest_check(f, page_mask(first, nr));
	assert_faults(f, before, nr);
	check(f, ALL_PAGES);
	set_private(f, 20, 8);
	assert_unmapped(f, page_mask(20, 8));
	host_check(f, ALL_PAGES);
}

/* A large file has many pages, and pages that are not touched cost nothing. */
FIXTURE(large)
{
	struct test_file f;
};

FIXTURE_SETUP(large)
{
	__test_file_create(&self->f, GUEST_MEMFD_FLAG_MMAP);
}

FIXTURE_TEARDOWN(large)
{
	test_file_free(&self->f);
}

static void create_large(struct test_file *f, u64 size)
{
	close(f->fd);
	f->fd = vm_create_guest_memfd(f->vm, size, GUEST_MEMFD_FLAG_MMAP);
	f->mem = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, f->fd);
}

static const char *state_name(bool private)
{
	return private ? "private" : "shared";
}

static void assert_page_is(struct test_file *f, u64 page, bool private, const char *what)
{
	TEST_ASSERT(host_can_read(f, f->mem + page * PAGE_SIZE) == !private,
		    "Page 0x%lx should be %s after %s", page, state_name(private), what);
}

static void convert_pages(struct test_file *f, u64 first, u64 end, bool private)
{
	gmem_set_memory_attributes(f->fd, first * PAGE_SIZE, (end - first) * PAGE_SIZE,
				   private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0);
}

/* Convert random ranges, most of them with an edge at a power of two, and look at their edges. */
TEST_F(large, random_ranges)
{
	const u64 nr = SZ_4G / PAGE_SIZE;
	struct test_file *f = &self->f;
	unsigned char *private = malloc(nr);
	u32 seed = kvm_random_seed;
	int i, j;

	create_large(f, SZ_4G);
	memset(private, 1, nr);
	for (i = 0; i < 1000; i++) {
		u64 end = 1 + kvm_random_u64(&kvm_rng) % nr, first, probe[6];
		bool to_private = kvm_random_bool(&kvm_rng);

		if (kvm_random_bool(&kvm_rng))
			end = align_up(end, 1 << kvm_random_u32(&kvm_rng) % 20);
		first = kvm_random_u64(&kvm_rng) % end;
		if (kvm_random_bool(&kvm_rng))
			first = align_down(first, 1 << kvm_random_u32(&kvm_rng) % 20);
		if (kvm_random_bool(&kvm_rng))
			first = end - 1 - kvm_random_u64(&kvm_rng) % min_t(u64, end, 3);

		convert_pages(f, first, end, to_private);
		memset(private + first, to_private, end - first);

		probe[0] = first ? first - 1 : 0;
		probe[1] = first;
		probe[2] = end - 1;
		probe[3] = end < nr ? end : nr - 1;
		probe[4] = first + kvm_random_u64(&kvm_rng) % (end - first);
		probe[5] = kvm_random_u64(&kvm_rng) % nr;
		for (j = 0; j < ARRAY_SIZE(probe); j++)
			TEST_ASSERT(host_can_read(f, f->mem + probe[j] * PAGE_SIZE) ==
				    !private[probe[j]],
				    "Page 0x%lx should be %s after 0x%lx to 0x%lx became %s (seed %#x, round %d)",
				    probe[j], state_name(private[probe[j]]),
				    first, end, state_name(to_private), seed, i);
	}
	free(private);
	kvm_munmap(f->mem, SZ_4G);
}

/*
 * Have several blocks become uniform, or mixed, by one conversion; some blocks are
 * so before.  The kernel is likely to store the state block by block, whatever the
 * size of a block is.
 */
static void make_blocks_uniform(struct test_file *f, u64 nr, u64 block, u64 rest, bool private)
{
	const u64 last = 5 * block, end = last + rest;
	const u64 probes[] = {
		0, block / 2 - 1, block / 2, block - 1, block, 2 * block, 3 * block,
		last - 1, last, last + rest - 1,
	};
	int i;

	convert_pages(f, 0, nr, !private);
	/* Make the blocks mixed for a moment. */
	for (i = 1; i <= 5; i++) {
		convert_pages(f, i * block, i * block + 1, private);
		convert_pages(f, i * block, i * block + 1, !private);
	}
	convert_pages(f, 0, block / 2, private);
	assert_page_is(f, block / 2 - 1, private, "the first half block");
	assert_page_is(f, block / 2, !private, "the first half block");

	convert_pages(f, block / 2, end, private);
	for (i = 0; i < ARRAY_SIZE(probes); i++)
		assert_page_is(f, probes[i], private, "all of it");
	assert_page_is(f, end, !private, "all of it");

	convert_pages(f, block, end, !private);
	for (i = 0; i < ARRAY_SIZE(probes); i++)
		assert_page_is(f, probes[i], probes[i] < block ? private : !private,
			       "the way back");
	assert_page_is(f, end, !private, "the way back");
}

static void check_uniform_again(struct test_file *f, bool private)
{
	const u64 nr = 2ULL * SZ_1G / PAGE_SIZE;
	u64 block;

	create_large(f, nr * PAGE_SIZE);
	for (block = 2; block * 8 <= nr; block *= 2) {
		make_blocks_uniform(f, nr, block, block, private);
		make_blocks_uniform(f, nr, block, block / 2, private);
		make_blocks_uniform(f, nr, block, 1, private);
	}
	kvm_munmap(f->mem, nr * PAGE_SIZE);
}

TEST_F(large, uniform_again_shared)
{
	check_uniform_again(&self->f, false);
}

TEST_F(large, uniform_again_private)
{
	check_uniform_again(&self->f, true);
}

#define SZ_1T	(1024ULL * SZ_1G)

TEST_F(large, sparse)
{
	struct test_file *f = &self->f;
	const u64 page = SZ_1T / 2 + 13 * PAGE_SIZE;
	int i;

	create_large(f, SZ_1T);
	for (i = 0; i < 3; i++) {
		gmem_set_shared(f->fd, 0, SZ_1T);
		TEST_ASSERT(host_can_read(f, f->mem + SZ_1T - 1), "All should be shared");
		gmem_set_private(f->fd, page, PAGE_SIZE);
		TEST_ASSERT(host_can_read(f, f->mem + page - 1) &&
			    !host_can_read(f, f->mem + page) &&
			    host_can_read(f, f->mem + page + PAGE_SIZE),
			    "One page should be private");
		gmem_set_private(f->fd, 0, SZ_1T);
		TEST_ASSERT(!host_can_read(f, f->mem + page + PAGE_SIZE) &&
			    !host_can_read(f, f->mem + SZ_1T - 1),
			    "All should be private");
	}
	kvm_munmap(f->mem, SZ_1T);
}

/* A task that is killed during a conversion has converted all of the range or nothing. */
TEST_F(large, killed_while_converting)
{
	const u64 size = SZ_32M, nr = size / PAGE_SIZE;
	struct test_file *f = &self->f;
	int i, status;
	u64 page;

	create_large(f, size);
	kvm_fallocate(f->fd, FALLOC_FL_KEEP_SIZE, 0, size);

	for (i = 0; i < 10; i++) {
		u64 nr_shared = 0;
		pid_t pid = fork();

		TEST_ASSERT(pid >= 0, "fork() should succeed");
		if (!pid) {
			for (;;) {
				gmem_set_shared(f->fd, 0, size);
				if (i & 1)
					kvm_madvise(f->mem, size, MADV_POPULATE_WRITE);
				gmem_set_private(f->fd, 0, size);
			}
		}
		usleep(kvm_random_u32(&kvm_rng) % (300 * 1000));
		kill(pid, SIGKILL);
		TEST_ASSERT(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) &&
			    WTERMSIG(status) == SIGKILL,
			    "The child should be killed, not fail, status %#x", status);

		for (page = 0; page < nr; page++)
			nr_shared += host_can_read(f, f->mem + page * PAGE_SIZE);
		TEST_ASSERT(!nr_shared || nr_shared == nr,
			    "All of it should be converted or nothing, %lu of %lu pages are shared",
			    nr_shared, nr);

		/* The file can be used as before, and no page of it is held. */
		gmem_set_shared(f->fd, 0, size);
		write_tag(f->mem + i * PAGE_SIZE, i);
		gmem_set_private(f->fd, 0, size);
		TEST_ASSERT(!host_can_read(f, f->mem), "All should be private");
	}
	kvm_munmap(f->mem, size);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_GUEST_MEMFD));
	TEST_REQUIRE_GMEM_CONVERSION();

	return test_harness_run(argc, argv);
}
