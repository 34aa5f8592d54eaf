// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test KVM_SET_MEMORY_ATTRIBUTES2 from user space, without a guest: arguments, errors,
 * the state after an error, and other interfaces that depend on in-place conversion.
 *
 * Where in-place conversion can be off, testing everything takes two boots.  The
 * capability tells which of the two this is.
 */
#include "guest_memfd_fixture.h"
#ifdef __aarch64__
#include "pkvm_guest.h"
#endif

#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE
#define NR_PAGES	8

/* The layout is ABI. */
kvm_static_assert(sizeof(struct kvm_memory_attributes2) == 128);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, offset) == 0);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, address) == 0);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, size) == 8);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, attributes) == 16);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, flags) == 24);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, error_offset) == 32);
kvm_static_assert(offsetof(struct kvm_memory_attributes2, reserved) == 40);
kvm_static_assert(_IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0xd2, 128) == KVM_SET_MEMORY_ATTRIBUTES2);

/* Return the VM type with private memory, or VM_TYPE_DEFAULT if there is none. */
static unsigned long private_type(void)
{
#ifdef __x86_64__
	if (kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM))
		return KVM_X86_SW_PROTECTED_VM;
#elif defined(__aarch64__)
	if (has_protected_vms())
		return KVM_VM_TYPE_ARM_PROTECTED;
#endif
	return VM_TYPE_DEFAULT;
}

static bool conversion_is_on(void)
{
#ifdef __x86_64__
	return kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES);
#else
	/* Other architectures never had another kind of conversion. */
	return true;
#endif
}

/* Create a VM and a file.  Returns NULL. */
static const char *create_file(struct gmem *self, unsigned long vm_type, u64 flags)
{
	kvm_pipe(self->pipe);
	self->vm = vm_create_barebones_type(vm_type);
	self->unit = page_size;
	self->nr = NR_PAGES;
	self->size = NR_PAGES * page_size;
	gmem_open(self, flags);
	return NULL;
}

static void free_file(struct gmem *self)
{
	gmem_close(self);
	kvm_vm_free(self->vm);
}

/* Return the arguments of a valid call, for tests that make one of them invalid. */
static struct kvm_memory_attributes2 valid_args(u64 attributes)
{
	return (struct kvm_memory_attributes2) {
		.offset = page_size,
		.size = page_size,
		.attributes = attributes,
		.error_offset = GMEM_NO_ERROR_OFFSET,
	};
}

/*
 * Assert that the call fails with @error, and leaves the argument alone: it has no
 * offset to report.
 */
static void __assert_fails(int fd, struct kvm_memory_attributes2 *args, int error,
			   const char *what, unsigned int line)
{
	struct kvm_memory_attributes2 was = *args;
	int ret = ioctl(fd, KVM_SET_MEMORY_ATTRIBUTES2, args);

	TEST_ASSERT(ret == -1 && errno == error,
		    "Line %u: %s should fail with %s, got %d, errno %d (0x%llx bytes at 0x%llx, attributes 0x%llx, flags 0x%llx)",
		    line, what, strerror(error), ret, errno,
		    was.size, was.offset, was.attributes, was.flags);
	TEST_ASSERT(!memcmp(&was, args, sizeof(was)),
		    "Line %u: %s should not change the argument", line, what);
}

#define assert_fails(fd, args, error, what)	__assert_fails(fd, args, error, what, __LINE__)

/* Return a mask of the pages that the host can read, bit i for page i. */
static u64 shared_pages(struct gmem *self)
{
	u64 mask = 0;
	int i;

	for (i = 0; i < NR_PAGES; i++) {
		if (host_can_read(self, i))
			mask |= BIT_ULL(i);
		else
			TEST_EXPECT_SIGBUS((void)READ_ONCE(*word_of(self, i)));
	}
	return mask;
}

static struct holder h;

#define ALL_PAGES	GENMASK_ULL(NR_PAGES - 1, 0)

/*
 * In-place conversion is on, and the VM type has private memory.  Page 1 is shared and
 * has something in it, all other pages are private.
 */
#define _test_data_on gmem
#define _fixture_variant_on gmem_variant

