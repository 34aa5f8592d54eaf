// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of a host that uses shared pages of guest_memfd files made of HugeTLB pages.
 * The kernel splits off the pages that the host touches, and no others, so that the
 * host can map them, and maybe pin them, page by page.  The guest does not notice.
 */
#include <sys/resource.h>

#include "guest_memfd_fixture.h"

static const struct mappings no_change;

GMEM_RESHAPE_FIXTURE(gmem_setup_guest(self, variant, GUEST_MEMFD_FLAG_INIT_SHARED));

/* A part of the mapping that is small enough to go through it page by page. */
#define WINDOW_PAGES	PAGES_2M

TEST_F(reshape, guest_keeps_huge_mappings)
{
	const u64 nr = self->unit_pages;
	const u64 pages[] = { nr / 2 + 1, nr / 2, 0, nr - 1, 511, 512 % nr, nr + 1, 2 * nr - 1 };
	struct mappings before, want;
	int i;

	before = read_mappings(self->vcpu);
	guest_write(self, 0, 2 * nr);
	want = mappings_of_layout(&self->model, 0, 2 * nr);
	want.faults = 2;
	assert_mappings(self->vcpu, before, want, "whole");
	assert_model();

	before = read_mappings(self->vcpu);
	for (i = 0; i < ARRAY_SIZE(pages) + 20; i++) {
		u64 page = i < ARRAY_SIZE(pages) ? pages[i] : random_below(2 * nr);

		host_check(self, page);
		assert_model();
		if (!i)
			assert_nr_folios(0, self->model.unit_order + 1);
		host_write(self, page);
		/* Access the page again, by a system call. */
		TEST_ASSERT(host_can_read(self, page), "read() should succeed");
		assert_model();
		assert_mappings(self->vcpu, before, no_change, "page touched");
	}
	guest_check(self, 0, 2 * nr);
	guest_write(self, 0, 2 * nr);
	assert_mappings(self->vcpu, before, no_change, "pages touched");
	for (i = 0; i < ARRAY_SIZE(pages); i++)
		host_check(self, pages[i]);
}

/* The guest accesses the units after the host, and gets the mappings that the layout allows. */
TEST_F(reshape, host_touches_first)
{
	const u64 nr = self->unit_pages;
	struct mappings before, want;

	host_write(self, 5);
	assert_model();
	host_write(self, nr + nr / 2);
	assert_model();
	before = read_mappings(self->vcpu);
	guest_check(self, 0, 2 * nr);
	want = mappings_of_layout(&self->model, 0, 2 * nr);
	want.faults = nr_mappings(want);
	assert_mappings(self->vcpu, before, want, "after the host");
	assert_model();
}

TEST_F(reshape, isolated_pages_convert)
{
	const u64 nr = self->unit_pages;
	const u64 page = nr / 2 + 7;
	struct mappings before;

	guest_write(self, 0, nr);
	host_check(self, page);
	host_check(self, page + 9);
	before = read_mappings(self->vcpu);

	set_private(page, 1);
	host_check(self, page);
	host_check(self, page + 9);
	guest_check(self, 0, nr);
	TEST_ASSERT_EQ(read_mappings(self->vcpu).faults - before.faults, 1);

	/* Convert the page back.  Shared pages are never merged. */
	set_shared(page, 1);
	assert_nr_folios(0, guestmem_model_nr_folios(&self->model, 0));
	host_check(self, page);
	guest_check(self, 0, nr);

	/* Convert neighbours, too: touched or not, of both units, and beginning in a block. */
	set_private(page - 3, nr);
	guest_check(self, 0, 2 * nr);
	host_check(self, page - 4);
	host_check(self, page - 3 + nr);
	assert_model();
	set_shared(page - 3, nr);
	host_check(self, page);
	assert_model();
	guest_check(self, 0, 2 * nr);

	set_private(0, nr);
	assert_nr_folios(0, 1);
	set_private(nr, self->nr_pages - nr);
	assert_nr_folios(1, 1);
	guest_check_all();
	guest_write(self, 0, self->nr_pages);

	/* Share units as a whole. */
	set_shared(0, self->nr_pages);
	guest_check_all();
	host_check(self, page);
	assert_nr_folios(0, self->model.unit_order + 1);
	assert_model();
}

