/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_GUESTMEM_UNITS_H
#define _MM_GUESTMEM_UNITS_H

#include <linux/guestmem.h>

struct folio *guestmem_alloc_unit(struct guestmem_hugetlb *gh,
				  struct address_space *mapping, pgoff_t index,
				  struct shared_policy *policy,
				  guestmem_wanted_fn wanted);
void guestmem_unmap_pieces(struct guestmem_hugetlb *gh, struct address_space *mapping,
			   pgoff_t index);
void guestmem_remove_unit(struct guestmem_hugetlb *gh, struct address_space *mapping,
			  pgoff_t index, bool may_replace);

#endif /* _MM_GUESTMEM_UNITS_H */
