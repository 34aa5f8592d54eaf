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
#include "guest_memfd_stress_host.h"

#define WORLD_SLOT		10
#define NR_HOST_THREADS		2

/* A run with that many seconds for a size has to reach everything. */
#define LONG_RUN_SMALL		120
#define LONG_RUN_HUGE		240
#define ROUND_SECONDS		30

/* How often, and how long, to wait until a worker has given memory back. */
#define SETTLE_TRIES		500
#define SETTLE_DELAY_US		(20 * 1000)

#define CHECK_PERIOD_MS		1000
#define MIN_ROUND_MS		500
/* How long guests look at the file before it is closed. */
#define PEEK_US			(20 * 1000)

/* A round has one file and one VM. */

struct variant {
	const char *name;
	u64 flags;
	size_t unit;
	/* All of the huge page is in one memslot, and KVM can map it as a huge page. */
	bool one_slot;
};

static const struct variant variants[] = {
	{ "private", GUEST_MEMFD_FLAG_MMAP },
	{ "shared", GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED },
	{ "private 2M pages", GUEST_MEMFD_FLAG_MMAP, SZ_2M },
	{ "shared 2M pages", GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED, SZ_2M },
	{ "private 1G page", GUEST_MEMFD_FLAG_MMAP, SZ_1G, true },
	{ "shared 1G page", GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED, SZ_1G, true },
	{ "private 1G page, memslots of parts", GUEST_MEMFD_FLAG_MMAP, SZ_1G },
	{ "shared 1G page, memslots of parts",
	  GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED, SZ_1G },
};

#define SMALL_CELLS		2048
/*
 * Blocks that the kernel may keep in one piece, e.g. 2M or 128M, end in the middle of
 * the cells.
 */
#define SMALL_FIRST_PAGE	(SZ_128M / PAGE_SIZE - 777)
/* More than the number of actors that pin pages which are punched then. */
#define MANY_SPARES		8
/* A part of a 1G page, around its middle. */
#define LARGE_CELLS		2048
#define LARGE_FIRST_PAGE	((SZ_1G / 2 - SZ_2M) / PAGE_SIZE)

/* The file for each page size. */
static const struct world_size {
	const char *name;
	size_t unit;
	u64 nr_cells, unit_cells;
	u64 first_page;
	u64 nr_units;
	/* Huge pages in place of those that were punched while a page of them was pinned. */
	u64 nr_spares;
	int long_run;
} world_sizes[] = {
	{ "4K", 0, SMALL_CELLS, 0, SMALL_FIRST_PAGE, 0, 0, LONG_RUN_SMALL },
	{ "2M", SZ_2M, MAX_UNITS * PAGES_2M, PAGES_2M, 0, MAX_UNITS, MANY_SPARES,
	  LONG_RUN_HUGE },
	{ "1G", SZ_1G, LARGE_CELLS, LARGE_CELLS, LARGE_FIRST_PAGE, 1, 1, LONG_RUN_HUGE },
};

#define NR_SIZES		ARRAY_SIZE(world_sizes)

/* The results of the rounds.  Each round adds to @hits, and sets @nr_lost. */
struct totals {
	struct hits hits[NR_SIZES];
	u32 nr_lost;
};

/* A round, which is a process of its own: its parameters and where its results go. */
struct round {
	const struct variant *v;
	int nr;
	int ms;
	int nr_poisons;
	/* Pages are poisoned only when the file is closed. */
	bool late_poison;
	struct hugetlb_pool pool;
	struct totals *totals;
};

static int nr_vcpus = 3;
static int max_poisons;

static int size_index(const struct variant *v)
{
	int i = 0;

	while (world_sizes[i].unit != v->unit)
		i++;
	return i;
}

static void create_slots(const struct variant *v)
{
	u64 nr = world->nr_cells, i;
	u64 ends[NR_SLOTS] = { nr * 2 / 8, nr * 5 / 8, nr * 7 / 8, nr };

	if (v->one_slot)
		vm_set_user_memory_region2(vm, DATA_SLOT, KVM_MEM_GUEST_MEMFD, 4ull * SZ_1G,
					   v->unit, (void *)PAGE_SIZE, gmem_fd, 0);

	for (i = 0; i < NR_SLOTS; i++) {
		struct slot *s = &world->slots[i];

		s->first = i ? ends[i - 1] : 0;
		s->nr = ends[i] - s->first;
		if (v->one_slot) {
			s->gpa = i == REBIND_SLOT ? 0 : 4ull * SZ_1G + cell_offset(s->first);
		} else {
			s->gpa = (4 + i) * SZ_1G + (i == 2 ? PAGE_SIZE : 0);
			if (i != REBIND_SLOT)
				set_slot(i, s->gpa, s->nr * PAGE_SIZE);
		}
		if (i != REBIND_SLOT)
			virt_map(vm, s->gpa, s->gpa, s->nr);
	}
}

