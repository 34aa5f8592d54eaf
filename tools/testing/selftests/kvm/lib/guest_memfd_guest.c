// SPDX-License-Identifier: GPL-2.0-only
#include "guest_memfd_guest.h"

#ifdef __aarch64__
/* An emulated machine takes long to look at every word. */
#define ZERO_STRIDE	64
#define has_code	true

/* "ret", and where in a page it is. */
#define RET_INSN	0xd65f03c0U
#define RET_OFFSET	64
#else
#define ZERO_STRIDE	sizeof(u64)
#define has_code	false
#endif

static struct guest_request requests[MAX_VCPUS];

static void guest_check_zero(u64 gva, u64 size)
{
	u64 end = gva + size;

	for (; gva < end; gva += ZERO_STRIDE)
		__GUEST_ASSERT(!*(u64 *)gva, "0x%lx should be zero, is 0x%lx", gva, *(u64 *)gva);
}

static void guest_check_word(u64 gva, u64 want, bool or_zero)
{
	u64 val = READ_ONCE(*(u64 *)gva);

	__GUEST_ASSERT(val == want || (or_zero && !val), "0x%lx should be 0x%lx, is 0x%lx",
		       gva, want, val);
}

static void guest_write_code(u64 gva)
{
#ifdef __aarch64__
	WRITE_ONCE(*(u32 *)(gva + RET_OFFSET), RET_INSN);
	asm volatile("dc cvau, %0\n"
		     "dsb ish\n"
		     "ic ivau, %0\n"
		     "dsb ish\n"
		     "isb\n"
		     :: "r" (gva + RET_OFFSET) : "memory");
#endif
}

static void guest_call(u64 gva)
{
#ifdef __aarch64__
	((void (*)(void))(gva + RET_OFFSET))();
#endif
}

static void guest_do_one(enum guest_op op, u64 gva, u64 size, u64 tag)
{
	switch (op) {
	case OP_READ:
		(void)READ_ONCE(*(u64 *)gva);
		break;
	case OP_WRITE_TAGS:
		WRITE_ONCE(*(u64 *)gva, tag);
		break;
	case OP_WRITE_WORDS:
		WRITE_ONCE(*(u64 *)gva, tag);
		fallthrough;
	case OP_CHECK_TAGS:
	case OP_CHECK_WORDS:
		guest_check_word(gva, tag, false);
		break;
	case OP_CHECK_ZERO:
		guest_check_zero(gva, size);
		break;
	case OP_CHURN:
		guest_check_word(gva, tag, true);
		WRITE_ONCE(*(u64 *)gva, tag);
		guest_check_word(gva, tag, true);
		break;
	case OP_WRITE_CODE:
		guest_write_code(gva);
		break;
	case OP_CALL:
		guest_call(gva);
		break;
	default:
		GUEST_FAIL("Unknown request %d", op);
	}
}

void gmem_guest_code(u64 cpu)
{
	struct guest_request *r = &requests[cpu];
	u64 i;

	for (;;) {
		for (i = 0; i < r->nr; i++) {
			if (r->op == OP_WRITE_WORDS || r->op == OP_CHECK_WORDS)
				guest_do_one(r->op, r->words[i].gva, sizeof(u64), r->words[i].val);
			else
				guest_do_one(r->op, r->gva + i * r->stride, r->stride, r->tag + i);
		}
		GUEST_SYNC(0);
	}
}

struct guest_request *set_request(struct kvm_vcpu *vcpu, enum guest_op op, u64 gva, u64 nr,
				  u64 stride, u64 tag)
{
	struct guest_request *r = addr_gva2hva(vcpu->vm, (gva_t)&requests[vcpu->id]);

	r->op = op;
	r->gva = gva;
	r->nr = nr;
	r->stride = stride;
	r->tag = tag;
	return r;
}

void add_word(struct guest_request *r, u64 gva, u64 val)
{
	TEST_ASSERT(r->nr < MAX_GUEST_WORDS, "There should be %d words at most", MAX_GUEST_WORDS);
	r->words[r->nr++] = (struct guest_word) { gva, val };
}

void assert_request_done(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		return;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		TEST_FAIL("Unexpected exit: %s", exit_reason_str(vcpu->run->exit_reason));
	}
}

void guest_run(struct kvm_vcpu *vcpu)
{
	vcpu_run(vcpu);
	assert_request_done(vcpu);
}

void guest_do(struct kvm_vcpu *vcpu, enum guest_op op, u64 gva, u64 nr, u64 stride, u64 tag)
{
	set_request(vcpu, op, gva, nr, stride, tag);
	guest_run(vcpu);
}

int guest_read_error(struct kvm_vcpu *vcpu, u64 gva)
{
	int error;

	set_request(vcpu, OP_READ, gva, 1, PAGE_SIZE, 0);
	if (_vcpu_run(vcpu) >= 0) {
		assert_request_done(vcpu);
		return 0;
	}
	error = errno;
	TEST_ASSERT_EQ(vcpu->run->exit_reason, KVM_EXIT_MEMORY_FAULT);
	TEST_ASSERT_EQ(vcpu->run->memory_fault.gpa, gva);
	TEST_ASSERT_EQ(vcpu->run->memory_fault.size, PAGE_SIZE);
	return error;
}

