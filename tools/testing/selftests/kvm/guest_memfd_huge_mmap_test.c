// SPDX-License-Identifier: GPL-2.0-only
/*
 * Map guest_memfd files of VMs without private memory, which never convert: the host maps
 * 2M of a huge page by one entry of a page table, where the mapping covers all of it, and on
 * x86 1G as well.
 *
 * Everything that makes such a mapping smaller, or takes it away, must keep the contents, and
 * must give the huge pages back in the end.
 */
#include <pthread.h>
#include <sys/ptrace.h>
#include <sys/resource.h>

#include <linux/fs.h>
#include <linux/futex.h>
#include <linux/userfaultfd.h>

#include "guest_memfd_fixture.h"

#define PMD_SIZE_FILE	"/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"
#define OPTIMIZE_VMEMMAP "/proc/sys/vm/hugetlb_optimize_vmemmap"

#define _test_data_huge		gmem
#define _fixture_variant_huge	gmem_variant

static const char *setup(struct gmem *self, const struct gmem_variant *variant)
{
	const char *missing = gmem_setup_counted(self, variant);
	char pmd_size[32];

	if (missing || !read_text_file(PMD_SIZE_FILE, pmd_size, sizeof(pmd_size)))
		return missing ? missing : "needs CONFIG_TRANSPARENT_HUGEPAGE";

	kvm_pipe(self->pipe);
	self->vm = vm_create_barebones_type(VM_TYPE_DEFAULT);
	gmem_open(self, GMEM_SHARED);
	if (self->unit >= strtoul(pmd_size, NULL, 0))
		self->model.map_order = __builtin_ctzl(strtoul(pmd_size, NULL, 0) / page_size);
#ifdef __x86_64__
	if (self->unit == SZ_1G)
		self->model.max_order = self->model.unit_order;
#endif
	return NULL;
}

GMEM_FIXTURE(huge, setup(self, variant));
GMEM_VARIANTS(huge, 4, 1);
GMEM_VARIANT_OF_UNITS(huge, 64k, 16, 64);
GMEM_VARIANT_OF_UNITS(huge, 32m, 25, 1);

static long nr_faults(void)
{
	struct rusage usage;

	TEST_ASSERT(!getrusage(RUSAGE_THREAD, &usage), "getrusage() should succeed");
	return usage.ru_minflt;
}

/* How much of the mapping, up to the end of its VMA, is mapped. */
#define assert_mapped(mem, bytes)	TEST_ASSERT_EQ(read_smaps(mem, "Rss"), bytes)

/* Whether the file is in folios of 1G, and so can only be mapped by PUDs. */
static bool is_mapped_by_puds(struct gmem *self)
{
	return self->model.max_order && self->model.order[0] == self->model.max_order;
}

/* How much of a mapping is mapped by entries that are as large as they can be. */
#define assert_mapped_huge(mem, bytes)	__assert_mapped_huge(self, mem, bytes, __LINE__)

static void __assert_mapped_huge(struct gmem *self, void *mem, u64 bytes, int line)
{
	u64 pmds = read_smaps(mem, "FilePmdMapped"), all = read_smaps(mem, "Rss");

	if (is_mapped_by_puds(self))
		TEST_ASSERT(all == bytes && !pmds, "Mapped are %lu bytes, line %d", all, line);
	else
		TEST_ASSERT(pmds == (self->model.map_order ? bytes : 0),
			    "Mapped by PMDs are %lu bytes, line %d", pmds, line);
}

/* The number of pages that a PMD maps, or a PTE if there are no PMDs. */
static u64 block_pages(struct gmem *self)
{
	return 1ul << self->model.map_order;
}

/* The number of pages that one entry of a page table maps at most. */
static u64 max_pages(struct gmem *self)
{
	return self->model.max_order ? 1ul << self->model.max_order : block_pages(self);
}

/* How much of the file is mapped after a huge mapping, if there are any, has gone away. */
static size_t size_less_one(struct gmem *self)
{
	return max_pages(self) > 1 ? self->size - max_pages(self) * page_size : self->size;
}

static void write_all(struct gmem *self)
{
	u64 page;

	for (page = 0; page < self->nr_pages; page++) {
		self->tags[page] = HOST_TAG(page);
		WRITE_ONCE(*word_of(self, page), HOST_TAG(page));
	}
	guestmem_model_touch_all(&self->model);
}

