/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What guest and host of guest_memfd_conversions_stress_test agree on: the events
 * that they count, and the table of what is in memory.  And the guest.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_STRESS_H
#define SELFTEST_KVM_GUEST_MEMFD_STRESS_H

#include <errno.h>

#include <linux/sizes.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define WORLD_GPA		((u64)SZ_1G)

/* The third slot is at an odd address, the last one comes and goes. */
#define NR_SLOTS		4
#define REBIND_SLOT		(NR_SLOTS - 1)

#define PAGES_2M		(SZ_2M / PAGE_SIZE)
#define MAX_VCPUS		16
#define MAX_RANGE		256
#define MAX_HUGE_RANGE		1200
#define NR_WORDS		8

#define HYPERCALL_PRIVATE	BIT(0)
#define HYPERCALL_PUNCH		BIT(1)

/* A stamp: the page, a number, and who wrote it when. */
#define STAMP_CELL_SHIFT	44
#define STAMP_NR_SHIFT		2
#define STAMP_BY_GUEST		BIT(0)
#define STAMP_IN_PRIVATE	BIT(1)

/* Everything that is meant to happen: in files of small pages, of huge ones, or both. */
#define IN_SMALL		BIT(0)
#define IN_HUGE			BIT(1)
#define IN_BOTH			(IN_SMALL | IN_HUGE)

enum event {
	EVENT_guest_peeks,
	EVENT_guest_found_pages_busy,
	EVENT_guest_writes,
	EVENT_guest_to_shared,
	EVENT_guest_to_private,
	EVENT_guest_conversion_of_mixed,
	EVENT_guest_conversion_of_nothing,
	EVENT_guest_conversion_gave_up,
	EVENT_guest_holes,
	EVENT_guest_to_private_unit,
	EVENT_guest_to_shared_unit,
	EVENT_guest_reads_hosts_data,
	EVENT_guest_reads_it_in_private,
	EVENT_host_found_pages_busy,
	EVENT_host_writes,
	EVENT_host_reads_guests_data,
	EVENT_host_reads_once_private_data,
	EVENT_host_sigbus_for_private,
	EVENT_host_efault_for_private,
	EVENT_host_syscall_on_shared,
	EVENT_host_to_shared,
	EVENT_host_to_private,
	EVENT_host_conversion_of_mixed,
	EVENT_host_conversion_of_nothing,
	EVENT_host_conversion_gave_up,
	EVENT_host_to_private_unit,
	EVENT_host_to_shared_unit,
	EVENT_host_holes_of_unit,
	EVENT_host_holes,
	EVENT_host_allocations,
	EVENT_pinned_page_stays_shared,
	EVENT_pinned_page_punched,
	EVENT_pinned_page_zeroed,
	EVENT_pinned_page_of_lost_unit,
	EVENT_pinned_page_then_private,
	EVENT_children,
	EVENT_child_conversions,
	EVENT_peek_shared,
	EVENT_peek_sigbus,
	EVENT_pin_vmsplice,
	EVENT_pin_vmsplice_refused,
	EVENT_pin_longterm,
	EVENT_pin_longterm_refused,
	EVENT_mappings,
	EVENT_madvise_dontneed,
	EVENT_slot_moves,
	EVENT_retry_eagain,
	EVENT_retry_memory_fault,
	NR_EVENTS
};

