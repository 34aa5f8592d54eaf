/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A guest that reads, writes, executes and checks an INIT_SHARED guest_memfd file made
 * of HugeTLB pages of any size, and checks of how KVM maps the file.
 *
 * The tests read the mappings from KVM's dump of its stage-2 tables.  On a pKVM host
 * the tables belong to the hypervisor, which doesn't show them.  On any host, there
 * must be about as many exits as there are mappings to make.
 */
#ifndef SELFTEST_KVM_ARM64_GUEST_MEMFD_GUEST_H
#define SELFTEST_KVM_ARM64_GUEST_MEMFD_GUEST_H

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <linux/sizes.h>

#include "guest_memfd_hugetlb.h"
#include "guestmem_units.h"
#include "processor.h"
#include "ucall_common.h"

#define PAGE_SIZE	SZ_4K
#define PAGES_2M	(SZ_2M / PAGE_SIZE)
#define PAGES_1G	(SZ_1G / PAGE_SIZE)

/* Guest memory for all slots of this test, mapped 1:1 in the guest. */
#define TEST_GPA	(8ULL * SZ_1G)
#define TEST_GPA_SIZE	(3ULL * SZ_1G)
#define TEST_SLOT	10

#define MAX_VCPUS	3

/* The word that a guest writes into a page of the file. */
#define TAG(pgoff)	(0x7a67000000000000ull + (pgoff))
#define TAG2(pgoff)	(0x7a68000000000000ull + (pgoff))

/* "ret", and where in a page it is. */
#define RET_INSN	0xd65f03c0U
#define RET_OFFSET	64

enum guest_op {
	OP_WRITE_TAGS,		/* tag + i into the i-th stride */
	OP_CHECK_TAGS,
	OP_CHECK_ZERO,		/* a word of every cache line of every stride */
	OP_WRITE_CODE,		/* a function into every stride */
	OP_CALL,		/* the function in every stride */
	OP_CHURN,		/* write a tag; before and after, it is there or punched */
};

struct guest_request {
	enum guest_op op;
	u64 gva;
	u64 nr;
	u64 stride;
	u64 tag;
};

static struct guest_request requests[MAX_VCPUS];

static inline void guest_check_zero(u64 gva, u64 size)
{
	u64 *p = (u64 *)gva, *end = (u64 *)(gva + size);

	for (; p < end; p += 64 / sizeof(*p))
		__GUEST_ASSERT(!*p, "0x%lx should be zero, is 0x%lx", (u64)p, *p);
}

static inline void guest_check_tag(u64 gva, u64 tag, bool or_zero)
{
	u64 val = READ_ONCE(*(u64 *)gva);

	__GUEST_ASSERT(val == tag || (or_zero && !val), "0x%lx should be 0x%lx, is 0x%lx",
		       gva, tag, val);
}

static inline void guest_write_code(u64 gva)
{
	WRITE_ONCE(*(u32 *)(gva + RET_OFFSET), RET_INSN);
	asm volatile("dc cvau, %0\n"
		     "dsb ish\n"
		     "ic ivau, %0\n"
		     "dsb ish\n"
		     "isb\n"
		     :: "r" (gva + RET_OFFSET) : "memory");
}

static inline void guest_do_one(enum guest_op op, u64 gva, u64 size, u64 tag)
{
	switch (op) {
	case OP_WRITE_TAGS:
		WRITE_ONCE(*(u64 *)gva, tag);
		break;
	case OP_CHECK_TAGS:
		guest_check_tag(gva, tag, false);
		break;
	case OP_CHECK_ZERO:
		guest_check_zero(gva, size);
		break;
	case OP_WRITE_CODE:
		guest_write_code(gva);
		break;
	case OP_CALL:
		((void (*)(void))(gva + RET_OFFSET))();
		break;
	case OP_CHURN:
		guest_check_tag(gva, tag, true);
		WRITE_ONCE(*(u64 *)gva, tag);
		guest_check_tag(gva, tag, true);
		break;
	}
}