static void check_all(struct gmem *self)
{
	u64 page;

	for (page = 0; page < self->nr_pages; page++)
		TEST_ASSERT_EQ(READ_ONCE(*word_of(self, page)), self->tags[page]);
	guestmem_model_touch_all(&self->model);
}

/* No mapping takes more struct pages than the file's folios have. */
static void assert_vmemmap(struct gmem *self)
{
	u64 nr = guestmem_model_nr_vmemmap(&self->model);
	struct kernel_counters now;
	char text[8];

	if (!read_text_file(OPTIMIZE_VMEMMAP, text, sizeof(text)) || text[0] == '0')
		nr = 0;
	read_kernel_counters(&now);
	TEST_ASSERT_EQ(now.memmap - self->counters.memmap, (long)nr);
}

/* Access all pages, which takes between @min and @max faults. */
static void touch_all(struct gmem *self, bool write, long min, long max)
{
	long before = nr_faults(), nr;
	u64 page;

	for (page = 0; page < self->nr_pages; page++) {
		if (write)
			WRITE_ONCE(*word_of(self, page), HOST_TAG(page));
		else
			READ_ONCE(*word_of(self, page));
	}
	nr = nr_faults() - before;
	TEST_ASSERT(nr >= min && nr <= max, "There should be %ld to %ld faults, not %ld", min, max,
		    nr);
	for (page = 0; page < self->nr_pages && write; page++)
		self->tags[page] = HOST_TAG(page);
	guestmem_model_touch_all(&self->model);
	assert_layout();
	assert_mapped(self->mem, self->size);
	assert_mapped_huge(self->mem, self->size);
	assert_nr_allocated(self->nr);
	assert_vmemmap(self);
}

TEST_F(huge, write)
{
	const long nr = self->nr_pages / max_pages(self);

	touch_all(self, true, nr, nr);
	touch_all(self, false, 0, 0);
	check_all(self);
}

TEST_F(huge, read_then_write)
{
	const long nr = self->nr_pages / max_pages(self);

	touch_all(self, false, nr, nr);
	/* Where hardware doesn't keep track of what is dirty, there is another fault. */
	touch_all(self, true, 0, nr);
	check_all(self);
}

TEST_F(huge, allocated)
{
	const long nr = self->nr_pages / max_pages(self);

	allocate(self, 0, self->nr_pages);
	assert_layout();
	touch_all(self, true, nr, nr);
}

/* A snapshot is read from a file into the mapping. */
TEST_F(huge, restore)
{
	char *from = malloc(SZ_2M);
	int fd = memfd_create("snapshot", 0);
	u64 done, page;

	for (done = 0; done < self->size; done += SZ_2M) {
		for (page = 0; page < SZ_2M / page_size; page++)
			*(u64 *)(from + page * page_size) = HOST_TAG(done / page_size + page);
		TEST_ASSERT_EQ(pwrite(fd, from, SZ_2M, 0), SZ_2M);
		TEST_ASSERT_EQ(pread(fd, self->mem + done, SZ_2M, 0), SZ_2M);
	}
	for (page = 0; page < self->nr_pages; page++)
		self->tags[page] = HOST_TAG(page);
	touch_all(self, false, 0, 0);
	check_all(self);
	close(fd);
	free(from);
}

/* Blocks at both ends of the VMA are mapped page by page. */
TEST_F(huge, vma_covers_a_part)
{
	const u64 block = max(block_pages(self), 8ul), first = 3, nr = self->nr_pages - 5;
	const u64 huge = self->nr_pages - 2 * block;
	char *mem;
	u64 page;

	mem = kvm_mmap(nr * page_size, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd);
	kvm_munmap(mem, nr * page_size);
	mem = mmap(NULL, nr * page_size, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd,
		   first * page_size);
	TEST_ASSERT(mem != MAP_FAILED, "mmap() should succeed");
	for (page = first; page < first + nr; page++) {
		WRITE_ONCE(*(u64 *)(mem + (page - first) * page_size), HOST_TAG(page));
		self->tags[page] = HOST_TAG(page);
	}
	if (!self->model.map_order)
		guestmem_model_touch_small(&self->model, first, nr);
	guestmem_model_touch_small(&self->model, first, block - first);
	guestmem_model_touch_small(&self->model, self->nr_pages - block, block - 2);
	for (page = block; page < self->nr_pages - block; page += block)
		guestmem_model_touch(&self->model, page);
	assert_layout();
	assert_mapped(mem, nr * page_size);
	assert_mapped_huge(mem, huge * page_size);

	/* The other mapping covers all, but those blocks are in pieces already. */
	check_all(self);
	assert_layout();
	assert_mapped_huge(self->mem, huge * page_size);
	kvm_munmap(mem, nr * page_size);
}

