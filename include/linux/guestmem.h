/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_GUESTMEM_H
#define _LINUX_GUESTMEM_H

/*
 * Guest memory made of hugetlb pages: the interface that mm has for guest_memfd.
 *
 * The interface deals in files (address_space), page cache indices, which count
 * pages of PAGE_SIZE, and folios.  mm doesn't know what a page is used for, e.g.
 * whether it is private to the guest.  KVM doesn't know where a huge page comes
 * from, which cgroups are charged for it, and how it returns to the pool.
 *
 * See mm/guestmem_hugetlb.c for words, rules and the lock order.
 */

#include <linux/err.h>
#include <linux/page-flags.h>
#include <linux/types.h>
#include <linux/xarray.h>

struct address_space;
struct folio;
struct guestmem_hugetlb;
struct guestmem_origin;
struct shared_policy;

/**
 * typedef guestmem_wanted_fn - tell how large the folio at an index may be
 * @mapping: the file
 * @index: the index of any page of the file
 *
 * Return: the order of the largest naturally aligned block of pages that contains
 *	@index and may be one folio.  The order doesn't change as long as the caller
 *	that passes a guestmem_wanted_fn to another function holds invalidate_lock.
 */
typedef unsigned int (*guestmem_wanted_fn)(struct address_space *mapping,
					   pgoff_t index);

/**
 * struct guestmem_counts - what has happened to the units of a file
 * @splits: number of folios that were split
 * @merges: number of blocks that became one folio, parts of larger ones included
 * @split_units: by how many units more than before are split
 */
struct guestmem_counts {
	long splits;
	long merges;
	long split_units;
};

/**
 * struct guestmem_split - a folio that is about to be split, see struct guestmem_reshape
 */
struct guestmem_split {
	/* private: for mm/guestmem_reshape.c, which says what the fields mean */
	struct folio *folio;
	struct guestmem_origin *origin;
	pgoff_t cuts[2];
	struct list_head own;
	struct xa_state nodes;
};

/**
 * struct guestmem_reshape - folios that are about to be split
 *
 * The caller of guestmem_reshape_prepare() provides the struct, e.g. on its stack, until
 * it has called either guestmem_reshape_commit() or guestmem_reshape_abort().
 */
struct guestmem_reshape {
	/* private: for mm/guestmem_reshape.c, which says what the fields mean */
	struct guestmem_hugetlb *gh;
	struct address_space *mapping;
	struct guestmem_split splits[2];
	int nr_splits;
};

#ifdef CONFIG_GUESTMEM_HUGETLB
struct guestmem_hugetlb *guestmem_hugetlb_create(loff_t size, unsigned int size_log2);
void guestmem_hugetlb_destroy(struct guestmem_hugetlb *gh);
unsigned int guestmem_hugetlb_order(const struct guestmem_hugetlb *gh);
unsigned int guestmem_hugetlb_block_order(const struct guestmem_hugetlb *gh,
					  pgoff_t index, pgoff_t start, pgoff_t end);

struct folio *guestmem_hugetlb_get_folio(struct guestmem_hugetlb *gh,
					 struct address_space *mapping,
					 pgoff_t index,
					 struct shared_policy *policy,
					 guestmem_wanted_fn wanted);
void guestmem_hugetlb_zero_folio(struct folio *folio, pgoff_t first,
				 unsigned long nr_pages);
void guestmem_hugetlb_unmap(struct guestmem_hugetlb *gh, struct address_space *mapping,
			    pgoff_t start, pgoff_t end);
void guestmem_hugetlb_remove(struct guestmem_hugetlb *gh,
			     struct address_space *mapping,
			     pgoff_t start, pgoff_t end);
void guestmem_hugetlb_sync(struct guestmem_hugetlb *gh);
bool guestmem_hugetlb_take_counts(struct guestmem_hugetlb *gh,
				  struct guestmem_counts *counts);
bool guestmem_page_is_poisoned(struct folio *folio, pgoff_t index);
pgoff_t guestmem_next_poison(struct folio *folio, pgoff_t index);
int guestmem_isolate_poison(struct guestmem_hugetlb *gh, struct address_space *mapping,
			    pgoff_t index, pgoff_t *err_index);

