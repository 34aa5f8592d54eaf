// SPDX-License-Identifier: GPL-2.0
/*
 * A kernel ("Image"), an initramfs and a device tree, in the guest's memory:
 *
 *   RAM_BASE    the kernel, with the memory that it needs behind its end
 *   then        the initramfs, at a multiple of 2M
 *   then        the device tree, at a multiple of 2M
 */
#include <string.h>
#include <sys/mman.h>

#include "arm64.h"

/* The first 64 bytes of an Image, see Documentation/arch/arm64/booting.rst. */
struct image_header {
	__u32 code[2];
	__u64 text_offset, image_size, flags, reserved[3];
	__u32 magic, pe;
};

#define IMAGE_MAGIC		0x644d5241	/* "ARM\x64" */

static __u64 align(__u64 address)
{
	return (address + BLOCK - 1) & ~(BLOCK - 1);
}

/* Returns the end of the memory that the kernel needs. */
static __u64 load_kernel(struct vm *vm)
{
	const struct image_header *header;
	__u64 end;
	size_t size;

	header = map_file(vm->opt->kernel, &size);
	if (size < sizeof(*header) || header->magic != IMAGE_MAGIC || !header->image_size)
		die(0, "arch/arm64/boot/Image of a kernel build is one", "\"%s\" is no Image",
		    vm->opt->kernel);
	vm->entry = RAM_BASE + header->text_offset;
	memory_load(vm, vm->entry, header, size);
	end = vm->entry + (header->image_size > size ? header->image_size : size);
	munmap((void *)header, size);
	return end;
}

void load_linux(struct vm *vm)
{
	__u64 next = align(load_kernel(vm));
	const void *image;

	if (vm->opt->initrd) {
		image = map_file(vm->opt->initrd, &vm->initrd_size);
		vm->initrd = next;
		memory_load(vm, next, image, vm->initrd_size);
		munmap((void *)image, vm->initrd_size);
		next = align(next + vm->initrd_size);
	}
	vm->fdt = next;
	if (vm->fdt + BLOCK > RAM_BASE + vm->opt->memory - POOL_SIZE)
		die(0, "give the guest more with --memory", "the image doesn't fit into %s",
		    size_name(vm->opt->memory));
	fdt_build(vm);
	memory_loaded(vm);
}
