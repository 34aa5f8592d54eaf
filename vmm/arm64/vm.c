// SPDX-License-Identifier: GPL-2.0
/* /dev/kvm, the VM, its interrupt controller, its vCPUs and their exits. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../guest/mailbox.h"
#include "arm64.h"

#define SERIAL_THR		0	/* transmit */
#define SERIAL_IER		1
#define SERIAL_IIR		2
#define SERIAL_LCR		3
#define SERIAL_LSR		5
#define SERIAL_MSR		6

#define MAX_FAILURES		100	/* of the same conversion, in a row */

#define CORE_REG(name)							\
	(KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(name))

static int open_kvm(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		die(errno, "needs root, and a kernel with CONFIG_KVM that has booted at EL2",
		    "open(\"/dev/kvm\")");
	return fd;
}

void vm_create(struct vm *vm)
{
	unsigned long type = vm->opt->protected ? KVM_VM_TYPE_ARM_PROTECTED : 0;

	vm->kvm_fd = open_kvm();
	vm->fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, type);
	if (vm->fd < 0)
		die(errno, vm->opt->protected ? "boot the host with kvm-arm.mode=protected" : NULL,
		    "KVM_CREATE_VM(0x%lx)", type);
}

static void set_reg(struct vcpu *vcpu, __u64 id, __u64 value)
{
	struct kvm_one_reg reg = { .id = id, .addr = (unsigned long)&value };

	if (ioctl(vcpu->fd, KVM_SET_ONE_REG, &reg) < 0)
		die(errno, NULL, "KVM_SET_ONE_REG(0x%llx, 0x%llx)", id, value);
}

static void create_vcpu(struct vm *vm, int index)
{
	struct vcpu *vcpu = &vm->vcpus[index];
	struct kvm_vcpu_init init;

	*vcpu = (struct vcpu){ .vm = vm, .index = index };
	vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, index);
	if (vcpu->fd < 0)
		die(errno, NULL, "KVM_CREATE_VCPU(%d)", index);
	vcpu->run_size = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	vcpu->run = mmap(NULL, vcpu->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED)
		die(errno, NULL, "mmap(vCPU, %d bytes)", vcpu->run_size);

	if (ioctl(vm->fd, KVM_ARM_PREFERRED_TARGET, &init) < 0)
		die(errno, NULL, "KVM_ARM_PREFERRED_TARGET()");
	init.features[0] |= 1U << KVM_ARM_VCPU_PSCI_0_2;
	/* The first vCPU starts the others, by PSCI. */
	if (index)
		init.features[0] |= 1U << KVM_ARM_VCPU_POWER_OFF;
	if (ioctl(vcpu->fd, KVM_ARM_VCPU_INIT, &init) < 0)
		die(errno, NULL, "KVM_ARM_VCPU_INIT(features 0x%x)", init.features[0]);
}

void vm_create_vcpus(struct vm *vm)
{
	for (int i = 0; i < vm->opt->vcpus; i++)
		create_vcpu(vm, i);
}

static int create_device(struct vm *vm, __u32 type)
{
	struct kvm_create_device args = { .type = type };

	if (ioctl(vm->fd, KVM_CREATE_DEVICE, &args) < 0)
		die(errno, NULL, "KVM_CREATE_DEVICE(type %u)", type);
	return args.fd;
}

static void set_attr(int fd, __u32 group, __u64 attr, const void *value)
{
	struct kvm_device_attr args = {
		.group = group, .attr = attr, .addr = (unsigned long)value,
	};

	if (ioctl(fd, KVM_SET_DEVICE_ATTR, &args) < 0)
		die(errno, NULL, "KVM_SET_DEVICE_ATTR(group %u, attribute %llu)", group, attr);
}

/* A GICv3, after the vCPUs: each has a redistributor. */
void vm_create_gic(struct vm *vm)
{
	__u64 dist = GIC_DIST_BASE, redist = GIC_REDIST_BASE, its = GIC_ITS_BASE;
	__u32 irqs = 64;

	vm->its_fd = -1;
	vm->gic_fd = create_device(vm, KVM_DEV_TYPE_ARM_VGIC_V3);
	set_attr(vm->gic_fd, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &irqs);
	set_attr(vm->gic_fd, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_DIST, &dist);
	set_attr(vm->gic_fd, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST, &redist);
	if (vm->opt->its) {
		vm->its_fd = create_device(vm, KVM_DEV_TYPE_ARM_VGIC_ITS);
		set_attr(vm->its_fd, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_ITS_ADDR_TYPE, &its);
		set_attr(vm->its_fd, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, NULL);
	}
	set_attr(vm->gic_fd, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, NULL);
}

