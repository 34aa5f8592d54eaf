// SPDX-License-Identifier: GPL-2.0
/*
 * Split and merge units of guest memory at random, and compare what is in the page
 * cache with a model that has one entry per page.
 *
 * The test needs free huge pages, e.g. hugepagesz=2M hugepages=8 hugepagesz=1G
 * hugepages=1 on the command line, and hugetlb_free_vmemmap=on for all of its cases.
 */
#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/guestmem.h>
#include <linux/hugetlb.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/prandom.h>
#include <linux/sched/signal.h>
#include <linux/workqueue.h>

#include "../guestmem_late.h"
#include "guestmem_kunit.h"

#define NR_RESHAPES	500

static void isolate(struct kunit *test, pgoff_t index)
{
	struct guestmem_test *t = test->priv;
	pgoff_t start, i, nr;
	unsigned int order;

	if (!t->pages[index].shared || !t->present[index >> t->unit_order])
		return;

	filemap_invalidate_lock(t->mapping);
	guestmem_test_split(test, index, index + 1);
	filemap_invalidate_unlock(t->mapping);

	/* Halve the folio, then the half with the page, until the page is alone. */
	for (order = t->pages[index].order; order; order--) {
		nr = 1UL << order;
		start = round_down(index, nr);
		for (i = start; i < start + nr; i++)
			t->pages[i].order = order - 1;
	}
}

static void test_random(struct kunit *test)
{
	struct guestmem_test *t = test->priv;
	pgoff_t a, b;
	int i, unit;

	for (i = 0; i < t->size->nr_steps; i++) {
		a = prandom_u32_state(&t->rnd) % t->nr_pages;
		b = prandom_u32_state(&t->rnd) % t->nr_pages;
		unit = prandom_u32_state(&t->rnd) % t->size->nr_units;

		switch (prandom_u32_state(&t->rnd) % 8) {
		case 0:
			guestmem_test_get_unit(test, unit);
			guestmem_test_check(test, "get");
			break;
		case 1:
			guestmem_test_remove_unit(test, unit);
			guestmem_test_check(test, "remove");
			break;
		case 2:
			guestmem_test_convert(test, min(a, b), max(a, b), b & 1);
			guestmem_test_check(test, "convert a range");
			break;
		case 3:
		case 4:
			isolate(test, a);
			guestmem_test_check(test, "isolate");
			break;
		default:
			guestmem_test_convert(test, a, a + 1, b & 1);
			guestmem_test_check(test, "convert a page");
			break;
		}
		cond_resched();
	}
}

/* Convert pages of a unit at random, one at a time, and convert them back. */
static void test_one_page(struct kunit *test)
{
	struct guestmem_test *t = test->priv;
	unsigned int unit = t->size->nr_units - 1;
	pgoff_t nr = 1UL << t->unit_order, index;
	u32 step = nr / 8;

	guestmem_test_get_unit(test, unit);
	for (index = unit * nr; index < (unit + 1) * nr;
	     index += 1 + prandom_u32_state(&t->rnd) % step) {
		guestmem_test_convert(test, index, index + 1, true);
		guestmem_test_check(test, "split");
		guestmem_test_convert(test, index, index + 1, false);
		guestmem_test_check(test, "merge");
	}
}

static void check_numbers(struct kunit *test, unsigned long folios, unsigned long nodes)
{
	struct guestmem_test *t = test->priv;
	unsigned long nr_folios = 0;
	struct folio *folio;
	pgoff_t i;

	guestmem_test_check(test, "numbers");
	xa_for_each(&t->mapping->i_pages, i, folio)
		nr_folios++;

	KUNIT_ASSERT_EQ(test, nr_folios, folios);
	KUNIT_ASSERT_EQ(test, guestmem_test_nr_nodes(t), nodes);
}

/* Count what it takes to split off one page (1G: 19 folios), and one in each half. */
static void test_numbers(struct kunit *test)
{
	struct guestmem_test *t = test->priv;
	pgoff_t half = 1UL << (t->unit_order - 1);
	pgoff_t a = prandom_u32_state(&t->rnd) % half;
	pgoff_t b = half + prandom_u32_state(&t->rnd) % half;
	unsigned int levels = t->unit_order / XA_CHUNK_SHIFT;
	/* If there's a node for exactly one unit then both pages need it. */
	unsigned int common = !(t->unit_order % XA_CHUNK_SHIFT);

	guestmem_test_get_unit(test, 0);
	check_numbers(test, 1, 0);
	guestmem_test_convert(test, a, a + 1, true);
	check_numbers(test, t->unit_order + 1, levels);
	guestmem_test_convert(test, b, b + 1, true);
	check_numbers(test, 2 * t->unit_order, 2 * levels - common);
	guestmem_test_convert(test, a, a + 1, false);
	check_numbers(test, t->unit_order + 1, levels);
	guestmem_test_convert(test, b, b + 1, false);
	check_numbers(test, 1, 0);
}