static inline void guest_code(u64 cpu)
{
	struct guest_request *r = &requests[cpu];
	u64 i;

	for (;;) {
		for (i = 0; i < r->nr; i++)
			guest_do_one(r->op, r->gva + i * r->stride, r->stride, r->tag + i);
		GUEST_SYNC(0);
	}
}

static inline void set_request(struct kvm_vcpu *vcpu, enum guest_op op, u64 gva, u64 nr,
			       u64 stride, u64 tag)
{
	struct guest_request *r = addr_gva2hva(vcpu->vm, (gva_t)&requests[vcpu->id]);

	*r = (struct guest_request) {
		.op = op, .gva = gva, .nr = nr, .stride = stride, .tag = tag,
	};
}

static inline void assert_request_done(struct kvm_vcpu *vcpu)
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

static inline void __guest_do(struct kvm_vcpu *vcpu, enum guest_op op, u64 gva, u64 nr,
			      u64 stride, u64 tag)
{
	set_request(vcpu, op, gva, nr, stride, tag);
	vcpu_run(vcpu);
	assert_request_done(vcpu);
}

/* Let a vCPU do something with each of @nr pages. */
static inline void guest_do(struct kvm_vcpu *vcpu, enum guest_op op, u64 gva, u64 nr, u64 tag)
{
	__guest_do(vcpu, op, gva, nr, PAGE_SIZE, tag);
}

/*
 * Map all of the test's memory in the guest by 1G blocks.  With fewer tables, fewer
 * pages are faulted in that the test is not about.
 */
static inline void map_blocks(struct kvm_vm *vm)
{
	u64 gpa, *block, *page;

	for (gpa = TEST_GPA; gpa < TEST_GPA + TEST_GPA_SIZE; gpa += SZ_1G) {
		virt_pg_map(vm, gpa, gpa);
		block = virt_get_pte_hva_at_level(vm, gpa, 1);
		page = virt_get_pte_hva_at_level(vm, gpa, 3);
		*block = *page & ~PTE_TYPE_PAGE;
	}
}

static inline struct kvm_vm *create_guest(struct kvm_vcpu **vcpus)
{
	struct kvm_vm *vm;
	gva_t warm;
	int i, op;

	vm = vm_create_with_vcpus(MAX_VCPUS, guest_code, vcpus);
	TEST_ASSERT(vm->page_size == PAGE_SIZE, "The guest should have 4K pages");
	map_blocks(vm);

	/* Fault in the guest's own code and data, so that tests don't count them. */
	warm = vm_alloc_page(vm);
	for (i = 0; i < MAX_VCPUS; i++) {
		vcpu_args_set(vcpus[i], 1, (u64)i);
		for (op = OP_WRITE_TAGS; op <= OP_CHURN; op++) {
			memset(addr_gva2hva(vm, warm), 0, PAGE_SIZE);
			if (op == OP_CALL)
				__guest_do(vcpus[i], OP_WRITE_CODE, warm, 1, PAGE_SIZE, 0);
			__guest_do(vcpus[i], op, warm, 1, PAGE_SIZE, 0);
		}
	}
	return vm;
}

/* The number of mappings of each size. */
struct mappings {
	long nr_4k, nr_2m, nr_1g;
};

static inline long nr_mappings(struct mappings m)
{
	return m.nr_4k + m.nr_2m + m.nr_1g;
}

static inline bool is_pkvm(void)
{
	/*
	 * The capability has the sizes of blocks that KVM can split, none if pKVM
	 * doesn't let it.
	 */
	return !kvm_check_cap(KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES);
}

/* Return the size, in pages, of the largest possible mapping that begins at @gfn and @pgoff. */
static inline u64 largest_mapping(u64 gfn, u64 pgoff, u64 nr, size_t max)
{
	if (max >= SZ_1G && !is_pkvm() && !(gfn % PAGES_1G) && !(pgoff % PAGES_1G) &&
	    nr >= PAGES_1G)
		return PAGES_1G;

	if (max >= SZ_2M && !(gfn % PAGES_2M) && !(pgoff % PAGES_2M) && nr >= PAGES_2M)
		return PAGES_2M;

	return 1;
}

