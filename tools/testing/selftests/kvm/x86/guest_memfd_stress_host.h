/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the host of guest_memfd_conversions_stress_test does to cells that it has
 * locked, and what it expects to find there.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_STRESS_HOST_H
#define SELFTEST_KVM_GUEST_MEMFD_STRESS_HOST_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <unistd.h>

#include <sys/uio.h>

#include <linux/falloc.h>

#include "guest_memfd_stress.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

#define PUNCH			(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)
/* Tries that others can make fail, before giving up. */
#define MAX_CONVERSIONS		300

static struct world *world;
static int gmem_fd;

/* A thread, or a child. */
struct actor {
	struct kvm_random_state rng;
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	char *mem;		/* from the first cell on */
	bool child;
};

/* Threads and children take SIGBUS one by one. */
static __thread sigjmp_buf sigbus_jmp;
static __thread int sigbus_expected;

static void sigbus_handler(int sig, siginfo_t *info, void *context)
{
	if (!READ_ONCE(sigbus_expected)) {
		ksft_print_msg("SIGBUS at %p, where nobody expects it\n", info->si_addr);
		_exit(254);
	}
	siglongjmp(sigbus_jmp, 1);
}

/* Returns false for SIGBUS. */
static bool access_word(u64 *p, u64 *val, bool write)
{
	if (sigsetjmp(sigbus_jmp, 0)) {
		WRITE_ONCE(sigbus_expected, 0);
		return false;
	}
	WRITE_ONCE(sigbus_expected, 1);
	if (write)
		WRITE_ONCE(*p, *val);
	else
		*val = READ_ONCE(*p);
	WRITE_ONCE(sigbus_expected, 0);
	return true;
}

static u64 *host_word(struct actor *a, u64 c, int i)
{
	return (u64 *)(a->mem + c * PAGE_SIZE + word_offset(i));
}

static u64 cell_offset(u64 c)
{
	return world->file_offset + c * PAGE_SIZE;
}

static void host_check(struct actor *a, u64 first, u64 nr)
{
	u64 c, val;
	int i;

	for (c = first; c < first + nr; c++) {
		struct cell *cell = &world->cells[c];

		if (cell->private) {
			/* Signals are slow.  Of a large range, some will do. */
			if (nr > 16 && c != first && c != first + nr - 1 && pick(&a->rng, 8))
				continue;
			i = pick(&a->rng, NR_WORDS);
			val = ~0ull;
			TEST_ASSERT(!access_word(host_word(a, c, i), &val, i & 1),
				    "Cell %lu (%s) should give SIGBUS, has 0x%lx", c,
				    cell->private ? "private" : "shared", val);
			count(world, EVENT_host_sigbus_for_private);
			continue;
		}
		for (i = 0; i < NR_WORDS; i++) {
			TEST_ASSERT(access_word(host_word(a, c, i), &val, false),
				    "Cell %lu is shared, should not give SIGBUS", c);
			TEST_ASSERT(val == cell->stamp,
				    "Cell %lu, word %d should be 0x%lx, is 0x%lx", c, i,
				    cell->stamp, val);
		}
		if (cell->stamp & STAMP_BY_GUEST) {
			count(world, EVENT_host_reads_guests_data);
			if (cell->stamp & STAMP_IN_PRIVATE)
				count(world, EVENT_host_reads_once_private_data);
		}
	}
}

static void host_write(struct actor *a, u64 first, u64 nr)
{
	u64 c;
	int i;

	for (c = first; c < first + nr; c++) {
		if (world->cells[c].private)
			continue;
		world->cells[c].stamp = new_stamp(world, c, false);
		for (i = 0; i < NR_WORDS; i++)
			TEST_ASSERT(access_word(host_word(a, c, i), &world->cells[c].stamp, true),
				    "Cell %lu is shared, should not give SIGBUS", c);
		count(world, EVENT_host_writes);
	}
}

/* Returns 0, or -EAGAIN if somebody's pins are always in the way. */
static int convert(u64 offset, u64 size, bool private)
{
	u64 error_offset;
	int tries, r;

	for (tries = 0; tries < MAX_CONVERSIONS; tries++) {
		r = __gmem_set_memory_attributes(gmem_fd, offset, size,
						 private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
						 &error_offset);
		if (!r) {
			TEST_ASSERT_EQ(error_offset, GMEM_NO_ERROR_OFFSET);
			return 0;
		}

		TEST_ASSERT(errno == EAGAIN, "Converting 0x%lx bytes at 0x%lx to %s: %s",
			    size, offset, private ? "private" : "shared", strerror(errno));
		TEST_ASSERT(error_offset >= offset && error_offset < offset + size &&
			    !(error_offset % PAGE_SIZE),
			    "error_offset 0x%lx isn't a page of 0x%lx bytes at 0x%lx",
			    error_offset, size, offset);
		count(world, EVENT_retry_eagain);
		if (tries < 10)
			sched_yield();
		else
			usleep(100);
	}
	return -EAGAIN;
}

