/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_GUESTMEM_POISON_H
#define _MM_GUESTMEM_POISON_H

struct folio;
struct page;

struct page *guestmem_folio_poison(struct folio *folio);

#endif /* _MM_GUESTMEM_POISON_H */
