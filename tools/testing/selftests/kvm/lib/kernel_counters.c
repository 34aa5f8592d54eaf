// SPDX-License-Identifier: GPL-2.0-only
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kernel_counters.h"
#include "test_util.h"

#define KVM_DEBUGFS		"/sys/kernel/debug/kvm"
#define SETTLE_TRIES		100
#define SETTLE_DELAY_US		(50 * 1000)

/*
 * Count the entries of a directory.  Without permission or without debugfs, the count
 * is always 0.
 */
static int nr_entries(const char *path, bool only_dirs)
{
	DIR *dir = opendir(path);
	struct dirent *d;
	int nr = 0;

	while (dir && (d = readdir(dir)))
		nr += d->d_name[0] != '.' && (!only_dirs || d->d_type == DT_DIR);
	if (dir)
		closedir(dir);
	return nr;
}

int nr_open_fds(void)
{
	return nr_entries("/proc/self/fd", false);
}

static void write_sysctl(const char *path, const char *val)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0)
		return;
	TEST_ASSERT(write(fd, val, 1) == 1, "Writing %s should succeed", path);
	close(fd);
}

long read_vmstat(const char *name)
{
	FILE *f = fopen("/proc/vmstat", "r");
	char key[64];
	long val;

	TEST_ASSERT(f, "Cannot open /proc/vmstat");
	while (fscanf(f, "%63s %ld", key, &val) == 2) {
		if (!strcmp(key, name)) {
			fclose(f);
			return val;
		}
	}
	TEST_FAIL("No %s in /proc/vmstat", name);
}

void read_kernel_counters(struct kernel_counters *c)
{
	/* 4 turns the log message of 1 off, and 1 drains pages on their way to an LRU list. */
	write_sysctl("/proc/sys/vm/drop_caches", "4");
	write_sysctl("/proc/sys/vm/drop_caches", "1");
	/* Add up what other CPUs have counted. */
	write_sysctl("/proc/sys/vm/stat_refresh", "1");

	c->unevictable = read_vmstat("nr_unevictable");
	c->mlocked = read_vmstat("nr_mlock");
	c->free = read_vmstat("nr_free_pages");
	c->slab = read_vmstat("nr_slab_unreclaimable") + read_vmstat("nr_slab_reclaimable");
	c->memmap = read_vmstat("nr_memmap_pages") + read_vmstat("nr_memmap_boot_pages");
	c->vms = nr_entries(KVM_DEBUGFS, true);
}

const char *kernel_counters_settle(const struct kernel_counters *before,
				   struct kernel_counters *after)
{
	static char text[160];
	int tries;

	for (tries = 0; tries < SETTLE_TRIES; tries++) {
		read_kernel_counters(after);
		if (after->unevictable == before->unevictable &&
		    after->mlocked == before->mlocked &&
		    after->memmap <= before->memmap && after->vms == before->vms)
			return NULL;
		usleep(SETTLE_DELAY_US);
	}

	snprintf(text, sizeof(text),
		 "unevictable pages %ld -> %ld, mlocked pages %ld -> %ld, memmap pages %ld -> %ld, VMs %d -> %d",
		 before->unevictable, after->unevictable, before->mlocked, after->mlocked,
		 before->memmap, after->memmap, before->vms, after->vms);
	return text;
}
