/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_GUESTMEM_CACHE_H
#define _MM_GUESTMEM_CACHE_H

#include <linux/mmzone.h>
#include <linux/xarray.h>

#include "guestmem_pages.h"

struct address_space;
struct folio;

/* Two cuts, and the xarray's levels below a hugetlb page of any architecture. */
#define GUESTMEM_MAX_STAGES	(GUESTMEM_NR_CUTS * \
				 DIV_ROUND_UP(MAX_FOLIO_ORDER, XA_CHUNK_SHIFT))

/**
 * struct guestmem_nodes - what it takes to make room for pieces in the page cache
 * @stages: the entries to split
 * @xas: the nodes for each stage
 * @nr_stages: number of stages that have their nodes
 */
struct guestmem_nodes {
	struct guestmem_stage stages[GUESTMEM_MAX_STAGES];
	struct xa_state xas[GUESTMEM_MAX_STAGES];
	unsigned int nr_stages;
};

int guestmem_alloc_nodes(struct guestmem_nodes *nodes, const struct guestmem_pieces *p);
void guestmem_free_nodes(struct guestmem_nodes *nodes);
bool guestmem_try_detach(struct folio *folio, struct guestmem_nodes *nodes);
bool guestmem_try_detach_block(struct address_space *mapping, pgoff_t index,
			       unsigned int order, unsigned int max_folios);
void guestmem_attach(struct folio *folio, struct address_space *mapping, int nr_refs);
void guestmem_attach_pieces(struct page *page, const struct guestmem_pieces *p);

int guestmem_add_whole(struct folio *folio, struct address_space *mapping, pgoff_t index);
int guestmem_split_placeholder(const struct guestmem_pieces *p);
int guestmem_add_placeholders(const struct guestmem_pieces *p);
void guestmem_add_pieces(struct page *page, const struct guestmem_pieces *p);
void guestmem_remove_whole(struct folio *folio);
void guestmem_remove_piece(struct folio *folio);

#endif /* _MM_GUESTMEM_CACHE_H */
