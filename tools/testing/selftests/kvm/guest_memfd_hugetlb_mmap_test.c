// SPDX-License-Identifier: GPL-2.0-only
/*
 * Map guest_memfd files made of HugeTLB pages: what the host can do with memory that is
 * private, i.e. nothing at all, and with memory that is shared.  The tests assert the state
 * of the pool after every step.
 */
#include "guest_memfd_fixture.h"

#define _test_data_hugetlb		gmem
#define _fixture_variant_hugetlb	gmem_variant

GMEM_FIXTURE(hugetlb, gmem_setup_vm(self, variant));
GMEM_VARIANTS(hugetlb, 4, 2);

/* Return the number of a mapping's pages in the page table: bit 63 of their pagemap entries. */
static size_t nr_present(void *mem, size_t size)
{
	size_t nr = size / page_size, i, present = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY);
	u64 *entries = malloc(nr * sizeof(*entries));
	ssize_t len = nr * sizeof(*entries);

	TEST_ASSERT(fd >= 0, "Cannot open /proc/self/pagemap");
	TEST_ASSERT_EQ(pread(fd, entries, len, (uintptr_t)mem / page_size * sizeof(*entries)), len);
	for (i = 0; i < nr; i++)
		present += entries[i] >> 63;
	free(entries);
	close(fd);
	return present;
}

#define assert_not_mapped(mem, what)					\
	TEST_ASSERT(!nr_present(mem, self->size), "%s should map nothing", what)

TEST_F(hugetlb, mmap_without_flag)
{
	int fd = gmem_create(self, 0);

	assert_error(mmap(NULL, self->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), ENODEV);
	assert_error(mmap(NULL, page_size, PROT_READ, MAP_SHARED, fd, 0), ENODEV);
	close(fd);
}

TEST_F(hugetlb, mmap_private_mapping)
{
	int fd = gmem_create(self, GUEST_MEMFD_FLAG_MMAP);

	assert_error(mmap(NULL, self->size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0), EINVAL);
	close(fd);
}

/* All memory is private: the host cannot access it, allocated or not. */
TEST_F(hugetlb, mmap_faults_are_sigbus)
{
	const size_t offsets[] = {
		0, page_size, self->unit / 2, self->unit - page_size, self->unit,
		self->size - page_size,
	};
	int fd = gmem_create(self, GUEST_MEMFD_FLAG_MMAP), i, pass;
	char *mem = gmem_map(self, fd);

	for (pass = 0; pass < 2; pass++) {
		for (i = 0; i < ARRAY_SIZE(offsets); i++) {
			TEST_EXPECT_SIGBUS((void)READ_ONCE(mem[offsets[i]]));
			TEST_EXPECT_SIGBUS(WRITE_ONCE(mem[offsets[i]], 1));
		}
		assert_not_mapped(mem, "A fault");
		/* A fault that fails neither allocates nor frees a unit. */
		assert_pool(pass, self->nr - pass);
		allocate_fd(fd, 0, page_size);
	}
	kvm_munmap(mem, self->size);
	close(fd);
}

TEST_F(hugetlb, mmap_at_any_offset)
{
	int fd = gmem_create(self, GUEST_MEMFD_FLAG_MMAP);
	char *mem;

	mem = __kvm_mmap(2 * page_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			 self->unit - page_size);
	TEST_EXPECT_SIGBUS((void)READ_ONCE(mem[0]));
	TEST_EXPECT_SIGBUS((void)READ_ONCE(mem[page_size]));
	kvm_munmap(mem, 2 * page_size);

	/* Beyond the end of the file there is no page, private or not. */
	mem = __kvm_mmap(2 * page_size, PROT_READ, MAP_SHARED, fd, self->size - page_size);
	TEST_EXPECT_SIGBUS((void)READ_ONCE(mem[page_size]));
	kvm_munmap(mem, 2 * page_size);
	close(fd);
}

/* mremap() can make a mapping longer than mmap() can, up to where file offsets overflow. */
TEST_F(hugetlb, mmap_offset_overflows)
{
	int fd = gmem_create(self, GMEM_SHARED), i;
	char *mem;

	mem = __kvm_mmap(page_size, PROT_READ, MAP_SHARED, fd, LLONG_MAX - 2 * page_size + 1);
	mem = mremap(mem, page_size, 3 * page_size, MREMAP_MAYMOVE);
	TEST_ASSERT(mem != MAP_FAILED, "mremap() should succeed, errno %d", errno);
	for (i = 0; i < 3; i++)
		TEST_EXPECT_SIGBUS((void)READ_ONCE(mem[i * page_size]));
	assert_pool(0, self->nr);
	kvm_munmap(mem, 3 * page_size);
	close(fd);
}