TEST_F(reshape, all_pages_of_a_block)
{
	const u64 first = self->unit_pages - WINDOW_PAGES;
	struct mappings before;
	u64 i;

	guest_write(self, 0, self->unit_pages);
	before = read_mappings(self->vcpu);
	for (i = 0; i < WINDOW_PAGES; i++)
		host_check(self, first + (i * 37) % WINDOW_PAGES);
	assert_model();
	assert_mappings(self->vcpu, before, no_change, "all pages touched");
	for (i = 0; i < WINDOW_PAGES; i++)
		host_write(self, first + i);
	guest_check(self, 0, self->unit_pages);
	assert_mappings(self->vcpu, before, no_change, "all pages written");

	/* Convert every other page, then the other pages, then all of the unit. */
	for (i = 0; i < WINDOW_PAGES; i += 2)
		__convert(self, first + i, 1, true);
	assert_model();
	guest_check(self, 0, self->unit_pages);
	for (i = 0; i < WINDOW_PAGES; i++)
		host_check(self, first + i);
	set_private(first, WINDOW_PAGES);
	guest_check(self, 0, self->unit_pages);
	set_private(0, self->unit_pages);
	assert_nr_folios(0, 1);
	guest_check(self, 0, self->unit_pages);
}

static void become_ordinary_vm(struct gmem *self)
{
	gmem_close(self);
	kvm_vm_free(self->vm);
	self->vm = create_guest(VM_TYPE_DEFAULT, self->vcpus, MAX_VCPUS);
	self->vcpu = self->vcpus[0];
	gmem_open(self, GUEST_MEMFD_FLAG_INIT_SHARED);
	self->model.map_order = 9;
	if (self->unit == SZ_1G)
		self->model.max_order = 18;
}

/*
 * A VM without private memory may have all of its memory in such a file.  The mappings that
 * the guest has stay as they are when the host maps the memory.
 */
TEST_F(reshape, ordinary_vm)
{
	const u64 nr = self->unit_pages;
	struct mappings before, want;
	int i;

	become_ordinary_vm(self);
	before = read_mappings(self->vcpu);
	guest_write(self, 0, self->nr_pages);
	want = mappings_of_layout(&self->model, 0, self->nr_pages);
	want.faults = self->nr;
	assert_mappings(self->vcpu, before, want, "whole");

	before = read_mappings(self->vcpu);
	for (i = 0; i < 20; i++) {
		host_check(self, random_below(nr));
		host_write(self, random_below(nr));
	}
	assert_model();
	guest_check_all();
	assert_mappings(self->vcpu, before, no_change, "pages touched");

	assert_error(__gmem_set_private(self->fd, 0, PAGE_SIZE, NULL), EINVAL);

	punch(self, 7, 3);
	guest_check(self, 0, nr);
	punch(self, 0, nr);
	assert_model();
	guest_check(self, 0, 10);
	host_check(self, 8);
	assert_model();
}

/* The guest maps what the host has mapped first. */
TEST_F(reshape, ordinary_vm_of_host)
{
	struct mappings before, want = {};
	u64 page;

	become_ordinary_vm(self);
	for (page = 0; page < self->nr_pages; page++) {
		self->tags[page] = HOST_TAG(page);
		WRITE_ONCE(*word_of(self, page), HOST_TAG(page));
	}
	guestmem_model_touch_all(&self->model);
	assert_model();

	want = mappings_of_layout(&self->model, 0, self->nr_pages);
	want.faults = self->nr;
	before = read_mappings(self->vcpu);
	guest_check_all();
	assert_mappings(self->vcpu, before, want, "written by the host");

	/* Without the memslot, the guest has to map the rest of its memory again, too. */
	delete_slot(self->vm, TEST_GPA);
	add_slot(self->vm, TEST_GPA, self->size, self->mem, self->fd, 0);
	guest_check(self, 0, 1);
	want = mappings_of_layout(&self->model, self->unit_pages,
				  self->nr_pages - self->unit_pages);
	want.faults = self->nr - 1;
	before = read_mappings(self->vcpu);
	guest_check_all();
	assert_mappings(self->vcpu, before, want, "after the memslot was deleted");

	/* A page that has to be mapped on its own. */
	TEST_ASSERT(!madvise(word_of(self, 5), PAGE_SIZE, MADV_NOHUGEPAGE), "MADV_NOHUGEPAGE");
	TEST_ASSERT_EQ(*word_of(self, 5), self->tags[5]);
	guestmem_model_touch_small(&self->model, 5, 1);
	assert_model();
	before = read_mappings(self->vcpu);
	guest_check_all();
	assert_mappings(self->vcpu, before, no_change, "a page on its own");
}

