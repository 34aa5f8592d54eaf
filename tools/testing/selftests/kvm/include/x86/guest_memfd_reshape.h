/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A guest_memfd file made of HugeTLB pages that host and guest use at the same time,
 * and a model of it.  The model knows which page is private, how the file is cut into
 * folios, and the tag of each page.  Host and guest write the tag into the first word
 * of the page.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_RESHAPE_H
#define SELFTEST_KVM_GUEST_MEMFD_RESHAPE_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest_memfd_guest.h"
#include "guest_memfd_left_behind.h"

#define reshape_fixture	_test_data_reshape

FIXTURE(reshape)
{
	struct hugetlb_pool pool;
	struct kernel_counters counters;
	struct kvm_vcpu *vcpus[MAX_VCPUS];
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	struct guestmem_model model;
	u64 *tags;
	size_t unit, size;
	u64 unit_pages, nr_pages;
	void *mem;
	int nr;
	int fd;
	/* The number of huge pages that the pool has lost, as a page of them has failed. */
	int nr_lost;
	/* For host_can_read(). */
	int pipe[2];
};

FIXTURE_VARIANT(reshape)
{
	u8 size_log2;
	int nr_units;
};

FIXTURE_VARIANT_ADD(reshape, 2m)
{
	.size_log2 = 21,
	.nr_units = 10,
};

FIXTURE_VARIANT_ADD(reshape, 1g)
{
	.size_log2 = 30,
	.nr_units = 2,
};

#define setup_reshape(flags)							\
({										\
	const char *__missing = setup_units();					\
										\
	if (!__missing && !guestmem_has_units())				\
		__missing = "needs root, debugfs and CONFIG_DEBUG_GUESTMEM";	\
	read_kernel_counters(&self->counters);					\
	if (!__missing)								\
		create_reshape(self, flags, variant->size_log2);		\
	__missing;								\
})

FIXTURE_TEARDOWN_PARENT(reshape)
{
	EXPECT_NOTHING_LEFT(self->nr_lost);
}

static inline u64 gpa_of(u64 page)
{
	return TEST_GPA + page * PAGE_SIZE;
}

static inline u64 *word_of(struct reshape_fixture *self, u64 page)
{
	return self->mem + page * PAGE_SIZE;
}

static inline void open_reshape_file(struct reshape_fixture *self, u64 flags, u8 size_log2)
{
	self->fd = vm_create_guest_memfd_hugetlb(self->vm, self->size,
						 flags | GUEST_MEMFD_FLAG_MMAP, size_log2);
	self->mem = kvm_mmap(self->size, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd);
	guestmem_model_init(&self->model, self->fd, self->size, self->unit,
			    !(flags & GUEST_MEMFD_FLAG_INIT_SHARED));
	memset(self->tags, 0, self->nr_pages * sizeof(*self->tags));
	add_slot(self->vm, TEST_GPA, self->size, self->mem, self->fd, 0);
}

static inline void close_reshape_file(struct reshape_fixture *self)
{
	delete_slot(self->vm, TEST_GPA);
	kvm_munmap(self->mem, self->size);
	close(self->fd);
	guestmem_model_free(&self->model);
}

static inline void create_reshape(struct reshape_fixture *self, u64 flags, u8 size_log2)
{
	self->unit_pages = self->unit / PAGE_SIZE;
	self->nr_pages = self->size / PAGE_SIZE;
	self->tags = malloc(self->nr_pages * sizeof(*self->tags));
	TEST_ASSERT(self->tags && !pipe(self->pipe), "No memory");

	self->vm = create_guest(self->vcpus, MAX_VCPUS);
	self->vcpu = self->vcpus[0];
	open_reshape_file(self, flags, size_log2);
}

/* Assert that layout and pool are what the model says. */
#define assert_model()								\
do {										\
	TEST_ASSERT_LAYOUT(&self->model);					\
	assert_nr_allocated(guestmem_model_nr_present(&self->model));		\
} while (0)

#define assert_nr_folios(unit, nr)						\
	TEST_ASSERT_EQ(guestmem_model_nr_folios(&self->model, unit), nr)

static inline void __convert(struct reshape_fixture *self, u64 first, u64 nr, bool private)
{
	gmem_set_memory_attributes(self->fd, first * PAGE_SIZE, nr * PAGE_SIZE,
				   private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0);
	guestmem_model_convert(&self->model, first, nr, private);
}

#define convert(first, nr, private)						\
do {										\
	__convert(self, first, nr, private);					\
	assert_model();								\
} while (0)

#define set_shared(first, nr)		convert(first, nr, false)
#define set_private(first, nr)		convert(first, nr, true)

/* Convert a range that other threads may have in use, but not for long. */
static inline void convert_despite_races(int fd, u64 first, u64 nr, bool private)
{
	u64 error_offset;
	int tries, r;

	for (tries = 0; tries < 10000; tries++) {
		r = __gmem_set_memory_attributes(fd, first * PAGE_SIZE, nr * PAGE_SIZE,
						 private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
						 &error_offset);
		if (!r)
			return;
		TEST_ASSERT(errno == EAGAIN, "Conversion should succeed sooner or later, errno %d",
			    errno);
		sched_yield();
	}
	TEST_FAIL("Conversion of page %lu should succeed sooner or later", first);
}

static inline u64 new_tag(u64 page)
{
	static u64 generation = 0x7a670000;

	return (++generation << 32) + page;
}

static inline void guest_allocates(struct reshape_fixture *self, u64 first, u64 nr)
{
	guestmem_model_allocate(&self->model, first, nr);
}

