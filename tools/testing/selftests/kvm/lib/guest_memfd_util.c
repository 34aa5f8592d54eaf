// SPDX-License-Identifier: GPL-2.0-only
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