int guestmem_reshape_prepare(struct guestmem_reshape *r, struct guestmem_hugetlb *gh,
			     struct address_space *mapping, pgoff_t start, pgoff_t end,
			     pgoff_t *err_index);
int guestmem_reshape_prepare_block(struct guestmem_reshape *r, struct guestmem_hugetlb *gh,
				   struct address_space *mapping, pgoff_t index,
				   unsigned int order, pgoff_t *err_index);
unsigned int guestmem_reshape_max_order(const struct guestmem_reshape *r);
void guestmem_reshape_abort(struct guestmem_reshape *r);
void guestmem_reshape_commit(struct guestmem_reshape *r);
bool guestmem_reshape_merge(struct guestmem_hugetlb *gh, struct address_space *mapping,
			    pgoff_t start, pgoff_t end, pgoff_t lo, pgoff_t hi);
#else
static inline struct guestmem_hugetlb *guestmem_hugetlb_create(loff_t size,
							       unsigned int size_log2)
{
	return ERR_PTR(-EINVAL);
}

static inline void guestmem_hugetlb_destroy(struct guestmem_hugetlb *gh)
{
}

static inline unsigned int guestmem_hugetlb_order(const struct guestmem_hugetlb *gh)
{
	return 0;
}

static inline unsigned int
guestmem_hugetlb_block_order(const struct guestmem_hugetlb *gh, pgoff_t index,
			     pgoff_t start, pgoff_t end)
{
	return 0;
}

static inline struct folio *guestmem_hugetlb_get_folio(struct guestmem_hugetlb *gh,
						       struct address_space *mapping,
						       pgoff_t index,
						       struct shared_policy *policy,
						       guestmem_wanted_fn wanted)
{
	return ERR_PTR(-ENOSPC);
}

static inline void guestmem_hugetlb_zero_folio(struct folio *folio, pgoff_t first,
					       unsigned long nr_pages)
{
}

static inline void guestmem_hugetlb_unmap(struct guestmem_hugetlb *gh,
					  struct address_space *mapping,
					  pgoff_t start, pgoff_t end)
{
}

static inline void guestmem_hugetlb_remove(struct guestmem_hugetlb *gh,
					   struct address_space *mapping,
					   pgoff_t start, pgoff_t end)
{
}

static inline void guestmem_hugetlb_sync(struct guestmem_hugetlb *gh)
{
}

static inline bool guestmem_hugetlb_take_counts(struct guestmem_hugetlb *gh,
						struct guestmem_counts *counts)
{
	return false;
}

static inline bool guestmem_page_is_poisoned(struct folio *folio, pgoff_t index)
{
	return folio_test_hwpoison(folio);
}

static inline pgoff_t guestmem_next_poison(struct folio *folio, pgoff_t index)
{
	return index == folio->index && folio_test_hwpoison(folio) ? index : ULONG_MAX;
}

static inline int guestmem_isolate_poison(struct guestmem_hugetlb *gh,
					  struct address_space *mapping,
					  pgoff_t index, pgoff_t *err_index)
{
	return 0;
}

static inline int guestmem_reshape_prepare(struct guestmem_reshape *r,
					   struct guestmem_hugetlb *gh,
					   struct address_space *mapping,
					   pgoff_t start, pgoff_t end,
					   pgoff_t *err_index)
{
	return 0;
}

static inline int guestmem_reshape_prepare_block(struct guestmem_reshape *r,
						 struct guestmem_hugetlb *gh,
						 struct address_space *mapping,
						 pgoff_t index, unsigned int order,
						 pgoff_t *err_index)
{
	return 0;
}

static inline unsigned int guestmem_reshape_max_order(const struct guestmem_reshape *r)
{
	return 0;
}

static inline void guestmem_reshape_abort(struct guestmem_reshape *r)
{
}

static inline void guestmem_reshape_commit(struct guestmem_reshape *r)
{
}

static inline bool guestmem_reshape_merge(struct guestmem_hugetlb *gh,
					  struct address_space *mapping,
					  pgoff_t start, pgoff_t end,
					  pgoff_t lo, pgoff_t hi)
{
	return true;
}
#endif /* CONFIG_GUESTMEM_HUGETLB */

#endif /* _LINUX_GUESTMEM_H */
