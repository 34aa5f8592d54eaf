// SPDX-License-Identifier: GPL-2.0-only
/*
 * Let a protected guest of pKVM live in a guest_memfd file of 4K pages.
 *
 * The guest owns each page that it has touched: the host can neither access nor convert
 * it, but it can take it away, by a hole for example, and then the guest doesn't get
 * another page there.  All other pages convert both ways, as for any VM with private
 * memory.  When the VM is gone, so is everything that it took.
 */
#include "guest_memfd_fixture.h"
#include "memory_failure.h"
#include "pkvm_guest.h"

#define NR_PAGES	32

#define _test_data_pkvm		gmem
#define _fixture_variant_pkvm	gmem_variant

static const char *setup(struct gmem *self, const struct gmem_variant *variant)
{
	const char *missing = missing_for_protected_vms();

	if (missing)
		return missing;

	read_kernel_counters(&self->counters);
	self->nr_pages = NR_PAGES;
	self->size = NR_PAGES * page_size;
	return NULL;
}

GMEM_FIXTURE_SETUP(pkvm, setup(self, variant));

/* The processes of the test are gone. */
FIXTURE_TEARDOWN_PARENT(pkvm)
{
	struct kernel_counters after;
	const char *left = kernel_counters_settle(&self->counters, &after);

	EXPECT_EQ(NULL, left) {
		TH_LOG("Left behind: %s", left);
	}
	EXPECT_EQ(self->counters.sec_page_tables, settled_sec_page_tables(&self->counters));
}

GMEM_VARIANTS_OF_STATE(pkvm);

/* Create a VM with a file in a memslot, and map the file. */
static void open_vm(struct gmem *self, u64 flags)
{
	self->vm = create_protected_vm(self->vcpus, 2, NR_PAGES);
	self->vcpu = self->vcpus[0];
	self->fd = vm_create_guest_memfd(self->vm, self->size, GUEST_MEMFD_FLAG_MMAP | flags);
	self->mem = kvm_mmap(self->size, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd);
	add_slot(self->vm, TEST_GPA, self->size, self->mem, self->fd, 0);
	kvm_pipe(self->pipe);
}

static void open_private(struct gmem *self, const struct gmem_variant *variant)
{
	open_vm(self, variant->flags);
	if (variant->flags & GUEST_MEMFD_FLAG_INIT_SHARED)
		convert_fd(self->fd, 0, NR_PAGES, true);
}

static void guest_do_all(struct gmem *self, enum pkvm_op op, u64 tag)
{
	assert_pkvm_do(self->vcpu, op, 0, NR_PAGES, tag, 0);
}

static void assert_no_access(struct gmem *self, u64 page)
{
	TEST_ASSERT(!host_can_read(self, page), "The host can read page %lu", page);
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*word_of(self, page)));
}

static void assert_owned(struct gmem *self, u64 first, u64 nr, u64 page)
{
	u64 offset = -1;
	int r;

	r = try_convert(self->fd, first, nr, false, &offset);
	TEST_ASSERT(r == -EPERM, "Sharing %lu pages at %lu should be EPERM, is %d", nr, first, r);
	TEST_ASSERT_EQ(offset, page * page_size);
}

/* The guest accesses memory that it can't have: the VMM is told which. */
static void assert_memory_fault(struct kvm_vcpu *vcpu, u64 page)
{
	struct kvm_run *run = vcpu->run;

	assert_pkvm_error(vcpu, page, EFAULT, KVM_EXIT_MEMORY_FAULT);
	TEST_ASSERT_EQ(run->memory_fault.gpa, gpa_of(page));
	TEST_ASSERT_EQ(run->memory_fault.size, page_size);
	TEST_ASSERT_EQ(run->memory_fault.flags, KVM_MEMORY_EXIT_FLAG_PRIVATE);
}

