// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory failure in HugeTLB pages of guest_memfd files that are split.
 *
 * A piece with a page that has failed is split around that page, which neither host nor
 * guest get to see again.  The rest of the huge page is as good as before.  When the huge
 * page leaves the file, it leaves the pool as well, and the system has one more page of 4K
 * after another but for the one that has failed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>

#include <linux/bitmap.h>
#include <linux/elf.h>
#include <linux/sizes.h>

#include "guest_memfd_poison.h"

FIXTURE_SETUP(reshape)
{
	const char *missing = setup_poison(1);

	if (missing)
		SKIP(return, "%s", missing);
}

TEST_F(reshape, shared_page)
{
	u64 pfn, page;

	guest_write(self, 0, self->nr_pages);
	set_shared(A_PAGE - 1, 3);
	for (page = A_PAGE - 1; page <= A_PAGE + 1; page++)
		host_fill(self, page);
	guest_check(self, A_PAGE - 1, 3);
	pfn = poison(self, A_PAGE);
	TEST_ASSERT_EQ(read_pagemap_pfn(word_of(self, A_PAGE)), 0);
	TEST_ASSERT(is_marked_poisoned(pfn), "pfn 0x%lx should be marked", pfn);

	/* Host and guest had it mapped, and haven't any more. */
	host_is_told(self, A_PAGE);
	host_check_filled(self, A_PAGE - 1);
	host_check_filled(self, A_PAGE + 1);
	check_poisoned_file(self);

	/* A new mapping knows as much as the one that was there when it failed. */
	unmap_from_host(self, A_PAGE - 1, 3);
	host_is_told(self, A_PAGE);
	host_check_filled(self, A_PAGE - 1);

	/* A hole that isn't as large as the unit is for zeroes. */
	punch(self, A_PAGE - 1, 3);
	host_check(self, A_PAGE - 1);
	host_check(self, A_PAGE + 1);
	check_poisoned_file(self);
	close_and_assert_lost(pfn);
}

TEST_F(reshape, private_page)
{
	u64 pfn;

	guest_write(self, 0, self->nr_pages);
	set_shared(A_PAGE + 1, 1);
	host_fill(self, A_PAGE + 1);
	pfn = poison(self, A_PAGE);

	guest_is_told(self, A_PAGE);
	host_check_filled(self, A_PAGE + 1);
	check_poisoned_file(self);

	/* The page is in the way of nothing. */
	set_shared(A_PAGE - 1, 2);
	host_check(self, A_PAGE - 1);
	host_check_filled(self, A_PAGE + 1);
	check_poisoned_file(self);
	set_private(A_PAGE - 1, 3);
	check_poisoned_file(self);
	close_and_assert_lost(pfn);
}

/* A page of a piece that may be mapped as a whole, unless a page of it has failed. */
static void test_large_piece(struct reshape_fixture *self, u64 page, bool use_first)
{
	const u64 shared = self->unit_pages - 1;
	u64 pfn;

	guest_write(self, 0, self->nr_pages);
	set_shared(shared, 1);
	host_fill(self, shared);
	guest_check(self, 0, self->nr_pages);
	pfn = poison(self, page);

	/*
	 * Either those that are next to it are first to be used, or the page itself is.
	 * Where all are mapped one by one they stay mapped, and that changes nothing.
	 */
	if (use_first) {
		guest_check(self, page + 1, 1);
		if (self->unit == SZ_1G)
			TEST_ASSERT_LAYOUT(&self->model);
	}
	check_poisoned_file(self);
	guest_write(self, page + 1, 100);
	host_check_filled(self, shared);

	/* A hole that isn't as large as the unit is for zeroes. */
	punch(self, page, 2);
	check_poisoned_file(self);
	punch(self, page + 1, 20);
	check_poisoned_file(self);
	close_and_assert_lost(pfn);
}

TEST_F(reshape, page_of_large_piece)
{
	test_large_piece(self, self->unit_pages / 4 + A_PAGE, true);
}

