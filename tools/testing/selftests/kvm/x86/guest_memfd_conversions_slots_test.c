// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of the conversion of guest_memfd files that are in several memslots or in
 * none, or are larger than memory.
 */
#include "guest_memfd_fixture.h"
#include "guest_memfd_conversions.h"

/*
 * One file in several slots.  In the guest, the slots are back to front, and a part
 * of the file is in no slot at all.
 */
#define _test_data_slots		gmem
#define _fixture_variant_slots		gmem_variant

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

/* Have @nr pages of the file in a slot at @gfn. */
static void bind_pages(struct gmem *self, u32 slot, u64 gfn, int first, int nr, void *hva)
{
	u64 gpa = TEST_GPA + gfn * PAGE_SIZE;

	vm_set_user_memory_region2(self->vm, slot, KVM_MEM_GUEST_MEMFD, gpa, nr * PAGE_SIZE, hva,
				   self->fd, first * PAGE_SIZE);
	set_gpa_of(gpa, first, nr);
}

static const char *setup_slots(struct gmem *self)
{
	int i;

	create_small_file(self, 0, false);
	for (i = 0; i < ARRAY_SIZE(slots); i++)
		bind_pages(self, TEST_SLOT + i, slots[i].gfn, slots[i].first, slots[i].nr,
			   addr_of(self, slots[i].first));
	return NULL;
}

GMEM_SMALL_FIXTURE(slots, setup_slots(self));

TEST_F(slots, convert_across_slots)
{
	static const struct {
		int first, nr;
	} ranges[] = {
		{ 0, NR_PAGES }, { 15, 3 }, { 16, 1 }, { 10, 20 }, { 24, 16 }, { 23, 18 },
		{ 30, 4 }, { 30, NR_PAGES - 30 }, { 0, 24 },
	};
	int i, private;

	guest_write_set(self, ~UNBOUND_PAGES);
	for (i = 0; i < ARRAY_SIZE(ranges); i++) {
		u64 mask = page_mask(ranges[i].first, ranges[i].nr) & ~UNBOUND_PAGES;

		for (private = 0; private < 2; private++) {
			set_all(self, !private);
			guest_check_set(self, ~UNBOUND_PAGES);
			convert(self, ranges[i].first, ranges[i].nr, private);
			__assert_unmapped(self, mask, ~UNBOUND_PAGES, __LINE__);
			host_check_set(self, ALL_PAGES);
		}
		host_write_set(self, ~private_pages(self));
	}
}

/*
 * All of the slot's memory is in the file, whether the memory is shared or private,
 * and whether the file can be mapped or not.  KVM ignores the memory at the slot's
 * userspace address.
 */
TEST_F(slots, memory_is_in_the_file_only)
{
	char *hva = kvm_mmap(TEST_SIZE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1);
	int i;

	memset(hva, 0xa5, TEST_SIZE);
	close(self->fd);
	self->fd = vm_create_guest_memfd(self->vm, TEST_SIZE, 0);
	bind_pages(self, TEST_SLOT + ARRAY_SIZE(slots), 256, 0, NR_PAGES, hva);

	set_shared(0, 32);
	guest_check_set(self, ALL_PAGES);
	guest_write_set(self, ALL_PAGES);
	TEST_ASSERT_EQ(allocated_pages(self), ALL_PAGES);
	set_private(16, 16);
	set_shared(48, 16);
	guest_check_set(self, ALL_PAGES);
	guest_write_set(self, ALL_PAGES);

	for (i = 0; i < TEST_SIZE; i++)
		TEST_ASSERT_EQ((u8)hva[i], 0xa5);
	kvm_munmap(hva, TEST_SIZE);
	guest_check_set(self, ALL_PAGES);
}

TEST_F(slots, state_precedes_slot)
{
	const int first = 24, nr = 16;
	u64 before;

	set_shared(20, 12);
	host_write_set(self, page_mask(20, 12));
	set_private(28, 8);

	bind_pages(self, TEST_SLOT + ARRAY_SIZE(slots), 256, first, nr, addr_of(self, first));
	before = nr_faults(self);
	guest_check_set(self, page_mask(first, nr));
	assert_faults(before, nr);
	check(self, ALL_PAGES);
	set_private(20, 8);
	assert_unmapped(page_mask(20, 8));
	host_check_set(self, ALL_PAGES);
}

/* A large file has many pages, and pages that are not touched cost nothing. */
#define _test_data_large		gmem
#define _fixture_variant_large		gmem_variant

GMEM_SMALL_FIXTURE(large, create_small_file(self, 0, false));

static void create_large(struct gmem *self, u64 size)
{
	close(self->fd);
	self->fd = vm_create_guest_memfd(self->vm, size, GUEST_MEMFD_FLAG_MMAP);
	self->mem = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, self->fd);
}

static const char *state_name(bool private)
{
	return private ? "private" : "shared";
}

static void assert_page_is(struct gmem *self, u64 page, bool private, const char *what)
{
	TEST_ASSERT(host_can_read(self, page) == !private,
		    "Page 0x%lx should be %s after %s", page, state_name(private), what);
}