/* A page of a block that is mapped huge elsewhere. */
TEST_F(huge, small_mapping_of_a_page)
{
	const u64 page = self->nr_pages / 2 + 7;
	u64 *word;

	write_all(self);
	word = mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd,
		    page * page_size);
	TEST_ASSERT(word != MAP_FAILED, "mmap() should succeed");
	TEST_ASSERT_EQ(READ_ONCE(*word), self->tags[page]);
	guestmem_model_touch_small(&self->model, page, 1);
	assert_layout();
	assert_vmemmap(self);
	assert_mapped(self->mem, size_less_one(self));

	WRITE_ONCE(*word, 5);
	self->tags[page] = 5;
	check_all(self);
	assert_layout();
	assert_mapped(self->mem, self->size);
	assert_mapped_huge(self->mem, self->size - block_pages(self) * page_size);
	kvm_munmap(word, page_size);
}

/* Split the VMA in the middle of a block, and have all of the file mapped again. */
static void split_vma(struct gmem *self, void (*split)(void *mem, size_t size))
{
	const u64 block = block_pages(self), first = self->nr_pages / 2 + block / 2;
	const u64 start = first / block * block;
	const u64 end = min(self->nr_pages, start + 2 * block);
	u64 page;

	write_all(self);
	split(addr_of(self, first), block * page_size);

	/* The blocks at both ends of the new VMA have lost their mapping. */
	for (page = start; page < end; page++)
		TEST_ASSERT_EQ(READ_ONCE(*word_of(self, page)), self->tags[page]);
	guestmem_model_touch_small(&self->model, start, end - start);
	assert_layout();
	check_all(self);
	assert_layout();
	assert_vmemmap(self);
}

static void protect(void *mem, size_t size)
{
	TEST_ASSERT(!mprotect(mem, size, PROT_READ), "mprotect() should succeed");
}

static void dont_dump(void *mem, size_t size)
{
	TEST_ASSERT(!madvise(mem, size, MADV_DONTDUMP), "MADV_DONTDUMP should succeed");
}

static void lock(void *mem, size_t size)
{
	TEST_ASSERT(!mlock(mem, size), "mlock() should succeed");
}

static void dont_use_huge_pages(void *mem, size_t size)
{
	TEST_ASSERT(!madvise(mem, size, MADV_NOHUGEPAGE), "MADV_NOHUGEPAGE should succeed");
}

GMEM_TEST(huge, protect, split_vma(self, protect));
GMEM_TEST(huge, advise, split_vma(self, dont_dump));
GMEM_TEST(huge, lock, split_vma(self, lock));
GMEM_TEST(huge, no_huge_pages, split_vma(self, dont_use_huge_pages));

TEST_F(huge, unmap_a_part)
{
	const u64 first = self->nr_pages / 2 + block_pages(self) / 2;

	write_all(self);
	kvm_munmap(addr_of(self, first), page_size);
	TEST_ASSERT_EQ(READ_ONCE(*word_of(self, first - 1)), self->tags[first - 1]);
	guestmem_model_touch_small(&self->model, first - 1, 1);
	assert_layout();
}

/* Advice about a part of a block keeps its mapping, or maps it again. */
TEST_F(huge, advice)
{
	static const int advices[] = {
		MADV_COLD, MADV_PAGEOUT, MADV_FREE, MADV_DONTNEED, MADV_COLLAPSE, MADV_WILLNEED,
		MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_SOFT_OFFLINE,
	};
	const u64 page = self->nr_pages / 2 + 1;
	int i;

	write_all(self);
	for (i = 0; i < ARRAY_SIZE(advices); i++) {
		madvise(addr_of(self, page), page_size, advices[i]);
		check_all(self);
		assert_layout();
		assert_mapped_huge(self->mem, self->size);
	}
	madvise(self->mem, self->size, MADV_DONTNEED);
	assert_mapped(self->mem, 0);
	check_all(self);
	assert_mapped_huge(self->mem, self->size);
}

