// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of the costs of guest_memfd and of converting it in place.  Faults of different
 * vCPUs don't wait for each other.  A conversion takes one flush of the guest's TLBs,
 * however fragmented the range is.  It takes memory and time only for what changes, however
 * large the file is.  A model that has a list of all conversions says which page is
 * private.
 */

#include <sys/resource.h>

#include "guest_memfd_fixture.h"

#define NR_PAGES	512
#define TEST_SIZE	((u64)NR_PAGES * PAGE_SIZE)

/* The largest size of a file, in pages. */
#define MAX_PAGES	(LLONG_MAX / PAGE_SIZE)
#define MAX_SECONDS	20

static void create_vm(struct gmem *self, int nr_vcpus)
{
	self->vm = __create_guest(VM_TYPE_PRIVATE, self->vcpus, nr_vcpus);
	self->vcpu = self->vcpus[0];
}

#define _test_data_flush	gmem
#define _fixture_variant_flush	gmem_variant

static const char *setup_flush(struct gmem *self, const struct gmem_variant *variant)
{
	const char *missing = gmem_setup(self, variant);

	if (missing)
		return missing;
	create_vm(self, 1);
	self->fd = gmem_create(self, 0);
	add_slot(self->vm, TEST_GPA, self->size, NULL, self->fd, 0);
	return NULL;
}

GMEM_FIXTURE(flush, setup_flush(self, variant));
GMEM_VARIANT_OF_UNITS(flush, 4k, 12, NR_PAGES);
GMEM_VARIANTS(flush, 1, 1);

TEST_F(flush, once_for_a_fragmented_range)
{
	u64 flushes, pages;
	int to_private, i;

	for (to_private = 0; to_private < 2; to_private++) {
		convert_fd(self->fd, 0, NR_PAGES, !to_private);
		for (i = 0; i < NR_PAGES; i += 2)
			convert_fd(self->fd, i, 1, to_private);
		prefault(self->vcpu, 0, TEST_SIZE);
		pages = vm_get_stat(self->vm, pages_4k);

		flushes = vm_get_stat(self->vm, remote_tlb_flush_requests);
		convert_fd(self->fd, 0, NR_PAGES, to_private);
		flushes = vm_get_stat(self->vm, remote_tlb_flush_requests) - flushes;

		/* All pages that have changed were mapped, and aren't any more. */
		TEST_ASSERT(vm_get_stat(self->vm, pages_4k) <= pages - NR_PAGES / 2,
			    "%d pages should be unmapped", NR_PAGES / 2);
		TEST_ASSERT(flushes >= 1 && flushes <= 4,
			    "%d ranges in one conversion to %s should take one flush, take %lu",
			    NR_PAGES / 2, to_private ? "private" : "shared", flushes);
	}
}

#define NR_VCPUS	2
#define FAULT_SIZE	((u64)SZ_256M)
/* How often a thread sleeps for other reasons. */
#define MAX_SLEEPS	2

struct faulter {
	pthread_t thread;
	struct kvm_vcpu *vcpu;
	pthread_barrier_t *barrier;
	long sleeps;
};

static void *fault_in(void *arg)
{
	struct faulter *faulter = arg;
	struct rusage before, after;

	pthread_barrier_wait(faulter->barrier);
	getrusage(RUSAGE_THREAD, &before);
	prefault(faulter->vcpu, PAGE_SIZE, FAULT_SIZE);
	getrusage(RUSAGE_THREAD, &after);
	faulter->sleeps = after.ru_nvcsw - before.ru_nvcsw;

	return NULL;
}

/*
 * Let vCPUs map the same huge page by pages of 4K, at once.  None of them sleeps, as they
 * would if each took the lock of the folio.
 */
TEST(faults_do_not_wait)
{
	struct faulter faulters[NR_VCPUS] = {};
	struct gmem gmem = {}, *self = &gmem;
	pthread_barrier_t barrier;
	struct kvm_vm *vm;
	int fd, i;

	SKIP_IF(return, missing_units(SZ_1G, 1, &self->pool));
	create_vm(self, NR_VCPUS);
	vm = self->vm;
	fd = vm_create_guest_memfd_hugetlb(vm, SZ_1G, 0, 30);
	allocate_fd(fd, 0, SZ_1G);
	/* The offset in the file isn't congruent: all mappings are of 4K. */
	add_slot(vm, TEST_GPA + PAGE_SIZE, SZ_1G, NULL, fd, 0);

	pthread_barrier_init(&barrier, NULL, NR_VCPUS);
	for (i = 0; i < NR_VCPUS; i++) {
		faulters[i].vcpu = self->vcpus[i];
		faulters[i].barrier = &barrier;
		pthread_create(&faulters[i].thread, NULL, fault_in, &faulters[i]);
	}
	for (i = 0; i < NR_VCPUS; i++)
		pthread_join(faulters[i].thread, NULL);

	TEST_ASSERT_EQ(vm_get_stat(vm, pages_1g) + vm_get_stat(vm, pages_2m), 0);
	TEST_ASSERT(vm_get_stat(vm, pages_4k) >= FAULT_SIZE / PAGE_SIZE,
		    "All pages should be mapped");
	for (i = 0; i < NR_VCPUS; i++)
		TEST_ASSERT(faulters[i].sleeps <= MAX_SLEEPS,
			    "vCPU %d should not wait for other faults, has slept %ld times", i,
			    faulters[i].sleeps);
	close(fd);
	kvm_vm_free(vm);
}

