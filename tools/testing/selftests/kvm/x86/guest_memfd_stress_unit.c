// SPDX-License-Identifier: GPL-2.0-only
/*
 * Operations of the host on a huge page of which it has locked all cells: any operation in any
 * state, and poison.
 */
#include "guest_memfd_stress_host.h"

/* Other actors may hold a lock for as long as it takes to clear or merge a huge page. */
#define HOST_LOCK_TRIES		10000

static void host_wait(int tries)
{
	if (tries < 10)
		sched_yield();
	else
		usleep(200);
}

static u64 pick_cell(struct actor *a, struct session *s)
{
	return s->first + pick(&a->rng, world->unit_cells);
}

/* Pick a cell that isn't poisoned.  If that fails, returns one that is. */
static u64 pick_sound_cell(struct actor *a, struct session *s)
{
	u64 c = pick_cell(a, s);
	int tries;

	for (tries = 0; tries < 16 && world->cells[c].poison; tries++)
		c = pick_cell(a, s);
	return c;
}

/* Convert cells.  Returns false if they are as they were, for whatever reason. */
static bool convert_cells(struct actor *a, struct session *s, u64 first, u64 nr, bool all,
			  bool private)
{
	struct pinned_cell *p = &s->pin;

	if (private && p->active && !p->lost && p->c >= first && p->c < first + nr) {
		host_convert_pinned(a, p, first, nr, all);
		return false;
	}
	return __host_convert(a, first, nr, all, private);
}

static bool convert_unit(struct actor *a, struct session *s, bool private)
{
	return convert_cells(a, s, s->first, world->unit_cells, true, private);
}

void punch_unit(struct actor *a, struct session *s)
{
	/* Poison is rare, so keep most of it. */
	if (world->units[s->unit].nr_poisoned && !stopped(world) &&
	    world->hits.ops[OP_punch_unit][STATE_poisoned] && pick(&a->rng, 16))
		return;

	/* The pinned page may take all the huge pages that are to spare. */
	if (world->few_spares && s->pin.active && s->pin.lost)
		host_unpin(a, &s->pin);

	count_op_unit(world, OP_punch_unit, s->unit);
	kvm_fallocate(gmem_fd, PUNCH, unit_offset(s->unit), world->unit_size);
	if (s->pin.active && !s->pin.lost) {
		host_lose_pin(&s->pin);
		count(world, EVENT_pinned_page_of_lost_unit);
	}
	set_unit_lost(world, s->unit);
}

/*
 * Find the pfn of the unit.  Returns false if the host has no page by which it could
 * find the pfn.
 */
static bool find_pfn(struct actor *a, struct session *s)
{
	struct unit *u = &world->units[s->unit];
	u64 c = pick_sound_cell(a, s), pfn, val;

	if (u->pfn)
		return true;
	if (world->cells[c].poison ||
	    (world->cells[c].private && !convert_cells(a, s, c, 1, false, false)))
		return false;

	TEST_ASSERT(host_access(a, c, 0, &val, false), "Cell %lu is shared", c);
	pfn = read_pagemap_pfn(host_word(a, c, 0));
	/* Other actors may have unmapped the page already. */
	if (!pfn)
		return false;
	u->pfn = pfn & -(world->unit_size / PAGE_SIZE);
	return true;
}

static void set_page_poisoned(struct session *s, u64 c, bool is_whole)
{
	struct cell *cell = &world->cells[c];

	cell->poison = true;
	world->units[s->unit].nr_poisoned++;
	count(world, cell->private ? EVENT_poison_in_private : EVENT_poison_in_shared);
	if (is_whole)
		count(world, EVENT_poison_in_whole);
}

/*
 * Poison a page of a unit if possible.  Returns whether the unit has poison, and so
 * will be lost.
 */
static bool poison_unit(struct actor *a, struct session *s)
{
	struct unit *u = &world->units[s->unit];
	bool is_whole;
	u64 c, pfn;
	int error;

	if (u->nr_poisoned > world->unit_cells / 8)
		return true;
	if (a->child || !READ_ONCE(world->may_poison) || !find_pfn(a, s))
		return u->nr_poisoned;
	if (!u->nr_poisoned && !take_poison(world))
		return false;

	/* Often, pick the first page of a folio that is more than a page. */
	c = pick_sound_cell(a, s) & -(1ull << pick(&a->rng, 10));
	if (!u->nr_poisoned && pick(&a->rng, 3) == 0)
		convert_unit(a, s, true);
	if (s->pin.active && !s->pin.lost && s->pin.c == c)
		c = c > s->first ? c - 1 : c + 1;
	if (world->cells[c].poison)
		return true;

	pfn = u->pfn + (cell_offset(c) - unit_offset(s->unit)) / PAGE_SIZE;
	/* Other actors may split or merge the unit until the page fails. */
	is_whole = read_kpageflags(u->pfn) & BIT_ULL(KPF_HUGE);
	error = write_pfn(CORRUPT_PFN, pfn);
	TEST_ASSERT(!error, "Poisoning pfn 0x%lx: %s", pfn, strerror(error));
	set_page_poisoned(s, c, is_whole);
	return u->nr_poisoned;
}

