// SPDX-License-Identifier: GPL-2.0-only
/*
 * Convert guest_memfd files made of HugeTLB pages, as the host sees it.  Any range of
 * pages converts, with or without memory, and the host has access to shared pages only.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "guest_memfd_hugetlb_fixture.h"
#include "guestmem_units.h"

/* A file, and the model of its layout. */
struct test_file {
	struct guestmem_model model;
	int fd;
	char *mem;
	size_t size;
};

static void open_file(struct test_file *f, struct _test_data_hugetlb *self, u64 flags)
{
	f->fd = vm_create_guest_memfd_hugetlb(self->vm, self->size, flags | GUEST_MEMFD_FLAG_MMAP,
					      __builtin_ctzll(self->unit));
	f->size = self->size;
	f->mem = kvm_mmap(f->size, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd);
	guestmem_model_init(&f->model, f->fd, f->size, self->unit,
			    !(flags & GUEST_MEMFD_FLAG_INIT_SHARED));
}

static void close_file(struct test_file *f)
{
	kvm_munmap(f->mem, f->size);
	close(f->fd);
	guestmem_model_free(&f->model);
}

static void assert_layout(struct test_file *f)
{
	if (guestmem_has_units())
		TEST_ASSERT_LAYOUT(&f->model);
}

static void convert(struct test_file *f, u64 first, u64 nr, bool private)
{
	gmem_set_memory_attributes(f->fd, first * page_size, nr * page_size,
				   private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0);
	guestmem_model_convert(&f->model, first, nr, private);
	assert_layout(f);
}

static void assert_access(struct test_file *f, u64 page)
{
	char *addr = f->mem + page * page_size;

	if (f->model.private[page]) {
		TEST_EXPECT_SIGBUS((void)READ_ONCE(*addr));
		TEST_EXPECT_SIGBUS(WRITE_ONCE(addr[page_size - 1], 1));
	} else {
		WRITE_ONCE(addr[page_size - 1], READ_ONCE(*addr));
		guestmem_model_touch(&f->model, page);
	}
}

/* Assert access at the edges and in the middle of each range of private or shared pages. */
static void assert_state(struct test_file *f)
{
	const struct guestmem_model *m = &f->model;
	u64 i, last = 0;

	for (i = 1; i <= m->nr_pages; i++) {
		if (i < m->nr_pages && i % m->unit_pages && m->private[i] == m->private[last])
			continue;
		assert_access(f, last);
		assert_access(f, (last + i) / 2);
		assert_access(f, i - 1);
		last = i;
	}
	assert_layout(f);
}

TEST_F(hugetlb, whole_units_convert)
{
	const u64 nr = self->unit / page_size;
	struct test_file f;
	int i, pass;

	open_file(&f, self, 0);
	/* The first pass is without pages in the file, the second one is with all of them. */
	for (pass = 0; pass < 2; pass++) {
		for (i = 0; i < self->nr; i++) {
			convert(&f, i * nr, nr, false);
			convert(&f, i * nr, nr, false);
		}
		convert(&f, 0, self->nr * nr, true);
		convert(&f, nr, nr, false);
		convert(&f, 0, self->nr * nr, true);
		assert_state(&f);
		assert_pool(pass * self->nr, !pass * self->nr);

		kvm_fallocate(f.fd, FALLOC_FL_KEEP_SIZE, 0, self->size);
		guestmem_model_allocate(&f.model, 0, self->nr * nr);
		assert_pool(self->nr, 0);
	}
	for (i = 0; i < self->nr; i++) {
		convert(&f, i * nr, nr, false);
		assert_state(&f);
		assert_pool(self->nr, 0);
	}
	convert(&f, 0, self->nr * nr, true);
	assert_state(&f);
	close_file(&f);
	assert_pool(0, 0);
}

