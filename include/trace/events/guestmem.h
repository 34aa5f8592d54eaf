/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM guestmem

#if !defined(_TRACE_GUESTMEM_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_GUESTMEM_H

#include <linux/fs.h>
#include <linux/tracepoint.h>

/*
 * Events of units, i.e. huge pages of guest memory, see mm/guestmem_hugetlb.c.
 *
 * @mapping:	The file, or NULL if the unit isn't part of one anymore
 * @unit:	The unit's first pfn, or 0 if there is no unit
 * @index:	Index of the first page that the event is about, in the file, or in the
 *		unit if there is no file
 * @order:	Log2 of the number of pages that it is about
 * @ret:	0 or an error
 */
DECLARE_EVENT_CLASS(guestmem_pages,
		    TP_PROTO(struct address_space *mapping, unsigned long unit,
			     pgoff_t index, unsigned int order, int ret),
		    TP_ARGS(mapping, unit, index, order, ret),

		    TP_STRUCT__entry(__field(u64, ino)
				     __field(unsigned long, unit)
				     __field(pgoff_t, index)
				     __field(unsigned int, order)
				     __field(int, ret)
		    ),

		    TP_fast_assign(__entry->ino = mapping ? mapping->host->i_ino : 0;
				   __entry->unit = unit;
				   __entry->index = index;
				   __entry->order = order;
				   __entry->ret = ret;
		    ),

		    TP_printk("ino %llu unit 0x%lx index 0x%lx order %u ret %d",
			      __entry->ino, __entry->unit, __entry->index, __entry->order,
			      __entry->ret)
);

/*
 * A unit enters its file, zeroed, or can't be allocated.  If pages of it are to be shared, then it
 * enters in pieces, without a guestmem_split.
 */
DEFINE_EVENT(guestmem_pages, guestmem_alloc,
	     TP_PROTO(struct address_space *mapping, unsigned long unit, pgoff_t index,
		      unsigned int order, int ret),
	     TP_ARGS(mapping, unit, index, order, ret)
);

/* A unit leaves its file.  -EBUSY: in pieces, to come back when nothing uses them. */
DEFINE_EVENT(guestmem_pages, guestmem_remove,
	     TP_PROTO(struct address_space *mapping, unsigned long unit, pgoff_t index,
		      unsigned int order, int ret),
	     TP_ARGS(mapping, unit, index, order, ret)
);

/* All pieces of a unit that left its file are back.  -EHWPOISON: the pool loses it. */
DEFINE_EVENT(guestmem_pages, guestmem_late,
	     TP_PROTO(struct address_space *mapping, unsigned long unit, pgoff_t index,
		      unsigned int order, int ret),
	     TP_ARGS(mapping, unit, index, order, ret)
);

/* A block becomes one folio.  -EBUSY: not now, most of the time because a folio is in use. */
DEFINE_EVENT(guestmem_pages, guestmem_merge,
	     TP_PROTO(struct address_space *mapping, unsigned long unit, pgoff_t index,
		      unsigned int order, int ret),
	     TP_ARGS(mapping, unit, index, order, ret)
);

/*
 * A block is about to be a folio of its own, as user space maps it, or because it is a page
 * that has failed.  A split follows, unless the folio is in use.
 */
DEFINE_EVENT(guestmem_pages, guestmem_isolate,
	     TP_PROTO(struct address_space *mapping, unsigned long unit, pgoff_t index,
		      unsigned int order, int ret),
	     TP_ARGS(mapping, unit, index, order, ret)
);

#ifdef CONFIG_MEMORY_FAILURE
/* A page has failed.  -EHWPOISON: that was known. */
DEFINE_EVENT(guestmem_pages, guestmem_poison,
	     TP_PROTO(struct address_space *mapping, unsigned long unit, pgoff_t index,
		      unsigned int order, int ret),
	     TP_ARGS(mapping, unit, index, order, ret)
);
#endif

/*
 * A folio is split, or can't be split.
 *
 * @first:	Index where a folio has to start, see DOC: Reshape
 * @last:	Another one, or the same
 */
TRACE_EVENT(guestmem_split,
	    TP_PROTO(struct address_space *mapping, unsigned long unit, pgoff_t index,
		     unsigned int order, pgoff_t first, pgoff_t last, int ret),
	    TP_ARGS(mapping, unit, index, order, first, last, ret),

	    TP_STRUCT__entry(__field(u64, ino)
			     __field(unsigned long, unit)
			     __field(pgoff_t, index)
			     __field(pgoff_t, first)
			     __field(pgoff_t, last)
			     __field(unsigned int, order)
			     __field(int, ret)
	    ),

	    TP_fast_assign(__entry->ino = mapping->host->i_ino;
			   __entry->unit = unit;
			   __entry->index = index;
			   __entry->order = order;
			   __entry->first = first;
			   __entry->last = last;
			   __entry->ret = ret;
	    ),

	    TP_printk("ino %llu unit 0x%lx index 0x%lx order %u at 0x%lx, 0x%lx ret %d",
		      __entry->ino, __entry->unit, __entry->index, __entry->order,
		      __entry->first, __entry->last, __entry->ret)
);

#endif /* _TRACE_GUESTMEM_H */

#include <trace/define_trace.h>
