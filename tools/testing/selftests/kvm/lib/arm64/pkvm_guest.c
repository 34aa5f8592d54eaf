// SPDX-License-Identifier: GPL-2.0-only
#include <linux/arm-smccc.h>

#include "pkvm_guest.h"
#include "processor.h"

/* Where the guest reads its request, and writes the result to. */
#define MMIO_REQUEST		0
#define MMIO_RESULT		sizeof(struct pkvm_request)

#define VENDOR_HYP_KVM(nr)	ARM_SMCCC_CALL_VAL(ARM_SMCCC_FAST_CALL, ARM_SMCCC_SMC_64,	\
						   ARM_SMCCC_OWNER_VENDOR_HYP, nr)
#define FEATURES		ARM_SMCCC_CALL_VAL(ARM_SMCCC_FAST_CALL, ARM_SMCCC_SMC_32,	\
						   ARM_SMCCC_OWNER_VENDOR_HYP, 0)
#define MEM_SHARE		VENDOR_HYP_KVM(3)
#define MEM_UNSHARE		VENDOR_HYP_KVM(4)

/* Where the guest has the MMIO page. */
static gva_t mmio_gva;

/* The requests that vCPUs are reading, maybe after an error. */
static struct pkvm_request requests[MAX_VCPUS];

static u64 guest_do_page(enum pkvm_op op, u64 gva, u64 tag)
{
	u64 *first = (u64 *)gva, *last = (u64 *)(gva + PAGE_SIZE) - 1, *word;
	struct arm_smccc_res res = {};

	switch (op) {
	case PKVM_READ:
		READ_ONCE(*first);
		return 0;
	case PKVM_WRITE:
		WRITE_ONCE(*first, tag);
		WRITE_ONCE(*last, tag);
		return 0;
	case PKVM_CHECK:
		if (READ_ONCE(*first) != tag)
			return (u64)first;
		return READ_ONCE(*last) != tag ? (u64)last : 0;
	case PKVM_CHECK_ZERO:
		for (word = first; word <= last; word++) {
			if (READ_ONCE(*word))
				return (u64)word;
		}
		return 0;
	case PKVM_SHARE:
	case PKVM_UNSHARE:
		smccc_hvc(op == PKVM_SHARE ? MEM_SHARE : MEM_UNSHARE, gva, 0, 0, 0, 0, 0, 0,
			  &res);
		/* Old guests know of no other result. */
		return res.a0 ? res.a0 : res.a1;
	case PKVM_OFF:
		smccc_hvc(PSCI_0_2_FN_SYSTEM_OFF, 0, 0, 0, 0, 0, 0, 0, &res);
		/* That doesn't return. */
		fallthrough;
	default:
		return 1;
	}
}

static u64 guest_do_op(enum pkvm_op op, u64 gva, u64 nr, u64 tag)
{
	struct arm_smccc_res res = {};
	u64 i, result = 0;

	switch (op) {
	case PKVM_SHARE_RANGE:
	case PKVM_UNSHARE_RANGE:
		smccc_hvc(op == PKVM_SHARE_RANGE ? MEM_SHARE : MEM_UNSHARE, gva, nr, 0, 0, 0, 0,
			  0, &res);
		return res.a0 ? res.a0 : res.a1;
	case PKVM_FEATURES:
		smccc_hvc(FEATURES, 0, 0, 0, 0, 0, 0, 0, &res);
		return res.a1;
	case PKVM_CALL:
		smccc_hvc(MEM_SHARE, gva, nr, tag, 0, 0, 0, 0, &res);
		return res.a0;
	default:
		for (i = 0; i < nr && !result; i++)
			result = guest_do_page(op, gva + i * PAGE_SIZE, tag + i);
		return result;
	}
}

static void pkvm_guest_code(u64 mmio)
{
	u64 *request = (u64 *)(mmio + MMIO_REQUEST);
	u64 *to_host = (u64 *)(mmio + MMIO_RESULT);
	u64 op, gva, nr, tag;

	for (;;) {
		op = READ_ONCE(request[0]);
		gva = READ_ONCE(request[1]);
		nr = READ_ONCE(request[2]);
		tag = READ_ONCE(request[3]);

		WRITE_ONCE(*to_host, guest_do_op(op, gva, nr, tag));
	}
}

