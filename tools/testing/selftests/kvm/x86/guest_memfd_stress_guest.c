// SPDX-License-Identifier: GPL-2.0-only
#include "guest_memfd_stress.h"
#include "ucall_common.h"

/* The host may hold a lock for as long as it takes to clear or merge a huge page. */
#define GUEST_LOCK_TRIES	1000000

static u64 guest_cell(struct world *w, struct slot *s, u64 c)
{
	return s->gpa + (c - s->first) * PAGE_SIZE;
}

static u64 *guest_word(struct world *w, struct slot *s, u64 c, int i)
{
	return (u64 *)(guest_cell(w, s, c) + word_offset(i));
}

static void guest_wait(int tries)
{
	cpu_relax();
}

/* Read a word.  Returns false if the memory is poisoned. */
static noinline bool guest_probe(u64 *p, u64 *val)
{
	bool ok = true;

	asm volatile(".globl guest_probe_insn, guest_probe_fixup\n\t"
		     "guest_probe_insn: mov (%[p]), %[val]\n\t"
		     "jmp 1f\n\t"
		     "guest_probe_fixup: movb $0, %[ok]\n\t"
		     "1:\n\t"
		     : [val] "=&r" (*val), [ok] "+r" (ok) : [p] "r" (p) : "memory");
	return ok;
}

static void guest_check_poison(struct world *w, struct slot *s, u64 c)
{
	u64 val;

	__GUEST_ASSERT(!guest_probe(guest_word(w, s, c, 0), &val),
		       "Cell %lu (%s) is poisoned, should not be mapped, and has 0x%lx", c,
		       w->cells[c].private ? "private" : "shared", val);
	count(w, EVENT_poison_found_by_guest);
}

static void guest_check_cell(struct world *w, struct slot *s, u64 c)
{
	struct cell *cell = &w->cells[c];
	u64 val;
	int i;

	if (cell->poison) {
		guest_check_poison(w, s, c);
		return;
	}

	for (i = 0; i < NR_WORDS; i++) {
		val = READ_ONCE(*guest_word(w, s, c, i));
		__GUEST_ASSERT(val == cell->stamp,
			       "Cell %lu (%s), word %d should be 0x%lx, is 0x%lx",
			       c, cell->private ? "private" : "shared", i, cell->stamp, val);
	}
	if (cell->stamp && !(cell->stamp & STAMP_BY_GUEST)) {
		count(w, EVENT_guest_reads_hosts_data);
		if (cell->private)
			count(w, EVENT_guest_reads_it_in_private);
	}
}

/* Check the part of a range that is in the slot. */
static void guest_check(struct world *w, struct kvm_random_state *rng, struct slot *s,
			u64 first, u64 nr)
{
	u64 end = min(first + nr, s->first + s->nr), c;

	first = max(first, s->first);
	count_op(w, OP_guest_access, first, end - first);
	for (c = first; c < end; c++) {
		if (!is_one_of_many(rng, c, first, end - first))
			guest_check_cell(w, s, c);
	}
	set_present(w, first, end - first);
}

static void guest_write(struct world *w, struct slot *s, u64 first, u64 nr)
{
	u64 c;
	int i;

	count_op(w, OP_guest_access, first, nr);
	for (c = first; c < first + nr; c++) {
		if (w->cells[c].poison)
			continue;
		w->cells[c].stamp = new_stamp(w, c, true);
		for (i = 0; i < NR_WORDS; i++)
			WRITE_ONCE(*guest_word(w, s, c, i), w->cells[c].stamp);
	}
	set_present(w, first, nr);
	count(w, EVENT_guest_writes);
}

static void count_guest_conversion(struct world *w, int already, bool private)
{
	if (already > 0)
		count(w, EVENT_guest_conversion_of_nothing);
	else if (!already)
		count(w, EVENT_guest_conversion_of_mixed);
	else
		count(w, private ? EVENT_guest_to_private : EVENT_guest_to_shared);
}

/*
 * Convert a range of a slot or, with @all, the unit that the range is all of,
 * whatever its slots.
 */
static void guest_convert(struct world *w, struct kvm_random_state *rng, struct slot *s,
			  u64 first, u64 nr, bool all, bool private)
{
	int already = uniform(w, first, nr, private);
	u64 gpa, flags = private ? HYPERCALL_PRIVATE : 0, r;

	count_conversion(w, first, nr, all, private);
	gpa = guest_cell(w, s, max(first, s->first));
	if (all)
		r = __kvm_hypercall_map_gpa_range(gpa, PAGE_SIZE, flags | HYPERCALL_UNIT);
	else
		r = __kvm_hypercall_map_gpa_range(gpa, nr * PAGE_SIZE, flags);

	if (r == EAGAIN) {
		count(w, EVENT_guest_conversion_gave_up);
	} else {
		__GUEST_ASSERT(!r, "The host should convert it, not end with %lu", r);
		set_range_private(w, first, nr, all, private);
		count_guest_conversion(w, already, private);
	}
	guest_check(w, rng, s, first, nr);
}