/* Other tasks may look at the mappings, and these stay as they are. */
TEST_F(huge, look)
{
	static const char *const files[] = {
		"/proc/self/smaps", "/proc/self/smaps_rollup", "/proc/self/numa_maps",
	};
	char *text = malloc(SZ_2M);
	int i;

	write_all(self);
	for (i = 0; i < ARRAY_SIZE(files); i++)
		TEST_ASSERT(access(files[i], R_OK) || read_text_file(files[i], text, SZ_2M),
			    "Cannot read %s", files[i]);
	TEST_ASSERT(read_pagemap_pfn(addr_of(self, self->nr_pages - 1)), "pagemap has no pfn");
	touch_all(self, false, 0, 0);
	free(text);
}

static void *wait_for_futex(void *word)
{
	/* NULL, unless something else than a wakeup ends it. */
	return (void *)syscall(__NR_futex, word, FUTEX_WAIT, 0, NULL);
}

/* A word is the same futex in each mapping.  A look at it maps its page again. */
TEST_F(huge, futex)
{
	void *other = kvm_mmap(self->size, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd), *ret;
	const size_t offset = (self->nr_pages - 3) * page_size + 20;
	int nr_woken = 0, tries;
	pthread_t thread;

	write_all(self);
	kvm_pthread_create(&thread, NULL, wait_for_futex, other + offset);
	for (tries = 0; !nr_woken && tries < 5000; tries++) {
		usleep(1000);
		madvise(self->mem, self->size, MADV_DONTNEED);
		nr_woken = syscall(__NR_futex, self->mem + offset, FUTEX_WAKE, 1);
	}
	TEST_ASSERT_EQ(nr_woken, 1);
	TEST_ASSERT(!pthread_join(thread, &ret) && !ret, "The other mapping's wait should end");
	kvm_munmap(other, self->size);
	touch_all(self, false, 0, self->nr_pages / max_pages(self));
}

/* Have the kernel note which pages of the mapping are written.  Return a userfaultfd, or -1. */
static int note_writes(struct gmem *self, struct uffdio_writeprotect *protect)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_WP_ASYNC };
	struct uffdio_register all = {
		.range = { .start = (uintptr_t)self->mem, .len = self->size },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	int fd = syscall(__NR_userfaultfd, O_CLOEXEC);

	TEST_ASSERT(fd < 0 || (!ioctl(fd, UFFDIO_API, &api) && !ioctl(fd, UFFDIO_REGISTER, &all)),
		    "Writes of a mapping should be noted, errno %d", errno);
	protect->range = all.range;
	return fd;
}

/* Assert that @nr pages were written, of which @page is the first.  @flags are PM_SCAN_* */
static void assert_written(struct gmem *self, u64 flags, u64 page, u64 nr)
{
	struct page_region found[2];
	struct pm_scan_arg scan = {
		.size = sizeof(scan), .flags = flags,
		.vec = (uintptr_t)found, .vec_len = ARRAY_SIZE(found),
		.start = (uintptr_t)self->mem, .end = (uintptr_t)self->mem + self->size,
		.category_mask = PAGE_IS_WRITTEN, .return_mask = PAGE_IS_WRITTEN,
	};
	int fd = open("/proc/self/pagemap", O_RDONLY);

	TEST_ASSERT_EQ(ioctl(fd, PAGEMAP_SCAN, &scan), nr ? 1 : 0);
	TEST_ASSERT(!nr || (found[0].start == (uintptr_t)addr_of(self, page) &&
			    found[0].end == (uintptr_t)addr_of(self, page + nr)),
		    "Written are pages 0x%llx to 0x%llx", found[0].start, found[0].end);
	close(fd);
}

TEST_F(huge, note_writes)
{
	const u64 page = self->nr_pages / 2 + 9;
	struct uffdio_writeprotect protect = { };
	int fd = note_writes(self, &protect);

	SKIP_IF(return, fd < 0 ? "needs CONFIG_USERFAULTFD" : NULL);
	write_all(self);
	TEST_ASSERT(!ioctl(fd, UFFDIO_WRITEPROTECT, &protect), "Nothing is protected yet");
	touch_all(self, false, 0, 0);

	/* Pages are protected one by one, so they are mapped so from now on. */
	protect.mode = UFFDIO_WRITEPROTECT_MODE_WP;
	TEST_ASSERT(!ioctl(fd, UFFDIO_WRITEPROTECT, &protect), "Pages should be protected");
	assert_mapped(self->mem, self->model.map_order ? 0 : self->size);
	assert_written(self, 0, page, 0);
	READ_ONCE(*word_of(self, page - 1));
	WRITE_ONCE(*word_of(self, page), 5);
	self->tags[page] = 5;
	guestmem_model_touch_small(&self->model, page - 1, 2);
	assert_layout();
	assert_written(self, 0, page, 1);

	close(fd);
	guestmem_model_touch_small(&self->model, 0, self->nr_pages);
	check_all(self);
	assert_layout();
}