TEST_F(reshape, first_page_of_large_piece)
{
	test_large_piece(self, self->unit_pages / 4, false);
}

TEST_F(reshape, first_page_of_unit)
{
	test_large_piece(self, 0, true);
}

/* The first word of a page of the host, as /proc/kcore has it. */
static u64 read_kcore(int fd, u64 pfn)
{
	const u64 pa = pfn * PAGE_SIZE;
	struct elf64_phdr phdr;
	struct elf64_hdr ehdr;
	u64 word;
	int i;

	TEST_ASSERT_EQ(pread(fd, &ehdr, sizeof(ehdr), 0), sizeof(ehdr));
	for (i = 0; i < ehdr.e_phnum; i++) {
		TEST_ASSERT_EQ(pread(fd, &phdr, sizeof(phdr), ehdr.e_phoff + i * sizeof(phdr)),
			       sizeof(phdr));
		if (phdr.p_type != PT_LOAD || pa < phdr.p_paddr ||
		    pa - phdr.p_paddr >= phdr.p_memsz)
			continue;
		TEST_ASSERT_EQ(pread(fd, &word, sizeof(word), phdr.p_offset + pa - phdr.p_paddr),
			       sizeof(word));
		return word;
	}
	TEST_FAIL("pfn 0x%lx should be in /proc/kcore", pfn);
	return 0;
}

/* Who reads all of the host's memory leaves out what has failed, and nothing else of it. */
static void test_kcore(struct reshape_fixture *self, int fd, u64 pfn)
{
	TEST_ASSERT_EQ(read_kcore(fd, pfn - 1), self->tags[A_PAGE - 1]);
	TEST_ASSERT_EQ(read_kcore(fd, pfn), 0);
	TEST_ASSERT_EQ(read_kcore(fd, pfn + 1), self->tags[A_PAGE + 1]);
}

TEST_F(reshape, kcore)
{
	int fd = open("/proc/kcore", O_RDONLY);
	u64 pfn;

	if (fd < 0)
		SKIP(return, "needs CONFIG_PROC_KCORE");

	guest_write(self, 0, self->nr_pages);
	pfn = pfn_of_whole(self, A_PAGE);
	TEST_ASSERT_EQ(read_kcore(fd, pfn), self->tags[A_PAGE]);
	__poison(self, A_PAGE, pfn);
	/* As in 7.3, all of a huge page is left out as long as it is whole. */
	TEST_ASSERT_EQ(read_kcore(fd, pfn), 0);

	/* Split around it, and next to something else. */
	check_poisoned_file(self);
	test_kcore(self, fd, pfn);
	set_shared(A_PAGE - 2, 1);
	test_kcore(self, fd, pfn);
	close(fd);
	close_and_assert_lost(pfn);
}

/* The hole is what finds out that it has to split the piece. */
TEST_F(reshape, punch_large_piece)
{
	const u64 page = self->unit_pages / 4 + A_PAGE, shared = self->unit_pages - 1;
	u64 pfn;

	guest_write(self, 0, self->nr_pages);
	set_shared(shared, 1);
	pfn = poison(self, page);
	punch(self, page - 1, 3);
	TEST_ASSERT_LAYOUT(&self->model);
	check_poisoned_file(self);
	close_and_assert_lost(pfn);
}

/* A conversion of the page next to it is. */
TEST_F(reshape, convert_large_piece)
{
	const u64 page = self->unit_pages / 4 + A_PAGE, shared = self->unit_pages - 1;
	u64 pfn;

	guest_write(self, 0, self->nr_pages);
	set_shared(shared, 1);
	pfn = poison(self, page);
	set_shared(page + 1, 1);
	host_check(self, page + 1);
	host_check(self, page);
	set_shared(page - 1, 2);
	host_check(self, page - 1);
	check_poisoned_file(self);
	close_and_assert_lost(pfn);
}