TEST_F(pkvm, capabilities)
{
	struct kvm_vm *vm;

	TEST_ASSERT_EQ(kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES),
		       KVM_MEMORY_ATTRIBUTE_PRIVATE);

	open_vm(self, variant->flags);
	TEST_ASSERT_EQ(vm_check_cap(self->vm, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES),
		       KVM_MEMORY_ATTRIBUTE_PRIVATE);
	TEST_ASSERT_EQ(vm_check_cap(self->vm, KVM_CAP_GUEST_MEMFD_FLAGS),
		       kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS));
	TEST_ASSERT_EQ(vm_check_cap(self->vm, KVM_CAP_GUEST_MEMFD), 1);

	vm = vm_create_barebones();
	TEST_ASSERT_EQ(vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES), 0);
	kvm_vm_free(vm);
}

/* Return how much memory the process has locked, in KiB. */
static long locked_kib(void)
{
	FILE *file = fopen("/proc/self/status", "r");
	long kib = -1;
	char line[256];

	TEST_ASSERT(file, "No /proc/self/status");
	while (kib < 0 && fgets(line, sizeof(line), file))
		sscanf(line, "VmLck: %ld kB", &kib);
	fclose(file);
	TEST_ASSERT(kib >= 0, "No VmLck");
	return kib;
}

TEST_F(pkvm, private)
{
	long locked;
	int i;

	open_private(self, variant);
	/* Have both guests fault in code and tables, which are anonymous, and locked. */
	for (i = 0; i < 2; i++) {
		assert_pkvm_do(self->vcpus[i], PKVM_CHECK_ZERO, i, 1, 0, 0);
		assert_pkvm_do(self->vcpus[i], PKVM_WRITE, i, 1, TAG(i), 0);
		assert_pkvm_do(self->vcpus[i], PKVM_CHECK, i, 1, TAG(i), 0);
	}
	locked = locked_kib();
	TEST_ASSERT(locked, "Protected VMs lock no memory");

	assert_pkvm_do(self->vcpu, PKVM_CHECK_ZERO, 2, NR_PAGES - 2, 0, 0);
	guest_do_all(self, PKVM_WRITE, TAG(0));
	guest_do_all(self, PKVM_CHECK, TAG(0));
	assert_pkvm_do(self->vcpus[1], PKVM_CHECK, 0, NR_PAGES, TAG(0), 0);
	TEST_ASSERT_EQ(locked_kib(), locked);
	assert_no_access(self, 0);
	assert_no_access(self, NR_PAGES - 1);
	guest_do_all(self, PKVM_CHECK, TAG(0));
	assert_pkvm_do(self->vcpu, PKVM_OFF, 0, 1, 0, ~0ull);
}

/* A file need not be mappable, the guest gets along with what it finds there. */
TEST_F(pkvm, not_mappable)
{
	self->vm = create_protected_vm(self->vcpus, 1, NR_PAGES);
	self->vcpu = self->vcpus[0];
	self->fd = vm_create_guest_memfd(self->vm, self->size, variant->flags);
	if (variant->flags)
		convert_fd(self->fd, 0, NR_PAGES, true);
	add_slot(self->vm, TEST_GPA, self->size, NULL, self->fd, 0);
	guest_do_all(self, PKVM_CHECK_ZERO, 0);
	guest_do_all(self, PKVM_WRITE, TAG(0));
	guest_do_all(self, PKVM_CHECK, TAG(0));
}

/* The host puts something into pages, which is still there when they become private. */
TEST_F(pkvm, image)
{
	u64 page, round;

	open_vm(self, variant->flags);
	for (round = 0; round < 3; round++) {
		convert_fd(self->fd, 0, NR_PAGES, false);
		for (page = 0; page < NR_PAGES; page++) {
			*word_of(self, page) = TAG(round + page);
			*last_word_of(self, page) = TAG(round + page);
		}
		convert_fd(self->fd, 0, NR_PAGES, true);
		assert_no_access(self, round);
	}
	guest_do_all(self, PKVM_CHECK, TAG(round - 1));
	assert_pkvm_do(self->vcpus[1], PKVM_CHECK, 0, NR_PAGES, TAG(round - 1), 0);
	assert_pkvm_agrees(self->vm);
}

