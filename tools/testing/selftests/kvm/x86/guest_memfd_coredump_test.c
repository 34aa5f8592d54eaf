// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of core dumps of a VMM that has guest_memfd mapped.  A core dump has all
 * pages that are shared and in memory, and no byte of pages that are private or have
 * failed.  A core dump neither allocates nor splits anything.
 *
 * The VMM that dies shares its files with the test, so that its guest_memfd and VM
 * are still there afterwards.
 */
#include <linux/elf.h>

#include <sys/resource.h>

#include "guest_memfd_fixture.h"

#define CORE_PATTERN	"/proc/sys/kernel/core_pattern"
#define CORE_FILE	"/tmp/guest_memfd.core"
#define MEM_ADDR	(256ULL * SZ_1G)

/* The NR units, or pages, of the file: */
enum {
	SHARED_BY_HOST,		/* The host has written to the first page. */
	SHARED_BY_GUEST,	/* The guest has written all over it, and the host never looked. */
	PRIVATE,		/* The guest has written all over it. */
	HOLE,			/* Nothing is allocated. */
	NR,
};

#define _test_data_coredump		gmem
#define _fixture_variant_coredump	gmem_variant

static char pattern[256];

static const char *setup(struct gmem *self, const struct gmem_variant *variant)
{
	const char *missing = gmem_setup(self, variant);

	if (!missing && !(read_text_file(CORE_PATTERN, pattern, sizeof(pattern)) &&
			  write_text_file(CORE_PATTERN, CORE_FILE)))
		missing = "needs root and CONFIG_COREDUMP";
	return missing;
}

GMEM_FIXTURE_SETUP(coredump, setup(self, variant));
GMEM_VARIANT_OF_UNITS(coredump, 4k, 12, NR);
GMEM_VARIANTS(coredump, NR, NR);

FIXTURE_TEARDOWN(coredump)
{
	write_text_file(CORE_PATTERN, pattern);
	unlink(CORE_FILE);
}

/* Return where a byte of the VMM's memory is in the core file, or -1. */
static off_t core_offset(int fd, u64 addr)
{
	struct elf64_hdr ehdr;
	struct elf64_phdr phdr;
	int i;

	TEST_ASSERT(pread(fd, &ehdr, sizeof(ehdr), 0) == sizeof(ehdr) &&
		    !memcmp(ehdr.e_ident, ELFMAG, SELFMAG), "There should be a core file");
	for (i = 0; i < ehdr.e_phnum; i++) {
		TEST_ASSERT(pread(fd, &phdr, sizeof(phdr), ehdr.e_phoff + i * sizeof(phdr)) ==
			    sizeof(phdr), "The core file should have %d headers", ehdr.e_phnum);
		if (phdr.p_type == PT_LOAD && addr >= phdr.p_vaddr &&
		    addr < phdr.p_vaddr + phdr.p_filesz)
			return phdr.p_offset + addr - phdr.p_vaddr;
	}
	return -1;
}

static u64 core_word(int fd, u64 offset)
{
	off_t pos = core_offset(fd, MEM_ADDR + offset);
	u64 val = ~0ULL;

	TEST_ASSERT(pos >= 0, "The core file should have the mapping");
	/* A hole at the end isn't in the file. */
	if (pread(fd, &val, sizeof(val), pos) != sizeof(val))
		return 0;
	return val;
}

/* The VMM fills this in before it dies, and the test looks at it afterwards. */
struct vmm {
	int vm_fd;
	int fd;
	/* The page that has failed. */
	u64 pfn;
	char units[SZ_64K];
};

static struct vmm *vmm;

static void set_dump_limits(void)
{
	struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };
	int fd = open("/proc/self/coredump_filter", O_WRONLY);

	/* Dump shared mappings of files, too. */
	TEST_ASSERT(fd >= 0 && write(fd, "0x3f", 4) == 4 && !setrlimit(RLIMIT_CORE, &limit),
		    "A core dump should be possible");
	close(fd);
}

