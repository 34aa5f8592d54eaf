// SPDX-License-Identifier: GPL-2.0
/*
 * Write all of the guest's memory, then verify all of it.
 *
 *   fill direct    before the kernel has the memory: maps the range through /dev/mem. This
 *                  reaches every page. A program that has to ask the allocator can't do so,
 *                  as the allocator keeps some pages for itself.
 *   fill program   after the memory was hot-added: an ordinary program. It asks for as much
 *                  memory as is free, and looks up which physical pages it was given.
 *   fill memory    the same without private memory, for not quite as much.
 *
 * Each 64-bit word gets a value of its own, so that the program finds a page that shows up in
 * two places, or in the place of another page. It writes all words before it verifies the first
 * one, so that it also finds a page that lost its contents meanwhile. "fill program" does so
 * for one word of each cache line only: its purpose is to show where its pages come from.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/types.h>

#include "port.h"

#define PAGE		4096ULL
#define WORDS		(PAGE / sizeof(__u64))
#define EVERY_WORD	1
#define EVERY_LINE	8
#define PAGEMAP_PRESENT	0x8000000000000000ULL
#define PAGEMAP_PFN	((1ULL << 55) - 1)

static inline __u64 pattern(__u64 index, __u64 seed)
{
	return (index + seed) * 0x9e3779b97f4a7c15ULL;
}

/* Inlined with a constant step, so that the compiler unrolls it: faster on an emulated CPU. */
static inline __attribute__((always_inline))
void write_page(__u64 *words, __u64 index, __u64 seed, int step)
{
	for (__u64 i = 0; i < WORDS; i += step)
		words[i] = pattern(index + i, seed);
}

static inline __attribute__((always_inline))
bool page_is_right(const __u64 *words, __u64 index, __u64 seed, int step)
{
	__u64 difference = 0;

	for (__u64 i = 0; i < WORDS; i += step)
		difference |= words[i] ^ pattern(index + i, seed);
	return !difference;
}

static inline __attribute__((always_inline))
__u64 write_and_verify(__u64 *map, __u64 pages, __u64 seed, int step)
{
	__u64 good = 0;

	for (__u64 page = 0; page < pages; page++)
		write_page(map + page * WORDS, page * WORDS, seed, step);
	/* Have the compiler read memory again instead of values that it remembers. */
	asm volatile("" ::: "memory");
	for (__u64 page = 0; page < pages; page++) {
		bool right = page_is_right(map + page * WORDS, page * WORDS, seed, step);

		if (!right && good == page)
			printf("fill: page %llu is not what was written\n", page);
		good += right;
	}
	return good;
}

static void private_range(__u64 *base, __u64 *size)
{
	const char *private = getenv("private");

	if (!private || sscanf(private, "%llx,%llx", base, size) != 2) {
		printf("fill: no private=BASE,SIZE in the environment\n");
		exit(1);
	}
}

static int fill_direct(void)
{
	__u64 base, size, good;
	__u64 *map;
	int fd;

	private_range(&base, &size);
	fd = open("/dev/mem", O_RDWR);
	map = fd < 0 ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, base);
	if (map == MAP_FAILED) {
		printf("fill: /dev/mem: %s\n", strerror(errno));
		return 1;
	}
	good = write_and_verify(map, size / PAGE, base, EVERY_WORD);
	printf("wrote and verified %llu of %llu pages, the whole range\n", good, size / PAGE);
	outl(good, PORT_VERIFIED);
	return good == size / PAGE ? 0 : 1;
}

/* Returns how many of the pages behind @map are in the private range. */
static __u64 count_private(const void *map, __u64 len)
{
	__u64 base, size, entries[512], count = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY);

	private_range(&base, &size);
	for (__u64 done = 0; fd >= 0 && done < len / PAGE; done += 512) {
		__u64 nr = len / PAGE - done < 512 ? len / PAGE - done : 512;

		off_t pos = ((unsigned long)map / PAGE + done) * 8;

		if (pread(fd, entries, nr * 8, pos) != (ssize_t)(nr * 8))
			break;
		for (__u64 i = 0; i < nr; i++) {
			__u64 addr = (entries[i] & PAGEMAP_PFN) * PAGE;

			if (entries[i] & PAGEMAP_PRESENT)
				count += addr >= base && addr < base + size;
		}
	}
	close(fd);
	return count;
}

/* Fills the memory that Linux can give away, less a little that Linux needs itself. */
static int fill_memory(void)
{
	FILE *file = fopen("/proc/meminfo", "r");
	__u64 total = 0, available = 0, pages, good;
	char line[256];
	__u64 *map;

	while (file && fgets(line, sizeof(line), file)) {
		if (!total)
			sscanf(line, "MemTotal: %llu", &total);
		if (!available)
			sscanf(line, "MemAvailable: %llu", &available);
	}
	if (file)
		fclose(file);
	pages = available * 1024 / PAGE * 7 / 8;
	map = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!pages || map == MAP_FAILED) {
		printf("fill: mmap(%llu pages): %s\n", pages, strerror(errno));
		return 1;
	}
	good = write_and_verify(map, pages, pages, EVERY_WORD);
	printf("Linux has %llu MiB; a program wrote and verified %llu of %llu pages\n",
	       total / 1024, good, pages);
	outl(good, PORT_VERIFIED);
	return good == pages ? 0 : 1;
}

/* Returns the number of free pages of the movable zone, above its reserve for emergencies. */
static __u64 free_movable(void)
{
	FILE *file = fopen("/proc/zoneinfo", "r");
	__u64 nr_free = 0, high = 0;
	int movable = 0;
	char line[256];

	while (file && fgets(line, sizeof(line), file)) {
		if (!strncmp(line, "Node", 4))
			movable = !!strstr(line, "Movable");
		if (movable && !nr_free)
			sscanf(line, " pages free %llu", &nr_free);
		if (movable && !high)
			sscanf(line, " high %llu", &high);
	}
	if (file)
		fclose(file);
	return nr_free > high ? nr_free - high : 0;
}

static int fill_program(void)
{
	__u64 pages = free_movable(), good, private;
	__u64 *map;

	map = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!pages || map == MAP_FAILED) {
		printf("fill: mmap(%llu pages): %s\n", pages, strerror(errno));
		return 1;
	}
	good = write_and_verify(map, pages, pages, EVERY_LINE);
	private = count_private(map, pages * PAGE);
	printf("an ordinary program wrote and verified %llu of %llu pages, %llu of them private\n",
	       good, pages, private);
	/* Linux may give out a few ordinary pages near the end of what is free. */
	return good == pages && private >= pages - pages / 64 ? 0 : 1;
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 2 && !strcmp(argv[1], "direct"))
		return fill_direct();
	if (argc == 2 && !strcmp(argv[1], "program"))
		return fill_program();
	if (argc == 2 && !strcmp(argv[1], "memory"))
		return fill_memory();
	printf("usage: fill direct|program|memory\n");
	return 64;
}