FIXTURE(on);

FIXTURE_SETUP(on)
{
	if (!conversion_is_on())
		SKIP(return, "in-place conversion is off");
	if (private_type() == VM_TYPE_DEFAULT)
		SKIP(return, "no VM type has private memory");

	create_file(self, private_type(), 0);
	set_shared(1, 1);
	self->mem[page_size] = 42;
	TEST_ASSERT_EQ(shared_pages(self), BIT(1));
}

/* Every test must leave the file as the setup has made it. */
FIXTURE_TEARDOWN(on)
{
	TEST_ASSERT_EQ(shared_pages(self), BIT(1));
	TEST_ASSERT_EQ(self->mem[page_size], 42);
	free_file(self);
}

TEST_F(on, capabilities)
{
	struct kvm_vm *vm = vm_create_barebones();

	TEST_ASSERT_EQ(kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES), PRIVATE);
	TEST_ASSERT_EQ(vm_check_cap(self->vm, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES), PRIVATE);
	TEST_ASSERT_EQ(vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES), 0);

	TEST_ASSERT_EQ(kvm_check_cap(KVM_CAP_MEMORY_ATTRIBUTES), 0);
	TEST_ASSERT_EQ(vm_check_cap(self->vm, KVM_CAP_MEMORY_ATTRIBUTES), 0);
	TEST_ASSERT_EQ(vm_check_cap(vm, KVM_CAP_MEMORY_ATTRIBUTES), 0);
	kvm_vm_free(vm);
}

TEST_F(on, creation_flags)
{
	const u64 flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
	struct kvm_vm *vm = vm_create_barebones();

	TEST_ASSERT_EQ(kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) & flags, flags);
	TEST_ASSERT_EQ(vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_FLAGS) & flags, flags);
	TEST_ASSERT_EQ(vm_check_cap(self->vm, KVM_CAP_GUEST_MEMFD_FLAGS) & flags, flags);
	kvm_vm_free(vm);
}

TEST_F(on, init_shared)
{
	struct gmem f = {};

	create_file(&f, private_type(), GUEST_MEMFD_FLAG_INIT_SHARED);
	TEST_ASSERT_EQ(shared_pages(&f), ALL_PAGES);
	memset(f.mem, 1, f.size);
	gmem_set_private(f.fd, 0, f.size);
	TEST_ASSERT_EQ(shared_pages(&f), 0);
	free_file(&f);
}

/* A successful call leaves the argument alone, whatever error_offset was before. */
TEST_F(on, success_leaves_argument_alone)
{
	struct kvm_memory_attributes2 args = valid_args(PRIVATE), was;
	int i;

	args.error_offset = 1;
	for (i = 0; i < 2; i++) {
		args.attributes = i ? 0 : PRIVATE;
		was = args;
		TEST_ASSERT(!ioctl(self->fd, KVM_SET_MEMORY_ATTRIBUTES2, &args),
			    "It should succeed");
		TEST_ASSERT(!memcmp(&was, &args, sizeof(was)), "The argument should not change");
	}
}

TEST_F(on, other_files)
{
	struct kvm_memory_attributes2 args = valid_args(PRIVATE);
	int memfd = kvm_memfd_alloc(self->size, false);
	struct kvm_memory_attributes old = {
		.size = page_size,
		.attributes = PRIVATE,
	};

	assert_fails(self->vm->fd, &args, ENOTTY, "On a VM");
	assert_fails(memfd, &args, ENOTTY, "On a memfd");
	close(memfd);

	assert_error(ioctl(self->fd, KVM_SET_MEMORY_ATTRIBUTES, &old), ENOTTY);
	assert_error(ioctl(self->fd, KVM_CREATE_VM, 0), ENOTTY);
}

/*
 * A valid call leaves page 1 shared, i.e. changes nothing, or makes it private.
 */
static const u64 attributes[] = { 0, PRIVATE };

TEST_F(on, flags_must_be_zero)
{
	struct kvm_memory_attributes2 args;
	int a, i;

	for (a = 0; a < ARRAY_SIZE(attributes); a++) {
		args = valid_args(attributes[a]);
		for (i = 0; i < 64; i++) {
			args.flags = BIT_ULL(i);
			assert_fails(self->fd, &args, EINVAL, "A flag");
		}
	}
}

