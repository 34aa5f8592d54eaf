// SPDX-License-Identifier: GPL-2.0-only
/*
 * Conversion of guest_memfd files made of HugeTLB pages, as far as it goes for
 * huge pages that stay in one piece: all of a huge page converts, a part of it
 * does not, and the host never gets to map any of it.
 *
 * Without a guest and without a mapping there is one way to see what a huge page
 * is: converting a part of it to what it is already succeeds, and does nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "guest_memfd_hugetlb_fixture.h"

static void assert_part_fails(int fd, u64 offset, u64 size, u64 attributes, u64 at)
{
	u64 error_offset;
	int ret;

	ret = __gmem_set_memory_attributes(fd, offset, size, attributes, &error_offset);
	TEST_ASSERT(ret == -1 && errno == EOPNOTSUPP,
		    "Converting 0x%lx bytes at 0x%lx should fail with EOPNOTSUPP, got %d, errno %d",
		    size, offset, ret, errno);
	TEST_ASSERT_EQ(error_offset, at);
}

static void assert_unit_is(int fd, u64 offset, u64 attributes)
{
	gmem_set_memory_attributes(fd, offset, page_size, attributes);
	assert_part_fails(fd, offset, page_size, attributes ^ KVM_MEMORY_ATTRIBUTE_PRIVATE,
			  offset);
}

static void assert_host_has_nothing(int fd, size_t size, size_t unit)
{
	char *mem = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	size_t off;

	for (off = 0; off < size; off += unit / 2) {
		TEST_EXPECT_SIGBUS((void)READ_ONCE(mem[off]));
		TEST_EXPECT_SIGBUS(WRITE_ONCE(mem[off + page_size], 1));
	}
	kvm_munmap(mem, size);
}

TEST_F(hugetlb, whole_units_convert)
{
	int fd = create_file(GUEST_MEMFD_FLAG_MMAP), i, pass;

	/* First without, then with pages in the file. */
	for (pass = 0; pass < 2; pass++) {
		for (i = 0; i < self->nr; i++) {
			assert_unit_is(fd, i * self->unit, KVM_MEMORY_ATTRIBUTE_PRIVATE);
			gmem_set_shared(fd, i * self->unit, self->unit);
			gmem_set_shared(fd, i * self->unit, self->unit);
			assert_unit_is(fd, i * self->unit, 0);
			assert_host_has_nothing(fd, self->size, self->unit);
		}
		assert_pool(pass * self->nr, !pass * self->nr);
		gmem_set_private(fd, 0, self->size);
		gmem_set_shared(fd, self->unit, self->unit);
		assert_unit_is(fd, 0, KVM_MEMORY_ATTRIBUTE_PRIVATE);
		assert_unit_is(fd, self->unit, 0);
		gmem_set_private(fd, 0, self->size);
		assert_pool(pass * self->nr, !pass * self->nr);

		kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->size);
		assert_pool(self->nr, 0);
	}
	close(fd);
	assert_pool(0, 0);
}

TEST_F(hugetlb, part_of_a_unit_does_not_convert)
{
	const u64 unit = self->unit, page = page_size;
	const struct {
		u64 offset, size, at;
	} parts[] = {
		{ 0, page, 0 },
		{ page, page, page },
		{ unit - page, page, unit - page },
		{ 0, unit - page, 0 },
		{ page, unit - page, page },
		{ unit / 2, unit / 2, unit / 2 },
		/* A whole unit and a part: the unit stays what it is as well. */
		{ 0, unit + page, unit },
		{ page, 2 * unit - page, page },
		{ unit - page, 2 * page, unit - page },
		{ page, 2 * unit - 2 * page, page },
	};
	int fd = create_file(GUEST_MEMFD_FLAG_MMAP), i, pass, private;

	for (pass = 0; pass < 2; pass++) {
		for (private = 1; private >= 0; private--) {
			const u64 from = private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0;

			gmem_set_memory_attributes(fd, 0, self->size, from);
			for (i = 0; i < ARRAY_SIZE(parts); i++) {
				assert_part_fails(fd, parts[i].offset, parts[i].size,
						  from ^ KVM_MEMORY_ATTRIBUTE_PRIVATE,
						  parts[i].at);
				assert_unit_is(fd, 0, from);
				assert_unit_is(fd, unit, from);
				/* Nothing would change. */
				gmem_set_memory_attributes(fd, parts[i].offset,
							   parts[i].size, from);
			}
		}
		assert_pool(pass * self->nr, !pass * self->nr);
		kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->size);
	}
	assert_host_has_nothing(fd, self->size, self->unit);
	close(fd);
	assert_pool(0, 0);
}

/* A part of a unit that is what it should be, and a whole one that is not. */
TEST_F(hugetlb, part_that_does_not_change)
{
	const u64 unit = self->unit;
	int fd = create_file(0);

	gmem_set_shared(fd, 0, unit);
	gmem_set_shared(fd, unit / 2, unit / 2 + unit);
	assert_unit_is(fd, unit, 0);
	gmem_set_private(fd, 0, unit);
	gmem_set_private(fd, page_size, 2 * unit - page_size);
	assert_unit_is(fd, unit, KVM_MEMORY_ATTRIBUTE_PRIVATE);
	close(fd);
}

TEST_F(hugetlb, init_shared)
{
	int fd = create_file(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED);

	assert_pool(0, self->nr);
	assert_unit_is(fd, 0, 0);
	assert_unit_is(fd, self->size - self->unit, 0);
	assert_host_has_nothing(fd, self->size, self->unit);
	gmem_set_private(fd, 0, self->unit);
	assert_unit_is(fd, 0, KVM_MEMORY_ATTRIBUTE_PRIVATE);
	assert_unit_is(fd, self->unit, 0);
	close(fd);
	assert_pool(0, 0);
}

TEST_F(hugetlb, punch_keeps_state)
{
	int fd = create_file(0);

	gmem_set_shared(fd, 0, self->unit);
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->size);
	kvm_fallocate(fd, PUNCH, 0, self->size);
	assert_pool(0, self->nr);
	assert_unit_is(fd, 0, 0);
	assert_unit_is(fd, self->unit, KVM_MEMORY_ATTRIBUTE_PRIVATE);
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->size);
	assert_unit_is(fd, 0, 0);
	assert_unit_is(fd, self->unit, KVM_MEMORY_ATTRIBUTE_PRIVATE);
	close(fd);
	assert_pool(0, 0);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE_GUEST_MEMFD_HUGETLB();
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES) &
		     KVM_MEMORY_ATTRIBUTE_PRIVATE);

	page_size = getpagesize();
	return test_harness_run(argc, argv);
}
