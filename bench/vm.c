// SPDX-License-Identifier: GPL-2.0
/* A machine for benchmarks, from /dev/kvm to the loop around KVM_RUN. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/kvm_para.h>

#include "vm.h"

#define BIT(nr)			(1ULL << (nr))
#define PTE_TABLE		(BIT(0) | BIT(1))		/* present, writable */
#define PTE_1G			(PTE_TABLE | BIT(7))
#define NR_1G			16	/* how much of the address space is mapped */

#define CR0_LONG_MODE		(BIT(31) | BIT(16) | BIT(0))	/* PG, WP, PE */
#define CR4_LONG_MODE		BIT(5)				/* PAE */
#define EFER_LONG_MODE		(BIT(10) | BIT(8))		/* LMA, LME */

void die(const char *fmt, ...)
{
	int err = errno;
	va_list args;

	fflush(stdout);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fprintf(stderr, "%s%s\n", err ? ": " : "", err ? strerror(err) : "");
	exit(1);
}

static int check(int fd, int capability)
{
	int ret = ioctl(fd, KVM_CHECK_EXTENSION, capability);

	return ret < 0 ? 0 : ret;
}

static void *map_anonymous(__u64 size)
{
	void *map = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (map == MAP_FAILED)
		die("mmap(%llu bytes)", size);
	/* 4K pages on both sides of the comparison. */
	madvise(map, size, MADV_NOHUGEPAGE);
	return map;
}

static void set_slot(struct vm *vm, struct kvm_userspace_memory_region2 region)
{
	if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION2, &region))
		die("KVM_SET_USER_MEMORY_REGION2(slot %u, gpa 0x%llx)", region.slot,
		    region.guest_phys_addr);
}

static void add_low(struct vm *vm)
{
	vm->low = map_anonymous(LOW_SIZE);
	set_slot(vm, (struct kvm_userspace_memory_region2){
		.slot = 0, .memory_size = LOW_SIZE, .userspace_addr = (unsigned long)vm->low,
	});
}

static void set_gmem_slot(struct vm *vm, const struct gmem *gmem, __u64 size)
{
	set_slot(vm, (struct kvm_userspace_memory_region2){
		.slot = gmem->slot, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = gmem->base,
		.memory_size = size, .userspace_addr = (unsigned long)gmem->shared,
		.guest_memfd = gmem->fd,
	});
}

void vm_add_gmem(struct vm *vm, struct gmem *gmem)
{
	struct kvm_create_guest_memfd create = { .size = gmem->size, .flags = gmem->flags };

	/* In place, the file itself has the shared pages, so the host maps it; else it may not. */
	if (vm->in_place)
		create.flags |= GUEST_MEMFD_FLAG_MMAP;
	if (gmem->flags & GUEST_MEMFD_FLAG_HUGETLB)
		create.huge_page_size_log2 = gmem->huge_page_shift;
	gmem->fd = ioctl(vm->fd, KVM_CREATE_GUEST_MEMFD, &create);
	if (gmem->fd < 0)
		die("KVM_CREATE_GUEST_MEMFD(flags 0x%llx, pages of 2^%llu)", create.flags,
		    gmem->huge_page_shift);
	if (vm->in_place)
		gmem->shared = mmap(NULL, gmem->size, PROT_READ | PROT_WRITE, MAP_SHARED,
				    gmem->fd, 0);
	else
		gmem->shared = map_anonymous(gmem->size);
	if (gmem->shared == MAP_FAILED)
		die("mmap(guest_memfd)");
	if (!gmem->unbound)
		set_gmem_slot(vm, gmem, gmem->size);
}

static int create_hugetlbfs(const struct gmem *gmem)
{
	int fd = memfd_create("bench", MFD_HUGETLB | gmem->huge_page_shift << MAP_HUGE_SHIFT);

	if (fd < 0 || ftruncate(fd, gmem->size))
		die("memfd_create(MFD_HUGETLB, pages of 2^%llu)", gmem->huge_page_shift);
	return fd;
}

static int create_shared_gmem(struct vm *vm, const struct gmem *gmem)
{
	struct kvm_create_guest_memfd create = {
		.size = gmem->size, .huge_page_size_log2 = gmem->huge_page_shift,
		.flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED |
			 GUEST_MEMFD_FLAG_HUGETLB,
	};
	int fd = ioctl(vm->fd, KVM_CREATE_GUEST_MEMFD, &create);

	if (fd < 0)
		die("KVM_CREATE_GUEST_MEMFD(pages of 2^%llu)", gmem->huge_page_shift);
	return fd;
}