/* Parent and child share the pages that the parent has, and those that the child touches. */
TEST_F(reshape, fork)
{
	const u64 page = 77, other = self->unit_pages / 2 + 3;
	int to_child[2], to_parent[2];
	pid_t pid;
	u64 tag;

	guest_write(self, 0, self->unit_pages);
	host_write(self, page);
	kvm_pipe(to_child);
	kvm_pipe(to_parent);

	pid = kvm_fork();
	if (!pid) {
		host_check(self, page);
		host_check(self, other);
		WRITE_ONCE(*word_of(self, page), self->tags[other]);
		WRITE_ONCE(*word_of(self, other), self->tags[page]);
		tell(to_parent[1]);
		TEST_ASSERT(wait_for(to_child[0]), "The parent should go on");
		/* All of the unit has become private, for the child as well. */
		TEST_EXPECT_SIGBUS((void)READ_ONCE(*word_of(self, page)));
		TEST_EXPECT_SIGBUS((void)READ_ONCE(*word_of(self, other)));
		_exit(0);
	}
	TEST_ASSERT(wait_for(to_parent[0]), "The child should succeed");
	tag = self->tags[page];
	self->tags[page] = self->tags[other];
	self->tags[other] = tag;
	guestmem_model_touch(&self->model, other);
	assert_model();
	host_check(self, page);
	host_check(self, other);
	guest_check(self, 0, self->unit_pages);

	set_private(0, self->unit_pages);
	assert_nr_folios(0, 1);
	tell(to_child[1]);
	assert_child_succeeds(pid);
	guest_check(self, 0, self->unit_pages);
}

TEST_F(reshape, mremap)
{
	const u64 page = 9;
	void *mem;

	guest_write(self, 0, self->unit_pages);
	host_write(self, page);
	host_write(self, page + 1);

	/* Move all of the mapping, and then a part of it. */
	mem = kvm_mmap(self->size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	TEST_ASSERT(mremap(self->mem, self->size, self->size, MREMAP_MAYMOVE | MREMAP_FIXED,
			   mem) == mem, "mremap() should succeed, errno %d", errno);
	self->mem = mem;
	host_check(self, page);
	host_write(self, page + 2);
	assert_model();

	mem = kvm_mmap(PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	TEST_ASSERT(mremap(word_of(self, page + 1), PAGE_SIZE, PAGE_SIZE,
			   MREMAP_MAYMOVE | MREMAP_FIXED, mem) == mem,
		    "mremap() of a page should succeed, errno %d", errno);
	TEST_ASSERT_EQ(*(u64 *)mem, self->tags[page + 1]);
	host_check(self, page);
	guest_write(self, 0, 100);
	TEST_ASSERT_EQ(*(u64 *)mem, self->tags[page + 1]);
	assert_model();

	/* A conversion unmaps a page, wherever the page is mapped. */
	set_private(0, self->unit_pages);
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*(u64 *)mem));
	host_check(self, page);
	set_shared(page + 1, 1);
	TEST_ASSERT_EQ(*(u64 *)mem, self->tags[page + 1]);
	kvm_munmap(mem, PAGE_SIZE);
	set_private(page + 1, 1);
	guest_check(self, 0, self->unit_pages);
}

