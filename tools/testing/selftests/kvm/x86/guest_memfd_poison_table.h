/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The table of who is told what when a page of a guest_memfd file fails.  The test of it goes
 * by this table, and Documentation/virt/kvm/guest_memfd-poison.rst shows the table.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_POISON_TABLE_H
#define SELFTEST_KVM_GUEST_MEMFD_POISON_TABLE_H

#include "memory_failure.h"

enum poison_page {
	SMALL_PAGE,
	SMALL_HELD,
	WHOLE_UNIT,
	PIECE,
	ISOLATED,
	HELD,
};

enum poison_state {
	PRIVATE,
	MAPPED,
	UNMAPPED,
};

enum poison_how {
	MADVISE,
	BY_PFN,
};

struct poison_told {
	int inject;	/* error of the injection, 0 if the failure was handled */
	int at_once;	/* si_code of a signal, 0 if there was none */
	int host;	/* si_code of the host's access, 0 if it succeeded */
	int guest;	/* error of KVM_RUN when the guest accesses the page, or 0 */
	int corrupted;	/* number of pages added to HardwareCorrupted */
	int lost;	/* huge pages that the pool has lost when the file is gone */
};

struct poison_cell {
	enum poison_page page;
	enum poison_state state;
	bool early;
	enum poison_how how;
	struct poison_told want;
	char note;
};

extern const struct poison_cell poison_cells[];
extern const int poison_nr_cells;

/* Print the table as it is in the documentation. */
void poison_print_table(void);

/* Return the name of a test of a row, with pages of size @unit, in a static buffer. */
const char *poison_cell_name(const struct poison_cell *c, size_t unit);
const char *poison_error_str(int error);

static inline bool poison_is_huge(const struct poison_cell *c)
{
	return c->page != SMALL_PAGE && c->page != SMALL_HELD;
}

#endif /* SELFTEST_KVM_GUEST_MEMFD_POISON_TABLE_H */