/* Convert random ranges, most of them with an edge at a power of two, and look at their edges. */
TEST_F(large, random_ranges)
{
	const u64 nr = SZ_4G / PAGE_SIZE;
	unsigned char *private = malloc(nr);
	u32 seed = kvm_random_seed;
	int i, j;

	create_large(self, SZ_4G);
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

		convert_fd(self->fd, first, end - first, to_private);
		memset(private + first, to_private, end - first);

		probe[0] = first ? first - 1 : 0;
		probe[1] = first;
		probe[2] = end - 1;
		probe[3] = end < nr ? end : nr - 1;
		probe[4] = first + kvm_random_u64(&kvm_rng) % (end - first);
		probe[5] = kvm_random_u64(&kvm_rng) % nr;
		for (j = 0; j < ARRAY_SIZE(probe); j++)
			TEST_ASSERT(host_can_read(self, probe[j]) ==
				    !private[probe[j]],
				    "Page 0x%lx should be %s after 0x%lx to 0x%lx became %s (seed %#x, round %d)",
				    probe[j], state_name(private[probe[j]]),
				    first, end, state_name(to_private), seed, i);
	}
	free(private);
	kvm_munmap(self->mem, SZ_4G);
}

/*
 * Have several blocks become uniform, or mixed, by one conversion; some blocks are
 * so before.  The kernel is likely to store the state block by block, whatever the
 * size of a block is.
 */
static void make_blocks_uniform(struct gmem *self, u64 nr, u64 block, u64 rest, bool private)
{
	const u64 last = 5 * block, end = last + rest;
	const u64 probes[] = {
		0, block / 2 - 1, block / 2, block - 1, block, 2 * block, 3 * block,
		last - 1, last, last + rest - 1,
	};
	int i;

	convert_fd(self->fd, 0, nr, !private);
	/* Make the blocks mixed for a moment. */
	for (i = 1; i <= 5; i++) {
		convert_fd(self->fd, i * block, 1, private);
		convert_fd(self->fd, i * block, 1, !private);
	}
	convert_fd(self->fd, 0, block / 2, private);
	assert_page_is(self, block / 2 - 1, private, "the first half block");
	assert_page_is(self, block / 2, !private, "the first half block");

	convert_fd(self->fd, block / 2, end - block / 2, private);
	for (i = 0; i < ARRAY_SIZE(probes); i++)
		assert_page_is(self, probes[i], private, "all of it");
	assert_page_is(self, end, !private, "all of it");

	convert_fd(self->fd, block, end - block, !private);
	for (i = 0; i < ARRAY_SIZE(probes); i++)
		assert_page_is(self, probes[i], probes[i] < block ? private : !private,
			       "the way back");
	assert_page_is(self, end, !private, "the way back");
}

static void check_uniform_again(struct gmem *self, bool private)
{
	const u64 nr = 2ULL * SZ_1G / PAGE_SIZE;
	u64 block;

	create_large(self, nr * PAGE_SIZE);
	for (block = 2; block * 8 <= nr; block *= 2) {
		make_blocks_uniform(self, nr, block, block, private);
		make_blocks_uniform(self, nr, block, block / 2, private);
		make_blocks_uniform(self, nr, block, 1, private);
	}
	kvm_munmap(self->mem, nr * PAGE_SIZE);
}

GMEM_TEST(large, uniform_again_shared, check_uniform_again(self, false))
GMEM_TEST(large, uniform_again_private, check_uniform_again(self, true))

#define SZ_1T	(1024ULL * SZ_1G)

TEST_F(large, sparse)
{
	const u64 page = SZ_1T / 2 + 13 * PAGE_SIZE;
	int i;

	create_large(self, SZ_1T);
	for (i = 0; i < 3; i++) {
		gmem_set_shared(self->fd, 0, SZ_1T);
		TEST_ASSERT(can_read(self->pipe, self->mem + SZ_1T - 1), "All should be shared");
		gmem_set_private(self->fd, page, PAGE_SIZE);
		TEST_ASSERT(can_read(self->pipe, self->mem + page - 1) &&
			    !can_read(self->pipe, self->mem + page) &&
			    can_read(self->pipe, self->mem + page + PAGE_SIZE),
			    "One page should be private");
		gmem_set_private(self->fd, 0, SZ_1T);
		TEST_ASSERT(!can_read(self->pipe, self->mem + page + PAGE_SIZE) &&
			    !can_read(self->pipe, self->mem + SZ_1T - 1),
			    "All should be private");
	}
	kvm_munmap(self->mem, SZ_1T);
}

/* A task that is killed during a conversion has converted all of the range or nothing. */
TEST_F(large, killed_while_converting)
{
	const u64 size = SZ_32M, nr = size / PAGE_SIZE;
	u64 page;
	int i;

	create_large(self, size);
	allocate_fd(self->fd, 0, size);

	for (i = 0; i < 10; i++) {
		u64 nr_shared = 0;
		pid_t pid = kvm_fork();

		if (!pid) {
			for (;;) {
				gmem_set_shared(self->fd, 0, size);
				if (i & 1)
					kvm_madvise(self->mem, size, MADV_POPULATE_WRITE);
				gmem_set_private(self->fd, 0, size);
			}
		}
		usleep(kvm_random_u32(&kvm_rng) % (300 * 1000));
		kill_child(pid);

		for (page = 0; page < nr; page++)
			nr_shared += host_can_read(self, page);
		TEST_ASSERT(!nr_shared || nr_shared == nr,
			    "All of it should be converted or nothing, %lu of %lu pages are shared",
			    nr_shared, nr);

		/* The file can be used as before, and no page of it is held. */
		gmem_set_shared(self->fd, 0, size);
		*word_of(self, i) = i;
		gmem_set_private(self->fd, 0, size);
		TEST_ASSERT(!can_read(self->pipe, self->mem), "All should be private");
	}
	kvm_munmap(self->mem, size);
}

GMEM_TEST_MAIN(NEEDS_CONVERSION)