const char *missing_for_protected_vms(void)
{
	if (!has_protected_vms())
		return "No protected VMs";
	return access("/sys/kernel/debug/kvm", R_OK) ? "needs root and debugfs" : NULL;
}

bool has_protected_vms(void)
{
	int kvm_fd = open_kvm_dev_path_or_exit();
	int fd = ioctl(kvm_fd, KVM_CREATE_VM, KVM_VM_TYPE_ARM_PROTECTED);

	close(kvm_fd);
	if (fd < 0)
		return false;
	close(fd);
	return true;
}

/* The vCPUs have PSCI, to power off. */
static void init_features(struct kvm_vm *vm, struct kvm_vcpu_init *init)
{
	vm_ioctl(vm, KVM_ARM_PREFERRED_TARGET, init);
	init->features[0] |= BIT(KVM_ARM_VCPU_PSCI_0_2);
}

struct kvm_vm *create_protected_vm(struct kvm_vcpu **vcpus, int nr_vcpus, u64 nr)
{
	struct vm_shape shape = VM_SHAPE_DEFAULT;
	struct kvm_vcpu_init init;
	struct kvm_vm *vm;
	int i;

	TEST_ASSERT(nr_vcpus <= MAX_VCPUS, "There can't be %d vCPUs", nr_vcpus);
	shape.type = KVM_VM_TYPE_ARM_PROTECTED;
	/* The test's memory needs page tables in the guest. */
	vm = __vm_create(shape, nr_vcpus, nr);
	init_features(vm, &init);
	for (i = 0; i < nr_vcpus; i++)
		vcpus[i] = aarch64_vcpu_add(vm, i, &init, pkvm_guest_code);
	kvm_arch_vm_finalize_vcpus(vm);
	virt_map(vm, TEST_GPA, TEST_GPA, nr);

	mmio_gva = vm_unused_gva_gap(vm, vm->page_size, KVM_UTIL_MIN_VADDR);
	virt_map(vm, mmio_gva, vm->ucall_mmio_addr, 1);
	for (i = 0; i < nr_vcpus; i++)
		vcpu_args_set(vcpus[i], 1, mmio_gva);

	return vm;
}

void pkvm_reset(struct kvm_vcpu *vcpu)
{
	u64 sp = vcpu_get_reg(vcpu, ctxt_reg_alias(vcpu, SYS_SP_EL1));
	struct kvm_vcpu_init init;

	init_features(vcpu->vm, &init);
	aarch64_vcpu_setup(vcpu, &init);
	vcpu_set_reg(vcpu, ctxt_reg_alias(vcpu, SYS_SP_EL1), sp);
	vcpu_arch_set_entry_point(vcpu, pkvm_guest_code);
	vcpu_args_set(vcpu, 1, mmio_gva);
}

/* Returns true if the guest is done, with a result. */
static bool handle_exit(struct kvm_vcpu *vcpu, u64 *result)
{
	struct kvm_run *run = vcpu->run;
	u64 offset;

	if (run->exit_reason == KVM_EXIT_SYSTEM_EVENT) {
		TEST_ASSERT_EQ(run->system_event.type, KVM_SYSTEM_EVENT_SHUTDOWN);
		*result = ~0ull;
		return true;
	}

	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MMIO);
	TEST_ASSERT_EQ(run->mmio.len, sizeof(u64));
	offset = run->mmio.phys_addr - vcpu->vm->ucall_mmio_addr;
	if (run->mmio.is_write) {
		TEST_ASSERT_EQ(offset, MMIO_RESULT);
		memcpy(result, run->mmio.data, sizeof(u64));
		return true;
	}

	TEST_ASSERT(offset < MMIO_RESULT, "The guest reads at 0x%lx", offset);
	memcpy(run->mmio.data, (char *)&requests[vcpu->id] + offset, sizeof(u64));
	return false;
}

int pkvm_resume(struct kvm_vcpu *vcpu, u64 *result)
{
	do {
		/* _vcpu_run() looks for ucalls, i.e. reads the guest's memory. */
		while (__vcpu_run(vcpu)) {
			if (errno != EINTR)
				return -errno;
		}
	} while (!handle_exit(vcpu, result));

	return 0;
}

int pkvm_do(struct kvm_vcpu *vcpu, struct pkvm_request req, u64 *result)
{
	requests[vcpu->id] = req;
	return pkvm_resume(vcpu, result);
}

