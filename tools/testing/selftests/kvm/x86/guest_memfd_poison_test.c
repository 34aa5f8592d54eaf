// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory failure in guest_memfd files: whoever uses the page is told, nobody
 * else is harmed, and the file can be used, punched and closed as before.
 *
 * Private memory is not mapped, so MADV_HWPOISON cannot be used on it.  Instead,
 * take all other free huge pages away: the one HugeTLB page that is left in
 * /proc/kpageflags, and not among those that were taken, is the file's.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "guest_memfd_hugetlb.h"
#include "memory_failure.h"
#include "processor.h"
#include "ucall_common.h"

#define TEST_GPA	(8ULL * SZ_1G)
#define TEST_GPA_SIZE	(2ULL * SZ_1G)
#define TEST_SLOT	10

static struct {
	u64 gva;
	u64 write;
} request;

static void guest_code(void)
{
	for (;;) {
		if (request.write)
			WRITE_ONCE(*(u64 *)request.gva, request.write);
		GUEST_SYNC(READ_ONCE(*(u64 *)request.gva));
	}
}

static struct kvm_vm *create_vm(u32 type, struct kvm_vcpu **vcpu)
{
	const struct vm_shape shape = { .mode = VM_MODE_DEFAULT, .type = type };
	struct kvm_vm *vm = vm_create_shape_with_one_vcpu(shape, vcpu, guest_code);

	virt_map_level(vm, TEST_GPA, TEST_GPA, TEST_GPA_SIZE, PG_LEVEL_1G);
	return vm;
}

static void set_request(struct kvm_vcpu *vcpu, u64 gva, u64 write)
{
	request.gva = gva;
	request.write = write;
	sync_global_to_guest(vcpu->vm, request);
}

static u64 guest_access(struct kvm_vcpu *vcpu, u64 gva, u64 write)
{
	struct ucall uc;

	set_request(vcpu, gva, write);
	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
	return uc.args[1];
}

static void guest_access_fails(struct kvm_vcpu *vcpu, u64 gva)
{
	int r;

	set_request(vcpu, gva, 0);
	r = _vcpu_run(vcpu);
	TEST_ASSERT(r < 0 && errno == EHWPOISON,
		    "KVM_RUN should fail with EHWPOISON, got %d errno %d", r, errno);
	TEST_ASSERT_EQ(vcpu->run->exit_reason, KVM_EXIT_MEMORY_FAULT);
	TEST_ASSERT_EQ(vcpu->run->memory_fault.gpa, gva);

	/* The guest would try again for ever; let it start over. */
	vcpu_arch_set_entry_point(vcpu, guest_code);
}

static bool maps_pfn(int pagemap, void *mem, long nr, size_t unit, u64 pfn)
{
	long i;

	for (i = 0; i < nr; i++) {
		u64 vpn = ((uintptr_t)mem + i * unit) / PAGE_SIZE;

		if ((read_entry(pagemap, vpn) & GENMASK_ULL(54, 0)) == pfn)
			return true;
	}
	return false;
}

static bool is_unit(int kpageflags, u64 pfn, u64 nr_pages)
{
	const u64 huge = BIT_ULL(KPF_HUGE), head = BIT_ULL(KPF_COMPOUND_HEAD);
	const u64 tail = BIT_ULL(KPF_COMPOUND_TAIL);
	u64 last = read_entry(kpageflags, pfn + nr_pages - 1);

	return (read_entry(kpageflags, pfn) & (huge | head)) == (huge | head) &&
	       (last & (huge | tail)) == (huge | tail) &&
	       !(read_entry(kpageflags, pfn + nr_pages) & tail);
}

/* The pages of a pool that are neither mapped at @mem, nor poisoned already. */
static void find_units(size_t unit, void *mem, long nr_mem, u64 *pfns, int nr)
{
	int kpageflags = open("/proc/kpageflags", O_RDONLY);
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	u64 nr_pages = unit / PAGE_SIZE, pfn, entry;
	int found = 0;

	TEST_ASSERT(kpageflags >= 0 && pagemap >= 0, "Cannot open /proc/kpageflags or pagemap");
	for (pfn = 0; pread(kpageflags, &entry, sizeof(entry), pfn * sizeof(entry)) > 0;
	     pfn += nr_pages) {
		if (!is_unit(kpageflags, pfn, nr_pages) ||
		    entry & BIT_ULL(KPF_HWPOISON) ||
		    maps_pfn(pagemap, mem, nr_mem, unit, pfn))
			continue;
		TEST_ASSERT(found < nr, "There should be no more than %d pages", nr);
		pfns[found++] = pfn;
	}
	TEST_ASSERT(found == nr, "There should be %d pages, are %d", nr, found);
	close(pagemap);
	close(kpageflags);
}

