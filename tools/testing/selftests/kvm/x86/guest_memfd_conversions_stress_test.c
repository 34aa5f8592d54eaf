// SPDX-License-Identifier: GPL-2.0-only
/*
 * Conversions of guest_memfd memory under load.
 *
 * vCPUs, and threads and children of the host, convert, read, write and punch random
 * ranges of one file, while others map and unmap, pin, allocate, and move a memslot.
 * Actors do not wait for each other, unless they need all of a huge page.  Before an
 * actor does something that others could notice, it tries to lock all pages concerned.
 * If that fails, the actor does without.
 *
 * The oracle is a table in ordinary memory of the guest.  For each page, the table has a
 * lock, whether the page is private, and the contents: a stamp that names the page and
 * is never used twice.  The holder of the lock checks that
 *
 *  - the page has what guest or host have written last, before or after any number of
 *    conversions, or zeroes after a hole,
 *  - the host gets SIGBUS for private pages, and only for those,
 *  - pinned pages don't become private, and all other pages do.
 *
 * Without the lock, an actor sees nothing in a page but stamps of that page or zeroes.
 * When all is over, conversions must succeed at the first try, contents must be what the
 * table says, and all counters must be what they were.  That includes a file that is
 * closed while guests run and while pages of it are pinned.
 *
 * With huge pages, the actors do all of that to the 4K pages, and some of it to a huge
 * page as a whole.  A hole then leaves zeroes, unless it is all of a huge page.  The test
 * counts how often each operation happens to a huge page in each state.  In a run that
 * is long enough, none of the counts may be 0.
 *
 * If told to, the test poisons pages.  Poison never spreads, and doesn't keep a page
 * from being converted.  Neither host nor guest get to map a poisoned page any more, and
 * the huge page that it is part of leaves the pool when it leaves the file.
 */
#include "guest_memfd_stress_round.h"

#define ROUND_SECONDS		30
#define MIN_ROUND_MS		500
#define SHARED			(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)

static const struct variant variants[] = {
	{ "private", GUEST_MEMFD_FLAG_MMAP },
	{ "shared", SHARED },
	{ "private 2M pages", GUEST_MEMFD_FLAG_MMAP, SZ_2M },
	{ "shared 2M pages", SHARED, SZ_2M },
	{ "private 1G page", GUEST_MEMFD_FLAG_MMAP, SZ_1G, true },
	{ "shared 1G page", SHARED, SZ_1G, true },
	{ "private 1G page, memslots of parts", GUEST_MEMFD_FLAG_MMAP, SZ_1G },
	{ "shared 1G page, memslots of parts", SHARED, SZ_1G },
};

static int max_poisons;

/*
 * Return the number of pages of vmemmap that lost units need, as their vmemmap isn't
 * shared any more.
 */
static long lost_vmemmap(const struct round *r)
{
	return r->totals->nr_lost * (r->v->unit / PAGE_SIZE / 64);
}

/* Run a round in a process of its own, so that anything that is left is the kernel's fault. */
static void fork_round(struct round *r, struct kernel_counters *after)
{
	struct kernel_counters before;
	const char *leak;
	int status;
	pid_t pid;

	read_kernel_counters(&before);
	r->totals->nr_lost = 0;

	fflush(stdout);
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() should succeed");
	if (!pid) {
		run_round(r);
		exit(0);
	}
	TEST_ASSERT(waitpid(pid, &status, 0) == pid, "waitpid() should succeed");
	if (status) {
		ksft_print_msg("status 0x%x\n", status);
		ksft_test_result_fail("%s\n", r->v->name);
		ksft_finished();
	}

	if (r->v->unit) {
		hugetlb_pool_lose(&r->pool, r->totals->nr_lost);
		TEST_ASSERT_POOL_SETTLES(&r->pool, 0, 0);
	}
	if (guestmem_has_units())
		guestmem_settle();
	before.memmap += lost_vmemmap(r);
	leak = kernel_counters_settle(&before, after);
	TEST_ASSERT(!leak, "%s", leak);
}

/*
 * Assert that memory doesn't go missing little by little, in every round.  Waits for
 * memory that the kernel frees late.
 */
