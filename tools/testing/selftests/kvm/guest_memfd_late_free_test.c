// SPDX-License-Identifier: GPL-2.0-only
/*
 * A HugeTLB page leaves a guest_memfd file, through a hole or with the file itself,
 * while one of its 4K pages is held.  The 4K page stays as it is for as long as it is
 * held.  Afterwards the huge page is back in the pool, no matter which of file, VM and
 * process still exist by then.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/wait.h>

#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "guest_memfd_hugetlb.h"
#include "guest_memfd_left_behind.h"
#include "memory_holder.h"
#include "page_tags.h"

#define MAX_HOLDERS	8

/* For functions with the fixture as an argument. */
#define late_fixture	_test_data_late

FIXTURE(late)
{
	struct hugetlb_pool pool;
	struct kernel_counters counters;
	struct holder h[MAX_HOLDERS];
	struct kvm_vm *vm;
	size_t unit, size;
	void *mem;
	int nr;
	int fd;
};

FIXTURE_VARIANT(late)
{
	u8 size_log2;
	int nr_units;
	bool (*open)(struct holder *h);
	bool (*hold)(struct holder *h, void *mem, int nr);
	/* NULL if there is no way to read held pages. */
	void (*read)(struct holder *h, void *to);
	void (*release)(struct holder *h);
};

FIXTURE_VARIANT_ADD(late, 2m_longterm)
{
	.size_log2 = 21,
	.nr_units = 4,
	.open = gup_open,
	.hold = gup_hold_write,
	.read = gup_read,
	.release = gup_release,
};

FIXTURE_VARIANT_ADD(late, 2m_vmsplice)
{
	.size_log2 = 21,
	.nr_units = 4,
	.open = vmsplice_open,
	.hold = vmsplice_hold,
	.read = vmsplice_read,
	.release = vmsplice_release,
};

FIXTURE_VARIANT_ADD(late, 2m_io_uring)
{
	.size_log2 = 21,
	.nr_units = 4,
	.open = io_uring_open,
	.hold = io_uring_hold,
	.release = io_uring_release,
};

FIXTURE_VARIANT_ADD(late, 1g_longterm)
{
	.size_log2 = 30,
	.nr_units = 2,
	.open = gup_open,
	.hold = gup_hold_write,
	.read = gup_read,
	.release = gup_release,
};

FIXTURE_VARIANT_ADD(late, 1g_vmsplice)
{
	.size_log2 = 30,
	.nr_units = 2,
	.open = vmsplice_open,
	.hold = vmsplice_hold,
	.read = vmsplice_read,
	.release = vmsplice_release,
};

FIXTURE_SETUP(late)
{
	const char *missing = setup_units();
	int i;

	if (missing)
		SKIP(return, "%s", missing);
	if (!guestmem_has_units())
		SKIP(return, "needs root, debugfs and CONFIG_DEBUG_GUESTMEM");
	for (i = 0; i < MAX_HOLDERS; i++)
		if (!variant->open(&self->h[i]))
			SKIP(return, "needs CONFIG_GUP_TEST, or CONFIG_IO_URING");

	read_kernel_counters(&self->counters);
	self->vm = vm_create_barebones_type(VM_TYPE_PRIVATE);
	self->fd = vm_create_guest_memfd_hugetlb(self->vm, self->size, GUEST_MEMFD_FLAG_MMAP |
						 GUEST_MEMFD_FLAG_INIT_SHARED,
						 variant->size_log2);
	self->mem = kvm_mmap(self->size, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd);
}

FIXTURE_TEARDOWN_PARENT(late)
{
	EXPECT_NOTHING_LEFT(0);
}

static void *page_of(struct late_fixture *self, int unit, long page)
{
	const long unit_pages = self->unit / page_size;

	return self->mem + unit * self->unit + (page + unit_pages) % unit_pages * page_size;
}

#define hold(h, mem)								\
	TEST_ASSERT(variant->hold(h, mem, 1), "Holding a page should succeed, errno %d", errno)

#define assert_held(h, tag)							\
do {										\
	char __buf[page_size];							\
										\
	if (variant->read) {							\
		variant->read(h, __buf);					\
		assert_filled(__buf, tag);					\
	}									\
} while (0)