TEST_F(hugetlb, parts_of_units_convert)
{
	const u64 nr = self->unit / page_size;
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
	struct test_file f;
	int i, j, private;

	for (j = 0; j < ARRAY_SIZE(flags); j++) {
		for (i = j; i < ARRAY_SIZE(parts); i += step) {
			open_file(&f, self, flags[j]);
			private = !!flags[j];

			/* Converting without pages in the file allocates nothing. */
			convert(&f, parts[i].first, parts[i].nr, private);
			convert(&f, parts[i].first, parts[i].nr, private);
			assert_pool(0, self->nr);
			/* assert_state() allocates units by touching their shared pages. */
			assert_state(&f);
			convert(&f, parts[i].first, parts[i].nr, !private);
			assert_state(&f);
			convert(&f, parts[i].first, parts[i].nr, private);
			assert_state(&f);
			convert(&f, 0, self->nr * nr, true);
			assert_state(&f);
			assert_pool(guestmem_model_nr_present(&f.model),
				    self->nr - guestmem_model_nr_present(&f.model));
			close_file(&f);
			assert_pool(0, 0);
		}
	}
}

/* Convert a part of one unit that doesn't change, together with all of another one that does. */
TEST_F(hugetlb, part_that_does_not_change)
{
	const u64 nr = self->unit / page_size;
	struct test_file f;

	open_file(&f, self, 0);
	kvm_fallocate(f.fd, FALLOC_FL_KEEP_SIZE, 0, self->size);
	guestmem_model_allocate(&f.model, 0, self->nr * nr);

	/* Neither unit is split, as neither has to be. */
	convert(&f, 0, nr, false);
	convert(&f, nr / 2, nr / 2 + nr, false);
	TEST_ASSERT_EQ(guestmem_model_nr_folios(&f.model, 0), 1);
	TEST_ASSERT_EQ(guestmem_model_nr_folios(&f.model, 1), 1);
	convert(&f, 7, 1, false);
	TEST_ASSERT_EQ(guestmem_model_nr_folios(&f.model, 0), 1);
	convert(&f, 0, nr, true);
	convert(&f, 1, 2 * nr - 1, true);
	assert_state(&f);
	close_file(&f);
}

/* Every other page is shared. */
TEST_F(hugetlb, alternating_pages)
{
	const u64 nr = self->unit / page_size, window = min(nr, 1024ul);
	struct test_file f;
	u64 i;

	open_file(&f, self, 0);
	kvm_fallocate(f.fd, FALLOC_FL_KEEP_SIZE, 0, self->unit);
	guestmem_model_allocate(&f.model, 0, nr);
	for (i = 0; i < window; i += 2)
		convert(&f, nr - window + i, 1, false);
	assert_state(&f);
	for (i = 0; i < window; i += 2)
		convert(&f, nr - window + i, 1, true);
	TEST_ASSERT_EQ(guestmem_model_nr_folios(&f.model, 0), 1);
	assert_pool(1, self->nr - 1);
	close_file(&f);
}

TEST_F(hugetlb, init_shared)
{
	const u64 nr = self->unit / page_size;
	struct test_file f;

	open_file(&f, self, GUEST_MEMFD_FLAG_INIT_SHARED);
	assert_pool(0, self->nr);
	assert_access(&f, nr + 3);
	assert_pool(1, self->nr - 1);
	assert_state(&f);
	assert_pool(self->nr, 0);
	convert(&f, 0, nr, true);
	assert_state(&f);
	close_file(&f);
	assert_pool(0, 0);
}

TEST_F(hugetlb, punch_keeps_state)
{
	const u64 nr = self->unit / page_size;
	struct test_file f;
	int pass;

	open_file(&f, self, 0);
	convert(&f, 0, nr + 5, false);
	convert(&f, nr - 1, 1, true);
	for (pass = 0; pass < 2; pass++) {
		kvm_fallocate(f.fd, FALLOC_FL_KEEP_SIZE, 0, self->size);
		guestmem_model_allocate(&f.model, 0, self->nr * nr);
		assert_layout(&f);
		assert_state(&f);
		assert_pool(self->nr, 0);
		kvm_fallocate(f.fd, PUNCH, 0, self->size);
		guestmem_model_punch(&f.model, 0, self->nr * nr);
		assert_layout(&f);
		assert_pool(0, self->nr);
	}
	assert_state(&f);
	close_file(&f);
	assert_pool(0, 0);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE_GUEST_MEMFD_HUGETLB();
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES) &
		     KVM_MEMORY_ATTRIBUTE_PRIVATE);

	page_size = getpagesize();
	return test_harness_run(argc, argv);
}
