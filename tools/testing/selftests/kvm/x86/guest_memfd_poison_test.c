// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of memory failure in HugeTLB pages of guest_memfd files that are whole, or large
 * pieces of such pages.  The guest loses one page of 4K.  The first fault, conversion or hole
 * after the failure splits the huge page around the failed page, and the guest gets the rest
 * by the largest mappings that are left.
 */
#include "fail_nth.h"
#include "guest_memfd_fixture.h"
#include "guest_memfd_poison.h"

GMEM_RESHAPE_FIXTURE(setup_poison(self, variant, 1));

/* Return the mappings of the file alone, of which the guest had none at @before. */
static struct mappings file_mappings(struct gmem *self, struct mappings before)
{
	return mappings_minus(read_mappings(self->vcpu), before);
}

static void assert_file_mappings(struct gmem *self, struct mappings before,
				 long nr_4k, long nr_2m, long nr_1g)
{
	struct mappings m = file_mappings(self, before);

	TEST_ASSERT(m.nr_4k == nr_4k && m.nr_2m == nr_2m && m.nr_1g == nr_1g,
		    "The guest should have %ld x 4K, %ld x 2M, %ld x 1G, has %ld, %ld, %ld",
		    nr_4k, nr_2m, nr_1g, m.nr_4k, m.nr_2m, m.nr_1g);
}

/*
 * Let one page fail, and check what the guest has mapped.  Of a unit of 1G, 262143 pages are
 * left: 511 of 512 mappings of 2M, and 511 pages of 4K.
 */
static void test_one_page(struct gmem *self, u64 page)
{
	const bool is_1g = self->unit == SZ_1G;
	const long others = self->nr - 1;
	struct mappings before = read_mappings(self->vcpu);
	u64 pfn;

	pfn = write_all_and_find(self, page);
	guest_check_all();
	assert_file_mappings(self, before, 0, is_1g ? 0 : self->nr, is_1g ? self->nr : 0);

	__poison(self, page, pfn);
	assert_file_mappings(self, before, 0, is_1g ? 0 : others, is_1g ? others : 0);
	guest_is_told(self, page);
	assert_layout();
	guest_check_others(self);
	assert_file_mappings(self, before, 511, is_1g ? 511 : others, is_1g ? others : 0);
	check_and_close(self, pfn);
}

GMEM_TEST(reshape, first_page, test_one_page(self, 0))
GMEM_TEST(reshape, some_page, test_one_page(self, A_PAGE))
GMEM_TEST(reshape, last_page, test_one_page(self, self->unit_pages - 1))

/* The guest had the unit mapped as a whole, and a fault on a neighbour splits it. */
TEST_F(reshape, neighbour_first)
{
	u64 pfn = write_all_and_find(self, A_PAGE);

	guest_check_all();
	__poison(self, A_PAGE, pfn);
	guest_check(self, A_PAGE + 1, 1);
	assert_layout();
	check_and_close(self, pfn);
}

/*
 * Let two pages of one unit fail.  They are in one 2M, or in two of them if the unit has as
 * many.  The second page fails before the unit is split around the first one or, with
 * @use_between, after that.
 */
static void test_two_pages(struct gmem *self, u64 page, u64 other, bool use_between)
{
	u64 pfn = write_all_and_poison(self, page);

	if (use_between)
		check_poisoned_file(self);
	__poison(self, other, pfn - page + other);
	check_poisoned_file(self);

	/* The failed pages convert like any other page. */
	set_shared(page, 1);
	set_shared(other, 1);
	host_is_told(self, page);
	host_is_told(self, other);
	set_private(0, self->unit_pages);
	check_poisoned_file(self);

	__close_and_assert_lost(self, pfn, pfn - page + other, 0);
}