TEST_F(on, reserved_must_be_zero)
{
	struct kvm_memory_attributes2 args;
	int a, i;

	for (a = 0; a < ARRAY_SIZE(attributes); a++) {
		args = valid_args(attributes[a]);
		for (i = 0; i < ARRAY_SIZE(args.reserved); i++) {
			args.reserved[i] = 1;
			assert_fails(self->fd, &args, EINVAL, "reserved[]");
			args.reserved[i] = BIT_ULL(63);
			assert_fails(self->fd, &args, EINVAL, "reserved[]");
			args.reserved[i] = 0;
		}
	}
}

TEST_F(on, unknown_attributes)
{
	struct kvm_memory_attributes2 args;
	u64 bit;
	int a;

	for (a = 0; a < ARRAY_SIZE(attributes); a++) {
		args = valid_args(attributes[a]);
		for (bit = BIT_ULL(0); bit; bit <<= 1) {
			if (bit == PRIVATE)
				continue;
			args.attributes = attributes[a] | bit;
			assert_fails(self->fd, &args, EINVAL, "An unknown attribute");
		}
	}
}

TEST_F(on, ranges)
{
	const u64 size = self->size, page = page_size, max = ~(page - 1);
	const struct {
		u64 offset, size;
	} ranges[] = {
		{ page, 0 }, { 0, 0 }, { size, 0 },
		/* Not aligned. */
		{ 1, page }, { page - 1, page }, { page / 2, page / 2 }, { 512, page },
		{ page, 1 }, { page, page - 1 }, { page, page + 1 }, { page, page / 2 },
		{ 0, size - 1 }, { 0, ULLONG_MAX }, { ULLONG_MAX, 1 }, { ULLONG_MAX, page },
		/* Beyond the end of the file. */
		{ 0, size + page }, { page, size }, { size - page, 2 * page },
		{ size, page }, { size + page, page }, { 2 * size, size },
		{ BIT_ULL(40), page }, { 0, BIT_ULL(40) }, { BIT_ULL(44) * page, page },
		{ BIT_ULL(32) * page, page }, { page, BIT_ULL(32) * page },
		/* So large that signed or unsigned offsets overflow. */
		{ LLONG_MAX & max, page }, { 0, LLONG_MAX & max }, { page, LLONG_MAX & max },
		{ BIT_ULL(63), page }, { 0, BIT_ULL(63) }, { page, BIT_ULL(63) },
		{ BIT_ULL(63), BIT_ULL(63) }, { max, page }, { page, max }, { max, max },
		{ 2 * page, max }, { max, 2 * page }, { size, -size }, { -size, size },
		{ 0, max },
	};
	struct kvm_memory_attributes2 args;
	int a, i;

	for (a = 0; a < ARRAY_SIZE(attributes); a++) {
		args = valid_args(attributes[a]);
		for (i = 0; i < ARRAY_SIZE(ranges); i++) {
			args.offset = ranges[i].offset;
			args.size = ranges[i].size;
			assert_fails(self->fd, &args, EINVAL, "A bad range");
		}
	}
}

TEST_F(on, unreadable_argument)
{
	char *mem = kvm_mmap(2 * page_size, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1);
	struct kvm_memory_attributes2 args = valid_args(PRIVATE);
	void *split = mem + page_size - sizeof(args) / 2;
	void *pointers[] = {
		NULL, (void *)1, (void *)-1UL, (void *)(1UL << 63), mem + page_size, split,
		/* The host cannot read a private page. */
		self->mem + 2 * page_size,
	};
	int i;

	memcpy(split, &args, sizeof(args) / 2);
	TEST_ASSERT(!mprotect(mem + page_size, page_size, PROT_NONE), "mprotect() should succeed");
	for (i = 0; i < ARRAY_SIZE(pointers); i++)
		assert_error(ioctl(self->fd, KVM_SET_MEMORY_ATTRIBUTES2, pointers[i]), EFAULT);
	kvm_munmap(mem, 2 * page_size);
}

