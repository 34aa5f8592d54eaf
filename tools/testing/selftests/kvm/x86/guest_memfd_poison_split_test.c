// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory failure in HugeTLB pages of guest_memfd files that are split.
 *
 * memory_failure() cannot do anything about a part of a HugeTLB page, and says so; but
 * the page is marked.  It isn't mapped any more, be it for the guest or for the host, the
 * rest of the huge page is as good as before, and the huge page never gets back to the
 * pool.
 *
 * Each of those tests costs a huge page, and takes one more from the system.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/stat.h>

#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "guest_memfd_reshape.h"
#include "memory_failure.h"
#include "memory_holder.h"

/* What earlier tests have lost. */
static void fill_up_pool(size_t unit, long nr)
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

FIXTURE_SETUP(reshape)
{
	const char *missing;

	/* One more, to replace one. */
	fill_up_pool(BIT_ULL(variant->size_log2), variant->nr_units + 1);
	missing = setup_reshape(0);
	if (missing)
		SKIP(return, "%s", missing);
	if (!can_inject_memory_failure())
		SKIP(return, "needs root, debugfs and CONFIG_HWPOISON_INJECT");
}

/* A unit as the kernel describes it: its first page, and the orders of its folios. */
struct split_unit {
	u64 pfn;
	u64 nr_folios;
	u8 *order;		/* of each page's folio */
};

/* Returns false if the unit isn't split. */
static bool read_unit(struct reshape_fixture *self, u64 unit, struct split_unit *u)
{
	char *text = guestmem_read_units(), *line, *next;
	unsigned long pfn, out, ino, index, nr, repeat, page = 0;
	int order, end = 0, len;
	struct stat st;

	TEST_ASSERT(!fstat(self->fd, &st), "fstat() should succeed");
	for (line = text; line; line = next) {
		next = strchr(line, '\n');
		next = next ? next + 1 : NULL;
		if (sscanf(line, "pfn 0x%lx order %d out %lu ino %lu index 0x%lx folios %lu:%n",
			   &pfn, &order, &out, &ino, &index, &nr, &end) == 6 &&
		    ino == st.st_ino && index == unit * self->unit_pages)
			break;
	}
	if (!line) {
		free(text);
		return false;
	}

	u->pfn = pfn;
	u->nr_folios = nr;
	u->order = malloc(self->unit_pages);
	for (line += end; sscanf(line, " %d%n", &order, &len) == 1; line += len) {
		line += len;
		repeat = 1;
		len = 0;
		if (sscanf(line, "*%lu%n", &repeat, &len) != 1)
			len = 0;
		TEST_ASSERT(page + (repeat << order) <= self->unit_pages,
			    "A unit should not have more than its pages:\n%s", text);
		memset(u->order + page, order, repeat << order);
		page += repeat << order;
		if (page == self->unit_pages)
			break;
	}
	TEST_ASSERT_EQ(page, self->unit_pages);
	free(text);
	return true;
}

/* The pfn of a page of a split unit. */
static u64 pfn_of(struct reshape_fixture *self, u64 page)
{
	struct split_unit u;

	TEST_ASSERT(read_unit(self, page / self->unit_pages, &u),
		    "The unit of page %lu should be split", page);
	free(u.order);
	return u.pfn + page % self->unit_pages;
}

/* A page of a split unit fails: nobody can help, but it is marked. */
static void poison_pfn(struct reshape_fixture *self, u64 pfn)
{
	int error = write_pfn(CORRUPT_PFN, pfn);

	TEST_ASSERT(error == EBUSY, "Memory failure at pfn 0x%lx should be ignored, got %s",
		    pfn, strerror(error));
	TEST_ASSERT(read_kpageflags(pfn) & BIT_ULL(KPF_HWPOISON),
		    "pfn 0x%lx should be marked", pfn);
	self->nr_lost = 1;
}

static u64 poison(struct reshape_fixture *self, u64 page)
{
	u64 pfn = pfn_of(self, page);

	poison_pfn(self, pfn);
	return pfn;
}

