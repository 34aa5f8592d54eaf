// SPDX-License-Identifier: GPL-2.0
/*
 * From a bzImage to a vCPU that is about to execute its first instruction.
 *
 * The 32-bit boot protocol (Documentation/arch/x86/boot.rst): protected mode, flat
 * segments, no paging, interrupts off, %esi at the boot parameters. The kernel makes
 * its own page tables. Memory from address 0, ordinary or shared, looks like this:
 *
 *       4K  a GDT with the two segments the protocol names
 *      64K  boot parameters ("zero page")
 *     128K  command line
 *       1M  the protected-mode part of the bzImage; it moves to where it wants to be
 *     then  the initramfs, above the memory that the kernel needs for moving
 *
 * The memory map tells the guest of this memory only. Private memory must not be in the
 * map: the kernel would put its page tables there, and KVM could not walk them (when KVM
 * has to emulate an instruction, it reads page tables through this process's view, which
 * has no private pages). The guest adds private memory later, as movable.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <asm/bootparam.h>
#include <asm/kvm_para.h>

#include "vmm.h"

#define GDT_ADDR		(4 * KIB)
#define BOOT_PARAMS_ADDR	(64 * KIB)
#define CMDLINE_ADDR		(128 * KIB)
#define KERNEL_ADDR		(1 * MIB)
#define EBDA_ADDR		(639 * KIB)

#define BOOT_CS			0x10
#define BOOT_DS			0x18

#define SETUP_HEADER_OFFSET	0x1f1
#define SETUP_HEADER_MAGIC	0x53726448	/* "HdrS" */
#define OLDEST_PROTOCOL		0x020a		/* the first with an init_size */

/* Returns the end of the memory that the kernel needs to decompress itself where it prefers. */
static __u64 kernel_end(const struct setup_header *header)
{
	__u64 start = header->pref_address > KERNEL_ADDR ? header->pref_address : KERNEL_ADDR;

	return start + header->init_size;
}

static void load_kernel(struct vm *vm, struct boot_params *params)
{
	const char *path = vm->opt->kernel;
	const struct setup_header *header;
	size_t size, setup_size;
	const void *image;

	image = map_file(path, &size);
	header = image + SETUP_HEADER_OFFSET;
	if (size < KIB || header->header != SETUP_HEADER_MAGIC ||
	    header->version < OLDEST_PROTOCOL || !(header->loadflags & LOADED_HIGH))
		die(0, "arch/x86/boot/bzImage of a kernel build is one", "\"%s\" is no bzImage",
		    path);
	setup_size = ((header->setup_sects ? header->setup_sects : 4) + 1) * 512;
	if (setup_size > size)
		die(0, NULL, "\"%s\" is truncated", path);
	if (kernel_end(header) > vm->opt->memory)
		die(0, "give the guest more with --memory",
		    "the kernel needs %llu MiB of memory, the guest has %s",
		    kernel_end(header) / MIB + 1, size_name(vm->opt->memory));

	memcpy(&params->hdr, header, sizeof(*header));
	memcpy(vm->memory + KERNEL_ADDR, image + setup_size, size - setup_size);
	params->hdr.type_of_loader = 0xff;
	params->hdr.code32_start = KERNEL_ADDR;
	params->hdr.cmd_line_ptr = CMDLINE_ADDR;
	munmap((void *)image, size);
}

static void load_initrd(struct vm *vm, struct boot_params *params)
{
	__u64 addr = (kernel_end(&params->hdr) + BLOCK - 1) & ~(BLOCK - 1);
	size_t size;
	const void *image;

	image = map_file(vm->opt->initrd, &size);
	if (addr + size > vm->opt->memory)
		die(0, "give the guest more with --memory",
		    "the initramfs of %zu MiB does not fit above the kernel, at %llu MiB",
		    (size_t)(size / MIB) + 1, addr / MIB);
	memcpy(vm->memory + addr, image, size);
	params->hdr.ramdisk_image = addr;
	params->hdr.ramdisk_size = size;
	munmap((void *)image, size);
}

/*
 * Writes the kernel's command line. On an emulated host, time is fragile: the command line
 * tells the guest how fast its clock runs (measuring the clock fails), and has it use the old
 * timer (interrupts of the local APIC's timer come seconds late). private= is for the guest's
 * init program, which finds it in its environment. Hot-added memory becomes movable, because
 * Linux never puts data there that KVM reads by itself.
 */
static void write_cmdline(struct vm *vm, const struct boot_params *params)
{
	size_t max = params->hdr.cmdline_size;
	char cmdline[2048];
	int khz, len;

	khz = ioctl(vm->vcpu_fd, KVM_GET_TSC_KHZ, 0);
	len = snprintf(cmdline, sizeof(cmdline),
		       "console=ttyS0 reboot=k panic=-1 nolapic_timer memhp_default_state=online_movable");
	if (khz > 0)
		len += snprintf(cmdline + len, sizeof(cmdline) - len, " tsc_early_khz=%d", khz);
	if (vm->opt->private)
		len += snprintf(cmdline + len, sizeof(cmdline) - len, " private=0x%llx,0x%llx",
				PRIVATE_BASE, vm->opt->private);
	len += snprintf(cmdline + len, sizeof(cmdline) - len, " %s", vm->opt->append);
	if (len >= (int)sizeof(cmdline) || len > (int)max)
		die(0, NULL, "the command line is too long: %d bytes", len);
	memcpy(vm->memory + CMDLINE_ADDR, cmdline, len + 1);
}

