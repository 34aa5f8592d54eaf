// SPDX-License-Identifier: GPL-2.0-only
#include <time.h>

#include "guest_memfd_util.h"

bool has_guest_memfd_hugetlb(void)
{
	return kvm_has_cap(KVM_CAP_GUEST_MEMFD) &&
	       kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) & GUEST_MEMFD_FLAG_HUGETLB;
}

bool has_conversion(void)
{
	return kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES) &
	       KVM_MEMORY_ATTRIBUTE_PRIVATE;
}

void gmem_init(unsigned int needs)
{
	const char *seed = getenv("SEED");

	if (seed)
		kvm_random_seed = strtoul(seed, NULL, 0);

	TEST_REQUIRE(kvm_has_cap(KVM_CAP_GUEST_MEMFD));
	if (needs & NEEDS_PRIVATE_VM)
		TEST_REQUIRE(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(VM_TYPE_PRIVATE));
	/* On x86, there are both only with kvm.gmem_in_place_conversion=1. */
	if (needs & NEEDS_HUGETLB)
		__TEST_REQUIRE(has_guest_memfd_hugetlb(), "guest_memfd without huge pages");
	if (needs & NEEDS_CONVERSION)
		__TEST_REQUIRE(has_conversion(),
			       "no in-place conversion (kvm.gmem_in_place_conversion=1?)");
}

const char *missing_units(size_t unit, long nr, struct hugetlb_pool *pool)
{
	static char text[128];

	if (!has_guest_memfd_hugetlb())
		return "needs guest_memfd with huge pages";

	if (!hugetlb_size_supported(unit)) {
		snprintf(text, sizeof(text), "needs huge pages of %zu kB", unit / 1024);
		return text;
	}

	hugetlb_read_pool(unit, pool);
	if (hugetlb_available(pool) < nr) {
		snprintf(text, sizeof(text), "needs %ld x %zu kB page, have %ld",
			 nr, unit / 1024, hugetlb_available(pool));
		return text;
	}
	return NULL;
}

const char *gmem_setup(struct gmem *self, const struct gmem_variant *variant)
{
	self->unit = BIT_ULL(variant->size_log2);
	self->nr = variant->nr_units;
	self->size = self->nr * self->unit;
	self->unit_pages = self->unit / page_size;
	self->nr_pages = self->size / page_size;
	self->nr_hugetlb = -1;
	return self->unit > page_size ? missing_units(self->unit, self->nr, &self->pool) : NULL;
}

const char *gmem_setup_counted(struct gmem *self, const struct gmem_variant *variant)
{
	const char *missing = gmem_setup(self, variant);

	if (!missing && !guestmem_has_units())
		missing = NEEDS_UNITS;
	if (missing)
		return missing;
	read_kernel_counters(&self->counters);
	self->counted = true;
	return NULL;
}

const char *gmem_setup_vm(struct gmem *self, const struct gmem_variant *variant)
{
	const char *missing = gmem_setup(self, variant);

	if (!missing)
		self->vm = vm_create_barebones_type(VM_TYPE_PRIVATE);
	return missing;
}

const char *gmem_setup_shared(struct gmem *self, const struct gmem_variant *variant)
{
	const char *missing = gmem_setup_counted(self, variant);

	if (!missing)
		gmem_open_with_vm(self, GMEM_SHARED);
	return missing;
}

const char *gmem_setup_guest(struct gmem *self, const struct gmem_variant *variant, u64 flags)
{
	const char *missing = gmem_setup_counted(self, variant);

	if (!missing)
		gmem_open_with_guest(self, flags);
	return missing;
}

const char *gmem_left_behind(struct gmem *self)
{
	int nr = 0, nr_late = 0;
	struct kernel_counters now;
	const char *diff = NULL;
	static char text[80];

	if (self->pool.size) {
		hugetlb_pool_lose(&self->pool, self->nr_lost);
		diff = hugetlb_pool_settle(&self->pool, 0, 0);
	}
	if (diff || !self->counted)
		return diff;
	if (guestmem_has_units())
		nr = guestmem_nr_units(&nr_late);
	if (nr || nr_late) {
		snprintf(text, sizeof(text), "%d units that are split, %d that are late", nr,
			 nr_late);
		return text;
	}
	/* The vmemmap of a page that has left the pool isn't shared. */
	self->counters.memmap += self->nr_lost * (long)self->pool.size / 4096 / 64;
	diff = kernel_counters_settle(&self->counters, &now);
	if (!diff && self->nr_hugetlb >= 0 && self->nr_hugetlb != read_vmstat("nr_hugetlb"))
		diff = "another nr_hugetlb in /proc/vmstat";
	return diff;
}

int __gmem_create(struct gmem *self, size_t size, u64 flags)
{
	if (self->unit <= page_size)
		return __vm_create_guest_memfd(self->vm, size, flags);
	return __vm_create_guest_memfd_hugetlb(self->vm, size, flags,
					       __builtin_ctzll(self->unit));
}

