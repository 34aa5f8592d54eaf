// SPDX-License-Identifier: GPL-2.0
/*
 * Conversion from private to shared and back. The guest asks for it by a hypercall:
 *
 *   guest                           here                          the host's kernel
 *   KVM_HC_MAP_GPA_RANGE ---------> KVM_EXIT_HYPERCALL
 *                                   KVM_SET_MEMORY_ATTRIBUTES2 -> all of the range, or nothing
 *   0 or an error <---------------- KVM_RUN
 *
 * A conversion is one call on the file, in bytes of the file. Contents stay where they are: the
 * page that the guest shares is the page that the host then finds in its view, and the other
 * way round. This program does not map, unmap, allocate or free anything for a conversion. The
 * kernel splits huge pages around shared pages, and merges them when all is private again.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <linux/kvm_para.h>

#include "guest/port.h"
#include "vmm.h"

#define TRIES			5
#define RETRY_USEC		2000

/*
 * Converts a range of the file; returns 0 or a negative errno. EAGAIN means that nothing has
 * changed, because a user holds on to the page at error_offset, and must let go first. A VMM with
 * devices would now have them unpin pages of the range. Other references may be gone in a moment,
 * so a few more tries are right, but no more than a few, because a pin can last for ever: then the
 * guest gets the error, and may ask again.
 */
static int set_attributes(struct vm *vm, __u64 offset, __u64 size, __u64 attributes)
{
	struct kvm_memory_attributes2 args = {
		.offset = offset, .size = size, .attributes = attributes,
	};

	for (int tries = 1; ioctl(vm->gmem_fd, KVM_SET_MEMORY_ATTRIBUTES2, &args) < 0; tries++) {
		int err = errno;

		/* If we hold a page, the error must be about that page. */
		if (err == EAGAIN && vm->pin[0] && args.error_offset != vm->pinned)
			vm->report->wrong_offsets++;
		if (err == EAGAIN && tries < TRIES) {
			vm->report->retries++;
			usleep(RETRY_USEC);
			continue;
		}
		if (vm->opt->stats)
			fprintf(stderr,
				"conversion to %s at 0x%llx, 0x%llx bytes: errno %d at 0x%llx\n",
				attributes ? "private" : "shared", offset, size, err,
				args.error_offset);
		return -err;
	}
	vm->report->converted += size / PAGE;
	memset(vm->shared + offset / PAGE, !attributes, size / PAGE);
	return 0;
}

/* Returns the result of the guest's hypercall: KVM's error numbers are those of Linux. */
__s64 convert_hypercall(struct vm *vm)
{
	const __u64 size = vm->opt->private, *args = (const __u64 *)vm->run->hypercall.args;
	__u64 gpa = args[0], pages = args[1];
	bool private = args[2] & KVM_MAP_GPA_RANGE_ENCRYPTED;
	int err;

	vm->report->conversions++;
	if (gpa < PRIVATE_BASE || pages > size / PAGE ||
	    gpa - PRIVATE_BASE > size - pages * PAGE)
		err = -EINVAL;	/* ordinary memory is shared for ever */
	else if (vm->opt->mistake == MISTAKE_DEAF)
		err = 0;
	else
		err = set_attributes(vm, gpa - PRIVATE_BASE, pages * PAGE,
				     private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0);
	vm->report->refused += !!err;
	return err;
}

/*
 * Complements all words of a page; returns 0 or a negative errno. An access to a private page is
 * a SIGBUS, and only the guest says which pages it has made private. So the host asks the kernel:
 * MADV_POPULATE_WRITE fails for a private page, and faults in a shared one.
 */
static int complement(__u64 *words)
{
	if (madvise(words, PAGE, MADV_POPULATE_WRITE) < 0)
		return -errno;
	for (size_t i = 0; i < PAGE / sizeof(*words); i++)
		words[i] = ~words[i];
	return 0;
}

static int unpin(struct vm *vm)
{
	if (vm->pin[0]) {
		close(vm->pin[0]);
		close(vm->pin[1]);
		vm->pin[0] = 0;
	}
	return 0;
}

/* Pins a page: vmsplice() puts the page itself into a pipe, not a copy. */
static int pin(struct vm *vm, void *page)
{
	struct iovec iov = { .iov_base = page, .iov_len = PAGE };
	int err;

	unpin(vm);
	vm->pinned = (__u8 *)page - vm->view;
	if (pipe2(vm->pin, O_CLOEXEC) < 0)
		return -errno;
	if (vmsplice(vm->pin[1], &iov, 1, 0) == PAGE)
		return 0;
	err = -errno;
	unpin(vm);
	return err;
}

/* Does what the guest asks for, see guest/port.h; returns 0 or a negative errno. */
int convert_host_do(struct vm *vm, int what, __u64 page)
{
	__u8 *at = vm->view + page * PAGE;

	if (page >= vm->file_size / PAGE)
		return -EINVAL;
	switch (what) {
	case HOST_COMPLEMENT:
		return complement((__u64 *)at);
	case HOST_PIN:
		return pin(vm, at);
	case HOST_UNPIN:
		return unpin(vm);
	}
	return -EINVAL;
}
