// SPDX-License-Identifier: GPL-2.0
/*
 * The file pkvm_pages in debugfs: which frames of its guest_memfd memslots a protected guest
 * owns or shares, and which are poisoned.  The hypervisor finds that in its own tables.
 * Where KVM and the file remember something else, the list says so.
 */
#include <linux/bitfield.h>
#include <linux/debugfs.h>
#include <linux/kvm_host.h>
#include <linux/pagemap.h>
#include <linux/seq_file.h>

#include <asm/kvm_pgtable.h>
#include <asm/kvm_pkvm.h>

/* Frames next to each other about which there is the same to say. */
struct pkvm_run {
	gfn_t start;
	gfn_t end;
	int state;	/* with the level of the entries */
	bool agrees;
};

static s8 pkvm_level(int state)
{
	return sign_extend32(FIELD_GET(PKVM_GUEST_PAGE_LEVEL, state), 3);
}

/* Ask the hypervisor about the entry of a frame, and look whether KVM and the file agree. */
static int __pkvm_read_entry(struct kvm *kvm, struct kvm_memory_slot *slot, gfn_t gfn,
			     struct pkvm_run *run)
{
	gfn_t nr;
	int ret;

	lockdep_assert_held(&kvm->mmu_lock);

	if (!kvm->arch.mmu.pgt)
		return -ENXIO;

	ret = kvm_call_hyp_nvhe(__pkvm_guest_page_state, kvm->arch.pkvm.handle, gfn);
	if (ret < 0)
		return ret;

	/* One entry may stand for all memory, and mmu_lock isn't to be held for that long. */
	nr = min(kvm_granule_size(pkvm_level(ret)) >> PAGE_SHIFT, PTRS_PER_PTE);
	*run = (struct pkvm_run) {
		.start	= gfn,
		.end	= min(slot->base_gfn + slot->npages, round_down(gfn + nr, nr)),
		.state	= ret,
		.agrees	= true,
	};

	for (; gfn < run->end && run->agrees; gfn++)
		run->agrees = pkvm_gmem_page_agrees(kvm, slot, gfn,
						    FIELD_GET(PKVM_GUEST_PAGE_STATE, ret));
	return 0;
}

/*
 * Nothing is converted, split, merged, donated or taken meanwhile.  Teardown can't begin,
 * either: it does without mmu_lock, but only after taking the page table away.
 */
static int pkvm_read_entry(struct kvm *kvm, struct kvm_memory_slot *slot, gfn_t gfn,
			   struct pkvm_run *run)
{
	/* NULL if the file is closed.  That takes slots_lock, which the caller holds. */
	struct inode *inode = slot->gmem.inode;
	int ret;

	if (inode)
		filemap_invalidate_lock_shared(inode->i_mapping);
	read_lock(&kvm->mmu_lock);
	ret = __pkvm_read_entry(kvm, slot, gfn, run);
	read_unlock(&kvm->mmu_lock);
	if (inode)
		filemap_invalidate_unlock_shared(inode->i_mapping);
	return ret;
}

static void pkvm_show_run(struct seq_file *m, const struct pkvm_run *run)
{
	static const char * const names[] = {
		[PKVM_GUEST_PAGE_NONE]		= "none",
		[PKVM_GUEST_PAGE_OWNED]		= "owned",
		[PKVM_GUEST_PAGE_SHARED]	= "shared",
		[PKVM_GUEST_PAGE_POISONED]	= "poisoned",
	};
	unsigned int state = FIELD_GET(PKVM_GUEST_PAGE_STATE, run->state);

	if (run->start == run->end || (state == PKVM_GUEST_PAGE_NONE && run->agrees))
		return;

	seq_printf(m, "0x%010llx-0x%010llx level %d %s%s\n", gfn_to_gpa(run->start),
		   gfn_to_gpa(run->end), pkvm_level(run->state), names[state],
		   run->agrees ? "" : ", KVM doesn't agree");
}

static int pkvm_show_slot(struct seq_file *m, struct kvm *kvm, struct kvm_memory_slot *slot)
{
	struct pkvm_run run = { .start = slot->base_gfn, .end = slot->base_gfn }, next;
	int ret;

	while (run.end < slot->base_gfn + slot->npages) {
		ret = pkvm_read_entry(kvm, slot, run.end, &next);
		if (ret)
			return ret;

		if (next.state == run.state && next.agrees == run.agrees) {
			run.end = next.end;
		} else {
			pkvm_show_run(m, &run);
			run = next;
		}

		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}

	pkvm_show_run(m, &run);
	return 0;
}

static int pkvm_pages_show(struct seq_file *m, void *unused)
{
	struct kvm *kvm = m->private;
	struct kvm_memory_slot *slot;
	int bkt, ret = 0;

	guard(mutex)(&kvm->slots_lock);

	/* Before and after that, a guest owns nothing. */
	if (!pkvm_hyp_vm_is_created(kvm))
		return 0;

	kvm_for_each_memslot(slot, bkt, kvm_memslots(kvm)) {
		if (kvm_slot_has_gmem(slot))
			ret = pkvm_show_slot(m, kvm, slot);
		if (ret)
			break;
	}

	return ret;
}

static int pkvm_pages_open(struct inode *inode, struct file *file)
{
	struct kvm *kvm = inode->i_private;
	int ret;

	if (!kvm_get_kvm_safe(kvm))
		return -ENOENT;

	ret = single_open(file, pkvm_pages_show, kvm);
	if (ret)
		kvm_put_kvm(kvm);
	return ret;
}

static int pkvm_pages_release(struct inode *inode, struct file *file)
{
	kvm_put_kvm(inode->i_private);
	return single_release(inode, file);
}

static const struct file_operations pkvm_pages_fops = {
	.owner		= THIS_MODULE,
	.open		= pkvm_pages_open,
	.read		= seq_read,
	.llseek		= seq_lseek,
	.release	= pkvm_pages_release,
};

void pkvm_create_debugfs(struct kvm *kvm)
{
	if (kvm_vm_is_protected(kvm))
		debugfs_create_file("pkvm_pages", 0400, kvm->debugfs_dentry, kvm,
				    &pkvm_pages_fops);
}
