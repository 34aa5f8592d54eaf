// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of the conversion of parts of the HugeTLB pages that a guest_memfd file is
 * made of.
 *
 * The kernel splits shared pages from private pages, but not further than necessary,
 * and merges pages again when they are private again.  Only the layout shows that:
 * contents stay, the pool sees a huge page in use, and the guest keeps its mappings
 * of pages that do not change.
 *
 * After each step, the tests compare the layout with a model, see guestmem_units.h.
 */
#include "guest_memfd_fixture.h"

GMEM_RESHAPE_FIXTURE(gmem_setup_guest(self, variant, 0));

/*
 * Pick @max pages of a unit: those that are likely to be special, and random ones.
 * Returns @max.
 */
static int pick_pages(u64 *pages, int max, u64 unit_pages)
{
	const u64 special[] = {
		0, unit_pages - 1, unit_pages / 2, unit_pages / 2 - 1, 1, 63, 64,
		PAGES_2M - 1, PAGES_2M % unit_pages, unit_pages - PAGES_2M + 1,
	};
	int i;

	for (i = 0; i < max; i++)
		pages[i] = i < ARRAY_SIZE(special) ? special[i] : random_below(unit_pages);
	return max;
}

TEST_F(reshape, one_page)
{
	const u64 nr = self->unit_pages;
	u64 pages[14], page;
	int i;

	guest_write(self, 0, nr);
	assert_model();

	for (i = 0; i < pick_pages(pages, ARRAY_SIZE(pages), nr); i++) {
		page = pages[i];
		guest_fill(self, page);
		set_shared(page, 1);
		/* There is the page and, on the way to it, one folio of each order. */
		assert_nr_folios(0, self->model.unit_order + 1);

		host_check_filled(self, page);
		host_check(self, (page + 1) % nr);
		host_check(self, (page + nr - 1) % nr);
		host_check(self, nr - 1 - page);
		TEST_EXPECT_SIGBUS((void)READ_ONCE(*word_of(self, page ^ 1)));
		TEST_EXPECT_SIGBUS(WRITE_ONCE(*word_of(self, page ^ 1), 0));
		guest_check_filled(self, page);
		host_fill(self, page);
		guest_check_filled(self, page);
		guest_check(self, 0, nr);
		assert_model();

		/* The page is shared already. */
		set_shared(page, 1);
		host_check_filled(self, page);

		set_private(page, 1);
		assert_nr_folios(0, 1);
		host_check(self, page);
		guest_check_filled(self, page);
		guest_check(self, 0, nr);
		assert_model();
	}
	punch(self, 0, nr);
	assert_model();
}

/* Pages become shared, and private again, without any access of the host. */
TEST_F(reshape, one_page_untouched)
{
	u64 pages[14];
	int i;

	allocate(self, 0, self->unit_pages);
	for (i = 0; i < pick_pages(pages, ARRAY_SIZE(pages), self->unit_pages); i++) {
		set_shared(pages[i], 1);
		assert_nr_folios(0, self->model.unit_order + 1);
		set_private(pages[i], 1);
		assert_nr_folios(0, 1);
	}
}

#define OPTIMIZE_VMEMMAP	"/proc/sys/vm/hugetlb_optimize_vmemmap"

static bool optimizes_vmemmap(void)
{
	char text[8];

	return read_text_file(OPTIMIZE_VMEMMAP, text, sizeof(text)) && text[0] == '1';
}

static long nr_vmemmap(void)
{
	return read_vmstat("nr_memmap_pages") + read_vmstat("nr_memmap_boot_pages");
}

/* Assert that a unit has no more struct pages than its folios need. */
#define assert_vmemmap(whole)								\
	TEST_ASSERT_EQ(nr_vmemmap(), (whole) + (long)guestmem_model_nr_vmemmap(&self->model))