static void guest_is_told(struct reshape_fixture *self, u64 page)
{
	int r;

	set_request(self->vcpu, OP_READ, gpa_of(page), 1, PAGE_SIZE, 0);
	r = _vcpu_run(self->vcpu);
	TEST_ASSERT(r < 0 && errno == EHWPOISON,
		    "KVM_RUN should fail with EHWPOISON, got %d errno %d", r, errno);
	TEST_ASSERT_EQ(self->vcpu->run->exit_reason, KVM_EXIT_MEMORY_FAULT);
	TEST_ASSERT_EQ(self->vcpu->run->memory_fault.gpa, gpa_of(page));
	TEST_ASSERT_EQ(self->vcpu->run->memory_fault.size, PAGE_SIZE);

	/* The guest would try again for ever; let it start over. */
	vcpu_arch_set_entry_point(self->vcpu, guest_code);
	vcpu_args_set(self->vcpu, 1, (u64)self->vcpu->id);
}

static siginfo_t sigbus_info;

static void sigbus_handler(int sig, siginfo_t *info, void *ucontext)
{
	sigbus_info = *info;
	siglongjmp(expect_sigbus_jmpbuf, 1);
}

/* SIGBUS says that it's the memory that has failed, and where. */
static void host_is_told(struct reshape_fixture *self, u64 page)
{
	struct sigaction sa_old, sa_new = {
		.sa_sigaction = sigbus_handler,
		.sa_flags = SA_SIGINFO,
	};

	sigaction(SIGBUS, &sa_new, &sa_old);
	if (!sigsetjmp(expect_sigbus_jmpbuf, 1)) {
		(void)READ_ONCE(*word_of(self, page));
		TEST_FAIL("Access to page %lu should trigger SIGBUS", page);
	}
	sigaction(SIGBUS, &sa_old, NULL);
	TEST_ASSERT_EQ(sigbus_info.si_code, BUS_MCEERR_AR);
	TEST_ASSERT_EQ((u64)sigbus_info.si_addr, (u64)word_of(self, page));
	TEST_ASSERT(!host_can_read(self, page), "The kernel should not read page %lu", page);
}

static void unmap_from_host(struct reshape_fixture *self, u64 first, u64 nr)
{
	TEST_ASSERT(!madvise(word_of(self, first), nr * PAGE_SIZE, MADV_DONTNEED),
		    "MADV_DONTNEED should succeed, errno %d", errno);
}

/* Everything but one page. */
static void guest_check_others(struct reshape_fixture *self, u64 page)
{
	guest_check(self, 0, page);
	guest_check(self, page + 1, self->nr_pages - page - 1);
}

/*
 * Whoever allocates all of the pool doesn't get it.  Who has used pages before must have
 * returned them all.
 */
static void assert_never_seen_again(struct reshape_fixture *self, u64 pfn)
{
	const u64 first = pfn / self->unit_pages * self->unit_pages;
	struct hugetlb_pool pool;
	long nr, i;
	void *mem;

	hugetlb_read_pool(self->unit, &pool);
	nr = hugetlb_available(&pool);
	mem = nr ? hugetlb_hog(self->unit, nr, -1) : NULL;
	for (i = 0; i < nr; i++)
		TEST_ASSERT(read_pagemap_pfn(mem + i * self->unit) != first,
			    "The huge page at pfn 0x%lx should not be used any more", first);
	if (nr)
		hugetlb_unhog(mem, self->unit, nr);
}

#define assert_lost(allocated, reserved)					\
	TEST_ASSERT_POOL_SETTLES(&self->pool, -self->nr_lost - (allocated), reserved)

/* Of the file, there is nothing left. */
#define close_and_assert_lost(pfn)						\
do {										\
	close_reshape_file(self);						\
	assert_lost(0, 0);							\
	assert_never_seen_again(self, pfn);					\
} while (0)

/* A page somewhere in the first unit, not the first one of anything. */
#define A_PAGE		77

