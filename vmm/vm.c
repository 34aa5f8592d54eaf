// SPDX-License-Identifier: GPL-2.0
/* /dev/kvm, the VM, its one vCPU, and the exits of the vCPU. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/kvm_para.h>

#include "guest/port.h"
#include "vmm.h"

#define KEYBOARD_COMMAND	0x64	/* a PC resets its CPU through this port */
#define KEYBOARD_RESET		0xfe
#define CMOS_DATA		0x71	/* the PC's clock */

int vm_check(int fd, int capability)
{
	int ret = ioctl(fd, KVM_CHECK_EXTENSION, capability);

	return ret < 0 ? 0 : ret;
}

static int open_kvm(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int version;

	if (fd < 0)
		die(errno,
		    errno == EACCES ? "run as root, or join the group that owns /dev/kvm" :
		    "needs a CPU with SVM or VMX and a kernel with CONFIG_KVM_AMD or _INTEL",
		    "open(\"/dev/kvm\")");
	version = ioctl(fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION)
		die(0, NULL, "KVM_GET_API_VERSION() = %d, this program knows %d", version,
		    KVM_API_VERSION);
	return fd;
}

/*
 * Creates a VM. If memory is private, the VM is of the software-protected type: it has private
 * memory like the VMs of confidential computing, without the hardware that would encrypt it.
 * Otherwise the VM is of the default type.
 */
void vm_create(struct vm *vm)
{
	/* The guest asks for conversions by a hypercall; have KVM pass it on. */
	struct kvm_enable_cap exits = {
		.cap = KVM_CAP_EXIT_HYPERCALL, .args[0] = BIT_ULL(KVM_HC_MAP_GPA_RANGE),
	};
	/* With the port (0x61) that starts and reads the timer's speaker channel. */
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	int type = vm->opt->shared ? KVM_X86_DEFAULT_VM : KVM_X86_SW_PROTECTED_VM, types;

	vm->kvm_fd = open_kvm();
	types = vm_check(vm->kvm_fd, KVM_CAP_VM_TYPES);
	if (!(types & (1 << type)))
		die(0, "needs CONFIG_KVM_SW_PROTECTED_VM=y and nested paging (kvm.tdp_mmu=1)",
		    "KVM_CHECK_EXTENSION(KVM_CAP_VM_TYPES) = 0x%x: no bit %d",
		    types, type);
	vm->fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, type);
	if (vm->fd < 0)
		die(errno, NULL, "KVM_CREATE_VM(%d)", type);

	if (ioctl(vm->fd, KVM_ENABLE_CAP, &exits) < 0)
		die(errno, "needs a kernel with KVM_CAP_EXIT_HYPERCALL, 5.14 or later",
		    "KVM_ENABLE_CAP(KVM_CAP_EXIT_HYPERCALL, 0x%llx)", exits.args[0]);
	/* Intel without "unrestricted guest" wants three pages; AMD ignores this. */
	if (ioctl(vm->fd, KVM_SET_TSS_ADDR, 0xfffbd000) < 0)
		die(errno, NULL, "KVM_SET_TSS_ADDR(0xfffbd000)");
	if (ioctl(vm->fd, KVM_CREATE_IRQCHIP) < 0)
		die(errno, NULL, "KVM_CREATE_IRQCHIP()");
	if (ioctl(vm->fd, KVM_CREATE_PIT2, &pit) < 0)
		die(errno, NULL, "KVM_CREATE_PIT2(flags 0x%x)", pit.flags);
	vm->serial.vm_fd = vm->fd;
}

void vm_create_vcpu(struct vm *vm)
{
	vm->vcpu_fd = ioctl(vm->fd, KVM_CREATE_VCPU, 0);
	if (vm->vcpu_fd < 0)
		die(errno, NULL, "KVM_CREATE_VCPU(0)");
	vm->run_size = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (vm->run_size < (int)sizeof(*vm->run))
		die(vm->run_size < 0 ? errno : 0, NULL, "KVM_GET_VCPU_MMAP_SIZE() = %d",
		    vm->run_size);
	vm->run = mmap(NULL, vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu_fd, 0);
	if (vm->run == MAP_FAILED)
		die(errno, NULL, "mmap(vCPU, %d bytes)", vm->run_size);
}

