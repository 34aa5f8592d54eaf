// SPDX-License-Identifier: GPL-2.0-only
/*
 * A HugeTLB page leaves a guest_memfd file, through a hole or with the file itself,
 * while one of its 4K pages is held.  The 4K page stays as it is for as long as it is
 * held.  Afterwards the huge page is back in the pool, no matter which of file, VM and
 * process still exist by then.
 */
#include "guest_memfd_fixture.h"

#define MAX_HOLDERS	8

#define _test_data_late		gmem
#define _fixture_variant_late	gmem_variant

static const struct holder_ops *ops;
static struct holder holders[MAX_HOLDERS];

static const char *setup(struct gmem *self, const struct gmem_variant *variant)
{
	int i;

	ops = variant->holder;
	for (i = 0; i < MAX_HOLDERS; i++)
		if (!ops->open(&holders[i]))
			return "needs CONFIG_GUP_TEST, or CONFIG_IO_URING";
	return gmem_setup_shared(self, variant);
}

GMEM_FIXTURE(late, setup(self, variant));
GMEM_VARIANT_OF_UNITS(late, 2m_longterm, 21, 4, .holder = &holder_longterm_write);
GMEM_VARIANT_OF_UNITS(late, 2m_vmsplice, 21, 4, .holder = &holder_vmsplice);
GMEM_VARIANT_OF_UNITS(late, 2m_io_uring, 21, 4, .holder = &holder_io_uring);
GMEM_VARIANT_OF_UNITS(late, 1g_longterm, 30, 2, .holder = &holder_longterm_write);
GMEM_VARIANT_OF_UNITS(late, 1g_vmsplice, 30, 2, .holder = &holder_vmsplice);

static void hold(struct holder *h, void *mem)
{
	TEST_ASSERT(ops->hold(h, mem, 1), "Holding a page should succeed, errno %d", errno);
}

/* Fill a page with its tag, and hold it.  Returns its address. */
static void *fill_and_hold(struct gmem *self, struct holder *h, int unit, long page)
{
	void *mem = page_of(self, unit, page);

	fill(mem, UNIT_TAG(unit, page));
	hold(h, mem);
	return mem;
}

static void assert_held(struct holder *h, u64 tag)
{
	char buf[page_size];

	if (ops->read) {
		ops->read(h, buf);
		assert_filled(buf, tag);
	}
}

static void release(struct holder *h)
{
	ops->release(h);
}

/* Assert that all pages are back in the pool, of which @rsvd are for the file. */
static void assert_all_back(struct gmem *self, long rsvd)
{
	TEST_ASSERT_POOL_SETTLES(&self->pool, 0, rsvd);
	assert_nr_late(0);
}

static void allocate_unit(struct gmem *self, int unit)
{
	allocate(self, unit * self->unit_pages, self->unit_pages);
}

TEST_F(late, punched)
{
	const long pages[] = { 0, -1, 77 };
	void *mem;
	int i;

	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		fill(page_of(self, 0, 5), UNIT_TAG(0, 5));
		mem = fill_and_hold(self, &holders[0], 0, pages[i]);
		assert_nr_allocated(1);

		/* The unit is in use, but not by the file. */
		punch_unit(self, 0);
		assert_nr_allocated(1);
		assert_nr_late(1);
		assert_held(&holders[0], UNIT_TAG(0, pages[i]));

		/* An access of the file allocates another unit in its place. */
		TEST_ASSERT_EQ(*(u64 *)mem, 0);
		fill(mem, UNIT_TAG(9, 9));
		assert_nr_allocated(2);
		assert_nr_late(1);
		assert_held(&holders[0], UNIT_TAG(0, pages[i]));

		/* The new unit can be punched like any other. */
		punch_unit(self, 0);
		assert_nr_allocated(1);
		release(&holders[0]);
		assert_all_back(self, self->nr);
	}
}

/* The reservation has one page per unit of the file, and the late unit still uses one of them. */
TEST_F(late, no_page_meanwhile)
{
	void *mem;
	int i;

	for (i = 0; i < self->nr; i++)
		allocate_unit(self, i);
	mem = fill_and_hold(self, &holders[0], 0, 3);
	punch_unit(self, 0);

	for (i = 0; i < 2; i++) {
		assert_error(fallocate(self->fd, FALLOC_FL_KEEP_SIZE, 0, page_size), ENOSPC);
		TEST_EXPECT_SIGBUS((void)READ_ONCE(*(u64 *)mem));
		assert_nr_allocated(self->nr);
		assert_nr_late(1);
	}
	assert_held(&holders[0], UNIT_TAG(0, 3));

	/*
	 * The file can use the page of another unit or, once it is back, the page of
	 * the late unit.
	 */
	punch_unit(self, 1);
	TEST_ASSERT_EQ(*(u64 *)mem, 0);
	assert_error(fallocate(self->fd, FALLOC_FL_KEEP_SIZE, self->unit, page_size), ENOSPC);
	assert_nr_allocated(self->nr);
	release(&holders[0]);
	assert_nr_allocated_settles(self->nr - 1);
	allocate_unit(self, 1);
	assert_nr_allocated(self->nr);
	TEST_ASSERT_EQ(*(u64 *)page_of(self, 1, 3), 0);
}

