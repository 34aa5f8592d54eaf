/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_GUESTMEM_H
#define _LINUX_GUESTMEM_H

/*
 * Guest memory that consists of hugetlb pages: what mm does for guest_memfd.
 *
 * The interface deals in files (address_space), page cache indices in units of
 * PAGE_SIZE, and folios.  What mm doesn't know is what a page is used for, e.g.
 * whether it is private to the guest.  What KVM doesn't know is where a huge
 * page comes from, who pays for it, and how it gets back to the pool.
 *
 * See mm/guestmem_hugetlb.c for words, rules and the lock order.
 */

#include <linux/err.h>
#include <linux/types.h>

struct address_space;
struct folio;
struct guestmem_hugetlb;
struct shared_policy;

#ifdef CONFIG_GUESTMEM_HUGETLB
struct guestmem_hugetlb *guestmem_hugetlb_create(loff_t size, unsigned int size_log2);
void guestmem_hugetlb_destroy(struct guestmem_hugetlb *gh);
unsigned int guestmem_hugetlb_order(const struct guestmem_hugetlb *gh);

struct folio *guestmem_hugetlb_get_folio(struct guestmem_hugetlb *gh,
					 struct address_space *mapping,
					 pgoff_t index,
					 struct shared_policy *policy);
void guestmem_hugetlb_zero_folio(struct folio *folio, pgoff_t first,
				 unsigned long nr_pages);
void guestmem_hugetlb_remove(struct guestmem_hugetlb *gh,
			     struct address_space *mapping,
			     pgoff_t start, pgoff_t end);
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

static inline struct folio *guestmem_hugetlb_get_folio(struct guestmem_hugetlb *gh,
						       struct address_space *mapping,
						       pgoff_t index,
						       struct shared_policy *policy)
{
	return ERR_PTR(-ENOSPC);
}

static inline void guestmem_hugetlb_zero_folio(struct folio *folio, pgoff_t first,
					       unsigned long nr_pages)
{
}

static inline void guestmem_hugetlb_remove(struct guestmem_hugetlb *gh,
					   struct address_space *mapping,
					   pgoff_t start, pgoff_t end)
{
}
#endif /* CONFIG_GUESTMEM_HUGETLB */

#endif /* _LINUX_GUESTMEM_H */
