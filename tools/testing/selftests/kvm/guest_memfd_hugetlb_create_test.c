// SPDX-License-Identifier: GPL-2.0-only
/*
 * Create guest_memfd files made of HugeTLB pages, and bind them to memslots: which
 * calls are refused, with which error, and what a pool promises to a file.
 */
#include <sys/stat.h>
#include <time.h>

#include "guest_memfd_fixture.h"

#define _test_data_hugetlb		gmem
#define _fixture_variant_hugetlb	gmem_variant

GMEM_FIXTURE(hugetlb, gmem_setup_vm(self, variant));
GMEM_VARIANTS(hugetlb, 4, 2);

static int __create(struct kvm_vm *vm, struct kvm_create_guest_memfd args)
{
	int fd = __vm_ioctl(vm, KVM_CREATE_GUEST_MEMFD, &args);

	return fd < 0 ? -errno : fd;
}

static void assert_args_fail(struct kvm_vm *vm, int error, struct kvm_create_guest_memfd args)
{
	int r = __create(vm, args);

	TEST_ASSERT(r == -error,
		    "guest_memfd() of 0x%llx bytes, flags 0x%llx, log2 %u should fail with %d, got %d",
		    args.size, args.flags, args.huge_page_size_log2, -error, r);
}

static void assert_create_fails(struct kvm_vm *vm, int error, u64 size, u64 flags, u8 log2)
{
	assert_args_fail(vm, error, (struct kvm_create_guest_memfd) {
		.size = size,
		.flags = flags | GUEST_MEMFD_FLAG_HUGETLB,
		.huge_page_size_log2 = log2,
	});
}

TEST_F(hugetlb, create_reserves)
{
	struct stat st;
	int fd;

	fd = gmem_create(self, 0);
	assert_pool(0, self->nr);

	TEST_ASSERT(!fstat(fd, &st), "fstat() should succeed");
	TEST_ASSERT_EQ(st.st_size, self->size);
	/* As for files of hugetlbfs. */
	TEST_ASSERT_EQ(st.st_blksize, self->unit);

	close(fd);
	assert_pool(0, 0);
}

TEST_F(hugetlb, create_several)
{
	int fds[2];

	self->size = self->unit;
	fds[0] = gmem_create(self, 0);
	assert_pool(0, 1);
	fds[1] = gmem_create(self, GUEST_MEMFD_FLAG_MMAP);
	assert_pool(0, 2);
	close(fds[0]);
	assert_pool(0, 1);
	close(fds[1]);
	assert_pool(0, 0);
}

TEST_F(hugetlb, create_bad_size)
{
	const s64 sizes[] = {
		0,
		1,
		page_size,
		self->unit / 2,
		self->unit - page_size,
		self->unit - 1,
		self->unit + 1,
		self->unit + page_size,
		self->unit * 3 / 2,
		-1,
		-(s64)page_size,
		-(s64)self->unit,
		INT64_MIN,
		INT64_MAX,
		INT64_MAX - page_size + 1,
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++)
		assert_create_fails(self->vm, EINVAL, sizes[i], 0, variant->size_log2);
	assert_pool(0, 0);
}

TEST_F(hugetlb, create_bad_log2)
{
	int log2;

	for (log2 = 1; log2 <= UINT8_MAX; log2++) {
		/* A multiple of any huge page size, and more than any pool has. */
		u64 size = BIT_ULL(62);
		bool valid = log2 < 63 && hugetlb_size_supported(BIT_ULL(log2));

		assert_create_fails(self->vm, valid ? ENOMEM : EINVAL, size, 0, log2);
	}
	assert_pool(0, 0);
}

TEST_F(hugetlb, create_bad_flags)
{
	u64 valid = vm_check_cap(self->vm, KVM_CAP_GUEST_MEMFD_FLAGS);
	u64 flag;

	for (flag = BIT(0); flag; flag <<= 1) {
		if (flag & valid)
			continue;
		assert_create_fails(self->vm, EINVAL, self->unit, flag, variant->size_log2);
	}
	assert_pool(0, 0);
}

