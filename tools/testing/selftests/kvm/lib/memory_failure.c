// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "memory_failure.h"

static struct sigbus_seen seen;
static bool is_trying;

bool can_inject_memory_failure(void)
{
	return !access(CORRUPT_PFN, W_OK) && !access(UNPOISON_PFN, W_OK);
}

int write_pfn(const char *path, u64 pfn)
{
	int fd = open(path, O_WRONLY), len, error = 0;
	char buf[32];

	TEST_ASSERT(fd >= 0, "Cannot open %s", path);
	len = snprintf(buf, sizeof(buf), "%#lx", pfn);
	if (write(fd, buf, len) != len)
		error = errno;
	close(fd);
	return error;
}

void mend_page(u64 pfn)
{
	int error, tries;

	for (tries = 0; (error = write_pfn(UNPOISON_PFN, pfn)) && tries < 100; tries++)
		usleep(20 * 1000);
	TEST_ASSERT(!error, "Mending pfn 0x%lx should succeed, got %s", pfn, strerror(error));
}

long nr_corrupted_pages(void)
{
	FILE *f = fopen("/proc/meminfo", "r");
	char line[128];
	long kb = -1;

	TEST_ASSERT(f, "Cannot open /proc/meminfo");
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "HardwareCorrupted: %ld kB", &kb) == 1)
			break;
	fclose(f);
	TEST_ASSERT(kb >= 0, "No HardwareCorrupted in /proc/meminfo");
	return kb * 1024 / getpagesize();
}

/* Record a SIGBUS.  Return from it, unless an access of sigbus_try_read() may have raised it. */
static void sigbus_handler(int sig, siginfo_t *info, void *context)
{
	seen.nr++;
	seen.code = info->si_code;
	seen.addr = (uintptr_t)info->si_addr;
	seen.lsb = info->si_code == BUS_MCEERR_AO || info->si_code == BUS_MCEERR_AR ?
		   info->si_addr_lsb : 0;
	if (READ_ONCE(is_trying))
		siglongjmp(expect_sigbus_jmpbuf, 1);
}

void sigbus_start(void)
{
	struct sigaction sa = {
		.sa_sigaction = sigbus_handler,
		.sa_flags = SA_SIGINFO,
	};

	TEST_ASSERT(!sigaction(SIGBUS, &sa, NULL), "sigaction() should succeed");
	sigbus_take();
}

struct sigbus_seen sigbus_take(void)
{
	struct sigbus_seen now = seen;

	seen = (struct sigbus_seen) {};
	return now;
}

bool sigbus_try_read(u64 *addr, u64 *val)
{
	if (sigsetjmp(expect_sigbus_jmpbuf, 1)) {
		WRITE_ONCE(is_trying, false);
		return false;
	}
	WRITE_ONCE(is_trying, true);
	*val = READ_ONCE(*addr);
	WRITE_ONCE(is_trying, false);
	return true;
}

const char *sigbus_code_str(int code)
{
	switch (code) {
	case 0:
		return "none";
	case BUS_MCEERR_AO:
		return "AO";
	case BUS_MCEERR_AR:
		return "AR";
	case BUS_ADRERR:
		return "ADRERR";
	default:
		return "?";
	}
}
