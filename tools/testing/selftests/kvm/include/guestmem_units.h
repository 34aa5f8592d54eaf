/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How guest_memfd files made of HugeTLB pages are cut into folios, according to the
 * kernel and to a model.
 *
 * The model has one entry per page and knows two rules.  A private page is part of the
 * largest aligned block that is private.  A shared page is part of the largest aligned
 * block that is shared and has no page that the host has touched, but never of a larger
 * block than before.  A page that the host has touched is on its own, and so is a page
 * that has failed.
 *
 * If the file can't convert, the host may map blocks of @map_order, and those of @max_order as
 * long as they are one folio.  Such a block is on its own when a page of it has been touched,
 * unless it is in pieces already.
 */
#ifndef SELFTEST_KVM_GUESTMEM_UNITS_H
#define SELFTEST_KVM_GUESTMEM_UNITS_H

#include "test_util.h"

struct guestmem_model {
	int fd;
	int unit_order;
	int map_order;		/* 0, unless a test says otherwise */
	int max_order;		/* the same */
	u64 unit_pages;
	u64 nr_pages;
	bool *present;		/* per unit */
	bool *private;		/* per page, like those below */
	u8 *touched;		/* 0, or 1 plus the order of the mapping */
	bool *poisoned;
	u8 *order;
};

#define NEEDS_UNITS	"needs root, debugfs and CONFIG_DEBUG_GUESTMEM"

/*
 * Return whether the kernel lists split units, for which it takes root, debugfs and
 * CONFIG_DEBUG_GUESTMEM.
 */
bool guestmem_has_units(void);

/*
 * Return the list of all split units as text, to be freed by the caller.  Asserts that
 * the kernel finds everything to be in order.
 */
char *guestmem_read_units(void);

/* Return the number of split units in files and, in @nr_late, of those that left their files. */
int guestmem_nr_units(int *nr_late);

/*
 * Find the unit at @index, in pages, of a file.  Returns its first pfn and, unless @orders is
 * NULL, the order of each page's folio.  Fails if the unit isn't split, or isn't there.
 */
u64 guestmem_read_unit(int fd, u64 index, u64 unit_pages, u8 *orders);

/* Assert that the list is as it was when it was read. */
void guestmem_assert_unchanged(const char *units);

/* Wait until there are no split units any more, i.e. until all are merged or given back. */
void guestmem_settle(void);

void guestmem_model_init(struct guestmem_model *m, int fd, u64 size, u64 unit, bool private);
void guestmem_model_free(struct guestmem_model *m);

/*
 * All numbers are pages.  A touch, too, allocates a huge page that isn't there.  It maps as
 * much as the model allows, unless the mapping is @small, or that of a block of @order.
 */
void guestmem_model_convert(struct guestmem_model *m, u64 first, u64 nr, bool private);
void guestmem_model_allocate(struct guestmem_model *m, u64 first, u64 nr);
void guestmem_model_touch(struct guestmem_model *m, u64 page);
void guestmem_model_touch_block(struct guestmem_model *m, u64 page, int order);
void guestmem_model_touch_small(struct guestmem_model *m, u64 first, u64 nr);
void guestmem_model_touch_all(struct guestmem_model *m);
/* The page has failed, and the unit has been used since. */
void guestmem_model_poison(struct guestmem_model *m, u64 page);
void guestmem_model_punch(struct guestmem_model *m, u64 first, u64 nr);

u64 guestmem_model_nr_folios(struct guestmem_model *m, u64 unit);
int guestmem_model_nr_present(struct guestmem_model *m);

/*
 * Return how many pages of struct pages units have in addition to those of whole units, if
 * hugetlb_free_vmemmap is on: one of 64 struct pages is there if a folio begins at the first.
 */
u64 guestmem_model_nr_vmemmap(struct guestmem_model *m);

/* Return how the kernel's layout differs from that of the model, as text, or NULL. */
const char *guestmem_model_diff(struct guestmem_model *m);

#define TEST_ASSERT_LAYOUT(m)						\
do {									\
	const char *__diff = guestmem_model_diff(m);			\
									\
	TEST_ASSERT(!__diff, "%s", __diff);				\
} while (0)

#endif /* SELFTEST_KVM_GUESTMEM_UNITS_H */
