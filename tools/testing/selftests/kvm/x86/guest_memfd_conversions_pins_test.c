// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of the conversion of guest_memfd pages that are held.  The conversion fails
 * with EAGAIN and the exact offset, and changes nothing.  It succeeds once the
 * holder has let the page go.
 *
 * Pages that have failed convert like any other page.
 */
#include "guest_memfd_fixture.h"
#include "guest_memfd_conversions.h"

static_assert(NR_PAGES <= HOLDER_PAGES, "A holder should be able to hold all pages");

#define _test_data_pins			gmem
#define _fixture_variant_pins		gmem_variant

static struct holder h;

static const char *setup_pins(struct gmem *self, const struct gmem_variant *variant)
{
	if (!variant->holder->open(&h))
		return NEEDS_GUP_TEST ", or CONFIG_IO_URING";

	create_small_file(self, GUEST_MEMFD_FLAG_INIT_SHARED, true);
	host_write_set(self, ALL_PAGES);
	return NULL;
}

GMEM_SMALL_FIXTURE(pins, setup_pins(self, variant));
GMEM_VARIANT(pins, longterm_read, .holder = &holder_longterm_read);
GMEM_VARIANT(pins, longterm_write, .holder = &holder_longterm_write);
GMEM_VARIANT(pins, longterm_fast, .holder = &holder_longterm_fast);
GMEM_VARIANT(pins, vmsplice, .holder = &holder_vmsplice);
GMEM_VARIANT(pins, io_uring, .holder = &holder_io_uring);

#define __hold_pages(page, nr)	variant->holder->hold(&h, addr_of(self, page), nr)
#define hold_pages(page, nr)							\
	TEST_ASSERT(__hold_pages(page, nr), "Holding pages should succeed, errno %d", errno)
#define release_pages()		variant->holder->release(&h)

/*
 * Assert that a conversion to private fails because of @page, and that host and guest have
 * all pages as before.
 */
static void assert_pinned(struct gmem *self, int first, int nr, int page)
{
	u64 before;

	guest_check_set(self, ALL_PAGES);
	before = nr_faults(self);
	assert_busy(self, first, nr, page);
	guest_check_set(self, ALL_PAGES);
	assert_faults(before, 0);
	host_check_set(self, ALL_PAGES);
	TEST_ASSERT_EQ(allocated_pages(self), ALL_PAGES);
}

/* Assert that a held page is still the page of the file, after conversions of it have failed. */
static void assert_held(struct gmem *self, const struct holder_ops *ops, int page)
{
	u64 words[PAGE_SIZE / sizeof(u64)];

	if (!ops->read)
		return;
	ops->read(&h, words);
	TEST_ASSERT_EQ(words[0], self->tags[page]);
	TEST_ASSERT_EQ(words[ARRAY_SIZE(words) - 1], self->tags[page]);
}

TEST_F(pins, single_page)
{
	const int page = 21;

	hold_pages(page, 1);
	assert_pinned(self, page, 1, page);
	assert_pinned(self, page, 1, page);
	/* Host and guest can still use the page. */
	guest_write_set(self, ALL_PAGES);
	assert_held(self, variant->holder, page);
	host_check_set(self, ALL_PAGES);
	host_write_set(self, ALL_PAGES);
	assert_held(self, variant->holder, page);
	assert_pinned(self, page, 1, page);

	release_pages();
	set_private(page, 1);
	check(self, ALL_PAGES);
	guest_write_set(self, page_mask(page, 1));
	set_shared(page, 1);
	check(self, ALL_PAGES);
}

TEST_F(pins, exact_offset)
{
	static const struct {
		int first, nr, held, nr_held, busy;
	} cases[] = {
		{ 0, NR_PAGES, 0, 1, 0 },
		{ 0, NR_PAGES, NR_PAGES - 1, 1, NR_PAGES - 1 },
		{ 0, NR_PAGES, 31, 1, 31 },
		{ 0, NR_PAGES, 0, NR_PAGES, 0 },
		{ 10, 20, 10, 1, 10 },
		{ 10, 20, 29, 1, 29 },
		{ 10, 20, 17, 5, 17 },
		/* The held pages begin or end outside of the range. */
		{ 10, 20, 5, 10, 10 },
		{ 10, 20, 25, 10, 25 },
		{ 10, 20, 0, NR_PAGES, 10 },
		{ 33, 1, 32, 3, 33 },
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		hold_pages(cases[i].held, cases[i].nr_held);
		assert_pinned(self, cases[i].first, cases[i].nr, cases[i].busy);
		release_pages();
		set_private(cases[i].first, cases[i].nr);
		check(self, ALL_PAGES);
		set_shared(cases[i].first, cases[i].nr);
		host_write_set(self, ALL_PAGES);
	}
}

