/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Helpers for tests that let pages of a guest_memfd file fail.  The kernel takes care of
 * every failure and tells the users of the page.  The pool loses the huge page when it leaves
 * the file.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_POISON_H
#define SELFTEST_KVM_GUEST_MEMFD_POISON_H

#include <signal.h>

#include "guest_memfd_reshape.h"
#include "memory_failure.h"
#include "memory_holder.h"

/* A page somewhere in the first unit.  It isn't the first page of any larger block. */
#define A_PAGE		77

/* Fill up the pool to @nr available units, in place of those that earlier tests have lost. */
static inline void fill_up_pool(size_t unit, long nr)
{
	struct hugetlb_pool pool;
	long missing;

	if (!hugetlb_size_supported(unit))
		return;
	hugetlb_read_pool(unit, &pool);
	missing = nr - hugetlb_available(&pool);
	if (missing > 0)
		hugetlb_write_attr(unit, "nr_hugepages", pool.total + missing);
}

/*
 * For FIXTURE_SETUP(): fill up the pool to @spare units more than the file has, to replace
 * those that fail.  Returns why the test can't run, or NULL.
 */
#define setup_poison(spare)							\
({										\
	const char *__why;							\
										\
	fill_up_pool(BIT_ULL(variant->size_log2), variant->nr_units + (spare));	\
	__why = setup_reshape(0);						\
	if (!__why && !can_inject_memory_failure())				\
		__why = "needs root, debugfs and CONFIG_HWPOISON_INJECT";	\
	__why;									\
})

/* Return the pfn of a page of a split unit. */
static inline u64 pfn_of(struct reshape_fixture *self, u64 page)
{
	struct guestmem_unit u;

	TEST_ASSERT(guestmem_read_unit(self->fd, page / self->unit_pages * self->unit_pages,
				       self->unit_pages, &u),
		    "The unit of page %lu should be split", page);
	free(u.order);
	return u.pfn + page % self->unit_pages;
}

/* Return the pfn of a page of a private unit.  The unit is whole before and after the call. */
static inline u64 pfn_of_whole(struct reshape_fixture *self, u64 page)
{
	u64 pfn;

	set_shared(page, 1);
	pfn = pfn_of(self, page);
	set_private(page, 1);
	assert_nr_folios(page / self->unit_pages, 1);
	return pfn;
}

/*
 * Let a page fail.  For every kind of page, the kernel says that it has taken care of the
 * failure, and counts one more corrupted page.
 */
static inline void poison_pfn(u64 pfn)
{
	long before = nr_corrupted_pages();
	int error = write_pfn(CORRUPT_PFN, pfn);

	TEST_ASSERT(!error, "Memory failure at pfn 0x%lx should be handled, got %s", pfn,
		    strerror(error));
	TEST_ASSERT_EQ(nr_corrupted_pages(), before + 1);
}

/*
 * Let a page of the file fail.  The page becomes a folio of its own as soon as its unit is
 * used again.
 */
static inline void __poison(struct reshape_fixture *self, u64 page, u64 pfn)
{
	self->nr_lost = 1;
	poison_pfn(pfn);
	guestmem_model_poison(&self->model, page);
}

static inline u64 poison(struct reshape_fixture *self, u64 page)
{
	u64 pfn = pfn_of(self, page);

	__poison(self, page, pfn);
	return pfn;
}

static inline u64 poison_whole(struct reshape_fixture *self, u64 page)
{
	u64 pfn = pfn_of_whole(self, page);

	__poison(self, page, pfn);
	return pfn;
}

/* Assert that KVM_RUN fails for the page, and names the page. */
static inline void guest_is_told(struct reshape_fixture *self, u64 page)
{
	int r;

	set_request(self->vcpu, OP_READ, gpa_of(page), 1, PAGE_SIZE, 0);
	r = _vcpu_run(self->vcpu);
	TEST_ASSERT(r < 0 && errno == EHWPOISON,
		    "KVM_RUN should fail with EHWPOISON, got %d errno %d", r, errno);
	TEST_ASSERT_EQ(self->vcpu->run->exit_reason, KVM_EXIT_MEMORY_FAULT);
	TEST_ASSERT_EQ(self->vcpu->run->memory_fault.gpa, gpa_of(page));
	TEST_ASSERT_EQ(self->vcpu->run->memory_fault.size, PAGE_SIZE);

	/* The guest would retry the access for ever; let it start over. */
	vcpu_arch_set_entry_point(self->vcpu, guest_code);
	vcpu_args_set(self->vcpu, 1, (u64)self->vcpu->id);
}

/* Assert that the host gets a SIGBUS that says that the memory has failed, and where. */
static inline void host_is_told(struct reshape_fixture *self, u64 page)
{
	struct sigbus_seen seen;
	u64 val;

	sigbus_start();
	TEST_ASSERT(!sigbus_try_read(word_of(self, page), &val),
		    "Access to page %lu should raise SIGBUS", page);
	seen = sigbus_take();
	signal(SIGBUS, SIG_DFL);
	TEST_ASSERT_EQ(seen.code, BUS_MCEERR_AR);
	TEST_ASSERT_EQ(seen.addr, (uintptr_t)word_of(self, page));
	TEST_ASSERT_EQ(seen.lsb, PAGE_SHIFT);
	TEST_ASSERT(!host_can_read(self, page), "The kernel should not read page %lu", page);
}

static inline void unmap_from_host(struct reshape_fixture *self, u64 first, u64 nr)
{
	TEST_ASSERT(!madvise(word_of(self, first), nr * PAGE_SIZE, MADV_DONTNEED),
		    "MADV_DONTNEED should succeed, errno %d", errno);
}

