// SPDX-License-Identifier: GPL-2.0
/*
 * Counters of the kernel, for costs that instructions don't show: memory, xarray nodes, faults
 * of the guest, and work that workers do later.
 */
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <linux/perf_event.h>

#include "counters.h"
#include "vm.h"

static long read_vmstat(const char *name)
{
	FILE *file = fopen("/proc/vmstat", "r");
	char line[64];
	long value;

	if (!file)
		die("/proc/vmstat");
	while (fscanf(file, "%63s %ld", line, &value) == 2) {
		if (!strcmp(line, name)) {
			fclose(file);
			return value;
		}
	}
	die("/proc/vmstat has no %s", name);
}

/* Returns the free pages in per-CPU lists, which nr_free_pages doesn't include. */
static long percpu_free_pages(void)
{
	FILE *file = fopen("/proc/zoneinfo", "r");
	long count, sum = 0;
	char line[128];

	if (!file)
		die("/proc/zoneinfo");
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, " count: %ld", &count) == 1)
			sum += count;
	}
	fclose(file);
	return sum;
}

/* Makes the kernel add up what each CPU has counted. */
static void refresh_vmstat(void)
{
	int fd = open("/proc/sys/vm/stat_refresh", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, "1", 1) != 1)
		die("/proc/sys/vm/stat_refresh");
	close(fd);
}

static long slab_pages(void)
{
	refresh_vmstat();
	return read_vmstat("nr_slab_reclaimable") + read_vmstat("nr_slab_unreclaimable");
}

void read_memory(struct kernel_memory *memory)
{
	refresh_vmstat();
	memory->used = -(read_vmstat("nr_free_pages") + percpu_free_pages());
	memory->struct_pages = read_vmstat("nr_memmap_pages") +
			       read_vmstat("nr_memmap_boot_pages");
	memory->user_tables = read_vmstat("nr_page_table_pages");
	memory->guest_tables = read_vmstat("nr_sec_page_table_pages");
	memory->slab = slab_pages();
}

/*
 * The nodes of xarrays, such as the page cache, are from a slab cache. There may be no slabinfo,
 * so the last slab of the cache is filled up before and afterwards, with nodes of another file:
 * each page that is written to this file takes one node.
 */
#define NODE_PAGES		64ULL
/* Nodes on the next level come in between; align_fill() skips the places where they do. */
#define MAX_PER_SLAB		28
#define MAX_FILLERS		4096
#define GRACE_PERIOD_US		(500 * 1000)

static struct {
	int fd;			/* of the file, 0: not yet */
	__u64 next;		/* the node to be allocated next */
	long per_slab, slab_pages, slab_before;
} fill;

static void fill_one(void)
{
	if (pwrite(fill.fd, "", 1, fill.next++ * NODE_PAGES * PAGE) != 1)
		die("a page of a memfd");
}

/* Adds nodes until there is a new slab, with one node in it. Returns how many it added. */
static int fill_slab(void)
{
	long before = slab_pages();
	int nr = 0;

	do {
		if (++nr > MAX_FILLERS)
			die("nodes come from nowhere");
		fill_one();
		fill.slab_pages = slab_pages() - before;
	} while (!fill.slab_pages);
	return nr;
}

static void align_fill(void)
{
	while (fill.next % NODE_PAGES > NODE_PAGES - 2 * MAX_PER_SLAB || !(fill.next % NODE_PAGES))
		fill_one();
}

bool count_nodes_begin(void)
{
	if (!fill.fd) {
		fill.fd = memfd_create("nodes", MFD_CLOEXEC);
		if (fill.fd < 0)
			die("memfd_create()");
	}
	align_fill();
	fill_slab();
	align_fill();
	fill_slab();
	/* Other lists have no free nodes anymore: this fills all of a slab. */
	fill.per_slab = fill_slab();
	align_fill();
	if (fill_slab() > fill.per_slab || fill.per_slab > MAX_PER_SLAB)
		return false;
	fill.slab_before = slab_pages();
	return true;
}

long count_nodes_end(void)
{
	long slabs;

	/* Nodes that were needed only for a moment are freed after a grace period. */
	usleep(GRACE_PERIOD_US);
	slabs = (slab_pages() - fill.slab_before) / fill.slab_pages;
	return slabs * fill.per_slab + fill.per_slab - fill_slab();
}

__u64 guest_faults(void)
{
	FILE *file = fopen("/sys/kernel/debug/kvm/pf_fixed", "r");
	__u64 value;

	if (!file || fscanf(file, "%llu", &value) != 1)
		die("/sys/kernel/debug/kvm/pf_fixed");
	fclose(file);
	return value;
}

static int tlb_fd = -1;

bool count_tlb_begin(void)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_HW_CACHE,
		.size = sizeof(attr),
		.config = PERF_COUNT_HW_CACHE_DTLB | PERF_COUNT_HW_CACHE_OP_READ << 8 |
			  PERF_COUNT_HW_CACHE_RESULT_MISS << 16,
		.exclude_host = 1,
	};

	tlb_fd = syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
	return tlb_fd >= 0;
}

__u64 count_tlb_end(void)
{
	__u64 value;

	if (read(tlb_fd, &value, sizeof(value)) != sizeof(value))
		die("read(perf event)");
	close(tlb_fd);
	return value;
}

static bool is_worker(const char *pid)
{
	char path[300], name[32] = "";
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%s/comm", pid);
	file = fopen(path, "r");
	if (!file)
		return false;
	if (!fgets(name, sizeof(name), file))
		name[0] = 0;
	fclose(file);
	return !strncmp(name, "kworker/", strlen("kworker/"));
}

/* Returns the clock of another process, as clock_getcpuclockid() does. */
static clockid_t process_clock(int pid)
{
	enum { CPUCLOCK_SCHED = 2 };

	return (clockid_t)(~(unsigned int)pid << 3 | CPUCLOCK_SCHED);
}

__u64 workers_time(void)
{
	DIR *dir = opendir("/proc");
	struct timespec time;
	struct dirent *entry;
	__u64 sum = 0;

	if (!dir)
		die("/proc");
	while ((entry = readdir(dir))) {
		if (!isdigit(entry->d_name[0]) || !is_worker(entry->d_name))
			continue;
		if (!clock_gettime(process_clock(atoi(entry->d_name)), &time))
			sum += time.tv_sec * 1000000000ULL + time.tv_nsec;
	}
	closedir(dir);
	return sum;
}