static void create_world(struct round *r, struct kvm_vcpu **vcpus)
{
	const struct variant *v = r->v;
	const struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = KVM_X86_SW_PROTECTED_VM,
	};
	const struct world_size *ws = &world_sizes[size_index(v)];
	bool private = !(v->flags & GUEST_MEMFD_FLAG_INIT_SHARED);
	u64 nr = ws->nr_cells, size, i;

	vm = __vm_create_with_vcpus(shape, nr_vcpus, 0, stress_guest_code, vcpus);
	vm_enable_cap(vm, KVM_CAP_EXIT_HYPERCALL, BIT(KVM_HC_MAP_GPA_RANGE));
	/* Children don't need this memory, and copying it on write would disturb the guest. */
	kvm_madvise(addr_gpa2hva(vm, 0), memslot2region(vm, 0)->region.memory_size,
		    MADV_DONTFORK);

	size = align_up(sizeof(*world) + nr * sizeof(world->cells[0]), PAGE_SIZE);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_SHMEM, WORLD_GPA, WORLD_SLOT,
				    size / PAGE_SIZE, 0);
	virt_map(vm, WORLD_GPA, WORLD_GPA, size / PAGE_SIZE);
	world = addr_gpa2hva(vm, WORLD_GPA);
	world->seed = kvm_random_seed;
	world->nr_cells = nr;
	world->unit_cells = ws->unit_cells;
	world->unit_size = ws->unit;
	world->unit_has_rest = ws->unit > ws->unit_cells * PAGE_SIZE;
	world->few_spares = ws->unit && ws->nr_spares < MANY_SPARES;
	world->nr_units = ws->nr_units;
	world->file_offset = ws->first_page * PAGE_SIZE;
	world->may_poison = r->nr_poisons && !r->late_poison;
	world->poisons_left = r->nr_poisons;
	for (i = 0; i < ws->nr_units; i++)
		world->units[i].rest_private = private;
	set_range_private(world, 0, nr, false, private);

	if (v->unit)
		gmem_fd = vm_create_guest_memfd_hugetlb(vm,
							(ws->nr_units + ws->nr_spares) * v->unit,
							v->flags, __builtin_ctzll(v->unit));
	else
		gmem_fd = vm_create_guest_memfd(vm, cell_offset(nr), v->flags);
	create_slots(v);
}

static const pthread_fn_t chaos_threads[] = {
	pin_thread, longterm_pin_thread, map_thread, fork_thread, rebind_thread,
};

static void run_actors(struct kvm_vcpu **vcpus, char **mem, int ms)
{
	struct actor actors[MAX_VCPUS + NR_HOST_THREADS + ARRAY_SIZE(chaos_threads)] = {};
	int nr = nr_vcpus + NR_HOST_THREADS + ARRAY_SIZE(chaos_threads), i;
	s64 end = now_ms() + ms;

	for (i = 0; i < nr; i++) {
		struct actor *a = &actors[i];
		int host = i - nr_vcpus, chaos = host - NR_HOST_THREADS;

		a->rng = new_kvm_random_state(kvm_random_seed + 1000 + i);
		a->mem = mem[i % 2];
		a->vcpu = host < 0 ? vcpus[i] : NULL;
		/* MADV_DONTNEED fails for a locked mapping, which mem[1] may be. */
		if (chaos >= 0 && chaos_threads[chaos] == map_thread)
			a->mem = mem[0];
		kvm_pthread_create(&a->thread, NULL, host < 0 ? vcpu_thread :
				   chaos < 0 ? host_thread : chaos_threads[chaos], a);
	}

	/*
	 * Every now and then, have the kernel look for memory that can be evicted,
	 * and check all struct pages of split units.
	 */
	while (now_ms() < end) {
		drop_caches();
		if (world->unit_cells && guestmem_has_units())
			free(guestmem_read_units());
		usleep(clamp(end - now_ms(), (s64)0, (s64)CHECK_PERIOD_MS) * 1000);
	}
	WRITE_ONCE(world->phase, PHASE_STOP);
	for (i = 0; i < nr; i++)
		kvm_pthread_join(actors[i].thread, NULL);
}

/*
 * Assert that only poisoned units are split, as all of the file is private, and that
 * no unit is late.
 */
static void check_units(void)
{
	int nr, nr_late, nr_poisoned = 0, tries;
	struct unit *u;

	if (!world->unit_cells || !guestmem_has_units())
		return;

	for (u = world->units; u < world->units + world->nr_units; u++)
		nr_poisoned += !!u->nr_poisoned;

	nr = guestmem_nr_units(&nr_late);
	TEST_ASSERT(nr == nr_poisoned, "%d units are split, %d are poisoned", nr, nr_poisoned);
	/* Units that were unpinned just now are on their way to the pool. */
	for (tries = 0; tries < SETTLE_TRIES && nr_late; tries++) {
		usleep(SETTLE_DELAY_US);
		guestmem_nr_units(&nr_late);
	}
	TEST_ASSERT(!nr_late, "%d units are in no file", nr_late);
}

