// SPDX-License-Identifier: GPL-2.0
/*
 * Split and merge units of guest memory at random, and compare what is in the page
 * cache with a model that has one entry per page.
 *
 * Takes free huge pages, e.g. hugepagesz=2M hugepages=8 hugepagesz=1G hugepages=1 on
 * the command line, and hugetlb_free_vmemmap=on for all of it.
 */
#include <kunit/test.h>
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/guestmem.h>
#include <linux/hugetlb.h>
#include <linux/kthread.h>
#include <linux/mempolicy.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/pagemap.h>
#include <linux/prandom.h>
#include <linux/pseudo_fs.h>
#include <linux/random.h>
#include <linux/vmalloc.h>

#include "../guestmem_internal.h"
#include "../internal.h"

#define MAX_UNITS	3
#define NR_READERS	2
#define NR_TRIMS	40
#define NR_FAILURES	16
#define TEST_MAGIC	0x67756573

static unsigned long long seed;
module_param(seed, ullong, 0444);
MODULE_PARM_DESC(seed, "of the random numbers, 0 to make one up");

struct test_size {
	const char *name;
	unsigned int shift;
	int nr_units;
	int nr_steps;
};

static const struct test_size test_sizes[] = {
	{ "2M", 21, MAX_UNITS, 400 },
	{ "1G", 30, 1, 150 },
};

/* What the model knows of a page. */
struct model_page {
	bool shared;
	bool poisoned;
	/* Log2 of the size of the folio. */
	u8 order;
};

struct reshape_test {
	struct vfsmount *mnt;
	struct inode *inode;
	struct address_space *mapping;
	struct guestmem_hugetlb *gh;
	struct hstate *h;
	struct shared_policy policy;
	unsigned long nr_free, nr_resv;
	pgoff_t nr_pages;
	unsigned int unit_order;
	struct model_page *pages;
	struct rnd_state rnd;
	bool present[MAX_UNITS];
	const struct test_size *size;
	struct task_struct *readers[NR_READERS];
	struct page *page;
	int nr_poisoned;
	int nr_lost;
};

/* For guestmem_wanted_fn, which doesn't have an argument for it. */
static struct reshape_test *current_test;

/* The largest naturally aligned block of pages that all are what @index is, and not poisoned. */
static unsigned int model_uniform_order(struct reshape_test *t, pgoff_t index)
{
	unsigned int order;
	pgoff_t start, i;

	for (order = 0; order < t->unit_order; order++) {
		start = index & ~((2UL << order) - 1);
		for (i = start; i < start + (2UL << order); i++) {
			if (t->pages[i].shared != t->pages[index].shared ||
			    t->pages[i].poisoned)
				return order;
		}
	}

	return order;
}

/* Private folios are as large as they may be, shared ones only become smaller. */
static void model_update(struct reshape_test *t)
{
	pgoff_t i, j, nr;
	u8 order;

	for (i = 0; i < t->nr_pages; i += nr) {
		order = model_uniform_order(t, i);
		nr = 1UL << order;
		for (j = i; j < i + nr; j++) {
			if (!t->pages[j].shared)
				t->pages[j].order = order;
			else
				t->pages[j].order = min(t->pages[j].order, order);
		}
	}
}

/* A unit that isn't there has no folios that could be a limit. */
static void reset_orders(struct reshape_test *t, int unit)
{
	pgoff_t start = (pgoff_t)unit << t->unit_order, i;

	for (i = start; i < start + (1UL << t->unit_order); i++)
		t->pages[i].order = t->unit_order;
	model_update(t);
}

static unsigned int wanted_order(struct address_space *mapping, pgoff_t index)
{
	return model_uniform_order(current_test, index);
}

/* Nodes of the page cache that only parts of units need. */
static unsigned long count_nodes(struct reshape_test *t, const void *entry)
{
	struct xa_node *node;
	unsigned long nr = 0;
	int i;

	if (!xa_is_node(entry))
		return 0;

	node = xa_to_node(entry);
	for (i = 0; i < XA_CHUNK_SIZE; i++)
		nr += count_nodes(t, rcu_dereference_protected(node->slots[i], true));

	return nr + (node->shift + XA_CHUNK_SHIFT <= t->unit_order);
}