static const struct {
	const char *name;
	int where;
} event_descs[] = {
	[EVENT_guest_peeks] = { "guest_peeks", IN_BOTH },
	[EVENT_guest_found_pages_busy] = { "guest_found_pages_busy", IN_BOTH },
	[EVENT_guest_writes] = { "guest_writes", IN_BOTH },
	[EVENT_guest_to_shared] = { "guest_to_shared", IN_BOTH },
	[EVENT_guest_to_private] = { "guest_to_private", IN_BOTH },
	[EVENT_guest_conversion_of_mixed] = { "guest_conversion_of_mixed", IN_BOTH },
	[EVENT_guest_conversion_of_nothing] = { "guest_conversion_of_nothing", IN_BOTH },
	[EVENT_guest_conversion_gave_up] = { "guest_conversion_gave_up", 0 },
	[EVENT_guest_holes] = { "guest_holes", IN_BOTH },
	[EVENT_guest_to_private_unit] = { "guest_to_private_unit", IN_HUGE },
	[EVENT_guest_to_shared_unit] = { "guest_to_shared_unit", IN_HUGE },
	[EVENT_guest_reads_hosts_data] = { "guest_reads_hosts_data", IN_BOTH },
	[EVENT_guest_reads_it_in_private] = { "guest_reads_it_in_private", IN_BOTH },
	[EVENT_host_found_pages_busy] = { "host_found_pages_busy", IN_BOTH },
	[EVENT_host_writes] = { "host_writes", IN_BOTH },
	[EVENT_host_reads_guests_data] = { "host_reads_guests_data", IN_BOTH },
	[EVENT_host_reads_once_private_data] = { "host_reads_once_private_data", IN_BOTH },
	[EVENT_host_sigbus_for_private] = { "host_sigbus_for_private", IN_BOTH },
	[EVENT_host_efault_for_private] = { "host_efault_for_private", IN_BOTH },
	[EVENT_host_syscall_on_shared] = { "host_syscall_on_shared", IN_BOTH },
	[EVENT_host_to_shared] = { "host_to_shared", IN_BOTH },
	[EVENT_host_to_private] = { "host_to_private", IN_BOTH },
	[EVENT_host_conversion_of_mixed] = { "host_conversion_of_mixed", IN_BOTH },
	[EVENT_host_conversion_of_nothing] = { "host_conversion_of_nothing", IN_BOTH },
	[EVENT_host_conversion_gave_up] = { "host_conversion_gave_up", 0 },
	[EVENT_host_to_private_unit] = { "host_to_private_unit", IN_HUGE },
	[EVENT_host_to_shared_unit] = { "host_to_shared_unit", IN_HUGE },
	[EVENT_host_holes_of_unit] = { "host_holes_of_unit", IN_HUGE },
	[EVENT_host_holes] = { "host_holes", IN_BOTH },
	[EVENT_host_allocations] = { "host_allocations", IN_BOTH },
	[EVENT_pinned_page_stays_shared] = { "pinned_page_stays_shared", IN_BOTH },
	[EVENT_pinned_page_punched] = { "pinned_page_punched", IN_SMALL },
	[EVENT_pinned_page_zeroed] = { "pinned_page_zeroed", IN_HUGE },
	[EVENT_pinned_page_of_lost_unit] = { "pinned_page_of_lost_unit", IN_HUGE },
	[EVENT_pinned_page_then_private] = { "pinned_page_then_private", IN_BOTH },
	[EVENT_children] = { "children", IN_BOTH },
	[EVENT_child_conversions] = { "child_conversions", IN_BOTH },
	[EVENT_peek_shared] = { "peek_shared", IN_BOTH },
	[EVENT_peek_sigbus] = { "peek_sigbus", IN_BOTH },
	[EVENT_pin_vmsplice] = { "pin_vmsplice", IN_BOTH },
	[EVENT_pin_vmsplice_refused] = { "pin_vmsplice_refused", IN_BOTH },
	[EVENT_pin_longterm] = { "pin_longterm", IN_BOTH },
	[EVENT_pin_longterm_refused] = { "pin_longterm_refused", IN_BOTH },
	[EVENT_mappings] = { "mappings", IN_BOTH },
	[EVENT_madvise_dontneed] = { "madvise_dontneed", IN_BOTH },
	[EVENT_slot_moves] = { "slot_moves", IN_BOTH },
	[EVENT_retry_eagain] = { "retry_eagain", IN_BOTH },
	[EVENT_retry_memory_fault] = { "retry_memory_fault", 0 },
};

