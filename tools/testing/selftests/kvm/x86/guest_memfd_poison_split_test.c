// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of memory failure in HugeTLB pages of guest_memfd files that are split.
 *
 * The kernel splits a piece around a page that has failed.  Neither host nor guest get to see
 * that page again, but can use the rest of the huge page as before.  When the huge page
 * leaves the file, it leaves the pool as well, and all of its 4K pages but the failed one
 * become ordinary memory of the system.
 */
#include "guest_memfd_fixture.h"
#include "guest_memfd_poison.h"

GMEM_RESHAPE_FIXTURE(setup_poison(self, variant, 1));

TEST_F(reshape, shared_page)
{
	u64 pfn;

	guest_write(self, 0, self->nr_pages);
	share_and_fill(self, A_PAGE - 1, 3);
	guest_check(self, A_PAGE - 1, 3);
	pfn = poison(self, A_PAGE);
	TEST_ASSERT_EQ(read_pagemap_pfn(word_of(self, A_PAGE)), 0);
	TEST_ASSERT(is_marked_poisoned(pfn), "pfn 0x%lx should be marked", pfn);

	/* Host and guest had the page mapped, and haven't any more. */
	host_is_told(self, A_PAGE);
	host_check_filled(self, A_PAGE - 1);
	host_check_filled(self, A_PAGE + 1);
	check_poisoned_file(self);

	/* A new mapping raises the same SIGBUS as the mapping that existed when the page failed. */
	unmap_from_host(self, A_PAGE - 1, 3);
	host_is_told(self, A_PAGE);
	host_check_filled(self, A_PAGE - 1);

	/* A hole that is smaller than the unit zeroes pages. */
	punch(self, A_PAGE - 1, 3);
	host_check(self, A_PAGE - 1);
	host_check(self, A_PAGE + 1);
	check_and_close(self, pfn);
}

TEST_F(reshape, private_page)
{
	u64 pfn;

	guest_write(self, 0, self->nr_pages);
	share_and_fill(self, A_PAGE + 1, 1);
	pfn = poison(self, A_PAGE);

	guest_is_told(self, A_PAGE);
	host_check_filled(self, A_PAGE + 1);
	check_poisoned_file(self);

	/* The failed page doesn't block any conversion. */
	set_shared(A_PAGE - 1, 2);
	host_check(self, A_PAGE - 1);
	host_check_filled(self, A_PAGE + 1);
	check_poisoned_file(self);
	set_private(A_PAGE - 1, 3);
	check_and_close(self, pfn);
}

/*
 * Let a page of a large piece fail.  The piece may be mapped as a whole unless a page of it
 * has failed.
 */
static void test_large_piece(struct gmem *self, u64 page, bool use_first)
{
	const u64 shared = self->unit_pages - 1;
	u64 pfn;

	guest_write(self, 0, self->nr_pages);
	share_and_fill(self, shared, 1);
	guest_check(self, 0, self->nr_pages);
	pfn = poison(self, page);

	/*
	 * The guest first uses either a neighbour of the failed page or that page itself.
	 * Where the guest has mapped all pages one by one, neighbours stay mapped, and using
	 * them changes nothing.
	 */
	if (use_first) {
		guest_check(self, page + 1, 1);
		if (self->unit == SZ_1G)
			assert_layout();
	}
	check_poisoned_file(self);
	guest_write(self, page + 1, 100);
	host_check_filled(self, shared);

	/* A hole that is smaller than the unit zeroes pages. */
	punch(self, page, 2);
	check_poisoned_file(self);
	punch(self, page + 1, 20);
	check_and_close(self, pfn);
}

GMEM_TEST(reshape, page_of_large_piece, test_large_piece(self, self->unit_pages / 4 + A_PAGE, true))
GMEM_TEST(reshape, first_page_of_large_piece, test_large_piece(self, self->unit_pages / 4, false))
GMEM_TEST(reshape, first_page_of_unit, test_large_piece(self, 0, true))

/* Return the first word of a page of the host. */
static u64 kcore_word(u64 pfn)
{
	u64 word = 0;

	TEST_ASSERT(read_kcore(pfn * PAGE_SIZE, &word), "pfn 0x%lx should be in /proc/kcore", pfn);
	return word;
}

/* Check that /proc/kcore leaves out the page that has failed, and no other. */
static void test_kcore(struct gmem *self, u64 pfn)
{
	TEST_ASSERT_EQ(kcore_word(pfn - 1), self->tags[A_PAGE - 1]);
	TEST_ASSERT_EQ(kcore_word(pfn), 0);
	TEST_ASSERT_EQ(kcore_word(pfn + 1), self->tags[A_PAGE + 1]);
}