#define release(h)	variant->release(h)

#define TAG(unit, page)	(((u64)(unit) + 0x7a67) << 40 | (u32)(page) << 12)

static void punch_unit(struct late_fixture *self, int unit)
{
	kvm_fallocate(self->fd, PUNCH, unit * self->unit, self->unit);
}

static void allocate_unit(struct late_fixture *self, int unit)
{
	kvm_fallocate(self->fd, FALLOC_FL_KEEP_SIZE, unit * self->unit, self->unit);
}

TEST_F(late, punched)
{
	const long pages[] = { 0, -1, 77 };
	void *mem;
	int i;

	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		mem = page_of(self, 0, pages[i]);
		fill(mem, TAG(0, pages[i]));
		fill(page_of(self, 0, 5), TAG(0, 5));
		hold(&self->h[0], mem);
		assert_nr_allocated(1);

		/* The unit is in use, but not by the file. */
		punch_unit(self, 0);
		assert_nr_allocated(1);
		assert_nr_late(1);
		assert_held(&self->h[0], TAG(0, pages[i]));

		/* An access of the file allocates another unit in its place. */
		TEST_ASSERT_EQ(*(u64 *)mem, 0);
		fill(mem, TAG(9, 9));
		assert_nr_allocated(2);
		assert_nr_late(1);
		assert_held(&self->h[0], TAG(0, pages[i]));

		/* The new unit can be punched like any other. */
		punch_unit(self, 0);
		assert_nr_allocated(1);
		release(&self->h[0]);
		assert_nr_allocated_settles(0);
		assert_nr_late(0);
	}
}

/* The reservation has one page per unit of the file, and the late unit still uses one of them. */
TEST_F(late, no_page_meanwhile)
{
	void *mem = page_of(self, 0, 3);
	int i;

	for (i = 0; i < self->nr; i++)
		allocate_unit(self, i);
	fill(mem, TAG(0, 3));
	hold(&self->h[0], mem);
	punch_unit(self, 0);

	for (i = 0; i < 2; i++) {
		TEST_ASSERT(fallocate(self->fd, FALLOC_FL_KEEP_SIZE, 0, page_size) &&
			    errno == ENOSPC,
			    "fallocate() should fail with ENOSPC, errno %d", errno);
		TEST_EXPECT_SIGBUS((void)READ_ONCE(*(u64 *)mem));
		assert_nr_allocated(self->nr);
		assert_nr_late(1);
	}
	assert_held(&self->h[0], TAG(0, 3));

	/*
	 * The file can use the page of another unit or, once it is back, the page of
	 * the late unit.
	 */
	punch_unit(self, 1);
	TEST_ASSERT_EQ(*(u64 *)mem, 0);
	TEST_ASSERT(fallocate(self->fd, FALLOC_FL_KEEP_SIZE, self->unit, page_size) &&
		    errno == ENOSPC, "fallocate() should fail with ENOSPC, errno %d", errno);
	assert_nr_allocated(self->nr);
	release(&self->h[0]);
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
		fill(page_of(self, 0, round), TAG(0, round));
		hold(&self->h[0], page_of(self, 0, round));
		punch_unit(self, 0);
		release(&self->h[0]);
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

	for (i = 0; i < MAX_HOLDERS; i++) {
		fill(page_of(self, 1, pages[i]), TAG(1, pages[i]));
		hold(&self->h[i], page_of(self, 1, pages[i]));
	}
	punch_unit(self, 1);
	for (i = 0; i < MAX_HOLDERS; i++) {
		assert_nr_allocated(1);
		assert_nr_late(1);
		assert_held(&self->h[i], TAG(1, pages[i]));
		release(&self->h[i]);
	}
	assert_nr_allocated_settles(0);
	assert_nr_late(0);
}

/* All holders hold the same page. */
TEST_F(late, several_holders)
{
	void *mem = page_of(self, 0, 42);
	int i;

	fill(mem, TAG(0, 42));
	for (i = 0; i < MAX_HOLDERS; i++)
		hold(&self->h[i], mem);
	punch_unit(self, 0);
	for (i = MAX_HOLDERS - 1; i >= 0; i--) {
		assert_nr_allocated(1);
		assert_held(&self->h[i], TAG(0, 42));
		release(&self->h[i]);
	}
	assert_nr_allocated_settles(0);
}

