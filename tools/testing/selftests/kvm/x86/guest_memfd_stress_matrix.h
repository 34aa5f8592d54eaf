/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Counters of what guest_memfd_conversions_stress_test has reached: all events that
 * are meant to happen, and each operation in each of the states that a huge page can
 * be in.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_STRESS_MATRIX_H
#define SELFTEST_KVM_GUEST_MEMFD_STRESS_MATRIX_H

#include <stdbool.h>

#include <linux/bits.h>
#include <linux/types.h>

#include "kselftest.h"

/* Where an event can happen. */
#define IN_SMALL		BIT(0)
#define IN_HUGE			BIT(1)
#define IN_BOTH			(IN_SMALL | IN_HUGE)
#define IN_POISONED		BIT(2)

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
	EVENT_guest_reads_hosts_data,
	EVENT_guest_reads_it_in_private,
	EVENT_guest_loses_the_file,
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
	EVENT_host_holes,
	EVENT_host_allocations,
	EVENT_unit_stays_busy,
	EVENT_pinned_page_stays_shared,
	EVENT_pinned_page_punched,
	EVENT_pinned_page_zeroed,
	EVENT_pinned_page_of_lost_unit,
	EVENT_pinned_page_of_closed_file,
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
	EVENT_poison_in_private,
	EVENT_poison_in_shared,
	EVENT_poison_in_whole,
	EVENT_poison_found_by_guest,
	EVENT_poison_found_by_host,
	EVENT_poison_punched,
	EVENT_poison_closed,
	EVENT_retry_eagain,
	EVENT_retry_enospc,
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
	[EVENT_guest_reads_hosts_data] = { "guest_reads_hosts_data", IN_BOTH },
	[EVENT_guest_reads_it_in_private] = { "guest_reads_it_in_private", IN_BOTH },
	[EVENT_guest_loses_the_file] = { "guest_loses_the_file", IN_BOTH },
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
	[EVENT_host_holes] = { "host_holes", IN_BOTH },
	[EVENT_host_allocations] = { "host_allocations", IN_BOTH },
	[EVENT_unit_stays_busy] = { "unit_stays_busy", 0 },
	[EVENT_pinned_page_stays_shared] = { "pinned_page_stays_shared", IN_BOTH },
	[EVENT_pinned_page_punched] = { "pinned_page_punched", IN_SMALL },
	[EVENT_pinned_page_zeroed] = { "pinned_page_zeroed", IN_HUGE },
	[EVENT_pinned_page_of_lost_unit] = { "pinned_page_of_lost_unit", IN_HUGE },
	[EVENT_pinned_page_of_closed_file] = { "pinned_page_of_closed_file", IN_BOTH },
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
	[EVENT_poison_in_private] = { "poison_in_private", IN_POISONED },
	[EVENT_poison_in_shared] = { "poison_in_shared", IN_POISONED },
	[EVENT_poison_in_whole] = { "poison_in_whole", IN_POISONED },
	[EVENT_poison_found_by_guest] = { "poison_found_by_guest", IN_POISONED },
	[EVENT_poison_found_by_host] = { "poison_found_by_host", IN_POISONED },
	[EVENT_poison_punched] = { "poison_punched", IN_POISONED },
	[EVENT_poison_closed] = { "poison_closed", IN_POISONED },
	[EVENT_retry_eagain] = { "retry_eagain", IN_BOTH },
	[EVENT_retry_enospc] = { "retry_enospc", 0 },
	[EVENT_retry_memory_fault] = { "retry_memory_fault", 0 },
};

/*
 * Operations.  Conversions are in the order of count_conversion(): a page, a range,
 * all of a huge page.
 */
enum unit_op {
	OP_to_private_page,
	OP_to_private_range,
	OP_to_private_unit,
	OP_to_shared_page,
	OP_to_shared_range,
	OP_to_shared_unit,
	OP_punch_part,
	OP_punch_unit,
	OP_fallocate,
	OP_host_touch,
	OP_host_mmap_touch,
	OP_guest_access,
	OP_pin,
	OP_unpin,
	OP_close,
	NR_OPS
};

static const char * const op_names[] = {
	[OP_to_private_page] = "to_private_page",
	[OP_to_private_range] = "to_private_range",
	[OP_to_private_unit] = "to_private_unit",
	[OP_to_shared_page] = "to_shared_page",
	[OP_to_shared_range] = "to_shared_range",
	[OP_to_shared_unit] = "to_shared_unit",
	[OP_punch_part] = "punch_part",
	[OP_punch_unit] = "punch_unit",
	[OP_fallocate] = "fallocate",
	[OP_host_touch] = "host_touch",
	[OP_host_mmap_touch] = "host_mmap_touch",
	[OP_guest_access] = "guest_access",
	[OP_pin] = "pin",
	[OP_unpin] = "unpin",
	[OP_close] = "close",
};

