/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __KVM_GUEST_MEMFD_CONVERT_H__
#define __KVM_GUEST_MEMFD_CONVERT_H__

#include <linux/fs.h>
#include <linux/kvm_host.h>
#include <linux/types.h>

struct gmem_chunk;

/*
 * A range that is being converted.  Only the task that converts the range has access
 * to the struct.
 */
struct gmem_conversion {
	/* Constant. */
	struct inode *inode;
	bool to_private;
	/* The conversion may give up for its caller to drain per-CPU batches. */
	bool may_drain;

	/*
	 * The range.  Constant after kvm_gmem_trim_range(), which leaves pages out at
	 * both ends that already are as they should be.
	 */
	pgoff_t start;
	pgoff_t end;

	/* Valid with invalidate_lock held for write. */

	/*
	 * The range that is invalidated, i.e. faults must not map any of it meanwhile: the
	 * range in whole huge pages, or just the range if no large folio is split.
	 */
	pgoff_t inv_start;
	pgoff_t inv_end;
	/* All pages of the range have to change, i.e. no need to look at each of them. */
	bool all_change;
	/* The number of pages that have to change. */
	unsigned long nr_pages;
	/* The chunk with the bits of all of the range, or NULL if there is none. */
	struct gmem_chunk *chunk;
	/* The request that the conversion does, if a vCPU has asked for it. */
	struct kvm_gmem_request request;
	/* Number of extra tries because a vCPU may have a reference. */
	int vcpu_tries;

	/* Results, valid with or without a lock. */

	/* The folio, with a reference, that the conversion has given up for, or NULL. */
	struct folio *undrained;
	/* The page at which the conversion failed, or ULONG_MAX if that isn't known. */
	pgoff_t err_index;
};

/* The ranges of a conversion that have to change, from @index on. */
struct gmem_ranges {
	struct gmem_conversion *c;
	pgoff_t index;
};

static inline struct gmem_ranges kvm_gmem_ranges(struct gmem_conversion *c)
{
	return (struct gmem_ranges) { .c = c, .index = c->start };
}

/* For each range [@first, @last) of pages of the conversion that have to change. */
#define kvm_gmem_for_each_range(c, first, last)				\
	for (struct gmem_ranges __ranges = kvm_gmem_ranges(c);		\
	     kvm_gmem_next_range(&__ranges, &(first), &(last));)

/* guest_memfd_change.c */
bool kvm_gmem_next_range(struct gmem_ranges *ranges, pgoff_t *first, pgoff_t *last);
void kvm_gmem_trim_range(struct gmem_conversion *c);
int kvm_gmem_prepare_state(struct gmem_conversion *c);
void kvm_gmem_flip_state(struct gmem_conversion *c);
void kvm_gmem_collapse_state(struct gmem_conversion *c);

#endif /* __KVM_GUEST_MEMFD_CONVERT_H__ */
