/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_GUESTMEM_MERGE_H
#define _MM_GUESTMEM_MERGE_H

#include <linux/types.h>

struct address_space;
struct guestmem_hugetlb;

bool guestmem_merge_unit(struct guestmem_hugetlb *gh, struct address_space *mapping,
			 pgoff_t index);

#endif /* _MM_GUESTMEM_MERGE_H */