/* Returns whether all that should happen did. */
static bool print_events(const u64 (*events)[NR_EVENTS], bool huge_ran)
{
	bool all = true;
	int i;

	ksft_print_msg("%-32s %12s %12s\n", "", "4K", "2M");
	for (i = 0; i < NR_EVENTS; i++) {
		bool missing = (event_descs[i].where & IN_SMALL && !events[0][i]) ||
			       (huge_ran && event_descs[i].where & IN_HUGE && !events[1][i]);

		ksft_print_msg("%-32s %12lu %12lu%s\n", event_descs[i].name, events[0][i],
			       events[1][i], missing ? "  <- never" : "");
		all &= !missing;
	}
	return all;
}

/* A page. */
struct cell {
	u32 locked;
	u32 private;
	u64 stamp;
};

struct slot {
	u64 gpa;
	u64 first, nr;		/* cells */
};

/* Shared by the guest, the host, and its children. */
struct world {
	u32 stop;
	u32 seed;
	u32 huge;
	u64 nr_cells;
	u64 unit_cells;		/* of a huge page that may come and go, or 0 */
	u64 file_offset;	/* of the first cell */
	u64 stamp_nr;
	struct slot slots[NR_SLOTS];
	u64 progress[MAX_VCPUS];
	u64 events[NR_EVENTS];
	struct cell cells[];
};

static void count(struct world *w, enum event event)
{
	__atomic_fetch_add(&w->events[event], 1, __ATOMIC_RELAXED);
}

static u32 pick(struct kvm_random_state *rng, u32 n)
{
	return kvm_random_u32(rng) % n;
}

