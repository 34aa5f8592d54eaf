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

#include <linux/sizes.h>

#include "guest_memfd_stress_matrix.h"
#include "kvm_util.h"
#include "processor.h"

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

static inline void count(struct world *w, enum event event)
{
	__atomic_fetch_add(&w->hits.events[event], 1, __ATOMIC_RELAXED);
}

static inline u32 pick(struct kvm_random_state *rng, u32 n)
{
	return kvm_random_u32(rng) % n;
}

/* Pick mostly single pages, some ranges, and few large ranges.  Returns the number of cells. */
u64 pick_range(struct world *w, struct kvm_random_state *rng, u64 max, u64 *first);

void unlock_range(struct world *w, u64 first, u64 nr);

bool trylock_range(struct world *w, u64 first, u64 nr);

/*
 * Lock all cells of a unit.  Returns false if a cell stays locked for too long, or if
 * the actors are to stop.  Waits for cells, as all of a unit is never free by chance.
 * There is no deadlock: an actor that waits with cells locked locks cells in their
 * order, and all other actors don't wait.
 */
bool lock_unit(struct world *w, u64 unit, void (*wait)(int tries), int max_tries);

void unlock_unit(struct world *w, u64 unit);

struct unit *unit_of(struct world *w, u64 c);

void add(u32 *counter, int n);

void count_op_unit(struct world *w, enum unit_op op, u64 unit);

/* Count an operation that is about to happen to a range. */
void count_op(struct world *w, enum unit_op op, u64 first, u64 nr);

void count_conversion(struct world *w, u64 first, u64 nr, bool all, bool private);

/* Take one more huge page that may be lost.  Returns false if there is none. */
bool take_poison(struct world *w);

u64 new_stamp(struct world *w, u64 c, bool by_guest);

bool stamp_is_of_cell(u64 stamp, u64 c);

/*
 * Return the offset of a word.  The words are all over the cell, and include its
 * first and its last word.
 */
u64 word_offset(int i);

/* Return whether a check of a range may skip a cell. */
bool is_one_of_many(struct kvm_random_state *rng, u64 c, u64 first, u64 nr);

/*
 * Return 1 if all cells are private or shared as @private says, -1 if none of them
 * is, 0 otherwise.
 */
int uniform(struct world *w, u64 first, u64 nr, bool private);

/* Note that an actor has seen memory in a range. */
void set_present(struct world *w, u64 first, u64 nr);

void set_isolated(struct world *w, u64 c, bool isolated);

/* Note a conversion.  Pages that become private are unmapped, i.e. not isolated any more. */
void set_range_private(struct world *w, u64 first, u64 nr, bool all, bool private);

void set_unit_lost(struct world *w, u64 unit);

void count_punch(struct world *w, u64 first, u64 nr);

/*
 * Note that a range was punched.  Units that are all in the range are holes then,
 * other cells are zero.
 */
void set_range_punched(struct world *w, u64 first, u64 nr);

void stress_guest_code(u64 id);

/* Where the guest reads memory that may be poisoned, and goes on if it is. */
extern char guest_probe_insn[], guest_probe_fixup[];

#endif /* SELFTEST_KVM_GUEST_MEMFD_STRESS_H */
