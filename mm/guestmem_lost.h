/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_GUESTMEM_LOST_H
#define _MM_GUESTMEM_LOST_H

struct folio;

#ifdef CONFIG_MEMORY_FAILURE
void guestmem_lose_folio(struct folio *folio);
#else
static inline void guestmem_lose_folio(struct folio *folio)
{
}
#endif

#endif /* _MM_GUESTMEM_LOST_H */