void vm_set_irq(struct vm *vm, int spi, bool level)
{
	struct kvm_irq_level line = {
		.irq = KVM_ARM_IRQ_TYPE_SPI << KVM_ARM_IRQ_TYPE_SHIFT | (32 + spi),
		.level = level,
	};

	if (ioctl(vm->fd, KVM_IRQ_LINE, &line) < 0)
		die(errno, NULL, "KVM_IRQ_LINE(SPI %d)", spi);
}

/*
 * The console: a 16550 that only transmits. "Transmitter empty" is always true, i.e. its interrupt
 * is there as long as the driver has enabled it. Called with the lock.
 */
static void serial_access(struct vm *vm, __u32 reg, bool write, __u8 *data)
{
	static __u8 regs[8];
	static bool in_line;
	/* "The FIFOs work": then the driver sends 16 bytes per interrupt. */
	__u8 fifo = regs[SERIAL_IIR] & 1 ? 0xc0 : 0;
	bool divisor = regs[SERIAL_LCR] & 0x80;

	reg &= 7;
	if (!write) {
		*data = reg == SERIAL_LSR ? 0x60 : reg == SERIAL_MSR ? 0xb0 :
			reg == SERIAL_IIR ? (regs[SERIAL_IER] & 2 ? 2 : 1) | fifo :
			reg == SERIAL_THR ? 0 : regs[reg];
		return;
	}
	if (divisor && reg <= SERIAL_IER)
		return;		/* the baud rate, which makes no difference here */
	if (reg == SERIAL_THR && *data != '\r') {
		if (!in_line)
			fputs("  guest | ", stdout);
		putchar(*data);
		in_line = *data != '\n';
		if (!in_line)
			fflush(stdout);
	}
	if (reg == SERIAL_THR)
		return;
	regs[reg] = *data;
	if (reg == SERIAL_IER)
		vm_set_irq(vm, SERIAL_SPI, *data & 2);
}

bool vm_is_done(struct vm *vm)
{
	return __atomic_load_n(&vm->done, __ATOMIC_SEQ_CST);
}

/* The guest is done: get all vCPUs out of KVM_RUN, before any of their threads is joined. */
static void end(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	__atomic_store_n(&vm->done, true, __ATOMIC_SEQ_CST);
	for (int i = 0; i < vm->opt->vcpus; i++) {
		vm->vcpus[i].run->immediate_exit = 1;
		pthread_kill(vm->vcpus[i].thread, SIGUSR1);
	}
	pthread_mutex_unlock(&vm->lock);
}

/* The guest's program talks to the VMM, see guest/mailbox.h. */
static void mailbox_access(struct vm *vm, __u32 offset, bool write, void *data, int size)
{
	static __u64 answered;
	__u64 value = 0;

	if (!write) {
		memcpy(data, &answered, size);
		return;
	}
	memcpy(&value, data, size);
	switch (offset) {
	case MAILBOX_STATUS:
		vm->report.status = !!value;
		break;
	case MAILBOX_VERIFIED:
		vm->report.verified += value;
		break;
	case MAILBOX_SHOW:
		report_map(vm, value == SHOW_BEFORE ? "the guest has touched all of its memory" :
			   value == SHOW_SHARED ? "the guest has shared more" :
			   "the guest has taken that back");
		break;
	case MAILBOX_ANSWER:
		answered = memory_answer(vm, value);
		break;
	}
}

static void handle_mmio(struct vm *vm, struct kvm_run *run)
{
	__u64 gpa = run->mmio.phys_addr;
	bool write = run->mmio.is_write;
	int size = run->mmio.len;

	if (!write)
		memset(run->mmio.data, 0xff, sizeof(run->mmio.data));
	if (gpa >= MAILBOX_BASE && gpa < MAILBOX_BASE + PAGE) {
		mailbox_access(vm, gpa - MAILBOX_BASE, write, run->mmio.data, size);
		return;
	}
	pthread_mutex_lock(&vm->lock);
	if (gpa >= SERIAL_BASE && gpa < SERIAL_BASE + 8)
		serial_access(vm, gpa - SERIAL_BASE, write, run->mmio.data);
	else if (gpa >= VIRTIO_BASE && gpa < VIRTIO_BASE + NR_DEVICES * VIRTIO_SIZE)
		virtio_access(&vm->devices[(gpa - VIRTIO_BASE) / VIRTIO_SIZE],
			      gpa % VIRTIO_SIZE, write, run->mmio.data, size);
	pthread_mutex_unlock(&vm->lock);
}