/* Each block that nodes are made for has one if there's anything smaller in it. */
static unsigned long model_nodes(struct reshape_test *t)
{
	unsigned long nr = 0, block, i;
	unsigned int order;

	for (order = XA_CHUNK_SHIFT; order <= t->unit_order; order += XA_CHUNK_SHIFT) {
		for (block = 0; block < t->nr_pages; block += 1UL << order) {
			for (i = block; i < block + (1UL << order); i++) {
				if (t->present[i >> t->unit_order] &&
				    t->pages[i].order < order)
					break;
			}
			nr += i < block + (1UL << order);
		}
	}

	return nr;
}

static void check_layout(struct kunit *test, const char *what)
{
	struct reshape_test *t = test->priv;
	unsigned long nr_bad, nr_nodes;
	pgoff_t index, i, nr;
	struct folio *folio;

	for (index = 0; index < t->nr_pages; index += nr) {
		nr = 1UL << t->pages[index].order;
		folio = filemap_get_folio(t->mapping, index);

		if (!t->present[index >> t->unit_order]) {
			KUNIT_ASSERT_TRUE(test, IS_ERR(folio));
			nr = 1UL << t->unit_order;
			continue;
		}

		KUNIT_ASSERT_FALSE(test, IS_ERR(folio));
		KUNIT_ASSERT_EQ_MSG(test, folio_order(folio), t->pages[index].order,
				    "%s, page %lu", what, index);
		KUNIT_ASSERT_EQ(test, folio->index, index);
		KUNIT_ASSERT_EQ(test, folio_ref_count(folio), nr + 1);
		KUNIT_ASSERT_EQ(test, folio_test_hugetlb(folio),
				t->pages[index].order == t->unit_order);
		for (i = 0; i < nr; i++)
			KUNIT_ASSERT_EQ(test, t->pages[index + i].order,
					t->pages[index].order);
		folio_put(folio);
		cond_resched();
	}

	nr_bad = guestmem_check_mapping(t->mapping);
	KUNIT_ASSERT_EQ_MSG(test, nr_bad, 0, "%s", what);

	/* Nobody but the test changes anything. */
	nr_nodes = count_nodes(t, rcu_dereference_protected(t->mapping->i_pages.xa_head,
							    true));
	KUNIT_ASSERT_EQ_MSG(test, nr_nodes, model_nodes(t), "%s", what);
}

static void get_unit(struct kunit *test, int unit)
{
	struct reshape_test *t = test->priv;
	pgoff_t index = ((pgoff_t)unit << t->unit_order) +
			prandom_u32_state(&t->rnd) % (1U << t->unit_order);
	struct folio *folio;

	filemap_invalidate_lock_shared(t->mapping);
	folio = guestmem_hugetlb_get_folio(t->gh, t->mapping, index, &t->policy,
					   wanted_order);
	filemap_invalidate_unlock_shared(t->mapping);
	KUNIT_ASSERT_FALSE(test, IS_ERR(folio));
	folio_put(folio);

	if (t->present[unit])
		return;

	t->present[unit] = true;
	reset_orders(t, unit);
}

static void remove_unit(struct kunit *test, int unit)
{
	struct reshape_test *t = test->priv;
	pgoff_t start = (pgoff_t)unit << t->unit_order;

	filemap_invalidate_lock(t->mapping);
	guestmem_hugetlb_remove(t->gh, t->mapping, start, start + (1UL << t->unit_order));
	filemap_invalidate_unlock(t->mapping);
	guestmem_hugetlb_sync(t->gh);

	t->present[unit] = false;
	reset_orders(t, unit);
}

static void split_range(struct kunit *test, pgoff_t start, pgoff_t end)
{
	struct reshape_test *t = test->priv;
	struct guestmem_reshape reshape;
	pgoff_t index;

	KUNIT_ASSERT_EQ(test, 0, guestmem_reshape_prepare(&reshape, t->mapping, start,
							  end, &index));
	/* Now and then somebody changes their mind. */
	if (!(prandom_u32_state(&t->rnd) % 4)) {
		guestmem_reshape_abort(&reshape);
		check_layout(test, "abort");
		KUNIT_ASSERT_EQ(test, 0, guestmem_reshape_prepare(&reshape, t->mapping,
								  start, end, &index));
	}
	guestmem_reshape_commit(&reshape);
}