/* Make one piece of a whole unit, which isn't a hugetlb folio then, and remove it. */
static void test_whole_piece(struct kunit *test)
{
	struct guestmem_test *t = test->priv;
	struct guestmem_reshape reshape;
	struct folio *folio;
	pgoff_t index;
	int i;

	guestmem_test_get_unit(test, 0);
	/* Give up once, and find that there is nothing to do the last time. */
	for (i = 0; i < 3; i++) {
		filemap_invalidate_lock(t->mapping);
		KUNIT_ASSERT_EQ(test, 0,
				guestmem_reshape_prepare_block(&reshape, t->gh, t->mapping, 0,
							       t->unit_order, &index));
		if (i)
			guestmem_reshape_commit(&reshape);
		else
			guestmem_reshape_abort(&reshape);
		filemap_invalidate_unlock(t->mapping);

		t->one_piece[0] = i;
		folio = filemap_get_folio(t->mapping, 0);
		KUNIT_EXPECT_EQ(test, folio_test_large_rmappable(folio),
				i && (t->unit_order == PMD_ORDER ||
				      t->unit_order == PUD_ORDER));
		folio_put(folio);
		guestmem_test_check(test, i ? "one piece" : "given up");
	}

	guestmem_test_convert(test, 3, 4, true);
	t->one_piece[0] = false;
	guestmem_test_check(test, "split");
	guestmem_test_convert(test, 3, 4, false);
	guestmem_test_check(test, "merged");

	filemap_invalidate_lock(t->mapping);
	KUNIT_ASSERT_EQ(test, 0, guestmem_reshape_prepare_block(&reshape, t->gh, t->mapping, 0,
								t->unit_order, &index));
	guestmem_reshape_commit(&reshape);
	filemap_invalidate_unlock(t->mapping);
	guestmem_test_remove_unit(test, 0);
	guestmem_test_check(test, "removed");
}

/* Check that a folio with a reference isn't split, and that a merge leaves it alone. */
static void test_reference(struct kunit *test)
{
	struct guestmem_test *t = test->priv;
	struct guestmem_reshape reshape;
	pgoff_t index, nr = 1UL << t->unit_order;
	struct folio *folio;

	guestmem_test_get_unit(test, 0);
	folio = filemap_get_folio(t->mapping, 1);
	filemap_invalidate_lock(t->mapping);
	KUNIT_ASSERT_EQ(test, -EAGAIN, guestmem_reshape_prepare(&reshape, t->gh, t->mapping, 3, 4,
								&index));
	KUNIT_ASSERT_EQ(test, index, 0);
	filemap_invalidate_unlock(t->mapping);
	folio_put(folio);
	guestmem_test_check(test, "reference");

	guestmem_test_convert(test, 3, 4, true);
	guestmem_test_check(test, "split");

	/* Page 3 could be merged with page 2 first, but that has a reference. */
	folio = filemap_get_folio(t->mapping, 2);
	filemap_invalidate_lock(t->mapping);
	KUNIT_ASSERT_FALSE(test, guestmem_reshape_merge(t->gh, t->mapping, 3, 4, 0, nr));
	filemap_invalidate_unlock(t->mapping);
	folio_put(folio);
	guestmem_test_check(test, "not merged");

	/* The piece of pages 0 and 1 is in use.  The pages next to it are merged. */
	folio = filemap_get_folio(t->mapping, 1);
	filemap_invalidate_lock(t->mapping);
	KUNIT_ASSERT_FALSE(test, guestmem_reshape_merge(t->gh, t->mapping, 3, 4, 0, nr));
	filemap_invalidate_unlock(t->mapping);
	folio_put(folio);
	t->pages[2].order = 1;
	t->pages[3].order = 1;
	guestmem_test_check(test, "merged in part");

	guestmem_test_convert(test, 3, 4, false);
	guestmem_test_check(test, "merge");
}