void assert_pkvm_do(struct kvm_vcpu *vcpu, enum pkvm_op op, u64 first, u64 nr, u64 tag,
		    u64 result)
{
	struct pkvm_request req = {
		.op = op,
		.gva = TEST_GPA + first * PAGE_SIZE,
		.nr = nr,
		.tag = tag,
	};
	u64 res = 0;
	int r;

	r = pkvm_do(vcpu, req, &res);
	TEST_ASSERT(!r, "The guest should do %d at page %lu, but KVM_RUN is %d, exit reason %u",
		    op, first, r, vcpu->run->exit_reason);
	TEST_ASSERT(res == result, "The guest does %d at page %lu, the result is 0x%lx, not 0x%lx",
		    op, first, res, result);
}

void assert_pkvm_error(struct kvm_vcpu *vcpu, u64 page, int error, u32 exit_reason)
{
	struct pkvm_request req = {
		.op = PKVM_READ,
		.gva = TEST_GPA + page * PAGE_SIZE,
		.nr = 1,
	};
	u64 result;
	int r;

	r = pkvm_do(vcpu, req, &result);
	TEST_ASSERT(r == -error, "KVM_RUN should be %s for page %lu, is %d, result 0x%lx",
		    strerror(error), page, r, result);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, exit_reason);
	/* It doesn't change by itself. */
	TEST_ASSERT_EQ(pkvm_resume(vcpu, &result), -error);
}

FILE *pkvm_open_pages(struct kvm_vm *vm)
{
	char path[128];
	FILE *file;

	snprintf(path, sizeof(path), "/sys/kernel/debug/kvm/%d-%d/pkvm_pages", getpid(), vm->fd);
	file = fopen(path, "r");
	TEST_ASSERT(file, "%s can't be opened, errno %d", path, errno);
	return file;
}

void pkvm_close_pages(FILE *file)
{
	TEST_ASSERT(!ferror(file), "The list can't be read, errno %d", errno);
	fclose(file);
}

void assert_pkvm_agrees(struct kvm_vm *vm)
{
	FILE *file = pkvm_open_pages(vm);
	char line[256];

	while (fgets(line, sizeof(line), file))
		TEST_ASSERT(!strstr(line, "agree"), "%s", line);
	pkvm_close_pages(file);
}

static void add_entries(struct pkvm_entries *e, const char *what, int level, u64 size)
{
	if (!strcmp(what, "shared"))
		e->shared += size / getpagesize();
	else if (!strcmp(what, "owned") && level == 2)
		e->owned_2m += size / SZ_2M;
	else if (!strcmp(what, "owned"))
		e->owned_4k += size / getpagesize();
	else if (level == 2)
		e->poisoned_2m += size / SZ_2M;
	else
		e->poisoned_4k += size / getpagesize();
}

void __assert_pkvm_entries(struct kvm_vm *vm, u64 first, u64 nr,
			   const struct pkvm_entries *wanted)
{
	const u64 start = TEST_GPA + first * getpagesize(), end = start + nr * getpagesize();
	struct pkvm_entries e = {};
	char line[256], what[32];
	FILE *file;

	assert_pkvm_agrees(vm);
	file = pkvm_open_pages(vm);
	while (fgets(line, sizeof(line), file)) {
		int level, nr_read;
		u64 from, to;

		nr_read = sscanf(line, "0x%lx-0x%lx level %d %31s", &from, &to, &level, what);
		TEST_ASSERT(nr_read == 4, "There is a line %s", line);
		from = max(from, start);
		to = min(to, end);
		if (from < to)
			add_entries(&e, what, level, to - from);
	}
	pkvm_close_pages(file);

	TEST_ASSERT_EQ(e.owned_2m, wanted->owned_2m);
	TEST_ASSERT_EQ(e.owned_4k, wanted->owned_4k);
	TEST_ASSERT_EQ(e.poisoned_2m, wanted->poisoned_2m);
	TEST_ASSERT_EQ(e.poisoned_4k, wanted->poisoned_4k);
	TEST_ASSERT_EQ(e.shared, wanted->shared);
}

/* CPUs keep differences for a second or so. */
long settled_sec_page_tables(const struct kernel_counters *before)
{
	struct kernel_counters now;
	int tries;

	for (tries = 0; tries < 50; tries++) {
		read_kernel_counters(&now);
		if (now.sec_page_tables == before->sec_page_tables)
			break;
		usleep(100 * 1000);
	}
	return now.sec_page_tables;
}
