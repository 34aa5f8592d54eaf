/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_GUESTMEM_CACHE_H
#define _MM_GUESTMEM_CACHE_H

#include "guestmem_pages.h"

struct address_space;
struct folio;
struct page;
struct xa_state;

int guestmem_alloc_nodes(struct xa_state *nodes, struct page *page,
			 const struct guestmem_pieces *p);
void guestmem_free_nodes(struct xa_state *nodes);
bool guestmem_try_detach(struct folio *folio);
bool guestmem_try_detach_block(struct page *page, unsigned int order,
			       unsigned int max_folios);
void guestmem_attach(struct folio *folio, struct address_space *mapping, int nr_refs);
void guestmem_attach_cuts(struct page *page, const struct guestmem_pieces *p,
			  struct xa_state *nodes);
void guestmem_attach_pieces(struct page *page, const struct guestmem_pieces *p);

int guestmem_add_whole(struct folio *folio, struct address_space *mapping, pgoff_t index);
int guestmem_split_placeholder(const struct guestmem_pieces *p);
int guestmem_add_placeholders(const struct guestmem_pieces *p);
void guestmem_add_pieces(struct page *page, const struct guestmem_pieces *p);
void guestmem_remove_whole(struct folio *folio);
void guestmem_remove_piece(struct folio *folio);

#endif /* _MM_GUESTMEM_CACHE_H */
