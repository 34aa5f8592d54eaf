// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of what a guest sees of a guest_memfd file made of HugeTLB pages, and of
 * how KVM maps the file.  The guest sees zeroes in pages that are new or were
 * punched, and the right page at every address, whatever the offsets of the
 * memslot.  Mappings are as huge as the huge page, the slot and the relative
 * alignment of gfn and file offset allow.
 *
 * The guest writes a different tag into every page of a memslot.  Then it looks at
 * the same file through another, aligned slot, where it finds pages that were
 * mapped in the wrong place.
 */
#include <limits.h>

#include "guest_memfd_fixture.h"
#include "cgroup_util.h"

#define _test_data_guest		gmem
#define _fixture_variant_guest	gmem_variant

/* An address range for all slots, without a mapping of the file. */
static void *hva;

static void *map_aligned_hva(size_t size)
{
	void *mem = kvm_mmap(size + SZ_1G, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);

	return align_ptr_up(mem, SZ_1G);
}

static const char *setup(struct gmem *self, const struct gmem_variant *variant)
{
	const char *missing = gmem_setup(self, variant);

	if (missing)
		return missing;
	self->vm = create_guest(VM_TYPE_PRIVATE, self->vcpus, MAX_VCPUS);
	self->vcpu = self->vcpus[0];
	self->fd = gmem_create(self, 0);
	hva = map_aligned_hva(TEST_GPA_SIZE);
	return NULL;
}

GMEM_FIXTURE(guest, setup(self, variant));
GMEM_VARIANTS(guest, 8, 1);

/* Let the guest do something with each of @nr pages of a slot for all of the file. */
#define do_pages(op, first, nr, tag)					\
	guest_do(self->vcpu, op, gpa_of(first), nr, PAGE_SIZE, tag)

#define add_whole_slot()						\
	add_slot(self->vm, TEST_GPA, self->size, hva, self->fd, 0)
#define delete_whole_slot()						\
	delete_slot(self->vm, TEST_GPA)

/* Assert that the memory at the slot's userspace address is unused. */
static void assert_hva_unused(void *hva, size_t size)
{
	const size_t nr = size / PAGE_SIZE;
	unsigned char *vec = malloc(nr);
	size_t i;

	TEST_ASSERT(!mincore(hva, size, vec), "mincore() should succeed");
	for (i = 0; i < nr; i++)
		TEST_ASSERT(!(vec[i] & 1), "Page %zu of the slot's hva was touched", i);
	free(vec);
}

TEST_F(guest, one_fault_per_unit)
{
	const u64 pages = self->unit_pages;
	struct mappings before, want;
	int i;

	add_whole_slot();
	want = largest_mappings(0, 0, pages, self->unit);
	TEST_ASSERT_EQ(want.faults, 1);

	for (i = 0; i < self->nr; i++) {
		u64 gpa = TEST_GPA + i * self->unit;

		/* Begin in the middle: it does not matter which page is first. */
		before = read_mappings(self->vcpu);
		guest_do(self->vcpu, i & 1 ? OP_READ : OP_WRITE_TAGS,
			 gpa + self->unit / 2, pages / 2, PAGE_SIZE, 1);
		assert_mappings(self->vcpu, before, want, "second half");
		guest_do(self->vcpu, OP_READ, gpa, pages, PAGE_SIZE, 0);
		guest_do(self->vcpu, OP_WRITE_TAGS, gpa, pages, PAGE_SIZE, 1);
		assert_mappings(self->vcpu, before, want, "whole unit");
		assert_pool(i + 1, self->nr - i - 1);
	}
	do_pages(OP_CHECK_TAGS, 0, pages, 1);
	assert_hva_unused(hva, self->size);
}

/* All of the slot's memory is in the file: KVM does not even look at the userspace address. */
TEST_F(guest, userspace_address_is_ignored)
{
	const u64 pages = self->nr_pages;
	struct mappings before;

	hva = (void *)PAGE_SIZE;
	add_whole_slot();
	before = read_mappings(self->vcpu);
	do_pages(OP_WRITE_TAGS, 0, pages, 1);
	assert_mappings(self->vcpu, before, largest_mappings(0, 0, pages, self->unit), "all");
	do_pages(OP_CHECK_TAGS, 0, pages, 1);
}

TEST_F(guest, prefault_maps_huge)
{
	const u64 pages = self->nr_pages;
	struct mappings before, want;

	add_whole_slot();
	before = read_mappings(self->vcpu);
	want = largest_mappings(0, 0, pages, self->unit);
	want.faults = 0;

	prefault(self->vcpu, 0, self->size);
	assert_pool(self->nr, 0);

	/* Prefaults don't count as faults, and leave no faults to the guest. */
	before.faults = read_mappings(self->vcpu).faults;
	do_pages(OP_WRITE_TAGS, 0, pages, 1);
	assert_mappings(self->vcpu, before, want, "after prefault");
}

