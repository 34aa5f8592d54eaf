/* SPDX-License-Identifier: GPL-2.0-only */
/* Counters of the kernel that show whether a test has left anything behind. */
#ifndef SELFTEST_KVM_KERNEL_COUNTERS_H
#define SELFTEST_KVM_KERNEL_COUNTERS_H

/* All are in pages, except for the number of VMs. */
struct kernel_counters {
	long unevictable;
	long mlocked;
	/* Anything that runs changes these two. */
	long free;
	long slab;
	/* Memory for struct pages. */
	long memmap;
	int vms;
};

void read_kernel_counters(struct kernel_counters *counters);

/*
 * Wait until VMs, unevictable and mlocked pages are as they were @before, and struct
 * pages take no more memory than that, as the last user may be slow to go.  Returns
 * NULL, or a description of what is different, in a static buffer.  Fills in @after.
 */
const char *kernel_counters_settle(const struct kernel_counters *before,
				   struct kernel_counters *after);

/* Return the number in one line of /proc/vmstat, which is more or less up to date. */
long read_vmstat(const char *name);

int nr_open_fds(void);

#endif /* SELFTEST_KVM_KERNEL_COUNTERS_H */
