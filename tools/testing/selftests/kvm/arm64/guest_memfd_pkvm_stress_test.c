// SPDX-License-Identifier: GPL-2.0-only
/*
 * Protected guests of pKVM in guest_memfd files, under load.
 *
 * Several VMs run at a time, each in a process of its own, with a file, two vCPUs, and two
 * threads of the VMM.  The threads do random things to random pages.  New VMs take the place
 * of VMs that have come to an end, or whose process is killed.
 */
#include <sys/prctl.h>

#include "fail_nth.h"
#include "guest_memfd_pkvm_stress.h"
#include "pkvm_guest.h"

struct op_info ops[] = {
	[OP_FIRST]		= { "first touches" },
	[OP_TOUCH]		= { "touches of owned pages" },
	[OP_SHARED]		= { "touches of shared pages" },
	[OP_LOST]		= { "touches of lost pages" },
	[OP_SHORT]		= { "touches short of memory", true },
	[OP_CONVERT]		= { "conversions" },
	[OP_REFUSED]		= { "conversions refused" },
	[OP_HOST]		= { "host accesses" },
	[OP_PUNCH]		= { "holes, pages" },
	[OP_PUNCH_BLOCK]	= { "holes, blocks of 2M" },
	[OP_PUNCH_UNIT]		= { "holes, huge pages", true },
	[OP_SLOT]		= { "memslots replaced" },
	[OP_RECLAIM]		= { "forced reclaims" },
	[OP_KCORE]		= { "kcore reads" },
	[OP_POISON]		= { "owned pages poisoned", true },
	[OP_SHARE]		= { "pages shared by guests" },
	[OP_UNSHARE]		= { "pages taken back" },
	[OP_SHARE_RANGE]	= { "ranges shared by guests" },
	[OP_UNSHARE_RANGE]	= { "ranges taken back" },
	[OP_MIXED]		= { "mixed ranges refused" },
	[OP_DISAGREE]		= { "VMM doesn't agree" },
	[OP_FORGE]		= { "VMM forges the answer" },
	[OP_PIN]		= { "pins of what is shared" },
	[OP_DEBUGFS]		= { "debugfs reads" },
	[OP_KILL]		= { "VMs killed" },
	[OP_VM]			= { "VMs" },
};

static const struct size {
	const char *name;
	struct gmem_variant variant;
} sizes[] = {
	{ "4K", { 12, 1024 } },
	{ "64K", { 16, 64 } },
	{ "2M", { 21, 4 } },
	{ "32M", { 25, 1 } },
	{ "1G", { 30, 1 } },
};

struct totals *totals;

static int nr_vms = 2, max_poisoned_vms = 4;
/* How often each operation has to happen, and when there is no more time for that. */
static u64 min_ops = 1;
static s64 late_ms;

/* Whether something has to happen that hasn't happened often enough. */
static bool is_missing(enum op op)
{
	return !ops[op].impossible && load(&totals->ops[op]) < min_ops;
}

static bool is_anything_missing(void)
{
	int i;

	for (i = 0; i < NR_OPS; i++) {
		if (is_missing(i))
			return true;
	}
	return false;
}

/*
 * Run one VM after the other.  Some are killed when the guest has touched a few pages.  There
 * is at least one of either kind.
 */
static void run_vms(bool can_poison, int max_poisoned)
{
	struct kvm_random_state rng = new_kvm_random_state(kvm_random_seed + gmem.unit + vm_nr);
	u64 enough, tries, nr;
	pid_t pid;
	u32 seed;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (nr = 0; nr < 2 || now_ms() < stop_ms ||
	     (now_ms() < late_ms && is_anything_missing()); nr++) {
		seed = kvm_random_u32(&rng);
		is_doomed = nr < 2 ? (nr + vm_nr) % 2 :
			    kvm_random_u64_in_range(&rng, 0, 8) < 5;
		enough = kvm_random_u64_in_range(&rng, 1, 50);
		may_poison = can_poison && !is_doomed && totals->nr_poisoned_vms < max_poisoned;
		WRITE_ONCE(totals->progress[vm_nr], 0);
		pid = kvm_fork();
		if (!pid) {
			run_vm(seed);
			_exit(0);
		}
		for (tries = 0; is_doomed && load(&totals->progress[vm_nr]) < enough &&
		     tries < 50000; tries++)
			usleep(100);
		if (is_doomed)
			kill_child(pid);
		else
			assert_child_succeeds(pid);
		count(is_doomed ? OP_KILL : OP_VM);
	}
}

static void assert_nothing_left_behind(void)
{
	const char *left = gmem_left_behind(&gmem);

	TEST_ASSERT(!left, "Left behind: %s", left);
	TEST_ASSERT_EQ(settled_sec_page_tables(&gmem.counters), gmem.counters.sec_page_tables);
}