TEST_F(pkvm, convert_owned)
{
	open_private(self, variant);
	assert_pkvm_do(self->vcpu, PKVM_WRITE, 5, 1, TAG(5), 0);
	assert_pkvm_do(self->vcpu, PKVM_WRITE, 9, 2, TAG(9), 0);

	/* All or nothing, and the first page that is in the way. */
	assert_owned(self, 0, NR_PAGES, 5);
	assert_owned(self, 5, 1, 5);
	assert_owned(self, 6, 5, 9);
	assert_owned(self, 10, NR_PAGES - 10, 10);
	assert_no_access(self, 0);
	assert_no_access(self, 5);
	assert_no_access(self, NR_PAGES - 1);

	/* To private is no change. */
	convert_fd(self->fd, 0, NR_PAGES, true);

	convert_fd(self->fd, 0, 5, false);
	convert_fd(self->fd, 11, NR_PAGES - 11, false);
	TEST_ASSERT(host_can_read(self, 0) && host_can_read(self, 11), "Pages aren't shared");
	/* Pages that are shared already aren't looked at. */
	assert_owned(self, 0, NR_PAGES, 5);
	assert_no_access(self, 5);
	convert_fd(self->fd, 0, 5, true);

	assert_pkvm_do(self->vcpu, PKVM_CHECK, 5, 1, TAG(5), 0);
	assert_pkvm_do(self->vcpu, PKVM_CHECK, 9, 2, TAG(9), 0);
	assert_pkvm_do(self->vcpu, PKVM_CHECK_ZERO, 0, 5, 0, 0);
	assert_pkvm_agrees(self->vm);
}

TEST_F(pkvm, shared_fault)
{
	u64 result = 1;

	open_vm(self, variant->flags);
	convert_fd(self->fd, 3, 2, false);
	*word_of(self, 3) = TAG(3);

	assert_memory_fault(self->vcpu, 3);
	assert_memory_fault(self->vcpus[1], 3);
	TEST_ASSERT_EQ(*word_of(self, 3), TAG(3));
	*last_word_of(self, 3) = TAG(3);

	convert_fd(self->fd, 3, 1, true);
	TEST_ASSERT_EQ(pkvm_resume(self->vcpu, &result), 0);
	TEST_ASSERT_EQ(result, 0);
	TEST_ASSERT_EQ(pkvm_resume(self->vcpus[1], &result), 0);
	assert_pkvm_do(self->vcpu, PKVM_CHECK, 3, 1, TAG(3), 0);
	assert_owned(self, 3, 1, 3);
	assert_memory_fault(self->vcpu, 4);
	assert_pkvm_agrees(self->vm);
}

/* A page that the host has pinned doesn't become private, i.e. the guest can't get it. */
TEST_F(pkvm, pinned)
{
	struct iovec iov;
	u64 offset = -1;

	open_vm(self, variant->flags);
	convert_fd(self->fd, 0, NR_PAGES, false);
	iov = (struct iovec) { .iov_base = word_of(self, 7), .iov_len = page_size };
	TEST_ASSERT_EQ(vmsplice(self->pipe[1], &iov, 1, 0), page_size);

	TEST_ASSERT_EQ(try_convert(self->fd, 0, NR_PAGES, true, &offset), -EAGAIN);
	TEST_ASSERT_EQ(offset, 7 * page_size);
	assert_memory_fault(self->vcpu, 7);

	close(self->pipe[0]);
	close(self->pipe[1]);
	convert_fd(self->fd, 0, NR_PAGES, true);
}

static void assert_guest_has(struct gmem *self, u64 first, u64 nr)
{
	assert_pkvm_do(self->vcpu, PKVM_CHECK, first, nr, TAG(first), 0);
	assert_pkvm_do(self->vcpus[1], PKVM_CHECK, first, nr, TAG(first), 0);
}

/* Assert how much of its memory the hypervisor has on its list that way. */
static void assert_pages(struct gmem *self, const char *how, u64 nr)
{
	FILE *file = pkvm_open_pages(self->vm);
	u64 from, to, found = 0;
	char line[256];

	while (fgets(line, sizeof(line), file)) {
		if (strstr(line, how) && sscanf(line, "0x%lx-0x%lx", &from, &to) == 2)
			found += (to - from) / page_size;
	}
	pkvm_close_pages(file);
	TEST_ASSERT(found == nr, "%lu pages should be %s, not %lu", nr, how, found);
}

