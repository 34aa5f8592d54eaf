/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Data on which guest and host of guest_memfd_conversions_stress_test agree: the
 * table of what is in memory, and the events that they count.
 *
 * A cell is a page.  A unit is a huge page and has many cells.  Only a part of a very
 * large unit has cells.  The rest of it is converted only with all cells locked, and
 * isn't written to.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_STRESS_H
#define SELFTEST_KVM_GUEST_MEMFD_STRESS_H

#include <errno.h>

#include <linux/sizes.h>

#include "guest_memfd_stress_matrix.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"

#define WORLD_GPA		((u64)SZ_1G)

/* The third slot is at an odd address, the last one comes and goes. */
#define NR_SLOTS		4
#define REBIND_SLOT		(NR_SLOTS - 1)

#define PAGES_2M		(SZ_2M / PAGE_SIZE)
#define MAX_UNITS		8
#define MAX_VCPUS		16
#define MAX_RANGE		256
#define MAX_HUGE_RANGE		1200
#define NR_WORDS		8

/* If a range has more cells than that, looking at some is as good as looking at all. */
#define MANY_CELLS		16

#define HYPERCALL_PRIVATE	BIT(0)
#define HYPERCALL_PUNCH		BIT(1)
#define HYPERCALL_UNIT		BIT(2)

/*
 * A stamp: the cell, a number, whether the guest wrote it, and whether the cell was
 * private then.
 */
#define STAMP_CELL_SHIFT	44
#define STAMP_NR_SHIFT		2
#define STAMP_BY_GUEST		BIT(0)
#define STAMP_IN_PRIVATE	BIT(1)

/* A page. */
struct cell {
	u32 locked;
	u8 private;
	u8 isolated;		/* shared, and the host has touched it */
	u8 poison;		/* neither guest nor host can get at it */
	u64 stamp;
};

/* A unit.  An actor counts a cell here while it has locked the cell. */
struct unit {
	u32 present;
	u32 nr_private;
	u32 nr_isolated;
	u32 nr_pinned;
	u32 nr_poisoned;
	/* Whether the part that has no cells is private. */
	u32 rest_private;
	/* The pfn of the first page, while the unit is present and the pfn is known. */
	u64 pfn;
};

struct slot {
	u64 gpa;
	u64 first, nr;		/* cells */
};

/* A phase decides what the guests do. */
enum phase {
	PHASE_RUN,
	PHASE_STOP,
	PHASE_CHECK,
	PHASE_PEEK,
	PHASE_CLOSED,
};

/* Shared by the guest, the host, and the host's children. */
struct world {
	u32 phase;
	u32 seed;
	u64 nr_cells;
	u64 unit_cells;		/* 0 without huge pages */
	u64 unit_size;
	u32 unit_has_rest;
	u32 few_spares;		/* a unit that was punched may be missing for a while */
	u64 nr_units;
	u64 file_offset;	/* of the first cell */
	u64 stamp_nr;
	u32 may_poison;
	u32 poisons_left;	/* units */
	u32 nr_lost;		/* units that had a poisoned page and left the file */
	struct slot slots[NR_SLOTS];
	struct unit units[MAX_UNITS];
	u64 progress[MAX_VCPUS];
	struct hits hits;
	struct cell cells[];
};

static inline bool stopped(struct world *w)
{
	return READ_ONCE(w->phase) != PHASE_RUN;
}

static void count(struct world *w, enum event event)
{
	__atomic_fetch_add(&w->hits.events[event], 1, __ATOMIC_RELAXED);
}

static u32 pick(struct kvm_random_state *rng, u32 n)
{
	return kvm_random_u32(rng) % n;
}

/* Pick mostly single pages, some ranges, and few large ranges.  Returns the number of cells. */
static u64 pick_range(struct world *w, struct kvm_random_state *rng, u64 max, u64 *first)
{
	u32 max_range = w->unit_cells && !w->unit_has_rest ? MAX_HUGE_RANGE : MAX_RANGE;
	u32 r = pick(rng, 100);
	u64 nr = r < 70 ? 1 : 1 + pick(rng, r < 97 ? 8 : max_range);

	nr = min(nr, max);
	*first = pick(rng, max - nr + 1);
	return nr;
}