TEST_F(late, several_units)
{
	int i;

	for (i = 0; i < self->nr; i++) {
		fill(page_of(self, i, i), TAG(i, i));
		fill(page_of(self, i, -i), TAG(i, i));
		hold(&self->h[i], page_of(self, i, i));
	}
	kvm_fallocate(self->fd, PUNCH, 0, self->size);
	assert_nr_late(self->nr);
	for (i = self->nr - 1; i >= 0; i--) {
		assert_nr_allocated_settles(i + 1);
		assert_held(&self->h[i], TAG(i, i));
		release(&self->h[i]);
	}
	assert_nr_allocated_settles(0);
	assert_nr_late(0);
}

/* A holder of a page whose unit stays in the file sees what happens to the page. */
TEST_F(late, punched_in_part)
{
	char buf[page_size];
	void *mem = page_of(self, 0, 8);

	fill(mem, TAG(0, 8));
	fill(mem + page_size, TAG(0, 9));
	hold(&self->h[0], mem);
	kvm_fallocate(self->fd, PUNCH, 0, self->unit - page_size);
	assert_nr_allocated(1);
	assert_nr_late(0);
	if (variant->read) {
		variant->read(&self->h[0], buf);
		TEST_ASSERT_EQ(*(u64 *)buf, 0);
	}
	TEST_ASSERT_EQ(*(u64 *)mem, 0);
	TEST_ASSERT_EQ(*(u64 *)(mem + page_size), 0);
	fill(mem, TAG(1, 1));
	assert_held(&self->h[0], TAG(1, 1));
	release(&self->h[0]);
	punch_unit(self, 0);
	assert_nr_allocated(0);
}

/*
 * Close the file, and free the VM if @free_vm.  The unit that is held stays in use, all
 * others are back in the pool at once.
 */
static void close_file(struct late_fixture *self, bool free_vm)
{
	struct hugetlb_pool now;

	kvm_munmap(self->mem, self->size);
	kvm_close(self->fd);
	if (free_vm)
		kvm_vm_free(self->vm);
	assert_nr_late(1);
	hugetlb_read_pool(self->unit, &now);
	TEST_ASSERT_EQ(now.free, self->pool.free - 1);
	TEST_ASSERT_EQ(now.total, self->pool.total);
}

TEST_F(late, closed)
{
	void *mem = page_of(self, 1, 99);
	int i;

	for (i = 0; i < self->nr; i++)
		fill(page_of(self, i, 1000), TAG(i, 1000));
	fill(mem, TAG(1, 99));
	hold(&self->h[0], mem);
	close_file(self, false);
	assert_held(&self->h[0], TAG(1, 99));
	release(&self->h[0]);
	TEST_ASSERT_POOL_SETTLES(&self->pool, 0, 0);
	assert_nr_late(0);
}

TEST_F(late, closed_and_vm_freed)
{
	void *mem = page_of(self, 0, -99);

	fill(mem, TAG(0, -99));
	allocate_unit(self, 1);
	hold(&self->h[0], mem);
	close_file(self, true);
	sleep(2);
	assert_nr_late(1);
	assert_held(&self->h[0], TAG(0, -99));
	release(&self->h[0]);
	TEST_ASSERT_POOL_SETTLES(&self->pool, 0, 0);
	assert_nr_late(0);
}

/* The file is punched first, and closed while the punched unit is still held. */
TEST_F(late, punched_and_closed)
{
	void *mem = page_of(self, 0, 1);

	fill(mem, TAG(0, 1));
	hold(&self->h[0], mem);
	punch_unit(self, 0);
	allocate_unit(self, 0);
	close_file(self, true);
	assert_held(&self->h[0], TAG(0, 1));
	release(&self->h[0]);
	TEST_ASSERT_POOL_SETTLES(&self->pool, 0, 0);
	assert_nr_late(0);
}

