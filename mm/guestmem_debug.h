/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_GUESTMEM_DEBUG_H
#define _MM_GUESTMEM_DEBUG_H

struct address_space;

unsigned long guestmem_check_mapping(struct address_space *mapping);

#endif /* _MM_GUESTMEM_DEBUG_H */
