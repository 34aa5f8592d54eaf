/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __KVM_GUEST_MEMFD_STATE_H__
#define __KVM_GUEST_MEMFD_STATE_H__

#include <linux/bitops.h>
#include <linux/fs.h>
#include <linux/kvm.h>
#include <linux/pagemap.h>
#include <linux/rcupdate.h>
#include <linux/xarray.h>

#include "guest_memfd.h"

/* With 4K pages, a chunk has the bits of 16 MiB.  A mixed chunk takes 1 KiB. */
#define GMEM_CHUNK_SHIFT	12
#define GMEM_CHUNK_PAGES	BIT(GMEM_CHUNK_SHIFT)

/* Changed with invalidate_lock held for write.  Bits are also read under RCU. */
struct gmem_chunk {
	struct rcu_head rcu;
	/* The number of bits that are set, i.e. of pages that are converted. */
	unsigned long nr_converted;
	unsigned long converted[BITS_TO_LONGS(GMEM_CHUNK_PAGES)];
};

/* Entries that stand for all pages of a chunk, or of several chunks. */
#define GMEM_RESERVED		xa_mk_value(0)
#define GMEM_ALL_CONVERTED	xa_mk_value(1)

static inline bool kvm_gmem_starts_private(struct inode *inode)
{
	return !(GMEM_I(inode)->flags & GUEST_MEMFD_FLAG_INIT_SHARED);
}

static inline pgoff_t kvm_gmem_nr_pages(struct inode *inode)
{
	return i_size_read(inode) >> PAGE_SHIFT;
}

/* Returns the number of chunks that an entry of @order stands for. */
static inline unsigned long kvm_gmem_entry_size(unsigned int order)
{
	return 1UL << order;
}

/* Returns the first chunk after those that share the entry of chunk @nr. */
static inline unsigned long kvm_gmem_entry_end(struct xarray *xa, unsigned long nr)
{
	unsigned long size = kvm_gmem_entry_size(xa_get_order(xa, nr));

	return round_down(nr, size) + size;
}

pgoff_t kvm_gmem_find_in_chunk(struct gmem_chunk *chunk, pgoff_t index, pgoff_t end,
			       bool converted);

#endif /* __KVM_GUEST_MEMFD_STATE_H__ */