/* Whether hugetlb optimizes huge pages that it allocates from now on has no effect. */
TEST_F(reshape, vmemmap)
{
	u64 pages[14];
	long whole;
	int i, nr;

	SKIP_IF(return, optimizes_vmemmap() && write_text_file(OPTIMIZE_VMEMMAP, "1") ? NULL :
		"needs root and hugetlb_free_vmemmap=on");

	allocate(self, 0, self->unit_pages);
	whole = nr_vmemmap();
	nr = pick_pages(pages, ARRAY_SIZE(pages), self->unit_pages);
	for (i = 0; i < nr; i++) {
		write_text_file(OPTIMIZE_VMEMMAP, i & 1 ? "1" : "0");
		set_shared(pages[i], 1);
		assert_vmemmap(whole);
	}
	for (i = 0; i < nr; i++) {
		write_text_file(OPTIMIZE_VMEMMAP, i & 1 ? "1" : "0");
		set_private(pages[i], 1);
		assert_vmemmap(whole);
	}
	write_text_file(OPTIMIZE_VMEMMAP, "1");
	TEST_ASSERT_EQ(nr_vmemmap(), whole);

	/* All of it becomes shared, and is used in so many places that it has all struct pages. */
	set_shared(0, self->unit_pages);
	TEST_ASSERT_EQ(nr_vmemmap(), whole);
	for (i = 0; i < self->unit_pages; i += 32)
		host_write(self, i);
	assert_vmemmap(whole);
	set_private(0, self->unit_pages);
	TEST_ASSERT_EQ(nr_vmemmap(), whole);

	/* A huge page that is given back in pieces has no more of them, either. */
	set_shared(pages[0], 1);
	punch(self, 0, self->unit_pages);
	TEST_ASSERT_EQ(nr_vmemmap(), whole);
}

TEST_F(reshape, one_page_in_each_half)
{
	const u64 nr = self->unit_pages, half = nr / 2;
	const u64 pairs[][2] = {
		{ 0, half }, { half - 1, nr - 1 }, { half - 1, half }, { 0, nr - 1 },
		{ random_below(half), half + random_below(half) }, { random_below(half),
		half + random_below(half) },
	};
	int i;

	guest_write(self, 0, nr);
	for (i = 0; i < ARRAY_SIZE(pairs); i++) {
		const u64 first = pairs[i][i & 1], second = pairs[i][!(i & 1)];

		set_shared(first, 1);
		set_shared(second, 1);
		assert_nr_folios(0, 2 * self->model.unit_order);
		host_check(self, first);
		host_check(self, second);
		host_write(self, second);
		guest_check(self, 0, nr);
		set_private(first, 1);
		assert_nr_folios(0, self->model.unit_order + 1);
		host_check(self, first);
		set_private(second, 1);
		assert_nr_folios(0, 1);
		guest_check(self, 0, nr);
	}
}

/* The guest has to fault in only the converted page again, and has a huge mapping again later. */
TEST_F(reshape, guest_mappings)
{
	const u64 nr = self->unit_pages;
	const struct mappings none = {}, one_fault = { .nr_4k = 1, .faults = 1 };
	struct mappings before, whole, split, want;
	u64 pages[14], page;
	int i;

	before = read_mappings(self->vcpu);
	guest_write(self, 0, nr);
	whole = mappings_of_layout(&self->model, 0, nr);
	whole.faults = 1;
	assert_mappings(self->vcpu, before, whole, "whole");
	whole.faults = 0;

	for (i = 0; i < pick_pages(pages, ARRAY_SIZE(pages), nr); i++) {
		page = pages[i];
		before = read_mappings(self->vcpu);
		set_shared(page, 1);
		split = mappings_of_layout(&self->model, 0, nr);
		want = mappings_minus(split, whole);
		want.nr_4k--;
		assert_mappings(self->vcpu, before, want, "page converted");

		/* Neighbours have kept their mappings. */
		before = read_mappings(self->vcpu);
		guest_check(self, 0, page);
		guest_check(self, page + 1, nr - page - 1);
		assert_mappings(self->vcpu, before, none, "neighbours");
		guest_write(self, page, 1);
		assert_mappings(self->vcpu, before, one_fault, "page");
		host_check(self, page);
		guest_write(self, 0, nr);
		assert_mappings(self->vcpu, before, one_fault, "all pages");

		before = read_mappings(self->vcpu);
		set_private(page, 1);
		assert_mappings(self->vcpu, before, (struct mappings) { .nr_4k = -1 },
				"page converted back");
		guest_check(self, 0, page);
		guest_check(self, page + 1, nr - page - 1);
		assert_mappings(self->vcpu, before, (struct mappings) { .nr_4k = -1 },
				"neighbours of what was converted back");
		before.nr_4k--;
		guest_check(self, page, 1);
		want = mappings_minus(whole, split);
		want.nr_4k++;
		want.faults = 1;
		assert_mappings(self->vcpu, before, want, "whole again");
		before = read_mappings(self->vcpu);
		guest_write(self, 0, nr);
		assert_mappings(self->vcpu, before, none, "whole again, all pages");
	}
}