/*
 * Let the guest check all pages but those that have failed.  Asserts that the layout is the
 * model's.
 */
static inline void guest_check_others(struct reshape_fixture *self)
{
	u64 i, next;

	for (i = 0; i < self->nr_pages; i = next + 1) {
		for (next = i; next < self->nr_pages && !self->model.poisoned[next]; next++)
			;
		if (next > i)
			guest_check(self, i, next - i);
	}
	TEST_ASSERT_LAYOUT(&self->model);
}

/*
 * Assert that guest and host are told about the pages that have failed, that all other pages
 * are in order, and that all units are still allocated.
 */
static inline void check_poisoned_file(struct reshape_fixture *self)
{
	u64 page;

	for (page = 0; page < self->nr_pages; page++)
		if (self->model.poisoned[page])
			guest_is_told(self, page);
	guest_check_others(self);
	for (page = 0; page < self->nr_pages; page++) {
		if (!self->model.poisoned[page])
			continue;
		guest_is_told(self, page);
		if (self->model.private[page])
			host_check(self, page);
		else
			host_is_told(self, page);
	}
	assert_nr_allocated(self->nr);
}

#define assert_lost(allocated, reserved)					\
do {										\
	struct hugetlb_pool __pool = self->pool;				\
										\
	hugetlb_pool_lose(&__pool, self->nr_lost);				\
	TEST_ASSERT_POOL_SETTLES(&__pool, -(allocated), reserved);		\
} while (0)

/*
 * The pool loses a huge page a moment before that is freed and the page that has failed is
 * taken off the buddy lists.
 */
static inline void wait_until_dissolved(u64 pfn)
{
	const u64 not_yet = BIT_ULL(KPF_BUDDY) | BIT_ULL(KPF_COMPOUND_HEAD) |
			    BIT_ULL(KPF_COMPOUND_TAIL);
	int tries;
	u64 flags;

	for (tries = 0; tries < 500; tries++) {
		flags = read_kpageflags(pfn);
		if (flags & BIT_ULL(KPF_HUGE) ||
		    (flags & BIT_ULL(KPF_HWPOISON) && !(flags & not_yet)))
			return;
		usleep(10 * 1000);
	}
}

/*
 * Assert that the huge page of @pfn has left the pool.  All its pages are ordinary memory
 * again except for @pfn, the page that has failed.  That page can be mended like any page
 * that was free.
 */
static inline void assert_dissolved(struct reshape_fixture *self, u64 pfn)
{
	const u64 first = pfn / self->unit_pages * self->unit_pages;
	int kpageflags = open("/proc/kpageflags", O_RDONLY);
	u64 i, flags;

	wait_until_dissolved(pfn);
	TEST_ASSERT(kpageflags >= 0, "Cannot open /proc/kpageflags");
	for (i = first; i < first + self->unit_pages; i++) {
		flags = read_entry(kpageflags, i);
		TEST_ASSERT(!(flags & BIT_ULL(KPF_HUGE)),
			    "pfn 0x%lx should not be of a huge page, flags 0x%lx", i, flags);
		TEST_ASSERT(i == pfn || !(flags & BIT_ULL(KPF_HWPOISON)),
			    "pfn 0x%lx should be in order, flags 0x%lx", i, flags);
		TEST_ASSERT(i != pfn || flags & BIT_ULL(KPF_HWPOISON),
			    "pfn 0x%lx should be marked, flags 0x%lx", i, flags);
		TEST_ASSERT(i != pfn || !(flags & BIT_ULL(KPF_BUDDY)),
			    "pfn 0x%lx should not be a free page, flags 0x%lx", i, flags);
	}
	close(kpageflags);
}

static inline void mend(u64 pfn)
{
	long before = nr_corrupted_pages();
	int error;

	wait_until_dissolved(pfn);
	error = write_pfn(UNPOISON_PFN, pfn);
	TEST_ASSERT(!error, "Mending pfn 0x%lx should succeed, got %s", pfn, strerror(error));
	TEST_ASSERT_EQ(nr_corrupted_pages(), before - 1);
}

/*
 * Close the file.  Assert that the pool has lost the bad huge page and nothing else, and mend
 * @pfn.
 */
static inline void __close_and_assert_lost(struct reshape_fixture *self, u64 pfn)
{
	close_reshape_file(self);
	assert_lost(0, 0);
	assert_dissolved(self, pfn);
	mend(pfn);
}

#define close_and_assert_lost(pfn)	__close_and_assert_lost(self, pfn)

static inline const char *missing_spare_unit(struct reshape_fixture *self)
{
	static char text[80];

	if (hugetlb_available(&self->pool) > self->nr)
		return NULL;
	snprintf(text, sizeof(text), "needs %d x %zu kB page", self->nr + 1, self->unit / 1024);
	return text;
}

static inline void hold_page(struct reshape_fixture *self, struct holder *h, u64 page)
{
	TEST_ASSERT(vmsplice_open(h) && vmsplice_hold(h, word_of(self, page), 1),
		    "vmsplice() should succeed, errno %d", errno);
}

/*
 * Share two pages, put the first page into a pipe, and punch the unit.  The pipe keeps the
 * unit from going back to the pool.  Returns the pfn of the first page.
 */
static inline u64 hold_and_punch(struct reshape_fixture *self, struct holder *h)
{
	u64 pfn;

	set_shared(A_PAGE, 2);
	host_fill(self, A_PAGE);
	host_fill(self, A_PAGE + 1);
	hold_page(self, h, A_PAGE);
	pfn = pfn_of(self, A_PAGE);
	punch(self, 0, self->unit_pages);
	return pfn;
}

#endif /* SELFTEST_KVM_GUEST_MEMFD_POISON_H */