/* A piece that is shared, and that the host has not used. */
TEST_F(reshape, shared_piece)
{
	const u64 page = self->unit_pages / 4 + A_PAGE;
	u64 pfn;

	guest_write(self, 0, self->nr_pages);
	set_shared(0, self->unit_pages / 2);
	guest_check(self, 0, self->nr_pages);
	pfn = poison(self, page);
	host_is_told(self, page);
	host_check(self, page + 1);
	check_poisoned_file(self);
	set_private(0, self->unit_pages / 2);
	check_poisoned_file(self);
	close_and_assert_lost(pfn);
}

/* All of a unit is private: everything is merged but the page, around which it is split. */
TEST_F(reshape, merge)
{
	const u64 nr = self->unit_pages, other = nr - 3;
	struct guestmem_unit before, after;
	u64 pfn;

	guest_write(self, 0, self->nr_pages);
	set_shared(A_PAGE, 1);
	set_shared(other, 1);
	host_fill(self, A_PAGE);
	host_fill(self, other);
	pfn = poison(self, A_PAGE);

	set_private(0, nr);
	TEST_ASSERT(guestmem_read_unit(self->fd, 0, nr, &before), "The unit should be split");
	TEST_ASSERT_EQ(before.pfn, pfn - A_PAGE);
	check_poisoned_file(self);

	/* The worker that tries to merge once more makes no difference. */
	sleep(2);
	TEST_ASSERT(guestmem_read_unit(self->fd, 0, nr, &after), "The unit should be split");
	TEST_ASSERT(!memcmp(before.order, after.order, nr), "All orders should be as before");

	/* All the way back and forth. */
	set_shared(0, nr);
	host_check_filled(self, other);
	host_is_told(self, A_PAGE);
	set_private(1, nr - 2);
	check_poisoned_file(self);
	set_private(0, nr);
	check_poisoned_file(self);
	close_and_assert_lost(pfn);
}

/* Next to a page that failed before, another one of the same piece fails. */
TEST_F(reshape, two_of_one_piece)
{
	const u64 first = self->unit_pages / 4, shared = self->unit_pages - 1;
	u64 pfn, other;

	guest_write(self, 0, self->nr_pages);
	set_shared(shared, 1);
	pfn = pfn_of(self, first + 3);
	other = pfn_of(self, first + A_PAGE);
	__poison(self, first + 3, pfn);
	__poison(self, first + A_PAGE, other);
	check_poisoned_file(self);
	__poison(self, first + 4, pfn + 1);
	check_poisoned_file(self);
	set_private(shared, 1);
	check_poisoned_file(self);

	close_reshape_file(self);
	assert_lost(0, 0);
	mend(pfn + 1);
	mend(other);
	assert_dissolved(self, pfn);
	mend(pfn);
}

/* The same page once more: nothing that was not known, and nothing that changes. */
TEST_F(reshape, twice)
{
	u64 pfn;
	long nr;

	set_shared(A_PAGE, 1);
	guest_write(self, 0, self->nr_pages);
	host_fill(self, A_PAGE);
	pfn = poison(self, A_PAGE);
	nr = nr_corrupted_pages();
	TEST_ASSERT_EQ(write_pfn(CORRUPT_PFN, pfn), EHWPOISON);
	TEST_ASSERT_EQ(nr_corrupted_pages(), nr);
	check_poisoned_file(self);
	TEST_ASSERT_EQ(write_pfn(CORRUPT_PFN, pfn), EHWPOISON);
	set_private(A_PAGE, 1);
	TEST_ASSERT_EQ(write_pfn(CORRUPT_PFN, pfn), EHWPOISON);
	TEST_ASSERT_EQ(nr_corrupted_pages(), nr);
	check_poisoned_file(self);
	close_and_assert_lost(pfn);
}