static void host_convert(struct actor *a, u64 first, u64 nr, bool private)
{
	int already = uniform(world, first, nr, private);

	if (convert(cell_offset(first), nr * PAGE_SIZE, private)) {
		TEST_ASSERT(already <= 0, "There is nothing to convert, and nothing to retry");
		count(world, EVENT_host_conversion_gave_up);
	} else {
		set_range_private(world, first, nr, private);
		if (already > 0)
			count(world, EVENT_host_conversion_of_nothing);
		else if (!already)
			count(world, EVENT_host_conversion_of_mixed);
		else
			count(world, private ? EVENT_host_to_private : EVENT_host_to_shared);
		if (a->child)
			count(world, EVENT_child_conversions);
	}
	host_check(a, first, nr);
}

static void punch(u64 first, u64 nr)
{
	u64 c;

	kvm_fallocate(gmem_fd, PUNCH, cell_offset(first), nr * PAGE_SIZE);
	for (c = first; c < first + nr; c++)
		world->cells[c].stamp = 0;
}

struct pin {
	int fds[2];
	ssize_t len;
};

static void make_pipe(struct pin *pin)
{
	TEST_ASSERT(!pipe2(pin->fds, O_CLOEXEC), "pipe2() should succeed");
}

static void close_pipe(struct pin *pin)
{
	kvm_close(pin->fds[0]);
	kvm_close(pin->fds[1]);
}

/* What is in the pipe is pinned until somebody has read it. */
static bool pin_pages(struct pin *pin, void *mem, size_t len)
{
	struct iovec iov = { mem, len };

	pin->len = vmsplice(pin->fds[1], &iov, 1, SPLICE_F_NONBLOCK);
	TEST_ASSERT(pin->len > 0 || errno == EFAULT, "vmsplice(): %zd, errno %d", pin->len, errno);
	return pin->len > 0;
}

static void unpin_pages(struct pin *pin, void *buf)
{
	TEST_ASSERT_EQ(read(pin->fds[0], buf, pin->len), pin->len);
}

/* System calls see private pages as they see unmapped ones. */
static void host_syscall(struct actor *a, u64 c)
{
	bool works = !world->cells[c].private;
	int i = pick(&a->rng, NR_WORDS);
	struct pin pin;
	ssize_t r;
	u64 val;

	make_pipe(&pin);
	r = write(pin.fds[1], host_word(a, c, i), sizeof(val));
	if (works) {
		TEST_ASSERT_EQ(r, sizeof(val));
		TEST_ASSERT_EQ(read(pin.fds[0], &val, sizeof(val)), sizeof(val));
		TEST_ASSERT_EQ(val, world->cells[c].stamp);
		count(world, EVENT_host_syscall_on_shared);
	} else {
		TEST_ASSERT(r == -1 && errno == EFAULT, "write(): %zd, errno %d", r, errno);
		TEST_ASSERT(!pin_pages(&pin, host_word(a, c, 0), PAGE_SIZE),
			    "A private page can't be pinned");
		count(world, EVENT_host_efault_for_private);
	}
	close_pipe(&pin);
}

/* What became of a page that was pinned: the same page, or what was in it. */
static void unpin_and_check(struct pin *pin, u64 stamp)
{
	u64 buf[PAGE_SIZE / sizeof(u64)];
	int i;

	unpin_pages(pin, buf);
	close_pipe(pin);
	for (i = 0; i < NR_WORDS; i++)
		TEST_ASSERT_EQ(buf[word_offset(i) / sizeof(u64)], stamp);
}

/* A page that is pinned stays shared, or leaves the file with all that's in it. */
static void host_pin(struct actor *a, u64 c)
{
	u64 stamp = world->cells[c].stamp, error_offset;
	struct pin pin;
	int r;

	make_pipe(&pin);
	TEST_ASSERT(pin_pages(&pin, host_word(a, c, 0), PAGE_SIZE), "It's shared");
	r = __gmem_set_private(gmem_fd, cell_offset(c), PAGE_SIZE, &error_offset);
	TEST_ASSERT(r == -1 && errno == EAGAIN && error_offset == cell_offset(c),
		    "Converting a pinned page: %d, errno %d, error_offset 0x%lx", r, errno,
		    error_offset);
	host_check(a, c, 1);
	count(world, EVENT_pinned_page_stays_shared);

	if (pick(&a->rng, 3) == 0) {
		punch(c, 1);
		host_check(a, c, 1);
		host_write(a, c, 1);
		if (world->huge) {
			stamp = world->cells[c].stamp;
			count(world, EVENT_pinned_page_zeroed);
		} else {
			count(world, EVENT_pinned_page_punched);
		}
	}

	unpin_and_check(&pin, stamp);
	host_convert(a, c, 1, true);
	if (world->cells[c].private)
		count(world, EVENT_pinned_page_then_private);
}

/* A huge page that leaves the file, maybe with a page that is pinned. */
static void host_punch_unit(struct actor *a, u64 first, u64 c)
{
	u64 stamp = world->cells[c].stamp;
	struct pin pin;
	bool pinned;

	make_pipe(&pin);
	pinned = pin_pages(&pin, host_word(a, c, 0), PAGE_SIZE);
	TEST_ASSERT(pinned != world->cells[c].private, "What's shared can be pinned");
	punch(first, world->unit_cells);
	host_check(a, c, 1);
	host_write(a, c, 1);
	count(world, EVENT_host_holes_of_unit);
	if (pinned) {
		unpin_and_check(&pin, stamp);
		count(world, EVENT_pinned_page_of_lost_unit);
	} else {
		close_pipe(&pin);
	}
}

#endif /* SELFTEST_KVM_GUEST_MEMFD_STRESS_HOST_H */
