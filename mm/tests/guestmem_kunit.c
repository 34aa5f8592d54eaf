// SPDX-License-Identifier: GPL-2.0
/*
 * Code that the tests of guest memory share: a file whose units they split and merge, and
 * a model of the file that has one entry per page.
 */
#include <kunit/test.h>
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/guestmem.h>
#include <linux/hugetlb.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/pseudo_fs.h>
#include <linux/random.h>
#include <linux/vmalloc.h>

#include "../guestmem_debug.h"
#include "../internal.h"
#include "guestmem_kunit.h"

#define TEST_MAGIC	0x67756573

static unsigned long long seed;
module_param(seed, ullong, 0444);
MODULE_PARM_DESC(seed, "of the random numbers, 0 to make one up");

const struct test_size guestmem_test_sizes[] = {
	{ "2M", 21, MAX_UNITS, 400 },
	{ "1G", 30, 1, 150 },
};

void guestmem_test_size_desc(const struct test_size *size, char *desc)
{
	strscpy(desc, size->name, KUNIT_PARAM_DESC_SIZE);
}

/* The running test, as guestmem_wanted_fn doesn't have an argument for it. */
static struct guestmem_test *current_test;

/* Get the order of the largest aligned block without poison whose pages are like @index. */
static unsigned int model_uniform_order(struct guestmem_test *t, pgoff_t index)
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

/* Update orders: private folios are as large as may be, shared ones only become smaller. */
static void model_update(struct guestmem_test *t)
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

/* Compute a unit's orders anew: the folios that the unit had before are no limit. */
void guestmem_test_reset_orders(struct guestmem_test *t, int unit)
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

/* Count the nodes of the page cache that only parts of units need. */
static unsigned long count_nodes(struct guestmem_test *t, const void *entry)
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

/* Count the model's nodes: a block of a node's size has one if it has smaller folios. */
unsigned long guestmem_test_nr_nodes(struct guestmem_test *t)
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

void guestmem_test_check(struct kunit *test, const char *what)
{
	struct guestmem_test *t = test->priv;
	unsigned long nr_bad, nr_nodes;
	struct guestmem_counts counts;
	long nr_split_units = 0;
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
		if (!(index & ((1UL << t->unit_order) - 1)))
			nr_split_units += !folio_test_hugetlb(folio);
		KUNIT_ASSERT_EQ(test, folio->index, index);
		KUNIT_ASSERT_EQ(test, folio_ref_count(folio), nr + 1);
		KUNIT_ASSERT_EQ(test, folio_test_hugetlb(folio),
				t->pages[index].order == t->unit_order &&
				!t->one_piece[index >> t->unit_order]);
		for (i = 0; i < nr; i++)
			KUNIT_ASSERT_EQ(test, t->pages[index + i].order,
					t->pages[index].order);
		folio_put(folio);
		cond_resched();
	}

	if (guestmem_hugetlb_take_counts(t->gh, &counts))
		t->nr_split_units += counts.split_units;
	KUNIT_ASSERT_EQ_MSG(test, t->nr_split_units, nr_split_units, "%s", what);

	nr_bad = guestmem_check_mapping(t->mapping);
	KUNIT_ASSERT_EQ_MSG(test, nr_bad, 0, "%s", what);

	/* No lock is needed, as only the test changes the page cache. */
	nr_nodes = count_nodes(t, rcu_dereference_protected(t->mapping->i_pages.xa_head,
							    true));
	KUNIT_ASSERT_EQ_MSG(test, nr_nodes, guestmem_test_nr_nodes(t), "%s", what);
}

void guestmem_test_get_unit(struct kunit *test, int unit)
{
	struct guestmem_test *t = test->priv;
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
	guestmem_test_reset_orders(t, unit);
}

void guestmem_test_remove_unit(struct kunit *test, int unit)
{
	struct guestmem_test *t = test->priv;
	pgoff_t start = (pgoff_t)unit << t->unit_order;

	filemap_invalidate_lock(t->mapping);
	guestmem_hugetlb_remove(t->gh, t->mapping, start, start + (1UL << t->unit_order));
	filemap_invalidate_unlock(t->mapping);
	guestmem_hugetlb_sync(t->gh);

	t->present[unit] = false;
	guestmem_test_reset_orders(t, unit);
}

void guestmem_test_split(struct kunit *test, pgoff_t start, pgoff_t end)
{
	struct guestmem_test *t = test->priv;
	struct guestmem_reshape reshape;
	pgoff_t index;

	KUNIT_ASSERT_EQ(test, 0, guestmem_reshape_prepare(&reshape, t->gh, t->mapping, start,
							  end, &index));
	/* Abort the split now and then. */
	if (!(prandom_u32_state(&t->rnd) % 4)) {
		guestmem_reshape_abort(&reshape);
		guestmem_test_check(test, "abort");
		KUNIT_ASSERT_EQ(test, 0, guestmem_reshape_prepare(&reshape, t->gh, t->mapping,
								  start, end, &index));
	}
	guestmem_reshape_commit(&reshape);
}

void guestmem_test_convert(struct kunit *test, pgoff_t start, pgoff_t end, bool shared)
{
	struct guestmem_test *t = test->priv;
	pgoff_t i, lo, hi;

	filemap_invalidate_lock(t->mapping);

	/* As in KVM, skip pages at either end that don't change. */
	while (start < end && t->pages[start].shared == shared)
		start++;
	while (start < end && t->pages[end - 1].shared == shared)
		end--;
	if (start == end)
		goto out_unlock;

	guestmem_test_split(test, start, end);

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

int guestmem_test_init(struct kunit *test)
{
	struct guestmem_test *t;
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
	kunit_info(test, "guestmem_kunit.seed=0x%llx", test_seed);
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

/*
 * Take invalidate_lock.  A failed assertion may have left the lock held, and its thread is
 * gone: make the lock anew then.
 */
static void test_take_lock(struct kunit *test, struct address_space *mapping)
{
	int i;

	for (i = 0; i < 100 && test->status == KUNIT_FAILURE; i++) {
		if (down_write_trylock(&mapping->invalidate_lock))
			return;
		msleep(20);
	}

	if (test->status == KUNIT_FAILURE)
		init_rwsem(&mapping->invalidate_lock);
	filemap_invalidate_lock(mapping);
}

void guestmem_test_exit(struct kunit *test)
{
	struct guestmem_test *t = test->priv;
	int i;

	if (!t)
		return;

	if (IS_ERR_OR_NULL(t->gh))
		goto out_inode;

	/* A test that has failed leaves its threads behind. */
	for (i = 0; i < NR_READERS; i++) {
		if (!IS_ERR_OR_NULL(t->readers[i]))
			kthread_stop(t->readers[i]);
	}

	test_take_lock(test, t->mapping);
	guestmem_hugetlb_remove(t->gh, t->mapping, 0, ULONG_MAX);
	filemap_invalidate_unlock(t->mapping);
	guestmem_hugetlb_sync(t->gh);
	guestmem_hugetlb_destroy(t->gh);

out_inode:
	kvfree(t->pages);
	if (!IS_ERR_OR_NULL(t->inode))
		iput(t->inode);
	if (IS_ERR_OR_NULL(t->mnt))
		return;
	kern_unmount(t->mnt);

	KUNIT_EXPECT_EQ(test, t->h->free_huge_pages, t->nr_free - t->nr_lost);
	KUNIT_EXPECT_EQ(test, t->h->resv_huge_pages, t->nr_resv);
}