/* Pages that were taken from the guest are the host's, and nothing is in them. */
static void assert_host_has_zeroes(struct gmem *self, u64 first, u64 nr)
{
	u64 page;

	convert_fd(self->fd, first, nr, false);
	for (page = first; page < first + nr; page++) {
		TEST_ASSERT_EQ(*word_of(self, page), 0);
		TEST_ASSERT_EQ(*last_word_of(self, page), 0);
	}
	convert_fd(self->fd, first, nr, true);
}

/* A hole takes the pages from the guest, which must not take others for its own. */
TEST_F(pkvm, punch)
{
	open_private(self, variant);
	assert_pkvm_do(self->vcpu, PKVM_WRITE, 0, 8, TAG(0), 0);
	punch_fd(self->fd, 2 * page_size, 3 * page_size);
	TEST_ASSERT_EQ(nr_cached_pages(self->fd), 5);
	assert_pages(self, "owned", 5);
	assert_pages(self, "poisoned", 3);
	assert_guest_has(self, 0, 2);
	assert_guest_has(self, 5, 3);
	assert_owned(self, 0, NR_PAGES, 0);
	assert_owned(self, 2, NR_PAGES - 2, 5);
	assert_no_access(self, 5);

	assert_pkvm_lost(self->vcpu, 2);
	TEST_ASSERT_EQ(nr_cached_pages(self->fd), 5);
	assert_host_has_zeroes(self, 2, 3);
	TEST_ASSERT_EQ(nr_cached_pages(self->fd), 8);
	assert_pkvm_lost(self->vcpus[1], 4);
	assert_pkvm_agrees(self->vm);
}

TEST_F(pkvm, close)
{
	open_private(self, variant);
	assert_pkvm_do(self->vcpu, PKVM_WRITE, 0, 8, TAG(0), 0);
	assert_guest_has(self, 0, 8);
	kvm_munmap(self->mem, self->size);
	close(self->fd);
	assert_pkvm_lost(self->vcpu, 0);
	assert_memory_fault(self->vcpus[1], 8);
	assert_pkvm_agrees(self->vm);
}

static int set_slot(struct gmem *self, u32 slot, u32 flags, u64 gpa, u64 size, u64 offset)
{
	return __vm_set_user_memory_region2(self->vm, slot, KVM_MEM_GUEST_MEMFD | flags, gpa,
					    size, self->mem, self->fd, offset);
}

TEST_F(pkvm, memslots)
{
	const u64 gpa = TEST_GPA + SZ_1G;

	open_private(self, variant);

	/* Until the VM runs, a memslot can go. */
	delete_slot(self->vm, TEST_GPA);
	add_slot(self->vm, TEST_GPA, self->size, self->mem, self->fd, 0);

	guest_do_all(self, PKVM_WRITE, TAG(0));
	assert_error(set_slot(self, TEST_SLOT, KVM_MEM_LOG_DIRTY_PAGES, TEST_GPA, self->size, 0),
		     EINVAL);
	assert_error(set_slot(self, TEST_SLOT + 1, KVM_MEM_READONLY, gpa, self->size, 0), EINVAL);

	/* A page of the file is at one place. */
	assert_error(set_slot(self, TEST_SLOT + 1, 0, gpa, self->size, 0), EEXIST);
	assert_error(set_slot(self, TEST_SLOT + 1, 0, gpa, page_size, self->size - page_size),
		     EEXIST);
	assert_error(set_slot(self, TEST_SLOT, 0, gpa, self->size, 0), EINVAL);
	guest_do_all(self, PKVM_CHECK, TAG(0));
	assert_pkvm_agrees(self->vm);
}