/* Ranges that span units are converted, and only the mappings of other pages are kept. */
TEST_F(reshape, guest_mappings_of_ranges)
{
	const u64 nr = self->unit_pages, all = self->nr_pages;
	const struct {
		u64 first, nr;
	} ranges[] = {
		{ nr - 1, 2 },
		{ 1, all - 2 },
		{ nr / 2, nr },
		{ nr / 2 + 3, nr + 5 },
		{ 0, nr + 1 },
		{ nr - 1, all - nr + 1 },
		{ PAGES_2M - 1, nr },
		{ 0, all },
	};
	struct mappings before, whole, kept, now, want;
	int i;

	guest_write(self, 0, all);
	whole = mappings_of_layout(&self->model, 0, all);

	for (i = 0; i < ARRAY_SIZE(ranges); i++) {
		const u64 first = ranges[i].first, end = first + ranges[i].nr;

		before = read_mappings(self->vcpu);
		set_shared(first, end - first);
		now = mappings_of_layout(&self->model, 0, all);
		kept = mappings_minus(now, mappings_of_layout(&self->model, first, end - first));
		assert_mappings(self->vcpu, before, mappings_minus(kept, whole), "ranges split");

		guest_check_all();
		want = mappings_minus(now, whole);
		want.faults = nr_mappings(now) - nr_mappings(kept);
		assert_mappings(self->vcpu, before, want, "ranges faulted in");

		set_private(first, end - first);
		guest_check(self, first, end - first);
		want = mappings_minus(read_mappings(self->vcpu), before);
		TEST_ASSERT(!want.nr_1g && !want.nr_2m && !want.nr_4k,
			    "Range %d: mappings should be as before, are %ld x 1G, %ld x 2M, %ld x 4K more",
			    i, want.nr_1g, want.nr_2m, want.nr_4k);
	}
}

TEST_F(reshape, ranges_with_holes)
{
	const u64 nr = self->unit_pages, all = self->nr_pages;
	const struct {
		u64 first, nr;
	} ranges[] = {
		{ 0, all },
		{ 1, all - 2 },
		{ nr - 1, 2 },
		{ nr - 3, nr / 2 },
		{ nr / 2 + 1, nr },
		{ nr, nr },
		{ all - nr - 5, 10 },
		{ 7, all - nr },
		{ all - 1, 1 },
	};
	int i, mask, unit;

	/* Go through all ways in which the first, the second and all other units may be there. */
	for (mask = 0; mask < 1 << min(self->nr, 3); mask++) {
		for (i = 0; i < ARRAY_SIZE(ranges); i++) {
			const u64 first = ranges[i].first, len = ranges[i].nr;

			for (unit = 0; unit < self->nr; unit++)
				if (mask & 1 << min(unit, 2))
					guest_write(self, unit * nr, nr);
			set_shared(first, len);
			host_check(self, first);
			host_check(self, first + len - 1);
			host_check(self, (first + len) % all);
			host_check(self, (first + all - 1) % all);
			assert_model();
			/* Shrink the shared range from both ends, and from the middle. */
			set_private(first, 1);
			set_private(first + len - 1, 1);
			set_private(first + len / 2, (len + 3) / 4);
			guest_check(self, first, 1);
			guest_check(self, first + len - 1, 1);
			set_private(0, all);
			TEST_ASSERT_EQ(guestmem_nr_units(&unit), 0);
			for (unit = 0; unit < self->nr; unit++)
				if (mask & 1 << min(unit, 2))
					guest_check(self, unit * nr, nr);
			punch(self, 0, all);
			assert_model();
		}
		/* Units of 1G take long, so this is enough. */
		if (self->unit > SZ_2M && mask == 1)
			break;
	}
}