/* Tell the model that the shared pages of a window are in memory, as mlock() leaves them. */
static void touch_window(struct gmem *self, u64 first)
{
	u64 i;

	for (i = 0; i < WINDOW_PAGES; i++)
		if (!self->model.private[first + i])
			guestmem_model_touch(&self->model, first + i);
}

TEST_F(reshape, mlockall)
{
	const u64 first = self->unit_pages - WINDOW_PAGES / 2;
	const size_t size = WINDOW_PAGES * PAGE_SIZE;
	struct kernel_counters counters, now;
	void *window;
	u64 i;

	guest_write(self, 0, 2 * self->unit_pages);
	set_private(first + 17, 3);
	read_kernel_counters(&counters);

	/* Locking all of a large file would take long. */
	kvm_munmap(self->mem, self->size);
	window = __kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd,
			    first * PAGE_SIZE);
	/* mlockall() stops at private pages, and succeeds all the same. */
	TEST_ASSERT(!mlockall(MCL_CURRENT | MCL_FUTURE), "mlockall() should succeed, errno %d",
		    errno);
	for (i = 0; i < WINDOW_PAGES; i++)
		if (!self->model.private[first + i])
			TEST_ASSERT_EQ(*(u64 *)(window + i * PAGE_SIZE), self->tags[first + i]);
	touch_window(self, first);
	assert_model();

	set_private(first + 40, 1);
	set_private(first, WINDOW_PAGES / 2);
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*(u64 *)window));
	set_private(0, 2 * self->unit_pages);
	assert_nr_folios(0, 1);
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*(u64 *)(window + size - PAGE_SIZE)));

	/* New mappings are populated from the beginning, as far as possible. */
	set_shared(first, WINDOW_PAGES);
	kvm_munmap(window, size);
	window = __kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd,
			    first * PAGE_SIZE);
	touch_window(self, first);
	assert_model();
	TEST_ASSERT(!munlockall(), "munlockall() should succeed");
	assert_model();

	/* Punch a unit while it is locked. */
	TEST_ASSERT(!mlock(window, size), "mlock() should succeed, errno %d", errno);
	punch(self, 0, self->unit_pages);
	assert_model();
	TEST_ASSERT_EQ(*(u64 *)window, 0);
	guestmem_model_touch(&self->model, first);
	assert_model();
	kvm_munmap(window, size);
	self->mem = gmem_map(self, self->fd);

	/* The units are back before the counters are read, which drains per-CPU batches. */
	punch(self, 0, 2 * self->unit_pages);
	assert_nr_allocated(0);

	TEST_ASSERT(!kernel_counters_settle(&counters, &now),
		    "There should be %ld mlocked pages, are %ld", counters.mlocked, now.mlocked);
}

TEST_F(reshape, madvise)
{
	const u64 page = 100;
	char *addr = self->mem + page * PAGE_SIZE;
	struct mappings before;

	guest_write(self, 0, self->unit_pages);
	host_write(self, page);
	host_write(self, page + 2);
	before = read_mappings(self->vcpu);

	/* MADV_DONTNEED only says that the host has no use for the pages right now. */
	kvm_madvise(addr, 3 * PAGE_SIZE, MADV_DONTNEED);
	assert_model();
	host_check(self, page);
	host_check(self, page + 1);
	host_check(self, page + 2);
	kvm_madvise(self->mem, self->size, MADV_DONTNEED);
	guest_check(self, 0, self->unit_pages);
	assert_mappings(self->vcpu, before, no_change, "MADV_DONTNEED");
	host_check(self, page);
	assert_model();

	kvm_madvise(self->mem + (page + 10) * PAGE_SIZE, 4 * PAGE_SIZE, MADV_POPULATE_WRITE);
	for (int i = 0; i < 4; i++)
		guestmem_model_touch(&self->model, page + 10 + i);
	assert_model();
	set_private(page + 12, 1);
	addr = addr_of(self, page + 10);
	assert_error(madvise(addr, 4 * PAGE_SIZE, MADV_POPULATE_READ), EFAULT);
	addr = addr_of(self, page);

	/* This advice isn't for guest_memfd, and has no effect. */
	madvise(addr, SZ_2M, MADV_COLLAPSE);
	madvise(addr, SZ_2M, MADV_PAGEOUT);
	madvise(addr, SZ_2M, MADV_COLD);
	madvise(addr, SZ_2M, MADV_FREE);
	madvise(addr, SZ_2M, MADV_MERGEABLE);
	assert_model();
	guest_check(self, 0, self->unit_pages);
	host_check(self, page);

	/* MADV_REMOVE punches. */
	kvm_madvise(addr, 2 * PAGE_SIZE, MADV_REMOVE);
	memset(self->tags + page, 0, 2 * sizeof(*self->tags));
	assert_model();
	host_check(self, page);
	host_check(self, page + 1);
	host_check(self, page + 2);
	guest_check(self, 0, self->unit_pages);
	kvm_madvise(self->mem, self->unit, MADV_REMOVE);
	memset(self->tags, 0, self->unit_pages * sizeof(*self->tags));
	guestmem_model_punch(&self->model, 0, self->unit_pages);
	assert_model();
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*word_of(self, page + 12)));
	host_check(self, page);
	assert_model();
}

