// SPDX-License-Identifier: GPL-2.0
/*
 * What are the units of the file made of?
 *
 * A unit is one piece as long as it is all private, or all shared and this process has used none
 * of it. Else it is the smallest number of pieces for which three things hold:
 *
 *   - a piece is a naturally aligned power of two of pages
 *   - all of it is private, or all of it is shared
 *   - a page that this process has used, and so might have pinned, is a piece of its own
 *
 * A file that is all of the guest's memory, and shared (--shared), can't convert. There, the last
 * of these goes for a unit: a process that uses one of its pages has the unit in one entry of its
 * page table, and so in one piece.
 *
 * This file computes the pieces from the knowledge of a VMM: which pages it has converted, and
 * which pages are in its page table. It also reads the pieces from debugfs, where a kernel with
 * CONFIG_DEBUG_GUESTMEM lists the units that are split, and compares the two:
 *
 *   pfn 0x140000 order 18 out 0 ino 41 index 0x0 folios 19: 0*2 1 2 3 4 ... 17
 *
 * A VMM needs nothing of all this to work. (The kernel never merges shared pages, so the order of
 * conversions matters: two neighbours that were shared by two calls and not used since are two
 * pieces, but this file computes one. The guests here don't do that.)
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm.h"

#define UNITS			"/sys/kernel/debug/guestmem/units"
#define PAGEMAP_PRESENT		BIT_ULL(63)

static int order_of(__u64 pages)
{
	return __builtin_ctzll(pages);
}

/* Marks the pages of the file that are in this process's page table. */
static void read_mapped(const struct vm *vm, struct layout *layout)
{
	__u64 entries[512], first = (unsigned long)vm->view / PAGE;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		die(errno, NULL, "open(\"/proc/self/pagemap\")");
	for (__u64 page = 0; page < layout->pages; page += ARRAY_SIZE(entries)) {
		ssize_t n = pread(fd, entries, sizeof(entries), (first + page) * sizeof(*entries));

		if (n < 0)
			die(errno, NULL, "pread(pagemap)");
		for (__u64 i = 0; i < n / sizeof(*entries) && page + i < layout->pages; i++)
			if (entries[i] & PAGEMAP_PRESENT)
				layout->state[page + i] = PAGE_HOST;
	}
	close(fd);
}

/* Computes the largest blocks of one state. @used pages in PAGE_HOST are a block of their own. */
static void compute(const __u8 *state, __u8 *order, __u64 nr, __u64 used)
{
	__u64 same = 1;

	while (same < nr && state[same] == state[0])
		same++;
	if (same == nr && (state[0] != PAGE_HOST || nr <= used)) {
		memset(order, order_of(nr), nr);
		return;
	}
	compute(state, order, nr / 2, used);
	compute(state + nr / 2, order + nr / 2, nr / 2, used);
}

/* Parses "0*2 1 2 17": orders of pieces, one after the other; 0*2 is two pieces of order 0. */
static void parse_orders(const char *text, __u8 *order, __u64 pages)
{
	__u64 page = 0;
	char *end;

	for (;; text = end) {
		unsigned long value = strtoul(text, &end, 10), times = 1;

		if (end == text)
			break;
		if (*end == '*')
			times = strtoul(end + 1, &end, 10);
		for (; times; times--, page += 1ULL << value) {
			if (value >= 64 || page + (1ULL << value) > pages)
				die(0, NULL, UNITS ": pieces of more than a unit");
			memset(order + page, value, 1ULL << value);
		}
	}
	if (page != pages)
		die(0, NULL, UNITS ": pieces of %llu pages, a unit has %llu", page, pages);
}

/* Reads the pieces from debugfs; false if the kernel has no list. Units not listed are whole. */
static bool read_told(const struct vm *vm, struct layout *layout, __u8 *order)
{
	__u64 ino, index, pieces, units, bad;
	char *line = NULL;
	struct stat st;
	size_t len = 0;
	int used = 0;
	FILE *file;

	file = fopen(UNITS, "r");
	if (!file)
		return false;
	if (fstat(vm->gmem_fd, &st) < 0)
		die(errno, NULL, "fstat(guest_memfd)");
	memset(order, order_of(layout->unit), layout->pages);
	while (getline(&line, &len, file) > 0) {
		if (sscanf(line, "%llu units, %llu bad", &units, &bad) == 2 && bad)
			die(0, "the kernel found that by itself", UNITS ": %s", line);
		if (sscanf(line, "pfn %*x order %*u out %*u ino %llu index %llx folios %llu:%n",
			   &ino, &index, &pieces, &used) == 3 && ino == st.st_ino)
			parse_orders(line + used, order + index, layout->unit);
	}
	free(line);
	fclose(file);
	return true;
}

