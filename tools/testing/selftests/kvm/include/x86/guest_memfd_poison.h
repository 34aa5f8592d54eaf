/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Helpers for tests that let pages of a guest_memfd file fail.  The kernel takes care of
 * every failure and tells the users of the page.  The pool loses the huge page when it leaves
 * the file.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_POISON_H
#define SELFTEST_KVM_GUEST_MEMFD_POISON_H

#include "guest_memfd_util.h"

/* A page somewhere in the first unit.  It isn't the first page of any larger block. */
#define A_PAGE		77

/* Fill up the pool to @nr available units, in place of those that earlier tests have lost. */
void fill_up_pool(size_t unit, long nr);

/*
 * For the setup of a fixture: fill up the pool to @spare units more than the file has, to
 * replace those that fail, and create a guest.  Returns why the test can't run, or NULL.
 */
const char *setup_poison(struct gmem *self, const struct gmem_variant *variant, long spare);

/* Return why the pool has no unit that could replace one of the file, or NULL. */
const char *missing_spare_unit(struct gmem *self);

/* Return the pfn of a page of a split unit. */
u64 pfn_of(struct gmem *self, u64 page);

/* Return the pfn of a page of a private unit.  The unit is whole before and after the call. */
u64 pfn_of_whole(struct gmem *self, u64 page);

/* As above, and let the guest write all of the file before. */
u64 write_all_and_find(struct gmem *self, u64 page);

/* Share pages, and have the host fill them. */
void share_and_fill(struct gmem *self, u64 first, u64 nr);

/*
 * Let a page fail.  For every kind of page, the kernel says that it has taken care of the
 * failure, and counts one more corrupted page.
 */
void poison_pfn(u64 pfn);

/*
 * Let a page of the file fail.  The page becomes a folio of its own as soon as its unit is
 * used again.  Returns the pfn.
 */
void __poison(struct gmem *self, u64 page, u64 pfn);
u64 poison(struct gmem *self, u64 page);

/*
 * Let the guest write all of the file.  Then let a page fail: one of a whole unit, one of a
 * large piece, as the last page of the unit is shared, or A_PAGE while it is shared and mapped.
 */
u64 write_all_and_poison(struct gmem *self, u64 page);
u64 write_all_and_poison_piece(struct gmem *self, u64 page);
u64 write_all_and_poison_shared(struct gmem *self);

/* Assert that a page fails once more, which changes nothing. */
void assert_poisoned_already(u64 pfn);

/* Assert that KVM_RUN fails for the page, and names the page. */
void guest_is_told(struct gmem *self, u64 page);

/* Assert that the host gets a SIGBUS that says that the memory has failed, and where. */
void host_is_told(struct gmem *self, u64 page);

void unmap_from_host(struct gmem *self, u64 first, u64 nr);

/*
 * Let the guest check all pages but those that have failed.  Asserts that the layout is the
 * model's.
 */
void guest_check_others(struct gmem *self);

/*
 * Assert that guest and host are told about the pages that have failed, that all other pages
 * are in order, and that all units are still allocated.
 */
void check_poisoned_file(struct gmem *self);

#define assert_lost(allocated, reserved)					\
do {										\
	struct hugetlb_pool __pool = self->pool;				\
										\
	hugetlb_pool_lose(&__pool, self->nr_lost);				\
	TEST_ASSERT_POOL_SETTLES(&__pool, -(allocated), reserved);		\
} while (0)

/*
 * The pool loses a huge page a moment before that is freed and the page that has failed is
 * taken off the buddy lists.
 */
void wait_until_dissolved(u64 pfn);

/*
 * Assert that the huge page of @pfn has left the pool.  All its pages are ordinary memory
 * again except for @pfn, the page that has failed.  That page can be mended like any page
 * that was free.
 */
void assert_dissolved(struct gmem *self, u64 pfn);

void mend(u64 pfn);

/*
 * Close the file.  Assert that the pool has lost the bad huge page and nothing else, and mend
 * @pfn and then the other pages of that huge page that have failed, up to a 0.
 */
void __close_and_assert_lost(struct gmem *self, u64 pfn, u64 other, u64 third);

#define close_and_assert_lost(pfn)	__close_and_assert_lost(self, pfn, 0, 0)

/* As above, and check_poisoned_file() before that. */
void check_and_close(struct gmem *self, u64 pfn);

/*
 * Share two pages, put the first page into a pipe, and punch the unit.  The pipe keeps the
 * unit from going back to the pool.  Returns the pfn of the first page.
 */
u64 hold_and_punch(struct gmem *self, struct holder *h);

/* Let the pipe go, and assert that the file has a reservation again if there is a spare unit. */
void release_and_assert_lost(struct gmem *self, struct holder *h);

#endif /* SELFTEST_KVM_GUEST_MEMFD_POISON_H */
