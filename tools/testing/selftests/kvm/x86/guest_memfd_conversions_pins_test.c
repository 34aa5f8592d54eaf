// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of the conversion of guest_memfd pages that are held.  The conversion fails
 * with EAGAIN and the exact offset, and changes nothing.  It succeeds once the
 * holder has let the page go.
 *
 * Pages that have failed convert like any other page.
 */
#include <signal.h>
#include <sys/wait.h>

#include "guest_memfd_conversions.h"
#include "memory_holder.h"

#define CORRUPT_PFN	"/sys/kernel/debug/hwpoison/corrupt-pfn"

static_assert(NR_PAGES <= HOLDER_PAGES, "A holder should be able to hold all pages");

FIXTURE(pins)
{
	struct test_file f;
	struct holder h;
};

FIXTURE_VARIANT(pins)
{
	bool (*open)(struct holder *h);
	bool (*hold)(struct holder *h, void *mem, int nr);
	void (*release)(struct holder *h);
};

FIXTURE_VARIANT_ADD(pins, longterm_read)
{
	.open = gup_open,
	.hold = gup_hold_read,
	.release = gup_release,
};

FIXTURE_VARIANT_ADD(pins, longterm_write)
{
	.open = gup_open,
	.hold = gup_hold_write,
	.release = gup_release,
};

FIXTURE_VARIANT_ADD(pins, longterm_fast)
{
	.open = gup_open,
	.hold = gup_hold_fast,
	.release = gup_release,
};

FIXTURE_VARIANT_ADD(pins, vmsplice)
{
	.open = vmsplice_open,
	.hold = vmsplice_hold,
	.release = vmsplice_release,
};

FIXTURE_VARIANT_ADD(pins, io_uring)
{
	.open = io_uring_open,
	.hold = io_uring_hold,
	.release = io_uring_release,
};

FIXTURE_SETUP(pins)
{
	if (!variant->open(&self->h))
		SKIP(return, "needs root, debugfs and CONFIG_GUP_TEST, or CONFIG_IO_URING");

	test_file_create(&self->f, GUEST_MEMFD_FLAG_INIT_SHARED);
	host_write(&self->f, ALL_PAGES);
}

FIXTURE_TEARDOWN(pins)
{
	test_file_free(&self->f);
}

#define __hold_pages(page, nr)	variant->hold(&self->h, page_of(f, page), nr)
#define hold_pages(page, nr)							\
	TEST_ASSERT(__hold_pages(page, nr), "Holding pages should succeed, errno %d", errno)
#define release_pages()		variant->release(&self->h)

/*
 * Assert that a conversion to private fails because of @page, and that the guest
 * doesn't even lose a mapping.
 */
static void assert_busy(struct test_file *f, int first, int nr, int page)
{
	u64 error_offset, before;
	int ret;

	guest_check(f, ALL_PAGES);
	before = nr_faults(f);

	ret = __gmem_set_private(f->fd, first * PAGE_SIZE, nr * PAGE_SIZE, &error_offset);
	TEST_ASSERT(ret == -1 && errno == EAGAIN,
		    "Conversion of pages %d to %d should fail with EAGAIN, got %d, errno %d",
		    first, first + nr - 1, ret, errno);
	TEST_ASSERT(error_offset == page * PAGE_SIZE,
		    "Conversion of pages %d to %d should fail at page %d, not at offset 0x%lx",
		    first, first + nr - 1, page, error_offset);

	guest_check(f, ALL_PAGES);
	assert_faults(f, before, 0);
	host_check(f, ALL_PAGES);
	TEST_ASSERT_EQ(allocated_pages(f), ALL_PAGES);
}