/*
 * The guest shares memory, takes it back, or uses it as what it isn't. The latter happens again if
 * the conversion fails.
 */
static void convert_for(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	__u64 gpa = run->memory_fault.gpa;
	int err;

	err = memory_convert(vcpu->vm, gpa, run->memory_fault.size,
			     run->memory_fault.flags & KVM_MEMORY_EXIT_FLAG_PRIVATE);
	vcpu->failures = err && gpa == vcpu->failed_gpa ? vcpu->failures + 1 : 0;
	vcpu->failed_gpa = gpa;
	if (vcpu->failures == MAX_FAILURES)
		die(-err, NULL, "KVM_SET_MEMORY_ATTRIBUTES2(gpa 0x%llx), %d times in a row", gpa,
		    MAX_FAILURES);
}

/* KVM_RUN has failed. Returns if the vCPU may go on. */
static void handle_error(struct vcpu *vcpu, int err)
{
	struct kvm_run *run = vcpu->run;

	if (err == EINTR || err == EAGAIN)
		return;
	if (err == EFAULT && run->exit_reason == KVM_EXIT_MEMORY_FAULT) {
		convert_for(vcpu);
		return;
	}
	if (run->exit_reason == KVM_EXIT_MEMORY_FAULT)
		die(err, err == EHWPOISON ? "the memory has failed, and the guest loses it" : NULL,
		    "KVM_RUN(vCPU %d): KVM_EXIT_MEMORY_FAULT, gpa 0x%llx, size 0x%llx", vcpu->index,
		    run->memory_fault.gpa, run->memory_fault.size);
	die(err, err == EFAULT ? "the guest has lost memory, or accesses what isn't there" : NULL,
	    "KVM_RUN(vCPU %d)", vcpu->index);
}

static void *run_vcpu(void *arg)
{
	struct vcpu *vcpu = arg;
	struct vm *vm = vcpu->vm;
	struct kvm_run *run = vcpu->run;

	while (!vm_is_done(vm)) {
		if (ioctl(vcpu->fd, KVM_RUN, 0) < 0) {
			handle_error(vcpu, errno);
			continue;
		}
		switch (run->exit_reason) {
		case KVM_EXIT_MMIO:
			handle_mmio(vm, run);
			break;
		case KVM_EXIT_SYSTEM_EVENT:
			end(vm);
			break;
		default:
			die(0, NULL, "KVM_RUN(vCPU %d): exit reason %u, not known here",
			    vcpu->index, run->exit_reason);
		}
	}
	return NULL;
}

static void ignore(int signal)
{
	(void)signal;
}

/* Runs the guest until it ends. */
void vm_run(struct vm *vm)
{
	struct sigaction action = { .sa_handler = ignore };	/* without SA_RESTART */

	/* The boot protocol (Documentation/arch/arm64/booting.rst): x0 is the device tree. */
	set_reg(&vm->vcpus[0], CORE_REG(regs.pc), vm->entry);
	set_reg(&vm->vcpus[0], CORE_REG(regs.regs[0]), vm->fdt);
	sigaction(SIGUSR1, &action, NULL);
	vm->vcpus[0].thread = pthread_self();
	for (int i = 1; i < vm->opt->vcpus; i++)
		if (pthread_create(&vm->vcpus[i].thread, NULL, run_vcpu, &vm->vcpus[i]))
			die(0, NULL, "no thread for vCPU %d", i);
	run_vcpu(&vm->vcpus[0]);
	/* Wait for end(). */
	pthread_mutex_lock(&vm->lock);
	pthread_mutex_unlock(&vm->lock);
	for (int i = 1; i < vm->opt->vcpus; i++)
		pthread_join(vm->vcpus[i].thread, NULL);
}

/* Destroys the VM, which lives as long as a vCPU is mapped. */
void vm_destroy(struct vm *vm)
{
	for (int i = 0; i < vm->opt->vcpus; i++) {
		munmap(vm->vcpus[i].run, vm->vcpus[i].run_size);
		close(vm->vcpus[i].fd);
	}
	close(vm->gic_fd);
	if (vm->its_fd >= 0)
		close(vm->its_fd);
	close(vm->fd);
	close(vm->kvm_fd);
}