/* The unit that the next allocation is going to get, for get_new_unit(). */
static struct folio *next_unit;

/* Get a reference to a unit that is being allocated, as a pfn walker may do. */
static unsigned int get_new_unit(struct address_space *mapping, pgoff_t index)
{
	if (next_unit && folio_try_get(next_unit))
		next_unit = NULL;

	return 0;
}

/* Allocate a unit in pieces while it has a reference: this fails, and not late. */
static void test_new_reference(struct kunit *test)
{
	struct guestmem_test *t = test->priv;
	unsigned long nr_free, start;
	struct folio *unit, *folio;

	/* The pool hands out the unit first that has come back last. */
	guestmem_test_get_unit(test, 0);
	unit = filemap_get_folio(t->mapping, 0);
	folio_put(unit);
	guestmem_test_remove_unit(test, 0);
	nr_free = t->h->free_huge_pages;

	next_unit = unit;
	start = jiffies;
	filemap_invalidate_lock_shared(t->mapping);
	folio = guestmem_hugetlb_get_folio(t->gh, t->mapping, 0, &t->policy, get_new_unit);
	filemap_invalidate_unlock_shared(t->mapping);
	/* Without a reference of ours, the allocation got another unit. */
	KUNIT_ASSERT_NULL(test, next_unit);
	KUNIT_EXPECT_PTR_EQ(test, folio, ERR_PTR(-ENOSPC));
	KUNIT_EXPECT_TRUE(test, time_before(jiffies, start + 10 * HZ));
	KUNIT_EXPECT_EQ(test, t->h->free_huge_pages, nr_free - 1);
	guestmem_test_check(test, "in use");

	folio_put(unit);
	KUNIT_EXPECT_EQ(test, t->h->free_huge_pages, nr_free);
	guestmem_test_get_unit(test, 0);
	guestmem_test_check(test, "no longer in use");
	KUNIT_EXPECT_EQ(test, t->h->free_huge_pages, nr_free - 1);
}

/* Remove a unit with a piece in use: it comes back when the last reference is dropped. */
static void test_late(struct kunit *test)
{
	struct guestmem_test *t = test->priv;
	unsigned long nr_free;
	struct folio *folio;
	struct page *page;
	bool optimized;

	/* The unit ends as it was, i.e. with no more struct pages than before. */
	guestmem_test_get_unit(test, 0);
	folio = filemap_get_folio(t->mapping, 0);
	optimized = folio_test_hugetlb_vmemmap_optimized(folio);
	page = &folio->page;
	folio_put(folio);
	guestmem_test_convert(test, 3, 4, true);
	guestmem_test_convert(test, 3, 4, false);
	guestmem_test_convert(test, 5, 6, true);
	nr_free = t->h->free_huge_pages;

	folio = filemap_get_folio(t->mapping, 5);
	KUNIT_ASSERT_FALSE(test, IS_ERR(folio));
	guestmem_test_remove_unit(test, 0);
	KUNIT_EXPECT_EQ(test, t->h->free_huge_pages, nr_free);
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 1);
	KUNIT_EXPECT_TRUE(test, folio_test_guestmem(folio));
	KUNIT_EXPECT_NULL(test, folio->mapping);

	folio_put(folio);
	guestmem_hugetlb_sync(t->gh);
	KUNIT_EXPECT_EQ(test, t->h->free_huge_pages, nr_free + 1);
	folio = page_folio(page);
	KUNIT_EXPECT_TRUE(test, folio_test_hugetlb(folio));
	KUNIT_EXPECT_EQ(test, folio_test_hugetlb_vmemmap_optimized(folio), optimized);
	guestmem_test_check(test, "late");
}

static DECLARE_COMPLETION(busy_begun);
static DECLARE_COMPLETION(busy_done);

static void busy_workfn(struct work_struct *work)
{
	complete(&busy_begun);
	wait_for_completion(&busy_done);
}