static void convert(struct kunit *test, pgoff_t start, pgoff_t end, bool shared)
{
	struct reshape_test *t = test->priv;
	pgoff_t i, lo, hi;

	filemap_invalidate_lock(t->mapping);

	/* As in KVM: what doesn't change isn't looked at. */
	while (start < end && t->pages[start].shared == shared)
		start++;
	while (start < end && t->pages[end - 1].shared == shared)
		end--;
	if (start == end)
		goto out_unlock;

	split_range(test, start, end);

	for (i = start; i < end; i++)
		t->pages[i].shared = shared;

	if (!shared) {
		for (lo = start; lo && !t->pages[lo - 1].shared; lo--)
			;
		for (hi = end; hi < t->nr_pages && !t->pages[hi].shared; hi++)
			;
		KUNIT_ASSERT_TRUE(test, guestmem_reshape_merge(t->gh, t->mapping, start,
							       end, lo, hi));
	}
	model_update(t);

out_unlock:
	filemap_invalidate_unlock(t->mapping);
}

static void isolate(struct kunit *test, pgoff_t index)
{
	struct reshape_test *t = test->priv;
	pgoff_t start, i, nr;
	unsigned int order;

	if (!t->pages[index].shared || !t->present[index >> t->unit_order])
		return;

	filemap_invalidate_lock(t->mapping);
	split_range(test, index, index + 1);
	filemap_invalidate_unlock(t->mapping);

	/* Halve the folio, and the half with the page, until the page is alone. */
	for (order = t->pages[index].order; order; order--) {
		nr = 1UL << order;
		start = round_down(index, nr);
		for (i = start; i < start + nr; i++)
			t->pages[i].order = order - 1;
	}
}

static void test_random(struct kunit *test)
{
	struct reshape_test *t = test->priv;
	pgoff_t a, b;
	int i, unit;

	for (i = 0; i < t->size->nr_steps; i++) {
		a = prandom_u32_state(&t->rnd) % t->nr_pages;
		b = prandom_u32_state(&t->rnd) % t->nr_pages;
		unit = prandom_u32_state(&t->rnd) % t->size->nr_units;

		switch (prandom_u32_state(&t->rnd) % 8) {
		case 0:
			get_unit(test, unit);
			check_layout(test, "get");
			break;
		case 1:
			remove_unit(test, unit);
			check_layout(test, "remove");
			break;
		case 2:
			convert(test, min(a, b), max(a, b), b & 1);
			check_layout(test, "convert a range");
			break;
		case 3:
		case 4:
			isolate(test, a);
			check_layout(test, "isolate");
			break;
		default:
			convert(test, a, a + 1, b & 1);
			check_layout(test, "convert a page");
			break;
		}
		cond_resched();
	}
}

/* One page of a unit, any, and back. */
static void test_one_page(struct kunit *test)
{
	struct reshape_test *t = test->priv;
	unsigned int unit = t->size->nr_units - 1;
	pgoff_t nr = 1UL << t->unit_order, index;
	u32 step = nr / 8;

	get_unit(test, unit);
	for (index = unit * nr; index < (unit + 1) * nr;
	     index += 1 + prandom_u32_state(&t->rnd) % step) {
		convert(test, index, index + 1, true);
		check_layout(test, "split");
		convert(test, index, index + 1, false);
		check_layout(test, "merge");
	}
}

static void check_numbers(struct kunit *test, unsigned long folios, unsigned long nodes)
{
	struct reshape_test *t = test->priv;
	unsigned long nr_folios = 0;
	struct folio *folio;
	pgoff_t i;

	check_layout(test, "numbers");
	xa_for_each(&t->mapping->i_pages, i, folio)
		nr_folios++;

	KUNIT_ASSERT_EQ(test, nr_folios, folios);
	KUNIT_ASSERT_EQ(test, model_nodes(t), nodes);
}

