// SPDX-License-Identifier: GPL-2.0-only
/*
 * Actors that have the kernel look at struct pages by pfn, no matter how the pages are used:
 * files in /proc and /sys, compaction, and a search for contiguous memory.  The test checks
 * that the other actors don't notice.
 */
#include "guest_memfd_stress_host.h"

#define UNITS			"/sys/kernel/debug/guestmem/units"
#define COMPACT_MEMORY		"/proc/sys/vm/compact_memory"
/* As many as a page of the vmemmap has struct pages. */
#define WALK_PAGES		64
/* To read the list takes invalidate_lock, so read it rarely. */
#define WALK_MS			100

/* Return the first pfn of a unit that is split, or 0 if there is none. */
static u64 find_split_unit(struct actor *a)
{
	FILE *f = fopen(UNITS, "r");
	u64 pfn, found = 0;
	char line[128];
	int nr = 0, order;

	TEST_ASSERT(f, "Cannot open " UNITS);
	while (fscanf(f, "%127[^\n]%*[^\n]", line) == 1 && fgetc(f) != EOF) {
		if (sscanf(line, "pfn 0x%lx order %d", &pfn, &order) == 2 &&
		    PAGE_SIZE << order == world->unit_size && !pick(&a->rng, ++nr))
			found = pfn;
	}
	fclose(f);
	return found;
}

/* Files with something about each page frame. */
static const struct pfn_file {
	const char *path;
	int bits;
	bool writable;
} pfn_files[] = {
	{ "/proc/kpageflags", 64 },
	{ "/proc/kpagecount", 64 },
	{ "/proc/kpagecgroup", 64 },
	{ "/sys/kernel/mm/page_idle/bitmap", 1, true },
};

#define NR_PFN_FILES	ARRAY_SIZE(pfn_files)

static void walk(int fd, const struct pfn_file *file, u64 pfn)
{
	const size_t size = WALK_PAGES * file->bits / 8;
	const off_t offset = pfn * file->bits / 8;
	u64 words[WALK_PAGES];

	TEST_ASSERT(pread(fd, words, size, offset) == size, "Cannot read %s", file->path);
	if (!file->writable)
		return;
	memset(words, 0xff, size);
	TEST_ASSERT(pwrite(fd, words, size, offset) == size, "Cannot write %s", file->path);
}

bool has_walkers(void)
{
	int i;

	for (i = 0; i < NR_PFN_FILES; i++) {
		if (access(pfn_files[i].path, R_OK))
			return false;
	}
	return !access(COMPACT_MEMORY, W_OK) && hugetlb_size_supported(SZ_1G) &&
	       guestmem_has_units();
}

void *walk_thread(void *data)
{
	struct actor *a = data;
	int fds[NR_PFN_FILES], i;
	u64 pfn, chunk;
	s64 end;

	for (i = 0; i < NR_PFN_FILES; i++) {
		fds[i] = open(pfn_files[i].path, pfn_files[i].writable ? O_RDWR : O_RDONLY);
		TEST_ASSERT(fds[i] >= 0, "Cannot open %s", pfn_files[i].path);
	}

	while (!stopped(world)) {
		pfn = find_split_unit(a);
		if (!pfn)
			pause_up_to_us(a, WALK_MS * 1000);
		end = now_ms() + WALK_MS;
		while (pfn && now_ms() < end && !stopped(world)) {
			i = pick(&a->rng, NR_PFN_FILES);
			chunk = pick(&a->rng, world->unit_size / PAGE_SIZE / WALK_PAGES);
			walk(fds[i], &pfn_files[i], pfn + chunk * WALK_PAGES);
			count(world, EVENT_walks);
		}
	}

	for (i = 0; i < NR_PFN_FILES; i++)
		close(fds[i]);
	return NULL;
}

void *compact_thread(void *data)
{
	struct actor *a = data;

	while (!stopped(world)) {
		TEST_ASSERT(write_text_file(COMPACT_MEMORY, "1"), "Cannot compact memory");
		count(world, EVENT_compactions);
		pause_up_to_us(a, 5000);
	}
	return NULL;
}

/* Look for a page of 1G, and give it back if there is one.  Not while files use such pages. */
void *contig_thread(void *data)
{
	struct hugetlb_pool pool;
	struct actor *a = data;

	while (!stopped(world) && world->unit_size < SZ_1G) {
		hugetlb_read_pool(SZ_1G, &pool);
		hugetlb_write_attr(SZ_1G, "nr_hugepages", pool.total + 1);
		hugetlb_resize_pool(&pool);
		count(world, EVENT_searches_for_contiguous_memory);
		pause_up_to_us(a, 5000);
	}
	return NULL;
}