static void run_vmm(struct gmem *self, bool poison)
{
	const u64 unit = self->unit, stride = max_t(u64, unit / 8, PAGE_SIZE);
	struct kvm_vcpu *vcpu;
	char *mem;

	set_dump_limits();
	self->vm = create_guest(VM_TYPE_PRIVATE, &vcpu, 1);
	vmm->vm_fd = self->vm->fd;
	vmm->fd = gmem_create(self, GMEM_SHARED);
	mem = mmap((void *)MEM_ADDR, NR * unit, PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_FIXED_NOREPLACE, vmm->fd, 0);
	TEST_ASSERT(mem == (void *)MEM_ADDR, "mmap() should succeed");
	add_slot(self->vm, TEST_GPA, NR * unit, mem, vmm->fd, 0);

	WRITE_ONCE(*(u64 *)mem, HOST_TAG(0));
	gmem_set_private(vmm->fd, PRIVATE * unit, unit);
	guest_do(vcpu, OP_WRITE_TAGS, TEST_GPA + SHARED_BY_GUEST * unit, unit / stride,
		 stride, TAG(0));
	guest_do(vcpu, OP_WRITE_TAGS, TEST_GPA + PRIVATE * unit, unit / stride,
		 stride, TAG2(0));

	if (poison) {
		vmm->pfn = read_pagemap_pfn(mem);
		TEST_ASSERT_EQ(write_pfn(CORRUPT_PFN, vmm->pfn), 0);
	}
	if (guestmem_has_units())
		snprintf(vmm->units, sizeof(vmm->units), "%s", guestmem_read_units());
	signal(SIGABRT, SIG_DFL);
	signal(SIGBUS, SIG_DFL);
	if (poison)
		READ_ONCE(*(u64 *)mem);
	abort();
}

/*
 * Assert that all but the hole is in memory, as before the dump.  mincore() says
 * this in the same way for every size of pages.
 */
static void assert_hole(u64 unit)
{
	char *mem = kvm_mmap(NR * unit, PROT_READ, MAP_SHARED, vmm->fd);
	unsigned char in_memory;
	int i;

	for (i = 0; i < NR; i++) {
		TEST_ASSERT(!mincore(mem + i * unit, PAGE_SIZE, &in_memory), "mincore() failed");
		TEST_ASSERT((in_memory & 1) == (i != HOLE),
			    "A core dump should not allocate what is a hole, page %d", i);
	}
	kvm_munmap(mem, NR * unit);
}

static void assert_nothing_happened(struct gmem *self)
{
	if (self->unit > PAGE_SIZE)
		assert_nr_allocated(NR - 1);
	assert_hole(self->unit);
	/* A core dump should not split anything. */
	if (guestmem_has_units())
		guestmem_assert_unchanged(vmm->units);
}

static void assert_core(size_t unit, u64 host_tag)
{
	const u64 stride = max_t(u64, unit / 8, PAGE_SIZE);
	int fd = open(CORE_FILE, O_RDONLY);
	u64 i;

	TEST_ASSERT(fd >= 0, "There should be a core file");
	TEST_ASSERT_EQ(core_word(fd, SHARED_BY_HOST * unit), host_tag);
	for (i = 0; i < unit / stride; i++) {
		TEST_ASSERT_EQ(core_word(fd, SHARED_BY_GUEST * unit + i * stride), TAG(i));
		TEST_ASSERT_EQ(core_word(fd, PRIVATE * unit + i * stride), 0);
		TEST_ASSERT_EQ(core_word(fd, HOLE * unit + i * stride), 0);
	}
	close(fd);
}

static void dump_and_check(struct gmem *self, bool poison)
{
	int status;
	pid_t pid;

	vmm = kvm_mmap(sizeof(*vmm), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);

	pid = kvm_fork_sharing_files();
	if (!pid)
		run_vmm(self, poison);
	TEST_ASSERT(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) &&
		    WCOREDUMP(status), "The VMM should dump core, has status 0x%x", status);
	TEST_ASSERT_EQ(WTERMSIG(status), poison ? SIGBUS : SIGABRT);

	assert_nothing_happened(self);
	assert_core(self->unit, poison ? 0 : HOST_TAG(0));
	close(vmm->fd);
	close(vmm->vm_fd);
}

GMEM_TEST(coredump, shared_and_in_memory, dump_and_check(self, false))

/* Let a VMM die of memory that has failed: the core dump doesn't read it once more. */
TEST_F(coredump, poisoned)
{
	struct hugetlb_pool lost = self->pool;

	if (!can_inject_memory_failure())
		SKIP(return, NEEDS_MEMORY_FAILURE);

	dump_and_check(self, true);
	if (self->unit > PAGE_SIZE) {
		hugetlb_pool_lose(&lost, 1);
		TEST_ASSERT_POOL_SETTLES(&lost, 0, 0);
	}
	/* Mend the page for other tests.  This works a moment after the pool has lost it. */
	mend_page(vmm->pfn);
	if (self->unit > PAGE_SIZE)
		hugetlb_resize_pool(&self->pool);
}

GMEM_TEST_MAIN(NEEDS_PRIVATE_VM | NEEDS_CONVERSION)