static void check_cells(struct actor *a)
{
	u64 c;

	for (c = 0; c < world->nr_cells; c++)
		if (!world->cells[c].poison || !pick(&a->rng, 16))
			host_check_cell(a, c);
}

static void convert_world(bool private)
{
	u64 size = world->nr_cells * PAGE_SIZE, unit;

	if (world->unit_cells)
		size = world->nr_units * world->unit_size;
	if (private)
		gmem_set_private(gmem_fd, 0, world->unit_cells ? size : cell_offset(0) + size);
	else
		gmem_set_shared(gmem_fd, world->unit_cells ? 0 : cell_offset(0), size);

	set_range_private(world, 0, world->nr_cells, false, private);
	for (unit = 0; unit < world->nr_units; unit++)
		world->units[unit].rest_private = private;
}

/*
 * Check the file and convert it.  All other actors have ended, so there is no reason
 * to retry anything.
 */
static void check_world(struct actor *a, struct kvm_vcpu *vcpu)
{
	TEST_ASSERT(trylock_range(world, 0, world->nr_cells), "All cells should be unlocked");
	check_cells(a);
	convert_world(false);
	check_cells(a);
	convert_world(true);
	check_units();
	check_cells(a);

	WRITE_ONCE(world->phase, PHASE_CHECK);
	run_vcpu(vcpu);
}

/*
 * Punch a poisoned unit.  Assert that the pool loses the unit, and that the file gets
 * another unit if one is available.
 */
static void punch_poisoned(struct actor *a, struct session *s)
{
	struct hugetlb_pool pool;
	bool replaced;

	hugetlb_read_pool(world->unit_size, &pool);
	replaced = hugetlb_available(&pool);
	punch_unit(a, s);
	/* The unit was in use before, i.e. the number of free ones stays the same. */
	pool.total--;
	TEST_ASSERT_POOL_SETTLES(&pool, 0, replaced);
	if (!replaced)
		return;
	host_allocate(s->first, 1);
	TEST_ASSERT_POOL_SETTLES(&pool, -1, 0);
}

/* The states that huge pages can be in when the file is closed. */
enum leave_kind {
	LEAVE_PRIVATE,
	LEAVE_SHARED,
	LEAVE_HOLE,
	LEAVE_PINNED,
	LEAVE_POISONED,
	NR_LEAVE_KINDS
};

static void leave_unit(struct actor *a, struct session *s, enum leave_kind kind)
{
	static const enum unit_state states[NR_LEAVE_KINDS][3] = {
		[LEAVE_PRIVATE] = { STATE_whole_private, NR_STATES },
		[LEAVE_SHARED] = { STATE_whole_shared, NR_STATES },
		[LEAVE_HOLE] = { STATE_hole, NR_STATES },
		[LEAVE_PINNED] = { STATE_whole_shared, STATE_isolated, STATE_pinned },
		[LEAVE_POISONED] = { STATE_mixed, STATE_pinned, STATE_poisoned },
	};
	struct unit *u = &world->units[s->unit];
	int i;

	for (i = 0; i < ARRAY_SIZE(states[kind]) && states[kind][i] != NR_STATES; i++)
		reach_state(a, s, states[kind][i], OP_close);

	count_op_unit(world, OP_close, s->unit);
	if (u->nr_poisoned) {
		world->nr_lost++;
		count(world, EVENT_poison_closed);
	}
}

static void check_free(const struct hugetlb_pool *start, int nr_missing)
{
	struct hugetlb_pool pool;
	int tries;

	for (tries = 0; tries < SETTLE_TRIES; tries++) {
		hugetlb_read_pool(start->size, &pool);
		if (pool.free == start->free - nr_missing)
			return;
		usleep(SETTLE_DELAY_US);
	}
	TEST_FAIL("Of %ld free pages %d should be in use, %ld are free", start->free, nr_missing,
		  pool.free);
}

/*
 * Bring all units into the states in which the file is to be closed.  Returns the
 * number of huge pages that won't be free then, as they are pinned or poisoned.
 */
static int leave_units(struct actor *a, struct round *r, struct session *sessions)
{
	int nr = world->nr_units, nr_pinned = 0, i;

	if (r->late_poison)
		world->may_poison = true;
	for (i = 0; i < nr; i++)
		leave_unit(a, &sessions[i], r->late_poison ? LEAVE_POISONED :
						(i + r->nr) % NR_LEAVE_KINDS);

	for (i = 0; i < nr; i++) {
		if (!sessions[i].pin.active)
			continue;
		host_lose_pin(&sessions[i].pin);
		nr_pinned += !world->units[i].nr_poisoned;
		count(world, EVENT_pinned_page_of_closed_file);
	}
	return world->nr_lost + nr_pinned;
}