TEST_F(pins, single_page)
{
	struct test_file *f = &self->f;
	const int page = 21;

	hold_pages(page, 1);
	assert_busy(f, page, 1, page);
	assert_busy(f, page, 1, page);
	/* Host and guest can still use the page. */
	guest_write(f, ALL_PAGES);
	host_check(f, ALL_PAGES);
	host_write(f, ALL_PAGES);
	assert_busy(f, page, 1, page);

	release_pages();
	set_private(f, page, 1);
	check(f, ALL_PAGES);
	guest_write(f, page_mask(page, 1));
	set_shared(f, page, 1);
	check(f, ALL_PAGES);
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
	struct test_file *f = &self->f;
	int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		hold_pages(cases[i].held, cases[i].nr_held);
		assert_busy(f, cases[i].first, cases[i].nr, cases[i].busy);
		release_pages();
		set_private(f, cases[i].first, cases[i].nr);
		check(f, ALL_PAGES);
		set_shared(f, cases[i].first, cases[i].nr);
		host_write(f, ALL_PAGES);
	}
}

/* A held page blocks its own conversion only. */
TEST_F(pins, neighbours_convert)
{
	struct test_file *f = &self->f;
	const int page = 32;
	int round;

	hold_pages(page, 1);
	for (round = 0; round < 3; round++) {
		set_private(f, 0, page);
		set_private(f, page + 1, NR_PAGES - page - 1);
		check(f, ALL_PAGES);
		guest_write(f, ALL_PAGES);
		set_shared(f, page - 1, 1);
		set_shared(f, page + 1, 1);
		check(f, ALL_PAGES);
		set_shared(f, 0, NR_PAGES);
		check(f, ALL_PAGES);
		host_write(f, ALL_PAGES);
	}
	release_pages();
}

/*
 * A conversion doesn't look at pages that are in the wanted state already, even if
 * they are held.
 */
TEST_F(pins, wanted_state_is_not_looked_at)
{
	struct test_file *f = &self->f;

	hold_pages(20, 8);
	set_private(f, 0, 20);
	guest_write(f, ALL_PAGES);

	set_shared(f, 20, 8);
	set_shared(f, 24, 1);
	check(f, ALL_PAGES);
	set_shared(f, 10, 20);
	check(f, ALL_PAGES);
	set_shared(f, 0, NR_PAGES);
	check(f, ALL_PAGES);
	release_pages();

	/* Pages before and after the held pages are private already. */
	set_private(f, 0, 40);
	set_private(f, 48, 8);
	hold_pages(41, 2);
	assert_busy(f, 0, NR_PAGES, 41);
	assert_busy(f, 38, 5, 41);
	release_pages();
	set_private(f, 0, NR_PAGES);
	check(f, ALL_PAGES);
}

/* A private page can't be held, and a failed attempt doesn't keep the pages before it either. */
TEST_F(pins, private_pages_cannot_be_held)
{
	static const struct {
		int first, nr;
	} cases[] = {
		{ 8, 1 }, { 8, 8 }, { 7, 2 }, { 15, 2 }, { 0, NR_PAGES }, { 10, 3 },
	};
	struct test_file *f = &self->f;
	int i;

	set_private(f, 8, 8);
	guest_check(f, ALL_PAGES);
	for (i = 0; i < ARRAY_SIZE(cases); i++)
		TEST_ASSERT(!__hold_pages(cases[i].first, cases[i].nr) && errno == EFAULT,
			    "Holding pages %d to %d should fail with EFAULT, errno %d",
			    cases[i].first, cases[i].first + cases[i].nr - 1, errno);
	check(f, ALL_PAGES);
	set_private(f, 0, NR_PAGES);
	set_shared(f, 8, 1);
	hold_pages(8, 1);
	release_pages();
	check(f, ALL_PAGES);
}

/* A held page blocks its conversion, even if it was mapped elsewhere and is no longer mapped. */
TEST_F(pins, mapping_does_not_matter)
{
	struct test_file *f = &self->f;
	char *mem = f->mem;

	f->mem = kvm_mmap(TEST_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd);
	hold_pages(5, 1);
	kvm_munmap(f->mem, TEST_SIZE);
	f->mem = mem;
	kvm_madvise(f->mem, TEST_SIZE, MADV_DONTNEED);
	assert_busy(f, 0, NR_PAGES, 5);
	release_pages();
	set_private(f, 0, NR_PAGES);
	check(f, ALL_PAGES);
}

