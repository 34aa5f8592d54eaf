// SPDX-License-Identifier: GPL-2.0-only
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

/* io_uring.h needs definitions that tools/'s header of types does not bring. */
#include <linux/stddef.h>
#include <linux/io_uring.h>

#include "../../../../../mm/gup_test.h"
#include "memory_holder.h"

bool gup_open(struct holder *h)
{
	h->fd[0] = open(GUP_TEST, O_RDWR);
	return h->fd[0] >= 0;
}

static bool gup_hold(struct holder *h, void *mem, int nr, u32 flags)
{
	struct pin_longterm_test args = {
		.addr = (uintptr_t)mem,
		.size = nr * getpagesize(),
		.flags = flags,
	};

	return !ioctl(h->fd[0], PIN_LONGTERM_TEST_START, &args);
}

static bool gup_hold_read(struct holder *h, void *mem, int nr)
{
	return gup_hold(h, mem, nr, 0);
}

bool gup_hold_write(struct holder *h, void *mem, int nr)
{
	return gup_hold(h, mem, nr, PIN_LONGTERM_TEST_FLAG_USE_WRITE);
}

static bool gup_hold_fast(struct holder *h, void *mem, int nr)
{
	return gup_hold(h, mem, nr, PIN_LONGTERM_TEST_FLAG_USE_WRITE |
				    PIN_LONGTERM_TEST_FLAG_USE_FAST);
}

void gup_read(struct holder *h, void *to)
{
	u64 addr = (uintptr_t)to;

	TEST_ASSERT(!ioctl(h->fd[0], PIN_LONGTERM_TEST_READ, &addr),
		    "Reading pinned pages should succeed, errno %d", errno);
}

void gup_release(struct holder *h)
{
	TEST_ASSERT(!ioctl(h->fd[0], PIN_LONGTERM_TEST_STOP), "Unpinning should succeed");
}

bool vmsplice_open(struct holder *h)
{
	return !pipe(h->fd) && fcntl(h->fd[0], F_SETPIPE_SZ, HOLDER_PAGES * getpagesize()) >= 0;
}

static void read_pages(int fd, void *to, int nr)
{
	const int page_size = getpagesize();
	int i;

	for (i = 0; i < nr; i++)
		TEST_ASSERT(read(fd, to + i * page_size, page_size) == page_size,
			    "read() from a pipe should succeed");
}

void vmsplice_release(struct holder *h)
{
	char buf[getpagesize()];

	for (; h->nr; h->nr--)
		read_pages(h->fd[0], buf, 1);
}

bool vmsplice_hold(struct holder *h, void *mem, int nr)
{
	struct iovec iov = { .iov_base = mem, .iov_len = nr * getpagesize() };
	ssize_t len = vmsplice(h->fd[1], &iov, 1, 0);

	h->nr = len > 0 ? len / getpagesize() : 0;
	if (h->nr == nr)
		return true;

	errno = len < 0 ? errno : EFAULT;
	vmsplice_release(h);
	return false;
}

void vmsplice_open_and_hold(struct holder *h, void *mem)
{
	TEST_ASSERT(vmsplice_open(h) && vmsplice_hold(h, mem, 1),
		    "vmsplice() should succeed, errno %d", errno);
}

/* Read the pages in a pipe, and leave them there. */
static void vmsplice_read(struct holder *h, void *to)
{
	const ssize_t size = h->nr * getpagesize();
	struct holder other;

	TEST_ASSERT(vmsplice_open(&other) && tee(h->fd[0], other.fd[1], size, 0) == size,
		    "tee() should succeed, errno %d", errno);
	read_pages(other.fd[0], to, h->nr);
	close(other.fd[0]);
	close(other.fd[1]);
}

bool io_uring_open(struct holder *h)
{
	struct io_uring_params params = {};

	h->fd[0] = syscall(__NR_io_uring_setup, 1, &params);
	return h->fd[0] >= 0;
}

/* Fixed buffers stay pinned for as long as they are registered. */
bool io_uring_hold(struct holder *h, void *mem, int nr)
{
	struct iovec iov = { .iov_base = mem, .iov_len = nr * getpagesize() };

	return !syscall(__NR_io_uring_register, h->fd[0], IORING_REGISTER_BUFFERS, &iov, 1);
}

static void io_uring_release(struct holder *h)
{
	TEST_ASSERT(!syscall(__NR_io_uring_register, h->fd[0], IORING_UNREGISTER_BUFFERS, NULL, 0),
		    "Unregistering buffers should succeed, errno %d", errno);
}

const struct holder_ops holder_longterm_read = { gup_open, gup_hold_read, gup_read, gup_release };
const struct holder_ops holder_longterm_write = { gup_open, gup_hold_write, gup_read, gup_release };
const struct holder_ops holder_longterm_fast = { gup_open, gup_hold_fast, gup_read, gup_release };
const struct holder_ops holder_vmsplice = {
	vmsplice_open, vmsplice_hold, vmsplice_read, vmsplice_release,
};

const struct holder_ops holder_io_uring = { io_uring_open, io_uring_hold, NULL, io_uring_release };