static void unlock_range(struct world *w, u64 first, u64 nr)
{
	while (nr--)
		__atomic_store_n(&w->cells[first + nr].locked, 0, __ATOMIC_RELEASE);
}

static bool trylock_range(struct world *w, u64 first, u64 nr)
{
	u64 i;

	for (i = 0; i < nr; i++) {
		if (__atomic_exchange_n(&w->cells[first + i].locked, 1, __ATOMIC_ACQUIRE)) {
			unlock_range(w, first, i);
			return false;
		}
	}
	return true;
}

/*
 * Lock all cells of a unit.  Returns false if a cell stays locked for too long, or if
 * the actors are to stop.  Waits for cells, as all of a unit is never free by chance.
 * There is no deadlock: an actor that waits with cells locked locks cells in their
 * order, and all other actors don't wait.
 */
static bool lock_unit(struct world *w, u64 unit, void (*wait)(int tries), int max_tries)
{
	u64 first = unit * w->unit_cells, i;
	int tries = 0;

	for (i = 0; i < w->unit_cells; i++) {
		while (!trylock_range(w, first + i, 1)) {
			if (tries == max_tries || stopped(w)) {
				unlock_range(w, first, i);
				count(w, EVENT_unit_stays_busy);
				return false;
			}
			wait(tries++);
		}
	}
	return true;
}

static void unlock_unit(struct world *w, u64 unit)
{
	unlock_range(w, unit * w->unit_cells, w->unit_cells);
}

static struct unit *unit_of(struct world *w, u64 c)
{
	return &w->units[c / w->unit_cells];
}