/* A page that was punched while it was held doesn't belong to the file any more. */
TEST_F(pins, punched_while_held)
{
	struct test_file *f = &self->f;

	hold_pages(7, 2);
	punch_pages(f, 7, 1);
	assert_busy(f, 0, 8 + 1, 8);
	set_private(f, 0, 8);
	check(f, ALL_PAGES);
	guest_write(f, ALL_PAGES);
	release_pages();
	set_private(f, 0, NR_PAGES);
	check(f, ALL_PAGES);
}

/* A holder that is killed lets its pages go. */
TEST_F(pins, killed_holder)
{
	struct test_file *f = &self->f;
	int to_parent[2], tries;
	pid_t pid;
	char c;

	TEST_ASSERT(!pipe(to_parent), "pipe() should succeed");
	close(self->h.fd[0]);
	if (self->h.fd[1])
		close(self->h.fd[1]);
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() should succeed");
	if (!pid) {
		TEST_ASSERT(variant->open(&self->h), "Opening should succeed once more");
		hold_pages(11, 1);
		TEST_ASSERT(write(to_parent[1], "", 1) == 1, "write() should succeed");
		pause();
	}
	TEST_ASSERT(read(to_parent[0], &c, 1) == 1, "The child should hold the page");
	assert_busy(f, 0, NR_PAGES, 11);

	kill(pid, SIGKILL);
	TEST_ASSERT(waitpid(pid, NULL, 0) == pid, "waitpid() should succeed");
	/* The kernel closes the files of a killed task late, and those of io_uring even later. */
	for (tries = 0; tries < 1000; tries++) {
		u64 error_offset;

		if (!__gmem_set_private(f->fd, 0, TEST_SIZE, &error_offset))
			break;
		TEST_ASSERT(errno == EAGAIN && error_offset == 11 * PAGE_SIZE,
			    "Until then, EAGAIN at page 11; got errno %d at 0x%lx",
			    errno, error_offset);
		usleep(10 * 1000);
	}
	f->private = ALL_PAGES;
	check(f, ALL_PAGES);
}

/* A pinned page is still the page of the file, even after a conversion of it has failed. */
TEST(pinned_page_is_the_page)
{
	struct test_file file, *f = &file;
	char page[PAGE_SIZE];
	struct holder h;

	if (!gup_open(&h))
		SKIP(return, "needs root, debugfs and CONFIG_GUP_TEST");

	test_file_create(f, GUEST_MEMFD_FLAG_INIT_SHARED);
	host_write(f, ALL_PAGES);
	TEST_ASSERT(gup_hold_write(&h, page_of(f, 3), 1), "Pinning should succeed");
	assert_busy(f, 0, NR_PAGES, 3);
	guest_write(f, page_mask(3, 1));
	gup_read(&h, page);
	TEST_ASSERT(has_tag(page, f->tag[3]), "The pinned page should be that of the file");
	gup_release(&h);
	set_private(f, 0, NR_PAGES);
	check(f, ALL_PAGES);
	test_file_free(f);
}

/*
 * Memory failure: the page stays in the file and converts like any other page.
 * Users that touch the page are told.
 */
FIXTURE(poison)
{
	struct test_file f;
	u64 pfn;
};

#define POISONED	9
#define POISONED_PAGE	page_mask(POISONED, 1)

/* A process that lets its own memory fail may get SIGBUS at once. */
static void ignore_sigbus(int sig)
{
}

FIXTURE_SETUP(poison)
{
	struct test_file *f = &self->f;

	if (access(CORRUPT_PFN, W_OK))
		SKIP(return, "needs root, debugfs and CONFIG_HWPOISON_INJECT");

	signal(SIGBUS, ignore_sigbus);
	test_file_create(f, GUEST_MEMFD_FLAG_INIT_SHARED);
	host_write(f, ALL_PAGES);
	guest_check(f, ALL_PAGES);
	self->pfn = pagemap_entry(page_of(f, POISONED)) & GENMASK_ULL(54, 0);
	TEST_ASSERT(self->pfn, "Cannot read page frame numbers");
}

