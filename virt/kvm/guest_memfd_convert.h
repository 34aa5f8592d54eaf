/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __KVM_GUEST_MEMFD_CONVERT_H__
#define __KVM_GUEST_MEMFD_CONVERT_H__

#include <linux/fs.h>
#include <linux/types.h>

struct gmem_chunk;

/* A range that is being converted. */
struct gmem_conversion {
	struct inode *inode;
	pgoff_t start;
	pgoff_t end;
	/* The range in whole huge pages.  Faults must not map any of it meanwhile. */
	pgoff_t inv_start;
	pgoff_t inv_end;
	bool to_private;
	/* All pages of the range have to change, i.e. no need to look at each of them. */
	bool solid;
	/* The chunk with the bits of all of the range, or NULL if there is none. */
	struct gmem_chunk *chunk;
	/* Number of extra tries because a vCPU may have a reference. */
	int vcpu_tries;
	/* Whether the conversion may give up for its caller to drain per-CPU batches. */
	bool may_drain;
	/* The folio, with a reference, that the conversion has given up for, or NULL. */
	struct folio *undrained;
	/* The page at which the conversion failed, or ULONG_MAX if that isn't known. */
	pgoff_t err_index;
};

/* guest_memfd_state.c */
pgoff_t kvm_gmem_find_prev_end(struct inode *inode, pgoff_t start, pgoff_t index,
			       bool private);
pgoff_t kvm_gmem_find_next_start(struct inode *inode, pgoff_t index, pgoff_t end,
				 bool private);
bool kvm_gmem_next_range(struct gmem_conversion *c, pgoff_t *first, pgoff_t *last);
void kvm_gmem_trim_range(struct gmem_conversion *c);
int kvm_gmem_prepare_state(struct gmem_conversion *c);
void kvm_gmem_flip(struct gmem_conversion *c);
void kvm_gmem_collapse_range(struct gmem_conversion *c);

#endif /* __KVM_GUEST_MEMFD_CONVERT_H__ */
