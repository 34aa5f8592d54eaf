/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A guest_memfd file of 4K pages that is converted in place, the guest that uses
 * it, and a model of both.  The model knows which pages are private, and what is in
 * them.
 *
 * The host looks at the file through a mapping of the file itself.  The memslot has
 * the same mapping as its userspace memory.  Every page has a tag: host and guest
 * write it into the first and the last word of the page.  A page that was never
 * written to has tag 0.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_CONVERSIONS_H
#define SELFTEST_KVM_GUEST_MEMFD_CONVERSIONS_H

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <linux/bitmap.h>
#include <linux/falloc.h>
#include <linux/sizes.h>

#include "kselftest_harness.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define TEST_GPA	(4ULL * SZ_1G)
#define TEST_SLOT	10
#define NR_PAGES	64
#define TEST_SIZE	((u64)NR_PAGES * PAGE_SIZE)

/*
 * The range of the guest where the file may be mapped.  The range has one page
 * table, whose last entry is taken by WARM_GVA.
 */
#define TEST_WINDOW	SZ_2M
#define WARM_GVA	(TEST_GPA + TEST_WINDOW - PAGE_SIZE)

/* Sets of pages of the file. */
#define ALL_PAGES	(~0ULL)
#define NO_PAGES	0ULL
static inline u64 page_mask(int first, int nr)
{
	return GENMASK_ULL(first + nr - 1, first);
}

#define PUNCH		(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)

/* The tests are slow in an emulated machine with a debugging kernel. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	300

struct guest_request {
	bool write;
	u64 mask;
	u64 gva[NR_PAGES];
	u64 tag[NR_PAGES];
};

/* The request is in one page, which the guest faults in before the tests count faults. */
static struct guest_request request __aligned(PAGE_SIZE);

struct test_file {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	int fd;
	char *mem;
	/* The model. */
	u64 private;
	u64 gva[NR_PAGES];
	u64 tag[NR_PAGES];
	/* For host_can_read(). */
	int pipe[2];
};

static inline u64 *first_word(void *page)
{
	return page;
}

static inline u64 *last_word(void *page)
{
	return (u64 *)(page + PAGE_SIZE) - 1;
}

static inline void write_tag(void *page, u64 tag)
{
	WRITE_ONCE(*first_word(page), tag);
	WRITE_ONCE(*last_word(page), tag);
}

static inline bool has_tag(void *page, u64 tag)
{
	return READ_ONCE(*first_word(page)) == tag && READ_ONCE(*last_word(page)) == tag;
}

static void guest_code(void)
{
	u64 tag, mask;
	void *page;
	int i;

	for (;;) {
		mask = request.mask;
		for (i = 0; mask; i++, mask >>= 1) {
			if (!(mask & 1))
				continue;
			page = (void *)request.gva[i];
			tag = request.tag[i];
			if (request.write)
				write_tag(page, tag);
			__GUEST_ASSERT(has_tag(page, tag),
				       "Page %d should have tag 0x%lx, has 0x%lx and 0x%lx",
				       i, tag, READ_ONCE(*first_word(page)),
				       READ_ONCE(*last_word(page)));
		}
		GUEST_SYNC(0);
	}
}

static inline void guest_request(struct test_file *f, bool write, u64 mask)
{
	request.write = write;
	request.mask = mask;
	memcpy(request.gva, f->gva, sizeof(request.gva));
	memcpy(request.tag, f->tag, sizeof(request.tag));
	sync_global_to_guest(f->vm, request);
}

static inline void guest_run(struct test_file *f, bool write, u64 mask)
{
	struct ucall uc;

	guest_request(f, write, mask);
	vcpu_run(f->vcpu);

	switch (get_ucall(f->vcpu, &uc)) {
	case UCALL_SYNC:
		return;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		TEST_FAIL("Unexpected exit: %s",
			  exit_reason_str(f->vcpu->run->exit_reason));
	}
}

/* Assert that the guest finds in the pages of @mask what the model says. */
static inline void guest_check(struct test_file *f, u64 mask)
{
	guest_run(f, false, mask);
}

static inline void new_tags(struct test_file *f, u64 mask)
{
	static u64 tag = 0x7a67000000000000ull;
	int i;

	for (i = 0; i < NR_PAGES; i++)
		if (mask & BIT_ULL(i))
			f->tag[i] = ++tag;
}

