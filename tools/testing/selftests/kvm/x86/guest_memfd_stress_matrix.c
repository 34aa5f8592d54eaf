// SPDX-License-Identifier: GPL-2.0-only
#include "guest_memfd_stress_matrix.h"

static const char * const event_names[] = {
#define EVENT(name, ...)	\
	[EVENT_##name] = #name,
#include "guest_memfd_stress_list.h"
};

static const int event_where[] = {
#define EVENT(name, where)	\
	[EVENT_##name] = where,
#include "guest_memfd_stress_list.h"
};

static const char * const op_names[] = {
#define OP(name)	\
	[OP_##name] = #name,
#include "guest_memfd_stress_list.h"
};

static const char * const state_names[] = {
#define STATE(name)	\
	[STATE_##name] = #name,
#include "guest_memfd_stress_list.h"
};

void add_hits(struct hits *to, const struct hits *from)
{
	int i, j;

	for (i = 0; i < NR_EVENTS; i++)
		to->events[i] += from->events[i];
	for (i = 0; i < NR_OPS; i++) {
		for (j = 0; j < NR_STATES; j++)
			to->ops[i][j] += from->ops[i][j];
	}
}

bool print_events(const struct hits_column *columns, int nr)
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
				   event_where[i] & col->where;
		}
		ksft_print_msg("%-30s%s%s\n", event_names[i], line,
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

bool print_matrix(const struct hits_column *col)
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
