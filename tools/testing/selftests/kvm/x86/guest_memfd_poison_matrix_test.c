// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test of who is told what when a page of a guest_memfd file fails: for all kinds of pages,
 * all states that a page can be in, all policies of a process, and all ways to let a page
 * fail.
 *
 * The table has the expected results.  Its rows for files of 4K pages are what Linux 7.3
 * does, where the test runs as well.  With -t, the test prints the table for the
 * documentation.
 */
#include <sys/prctl.h>

#include "guest_memfd_poison.h"
#include "guest_memfd_poison_table.h"

/* The number of pages that the guest writes to.  A file of 4K pages has only these. */
#define NR_USED		PAGES_2M
#define BAD_PAGE	77

static bool is_in_place;

struct run {
	const struct poison_cell *cell;
	struct hugetlb_pool pool;
	/* Results of the child, which its parent reads. */
	struct poison_told got;
	long corrupted;
	u64 pfn;
	/* The VM and the file of the child. */
	struct gmem g;
	struct holder holder;
	size_t unit;
	u64 nr;
};

static bool is_held(const struct poison_cell *c)
{
	return c->page == SMALL_HELD || c->page == HELD;
}

static u64 *bad_word(struct run *r)
{
	return word_of(&r->g, BAD_PAGE);
}

/* Return one byte for each page: whether the page can't be reclaimed, but isn't mapped. */
static u8 *unmapped_unevictable(u64 *nr_pfns)
{
	const u64 mask = BIT_ULL(KPF_UNEVICTABLE) | BIT_ULL(KPF_MMAP) | BIT_ULL(KPF_NOPAGE);
	int fd = open("/proc/kpageflags", O_RDONLY);
	struct kernel_counters drained;
	static u64 buf[4096];
	u64 nr = 0, i;
	u8 *map = NULL;
	ssize_t len;

	TEST_ASSERT(fd >= 0, "Cannot open /proc/kpageflags");
	read_kernel_counters(&drained);
	while ((len = read(fd, buf, sizeof(buf))) > 0) {
		map = realloc(map, nr + len / sizeof(*buf));
		TEST_ASSERT(map, "No memory");
		for (i = 0; i < len / sizeof(*buf); i++)
			map[nr++] = (buf[i] & mask) == BIT_ULL(KPF_UNEVICTABLE);
	}
	close(fd);
	*nr_pfns = nr;
	return map;
}

/*
 * Allocate a page of the file and return its pfn.  Where private memory can't be shared, only
 * a comparison of all pages before and after the allocation tells which page it is.
 */
static u64 allocate_and_find(struct run *r, u64 page)
{
	u64 nr, nr_after, pfn, found = 0;
	u8 *before, *after;

	before = unmapped_unevictable(&nr);
	allocate_fd(r->g.fd, page * PAGE_SIZE, PAGE_SIZE);
	after = unmapped_unevictable(&nr_after);
	for (pfn = 0; pfn < nr && pfn < nr_after; pfn++) {
		if (before[pfn] || !after[pfn])
			continue;
		TEST_ASSERT(!found, "It should be one of pfn 0x%lx and pfn 0x%lx", found, pfn);
		found = pfn;
	}
	TEST_ASSERT(found, "The page of the file should be somewhere");
	free(before);
	free(after);
	return found;
}

/*
 * Return the pfn of a page of a private file.  Shares the page, looks at it, and makes it
 * private again, after which all is as before.
 */
static u64 share_and_find(struct run *r, u64 page)
{
	u64 pfn;

	convert_fd(r->g.fd, page, 1, false);
	(void)READ_ONCE(*word_of(&r->g, page));
	pfn = read_pagemap_pfn(word_of(&r->g, page));
	TEST_ASSERT(pfn, "Page %lu should be mapped", page);
	convert_fd(r->g.fd, page, 1, true);
	return pfn;
}

