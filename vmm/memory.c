// SPDX-License-Identifier: GPL-2.0
/*
 * The guest's memory: an ordinary slot and a private slot, or only a shared slot. This file
 * and convert.c are the main part of the program.
 *
 *   gpa 0 .. --memory                       gpa 4G .. + --private
 *   +-----------------------------+         +--------------------------------------+
 *   | ordinary: anonymous memory  |         | private: units of a guest_memfd      |
 *   | of this process             |         | (and a view of it in this process)   |
 *   +-----------------------------+         +--------------------------------------+
 *
 * or, with --shared, one slot for all of it:
 *
 *   gpa 0 .. --shared
 *   +-----------------------------------------------------------------------------+
 *   | units of a guest_memfd that is shared all over (and a view of it)           |
 *   +-----------------------------------------------------------------------------+
 *
 * Three calls make a slot with a file:
 *
 *   KVM_CREATE_GUEST_MEMFD          a file, private all over, or GUEST_MEMFD_FLAG_INIT_SHARED;
 *                                   with GUEST_MEMFD_FLAG_HUGETLB its units are pages of the
 *                                   hugetlb pool, promised (reserved) now and taken at the
 *                                   first touch
 *   mmap()                          the view, for pages that will be shared. Made once: the
 *                                   kernel removes pages from it that become private, and
 *                                   the next access to a shared page puts the page in
 *   KVM_SET_USER_MEMORY_REGION2     a slot with one backing, the file; KVM gets the view as
 *                                   well, because it reads shared pages through the view
 *
 * KVM maps the guest by pages as large as three things allow: the piece of the unit, the
 * slot's bounds, and the alignment of guest address and file offset to each other.
 * Everything here is aligned for 1G.
 *
 * In a file that can convert, the VMM uses the view only for the pages that it has to use. A page
 * that was used through the view might be pinned, so from then on it is a piece of its own, and the
 * rest of the unit becomes the pieces around it. In a file with --shared, nothing can convert, and
 * the view has huge pages as well, if its address and the file's offset are aligned to each other.
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

#include "guest/port.h"
#include "vmm.h"

#ifndef __NR_cachestat
#define __NR_cachestat		451
#endif

static int log2_of(__u64 size)
{
	return __builtin_ctzll(size);
}

/* Maps @size bytes at a multiple of @align, which may be more than mmap() guarantees. */
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
		.slot = SLOT_LOW,
		.guest_phys_addr = 0,
		.memory_size = vm->opt->memory,
	};

	vm->memory = map_aligned(vm->opt->memory, BLOCK, "ordinary memory");
	/* 4K pages only: so every 2M or 1G page that KVM counts is in the private slot. */
	madvise(vm->memory, vm->opt->memory, MADV_NOHUGEPAGE);
	region.userspace_addr = (unsigned long)vm->memory;
	set_slot(vm, &region);
}

/*
 * Maps all ordinary memory into the guest before it runs, so that every fault counted
 * from then on is in the private slot. The measurement needs that, the guest does not:
 * a kernel without KVM_CAP_PRE_FAULT_MEMORY just counts some thousand faults more.
 * The memory must be populated first, or KVM would map the zero page, which a later fault
 * would have to replace.
 */
void memory_populate_ordinary(struct vm *vm)
{
	struct kvm_pre_fault_memory range = { .gpa = 0, .size = vm->opt->memory };

	if (madvise(vm->memory, range.size, MADV_POPULATE_WRITE) < 0)
		die(errno, "is there that much free memory?",
		    "madvise(ordinary memory, %s, MADV_POPULATE_WRITE)", size_name(range.size));
	if (!vm_check(vm->fd, KVM_CAP_PRE_FAULT_MEMORY))
		return;
	while (range.size)	/* the ioctl advances gpa and shrinks size by its progress */
		if (ioctl(vm->vcpu_fd, KVM_PRE_FAULT_MEMORY, &range) < 0 && errno != EINTR &&
		    errno != EAGAIN)
			die(errno, NULL, "KVM_PRE_FAULT_MEMORY(gpa 0x%llx, size 0x%llx)", range.gpa,
			    range.size);
}

/* Returns what to do about a failed creation of the file, or NULL. */
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

/* Requires that the file says which pages are private; this program knows no other way. */
static void need_in_place(struct vm *vm)
{
	int attributes = vm_check(vm->fd, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES);

	if (!(attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE))
		die(0,
		    "boot the host with kvm.gmem_in_place_conversion=1, if its kernel has that;\n"
		    "  without, private memory needs a second backing for what is shared",
		    "KVM_CHECK_EXTENSION(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES) = 0x%x: no bit 0x%llx, KVM_MEMORY_ATTRIBUTE_PRIVATE",
		    attributes, KVM_MEMORY_ATTRIBUTE_PRIVATE);
}

