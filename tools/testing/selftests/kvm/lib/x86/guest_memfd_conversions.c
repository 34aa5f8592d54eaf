// SPDX-License-Identifier: GPL-2.0-only
#include "guest_memfd_conversions.h"

static u64 gpas[NR_PAGES];

void set_gpa_of(u64 gpa, int first, int nr)
{
	int i;

	TEST_ASSERT(gpa >= TEST_GPA && gpa + nr * PAGE_SIZE <= TEST_GPA + TEST_GPA_SIZE &&
		    first + nr <= NR_PAGES, "0x%lx is not in the range for tests", gpa);
	for (i = 0; i < nr; i++)
		gpas[first + i] = gpa + i * PAGE_SIZE;
}

const char *create_small_file(struct gmem *self, u64 flags, bool bind)
{
	kvm_pipe(self->pipe);
	self->unit = PAGE_SIZE;
	self->nr = NR_PAGES;
	self->size = TEST_SIZE;
	self->vm = create_guest(VM_TYPE_PRIVATE, self->vcpus, 1);
	if (bind)
		self->vcpu = self->vcpus[0];
	gmem_open(self, flags);
	self->vcpu = self->vcpus[0];
	set_gpa_of(TEST_GPA, 0, NR_PAGES);
	return NULL;
}

u64 private_pages(struct gmem *self)
{
	u64 mask = 0;
	int i;

	for (i = 0; i < NR_PAGES; i++)
		mask |= (u64)self->model.private[i] << i;
	return mask;
}

u64 allocated_pages(struct gmem *self)
{
	u64 mask = 0;
	int i;

	for (i = 0; i < NR_PAGES; i++)
		mask |= nr_cached_pages_in(self->fd, i, 1) << i;
	return mask;
}

u64 mapped_pages(struct gmem *self)
{
	u64 mask = 0;
	int i;

	for (i = 0; i < NR_PAGES; i++)
		mask |= (u64)is_mapped(addr_of(self, i)) << i;
	return mask;
}

static void guest_do_set(struct gmem *self, enum guest_op op, u64 mask)
{
	struct guest_request *r = set_request(self->vcpu, op, 0, 0, 0, 0);
	unsigned long i;

	for_each_set_bit(i, &mask, NR_PAGES) {
		add_word(r, gpas[i], self->tags[i]);
		add_word(r, gpas[i] + PAGE_SIZE - sizeof(u64), self->tags[i]);
	}
	guest_run(self->vcpu);
}

void guest_write_set(struct gmem *self, u64 mask)
{
	unsigned long i;

	for_each_set_bit(i, &mask, NR_PAGES)
		self->tags[i] = new_tag(i);
	guest_do_set(self, OP_WRITE_WORDS, mask);
}

void guest_check_set(struct gmem *self, u64 mask)
{
	guest_do_set(self, OP_CHECK_WORDS, mask);
}

void host_write_set(struct gmem *self, u64 mask)
{
	unsigned long i;

	for_each_set_bit(i, &mask, NR_PAGES) {
		host_write(self, i);
		WRITE_ONCE(*last_word_of(self, i), self->tags[i]);
	}
}

void host_check_set(struct gmem *self, u64 mask)
{
	unsigned long i;

	for_each_set_bit(i, &mask, NR_PAGES)
		host_check_ends(self, i);
}

void __assert_faults(struct gmem *self, u64 before, u64 nr, unsigned int line)
{
	u64 faults = nr_faults(self) - before;

	TEST_ASSERT(faults == nr, "Line %u: there should be %lu faults, were %lu",
		    line, nr, faults);
}

void __assert_unmapped(struct gmem *self, u64 mask, u64 all, unsigned int line)
{
	u64 before = nr_faults(self);

	guest_check_set(self, all & ~mask);
	__assert_faults(self, before, 0, line);
	guest_check_set(self, mask);
	__assert_faults(self, before, __builtin_popcountll(mask), line);
}