/* To delete a memslot takes the pages.  They stay in the file, as they would for any VM. */
TEST_F(pkvm, delete_slot)
{
	open_private(self, variant);
	assert_pkvm_do(self->vcpu, PKVM_WRITE, 0, 8, TAG(0), 0);
	assert_guest_has(self, 0, 8);
	delete_slot(self->vm, TEST_GPA);
	TEST_ASSERT_EQ(nr_cached_pages(self->fd), 8);
	assert_host_has_zeroes(self, 0, 8);

	/* It isn't MMIO, either, of which user space could tell the guest what is there. */
	assert_pkvm_lost(self->vcpu, 0);
	add_slot(self->vm, TEST_GPA, self->size, self->mem, self->fd, 0);
	assert_pkvm_lost(self->vcpu, 0);
	assert_pkvm_do(self->vcpus[1], PKVM_CHECK_ZERO, 8, NR_PAGES - 8, 0, 0);
	assert_pkvm_do(self->vcpus[1], PKVM_WRITE, 8, 8, TAG(8), 0);
	assert_pkvm_do(self->vcpus[1], PKVM_CHECK, 8, 8, TAG(8), 0);
	assert_owned(self, 0, NR_PAGES, 8);
	assert_pkvm_lost(self->vcpus[1], 7);
	assert_pkvm_agrees(self->vm);
}

/* Pages of a file can be at another place, if that isn't one that has lost its own. */
TEST_F(pkvm, move_slot)
{
	open_private(self, variant);
	assert_pkvm_do(self->vcpu, PKVM_WRITE, 16, 8, TAG(16), 0);
	delete_slot(self->vm, TEST_GPA);
	vm_set_user_memory_region2(self->vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD, TEST_GPA,
				   self->size / 2, self->mem, self->fd, self->size / 2);
	assert_pkvm_do(self->vcpu, PKVM_CHECK_ZERO, 0, NR_PAGES / 2, 0, 0);
	assert_pkvm_do(self->vcpu, PKVM_WRITE, 0, NR_PAGES / 2, TAG(0), 0);
	assert_guest_has(self, 0, NR_PAGES / 2);
	assert_owned(self, 0, NR_PAGES, NR_PAGES / 2);
	assert_pkvm_agrees(self->vm);
}