/* There's another one for the file. */
TEST_F(reshape, punched)
{
	const char *missing = missing_spare_unit(self);
	u64 pfn;

	if (missing)
		SKIP(return, "%s", missing);
	set_shared(A_PAGE, 1);
	guest_write(self, 0, self->nr_pages);
	host_fill(self, A_PAGE);
	pfn = poison(self, A_PAGE);
	punch(self, 0, self->unit_pages);
	assert_lost(self->nr - 1, 1);
	assert_dissolved(self, pfn);

	/* As if nothing had happened, but for the page table, which remembers. */
	kvm_munmap(self->mem, self->size);
	TEST_ASSERT(mmap(self->mem, self->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			 self->fd, 0) == self->mem, "mmap() should succeed");
	host_check(self, A_PAGE);
	guest_check(self, 0, self->unit_pages);
	assert_lost(self->nr, 0);
	host_fill(self, A_PAGE);
	guest_check_filled(self, A_PAGE);
	TEST_ASSERT(pfn_of(self, A_PAGE) != pfn, "It should be another huge page");
	TEST_ASSERT_LAYOUT(&self->model);
	__convert(self, A_PAGE, 1, true);
	assert_nr_folios(0, 1);
	TEST_ASSERT_LAYOUT(&self->model);
	close_and_assert_lost(pfn);
}

/* There is none: the file has to do without. */
TEST_F(reshape, punched_and_not_replaced)
{
	long hogged = hugetlb_available(&self->pool) - self->nr;
	void *hog;
	u64 pfn;

	set_shared(A_PAGE, 1);
	guest_write(self, 0, self->nr_pages);
	host_fill(self, A_PAGE);
	unmap_from_host(self, A_PAGE, 1);
	hog = hogged ? hugetlb_hog(self->unit, hogged, -1) : NULL;
	pfn = poison(self, A_PAGE);
	punch(self, 0, self->unit_pages);
	assert_lost(hogged + self->nr - 1, 0);
	TEST_ASSERT(fallocate(self->fd, FALLOC_FL_KEEP_SIZE, 0, PAGE_SIZE) && errno == ENOSPC,
		    "fallocate() should fail with ENOSPC, errno %d", errno);
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*word_of(self, A_PAGE)));
	assert_lost(hogged + self->nr - 1, 0);

	/* One of them will do. */
	punch(self, self->nr_pages - self->unit_pages, self->unit_pages);
	assert_lost(hogged + self->nr - 2, 1);
	host_check(self, A_PAGE);
	assert_lost(hogged + self->nr - 1, 0);
	if (hogged)
		hugetlb_unhog(hog, self->unit, hogged);
	close_and_assert_lost(pfn);
}

TEST_F(reshape, closed)
{
	u64 pfn;

	set_shared(A_PAGE, 1);
	host_fill(self, A_PAGE);
	pfn = poison(self, A_PAGE);
	close_reshape_file(self);
	kvm_vm_free(self->vm);
	assert_lost(0, 0);
	assert_dissolved(self, pfn);
	mend(pfn);
}

/* It fails when it isn't the file's any more, but a pipe still has it. */
TEST_F(reshape, held_after_punch)
{
	struct holder h = {};
	u64 pfn = hold_and_punch(self, &h);

	assert_nr_allocated(1);

	poison_pfn(pfn);
	assert_nr_allocated(1);
	TEST_ASSERT_EQ(write_pfn(CORRUPT_PFN, pfn), EHWPOISON);
	self->nr_lost = 1;
	vmsplice_release(&h);
	guestmem_settle();
	/* The file has a promise of as many as before, as long as there is one to spare. */
	assert_lost(0, missing_spare_unit(self) ? self->nr - 1 : self->nr);
	assert_dissolved(self, pfn);

	/* All others are there. */
	allocate(self, self->unit_pages, self->nr_pages - self->unit_pages);
	close_and_assert_lost(pfn);
}

/* As above, but the page that fails is back already and waits for the other one. */
TEST_F(reshape, waits_for_held)
{
	struct holder h = {};
	u64 pfn = hold_and_punch(self, &h) + 1;

	poison_pfn(pfn);
	self->nr_lost = 1;
	vmsplice_release(&h);
	guestmem_settle();
	assert_lost(0, missing_spare_unit(self) ? self->nr - 1 : self->nr);
	close_and_assert_lost(pfn);
}

