// SPDX-License-Identifier: GPL-2.0-only
/*
 * The host uses shared pages of guest_memfd files made of HugeTLB pages.
 *
 * Each page that the host touches is split off the huge page, to be mapped page by page, as
 * the host has asked for.  The blocks that the guest has mapped already stay mapped.  From
 * then on, the guest maps blocks of the pieces that are left.
 */
#include "guest_memfd_fixture.h"
#include "guest_memfd_mappings.h"

GMEM_GUEST_FIXTURE();

static void touch(struct gmem *self, u64 page, u64 val)
{
	self->tags[page] = val;
	host_check(self, page);
}

static void map_file(struct gmem *self)
{
	self->mem = gmem_map(self, self->fd);
	/* EINVAL if the kernel doesn't know huge mappings. */
	madvise(self->mem, self->size, MADV_NOHUGEPAGE);
	self->tags = calloc(self->nr_pages, sizeof(*self->tags));
	TEST_ASSERT(self->tags, "No memory");
	guestmem_model_init(&self->model, self->fd, self->size, self->unit, false);
}

/*
 * Fill in pages at the edges of file, unit and 2M block, and two neighbours that are at
 * no edge.  Returns the number of pages.
 */
static int pages_to_touch(struct gmem *self, u64 *pages)
{
	const u64 nr = self->nr_pages;
	int i = 0;

	pages[i++] = nr / 2 + 7;
	pages[i++] = nr / 2 + 8;
	pages[i++] = 0;
	pages[i++] = nr - 1;
	pages[i++] = self->unit_pages - 1;
	pages[i++] = PAGES_2M % nr;
	pages[i++] = PAGES_2M - 1;
	return i;
}

#define MAX_TOUCHED	7

/* Map the file, for the guest as well, and pick pages to touch. */
static int map_file_and_pick(struct gmem *self, u64 *pages)
{
	map_file(self);
	add_whole_slot();
	return pages_to_touch(self, pages);
}

TEST_F(guest, guest_keeps_mappings)
{
	const struct mappings all = largest_mappings(0, 0, self->nr_pages, self->unit);
	u64 pages[MAX_TOUCHED];
	int nr, i;

	nr = map_file_and_pick(self, pages);
	do_pages(OP_WRITE_TAGS, 0, self->nr_pages, TAG(0));
	guestmem_model_allocate(&self->model, 0, self->nr_pages);
	assert_whole_slot(all, "whole");
	assert_layout();

	for (i = 0; i < nr; i++) {
		touch(self, pages[i], TAG(pages[i]));
		assert_layout();
		assert_whole_slot(all, "page touched by the host");
	}
	guest_do_faults(self->vcpu, OP_CHECK_TAGS, TEST_GPA, self->nr_pages, TAG(0), 0, "touched");

	for (i = 0; i < nr; i++) {
		WRITE_ONCE(*word_of(self, pages[i]), TAG2(pages[i]));
		guest_do_faults(self->vcpu, OP_CHECK_TAGS, TEST_GPA + pages[i] * PAGE_SIZE, 1,
				TAG2(pages[i]), 0, "written by the host");
	}
	guest_do_faults(self->vcpus[1], OP_WRITE_TAGS, TEST_GPA, self->nr_pages, TAG2(0), 0,
			"written by the guest");
	for (i = 0; i < nr; i++)
		touch(self, pages[i], TAG2(pages[i]));

	assert_layout();
	assert_whole_slot(all, "after all");
	assert_pool(self->nr, 0);
}

