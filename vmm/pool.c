// SPDX-License-Identifier: GPL-2.0
/* The hugetlb pool as the administrator sees it, and a line of /proc/meminfo. */
#include <string.h>

#include "vmm.h"

static long read_counter(__u64 page_size, const char *name)
{
	char path[128];
	long value = -1;
	FILE *file;

	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%llukB/%s",
		 (page_size / KIB), name);
	file = fopen(path, "r");
	if (!file)
		return -1;
	if (fscanf(file, "%ld", &value) != 1)
		value = -1;
	fclose(file);
	return value;
}

struct pool pool_read(__u64 page_size)
{
	struct pool pool = {
		.total    = read_counter(page_size, "nr_hugepages"),
		.free     = read_counter(page_size, "free_hugepages"),
		.reserved = read_counter(page_size, "resv_hugepages"),
		.surplus  = read_counter(page_size, "surplus_hugepages"),
	};

	pool.there = pool.total >= 0;
	return pool;
}

bool pool_same(const struct pool *a, const struct pool *b)
{
	return a->there == b->there && a->total == b->total && a->free == b->free &&
	       a->reserved == b->reserved && a->surplus == b->surplus;
}

long meminfo_kib(const char *field)
{
	size_t len = strlen(field);
	long value = -1;
	char line[128];
	FILE *file;

	file = fopen("/proc/meminfo", "r");
	if (!file)
		return -1;
	while (value < 0 && fgets(line, sizeof(line), file))
		if (!strncmp(line, field, len) && line[len] == ':')
			sscanf(line + len + 1, "%ld", &value);
	fclose(file);
	return value;
}
