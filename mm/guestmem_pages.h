/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_GUESTMEM_PAGES_H
#define _MM_GUESTMEM_PAGES_H

#include <linux/guestmem.h>
#include <linux/mm_types.h>

#include "guestmem_layout.h"

/**
 * struct guestmem_pieces - the layout of a folio that becomes pieces
 * @mapping: the file, or NULL if the folio leaves the pool
 * @wanted: tells how large each piece may be, or NULL if @cuts says where to cut
 * @cuts: the folio, and where to cut it unless @wanted tells
 * @optimized: the folio is part of a unit with an optimized vmemmap, see guestmem_vmemmap.c
 */
struct guestmem_pieces {
	struct address_space *mapping;
	guestmem_wanted_fn wanted;
	struct guestmem_cuts cuts;
	bool optimized;
};

/* The number of struct pages in a page of the vmemmap. */
#define GUESTMEM_VMEMMAP_PAGES	(PAGE_SIZE / sizeof(struct page))

/* For comparison only: split a folio into single pages, and merge nothing but whole units. */
#ifdef CONFIG_DEBUG_GUESTMEM
extern bool guestmem_uniform;
#else
#define guestmem_uniform	false
#endif

unsigned int guestmem_piece_order(const struct guestmem_pieces *p, pgoff_t index);
void guestmem_break_pages(struct page *page, const struct guestmem_pieces *p);
void guestmem_join_pages(struct page *page, unsigned int order, bool optimized);

#endif /* _MM_GUESTMEM_PAGES_H */
