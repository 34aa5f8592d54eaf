// SPDX-License-Identifier: GPL-2.0
/*
 * A memory failure that hwpoison_filter() ignores must leave a hugetlb page as it was:
 * not poisoned, readable, and usable by its next owner, no matter whether the vmemmap
 * of the page is optimized.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/kernel-page-flags.h>

#include "hugepage_settings.h"
#include "kselftest.h"

#define HWPOISON_DIR	"/sys/kernel/debug/hwpoison/"
#define HARD_OFFLINE	"/sys/devices/system/memory/hard_offline_page"
#define NR_PAGES	1

static unsigned long size;
static int nr_sigbus;

static int write_number(const char *path, uint64_t val)
{
	char buf[32];
	int fd = open(path, O_WRONLY), len, error = 0;

	if (fd < 0)
		return errno;
	len = snprintf(buf, sizeof(buf), "0x%llx", (unsigned long long)val);
	if (write(fd, buf, len) != len)
		error = errno;
	close(fd);
	return error;
}

static uint64_t read_entry(const char *path, uint64_t nr)
{
	uint64_t entry = 0;
	int fd = open(path, O_RDONLY);

	if (fd < 0 || pread(fd, &entry, sizeof(entry), nr * sizeof(entry)) != sizeof(entry))
		ksft_exit_fail_msg("cannot read %s\n", path);
	close(fd);
	return entry;
}

static uint64_t pfn_of(void *mem)
{
	uint64_t entry = read_entry("/proc/self/pagemap", (uintptr_t)mem / getpagesize());

	return entry >> 63 ? entry & ((1ull << 55) - 1) : 0;
}

static long corrupted_kb(void)
{
	FILE *f = fopen("/proc/meminfo", "r");
	char line[128];
	long kb = -1;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "HardwareCorrupted: %ld kB", &kb) == 1)
			break;
	if (f)
		fclose(f);
	return kb;
}

static char *map_page(void)
{
	char *mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

	if (mem == MAP_FAILED || madvise(mem, size, MADV_POPULATE_WRITE))
		return NULL;
	return mem;
}

static bool is_poisoned(uint64_t pfn)
{
	return read_entry("/proc/kpageflags", pfn) & (1ull << KPF_HWPOISON);
}

/* Enable, or disable, a filter that ignores all hugetlb pages: none of them is on an LRU list. */
static bool set_filter(bool enable)
{
	return !write_number(HWPOISON_DIR "corrupt-filter-flags-mask",
			     enable ? 1ull << KPF_LRU : 0) &&
	       !write_number(HWPOISON_DIR "corrupt-filter-flags-value",
			     enable ? 1ull << KPF_LRU : 0) &&
	       !write_number(HWPOISON_DIR "corrupt-filter-enable", enable);
}

/* Check that the huge page is what it was, for this process and for its next user. */
static void check_page(const char *what, char *mem, uint64_t pfn, long kb)
{
	ksft_test_result(!is_poisoned(pfn), "%s: huge page isn't poisoned\n", what);
	ksft_test_result(corrupted_kb() == kb, "%s: HardwareCorrupted is what it was\n", what);
	/* If the page were poisoned, this would fail with EFAULT, where a fault raises SIGBUS. */
	ksft_test_result(!madvise(mem, size, MADV_POPULATE_READ) && *mem == 1,
			 "%s: huge page is mapped\n", what);
}

/* Count SIGBUS, which a second failure of a page that is poisoned already raises. */
static void count_sigbus(int sig)
{
	nr_sigbus++;
}

int main(void)
{
	unsigned long offset;
	uint64_t pfn;
	char *mem;
	long kb;
	int r;

	ksft_print_header();
	size = default_huge_page_size();
	if (geteuid())
		ksft_exit_skip("needs root\n");
	if (!size)
		ksft_exit_skip("needs huge pages\n");
	if (access(HARD_OFFLINE, W_OK) || access(HWPOISON_DIR "corrupt-filter-enable", W_OK))
		ksft_exit_skip("needs CONFIG_HWPOISON_INJECT and debugfs\n");

	hugetlb_save_settings();
	hugetlb_set_nr_default_pages(NR_PAGES);
	mem = map_page();
	if (!mem)
		ksft_exit_skip("needs a huge page\n");
	*mem = 1;
	pfn = pfn_of(mem);
	offset = size / 2 / getpagesize();
	kb = corrupted_kb();
	signal(SIGBUS, count_sigbus);
	if (!pfn || !set_filter(true))
		ksft_exit_fail_msg("cannot set up the filter\n");

	ksft_set_plan(9);
	r = write_number(HARD_OFFLINE, (pfn + offset) * getpagesize());
	ksft_test_result(!r, "by pfn: filtered failure is no error, got %s\n", strerror(r));
	check_page("by pfn", mem, pfn, kb);
	r = madvise(mem + size / 2, getpagesize(), MADV_HWPOISON) ? errno : 0;
	ksft_test_result((!r || r == EOPNOTSUPP) && !nr_sigbus,
			 "madvise: filtered failure does nothing, got %s and %d signals\n",
			 strerror(r), nr_sigbus);
	check_page("madvise", mem, pfn, kb);
	set_filter(false);

	/* A poisoned page would stay where it is, or leave the pool. */
	munmap(mem, size);
	mem = map_page();
	ksft_test_result(mem && pfn_of(mem) == pfn, "huge page is used again\n");
	if (mem)
		munmap(mem, size);

	hugetlb_restore_settings();
	ksft_finished();
}