TEST_F(reshape, kcore)
{
	u64 pfn, tail;

	if (access("/proc/kcore", R_OK))
		SKIP(return, "needs CONFIG_PROC_KCORE");

	pfn = write_all_and_find(self, A_PAGE);
	TEST_ASSERT_EQ(kcore_word(pfn), self->tags[A_PAGE]);
	__poison(self, A_PAGE, pfn);
	/* As in 7.3, /proc/kcore leaves out all of a huge page that is whole. */
	TEST_ASSERT_EQ(kcore_word(pfn), 0);

	/* Split the huge page around the failed page, then around another page as well. */
	check_poisoned_file(self);
	test_kcore(self, pfn);
	set_shared(A_PAGE - 2, 1);
	test_kcore(self, pfn);

	/* A large piece that nothing has split around its failed page yet. */
	tail = pfn_of(self, self->unit_pages - 3);
	TEST_ASSERT_EQ(kcore_word(tail), self->tags[self->unit_pages - 3]);
	__poison(self, self->unit_pages - 3, tail);
	TEST_ASSERT_EQ(kcore_word(tail), 0);
	check_poisoned_file(self);
	TEST_ASSERT_EQ(kcore_word(tail), 0);
	TEST_ASSERT_EQ(kcore_word(tail + 1), self->tags[self->unit_pages - 2]);

	__close_and_assert_lost(self, pfn, tail, 0);
}

/*
 * All of a unit becomes private: all of it is merged, but for the failed page, around which
 * it stays split.
 */
TEST_F(reshape, merge)
{
	const u64 nr = self->unit_pages, other = nr - 3;
	u8 *before, *after;
	u64 pfn;

	/* Not static: all of the program is loaded into the guest. */
	before = calloc(2, nr);
	TEST_ASSERT(before, "calloc");
	after = before + nr;

	guest_write(self, 0, self->nr_pages);
	share_and_fill(self, A_PAGE, 1);
	share_and_fill(self, other, 1);
	pfn = poison(self, A_PAGE);

	set_private(0, nr);
	TEST_ASSERT_EQ(guestmem_read_unit(self->fd, 0, nr, before), pfn - A_PAGE);
	check_poisoned_file(self);

	/* A worker tries to merge the unit once more, which makes no difference. */
	sleep(2);
	guestmem_read_unit(self->fd, 0, nr, after);
	TEST_ASSERT(!memcmp(before, after, nr), "All orders should be as before");
	free(before);

	/* Convert all of the unit back and forth. */
	set_shared(0, nr);
	host_check_filled(self, other);
	host_is_told(self, A_PAGE);
	set_private(1, nr - 2);
	check_poisoned_file(self);
	set_private(0, nr);
	check_and_close(self, pfn);
}

/* Two pages of one piece fail, and then a neighbour of the first one. */
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

	__close_and_assert_lost(self, pfn, other, pfn + 1);
}

/* A failed unit is punched, and the pool has another unit for the file. */
TEST_F(reshape, punched)
{
	u64 pfn;

	SKIP_IF(return, missing_spare_unit(self));
	pfn = write_all_and_poison_shared(self);
	punch_unit(self, 0);
	assert_lost(self->nr - 1, 1);
	assert_dissolved(self, pfn);

	/* All is as if nothing had happened, but the page table remembers: map the file anew. */
	kvm_munmap(self->mem, self->size);
	TEST_ASSERT(mmap(self->mem, self->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			 self->fd, 0) == self->mem, "mmap() should succeed");
	host_check(self, A_PAGE);
	guest_check(self, 0, self->unit_pages);
	assert_lost(self->nr, 0);
	host_fill(self, A_PAGE);
	guest_check_filled(self, A_PAGE);
	TEST_ASSERT(pfn_of(self, A_PAGE) != pfn, "It should be another huge page");
	assert_layout();
	__convert(self, A_PAGE, 1, true);
	assert_nr_folios(0, 1);
	assert_layout();
	close_and_assert_lost(pfn);
}

