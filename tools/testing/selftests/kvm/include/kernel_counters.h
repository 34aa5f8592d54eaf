/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Counters of the kernel that tell what a test has left behind.
 */
#ifndef SELFTEST_KVM_KERNEL_COUNTERS_H
#define SELFTEST_KVM_KERNEL_COUNTERS_H

/* In pages, but for the number of VMs. */
struct kernel_counters {
	long unevictable;
	long mlocked;
	/* Everything that runs changes these two. */
	long free;
	long slab;
	/* For struct pages. */
	long memmap;
	int vms;
};

void read_kernel_counters(struct kernel_counters *counters);

/*
 * Wait for VMs, unevictable and mlocked pages to become what they were @before, and
 * struct pages to become no more than that, what was last may be slow to go.  Returns a
 * description, in a static buffer, of what didn't, or NULL, and in @after what there is
 * now.
 */
const char *kernel_counters_settle(const struct kernel_counters *before,
				   struct kernel_counters *after);

/* One line of /proc/vmstat, more or less up to date. */
long read_vmstat(const char *name);

int nr_open_fds(void);

#endif /* SELFTEST_KVM_KERNEL_COUNTERS_H */
