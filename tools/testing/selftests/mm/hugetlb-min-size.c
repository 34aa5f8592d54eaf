// SPDX-License-Identifier: GPL-2.0
/*
 * The reservation of a hugetlbfs mount (min_size=) must be backed by pages at any time,
 * whatever the size of the pool.  Pages that are in use when the pool shrinks become
 * surplus pages.  A surplus page that is freed must not leave the pool as long as the
 * mount's reservation has nothing else to rely on.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hugepage_settings.h"
#include "kselftest.h"

#define NR_PAGES	4
#define MNT		"/tmp/hugetlb-min-size"

static unsigned long size;

static unsigned long pool_attr(const char *attr)
{
	unsigned long val = -1UL;
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%lukB/%s",
		 size / 1024, attr);
	f = fopen(path, "r");
	if (!f || fscanf(f, "%lu", &val) != 1)
		ksft_exit_fail_msg("cannot read %s\n", path);
	fclose(f);
	return val;
}

static void check_pool(const char *when, unsigned long total, unsigned long free,
		       unsigned long resv)
{
	unsigned long now_total = pool_attr("nr_hugepages");
	unsigned long now_free = pool_attr("free_hugepages");
	unsigned long now_resv = pool_attr("resv_hugepages");
	bool ok = now_total == total && now_free == free && now_resv == resv;

	if (!ok)
		ksft_print_msg("total %lu free %lu reserved %lu, should be %lu, %lu, %lu\n",
			       now_total, now_free, now_resv, total, free, resv);
	ksft_test_result(ok, "%s\n", when);
}

/* Use all pages of the mount.  Returns false if the reservation is not backed by pages. */
static bool use_pages(int fd)
{
	char *mem = mmap(NULL, NR_PAGES * size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	bool ok;

	if (mem == MAP_FAILED)
		return false;
	ok = !madvise(mem, NR_PAGES * size, MADV_POPULATE_WRITE);
	munmap(mem, NR_PAGES * size);
	return ok;
}

int main(void)
{
	char opts[64];
	int fd;

	ksft_print_header();
	size = default_huge_page_size();
	if (geteuid())
		ksft_exit_skip("needs root\n");
	if (!size)
		ksft_exit_skip("needs huge pages\n");

	hugetlb_save_settings();
	hugetlb_set_nr_default_pages(NR_PAGES);
	if (pool_attr("nr_hugepages") != NR_PAGES || pool_attr("free_hugepages") != NR_PAGES)
		ksft_exit_skip("needs %d huge pages, all of them free, have %lu\n", NR_PAGES,
			       pool_attr("free_hugepages"));

	/* The mount goes with the process. */
	snprintf(opts, sizeof(opts), "min_size=%lu", NR_PAGES * size);
	mkdir(MNT, 0700);
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("none", MNT, "hugetlbfs", 0, opts))
		ksft_exit_skip("cannot mount hugetlbfs: %s\n", strerror(errno));

	ksft_set_plan(7);
	check_pool("mounted", NR_PAGES, NR_PAGES, NR_PAGES);

	fd = open(MNT "/file", O_RDWR | O_CREAT, 0600);
	if (fd < 0 || ftruncate(fd, NR_PAGES * size) || !use_pages(fd))
		ksft_exit_fail_msg("cannot use the pages: %s\n", strerror(errno));
	check_pool("in use", NR_PAGES, 0, 0);

	hugetlb_set_nr_default_pages(0);
	check_pool("in use, pool shrunk", NR_PAGES, 0, 0);

	if (ftruncate(fd, 0))
		ksft_exit_fail_msg("ftruncate: %s\n", strerror(errno));
	check_pool("freed", NR_PAGES, NR_PAGES, NR_PAGES);

	ksft_test_result(!ftruncate(fd, NR_PAGES * size) && use_pages(fd), "use again\n");
	check_pool("in use again", NR_PAGES, 0, 0);

	close(fd);
	unlink(MNT "/file");
	umount(MNT);
	rmdir(MNT);
	check_pool("unmounted", 0, 0, 0);

	hugetlb_restore_settings();
	ksft_finished();
}
