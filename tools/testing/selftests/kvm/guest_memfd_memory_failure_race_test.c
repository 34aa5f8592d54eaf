// SPDX-License-Identifier: GPL-2.0-only
/*
 * Punch a hole into a guest_memfd file while a page in it fails.
 *
 * Punching takes the file's invalidate_lock and then the lock of every folio.  Handling
 * a memory failure begins with the folio locked.  If the handler then asks for
 * invalidate_lock, the two wait for each other, for ever.  A large hole with the
 * failing page at its end makes the deadlock all but certain: the folio is locked long
 * before the hole reaches it.
 *
 * A deadlocked task cannot be killed.  So the race runs in a process of its own, and
 * the test waits for it for a limited time.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/sizes.h>

#include "kselftest.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

#define TEST_NAME	"memory failure races with punching a hole"
#define FILE_SIZE	SZ_64M
#define NR_ROUNDS	6
/* In seconds.  The race takes a second or so, more with emulation and debugging. */
#define TIMEOUT		120

static size_t page_size;

struct punch {
	pthread_barrier_t barrier;
	int fd;
	s64 ns;
};

static void punch_hole(int fd)
{
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, FILE_SIZE);
}

static void *punch_all(void *data)
{
	struct punch *p = data;
	struct timespec start;

	pthread_barrier_wait(&p->barrier);
	clock_gettime(CLOCK_MONOTONIC, &start);
	punch_hole(p->fd);
	p->ns = timespec_to_ns(timespec_elapsed(start));
	return NULL;
}

static void touch_all(char *mem)
{
	size_t off;

	for (off = 0; off < FILE_SIZE; off += page_size)
		WRITE_ONCE(mem[off], 1);
}

/*
 * Count SIGBUS, and exit if there are more than one per round.  A process that poisons
 * its own memory gets SIGBUS at once, and cannot ignore it.  Further ones mean that the
 * process has touched the poisoned page, and would go on for ever.
 */
static void count_sigbus(int sig)
{
	static int count;

	if (++count > NR_ROUNDS)
		_exit(KSFT_FAIL);
}

static void fail_page(char *mem, size_t off)
{
	/* The hole may have removed the page already. */
	if (madvise(mem + off, page_size, MADV_HWPOISON))
		TEST_ASSERT(errno == EBUSY || errno == EFAULT || errno == EIO ||
			    errno == EHWPOISON || errno == EAGAIN,
			    "MADV_HWPOISON failed, errno %d", errno);
}

static void race_failures_with_holes(void)
{
	struct kvm_vm *vm = vm_create_barebones();
	struct punch punch = {};
	pthread_t thread;
	s64 ns = 0;
	char *mem;
	int i;

	signal(SIGBUS, count_sigbus);

	pthread_barrier_init(&punch.barrier, NULL, 2);
	punch.fd = vm_create_guest_memfd(vm, FILE_SIZE, GUEST_MEMFD_FLAG_MMAP |
							GUEST_MEMFD_FLAG_INIT_SHARED);

	/*
	 * Round 0 only measures how long a hole takes, the others fail a page ever
	 * later in that time.
	 */
	for (i = 0; i < NR_ROUNDS; i++) {
		/* The page table remembers the page that failed, so map the file anew. */
		mem = kvm_mmap(FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, punch.fd);
		touch_all(mem);
		kvm_pthread_create(&thread, NULL, punch_all, &punch);
		pthread_barrier_wait(&punch.barrier);
		if (i) {
			usleep(ns / 1000 * (i - 1) / NR_ROUNDS);
			fail_page(mem, FILE_SIZE - page_size);
		}
		kvm_pthread_join(thread, NULL);
		if (!i)
			ns = punch.ns;
		/* If the page failed too late for the hole, it is still in the file. */
		punch_hole(punch.fd);
		kvm_munmap(mem, FILE_SIZE);
	}

	/* The file is as good as new. */
	mem = kvm_mmap(FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, punch.fd);
	touch_all(mem);
	kvm_munmap(mem, FILE_SIZE);
	close(punch.fd);
	kvm_vm_free(vm);
}

/* Print where the threads of a process hang. */
static void print_stacks(pid_t pid)
{
	char path[PATH_MAX], line[128];
	struct dirent *de;
	DIR *dir;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	if (!dir)
		return;
	while ((de = readdir(dir))) {
		if (de->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%s/stack", pid, de->d_name);
		f = fopen(path, "r");
		if (!f)
			continue;
		ksft_print_msg("thread %s\n", de->d_name);
		while (fgets(line, sizeof(line), f))
			ksft_print_msg("  %s", line);
		fclose(f);
	}
	closedir(dir);
}

int main(void)
{
	int status, i;
	pid_t pid;

	TEST_REQUIRE(kvm_has_cap(KVM_CAP_GUEST_MEMFD));
	__TEST_REQUIRE(kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) & GUEST_MEMFD_FLAG_INIT_SHARED,
		       "guest_memfd that the host can map");
	page_size = getpagesize();

	ksft_print_header();
	if (geteuid())
		ksft_exit_skip("needs root to let memory fail\n");
	ksft_set_plan(1);

	fflush(stdout);
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() failed");
	if (!pid) {
		race_failures_with_holes();
		_exit(0);
	}

	for (i = 0; i < TIMEOUT * 10; i++) {
		if (waitpid(pid, &status, WNOHANG) == pid) {
			ksft_test_result(!status, TEST_NAME "\n");
			ksft_finished();
		}
		usleep(100 * 1000);
	}
	ksft_print_msg("not done after %d s\n", TIMEOUT);
	print_stacks(pid);
	ksft_test_result_fail(TEST_NAME "\n");
	ksft_finished();
}
