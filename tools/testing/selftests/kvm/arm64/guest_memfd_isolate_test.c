// SPDX-License-Identifier: GPL-2.0-only
/*
 * The host uses shared pages of guest_memfd files made of HugeTLB pages.
 *
 * Each page that the host touches is split off the huge page, to be mapped page by
 * page.  The blocks that the guest has mapped already stay mapped.  From then on, the
 * guest maps blocks of the pieces that are left.
 */
#include "guest_memfd_guest.h"

/* Read, or write, the first word of a page of the file as the host. */
#define host_word(page)		READ_ONCE(self->mem[(page) * (PAGE_SIZE / sizeof(u64))])
#define set_host_word(page, val)						\
	WRITE_ONCE(self->mem[(page) * (PAGE_SIZE / sizeof(u64))], val)

#define assert_layout(model)							\
do {										\
	if (guestmem_has_units())						\
		TEST_ASSERT_LAYOUT(model);					\
} while (0)

static void touch(struct guest_fixture *self, struct guestmem_model *model, u64 page, u64 val)
{
	TEST_ASSERT(host_word(page) == val, "Page %lu should be 0x%lx, is 0x%lx", page, val,
		    host_word(page));
	guestmem_model_touch(model, page);
}

static void map_file(struct guest_fixture *self, struct guestmem_model *model)
{
	self->mem = kvm_mmap(self->size, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd);
	guestmem_model_init(model, self->fd, self->size, self->unit, false);
}

/*
 * Fill in pages at the edges of file, unit and 2M block, and two neighbours that are at
 * no edge.  Returns the number of pages.
 */
static int pages_to_touch(struct guest_fixture *self, u64 *pages)
{
	const u64 nr = self->pages;
	int i = 0;

	pages[i++] = nr / 2 + 7;
	pages[i++] = nr / 2 + 8;
	pages[i++] = 0;
	pages[i++] = nr - 1;
	pages[i++] = self->unit / PAGE_SIZE - 1;
	pages[i++] = PAGES_2M % nr;
	pages[i++] = PAGES_2M - 1;
	return i;
}

#define MAX_TOUCHED	7

TEST_F(guest, guest_keeps_mappings)
{
	const struct mappings all = largest_mappings(0, 0, self->pages, self->unit);
	struct guestmem_model model;
	u64 pages[MAX_TOUCHED];
	int nr, i;

	map_file(self, &model);
	nr = pages_to_touch(self, pages);

	add_whole_slot();
	guest_do(self->vcpu, OP_WRITE_TAGS, TEST_GPA, self->pages, TAG(0));
	guestmem_model_allocate(&model, 0, self->pages);
	assert_whole_slot(all, "whole");
	assert_layout(&model);

	for (i = 0; i < nr; i++) {
		touch(self, &model, pages[i], TAG(pages[i]));
		assert_layout(&model);
		assert_whole_slot(all, "page touched by the host");
	}
	guest_do_faults(self->vcpu, OP_CHECK_TAGS, TEST_GPA, self->pages, TAG(0), 0, "touched");

	for (i = 0; i < nr; i++) {
		set_host_word(pages[i], TAG2(pages[i]));
		guest_do_faults(self->vcpu, OP_CHECK_TAGS, TEST_GPA + pages[i] * PAGE_SIZE, 1,
				TAG2(pages[i]), 0, "written by the host");
	}
	guest_do_faults(self->vcpus[1], OP_WRITE_TAGS, TEST_GPA, self->pages, TAG2(0), 0,
			"written by the guest");
	for (i = 0; i < nr; i++)
		touch(self, &model, pages[i], TAG2(pages[i]));

	assert_layout(&model);
	assert_whole_slot(all, "after all");
	assert_pool(self->nr, 0);
	guestmem_model_free(&model);
}