TEST_F(reshape, all_shared_then_all_private)
{
	/*
	 * Convert every other page.  In units of 1G, that would take for ever, so
	 * convert fewer.
	 */
	const u64 step = self->unit > SZ_2M ? 4093 : 2;
	u64 i;

	guest_write(self, 0, self->nr_pages);
	set_shared(0, self->nr_pages);
	for (i = 0; i < self->nr; i++)
		assert_nr_folios(i, 1);
	guest_check_all();
	set_private(0, self->nr_pages);
	guest_check_all();

	for (i = 0; i < self->nr_pages; i += step)
		__convert(self, i, 1, false);
	assert_model();
	guest_check_all();
	for (i = 0; i < self->nr_pages; i += step)
		host_check(self, i);
	set_shared(0, self->nr_pages);
	for (i = 0; i < self->nr_pages; i += step / 2)
		host_check(self, i);
	assert_model();
	guest_write(self, 0, self->nr_pages);
	for (i = 0; i < self->nr_pages; i += step / 2)
		host_check(self, i);
	set_private(0, self->nr_pages);
	for (i = 0; i < self->nr; i++)
		assert_nr_folios(i, 1);
	guest_check_all();

	/* Convert pages one by one. */
	for (i = 0; i < self->nr_pages; i += step)
		__convert(self, i, 1, false);
	for (i = 0; i < self->nr_pages; i += step)
		__convert(self, i, 1, true);
	assert_model();
	guest_check_all();
}

/*
 * All pages could be converted but for one page of the last unit.  The conversion
 * fails, converts none of them, and leaves no trace.
 */
TEST_F(reshape, pinned_in_the_last_unit)
{
	const u64 nr = self->unit_pages, all = self->nr_pages, pinned = all - 3;
	struct mappings before;
	struct holder h;
	u64 page;

	guest_write(self, 0, all);
	set_shared(7, all - 7);
	for (page = 9; page < all; page += nr / 2 + 1)
		host_check(self, page);
	set_private(nr / 4, 5);
	guest_check(self, 0, all);
	host_check(self, pinned);
	vmsplice_open_and_hold(&h, addr_of(self, pinned));
	assert_model();

	before = read_mappings(self->vcpu);
	assert_busy(self, 3, all - 4, pinned);
	assert_model();
	guest_check(self, 0, all);
	assert_mappings(self->vcpu, before, (struct mappings) {}, "after it has failed");
	for (page = 9; page < all; page += nr / 2 + 1)
		host_check(self, page);
	host_check(self, pinned);
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*word_of(self, 6)));
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*word_of(self, nr / 4)));
	assert_model();

	vmsplice_release(&h);
	set_private(3, all - 4);
	set_private(all - 1, 1);
	for (page = 0; page < self->nr; page++)
		assert_nr_folios(page, 1);
	guest_check(self, 0, all);
}

/* Ways to allocate a unit.  Whatever the way, the unit has its layout from the beginning. */
static void allocate_by_guest(struct gmem *self, u64 first, u64 page)
{
	guest_do(self->vcpu, OP_CHECK_ZERO, gpa_of(page), 1, PAGE_SIZE, 0);
}

