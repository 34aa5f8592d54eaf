// SPDX-License-Identifier: GPL-2.0-only
/*
 * Count the cost of a page that a protected guest of pKVM touches for the first time, of one
 * that it shares and takes back, and of one that it has when the VM goes away: of anonymous
 * memory, and of a guest_memfd in pages of 4K and 2M.
 *
 * The unit is instructions of this thread, which takes an emulated machine whose clock counts
 * them.
 */
#include <time.h>

#include "guest_memfd_fixture.h"
#include "pkvm_guest.h"
#include "processor.h"

#define NR_PAGES	((u64)SZ_128M / PAGE_SIZE)

/*
 * The floor is what can't be left out.  The host clears a page before the guest gets it, and
 * the hypervisor cleans the page from the caches; the hypervisor clears and cleans it before
 * the host gets it back.  That is two loops of four instructions per line.
 */
#define SPARE		150

/* Instructions per page, more than a VM takes that touches none. */
struct cost {
	s64 touch, teardown;
};

/*
 * The clock counts ns, i.e. instructions if the machine is one of QEMU with -icount shift=0,
 * and not those for which the thread waits.
 */
static u64 now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
	return time.tv_sec * NSEC_PER_SEC + time.tv_nsec;
}

/* A loop of two instructions. */
static bool counts_instructions(void)
{
	const u64 nr = 1000 * 1000;
	u64 start = now(), i = nr;

	asm volatile("1: subs %0, %0, #1; b.ne 1b" : "+r" (i) : : "cc");
	start = now() - start;
	return start > 2 * nr * 98 / 100 && start < 2 * nr * 120 / 100;
}

/* Instructions to clear a page and to clean it, as the kernel does that without FEAT_MOPS. */
static s64 measure_floor(void)
{
	const u64 line = 4UL << ((read_sysreg(ctr_el0) >> 16) & 0xf);
	const u64 block = 4UL << (read_sysreg(dczid_el0) & 0xf);
	char *mem = kvm_mmap(SZ_2M, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1);
	char *end = mem + SZ_2M, *p;
	u64 start = now();

	p = mem;
	asm volatile("1: dc zva, %0; add %0, %0, %1; cmp %0, %2; b.lo 1b"
		     : "+r" (p) : "r" (block), "r" (end) : "cc", "memory");
	p = mem;
	asm volatile("1: dc civac, %0; add %0, %0, %1; cmp %0, %2; b.lo 1b"
		     : "+r" (p) : "r" (line), "r" (end) : "cc", "memory");
	start = now() - start;
	kvm_munmap(mem, SZ_2M);
	return start / PAGES_2M;
}