TEST_F(reshape, shared_page)
{
	u64 pfn, page;

	guest_write(self, 0, self->nr_pages);
	set_shared(A_PAGE - 1, 3);
	for (page = A_PAGE - 1; page <= A_PAGE + 1; page++)
		host_fill(self, page);
	pfn = poison(self, A_PAGE);
	TEST_ASSERT_EQ(pfn, read_pagemap_pfn(word_of(self, A_PAGE)));

	/* What is mapped stays mapped. */
	unmap_from_host(self, A_PAGE - 1, 3);
	host_is_told(self, A_PAGE);
	host_check_filled(self, A_PAGE - 1);
	host_check_filled(self, A_PAGE + 1);
	host_is_told(self, A_PAGE);

	/* Nor has the guest seen it since it was converted. */
	guest_is_told(self, A_PAGE);
	guest_check_others(self, A_PAGE);
	guest_is_told(self, A_PAGE);
	TEST_ASSERT_LAYOUT(&self->model);

	/* A hole that isn't as large as the unit is for zeroes. */
	punch(self, A_PAGE - 1, 3);
	host_check(self, A_PAGE - 1);
	host_is_told(self, A_PAGE);
	host_check(self, A_PAGE + 1);
	guest_is_told(self, A_PAGE);
	guest_check_others(self, A_PAGE);
	TEST_ASSERT_LAYOUT(&self->model);
	assert_nr_allocated(self->nr);
	close_and_assert_lost(pfn);
}

TEST_F(reshape, private_page)
{
	u64 pfn;

	guest_write(self, 0, self->nr_pages);
	set_shared(A_PAGE + 1, 1);
	host_fill(self, A_PAGE + 1);
	/* Have the guest's mapping removed. */
	set_shared(A_PAGE, 1);
	set_private(A_PAGE, 1);
	pfn = poison(self, A_PAGE);

	guest_is_told(self, A_PAGE);
	host_check_filled(self, A_PAGE + 1);
	host_check(self, A_PAGE);
	guest_check_others(self, A_PAGE);
	guest_is_told(self, A_PAGE);

	/* It isn't in the way of anything. */
	set_shared(A_PAGE - 1, 2);
	host_check(self, A_PAGE - 1);
	host_is_told(self, A_PAGE);
	host_check_filled(self, A_PAGE + 1);
	guest_is_told(self, A_PAGE);
	guest_check_others(self, A_PAGE);
	close_and_assert_lost(pfn);
}

/* A page of a piece that may be mapped as a whole, unless a page of it has failed. */
TEST_F(reshape, page_of_large_piece)
{
	const u64 shared = self->unit_pages - 1, first = self->unit_pages / 4;
	u64 page = first + A_PAGE, pfn;

	set_shared(shared, 1);
	allocate(self, 0, self->nr_pages);
	host_fill(self, shared);
	pfn = poison(self, page);

	/* First those that are next to it. */
	guest_check(self, page - 1, 1);
	guest_check(self, page + 1, 1);
	guest_check(self, first, 1);
	guest_is_told(self, page);
	guest_write(self, 0, page);
	guest_write(self, page + 1, 100);
	guest_check_others(self, page);
	guest_is_told(self, page);
	host_check_filled(self, shared);

	/* A hole that isn't as large as the unit is for zeroes. */
	punch(self, first + 1, 2 * A_PAGE);
	guest_check_others(self, page);
	guest_is_told(self, page);
	close_and_assert_lost(pfn);
}

TEST_F(reshape, first_page_of_large_piece)
{
	const u64 shared = self->unit_pages - 1;
	u64 page = self->unit_pages / 2, pfn;

	set_shared(shared, 1);
	allocate(self, 0, self->nr_pages);
	host_fill(self, shared);
	pfn = poison(self, page);

	guest_is_told(self, page);
	guest_check_others(self, page);
	guest_is_told(self, page);
	guest_write(self, page + 1, 100);
	punch(self, page - 1, 50);
	guest_check_others(self, page);
	guest_is_told(self, page);
	host_check_filled(self, shared);

	/* The piece is split, and the page is the first one of what is left. */
	set_shared(page + 60, 1);
	host_check(self, page + 60);
	TEST_ASSERT_LAYOUT(&self->model);
	guest_check_others(self, page);
	guest_is_told(self, page);
	close_and_assert_lost(pfn);
}

/* Convert a page next to it, for which the piece that it is part of has to be split. */
TEST_F(reshape, split_large_piece)
{
	const u64 shared = self->unit_pages - 1, first = self->unit_pages / 4;
	u64 page = first + A_PAGE, pfn;

	guest_write(self, 0, self->nr_pages);
	set_shared(shared, 1);
	pfn = poison(self, page);

	set_shared(page + 1, 1);
	host_check(self, page + 1);
	host_check(self, page);
	set_shared(page - 1, 2);
	host_check(self, page - 1);
	host_is_told(self, page);
	guest_is_told(self, page);
	guest_check_others(self, page);
	TEST_ASSERT_LAYOUT(&self->model);
	close_and_assert_lost(pfn);
}