/* A scan marks all that one entry of a page table maps, and the first write unmarks it. */
TEST_F(huge, note_writes_by_block)
{
	const u64 page = self->nr_pages / 2 + 9, nr = block_pages(self), first = page / nr * nr;
	struct uffdio_writeprotect protect = { };
	int fd = note_writes(self, &protect);

	SKIP_IF(return, fd < 0 ? "needs CONFIG_USERFAULTFD" : NULL);
	SKIP_IF(return, self->model.max_order ? "a scan makes mappings of 1G smaller" : NULL);
	write_all(self);
	assert_written(self, PM_SCAN_WP_MATCHING, 0, self->nr_pages);
	assert_written(self, 0, page, 0);

	WRITE_ONCE(*word_of(self, page), HOST_TAG(page));
	assert_written(self, PM_SCAN_WP_MATCHING, first, nr);
	assert_written(self, 0, page, 0);
	WRITE_ONCE(*word_of(self, page), HOST_TAG(page));
	assert_written(self, 0, first, nr);

	touch_all(self, false, 0, 0);
	touch_all(self, true, 0, self->nr_pages / nr - 1);
	close(fd);
	check_all(self);
}

static bool is_done;

static void *forget(void *arg)
{
	struct gmem *self = arg;
	int i;

	/* All of the file, parts, and a page. */
	for (i = 0; i < 20000; i++) {
		madvise(self->mem, self->size >> (i % 4), MADV_DONTNEED);
		madvise(addr_of(self, i % self->nr_pages), page_size, MADV_DONTNEED);
	}
	WRITE_ONCE(is_done, true);
	return NULL;
}

/* Mappings go away while other threads fault. */
TEST_F(huge, forget_and_touch)
{
	pthread_t thread;
	u64 page;

	write_all(self);
	kvm_pthread_create(&thread, NULL, forget, self);
	while (!READ_ONCE(is_done)) {
		page = random_below(self->nr_pages);
		TEST_ASSERT_EQ(READ_ONCE(*word_of(self, page)), self->tags[page]);
	}
	kvm_pthread_join(thread, NULL);
	check_all(self);
	assert_layout();
	assert_mapped_huge(self->mem, self->size);
}

/* A debugger may look at memory that the process itself may not access. */
TEST_F(huge, no_access)
{
	const u64 page = self->nr_pages / 2 + 5;
	pid_t pid;
	int status;
	long val;

	write_all(self);
	pid = kvm_fork_sharing_files();
	if (!pid) {
		check_all(self);
		if (mprotect(self->mem, self->size, PROT_NONE) || ptrace(PTRACE_TRACEME))
			_exit(1);
		raise(SIGSTOP);
		_exit(0);
	}
	TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
	TEST_ASSERT(WIFSTOPPED(status), "The child should have stopped, status 0x%x", status);
	val = ptrace(PTRACE_PEEKDATA, pid, word_of(self, page), NULL);
	TEST_ASSERT_EQ((u64)val, self->tags[page]);
	kill_child(pid);

	/* There are no PUDs without access, so that was a smaller mapping. */
	guestmem_model_touch_block(&self->model, page, self->model.map_order);
	assert_layout();
	check_all(self);
	assert_layout();
	assert_mapped_huge(self->mem, self->size);
}

TEST_F(huge, mincore)
{
	unsigned char *vec = malloc(self->nr_pages);
	u64 page;

	write_all(self);
	madvise(addr_of(self, 0), block_pages(self) * page_size, MADV_DONTNEED);
	TEST_ASSERT(!mincore(self->mem, self->size, vec), "mincore() should succeed");
	for (page = 0; page < self->nr_pages; page++)
		TEST_ASSERT(vec[page] & 1, "Page %lu should be there", page);
	free(vec);
}

TEST_F(huge, mlock)
{
	const struct kernel_counters before = self->counters;
	struct kernel_counters now;
	long kb;

	write_all(self);
	TEST_ASSERT(!mlock(self->mem, self->size), "mlock() should succeed");
	read_kernel_counters(&now);
	kb = read_smaps(self->mem, "Locked") / 1024;
	TEST_ASSERT_EQ(kb, self->size / 1024);
	assert_mapped_huge(self->mem, self->size);
	TEST_ASSERT_EQ(now.mlocked - before.mlocked, self->nr_pages);
	TEST_ASSERT(!munlock(self->mem, self->size), "munlock() should succeed");
	read_kernel_counters(&now);
	TEST_ASSERT_EQ(now.mlocked, before.mlocked);
	check_all(self);
	TEST_ASSERT(!mlock(self->mem, self->size), "mlock() should succeed");
}