TEST_F(reshape, pinned_page_does_not_convert)
{
	const u64 nr = self->unit_pages, last = self->nr_pages - nr;
	const u64 pages[] = { last, last + 1, last + nr / 2, self->nr_pages - 1 };
	struct holder h;
	u64 page;
	int i;

	if (!gup_open(&h))
		SKIP(return, NEEDS_GUP_TEST);

	/* Prepare a mix of whole units, isolated pages and private pages. */
	guest_write(self, 0, self->nr_pages);
	host_check(self, 3);
	set_private(nr / 2, 10);
	set_private(nr + 1, 1);

	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		page = pages[i];
		TEST_ASSERT(gup_hold_write(&h, word_of(self, page), 1),
			    "Pinning should succeed, errno %d", errno);
		guestmem_model_touch(&self->model, page);
		guest_check_all();
		assert_model();

		assert_busy(self, 0, self->nr_pages, page);
		assert_busy(self, 5, self->nr_pages - 5, page);
		assert_busy(self, nr / 2 + 3, page - nr / 2 - 3 + 1, page);
		assert_busy(self, page, 1, page);
		assert_busy(self, page, self->nr_pages - page, page);
		assert_busy(self, page & ~1ul, 2, page);
		host_check(self, 3);
		host_check(self, nr / 2);
		host_check(self, page);
		guest_check_all();

		/* Only the pinned page can't be converted. */
		if (page + 1 < self->nr_pages)
			set_private(page + 1, self->nr_pages - page - 1);
		set_private(0, page);
		guest_check_all();
		host_write(self, page);
		guest_check(self, page, 1);
		assert_model();

		gup_release(&h);
		set_private(page, 1);
		guest_check_all();
		set_shared(0, self->nr_pages);
		guest_check_all();
		set_private(nr / 2, 10);
	}
}

/* A pinned page stays the page of the file, and all users see the same contents. */
TEST_F(reshape, pinned_page_is_the_page)
{
	const u64 page = self->unit_pages / 2 - 1;
	u64 words[PAGE_SIZE / sizeof(u64)];
	struct holder h;

	if (!gup_open(&h))
		SKIP(return, NEEDS_GUP_TEST);

	guest_write(self, 0, self->unit_pages);
	TEST_ASSERT(gup_hold_write(&h, word_of(self, page), 1), "Pinning should succeed");
	guestmem_model_touch(&self->model, page);
	assert_model();

	/* The pinned page stays, whatever happens to its neighbours. */
	set_private(0, page);
	set_private(page + 1, self->unit_pages - page - 1);
	guest_write(self, 0, self->unit_pages);
	gup_read(&h, words);
	TEST_ASSERT_EQ(words[0], self->tags[page]);
	set_shared(0, self->unit_pages);
	host_write(self, page);
	gup_read(&h, words);
	TEST_ASSERT_EQ(words[0], self->tags[page]);

	/* A hole zeroes the page in place. */
	punch(self, page - 1, 3);
	assert_model();
	gup_read(&h, words);
	TEST_ASSERT_EQ(words[0], 0);
	guest_check(self, 0, self->unit_pages);
	guest_write(self, page, 1);
	gup_read(&h, words);
	TEST_ASSERT_EQ(words[0], self->tags[page]);
	assert_busy(self, 0, self->unit_pages, page);
	gup_release(&h);
	set_private(0, self->unit_pages);
	assert_nr_folios(0, 1);
}