/* Mostly pages, some ranges, few large ones. */
static u64 pick_range(struct world *w, struct kvm_random_state *rng, u64 max, u64 *first)
{
	u32 r = pick(rng, 100), max_range = w->unit_cells ? MAX_HUGE_RANGE : MAX_RANGE;
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

/* Words all over the cell, its first and its last one among them. */
static u64 word_offset(int i)
{
	if (i == NR_WORDS - 1)
		return PAGE_SIZE - sizeof(u64);

	return i * (PAGE_SIZE / NR_WORDS + sizeof(u64));
}

/* Are all cells private or shared as @private says (1), none of them (-1)? */
static int uniform(struct world *w, u64 first, u64 nr, bool private)
{
	u64 i, same = 0;

	for (i = 0; i < nr; i++)
		same += w->cells[first + i].private == private;
	return same == nr ? 1 : same ? 0 : -1;
}

static void set_range_private(struct world *w, u64 first, u64 nr, bool private)
{
	while (nr--)
		w->cells[first + nr].private = private;
}

static u64 guest_cell(struct world *w, struct slot *s, u64 c)
{
	return s->gpa + (c - s->first) * PAGE_SIZE;
}

static void guest_check(struct world *w, struct slot *s, u64 first, u64 nr)
{
	u64 c, val;
	int i;

	for (c = first; c < first + nr; c++) {
		struct cell *cell = &w->cells[c];

		for (i = 0; i < NR_WORDS; i++) {
			val = READ_ONCE(*(u64 *)(guest_cell(w, s, c) + word_offset(i)));
			__GUEST_ASSERT(val == cell->stamp,
				       "Cell %lu (%s), word %d should be 0x%lx, is 0x%lx",
				       c, cell->private ? "private" : "shared", i,
				       cell->stamp, val);
		}
		if (cell->stamp && !(cell->stamp & STAMP_BY_GUEST)) {
			count(w, EVENT_guest_reads_hosts_data);
			if (cell->private)
				count(w, EVENT_guest_reads_it_in_private);
		}
	}
}

static void guest_write(struct world *w, struct slot *s, u64 first, u64 nr)
{
	u64 c;
	int i;

	for (c = first; c < first + nr; c++) {
		w->cells[c].stamp = new_stamp(w, c, true);
		for (i = 0; i < NR_WORDS; i++)
			WRITE_ONCE(*(u64 *)(guest_cell(w, s, c) + word_offset(i)),
				   w->cells[c].stamp);
	}
	count(w, EVENT_guest_writes);
}

static void guest_convert(struct world *w, struct slot *s, u64 first, u64 nr, bool private)
{
	int already = uniform(w, first, nr, private);
	u64 r;

	r = __kvm_hypercall_map_gpa_range(guest_cell(w, s, first), nr * PAGE_SIZE,
					  private ? HYPERCALL_PRIVATE : 0);
	if (r) {
		__GUEST_ASSERT(r == EAGAIN, "The host shouldn't fail with %lu", r);
		count(w, EVENT_guest_conversion_gave_up);
	} else {
		set_range_private(w, first, nr, private);
		if (already > 0)
			count(w, EVENT_guest_conversion_of_nothing);
		else if (!already)
			count(w, EVENT_guest_conversion_of_mixed);
		else
			count(w, private ? EVENT_guest_to_private : EVENT_guest_to_shared);
	}
	guest_check(w, s, first, nr);
}

static void guest_punch(struct world *w, struct slot *s, u64 first, u64 nr)
{
	u64 c;

	GUEST_ASSERT(!__kvm_hypercall_map_gpa_range(guest_cell(w, s, first), nr * PAGE_SIZE,
						    HYPERCALL_PUNCH));
	for (c = first; c < first + nr; c++)
		w->cells[c].stamp = 0;
	count(w, EVENT_guest_holes);
	guest_check(w, s, first, nr);
}

/* All of the huge page that has a cell. */
static void guest_convert_unit(struct world *w, struct slot *s, u64 c, bool private)
{
	u64 first = c - c % w->unit_cells;

	if (!trylock_range(w, first, w->unit_cells))
		return;
	guest_convert(w, s, first, w->unit_cells, private);
	count(w, private ? EVENT_guest_to_private_unit : EVENT_guest_to_shared_unit);
	unlock_range(w, first, w->unit_cells);
}

static void guest_peek(struct world *w, struct slot *s, struct kvm_random_state *rng)
{
	u64 c = s->first + pick(rng, s->nr);
	u64 val = READ_ONCE(*(u64 *)(guest_cell(w, s, c) + word_offset(pick(rng, NR_WORDS))));

	__GUEST_ASSERT(stamp_is_of_cell(val, c), "Cell %lu has 0x%lx", c, val);
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
		guest_convert_unit(w, s, first, pick(rng, 2));
		return;
	}
	if (!trylock_range(w, first, nr)) {
		count(w, EVENT_guest_found_pages_busy);
		return;
	}

	guest_check(w, s, first, nr);
	if (op < 85) {
		guest_write(w, s, first, nr);
		if (op >= 40)
			guest_convert(w, s, first, nr, pick(rng, 2));
	} else if (op < 90) {
		guest_convert(w, s, first, nr, pick(rng, 2));
	} else {
		guest_punch(w, s, first, nr);
	}
	unlock_range(w, first, nr);
}

static void guest_code(u64 id)
{
	struct world *w = (struct world *)WORLD_GPA;
	struct kvm_random_state rng = new_kvm_random_state(w->seed + id);
	int i;

	while (!READ_ONCE(w->stop)) {
		guest_step(w, &rng);
		WRITE_ONCE(w->progress[id], w->progress[id] + 1);
	}
	GUEST_SYNC(0);

	/* All others are gone by now. */
	for (i = 0; i < REBIND_SLOT; i++)
		guest_check(w, &w->slots[i], w->slots[i].first, w->slots[i].nr);
	GUEST_DONE();
}

#endif /* SELFTEST_KVM_GUEST_MEMFD_STRESS_H */