TEST_F(hugetlb, create_bad_padding)
{
	struct kvm_create_guest_memfd args = {
		.size = self->unit,
		.flags = GUEST_MEMFD_FLAG_HUGETLB,
		.huge_page_size_log2 = variant->size_log2,
	};
	int i, fd;

	for (i = 0; i < ARRAY_SIZE(args.pad); i++) {
		args.pad[i] = 1;
		assert_args_fail(self->vm, EINVAL, args);
		args.pad[i] = 0;
	}
	for (i = 0; i < ARRAY_SIZE(args.reserved); i++) {
		args.reserved[i] = BIT_ULL(63);
		assert_args_fail(self->vm, EINVAL, args);
		args.reserved[i] = 0;
	}
	assert_pool(0, 0);

	fd = __create(self->vm, args);
	TEST_ASSERT(fd >= 0, "All padding 0 should succeed, got %d", fd);
	close(fd);
}

/* 7.3 ignores reserved[], and existing users may rely on it. */
TEST_F(hugetlb, fields_ignored_without_flag)
{
	struct kvm_create_guest_memfd args = {
		.size = page_size,
		.huge_page_size_log2 = 255,
	};
	int fd;

	memset(args.pad, 0xff, sizeof(args.pad));
	memset(args.reserved, 0xff, sizeof(args.reserved));

	fd = __create(self->vm, args);
	TEST_ASSERT(fd >= 0, "Without the flag the new fields should be ignored, got %d", fd);
	allocate_fd(fd, 0, page_size);
	assert_pool(0, 0);
	close(fd);

	args.huge_page_size_log2 = variant->size_log2;
	args.size = self->unit;
	fd = __create(self->vm, args);
	TEST_ASSERT(fd >= 0, "Without the flag the new fields should be ignored, got %d", fd);
	assert_pool(0, 0);
	close(fd);
}