static int create_file(struct vm *vm)
{
	const struct options *opt = vm->opt;
	struct kvm_create_guest_memfd args = {
		.size = vm->file_size, .flags = GUEST_MEMFD_FLAG_MMAP,
	};
	int fd, known;

	if (!vm_check(vm->fd, KVM_CAP_GUEST_MEMFD))
		die(0, "needs a kernel with guest_memfd, 6.8 or later",
		    "KVM_CHECK_EXTENSION(KVM_CAP_GUEST_MEMFD) = 0");
	if (!opt->shared)
		need_in_place(vm);
	if (opt->page_size != PAGE) {
		known = vm_check(vm->fd, KVM_CAP_GUEST_MEMFD_FLAGS);
		if (!(known & GUEST_MEMFD_FLAG_HUGETLB))
			die(0,
			    "use --hugepage 0, or a kernel with huge pages in guest_memfd that was\n"
			    "  booted with kvm.gmem_in_place_conversion=1",
			    "KVM_CHECK_EXTENSION(KVM_CAP_GUEST_MEMFD_FLAGS) = 0x%x: no bit 0x%llx, GUEST_MEMFD_FLAG_HUGETLB",
			    known, GUEST_MEMFD_FLAG_HUGETLB);
		args.flags |= GUEST_MEMFD_FLAG_HUGETLB;
		args.huge_page_size_log2 = log2_of(opt->page_size);
	}
	if (opt->shared || opt->mistake == MISTAKE_SHARED)
		args.flags |= GUEST_MEMFD_FLAG_INIT_SHARED;

	fd = ioctl(vm->fd, KVM_CREATE_GUEST_MEMFD, &args);
	if (fd < 0) {
		int err = errno;

		die(err, advise_create(err, args.size, opt->page_size),
		    "KVM_CREATE_GUEST_MEMFD(size 0x%llx, flags 0x%llx, huge_page_size_log2 %d)",
		    args.size, args.flags, args.huge_page_size_log2);
	}
	return fd;
}

/* Maps the file at addresses that are as aligned as the slot is. */
static void map_view(struct vm *vm)
{
	__u64 size = vm->file_size;

	vm->view = map_aligned(size, GIB, "the view");
	if (vm->opt->mistake == MISTAKE_ORDINARY)
		return;
	if (mmap(vm->view, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, vm->gmem_fd, 0) ==
	    MAP_FAILED)
		die(errno, errno == ENODEV ? "the file lacks GUEST_MEMFD_FLAG_MMAP" : NULL,
		    "mmap(guest_memfd, %s)", size_name(size));
}

/* Creates the file, its view, and the slot that the file backs. */
static void add_file(struct vm *vm, int slot, __u64 gpa, __u64 size)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = slot, .guest_phys_addr = gpa, .memory_size = size,
	};

	vm->file_size = size;
	vm->gmem_fd = create_file(vm);
	map_view(vm);
	vm->shared = malloc(size / PAGE);
	if (!vm->shared)
		die(errno, NULL, "no memory for the state of %s", size_name(size));
	memset(vm->shared, vm->opt->shared || vm->opt->mistake == MISTAKE_SHARED, size / PAGE);
	region.userspace_addr = (unsigned long)vm->view;
	if (vm->opt->mistake != MISTAKE_ORDINARY) {
		region.flags = KVM_MEM_GUEST_MEMFD;
		region.guest_memfd = vm->gmem_fd;
		region.guest_memfd_offset = 0;
	}
	set_slot(vm, &region);
}

void memory_add_private(struct vm *vm)
{
	add_file(vm, SLOT_PRIVATE, PRIVATE_BASE, vm->opt->private);
}

void memory_add_shared(struct vm *vm)
{
	add_file(vm, SLOT_LOW, 0, vm->opt->memory);
	vm->memory = vm->view;
}

/*
 * Populates shared memory, as a VMM does that restores a snapshot: huge pages stay whole. Without
 * them in the view (MISTAKE_SMALL), only pieces of 4K would be left.
 */
void memory_populate_shared(struct vm *vm)
{
	if (vm->opt->mistake == MISTAKE_SMALL &&
	    madvise(vm->view, vm->file_size, MADV_NOHUGEPAGE) < 0)
		die(errno, NULL, "madvise(the view, %s, MADV_NOHUGEPAGE)",
		    size_name(vm->file_size));
	if (madvise(vm->view, vm->file_size, MADV_POPULATE_WRITE) < 0)
		die(errno, NULL, "madvise(the view, %s, MADV_POPULATE_WRITE)",
		    size_name(vm->file_size));
}

/* Removes the file's slot, by size 0, and with it KVM's mappings of it. The file stays. */
void memory_remove_file(struct vm *vm)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = vm->opt->shared ? SLOT_LOW : SLOT_PRIVATE,
		.guest_phys_addr = vm->opt->shared ? 0 : PRIVATE_BASE,
	};

	set_slot(vm, &region);
}

/* Frees all memory. The file lives while it is open, or mapped, or a page of it is pinned. */
void memory_destroy(struct vm *vm)
{
	if (vm->gmem_fd >= 0) {
		convert_host_do(vm, HOST_UNPIN, 0);
		close(vm->gmem_fd);
		munmap(vm->view, vm->file_size);
		free(vm->shared);
	}
	if (!vm->opt->shared)
		munmap(vm->memory, vm->opt->memory);
}

/*
 * Returns how many pages this process can read through its view. MADV_POPULATE_READ does what an
 * access would do, and says EFAULT where the access would end in a SIGBUS.
 */
__u64 memory_reachable(__u8 *view, __u64 size)
{
	__u64 count = 0;

	for (__u64 off = 0; off < size; off += PAGE) {
		if (!madvise(view + off, PAGE, MADV_POPULATE_READ))
			count++;
		else if (errno != EFAULT)
			die(errno, "needs a kernel with MADV_POPULATE_READ, 5.14 or later",
			    "madvise(view + 0x%llx, 4K, MADV_POPULATE_READ)", off);
	}
	return count;
}

/*
 * Counts the pages that the file has allocated, for each block. cachestat() counts the pages in
 * the page cache of any file one may write to, without mapping or reading the file. Returns
 * false if the kernel does not have cachestat().
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
