// SPDX-License-Identifier: GPL-2.0-only
/*
 * Let a protected guest of pKVM live in a guest_memfd file of huge pages.
 *
 * The hypervisor gives the guest blocks of 2M where the folio has them, splits a block when
 * a page of it is taken back, and never lets the guest read zeroes where it had data.  All
 * that the tests know of blocks comes from the hypervisor's own tables.
 */
#include "guest_memfd_fixture.h"
#include "memory_failure.h"
#include "pkvm_guest.h"

#define _test_data_pkvm_huge		gmem
#define _fixture_variant_pkvm_huge	gmem_variant

static const char *setup(struct gmem *self, const struct gmem_variant *variant)
{
	const char *missing = missing_for_protected_vms();

	return missing ? missing : gmem_setup_counted(self, variant);
}

GMEM_FIXTURE_SETUP(pkvm_huge, setup(self, variant));

/* The processes of the test are gone, and the tables of their guests. */
FIXTURE_TEARDOWN_PARENT(pkvm_huge)
{
	EXPECT_NOTHING_LEFT_BEHIND();
	EXPECT_EQ(self->counters.sec_page_tables, settled_sec_page_tables(&self->counters));
}

GMEM_VARIANT_OF_UNITS(pkvm_huge, 64k, 16, 64);
GMEM_VARIANT_OF_UNITS(pkvm_huge, 2m, 21, 4);
GMEM_VARIANT_OF_UNITS(pkvm_huge, 32m, 25, 2);
GMEM_VARIANT_OF_UNITS(pkvm_huge, 1g, 30, 1);

static void open_vm(struct gmem *self)
{
	self->vm = create_protected_vm(self->vcpus, 2, self->nr_pages);
	self->vcpu = self->vcpus[0];
	self->fd = gmem_create(self, GUEST_MEMFD_FLAG_MMAP);
	self->mem = gmem_map(self, self->fd);
	add_slot(self->vm, TEST_GPA, self->size, self->mem, self->fd, 0);
	kvm_pipe(self->pipe);
}

static bool has_blocks(struct gmem *self)
{
	return self->unit >= SZ_2M;
}

static void guest_write_all(struct gmem *self)
{
	assert_pkvm_do(self->vcpu, PKVM_WRITE, 0, self->nr_pages, TAG(0), 0);
}

static void assert_vcpu_has(struct kvm_vcpu *vcpu, u64 first, u64 nr)
{
	assert_pkvm_do(vcpu, PKVM_CHECK, first, nr, TAG(first), 0);
}

static void assert_guest_has(struct gmem *self, u64 first, u64 nr)
{
	assert_vcpu_has(self->vcpu, first, nr);
	assert_vcpu_has(self->vcpus[1], first, nr);
}

/* A block is split for one page that is lost, and the guest keeps the others. */
static void assert_guest_has_all_but(struct gmem *self, u64 page)
{
	if (has_blocks(self))
		assert_pkvm_entries(self->vm, 0, self->nr_pages,
				    .owned_2m = self->size / SZ_2M - 1,
				    .owned_4k = PAGES_2M - 1, .poisoned_4k = 1);
	else
		assert_pkvm_entries(self->vm, 0, self->nr_pages, .owned_4k = self->nr_pages - 1,
				    .poisoned_4k = 1);
	assert_guest_has(self, 0, page);
	assert_guest_has(self, page + 1, self->nr_pages - page - 1);
}

/* One access to each 2M, and the guest has all of it, by blocks. */
TEST_F(pkvm_huge, blocks)
{
	const u64 nr_touched = DIV_ROUND_UP(self->nr_pages - 7, PAGES_2M);
	u64 page;

	open_vm(self);
	for (page = 7; page < self->nr_pages; page += PAGES_2M)
		assert_pkvm_do(self->vcpu, PKVM_WRITE, page, 1, TAG(page), 0);
	if (has_blocks(self))
		assert_pkvm_entries(self->vm, 0, self->nr_pages, .owned_2m = self->size / SZ_2M);
	else
		assert_pkvm_entries(self->vm, 0, self->nr_pages, .owned_4k = nr_touched);
	assert_pool(has_blocks(self) ? self->nr : nr_touched,
		    has_blocks(self) ? 0 : self->nr - nr_touched);

	guest_write_all(self);
	assert_guest_has(self, 0, self->nr_pages);
	if (!has_blocks(self))
		assert_pkvm_entries(self->vm, 0, self->nr_pages, .owned_4k = self->nr_pages);
}

/* The host takes one page: the guest keeps all others. */
TEST_F(pkvm_huge, punch_page)
{
	const u64 page = self->unit_pages / 2 + 3;

	open_vm(self);
	guest_write_all(self);
	punch_fd(self->fd, page * page_size, page_size);

	assert_pool(self->nr, 0);
	assert_guest_has_all_but(self, page);
	assert_pkvm_lost(self->vcpu, page);
	assert_pkvm_lost(self->vcpus[1], page);
	assert_pkvm_agrees(self->vm);
}