#define _test_data_sparse	gmem
#define _fixture_variant_sparse	gmem_variant

static const char *setup_sparse(struct gmem *self, u64 flags)
{
	create_vm(self, 1);
	self->fd = vm_create_guest_memfd(self->vm, MAX_PAGES * PAGE_SIZE,
					 flags | GUEST_MEMFD_FLAG_MMAP);
	kvm_pipe(self->pipe);
	return NULL;
}

GMEM_FIXTURE(sparse, setup_sparse(self, variant->flags));
GMEM_VARIANTS_OF_STATE(sparse);

/*
 * Return whether a page is private, i.e. whether the host gets EFAULT.  A read
 * allocates a shared page, so the page is punched afterwards.
 */
static bool is_private(struct gmem *self, u64 page)
{
	void *mem = __kvm_mmap(PAGE_SIZE, PROT_READ, MAP_SHARED, self->fd, page * PAGE_SIZE);
	bool private = !can_read(self->pipe, mem);

	kvm_munmap(mem, PAGE_SIZE);
	punch_fd(self->fd, page * PAGE_SIZE, PAGE_SIZE);
	return private;
}

struct conversion {
	u64 first;
	u64 nr;
	bool private;
};

#define NR_CONVERSIONS	300

static struct conversion done[NR_CONVERSIONS];

static bool model_is_private(int nr_done, bool init_private, u64 page)
{
	while (nr_done--) {
		const struct conversion *c = &done[nr_done];

		if (page >= c->first && page - c->first < c->nr)
			return c->private;
	}
	return init_private;
}

/*
 * Return a random number.  Small ones are as likely as large ones, and half of them are
 * aligned to a number of pages whose state the kernel may store at once.
 */
static u64 random_number(void)
{
	const int bits = kvm_random_u64_in_range(&kvm_rng, 0, 50);
	u64 nr = kvm_random_u64_in_range(&kvm_rng, 0, BIT_ULL(bits));
	int shift = 12 + 6 * kvm_random_u64_in_range(&kvm_rng, 0, 6);

	if (kvm_random_u64_in_range(&kvm_rng, 0, 1) && nr >> shift)
		nr = nr >> shift << shift;
	return nr;
}

static struct conversion random_conversion(void)
{
	struct conversion c;

	c.first = random_number() % MAX_PAGES;
	c.nr = random_number() % MAX_PAGES + 1;
	if (c.nr > MAX_PAGES - c.first || !kvm_random_u64_in_range(&kvm_rng, 0, 9))
		c.nr = MAX_PAGES - c.first;
	c.private = kvm_random_u64_in_range(&kvm_rng, 0, 1);
	return c;
}

static void check_page(struct gmem *self, int nr_done, bool init_private, u64 page)
{
	bool want = model_is_private(nr_done, init_private, page);

	if (page >= MAX_PAGES)
		return;
	TEST_ASSERT(is_private(self, page) == want,
		    "Page 0x%lx should be %s after %d conversions, the last 0x%lx + 0x%lx to %d",
		    page, want ? "private" : "shared", nr_done, done[nr_done - 1].first,
		    done[nr_done - 1].nr, done[nr_done - 1].private);
}

static void check_edges(struct gmem *self, int nr_done, bool init_private,
			const struct conversion *c)
{
	check_page(self, nr_done, init_private, c->first - 1);
	check_page(self, nr_done, init_private, c->first);
	check_page(self, nr_done, init_private, c->first + c->nr / 2);
	check_page(self, nr_done, init_private, c->first + c->nr - 1);
	check_page(self, nr_done, init_private, c->first + c->nr);
}

TEST_F_TIMEOUT(sparse, random_ranges, 600)
{
	const bool init_private = !variant->flags;
	int i, n;

	for (i = 0; i < NR_CONVERSIONS; i++) {
		done[i] = random_conversion();
		convert_fd(self->fd, done[i].first, done[i].nr, done[i].private);
		check_edges(self, i + 1, init_private, &done[i]);
		/* Check the edges of earlier conversions, too. */
		for (n = 0; n < 4; n++)
			check_edges(self, i + 1, init_private,
				    &done[kvm_random_u64_in_range(&kvm_rng, 0, i)]);
	}
}

/* A conversion doesn't take time in proportion to the size of the file, which would be years. */
TEST_F_TIMEOUT(sparse, all_at_once, 120)
{
	const bool private = variant->flags;
	u64 start;
	int i;

	for (i = 0; i < 4; i++) {
		start = now_ms();
		convert_fd(self->fd, 0, MAX_PAGES, private ^ (i & 1));
		TEST_ASSERT(now_ms() - start < MAX_SECONDS * 1000,
			    "Conversion of an empty file should not take %lu ms",
			    now_ms() - start);
		/* From now on, the state of the file isn't uniform. */
		convert_fd(self->fd, MAX_PAGES / 3 + i, 1, !(private ^ (i & 1)));
	}
}

int main(int argc, char *argv[])
{
	gmem_init(NEEDS_PRIVATE_VM | NEEDS_CONVERSION);
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY));

	return test_harness_run(argc, argv);
}