/* An allocation waits for a unit that is on its way back to the pool. */
TEST_F(late, released_just_now)
{
	const int nr_rounds = self->unit > SZ_2M ? 2 : 30;
	int i, round;

	for (i = 0; i < self->nr; i++)
		allocate_unit(self, i);
	for (round = 0; round < nr_rounds; round++) {
		fill_and_hold(self, &holders[0], 0, round);
		punch_unit(self, 0);
		release(&holders[0]);
		allocate_unit(self, 0);
		TEST_ASSERT_EQ(*(u64 *)page_of(self, 0, round), 0);
		assert_nr_allocated(self->nr);
		assert_nr_late(0);
	}
}

TEST_F(late, several_pages)
{
	const long pages[MAX_HOLDERS] = { 0, 1, -1, 13, 14, 15, -7, 200 };
	int i;

	for (i = 0; i < MAX_HOLDERS; i++)
		fill_and_hold(self, &holders[i], 1, pages[i]);
	punch_unit(self, 1);
	for (i = 0; i < MAX_HOLDERS; i++) {
		assert_nr_allocated(1);
		assert_nr_late(1);
		assert_held(&holders[i], UNIT_TAG(1, pages[i]));
		release(&holders[i]);
	}
	assert_all_back(self, self->nr);
}

/* All holders hold the same page. */
TEST_F(late, several_holders)
{
	void *mem = page_of(self, 0, 42);
	int i;

	fill(mem, UNIT_TAG(0, 42));
	for (i = 0; i < MAX_HOLDERS; i++)
		hold(&holders[i], mem);
	punch_unit(self, 0);
	for (i = MAX_HOLDERS - 1; i >= 0; i--) {
		assert_nr_allocated(1);
		assert_held(&holders[i], UNIT_TAG(0, 42));
		release(&holders[i]);
	}
	assert_nr_allocated_settles(0);
}

TEST_F(late, several_units)
{
	int i;

	for (i = 0; i < self->nr; i++) {
		fill(page_of(self, i, -i), UNIT_TAG(i, i));
		fill_and_hold(self, &holders[i], i, i);
	}
	punch_fd(self->fd, 0, self->size);
	assert_nr_late(self->nr);
	for (i = self->nr - 1; i >= 0; i--) {
		assert_nr_allocated_settles(i + 1);
		assert_held(&holders[i], UNIT_TAG(i, i));
		release(&holders[i]);
	}
	assert_all_back(self, self->nr);
}

/* A holder of a page whose unit stays in the file sees what happens to the page. */
TEST_F(late, punched_in_part)
{
	void *mem = fill_and_hold(self, &holders[0], 0, 8);
	char buf[page_size];

	fill(mem + page_size, UNIT_TAG(0, 9));
	punch_fd(self->fd, 0, self->unit - page_size);
	assert_nr_allocated(1);
	assert_nr_late(0);
	if (ops->read) {
		ops->read(&holders[0], buf);
		TEST_ASSERT_EQ(*(u64 *)buf, 0);
	}
	TEST_ASSERT_EQ(*(u64 *)mem, 0);
	TEST_ASSERT_EQ(*(u64 *)(mem + page_size), 0);
	fill(mem, UNIT_TAG(1, 1));
	assert_held(&holders[0], UNIT_TAG(1, 1));
	release(&holders[0]);
	punch_unit(self, 0);
	assert_nr_allocated(0);
}

/*
 * Close the file, and free the VM if @free_vm.  The unit that is held stays in use, all
 * others are back in the pool at once.
 */
static void close_file(struct gmem *self, bool free_vm)
{
	struct hugetlb_pool now;

	gmem_close(self);
	if (free_vm)
		kvm_vm_free(self->vm);
	assert_nr_late(1);
	hugetlb_read_pool(self->unit, &now);
	TEST_ASSERT_EQ(now.free, self->pool.free - 1);
	TEST_ASSERT_EQ(now.total, self->pool.total);
}

