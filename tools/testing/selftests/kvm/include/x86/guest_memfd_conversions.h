/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A guest_memfd file of a few 4K pages that is converted in place.  Sets of pages are masks.
 * Host and guest write the tag into the last word of a page, too.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_CONVERSIONS_H
#define SELFTEST_KVM_GUEST_MEMFD_CONVERSIONS_H

#include "guest_memfd_util.h"

#define NR_PAGES	64
#define TEST_SIZE	((u64)NR_PAGES * PAGE_SIZE)

#define ALL_PAGES	(~0ULL)
#define NO_PAGES	0ULL

static inline u64 page_mask(int first, int nr)
{
	return GENMASK_ULL(first + nr - 1, first);
}

/* Create the VM and the file.  With @bind, the file is in a memslot.  Returns NULL. */
const char *create_small_file(struct gmem *self, u64 flags, bool bind);

/* The guest uses a range of the file at @gpa, where its memslot is. */
void set_gpa_of(u64 gpa, int first, int nr);

u64 private_pages(struct gmem *self);

/* Return the pages that the file has allocated, mapped or not, zeroed or not. */
u64 allocated_pages(struct gmem *self);

/* Return the pages that the host has mapped. */
u64 mapped_pages(struct gmem *self);

/* Let the guest write new tags, or find what the model says. */
void guest_write_set(struct gmem *self, u64 mask);
void guest_check_set(struct gmem *self, u64 mask);
void host_write_set(struct gmem *self, u64 mask);
void host_check_set(struct gmem *self, u64 mask);

static inline void check(struct gmem *self, u64 mask)
{
	host_check_set(self, mask);
	guest_check_set(self, mask);
}

static inline void set_all(struct gmem *self, bool private)
{
	convert(self, 0, NR_PAGES, private);
}

/* Return the number of faults that KVM has fixed for the guest so far. */
static inline u64 nr_faults(struct gmem *self)
{
	return read_mappings(self->vcpu).faults;
}

void __assert_faults(struct gmem *self, u64 before, u64 nr, unsigned int line);
#define assert_faults(before, nr)	__assert_faults(self, before, nr, __LINE__)

/* Assert that the guest still has to fault in exactly the pages of @mask, out of all. */
void __assert_unmapped(struct gmem *self, u64 mask, u64 all, unsigned int line);
#define assert_unmapped(mask)	__assert_unmapped(self, mask, ALL_PAGES, __LINE__)

#endif /* SELFTEST_KVM_GUEST_MEMFD_CONVERSIONS_H */