GMEM_TEST(reshape, two_pages_at_once, test_two_pages(self, A_PAGE, self->unit_pages - 1, false))
GMEM_TEST(reshape, two_pages_one_by_one, test_two_pages(self, A_PAGE, self->unit_pages - 1, true))
GMEM_TEST(reshape, two_pages_of_2m_at_once, test_two_pages(self, A_PAGE, A_PAGE + 1, false))
GMEM_TEST(reshape, two_pages_of_2m_one_by_one, test_two_pages(self, 0, PAGES_2M - 1, true))

/*
 * The same page fails again, before and after the unit is split around it.  The kernel knows
 * that already, and nothing changes.
 */
static void test_twice(struct gmem *self, u64 pfn)
{
	long nr = nr_corrupted_pages();

	assert_poisoned_already(pfn);
	check_poisoned_file(self);
	assert_poisoned_already(pfn);
	set_private(A_PAGE, 1);
	assert_poisoned_already(pfn);
	TEST_ASSERT_EQ(nr_corrupted_pages(), nr);
	check_and_close(self, pfn);
}

GMEM_TEST(reshape, twice, test_twice(self, write_all_and_poison(self, A_PAGE)))
GMEM_TEST(reshape, twice_while_shared, test_twice(self, write_all_and_poison_shared(self)))

/* Let a page fail.  A conversion of @nr pages at @first is the first to use the unit. */
static void test_convert(struct gmem *self, u64 page, u64 pfn, u64 first, u64 nr)
{
	u64 i;

	set_shared(first, nr);
	for (i = first; i < first + nr; i += nr - 1 ?: 1)
		host_check(self, i);
	check_poisoned_file(self);
	set_private(first, nr);
	check_poisoned_file(self);
	set_shared(0, self->unit_pages);
	host_is_told(self, page);
	set_private(0, self->unit_pages);
	check_and_close(self, pfn);
}

static void convert_whole(struct gmem *self, u64 first, u64 nr)
{
	test_convert(self, A_PAGE, write_all_and_poison(self, A_PAGE), first, nr);
}

static u64 page_of_piece(struct gmem *self)
{
	return self->unit_pages / 4 + A_PAGE;
}

static void convert_piece(struct gmem *self, int offset, u64 nr)
{
	const u64 page = page_of_piece(self);

	test_convert(self, page, write_all_and_poison_piece(self, page), page + offset, nr);
}

GMEM_TEST(reshape, convert_other_page, convert_whole(self, 5, 1))
GMEM_TEST(reshape, convert_range_over_it, convert_whole(self, A_PAGE - 1, 3))
GMEM_TEST(reshape, convert_end_of_unit, convert_whole(self, self->unit_pages - 1, 2))
GMEM_TEST(reshape, convert_neighbour_in_piece, convert_piece(self, 1, 1))
GMEM_TEST(reshape, convert_range_over_it_in_piece, convert_piece(self, -1, 3))

TEST_F(reshape, convert_all)
{
	u64 pfn = write_all_and_poison(self, A_PAGE);

	set_shared(0, self->unit_pages);
	host_is_told(self, A_PAGE);
	host_check(self, A_PAGE + 1);
	check_and_close(self, pfn);
}

/*
 * A page fails in a shared unit, or a piece of one, that the host has not used.  The host is
 * the first to use it then: the failed page or a neighbour.
 */
static void test_shared(struct gmem *self, u64 nr, bool neighbour_first)
{
	u64 pfn = write_all_and_find(self, A_PAGE);

	set_shared(0, nr);
	guest_check_all();
	__poison(self, A_PAGE, pfn);
	if (neighbour_first)
		host_check(self, A_PAGE - 1);
	host_is_told(self, A_PAGE);
	host_check(self, A_PAGE + 1);
	check_poisoned_file(self);
	set_private(0, nr);
	check_and_close(self, pfn);
}

GMEM_TEST(reshape, shared_unit, test_shared(self, self->unit_pages, true))
GMEM_TEST(reshape, shared_piece, test_shared(self, self->unit_pages / 2, false))