void guest_do_fails(struct kvm_vcpu *vcpu, u64 gva, int error)
{
	int r = guest_read_error(vcpu, gva);

	TEST_ASSERT(r == error, "KVM_RUN should fail with %s, got %s", strerror(error),
		    strerror(r));
	TEST_ASSERT_EQ(vcpu->run->memory_fault.flags, KVM_MEMORY_EXIT_FLAG_PRIVATE);
}

void guest_start_over(struct kvm_vcpu *vcpu)
{
	vcpu_arch_set_entry_point(vcpu, gmem_guest_code);
	vcpu_args_set(vcpu, 1, (u64)vcpu->id);
}

void prefault(struct kvm_vcpu *vcpu, u64 offset, u64 size)
{
	struct kvm_pre_fault_memory range = { .gpa = TEST_GPA + offset, .size = size };
	int r;

	while (range.size) {
		r = __vcpu_ioctl(vcpu, KVM_PRE_FAULT_MEMORY, &range);
		TEST_ASSERT(!r || errno == EINTR, KVM_IOCTL_ERROR(KVM_PRE_FAULT_MEMORY, r));
	}
}

/*
 * Map all of the test's memory in the guest by 1G blocks.  With fewer tables, fewer
 * pages are faulted in that the test is not about.
 */
static void map_blocks(struct kvm_vm *vm)
{
#ifdef __aarch64__
	u64 gpa, *block, *page;

	TEST_ASSERT(vm->page_size == PAGE_SIZE, "The guest should have 4K pages");
	for (gpa = TEST_GPA; gpa < TEST_GPA + TEST_GPA_SIZE; gpa += SZ_1G) {
		virt_pg_map(vm, gpa, gpa);
		block = virt_get_pte_hva_at_level(vm, gpa, 1);
		page = virt_get_pte_hva_at_level(vm, gpa, 3);
		*block = *page & ~PTE_TYPE_PAGE;
	}
#else
	virt_map_level(vm, TEST_GPA, TEST_GPA, TEST_GPA_SIZE, PG_LEVEL_1G);
#endif
}

struct kvm_vm *__create_guest(unsigned long type, struct kvm_vcpu **vcpus, int nr)
{
	const struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = type,
	};
	struct kvm_vm *vm;
	int i;

	vm = __vm_create_with_vcpus(shape, nr, 0, gmem_guest_code, vcpus);
	map_blocks(vm);
	for (i = 0; i < nr; i++)
		vcpu_args_set(vcpus[i], 1, (u64)i);
	return vm;
}

struct kvm_vm *create_guest(unsigned long type, struct kvm_vcpu **vcpus, int nr)
{
	struct kvm_vm *vm = __create_guest(type, vcpus, nr);
	gva_t warm = vm_alloc_page(vm);
	int i, op;

	/* Fault in the guest's own code and data, so that tests don't count them. */
	for (i = 0; i < nr; i++) {
		for (op = OP_READ; op < (has_code ? NR_GUEST_OPS : OP_WRITE_CODE); op++) {
			memset(addr_gva2hva(vm, warm), 0, PAGE_SIZE);
			if (op == OP_CALL)
				guest_do(vcpus[i], OP_WRITE_CODE, warm, 1, PAGE_SIZE, 0);
			set_request(vcpus[i], op, warm, 1, PAGE_SIZE, 0)->words[0] =
				(struct guest_word) { warm, 0 };
			guest_run(vcpus[i]);
		}
	}
	return vm;
}

/* Return the size, in pages, of the largest possible mapping at the beginning. */
static u64 largest_mapping(u64 gfn, u64 backing, u64 nr, size_t max)
{
	const u64 bits = gfn | backing;

#ifdef __aarch64__
	if (is_pkvm())
		max = min_t(size_t, max, SZ_2M);
#endif
	if (max >= SZ_1G && !(bits % PAGES_1G) && nr >= PAGES_1G)
		return PAGES_1G;
	if (max >= SZ_2M && !(bits % PAGES_2M) && nr >= PAGES_2M)
		return PAGES_2M;
	return 1;
}

void count_mapping(struct mappings *m, u64 nr_pages)
{
	m->nr_1g += nr_pages == PAGES_1G;
	m->nr_2m += nr_pages == PAGES_2M;
	m->nr_4k += nr_pages == 1;
}

struct mappings largest_mappings(u64 gfn, u64 backing, u64 nr, size_t max)
{
	struct mappings m = {};
	u64 i, step;

	for (i = 0; i < nr; i += step) {
		step = largest_mapping(gfn + i, backing + i, nr - i, max);
		count_mapping(&m, step);
		m.faults++;
	}
	return m;
}

struct mappings mappings_of_layout(const struct guestmem_model *model, u64 first, u64 nr)
{
	const u64 end = first + nr;
	struct mappings m = {};
	u64 i, step;

	for (i = first; i < end; i += step) {
		step = largest_mapping(i, i, end - i, (size_t)PAGE_SIZE << model->order[i]);
		count_mapping(&m, step);
	}
	return m;
}