/* All of a unit is private: everything is merged that doesn't have the page. */
TEST_F(reshape, merge)
{
	const u64 nr = self->unit_pages, other = nr - 3;
	struct split_unit before, after;
	u64 pfn, i;

	guest_write(self, 0, self->nr_pages);
	set_shared(A_PAGE, 1);
	set_shared(other, 1);
	host_fill(self, A_PAGE);
	host_fill(self, other);
	pfn = poison(self, A_PAGE);
	TEST_ASSERT(read_unit(self, 0, &before), "The unit should be split");

	__convert(self, 0, nr, true);
	TEST_ASSERT(read_unit(self, 0, &after), "The unit should still be split");
	TEST_ASSERT_EQ(after.pfn, pfn - A_PAGE);
	for (i = 0; i < nr; i++) {
		/* The largest aligned block with the one but not with the other. */
		u8 want = i == A_PAGE ? 0 : 63 - __builtin_clzll(i ^ A_PAGE);

		TEST_ASSERT(after.order[i] == want, "Page %lu should be of order %d, is of %d", i,
			    want, after.order[i]);
	}
	assert_nr_allocated(self->nr);
	guest_is_told(self, A_PAGE);
	guest_check_others(self, A_PAGE);
	host_check(self, A_PAGE);
	host_check(self, other);

	/* What is tried once more makes no difference. */
	sleep(2);
	free(before.order);
	TEST_ASSERT(read_unit(self, 0, &before), "The unit should still be split");
	TEST_ASSERT_EQ(before.nr_folios, after.nr_folios);
	TEST_ASSERT(!memcmp(before.order, after.order, nr), "All orders should be as before");

	/* And again; no matter what it looks like, contents are what they were. */
	__convert(self, 0, nr, false);
	host_check_filled(self, other);
	host_is_told(self, A_PAGE);
	__convert(self, 1, nr - 2, true);
	guest_check_others(self, A_PAGE);
	guest_is_told(self, A_PAGE);
	close_and_assert_lost(pfn);
}

static const char *missing_spare_unit(struct reshape_fixture *self)
{
	static char text[80];

	if (hugetlb_available(&self->pool) > self->nr)
		return NULL;
	snprintf(text, sizeof(text), "needs %d x %zu kB page", self->nr + 1, self->unit / 1024);
	return text;
}

/* There's another one for the file. */
TEST_F(reshape, punched)
{
	const char *missing = missing_spare_unit(self);
	u64 pfn;

	if (missing)
		SKIP(return, "%s", missing);
	set_shared(A_PAGE, 1);
	guest_write(self, 0, self->nr_pages);
	host_fill(self, A_PAGE);
	pfn = poison(self, A_PAGE);
	punch(self, 0, self->unit_pages);
	assert_lost(self->nr - 1, 1);

	/* As if nothing had happened. */
	host_check(self, A_PAGE);
	guest_check(self, 0, self->unit_pages);
	assert_lost(self->nr, 0);
	host_fill(self, A_PAGE);
	guest_check_filled(self, A_PAGE);
	TEST_ASSERT(pfn_of(self, A_PAGE) != pfn, "It should be another huge page");
	TEST_ASSERT_LAYOUT(&self->model);
	__convert(self, A_PAGE, 1, true);
	assert_nr_folios(0, 1);
	TEST_ASSERT_LAYOUT(&self->model);
	close_and_assert_lost(pfn);
}

