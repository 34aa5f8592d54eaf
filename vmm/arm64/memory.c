// SPDX-License-Identifier: GPL-2.0
/*
 * The guest's memory: one slot, one file.
 *
 *   gpa 1G .. + --memory
 *   +--------------------------------------------------------------------+------+
 *   | units of a guest_memfd (and a view of it in this process)          | pool |
 *   +--------------------------------------------------------------------+------+
 *
 * The file of a protected guest is private all over. Three times, memory of it is shared:
 *
 *   before the guest   the kernel, the initramfs and the device tree are loaded through the view:
 *   runs               the VMM makes their memory shared, copies, and makes it private again.
 *                      The guest owns none of it yet, so the VMM may do so without being asked.
 *   the pool           when the guest boots, it shares the pool, by a hypercall for each 2M.
 *   any other time     when a program of the guest wants memory that the host can use.
 *
 * The hypercall makes KVM_RUN fail with EFAULT, and exit_reason is KVM_EXIT_MEMORY_FAULT. The
 * flag KVM_MEMORY_EXIT_FLAG_PRIVATE says what the guest wants the range to be:
 *
 *   guest              hypervisor              here                         host's kernel
 *   MEM_SHARE -------> remembers it, exits --> KVM_EXIT_MEMORY_FAULT
 *                                              KVM_SET_MEMORY_ATTRIBUTES2 -> converts it,
 *                      shares the range <------------------------------------ as a last step
 *   0 or an error <--- answers the guest <---- KVM_RUN
 *
 * There is nothing to return: the hypervisor answers the guest. A conversion that fails, or that
 * the VMM doesn't do, becomes an error for the guest when the vCPU runs again. A page fault on
 * memory that isn't as the guest uses it is the same exit, with the same thing to do, but the
 * vCPU has the same fault again if the conversion fails.
 *
 * An ordinary guest has the same file, which is shared all over, and makes no such calls.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "arm64.h"

#define TRIES			5
#define RETRY_USEC		2000

static __u64 page_of(__u64 gpa)
{
	return (gpa - RAM_BASE) / PAGE;
}

static bool is_memory(const struct vm *vm, __u64 gpa, __u64 size)
{
	return gpa >= RAM_BASE && size <= vm->opt->memory &&
	       gpa - RAM_BASE <= vm->opt->memory - size;
}

/* Maps @size bytes at a multiple of 1G, as the slot is aligned. */
static void *map_aligned(__u64 size)
{
	unsigned long start, aligned;
	void *map;

	map = mmap(NULL, size + GIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map == MAP_FAILED)
		die(errno, NULL, "mmap(%s and 1G)", size_name(size));
	start = (unsigned long)map;
	aligned = (start + GIB - 1) & ~(GIB - 1);
	if (aligned > start)
		munmap(map, aligned - start);
	munmap((void *)(aligned + size), start + GIB - aligned);
	return (void *)aligned;
}

static int create_file(struct vm *vm)
{
	struct kvm_create_guest_memfd args = {
		.size = vm->opt->memory, .flags = GUEST_MEMFD_FLAG_MMAP,
	};
	int fd;

	if (!vm->opt->protected)
		args.flags |= GUEST_MEMFD_FLAG_INIT_SHARED;
	if (vm->opt->page_size != PAGE) {
		args.flags |= GUEST_MEMFD_FLAG_HUGETLB;
		args.huge_page_size_log2 = __builtin_ctzll(vm->opt->page_size);
	}
	fd = ioctl(vm->fd, KVM_CREATE_GUEST_MEMFD, &args);
	if (fd < 0)
		die(errno, errno == ENOMEM ? "are there enough huge pages in the pool?" : NULL,
		    "KVM_CREATE_GUEST_MEMFD(size 0x%llx, flags 0x%llx, huge_page_size_log2 %d)",
		    args.size, args.flags, args.huge_page_size_log2);
	return fd;
}

void memory_create(struct vm *vm)
{
	struct kvm_userspace_memory_region2 region = {
		.flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = RAM_BASE,
		.memory_size = vm->opt->memory,
	};

	vm->gmem_fd = create_file(vm);
	vm->view = map_aligned(vm->opt->memory);
	if (mmap(vm->view, vm->opt->memory, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		 vm->gmem_fd, 0) == MAP_FAILED)
		die(errno, NULL, "mmap(guest_memfd, %s)", size_name(vm->opt->memory));
	vm->shared = malloc(vm->opt->memory / PAGE);
	if (!vm->shared)
		die(errno, NULL, "no memory for the state of %s", size_name(vm->opt->memory));
	memset(vm->shared, !vm->opt->protected, vm->opt->memory / PAGE);

	region.userspace_addr = (unsigned long)vm->view;
	region.guest_memfd = vm->gmem_fd;
	if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION2, &region) < 0)
		die(errno, NULL,
		    "KVM_SET_USER_MEMORY_REGION2(gpa 0x%llx, size 0x%llx, guest_memfd %d)",
		    RAM_BASE, vm->opt->memory, vm->gmem_fd);
}

