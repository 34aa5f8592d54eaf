// SPDX-License-Identifier: GPL-2.0-only
#include "guest_memfd_stress.h"

u64 pick_range(struct world *w, struct kvm_random_state *rng, u64 max, u64 *first)
{
	u32 max_range = w->unit_cells && !w->unit_has_rest ? MAX_HUGE_RANGE : MAX_RANGE;
	u32 r = pick(rng, 100);
	u64 nr = r < 70 ? 1 : 1 + pick(rng, r < 97 ? 8 : max_range);

	nr = min(nr, max);
	*first = pick(rng, max - nr + 1);
	return nr;
}

void unlock_range(struct world *w, u64 first, u64 nr)
{
	while (nr--)
		__atomic_store_n(&w->cells[first + nr].locked, 0, __ATOMIC_RELEASE);
}

bool trylock_range(struct world *w, u64 first, u64 nr)
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

bool lock_unit(struct world *w, u64 unit, void (*wait)(int tries), int max_tries)
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

void unlock_unit(struct world *w, u64 unit)
{
	unlock_range(w, unit * w->unit_cells, w->unit_cells);
}

struct unit *unit_of(struct world *w, u64 c)
{
	return &w->units[c / w->unit_cells];
}

void add(u32 *counter, int n)
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

void count_op_unit(struct world *w, enum unit_op op, u64 unit)
{
	u32 states = unit_states(w, unit);
	int i;

	for (i = 0; i < NR_STATES; i++) {
		if (states & BIT(i))
			__atomic_fetch_add(&w->hits.ops[op][i], 1, __ATOMIC_RELAXED);
	}
}

void count_op(struct world *w, enum unit_op op, u64 first, u64 nr)
{
	u64 unit;

	if (!w->unit_cells)
		return;

	for (unit = first / w->unit_cells; unit <= (first + nr - 1) / w->unit_cells; unit++)
		count_op_unit(w, op, unit);
}

void count_conversion(struct world *w, u64 first, u64 nr, bool all, bool private)
{
	enum unit_op page = private ? OP_to_private_page : OP_to_shared_page;

	count_op(w, page + (all ? 2 : nr > 1), first, nr);
}

bool take_poison(struct world *w)
{
	u32 left = READ_ONCE(w->poisons_left);

	while (left) {
		if (__atomic_compare_exchange_n(&w->poisons_left, &left, left - 1, false,
						__ATOMIC_RELAXED, __ATOMIC_RELAXED))
			return true;
	}
	return false;
}

u64 new_stamp(struct world *w, u64 c, bool by_guest)
{
	u64 nr = __atomic_add_fetch(&w->stamp_nr, 1, __ATOMIC_RELAXED);

	return (c + 1) << STAMP_CELL_SHIFT | nr << STAMP_NR_SHIFT |
	       (w->cells[c].private ? STAMP_IN_PRIVATE : 0) |
	       (by_guest ? STAMP_BY_GUEST : 0);
}

bool stamp_is_of_cell(u64 stamp, u64 c)
{
	return !stamp || stamp >> STAMP_CELL_SHIFT == c + 1;
}

u64 word_offset(int i)
{
	if (i == NR_WORDS - 1)
		return PAGE_SIZE - sizeof(u64);

	return i * (PAGE_SIZE / NR_WORDS + sizeof(u64));
}

bool is_one_of_many(struct kvm_random_state *rng, u64 c, u64 first, u64 nr)
{
	return nr > MANY_CELLS && c != first && c != first + nr - 1 && pick(rng, 8);
}

int uniform(struct world *w, u64 first, u64 nr, bool private)
{
	u64 i, same = 0;

	for (i = 0; i < nr; i++)
		same += w->cells[first + i].private == private;
	return same == nr ? 1 : same ? 0 : -1;
}

void set_present(struct world *w, u64 first, u64 nr)
{
	u64 unit;

	if (!w->unit_cells)
		return;

	for (unit = first / w->unit_cells; unit <= (first + nr - 1) / w->unit_cells; unit++)
		WRITE_ONCE(w->units[unit].present, 1);
}

void set_isolated(struct world *w, u64 c, bool isolated)
{
	if (!w->unit_cells || w->cells[c].isolated == isolated)
		return;

	w->cells[c].isolated = isolated;
	add(&unit_of(w, c)->nr_isolated, isolated ? 1 : -1);
}

void set_range_private(struct world *w, u64 first, u64 nr, bool all, bool private)
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

void set_unit_lost(struct world *w, u64 unit)
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

void count_punch(struct world *w, u64 first, u64 nr)
{
	u64 unit;

	if (!w->unit_cells)
		return;

	for (unit = first / w->unit_cells; unit <= (first + nr - 1) / w->unit_cells; unit++)
		count_op_unit(w, is_hole(w, unit, first, nr) ? OP_punch_unit : OP_punch_part,
			      unit);
}

void set_range_punched(struct world *w, u64 first, u64 nr)
{
	u64 unit, c;

	for (c = first; c < first + nr; c++)
		w->cells[c].stamp = 0;
	for (unit = 0; unit < w->nr_units; unit++) {
		if (is_hole(w, unit, first, nr))
			set_unit_lost(w, unit);
	}
}