static void add_anonymous_slot(struct gmem *self)
{
	self->mem = kvm_mmap(self->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	vm_set_user_memory_region2(self->vm, TEST_SLOT, 0, TEST_GPA, self->size, self->mem, 0, 0);
}

static void add_gmem_slot(struct gmem *self, bool allocate)
{
	self->fd = gmem_create(self, 0);
	if (allocate)
		allocate_fd(self->fd, 0, self->size);
	add_slot(self->vm, TEST_GPA, self->size, NULL, self->fd, 0);
}

/* Let a VM touch @nr pages of @unit, or of anonymous memory if that is 0. */
static struct cost run_vm(u64 unit, bool allocate, u64 nr)
{
	struct gmem gmem = { .unit = unit, .size = NR_PAGES * PAGE_SIZE }, *self = &gmem;
	struct cost cost;

	self->vm = create_protected_vm(self->vcpus, 1, NR_PAGES);
	if (unit)
		add_gmem_slot(self, allocate);
	else
		add_anonymous_slot(self);
	/* The guest's own code and tables. */
	assert_pkvm_do(self->vcpus[0], PKVM_READ, NR_PAGES - 1, 1, 0, 0);

	cost.touch = now();
	assert_pkvm_do(self->vcpus[0], PKVM_READ, 0, nr, 0, 0);
	cost.touch = now() - cost.touch;

	cost.teardown = now();
	kvm_vm_free(self->vm);
	if (unit)
		close(self->fd);
	else
		kvm_munmap(self->mem, self->size);
	cost.teardown = now() - cost.teardown;
	return cost;
}

/* The cost of a page: all of the memory against none of it. */
static struct cost cost_of(u64 unit, bool allocate)
{
	const u64 nr = NR_PAGES - PAGES_2M;
	struct cost none = run_vm(unit, allocate, 0), all = run_vm(unit, allocate, nr);

	return (struct cost) {
		.touch = (all.touch - none.touch) / (s64)nr,
		.teardown = (all.teardown - none.teardown) / (s64)nr,
	};
}

static void print_cost(const char *what, struct cost cost)
{
	ksft_print_msg("%-24s first touch %6ld, teardown %6ld\n", what, cost.touch,
		       cost.teardown);
}

TEST(cost)
{
	struct cost anonymous, small, huge, allocated;
	s64 floor;

	SKIP_IF(return, missing_for_protected_vms());
	SKIP_IF(return, missing_units(SZ_2M, NR_PAGES / PAGES_2M, &(struct hugetlb_pool) {}));
	SKIP_IF(return, counts_instructions() ? NULL : "The counter doesn't count instructions");

	/* Caches of the kernel. */
	run_vm(0, false, NR_PAGES - PAGES_2M);
	floor = measure_floor();
	anonymous = cost_of(0, false);
	small = cost_of(PAGE_SIZE, false);
	huge = cost_of(SZ_2M, false);
	allocated = cost_of(SZ_2M, true);
	print_cost("floor", (struct cost) { floor, floor });
	print_cost("anonymous memory", anonymous);
	print_cost("guest_memfd, 4K pages", small);
	print_cost("guest_memfd, 2M pages", huge);
	print_cost("the same, allocated", allocated);

	ASSERT_LT(small.touch, anonymous.touch);
	ASSERT_LT(huge.touch, anonymous.touch / 10);
	ASSERT_LT(huge.teardown, anonymous.teardown / 10);
	ASSERT_LT(huge.touch, floor + SPARE);
	ASSERT_LT(huge.teardown, floor + SPARE);
}

#define NR_SHARED	((u64)SZ_64M / PAGE_SIZE)

/* The guest shares memory, or takes it back, and the VMM agrees.  Returns the guest's result. */
static u64 do_as_asked(struct gmem *self, enum pkvm_op op, u64 page, u64 nr)
{
	struct pkvm_request req = { .op = op, .gva = gpa_of(page), .nr = nr };
	struct kvm_vcpu *vcpu = self->vcpus[0];
	struct kvm_run *run = vcpu->run;
	u64 result = 0;
	int r;

	for (r = pkvm_do(vcpu, req, &result); r; r = pkvm_resume(vcpu, &result)) {
		TEST_ASSERT_EQ(r, -EFAULT);
		TEST_ASSERT_EQ(run->exit_reason, KVM_EXIT_MEMORY_FAULT);
		convert_fd(self->fd, (run->memory_fault.gpa - TEST_GPA) / page_size,
			   run->memory_fault.size / page_size,
			   run->memory_fault.flags & KVM_MEMORY_EXIT_FLAG_PRIVATE);
	}
	return result;
}

/* Instructions per page, of guest, VMM, kernel and hypervisor. */
static s64 cost_of_pages(struct gmem *self, enum pkvm_op op)
{
	u64 start = now();

	TEST_ASSERT_EQ(do_as_asked(self, op, 0, PAGES_2M), 0);
	return (now() - start) / PAGES_2M;
}

static s64 cost_of_ranges(struct gmem *self, enum pkvm_op op)
{
	u64 start = now(), page;

	for (page = 0; page < NR_SHARED; page += PAGES_2M)
		TEST_ASSERT_EQ(do_as_asked(self, op, page, NR_SHARED - page), PAGES_2M);
	return (now() - start) / NR_SHARED;
}

struct share_cost {
	s64 page, page_back, range, range_back;
};

static struct share_cost share_cost_of(u64 unit)
{
	struct gmem gmem = { .unit = unit, .size = NR_PAGES * PAGE_SIZE }, *self = &gmem;
	struct share_cost cost;

	self->vm = create_protected_vm(self->vcpus, 1, NR_PAGES);
	if (unit)
		add_gmem_slot(self, false);
	else
		add_anonymous_slot(self);
	assert_pkvm_do(self->vcpus[0], PKVM_READ, 0, NR_PAGES, 0, 0);
	/* Caches of the kernel. */
	TEST_ASSERT_EQ(do_as_asked(self, PKVM_SHARE, NR_SHARED, 1), 0);
	cost.page = cost_of_pages(self, PKVM_SHARE);
	cost.page_back = cost_of_pages(self, PKVM_UNSHARE);
	cost.range = cost_of_ranges(self, PKVM_SHARE_RANGE);
	cost.range_back = cost_of_ranges(self, PKVM_UNSHARE_RANGE);
	kvm_vm_free(self->vm);
	if (unit)
		close(self->fd);
	else
		kvm_munmap(self->mem, self->size);
	return cost;
}

static void print_share_cost(const char *what, struct share_cost cost)
{
	ksft_print_msg("%-24s pages: share %6ld, take back %6ld; 64M in ranges: %6ld, %6ld\n", what,
		       cost.page, cost.page_back, cost.range, cost.range_back);
}

TEST(cost_of_sharing)
{
	struct share_cost anonymous, small, huge;

	SKIP_IF(return, missing_for_protected_vms());
	SKIP_IF(return, missing_units(SZ_2M, NR_PAGES / PAGES_2M, &(struct hugetlb_pool) {}));
	SKIP_IF(return, counts_instructions() ? NULL : "The counter doesn't count instructions");

	anonymous = share_cost_of(0);
	small = share_cost_of(PAGE_SIZE);
	huge = share_cost_of(SZ_2M);
	print_share_cost("anonymous memory", anonymous);
	print_share_cost("guest_memfd, 4K pages", small);
	print_share_cost("guest_memfd, 2M pages", huge);

	/* The host knows about it, for less than what it costs not to tell page by page. */
	ASSERT_LT(huge.range, anonymous.page);
	ASSERT_LT(huge.range_back, anonymous.page_back);
	ASSERT_LT(huge.range, small.range);
	ASSERT_LT(huge.range_back, small.range_back);
}

GMEM_TEST_MAIN(NEEDS_CONVERSION | NEEDS_HUGETLB)