/* A held page blocks its own conversion only. */
TEST_F(pins, neighbours_convert)
{
	const int page = 32;
	int round;

	hold_pages(page, 1);
	for (round = 0; round < 3; round++) {
		set_private(0, page);
		set_private(page + 1, NR_PAGES - page - 1);
		check(self, ALL_PAGES);
		guest_write_set(self, ALL_PAGES);
		set_shared(page - 1, 1);
		set_shared(page + 1, 1);
		check(self, ALL_PAGES);
		set_shared(0, NR_PAGES);
		check(self, ALL_PAGES);
		host_write_set(self, ALL_PAGES);
	}
	release_pages();
}

/*
 * A conversion doesn't look at pages that are in the wanted state already, even if
 * they are held.
 */
TEST_F(pins, wanted_state_is_not_looked_at)
{
	hold_pages(20, 8);
	set_private(0, 20);
	guest_write_set(self, ALL_PAGES);

	set_shared(20, 8);
	set_shared(24, 1);
	check(self, ALL_PAGES);
	set_shared(10, 20);
	check(self, ALL_PAGES);
	set_shared(0, NR_PAGES);
	check(self, ALL_PAGES);
	release_pages();

	/* Pages before and after the held pages are private already. */
	set_private(0, 40);
	set_private(48, 8);
	hold_pages(41, 2);
	assert_pinned(self, 0, NR_PAGES, 41);
	assert_pinned(self, 38, 5, 41);
	release_pages();
	set_private(0, NR_PAGES);
	check(self, ALL_PAGES);
}

/* A private page can't be held, and a failed attempt doesn't keep the pages before it either. */
TEST_F(pins, private_pages_cannot_be_held)
{
	static const struct {
		int first, nr;
	} cases[] = {
		{ 8, 1 }, { 8, 8 }, { 7, 2 }, { 15, 2 }, { 0, NR_PAGES }, { 10, 3 },
	};
	int i;

	set_private(8, 8);
	guest_check_set(self, ALL_PAGES);
	for (i = 0; i < ARRAY_SIZE(cases); i++)
		TEST_ASSERT(!__hold_pages(cases[i].first, cases[i].nr) && errno == EFAULT,
			    "Holding pages %d to %d should fail with EFAULT, errno %d",
			    cases[i].first, cases[i].first + cases[i].nr - 1, errno);
	check(self, ALL_PAGES);
	set_private(0, NR_PAGES);
	set_shared(8, 1);
	hold_pages(8, 1);
	release_pages();
	check(self, ALL_PAGES);
}

/* A held page blocks its conversion, even if it was mapped elsewhere and is no longer mapped. */
TEST_F(pins, mapping_does_not_matter)
{
	char *mem = self->mem;

	self->mem = gmem_map(self, self->fd);
	hold_pages(5, 1);
	kvm_munmap(self->mem, TEST_SIZE);
	self->mem = mem;
	kvm_madvise(self->mem, TEST_SIZE, MADV_DONTNEED);
	assert_pinned(self, 0, NR_PAGES, 5);
	release_pages();
	set_private(0, NR_PAGES);
	check(self, ALL_PAGES);
}

/* A page that was punched while it was held doesn't belong to the file any more. */
TEST_F(pins, punched_while_held)
{
	hold_pages(7, 2);
	punch(self, 7, 1);
	assert_pinned(self, 0, 8 + 1, 8);
	set_private(0, 8);
	check(self, ALL_PAGES);
	guest_write_set(self, ALL_PAGES);
	release_pages();
	set_private(0, NR_PAGES);
	check(self, ALL_PAGES);
}