/* What it takes to have one page split off, e.g. 19 folios of 1G, and one in each half. */
static void test_numbers(struct kunit *test)
{
	struct reshape_test *t = test->priv;
	pgoff_t half = 1UL << (t->unit_order - 1);
	pgoff_t a = prandom_u32_state(&t->rnd) % half;
	pgoff_t b = half + prandom_u32_state(&t->rnd) % half;
	unsigned int levels = t->unit_order / XA_CHUNK_SHIFT;
	/* If there's a node for just the unit then both have it in common. */
	unsigned int common = !(t->unit_order % XA_CHUNK_SHIFT);

	get_unit(test, 0);
	check_numbers(test, 1, 0);
	convert(test, a, a + 1, true);
	check_numbers(test, t->unit_order + 1, levels);
	convert(test, b, b + 1, true);
	check_numbers(test, 2 * t->unit_order, 2 * levels - common);
	convert(test, a, a + 1, false);
	check_numbers(test, t->unit_order + 1, levels);
	convert(test, b, b + 1, false);
	check_numbers(test, 1, 0);
}

/* Somebody has a reference: nothing happens, and a merge stops there. */
static void test_reference(struct kunit *test)
{
	struct reshape_test *t = test->priv;
	struct guestmem_reshape reshape;
	pgoff_t index, nr = 1UL << t->unit_order;
	struct folio *folio;

	get_unit(test, 0);
	folio = filemap_get_folio(t->mapping, 1);
	filemap_invalidate_lock(t->mapping);
	KUNIT_ASSERT_EQ(test, -EAGAIN, guestmem_reshape_prepare(&reshape, t->mapping, 3, 4,
								&index));
	KUNIT_ASSERT_EQ(test, index, 0);
	filemap_invalidate_unlock(t->mapping);
	folio_put(folio);
	check_layout(test, "reference");

	convert(test, 3, 4, true);
	check_layout(test, "split");

	/* Page 2 is what page 3 could be merged with first. */
	folio = filemap_get_folio(t->mapping, 2);
	filemap_invalidate_lock(t->mapping);
	KUNIT_ASSERT_FALSE(test, guestmem_reshape_merge(t->gh, t->mapping, 3, 4, 0, nr));
	filemap_invalidate_unlock(t->mapping);
	folio_put(folio);
	check_layout(test, "not merged");

	/* Page 0 to 1 is one of the pieces, what's next to it is merged. */
	folio = filemap_get_folio(t->mapping, 1);
	filemap_invalidate_lock(t->mapping);
	KUNIT_ASSERT_FALSE(test, guestmem_reshape_merge(t->gh, t->mapping, 3, 4, 0, nr));
	filemap_invalidate_unlock(t->mapping);
	folio_put(folio);
	t->pages[2].order = 1;
	t->pages[3].order = 1;
	check_layout(test, "merged in part");

	convert(test, 3, 4, false);
	check_layout(test, "merge");
}

/* A unit that is removed with a piece in use comes back with the last reference. */
static void test_late(struct kunit *test)
{
	struct reshape_test *t = test->priv;
	unsigned long nr_free;
	struct folio *folio;
	struct page *page;
	bool optimized;

	/*
	 * It ends as it was, i.e. with no more struct pages than before.  What an earlier
	 * test has returned may have too many for a while.
	 */
	guestmem_reshape_barrier(NULL);
	get_unit(test, 0);
	folio = filemap_get_folio(t->mapping, 0);
	optimized = folio_test_hugetlb_vmemmap_optimized(folio);
	page = &folio->page;
	folio_put(folio);
	convert(test, 3, 4, true);
	convert(test, 3, 4, false);
	convert(test, 5, 6, true);
	nr_free = t->h->free_huge_pages;

	folio = filemap_get_folio(t->mapping, 5);
	KUNIT_ASSERT_FALSE(test, IS_ERR(folio));
	remove_unit(test, 0);
	KUNIT_EXPECT_EQ(test, t->h->free_huge_pages, nr_free);
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 1);
	KUNIT_EXPECT_TRUE(test, folio_test_guestmem(folio));
	KUNIT_EXPECT_NULL(test, folio->mapping);

	folio_put(folio);
	guestmem_hugetlb_sync(t->gh);
	KUNIT_EXPECT_EQ(test, t->h->free_huge_pages, nr_free + 1);
	guestmem_reshape_barrier(NULL);
	folio = page_folio(page);
	KUNIT_EXPECT_TRUE(test, folio_test_hugetlb(folio));
	KUNIT_EXPECT_EQ(test, folio_test_hugetlb_vmemmap_optimized(folio), optimized);
	check_layout(test, "late");
}