static inline void guest_write(struct test_file *f, u64 mask)
{
	new_tags(f, mask);
	guest_run(f, true, mask);
}

static inline char *page_of(struct test_file *f, int page)
{
	return f->mem + page * PAGE_SIZE;
}

static inline void host_write(struct test_file *f, u64 mask)
{
	int i;

	new_tags(f, mask);
	for (i = 0; i < NR_PAGES; i++)
		if (mask & BIT_ULL(i))
			write_tag(page_of(f, i), f->tag[i]);
}

/*
 * Return whether the host can read @addr.  A system call reads from @addr, which
 * fails with EFAULT where an access of user space raises SIGBUS.
 */
static inline bool host_can_read(struct test_file *f, void *addr)
{
	char c;

	if (write(f->pipe[1], addr, 1) == 1) {
		TEST_ASSERT(read(f->pipe[0], &c, 1) == 1, "read() should succeed");
		return true;
	}
	TEST_ASSERT(errno == EFAULT, "write() should fail with EFAULT, not %s", strerror(errno));
	return false;
}

/* Assert that the host gets SIGBUS for private pages and finds the tags in shared pages. */
static inline void host_check(struct test_file *f, u64 mask)
{
	void *page;
	int i;

	for (i = 0; i < NR_PAGES; i++) {
		if (!(mask & BIT_ULL(i)))
			continue;
		page = page_of(f, i);
		if (f->private & BIT_ULL(i)) {
			TEST_ASSERT(!host_can_read(f, page),
				    "The host should not be able to read private page %d", i);
			TEST_EXPECT_SIGBUS((void)READ_ONCE(*first_word(page)));
			TEST_EXPECT_SIGBUS(WRITE_ONCE(*last_word(page), 0));
		} else {
			TEST_ASSERT(host_can_read(f, page),
				    "The host should be able to read shared page %d", i);
			TEST_ASSERT(has_tag(page, f->tag[i]),
				    "Page %d should have tag 0x%lx, has 0x%lx and 0x%lx", i,
				    f->tag[i], *first_word(page), *last_word(page));
		}
	}
}

static inline void check(struct test_file *f, u64 mask)
{
	host_check(f, mask);
	guest_check(f, mask);
}

static inline void set_private(struct test_file *f, int first, int nr)
{
	gmem_set_private(f->fd, first * PAGE_SIZE, nr * PAGE_SIZE);
	f->private |= page_mask(first, nr);
}

static inline void set_shared(struct test_file *f, int first, int nr)
{
	gmem_set_shared(f->fd, first * PAGE_SIZE, nr * PAGE_SIZE);
	f->private &= ~page_mask(first, nr);
}

static inline void convert(struct test_file *f, int first, int nr, bool private)
{
	if (private)
		set_private(f, first, nr);
	else
		set_shared(f, first, nr);
}

static inline void set_all(struct test_file *f, bool private)
{
	convert(f, 0, NR_PAGES, private);
}

static inline void fallocate_pages(struct test_file *f, int mode, int first, int nr)
{
	kvm_fallocate(f->fd, mode, first * PAGE_SIZE, nr * PAGE_SIZE);
}

static inline void punch_pages(struct test_file *f, int first, int nr)
{
	int i;

	fallocate_pages(f, PUNCH, first, nr);
	for (i = first; i < first + nr; i++)
		f->tag[i] = 0;
}

/* Return the number of faults that KVM has fixed for the guest so far. */
static inline u64 nr_faults(struct test_file *f)
{
	return vcpu_get_stat(f->vcpu, pf_fixed);
}

static inline void __assert_faults(struct test_file *f, u64 before, u64 nr,
				   unsigned int line)
{
	u64 faults = nr_faults(f) - before;

	TEST_ASSERT(faults == nr, "Line %u: there should be %lu faults, were %lu",
		    line, nr, faults);
}

#define assert_faults(f, before, nr)	__assert_faults(f, before, nr, __LINE__)

/* Assert that the guest still has to fault in exactly the pages of @mask. */
static inline void __assert_unmapped(struct test_file *f, u64 mask, unsigned int line)
{
	u64 before = nr_faults(f);

	guest_check(f, ~mask);
	__assert_faults(f, before, 0, line);
	guest_check(f, mask);
	__assert_faults(f, before, __builtin_popcountll(mask), line);
}