static void create_file(struct run *r)
{
	bool private = is_in_place || r->cell->state == PRIVATE;
	u64 flags = private ? 0 : GUEST_MEMFD_FLAG_INIT_SHARED;
	struct gmem *g = &r->g;
	char *hva;

	if (is_in_place || !private)
		flags |= GUEST_MEMFD_FLAG_MMAP;
	g->vm = create_guest(private ? VM_TYPE_PRIVATE : VM_TYPE_DEFAULT, g->vcpus, 1);
	g->vcpu = g->vcpus[0];
	g->unit = r->unit;
	g->size = r->nr * PAGE_SIZE;
	g->fd = gmem_create(g, flags);
	g->mem = flags & GUEST_MEMFD_FLAG_MMAP ? gmem_map(g, g->fd) : NULL;
	hva = g->mem ?: kvm_mmap(g->size, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	add_slot(g->vm, TEST_GPA, g->size, hva, g->fd, 0);
	if (!is_in_place && private)
		vm_mem_set_private(g->vm, TEST_GPA, g->size);
}

/*
 * Prepare a file without in-place conversion.  It has 4K pages, either all private or all
 * shared.
 */
static void prepare_small(struct run *r)
{
	if (r->cell->state == PRIVATE) {
		r->pfn = allocate_and_find(r, BAD_PAGE);
		return;
	}
	(void)READ_ONCE(*bad_word(r));
	r->pfn = read_pagemap_pfn(bad_word(r));
}

static void prepare_in_place(struct run *r)
{
	const struct poison_cell *c = r->cell;

	allocate_fd(r->g.fd, 0, r->nr * PAGE_SIZE);
	r->pfn = share_and_find(r, BAD_PAGE);
	switch (c->page) {
	case PIECE:
		convert_fd(r->g.fd, r->nr - 1, 1, false);
		(void)READ_ONCE(*word_of(&r->g, r->nr - 1));
		if (c->state != PRIVATE)
			convert_fd(r->g.fd, 0, r->nr / 2, false);
		break;
	case WHOLE_UNIT:
		if (c->state != PRIVATE)
			convert_fd(r->g.fd, 0, r->nr, false);
		break;
	default:
		if (c->state != PRIVATE || is_held(c))
			convert_fd(r->g.fd, BAD_PAGE, 1, false);
		break;
	}
}

/* Put the bad page into a pipe, and punch it out of the file, with its huge page if it has one. */
static void hold_bad_page(struct run *r)
{
	bool huge = poison_is_huge(r->cell);
	u64 first = huge ? 0 : BAD_PAGE, nr = huge ? r->nr : 1;

	vmsplice_open_and_hold(&r->holder, bad_word(r));
	punch_fd(r->g.fd, first * PAGE_SIZE, nr * PAGE_SIZE);
	if (r->cell->state == PRIVATE)
		convert_fd(r->g.fd, BAD_PAGE, 1, true);
}

static void prepare(struct run *r)
{
	const struct poison_cell *c = r->cell;

	create_file(r);
	if (is_in_place)
		prepare_in_place(r);
	else
		prepare_small(r);

	/* Let the guest map all of its pages, and the host what the state says. */
	guest_do(r->g.vcpu, OP_WRITE_TAGS, TEST_GPA, NR_USED, PAGE_SIZE, TAG(0));
	if (c->state == MAPPED || is_held(c))
		(void)READ_ONCE(*bad_word(r));
	if (is_held(c))
		hold_bad_page(r);
	else if (c->state == UNMAPPED)
		kvm_madvise(r->g.mem, r->g.size, MADV_DONTNEED);
}

static void inject(struct run *r)
{
	const struct poison_cell *c = r->cell;
	long before = nr_corrupted_pages();
	struct sigbus_seen seen;

	TEST_ASSERT(!prctl(PR_MCE_KILL, PR_MCE_KILL_SET,
			   c->early ? PR_MCE_KILL_EARLY : PR_MCE_KILL_LATE, 0, 0),
		    "prctl() should succeed, errno %d", errno);
	sigbus_start(false);
	if (c->how == BY_PFN)
		r->got.inject = write_pfn(CORRUPT_PFN, r->pfn);
	else
		r->got.inject = madvise(bad_word(r), PAGE_SIZE, MADV_HWPOISON) ?
				errno : 0;
	seen = sigbus_take();
	r->got.at_once = seen.code;
	r->corrupted = nr_corrupted_pages() - before;
	TEST_ASSERT(seen.nr <= 1, "One signal should do, got %d", seen.nr);
	if (!seen.nr)
		return;
	TEST_ASSERT_EQ(seen.addr, (uintptr_t)bad_word(r));
	TEST_ASSERT_EQ(seen.lsb, PAGE_SHIFT);
}

/*
 * Let the host read a page.  Returns the si_code of the SIGBUS, or 0 if the host can read the
 * page.
 */
static int host_access(struct run *r, u64 page)
{
	struct sigbus_seen seen;
	u64 val;

	if (!r->g.mem)
		return BUS_ADRERR;
	if (sigbus_try_read(word_of(&r->g, page), &val))
		return 0;
	seen = sigbus_take();
	TEST_ASSERT_EQ(seen.nr, 1);
	if (seen.code == BUS_ADRERR)
		return seen.code;
	TEST_ASSERT_EQ(seen.addr, (uintptr_t)word_of(&r->g, page));
	TEST_ASSERT_EQ(seen.lsb, PAGE_SHIFT);
	return seen.code;
}

/* Let the guest read a page.  Returns the error of KVM_RUN, which is for this 4K page, or 0. */
static int guest_access(struct run *r, u64 page)
{
	int error = guest_read_error(r->g.vcpu, gpa_of(page));

	if (error)
		guest_start_over(r->g.vcpu);
	return error;
}

/*
 * Assert that the pages around the bad page have what the guest has written, or zeroes if
 * their huge page was punched.  Pages far away in a huge page only have to be readable.
 */
static void check_neighbours(struct run *r)
{
	const u64 after = BAD_PAGE + 1;
	bool is_hole = poison_is_huge(r->cell) && is_held(r->cell);
	enum guest_op op = is_hole ? OP_CHECK_ZERO : OP_CHECK_TAGS;

	guest_do(r->g.vcpu, op, gpa_of(BAD_PAGE - 1), 1, PAGE_SIZE, TAG(BAD_PAGE - 1));
	guest_do(r->g.vcpu, op, gpa_of(after), NR_USED - after, PAGE_SIZE, TAG(after));
	guest_do(r->g.vcpu, op, gpa_of(0), BAD_PAGE, PAGE_SIZE, TAG(0));
	if (!poison_is_huge(r->cell))
		return;
	guest_do(r->g.vcpu, OP_READ, gpa_of(0), r->nr / PAGES_2M, SZ_2M, 0);
	guest_do(r->g.vcpu, OP_READ, gpa_of(r->nr - 1), 1, PAGE_SIZE, 0);
}

/* Assert that the guest maps a whole private unit with one bad page as large as can be. */
static void check_mappings(struct run *r, struct mappings before)
{
	struct mappings m = mappings_minus(read_mappings(r->g.vcpu), before);

	TEST_ASSERT_EQ(m.nr_4k, PAGES_2M - 1);
	TEST_ASSERT_EQ(m.nr_2m, (long)(r->nr / PAGES_2M) - 1);
	TEST_ASSERT_EQ(m.nr_1g, 0);
}

/*
 * Return whether the host's page table had the page when it failed.  If so, the page table
 * remembers the failure, whether the page is private or not.
 */
static bool is_remembered(const struct poison_cell *c)
{
	return c->state == MAPPED || (c->state == UNMAPPED && c->how == MADVISE);
}

/* Convert the bad page there and back again, and assert that it is bad in either state. */
static void check_conversion(struct run *r)
{
	const int no_access = is_remembered(r->cell) ? BUS_MCEERR_AR : BUS_ADRERR;
	bool private = r->cell->state == PRIVATE;
	int i;

	if (!is_in_place)
		return;
	for (i = 0; i < 2; i++) {
		private = !private;
		convert_fd(r->g.fd, BAD_PAGE, 1, private);
		TEST_ASSERT_EQ(host_access(r, BAD_PAGE), private ? no_access : BUS_MCEERR_AR);
		TEST_ASSERT_EQ(guest_access(r, BAD_PAGE), EHWPOISON);
	}
}

/*
 * Release the held page.  A worker dissolves its huge page then, and the file gets a
 * reservation for another huge page.
 */
static void release(struct run *r)
{
	struct hugetlb_pool want = r->pool;
	const char *diff;

	vmsplice_release(&r->holder);
	if (!poison_is_huge(r->cell))
		return;
	hugetlb_pool_lose(&want, 1);
	diff = hugetlb_pool_settle(&want, 0, 1);
	TEST_ASSERT(!diff, "After the page was released: %s", diff);
}

static void run_cell(struct run *r)
{
	const struct poison_cell *c = r->cell;
	struct mappings none = {};

	prepare(r);
	if (poison_is_huge(c) && c->page == WHOLE_UNIT) {
		none = read_mappings(r->g.vcpu);
		none.nr_2m -= r->unit == SZ_2M;
		none.nr_1g -= r->unit == SZ_1G;
	}
	inject(r);
	if (is_held(c))
		release(r);
	r->got.host = host_access(r, BAD_PAGE);
	r->got.guest = guest_access(r, BAD_PAGE);
	check_neighbours(r);
	if (r->got.guest == EHWPOISON) {
		if (c->page == WHOLE_UNIT && c->state == PRIVATE)
			check_mappings(r, none);
		check_conversion(r);
		check_neighbours(r);
	}
	close(r->g.fd);
	kvm_vm_free(r->g.vm);
}

static void print_told(const char *what, const struct poison_told *t)
{
	ksft_print_msg("%s: injection %s, SIGBUS %s, host %s, KVM_RUN %s, bad %d, lost %d\n",
		       what, poison_error_str(t->inject), sigbus_code_str(t->at_once),
		       sigbus_code_str(t->host), poison_error_str(t->guest), t->corrupted,
		       t->lost);
}

/*
 * Find out what is missing after the file is gone, and mend the page.  Returns false if the
 * pool isn't as expected, or the page can't be mended.
 */
static bool check_afterwards(struct run *r)
{
	struct poison_told *got = &r->got;
	struct hugetlb_pool want = r->pool;
	const char *diff = NULL;
	int error;

	got->corrupted = r->corrupted;
	if (poison_is_huge(r->cell)) {
		hugetlb_pool_lose(&want, r->cell->want.lost);
		diff = hugetlb_pool_settle(&want, 0, 0);
		hugetlb_read_pool(r->unit, &want);
		got->lost = r->pool.total - want.total;
	}
	if (diff)
		ksft_print_msg("%s\n", diff);
	if (!got->corrupted)
		return !diff;
	error = write_pfn(UNPOISON_PFN, r->pfn);
	if (error)
		ksft_print_msg("pfn 0x%lx can't be mended: %s\n", r->pfn, strerror(error));
	return !diff && !error;
}

/* Run a row of the table in a child.  Returns false if the child has failed, and has said why. */
static bool run_in_child(struct run *r)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = kvm_fork();
	if (!pid) {
		run_cell(r);
		_exit(0);
	}
	TEST_ASSERT(waitpid(pid, &status, 0) == pid, "waitpid() should succeed");
	if (status)
		ksft_print_msg("the child's status is 0x%x\n", status);
	return !status;
}