static void add(u32 *counter, int n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

static bool is_whole_private(struct world *w, struct unit *u)
{
	return u->nr_private == w->unit_cells && (u->rest_private || !w->unit_has_rest);
}

static bool is_whole_shared(struct world *w, struct unit *u)
{
	return !u->nr_private && !(u->rest_private && w->unit_has_rest);
}

static u32 unit_states(struct world *w, u64 unit)
{
	struct unit *u = &w->units[unit];
	u32 states = is_whole_private(w, u) ? BIT(STATE_whole_private) :
		     is_whole_shared(w, u) ? BIT(STATE_whole_shared) : BIT(STATE_mixed);

	if (!READ_ONCE(u->present))
		states |= BIT(STATE_hole);
	if (u->nr_isolated)
		states |= BIT(STATE_isolated);
	if (u->nr_pinned)
		states |= BIT(STATE_pinned);
	if (u->nr_poisoned)
		states |= BIT(STATE_poisoned);
	return states;
}

static void count_op_unit(struct world *w, enum unit_op op, u64 unit)
{
	u32 states = unit_states(w, unit);
	int i;

	for (i = 0; i < NR_STATES; i++) {
		if (states & BIT(i))
			__atomic_fetch_add(&w->hits.ops[op][i], 1, __ATOMIC_RELAXED);
	}
}

/* Count an operation that is about to happen to a range. */
static void count_op(struct world *w, enum unit_op op, u64 first, u64 nr)
{
	u64 unit;

	if (!w->unit_cells)
		return;

	for (unit = first / w->unit_cells; unit <= (first + nr - 1) / w->unit_cells; unit++)
		count_op_unit(w, op, unit);
}

static void count_conversion(struct world *w, u64 first, u64 nr, bool all, bool private)
{
	enum unit_op page = private ? OP_to_private_page : OP_to_shared_page;

	count_op(w, page + (all ? 2 : nr > 1), first, nr);
}

/* Take one more huge page that may be lost.  Returns false if there is none. */
static inline bool take_poison(struct world *w)
{
	u32 left = READ_ONCE(w->poisons_left);

	while (left) {
		if (__atomic_compare_exchange_n(&w->poisons_left, &left, left - 1, false,
						__ATOMIC_RELAXED, __ATOMIC_RELAXED))
			return true;
	}
	return false;
}

static u64 new_stamp(struct world *w, u64 c, bool by_guest)
{
	u64 nr = __atomic_add_fetch(&w->stamp_nr, 1, __ATOMIC_RELAXED);

	return (c + 1) << STAMP_CELL_SHIFT | nr << STAMP_NR_SHIFT |
	       (w->cells[c].private ? STAMP_IN_PRIVATE : 0) |
	       (by_guest ? STAMP_BY_GUEST : 0);
}

static bool stamp_is_of_cell(u64 stamp, u64 c)
{
	return !stamp || stamp >> STAMP_CELL_SHIFT == c + 1;
}

/*
 * Return the offset of a word.  The words are all over the cell, and include its
 * first and its last word.
 */
static u64 word_offset(int i)
{
	if (i == NR_WORDS - 1)
		return PAGE_SIZE - sizeof(u64);

	return i * (PAGE_SIZE / NR_WORDS + sizeof(u64));
}

/* Return whether a check of a range may skip a cell. */
static bool is_one_of_many(struct kvm_random_state *rng, u64 c, u64 first, u64 nr)
{
	return nr > MANY_CELLS && c != first && c != first + nr - 1 && pick(rng, 8);
}

/*
 * Return 1 if all cells are private or shared as @private says, -1 if none of them
 * is, 0 otherwise.
 */
static int uniform(struct world *w, u64 first, u64 nr, bool private)
{
	u64 i, same = 0;

	for (i = 0; i < nr; i++)
		same += w->cells[first + i].private == private;
	return same == nr ? 1 : same ? 0 : -1;
}

/* Note that an actor has seen memory in a range. */
static void set_present(struct world *w, u64 first, u64 nr)
{
	u64 unit;

	if (!w->unit_cells)
		return;

	for (unit = first / w->unit_cells; unit <= (first + nr - 1) / w->unit_cells; unit++)
		WRITE_ONCE(w->units[unit].present, 1);
}

static void set_isolated(struct world *w, u64 c, bool isolated)
{
	if (!w->unit_cells || w->cells[c].isolated == isolated)
		return;

	w->cells[c].isolated = isolated;
	add(&unit_of(w, c)->nr_isolated, isolated ? 1 : -1);
}

/* Note a conversion.  Pages that become private are unmapped, i.e. not isolated any more. */
static void set_range_private(struct world *w, u64 first, u64 nr, bool all, bool private)
{
	u64 c;

	for (c = first; c < first + nr; c++) {
		struct cell *cell = &w->cells[c];

		if (cell->private == private)
			continue;
		cell->private = private;
		if (w->unit_cells)
			add(&unit_of(w, c)->nr_private, private ? 1 : -1);
		if (private)
			set_isolated(w, c, false);
	}
	if (all)
		unit_of(w, first)->rest_private = private;
}

static void set_unit_lost(struct world *w, u64 unit)
{
	struct unit *u = &w->units[unit];
	u64 first = unit * w->unit_cells, c;

	for (c = first; c < first + w->unit_cells; c++) {
		set_isolated(w, c, false);
		w->cells[c].poison = 0;
		w->cells[c].stamp = 0;
	}
	if (u->nr_poisoned) {
		add(&w->nr_lost, 1);
		count(w, EVENT_poison_punched);
	}
	u->nr_poisoned = 0;
	u->pfn = 0;
	WRITE_ONCE(u->present, 0);
}

/* Return whether a hole has all of a unit, which leaves the file then. */
static bool is_hole(struct world *w, u64 unit, u64 first, u64 nr)
{
	u64 start = unit * w->unit_cells;

	return !w->unit_has_rest && first <= start && start + w->unit_cells <= first + nr;
}

static void count_punch(struct world *w, u64 first, u64 nr)
{
	u64 unit;

	if (!w->unit_cells)
		return;

	for (unit = first / w->unit_cells; unit <= (first + nr - 1) / w->unit_cells; unit++)
		count_op_unit(w, is_hole(w, unit, first, nr) ? OP_punch_unit : OP_punch_part,
			      unit);
}

/*
 * Note that a range was punched.  Units that are all in the range are holes then,
 * other cells are zero.
 */
static void set_range_punched(struct world *w, u64 first, u64 nr)
{
	u64 unit, c;

	for (c = first; c < first + nr; c++)
		w->cells[c].stamp = 0;
	for (unit = 0; unit < w->nr_units; unit++) {
		if (is_hole(w, unit, first, nr))
			set_unit_lost(w, unit);
	}
}

#endif /* SELFTEST_KVM_GUEST_MEMFD_STRESS_H */
