// SPDX-License-Identifier: GPL-2.0
/*
 * The guest's memory: an ordinary slot and a private one. This file is what the
 * program is about.
 *
 *   gpa 0 .. --memory                       gpa 4G .. + --private
 *   +-----------------------------+         +--------------------------------------+
 *   | ordinary: anonymous memory  |         | private: units of a guest_memfd      |
 *   | of this process             |         | (and an HVA range that stays empty)  |
 *   +-----------------------------+         +--------------------------------------+
 *
 * Three calls make the private slot:
 *
 *   KVM_CREATE_GUEST_MEMFD          a file; with GUEST_MEMFD_FLAG_HUGETLB its units are
 *                                   pages of the hugetlb pool, promised (reserved) now
 *                                   and taken at the guest's first touch
 *   KVM_SET_USER_MEMORY_REGION2     a slot that has two backings, the file for what is
 *                                   private and an HVA for what is shared
 *   KVM_SET_MEMORY_ATTRIBUTES       says which of both each page is: here, all private
 *
 * The guest is mapped by pages as large as three things allow: the unit, the slot's
 * bounds, and the alignment of guest address and file offset (and of guest address and
 * HVA, for shared pages) to each other. Everything here is aligned for 1G.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/mman.h>

#include "vmm.h"

#ifndef __NR_cachestat
#define __NR_cachestat		451
#endif

#define PAGEMAP_PRESENT		BIT_ULL(63)
#define PAGEMAP_SWAPPED		BIT_ULL(62)

static int log2_of(__u64 size)
{
	return __builtin_ctzll(size);
}

/* Map @size bytes at a multiple of @align, which may be more than mmap() cares for. */
static void *map_aligned(__u64 size, __u64 align, const char *what)
{
	unsigned long start, aligned;
	void *map;

	map = mmap(NULL, size + align, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map == MAP_FAILED)
		die(errno, NULL, "mmap(%s, %s and as much for alignment)", size_name(size), what);
	start = (unsigned long)map;
	aligned = (start + align - 1) & ~(align - 1);
	if (aligned > start)
		munmap(map, aligned - start);
	munmap((void *)(aligned + size), start + align - aligned);
	return (void *)aligned;
}

static void set_slot(struct vm *vm, const struct kvm_userspace_memory_region2 *region)
{
	if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION2, region) < 0)
		die(errno, errno == EINVAL ? "is there a slot already?" : NULL,
		    "KVM_SET_USER_MEMORY_REGION2(slot %u, flags 0x%x, gpa 0x%llx, size 0x%llx, hva 0x%llx, guest_memfd %d, offset 0x%llx)",
		    region->slot, region->flags, region->guest_phys_addr, region->memory_size,
		    region->userspace_addr, region->guest_memfd, region->guest_memfd_offset);
}

void memory_add_ordinary(struct vm *vm)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = SLOT_ORDINARY,
		.guest_phys_addr = 0,
		.memory_size = vm->opt->memory,
	};

	vm->ordinary = map_aligned(vm->opt->memory, BLOCK, "ordinary memory");
	/* 4K pages only: every 2M or 1G page KVM counts is then one of the private slot. */
	madvise(vm->ordinary, vm->opt->memory, MADV_NOHUGEPAGE);
	region.userspace_addr = (unsigned long)vm->ordinary;
	set_slot(vm, &region);
}

/*
 * Map all ordinary memory into the guest before it runs, so that every fault counted
 * from then on is one of the private slot. For the measurement, not for the guest:
 * a kernel without KVM_CAP_PRE_FAULT_MEMORY just counts some thousand faults more.
 * It must be there first, or KVM would map the zero page, to be replaced by a fault.
 */
void memory_populate_ordinary(struct vm *vm)
{
	struct kvm_pre_fault_memory range = { .gpa = 0, .size = vm->opt->memory };

	if (madvise(vm->ordinary, range.size, MADV_POPULATE_WRITE) < 0)
		die(errno, "is there that much free memory?",
		    "madvise(ordinary memory, %s, MADV_POPULATE_WRITE)", size_name(range.size));
	if (!vm_check(vm->fd, KVM_CAP_PRE_FAULT_MEMORY))
		return;
	while (range.size)	/* it advances gpa and shrinks size by what it has done */
		if (ioctl(vm->vcpu_fd, KVM_PRE_FAULT_MEMORY, &range) < 0 && errno != EINTR &&
		    errno != EAGAIN)
			die(errno, NULL, "KVM_PRE_FAULT_MEMORY(gpa 0x%llx, size 0x%llx)", range.gpa,
			    range.size);
}

/* Why did the file's creation fail, and what would help? */
static const char *advise_create(int err, __u64 size, __u64 page_size)
{
	struct pool pool = pool_read(page_size);
	static char text[512];

	if (page_size == PAGE)
		return err == EINVAL ? "sizes are multiples of 4K" : NULL;
	if (!pool.there) {
		snprintf(text, sizeof(text),
			 "this machine has no huge pages of %s; see /sys/kernel/mm/hugepages",
			 size_name(page_size));
		return text;
	}
	if (err == EINVAL)
		return "the size must be a multiple of the huge page";
	if (err != ENOMEM)
		return NULL;
	snprintf(text, sizeof(text),
		 "needs %llu huge pages of %s; the pool has %ld free, %ld of them promised to others.\n"
		 "  Get them: echo %llu > /sys/kernel/mm/hugepages/hugepages-%llukB/nr_hugepages\n"
		 "  or boot with hugepagesz=%s hugepages=%llu.\n"
		 "  A hugetlb cgroup (rsvd limit) refuses as well, and so do pages in CMA or movable memory",
		 (size / page_size), size_name(page_size), pool.free,
		 pool.reserved, (pool.total + size / page_size),
		 (page_size / KIB), size_name(page_size),
		 (size / page_size));
	return text;
}

