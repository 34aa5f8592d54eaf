// SPDX-License-Identifier: GPL-2.0
/* A machine with one file of guest memory. */
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "file.h"

const struct kind kinds[NR_KINDS] = {
	{ "4K", 12 }, { "2M", 21 }, { "1G", 30 },
};

void file_create(struct file *file, const struct kind *kind, __u64 size, bool unbound)
{
	*file = (struct file){
		.gmem = { .slot = 1, .base = LARGE_BASE, .size = size, .unbound = unbound },
		.kind = kind,
		.unit_size = 1ULL << kind->shift,
	};
	if (kind->shift > 12) {
		file->gmem.flags = GUEST_MEMFD_FLAG_HUGETLB;
		file->gmem.huge_page_shift = kind->shift;
	}
	file->unit = file->gmem.base + (size / 2 & -file->unit_size);
	vm_create(&file->vm);
	if (!file->vm.in_place)
		die("this kernel doesn't convert in place");
	vm_add_gmem(&file->vm, &file->gmem);
	/* The guest's own memory is mapped from here on, so that its faults don't count. */
	file_touch(file, file->gmem.base, 0);
}

void file_destroy(struct file *file)
{
	vm_del_gmem(&file->vm, &file->gmem);
	vm_destroy(&file->vm);
}

void file_populate(struct file *file, __u64 gpa, __u64 size)
{
	if (fallocate(file->gmem.fd, FALLOC_FL_KEEP_SIZE, gpa - file->gmem.base, size))
		die("fallocate()");
}

void file_punch(struct file *file, __u64 gpa, __u64 size)
{
	if (fallocate(file->gmem.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		      gpa - file->gmem.base, size))
		die("fallocate(PUNCH_HOLE)");
}

__u64 file_touch(struct file *file, __u64 gpa, __u64 size)
{
	__u64 start = clock_now();

	vm_guest(&file->vm, GUEST_READ, gpa, size, 0);
	return clock_now() - start;
}

__u64 file_convert(struct file *file, __u64 gpa, __u64 size, bool to_shared)
{
	__u64 start = clock_now();

	gmem_convert(&file->gmem, gpa, size, to_shared);
	return clock_now() - start;
}

static __u64 random_state;

void random_begin(void)
{
	random_state = 1;
}

__u64 random_below(__u64 below)
{
	random_state = random_state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (random_state >> 33) % below;
}

void random_order(__u32 *order, __u32 nr)
{
	for (__u32 i = 0; i < nr; i++) {
		__u32 other = random_below(i + 1);

		order[i] = order[other];
		order[other] = i;
	}
}

__u64 kib(long pages)
{
	return pages < 0 ? 0 : pages * (PAGE / 1024);
}

__u64 print_values(__u64 *values, int nr, const char *fmt, ...)
{
	char title[100];
	va_list args;

	va_start(args, fmt);
	vsnprintf(title, sizeof(title), fmt, args);
	va_end(args);
	return print_row(title, values, nr);
}

void print_value(__u64 value, const char *fmt, ...)
{
	char title[100];
	va_list args;

	va_start(args, fmt);
	vsnprintf(title, sizeof(title), fmt, args);
	va_end(args);
	print_row(title, &value, 1);
}

void begin_section(const char *fmt, ...)
{
	va_list args;

	printf("section\t");
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\n");
}

bool bench_begin(int argc, char **argv, const char *name)
{
	bool quick = argc == 2 && !strcmp(argv[1], "--quick");

	if (argc > 1 && !quick) {
		fprintf(stderr, "usage: %s [--quick]\n", name);
		exit(64);
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	return quick;
}

int bench_end(void)
{
	printf("complete\n");
	return 0;
}
