// SPDX-License-Identifier: GPL-2.0-only
#include <dirent.h>
#include <linux/elf.h>
#include <time.h>

#include "kernel_files.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"

#define KVM_DEBUGFS		"/sys/kernel/debug/kvm"
#define DROP			"drop_caches"
#define SETTLE_TRIES		100
#define SETTLE_DELAY_US		(50 * 1000)

bool read_text_file(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY);
	ssize_t len;

	if (fd < 0)
		return false;
	len = read(fd, text, size - 1);
	close(fd);
	if (len <= 0)
		return false;
	text[len] = '\0';
	text[strcspn(text, "\n")] = '\0';
	return true;
}

bool write_text_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_TRUNC);
	ssize_t len = strlen(text), written;

	if (fd < 0)
		return false;
	written = write(fd, text, len);
	close(fd);
	return written == len;
}

long read_key(const char *path, const char *key)
{
	FILE *f = fopen(path, "r");
	long val, found = -1;
	char name[64];

	TEST_ASSERT(f, "Cannot open %s", path);
	while (found < 0 && fscanf(f, "%63s %ld%*[^\n]", name, &val) == 2) {
		if (!strcmp(name, key))
			found = val;
	}
	fclose(f);
	return found;
}

long read_vmstat(const char *name)
{
	long val = read_key("/proc/vmstat", name);

	TEST_ASSERT(val >= 0, "No %s in /proc/vmstat", name);
	return val;
}

u64 read_smaps(void *mem, const char *key)
{
	FILE *file = fopen("/proc/self/smaps", "r");
	u64 from, to, kb, found = -1;
	bool is_it = false;
	char line[256];

	TEST_ASSERT(file, "Cannot open /proc/self/smaps");
	while (found == -1 && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			is_it = (uintptr_t)mem >= from && (uintptr_t)mem < to;
		else if (is_it && !strncmp(line, key, strlen(key)) &&
			 sscanf(line + strlen(key), ": %lu kB", &kb) == 1)
			found = kb * 1024;
	}
	fclose(file);
	TEST_ASSERT(found != -1, "There should be %s of a mapping at %p", key, mem);
	return found;
}

bool read_proc_mem(u64 *word, u64 *val)
{
	int fd = open("/proc/self/mem", O_RDONLY);
	bool done = pread(fd, val, sizeof(*val), (off_t)word) == sizeof(*val);

	close(fd);
	return done;
}

u64 read_entry(int fd, u64 nr)
{
	u64 entry = 0;

	return pread(fd, &entry, sizeof(entry), nr * sizeof(entry)) == sizeof(entry) ? entry : 0;
}

static int open_file(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	TEST_ASSERT(fd >= 0, "Cannot open %s, errno %d", path, errno);
	return fd;
}

u64 read_by_pfn(const char *path, u64 pfn)
{
	int fd = open_file(path);
	u64 val;

	TEST_ASSERT_EQ(pread(fd, &val, sizeof(val), pfn * sizeof(val)), sizeof(val));
	close(fd);
	return val;
}

static u64 read_pagemap(void *mem)
{
	return read_by_pfn("/proc/self/pagemap", (uintptr_t)mem / getpagesize());
}

bool is_mapped(void *mem)
{
	return read_pagemap(mem) & BIT_ULL(63);
}

u64 read_pagemap_pfn(void *mem)
{
	u64 entry = read_pagemap(mem);

	return entry & BIT_ULL(63) ? entry & GENMASK_ULL(54, 0) : 0;
}

u64 nr_cached_pages_in(int fd, u64 first, u64 nr)
{
	struct {
		u64 off, len;
	} range = { first * getpagesize(), nr * getpagesize() };
	struct {
		u64 nr_cache, nr_dirty, nr_writeback, nr_evicted, nr_recently_evicted;
	} stat = {};

	TEST_ASSERT(!syscall(__NR_cachestat, fd, &range, &stat, 0),
		    "cachestat() should succeed, errno %d", errno);
	return stat.nr_cache;
}

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

u64 now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return timespec_to_ns(ts);
}

static void write_sysctl(const char *name, const char *val)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/sys/vm/%s", name);
	if (!access(path, W_OK))
		TEST_ASSERT(write_text_file(path, val), "Writing %s should succeed", path);
}

void drop_caches(void)
{
	/* 4 turns the log message of 1 off, and 1 drains pages on their way to an LRU list. */
	write_sysctl(DROP, "4");
	write_sysctl(DROP, "1");
}

void read_kernel_counters(struct kernel_counters *c)
{
	drop_caches();
	/* Add up what other CPUs have counted. */
	write_sysctl("stat_refresh", "1");

	c->unevictable = read_vmstat("nr_unevictable");
	c->mlocked = read_vmstat("nr_mlock");
	c->free = read_vmstat("nr_free_pages");
	c->slab = read_vmstat("nr_slab_unreclaimable") + read_vmstat("nr_slab_reclaimable");
	c->memmap = read_vmstat("nr_memmap_pages") + read_vmstat("nr_memmap_boot_pages");
	c->sec_page_tables = read_vmstat("nr_sec_page_table_pages");
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

bool read_kcore(u64 phys, u64 *word)
{
	struct elf64_phdr phdr;
	struct elf64_hdr ehdr;
	bool ok = false;
	int fd, i;

	fd = open_path_or_exit("/proc/kcore", O_RDONLY);
	TEST_ASSERT_EQ(pread(fd, &ehdr, sizeof(ehdr), 0), sizeof(ehdr));
	for (i = 0; i < ehdr.e_phnum && !ok; i++) {
		TEST_ASSERT_EQ(pread(fd, &phdr, sizeof(phdr), ehdr.e_phoff + i * sizeof(phdr)),
			       sizeof(phdr));
		if (phdr.p_type != PT_LOAD || phys < phdr.p_paddr ||
		    phys >= phdr.p_paddr + phdr.p_memsz)
			continue;
		ok = pread(fd, word, sizeof(*word), phdr.p_offset + phys - phdr.p_paddr) ==
		     sizeof(*word);
	}
	close(fd);
	return ok;
}