/* Close the file while guests look at it, and while pages of it stay pinned. */
static void close_file(struct actor *a, struct round *r, struct kvm_vcpu **vcpus, char **mem)
{
	u64 size = world->nr_cells * PAGE_SIZE;
	struct session sessions[MAX_UNITS] = {};
	struct actor guests[MAX_VCPUS] = {};
	int nr = world->nr_units, nr_missing, i;

	for (i = 0; i < nr; i++) {
		sessions[i].unit = i;
		sessions[i].first = i * world->unit_cells;
		if (world->units[i].nr_poisoned && (i + r->nr) % 2)
			punch_poisoned(a, &sessions[i]);
	}

	WRITE_ONCE(world->phase, PHASE_PEEK);
	for (i = 0; i < nr_vcpus; i++) {
		guests[i].vcpu = vcpus[i];
		kvm_pthread_create(&guests[i].thread, NULL, vcpu_thread, &guests[i]);
	}
	usleep(PEEK_US);
	if (!nr) {
		convert_world(false);
		host_pin(a, &sessions[0].pin, 0);
		host_lose_pin(&sessions[0].pin);
		count(world, EVENT_pinned_page_of_closed_file);
	}
	nr_missing = leave_units(a, r, sessions);

	kvm_munmap(mem[0], size);
	kvm_munmap(mem[1], size);
	WRITE_ONCE(world->phase, PHASE_CLOSED);
	kvm_close(gmem_fd);
	for (i = 0; i < nr_vcpus; i++)
		kvm_pthread_join(guests[i].thread, NULL);

	add_hits(&r->totals->hits[size_index(r->v)], &world->hits);
	r->totals->nr_lost = world->nr_lost;

	if (r->v->unit)
		check_free(&r->pool, nr_missing);
	if (pick(&a->rng, 2)) {
		kvm_vm_free(vm);
		vm = NULL;
	}
	for (i = 0; i < MAX_UNITS; i++) {
		if (sessions[i].pin.active)
			check_pin(&sessions[i].pin);
	}
	if (vm)
		kvm_vm_free(vm);
}

static void run_round(struct round *r)
{
	struct kvm_vcpu *vcpus[MAX_VCPUS];
	int fds = nr_open_fds(), i;
	struct actor a = {};
	char *mem[2];
	u64 size;

	create_world(r, vcpus);
	sigbus_start(true);
	for (i = 0; i < nr_vcpus; i++)
		vcpu_args_set(vcpus[i], 1, (u64)i);

	size = world->nr_cells * PAGE_SIZE;
	for (i = 0; i < 2; i++)
		mem[i] = __kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED, gmem_fd,
				    world->file_offset);
	/*
	 * Lock one mapping in half of the variants only.  Unmapping locked pages
	 * leaves references in batches, and draining these slows all actors down.
	 */
	if (r->v->flags & GUEST_MEMFD_FLAG_INIT_SHARED)
		TEST_ASSERT(!syscall(__NR_mlock2, mem[1], size, MLOCK_ONFAULT),
			    "mlock2() should succeed");

	run_actors(vcpus, mem, r->ms);

	a.rng = new_kvm_random_state(kvm_random_seed);
	a.mem = mem[0];
	check_world(&a, vcpus[0]);
	close_file(&a, r, vcpus, mem);
	TEST_ASSERT_EQ(nr_open_fds(), fds);
}

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
 * memory that the kernel frees late, especially struct pages of huge pages.
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
	printf("%s [-h] [-n vcpus] [-p pages] [-r seed] [-s seconds] [-u size[,size...]]\n\n"
	       " -n: number of vCPUs (default: %d)\n"
	       " -p: poison memory, i.e. lose that many huge pages of each size (default: 0)\n"
	       " -r: seed, to repeat what each thread wanted to do\n"
	       " -s: seconds in total (default: 16)\n"
	       " -u: page sizes out of 4K,2M,1G (default: all)\n", cmd, nr_vcpus);
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

	while ((opt = getopt(argc, argv, "hn:p:r:s:u:")) != -1) {
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
		default:
			usage(argv[0]);
			exit(opt == 'h' ? 0 : 1);
		}
	}

	TEST_REQUIRE(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM));
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES) &
		     KVM_MEMORY_ATTRIBUTE_PRIVATE);
	TEST_REQUIRE(!max_poisons || !access(CORRUPT_PFN, W_OK));

	ksft_print_header();
	ksft_print_msg("seed %#x, %d vCPUs, %d s\n", kvm_random_seed, nr_vcpus, seconds);
	run(seconds);
	ksft_finished();
}