/* The holder is killed instead of releasing the page. */
TEST_F(late, killed_holder)
{
	void *mem = page_of(self, 0, 1);
	struct holder h;
	int to_parent[2];
	pid_t pid;
	char c;

	TEST_ASSERT(!pipe(to_parent), "pipe() should succeed");
	fill(mem, TAG(0, 1));
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() should succeed");
	if (!pid) {
		/* Open a holder that the parent doesn't have as well. */
		TEST_ASSERT(variant->open(&h), "Opening should succeed once more");
		hold(&h, mem);
		TEST_ASSERT(write(to_parent[1], "", 1) == 1, "write() should succeed");
		pause();
	}
	TEST_ASSERT(read(to_parent[0], &c, 1) == 1, "The child should hold the page");
	punch_unit(self, 0);
	assert_nr_allocated(1);
	assert_nr_late(1);

	kill(pid, SIGKILL);
	TEST_ASSERT(waitpid(pid, NULL, 0) == pid, "waitpid() should succeed");
	assert_nr_allocated_settles(0);
	assert_nr_late(0);
}

/* The held page has been private, and pages next to it still are. */
TEST_F(late, converted_before)
{
	const long unit_pages = self->unit / page_size;
	void *mem = page_of(self, 0, 300);

	if (!(kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES) & KVM_MEMORY_ATTRIBUTE_PRIVATE))
		SKIP(return, "needs private memory");

	gmem_set_private(self->fd, 0, self->size);
	allocate_unit(self, 0);
	gmem_set_shared(self->fd, 300 * page_size, page_size);
	fill(mem, TAG(0, 300));
	hold(&self->h[0], mem);
	gmem_set_shared(self->fd, 301 * page_size, page_size);
	punch_unit(self, 0);
	assert_nr_allocated(1);
	assert_nr_late(1);

	/* The late unit doesn't get in the way of anything that the file does. */
	gmem_set_private(self->fd, 0, self->unit);
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*(u64 *)mem));
	allocate_unit(self, 0);
	gmem_set_shared(self->fd, 0, self->unit);
	TEST_ASSERT_EQ(*(u64 *)page_of(self, 0, unit_pages / 2), 0);
	gmem_set_private(self->fd, 0, self->unit);
	assert_nr_allocated(2);
	assert_held(&self->h[0], TAG(0, 300));
	punch_unit(self, 0);
	release(&self->h[0]);
	assert_nr_allocated_settles(0);
}

/* Hold and punch over and over again: no unit is lost, and holders see only their own data. */
TEST_F(late, rounds)
{
	const int nr_rounds = self->unit > SZ_2M ? 5 : 30;
	const long unit_pages = self->unit / page_size;
	u32 seed = kvm_random_seed;
	long page[MAX_HOLDERS];
	int held[MAX_HOLDERS] = {}, i, round;

	TH_LOG("seed %#x", seed);
	for (round = 0; round < nr_rounds; round++) {
		for (i = 0; i < MAX_HOLDERS; i++) {
			if (held[i]) {
				assert_held(&self->h[i], TAG(held[i], page[i]));
				if (rand_r(&seed) % 4)
					continue;
				release(&self->h[i]);
				held[i] = 0;
			}
			page[i] = rand_r(&seed) % unit_pages;
			/* Skip this round if there's no page left, as all of them may be held. */
			if (fallocate(self->fd, FALLOC_FL_KEEP_SIZE, 0, page_size)) {
				TEST_ASSERT(errno == ENOSPC,
					    "fallocate() should fail with ENOSPC, if at all, errno %d",
					    errno);
				continue;
			}
			held[i] = round + 1;
			fill(page_of(self, 0, page[i]), TAG(held[i], page[i]));
			hold(&self->h[i], page_of(self, 0, page[i]));
			punch_unit(self, 0);
		}
	}
	for (i = 0; i < MAX_HOLDERS; i++)
		if (held[i])
			release(&self->h[i]);
	assert_nr_allocated_settles(0);
	assert_nr_late(0);
}

int main(int argc, char *argv[])
{
	const char *seed = getenv("SEED");

	TEST_REQUIRE_GUEST_MEMFD_HUGETLB();

	page_size = getpagesize();
	/* SEED repeats an earlier run. */
	if (seed)
		kvm_random_seed = strtoul(seed, NULL, 0);

	return test_harness_run(argc, argv);
}