#define assert_unmapped(f, mask)	__assert_unmapped(f, mask, __LINE__)

/* Return the pages that the file has allocated, mapped or not, zeroed or not. */
static inline u64 allocated_pages(struct test_file *f)
{
	struct cachestat_range range = { .len = PAGE_SIZE };
	struct cachestat stat;
	u64 mask = 0;
	int i;

	for (i = 0; i < NR_PAGES; i++) {
		range.off = i * PAGE_SIZE;
		TEST_ASSERT(!syscall(__NR_cachestat, f->fd, &range, &stat, 0),
			    "cachestat() should succeed, errno %d", errno);
		if (stat.nr_cache)
			mask |= BIT_ULL(i);
	}
	return mask;
}

/*
 * Return the page table entry of @addr in this process.  Bit 63 is set if the page
 * is there.
 */
static inline u64 pagemap_entry(void *addr)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	u64 entry;

	TEST_ASSERT(fd >= 0, "Cannot open /proc/self/pagemap");
	TEST_ASSERT(pread(fd, &entry, sizeof(entry),
			  (uintptr_t)addr / PAGE_SIZE * sizeof(entry)) == sizeof(entry),
		    "Cannot read /proc/self/pagemap");
	close(fd);
	return entry;
}

/* Return the pages that the host has mapped. */
static inline u64 mapped_pages(struct test_file *f)
{
	u64 mask = 0;
	int i;

	for (i = 0; i < NR_PAGES; i++)
		if (pagemap_entry(page_of(f, i)) >> 63)
			mask |= BIT_ULL(i);
	return mask;
}

/* Let the guest fault in what it needs: code, data, page tables. */
static inline void guest_warm_up(struct test_file *f)
{
	gva_t page = vm_alloc_page(f->vm);

	virt_pg_map(f->vm, WARM_GVA, addr_gva2gpa(f->vm, page));
	f->gva[0] = WARM_GVA;
	guest_run(f, true, page_mask(0, 1));
	guest_run(f, false, page_mask(0, 1));
}

/* Create the VM and the file.  The file isn't in a memslot yet. */
static inline void __test_file_create(struct test_file *f, u64 flags)
{
	const struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = KVM_X86_SW_PROTECTED_VM,
	};

	f->vm = vm_create_shape_with_one_vcpu(shape, &f->vcpu, guest_code);
	f->private = flags & GUEST_MEMFD_FLAG_INIT_SHARED ? NO_PAGES : ALL_PAGES;
	f->fd = vm_create_guest_memfd(f->vm, TEST_SIZE, flags);
	TEST_ASSERT(!pipe(f->pipe), "pipe() should succeed");
	guest_warm_up(f);
}

/* Map a range of the file in the guest's page tables, 1:1 at @gpa, where its memslot is. */
static inline void test_file_map(struct test_file *f, u64 gpa, int first, int nr)
{
	int i;

	TEST_ASSERT(gpa >= TEST_GPA && gpa + nr * PAGE_SIZE <= WARM_GVA,
		    "0x%lx is not in the range for tests", gpa);
	virt_map(f->vm, gpa, gpa, nr);
	for (i = 0; i < nr; i++)
		f->gva[first + i] = gpa + i * PAGE_SIZE;
}

static inline void test_file_create(struct test_file *f, u64 flags)
{
	flags |= GUEST_MEMFD_FLAG_MMAP;
	__test_file_create(f, flags);
	__vm_mem_add(f->vm, VM_MEM_SRC_ANONYMOUS, TEST_GPA, TEST_SLOT, NR_PAGES,
		     KVM_MEM_GUEST_MEMFD, f->fd, 0, flags);
	f->mem = addr_gpa2hva(f->vm, TEST_GPA);
	test_file_map(f, TEST_GPA, 0, NR_PAGES);
}

static inline void test_file_free(struct test_file *f)
{
	close(f->fd);
	close(f->pipe[0]);
	close(f->pipe[1]);
	kvm_vm_free(f->vm);
}

#define TEST_REQUIRE_GMEM_CONVERSION()						\
	__TEST_REQUIRE(kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES) &	\
		       KVM_MEMORY_ATTRIBUTE_PRIVATE,				\
		       "no in-place conversion (kvm.gmem_in_place_conversion=1?)")

#endif /* SELFTEST_KVM_GUEST_MEMFD_CONVERSIONS_H */
