/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Let memory fail, page by page.  This needs root, debugfs and CONFIG_HWPOISON_INJECT.
 * And survive SIGBUS, whatever has raised it.
 */
#ifndef SELFTEST_KVM_MEMORY_FAILURE_H
#define SELFTEST_KVM_MEMORY_FAILURE_H

#include <sys/mman.h>

#include "kernel_files.h"
#include "test_util.h"

#define HWPOISON_DIR	"/sys/kernel/debug/hwpoison/"
#define CORRUPT_PFN	HWPOISON_DIR "corrupt-pfn"
#define UNPOISON_PFN	HWPOISON_DIR "unpoison-pfn"

/* Both take a physical address. */
#define HARD_OFFLINE	"/sys/devices/system/memory/hard_offline_page"
#define SOFT_OFFLINE	"/sys/devices/system/memory/soft_offline_page"

/* C libraries may not have these. */
#ifndef MADV_HWPOISON
#define MADV_HWPOISON		100
#endif
#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE	101
#endif

#define NEEDS_MEMORY_FAILURE	"needs root, debugfs and CONFIG_HWPOISON_INJECT"

bool can_inject_memory_failure(void);

/* Write a number to a file of the kernel; returns 0 or the error. */
int write_pfn(const char *path, u64 pfn);

/* As write_pfn(), for files that take the physical address of a page. */
static inline int write_pa(const char *path, u64 pfn)
{
	return write_pfn(path, pfn * getpagesize());
}

/*
 * Have a page that has failed used again, which takes a moment if its huge page is on the
 * way out of the pool.
 */
void mend_page(u64 pfn);

static inline bool is_marked_poisoned(u64 pfn)
{
	return read_kpageflags(pfn) & BIT_ULL(KPF_HWPOISON);
}

/* Return the number of pages that have failed, according to /proc/meminfo. */
long nr_corrupted_pages(void);

/* The number of SIGBUS of a thread, and the siginfo of the last one. */
struct sigbus_seen {
	int nr;
	int code;
	int lsb;
	u64 addr;
};

/*
 * Count every SIGBUS of each thread from now on, and survive it.  With @strict, only
 * accesses by sigbus_try_access() survive, and any other SIGBUS ends the process.
 */
void sigbus_start(bool strict);

/* Return the SIGBUS of this thread since the last call, and forget them. */
struct sigbus_seen sigbus_take(void);

/*
 * Read or write a word of user memory.  Returns false if the access raised SIGBUS, which
 * sigbus_take() describes.
 */
bool sigbus_try_access(u64 *addr, u64 *val, bool write);

static inline bool sigbus_try_read(u64 *addr, u64 *val)
{
	return sigbus_try_access(addr, val, false);
}

const char *sigbus_code_str(int code);

#endif /* SELFTEST_KVM_MEMORY_FAILURE_H */
