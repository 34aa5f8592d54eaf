// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test of memslots of which one half is private and the other half is shared,
 * without in-place conversion.  Private memory is 4K pages at an offset of a
 * guest_memfd file.  Shared memory is mapped as huge as the memory at the userspace
 * address is, if that address is aligned.  The alignment of the file offset does
 * not matter for that.
 */
#include "guest_memfd_fixture.h"

static const struct slot_case mixed_cases[] = {
	{ "both aligned",		0,		0,		4 * PAGES_2M,	0 },
	{ "hva unaligned",		0,		0,		4 * PAGES_2M,	1 },
	{ "pgoff unaligned",		0,		1,		4 * PAGES_2M,	0 },
	{ "both unaligned",		0,		1,		4 * PAGES_2M,	2 },
	{ "both unaligned alike",	0,		1,		4 * PAGES_2M,	1 },
	{ "gfn as hva",			1,		0,		4 * PAGES_2M,	1 },
	{ "gfn as pgoff",		1,		1,		4 * PAGES_2M,	0 },
	{ "gfn as both",		1,		1,		4 * PAGES_2M,	1 },
};

#define NR_UNITS	6

#define _test_data_mixed		gmem
#define _fixture_variant_mixed	gmem_variant

static const char *setup(struct gmem *self)
{
	static char text[80];

	if (!(kvm_check_cap(KVM_CAP_MEMORY_ATTRIBUTES) & KVM_MEMORY_ATTRIBUTE_PRIVATE))
		return "needs VMs, not guest_memfd, to know what is private";
	if (!hugetlb_size_supported(SZ_2M))
		return "needs huge pages of 2M";
	hugetlb_read_pool(SZ_2M, &self->pool);
	if (hugetlb_available(&self->pool) < NR_UNITS) {
		snprintf(text, sizeof(text), "needs %d x 2M page for shared memory, have %ld",
			 NR_UNITS, hugetlb_available(&self->pool));
		return text;
	}

	self->vm = create_guest(VM_TYPE_PRIVATE, self->vcpus, 1);
	self->vcpu = self->vcpus[0];
	self->fd = vm_create_guest_memfd(self->vm, NR_UNITS * SZ_2M, 0);
	return NULL;
}

GMEM_FIXTURE(mixed, setup(self));

/*
 * Assert that the guest wrote to the shared part of the slot and nowhere else.
 * Restores the host's tags.
 */
static void check_host_memory(const struct slot_case *c, void *mem, u64 nr_private)
{
	u64 page;

	for (page = 0; page < NR_UNITS * PAGES_2M; page++) {
		u64 *p = mem + page * PAGE_SIZE, slot_page = page - c->hva;
		bool written = slot_page >= nr_private && slot_page < c->nr;
		u64 tag = written ? TAG2(slot_page - nr_private) : HOST_TAG(page);

		TEST_ASSERT(*p == tag, "%s: host page %lu should be 0x%lx, is 0x%lx",
			    c->name, page, tag, *p);
		*p = HOST_TAG(page);
	}
}

TEST_F(mixed, each_half_from_its_own_backing)
{
	struct mappings before, want;
	u64 i, page;
	void *mem;

	mem = hugetlb_hog(SZ_2M, NR_UNITS, -1);
	for (page = 0; page < NR_UNITS * PAGES_2M; page++)
		*(u64 *)(mem + page * PAGE_SIZE) = HOST_TAG(page);

	for (i = 0; i < ARRAY_SIZE(mixed_cases); i++) {
		const struct slot_case *c = &mixed_cases[i];
		u64 gpa = TEST_GPA + c->gfn * PAGE_SIZE, size = c->nr * PAGE_SIZE;
		/* The halves meet at a multiple of 2M in the guest. */
		u64 nr_private = c->nr / 2 - c->gfn % PAGES_2M;
		u64 nr_shared = c->nr - nr_private;
		u64 gpa_shared = gpa + nr_private * PAGE_SIZE;

		punch_fd(self->fd, 0, NR_UNITS * SZ_2M);
		add_slot(self->vm, gpa, size, mem + c->hva * PAGE_SIZE, self->fd,
			 c->pgoff * PAGE_SIZE);
		vm_mem_set_private(self->vm, gpa, nr_private * PAGE_SIZE);
		vm_mem_set_shared(self->vm, gpa_shared, nr_shared * PAGE_SIZE);

		before = read_mappings(self->vcpu);
		want = mappings_plus(largest_mappings(c->gfn, c->pgoff, nr_private, SZ_4K),
				     largest_mappings(c->gfn + nr_private, c->hva + nr_private,
						      nr_shared, SZ_2M), 1);
		guest_do(self->vcpu, OP_WRITE_TAGS, gpa, nr_private, PAGE_SIZE, TAG(c->pgoff));
		guest_do(self->vcpu, OP_CHECK_TAGS, gpa_shared, nr_shared, PAGE_SIZE,
			 HOST_TAG(c->hva + nr_private));
		assert_mappings(self->vcpu, before, want, c->name);

		/* The guest's pages are not the host's, nor the other way round. */
		guest_do(self->vcpu, OP_WRITE_TAGS, gpa_shared, nr_shared, PAGE_SIZE, TAG2(0));
		check_host_memory(c, mem, nr_private);

		/* Swap the halves: the private half becomes shared, and the other way round. */
		vm_mem_set_shared(self->vm, gpa, nr_private * PAGE_SIZE);
		vm_mem_set_private(self->vm, gpa_shared, nr_shared * PAGE_SIZE);
		guest_do(self->vcpu, OP_CHECK_TAGS, gpa, nr_private, PAGE_SIZE, HOST_TAG(c->hva));
		guest_do(self->vcpu, OP_WRITE_TAGS, gpa_shared, nr_shared, PAGE_SIZE,
			 TAG(c->pgoff + nr_private));
		delete_slot(self->vm, gpa);

		add_slot(self->vm, TEST_GPA, NR_UNITS * SZ_2M, mem, self->fd, 0);
		vm_mem_set_private(self->vm, TEST_GPA, NR_UNITS * SZ_2M);
		guest_do(self->vcpu, OP_CHECK_ZERO, TEST_GPA, c->pgoff, PAGE_SIZE, 0);
		guest_do(self->vcpu, OP_CHECK_TAGS, TEST_GPA + c->pgoff * PAGE_SIZE,
			 c->nr, PAGE_SIZE, TAG(c->pgoff));
		delete_slot(self->vm, TEST_GPA);
	}
	hugetlb_unhog(mem, SZ_2M, NR_UNITS);
}

GMEM_TEST_MAIN(NEEDS_PRIVATE_VM)