TEST_F(hugetlb, mmap_advice_is_harmless)
{
	const struct {
		const char *name;
		int advice;
	} advices[] = {
		{ "MADV_WILLNEED", MADV_WILLNEED },
		{ "MADV_DONTNEED", MADV_DONTNEED },
		{ "MADV_HUGEPAGE", MADV_HUGEPAGE },
		{ "MADV_COLLAPSE", MADV_COLLAPSE },
		{ "MADV_NOHUGEPAGE", MADV_NOHUGEPAGE },
		{ "MADV_MERGEABLE", MADV_MERGEABLE },
		{ "MADV_COLD", MADV_COLD },
		{ "MADV_PAGEOUT", MADV_PAGEOUT },
		{ "MADV_FREE", MADV_FREE },
		{ "MADV_REMOVE", MADV_REMOVE },
		{ "MADV_HWPOISON", MADV_HWPOISON },
		{ "MADV_SOFT_OFFLINE", MADV_SOFT_OFFLINE },
	};
	int fd = gmem_create(self, GUEST_MEMFD_FLAG_MMAP), i;
	char *mem = gmem_map(self, fd), *moved;
	unsigned char vec;

	allocate_fd(fd, 0, self->unit);

	assert_error(madvise(mem, self->size, MADV_POPULATE_READ), EFAULT);
	assert_error(madvise(mem, self->size, MADV_POPULATE_WRITE), EFAULT);
	assert_not_mapped(mem, "MADV_POPULATE");

	TEST_ASSERT(madvise(mem, self->size, MADV_COLLAPSE), "MADV_COLLAPSE should fail");
	for (i = 0; i < ARRAY_SIZE(advices); i++) {
		/* MADV_REMOVE may punch a hole, no other advice changes anything. */
		madvise(mem, self->size, advices[i].advice);
		assert_not_mapped(mem, advices[i].name);
		allocate_fd(fd, 0, self->unit);
		assert_pool(1, self->nr - 1);
	}

	mlock(mem, self->size);
	assert_not_mapped(mem, "mlock()");
	munlock(mem, self->size);
	mincore(mem, page_size, &vec);
	msync(mem, self->size, MS_SYNC);
	mprotect(mem, self->size, PROT_READ);
	TEST_EXPECT_SIGBUS((void)READ_ONCE(mem[0]));

	moved = mremap(mem, self->size, self->size, MREMAP_MAYMOVE | MREMAP_FIXED,
		       kvm_mmap(self->size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1));
	if (moved != MAP_FAILED)
		mem = moved;
	assert_not_mapped(mem, "mremap()");
	TEST_EXPECT_SIGBUS((void)READ_ONCE(mem[0]));
	assert_pool(1, self->nr - 1);

	kvm_munmap(mem, self->size);
	close(fd);
	assert_pool(0, 0);
}

/* The kernel cannot access private memory through user addresses either. */
TEST_F(hugetlb, mmap_gup_fails)
{
	int fd = gmem_create(self, GUEST_MEMFD_FLAG_MMAP), fds[2];
	char *mem = gmem_map(self, fd);
	pid_t pid;

	allocate_fd(fd, 0, self->unit);
	kvm_pipe(fds);
	assert_error(write(fds[1], mem, page_size), EFAULT);
	TEST_ASSERT(write(fds[1], "x", 1) == 1, "write() to a pipe should succeed");
	assert_error(read(fds[0], mem, 1), EFAULT);

	pid = kvm_fork();
	if (!pid) {
		TEST_EXPECT_SIGBUS((void)READ_ONCE(mem[0]));
		TEST_EXPECT_SIGBUS(WRITE_ONCE(mem[self->unit - 1], 1));
		_exit(nr_present(mem, self->size) != 0);
	}
	assert_child_succeeds(pid);
	assert_not_mapped(mem, "Nothing");
	kvm_munmap(mem, self->size);
	close(fd);
}

/* All memory is shared: the host can use it, and maps the pages that it touches one by one. */
TEST_F(hugetlb, mmap_shared)
{
	const struct {
		size_t offset;
		int nr_allocated;
	} pages[] = {
		{ self->unit / 2,		1 },
		{ 0,				1 },
		{ page_size,			1 },
		{ self->unit - page_size,	1 },
		{ self->size - page_size,	2 },
		{ self->unit,			min(self->nr, 3) },
	};
	int fd = gmem_create(self, GMEM_SHARED), fds[2], i;
	char *mem = gmem_map(self, fd);

	assert_pool(0, self->nr);
	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		TEST_ASSERT_EQ(READ_ONCE(mem[pages[i].offset]), 0);
		WRITE_ONCE(mem[pages[i].offset], i + 1);
		assert_pool(pages[i].nr_allocated, self->nr - pages[i].nr_allocated);
	}
	for (i = 0; i < ARRAY_SIZE(pages); i++)
		TEST_ASSERT_EQ(READ_ONCE(mem[pages[i].offset]), i + 1);
	TEST_ASSERT_EQ(nr_present(mem, self->size), ARRAY_SIZE(pages));

	/* The kernel may access shared memory as well. */
	kvm_pipe(fds);
	TEST_ASSERT(write(fds[1], mem, page_size) == page_size,
		    "write() from shared memory should succeed");
	TEST_ASSERT(read(fds[0], mem + 2 * page_size, page_size) == page_size,
		    "read() into shared memory should succeed");
	TEST_ASSERT_EQ(READ_ONCE(mem[2 * page_size]), 2);

	/* munmap() removes the pages from the page table, but they keep their contents. */
	kvm_munmap(mem, self->size);
	mem = kvm_mmap(self->size, PROT_READ, MAP_SHARED, fd);
	TEST_ASSERT_EQ(nr_present(mem, self->size), 0);
	TEST_ASSERT_EQ(READ_ONCE(mem[self->unit / 2]), 1);
	punch_fd(fd, 0, self->unit);
	TEST_ASSERT_EQ(nr_present(mem, self->size), 0);
	TEST_ASSERT_EQ(READ_ONCE(mem[self->unit / 2]), 0);
	kvm_munmap(mem, self->size);
	close(fd);
	assert_pool(0, 0);
}

GMEM_TEST_MAIN(NEEDS_HUGETLB)