/* A holder that is killed lets its pages go. */
TEST_F(pins, killed_holder)
{
	int to_parent[2], tries;
	pid_t pid;

	kvm_pipe(to_parent);
	close(h.fd[0]);
	if (h.fd[1])
		close(h.fd[1]);
	pid = kvm_fork();
	if (!pid) {
		TEST_ASSERT(variant->holder->open(&h), "Opening should succeed once more");
		hold_pages(11, 1);
		tell(to_parent[1]);
		pause();
	}
	TEST_ASSERT(wait_for(to_parent[0]), "The child should hold the page");
	assert_pinned(self, 0, NR_PAGES, 11);

	kill_child(pid);
	/* The kernel closes the files of a killed task late, and those of io_uring even later. */
	for (tries = 0; tries < 1000; tries++) {
		u64 error_offset;

		if (!__gmem_set_private(self->fd, 0, TEST_SIZE, &error_offset))
			break;
		TEST_ASSERT(errno == EAGAIN && error_offset == 11 * PAGE_SIZE,
			    "Until then, EAGAIN at page 11; got errno %d at 0x%lx",
			    errno, error_offset);
		usleep(10 * 1000);
	}
	guestmem_model_convert(&self->model, 0, NR_PAGES, true);
	check(self, ALL_PAGES);
}

/*
 * Memory failure: the page stays in the file and converts like any other page.
 * Users that touch the page are told.
 */
#define _test_data_poison		gmem
#define _fixture_variant_poison		gmem_variant

#define POISONED	9
#define POISONED_PAGE	page_mask(POISONED, 1)

static u64 poisoned_pfn;

static const char *setup_poison(struct gmem *self)
{
	if (!can_inject_memory_failure())
		return NEEDS_MEMORY_FAILURE;

	/* A process that lets its own memory fail may get SIGBUS at once. */
	sigbus_start(false);
	create_small_file(self, GUEST_MEMFD_FLAG_INIT_SHARED, true);
	host_write_set(self, ALL_PAGES);
	guest_check_set(self, ALL_PAGES);
	poisoned_pfn = read_pagemap_pfn(addr_of(self, POISONED));
	TEST_ASSERT(poisoned_pfn, "Cannot read page frame numbers");
	return NULL;
}

GMEM_SMALL_FIXTURE(poison, setup_poison(self));

/* Return the si_code of the SIGBUS that an access of the host raises, or 0 if there is none. */
static int host_access_code(struct gmem *self, u64 page)
{
	u64 val;

	sigbus_take();
	return sigbus_try_read(word_of(self, page), &val) ? 0 : sigbus_take().code;
}

static void check_poisoned(struct gmem *self)
{
	int code = host_access_code(self, POISONED), error;

	if (self->model.private[POISONED])
		TEST_ASSERT(code, "The host should get SIGBUS for a private page");
	else
		TEST_ASSERT(code == BUS_MCEERR_AR,
			    "The host should get SIGBUS with BUS_MCEERR_AR, got si_code %d", code);
	TEST_ASSERT(!host_can_read(self, POISONED), "read() should fail");

	error = guest_read_error(self->vcpu, gpa_of(POISONED));
	TEST_ASSERT(error == EHWPOISON, "KVM_RUN should fail with EHWPOISON, got %s",
		    strerror(error));
	guest_start_over(self->vcpu);

	check(self, ~POISONED_PAGE);
}

static void convert_poisoned(struct gmem *self)
{
	int private;

	for (private = 1; private >= 0; private--) {
		convert(self, POISONED, 1, private);
		check_poisoned(self);
	}
	for (private = 1; private >= 0; private--) {
		set_all(self, private);
		check_poisoned(self);
		guest_write_set(self, ~POISONED_PAGE);
		/* All pages are in this state already: the conversion succeeds. */
		set_all(self, private);
		check_poisoned(self);
	}

	/*
	 * A hole gets rid of the page, and MADV_DONTNEED makes the page table
	 * forget the failure.
	 */
	set_private(POISONED, 1);
	punch(self, POISONED, 1);
	kvm_madvise(addr_of(self, POISONED), PAGE_SIZE, MADV_DONTNEED);
	check(self, ALL_PAGES);
	guest_write_set(self, ALL_PAGES);
	set_all(self, false);
	check(self, ALL_PAGES);
}

TEST_F(poison, while_shared)
{
	kvm_madvise(addr_of(self, POISONED), PAGE_SIZE, MADV_HWPOISON);
	check_poisoned(self);
	convert_poisoned(self);
}

TEST_F(poison, while_private)
{
	set_all(self, true);
	guest_check_set(self, ALL_PAGES);
	TEST_ASSERT(!write_pfn(CORRUPT_PFN, poisoned_pfn), "Memory failure should be handled");
	check_poisoned(self);
	set_all(self, false);
	check_poisoned(self);
	convert_poisoned(self);
}

GMEM_TEST_MAIN(NEEDS_CONVERSION)
