/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_GUESTMEM_TRIM_H
#define _MM_GUESTMEM_TRIM_H

struct folio;
struct hstate;

void guestmem_trim_later(struct hstate *h, struct folio *folio);

#endif /* _MM_GUESTMEM_TRIM_H */