static inline void count_mapping(struct mappings *m, u64 nr_pages)
{
	m->nr_1g += nr_pages == PAGES_1G;
	m->nr_2m += nr_pages == PAGES_2M;
	m->nr_4k += nr_pages == 1;
}

/*
 * Return the largest possible mappings of @nr pages at @gfn, for memory at @pgoff of a
 * file that is made of pages of @max bytes.
 */
static inline struct mappings largest_mappings(u64 gfn, u64 pgoff, u64 nr, size_t max)
{
	struct mappings m = {};
	u64 i, step;

	for (i = 0; i < nr; i += step) {
		step = largest_mapping(gfn + i, pgoff + i, nr - i, max);
		count_mapping(&m, step);
	}
	return m;
}

/* As above, for a split file in a slot that begins with the file, at a multiple of 1G. */
static inline struct mappings mappings_of_layout(const struct guestmem_model *model,
						 u64 first, u64 nr)
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

/*
 * Return what is mapped in a range, according to a dump like
 *
 *   0x0000000200000000-0x0000000240000000           1G 1   R W px ux  AF BLK
 *
 * where a line stands for any number of consecutive entries of the same level.
 */
static inline struct mappings read_mappings(struct kvm_vm *vm, u64 gpa, u64 size)
{
	struct mappings m = {};
	char path[128], line[256];
	FILE *file;

	snprintf(path, sizeof(path), "/sys/kernel/debug/kvm/%d-%d/stage2_page_tables",
		 getpid(), vm->fd);
	file = fopen(path, "r");
	TEST_ASSERT(file, "%s can't be opened, errno %d", path, errno);

	while (fgets(line, sizeof(line), file)) {
		u64 start, end;
		int level;

		if (sscanf(line, "0x%lx-0x%lx %*u%*c %d", &start, &end, &level) != 3 ||
		    !strstr(line, " AF"))
			continue;

		start = max(start, gpa);
		end = min(end, gpa + size);
		if (start >= end)
			continue;

		switch (level) {
		case 1:
			m.nr_1g += (end - start) / SZ_1G;
			break;
		case 2:
			m.nr_2m += (end - start) / SZ_2M;
			break;
		case 3:
			m.nr_4k += (end - start) / PAGE_SIZE;
			break;
		default:
			TEST_FAIL("A mapping of level %d: %s", level, line);
		}
	}
	fclose(file);
	return m;
}

static inline bool can_read_mappings(void)
{
	/* With pKVM, the dump isn't made from a page table. */
	return !is_pkvm() && !access("/sys/kernel/debug/kvm", R_OK | X_OK);
}

static inline void assert_mappings(struct kvm_vm *vm, u64 gpa, u64 size, struct mappings want,
				   const char *what)
{
	struct mappings now;

	if (!can_read_mappings())
		return;

	now = read_mappings(vm, gpa, size);
	TEST_ASSERT(now.nr_4k == want.nr_4k && now.nr_2m == want.nr_2m &&
		    now.nr_1g == want.nr_1g,
		    "%s: mapped are %ld x 4K, %ld x 2M, %ld x 1G, should be %ld x 4K, %ld x 2M, %ld x 1G",
		    what, now.nr_4k, now.nr_2m, now.nr_1g,
		    want.nr_4k, want.nr_2m, want.nr_1g);
}

/*
 * Let the guest do something with @nr strides, and assert that it took @want faults.
 * Interrupts of the host are exits as well.  But there is at most one per millisecond,
 * and there are far fewer of them than there would be faults if every other mapping was
 * too small.
 */