TEST_F(guest, zeroed)
{
	const u64 pages = self->unit_pages;
	int i;

	/* Start over with a pool full of another user's data. */
	close(self->fd);
	hugetlb_dirty_pool(self->unit);
	self->fd = gmem_create(self, 0);
	add_whole_slot();

	do_pages(OP_CHECK_ZERO, 0, self->nr_pages, 0);

	for (i = 0; i < self->nr; i++) {
		u64 gpa = TEST_GPA + i * self->unit;

		guest_do(self->vcpu, OP_WRITE_TAGS, gpa, pages, PAGE_SIZE, ~0ull / 3);
		punch_fd(self->fd, i * self->unit, self->unit);
		assert_pool(self->nr - 1, 1);
		/* Either fallocate() or the guest itself allocates the unit. */
		if (i & 1)
			allocate_fd(self->fd, i * self->unit, PAGE_SIZE);
		guest_do(self->vcpu, OP_CHECK_ZERO, gpa, pages, PAGE_SIZE, 0);
		assert_pool(self->nr, 0);
	}
}

TEST_F(guest, punch_part_zeroes)
{
	const u64 pages = self->nr_pages;
	const struct {
		u64 first, nr;
	} holes[] = {
		{ 0, 1 },
		{ 1, 1 },
		{ pages - 1, 1 },
		{ 7, 256 },
		{ self->unit_pages - 1, 2 },
		{ self->unit_pages / 2, self->unit_pages },
		{ 1, pages - 2 },
	};
	int i;

	add_whole_slot();
	for (i = 0; i < ARRAY_SIZE(holes); i++) {
		u64 first = holes[i].first, nr = holes[i].nr, end = first + nr;

		if (end > pages)
			continue;

		do_pages(OP_WRITE_TAGS, 0, pages, 1);
		punch_fd(self->fd, first * PAGE_SIZE, nr * PAGE_SIZE);

		do_pages(OP_CHECK_TAGS, 0, first, 1);
		do_pages(OP_CHECK_ZERO, first, nr, 0);
		do_pages(OP_CHECK_TAGS, end, pages - end, 1 + end);
		assert_pool(self->nr, 0);
	}
}

static const struct slot_case slot_cases[] = {
	{ "aligned",			0,		0,		4 * PAGES_2M,	0 },
	{ "hva unaligned",		0,		0,		4 * PAGES_2M,	1 },
	{ "gfn unaligned",		1,		0,		4 * PAGES_2M,	0 },
	{ "gfn unaligned as hva",	1,		0,		4 * PAGES_2M,	1 },
	{ "pgoff unaligned",		0,		1,		4 * PAGES_2M,	0 },
	{ "pgoff unaligned as hva",	0,		1,		4 * PAGES_2M,	1 },
	{ "gfn as pgoff",		1,		1,		4 * PAGES_2M,	0 },
	{ "gfn as pgoff as hva",	1,		1,		4 * PAGES_2M,	1 },
	{ "gfn as pgoff mod 2M",	PAGES_2M + 5,	5,		3 * PAGES_2M,	0 },
	{ "gfn, pgoff, hva differ",	3,		2,		3 * PAGES_2M,	1 },
	{ "at 2M in the file",		0,		PAGES_2M,	3 * PAGES_2M,	0 },
	{ "at 2M in the guest",		PAGES_2M,	0,		3 * PAGES_2M,	0 },
	{ "odd size",			0,		0,		3 * PAGES_2M - 1, 0 },
	{ "odd size and start",		511,		511,		2 * PAGES_2M + 2, 511 },
	{ "within 2M",			7,		7,		100,		7 },
	{ "one page",			0,		0,		1,		0 },
	{ "last page of 2M",		511,		511,		1,		0 },
	{ "2M in two halves",		256,		0,		PAGES_2M,	0 },
	{ "2M over an edge",		0,		256,		PAGES_2M,	256 },
};