/* Huge pages that leave the file are back in the pool at once, although the VM lives. */
TEST_F(pkvm_huge, punch_unit)
{
	const long nr_2m = self->unit / SZ_2M;

	open_vm(self);
	guest_write_all(self);
	punch_fd(self->fd, 0, self->unit);

	assert_pool(self->nr - 1, 1);
	if (has_blocks(self))
		assert_pkvm_entries(self->vm, 0, self->unit_pages, .poisoned_2m = nr_2m);
	else
		assert_pkvm_entries(self->vm, 0, self->unit_pages, .poisoned_4k = self->unit_pages);
	if (self->nr > 1)
		assert_guest_has(self, self->unit_pages, self->nr_pages - self->unit_pages);
	assert_pkvm_lost(self->vcpu, 0);
	assert_pkvm_lost(self->vcpus[1], self->unit_pages - 1);
}

TEST_F(pkvm_huge, close)
{
	open_vm(self);
	guest_write_all(self);
	kvm_munmap(self->mem, self->size);
	close(self->fd);
	assert_pool(0, 0);
	assert_pkvm_lost(self->vcpu, 0);
	assert_pkvm_lost(self->vcpus[1], self->nr_pages - 1);
	assert_pkvm_agrees(self->vm);
}

/* The next memslot at the same place doesn't fill the gap. */
TEST_F(pkvm_huge, delete_slot)
{
	open_vm(self);
	guest_write_all(self);
	assert_guest_has(self, 0, self->nr_pages);
	delete_slot(self->vm, TEST_GPA);
	assert_pool(self->nr, 0);
	assert_pkvm_lost(self->vcpu, 1);
	add_slot(self->vm, TEST_GPA, self->size, self->mem, self->fd, 0);
	assert_pkvm_lost(self->vcpu, 1);
	assert_pkvm_lost(self->vcpus[1], self->nr_pages - 1);
	convert_fd(self->fd, 0, self->nr_pages, false);
	TEST_ASSERT_EQ(*word_of(self, 0), 0);
	TEST_ASSERT_EQ(*last_word_of(self, self->nr_pages - 1), 0);
	assert_pkvm_agrees(self->vm);
}

/* The guest owns one half of a unit; the other half converts as it likes. */
TEST_F(pkvm_huge, convert_rest)
{
	const u64 half = self->unit_pages / 2;
	const u64 step = self->unit < SZ_1G ? 1 : 997;
	u64 offset = -1, page;

	open_vm(self);
	/* A shared page splits the unit, so that the guest can't get all of it. */
	convert_fd(self->fd, half, half, false);
	*word_of(self, half) = TAG(half);
	assert_pkvm_do(self->vcpu, PKVM_WRITE, 0, half, TAG(0), 0);
	assert_guest_has(self, 0, half);

	convert_fd(self->fd, half + 1, half - 1, true);
	TEST_ASSERT_EQ(try_convert(self->fd, 0, self->unit_pages, false, &offset), -EPERM);
	TEST_ASSERT_EQ(offset, 0);
	TEST_ASSERT_EQ(*word_of(self, half), TAG(half));

	convert_fd(self->fd, half, 1, true);
	for (page = half; page < self->unit_pages; page += step)
		assert_pkvm_do(self->vcpu, PKVM_WRITE, page, 1, TAG(page), 0);
	for (page = half; page < self->unit_pages; page += step)
		assert_guest_has(self, page, 1);
	assert_guest_has(self, 0, half);
	TEST_ASSERT_EQ(try_convert(self->fd, half, 1, false, &offset), -EPERM);
	TEST_ASSERT_EQ(offset, half * page_size);
	assert_pkvm_agrees(self->vm);
}

/*
 * Memory fails that the guest owns.  It loses the page that has failed, and no other.  The
 * huge page doesn't return to the pool, which is why this is the last test.
 */
TEST_F(pkvm_huge, poison)
{
	const u64 page = self->unit_pages / 2 + 3;
	u64 offset = -1, pfn;

	if (!can_inject_memory_failure())
		SKIP(return, "No memory failure");

	open_vm(self);
	convert_fd(self->fd, page, 1, false);
	*word_of(self, page) = 0;
	pfn = read_pagemap_pfn(word_of(self, page));
	convert_fd(self->fd, page, 1, true);
	guest_write_all(self);
	self->nr_lost = 1;
	TEST_ASSERT_EQ(write_pfn(CORRUPT_PFN, pfn), 0);
	TEST_ASSERT(is_marked_poisoned(pfn), "The page hasn't failed");

	assert_guest_has_all_but(self, page);
	assert_pkvm_error(self->vcpu, page, EHWPOISON, KVM_EXIT_MEMORY_FAULT);
	TEST_ASSERT_EQ(self->vcpu->run->memory_fault.gpa, gpa_of(page));

	/* It isn't the guest's any more, but of no use for the host, either. */
	TEST_ASSERT_EQ(try_convert(self->fd, 0, self->unit_pages, false, &offset), -EPERM);
	TEST_ASSERT_EQ(offset, 0);
	convert_fd(self->fd, page, 1, false);
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*word_of(self, page)));
	assert_vcpu_has(self->vcpus[1], page + 1, 1);
	assert_pkvm_agrees(self->vm);
}

GMEM_TEST_MAIN(NEEDS_HUGETLB)
