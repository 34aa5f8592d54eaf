/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Information about pages from /proc, for users with the permission to read it.
 */
#ifndef SELFTEST_KVM_PAGE_INFO_H
#define SELFTEST_KVM_PAGE_INFO_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <unistd.h>

#include <sys/syscall.h>

#include <linux/bitmap.h>
#include <linux/kernel-page-flags.h>

#include "test_util.h"

static inline u64 read_entry(int fd, u64 nr)
{
	u64 entry = 0;

	return pread(fd, &entry, sizeof(entry), nr * sizeof(entry)) == sizeof(entry) ? entry : 0;
}

static inline u64 read_kpageflags(u64 pfn)
{
	int fd = open("/proc/kpageflags", O_RDONLY);
	u64 flags;

	TEST_ASSERT(fd >= 0, "Cannot open /proc/kpageflags");
	flags = read_entry(fd, pfn);
	close(fd);
	return flags;
}

/* Return the pfn of the page that is mapped at @mem, or 0 if there is none. */
static inline u64 read_pagemap_pfn(void *mem)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	u64 entry;

	TEST_ASSERT(fd >= 0, "Cannot open pagemap");
	entry = read_entry(fd, (uintptr_t)mem / getpagesize());
	close(fd);
	return entry & BIT_ULL(63) ? entry & GENMASK_ULL(54, 0) : 0;
}

/* The number of pages of a file that are in the page cache. */
static inline u64 nr_cached_pages(int fd)
{
	struct {
		u64 off, len;
	} range = {};
	struct {
		u64 nr_cache, nr_dirty, nr_writeback, nr_evicted, nr_recently_evicted;
	} stat = {};

	TEST_ASSERT(!syscall(__NR_cachestat, fd, &range, &stat, 0),
		    "cachestat() should succeed, errno %d", errno);
	return stat.nr_cache;
}

#endif /* SELFTEST_KVM_PAGE_INFO_H */