/* Move the file to an address that is @offset off a multiple of @align. */
static void move(struct gmem *self, size_t align, size_t offset)
{
	char *to = kvm_mmap(self->size + 2 * align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	to = (char *)align_up((uintptr_t)to, align) + offset;
	self->mem = mremap(self->mem, self->size, self->size, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	TEST_ASSERT((char *)self->mem == to, "mremap() should succeed, errno %d", errno);
}

TEST_F(huge, mremap)
{
	write_all(self);
	move(self, max((size_t)SZ_2M, max_pages(self) * page_size), 0);
	touch_all(self, false, 0, 0);
	check_all(self);

	/* Off by a page, the mapping can't be huge. */
	move(self, SZ_2M, page_size);
	self->model.map_order = 0;
	self->model.max_order = 0;
	TEST_ASSERT_EQ(READ_ONCE(*word_of(self, 1)), self->tags[1]);
	guestmem_model_touch_small(&self->model, 1, 1);
	assert_layout();
}

TEST_F(huge, fork)
{
	pid_t pid;

	write_all(self);
	pid = kvm_fork_sharing_files();
	if (!pid) {
		check_all(self);
		assert_mapped_huge(self->mem, self->size);
		WRITE_ONCE(*word_of(self, 3), 7);
		execl("/bin/true", "true", NULL);
		_exit(0);
	}
	assert_child_succeeds(pid);
	self->tags[3] = 7;
	check_all(self);
	assert_layout();
}

/* The page tables of a VMA that may have markers are copied, those of other files aren't. */
TEST_F(huge, fork_with_guards)
{
	pid_t pid;

	kvm_munmap(self->mem, self->size);
	self->mem = kvm_mmap(2 * self->size, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd);
	TEST_ASSERT(!madvise((char *)self->mem + self->size, page_size, MADV_GUARD_INSTALL),
		    "MADV_GUARD_INSTALL should succeed, errno %d", errno);
	write_all(self);
	assert_layout();
	pid = kvm_fork_sharing_files();
	if (!pid) {
		check_all(self);
		_exit(0);
	}
	assert_child_succeeds(pid);
	check_all(self);
	assert_layout();
	kvm_munmap((char *)self->mem + self->size, self->size);
	assert_mapped_huge(self->mem, self->size);
}

TEST_F(huge, punch)
{
	const u64 page = self->unit_pages / 2 + 3;

	write_all(self);
	/* A part of a huge page is zeroed where it is. */
	punch(self, page, 2);
	assert_mapped_huge(self->mem, self->size);
	check_all(self);
	assert_layout();

	punch_unit(self, 0);
	assert_mapped(self->mem, self->size - self->unit);
	assert_model();
	touch_all(self, false, self->unit_pages / max_pages(self),
		  self->unit_pages / max_pages(self));
	check_all(self);
}

/*
 * A pin of a page keeps the huge page that has it, and no other, when it leaves the file.
 * Returns why this can't be tested, or NULL.
 */
static const char *pin_past(struct gmem *self, const struct holder_ops *holder, bool close_file)
{
	const u64 page = self->unit_pages / 2 + 3;
	struct holder h;
	u64 tag;

	if (!holder->open(&h))
		return NEEDS_GUP_TEST;
	write_all(self);
	tag = self->tags[page];
	TEST_ASSERT(holder->hold(&h, addr_of(self, page), 1), "Pinning should succeed");
	if (close_file) {
		kvm_munmap(self->mem, self->size);
		kvm_close(self->fd);
		TEST_ASSERT_POOL_SETTLES(&self->pool, -1, 0);
	} else {
		punch(self, 0, self->nr_pages);
		TEST_ASSERT_POOL_SETTLES(&self->pool, -1, self->nr - 1);
	}
	assert_nr_late(1);
	if (holder->read) {
		u64 *copy = malloc(page_size);

		holder->read(&h, copy);
		TEST_ASSERT_EQ(*copy, tag);
		free(copy);
	}
	holder->release(&h);
	TEST_ASSERT_POOL_SETTLES(&self->pool, 0, close_file ? 0 : self->nr);
	assert_nr_late(0);
	if (!close_file)
		check_all(self);
	return NULL;
}

GMEM_TEST(huge, pin_past_punch,
	  SKIP_IF(return, pin_past(self, &holder_longterm_write, false)));
GMEM_TEST(huge, fast_pin_past_punch,
	  SKIP_IF(return, pin_past(self, &holder_longterm_fast, false)));
GMEM_TEST(huge, pin_past_close,
	  SKIP_IF(return, pin_past(self, &holder_longterm_write, true)));
GMEM_TEST(huge, pipe_past_close,
	  SKIP_IF(return, pin_past(self, &holder_vmsplice, true)));
GMEM_TEST(huge, io_uring_past_punch,
	  SKIP_IF(return, pin_past(self, &holder_io_uring, false)));

/* Pin a page, and map the one next to it once more: too small a mapping for their block. */
static u64 *pin_next_to(struct gmem *self, struct holder *h, u64 page)
{
	u64 *word;

	write_all(self);
	TEST_ASSERT(gup_hold_write(h, addr_of(self, page - 1), 1), "Pinning should succeed");
	word = mmap(NULL, page_size, PROT_READ, MAP_SHARED, self->fd, page * page_size);
	TEST_ASSERT(word != MAP_FAILED, "mmap() should succeed");
	return word;
}

enum reader { BY_ACCESS, BY_CALL, BY_PROC_MEM };

/* Read a page, or let a system call read it, in a child that has no pins. */
static pid_t read_in_child(struct gmem *self, u64 *word, u64 tag, enum reader reader)
{
	pid_t pid = kvm_fork_sharing_files();
	u64 val = !tag;

	if (pid)
		return pid;
	if (reader == BY_CALL)
		_exit(write(self->pipe[1], word, sizeof(*word)) != sizeof(*word));
	if (reader == BY_PROC_MEM)
		_exit(!read_proc_mem(word, &val) || val != tag);
	_exit(READ_ONCE(*word) != tag);
}

/* A task that waits for pins to go can be killed, also within a system call. */
TEST_F(huge, kill_small_mapping_of_pinned_page)
{
	const u64 page = self->unit_pages / 2 + 3;
	enum reader reader;
	struct holder h;
	u64 *word, begin;
	pid_t pid;

	SKIP_IF(return, gup_open(&h) ? NULL : NEEDS_GUP_TEST);
	SKIP_IF(return, self->model.map_order ? NULL : "is about huge mappings");
	word = pin_next_to(self, &h, page);
	for (reader = BY_ACCESS; reader <= BY_CALL; reader++) {
		pid = read_in_child(self, word, 0, reader);
		usleep(200 * 1000);
		kill_child(pid);
	}
	check_all(self);
	assert_layout();
	assert_mapped_huge(self->mem, self->size);

	/* The access fails in the end, after 10 seconds, and not after twice that. */
	begin = now_ns();
	TEST_ASSERT(!can_read(self->pipe, word), "A page of a pinned block");
	TEST_ASSERT(now_ns() - begin > 9ULL * NSEC_PER_SEC &&
		    now_ns() - begin < 19ULL * NSEC_PER_SEC,
		    "Waited %lu ns", now_ns() - begin);
	gup_release(&h);
	TEST_ASSERT(can_read(self->pipe, word), "A page of a block that isn't pinned");
	guestmem_model_touch_small(&self->model, page, 1);
	assert_layout();
	kvm_munmap(word, page_size);
}

static void read_when_unpinned(struct gmem *self, enum reader reader, u64 *word, u64 page,
			       struct holder *h)
{
	pid_t pid = read_in_child(self, word, self->tags[page], reader);

	usleep(100 * 1000);
	TEST_ASSERT_EQ(waitpid(pid, NULL, WNOHANG), 0);
	check_all(self);
	gup_release(h);
	assert_child_succeeds(pid);
	guestmem_model_touch_small(&self->model, page, 1);
	check_all(self);
	assert_layout();
}

/* A mapping that has to be smaller waits until the block isn't pinned any more. */
TEST_F(huge, small_mapping_of_pinned_page)
{
	const u64 page = self->unit_pages / 2 + 3;
	struct holder h;
	u64 *word;

	SKIP_IF(return, gup_open(&h) ? NULL : NEEDS_GUP_TEST);
	SKIP_IF(return, self->model.map_order ? NULL : "is about huge mappings");
	word = pin_next_to(self, &h, page);
	read_when_unpinned(self, BY_ACCESS, word, page, &h);
	kvm_munmap(word, page_size);
}

/* An access that can't wait for long fails soon, but bears with a pin that goes. */
TEST_F(huge, proc_self_mem_of_pinned_page)
{
	const u64 page = self->unit_pages / 2 + 3;
	struct holder h;
	u64 *word, val, begin;

	SKIP_IF(return, gup_open(&h) ? NULL : NEEDS_GUP_TEST);
	SKIP_IF(return, self->model.map_order ? NULL : "is about huge mappings");
	word = pin_next_to(self, &h, page);
	begin = now_ns();
	TEST_ASSERT(!read_proc_mem(word, &val), "A page of a pinned block");
	TEST_ASSERT(now_ns() - begin < 5ULL * NSEC_PER_SEC, "Waited %lu ns", now_ns() - begin);
	read_when_unpinned(self, BY_PROC_MEM, word, page, &h);
	kvm_munmap(word, page_size);
}

/* The kernel finds each page of a block in the mapping of that. */
TEST_F(huge, proc_self_mem)
{
	const u64 first = self->unit_pages / 2 + 1;
	const u64 words[2] = { 11, 12 };
	int fd = open("/proc/self/mem", O_RDWR);

	write_all(self);
	TEST_ASSERT_EQ(pwrite(fd, words, sizeof(words), (off_t)last_word_of(self, first)),
		       sizeof(words));
	TEST_ASSERT_EQ(READ_ONCE(*last_word_of(self, first)), 11);
	TEST_ASSERT_EQ(READ_ONCE(*word_of(self, first + 1)), 12);
	assert_mapped_huge(self->mem, self->size);
	assert_layout();
	close(fd);
}

static void fail_page(struct gmem *self, u64 page)
{
	u64 pfn = read_pagemap_pfn(addr_of(self, page)), val;
	struct sigbus_seen seen;

	TEST_ASSERT_EQ(write_pfn(CORRUPT_PFN, pfn), 0);
	self->nr_lost = 1;
	sigbus_take();
	TEST_ASSERT(!sigbus_try_read(word_of(self, page), &val), "Page %lu has failed", page);
	seen = sigbus_take();
	TEST_ASSERT_EQ(seen.code, BUS_MCEERR_AR);
	TEST_ASSERT_EQ(seen.lsb, 12);
	TEST_ASSERT_EQ(seen.addr, (uintptr_t)word_of(self, page));
}

/* One page fails: this is what the process that has it mapped is told, and all that it loses. */
TEST_F(huge, poison)
{
	const u64 page = self->unit_pages / 2 + 3, block = block_pages(self);
	u64 val, i;

	SKIP_IF(return, can_inject_memory_failure() ? NULL : NEEDS_MEMORY_FAILURE);
	sigbus_start(false);
	write_all(self);
	fail_page(self, page);
	assert_mapped(self->mem, size_less_one(self));
	for (i = 0; i < self->nr_pages; i++) {
		if (i == page)
			continue;
		TEST_ASSERT(sigbus_try_read(word_of(self, i), &val), "Page %lu hasn't failed", i);
		TEST_ASSERT_EQ(val, self->tags[i]);
	}
	guestmem_model_touch_small(&self->model, page / block * block, block);
	guestmem_model_poison(&self->model, page);
	guestmem_model_touch_all(&self->model);
	assert_layout();
	assert_mapped_huge(self->mem, self->size - block * page_size);
}

/* The block that has the failed page is pinned, and can't be split: that page has failed. */
TEST_F(huge, poison_of_pinned_page)
{
	u64 page = self->unit_pages / 2 + 3, val;
	struct holder h;

	SKIP_IF(return, can_inject_memory_failure() ? NULL : NEEDS_MEMORY_FAILURE);
	SKIP_IF(return, gup_open(&h) ? NULL : NEEDS_GUP_TEST);
	SKIP_IF(return, self->model.map_order ? NULL : "is about huge mappings");
	sigbus_start(false);
	write_all(self);
	TEST_ASSERT(gup_hold_write(&h, addr_of(self, page), 1), "Pinning should succeed");
	fail_page(self, page);

	/* The others are there when the block isn't pinned any more. */
	gup_release(&h);
	TEST_ASSERT(sigbus_try_read(word_of(self, page + 1), &val), "Page %lu", page + 1);
	TEST_ASSERT_EQ(val, self->tags[page + 1]);
}

GMEM_TEST_MAIN(NEEDS_HUGETLB)
