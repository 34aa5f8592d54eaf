// SPDX-License-Identifier: GPL-2.0
/*
 * An ELF program that runs in the guest instead of a Linux, as soon as the vCPU runs, in 64-bit
 * mode, with every address mapped to itself. Its text, its stack and its page tables are in
 * ordinary memory, because KVM has to read them:
 *
 *        4K  page tables: 512 entries of 1G
 *      512K  top of the stack
 *       1M   the program, as it was linked
 *
 * The program is entered like a function with three arguments: the start of private memory, the
 * size of private memory, the size of a unit.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/elf.h>

#include "vmm.h"

#define PML4_ADDR		(4 * KIB)
#define PDPT_ADDR		(8 * KIB)
#define STACK_TOP		(512 * KIB)

#define PTE_TABLE		(BIT_ULL(0) | BIT_ULL(1))	/* present, writable */
#define PTE_1G			(PTE_TABLE | BIT_ULL(7))
#define NR_ENTRIES		512

#define CR0_PE			BIT_ULL(0)
#define CR0_WP			BIT_ULL(16)
#define CR0_PG			BIT_ULL(31)
#define CR4_PAE			BIT_ULL(5)
#define EFER_LME		BIT_ULL(8)
#define EFER_LMA		BIT_ULL(10)

static void
load_segment(struct vm *vm, const void *image, size_t size, const struct elf64_phdr *phdr)
{
	if (phdr->p_offset + phdr->p_filesz > size || phdr->p_filesz > phdr->p_memsz)
		die(0, NULL, "\"%s\" is truncated", vm->opt->payload);
	if (phdr->p_paddr < STACK_TOP || phdr->p_paddr + phdr->p_memsz > vm->opt->memory)
		die(0, "link it at 1M; give the guest more with --memory",
		    "\"%s\" has a segment at 0x%llx, 0x%llx bytes", vm->opt->payload,
		    phdr->p_paddr, phdr->p_memsz);
	memcpy(vm->memory + phdr->p_paddr, image + phdr->p_offset, phdr->p_filesz);
}

static __u64 load_elf(struct vm *vm)
{
	const struct elf64_hdr *ehdr;
	const struct elf64_phdr *phdr;
	__u64 entry;
	size_t size;

	ehdr = map_file(vm->opt->payload, &size);
	if (size < sizeof(*ehdr) || memcmp(ehdr->e_ident, ELFMAG, SELFMAG) ||
	    ehdr->e_type != ET_EXEC || ehdr->e_machine != EM_X86_64 ||
	    ehdr->e_phoff + ehdr->e_phnum * sizeof(*phdr) > size)
		die(0, "link it with -static -nostdlib -no-pie", "\"%s\" is no program for x86-64",
		    vm->opt->payload);
	phdr = (const void *)ehdr + ehdr->e_phoff;
	for (int i = 0; i < ehdr->e_phnum; i++)
		if (phdr[i].p_type == PT_LOAD && phdr[i].p_memsz)
			load_segment(vm, ehdr, size, &phdr[i]);
	entry = ehdr->e_entry;
	munmap((void *)ehdr, size);
	return entry;
}

void payload_load(struct vm *vm)
{
	__u64 *pml4 = (void *)(vm->memory + PML4_ADDR);
	__u64 *pdpt = (void *)(vm->memory + PDPT_ADDR);

	vm->payload_entry = load_elf(vm);
	pml4[0] = PDPT_ADDR | PTE_TABLE;
	for (__u64 i = 0; i < NR_ENTRIES; i++)
		pdpt[i] = i * GIB | PTE_1G;
}

static struct kvm_segment segment(__u16 selector, __u8 type)
{
	return (struct kvm_segment){
		.limit = 0xffffffff, .selector = selector, .type = type,
		.present = 1, .s = 1, .g = 1, .l = type == 0xb, .db = type != 0xb,
	};
}

void payload_setup_registers(struct vm *vm)
{
	struct kvm_regs regs = {
		.rip = vm->payload_entry,
		.rsp = STACK_TOP - 8,	/* as if the program had been called */
		.rdi = PRIVATE_BASE, .rsi = vm->opt->private, .rdx = vm->opt->page_size,
		.rflags = 0x2,		/* bit 1 is always set; interrupts off */
	};
	struct kvm_sregs sregs;

	if (ioctl(vm->vcpu_fd, KVM_GET_SREGS, &sregs) < 0)
		die(errno, NULL, "KVM_GET_SREGS()");
	sregs.cs = segment(0x8, 0xb);
	sregs.ds = segment(0x10, 0x3);
	sregs.es = sregs.ds;
	sregs.ss = sregs.ds;
	sregs.cr0 = CR0_PG | CR0_WP | CR0_PE;
	sregs.cr3 = PML4_ADDR;
	sregs.cr4 = CR4_PAE;
	sregs.efer = EFER_LMA | EFER_LME;
	if (ioctl(vm->vcpu_fd, KVM_SET_SREGS, &sregs) < 0)
		die(errno, NULL, "KVM_SET_SREGS(cr0 0x%llx, cr3 0x%llx, efer 0x%llx)", sregs.cr0,
		    sregs.cr3, sregs.efer);
	if (ioctl(vm->vcpu_fd, KVM_SET_REGS, &regs) < 0)
		die(errno, NULL, "KVM_SET_REGS(rip 0x%llx)", regs.rip);
}