TEST_F(guest, slots_at_odd_offsets)
{
	const u64 unit_pages = self->unit_pages;
	const u64 window = 6 * PAGES_2M;
	struct mappings before;
	int i;

	for (i = 0; i < ARRAY_SIZE(slot_cases); i++) {
		const struct slot_case *c = &slot_cases[i];
		u64 gpa = TEST_GPA + c->gfn * PAGE_SIZE, size = c->nr * PAGE_SIZE;
		void *slot_hva = hva + c->hva * PAGE_SIZE;
		u64 end = c->pgoff + c->nr;

		punch_fd(self->fd, 0, self->size);

		/* Write through the slot of this case ... */
		add_slot(self->vm, gpa, size, slot_hva, self->fd, c->pgoff * PAGE_SIZE);
		before = read_mappings(self->vcpu);
		guest_do(self->vcpu, OP_WRITE_TAGS, gpa, c->nr, PAGE_SIZE, TAG(c->pgoff));
		assert_mappings(self->vcpu, before,
				largest_mappings(c->gfn, c->pgoff, c->nr, self->unit), c->name);
		guest_do(self->vcpu, OP_CHECK_TAGS, gpa, c->nr, PAGE_SIZE, TAG(c->pgoff));
		assert_pool(DIV_ROUND_UP(end, unit_pages) - c->pgoff / unit_pages,
			    self->nr - DIV_ROUND_UP(end, unit_pages) + c->pgoff / unit_pages);
		assert_hva_unused(slot_hva, size);
		delete_slot(self->vm, gpa);

		/* ... check the file through an aligned slot, and write through that ... */
		add_whole_slot();
		do_pages(OP_CHECK_ZERO, 0, c->pgoff, 0);
		do_pages(OP_CHECK_TAGS, c->pgoff, c->nr, TAG(c->pgoff));
		do_pages(OP_CHECK_ZERO, end, window - end, 0);
		do_pages(OP_WRITE_TAGS, 0, window, TAG2(0));
		delete_whole_slot();

		/* ... and check what was written through the slot of this case. */
		add_slot(self->vm, gpa, size, slot_hva, self->fd, c->pgoff * PAGE_SIZE);
		guest_do(self->vcpu, OP_CHECK_TAGS, gpa, c->nr, PAGE_SIZE, TAG2(c->pgoff));
		delete_slot(self->vm, gpa);
	}
}

/* Punch a hole in a slot that isn't aligned as the file is. */
TEST_F(guest, punch_through_odd_slot)
{
	const u64 gpa = TEST_GPA + 5 * PAGE_SIZE, pgoff = 3, nr = 3 * PAGES_2M;
	const u64 first = PAGES_2M + 1, holes = PAGES_2M;

	add_slot(self->vm, gpa, nr * PAGE_SIZE, hva, self->fd, pgoff * PAGE_SIZE);
	guest_do(self->vcpu, OP_WRITE_TAGS, gpa, nr, PAGE_SIZE, 1);
	punch_fd(self->fd, (pgoff + first) * PAGE_SIZE, holes * PAGE_SIZE);
	guest_do(self->vcpu, OP_CHECK_TAGS, gpa, first, PAGE_SIZE, 1);
	guest_do(self->vcpu, OP_CHECK_ZERO, gpa + first * PAGE_SIZE, holes, PAGE_SIZE, 0);
	guest_do(self->vcpu, OP_CHECK_TAGS, gpa + (first + holes) * PAGE_SIZE,
		 nr - first - holes, PAGE_SIZE, 1 + first + holes);
}

/* Converting a unit unmaps the unit and nothing else from the guest, and keeps it whole. */
TEST_F(guest, convert_whole_units)
{
	const u64 pages = self->unit_pages;
	const struct mappings one = largest_mappings(0, 0, pages, self->unit);
	struct mappings before, none = {}, gone = {
		.nr_1g = -one.nr_1g,
		.nr_2m = -one.nr_2m,
	};
	int i, pass;

	add_whole_slot();
	do_pages(OP_WRITE_TAGS, 0, self->nr * pages, TAG(0));

	/* Convert to shared, to shared again, to private, and to private again. */
	for (pass = 0; pass < 4; pass++) {
		for (i = 0; i < self->nr; i++) {
			u64 offset = i * self->unit;

			before = read_mappings(self->vcpu);
			gmem_set_memory_attributes(self->fd, offset, self->unit,
						   pass < 2 ? 0 : KVM_MEMORY_ATTRIBUTE_PRIVATE);
			assert_mappings(self->vcpu, before, pass & 1 ? none : gone,
					"unit converted");
			before = read_mappings(self->vcpu);
			guest_do(self->vcpu, OP_CHECK_TAGS, TEST_GPA, self->nr * pages,
				 PAGE_SIZE, TAG(0));
			assert_mappings(self->vcpu, before, pass & 1 ? none : one,
					"unit touched again");
		}
	}
	assert_pool(self->nr, 0);

	/* Convert all units at once. */
	before = read_mappings(self->vcpu);
	gmem_set_shared(self->fd, 0, self->size);
	do_pages(OP_CHECK_TAGS, 0, self->nr * pages, TAG(0));
	before.faults += self->nr;
	assert_mappings(self->vcpu, before, none, "file converted");
	assert_hva_unused(hva, self->size);
}