/* KVM writes to the argument only if there is an offset to report. */
TEST_F(on, read_only_argument)
{
	struct kvm_memory_attributes2 *args;
	int fd = self->fd;

	args = kvm_mmap(page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	*args = valid_args(PRIVATE);
	TEST_ASSERT(!mprotect(args, page_size, PROT_READ), "mprotect() should succeed");
	TEST_ASSERT(!ioctl(fd, KVM_SET_MEMORY_ATTRIBUTES2, args), "It should succeed");
	TEST_ASSERT_EQ(shared_pages(self), 0);

	gmem_set_shared(fd, page_size, page_size);
	vmsplice_open_and_hold(&h, addr_of(self, 1));
	assert_error(ioctl(fd, KVM_SET_MEMORY_ATTRIBUTES2, args), EFAULT);
	TEST_ASSERT_EQ(shared_pages(self), BIT(1));
	vmsplice_release(&h);

	TEST_ASSERT(!mprotect(args, page_size, PROT_READ | PROT_WRITE),
		    "mprotect() should succeed");
	args->flags = 1;
	TEST_ASSERT(!mprotect(args, page_size, PROT_READ), "mprotect() should succeed");
	assert_error(ioctl(fd, KVM_SET_MEMORY_ATTRIBUTES2, args), EINVAL);
	kvm_munmap(args, page_size);
}

/* The argument is in the same file, even in the range that the call converts. */
TEST_F(on, argument_in_the_file)
{
	struct kvm_memory_attributes2 *args = (void *)self->mem + 2 * page_size;
	int fd = self->fd, ret;

	gmem_set_shared(fd, 2 * page_size, 2 * page_size);
	self->mem[3 * page_size] = 1;
	vmsplice_open_and_hold(&h, addr_of(self, 3));

	*args = valid_args(PRIVATE);
	args->offset = 2 * page_size;
	args->size = 2 * page_size;
	assert_error(ioctl(fd, KVM_SET_MEMORY_ATTRIBUTES2, args), EAGAIN);
	TEST_ASSERT_EQ(args->error_offset, 3 * page_size);
	vmsplice_release(&h);

	ret = ioctl(fd, KVM_SET_MEMORY_ATTRIBUTES2, args);
	TEST_ASSERT(!ret, "It should succeed, got %d, errno %d", ret, errno);
	TEST_ASSERT_EQ(shared_pages(self), BIT(1));
}

TEST_F(on, busy_page)
{
	const size_t size = self->size;
	int fd = self->fd, page, first, i;

	for (page = 0; page < NR_PAGES; page++) {
		gmem_set_shared(fd, 0, size);
		vmsplice_open_and_hold(&h, addr_of(self, page));
		for (first = 0; first <= page; first++) {
			for (i = 0; i < 2; i++) {
				assert_busy(self, first, NR_PAGES - first, page);
				TEST_ASSERT_EQ(shared_pages(self), ALL_PAGES);
			}
		}
		vmsplice_release(&h);
		gmem_set_private(fd, 0, size);
		TEST_ASSERT_EQ(shared_pages(self), 0);
	}
	gmem_set_shared(fd, page_size, page_size);
}

/* An invalid argument is EINVAL, even if a page is busy as well. */
TEST_F(on, invalid_before_busy)
{
	struct kvm_memory_attributes2 args = valid_args(PRIVATE);

	vmsplice_open_and_hold(&h, addr_of(self, 1));
	args.reserved[10] = 1;
	assert_fails(self->fd, &args, EINVAL, "reserved[10]");
	args = valid_args(PRIVATE);
	args.size = self->size;
	assert_fails(self->fd, &args, EINVAL, "Past the end of the file");
	vmsplice_release(&h);
}

TEST_F(on, vm_wide_attributes_are_refused)
{
	struct kvm_memory_attributes args = {
		.address = 0,
		.size = page_size,
		.attributes = PRIVATE,
	};
	int ret = __vm_ioctl(self->vm, KVM_SET_MEMORY_ATTRIBUTES, &args);

	TEST_ASSERT(ret == -1 && errno == EINVAL,
		    "KVM_SET_MEMORY_ATTRIBUTES should fail with EINVAL, got %d, errno %d",
		    ret, errno);
}

/* Another file descriptor of the file, or another process, can convert it as well. */
TEST_F(on, any_descriptor)
{
	int fd = kvm_dup(self->fd);

	gmem_set_shared(fd, 0, self->size);
	close(fd);
	TEST_ASSERT_EQ(shared_pages(self), ALL_PAGES);
	gmem_set_private(self->fd, 0, page_size);
	gmem_set_private(self->fd, 2 * page_size, self->size - 2 * page_size);
}

/* In-place conversion is on, but VMs without private memory have nothing to convert. */
#define _test_data_no_private_memory gmem
#define _fixture_variant_no_private_memory gmem_variant

GMEM_SMALL_FIXTURE(no_private_memory, !conversion_is_on() ? "in-place conversion is off" :
		   create_file(self, VM_TYPE_DEFAULT, variant->flags));
GMEM_VARIANT(no_private_memory, init_shared, .flags = GUEST_MEMFD_FLAG_INIT_SHARED);
GMEM_VARIANT(no_private_memory, no_flags, .flags = 0);

TEST_F(no_private_memory, nothing_converts)
{
	const u64 shared = variant->flags & GUEST_MEMFD_FLAG_INIT_SHARED ? ALL_PAGES : 0;
	struct kvm_memory_attributes2 args;
	int a;

	TEST_ASSERT_EQ(vm_check_cap(self->vm, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES), 0);
	TEST_ASSERT_EQ(vm_check_cap(self->vm, KVM_CAP_MEMORY_ATTRIBUTES), 0);
	if (private_type() == VM_TYPE_DEFAULT)
		TEST_ASSERT_EQ(kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES), 0);

	TEST_ASSERT_EQ(shared_pages(self), shared);
	for (a = 0; a < ARRAY_SIZE(attributes); a++) {
		args = valid_args(attributes[a]);
		assert_fails(self->fd, &args, EINVAL, "Any attribute");
		args.offset = 0;
		args.size = self->size;
		assert_fails(self->fd, &args, EINVAL, "Any attribute");
	}
	assert_fails(self->vm->fd, &args, ENOTTY, "On a VM");
	TEST_ASSERT_EQ(shared_pages(self), shared);
}