FIXTURE(poison)
{
	struct hugetlb_pool pool;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	size_t unit;
	long hogged;
	void *hog;
	u64 pfn;
	int fd;
};

FIXTURE_VARIANT(poison)
{
	u8 size_log2;
};

FIXTURE_VARIANT_ADD(poison, 2m)
{
	.size_log2 = 21,
};

FIXTURE_VARIANT_ADD(poison, 1g)
{
	.size_log2 = 30,
};

FIXTURE_SETUP(poison)
{
	const char *missing;
	void *hva;

	self->unit = BIT_ULL(variant->size_log2);
	missing = missing_units(self->unit, 1, &self->pool);
	if (missing)
		SKIP(return, "%s", missing);
	if (!can_inject_memory_failure())
		SKIP(return, "needs root, debugfs and CONFIG_HWPOISON_INJECT");

	self->vm = create_vm(VM_TYPE_PRIVATE, &self->vcpu);
	self->fd = vm_create_guest_memfd_hugetlb(self->vm, self->unit, 0, variant->size_log2);
	hva = kvm_mmap(self->unit, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	vm_set_user_memory_region2(self->vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD, TEST_GPA,
				   self->unit, hva, self->fd, 0);

	TEST_ASSERT_EQ(guest_access(self->vcpu, TEST_GPA, 1), 1);
	self->hogged = hugetlb_available(&self->pool) - 1;
	if (self->hogged)
		self->hog = hugetlb_hog(self->unit, self->hogged, -1);
	find_units(self->unit, self->hog, self->hogged, &self->pfn, 1);
}

/* With the file gone, the page can be mended; then the pool has all of its pages. */
FIXTURE_TEARDOWN_PARENT(poison)
{
	if (self->pfn)
		EXPECT_EQ(0, write_pfn(UNPOISON_PFN, self->pfn));
	EXPECT_POOL_RESTORED(&self->pool);
}

static void poison(u64 pfn)
{
	int error = write_pfn(CORRUPT_PFN, pfn);

	TEST_ASSERT(!error, "Memory failure at pfn 0x%lx should be handled: %s",
		    pfn, strerror(error));
}

#define unhog()								\
do {									\
	if (self->hogged)						\
		hugetlb_unhog(self->hog, self->unit, self->hogged);	\
	self->hogged = 0;						\
} while (0)

TEST_F(poison, guest_is_told)
{
	poison(self->pfn);
	guest_access_fails(self->vcpu, TEST_GPA);
	guest_access_fails(self->vcpu, TEST_GPA);
}

TEST_F(poison, guest_is_told_of_tail)
{
	u64 page = self->unit / PAGE_SIZE - 1;

	poison(self->pfn + page);
	guest_access_fails(self->vcpu, TEST_GPA + page * PAGE_SIZE);
}

/* As with 4K pages, it is there, so fallocate() has nothing to do. */
TEST_F(poison, punch_and_go_on)
{
	poison(self->pfn);
	guest_access_fails(self->vcpu, TEST_GPA);

	kvm_fallocate(self->fd, FALLOC_FL_KEEP_SIZE, 0, self->unit);
	guest_access_fails(self->vcpu, TEST_GPA);

	/* A part of it: whatever happens to the rest, this must not end badly. */
	kvm_fallocate(self->fd, PUNCH, 0, PAGE_SIZE);
	kvm_fallocate(self->fd, PUNCH, self->unit - PAGE_SIZE, PAGE_SIZE);
	guest_access_fails(self->vcpu, TEST_GPA);

	/* All of it; the next one is another page, and that is in order. */
	if (!self->hogged)
		SKIP(return, "needs 2 x %zu kB page, have 1", self->unit / 1024);
	unhog();
	kvm_fallocate(self->fd, PUNCH, 0, self->unit);
	TEST_ASSERT_EQ(guest_access(self->vcpu, TEST_GPA, 0), 0);
	TEST_ASSERT_EQ(guest_access(self->vcpu, TEST_GPA, 3), 3);
}

TEST_F(poison, twice)
{
	u64 last = self->pfn + self->unit / PAGE_SIZE - 1;
	int error;

	poison(self->pfn);
	/* What it says to the second page of one unit is mm's business. */
	error = write_pfn(CORRUPT_PFN, last);
	TH_LOG("second failure: %s", strerror(error));
	guest_access_fails(self->vcpu, TEST_GPA);
	kvm_fallocate(self->fd, PUNCH, 0, self->unit);
	if (!error)
		EXPECT_EQ(0, write_pfn(UNPOISON_PFN, last));
}

TEST_F(poison, others_are_not_harmed)
{
	u64 gpa = TEST_GPA + self->unit;
	void *hva;
	int fd;

	if (!self->hogged) {
		/* Nothing fails, there is nothing to mend. */
		self->pfn = 0;
		SKIP(return, "needs 2 x %zu kB page, have 1", self->unit / 1024);
	}
	unhog();
	fd = vm_create_guest_memfd_hugetlb(self->vm, self->unit, 0, variant->size_log2);
	hva = kvm_mmap(self->unit, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	vm_set_user_memory_region2(self->vm, TEST_SLOT + 1, KVM_MEM_GUEST_MEMFD, gpa,
				   self->unit, hva, fd, 0);
	TEST_ASSERT_EQ(guest_access(self->vcpu, gpa, 2), 2);

	poison(self->pfn);
	guest_access_fails(self->vcpu, TEST_GPA);
	TEST_ASSERT_EQ(guest_access(self->vcpu, gpa, 0), 2);
	close(fd);
}

TEST_F(poison, close_without_looking)
{
	poison(self->pfn);
	close(self->fd);
	kvm_vm_free(self->vm);
}

/*
 * Everything at once: units fail while they are read, punched and allocated.
 * Each fails once, in the middle of one of its many lives.
 */
#define NR_RACE_UNITS	16

FIXTURE(race)
{
	struct hugetlb_pool pool;
	u64 pfns[NR_RACE_UNITS];
	int nr_failed;
};

FIXTURE_SETUP(race)
{
	const char *missing = missing_units(SZ_2M, NR_RACE_UNITS, &self->pool);

	if (missing)
		SKIP(return, "%s", missing);
	if (!can_inject_memory_failure())
		SKIP(return, "needs root, debugfs and CONFIG_HWPOISON_INJECT");
}

/*
 * A page that failed while it was free has left the pool, and is not of it any
 * more when it is mended: fill the pool up.
 */
FIXTURE_TEARDOWN_PARENT(race)
{
	int i;

	for (i = 0; i < self->nr_failed; i++)
		write_pfn(UNPOISON_PFN, self->pfns[i]);
	hugetlb_resize_pool(&self->pool);
	EXPECT_POOL_RESTORED(&self->pool);
}

struct racer {
	struct kvm_vcpu *vcpu;
	bool done;
	u32 seed;
	int fd;
};

/* With every unit that fails there may be one less to have: ENOSPC. */
static void *race_punch(void *data)
{
	struct racer *r = data;

	while (!READ_ONCE(r->done)) {
		u64 offset = rand_r(&r->seed) % NR_RACE_UNITS * SZ_2M;

		kvm_fallocate(r->fd, PUNCH, offset, rand_r(&r->seed) & 1 ? SZ_2M : SZ_4K);
		if (fallocate(r->fd, FALLOC_FL_KEEP_SIZE, 0, NR_RACE_UNITS * SZ_2M))
			TEST_ASSERT(errno == ENOSPC, "fallocate() failed, errno %d", errno);
	}
	return NULL;
}

static void *race_read(void *data)
{
	struct racer *r = data;

	while (!READ_ONCE(r->done)) {
		u64 offset = rand_r(&r->seed) % NR_RACE_UNITS * SZ_2M;

		set_request(r->vcpu, TEST_GPA + offset, 0);
		if (!_vcpu_run(r->vcpu))
			continue;
		TEST_ASSERT(errno == EHWPOISON || errno == ENOSPC,
			    "KVM_RUN failed, errno %d", errno);
		vcpu_arch_set_entry_point(r->vcpu, guest_code);
	}
	return NULL;
}

TEST_F(race, fail_while_in_use)
{
	const size_t size = NR_RACE_UNITS * SZ_2M;
	long hogged = hugetlb_available(&self->pool) - NR_RACE_UNITS;
	struct racer reader = { .seed = 1 }, puncher = { .seed = 2 };
	pthread_t read_thread, punch_thread;
	struct kvm_vm *vm;
	void *hva, *hog;
	int i;

	vm = create_vm(VM_TYPE_PRIVATE, &reader.vcpu);
	puncher.fd = vm_create_guest_memfd_hugetlb(vm, size, 0, 21);
	hva = kvm_mmap(size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	vm_set_user_memory_region2(vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD, TEST_GPA, size,
				   hva, puncher.fd, 0);
	kvm_fallocate(puncher.fd, FALLOC_FL_KEEP_SIZE, 0, size);
	hog = hogged ? hugetlb_hog(SZ_2M, hogged, -1) : NULL;
	find_units(SZ_2M, hog, hogged, self->pfns, NR_RACE_UNITS);

	kvm_pthread_create(&read_thread, NULL, race_read, &reader);
	kvm_pthread_create(&punch_thread, NULL, race_punch, &puncher);
	for (i = 0; i < NR_RACE_UNITS; i++) {
		usleep(50 * 1000);
		/* It may be between two lives: free, and handled as such. */
		write_pfn(CORRUPT_PFN, self->pfns[i]);
		self->nr_failed = i + 1;
	}
	WRITE_ONCE(reader.done, true);
	WRITE_ONCE(puncher.done, true);
	kvm_pthread_join(read_thread, NULL);
	kvm_pthread_join(punch_thread, NULL);

	kvm_fallocate(puncher.fd, PUNCH, 0, size);
	close(puncher.fd);
	kvm_vm_free(vm);
}

/* Who lets his own memory fail is told at once, and cannot ignore it. */
static void ignore_sigbus(int sig)
{
}

/* Ordinary files, for comparison: the page is mapped, so this one is easy. */
TEST(small_page)
{
	const int page = 1;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	char *mem;
	int fd, r;

	if (!(kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) & GUEST_MEMFD_FLAG_INIT_SHARED))
		SKIP(return, "needs guest_memfd that the host can map");

	signal(SIGBUS, ignore_sigbus);
	vm = create_vm(VM_TYPE_DEFAULT, &vcpu);
	fd = vm_create_guest_memfd(vm, SZ_2M, GUEST_MEMFD_FLAG_MMAP |
					      GUEST_MEMFD_FLAG_INIT_SHARED);
	mem = kvm_mmap(SZ_2M, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	vm_set_user_memory_region2(vm, TEST_SLOT, KVM_MEM_GUEST_MEMFD, TEST_GPA,
				   SZ_2M, mem, fd, 0);
	TEST_ASSERT_EQ(guest_access(vcpu, TEST_GPA, 1), 1);
	TEST_ASSERT_EQ(guest_access(vcpu, TEST_GPA + page * PAGE_SIZE, 2), 2);

	/* The page stays where it is, and still this counts as handled. */
	r = madvise(mem + page * PAGE_SIZE, PAGE_SIZE, MADV_HWPOISON);
	if (r && (errno == EINVAL || errno == EPERM))
		SKIP(return, "needs root and CONFIG_MEMORY_FAILURE");
	TEST_ASSERT(!r, "MADV_HWPOISON should succeed, errno %d", errno);
	guest_access_fails(vcpu, TEST_GPA + page * PAGE_SIZE);
	TEST_ASSERT_EQ(guest_access(vcpu, TEST_GPA, 0), 1);

	kvm_fallocate(fd, PUNCH, page * PAGE_SIZE, PAGE_SIZE);
	TEST_ASSERT_EQ(guest_access(vcpu, TEST_GPA + page * PAGE_SIZE, 0), 0);
	close(fd);
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_GUEST_MEMFD));
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(VM_TYPE_PRIVATE));

	return test_harness_run(argc, argv);
}