int gmem_create(struct gmem *self, u64 flags)
{
	int fd = __gmem_create(self, self->size, flags);

	TEST_ASSERT(fd >= 0, KVM_IOCTL_ERROR(KVM_CREATE_GUEST_MEMFD, fd));
	return fd;
}

void assert_offered(int fd, bool offered, const char *what)
{
	if (offered) {
		TEST_ASSERT(fd >= 0, "%s should be accepted, errno %d", what, errno);
		close(fd);
	} else {
		assert_error(fd, EINVAL);
	}
}

void *gmem_map(struct gmem *self, int fd)
{
	return kvm_mmap(self->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
}

void gmem_open(struct gmem *self, u64 flags)
{
	self->unit_pages = self->unit / page_size;
	self->nr_pages = self->size / page_size;
	self->fd = gmem_create(self, flags | GUEST_MEMFD_FLAG_MMAP);
	self->mem = gmem_map(self, self->fd);
	self->tags = calloc(self->nr_pages, sizeof(*self->tags));
	TEST_ASSERT(self->tags, "No memory");
	guestmem_model_init(&self->model, self->fd, self->size, self->unit,
			    !(flags & GUEST_MEMFD_FLAG_INIT_SHARED));
	if (self->vcpu)
		add_slot(self->vm, TEST_GPA, self->size, self->mem, self->fd, 0);
}

void gmem_close(struct gmem *self)
{
	if (self->vcpu)
		delete_slot(self->vm, TEST_GPA);
	kvm_munmap(self->mem, self->size);
	kvm_close(self->fd);
	guestmem_model_free(&self->model);
	free(self->tags);
}

void gmem_open_with_vm(struct gmem *self, u64 flags)
{
	kvm_pipe(self->pipe);
	self->vm = vm_create_barebones_type(VM_TYPE_PRIVATE);
	gmem_open(self, flags);
}

void gmem_open_with_guest(struct gmem *self, u64 flags)
{
	kvm_pipe(self->pipe);
	self->vm = create_guest(VM_TYPE_PRIVATE, self->vcpus, MAX_VCPUS);
	self->vcpu = self->vcpus[0];
	gmem_open(self, flags);
}

void assert_nr_late(int nr)
{
	int nr_late;

	guestmem_nr_units(&nr_late);
	TEST_ASSERT(nr_late == nr, "%d units should have left their files, not %d:\n%s",
		    nr, nr_late, guestmem_read_units());
}

void __assert_layout(struct gmem *self)
{
	if (self->unit > page_size && guestmem_has_units())
		TEST_ASSERT_LAYOUT(&self->model);
}

void __assert_model(struct gmem *self)
{
	__assert_layout(self);
	if (self->unit > page_size)
		assert_nr_allocated(guestmem_model_nr_present(&self->model));
}

int try_convert(int fd, u64 first, u64 nr, bool private, u64 *error_offset)
{
	return __gmem_set_memory_attributes(fd, first * page_size, nr * page_size,
					    private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
					    error_offset) ? -errno : 0;
}

void convert_fd(int fd, u64 first, u64 nr, bool private)
{
	gmem_set_memory_attributes(fd, first * page_size, nr * page_size,
				   private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0);
}

void __convert(struct gmem *self, u64 first, u64 nr, bool private)
{
	convert_fd(self->fd, first, nr, private);
	guestmem_model_convert(&self->model, first, nr, private);
}

void convert(struct gmem *self, u64 first, u64 nr, bool private)
{
	__convert(self, first, nr, private);
	assert_model();
}

void convert_despite_races(int fd, u64 first, u64 nr, bool private)
{
	u64 error_offset;
	int tries, r;

	for (tries = 0; tries < 10000; tries++) {
		r = try_convert(fd, first, nr, private, &error_offset);
		if (!r)
			return;
		TEST_ASSERT(r == -EAGAIN, "Conversion should succeed sooner or later, errno %d",
			    -r);
		sched_yield();
	}
	TEST_FAIL("Conversion of page %lu should succeed sooner or later", first);
}

static struct mappings mappings_now(struct gmem *self)
{
#ifdef __x86_64__
	if (self->vcpu)
		return read_mappings(self->vcpu);
#endif
	return (struct mappings) {};
}

void assert_busy(struct gmem *self, u64 first, u64 nr, u64 page)
{
	struct mappings before = mappings_now(self), now;
	char *units = guestmem_has_units() ? guestmem_read_units() : NULL;
	u64 error_offset;
	int r;

	r = try_convert(self->fd, first, nr, true, &error_offset);
	TEST_ASSERT(r == -EAGAIN && error_offset == page * page_size,
		    "Conversion of pages %lu to %lu should fail with EAGAIN at page %lu, got errno %d at 0x%lx",
		    first, first + nr - 1, page, -r, error_offset);
	now = mappings_minus(mappings_now(self), before);
	TEST_ASSERT(!nr_mappings(now) && !now.nr_1g && !now.nr_2m && !now.faults,
		    "The guest should have the same mappings, has %ld x 4K, %ld x 2M, %ld x 1G more",
		    now.nr_4k, now.nr_2m, now.nr_1g);
	if (units)
		guestmem_assert_unchanged(units);
	free(units);
}

void punch(struct gmem *self, u64 first, u64 nr)
{
	punch_fd(self->fd, first * page_size, nr * page_size);
	memset(self->tags + first, 0, nr * sizeof(*self->tags));
	guestmem_model_punch(&self->model, first, nr);
}

void allocate(struct gmem *self, u64 first, u64 nr)
{
	allocate_fd(self->fd, first * page_size, nr * page_size);
	guestmem_model_allocate(&self->model, first, nr);
}

/* A vCPU, or a thread of the host. */
struct racer {
	pthread_t thread;
	struct kvm_vcpu *vcpu;
	pthread_barrier_t *barrier;
	int fd, rounds;
	u64 page;
};

static void *race_to_unit(void *data)
{
	struct racer *r = data;
	int i;

	for (i = 0; i < r->rounds; i++) {
		/* All want the same page, or each another one of the unit. */
		u64 page = i & 1 ? r->page : 0;

		pthread_barrier_wait(r->barrier);
		if (r->vcpu)
			guest_do(r->vcpu, OP_WRITE_TAGS, gpa_of(page), 1, page_size, 1);
		else
			allocate_fd(r->fd, page * page_size, page_size);
		pthread_barrier_wait(r->barrier);
		/* The main thread looks at the pool and punches. */
		pthread_barrier_wait(r->barrier);
	}
	return NULL;
}

void race_to_first_unit(struct gmem *self, int nr_vcpus, int nr_threads)
{
	const long rest = hugetlb_available(&self->pool) - self->nr;
	void *hog = hugetlb_hog(self->unit, rest, -1);
	const int nr = nr_vcpus + nr_threads, rounds = self->unit > SZ_2M ? 4 : 100;
	pthread_barrier_t barrier;
	struct racer racers[nr];
	int i;

	allocate_fd(self->fd, 0, self->size);
	punch_fd(self->fd, 0, self->unit);
	pthread_barrier_init(&barrier, NULL, nr + 1);
	for (i = 0; i < nr; i++) {
		racers[i] = (struct racer) {
			.vcpu = i < nr_vcpus ? self->vcpus[i] : NULL,
			.barrier = &barrier,
			.fd = self->fd,
			.rounds = rounds,
			.page = self->unit_pages / nr * i,
		};
		kvm_pthread_create(&racers[i].thread, NULL, race_to_unit, &racers[i]);
	}
	for (i = 0; i < rounds; i++) {
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
		assert_pool(rest + self->nr, 0);
		punch_fd(self->fd, 0, self->unit);
		assert_pool(rest + self->nr - 1, 1);
		pthread_barrier_wait(&barrier);
	}
	for (i = 0; i < nr; i++)
		kvm_pthread_join(racers[i].thread, NULL);
	hugetlb_unhog(hog, self->unit, rest);
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
	int fd, pause_us;
	long done;
};

static void churn_host(struct churner *c, u64 page)
{
	const u64 tag = TAG(page);
	u64 *p = c->mem + page * page_size / sizeof(u64);
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
		TEST_ASSERT(!madvise(p, page_size, MADV_DONTNEED), "madvise(), errno %d", errno);
}

static void churn_punch(struct churner *c, u64 page, u64 nr)
{
	if (c->done % 8)
		punch_fd(c->fd, page * page_size, nr * page_size);
	else
		punch_fd(c->fd, page * page_size / c->unit * c->unit, c->unit);
	usleep(c->pause_us);
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
			guest_do(c->vcpu, OP_CHURN, gpa_of(page), nr, page_size, TAG(page));
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

void run_churners(struct gmem *self, int seconds, int nr_punchers, void *mem)
{
	const int nr = MAX_VCPUS + nr_punchers + !!mem, host = MAX_VCPUS + nr_punchers;
	struct churner churners[nr];
	pthread_t threads[nr];
	int i;

	for (i = 0; i < nr; i++) {
		churners[i] = (struct churner) {
			.role = i < MAX_VCPUS ? CHURN_GUEST : i < host ? CHURN_PUNCH : CHURN_HOST,
			.vcpu = i < MAX_VCPUS ? self->vcpus[i] : NULL,
			.mem = mem,
			/* With more pages, threads would rarely meet. */
			.nr_pages = min(self->nr_pages, (u64)SZ_32M / page_size),
			.unit = self->unit,
			.end = time(NULL) + seconds,
			.seed = kvm_random_seed + i,
			.fd = self->fd,
			/* Let the other threads run for longer than zeroing takes. */
			.pause_us = nr_punchers > 1 ? 0 : self->unit > SZ_32M ? 100000 : 1000,
		};
		kvm_pthread_create(&threads[i], NULL, churn, &churners[i]);
	}
	for (i = 0; i < nr; i++)
		kvm_pthread_join(threads[i], NULL);

	ksft_print_msg("seed %#x, rounds of vCPU 0: %ld, holes: %ld, pages of the host: %ld\n",
		       kvm_random_seed, churners[0].done, churners[MAX_VCPUS].done,
		       mem ? churners[host].done : 0);
}