/* As with 4K pages, the failed page is still there: fallocate() has nothing to do. */
TEST_F(reshape, part_punched)
{
	u64 pfn = write_all_and_poison(self, A_PAGE);

	allocate(self, 0, self->unit_pages);
	guest_is_told(self, A_PAGE);

	punch(self, A_PAGE - 1, 3);
	check_poisoned_file(self);
	punch(self, 0, 1);
	punch(self, self->unit_pages - 1, 1);
	check_and_close(self, pfn);
}

/*
 * A hole that is smaller than the unit is the first to use the unit, or its piece, after the
 * failure, and has to split it.
 */
static void test_part_punched_first(struct gmem *self, u64 pfn, u64 first, u64 nr)
{
	punch(self, first, nr);
	assert_layout();
	check_and_close(self, pfn);
}

TEST_F(reshape, part_punched_first)
{
	test_part_punched_first(self, write_all_and_poison(self, A_PAGE), 1, self->unit_pages - 1);
}

TEST_F(reshape, part_of_piece_punched_first)
{
	const u64 page = page_of_piece(self);

	test_part_punched_first(self, write_all_and_poison_piece(self, page), page - 1, 3);
}

static void test_punched(struct gmem *self, bool use_before)
{
	u64 pfn = write_all_and_poison(self, A_PAGE);

	if (use_before)
		check_poisoned_file(self);
	punch_unit(self, 0);
	assert_lost(self->nr - 1, 1);
	assert_dissolved(self, pfn);
	guest_check_all();
	guest_write(self, 0, self->unit_pages);
	guest_check_all();
	assert_nr_folios(0, 1);
	close_and_assert_lost(pfn);
}

TEST_F(reshape, punched)
{
	SKIP_IF(return, missing_spare_unit(self));
	test_punched(self, true);
}

TEST_F(reshape, punched_first)
{
	SKIP_IF(return, missing_spare_unit(self));
	test_punched(self, false);
}

TEST_F(reshape, closed_first)
{
	u64 pfn = write_all_and_poison(self, A_PAGE);

	gmem_close(self);
	kvm_vm_free(self->vm);
	assert_lost(0, 0);
	assert_dissolved(self, pfn);
	mend(pfn);
}

/* A page fails by a write to hard_offline_page, the other file that calls memory_failure(). */
TEST_F(reshape, hard_offline)
{
	u64 pfn = write_all_and_find(self, A_PAGE);

	TEST_ASSERT_EQ(write_pa(HARD_OFFLINE, pfn), 0);
	guestmem_model_poison(&self->model, A_PAGE);
	self->nr_lost = 1;
	check_and_close(self, pfn);
}

/* Let a page fail while all allocations fail that may fail.  Returns 0 or the error. */
static int poison_without_memory(u64 pfn)
{
	int fd = open(CORRUPT_PFN, O_WRONLY), len, error = 0;
	char buf[32];

	TEST_ASSERT(fd >= 0, "Cannot open " CORRUPT_PFN);
	len = snprintf(buf, sizeof(buf), "%#lx", pfn);
	fail_nth_arm(1, FAIL_REST);
	if (write(fd, buf, len) != len)
		error = errno;
	fail_nth_disarm();
	close(fd);
	return error;
}

/*
 * Even without memory, the kernel writes down which page has failed.  Otherwise it would have
 * to do without all of the unit.
 */
TEST_F(reshape, without_memory)
{
	u64 pfn;

	if (!fail_nth_init())
		SKIP(return, "needs fault injection (failslab)");
	pfn = write_all_and_find(self, A_PAGE);
	self->nr_lost = 1;
	TEST_ASSERT_EQ(poison_without_memory(pfn), 0);
	guestmem_model_poison(&self->model, A_PAGE);
	guest_is_told(self, A_PAGE);
	check_and_close(self, pfn);
}

GMEM_TEST_MAIN(NEEDS_HUGETLB | NEEDS_PRIVATE_VM)