/* KVM maps unmapped pages according to the layout, and leaves existing mappings alone. */
TEST_F(guest, guest_maps_part_anew)
{
	const struct mappings all = largest_mappings(0, 0, self->pages, self->unit);
	const u64 block = all.nr_1g ? PAGES_1G : all.nr_2m ? PAGES_2M : 1;
	struct guestmem_model model;
	struct mappings want, anew;
	u64 pages[MAX_TOUCHED];
	u64 start, i, nr;

	map_file(self, &model);
	nr = pages_to_touch(self, pages);

	add_whole_slot();
	guest_do(self->vcpu, OP_WRITE_TAGS, TEST_GPA, self->pages, TAG(0));
	guestmem_model_allocate(&model, 0, self->pages);
	for (i = 0; i < nr; i++)
		touch(self, &model, pages[i], TAG(pages[i]));

	/* The hole zeroes a page, and unmaps the block that the page is in from the guest. */
	kvm_fallocate(self->fd, PUNCH, pages[0] * PAGE_SIZE, PAGE_SIZE);
	start = align_down(pages[0], block);
	want = all;
	want.nr_1g -= block == PAGES_1G;
	want.nr_2m -= block == PAGES_2M;
	want.nr_4k -= block == 1;
	assert_whole_slot(want, "hole in a page that is split off");
	assert_layout(&model);

	anew = mappings_of_layout(&model, start, block);
	want.nr_4k += anew.nr_4k;
	want.nr_2m += anew.nr_2m;
	want.nr_1g += anew.nr_1g;
	set_host_word(pages[0], TAG(pages[0]));
	guest_do_faults(self->vcpu, OP_CHECK_TAGS, TEST_GPA, self->pages, TAG(0),
			nr_mappings(anew), "mapped anew");
	assert_whole_slot(want, "mapped anew");
	guestmem_model_free(&model);
}

static void map_slot_anew(struct guest_fixture *self, struct guestmem_model *model,
			  const char *what)
{
	const struct mappings want = mappings_of_layout(model, 0, self->pages);

	delete_slot(self->vm, TEST_GPA);
	add_whole_slot();
	guest_do_faults(self->vcpu, OP_WRITE_TAGS, TEST_GPA, self->pages, TAG(0),
			nr_mappings(want), what);
	assert_whole_slot(want, what);
	guest_do_faults(self->vcpu, OP_CHECK_TAGS, TEST_GPA, self->pages, TAG(0), 0, what);
}

TEST_F(guest, guest_maps_what_is_left)
{
	const u64 block = min_t(u64, self->unit / PAGE_SIZE, PAGES_2M);
	struct guestmem_model model;
	u64 pages[MAX_TOUCHED];
	int nr, i;

	map_file(self, &model);
	nr = pages_to_touch(self, pages);
	add_whole_slot();

	/* Here the host's touch allocates the unit. */
	touch(self, &model, pages[0], 0);
	assert_layout(&model);
	guestmem_model_allocate(&model, 0, self->pages);
	map_slot_anew(self, &model, "a page touched by the host");

	for (i = 0; i < nr; i++)
		touch(self, &model, pages[i], TAG(pages[i]));
	assert_layout(&model);
	map_slot_anew(self, &model, "pages touched by the host");

	for (i = 0; i < block; i++) {
		TEST_ASSERT_EQ(host_word(i), TAG(i));
		model.touched[i] = i != 1;
	}
	touch(self, &model, 1, TAG(1));
	assert_layout(&model);
	map_slot_anew(self, &model, "all pages of a block touched by the host");

	/* A huge page is whole again after it has left the file. */
	kvm_fallocate(self->fd, PUNCH, 0, self->size);
	guestmem_model_punch(&model, 0, self->pages);
	assert_whole_slot((struct mappings) {}, "punched");
	guest_do(self->vcpu, OP_CHECK_ZERO, TEST_GPA, self->pages, 0);
	guestmem_model_allocate(&model, 0, self->pages);
	assert_layout(&model);
	map_slot_anew(self, &model, "whole again");
	assert_pool(self->nr, 0);
	guestmem_model_free(&model);
}

TEST_F(guest, host_access_under_running_guest)
{
	struct guestmem_model model;
	u64 step, i;

	map_file(self, &model);
	add_whole_slot();
	run_churners(self, 5, self->mem);

	/* Guest and host see the same memory. */
	guest_do(self->vcpu, OP_WRITE_TAGS, TEST_GPA, self->pages, TAG2(0));
	step = self->pages / 4096 ?: 1;
	for (i = kvm_random_seed % step; i < self->pages; i += step)
		TEST_ASSERT_EQ(host_word(i), TAG2(i));

	kvm_fallocate(self->fd, PUNCH, 0, self->size);
	guest_do(self->vcpu, OP_CHURN, TEST_GPA, self->pages, TAG(0));
	guestmem_model_allocate(&model, 0, self->pages);
	assert_layout(&model);
	assert_whole_slot(largest_mappings(0, 0, self->pages, self->unit), "after all");
	assert_pool(self->nr, 0);
	guestmem_model_free(&model);
}

int main(int argc, char *argv[])
{
	return run_guest_tests(argc, argv);
}