static void test_cell(const struct poison_cell *c, size_t unit)
{
	struct run *r = kvm_mmap(sizeof(*r), PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1);
	const char *missing, *name = poison_cell_name(c, unit);
	bool ok;

	r->cell = c;
	r->unit = unit;
	r->nr = poison_is_huge(c) ? unit / PAGE_SIZE : NR_USED;
	/* Replace a lost huge page, whose bad page was mended. */
	fill_up_pool(unit, 2);
	missing = poison_is_huge(c) ? missing_units(unit, 2, &r->pool) : NULL;
	if (!missing && !is_in_place && is_held(c) && c->state == PRIVATE)
		missing = "private memory can't be held";
	if (!missing && !is_in_place && c->state == PRIVATE && c->how == MADVISE)
		missing = "private memory has no address";
	if (missing) {
		ksft_test_result_skip("%s: %s\n", name, missing);
		return;
	}
	ok = run_in_child(r);
	ok = check_afterwards(r) && ok;
	ok = !memcmp(&r->got, &c->want, sizeof(r->got)) && ok;
	if (!ok) {
		print_told("expected", &c->want);
		print_told("was told", &r->got);
	}
	ksft_test_result(ok, "%s\n", name);
	kvm_munmap(r, sizeof(*r));
}

static int nr_cells_of(size_t unit)
{
	int i, nr = 0;

	for (i = 0; i < poison_nr_cells; i++)
		nr += poison_is_huge(&poison_cells[i]) == !!unit;
	return nr;
}

