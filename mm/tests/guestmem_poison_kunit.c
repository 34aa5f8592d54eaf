// SPDX-License-Identifier: GPL-2.0
/*
 * Let pages of guest memory fail while units are split and merged, and compare what the
 * kernel knows of the pages with a model that has one entry per page.
 *
 * The test needs free huge pages, as guestmem_reshape_kunit.c does, and loses some.
 */
#include <kunit/test.h>
#include <linux/delay.h>
#include <linux/guestmem.h>
#include <linux/hugetlb.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/prandom.h>
#include <linux/random.h>

#include "../guestmem.h"
#include "../internal.h"
#include "guestmem_kunit.h"

#define NR_FAILURES	16

/* Poison a page as memory_failure() does. */
static void poison_page(struct guestmem_test *t, pgoff_t index)
{
	struct raw_hwp_page *raw_hwp = kzalloc_obj(*raw_hwp, GFP_KERNEL | __GFP_NOFAIL);
	struct folio *folio;
	int r = 0;

	raw_hwp->page = t->page + index;
	folio = guestmem_get_folio(raw_hwp->page, raw_hwp);
	if (IS_ERR(folio)) {
		r = PTR_ERR(folio);
	} else if (folio) {
		folio_lock(folio);
		r = guestmem_poison_page(folio, raw_hwp);
		folio_unlock(folio);
		folio_put(folio);
	}

	if (r) {
		kfree(raw_hwp);
		return;
	}

	t->pages[index].poisoned = true;
	WRITE_ONCE(t->nr_poisoned, t->nr_poisoned + 1);
}

static int poisoner(void *data)
{
	struct guestmem_test *t = data;
	u32 mask = (1U << t->unit_order) - 1;

	/* The flags of the first page are those of the huge page. */
	while (!kthread_should_stop()) {
		if (t->nr_poisoned < NR_FAILURES)
			poison_page(t, t->nr_poisoned ? get_random_u32() & mask : 0);
		/* Hit steps that take microseconds, and steps that take milliseconds. */
		fsleep(1UL << (get_random_u32() % 17));
	}

	return 0;
}

/* Split off a page, and merge it.  Returns false if another task prevents it. */
static bool flip_page(struct kunit *test, pgoff_t index)
{
	struct guestmem_test *t = test->priv;
	struct guestmem_reshape reshape;
	pgoff_t err_index;
	int r;

	filemap_invalidate_lock(t->mapping);
	r = guestmem_reshape_prepare(&reshape, t->gh, t->mapping, index, index + 1, &err_index);
	if (!r) {
		guestmem_reshape_commit(&reshape);
		guestmem_reshape_merge(t->gh, t->mapping, index, index + 1, 0,
				       1UL << t->unit_order);
	}
	filemap_invalidate_unlock(t->mapping);
	cond_resched();

	return !r;
}

static void check_poison(struct kunit *test)
{
	struct guestmem_test *t = test->priv;
	struct folio *folio;
	pgoff_t i;

	for (i = 0; i < 1UL << t->unit_order; i++) {
		folio = filemap_get_folio(t->mapping, i);
		KUNIT_ASSERT_EQ_MSG(test, guestmem_page_is_poisoned(folio, i),
				    t->pages[i].poisoned, "page %lu", i);
		folio_put(folio);
		cond_resched();
	}
}

/* Whether the poisoned pages are pages of their own, and in use. */
static bool has_left(struct guestmem_test *t)
{
	pgoff_t i;

	for (i = 0; i < 1UL << t->unit_order; i++) {
		if (t->pages[i].poisoned &&
		    !(PageHWPoison(t->page + i) && page_count(t->page + i) == 1))
			return false;
	}

	return true;
}

/* Wait until the huge page is gone, with its poisoned pages.  All others are of use. */
static void check_lost(struct kunit *test, unsigned long nr_huge_pages)
{
	struct guestmem_test *t = test->priv;
	unsigned long timeout = jiffies + 5 * HZ;
	int tries;
	pgoff_t i;

	while (t->h->nr_huge_pages == nr_huge_pages && time_before(jiffies, timeout))
		msleep(20);

	KUNIT_ASSERT_EQ(test, t->h->nr_huge_pages, nr_huge_pages - 1);
	KUNIT_ASSERT_EQ(test, t->h->max_huge_pages,
			t->h->nr_huge_pages - t->h->surplus_huge_pages);
	t->nr_lost = 1;
	/* The other pages are freed a moment later. */
	for (tries = 0; tries < 250 && !has_left(t); tries++)
		msleep(20);

	for (i = 0; i < 1UL << t->unit_order; i++) {
		KUNIT_ASSERT_EQ_MSG(test, PageHWPoison(t->page + i), t->pages[i].poisoned,
				    "page %lu", i);
		if (t->pages[i].poisoned)
			KUNIT_ASSERT_EQ(test, page_count(t->page + i), 1);
		t->pages[i].poisoned = false;
	}
}