/* The pool has no other unit: the file has to do without. */
TEST_F(reshape, punched_and_not_replaced)
{
	long hogged = hugetlb_available(&self->pool) - self->nr;
	void *hog;
	u64 pfn;

	set_shared(A_PAGE, 1);
	guest_write(self, 0, self->nr_pages);
	host_fill(self, A_PAGE);
	unmap_from_host(self, A_PAGE, 1);
	hog = hugetlb_hog(self->unit, hogged, -1);
	pfn = poison(self, A_PAGE);
	punch_unit(self, 0);
	assert_lost(hogged + self->nr - 1, 0);
	assert_error(fallocate(self->fd, FALLOC_FL_KEEP_SIZE, 0, PAGE_SIZE), ENOSPC);
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*word_of(self, A_PAGE)));
	assert_lost(hogged + self->nr - 1, 0);

	/* When the file gives up another unit, the first one can be allocated. */
	punch(self, self->nr_pages - self->unit_pages, self->unit_pages);
	assert_lost(hogged + self->nr - 2, 1);
	host_check(self, A_PAGE);
	assert_lost(hogged + self->nr - 1, 0);
	hugetlb_unhog(hog, self->unit, hogged);
	close_and_assert_lost(pfn);
}

TEST_F(reshape, closed)
{
	u64 pfn;

	share_and_fill(self, A_PAGE, 1);
	pfn = poison(self, A_PAGE);
	gmem_close(self);
	kvm_vm_free(self->vm);
	assert_lost(0, 0);
	assert_dissolved(self, pfn);
	mend(pfn);
}

/* A page fails after it has left the file, while a pipe still has it. */
TEST_F(reshape, held_after_punch)
{
	struct holder h = {};
	u64 pfn = hold_and_punch(self, &h);

	assert_nr_allocated(1);

	poison_pfn(pfn);
	assert_nr_allocated(1);
	assert_poisoned_already(pfn);
	release_and_assert_lost(self, &h);
	assert_dissolved(self, pfn);

	/* All other units can be allocated. */
	allocate(self, self->unit_pages, self->nr_pages - self->unit_pages);
	close_and_assert_lost(pfn);
}

/* As above, but the page that fails has come back already, and waits for the held page. */
TEST_F(reshape, waits_for_held)
{
	struct holder h = {};
	u64 pfn = hold_and_punch(self, &h) + 1;

	poison_pfn(pfn);
	release_and_assert_lost(self, &h);
	close_and_assert_lost(pfn);
}

/* First a page fails, then another page is held, and then the unit leaves the file. */
TEST_F(reshape, held_before_punch)
{
	struct holder h = {};
	u64 pfn;

	share_and_fill(self, A_PAGE, 2);
	pfn = poison(self, A_PAGE + 1);
	vmsplice_open_and_hold(&h, addr_of(self, A_PAGE));
	punch_unit(self, 0);
	release_and_assert_lost(self, &h);
	close_and_assert_lost(pfn);
}

TEST_F(reshape, held_after_close)
{
	struct holder h = {};
	u64 pfn;

	share_and_fill(self, A_PAGE, 1);
	vmsplice_open_and_hold(&h, addr_of(self, A_PAGE));
	pfn = pfn_of(self, A_PAGE);
	gmem_close(self);
	kvm_vm_free(self->vm);
	poison_pfn(pfn);
	self->nr_lost = 1;
	vmsplice_release(&h);
	guestmem_settle();
	assert_lost(0, 0);
	assert_dissolved(self, pfn);
	mend(pfn);
}

/* A task lets a page fail that it has mapped, by MADV_HWPOISON. */
TEST_F(reshape, madvise)
{
	struct sigbus_seen seen;
	u64 pfn;

	share_and_fill(self, A_PAGE - 1, 3);
	pfn = pfn_of(self, A_PAGE);
	sigbus_start(false);
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

	/* MADV_HWPOISON has left no reference behind that would make this fail. */
	set_private(A_PAGE, 1);
	set_shared(A_PAGE, 1);
	host_is_told(self, A_PAGE);
	punch_unit(self, 0);
	guestmem_settle();
	close_and_assert_lost(pfn);
}

/* A pin of a neighbour of the failed page blocks the conversion of the neighbour only. */
TEST_F(reshape, pinned_neighbour)
{
	struct holder h = {};
	u64 pfn;

	guest_write(self, 0, self->nr_pages);
	share_and_fill(self, A_PAGE, 2);
	vmsplice_open_and_hold(&h, addr_of(self, A_PAGE + 1));
	pfn = poison(self, A_PAGE);
	host_is_told(self, A_PAGE);
	set_private(A_PAGE, 1);
	assert_busy(self, A_PAGE, 2, A_PAGE + 1);
	vmsplice_release(&h);
	set_private(A_PAGE, 2);
	check_and_close(self, pfn);
}

GMEM_TEST_MAIN(NEEDS_HUGETLB | NEEDS_PRIVATE_VM)