static int create_file(struct vm *vm)
{
	const struct options *opt = vm->opt;
	struct kvm_create_guest_memfd args = { .size = opt->private };
	int fd, known;

	if (!vm_check(vm->fd, KVM_CAP_GUEST_MEMFD))
		die(0, "needs a kernel with guest_memfd, 6.8 or later",
		    "KVM_CHECK_EXTENSION(KVM_CAP_GUEST_MEMFD) = 0");
	if (opt->page_size != PAGE) {
		known = vm_check(vm->fd, KVM_CAP_GUEST_MEMFD_FLAGS);
		if (!(known & GUEST_MEMFD_FLAG_HUGETLB))
			die(0, "use --hugepage 0, or a kernel with huge pages in guest_memfd",
			    "KVM_CHECK_EXTENSION(KVM_CAP_GUEST_MEMFD_FLAGS) = 0x%x: no bit 0x%llx, GUEST_MEMFD_FLAG_HUGETLB",
			    known, GUEST_MEMFD_FLAG_HUGETLB);
		args.flags = GUEST_MEMFD_FLAG_HUGETLB;
		gmem_set_page_size(&args, log2_of(opt->page_size));
	}

	fd = ioctl(vm->fd, KVM_CREATE_GUEST_MEMFD, &args);
	if (fd < 0) {
		int err = errno;

		die(err, advise_create(err, opt->private, opt->page_size),
		    "KVM_CREATE_GUEST_MEMFD(size 0x%llx, flags 0x%llx, huge_page_size_log2 %d)",
		    args.size, args.flags, args.flags ? log2_of(opt->page_size) : 0);
	}
	return fd;
}

/*
 * Private or shared is a property of guest physical memory and is kept by the VM. (A
 * kernel that converts in place keeps it in the file, and then this is the function
 * that changes: same range, an ioctl on the file instead, and new files start private.)
 */
static void make_private(struct vm *vm, __u64 gpa, __u64 size)
{
	struct kvm_memory_attributes attributes = {
		.address = gpa,
		.size = size,
		.attributes = KVM_MEMORY_ATTRIBUTE_PRIVATE,
	};

	if (ioctl(vm->fd, KVM_SET_MEMORY_ATTRIBUTES, &attributes) < 0)
		die(errno, errno == ENOTTY ? "needs CONFIG_KVM_SW_PROTECTED_VM" : NULL,
		    "KVM_SET_MEMORY_ATTRIBUTES(address 0x%llx, size 0x%llx, attributes 0x%llx)",
		    attributes.address, attributes.size, attributes.attributes);
}

void memory_add_private(struct vm *vm)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = SLOT_PRIVATE,
		.flags = KVM_MEM_GUEST_MEMFD,
		.guest_phys_addr = PRIVATE_BASE,
		.memory_size = vm->opt->private,
	};

	vm->gmem_fd = create_file(vm);
	vm->private_hva = map_aligned(vm->opt->private, GIB, "shared half of the private slot");
	region.userspace_addr = (unsigned long)vm->private_hva;
	region.guest_memfd = vm->gmem_fd;
	region.guest_memfd_offset = 0;
	set_slot(vm, &region);
	if (!vm->opt->no_attribute)
		make_private(vm, PRIVATE_BASE, vm->opt->private);
}

/* Size 0 removes a slot, and with it what KVM has mapped of it. The file stays. */
void memory_remove_private(struct vm *vm)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = SLOT_PRIVATE,
		.guest_phys_addr = PRIVATE_BASE,
	};

	set_slot(vm, &region);
}

/*
 * How many pages of this process's own memory are behind a range? Swapped out counts:
 * only a page that was never touched is neither present nor swapped.
 */
__u64 memory_resident(const void *hva, __u64 size)
{
	__u64 entries[512], left = size / PAGE, count = 0;
	off_t pos = (unsigned long)hva / PAGE * sizeof(entries[0]);
	int fd;

	fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die(errno, "needs a kernel with CONFIG_PROC_PAGE_MONITOR",
		    "open(\"/proc/self/pagemap\")");
	while (left) {
		size_t want = (left < 512 ? left : 512) * sizeof(entries[0]);

		if (pread(fd, entries, want, pos) != (ssize_t)want)
			die(errno, NULL, "pread(\"/proc/self/pagemap\", %zu bytes at 0x%lx)", want,
			    (long)pos);
		for (size_t i = 0; i < want / sizeof(entries[0]); i++)
			count += !!(entries[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED));
		pos += want;
		left -= want / sizeof(entries[0]);
	}
	close(fd);
	return count;
}

/*
 * What has the file allocated? cachestat() counts the pages in the page cache of any
 * file one may write to, without mapping or reading it. One answer for each block.
 */
bool memory_map_units(int gmem_fd, __u64 size, __u16 *map)
{
	for (__u64 off = 0; off < size; off += BLOCK) {
		struct cachestat_range range = { .off = off, .len = BLOCK };
		struct cachestat stat;

		if (off + range.len > size)
			range.len = size - off;
		if (syscall(__NR_cachestat, gmem_fd, &range, &stat, 0) < 0)
			return false;
		map[off / BLOCK] = stat.nr_cache;
	}
	return true;
}