TEST_F(no_private_memory, host_uses_shared_memory)
{
	size_t i;

	if (!(variant->flags & GUEST_MEMFD_FLAG_INIT_SHARED))
		SKIP(return, "nothing is shared");

	for (i = 0; i < self->size; i++)
		TEST_ASSERT_EQ(self->mem[i], 0);
	memset(self->mem, 0xa5, self->size);
	kvm_madvise(self->mem, self->size, MADV_DONTNEED);
	for (i = 0; i < self->size; i++)
		TEST_ASSERT_EQ((u8)self->mem[i], 0xa5);
	punch_fd(self->fd, page_size, page_size);
	for (i = 0; i < page_size; i++)
		TEST_ASSERT_EQ(self->mem[page_size + i], 0);
	TEST_ASSERT_EQ(shared_pages(self), ALL_PAGES);
}

/* In-place conversion is off: KVM behaves as if it did not exist. */
#define _test_data_off gmem
#define _fixture_variant_off gmem_variant

GMEM_SMALL_FIXTURE(off, conversion_is_on() ? "in-place conversion is on" :
		   create_file(self, private_type(), 0));

TEST_F(off, capabilities)
{
	const bool has_private = private_type() != VM_TYPE_DEFAULT;
	struct kvm_vm *vm = vm_create_barebones();
	u64 flags;

	TEST_ASSERT_EQ(kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES), 0);
	TEST_ASSERT_EQ(vm_check_cap(self->vm, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES), 0);
	TEST_ASSERT_EQ(vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES), 0);
	TEST_ASSERT_EQ(vm_check_cap(self->vm, KVM_CAP_MEMORY_ATTRIBUTES),
		       has_private ? PRIVATE : 0);
	TEST_ASSERT_EQ(vm_check_cap(vm, KVM_CAP_MEMORY_ATTRIBUTES), 0);

	flags = GUEST_MEMFD_FLAG_MMAP;
	if (!has_private)
		flags |= GUEST_MEMFD_FLAG_INIT_SHARED;
	TEST_ASSERT_EQ(vm_check_cap(self->vm, KVM_CAP_GUEST_MEMFD_FLAGS), flags);
	flags |= GUEST_MEMFD_FLAG_INIT_SHARED;
	TEST_ASSERT_EQ(vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_FLAGS), flags);
	TEST_ASSERT_EQ(kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS), flags);
	kvm_vm_free(vm);
}