FIXTURE_TEARDOWN(poison)
{
	test_file_free(&self->f);
}

static void poison_pfn(u64 pfn)
{
	int fd = open(CORRUPT_PFN, O_WRONLY), len;
	char buf[32];

	len = snprintf(buf, sizeof(buf), "%#lx", pfn);
	TEST_ASSERT(write(fd, buf, len) == len,
		    "Memory failure should be handled, errno %d", errno);
	close(fd);
}

static sigjmp_buf sigbus_jmpbuf;
static int sigbus_code;

static void note_sigbus(int sig, siginfo_t *info, void *ucontext)
{
	sigbus_code = info->si_code;
	siglongjmp(sigbus_jmpbuf, 1);
}

/* Return the si_code of the SIGBUS that an access to @addr raises, or 0 if there is none. */
static int host_access_code(void *addr)
{
	struct sigaction old, new = { .sa_sigaction = note_sigbus, .sa_flags = SA_SIGINFO };

	sigbus_code = 0;
	sigaction(SIGBUS, &new, &old);
	if (!sigsetjmp(sigbus_jmpbuf, 1))
		(void)READ_ONCE(*first_word(addr));
	sigaction(SIGBUS, &old, NULL);
	return sigbus_code;
}

static void check_poisoned(struct test_file *f)
{
	int ret, code = host_access_code(page_of(f, POISONED));

	if (f->private & POISONED_PAGE)
		TEST_ASSERT(code, "The host should get SIGBUS for a private page");
	else
		TEST_ASSERT(code == BUS_MCEERR_AR,
			    "The host should get SIGBUS with BUS_MCEERR_AR, got si_code %d", code);
	TEST_ASSERT(!host_can_read(f, page_of(f, POISONED)), "read() should fail");

	guest_request(f, false, POISONED_PAGE);
	ret = _vcpu_run(f->vcpu);
	TEST_ASSERT(ret < 0 && errno == EHWPOISON,
		    "KVM_RUN should fail with EHWPOISON, got %d, errno %d", ret, errno);
	TEST_ASSERT_KVM_EXIT_REASON(f->vcpu, KVM_EXIT_MEMORY_FAULT);
	TEST_ASSERT_EQ(f->vcpu->run->memory_fault.gpa, f->gva[POISONED]);
	/* The guest would retry the access for ever; let it start over. */
	vcpu_arch_set_entry_point(f->vcpu, guest_code);

	check(f, ~POISONED_PAGE);
}

static void convert_poisoned(struct test_file *f)
{
	int private;

	for (private = 1; private >= 0; private--) {
		convert(f, POISONED, 1, private);
		check_poisoned(f);
	}
	for (private = 1; private >= 0; private--) {
		set_all(f, private);
		check_poisoned(f);
		guest_write(f, ~POISONED_PAGE);
		/* All pages are in this state already: the conversion succeeds. */
		set_all(f, private);
		check_poisoned(f);
	}

	/*
	 * A hole gets rid of the page, and MADV_DONTNEED makes the page table
	 * forget the failure.
	 */
	set_private(f, POISONED, 1);
	punch_pages(f, POISONED, 1);
	kvm_madvise(page_of(f, POISONED), PAGE_SIZE, MADV_DONTNEED);
	check(f, ALL_PAGES);
	guest_write(f, ALL_PAGES);
	set_all(f, false);
	check(f, ALL_PAGES);
}

TEST_F(poison, while_shared)
{
	struct test_file *f = &self->f;

	kvm_madvise(page_of(f, POISONED), PAGE_SIZE, MADV_HWPOISON);
	check_poisoned(f);
	convert_poisoned(f);
}

TEST_F(poison, while_private)
{
	struct test_file *f = &self->f;

	set_all(f, true);
	guest_check(f, ALL_PAGES);
	poison_pfn(self->pfn);
	check_poisoned(f);
	set_all(f, false);
	check_poisoned(f);
	convert_poisoned(f);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_GUEST_MEMFD));
	TEST_REQUIRE_GMEM_CONVERSION();

	return test_harness_run(argc, argv);
}