static void test_cells(size_t unit)
{
	int i;

	for (i = 0; i < poison_nr_cells; i++)
		if (poison_is_huge(&poison_cells[i]) == !!unit)
			test_cell(&poison_cells[i], unit);
}

static void help(const char *name)
{
	printf("usage: %s [-t] [-u 4K|2M|1G]...\n\n"
	       " -t: print the table for the documentation, do nothing else\n"
	       " -u: only files of pages of these sizes (default: all)\n", name);
	exit(KSFT_FAIL);
}

static bool is_wanted(size_t unit, size_t sizes)
{
	return (!sizes || sizes & (unit ?: SZ_4K)) && (!unit || has_guest_memfd_hugetlb());
}

int main(int argc, char *argv[])
{
	const size_t units[] = { 0, SZ_2M, SZ_1G };
	size_t sizes = 0;
	int opt, i, nr = 0;

	while ((opt = getopt(argc, argv, "htu:")) != -1) {
		switch (opt) {
		case 't':
			poison_print_table();
			return 0;
		case 'u':
			sizes |= parse_size(optarg);
			break;
		default:
			help(argv[0]);
		}
	}

	gmem_init(NEEDS_PRIVATE_VM);
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) & GUEST_MEMFD_FLAG_INIT_SHARED);
	__TEST_REQUIRE(can_inject_memory_failure(), NEEDS_MEMORY_FAILURE);
	is_in_place = kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES) > 0;

	ksft_print_header();
	for (i = 0; i < ARRAY_SIZE(units); i++)
		if (is_wanted(units[i], sizes))
			nr += nr_cells_of(units[i]);
	ksft_set_plan(nr);
	for (i = 0; i < ARRAY_SIZE(units); i++)
		if (is_wanted(units[i], sizes))
			test_cells(units[i]);
	ksft_finished();
}
