/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Small files of the kernel, information about pages from /proc, and counters that show
 * whether a test has left anything behind.
 */
#ifndef SELFTEST_KVM_KERNEL_FILES_H
#define SELFTEST_KVM_KERNEL_FILES_H

#include <linux/bitmap.h>
#include <linux/kernel-page-flags.h>

#include "test_util.h"

/* Read at most @size - 1 bytes of the first line.  Returns false if there are none. */
bool read_text_file(const char *path, char *text, size_t size);

/* Write all of @text.  Returns false if there is no such file, or if it doesn't take it. */
bool write_text_file(const char *path, const char *text);

/* Return the number behind @key in a file of keys and numbers, or -1. */
long read_key(const char *path, const char *key);

/* Return the number in one line of /proc/vmstat, which is more or less up to date. */
long read_vmstat(const char *name);

/* Return an entry of a file that is an array of u64, or 0 if there is none. */
u64 read_entry(int fd, u64 nr);

/* Return an entry of a file with one per page frame, e.g. /proc/kpageflags. */
u64 read_by_pfn(const char *path, u64 pfn);

static inline u64 read_kpageflags(u64 pfn)
{
	return read_by_pfn("/proc/kpageflags", pfn);
}

/* Return what /proc/self/smaps says about @key of the mapping at @mem, in bytes. */
u64 read_smaps(void *mem, const char *key);

/* Read memory through the kernel, whose access can't wait for as long as the process'. */
bool read_proc_mem(u64 *word, u64 *val);

/* Return whether a page of this process is in its page table. */
bool is_mapped(void *mem);

/* Return the pfn of the page that is mapped at @mem, or 0 if there is none. */
u64 read_pagemap_pfn(void *mem);

/* Return how many of @nr pages of a file, from @first on, are in the page cache. */
u64 nr_cached_pages_in(int fd, u64 first, u64 nr);

static inline u64 nr_cached_pages(int fd)
{
	/* A length of 0 means up to the end. */
	return nr_cached_pages_in(fd, 0, 0);
}

int nr_open_fds(void);

/* Return the time since boot. */
u64 now_ns(void);

static inline s64 now_us(void)
{
	return now_ns() / 1000;
}

static inline s64 now_ms(void)
{
	return now_ns() / 1000000;
}

/* All are in pages, except for the number of VMs. */
struct kernel_counters {
	long unevictable;
	long mlocked;
	/* Anything that runs changes these two. */
	long free;
	long slab;
	/* Memory for struct pages. */
	long memmap;
	/* Page tables of guests. */
	long sec_page_tables;
	int vms;
};

/* Have the kernel evict caches, and drain batches of pages.  Needs root. */
void drop_caches(void);

void read_kernel_counters(struct kernel_counters *counters);

/*
 * Wait until VMs, unevictable and mlocked pages are as they were @before, and struct
 * pages take no more memory than that, as the last user may be slow to go.  Returns
 * NULL, or a description of what is different, in a static buffer.  Fills in @after.
 */
const char *kernel_counters_settle(const struct kernel_counters *before,
				   struct kernel_counters *after);

/* Read a word of physical memory by /proc/kcore.  Returns false if the kernel doesn't have it. */
bool read_kcore(u64 phys, u64 *word);

#endif /* SELFTEST_KVM_KERNEL_FILES_H */