/* States.  A huge page is in exactly one of the first three, and in any of the others. */
enum unit_state {
	STATE_whole_private,
	STATE_whole_shared,
	STATE_mixed,
	STATE_hole,
	STATE_isolated,
	STATE_pinned,
	STATE_poisoned,
	NR_STATES
};

static const char * const state_names[] = {
	[STATE_whole_private] = "whole_private",
	[STATE_whole_shared] = "whole_shared",
	[STATE_mixed] = "mixed",
	[STATE_hole] = "hole",
	[STATE_isolated] = "isolated",
	[STATE_pinned] = "pinned",
	[STATE_poisoned] = "poisoned",
};

struct hits {
	u64 events[NR_EVENTS];
	u64 ops[NR_OPS][NR_STATES];
};

static void add_hits(struct hits *to, const struct hits *from)
{
	int i, j;

	for (i = 0; i < NR_EVENTS; i++)
		to->events[i] += from->events[i];
	for (i = 0; i < NR_OPS; i++) {
		for (j = 0; j < NR_STATES; j++)
			to->ops[i][j] += from->ops[i][j];
	}
}

/* One column of the table of events. */
struct hits_column {
	const char *name;
	const struct hits *hits;
	int where;
	/* The run was long enough to reach everything. */
	bool complete;
};

/* Print the table of events.  Returns whether all that should happen did. */
static bool print_events(const struct hits_column *columns, int nr)
{
	bool all = true;
	char line[128];
	int i, j, len;

	for (len = 0, j = 0; j < nr; j++)
		len += snprintf(line + len, sizeof(line) - len, "%12s", columns[j].name);
	ksft_print_msg("%-30s%s\n", "", line);
	for (i = 0; i < NR_EVENTS; i++) {
		bool missing = false;

		for (len = 0, j = 0; j < nr; j++) {
			const struct hits_column *col = &columns[j];

			len += snprintf(line + len, sizeof(line) - len, "%12lu",
					col->hits->events[i]);
			missing |= col->complete && !col->hits->events[i] &&
				   event_descs[i].where & col->where;
		}
		ksft_print_msg("%-30s%s%s\n", event_descs[i].name, line,
			       missing ? "  <- never" : "");
		all &= !missing;
	}
	return all;
}

/* Return why there can't be a hit in a state, or NULL. */
static const char *impossible(const struct hits_column *col, enum unit_state state)
{
	if (state == STATE_poisoned && !(col->where & IN_POISONED))
		return "nothing is poisoned without -p";
	return NULL;
}

/* Print one line of the matrix.  Returns whether nothing is missing there. */
static bool print_matrix_row(const struct hits_column *col, enum unit_op op)
{
	bool all = true;
	char line[256];
	int i, len = 0;

	for (i = 0; i < NR_STATES; i++) {
		u64 hits = col->hits->ops[op][i];

		if (!hits && impossible(col, i)) {
			len += snprintf(line + len, sizeof(line) - len, "%15s", "-");
			continue;
		}
		len += snprintf(line + len, sizeof(line) - len, "%15lu", hits);
		all &= !!hits;
	}
	ksft_print_msg("%-18s%s%s\n", op_names[op], line, all ? "" : "  <- never");
	return all;
}

/*
 * Print the matrix of operations x states.  A huge page can be in more than one state
 * at a time.  Returns whether each operation was reached in each state, or the run
 * was too short for that.
 */
static bool print_matrix(const struct hits_column *col)
{
	bool all = true;
	char line[256];
	int i, len = 0;

	for (i = 0; i < NR_STATES; i++)
		len += snprintf(line + len, sizeof(line) - len, "%15s", state_names[i]);
	ksft_print_msg("%-18s%s\n", col->name, line);
	for (i = 0; i < NR_OPS; i++)
		all &= print_matrix_row(col, i);
	for (i = 0; i < NR_STATES; i++) {
		if (impossible(col, i))
			ksft_print_msg("-: %s\n", impossible(col, i));
	}
	return all || !col->complete;
}

#endif /* SELFTEST_KVM_GUEST_MEMFD_STRESS_MATRIX_H */