/* Get the first unit.  Returns its folio, without a reference. */
static struct folio *get_first_unit(struct kunit *test)
{
	struct guestmem_test *t = test->priv;
	struct folio *folio;

	guestmem_test_get_unit(test, 0);
	folio = filemap_get_folio(t->mapping, 0);
	t->page = &folio->page;
	folio_put(folio);

	return folio;
}

static int isolate_poison(struct guestmem_test *t, pgoff_t index, pgoff_t *err_index)
{
	int r;

	filemap_invalidate_lock(t->mapping);
	r = guestmem_isolate_poison(t->gh, t->mapping, index, err_index);
	filemap_invalidate_unlock(t->mapping);

	return r;
}

/* Isolate poison in a unit that has a reference: this works once that is dropped. */
static void test_poison_reference(struct kunit *test)
{
	struct guestmem_test *t = test->priv;
	pgoff_t bad, other, err_index = 1;
	unsigned long nr_huge_pages;
	struct folio *folio;

	if (!IS_ENABLED(CONFIG_MEMORY_FAILURE))
		kunit_skip(test, "needs MEMORY_FAILURE");

	folio = get_first_unit(test);
	bad = 1 + prandom_u32_state(&t->rnd) % ((1U << t->unit_order) - 1);
	other = bad ^ 1;
	poison_page(t, bad);
	KUNIT_ASSERT_EQ(test, t->nr_poisoned, 1);

	folio_get(folio);
	KUNIT_EXPECT_EQ(test, -EAGAIN, isolate_poison(t, other, &err_index));
	KUNIT_EXPECT_EQ(test, err_index, 0);
	folio_put(folio);
	guestmem_test_check(test, "reference");
	check_poison(test);

	KUNIT_EXPECT_EQ(test, 0, isolate_poison(t, other, &err_index));
	KUNIT_EXPECT_EQ(test, -EHWPOISON, isolate_poison(t, bad, &err_index));
	KUNIT_EXPECT_EQ(test, err_index, bad);
	guestmem_test_reset_orders(t, 0);
	guestmem_test_check(test, "isolated");
	check_poison(test);

	nr_huge_pages = t->h->nr_huge_pages;
	guestmem_test_remove_unit(test, 0);
	check_lost(test, nr_huge_pages);
}

/*
 * Merge next to a page that has failed while a folio has a reference.  That folio may be
 * merged later, which the page that has failed doesn't change.
 */
static void test_poison_busy(struct kunit *test)
{
	struct guestmem_test *t = test->priv;
	pgoff_t nr = 1UL << t->unit_order, bad = 5, err_index;
	/* A page of the next huge page of 2M, or of the same one. */
	pgoff_t index = (t->unit_order > 9 ? 512 : 256) + 3;
	unsigned long nr_huge_pages;
	struct folio *folio;

	if (!IS_ENABLED(CONFIG_MEMORY_FAILURE))
		kunit_skip(test, "needs MEMORY_FAILURE");

	get_first_unit(test);
	poison_page(t, bad);
	KUNIT_ASSERT_EQ(test, -EHWPOISON, isolate_poison(t, bad, &err_index));
	guestmem_test_reset_orders(t, 0);
	guestmem_test_convert(test, index, index + 1, true);
	guestmem_test_check(test, "split");

	folio = filemap_get_folio(t->mapping, index - 1);
	filemap_invalidate_lock(t->mapping);
	KUNIT_EXPECT_FALSE(test, guestmem_reshape_merge(t->gh, t->mapping, index, index + 1, 0,
							nr));
	filemap_invalidate_unlock(t->mapping);
	folio_put(folio);

	guestmem_test_convert(test, index, index + 1, false);
	guestmem_test_check(test, "merged");
	check_poison(test);

	nr_huge_pages = t->h->nr_huge_pages;
	guestmem_test_remove_unit(test, 0);
	check_lost(test, nr_huge_pages);
}

/*
 * Poison a unit as memory_failure() does if it has no memory to note which page has
 * failed.  Then each page of the unit may have failed.
 */