/* KVM maps unmapped pages according to the layout, and leaves existing mappings alone. */
TEST_F(guest, guest_maps_part_anew)
{
	const struct mappings all = largest_mappings(0, 0, self->nr_pages, self->unit);
	const u64 block = all.nr_1g ? PAGES_1G : all.nr_2m ? PAGES_2M : 1;
	struct mappings want, anew;
	u64 pages[MAX_TOUCHED];
	u64 start, i, nr;

	nr = map_file_and_pick(self, pages);
	do_pages(OP_WRITE_TAGS, 0, self->nr_pages, TAG(0));
	guestmem_model_allocate(&self->model, 0, self->nr_pages);
	for (i = 0; i < nr; i++)
		touch(self, pages[i], TAG(pages[i]));

	/* The hole zeroes a page, and unmaps the block that the page is in from the guest. */
	punch_fd(self->fd, pages[0] * PAGE_SIZE, PAGE_SIZE);
	start = align_down(pages[0], block);
	want = all;
	want.nr_1g -= block == PAGES_1G;
	want.nr_2m -= block == PAGES_2M;
	want.nr_4k -= block == 1;
	assert_whole_slot(want, "hole in a page that is split off");
	assert_layout();

	anew = mappings_of_layout(&self->model, start, block);
	want = mappings_plus(want, anew, 1);
	WRITE_ONCE(*word_of(self, pages[0]), TAG(pages[0]));
	guest_do_faults(self->vcpu, OP_CHECK_TAGS, TEST_GPA, self->nr_pages, TAG(0),
			nr_mappings(anew), "mapped anew");
	assert_whole_slot(want, "mapped anew");
}

static void map_slot_anew(struct gmem *self, const char *what)
{
	const struct mappings want = mappings_of_layout(&self->model, 0, self->nr_pages);

	delete_slot(self->vm, TEST_GPA);
	add_whole_slot();
	guest_do_faults(self->vcpu, OP_WRITE_TAGS, TEST_GPA, self->nr_pages, TAG(0),
			nr_mappings(want), what);
	assert_whole_slot(want, what);
	guest_do_faults(self->vcpu, OP_CHECK_TAGS, TEST_GPA, self->nr_pages, TAG(0), 0, what);
}

TEST_F(guest, guest_maps_what_is_left)
{
	const u64 block = min_t(u64, self->unit_pages, PAGES_2M);
	u64 pages[MAX_TOUCHED];
	int nr, i;

	nr = map_file_and_pick(self, pages);

	/* Here the host's touch allocates the unit. */
	touch(self, pages[0], 0);
	assert_layout();
	guestmem_model_allocate(&self->model, 0, self->nr_pages);
	map_slot_anew(self, "a page touched by the host");

	for (i = 0; i < nr; i++)
		touch(self, pages[i], TAG(pages[i]));
	assert_layout();
	map_slot_anew(self, "pages touched by the host");

	for (i = 0; i < block; i++) {
		TEST_ASSERT_EQ(READ_ONCE(*word_of(self, i)), TAG(i));
		self->model.touched[i] = i != 1;
	}
	touch(self, 1, TAG(1));
	assert_layout();
	map_slot_anew(self, "all pages of a block touched by the host");

	/* A huge page is whole again after it has left the file. */
	punch_fd(self->fd, 0, self->size);
	guestmem_model_punch(&self->model, 0, self->nr_pages);
	assert_whole_slot((struct mappings) {}, "punched");
	do_pages(OP_CHECK_ZERO, 0, self->nr_pages, 0);
	guestmem_model_allocate(&self->model, 0, self->nr_pages);
	assert_layout();
	map_slot_anew(self, "whole again");
	assert_pool(self->nr, 0);
}

TEST_F(guest, host_access_under_running_guest)
{
	u64 step, i;

	map_file(self);
	add_whole_slot();
	run_churners(self, 5, 1, self->mem);

	/* Guest and host see the same memory. */
	do_pages(OP_WRITE_TAGS, 0, self->nr_pages, TAG2(0));
	step = self->nr_pages / 4096 ?: 1;
	for (i = kvm_random_seed % step; i < self->nr_pages; i += step)
		TEST_ASSERT_EQ(READ_ONCE(*word_of(self, i)), TAG2(i));

	punch_fd(self->fd, 0, self->size);
	do_pages(OP_CHURN, 0, self->nr_pages, TAG(0));
	guestmem_model_allocate(&self->model, 0, self->nr_pages);
	assert_layout();
	assert_whole_slot(largest_mappings(0, 0, self->nr_pages, self->unit), "after all");
	assert_pool(self->nr, 0);
}

int main(int argc, char *argv[])
{
	init_mappings();
	return test_harness_run(argc, argv);
}
