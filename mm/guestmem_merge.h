/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_GUESTMEM_MERGE_H
#define _MM_GUESTMEM_MERGE_H

#include <linux/types.h>

struct address_space;

bool guestmem_merge_unit(struct address_space *mapping, pgoff_t index,
			 unsigned int order);

#endif /* _MM_GUESTMEM_MERGE_H */