void vm_add_ordinary(struct vm *vm, struct gmem *gmem, bool hugetlbfs)
{
	gmem->fd = hugetlbfs ? create_hugetlbfs(gmem) : create_shared_gmem(vm, gmem);
	gmem->shared = mmap(NULL, gmem->size, PROT_READ | PROT_WRITE, MAP_SHARED, gmem->fd, 0);
	if (gmem->shared == MAP_FAILED)
		die("mmap(%llu bytes of shared memory)", gmem->size);
	set_slot(vm, (struct kvm_userspace_memory_region2){
		.slot = gmem->slot, .flags = hugetlbfs ? 0 : KVM_MEM_GUEST_MEMFD,
		.guest_phys_addr = gmem->base, .memory_size = gmem->size,
		.userspace_addr = (unsigned long)gmem->shared,
		.guest_memfd = hugetlbfs ? 0 : gmem->fd,
	});
}

void vm_unbind_gmem(struct vm *vm, struct gmem *gmem)
{
	if (!gmem->unbound)
		set_gmem_slot(vm, gmem, 0);
	munmap(gmem->shared, gmem->size);
}

void vm_del_gmem(struct vm *vm, struct gmem *gmem)
{
	vm_unbind_gmem(vm, gmem);
	close(gmem->fd);
}

void gmem_remap(const struct gmem *gmem)
{
	if (mmap(gmem->shared, gmem->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		 gmem->fd, 0) == MAP_FAILED)
		die("mmap(guest_memfd)");
}

/*
 * Converts a range in place. The mapping of the file stays as it is: the kernel removes the
 * pages that become private from it, and the next access to a shared page faults it in. Nothing
 * is pinned here, so even EAGAIN is an error.
 */
void gmem_convert(const struct gmem *gmem, __u64 gpa, __u64 size, bool to_shared)
{
	struct kvm_memory_attributes2 args = {
		.offset = gpa - gmem->base,
		.size = size,
		.attributes = to_shared ? 0 : KVM_MEMORY_ATTRIBUTE_PRIVATE,
	};

	if (ioctl(gmem->fd, KVM_SET_MEMORY_ATTRIBUTES2, &args))
		die("KVM_SET_MEMORY_ATTRIBUTES2(offset 0x%llx, size 0x%llx), error_offset 0x%llx",
		    args.offset, args.size, args.error_offset);
}

/* Maps every address to itself, in pages of 1G, and copies the guest's code. */
static void load_guest(struct vm *vm)
{
	__u64 *pml4 = (void *)(vm->low + PML4_ADDR), *pdpt = (void *)(vm->low + PDPT_ADDR);

	pml4[0] = PDPT_ADDR | PTE_TABLE;
	for (__u64 i = 0; i < NR_1G; i++)
		pdpt[i] = i * GIB | PTE_1G;
	memcpy(vm->low + CODE_ADDR, __start_guest, __stop_guest - __start_guest);
}

static void set_cpuid(struct vcpu *vcpu)
{
	enum { MAX_ENTRIES = 256 };
	struct kvm_cpuid2 *cpuid;

	cpuid = calloc(1, sizeof(*cpuid) + MAX_ENTRIES * sizeof(cpuid->entries[0]));
	if (!cpuid)
		die("calloc()");
	cpuid->nent = MAX_ENTRIES;
	if (ioctl(vcpu->vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) ||
	    ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid))
		die("KVM_SET_CPUID2()");
	free(cpuid);
}

static struct kvm_segment segment(__u16 selector, __u8 type)
{
	return (struct kvm_segment){
		.limit = 0xffffffff, .selector = selector, .type = type, .present = 1, .s = 1,
		.g = 1, .l = type == 0xb, .db = type != 0xb,
	};
}