/* Let the guest write new tags. */
static inline void guest_write(struct reshape_fixture *self, u64 first, u64 nr)
{
	u64 tag = new_tag(first), i;

	guest_do(self->vcpu, OP_WRITE_TAGS, gpa_of(first), nr, PAGE_SIZE, tag);
	for (i = 0; i < nr; i++)
		self->tags[first + i] = tag + i;
	guest_allocates(self, first, nr);
}

/* Assert that the guest finds the tags that were written, and zeroes elsewhere. */
static inline void guest_check(struct reshape_fixture *self, u64 first, u64 nr)
{
	const u64 *tags = self->tags, end = first + nr;
	u64 i, next;

	for (i = first; i < end; i = next) {
		bool zero = !tags[i];

		for (next = i + 1; next < end; next++)
			if (tags[next] != (zero ? 0 : tags[i] + next - i))
				break;
		guest_do(self->vcpu, zero ? OP_CHECK_ZERO : OP_CHECK_TAGS, gpa_of(i),
			 next - i, PAGE_SIZE, tags[i]);
	}
	guest_allocates(self, first, nr);
}

#define guest_check_all()		guest_check(self, 0, self->nr_pages)

/* Let the guest write to all words of a page. */
static inline void guest_fill(struct reshape_fixture *self, u64 page)
{
	self->tags[page] = new_tag(page);
	guest_do(self->vcpu, OP_WRITE_TAGS, gpa_of(page), PAGE_SIZE / sizeof(u64), sizeof(u64),
		 self->tags[page]);
	guest_allocates(self, page, 1);
}

static inline void guest_check_filled(struct reshape_fixture *self, u64 page)
{
	guest_do(self->vcpu, OP_CHECK_TAGS, gpa_of(page), PAGE_SIZE / sizeof(u64), sizeof(u64),
		 self->tags[page]);
}

static inline void host_fill(struct reshape_fixture *self, u64 page)
{
	u64 *word = word_of(self, page), i;

	self->tags[page] = new_tag(page);
	for (i = 0; i < PAGE_SIZE / sizeof(u64); i++)
		WRITE_ONCE(word[i], self->tags[page] + i);
	guestmem_model_touch(&self->model, page);
}

static inline void host_check_filled(struct reshape_fixture *self, u64 page)
{
	u64 *word = word_of(self, page), i;

	for (i = 0; i < PAGE_SIZE / sizeof(u64); i++)
		TEST_ASSERT(READ_ONCE(word[i]) == self->tags[page] + i,
			    "Page %lu, word %lu should be 0x%lx, is 0x%lx", page, i,
			    self->tags[page] + i, word[i]);
	guestmem_model_touch(&self->model, page);
}

/*
 * Return whether the host can read a page.  A system call reads from the page, which
 * fails with EFAULT where an access of user space raises SIGBUS.
 */
static inline bool host_can_read(struct reshape_fixture *self, u64 page)
{
	char c;

	if (write(self->pipe[1], word_of(self, page), 1) == 1) {
		TEST_ASSERT(read(self->pipe[0], &c, 1) == 1, "read() should succeed");
		return true;
	}
	TEST_ASSERT(errno == EFAULT, "write() should fail with EFAULT, errno %d", errno);
	return false;
}

/*
 * Assert that the host has no access to a private page, and finds the tag in a shared
 * page.
 */
static inline void host_check(struct reshape_fixture *self, u64 page)
{
	if (self->model.private[page]) {
		TEST_ASSERT(!host_can_read(self, page),
			    "The host should not be able to read private page %lu", page);
		return;
	}
	TEST_ASSERT(READ_ONCE(*word_of(self, page)) == self->tags[page],
		    "Page %lu should be 0x%lx, is 0x%lx", page, self->tags[page],
		    *word_of(self, page));
	guestmem_model_touch(&self->model, page);
}

static inline void host_write(struct reshape_fixture *self, u64 page)
{
	self->tags[page] = new_tag(page);
	WRITE_ONCE(*word_of(self, page), self->tags[page]);
	guestmem_model_touch(&self->model, page);
}

static inline void punch(struct reshape_fixture *self, u64 first, u64 nr)
{
	kvm_fallocate(self->fd, PUNCH, first * PAGE_SIZE, nr * PAGE_SIZE);
	memset(self->tags + first, 0, nr * sizeof(*self->tags));
	guestmem_model_punch(&self->model, first, nr);
}

static inline void allocate(struct reshape_fixture *self, u64 first, u64 nr)
{
	kvm_fallocate(self->fd, FALLOC_FL_KEEP_SIZE, first * PAGE_SIZE, nr * PAGE_SIZE);
	guestmem_model_allocate(&self->model, first, nr);
}

/*
 * Return the mappings of a guest that has mapped all of a range, each mapping as
 * large as its folio allows.
 */
static inline struct mappings mappings_of_layout(struct guestmem_model *m, u64 first, u64 nr)
{
	struct mappings want = {};
	u64 i, step;

	for (i = first; i < first + nr; i += step) {
		int order = m->order[i];

		step = order >= 18 ? PAGES_1G : order >= 9 ? PAGES_2M : 1;
		want.nr_1g += step == PAGES_1G;
		want.nr_2m += step == PAGES_2M;
		want.nr_4k += step == 1;
	}
	return want;
}

static inline struct mappings mappings_minus(struct mappings a, struct mappings b)
{
	return (struct mappings) {
		.nr_4k = a.nr_4k - b.nr_4k,
		.nr_2m = a.nr_2m - b.nr_2m,
		.nr_1g = a.nr_1g - b.nr_1g,
		.faults = a.faults - b.faults,
	};
}

#endif /* SELFTEST_KVM_GUEST_MEMFD_RESHAPE_H */