/* Pin a page of a unit, unless one is pinned.  Returns false if that isn't possible. */
static bool pin_unit(struct actor *a, struct session *s)
{
	u64 c = pick_sound_cell(a, s);

	if (s->pin.active && !s->pin.lost)
		return true;
	if (s->pin.active || world->cells[c].poison)
		return false;
	if (world->cells[c].private && !convert_cells(a, s, c, 1, false, false))
		return false;
	return host_pin(a, &s->pin, c);
}

void reach_state(struct actor *a, struct session *s, enum unit_state state, enum unit_op op)
{
	u64 c = pick_sound_cell(a, s);

	/* An actor has to have a pinned page in order to unpin it. */
	if (op == OP_unpin && !s->pin.active && !pin_unit(a, s))
		return;

	switch (state) {
	case STATE_whole_private:
		if (s->pin.active && !s->pin.lost) {
			if (op == OP_unpin)
				punch_unit(a, s);
			else
				host_unpin(a, &s->pin);
		}
		convert_unit(a, s, true);
		break;
	case STATE_whole_shared:
		convert_unit(a, s, false);
		break;
	case STATE_mixed:
		if (pick(&a->rng, 2))
			convert_unit(a, s, pick(&a->rng, 2));
		convert_cells(a, s, c, 1, false, !world->cells[c].private);
		break;
	case STATE_hole:
		punch_unit(a, s);
		break;
	case STATE_isolated:
		if (world->cells[c].private)
			convert_cells(a, s, c, 1, false, false);
		host_check_cells(a, c, 1);
		break;
	case STATE_pinned:
		pin_unit(a, s);
		break;
	case STATE_poisoned:
		poison_unit(a, s);
		break;
	default:
		break;
	}
}

static void do_op(struct actor *a, struct session *s, enum unit_op op)
{
	u64 c = pick_cell(a, s), nr = 1 + pick(&a->rng, world->unit_cells - (c - s->first));
	bool private = op <= OP_to_private_unit;
	struct pinned_cell other = {};

	switch (op) {
	case OP_to_private_page:
	case OP_to_shared_page:
		convert_cells(a, s, c, 1, false, private);
		break;
	case OP_to_private_range:
	case OP_to_shared_range:
		convert_cells(a, s, c, nr, false, private);
		break;
	case OP_to_private_unit:
	case OP_to_shared_unit:
		convert_unit(a, s, private);
		break;
	case OP_punch_part:
		/* Don't punch all of the unit: a pinned page stays in the file here. */
		host_punch(c, min(nr, world->unit_cells - 1));
		break;
	case OP_punch_unit:
		punch_unit(a, s);
		break;
	case OP_fallocate:
		host_allocate(c, nr);
		break;
	case OP_host_touch:
		host_check_cells(a, c, min(nr, 4ul));
		host_write_cells(a, c, 1);
		break;
	case OP_host_mmap_touch:
		host_mmap_check(a, c, nr);
		break;
	case OP_pin:
		c = pick_sound_cell(a, s);
		/* If a page is pinned already, it stays so; undo the second pin. */
		if (!world->cells[c].poison && host_pin(a, s->pin.active ? &other : &s->pin, c))
			host_unpin(a, &other);
		break;
	case OP_unpin:
		host_unpin(a, &s->pin);
		break;
	default:
		break;
	}
}

/*
 * Pick an operation that the host can do here, and a state: the pair that has
 * happened least, or any.
 */
static void pick_pair(struct actor *a, struct session *s, enum unit_op *op,
		      enum unit_state *state)
{
	bool poisoned = world->units[s->unit].nr_poisoned;
	int i, j, nr_states = READ_ONCE(world->may_poison) ? NR_STATES : STATE_poisoned;
	u64 least = ~0ull, hits;

	*op = pick(&a->rng, NR_OPS);
	*state = pick(&a->rng, nr_states);
	if (pick(&a->rng, 2))
		return;

	for (i = 0; i < NR_OPS; i++) {
		if (i == OP_guest_access || i == OP_close)
			continue;
		for (j = 0; j < nr_states; j++) {
			/* Poison isn't always to be had, so make use of it. */
			hits = world->hits.ops[i][j] * 2 + (poisoned != (j == STATE_poisoned));
			if (hits < least) {
				least = hits;
				*op = i;
				*state = j;
			}
		}
	}
}

void host_step_unit(struct actor *a, u64 c)
{
	struct session s = { .unit = c / world->unit_cells };
	enum unit_state state;
	enum unit_op op;
	int i;

	s.first = s.unit * world->unit_cells;
	if (!lock_unit(world, s.unit, host_wait, HOST_LOCK_TRIES))
		return;

	/* Poison lasts, so poison a page as early as possible. */
	if (READ_ONCE(world->poisons_left) && !pick(&a->rng, 8))
		poison_unit(a, &s);
	for (i = pick(&a->rng, 4); i >= 0 && !stopped(world); i--) {
		pick_pair(a, &s, &op, &state);
		reach_state(a, &s, state, op);
		do_op(a, &s, op);
	}

	/* Other actors find the page pinned. */
	if (s.pin.active && !s.pin.lost) {
		c = s.pin.c;
		unlock_range(world, s.first, c - s.first);
		unlock_range(world, c + 1, s.first + world->unit_cells - c - 1);
		usleep(pick(&a->rng, 3000));
		host_unpin(a, &s.pin);
		unlock_range(world, c, 1);
	} else {
		host_unpin(a, &s.pin);
		unlock_unit(world, s.unit);
	}
}
