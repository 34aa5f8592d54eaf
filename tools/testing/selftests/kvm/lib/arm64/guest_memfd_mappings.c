// SPDX-License-Identifier: GPL-2.0-only
#include <time.h>

#include "guest_memfd_mappings.h"

void *slot_hva;

void init_mappings(void)
{
	TEST_REQUIRE(getpagesize() == PAGE_SIZE);
	gmem_init(NEEDS_HUGETLB);
	ksft_print_msg("%s; mappings are %s\n", is_pkvm() ? "pKVM: blocks of 2M only" : "no pKVM",
		       can_read_mappings() ? "read from debugfs" : "told from the number of exits");
}

const char *setup_mappings(struct gmem *self, const struct gmem_variant *variant)
{
	const char *missing = gmem_setup(self, variant);

	if (missing)
		return missing;
	self->vm = create_guest(VM_TYPE_DEFAULT, self->vcpus, MAX_VCPUS);
	self->vcpu = self->vcpus[0];
	self->fd = gmem_create(self, GMEM_SHARED);
	slot_hva = kvm_mmap(TEST_GPA_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			    -1);
	return NULL;
}

void __guest_do_faults(struct kvm_vcpu *vcpu, enum guest_op op, u64 gva, u64 nr, u64 stride,
		       u64 tag, long want, const char *what)
{
	long exits = vcpu_get_stat(vcpu, exits), irqs;
	struct timespec start;

	clock_gettime(CLOCK_MONOTONIC, &start);
	guest_do(vcpu, op, gva, nr, stride, tag);
	irqs = 64 + min_t(long, nr / 4, timespec_to_ns(timespec_elapsed(start)) / 1000000);

	exits = vcpu_get_stat(vcpu, exits) - exits;
	TEST_ASSERT(exits >= want, "%s: %ld exits, should be %ld faults", what, exits, want);
	TEST_ASSERT(exits <= want + irqs,
		    "%s: %ld exits, should be %ld faults and up to %ld interrupts", what,
		    exits, want, irqs);
}

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
	u64 *mem;
	u64 nr_pages;
	size_t unit;
	time_t end;
	u32 seed;
	int fd;
	long done;
};

static void churn_host(struct churner *c, u64 page)
{
	const u64 tag = TAG(page);
	u64 *p = c->mem + page * PAGE_SIZE / sizeof(u64);
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

static void churn_punch(struct churner *c, u64 page, u64 nr)
{
	if (c->done % 16)
		punch_fd(c->fd, page * PAGE_SIZE, nr * PAGE_SIZE);
	else
		punch_fd(c->fd, page * PAGE_SIZE / c->unit * c->unit, c->unit);

	/* Let the other threads run for longer than zeroing takes. */
	usleep(c->unit > SZ_32M ? 100000 : 1000);
}

static void *churn(void *data)
{
	struct churner *c = data;

	for (; time(NULL) < c->end; c->done++) {
		u64 r = (u64)rand_r(&c->seed) << 16 ^ rand_r(&c->seed);
		u64 page = r % c->nr_pages;
		u64 nr = min(c->nr_pages - page, (u64)64);

		switch (c->role) {
		case CHURN_GUEST:
			guest_do(c->vcpu, OP_CHURN, gpa_of(page), nr, PAGE_SIZE, TAG(page));
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

void run_churners(struct gmem *self, int seconds, void *mem)
{
	struct churner churners[MAX_VCPUS + 2];
	pthread_t threads[MAX_VCPUS + 2];
	int nr = MAX_VCPUS + (mem ? 2 : 1), i;

	for (i = 0; i < nr; i++) {
		churners[i] = (struct churner) {
			.role = i < MAX_VCPUS ? CHURN_GUEST :
				i == MAX_VCPUS ? CHURN_PUNCH : CHURN_HOST,
			.vcpu = i < MAX_VCPUS ? self->vcpus[i] : NULL,
			.mem = mem,
			/* With more pages, threads would rarely meet. */
			.nr_pages = min(self->nr_pages, (u64)SZ_32M / PAGE_SIZE),
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
		       mem ? churners[MAX_VCPUS + 1].done : 0);
}
