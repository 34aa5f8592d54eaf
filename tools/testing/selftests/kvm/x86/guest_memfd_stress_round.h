/* SPDX-License-Identifier: GPL-2.0-only */
/* A round of guest_memfd_conversions_stress_test: one file and one VM. */
#ifndef SELFTEST_KVM_GUEST_MEMFD_STRESS_ROUND_H
#define SELFTEST_KVM_GUEST_MEMFD_STRESS_ROUND_H

#include "guest_memfd_stress_host.h"

/* How often, and how long, to wait until a worker has given memory back. */
#define SETTLE_TRIES		500
#define SETTLE_DELAY_US		(20 * 1000)

struct variant {
	const char *name;
	u64 flags;
	size_t unit;
	/* All of the huge page is in one memslot, and KVM can map it as a huge page. */
	bool one_slot;
};

/* The file for each page size. */
struct world_size {
	const char *name;
	size_t unit;
	u64 nr_cells, unit_cells;
	u64 first_page;
	u64 nr_units;
	/* Huge pages in place of those that were punched while a page of them was pinned. */
	u64 nr_spares;
	int long_run;
};

#define NR_SIZES		3
extern const struct world_size world_sizes[NR_SIZES];

/* The results of the rounds.  Each round adds to @hits, and sets @nr_lost. */
struct totals {
	struct hits hits[NR_SIZES];
	u32 nr_lost;
};

/* A round, which is a process of its own: its parameters and where its results go. */
struct round {
	const struct variant *v;
	int nr;
	int ms;
	int nr_poisons;
	/* Pages are poisoned only when the file is closed. */
	bool late_poison;
	struct hugetlb_pool pool;
	struct totals *totals;
};

extern int nr_vcpus;

/* Huge pages have actors that walk struct pages, too. */
extern bool with_walkers;

/* Return the index in world_sizes[]. */
int size_index(const struct variant *v);

void run_round(struct round *r);

#endif /* SELFTEST_KVM_GUEST_MEMFD_STRESS_ROUND_H */