/* Converts a range, with the lock; returns 0 or a negative errno. */
static int convert(struct vm *vm, __u64 gpa, __u64 size, bool private)
{
	struct kvm_memory_attributes2 args = {
		.offset = gpa - RAM_BASE, .size = size,
		.attributes = private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
	};

	if (ioctl(vm->gmem_fd, KVM_SET_MEMORY_ATTRIBUTES2, &args) < 0)
		return -errno;
	memset(vm->shared + page_of(gpa), !private, size / PAGE);
	return 0;
}

/* Copies a part of the image to where the guest finds it. Whole pages of it become shared. */
void memory_load(struct vm *vm, __u64 gpa, const void *from, size_t size)
{
	__u64 start = gpa / PAGE * PAGE, end = (gpa + size + PAGE - 1) / PAGE * PAGE;
	int err;

	if (!is_memory(vm, start, end - start))
		die(0, "give the guest more with --memory", "the guest has no memory at 0x%llx",
		    gpa);
	if (vm->opt->protected) {
		err = convert(vm, start, end - start, false);
		if (err)
			die(-err, NULL, "KVM_SET_MEMORY_ATTRIBUTES2(gpa 0x%llx, size 0x%llx)",
			    start, end - start);
	}
	memcpy(vm->view + gpa - RAM_BASE, from, size);
}

/* The image is complete: make all of it private. The contents stay. */
void memory_loaded(struct vm *vm)
{
	int err;

	if (!vm->opt->protected)
		return;
	err = convert(vm, RAM_BASE, vm->opt->memory, true);
	if (err)
		die(-err, NULL, "KVM_SET_MEMORY_ATTRIBUTES2(all of the memory, private)");
}

/*
 * Returns where a range of shared memory is, or NULL: all addresses come from the guest, which may
 * be wrong, or want the VMM to access what it can't. Call this with the lock, and use the memory
 * before you release the lock.
 */
void *memory_at(struct vm *vm, __u64 gpa, __u64 size)
{
	if (!size || !is_memory(vm, gpa, size))
		return NULL;
	for (__u64 page = page_of(gpa); page <= page_of(gpa + size - 1); page++)
		if (!vm->shared[page])
			return NULL;
	return vm->view + gpa - RAM_BASE;
}

/* The guest has never asked for this page of its kernel, i.e. this must fail. */
static void convert_unasked(struct vm *vm)
{
	vm->report.greedy++;
	vm->report.greedy_worked += convert(vm, vm->entry, PAGE, false) != -EPERM;
}

static int try_convert(struct vm *vm, __u64 gpa, __u64 size, bool private)
{
	int err = -EINVAL;

	pthread_mutex_lock(&vm->lock);
	if (is_memory(vm, gpa, size) && !(private && vm->opt->refuses))
		err = convert(vm, gpa, size, private);
	if (vm->opt->greedy)
		convert_unasked(vm);
	pthread_mutex_unlock(&vm->lock);
	return err;
}

/*
 * Does what the guest has asked for; returns 0 or a negative errno. EAGAIN means that nothing has
 * changed, because a page is in use, which may be over in a moment: hence a few more tries, between
 * which devices can finish.
 */
int memory_convert(struct vm *vm, __u64 gpa, __u64 size, bool private)
{
	struct report *report = &vm->report;
	int err = try_convert(vm, gpa, size, private);

	for (int tries = 1; err == -EAGAIN && tries < TRIES; tries++) {
		usleep(RETRY_USEC);
		err = try_convert(vm, gpa, size, private);
	}

	pthread_mutex_lock(&vm->lock);
	if (!err) {
		report->converted += size / PAGE;
		report->shared += !private;
		report->unshared += private;
	}
	report->refused += !!err;
	pthread_mutex_unlock(&vm->lock);
	return err;
}

/*
 * Uses shared pages, as a device would: in each whose first word is @tag, complements the second
 * word. Returns how many pages that were.
 */
__u64 memory_answer(struct vm *vm, __u64 tag)
{
	__u64 count = 0;

	pthread_mutex_lock(&vm->lock);
	for (__u64 page = 0; page < vm->opt->memory / PAGE; page++) {
		__u64 *words = (__u64 *)(vm->view + page * PAGE);

		if (!vm->shared[page] || words[0] != tag)
			continue;
		words[1] = ~words[1];
		count++;
	}
	vm->report.answered += count;
	pthread_mutex_unlock(&vm->lock);
	return count;
}

__u64 memory_count_shared(struct vm *vm)
{
	__u64 count = 0;

	for (__u64 page = 0; page < vm->opt->memory / PAGE; page++)
		count += vm->shared[page];
	return count;
}

/*
 * Returns how many pages this process can read through its view. MADV_POPULATE_READ does what an
 * access would do, and says EFAULT where the access would end in a SIGBUS.
 */
__u64 memory_reachable(struct vm *vm)
{
	__u64 count = 0;

	for (__u64 off = 0; off < vm->opt->memory; off += PAGE) {
		if (!madvise(vm->view + off, PAGE, MADV_POPULATE_READ))
			count++;
		else if (errno != EFAULT)
			die(errno, NULL, "madvise(view + 0x%llx, 4K, MADV_POPULATE_READ)", off);
	}
	return count;
}

void memory_destroy(struct vm *vm)
{
	close(vm->gmem_fd);
	munmap(vm->view, vm->opt->memory);
	free(vm->shared);
}