static void set_registers(struct vcpu *vcpu, int nr)
{
	/* As if guest_main() had been called. */
	struct kvm_regs regs = {
		.rip = CODE_ADDR + ((unsigned long)guest_main - (unsigned long)__start_guest),
		.rdi = COMMAND_ADDR + nr * COMMAND_SIZE,
		.rsp = STACK_TOP - nr * STACK_SIZE - 8,
		.rflags = 2,
	};
	struct kvm_sregs sregs;

	if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs))
		die("KVM_GET_SREGS()");
	sregs.cs = segment(8, 0xb);
	sregs.ds = segment(16, 0x3);
	sregs.es = sregs.ds;
	sregs.ss = sregs.ds;
	sregs.cr0 = CR0_LONG_MODE;
	sregs.cr3 = PML4_ADDR;
	sregs.cr4 = CR4_LONG_MODE;
	sregs.efer = EFER_LONG_MODE;
	if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) || ioctl(vcpu->fd, KVM_SET_REGS, &regs))
		die("KVM_SET_SREGS()");
}

struct vcpu *vm_add_vcpu(struct vm *vm)
{
	int nr = vm->nr_vcpus++;
	struct vcpu *vcpu = &vm->vcpus[nr];

	vcpu->vm = vm;
	vcpu->command = (void *)(vm->low + COMMAND_ADDR + nr * COMMAND_SIZE);
	vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, nr);
	if (vcpu->fd < 0)
		die("KVM_CREATE_VCPU(%d)", nr);
	vcpu->run = mmap(NULL, vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED)
		die("mmap(vCPU)");
	set_cpuid(vcpu);
	set_registers(vcpu, nr);
	return vcpu;
}

void vm_create(struct vm *vm)
{
	struct kvm_enable_cap exits = {
		.cap = KVM_CAP_EXIT_HYPERCALL, .args[0] = BIT(KVM_HC_MAP_GPA_RANGE),
	};

	vm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vm->kvm_fd < 0)
		die("/dev/kvm");
	vm->fd = ioctl(vm->kvm_fd, KVM_CREATE_VM,
		       vm->ordinary ? KVM_X86_DEFAULT_VM : KVM_X86_SW_PROTECTED_VM);
	if (vm->fd < 0)
		die("KVM_CREATE_VM(%s)", vm->ordinary ? "default" : "KVM_X86_SW_PROTECTED_VM");
	if (ioctl(vm->fd, KVM_ENABLE_CAP, &exits))
		die("KVM_ENABLE_CAP(KVM_CAP_EXIT_HYPERCALL)");
	vm->in_place = check(vm->fd, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES);
	vm->run_size = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (vm->run_size < 0)
		die("KVM_GET_VCPU_MMAP_SIZE");
	add_low(vm);
	load_guest(vm);
	vm->nr_vcpus = 0;
	vm->command = vm_add_vcpu(vm)->command;
}

/* The caller has deleted the files of the VM before. */
void vm_destroy(struct vm *vm)
{
	for (int i = 0; i < vm->nr_vcpus; i++) {
		munmap(vm->vcpus[i].run, vm->run_size);
		close(vm->vcpus[i].fd);
	}
	munmap(vm->low, LOW_SIZE);
	close(vm->fd);
	close(vm->kvm_fd);
}

static void handle_hypercall(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	__u64 attributes = run->hypercall.args[2];

	run->hypercall.ret = vcpu->vm->convert(vcpu->vm, run->hypercall.args[0],
					       run->hypercall.args[1],
					       !(attributes & KVM_MAP_GPA_RANGE_ENCRYPTED));
}

static void vcpu_run(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	for (;;) {
		if (ioctl(vcpu->fd, KVM_RUN, 0)) {
			if (errno == EINTR || errno == EAGAIN)
				continue;
			die("KVM_RUN(), exit reason %u", run->exit_reason);
		}
		if (run->exit_reason == KVM_EXIT_IO && run->io.port == PORT_DONE)
			return;
		if (run->exit_reason != KVM_EXIT_HYPERCALL)
			die("KVM_RUN(): exit reason %u", run->exit_reason);
		handle_hypercall(vcpu);
	}
}

void vcpu_guest(struct vcpu *vcpu, enum guest_op op, __u64 gpa, __u64 size, int reps)
{
	*vcpu->command = (struct command){
		.op = op, .gpa = gpa, .pages = size / PAGE, .reps = reps,
	};
	vcpu_run(vcpu);
}

void vm_guest(struct vm *vm, enum guest_op op, __u64 gpa, __u64 size, int reps)
{
	vcpu_guest(&vm->vcpus[0], op, gpa, size, reps);
}
