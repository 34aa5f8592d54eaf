// SPDX-License-Identifier: GPL-2.0
/*
 * The file pkvm_pages in debugfs: which frames of its guest_memfd memslots a protected guest
 * owns or shares, and which are poisoned.  That's what the hypervisor finds in its own
 * tables, i.e. not what KVM remembers of it.
 */
#include <linux/bitfield.h>
#include <linux/debugfs.h>
#include <linux/kvm_host.h>
#include <linux/seq_file.h>

#include <asm/kvm_pgtable.h>
#include <asm/kvm_pkvm.h>

/*
 * Ask the hypervisor.  Teardown can't begin meanwhile: it does without mmu_lock, but only
 * after taking the page table away.
 */
static int pkvm_page_state(struct kvm *kvm, gfn_t gfn)
{
	guard(read_lock)(&kvm->mmu_lock);

	if (!kvm->arch.mmu.pgt)
		return -ENXIO;

	return kvm_call_hyp_nvhe(__pkvm_guest_page_state, kvm->arch.pkvm.handle, gfn);
}

static s8 pkvm_level(int state)
{
	return sign_extend32(FIELD_GET(PKVM_GUEST_PAGE_LEVEL, state), 3);
}

/* Frames next to each other whose entries have the same state and level. */
struct pkvm_run {
	gfn_t start;
	gfn_t end;
	int state;
};

static void pkvm_show_run(struct seq_file *m, const struct pkvm_run *run)
{
	static const char * const names[] = {
		[PKVM_GUEST_PAGE_OWNED]		= "owned",
		[PKVM_GUEST_PAGE_SHARED]	= "shared",
		[PKVM_GUEST_PAGE_POISONED]	= "poisoned",
	};
	unsigned int state = FIELD_GET(PKVM_GUEST_PAGE_STATE, run->state);

	if (run->start == run->end || state >= ARRAY_SIZE(names) || !names[state])
		return;

	seq_printf(m, "0x%010llx-0x%010llx level %d %s\n", gfn_to_gpa(run->start),
		   gfn_to_gpa(run->end), pkvm_level(run->state), names[state]);
}

static int pkvm_show_slot(struct seq_file *m, struct kvm *kvm,
			  const struct kvm_memory_slot *slot)
{
	gfn_t gfn = slot->base_gfn, end = gfn + slot->npages, next;
	struct pkvm_run run = { .start = gfn, .end = gfn, .state = -1 };
	int state;

	for (; gfn < end; gfn = next) {
		state = pkvm_page_state(kvm, gfn);
		if (state < 0)
			return state;

		next = gfn + (kvm_granule_size(pkvm_level(state)) >> PAGE_SHIFT);
		next = min(end, round_down(next, next - gfn));
		if (state != run.state) {
			pkvm_show_run(m, &run);
			run = (struct pkvm_run) { .start = gfn, .state = state };
		}
		run.end = next;

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