static void test_poison_unreliable(struct kunit *test)
{
	struct guestmem_test *t = test->priv;
	pgoff_t nr = 1UL << t->unit_order, i, err_index;
	unsigned long nr_huge_pages = t->h->nr_huge_pages;
	struct folio *folio;

	if (!IS_ENABLED(CONFIG_MEMORY_FAILURE))
		kunit_skip(test, "needs MEMORY_FAILURE");

	folio = get_first_unit(test);
	folio_lock(folio);
	folio_set_hugetlb_raw_hwp_unreliable(folio);
	folio_set_hwpoison(folio);
	folio_unlock(folio);
	for (i = 0; i < nr; i++)
		t->pages[i].poisoned = true;

	check_poison(test);
	for (i = 0; i < nr; i++) {
		KUNIT_ASSERT_EQ(test, guestmem_next_poison(folio, i), i);
		KUNIT_ASSERT_EQ(test, -EHWPOISON, isolate_poison(t, i, &err_index));
	}

	/* Split as a conversion of one page does.  All pages are still poisoned. */
	filemap_invalidate_lock(t->mapping);
	guestmem_test_split(test, 1, 2);
	filemap_invalidate_unlock(t->mapping);
	check_poison(test);

	/* The pool still counts the huge page, but never gives it to a file again. */
	guestmem_test_remove_unit(test, 0);
	msleep(300);
	KUNIT_EXPECT_EQ(test, t->h->nr_huge_pages, nr_huge_pages);
	KUNIT_EXPECT_EQ(test, t->h->free_huge_pages, t->nr_free - 1);
	folio = page_folio(t->page);
	KUNIT_EXPECT_TRUE(test, folio_test_hugetlb(folio));
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 1);
	t->nr_lost = 1;
}

/* Split and merge around memory while it fails.  No failure may be lost. */
static void test_poison(struct kunit *test)
{
	struct guestmem_test *t = test->priv;
	pgoff_t nr = 1UL << t->unit_order, i, err_index;
	unsigned long nr_huge_pages, timeout;
	int nr_flips = 0;

	if (!IS_ENABLED(CONFIG_MEMORY_FAILURE))
		kunit_skip(test, "needs MEMORY_FAILURE");

	get_first_unit(test);
	KUNIT_ASSERT_EQ(test, -EAGAIN, guestmem_test_set_hwpoison(t->page + 1));
	KUNIT_ASSERT_FALSE(test, PageHWPoison(t->page + 1));

	t->readers[0] = kthread_run(poisoner, t, "guestmem_poison");
	KUNIT_ASSERT_FALSE(test, IS_ERR(t->readers[0]));

	timeout = jiffies + 10 * HZ;
	while (time_before(jiffies, timeout) && READ_ONCE(t->nr_poisoned) < NR_FAILURES)
		nr_flips += flip_page(test, prandom_u32_state(&t->rnd) % nr);

	kthread_stop(t->readers[0]);
	t->readers[0] = NULL;
	kunit_info(test, "%d failures, %d flips", t->nr_poisoned, nr_flips);
	KUNIT_ASSERT_EQ(test, t->nr_poisoned, NR_FAILURES);
	KUNIT_ASSERT_GT(test, nr_flips, NR_FAILURES);
	check_poison(test);

	filemap_invalidate_lock(t->mapping);
	for (i = 0; i < nr; i++)
		KUNIT_ASSERT_EQ(test, guestmem_isolate_poison(t->gh, t->mapping, i, &err_index),
				t->pages[i].poisoned ? -EHWPOISON : 0);
	KUNIT_ASSERT_TRUE(test, guestmem_reshape_merge(t->gh, t->mapping, 0, nr, 0, nr));
	filemap_invalidate_unlock(t->mapping);
	guestmem_test_reset_orders(t, 0);
	guestmem_test_check(test, "isolated");

	for (i = 0; i < 20; i++) {
		pgoff_t start = prandom_u32_state(&t->rnd) % nr;
		pgoff_t end = start + 1 + prandom_u32_state(&t->rnd) % (nr - start);

		guestmem_test_convert(test, start, end, i % 2);
		guestmem_test_check(test, "converted");
	}
	check_poison(test);

	nr_huge_pages = t->h->nr_huge_pages;
	guestmem_test_remove_unit(test, 0);
	check_lost(test, nr_huge_pages);
}

KUNIT_ARRAY_PARAM(test_size, guestmem_test_sizes, guestmem_test_size_desc);

static struct kunit_case poison_test_cases[] = {
	KUNIT_CASE_PARAM(test_poison_reference, test_size_gen_params),
	KUNIT_CASE_PARAM(test_poison_busy, test_size_gen_params),
	KUNIT_CASE_PARAM(test_poison_unreliable, test_size_gen_params),
	KUNIT_CASE_PARAM(test_poison, test_size_gen_params),
	{}
};

static struct kunit_suite poison_test_suite = {
	.name = "guestmem_poison",
	.init = guestmem_test_init,
	.exit = guestmem_test_exit,
	.test_cases = poison_test_cases,
};

kunit_test_suite(poison_test_suite);

MODULE_DESCRIPTION("Test of memory failure in guest memory");
MODULE_LICENSE("GPL");