/* KVM maps shared memory of a file as huge as private memory. */
TEST_F(guest, init_shared_maps_huge)
{
	const u64 pages = self->nr_pages;
	struct mappings before;

	close(self->fd);
	self->fd = gmem_create(self, GUEST_MEMFD_FLAG_INIT_SHARED);
	add_whole_slot();
	before = read_mappings(self->vcpu);
	do_pages(OP_WRITE_TAGS, 0, pages, TAG(0));
	assert_mappings(self->vcpu, before, largest_mappings(0, 0, pages, self->unit), "shared");
	gmem_set_private(self->fd, 0, self->size);
	do_pages(OP_CHECK_TAGS, 0, pages, TAG(0));
	before = read_mappings(self->vcpu);
	do_pages(OP_CHECK_TAGS, 0, pages, TAG(0));
	assert_mappings(self->vcpu, before, (struct mappings) {}, "private");
	assert_pool(self->nr, 0);
}

TEST_F(guest, race_to_one_unit)
{
	add_whole_slot();
	race_to_first_unit(self, MAX_VCPUS, 2);
}

TEST_F(guest, punch_under_running_guest)
{
	add_whole_slot();
	run_churners(self, 5, 2, NULL);

	punch_fd(self->fd, 0, self->size);
	assert_pool(0, self->nr);
	do_pages(OP_CHECK_ZERO, 0, self->nr_pages, 0);
	assert_pool(self->nr, 0);
}

static void *run_until_fault(void *data)
{
	struct kvm_vcpu *vcpu = data;
	int r;

	do {
		r = _vcpu_run(vcpu);
		if (!r)
			assert_request_done(vcpu);
	} while (!r);
	return (void *)(long)errno;
}

TEST_F(guest, close_under_running_guest)
{
	pthread_t thread;
	void *error;

	add_whole_slot();
	set_request(self->vcpu, OP_CHURN, TEST_GPA, 16, PAGE_SIZE, TAG(0));
	kvm_pthread_create(&thread, NULL, run_until_fault, self->vcpu);
	usleep(100 * 1000);
	close(self->fd);
	TEST_ASSERT_POOL_SETTLES(&self->pool, 0, 0);

	kvm_pthread_join(thread, &error);
	TEST_ASSERT((long)error == EFAULT, "KVM_RUN should fail with EFAULT, errno %ld",
		    (long)error);
	TEST_ASSERT_EQ(self->vcpu->run->exit_reason, KVM_EXIT_MEMORY_FAULT);
}

TEST_F(guest, fault_without_page_on_node)
{
	long hogged = self->pool.node_free[1];
	struct hugetlb_pool now;
	void *mem, *hog;

	SKIP_IF(return, hugetlb_missing_nodes(&self->pool));

	close(self->fd);
	self->size = self->unit;
	self->fd = gmem_create(self, GUEST_MEMFD_FLAG_MMAP);
	mem = gmem_map(self, self->fd);
	bind_to_node(mem, self->size, 1);
	hog = hugetlb_hog(self->unit, hogged, 1);
	add_whole_slot();

	guest_do_fails(self->vcpu, TEST_GPA, ENOSPC);
	assert_pool(hogged, 1);
	guest_do_fails(self->vcpu, TEST_GPA, ENOSPC);

	/* There is a page again: the guest goes on as if nothing had happened. */
	hugetlb_unhog(hog, self->unit, hogged);
	guest_run(self->vcpu);
	assert_pool(1, 0);
	hugetlb_read_pool(self->unit, &now);
	TEST_ASSERT_EQ(now.node_free[1], hogged - 1);
}

/* The limit of the vCPU's thread counts, as the thread that touches a page allocates it. */
TEST_F(guest, fault_over_cgroup_limit)
{
	const char *limit = self->unit == SZ_1G ? "hugetlb.1GB.max" : "hugetlb.2MB.max";
	char root[PATH_MAX], *cgroup;

	if (cg_find_unified_root(root, sizeof(root), NULL) ||
	    cg_read_strstr(root, "cgroup.controllers", "hugetlb") ||
	    cg_write(root, "cgroup.subtree_control", "+hugetlb"))
		SKIP(return, "needs the hugetlb controller in cgroup2");

	cgroup = cg_name(root, "guest_memfd_guest");
	TEST_ASSERT(!cg_create(cgroup) && !cg_write_numeric(cgroup, limit, 0) &&
		    !cg_enter_current(cgroup), "Entering a cgroup should succeed");
	add_whole_slot();

	guest_do_fails(self->vcpu, TEST_GPA, ENOMEM);
	assert_pool(0, self->nr);
	guest_do_fails(self->vcpu, TEST_GPA, ENOMEM);

	TEST_ASSERT(!cg_write_numeric(cgroup, limit, self->unit), "Setting a limit should succeed");
	guest_run(self->vcpu);
	assert_pool(1, self->nr - 1);
	TEST_ASSERT(!cg_enter_current(root) && !rmdir(cgroup), "Removing a cgroup should succeed");
}

GMEM_TEST_MAIN(NEEDS_HUGETLB | NEEDS_PRIVATE_VM)