/* There is none: the file has to do without. */
TEST_F(reshape, punched_and_not_replaced)
{
	long hogged = hugetlb_available(&self->pool) - self->nr;
	void *hog;
	u64 pfn;

	set_shared(A_PAGE, 1);
	guest_write(self, 0, self->nr_pages);
	host_fill(self, A_PAGE);
	hog = hogged ? hugetlb_hog(self->unit, hogged, -1) : NULL;
	pfn = poison(self, A_PAGE);
	punch(self, 0, self->unit_pages);
	assert_lost(hogged + self->nr - 1, 0);
	TEST_ASSERT(fallocate(self->fd, FALLOC_FL_KEEP_SIZE, 0, PAGE_SIZE) && errno == ENOSPC,
		    "fallocate() should fail with ENOSPC, errno %d", errno);
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*word_of(self, A_PAGE)));
	assert_lost(hogged + self->nr - 1, 0);

	/* One of them will do. */
	punch(self, self->nr_pages - self->unit_pages, self->unit_pages);
	assert_lost(hogged + self->nr - 2, 1);
	host_check(self, A_PAGE);
	assert_lost(hogged + self->nr - 1, 0);
	if (hogged)
		hugetlb_unhog(hog, self->unit, hogged);
	close_and_assert_lost(pfn);
}

TEST_F(reshape, closed)
{
	u64 pfn;

	set_shared(A_PAGE, 1);
	host_fill(self, A_PAGE);
	pfn = poison(self, A_PAGE);
	close_and_assert_lost(pfn);
	kvm_vm_free(self->vm);
	assert_never_seen_again(self, pfn);
}

static void hold_page(struct reshape_fixture *self, struct holder *h, u64 page)
{
	TEST_ASSERT(vmsplice_open(h) && vmsplice_hold(h, word_of(self, page), 1),
		    "vmsplice() should succeed, errno %d", errno);
}

/* It fails when it isn't the file's any more, but somebody still has it. */
TEST_F(reshape, held_after_punch)
{
	struct holder h = {};
	u64 pfn;

	set_shared(A_PAGE, 2);
	host_fill(self, A_PAGE);
	host_fill(self, A_PAGE + 1);
	hold_page(self, &h, A_PAGE);
	pfn = pfn_of(self, A_PAGE);
	punch(self, 0, self->unit_pages);
	assert_nr_allocated(1);

	poison_pfn(self, pfn);
	assert_nr_allocated(1);
	vmsplice_release(&h);
	guestmem_settle();
	assert_lost(0, self->nr - 1);

	/* All others are there. */
	allocate(self, self->unit_pages, self->nr_pages - self->unit_pages);
	assert_lost(self->nr - 1, 0);
	close_and_assert_lost(pfn);
}

/* As above, but it is a page that is back already and waits for the other one. */
TEST_F(reshape, waits_for_held)
{
	struct holder h = {};
	u64 pfn;

	set_shared(A_PAGE, 2);
	host_fill(self, A_PAGE);
	host_fill(self, A_PAGE + 1);
	hold_page(self, &h, A_PAGE);
	pfn = pfn_of(self, A_PAGE + 1);
	punch(self, 0, self->unit_pages);
	poison_pfn(self, pfn);
	vmsplice_release(&h);
	guestmem_settle();
	assert_lost(0, self->nr - 1);
	close_and_assert_lost(pfn);
}

/* First it fails, then it's held, and then it has been the file's. */
TEST_F(reshape, held_before_punch)
{
	const char *missing = missing_spare_unit(self);
	struct holder h = {};
	u64 pfn;

	if (missing)
		SKIP(return, "%s", missing);
	set_shared(A_PAGE, 2);
	host_fill(self, A_PAGE);
	host_fill(self, A_PAGE + 1);
	pfn = poison(self, A_PAGE + 1);
	hold_page(self, &h, A_PAGE);

	/* That it won't be back is known at once, and there's another one for the file. */
	punch(self, 0, self->unit_pages);
	assert_lost(0, self->nr);
	host_check(self, A_PAGE);
	assert_lost(1, self->nr - 1);
	vmsplice_release(&h);
	punch(self, 0, self->unit_pages);
	guestmem_settle();
	assert_lost(0, self->nr);
	close_and_assert_lost(pfn);
}

TEST_F(reshape, held_after_close)
{
	struct holder h = {};
	u64 pfn;

	set_shared(A_PAGE, 1);
	host_fill(self, A_PAGE);
	hold_page(self, &h, A_PAGE);
	pfn = pfn_of(self, A_PAGE);
	close_reshape_file(self);
	kvm_vm_free(self->vm);
	poison_pfn(self, pfn);
	vmsplice_release(&h);
	guestmem_settle();
	assert_lost(0, 0);
	assert_never_seen_again(self, pfn);
}