/* Pieces do not count as page cache, and reclaim does not look at them. */
TEST_F(reshape, counted_as_what_it_is)
{
	static const char * const items[] = {
		"nr_file_pages", "nr_shmem", "nr_unevictable", "nr_mlock",
		"nr_active_file", "nr_inactive_file", "nr_mapped",
	};
	const u64 nr = self->unit_pages;
	long before[ARRAY_SIZE(items)], now;
	struct kernel_counters counters;
	int i, pass;

	allocate(self, 0, self->nr_pages);
	read_kernel_counters(&counters);
	for (i = 0; i < ARRAY_SIZE(items); i++)
		before[i] = read_vmstat(items[i]);

	for (pass = 0; pass < 3; pass++) {
		for (i = 0; i < 300; i++)
			host_write(self, nr - 150 + i);
		host_write(self, 4 * (pass + 1));
		guest_check(self, 0, 10);
		if (pass == 1)
			punch(self, 0, self->nr_pages);
		else
			set_private(0, self->nr_pages);
		set_shared(0, self->nr_pages);
		kvm_madvise(self->mem, self->size, MADV_DONTNEED);
	}
	assert_model();
	allocate(self, 0, self->nr_pages);

	read_kernel_counters(&counters);
	for (i = 0; i < ARRAY_SIZE(items); i++) {
		now = read_vmstat(items[i]);
		TEST_ASSERT(labs(now - before[i]) < 200, "%s should be about %ld, is %ld",
			    items[i], before[i], now);
	}
}

#define PLAIN_SLOT	5

static void guest_reads(u64 gva)
{
	/* KVM resolves a fault asynchronously if it may interrupt the guest. */
	asm volatile("sti");
	GUEST_SYNC(1);
	GUEST_SYNC(2);
	READ_ONCE(*(u64 *)gva);
	GUEST_DONE();
}

static void run_until(struct kvm_vcpu *vcpu, u64 cmd)
{
	struct ucall uc;

	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), cmd);
}

/*
 * Another VM has the file in an ordinary memslot.  A fault of its vCPU must not wait for the
 * page to be split off, as it holds the lock of the VMA: KVM has a worker do it.
 */
TEST_F(reshape, faults_that_must_not_wait)
{
	const u64 page = self->unit_pages / 2 + 3;
	struct rusage before, after;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	allocate(self, 0, self->unit_pages);
	vm = vm_create_with_one_vcpu(&vcpu, guest_reads);
	vm_set_user_memory_region(vm, PLAIN_SLOT, 0, TEST_GPA, self->unit, self->mem);
	virt_map(vm, TEST_GPA, gpa_of(page), 1);
	vcpu_args_set(vcpu, 1, TEST_GPA);
	run_until(vcpu, UCALL_SYNC);
	run_until(vcpu, UCALL_SYNC);

	TEST_ASSERT(!getrusage(RUSAGE_THREAD, &before), "getrusage() should succeed");
	run_until(vcpu, UCALL_DONE);
	TEST_ASSERT(!getrusage(RUSAGE_THREAD, &after), "getrusage() should succeed");
	guestmem_model_touch(&self->model, page);
	assert_model();
	TEST_ASSERT(after.ru_minflt == before.ru_minflt,
		    "The vCPU should leave its fault to a worker, has %ld itself",
		    after.ru_minflt - before.ru_minflt);
	kvm_vm_free(vm);
}

GMEM_TEST_MAIN(NEEDS_HUGETLB | NEEDS_PRIVATE_VM)