/* Run VMs with files of one size.  Returns why that isn't possible, or NULL. */
static const char *run_size(const struct size *size, int ms, int more_ms)
{
	int max_poisoned = max_poisoned_vms;
	const char *missing;
	pid_t pids[MAX_VMS];
	long spare;

	gmem = (struct gmem) {};
	missing = gmem_setup_counted(&gmem, &size->variant);
	if (missing)
		return missing;
	nr_pages = min_t(u64, gmem.nr_pages, MAX_PAGES);
	if (gmem.unit > page_size) {
		spare = hugetlb_available(&gmem.pool) - (long)nr_vms * gmem.nr;
		if (spare < 0)
			return "there are too few huge pages for all VMs";
		max_poisoned = min_t(long, max_poisoned, spare);
		ops[OP_PUNCH_UNIT].impossible = false;
	}
	if (!can_inject_memory_failure())
		max_poisoned = 0;
	if (max_poisoned)
		ops[OP_POISON].impossible = false;

	totals->nr_poisoned_vms = 0;
	stop_ms = now_ms() + ms;
	late_ms = stop_ms + more_ms;
	for (vm_nr = 0; vm_nr < nr_vms; vm_nr++) {
		pids[vm_nr] = kvm_fork();
		if (!pids[vm_nr]) {
			run_vms(!vm_nr, max_poisoned);
			_exit(0);
		}
	}
	while (vm_nr--)
		assert_child_succeeds(pids[vm_nr]);

	if (gmem.unit > page_size)
		gmem.nr_lost = totals->nr_poisoned_vms;
	assert_nothing_left_behind();
	return NULL;
}

static void print_totals(void)
{
	int i;

	for (i = 0; i < NR_OPS; i++)
		ksft_print_msg("%-24s %8lu%s\n", ops[i].name, totals->ops[i],
			       is_missing(i) ? ", too few" : "");
}

/* Sizes share the time.  If there is only one, it may take more, for what has to happen. */
static void run(int seconds, const char *only)
{
	int nr = only ? 1 : ARRAY_SIZE(sizes), nr_done = 0, i;
	s64 start = now_ms(), end = start + seconds * 1000LL;
	const char *missing;

	ksft_set_plan(nr + 1);
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		if (only && strcmp(sizes[i].name, only))
			continue;
		missing = run_size(&sizes[i], (end - now_ms()) / nr--,
				   only ? seconds * 1000 / 2 : 0);
		if (missing)
			ksft_test_result_skip("%s: %s\n", sizes[i].name, missing);
		else
			ksft_test_result_pass("%s\n", sizes[i].name);
		nr_done += !missing;
	}
	if (!nr_done) {
		ksft_test_result_skip("everything_happened\n");
		return;
	}
	ksft_print_msg("%ld s\n", (now_ms() - start) / 1000);
	print_totals();
	ksft_test_result(!is_anything_missing(), "everything_happened\n");
}

static void usage(const char *cmd)
{
	printf("%s [-h] [-m min] [-n VMs] [-p pages] [-r seed] [-s seconds] [-u size]\n\n"
	       " -m: how often each operation has to happen, in all (default: 1)\n"
	       " -n: VMs at a time (default: %d)\n"
	       " -p: poison memory, i.e. lose that many huge pages of each size (default: %d)\n"
	       " -r: seed, to repeat what each thread wanted to do\n"
	       " -s: seconds in total (default: 30)\n"
	       " -u: page size, one of 4K, 64K, 2M, 32M, 1G (default: all).  With -u, the test\n"
	       "     takes up to half as many seconds more if -m isn't reached\n", cmd, nr_vms,
	       max_poisoned_vms);
}

int main(int argc, char *argv[])
{
	int seconds = 30, opt;
	const char *size = NULL;

	gmem_init(NEEDS_CONVERSION);
	while ((opt = getopt(argc, argv, "hm:n:p:r:s:u:")) != -1) {
		switch (opt) {
		case 'm':
			min_ops = atoi_non_negative("min", optarg);
			break;
		case 'n':
			nr_vms = atoi_positive("VMs", optarg);
			TEST_ASSERT(nr_vms <= MAX_VMS, "At most %d VMs", MAX_VMS);
			break;
		case 'p':
			max_poisoned_vms = atoi_non_negative("pages", optarg);
			break;
		case 'r':
			kvm_random_seed = strtoul(optarg, NULL, 0);
			break;
		case 's':
			seconds = atoi_positive("seconds", optarg);
			break;
		case 'u':
			size = optarg;
			break;
		default:
			usage(argv[0]);
			exit(opt == 'h' ? 0 : 1);
		}
	}

	__TEST_REQUIRE(!missing_for_protected_vms(), "%s", missing_for_protected_vms());
	totals = kvm_mmap(sizeof(*totals), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
	ops[OP_SHORT].impossible = !fail_nth_init();

	ksft_print_header();
	ksft_print_msg("seed %#x, %d VMs, %d s\n", kvm_random_seed, nr_vms, seconds);
	run(seconds, size);
	ksft_finished();
}
