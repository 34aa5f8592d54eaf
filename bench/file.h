/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A machine with one file of guest memory, and an operation on it that is timed. Benchmarks that
 * do the same to files of 4K pages, of 2M and of 1G huge pages share this.
 */
#ifndef BENCH_FILE_H
#define BENCH_FILE_H

#include "counters.h"
#include "measure.h"
#include "vm.h"

/* The pages that a file is made of. */
struct kind {
	const char *name;
	int shift;
};

#define NR_KINDS		3
extern const struct kind kinds[NR_KINDS];	/* 4K, 2M, 1G */

struct file {
	struct vm vm;
	struct gmem gmem;
	const struct kind *kind;
	__u64 unit, unit_size;		/* a huge page in the middle, or the middle itself */
};

/* The machine must be one that converts in place. The file is private, and empty. */
void file_create(struct file *file, const struct kind *kind, __u64 size, bool unbound);
void file_destroy(struct file *file);

void file_populate(struct file *file, __u64 gpa, __u64 size);
void file_punch(struct file *file, __u64 gpa, __u64 size);
/* The guest reads a word of each page. Returns the number of instructions. */
__u64 file_touch(struct file *file, __u64 gpa, __u64 size);
/* Converts, and returns the number of instructions. */
__u64 file_convert(struct file *file, __u64 gpa, __u64 size, bool to_shared);

/* Numbers that are the same each time. */
void random_begin(void);
__u64 random_below(__u64 below);
/* Fills an array with the numbers below @nr, in random order. */
void random_order(__u32 *order, __u32 nr);

/* Less than nothing is nothing: other tasks may have freed some memory meanwhile. */
__u64 kib(long pages);

/* Print a row of several values, whose median is returned, or a row of one value. */
__u64 print_values(__u64 *values, int nr, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
void print_value(__u64 value, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void begin_section(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Begins and ends a benchmark. Returns whether it was asked to be quick. */
bool bench_begin(int argc, char **argv, const char *name);
int bench_end(void);

#endif
