// SPDX-License-Identifier: GPL-2.0-only
/*
 * Convert guest_memfd files made of HugeTLB pages, as the host sees it.  Any range of
 * pages converts, with or without memory, and the host has access to shared pages only.
 */
#include "guest_memfd_fixture.h"

#define _test_data_hugetlb		gmem
#define _fixture_variant_hugetlb	gmem_variant

static const char *setup(struct gmem *self, const struct gmem_variant *variant)
{
	const char *missing = gmem_setup(self, variant);

	if (!missing)
		gmem_open_with_vm(self, 0);
	return missing;
}

GMEM_FIXTURE(hugetlb, setup(self, variant));
GMEM_VARIANTS(hugetlb, 4, 2);

static void assert_access(struct gmem *self, u64 page)
{
	host_check_ends(self, page);
	if (!self->model.private[page])
		WRITE_ONCE(*last_word_of(self, page), 0);
}

/* Assert access at the edges and in the middle of each range of private or shared pages. */
static void assert_state(struct gmem *self)
{
	const struct guestmem_model *m = &self->model;
	u64 i, last = 0;

	for (i = 1; i <= m->nr_pages; i++) {
		if (i < m->nr_pages && i % m->unit_pages && m->private[i] == m->private[last])
			continue;
		assert_access(self, last);
		assert_access(self, (last + i) / 2);
		assert_access(self, i - 1);
		last = i;
	}
	assert_layout();
}

TEST_F(hugetlb, whole_units_convert)
{
	const u64 nr = self->unit_pages;
	int i, pass;

	/* The first pass is without pages in the file, the second one is with all of them. */
	for (pass = 0; pass < 2; pass++) {
		for (i = 0; i < self->nr; i++) {
			convert(self, i * nr, nr, false);
			convert(self, i * nr, nr, false);
		}
		convert(self, 0, self->nr * nr, true);
		convert(self, nr, nr, false);
		convert(self, 0, self->nr * nr, true);
		assert_state(self);
		assert_pool(pass * self->nr, !pass * self->nr);

		allocate(self, 0, self->nr * nr);
		assert_pool(self->nr, 0);
	}
	for (i = 0; i < self->nr; i++) {
		convert(self, i * nr, nr, false);
		assert_state(self);
		assert_pool(self->nr, 0);
	}
	convert(self, 0, self->nr * nr, true);
	assert_state(self);
	gmem_close(self);
	assert_pool(0, 0);
}

TEST_F(hugetlb, parts_of_units_convert)
{
	const u64 nr = self->unit_pages;
	const struct {
		u64 first, nr;
	} parts[] = {
		{ 0, 1 },
		{ 1, 1 },
		{ nr - 1, 1 },
		{ 0, nr - 1 },
		{ 1, nr - 1 },
		{ nr / 2, nr / 2 },
		{ 0, nr + 1 },
		{ 1, 2 * nr - 1 },
		{ nr - 1, 2 },
		{ 1, 2 * nr - 2 },
	};
	/* Clearing 1G for every part takes too long. */
	const int flags[] = { 0, GUEST_MEMFD_FLAG_INIT_SHARED }, step = self->unit > SZ_2M ? 4 : 1;
	int i, j, private;

	gmem_close(self);
	for (j = 0; j < ARRAY_SIZE(flags); j++) {
		for (i = j; i < ARRAY_SIZE(parts); i += step) {
			gmem_open(self, flags[j]);
			private = !!flags[j];

			/* Converting without pages in the file allocates nothing. */
			convert(self, parts[i].first, parts[i].nr, private);
			convert(self, parts[i].first, parts[i].nr, private);
			assert_pool(0, self->nr);
			/* assert_state() allocates units by touching their shared pages. */
			assert_state(self);
			convert(self, parts[i].first, parts[i].nr, !private);
			assert_state(self);
			convert(self, parts[i].first, parts[i].nr, private);
			assert_state(self);
			convert(self, 0, self->nr * nr, true);
			assert_state(self);
			assert_model();
			gmem_close(self);
			assert_pool(0, 0);
		}
	}
}

/* Convert a part of one unit that doesn't change, together with all of another one that does. */
TEST_F(hugetlb, part_that_does_not_change)
{
	const u64 nr = self->unit_pages;

	allocate(self, 0, self->nr * nr);

	/* Neither unit is split, as neither has to be. */
	convert(self, 0, nr, false);
	convert(self, nr / 2, nr / 2 + nr, false);
	assert_nr_folios(0, 1);
	assert_nr_folios(1, 1);
	convert(self, 7, 1, false);
	assert_nr_folios(0, 1);
	convert(self, 0, nr, true);
	convert(self, 1, 2 * nr - 1, true);
	assert_state(self);
	gmem_close(self);
}

/* Every other page is shared. */
TEST_F(hugetlb, alternating_pages)
{
	const u64 nr = self->unit_pages, window = min(nr, 1024ul);
	u64 i;

	allocate(self, 0, nr);
	for (i = 0; i < window; i += 2)
		convert(self, nr - window + i, 1, false);
	assert_state(self);
	for (i = 0; i < window; i += 2)
		convert(self, nr - window + i, 1, true);
	assert_nr_folios(0, 1);
	assert_pool(1, self->nr - 1);
	gmem_close(self);
}

TEST_F(hugetlb, init_shared)
{
	const u64 nr = self->unit_pages;

	gmem_close(self);
	gmem_open(self, GUEST_MEMFD_FLAG_INIT_SHARED);
	assert_pool(0, self->nr);
	assert_access(self, nr + 3);
	assert_pool(1, self->nr - 1);
	assert_state(self);
	assert_pool(self->nr, 0);
	convert(self, 0, nr, true);
	assert_state(self);
	gmem_close(self);
	assert_pool(0, 0);
}

TEST_F(hugetlb, punch_keeps_state)
{
	const u64 nr = self->unit_pages;
	int pass;

	convert(self, 0, nr + 5, false);
	convert(self, nr - 1, 1, true);
	for (pass = 0; pass < 2; pass++) {
		allocate(self, 0, self->nr * nr);
		assert_layout();
		assert_state(self);
		assert_pool(self->nr, 0);
		punch(self, 0, self->nr * nr);
		assert_layout();
		assert_pool(0, self->nr);
	}
	assert_state(self);
	gmem_close(self);
	assert_pool(0, 0);
}

GMEM_TEST_MAIN(NEEDS_HUGETLB | NEEDS_CONVERSION)