/* The file is shared from the start, i.e. the host can map it page by page. */
TEST_F(hugetlb, create_init_shared)
{
	struct kvm_vm *vms[] = { self->vm, vm_create_barebones_type(VM_TYPE_DEFAULT) };
	const u64 shared = GUEST_MEMFD_FLAG_INIT_SHARED;
	char *mem;
	int i, fd;

	for (i = 0; i < ARRAY_SIZE(vms); i++) {
		fd = vm_create_guest_memfd_hugetlb(vms[i], self->unit, shared,
						   variant->size_log2);
		assert_pool(0, 1);
		close(fd);

		fd = vm_create_guest_memfd_hugetlb(vms[i], self->unit,
						   shared | GUEST_MEMFD_FLAG_MMAP,
						   variant->size_log2);
		mem = kvm_mmap(self->unit, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
		assert_pool(0, 1);
		TEST_ASSERT_EQ(READ_ONCE(mem[0]), 0);
		assert_pool(1, 0);
		WRITE_ONCE(mem[self->unit - 1], 1);
		TEST_ASSERT_EQ(READ_ONCE(mem[self->unit - 1]), 1);
		TEST_ASSERT_EQ(READ_ONCE(mem[self->unit / 2]), 0);
		punch_fd(fd, 0, self->unit);
		assert_pool(0, 1);
		TEST_ASSERT_EQ(READ_ONCE(mem[self->unit - 1]), 0);
		assert_pool(1, 0);
		kvm_munmap(mem, self->unit);
		close(fd);
		assert_pool(0, 0);
	}
	kvm_vm_free(vms[1]);
}

TEST_F(hugetlb, create_pool_too_small)
{
	long avail = hugetlb_available(&self->pool);
	int fd;

	assert_create_fails(self->vm, ENOMEM, (avail + 1) * self->unit, 0, variant->size_log2);
	assert_pool(0, 0);

	/* A file can reserve all pages to the last one, and then none is left for another file. */
	fd = vm_create_guest_memfd_hugetlb(self->vm, avail * self->unit, 0, variant->size_log2);
	assert_pool(0, avail);
	assert_create_fails(self->vm, ENOMEM, self->unit, 0, variant->size_log2);
	TEST_ASSERT(!__hugetlb_hog(self->unit, 1, -1),
		    "A reserved page should not be there for others");
	assert_pool(0, avail);
	close(fd);
	assert_pool(0, 0);
}

TEST_F(hugetlb, create_absurdly_large)
{
	const u64 sizes[] = {
		TOO_MUCH, BIT_ULL(50), BIT_ULL(62), INT64_MAX & ~(self->unit - 1),
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++)
		assert_create_fails(self->vm, ENOMEM, sizes[i], 0, variant->size_log2);
	assert_pool(0, 0);
}

/* Errors in the arguments are reported before a lack of pages in the pool. */
TEST_F(hugetlb, create_order_of_checks)
{
	struct kvm_create_guest_memfd args = {
		.size = TOO_MUCH,
		.flags = GUEST_MEMFD_FLAG_HUGETLB,
		.huge_page_size_log2 = variant->size_log2,
	};

	assert_args_fail(self->vm, ENOMEM, args);

	args.pad[6] = 1;
	assert_args_fail(self->vm, EINVAL, args);
	args.pad[6] = 0;
	args.reserved[4] = 1;
	assert_args_fail(self->vm, EINVAL, args);
	args.reserved[4] = 0;
	args.size += page_size;
	assert_args_fail(self->vm, EINVAL, args);
	args.size = TOO_MUCH;
	args.flags |= BIT_ULL(63);
	assert_args_fail(self->vm, EINVAL, args);
	assert_pool(0, 0);
}

static int bind(struct kvm_vm *vm, void *hva, int fd, u32 slot, u64 offset, u64 size)
{
	int r = __vm_set_user_memory_region2(vm, slot, KVM_MEM_GUEST_MEMFD,
					     slot * BIT_ULL(32), size, hva, fd, offset);

	return r ? -errno : 0;
}

static void unbind(struct kvm_vm *vm, u32 slot)
{
	vm_set_user_memory_region2(vm, slot, 0, slot * BIT_ULL(32), 0, NULL, 0, 0);
}

/* A memslot may begin or end within a huge page, but not beyond the file or in another memslot. */
TEST_F(hugetlb, memslots)
{
	const u64 offsets[] = {
		0, page_size, self->unit / 2, self->unit - page_size, self->unit,
		self->unit + page_size, self->size - page_size,
	};
	void *hva = kvm_mmap(self->size, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	int fd = gmem_create(self, 0), i;

	for (i = 0; i < ARRAY_SIZE(offsets); i++) {
		u64 rest = self->size - offsets[i];

		TEST_ASSERT_EQ(bind(self->vm, hva, fd, 1, offsets[i], rest), 0);
		unbind(self->vm, 1);
		TEST_ASSERT_EQ(bind(self->vm, hva, fd, 1, offsets[i], page_size), 0);
		unbind(self->vm, 1);

		TEST_ASSERT_EQ(bind(self->vm, hva, fd, 1, offsets[i], rest + page_size), -EINVAL);
		TEST_ASSERT_EQ(bind(self->vm, hva, fd, 1, offsets[i] + 1, page_size), -EINVAL);
		TEST_ASSERT_EQ(bind(self->vm, hva, fd, 1, offsets[i], 1), -EINVAL);
	}
	TEST_ASSERT_EQ(bind(self->vm, hva, fd, 1, self->size, page_size), -EINVAL);
	TEST_ASSERT_EQ(bind(self->vm, hva, fd, 1, align_down(INT64_MAX, page_size), page_size),
		       -EINVAL);

	/* Every page of a file is in one memslot at most, but memslots may be side by side. */
	TEST_ASSERT_EQ(bind(self->vm, hva, fd, 1, page_size, page_size), 0);
	TEST_ASSERT_EQ(bind(self->vm, hva, fd, 2, 0, 2 * page_size), -EEXIST);
	TEST_ASSERT_EQ(bind(self->vm, hva, fd, 2, 0, page_size), 0);
	TEST_ASSERT_EQ(bind(self->vm, hva, fd, 3, 2 * page_size, self->unit), 0);

	assert_pool(0, self->nr);
	close(fd);
	assert_pool(0, 0);
}

/* The following tests do not depend on the size of the huge page. */
TEST(default_size)
{
	size_t unit = hugetlb_default_size();
	struct hugetlb_pool pool;
	struct kvm_vm *vm;
	int fd;

	SKIP_IF(return, missing_units(unit, 1, &pool));

	vm = vm_create_barebones_type(VM_TYPE_PRIVATE);
	fd = vm_create_guest_memfd_hugetlb(vm, unit, 0, 0);
	TEST_ASSERT_POOL(&pool, 0, 1);
	allocate_fd(fd, 0, page_size);
	TEST_ASSERT_POOL(&pool, -1, 0);
	close(fd);
	TEST_ASSERT_POOL(&pool, 0, 0);

	assert_create_fails(vm, EINVAL, unit + page_size, 0, 0);
	assert_create_fails(vm, EINVAL, unit / 2, 0, 0);
	kvm_vm_free(vm);
}

/*
 * CMA lends its memory out and needs it back, but guest_memfd does not give it back.
 * So a pool that has only pages of CMA is as good as an empty one.
 */
TEST(unpinnable_pool)
{
	struct hugetlb_pool pool = { .size = SZ_1G }, empty;
	long free_cma, allocated;
	struct kvm_vm *vm;

	SKIP_IF(return, missing_units(SZ_1G, 0, &empty));
	/* CMA may have lent out some of its memory, so expect half of it to be free. */
	free_cma = read_vmstat("nr_free_cma");
	if (empty.total || free_cma < (long)(SZ_512M / page_size))
		SKIP(return, "needs hugetlb_cma=1G, no 1G page; have %ld of CMA, %ld 1G pages",
		     free_cma, empty.total);

	allocated = read_vmstat("cma_alloc_success");
	pool.total = 1;
	hugetlb_resize_pool(&pool);
	hugetlb_read_pool(SZ_1G, &pool);
	if (pool.free != 1 || read_vmstat("cma_alloc_success") != allocated + 1) {
		hugetlb_resize_pool(&empty);
		SKIP(return, "needs a 1G page from CMA, have %ld from elsewhere", pool.free);
	}

	vm = vm_create_barebones_type(VM_TYPE_PRIVATE);
	assert_create_fails(vm, ENOMEM, SZ_1G, 0, 30);
	TEST_ASSERT_POOL(&pool, 0, 0);
	kvm_vm_free(vm);

	hugetlb_resize_pool(&empty);
	TEST_ASSERT_POOL(&empty, 0, 0);
}

/* Return the first pfn of the zone Movable, or 0 if there is none. */
static u64 movable_start(void)
{
	FILE *f = fopen("/proc/zoneinfo", "r");
	unsigned long start = 0;
	bool movable = false;
	char line[128];

	TEST_ASSERT(f, "Cannot open /proc/zoneinfo");
	while (!start && fgets(line, sizeof(line), f)) {
		if (strstr(line, "zone "))
			movable = strstr(line, "Movable");
		if (movable)
			sscanf(line, " start_pfn: %lu", &start);
	}
	fclose(f);
	return start;
}

/* Enough pages of the zone Movable to look at them more than once. */
#define NR_MOVABLE_MIN	300
#define NR_POOL		500

/*
 * Memory of the zone Movable has to be free of pins, so guest_memfd doesn't use it.  A
 * file gets the other pages of the pool, and may be as large as these, in whatever order
 * the pool has its pages.
 */
TEST(unpinnable_pages_first)
{
	struct hugetlb_pool pool = { .size = SZ_2M, .total = NR_POOL }, empty;
	u64 start = movable_start();
	bool movable[NR_POOL];
	struct kvm_vm *vm;
	long nr_other = 0;
	char *mem;
	int i, fd;

	SKIP_IF(return, missing_units(SZ_2M, 0, &empty));
	if (!start || empty.total)
		SKIP(return, "needs movablecore=1G, and no 2M page yet");

	hugetlb_resize_pool(&pool);
	hugetlb_read_pool(SZ_2M, &pool);
	mem = hugetlb_hog(SZ_2M, NR_POOL, -1);
	for (i = 0; i < NR_POOL; i++) {
		movable[i] = read_pagemap_pfn(mem + i * SZ_2M) >= start;
		nr_other += !movable[i];
	}
	TEST_ASSERT(nr_other && NR_POOL - nr_other >= NR_MOVABLE_MIN,
		    "Pages should be of both kinds, but %ld of %d are pinnable",
		    nr_other, NR_POOL);
	/* The pool hands out the page first that has come back last. */
	for (i = 0; i < NR_POOL; i++)
		if (!movable[i])
			kvm_munmap(mem + i * SZ_2M, SZ_2M);
	for (i = 0; i < NR_POOL; i++)
		if (movable[i])
			kvm_munmap(mem + i * SZ_2M, SZ_2M);
	TEST_ASSERT_POOL(&pool, 0, 0);

	vm = vm_create_barebones_type(VM_TYPE_PRIVATE);
	assert_create_fails(vm, ENOMEM, (nr_other + 1) * SZ_2M, 0, 21);
	fd = vm_create_guest_memfd_hugetlb(vm, nr_other * SZ_2M, 0, 21);
	allocate_fd(fd, 0, nr_other * SZ_2M);
	TEST_ASSERT_POOL(&pool, -nr_other, 0);
	close(fd);
	kvm_vm_free(vm);

	TEST_ASSERT_POOL(&pool, 0, 0);
	hugetlb_resize_pool(&empty);
	TEST_ASSERT_POOL(&empty, 0, 0);
}

#define NR_LARGE_POOL	2048
#define NR_SMALL_POOL	256
#define NR_CREATIONS	20
#define WAKEUP_NS	20000

static struct {
	pthread_t thread;
	bool stop;
	u64 max_late;
} waker;

static void *wake_up_in_time(void *arg)
{
	u64 next, late;

	while (!READ_ONCE(waker.stop)) {
		next = now_ns() + WAKEUP_NS;
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &(struct timespec) {
			.tv_sec = next / 1000000000,
			.tv_nsec = next % 1000000000,
		}, NULL);
		late = now_ns() - next;
		if (late > waker.max_late)
			WRITE_ONCE(waker.max_late, late);
	}
	return NULL;
}

/*
 * Return how late a task of high priority is, at most, while files are refused.  This takes
 * timers of high resolution, and a machine in which time is the number of instructions.
 */
static u64 lateness(struct kvm_vm *vm, long nr_pool)
{
	struct hugetlb_pool pool = { .size = SZ_2M, .total = nr_pool };
	int i;

	hugetlb_resize_pool(&pool);
	hugetlb_read_pool(SZ_2M, &pool);
	TEST_ASSERT(pool.free == nr_pool, "The pool should have %ld pages, has %ld", nr_pool,
		    pool.free);
	WRITE_ONCE(waker.max_late, 0);
	for (i = 0; i < NR_CREATIONS; i++)
		assert_create_fails(vm, ENOMEM, nr_pool * SZ_2M, 0, 21);
	return READ_ONCE(waker.max_late);
}

/*
 * A file for which the pool has too few pinnable pages makes the kernel look at all free
 * pages of the pool.  Other tasks don't have to wait for that, however large the pool is.
 */
TEST(search_of_a_large_pool)
{
	const struct sched_param param = { .sched_priority = 50 };
	struct hugetlb_pool empty;
	pthread_attr_t attr;
	struct kvm_vm *vm;
	u64 small, large;

	SKIP_IF(return, missing_units(SZ_2M, 0, &empty));
	if (!movable_start() || empty.total || sysconf(_SC_NPROCESSORS_ONLN) > 1)
		SKIP(return, "needs movablecore=256M, one CPU, and no 2M page yet");

	vm = vm_create_barebones_type(VM_TYPE_PRIVATE);
	pthread_attr_init(&attr);
	pthread_attr_setinheritsched(&attr, PTHREAD_EXPLICIT_SCHED);
	pthread_attr_setschedpolicy(&attr, SCHED_FIFO);
	pthread_attr_setschedparam(&attr, &param);
	TEST_ASSERT(!pthread_create(&waker.thread, &attr, wake_up_in_time, NULL),
		    "Real-time threads should be there");

	small = lateness(vm, NR_SMALL_POOL);
	large = lateness(vm, NR_LARGE_POOL);
	WRITE_ONCE(waker.stop, true);
	pthread_join(waker.thread, NULL);
	kvm_vm_free(vm);
	hugetlb_resize_pool(&empty);
	TEST_ASSERT_POOL(&empty, 0, 0);

	printf("# late by %lu ns with %d free pages, %lu ns with %d\n", small, NR_SMALL_POOL,
	       large, NR_LARGE_POOL);
	TEST_ASSERT(large < 2 * small,
		    "A pool that is %d times as large should not delay other tasks",
		    NR_LARGE_POOL / NR_SMALL_POOL);
}

/* A VM type either offers the flag or refuses it. */
TEST(vm_types)
{
	unsigned long types = kvm_check_cap(KVM_CAP_VM_TYPES) ?: BIT(VM_TYPE_DEFAULT);
	size_t unit = hugetlb_default_size();
	struct hugetlb_pool pool;
	unsigned long type;

	SKIP_IF(return, missing_units(unit, 1, &pool));

	for_each_set_bit(type, &types, BITS_PER_TYPE(types)) {
		struct kvm_vm *vm = vm_create_barebones_type(type);
		u64 flags = vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_FLAGS);
		int fd = __vm_create_guest_memfd_hugetlb(vm, unit, 0, 0);

		assert_offered(fd, flags & GUEST_MEMFD_FLAG_HUGETLB, "GUEST_MEMFD_FLAG_HUGETLB");
		kvm_vm_free(vm);
		TEST_ASSERT_POOL(&pool, 0, 0);
	}
}