static inline void __guest_do_faults(struct kvm_vcpu *vcpu, enum guest_op op, u64 gva, u64 nr,
				     u64 stride, u64 tag, long want, const char *what)
{
	long exits = vcpu_get_stat(vcpu, exits), irqs;
	struct timespec start;

	clock_gettime(CLOCK_MONOTONIC, &start);
	__guest_do(vcpu, op, gva, nr, stride, tag);
	irqs = 64 + min_t(long, nr / 4, timespec_to_ns(timespec_elapsed(start)) / 1000000);

	exits = vcpu_get_stat(vcpu, exits) - exits;
	TEST_ASSERT(exits >= want, "%s: %ld exits, should be %ld faults", what, exits, want);
	TEST_ASSERT(exits <= want + irqs,
		    "%s: %ld exits, should be %ld faults and up to %ld interrupts", what,
		    exits, want, irqs);
}

#define guest_do_faults(vcpu, op, gva, nr, tag, want, what)		\
	__guest_do_faults(vcpu, op, gva, nr, PAGE_SIZE, tag, want, what)

/* Return an address range without memory: KVM must not use the address of such a slot. */
static inline void *reserve_hva(size_t size)
{
	return kvm_mmap(size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
}

static inline void add_slot(struct kvm_vm *vm, u64 gpa, u64 size, void *hva, int fd, u64 offset)
{
	vm_set_user_memory_region2(vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD, gpa, size, hva, fd,
				   offset);
}

static inline void delete_slot(struct kvm_vm *vm, u64 gpa)
{
	vm_set_user_memory_region2(vm, TEST_SLOT, 0, gpa, 0, NULL, 0, 0);
}

/* For functions with the fixture as an argument. */
#define guest_fixture	_test_data_guest

FIXTURE(guest)
{
	struct hugetlb_pool pool;
	struct kvm_vcpu *vcpus[MAX_VCPUS];
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	size_t unit, size;
	u64 pages;
	void *hva;
	u64 *mem;
	int nr;
	int fd;
};

FIXTURE_VARIANT(guest)
{
	u8 size_log2;
	int nr_units;
};

FIXTURE_VARIANT_ADD(guest, 64k)
{
	.size_log2 = 16,
	.nr_units = 80,
};

FIXTURE_VARIANT_ADD(guest, 2m)
{
	.size_log2 = 21,
	.nr_units = 8,
};

FIXTURE_VARIANT_ADD(guest, 32m)
{
	.size_log2 = 25,
	.nr_units = 2,
};

FIXTURE_VARIANT_ADD(guest, 1g)
{
	.size_log2 = 30,
	.nr_units = 1,
};

#define create_file()								\
	vm_create_guest_memfd_hugetlb(self->vm, self->size,			\
				      GUEST_MEMFD_FLAG_MMAP |			\
				      GUEST_MEMFD_FLAG_INIT_SHARED,		\
				      variant->size_log2)

FIXTURE_SETUP(guest)
{
	const char *missing = setup_units();

	if (missing)
		SKIP(return, "%s", missing);

	self->vm = create_guest(self->vcpus);
	self->vcpu = self->vcpus[0];
	self->pages = self->size / PAGE_SIZE;
	self->hva = reserve_hva(TEST_GPA_SIZE);
	self->fd = create_file();
}

FIXTURE_TEARDOWN_PARENT(guest)
{
	EXPECT_POOL_RESTORED(&self->pool);
}

#define add_whole_slot()						\
	add_slot(self->vm, TEST_GPA, self->size, self->hva, self->fd, 0)
#define assert_whole_slot(want, what)					\
	assert_mappings(self->vm, TEST_GPA, self->size, want, what)

/*
 * Roles of threads that use the memory at the same time.  A page has its tag or zero,
 * never another tag.
 */
enum churn_role {
	CHURN_GUEST,		/* writes tags */
	CHURN_HOST,		/* writes tags, and maps pages for it */
	CHURN_PUNCH,
};

struct churner {
	enum churn_role role;
	struct kvm_vcpu *vcpu;
	u64 *hva;
	u64 nr_pages;
	size_t unit;
	time_t end;
	u32 seed;
	int fd;
	long done;
};

static inline void churn_host(struct churner *c, u64 page)
{
	const u64 tag = TAG(page);
	u64 *p = c->hva + page * PAGE_SIZE / sizeof(u64);
	u64 val;
	int i;

	for (i = 0; i < 2; i++) {
		val = READ_ONCE(*p);
		TEST_ASSERT(!val || val == tag, "Page %lu should be 0x%lx, is 0x%lx", page, tag,
			    val);
		if (!i)
			WRITE_ONCE(*p, tag);
	}

	if (!(c->done % 4))
		TEST_ASSERT(!madvise(p, PAGE_SIZE, MADV_DONTNEED), "madvise(), errno %d", errno);
}

static inline void churn_punch(struct churner *c, u64 page, u64 nr)
{
	if (c->done % 16)
		kvm_fallocate(c->fd, PUNCH, page * PAGE_SIZE, nr * PAGE_SIZE);
	else
		kvm_fallocate(c->fd, PUNCH, page * PAGE_SIZE / c->unit * c->unit, c->unit);

	/* Let the other threads run for longer than zeroing takes. */
	usleep(c->unit > SZ_32M ? 100000 : 1000);
}

static inline void *churn(void *data)
{
	struct churner *c = data;

	for (; time(NULL) < c->end; c->done++) {
		u64 r = (u64)rand_r(&c->seed) << 16 ^ rand_r(&c->seed);
		u64 page = r % c->nr_pages;
		u64 nr = min(c->nr_pages - page, (u64)64);

		switch (c->role) {
		case CHURN_GUEST:
			__guest_do(c->vcpu, OP_CHURN, TEST_GPA + page * PAGE_SIZE, nr, PAGE_SIZE,
				   TAG(page));
			break;
		case CHURN_HOST:
			churn_host(c, page);
			break;
		case CHURN_PUNCH:
			churn_punch(c, page, nr);
			break;
		}
	}
	return NULL;
}

/* Run all vCPUs, a thread that punches, and a thread that uses @hva if that's not NULL. */
static inline void run_churners(struct guest_fixture *self, int seconds, void *hva)
{
	struct churner churners[MAX_VCPUS + 2];
	pthread_t threads[MAX_VCPUS + 2];
	int nr = MAX_VCPUS + (hva ? 2 : 1), i;

	for (i = 0; i < nr; i++) {
		churners[i] = (struct churner) {
			.role = i < MAX_VCPUS ? CHURN_GUEST :
				i == MAX_VCPUS ? CHURN_PUNCH : CHURN_HOST,
			.vcpu = i < MAX_VCPUS ? self->vcpus[i] : NULL,
			.hva = hva,
			/* With more pages, threads would rarely meet. */
			.nr_pages = min(self->pages, (u64)SZ_32M / PAGE_SIZE),
			.unit = self->unit,
			.end = time(NULL) + seconds,
			.seed = kvm_random_seed + i,
			.fd = self->fd,
		};
		kvm_pthread_create(&threads[i], NULL, churn, &churners[i]);
	}
	for (i = 0; i < nr; i++)
		kvm_pthread_join(threads[i], NULL);

	ksft_print_msg("seed %#x, rounds of vCPU 0: %ld, holes: %ld, pages of the host: %ld\n",
		       kvm_random_seed, churners[0].done, churners[MAX_VCPUS].done,
		       hva ? churners[MAX_VCPUS + 1].done : 0);
}

static inline int run_guest_tests(int argc, char *argv[])
{
	TEST_REQUIRE(getpagesize() == PAGE_SIZE);
	TEST_REQUIRE_GUEST_MEMFD_HUGETLB();

	ksft_print_msg("%s; mappings are %s\n", is_pkvm() ? "pKVM: blocks of 2M only" : "no pKVM",
		       can_read_mappings() ? "read from debugfs" : "told from the number of exits");
	return test_harness_run(argc, argv);
}

#endif /* SELFTEST_KVM_ARM64_GUEST_MEMFD_GUEST_H */