/* Remove a unit while the worker of another file is busy, and has units of its own. */
static void test_late_busy(struct kunit *test)
{
	struct guestmem_test *t = test->priv;
	struct guestmem_late *other;
	unsigned long nr_free;
	struct folio *folio;

	guestmem_test_get_unit(test, 0);
	guestmem_test_convert(test, 5, 6, true);
	nr_free = t->h->free_huge_pages;
	folio = filemap_get_folio(t->mapping, 5);
	KUNIT_ASSERT_FALSE(test, IS_ERR(folio));

	other = guestmem_late_alloc();
	KUNIT_ASSERT_NOT_NULL(test, other);

	/* The worker waits until it's told to go on, so no assertion may end the test early. */
	reinit_completion(&busy_begun);
	reinit_completion(&busy_done);
	INIT_WORK(&other->work, busy_workfn);
	atomic_long_inc(&other->nr_back);
	queue_work(system_dfl_wq, &other->work);
	wait_for_completion(&busy_begun);

	guestmem_test_remove_unit(test, 0);
	folio_put(folio);
	guestmem_hugetlb_sync(t->gh);
	KUNIT_EXPECT_EQ(test, t->h->free_huge_pages, nr_free + 1);
	KUNIT_EXPECT_EQ(test, work_busy(&other->work), WORK_BUSY_RUNNING);

	complete(&busy_done);
	flush_work(&other->work);
	guestmem_late_put(other);
	guestmem_test_check(test, "late, busy");
}

static DECLARE_COMPLETION(sync_begun);
static DECLARE_COMPLETION(sync_done);

static int sync_fn(void *data)
{
	allow_signal(SIGKILL);
	complete(&sync_begun);
	guestmem_late_sync(data);
	complete(&sync_done);
	while (!kthread_should_stop())
		schedule_timeout_idle(1);

	return 0;
}

/* Kill a task that waits for a unit which doesn't get back to the pool. */
static void test_late_killed(struct kunit *test)
{
	struct guestmem_late *late = guestmem_late_alloc();
	struct task_struct *task;

	KUNIT_ASSERT_NOT_NULL(test, late);
	reinit_completion(&sync_begun);
	reinit_completion(&sync_done);
	atomic_long_inc(&late->nr_back);
	task = kthread_run(sync_fn, late, "guestmem_sync");
	if (!IS_ERR(task)) {
		wait_for_completion(&sync_begun);
		KUNIT_EXPECT_EQ(test, wait_for_completion_timeout(&sync_done, HZ / 10), 0);
		send_sig(SIGKILL, task, 1);
		KUNIT_EXPECT_NE(test, wait_for_completion_timeout(&sync_done, 10 * HZ), 0);
	}

	atomic_long_dec(&late->nr_back);
	wake_up_all(&late->wait);
	if (!IS_ERR(task))
		kthread_stop(task);
	guestmem_late_put(late);
	KUNIT_EXPECT_FALSE(test, IS_ERR(task));
}

/*
 * Get references to pages that have one at the moment, as folio_try_get() does, but
 * slowly: a page may have become something else since the reader has seen its count.
 */
static int reader_fn(void *data)
{
	struct guestmem_test *t = data;
	struct rnd_state rnd;
	struct page *page;
	int count;

	prandom_seed_state(&rnd, task_pid_nr(current));

	while (!kthread_should_stop()) {
		page = t->page + (prandom_u32_state(&rnd) % t->nr_pages);
		count = page_ref_count(page);
		if (count) {
			if (!(prandom_u32_state(&rnd) % 16))
				udelay(prandom_u32_state(&rnd) % 2000);
			if (atomic_try_cmpxchg(&page->_refcount, &count, count + 1))
				put_page(page);
		}
		cond_resched_tasks_rcu_qs();
	}

	return 0;
}

/* Split off a page or, if @shared is false, merge all.  A reader may be in the way. */
static void try_convert(struct kunit *test, pgoff_t index, bool shared)
{
	struct guestmem_test *t = test->priv;
	struct guestmem_reshape reshape;
	pgoff_t err_index;
	int r;

	filemap_invalidate_lock(t->mapping);
	if (shared) {
		r = guestmem_reshape_prepare(&reshape, t->gh, t->mapping, index, index + 1,
					     &err_index);
		KUNIT_EXPECT_TRUE(test, !r || r == -EAGAIN);
		if (!r)
			guestmem_reshape_commit(&reshape);
	} else {
		guestmem_reshape_merge(t->gh, t->mapping, index, index + 1, 0, t->nr_pages);
	}
	filemap_invalidate_unlock(t->mapping);
}

