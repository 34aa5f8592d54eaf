// SPDX-License-Identifier: GPL-2.0-only
#include "guest_memfd_stress_round.h"

#define WORLD_SLOT		10
#define NR_HOST_THREADS		2

/* A run with that many seconds for a size has to reach everything. */
#define LONG_RUN_SMALL		120
#define LONG_RUN_HUGE		240

#define CHECK_PERIOD_MS		1000
/* How long guests look at the file before it is closed. */
#define PEEK_US			(20 * 1000)

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

const struct world_size world_sizes[NR_SIZES] = {
	{ "4K", 0, SMALL_CELLS, 0, SMALL_FIRST_PAGE, 0, 0, LONG_RUN_SMALL },
	{ "2M", SZ_2M, MAX_UNITS * PAGES_2M, PAGES_2M, 0, MAX_UNITS, MANY_SPARES,
	  LONG_RUN_HUGE },
	{ "1G", SZ_1G, LARGE_CELLS, LARGE_CELLS, LARGE_FIRST_PAGE, 1, 1, LONG_RUN_HUGE },
};

int nr_vcpus = 3;
bool with_walkers;

int size_index(const struct variant *v)
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
	/* A search for contiguous memory isolates free huge pages for a while. */
	world->few_spares = ws->unit && (ws->nr_spares < MANY_SPARES || with_walkers);
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
	/* The last ones are walkers. */
	walk_thread, compact_thread, contig_thread,
};

#define NR_WALKERS		3

static void run_actors(struct kvm_vcpu **vcpus, char **mem, int ms)
{
	struct actor actors[MAX_VCPUS + NR_HOST_THREADS + ARRAY_SIZE(chaos_threads)] = {};
	int nr = nr_vcpus + NR_HOST_THREADS + ARRAY_SIZE(chaos_threads), i;
	s64 end = now_ms() + ms;

	if (!with_walkers || !world->unit_cells)
		nr -= NR_WALKERS;

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

void run_round(struct round *r)
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