static void guest_punch(struct world *w, struct kvm_random_state *rng, struct slot *s,
			u64 first, u64 nr)
{
	count_punch(w, first, nr);
	GUEST_ASSERT(!__kvm_hypercall_map_gpa_range(guest_cell(w, s, first), nr * PAGE_SIZE,
						    HYPERCALL_PUNCH));
	set_range_punched(w, first, nr);
	count(w, EVENT_guest_holes);
	guest_check(w, rng, s, first, nr);
}

static void guest_punch_unit(struct world *w, struct slot *s, u64 unit)
{
	u64 c = max(unit * w->unit_cells, s->first);

	count_op_unit(w, OP_punch_unit, unit);
	GUEST_ASSERT(!__kvm_hypercall_map_gpa_range(guest_cell(w, s, c), PAGE_SIZE,
						    HYPERCALL_PUNCH | HYPERCALL_UNIT));
	set_unit_lost(w, unit);
}

/* Do several things in a row with all of the unit of cell @c locked. */
static void guest_step_unit(struct world *w, struct kvm_random_state *rng,
			    struct slot *s, u64 c)
{
	u64 unit = c / w->unit_cells, first = unit * w->unit_cells;
	int i;

	if (!lock_unit(w, unit, guest_wait, GUEST_LOCK_TRIES))
		return;

	for (i = pick(rng, 3); i >= 0; i--) {
		switch (pick(rng, 6)) {
		case 0:
			/* Poison is rare, so keep most of it. */
			if (!w->units[unit].nr_poisoned || !pick(rng, 16))
				guest_punch_unit(w, s, unit);
			break;
		case 1:
			guest_check(w, rng, s, c, 1);
			break;
		case 2:
			guest_write(w, s, c, 1);
			break;
		case 3:
			guest_convert(w, rng, s, c, 1, false, pick(rng, 2));
			break;
		default:
			guest_convert(w, rng, s, first, w->unit_cells, true, pick(rng, 2));
		}
	}
	unlock_unit(w, unit);
}

/*
 * Look at a cell without its lock.  The cell may contain anything but the stamp of
 * another cell.
 */
static void guest_peek(struct world *w, struct slot *s, struct kvm_random_state *rng)
{
	u64 c = s->first + pick(rng, s->nr), val;

	if (guest_probe(guest_word(w, s, c, pick(rng, NR_WORDS)), &val))
		__GUEST_ASSERT(stamp_is_of_cell(val, c), "Cell %lu has 0x%lx", c, val);
	set_present(w, c, 1);
	count(w, EVENT_guest_peeks);
}

static void guest_step(struct world *w, struct kvm_random_state *rng)
{
	struct slot *s = &w->slots[pick(rng, REBIND_SLOT)];
	u32 op = pick(rng, 100);
	u64 first, nr;

	if (op < 30) {
		guest_peek(w, s, rng);
		return;
	}

	nr = pick_range(w, rng, s->nr, &first);
	first += s->first;
	if (w->unit_cells && op < 33) {
		guest_step_unit(w, rng, s, first);
		return;
	}
	if (!trylock_range(w, first, nr)) {
		count(w, EVENT_guest_found_pages_busy);
		return;
	}

	guest_check(w, rng, s, first, nr);
	if (op < 85) {
		guest_write(w, s, first, nr);
		if (op >= 40)
			guest_convert(w, rng, s, first, nr, false, pick(rng, 2));
	} else if (op < 90) {
		guest_convert(w, rng, s, first, nr, false, pick(rng, 2));
	} else {
		guest_punch(w, rng, s, first, nr);
	}
	unlock_range(w, first, nr);
}

static void guest_check_all(struct world *w)
{
	struct slot *s;
	u64 c;

	for (s = w->slots; s < w->slots + REBIND_SLOT; s++) {
		for (c = s->first; c < s->first + s->nr; c++)
			guest_check_cell(w, s, c);
	}
}

void stress_guest_code(u64 id)
{
	struct world *w = (struct world *)WORLD_GPA;
	struct kvm_random_state rng = new_kvm_random_state(w->seed + id);

	while (!stopped(w)) {
		guest_step(w, &rng);
		WRITE_ONCE(w->progress[id], w->progress[id] + 1);
	}
	GUEST_SYNC(0);

	/* All other actors have ended by now. */
	if (READ_ONCE(w->phase) == PHASE_CHECK) {
		guest_check_all(w);
		GUEST_SYNC(1);
	}

	/* Look at the file until it is gone. */
	for (;;)
		guest_peek(w, &w->slots[pick(&rng, REBIND_SLOT)], &rng);
}