TEST_F(late, closed)
{
	int i;

	for (i = 0; i < self->nr; i++)
		fill(page_of(self, i, 1000), UNIT_TAG(i, 1000));
	fill_and_hold(self, &holders[0], 1, 99);
	close_file(self, false);
	assert_held(&holders[0], UNIT_TAG(1, 99));
	release(&holders[0]);
	assert_all_back(self, 0);
}

TEST_F(late, closed_and_vm_freed)
{
	fill_and_hold(self, &holders[0], 0, -99);
	allocate_unit(self, 1);
	close_file(self, true);
	sleep(2);
	assert_nr_late(1);
	assert_held(&holders[0], UNIT_TAG(0, -99));
	release(&holders[0]);
	assert_all_back(self, 0);
}

/* The file is punched first, and closed while the punched unit is still held. */
TEST_F(late, punched_and_closed)
{
	fill_and_hold(self, &holders[0], 0, 1);
	punch_unit(self, 0);
	allocate_unit(self, 0);
	close_file(self, true);
	assert_held(&holders[0], UNIT_TAG(0, 1));
	release(&holders[0]);
	assert_all_back(self, 0);
}

/* The holder is killed instead of releasing the page. */
TEST_F(late, killed_holder)
{
	struct holder h;
	int to_parent[2];
	pid_t pid;

	kvm_pipe(to_parent);
	pid = kvm_fork();
	if (!pid) {
		/* Open a holder that the parent doesn't have as well. */
		TEST_ASSERT(ops->open(&h), "Opening should succeed once more");
		fill_and_hold(self, &h, 0, 1);
		tell(to_parent[1]);
		pause();
	}
	TEST_ASSERT(wait_for(to_parent[0]), "The child should hold the page");
	punch_unit(self, 0);
	assert_nr_allocated(1);
	assert_nr_late(1);

	kill_child(pid);
	assert_all_back(self, self->nr);
}

/* The held page has been private, and pages next to it still are. */
TEST_F(late, converted_before)
{
	void *mem;

	if (!has_conversion())
		SKIP(return, "needs private memory");

	gmem_set_private(self->fd, 0, self->size);
	allocate_unit(self, 0);
	gmem_set_shared(self->fd, 300 * page_size, page_size);
	mem = fill_and_hold(self, &holders[0], 0, 300);
	gmem_set_shared(self->fd, 301 * page_size, page_size);
	punch_unit(self, 0);
	assert_nr_allocated(1);
	assert_nr_late(1);

	/* The late unit doesn't get in the way of anything that the file does. */
	gmem_set_private(self->fd, 0, self->unit);
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*(u64 *)mem));
	allocate_unit(self, 0);
	gmem_set_shared(self->fd, 0, self->unit);
	TEST_ASSERT_EQ(*(u64 *)page_of(self, 0, self->unit_pages / 2), 0);
	gmem_set_private(self->fd, 0, self->unit);
	assert_nr_allocated(2);
	assert_held(&holders[0], UNIT_TAG(0, 300));
	punch_unit(self, 0);
	release(&holders[0]);
	assert_nr_allocated_settles(0);
}

/* Hold and punch over and over again: no unit is lost, and holders see only their own data. */
TEST_F(late, rounds)
{
	const int nr_rounds = self->unit > SZ_2M ? 5 : 30;
	u32 seed = kvm_random_seed;
	long page[MAX_HOLDERS];
	int held[MAX_HOLDERS] = {}, i, round;

	TH_LOG("seed %#x", seed);
	for (round = 0; round < nr_rounds; round++) {
		for (i = 0; i < MAX_HOLDERS; i++) {
			if (held[i]) {
				assert_held(&holders[i], UNIT_TAG(held[i], page[i]));
				if (rand_r(&seed) % 4)
					continue;
				release(&holders[i]);
				held[i] = 0;
			}
			page[i] = rand_r(&seed) % self->unit_pages;
			/* Skip this round if there's no page left, as all of them may be held. */
			if (fallocate(self->fd, FALLOC_FL_KEEP_SIZE, 0, page_size)) {
				TEST_ASSERT(errno == ENOSPC,
					    "fallocate() should fail with ENOSPC, if at all, errno %d",
					    errno);
				continue;
			}
			held[i] = round + 1;
			fill(page_of(self, 0, page[i]), UNIT_TAG(held[i], page[i]));
			hold(&holders[i], page_of(self, 0, page[i]));
			punch_unit(self, 0);
		}
	}
	for (i = 0; i < MAX_HOLDERS; i++)
		if (held[i])
			release(&holders[i]);
	assert_all_back(self, self->nr);
}

GMEM_TEST_MAIN(NEEDS_HUGETLB)