TEST_F(off, ioctl_does_not_exist)
{
	struct kvm_memory_attributes2 args;
	struct gmem shared = {};
	int a;

	create_file(&shared, VM_TYPE_DEFAULT, GUEST_MEMFD_FLAG_INIT_SHARED);
	for (a = 0; a < ARRAY_SIZE(attributes); a++) {
		args = valid_args(attributes[a]);
		assert_fails(self->fd, &args, ENOTTY, "On a guest_memfd");
		assert_fails(self->vm->fd, &args, ENOTTY, "On a VM");
		assert_fails(shared.fd, &args, ENOTTY, "On a shared guest_memfd");
		/* The ioctl does not exist, i.e. KVM does not look at the argument. */
		args.flags = ~0ULL;
		assert_fails(self->fd, &args, ENOTTY, "On a guest_memfd");
	}
	assert_error(ioctl(self->fd, KVM_SET_MEMORY_ATTRIBUTES2, NULL), ENOTTY);
	TEST_ASSERT_EQ(shared_pages(self), 0);
	TEST_ASSERT_EQ(shared_pages(&shared), ALL_PAGES);
	free_file(&shared);
}

TEST_F(off, vm_wide_attributes_work)
{
	if (private_type() == VM_TYPE_DEFAULT)
		SKIP(return, "no VM type has private memory");

	vm_mem_set_private(self->vm, 0, page_size);
	vm_mem_set_shared(self->vm, 0, page_size);
	/* VM-wide attributes say nothing about the file. */
	TEST_ASSERT_EQ(shared_pages(self), 0);
}

/* Assert that KVM accepts the flags of the capability and no others, conversion on or off. */
static void check_creation_flags(unsigned long vm_type)
{
	struct kvm_vm *vm = vm_create_barebones_type(vm_type);
	u64 valid = vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_FLAGS), flag;
	int fd;

	for (flag = BIT(0); flag; flag <<= 1) {
		fd = __vm_create_guest_memfd(vm, SZ_1G, flag);
		/* A flag that is accepted may still fail for lack of huge pages. */
		if (flag & valid)
			TEST_ASSERT(fd >= 0 || (flag > GUEST_MEMFD_FLAG_INIT_SHARED &&
						errno == ENOMEM),
				    "Flag 0x%lx should be accepted, errno %d", flag, errno);
		else
			TEST_ASSERT(fd < 0 && errno == EINVAL,
				    "Flag 0x%lx should fail with EINVAL, got %d, errno %d",
				    flag, fd, errno);
		if (fd >= 0)
			close(fd);
	}
	kvm_vm_free(vm);
}

TEST(creation_flags_default_vm)
{
	check_creation_flags(VM_TYPE_DEFAULT);
}

TEST(creation_flags_private_vm)
{
	if (private_type() == VM_TYPE_DEFAULT)
		SKIP(return, "no VM type has private memory");
	check_creation_flags(private_type());
}

TEST(parameter)
{
	const char *path = "/sys/module/kvm/parameters/gmem_in_place_conversion";
	int fd;

	if (access(path, F_OK))
		SKIP(return, "no parameter");
	if (private_type() == VM_TYPE_DEFAULT)
		SKIP(return, "no VM type has private memory");

	TEST_ASSERT_EQ(get_kvm_param_bool("gmem_in_place_conversion"), conversion_is_on());
	fd = open(path, O_WRONLY);
	TEST_ASSERT(fd < 0 || write(fd, "Y", 1) < 0, "The parameter should not be writable");
}

GMEM_TEST_MAIN(0)