static void allocate_by_fallocate(struct gmem *self, u64 first, u64 page)
{
	allocate_fd(self->fd, page * PAGE_SIZE, PAGE_SIZE);
}

static void allocate_by_host(struct gmem *self, u64 first, u64 page)
{
	TEST_ASSERT_EQ(READ_ONCE(*word_of(self, first)), 0);
	guestmem_model_touch(&self->model, first);
}

static void allocate_by_syscall(struct gmem *self, u64 first, u64 page)
{
	TEST_ASSERT(host_can_read(self, first), "The host should be able to read");
	guestmem_model_touch(&self->model, first);
}

TEST_F(reshape, allocated_as_wanted)
{
	void (*const allocators[])(struct gmem *self, u64 first, u64 page) = {
		allocate_by_guest, allocate_by_fallocate, allocate_by_host, allocate_by_syscall,
	};
	const u64 nr = self->unit_pages;
	const struct {
		u64 first, nr;
	} shared[] = {
		{ 0, 1 },
		{ nr - 1, 1 },
		{ nr / 2 - 1, 2 },
		{ 3, nr / 2 },
		{ 1, nr - 2 },
		{ 0, nr },
	};
	int i, j;

	/* Fill the pool with data that must not be seen. */
	gmem_close(self);
	hugetlb_dirty_pool(self->unit);
	gmem_open(self, 0);

	for (i = 0; i < ARRAY_SIZE(shared); i++) {
		for (j = 0; j < ARRAY_SIZE(allocators); j++) {
			const u64 first = shared[i].first, end = first + shared[i].nr;

			set_shared(nr + first, end - first);
			allocators[j](self, nr + first, nr + (end + nr / 4) % nr);
			guestmem_model_allocate(&self->model, nr, 1);
			assert_model();
			/* Looking at all of 1G that often would take long. */
			if (self->unit == SZ_2M || (!i && !j))
				guest_check(self, nr, nr);
			guest_write(self, nr, nr);
			host_check(self, nr + first);
			host_check(self, nr + end - 1);
			host_check(self, nr + (end % nr));
			assert_model();
			set_private(nr, nr);
			guest_check(self, nr, nr);
			assert_nr_folios(1, 1);
			punch(self, nr, nr);
			assert_model();
		}
	}
}

/*
 * A hole that is smaller than the unit keeps the layout.  Any hole keeps pages
 * private or shared, even if the host has mapped them.
 */
TEST_F(reshape, punch_part_keeps_layout)
{
	const u64 nr = self->unit_pages;
	const struct {
		u64 first, nr;
	} holes[] = {
		{ 10, 1 },
		{ 11, 1 },
		{ 5, 20 },
		{ 0, nr - 1 },
		{ 1, nr - 1 },
		{ nr - 1, 2 },
		{ nr / 2, nr / 2 - 1 },
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(holes); i++) {
		guest_write(self, 0, 2 * nr);
		set_shared(10, 1);
		set_shared(nr / 2, nr / 4);
		host_write(self, 10);
		host_write(self, nr / 2 + 17);
		assert_model();

		punch(self, holes[i].first, holes[i].nr);
		assert_model();
		guest_check(self, 0, 2 * nr);
		host_check(self, 10);
		host_check(self, nr / 2 + 17);
		host_check(self, nr / 2);
		assert_model();
		set_private(10, nr / 2 + nr / 4 - 10);
		assert_nr_folios(0, 1);
		guest_check(self, 0, 2 * nr);

		/*
		 * Punch all of the unit, including pages that are shared or that the
		 * host has mapped.
		 */
		set_shared(7, 3);
		host_write(self, 8);
		punch(self, 0, nr);
		assert_model();
		host_check(self, 8);
		assert_model();
		set_private(7, 3);
		guest_check(self, 0, nr);
		punch(self, 0, 2 * nr);
		assert_model();
	}
}

GMEM_TEST_MAIN(NEEDS_HUGETLB | NEEDS_PRIVATE_VM)