/* Without guest_memfd, the host isn't asked. */
TEST_F(pkvm, guest_shares_anonymous)
{
	self->vm = create_protected_vm(self->vcpus, 1, NR_PAGES);
	self->mem = kvm_mmap(self->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	vm_set_user_memory_region2(self->vm, TEST_SLOT, 0, TEST_GPA, self->size, self->mem, 0, 0);

	assert_pkvm_do(self->vcpus[0], PKVM_WRITE, 0, 2, TAG(0), 0);
	assert_pkvm_do(self->vcpus[0], PKVM_SHARE, 0, 3, 0, 0);
	TEST_ASSERT_EQ(*word_of(self, 1), TAG(1));
	assert_pkvm_do(self->vcpus[0], PKVM_UNSHARE, 0, 3, 0, 0);
	assert_pkvm_do(self->vcpus[0], PKVM_CHECK, 0, 2, TAG(0), 0);

	assert_pkvm_do(self->vcpus[0], PKVM_SHARE_RANGE, 0, NR_PAGES, 0, NR_PAGES);
	assert_pkvm_do(self->vcpus[0], PKVM_SHARE_RANGE, 1, 1, 0, PKVM_REFUSED);
	TEST_ASSERT_EQ(*word_of(self, 1), TAG(1));
	assert_pkvm_do(self->vcpus[0], PKVM_UNSHARE, 3, 1, 0, 0);
	assert_pkvm_do(self->vcpus[0], PKVM_UNSHARE_RANGE, 0, NR_PAGES, 0, PKVM_REFUSED);
	assert_pkvm_do(self->vcpus[0], PKVM_UNSHARE_RANGE, 0, 3, 0, 3);
	assert_pkvm_do(self->vcpus[0], PKVM_CHECK, 0, 2, TAG(0), 0);

	assert_error(__vm_set_user_memory_region2(self->vm, TEST_SLOT, 0, TEST_GPA, 0, NULL, 0, 0),
		     EPERM);
	assert_pkvm_do(self->vcpus[0], PKVM_CHECK, 0, 2, TAG(0), 0);
}

/* Kernel accesses on behalf of user space find private memory before the hypervisor does. */
TEST_F(pkvm, system_calls)
{
	struct iovec iov;
	u64 word = 0;
	off_t addr;
	int mem;

	open_private(self, variant);
	guest_do_all(self, PKVM_WRITE, TAG(0));
	iov = (struct iovec) { word_of(self, 0), sizeof(word) };
	addr = (off_t)iov.iov_base;

	mem = open_path_or_exit("/proc/self/mem", O_RDWR);
	assert_error(pread(mem, &word, sizeof(word), addr), EIO);
	assert_error(pwrite(mem, &word, sizeof(word), addr), EIO);
	close(mem);
	assert_error(write(self->pipe[1], iov.iov_base, sizeof(word)), EFAULT);
	assert_error(vmsplice(self->pipe[1], &iov, 1, 0), EFAULT);
	assert_error(read(self->fd, &word, sizeof(word)), EINVAL);
	assert_error(madvise(self->mem, self->size, MADV_POPULATE_READ), EFAULT);
	TEST_ASSERT_EQ(word, 0);
	guest_do_all(self, PKVM_CHECK, TAG(0));
	assert_pkvm_agrees(self->vm);
}

/*
 * The kernel itself reads a page that the guest owns, through its own mapping of all memory.
 * It is prepared for that to fail, so that the guest doesn't lose the page.
 */
TEST_F(pkvm, kcore)
{
	u64 phys, word = 0;

	open_vm(self, variant->flags);
	convert_fd(self->fd, 0, NR_PAGES, false);
	*word_of(self, 2) = TAG(2);
	*word_of(self, 3) = TAG(3);
	phys = read_pagemap_pfn(word_of(self, 2)) * page_size;
	TEST_ASSERT(phys, "No frame number");
	TEST_ASSERT(read_kcore(phys, &word) && word == TAG(2), "The page isn't in kcore: 0x%lx",
		    word);

	convert_fd(self->fd, 0, NR_PAGES, true);
	guest_do_all(self, PKVM_WRITE, TAG(0));

	TEST_ASSERT(!read_kcore(phys, &word) || !word, "The kernel can read 0x%lx", word);
	assert_owned(self, 2, 1, 2);
	guest_do_all(self, PKVM_CHECK, TAG(0));
	assert_pkvm_agrees(self->vm);
}

/* A page that the guest owns doesn't leave the file because it is about to fail. */
TEST_F(pkvm, soft_offline)
{
	u64 pfn;
	int r;

	if (!can_inject_memory_failure())
		SKIP(return, NEEDS_MEMORY_FAILURE);

	open_vm(self, variant->flags);
	convert_fd(self->fd, 0, NR_PAGES, false);
	/* Reading a page doesn't make it dirty. */
	(void)READ_ONCE(*word_of(self, 2));
	pfn = read_pagemap_pfn(word_of(self, 2));
	convert_fd(self->fd, 0, NR_PAGES, true);
	guest_do_all(self, PKVM_WRITE, TAG(0));

	r = write_pa(SOFT_OFFLINE, pfn);
	TEST_ASSERT(r == EBUSY || r == EIO || r == EOPNOTSUPP, "Soft offline is %d", r);
	TEST_ASSERT_EQ(nr_cached_pages(self->fd), NR_PAGES);
	assert_guest_has(self, 0, NR_PAGES);
	assert_owned(self, 2, 1, 2);
	assert_pkvm_agrees(self->vm);
}

/* A page of 4K fails that the guest owns. */
TEST_F(pkvm, poison)
{
	u64 pfn;

	if (!can_inject_memory_failure())
		SKIP(return, NEEDS_MEMORY_FAILURE);

	open_vm(self, variant->flags);
	convert_fd(self->fd, 0, NR_PAGES, false);
	*word_of(self, 2) = 0;
	pfn = read_pagemap_pfn(word_of(self, 2));
	convert_fd(self->fd, 0, NR_PAGES, true);
	guest_do_all(self, PKVM_WRITE, TAG(0));

	TEST_ASSERT_EQ(write_pfn(CORRUPT_PFN, pfn), 0);
	TEST_ASSERT(is_marked_poisoned(pfn), "The page hasn't failed");
	assert_guest_has(self, 0, 2);
	assert_guest_has(self, 3, NR_PAGES - 3);
	assert_owned(self, 0, NR_PAGES, 0);
	assert_pkvm_error(self->vcpu, 2, EHWPOISON, KVM_EXIT_MEMORY_FAULT);
	TEST_ASSERT_EQ(self->vcpu->run->memory_fault.gpa, gpa_of(2));
	convert_fd(self->fd, 2, 1, false);
	TEST_EXPECT_SIGBUS((void)READ_ONCE(*word_of(self, 2)));
	punch_fd(self->fd, 2 * page_size, page_size);
	assert_pkvm_lost(self->vcpu, 2);
	assert_pkvm_agrees(self->vm);
}

/* The process is gone, but not the file, nor the VM. */
TEST_F(pkvm, other_process)
{
	pid_t pid;

	self->fd = -1;
	pid = kvm_fork_sharing_files();
	if (!pid) {
		open_private(self, variant);
		guest_do_all(self, PKVM_WRITE, TAG(0));
		TEST_ASSERT_EQ(dup2(self->fd, 100), 100);
		_exit(0);
	}
	assert_child_succeeds(pid);

	self->fd = 100;
	self->mem = kvm_mmap(self->size, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd);
	kvm_pipe(self->pipe);
	assert_no_access(self, 3);
	assert_host_has_zeroes(self, 0, NR_PAGES);
	assert_no_access(self, 3);
}

#define NR_MANY		8192

struct toucher {
	pthread_t thread;
	struct kvm_vcpu *vcpu;
	u64 first, nr;
	u64 *done;
};

/* Touch pages one by one for the first time. */
static void *touch(void *arg)
{
	struct toucher *t = arg;
	u64 page;

	for (page = t->first; page < t->first + t->nr; page++) {
		assert_pkvm_do(t->vcpu, PKVM_WRITE, page, 1, TAG(page), 0);
		WRITE_ONCE(*t->done, *t->done + 1);
	}
	return NULL;
}

static void touch_from_two_vcpus(struct gmem *self, u64 *done)
{
	struct toucher t[2];
	int i;

	for (i = 0; i < 2; i++) {
		t[i] = (struct toucher) {
			.vcpu = self->vcpus[i],
			.first = i * (NR_MANY / 2),
			.nr = NR_MANY / 2,
			.done = done + i,
		};
		TEST_ASSERT_EQ(pthread_create(&t[i].thread, NULL, touch, &t[i]), 0);
	}
	for (i = 0; i < 2; i++)
		pthread_join(t[i].thread, NULL);
}

/* The VMM is killed while vCPUs touch memory for the first time. */
TEST_F(pkvm, killed)
{
	int i, nr_early = 0;
	u64 (*done)[2];
	pid_t pid;

	/* The new memory is zeroed. */
	done = kvm_mmap(page_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
	for (i = 0; i < 6; i++) {
		pid = kvm_fork();
		if (!pid) {
			self->vm = create_protected_vm(self->vcpus, 2, NR_MANY);
			self->size = NR_MANY * page_size;
			self->fd = vm_create_guest_memfd(self->vm, self->size, variant->flags);
			if (variant->flags)
				convert_fd(self->fd, 0, NR_MANY, true);
			add_slot(self->vm, TEST_GPA, self->size, NULL, self->fd, 0);
			touch_from_two_vcpus(self, done[i]);
			pause();
		}
		while (READ_ONCE(done[i][0]) < 10 + i * 100 || READ_ONCE(done[i][1]) < 10) {
			TEST_ASSERT(!waitpid(pid, NULL, WNOHANG), "The VMM is gone");
			usleep(100);
		}
		kill_child(pid);
		nr_early += done[i][0] + done[i][1] < NR_MANY;
	}
	TEST_ASSERT(nr_early > 3, "Only %d of 6 were killed in time", nr_early);
}

GMEM_TEST_MAIN(0)