/* Merge struct pages while readers may write to them. */
static void test_readers(struct kunit *test)
{
	struct guestmem_test *t = test->priv;
	int i, nr_merged = 0;
	struct folio *folio;

	guestmem_test_get_unit(test, 0);
	t->nr_pages = 1UL << t->unit_order;
	folio = filemap_get_folio(t->mapping, 0);
	t->page = &folio->page;
	folio_put(folio);

	for (i = 0; i < NR_READERS; i++) {
		t->readers[i] = kthread_run(reader_fn, t, "guestmem_reader/%d", i);
		KUNIT_ASSERT_FALSE(test, IS_ERR(t->readers[i]));
	}

	for (i = 0; i < NR_RESHAPES; i++) {
		try_convert(test, prandom_u32_state(&t->rnd) % t->nr_pages, true);
		try_convert(test, prandom_u32_state(&t->rnd) % t->nr_pages, false);
		nr_merged += folio_test_hugetlb(page_folio(t->page));
	}

	for (i = 0; i < NR_READERS; i++) {
		kthread_stop(t->readers[i]);
		t->readers[i] = NULL;
	}

	kunit_info(test, "%d of %d times merged", nr_merged, NR_RESHAPES);
	KUNIT_EXPECT_GT(test, nr_merged, 0);

	try_convert(test, 0, false);
	KUNIT_EXPECT_TRUE(test, folio_test_hugetlb(page_folio(t->page)));
	guestmem_test_check(test, "readers");
}

/* Increment reference counts if they are what they were.  They aren't. */
static void increment_counts(struct kunit *test, struct page *page, const int *counts,
			     unsigned long nr_pages)
{
	unsigned long i;

	for (i = 0; i < nr_pages; i++) {
		int count = counts[i];

		if (count)
			KUNIT_EXPECT_FALSE(test, atomic_try_cmpxchg(&page[i]._refcount, &count,
								    count + 1));
	}
}

/*
 * See the reference counts of pieces, and increment them when these pieces are tails, as
 * folio_try_get() does: after a merge, and after the merged folio is split elsewhere.
 */
static void test_stalled_reader(struct kunit *test)
{
	struct guestmem_test *t = test->priv;
	pgoff_t nr_pages = 1UL << t->unit_order, early = 3, late = nr_pages - 3, i;
	struct folio *folio;
	struct page *page;
	int *counts;

	counts = kvmalloc_objs(*counts, nr_pages);
	KUNIT_ASSERT_NOT_NULL(test, counts);

	guestmem_test_get_unit(test, 0);
	folio = filemap_get_folio(t->mapping, 0);
	page = &folio->page;
	folio_put(folio);

	guestmem_test_convert(test, early, early + 1, true);
	for (i = 0; i < nr_pages; i++)
		counts[i] = page_ref_count(page + i);
	guestmem_test_convert(test, early, early + 1, false);
	increment_counts(test, page + 1, counts + 1, nr_pages - 1);

	/* The first half remains one folio, and its tails become those of another order. */
	guestmem_test_convert(test, late, late + 1, true);
	increment_counts(test, page + 1, counts + 1, nr_pages / 2 - 1);
	guestmem_test_convert(test, late, late + 1, false);

	guestmem_test_check(test, "stalled reader");
	kvfree(counts);
}

KUNIT_ARRAY_PARAM(test_size, guestmem_test_sizes, guestmem_test_size_desc);

static struct kunit_case reshape_test_cases[] = {
	KUNIT_CASE_PARAM(test_one_page, test_size_gen_params),
	KUNIT_CASE_PARAM(test_numbers, test_size_gen_params),
	KUNIT_CASE_PARAM(test_whole_piece, test_size_gen_params),
	KUNIT_CASE_PARAM(test_reference, test_size_gen_params),
	KUNIT_CASE_PARAM(test_new_reference, test_size_gen_params),
	KUNIT_CASE_PARAM(test_late, test_size_gen_params),
	KUNIT_CASE_PARAM(test_late_busy, test_size_gen_params),
	KUNIT_CASE_PARAM(test_late_killed, test_size_gen_params),
	KUNIT_CASE_PARAM(test_random, test_size_gen_params),
	KUNIT_CASE_PARAM(test_readers, test_size_gen_params),
	KUNIT_CASE_PARAM(test_stalled_reader, test_size_gen_params),
	{}
};

static struct kunit_suite reshape_test_suite = {
	.name = "guestmem_reshape",
	.init = guestmem_test_init,
	.exit = guestmem_test_exit,
	.test_cases = reshape_test_cases,
};

kunit_test_suite(reshape_test_suite);

MODULE_DESCRIPTION("Test of splitting and merging guest memory");
MODULE_LICENSE("GPL");
