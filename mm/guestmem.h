/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_GUESTMEM_H
#define _MM_GUESTMEM_H

/*
 * Guest memory made of hugetlb pages: the interface that the rest of mm uses.
 * include/linux/guestmem.h is the interface for KVM.
 */

#include <linux/err.h>
#include <linux/page-flags.h>
#include <linux/types.h>

struct folio;
struct hstate;
struct hugetlb_cgroup;
struct page;
struct raw_hwp_page;

#ifdef CONFIG_GUESTMEM_HUGETLB
void guestmem_move_cgroup(struct hstate *h, struct hugetlb_cgroup *h_cg);
bool guestmem_is_unit(struct page *page);
int guestmem_test_set_hwpoison(struct page *page);
struct folio *guestmem_get_folio(struct page *page, struct raw_hwp_page *raw_hwp);
int guestmem_poison_page(struct folio *folio, struct raw_hwp_page *raw_hwp);
void guestmem_free_folio(struct folio *folio);
#else
static inline void guestmem_move_cgroup(struct hstate *h, struct hugetlb_cgroup *h_cg)
{
}

static inline bool guestmem_is_unit(struct page *page)
{
	return false;
}

#ifdef CONFIG_MEMORY_FAILURE
static inline int guestmem_test_set_hwpoison(struct page *page)
{
	return TestSetPageHWPoison(page);
}

static inline struct folio *guestmem_get_folio(struct page *page,
					       struct raw_hwp_page *raw_hwp)
{
	return ERR_PTR(-ENOENT);
}

static inline int guestmem_poison_page(struct folio *folio,
				       struct raw_hwp_page *raw_hwp)
{
	return -ENOENT;
}
#endif

static inline void guestmem_free_folio(struct folio *folio)
{
}
#endif /* CONFIG_GUESTMEM_HUGETLB */

#endif /* _MM_GUESTMEM_H */