static void *array(__u64 pages)
{
	void *bytes = calloc(pages, 1);

	if (!bytes)
		die(errno, NULL, "no memory for %llu bytes", pages);
	return bytes;
}

struct layout *layout_read(struct vm *vm)
{
	__u64 used = vm->opt->shared ? vm->opt->page_size / PAGE : 1;
	struct layout *layout = array(sizeof(*layout));
	__u8 *told;

	layout->pages = vm->file_size / PAGE;
	layout->unit = vm->opt->page_size / PAGE;
	layout->state = array(layout->pages);
	layout->order = array(layout->pages);
	told = array(layout->pages);

	for (__u64 page = 0; page < layout->pages; page++)
		layout->state[page] = vm->shared[page] ? PAGE_SHARED : PAGE_PRIVATE;
	read_mapped(vm, layout);
	for (__u64 page = 0; page < layout->pages; page += layout->unit)
		compute(layout->state + page, layout->order + page, layout->unit, used);

	layout->told = layout->unit == 1 || read_told(vm, layout, told);
	if (layout->told && layout->unit > 1) {
		for (__u64 page = 0; page < layout->pages; page++)
			layout->wrong += told[page] != layout->order[page];
		memcpy(layout->order, told, layout->pages);
	}
	free(told);
	return layout;
}

void layout_free(struct layout *layout)
{
	if (!layout)
		return;
	free(layout->state);
	free(layout->order);
	free(layout);
}

/* Returns how many pieces a range has that begins and ends with a piece. */
__u64 layout_pieces(const struct layout *layout, __u64 page, __u64 nr)
{
	__u64 pieces = 0;

	for (__u64 end = page + nr; page < end; page += 1ULL << layout->order[page])
		pieces++;
	return pieces;
}

__u64 layout_count(const struct layout *layout, __u64 page, __u64 nr, int state)
{
	__u64 count = 0;

	for (__u64 end = page + nr; page < end; page++)
		count += layout->state[page] == state;
	return count;
}

/* Computes the pages by which KVM maps the file, in three sizes, if the guest has used it all. */
void layout_mapping(const struct layout *layout, struct stats *stats)
{
	memset(stats, 0, sizeof(*stats));
	for (__u64 page = 0; page < layout->pages; page += 1ULL << layout->order[page]) {
		__u64 size = PAGE << layout->order[page];

		if (size >= GIB)
			stats->pages_1g += size / GIB;
		else if (size >= BLOCK)
			stats->pages_2m += size / BLOCK;
		else
			stats->pages_4k += size / PAGE;
	}
}

/*
 * Draws one character for each cell. In a file that is private at first, cells with shared pages
 * stand out; in a file that is shared, cells with pages that this process has used.
 */
void layout_cells(const struct layout *layout, __u64 page, __u64 nr, __u64 pages_per_cell,
		  bool shared, char *cells)
{
	for (__u64 end = page + nr; page < end; page += pages_per_cell) {
		__u64 host = layout_count(layout, page, pages_per_cell, PAGE_HOST);
		__u64 private = layout_count(layout, page, pages_per_cell, PAGE_PRIVATE);
		__u64 piece = 1ULL << layout->order[page];

		if (shared && host)
			*cells++ = 'h';
		else if (!shared && private < pages_per_cell)
			*cells++ = 's';
		else if (piece < pages_per_cell)
			*cells++ = '+';
		else
			*cells++ = page % piece ? '#' : '[';
	}
	*cells = '\0';
}

/* Prints "256M 128M 2x64M, 9 smaller": the pieces by size, down to 2M in a unit of 1G. */
void layout_list(FILE *out, const struct layout *layout, __u64 page, __u64 nr)
{
	__u64 count[64] = { 0 }, smaller = 0;
	const char *separator = "";

	for (__u64 end = page + nr; page < end; page += 1ULL << layout->order[page])
		count[layout->order[page]]++;
	for (int order = 63; order >= 0; order--) {
		if (!count[order])
			continue;
		if (1ULL << order < layout->unit / 512) {
			smaller += count[order];
			continue;
		}
		fputs(separator, out);
		separator = " ";
		if (count[order] > 1)
			fprintf(out, "%llux", count[order]);
		fputs(size_name(PAGE << order), out);
	}
	if (smaller)
		fprintf(out, "%s%llu smaller", *separator ? ", " : "", smaller);
}