/* First it fails, then another page is held, and then it has been the file's. */
TEST_F(reshape, held_before_punch)
{
	struct holder h = {};
	u64 pfn;

	set_shared(A_PAGE, 2);
	host_fill(self, A_PAGE);
	host_fill(self, A_PAGE + 1);
	pfn = poison(self, A_PAGE + 1);
	hold_page(self, &h, A_PAGE);
	punch(self, 0, self->unit_pages);
	vmsplice_release(&h);
	guestmem_settle();
	assert_lost(0, missing_spare_unit(self) ? self->nr - 1 : self->nr);
	close_and_assert_lost(pfn);
}

TEST_F(reshape, held_after_close)
{
	struct holder h = {};
	u64 pfn;

	set_shared(A_PAGE, 1);
	host_fill(self, A_PAGE);
	hold_page(self, &h, A_PAGE);
	pfn = pfn_of(self, A_PAGE);
	close_reshape_file(self);
	kvm_vm_free(self->vm);
	poison_pfn(pfn);
	self->nr_lost = 1;
	vmsplice_release(&h);
	guestmem_settle();
	assert_lost(0, 0);
	assert_dissolved(self, pfn);
	mend(pfn);
}

/* The task that has a page mapped says that it has failed. */
TEST_F(reshape, madvise)
{
	struct sigbus_seen seen;
	u64 pfn;

	set_shared(A_PAGE - 1, 3);
	host_fill(self, A_PAGE - 1);
	host_fill(self, A_PAGE);
	host_fill(self, A_PAGE + 1);
	pfn = pfn_of(self, A_PAGE);
	sigbus_start();
	TEST_ASSERT(!madvise(word_of(self, A_PAGE), PAGE_SIZE, MADV_HWPOISON),
		    "MADV_HWPOISON should succeed, errno %d", errno);
	seen = sigbus_take();
	guestmem_model_poison(&self->model, A_PAGE);
	self->nr_lost = 1;
	TEST_ASSERT_EQ(seen.nr, 1);
	TEST_ASSERT_EQ(seen.code, BUS_MCEERR_AR);
	TEST_ASSERT_EQ(seen.addr, (uintptr_t)word_of(self, A_PAGE));
	TEST_ASSERT_EQ(seen.lsb, PAGE_SHIFT);

	host_is_told(self, A_PAGE);
	host_check_filled(self, A_PAGE - 1);
	host_check_filled(self, A_PAGE + 1);
	check_poisoned_file(self);

	/* No reference is left behind that would make this fail. */
	set_private(A_PAGE, 1);
	set_shared(A_PAGE, 1);
	host_is_told(self, A_PAGE);
	punch(self, 0, self->unit_pages);
	guestmem_settle();
	close_and_assert_lost(pfn);
}

/* A pin of the page next to it is in the way of its own page's conversion alone. */
TEST_F(reshape, pinned_neighbour)
{
	struct holder h = {};
	u64 pfn, error_offset;

	guest_write(self, 0, self->nr_pages);
	set_shared(A_PAGE, 2);
	host_fill(self, A_PAGE);
	host_fill(self, A_PAGE + 1);
	hold_page(self, &h, A_PAGE + 1);
	pfn = poison(self, A_PAGE);
	host_is_told(self, A_PAGE);
	set_private(A_PAGE, 1);
	TEST_ASSERT(__gmem_set_private(self->fd, A_PAGE * PAGE_SIZE, 2 * PAGE_SIZE,
				       &error_offset) && errno == EAGAIN,
		    "Conversion should fail with EAGAIN, errno %d", errno);
	TEST_ASSERT_EQ(error_offset, (A_PAGE + 1) * PAGE_SIZE);
	vmsplice_release(&h);
	set_private(A_PAGE, 2);
	check_poisoned_file(self);
	close_and_assert_lost(pfn);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE_GUEST_MEMFD_HUGETLB();
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(VM_TYPE_PRIVATE));

	return test_harness_run(argc, argv);
}