static void check_trend(const struct kernel_counters *first, struct kernel_counters *last,
			long lost)
{
	const long min_free = first->free - lost - SZ_16M / PAGE_SIZE;
	int i;

	for (i = 0; i < SETTLE_TRIES; i++) {
		if (last->memmap <= first->memmap + lost && last->free > min_free)
			break;
		usleep(SETTLE_DELAY_US);
		read_kernel_counters(last);
	}

	ksft_print_msg("free pages %ld -> %ld, slab pages %ld -> %ld, memmap pages %ld -> %ld\n",
		       first->free, last->free, first->slab, last->slab, first->memmap,
		       last->memmap);
	TEST_ASSERT(last->memmap <= first->memmap + lost, "There are too many struct pages");
	TEST_ASSERT(last->free > min_free, "Memory is missing");
	TEST_ASSERT(last->slab < first->slab + SZ_4M / PAGE_SIZE, "Slab memory is missing");
}

static void usage(const char *cmd)
{
	printf("%s [-h] [-n vcpus] [-p pages] [-r seed] [-s seconds] [-u size[,size...]] [-w]\n\n"
	       " -n: number of vCPUs (default: %d)\n"
	       " -p: poison memory, i.e. lose that many huge pages of each size (default: 0)\n"
	       " -r: seed, to repeat what each thread wanted to do\n"
	       " -s: seconds in total (default: 16)\n"
	       " -u: page sizes out of 4K,2M,1G (default: all)\n"
	       " -w: walk the struct pages of huge pages meanwhile\n", cmd, nr_vcpus);
}

/* Return why there can't be enough huge pages, or NULL. */
static const char *missing_pages(const struct variant *v, struct hugetlb_pool *pool)
{
	const struct world_size *ws = &world_sizes[size_index(v)];
	u64 nr = ws->nr_units + ws->nr_spares;
	static char text[64];

	if (!v->unit)
		return NULL;

	snprintf(text, sizeof(text), "needs %lu x %zu kB page", nr, v->unit / 1024);
	if (!(kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) & GUEST_MEMFD_FLAG_HUGETLB) ||
	    !hugetlb_size_supported(v->unit))
		return text;
	hugetlb_read_pool(v->unit, pool);
	return hugetlb_available(pool) >= (long)nr ? NULL : text;
}

/* The rounds of one size. */
struct size_state {
	bool wanted;
	int nr_rounds, nr_done;
	int nr_lost;
	/* The time that a round takes in addition to what it is told to take. */
	int extra_ms;
};

static struct size_state sizes[NR_SIZES] = {
	{ .wanted = true, .extra_ms = 1000 },
	{ .wanted = true, .extra_ms = 2000 },
	{ .wanted = true, .extra_ms = 6000 },
};

static const struct variant *nth_variant(int nr)
{
	int i;

	for (i = 0;; i++) {
		const struct variant *v = &variants[i % ARRAY_SIZE(variants)];

		if (sizes[size_index(v)].wanted && !nr--)
			return v;
	}
}

/* Return how many huge pages this round may lose, with enough left for all rounds that follow. */
static int nr_poisons(const struct variant *v, const struct hugetlb_pool *pool)
{
	const struct world_size *ws = &world_sizes[size_index(v)];
	struct size_state *size = &sizes[size_index(v)];
	int nr;

	if (!v->unit)
		return 0;
	nr = min((long)max_poisons - size->nr_lost,
		 hugetlb_available(pool) - (long)(ws->nr_units + ws->nr_spares));
	return nr > 0 ? (nr + size->nr_rounds - 1) / size->nr_rounds : 0;
}

static bool print_totals(const struct totals *totals, int seconds, int nr_rounds)
{
	struct hits_column columns[NR_SIZES] = {}, *col = columns;
	bool all;
	int i;

	for (i = 0; i < NR_SIZES; i++) {
		if (!sizes[i].nr_done)
			continue;
		col->name = world_sizes[i].name;
		col->hits = &totals->hits[i];
		col->where = world_sizes[i].unit ? IN_HUGE : IN_SMALL;
		if (sizes[i].nr_lost)
			col->where |= IN_POISONED;
		if (with_walkers && world_sizes[i].unit)
			col->where |= IN_WALKED;
		if (with_walkers && world_sizes[i].unit == SZ_2M)
			col->where |= IN_WALKED_2M;
		col->complete = seconds * sizes[i].nr_rounds / nr_rounds >=
				world_sizes[i].long_run;
		col++;
	}

	all = print_events(columns, col - columns);
	while (col-- > columns) {
		if (col->where & IN_HUGE)
			all &= print_matrix(col);
	}
	return all;
}

