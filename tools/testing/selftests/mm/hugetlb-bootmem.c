// SPDX-License-Identifier: GPL-2.0
/*
 * Demote and free gigantic pages that were allocated at boot.
 *
 * With the vmemmap optimization on, the kernel never initializes all struct pages of a
 * gigantic page that is allocated at boot (hugepagesz=1G hugepages=N).  Most of them
 * are one shared page from the beginning, and restoring them copies that page.  An
 * error in the shared page shows only when the kernel looks at the struct pages one by
 * one, i.e. when the gigantic page is demoted or freed.
 *
 * The pages cannot be put back as they were, so run this on a machine that is thrown
 * away afterwards:
 *
 *	hugepagesz=1G hugepages=2 hugetlb_free_vmemmap=on
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hugepage_settings.h"
#include "kselftest.h"

#define NR_PAGES_NEEDED		2
#define SMALL_MAP_FLAG		(21 << MAP_HUGE_SHIFT)
/* Enough for half a minute of struct page handling under emulation. */
#define WRITE_TIMEOUT		60

static unsigned long small_size, big_size;
static unsigned long taint_at_start;

static unsigned long kernel_taint(void)
{
	unsigned long taint = 0;
	FILE *f = fopen("/proc/sys/kernel/tainted", "r");

	if (!f)
		return 0;
	if (fscanf(f, "%lu", &taint) != 1)
		taint = 0;
	fclose(f);
	return taint;
}

static long mem_free_mb(void)
{
	char line[128];
	long kb = -1;
	FILE *f = fopen("/proc/meminfo", "r");

	if (!f)
		ksft_exit_fail_msg("cannot open /proc/meminfo: %s\n", strerror(errno));
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "MemFree: %ld kB", &kb) == 1)
			break;
	fclose(f);
	return kb / 1024;
}

static bool vmemmap_optimized(void)
{
	char buf[4] = "";
	FILE *f = fopen("/proc/sys/vm/hugetlb_optimize_vmemmap", "r");

	if (!f)
		return false;
	if (!fgets(buf, sizeof(buf), f))
		buf[0] = 0;
	fclose(f);
	return buf[0] == '1';
}

/*
 * Write a number to an attribute of a pool, in a process of its own.  A kernel that
 * stumbles over the struct pages kills the process that writes, with hugetlb's locks
 * held, so that nothing more can be tested.
 */
static void write_attr(unsigned long size, const char *attr, unsigned long val)
{
	char path[PATH_MAX];
	int status;
	pid_t pid;

	snprintf(path, sizeof(path),
		 "/sys/kernel/mm/hugepages/hugepages-%lukB/%s", size / 1024, attr);

	pid = fork();
	if (pid < 0)
		ksft_exit_fail_msg("fork: %s\n", strerror(errno));
	if (!pid) {
		char buf[32];
		int len = snprintf(buf, sizeof(buf), "%lu", val);
		int fd = open(path, O_WRONLY);

		alarm(WRITE_TIMEOUT);
		_exit(fd < 0 || write(fd, buf, len) != len);
	}

	if (waitpid(pid, &status, 0) != pid)
		ksft_exit_fail_msg("waitpid: %s\n", strerror(errno));
	if (WIFSIGNALED(status))
		ksft_exit_fail_msg("writing %lu to %s died with signal %d\n",
				   val, path, WTERMSIG(status));
	if (WEXITSTATUS(status))
		ksft_exit_fail_msg("writing %lu to %s failed\n", val, path);
}

static void report(bool ok, const char *name)
{
	unsigned long taint = kernel_taint();

	if (taint != taint_at_start) {
		ksft_print_msg("kernel taint %#lx -> %#lx\n", taint_at_start, taint);
		taint_at_start = taint;
		ok = false;
	}
	ksft_test_result(ok, "%s\n", name);
}

/* Return whether MemFree rises by about @size, give or take other activity. */
static bool mem_free_rises(long before, unsigned long size)
{
	long want = size / (1024 * 1024) * 15 / 16, got = 0;

	/* The vmemmap optimization leaves the last step to a worker. */
	for (int i = 0; i < 50; i++) {
		got = mem_free_mb() - before;
		if (got >= want)
			return true;
		usleep(100 * 1000);
	}
	ksft_print_msg("MemFree rose by %ld MB, expected at least %ld MB\n", got, want);
	return false;
}

/* Every page of a demoted gigantic page must be usable. */
static bool use_pages(unsigned long nr)
{
	size_t len = nr * small_size;
	bool ok = true;
	char *mem;

	mem = mmap(NULL, len, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | SMALL_MAP_FLAG, -1, 0);
	if (mem == MAP_FAILED) {
		ksft_print_msg("mmap of %lu pages: %s\n", nr, strerror(errno));
		return false;
	}
	for (size_t off = 0; off < len; off += small_size)
		*(unsigned long *)(mem + off) = off + 1;
	for (size_t off = 0; off < len; off += small_size)
		ok &= *(unsigned long *)(mem + off) == off + 1;
	munmap(mem, len);
	return ok;
}

static void test_demote(void)
{
	unsigned long per_big = big_size / small_size;
	unsigned long big = hugetlb_nr_pages(big_size);
	unsigned long small = hugetlb_nr_pages(small_size);
	long before;
	bool ok;

	write_attr(big_size, "demote", 1);
	ok = hugetlb_nr_pages(big_size) == big - 1 &&
	     hugetlb_nr_pages(small_size) == small + per_big &&
	     hugetlb_free_pages(small_size) >= per_big;
	report(ok, "demote a gigantic page");

	report(use_pages(hugetlb_free_pages(small_size)), "use what it was demoted to");

	before = mem_free_mb();
	write_attr(small_size, "nr_hugepages", small);
	ok = hugetlb_nr_pages(small_size) == small;
	report(ok && mem_free_rises(before, big_size), "free what it was demoted to");
}

static void test_free(void)
{
	unsigned long big = hugetlb_nr_pages(big_size);
	long before = mem_free_mb();
	bool ok;

	write_attr(big_size, "nr_hugepages", big - 1);
	ok = hugetlb_nr_pages(big_size) == big - 1;
	report(ok && mem_free_rises(before, big_size), "free a gigantic page");
}

/* Freed memory must be sound again: use nearly all of it. */
static void test_reuse(void)
{
	size_t len = big_size / 8 * 7;
	char *mem = mmap(NULL, len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	bool ok = mem != MAP_FAILED;

	if (ok)
		munmap(mem, len);
	report(ok, "use the memory of a freed gigantic page");
}

int main(void)
{
	unsigned long have;

	ksft_print_header();

	small_size = 2UL << 20;
	big_size = 1UL << 30;

	if (geteuid())
		ksft_exit_skip("needs root\n");
	if (access("/sys/kernel/mm/hugepages/hugepages-1048576kB/demote", W_OK) ||
	    access("/sys/kernel/mm/hugepages/hugepages-2048kB", F_OK))
		ksft_exit_skip("needs 1G pages that can be demoted to 2M pages\n");
	have = hugetlb_free_pages(big_size);
	if (have < NR_PAGES_NEEDED)
		ksft_exit_skip("needs %d x 1G page reserved at boot, have %lu\n",
			       NR_PAGES_NEEDED, have);
	if (!vmemmap_optimized())
		ksft_print_msg("vmemmap optimization is off, this tests little\n");

	ksft_set_plan(5);
	taint_at_start = kernel_taint();

	test_demote();
	test_free();
	test_reuse();

	ksft_finished();
}