static void add_e820(struct boot_params *params, __u64 start, __u64 end)
{
	struct boot_e820_entry *entry = &params->e820_table[params->e820_entries++];

	entry->addr = start;
	entry->size = end - start;
	entry->type = 1;	/* usable */
}

void x86_load_linux(struct vm *vm)
{
	struct boot_params *params = (void *)(vm->memory + BOOT_PARAMS_ADDR);
	__u64 *gdt = (void *)(vm->memory + GDT_ADDR);

	load_kernel(vm, params);
	if (vm->opt->initrd)
		load_initrd(vm, params);
	write_cmdline(vm, params);
	add_e820(params, 0, EBDA_ADDR);
	add_e820(params, KERNEL_ADDR, vm->opt->memory);

	gdt[BOOT_CS / 8] = 0x00cf9b000000ffff;	/* 4G, 32 bit, execute and read */
	gdt[BOOT_DS / 8] = 0x00cf93000000ffff;	/* 4G, 32 bit, read and write */
}

/*
 * Sets the CPUID that KVM supports, without two features that get this guest into trouble:
 * XSAVE, whose state size an emulated host reports wrongly; and the APIC ids, which are
 * those of the CPU that this program happens to run on.
 */
static void setup_cpuid(struct vm *vm)
{
	enum { MAX_ENTRIES = 256 };
	struct kvm_cpuid2 *cpuid;

	cpuid = calloc(1, sizeof(*cpuid) + MAX_ENTRIES * sizeof(cpuid->entries[0]));
	if (!cpuid)
		die(errno, NULL, "no memory for CPUID");
	cpuid->nent = MAX_ENTRIES;
	if (ioctl(vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) < 0)
		die(errno, NULL, "KVM_GET_SUPPORTED_CPUID(nent %d)", MAX_ENTRIES);

	for (__u32 i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];

		switch (entry->function) {
		case 0x1:
			entry->ebx &= 0x00ffffff;	/* initial APIC id */
			entry->ecx &= ~(1U << 26 | 1U << 27);	/* XSAVE, OSXSAVE */
			break;
		case KVM_CPUID_FEATURES:
			/* "Ask by KVM_HC_MAP_GPA_RANGE for conversions": convert.c answers. */
			entry->eax |= 1U << KVM_FEATURE_HC_MAP_GPA_RANGE;
			break;
		case 0xb:
		case 0x1f:
			entry->edx = 0;			/* x2APIC id */
			break;
		case 0x8000001e:
			entry->eax = 0;			/* extended APIC id */
			break;
		}
	}
	if (ioctl(vm->vcpu_fd, KVM_SET_CPUID2, cpuid) < 0)
		die(errno, NULL, "KVM_SET_CPUID2(nent %u)", cpuid->nent);
	free(cpuid);
}

static void setup_segment(struct kvm_segment *segment, __u16 selector, __u8 type)
{
	*segment = (struct kvm_segment){
		.limit = 0xffffffff, .selector = selector, .type = type,
		.present = 1, .db = 1, .s = 1, .g = 1,
	};
}

static void setup_registers(struct vm *vm)
{
	struct kvm_regs regs = {
		.rip = KERNEL_ADDR,
		.rsi = BOOT_PARAMS_ADDR,
		.rflags = 0x2,		/* bit 1 is always set; interrupts off */
	};
	struct kvm_sregs sregs;

	if (ioctl(vm->vcpu_fd, KVM_GET_SREGS, &sregs) < 0)
		die(errno, NULL, "KVM_GET_SREGS()");
	setup_segment(&sregs.cs, BOOT_CS, 0xb);
	setup_segment(&sregs.ds, BOOT_DS, 0x3);
	sregs.es = sregs.ds;
	sregs.fs = sregs.ds;
	sregs.gs = sregs.ds;
	sregs.ss = sregs.ds;
	sregs.gdt.base = GDT_ADDR;
	sregs.gdt.limit = BOOT_DS + 7;
	sregs.cr0 |= 1;			/* protected mode */
	if (ioctl(vm->vcpu_fd, KVM_SET_SREGS, &sregs) < 0)
		die(errno, NULL, "KVM_SET_SREGS(cr0 0x%llx, cs 0x%x)", sregs.cr0, BOOT_CS);
	if (ioctl(vm->vcpu_fd, KVM_SET_REGS, &regs) < 0)
		die(errno, NULL, "KVM_SET_REGS(rip 0x%llx)", regs.rip);
}

void x86_setup_vcpu(struct vm *vm)
{
	setup_cpuid(vm);
	if (vm->opt->payload)
		payload_setup_registers(vm);
	else
		setup_registers(vm);
}
