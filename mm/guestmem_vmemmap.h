/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_GUESTMEM_VMEMMAP_H
#define _MM_GUESTMEM_VMEMMAP_H

#include <linux/list.h>

#include "guestmem_pages.h"

#ifdef CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP
struct page *guestmem_vmemmap_page(struct page *page);
int guestmem_vmemmap_prepare(struct list_head *own, struct page *page,
			     const struct guestmem_pieces *p);
void guestmem_vmemmap_release(struct list_head *own);
void guestmem_vmemmap_break(struct list_head *own, struct page *page,
			    const struct guestmem_pieces *p);
void guestmem_vmemmap_join(struct page *page, unsigned int order, bool optimized);
#else
static inline int guestmem_vmemmap_prepare(struct list_head *own, struct page *page,
					   const struct guestmem_pieces *p)
{
	return 0;
}

static inline void guestmem_vmemmap_release(struct list_head *own)
{
}

static inline void guestmem_vmemmap_break(struct list_head *own, struct page *page,
					  const struct guestmem_pieces *p)
{
	guestmem_break_pages(page, p);
}

static inline void guestmem_vmemmap_join(struct page *page, unsigned int order,
					 bool optimized)
{
	guestmem_join_pages(page, order, false);
}
#endif /* CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP */

#endif /* _MM_GUESTMEM_VMEMMAP_H */
