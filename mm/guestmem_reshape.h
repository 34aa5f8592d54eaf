/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_GUESTMEM_RESHAPE_H
#define _MM_GUESTMEM_RESHAPE_H

#include <linux/guestmem.h>

int guestmem_add_split(struct guestmem_hugetlb *gh, struct address_space *mapping,
		       struct folio *folio, pgoff_t index, guestmem_wanted_fn wanted);

#endif /* _MM_GUESTMEM_RESHAPE_H */