/* Handles an access of the guest to an I/O port. Returns false when the guest is done. */
static bool port_access(struct vm *vm, __u16 port, bool is_write, __u8 *data, int size)
{
	__u32 value = 0;

	if (port >= SERIAL_PORT && port < SERIAL_PORT + 8 && size == 1) {
		serial_io(&vm->serial, port - SERIAL_PORT, is_write, data);
		return true;
	}
	if (!is_write && port == PORT_HOST_DO) {
		memcpy(data, &vm->host_result, size);
		return true;
	}
	if (!is_write) {
		/* No device has this port; but all ones from the clock would mean "wait". */
		memset(data, port == CMOS_DATA ? 0 : 0xff, size);
		return true;
	}
	memcpy(&value, data, size);
	switch (port) {
	case PORT_STATUS:
		vm->report->status = value;
		return false;
	case PORT_VERIFIED:
		vm->report->verified += value;
		return true;
	case PORT_SHOW_UNIT:
		report_unit(vm, value);
		return true;
	case PORT_HOST_PAGE:
		vm->host_page = value;
		return true;
	case PORT_HOST_DO:
		vm->host_result = convert_host_do(vm, value, vm->host_page);
		return true;
	case KEYBOARD_COMMAND:
		return value != KEYBOARD_RESET;
	}
	return true;
}

static bool handle_io(struct vm *vm)
{
	const struct kvm_run *run = vm->run;
	__u8 *data = (__u8 *)run + run->io.data_offset;

	for (__u32 i = 0; i < run->io.count; i++, data += run->io.size)
		if (!port_access(vm, run->io.port, run->io.direction == KVM_EXIT_IO_OUT, data,
				 run->io.size))
			return false;
	return true;
}

/*
 * Prints why KVM_RUN failed, and exits. With KVM_EXIT_MEMORY_FAULT, KVM could not back the address
 * in the way the guest used it. (A VMM with several vCPUs runs the guest again if a conversion
 * for another vCPU may have come in between; here there is only one vCPU.)
 */
static void __attribute__((noreturn)) die_running(struct vm *vm, int err)
{
	const struct kvm_run *run = vm->run;

	if (run->exit_reason == KVM_EXIT_MEMORY_FAULT)
		die(err, err == ENOMEM || err == ENOSPC ?
		    "no memory for the file: see MemFree, HugePages_Free, the hugetlb cgroup" :
		    err == EHWPOISON ? "the memory has failed; the guest loses this page" : NULL,
		    "KVM_RUN(): KVM_EXIT_MEMORY_FAULT, %s gpa 0x%llx, size 0x%llx",
		    run->memory_fault.flags & KVM_MEMORY_EXIT_FLAG_PRIVATE ? "private" : "shared",
		    run->memory_fault.gpa, run->memory_fault.size);
	die(err, NULL, "KVM_RUN()");
}

static void __attribute__((noreturn)) die_exited(struct vm *vm)
{
	struct kvm_run *run = vm->run;
	struct kvm_regs regs = { 0 };

	ioctl(vm->vcpu_fd, KVM_GET_REGS, &regs);
	switch (run->exit_reason) {
	case KVM_EXIT_SHUTDOWN:
		die(0, "a triple fault; page tables or code in private memory end like this",
		    "KVM_RUN(): KVM_EXIT_SHUTDOWN at rip 0x%llx", regs.rip);
	case KVM_EXIT_INTERNAL_ERROR:
		die(0, "1: KVM could not emulate an instruction, or not from where it is",
		    "KVM_RUN(): KVM_EXIT_INTERNAL_ERROR, suberror %u, at rip 0x%llx",
		    run->internal.suberror, regs.rip);
	case KVM_EXIT_FAIL_ENTRY:
		die(0, NULL, "KVM_RUN(): KVM_EXIT_FAIL_ENTRY, hardware reason 0x%llx",
		    run->fail_entry.hardware_entry_failure_reason);
	default:
		die(0, NULL, "KVM_RUN(): exit reason %u at rip 0x%llx, not known here",
		    run->exit_reason, regs.rip);
	}
}

void vm_run(struct vm *vm)
{
	struct kvm_run *run = vm->run;

	for (;;) {
		if (ioctl(vm->vcpu_fd, KVM_RUN, 0) < 0) {
			if (errno == EINTR || errno == EAGAIN)
				continue;
			die_running(vm, errno);
		}
		switch (run->exit_reason) {
		case KVM_EXIT_IO:
			if (!handle_io(vm))
				return;
			break;
		case KVM_EXIT_HYPERCALL:
			run->hypercall.ret = convert_hypercall(vm);
			break;
		case KVM_EXIT_MMIO:
			if (!run->mmio.is_write)
				memset(run->mmio.data, 0xff, sizeof(run->mmio.data));
			break;
		default:
			die_exited(vm);
		}
	}
}
