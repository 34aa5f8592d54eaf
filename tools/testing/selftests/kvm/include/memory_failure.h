/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Memory failure, page by page, for tests: needs root, debugfs and
 * CONFIG_HWPOISON_INJECT.
 */
#ifndef SELFTEST_KVM_MEMORY_FAILURE_H
#define SELFTEST_KVM_MEMORY_FAILURE_H

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "page_info.h"
#include "test_util.h"

#define CORRUPT_PFN	"/sys/kernel/debug/hwpoison/corrupt-pfn"
#define UNPOISON_PFN	"/sys/kernel/debug/hwpoison/unpoison-pfn"

static inline bool can_inject_memory_failure(void)
{
	return !access(CORRUPT_PFN, W_OK) && !access(UNPOISON_PFN, W_OK);
}

/* Returns 0 or an error: whether the kernel has found a way to deal with it. */
static inline int write_pfn(const char *path, u64 pfn)
{
	int fd = open(path, O_WRONLY), len, error = 0;
	char buf[32];

	TEST_ASSERT(fd >= 0, "Cannot open %s", path);
	len = snprintf(buf, sizeof(buf), "%#lx", pfn);
	if (write(fd, buf, len) != len)
		error = errno;
	close(fd);
	return error;
}

#endif /* SELFTEST_KVM_MEMORY_FAILURE_H */
