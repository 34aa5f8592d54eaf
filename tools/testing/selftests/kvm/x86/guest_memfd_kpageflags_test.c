// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test of /proc/kpageflags and /proc/kpagecount of huge pages that are split and merged
 * all the time.  No value is right or wrong, but the kernel must not take struct pages
 * for what they were a moment ago.  Kernels with CONFIG_DEBUG_VM_PGFLAGS assert that.
 */
#include "guest_memfd_fixture.h"

#define UNIT		SZ_2M
#define UNIT_PAGES	(UNIT / 4096)
#define NR_CONVERSIONS	3000

static u64 first_pfn;
static bool stop;

static void *read_file(void *path)
{
	int fd = open(path, O_RDONLY);
	u64 words[UNIT_PAGES];

	TEST_ASSERT(fd >= 0, "Cannot open %s", (char *)path);
	while (!READ_ONCE(stop))
		TEST_ASSERT(pread(fd, words, sizeof(words), first_pfn * 8) == sizeof(words),
			    "Cannot read %s", (char *)path);
	close(fd);
	return NULL;
}

TEST(read_while_split_and_merged)
{
	static const char * const paths[] = { "/proc/kpageflags", "/proc/kpagecount" };
	pthread_t threads[ARRAY_SIZE(paths)];
	struct hugetlb_pool pool;
	struct kvm_vm *vm;
	char *mem;
	int fd, i;

	SKIP_IF(return, missing_units(UNIT, 1, &pool));

	vm = vm_create_barebones_type(VM_TYPE_PRIVATE);
	fd = vm_create_guest_memfd_hugetlb(vm, UNIT, GMEM_SHARED, 21);
	mem = kvm_mmap(UNIT, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	WRITE_ONCE(*mem, 1);
	first_pfn = read_pagemap_pfn(mem);
	if (!first_pfn)
		SKIP(return, "needs CAP_SYS_ADMIN");

	for (i = 0; i < ARRAY_SIZE(paths); i++)
		pthread_create(&threads[i], NULL, read_file, (void *)paths[i]);

	gmem_set_private(fd, 0, UNIT);
	for (i = 0; i < NR_CONVERSIONS; i++) {
		const u64 page = i * 37 % UNIT_PAGES;

		gmem_set_shared(fd, page * page_size, page_size);
		WRITE_ONCE(mem[page * page_size], 1);
		gmem_set_private(fd, page * page_size, page_size);
	}

	WRITE_ONCE(stop, true);
	for (i = 0; i < ARRAY_SIZE(paths); i++)
		pthread_join(threads[i], NULL);

	kvm_munmap(mem, UNIT);
	close(fd);
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	gmem_init(NEEDS_HUGETLB | NEEDS_PRIVATE_VM);
	__TEST_REQUIRE(!access("/proc/kpageflags", R_OK),
		       "needs root and CONFIG_PROC_PAGE_MONITOR");
	return test_harness_run(argc, argv);
}
