// SPDX-License-Identifier: GPL-2.0
/*
 * What does it cost a VM without private memory to live in guest_memfd instead of hugetlbfs?
 *
 * The host writes to each page of 1 GiB, as if it restored a snapshot, and the guest reads each
 * page. Both do so once more, when all is mapped. Then the host pins and unpins parts of the
 * memory, and unmaps it. Another guest has memory that was not touched before.
 */
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <fcntl.h>
#include <unistd.h>

#include "file.h"

#define SIZE			LARGE_SIZE
#define REPEATS			3
#define GUP_TEST		"/sys/kernel/debug/gup_test"

/* The interface of mm/gup_test.c, to pin memory for as long as one likes. */
struct pin_longterm_test {
	__u64 addr, size;
	__u32 flags;
};

#define PIN_START		_IOW('g', 7, struct pin_longterm_test)
#define PIN_STOP		_IO('g', 8)
#define PIN_WRITE		1

enum row {
	HOST_FIRST, HOST_FAULTS, HOST_AGAIN, GUEST_FIRST, GUEST_FAULTS, GUEST_AGAIN,
	PIN_4K, UNPIN_4K, PIN_2M, UNPIN_2M, PIN_ALL, UNPIN_ALL, PIPE_4K, UNMAP, CLOSE,
	GUEST_ALONE, NR_ROWS
};

static const char * const titles[NR_ROWS] = {
	[HOST_FIRST] = "the host writes to each page",
	[HOST_FAULTS] = "the host's faults",
	[HOST_AGAIN] = "the host writes again",
	[GUEST_FIRST] = "then the guest reads each page",
	[GUEST_FAULTS] = "the guest's faults",
	[GUEST_AGAIN] = "the guest reads again",
	[PIN_4K] = "pin 4K",
	[UNPIN_4K] = "unpin 4K",
	[PIN_2M] = "pin 2M",
	[UNPIN_2M] = "unpin 2M",
	[PIN_ALL] = "pin 1 GiB",
	[UNPIN_ALL] = "unpin 1 GiB",
	[PIPE_4K] = "4K into a pipe, and out",
	[UNMAP] = "delete the slot, and unmap",
	[CLOSE] = "close",
	[GUEST_ALONE] = "the guest reads each page, nothing allocated",
};

static __u64 values[NR_ROWS][REPEATS];

static void create(struct file *file, const struct kind *kind, bool hugetlbfs)
{
	*file = (struct file){
		.vm.ordinary = true, .kind = kind,
		.gmem = {
			.slot = 1, .base = LARGE_BASE, .size = SIZE, .huge_page_shift = kind->shift,
		},
	};
	vm_create(&file->vm);
	vm_add_ordinary(&file->vm, &file->gmem, hugetlbfs);
	/* The guest's own memory is mapped from here on, so that its faults don't count. */
	file_touch(file, file->gmem.base, 0);
}

static long host_faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt + usage.ru_majflt;
}

static __u64 host_write(struct file *file)
{
	volatile __u64 *words = (void *)file->gmem.shared;
	__u64 start = clock_now();

	for (__u64 i = 0; i < SIZE / sizeof(*words); i += PAGE / sizeof(*words))
		words[i] = i;
	return clock_now() - start;
}

static void pin(int fd, struct file *file, __u64 size, __u64 *pinned, __u64 *unpinned)
{
	struct pin_longterm_test test = {
		.addr = (unsigned long)file->gmem.shared + (size < SIZE ? SIZE / 2 : 0),
		.size = size, .flags = PIN_WRITE,
	};
	__u64 start = clock_now();

	if (ioctl(fd, PIN_START, &test))
		die("PIN_LONGTERM_TEST_START(%llu bytes)", size);
	*pinned = clock_now() - start;
	start = clock_now();
	if (ioctl(fd, PIN_STOP))
		die("PIN_LONGTERM_TEST_STOP");
	*unpinned = clock_now() - start;
}

static __u64 pipe_page(struct file *file)
{
	struct iovec iov = { .iov_base = file->gmem.shared + SIZE / 2, .iov_len = PAGE };
	static __u8 page[PAGE];
	int ends[2];
	__u64 start;

	if (pipe(ends))
		die("pipe()");
	start = clock_now();
	if (vmsplice(ends[1], &iov, 1, 0) != PAGE || read(ends[0], page, PAGE) != PAGE)
		die("vmsplice()");
	start = clock_now() - start;
	close(ends[0]);
	close(ends[1]);
	return start;
}

static void measure(const struct kind *kind, bool hugetlbfs, int i)
{
	int fd = open(GUP_TEST, O_RDWR);
	struct file file;
	__u64 start;

	create(&file, kind, hugetlbfs);
	values[HOST_FAULTS][i] = host_faults();
	values[HOST_FIRST][i] = host_write(&file);
	values[HOST_FAULTS][i] = host_faults() - values[HOST_FAULTS][i];
	values[HOST_AGAIN][i] = host_write(&file);
	values[GUEST_FAULTS][i] = guest_faults();
	values[GUEST_FIRST][i] = file_touch(&file, file.gmem.base, SIZE);
	values[GUEST_FAULTS][i] = guest_faults() - values[GUEST_FAULTS][i];
	values[GUEST_AGAIN][i] = file_touch(&file, file.gmem.base, SIZE);
	if (fd < 0)
		die(GUP_TEST);
	pin(fd, &file, PAGE, &values[PIN_4K][i], &values[UNPIN_4K][i]);
	pin(fd, &file, 2 * MIB, &values[PIN_2M][i], &values[UNPIN_2M][i]);
	pin(fd, &file, SIZE, &values[PIN_ALL][i], &values[UNPIN_ALL][i]);
	close(fd);
	values[PIPE_4K][i] = pipe_page(&file);
	start = clock_now();
	vm_unbind_gmem(&file.vm, &file.gmem);
	values[UNMAP][i] = clock_now() - start;
	start = clock_now();
	close(file.gmem.fd);
	values[CLOSE][i] = clock_now() - start;
	vm_destroy(&file.vm);

	create(&file, kind, hugetlbfs);
	values[GUEST_ALONE][i] = file_touch(&file, file.gmem.base, SIZE);
	file_destroy(&file);
}

int main(int argc, char **argv)
{
	bench_begin(argc, argv, "ordinary");

	printf("how\tin place\n");
	for (unsigned int nr = 0; nr < NR_KINDS; nr++) {
		if (kinds[nr].shift == 12)
			continue;
		for (int hugetlbfs = 1; hugetlbfs >= 0; hugetlbfs--) {
			for (int i = 0; i < REPEATS; i++)
				measure(&kinds[nr], hugetlbfs, i);
			begin_section("%s: %s", kinds[nr].name,
				      hugetlbfs ? "hugetlbfs" : "guest_memfd");
			for (int row = 0; row < NR_ROWS; row++)
				print_row(titles[row], values[row], REPEATS);
		}
	}
	return bench_end();
}