/*
 * Gets references to whatever has any at the moment, as folio_try_get() does, but is
 * slow at it: what it has seen may have become something else.
 */
static int reader_fn(void *data)
{
	struct reshape_test *t = data;
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

/* Ends with the unit in one piece if @shared is false and nobody is in the way. */
static void try_convert(struct kunit *test, pgoff_t index, bool shared)
{
	struct reshape_test *t = test->priv;
	struct guestmem_reshape reshape;
	pgoff_t err_index;
	int r;

	filemap_invalidate_lock(t->mapping);
	if (shared) {
		r = guestmem_reshape_prepare(&reshape, t->mapping, index, index + 1,
					     &err_index);
		KUNIT_EXPECT_TRUE(test, !r || r == -EAGAIN);
		if (!r)
			guestmem_reshape_commit(&reshape);
	} else {
		guestmem_reshape_merge(t->gh, t->mapping, index, index + 1, 0, t->nr_pages);
	}
	filemap_invalidate_unlock(t->mapping);
}

static bool try_trim(struct kunit *test)
{
	struct reshape_test *t = test->priv;
	bool trimmed;

	filemap_invalidate_lock(t->mapping);
	guestmem_reshape_mark(t->gh, t->mapping, 0, t->nr_pages);
	filemap_invalidate_unlock(t->mapping);

	guestmem_reshape_barrier(NULL);

	filemap_invalidate_lock(t->mapping);
	trimmed = guestmem_reshape_trim(t->gh, t->mapping, 0, t->nr_pages);
	filemap_invalidate_unlock(t->mapping);

	return trimmed;
}

/* Struct pages become read-only while somebody may write to them. */
static void test_readers(struct kunit *test)
{
	struct reshape_test *t = test->priv;
	int i, nr_trimmed = 0;
	struct folio *folio;

	if (!guestmem_reshape_needs_trim(t->gh))
		kunit_skip(test, "needs hugetlb_free_vmemmap=on");

	get_unit(test, 0);
	t->nr_pages = 1UL << t->unit_order;
	folio = filemap_get_folio(t->mapping, 0);
	t->page = &folio->page;
	folio_put(folio);

	for (i = 0; i < NR_READERS; i++) {
		t->readers[i] = kthread_run(reader_fn, t, "guestmem_reader/%d", i);
		KUNIT_ASSERT_FALSE(test, IS_ERR(t->readers[i]));
	}

	/* A grace period takes a while. */
	for (i = 0; i < NR_TRIMS; i++) {
		try_convert(test, prandom_u32_state(&t->rnd) % t->nr_pages, true);
		try_convert(test, prandom_u32_state(&t->rnd) % t->nr_pages, false);
		folio = filemap_get_folio(t->mapping, 0);
		folio_put(folio);
		if (folio_test_hugetlb(folio))
			nr_trimmed += try_trim(test);
	}

	for (i = 0; i < NR_READERS; i++) {
		kthread_stop(t->readers[i]);
		t->readers[i] = NULL;
	}

	kunit_info(test, "%d of %d times trimmed", nr_trimmed, NR_TRIMS);
	KUNIT_EXPECT_GT(test, nr_trimmed, 0);

	try_convert(test, 0, false);
	KUNIT_EXPECT_TRUE(test, try_trim(test));
	check_layout(test, "readers");

	folio = filemap_get_folio(t->mapping, 0);
	KUNIT_EXPECT_TRUE(test, folio_test_hugetlb_vmemmap_optimized(folio));
	folio_put(folio);
}

/* Poison a page as memory_failure() does. */
static void poison_page(struct reshape_test *t, pgoff_t index)
{
	struct raw_hwp_page *raw_hwp = kzalloc_obj(*raw_hwp, GFP_KERNEL | __GFP_NOFAIL);
	struct folio *folio;

	raw_hwp->page = t->page + index;
	folio = guestmem_get_folio(raw_hwp->page, raw_hwp);
	if (IS_ERR_OR_NULL(folio)) {
		kfree(raw_hwp);
		return;
	}

	folio_lock(folio);
	if (guestmem_poison_page(folio, raw_hwp)) {
		kfree(raw_hwp);
	} else {
		t->pages[index].poisoned = true;
		WRITE_ONCE(t->nr_poisoned, t->nr_poisoned + 1);
	}
	folio_unlock(folio);
	folio_put(folio);
}

static int poisoner(void *data)
{
	struct reshape_test *t = data;
	u32 mask = (1U << t->unit_order) - 1;

	while (!kthread_should_stop()) {
		if (t->nr_poisoned < NR_FAILURES)
			poison_page(t, get_random_u32() & mask);
		/* For what takes microseconds and for what takes milliseconds. */
		fsleep(1UL << (get_random_u32() % 17));
	}

	return 0;
}

/* A page is split off, which others may be in the way of, and merged. */
static bool flip_page(struct kunit *test, pgoff_t index)
{
	struct reshape_test *t = test->priv;
	struct guestmem_reshape reshape;
	pgoff_t err_index;
	int r;

	filemap_invalidate_lock(t->mapping);
	r = guestmem_reshape_prepare(&reshape, t->mapping, index, index + 1, &err_index);
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
	struct reshape_test *t = test->priv;
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

/* The huge page is gone, and so are the poisoned pages.  All others are of use. */
static void check_lost(struct kunit *test, unsigned long nr_huge_pages)
{
	struct reshape_test *t = test->priv;
	unsigned long timeout = jiffies + 5 * HZ;
	pgoff_t i;

	while (t->h->nr_huge_pages == nr_huge_pages && time_before(jiffies, timeout))
		msleep(20);

	KUNIT_ASSERT_EQ(test, t->h->nr_huge_pages, nr_huge_pages - 1);
	KUNIT_ASSERT_EQ(test, t->h->max_huge_pages,
			t->h->nr_huge_pages - t->h->surplus_huge_pages);
	t->nr_lost = 1;
	msleep(200);

	for (i = 0; i < 1UL << t->unit_order; i++) {
		KUNIT_ASSERT_EQ_MSG(test, PageHWPoison(t->page + i), t->pages[i].poisoned,
				    "page %lu", i);
		if (t->pages[i].poisoned)
			KUNIT_ASSERT_EQ(test, page_count(t->page + i), 1);
		t->pages[i].poisoned = false;
	}
}

/* Memory fails meanwhile: no failure is lost, and the rest is split and merged around it. */
static void test_poison(struct kunit *test)
{
	struct reshape_test *t = test->priv;
	pgoff_t nr = 1UL << t->unit_order, i, err_index;
	unsigned long nr_huge_pages, timeout;
	struct folio *folio;
	int nr_flips = 0;

	if (!IS_ENABLED(CONFIG_MEMORY_FAILURE))
		kunit_skip(test, "needs MEMORY_FAILURE");

	get_unit(test, 0);
	folio = filemap_get_folio(t->mapping, 0);
	t->page = &folio->page;
	folio_put(folio);

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
		KUNIT_ASSERT_EQ(test, guestmem_isolate_poison(t->mapping, i, &err_index),
				t->pages[i].poisoned ? -EHWPOISON : 0);
	KUNIT_ASSERT_TRUE(test, guestmem_reshape_merge(t->gh, t->mapping, 0, nr, 0, nr));
	filemap_invalidate_unlock(t->mapping);
	reset_orders(t, 0);
	check_layout(test, "isolated");

	for (i = 0; i < 20; i++) {
		pgoff_t start = prandom_u32_state(&t->rnd) % nr;

		convert(test, start, start + 1 + prandom_u32_state(&t->rnd) % (nr - start),
			i % 2);
		check_layout(test, "converted");
	}
	check_poison(test);

	nr_huge_pages = t->h->nr_huge_pages;
	remove_unit(test, 0);
	check_lost(test, nr_huge_pages);
}

static void test_size_desc(const struct test_size *size, char *desc)
{
	strscpy(desc, size->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(test_size, test_sizes, test_size_desc);

static int test_init_fs_context(struct fs_context *fc)
{
	return init_pseudo(fc, TEST_MAGIC) ? 0 : -ENOMEM;
}

static struct file_system_type test_fs = {
	.name = "guestmem_kunit",
	.init_fs_context = test_init_fs_context,
	.kill_sb = kill_anon_super,
};

static const struct address_space_operations test_aops = {
	.dirty_folio = noop_dirty_folio,
};

static int reshape_test_init(struct kunit *test)
{
	struct reshape_test *t;
	u64 test_seed;
	pgoff_t i;

	t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, t);
	test->priv = t;
	current_test = t;

	t->size = test->param_value;
	t->h = size_to_hstate(1UL << t->size->shift);
	if (!t->h || t->h->free_huge_pages - t->h->resv_huge_pages < t->size->nr_units)
		kunit_skip(test, "needs %d free pages", t->size->nr_units);

	t->nr_free = t->h->free_huge_pages;
	t->nr_resv = t->h->resv_huge_pages;
	t->unit_order = huge_page_order(t->h);
	t->nr_pages = (pgoff_t)t->size->nr_units << t->unit_order;
	t->pages = kvcalloc(t->nr_pages, sizeof(*t->pages), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, t->pages);
	for (i = 0; i < t->nr_pages; i++)
		t->pages[i].order = t->unit_order;

	test_seed = seed ?: get_random_u64();
	kunit_info(test, "guestmem_reshape_kunit.seed=0x%llx", test_seed);
	prandom_seed_state(&t->rnd, test_seed);

	t->mnt = kern_mount(&test_fs);
	KUNIT_ASSERT_FALSE(test, IS_ERR(t->mnt));
	t->inode = alloc_anon_inode(t->mnt->mnt_sb);
	KUNIT_ASSERT_FALSE(test, IS_ERR(t->inode));
	t->mapping = t->inode->i_mapping;
	t->mapping->a_ops = &test_aops;
	mapping_set_unevictable(t->mapping);
	mpol_shared_policy_init(&t->policy, NULL);

	t->gh = guestmem_hugetlb_create(t->nr_pages << PAGE_SHIFT, t->size->shift);
	KUNIT_ASSERT_FALSE(test, IS_ERR(t->gh));
	return 0;
}

static void reshape_test_exit(struct kunit *test)
{
	struct reshape_test *t = test->priv;
	bool locked = false;
	int i;

	if (!t)
		return;

	kvfree(t->pages);
	if (IS_ERR_OR_NULL(t->gh))
		goto out_inode;

	/* Those of a test that has failed. */
	for (i = 0; i < NR_READERS; i++) {
		if (!IS_ERR_OR_NULL(t->readers[i]))
			kthread_stop(t->readers[i]);
	}

	/*
	 * An assertion that failed has left it locked, and its thread is gone.  Readers of
	 * debugfs go on.
	 */
	for (i = 0; i < 100 && !locked; i++) {
		locked = down_write_trylock(&t->mapping->invalidate_lock);
		if (!locked)
			msleep(20);
	}
	guestmem_hugetlb_remove(t->gh, t->mapping, 0, ULONG_MAX);
	if (locked)
		filemap_invalidate_unlock(t->mapping);
	guestmem_hugetlb_sync(t->gh);
	guestmem_hugetlb_destroy(t->gh);

out_inode:
	if (!IS_ERR_OR_NULL(t->inode))
		iput(t->inode);
	if (IS_ERR_OR_NULL(t->mnt))
		return;
	kern_unmount(t->mnt);

	KUNIT_EXPECT_EQ(test, t->h->free_huge_pages, t->nr_free - t->nr_lost);
	KUNIT_EXPECT_EQ(test, t->h->resv_huge_pages, t->nr_resv);
}

static struct kunit_case reshape_test_cases[] = {
	KUNIT_CASE_PARAM(test_one_page, test_size_gen_params),
	KUNIT_CASE_PARAM(test_numbers, test_size_gen_params),
	KUNIT_CASE_PARAM(test_reference, test_size_gen_params),
	KUNIT_CASE_PARAM(test_late, test_size_gen_params),
	KUNIT_CASE_PARAM(test_random, test_size_gen_params),
	KUNIT_CASE_PARAM(test_readers, test_size_gen_params),
	KUNIT_CASE_PARAM(test_poison, test_size_gen_params),
	{}
};

static struct kunit_suite reshape_test_suite = {
	.name = "guestmem_reshape",
	.init = reshape_test_init,
	.exit = reshape_test_exit,
	.test_cases = reshape_test_cases,
};

kunit_test_suite(reshape_test_suite);

MODULE_DESCRIPTION("Test of splitting and merging guest memory");
MODULE_LICENSE("GPL");