static void run(int seconds)
{
	int nr_wanted = 0, nr_rounds, i;
	s64 start = now_ms(), end = start + seconds * 1000LL;
	struct kernel_counters first = {}, last;
	struct totals *totals;
	int nr_warm_ups;
	long lost = 0;

	totals = kvm_mmap(sizeof(*totals), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
	for (i = 0; i < ARRAY_SIZE(variants); i++)
		nr_wanted += sizes[size_index(&variants[i])].wanted;
	nr_rounds = max(seconds / ROUND_SECONDS, nr_wanted);
	nr_warm_ups = min(nr_wanted, nr_rounds - 1);
	for (i = 0; i < nr_rounds; i++)
		sizes[size_index(nth_variant(i))].nr_rounds++;

	ksft_set_plan(nr_rounds + 1);
	for (i = 0; i < nr_rounds; i++) {
		struct round r = { .v = nth_variant(i), .nr = i, .totals = totals };
		struct size_state *size = &sizes[size_index(r.v)];
		const char *missing = missing_pages(r.v, &r.pool);
		s64 round_start = now_ms();
		int ms;

		if (missing) {
			ksft_test_result_skip("%s: %s\n", r.v->name, missing);
			continue;
		}
		r.nr_poisons = nr_poisons(r.v, &r.pool);
		r.late_poison = r.nr_poisons && size->nr_done % 2;
		ms = (end - round_start) / (nr_rounds - i);
		r.ms = max(ms - size->extra_ms, MIN_ROUND_MS);
		fork_round(&r, &last);

		size->nr_done++;
		size->nr_lost += totals->nr_lost;
		lost += lost_vmemmap(&r);
		size->extra_ms = max(size->extra_ms, (int)(now_ms() - round_start) - r.ms);
		if (i == nr_warm_ups - 1 || !first.free) {
			first = last;
			lost = 0;
		}
		ksft_test_result_pass("%s\n", r.v->name);
		kvm_random_seed++;
	}

	check_trend(&first, &last, lost);
	ksft_test_result(print_totals(totals, seconds, nr_rounds), "everything_happened\n");
}

static void select_sizes(char *list)
{
	char *name;
	int i;

	for (i = 0; i < NR_SIZES; i++)
		sizes[i].wanted = false;
	while ((name = strsep(&list, ","))) {
		for (i = 0; strcmp(world_sizes[i].name, name);) {
			i++;
			TEST_ASSERT(i < NR_SIZES, "There are no pages of size '%s'", name);
		}
		sizes[i].wanted = true;
	}
}

int main(int argc, char *argv[])
{
	int seconds = 16, opt;

	while ((opt = getopt(argc, argv, "hn:p:r:s:u:w")) != -1) {
		switch (opt) {
		case 'n':
			nr_vcpus = atoi_positive("vcpus", optarg);
			TEST_ASSERT(nr_vcpus <= MAX_VCPUS, "At most %d vCPUs", MAX_VCPUS);
			break;
		case 'p':
			max_poisons = atoi_positive("pages", optarg);
			break;
		case 'r':
			kvm_random_seed = strtoul(optarg, NULL, 0);
			break;
		case 's':
			seconds = atoi_positive("seconds", optarg);
			break;
		case 'u':
			select_sizes(optarg);
			break;
		case 'w':
			with_walkers = true;
			break;
		default:
			usage(argv[0]);
			exit(opt == 'h' ? 0 : 1);
		}
	}

	TEST_REQUIRE(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM));
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES) &
		     KVM_MEMORY_ATTRIBUTE_PRIVATE);
	TEST_REQUIRE(!max_poisons || !access(CORRUPT_PFN, W_OK));
	TEST_REQUIRE(!with_walkers || has_walkers());

	ksft_print_header();
	ksft_print_msg("seed %#x, %d vCPUs, %d s\n", kvm_random_seed, nr_vcpus, seconds);
	run(seconds);
	ksft_finished();
}
