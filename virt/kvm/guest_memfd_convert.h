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
	/* What faults must not map meanwhile: all of each huge page. */
	pgoff_t inv_start;
	pgoff_t inv_end;
	bool to_private;
	/* The whole range has to change, i.e. there's no need to look again. */
	bool solid;
	/* The chunk that has all of the range, if it's just one and if it exists. */
	struct gmem_chunk *chunk;
	/* How often a reference was waited for that may be a vCPU's. */
	int vcpu_tries;
	/* Whether it may fail for the lack of draining per-CPU batches, */
	bool may_drain;
	/* and the folio, with a reference, that it has failed for. */
	struct folio *undrained;
	/* Where it failed, if that can be said. */
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
