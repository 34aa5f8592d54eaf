// SPDX-License-Identifier: GPL-2.0-only
#include "memory_failure.h"

/* Each thread takes SIGBUS on its own. */
static __thread struct sigbus_seen seen;
static __thread sigjmp_buf jmpbuf;
static __thread bool is_trying;
static bool is_strict;

bool can_inject_memory_failure(void)
{
	return !access(CORRUPT_PFN, W_OK) && !access(UNPOISON_PFN, W_OK);
}

int write_pfn(const char *path, u64 pfn)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), len, error = 0;
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
	long kb = read_key("/proc/meminfo", "HardwareCorrupted:");

	TEST_ASSERT(kb >= 0, "No HardwareCorrupted in /proc/meminfo");
	return kb * 1024 / getpagesize();
}

/* Record a SIGBUS.  Return from it, unless an access of sigbus_try_access() may have raised it. */
static void sigbus_handler(int sig, siginfo_t *info, void *context)
{
	if (is_strict && !READ_ONCE(is_trying)) {
		ksft_print_msg("unexpected SIGBUS at %p\n", info->si_addr);
		_exit(254);
	}
	seen.nr++;
	seen.code = info->si_code;
	seen.addr = (uintptr_t)info->si_addr;
	seen.lsb = info->si_code == BUS_MCEERR_AO || info->si_code == BUS_MCEERR_AR ?
		   info->si_addr_lsb : 0;
	if (READ_ONCE(is_trying))
		siglongjmp(jmpbuf, 1);
}

void sigbus_start(bool strict)
{
	struct sigaction sa = {
		.sa_sigaction = sigbus_handler,
		.sa_flags = SA_SIGINFO | SA_NODEFER,
	};

	is_strict = strict;
	TEST_ASSERT(!sigaction(SIGBUS, &sa, NULL), "sigaction() should succeed");
	sigbus_take();
}

struct sigbus_seen sigbus_take(void)
{
	struct sigbus_seen now = seen;

	seen = (struct sigbus_seen) {};
	return now;
}

bool sigbus_try_access(u64 *addr, u64 *val, bool write)
{
	/* With SA_NODEFER, there is no mask of signals to restore. */
	if (sigsetjmp(jmpbuf, 0)) {
		WRITE_ONCE(is_trying, false);
		return false;
	}
	WRITE_ONCE(is_trying, true);
	if (write)
		WRITE_ONCE(*addr, *val);
	else
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