/* Who has a page mapped says that it has failed. */
TEST_F(reshape, madvise)
{
	u64 pfn;

	set_shared(A_PAGE - 1, 3);
	host_fill(self, A_PAGE - 1);
	host_fill(self, A_PAGE);
	host_fill(self, A_PAGE + 1);
	pfn = pfn_of(self, A_PAGE);
	TEST_ASSERT(madvise(word_of(self, A_PAGE), PAGE_SIZE, MADV_HWPOISON) && errno == EBUSY,
		    "MADV_HWPOISON should fail with EBUSY, errno %d", errno);
	self->nr_lost = 1;
	TEST_ASSERT(read_kpageflags(pfn) & BIT_ULL(KPF_HWPOISON),
		    "pfn 0x%lx should be marked", pfn);

	unmap_from_host(self, A_PAGE - 1, 3);
	host_is_told(self, A_PAGE);
	host_check_filled(self, A_PAGE - 1);
	host_check_filled(self, A_PAGE + 1);
	guest_is_told(self, A_PAGE);

	/* No reference is left behind that would make this fail. */
	set_private(A_PAGE, 1);
	set_shared(A_PAGE, 1);
	host_is_told(self, A_PAGE);
	punch(self, 0, self->unit_pages);
	guestmem_settle();
	close_and_assert_lost(pfn);
}

/*
 * A huge page that hasn't been split when it fails cannot be split any more.  What fits
 * to it as a whole is converted.
 */
TEST_F(reshape, whole)
{
	const u64 nr = self->unit_pages;
	char *before, *after;
	u64 pfn, error_offset;
	int r;

	guest_write(self, 0, self->nr_pages);
	set_shared(A_PAGE, 1);
	pfn = pfn_of(self, A_PAGE);
	set_private(A_PAGE, 1);
	assert_nr_folios(0, 1);

	TEST_ASSERT(!write_pfn(CORRUPT_PFN, pfn), "The failure should be taken care of");
	guest_is_told(self, A_PAGE);

	before = guestmem_read_units();
	r = __gmem_set_shared(self->fd, 5 * PAGE_SIZE, PAGE_SIZE, &error_offset);
	TEST_ASSERT(r && errno == EHWPOISON, "Conversion should fail with EHWPOISON, errno %d",
		    errno);
	TEST_ASSERT_EQ(error_offset, 5 * PAGE_SIZE);
	r = __gmem_set_shared(self->fd, (nr - 1) * PAGE_SIZE, 2 * PAGE_SIZE, &error_offset);
	TEST_ASSERT(r && errno == EHWPOISON, "Conversion should fail with EHWPOISON, errno %d",
		    errno);
	TEST_ASSERT_EQ(error_offset, (nr - 1) * PAGE_SIZE);
	after = guestmem_read_units();
	TEST_ASSERT(!strcmp(before, after), "Nothing should have changed:\n%s---\n%s", before,
		    after);
	assert_model();
	host_check(self, 5);
	host_check(self, nr);
	guest_check(self, nr, self->nr_pages - nr);

	/* No need to split it. */
	__convert(self, 0, nr, false);
	TEST_ASSERT(!host_can_read(self, A_PAGE), "The host should not read it");
	TEST_ASSERT(!host_can_read(self, A_PAGE + 1), "The host should not read it");
	guest_is_told(self, A_PAGE);
	__convert(self, 0, nr, true);
	assert_model();
	guest_check(self, nr, self->nr_pages - nr);

	/* memory_failure() has taken care of it and knows where it was. */
	close_reshape_file(self);
	TEST_ASSERT_POOL_SETTLES(&self->pool, -1, 0);
	assert_never_seen_again(self, pfn);
	/* It is the first page that is marked, and that has the list of those that failed. */
	TEST_ASSERT(!write_pfn(UNPOISON_PFN, pfn - A_PAGE), "It should be possible to mend it");
	TEST_ASSERT_POOL_SETTLES(&self->pool, 0, 0);
	/* It keeps its struct pages until it's split and merged the next time. */
	self->counters.memmap += nr / 64;
	free(before);
	free(after);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE_GUEST_MEMFD_HUGETLB();
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(VM_TYPE_PRIVATE));

	return test_harness_run(argc, argv);
}
