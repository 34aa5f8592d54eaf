// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of guests whose page tables KVM shadows, i.e. that don't have two-dimensional
 * paging, with memory from guest_memfd files made of HugeTLB pages.  KVM must not map
 * more by one entry than the guest does.  The tests need kvm_amd.npt=0 or
 * kvm_intel.ept=0.
 */
#include "guest_memfd_fixture.h"

#define NR_UNITS	2
#define NR_PAGES	(NR_UNITS * PAGES_2M)
#define PAGE_WORDS	(PAGE_SIZE / sizeof(u64))

/* The guest has the same memory mapped here once more, by pages of 4K. */
#define SMALL_GVA	(TEST_GPA + TEST_GPA_SIZE)

/* The addresses of a memslot that isn't the fixture's. */
#define OTHER_GPA	(TEST_GPA + SZ_1G)
#define OTHER_GVA	(SMALL_GVA + SZ_1G)

#define _test_data_shadow		gmem
#define _fixture_variant_shadow	gmem_variant

static const char *setup(struct gmem *self)
{
	const struct gmem_variant variant = { .size_log2 = 21, .nr_units = NR_UNITS };
	const char *missing = gmem_setup(self, &variant);

	if (missing)
		return missing;
	self->vm = create_guest(VM_TYPE_DEFAULT, self->vcpus, 1);
	self->vcpu = self->vcpus[0];
	gmem_open(self, GMEM_SHARED);
	/* The host splits what it touches. */
	TEST_ASSERT(!madvise(self->mem, self->size, MADV_NOHUGEPAGE), "MADV_NOHUGEPAGE");
	virt_map(self->vm, SMALL_GVA, TEST_GPA, NR_PAGES);
	return NULL;
}

GMEM_FIXTURE(shadow, setup(self));

static void host_check_tags(struct gmem *self, u64 tag)
{
	u64 i;

	for (i = 0; i < NR_PAGES; i++)
		TEST_ASSERT(*word_of(self, i) == tag + i, "Page %lu should be 0x%lx, is 0x%lx", i,
			    tag + i, *word_of(self, i));
}

/* The folio is larger than the guest's mappings. */
TEST_F(shadow, small_pages)
{
	guest_do(self->vcpu, OP_WRITE_TAGS, SMALL_GVA, NR_PAGES, PAGE_SIZE, TAG(0));
	host_check_tags(self, TAG(0));
	guest_do(self->vcpu, OP_CHECK_TAGS, SMALL_GVA, NR_PAGES, PAGE_SIZE, TAG(0));
}

/* The guest's mappings are larger than the folio, before and after the folio is split. */
TEST_F(shadow, large_pages)
{
	u64 i;

	guest_do(self->vcpu, OP_WRITE_TAGS, TEST_GPA, NR_PAGES, PAGE_SIZE, TAG(0));

	for (i = 0; i < NR_PAGES; i += 3)
		*word_of(self, i) = TAG2(i);
	for (i = 0; i < NR_PAGES; i++)
		guest_do(self->vcpu, OP_CHECK_TAGS, TEST_GPA + i * PAGE_SIZE, 1, PAGE_SIZE,
			 i % 3 ? TAG(i) : TAG2(i));

	guest_do(self->vcpu, OP_WRITE_TAGS, SMALL_GVA, NR_PAGES, PAGE_SIZE, TAG2(0));
	host_check_tags(self, TAG2(0));
	guest_do(self->vcpu, OP_CHECK_TAGS, TEST_GPA, NR_PAGES, PAGE_SIZE, TAG2(0));
}

/*
 * The guest gets the pages of the file, whatever is mapped at userspace_addr.  The
 * same is true for pages that KVM maps beforehand: pages next to the accessed page,
 * if the guest has accessed them before.
 */
TEST_F(shadow, not_userspace_addr)
{
	const u64 nr = 64, size = nr * PAGE_SIZE;
	int fd = vm_create_guest_memfd(self->vm, size, GMEM_SHARED);
	u64 *file = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	void *other = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	u64 i;

	memset(other, 0xaa, size);
	vm_set_user_memory_region2(self->vm, TEST_SLOT + 1, KVM_MEM_GUEST_MEMFD, OTHER_GPA,
				   size, other, fd, 0);
	virt_map(self->vm, OTHER_GVA, OTHER_GPA, nr);

	guest_do(self->vcpu, OP_WRITE_TAGS, OTHER_GVA, nr, PAGE_SIZE, TAG(0));
	punch_fd(fd, 0, size);
	for (i = 0; i < nr; i++)
		file[i * PAGE_WORDS] = TAG2(i);

	for (i = 0; i < nr; i += 8)
		guest_do(self->vcpu, OP_CHECK_TAGS, OTHER_GVA + i * PAGE_SIZE, 1, PAGE_SIZE,
			 TAG2(i));
	guest_do(self->vcpu, OP_CHECK_TAGS, OTHER_GVA, nr, PAGE_SIZE, TAG2(0));

	/* The guest doesn't write to memory that belongs to another user by now. */
	kvm_munmap(other, size);
	guest_do(self->vcpu, OP_WRITE_TAGS, OTHER_GVA, nr, PAGE_SIZE, TAG(0));
	for (i = 0; i < nr; i++)
		TEST_ASSERT_EQ(file[i * PAGE_WORDS], TAG(i));

	kvm_munmap(file, size);
	close(fd);
}

int main(int argc, char *argv[])
{
	gmem_init(NEEDS_HUGETLB);
	__TEST_REQUIRE(!kvm_is_tdp_enabled(), "needs kvm_amd.npt=0 or kvm_intel.ept=0");
	return test_harness_run(argc, argv);
}