/*
 * KVM offers huge pages, and private memory that starts out shared, if it can convert
 * memory in place, and refuses them if it can't.
 */
TEST(in_place_conversion_decides)
{
	unsigned long types = kvm_check_cap(KVM_CAP_VM_TYPES) ?: BIT(VM_TYPE_DEFAULT);
	unsigned long type;
	bool in_place;

	if (access("/sys/module/kvm/parameters/gmem_in_place_conversion", F_OK))
		SKIP(return, "needs an architecture where it is a parameter of KVM");
	in_place = get_kvm_param_bool("gmem_in_place_conversion");

	TEST_ASSERT_EQ(has_guest_memfd_hugetlb(), in_place);
	for_each_set_bit(type, &types, BITS_PER_TYPE(types)) {
		struct kvm_vm *vm = vm_create_barebones_type(type);
		u64 flags = vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_FLAGS);
		int fd;

		TEST_ASSERT_EQ(!!(flags & GUEST_MEMFD_FLAG_HUGETLB), in_place);
		if (type == VM_TYPE_DEFAULT || type == VM_TYPE_PRIVATE)
			TEST_ASSERT_EQ(!!(flags & GUEST_MEMFD_FLAG_INIT_SHARED),
				       in_place || type != VM_TYPE_PRIVATE);
		if (!in_place) {
			assert_create_fails(vm, EINVAL, SZ_1G, 0, 0);
			assert_create_fails(vm, EINVAL, SZ_1G, 0, 21);
			assert_create_fails(vm, EINVAL, SZ_1G, GUEST_MEMFD_FLAG_MMAP, 30);
		}

		fd = __vm_create_guest_memfd(vm, page_size, GUEST_MEMFD_FLAG_INIT_SHARED);
		assert_offered(fd, flags & GUEST_MEMFD_FLAG_INIT_SHARED, "INIT_SHARED");
		kvm_vm_free(vm);
	}
}

GMEM_TEST_MAIN(0)
