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

#define AO		BUS_MCEERR_AO
#define AR		BUS_MCEERR_AR
#define NO_PAGE		BUS_ADRERR
#define LATE		false
#define EARLY		true

static const struct poison_cell poison_cells[] = {
	/* Files of 4K pages: Linux 7.3 does the same. */
	{ SMALL_PAGE, PRIVATE,  LATE,  MADVISE, { EFAULT, 0,  NO_PAGE, 0,         0, 0 }, 'a' },
	{ SMALL_PAGE, PRIVATE,  EARLY, MADVISE, { EFAULT, 0,  NO_PAGE, 0,         0, 0 }, 'a' },
	{ SMALL_PAGE, PRIVATE,  LATE,  BY_PFN,  { 0,      0,  NO_PAGE, EHWPOISON, 1, 0 } },
	{ SMALL_PAGE, PRIVATE,  EARLY, BY_PFN,  { 0,      0,  NO_PAGE, EHWPOISON, 1, 0 } },
	{ SMALL_PAGE, MAPPED,   LATE,  MADVISE, { 0,      AR, AR,      EHWPOISON, 1, 0 }, 'b' },
	{ SMALL_PAGE, MAPPED,   EARLY, MADVISE, { 0,      AR, AR,      EHWPOISON, 1, 0 }, 'b' },
	{ SMALL_PAGE, MAPPED,   LATE,  BY_PFN,  { 0,      0,  AR,      EHWPOISON, 1, 0 } },
	{ SMALL_PAGE, MAPPED,   EARLY, BY_PFN,  { 0,      AO, AR,      EHWPOISON, 1, 0 } },
	{ SMALL_PAGE, UNMAPPED, LATE,  MADVISE, { 0,      AR, AR,      EHWPOISON, 1, 0 }, 'c' },
	{ SMALL_PAGE, UNMAPPED, EARLY, MADVISE, { 0,      AR, AR,      EHWPOISON, 1, 0 }, 'c' },
	{ SMALL_PAGE, UNMAPPED, LATE,  BY_PFN,  { 0,      0,  AR,      EHWPOISON, 1, 0 } },
	{ SMALL_PAGE, UNMAPPED, EARLY, BY_PFN,  { 0,      0,  AR,      EHWPOISON, 1, 0 } },
	{ SMALL_HELD, PRIVATE,  LATE,  BY_PFN,  { EBUSY,  0,  NO_PAGE, 0,         1, 0 }, 'd' },
	{ SMALL_HELD, PRIVATE,  EARLY, BY_PFN,  { EBUSY,  0,  NO_PAGE, 0,         1, 0 }, 'd' },
	{ SMALL_HELD, UNMAPPED, LATE,  BY_PFN,  { EBUSY,  0,  0,       0,         1, 0 }, 'd' },
	{ SMALL_HELD, UNMAPPED, EARLY, BY_PFN,  { EBUSY,  0,  0,       0,         1, 0 }, 'd' },

	/* Huge pages: as for 4K pages, unless a note says why not. */
	{ WHOLE_UNIT, PRIVATE,  LATE,  MADVISE, { EFAULT, 0,  NO_PAGE, 0,         0, 0 }, 'a' },
	{ WHOLE_UNIT, PRIVATE,  EARLY, MADVISE, { EFAULT, 0,  NO_PAGE, 0,         0, 0 }, 'a' },
	{ WHOLE_UNIT, PRIVATE,  LATE,  BY_PFN,  { 0,      0,  NO_PAGE, EHWPOISON, 1, 1 }, 'e' },
	{ WHOLE_UNIT, PRIVATE,  EARLY, BY_PFN,  { 0,      0,  NO_PAGE, EHWPOISON, 1, 1 }, 'e' },
	{ WHOLE_UNIT, UNMAPPED, LATE,  MADVISE, { 0,      AR, AR,      EHWPOISON, 1, 1 }, 'f' },
	{ WHOLE_UNIT, UNMAPPED, EARLY, MADVISE, { 0,      AR, AR,      EHWPOISON, 1, 1 }, 'f' },
	{ WHOLE_UNIT, UNMAPPED, LATE,  BY_PFN,  { 0,      0,  AR,      EHWPOISON, 1, 1 }, 'e' },
	{ WHOLE_UNIT, UNMAPPED, EARLY, BY_PFN,  { 0,      0,  AR,      EHWPOISON, 1, 1 }, 'e' },
	{ PIECE,      PRIVATE,  LATE,  MADVISE, { EFAULT, 0,  NO_PAGE, 0,         0, 0 }, 'a' },
	{ PIECE,      PRIVATE,  EARLY, MADVISE, { EFAULT, 0,  NO_PAGE, 0,         0, 0 }, 'a' },
	{ PIECE,      PRIVATE,  LATE,  BY_PFN,  { 0,      0,  NO_PAGE, EHWPOISON, 1, 1 }, 'e' },
	{ PIECE,      PRIVATE,  EARLY, BY_PFN,  { 0,      0,  NO_PAGE, EHWPOISON, 1, 1 }, 'e' },
	{ PIECE,      UNMAPPED, LATE,  MADVISE, { 0,      AR, AR,      EHWPOISON, 1, 1 }, 'f' },
	{ PIECE,      UNMAPPED, EARLY, MADVISE, { 0,      AR, AR,      EHWPOISON, 1, 1 }, 'f' },
	{ PIECE,      UNMAPPED, LATE,  BY_PFN,  { 0,      0,  AR,      EHWPOISON, 1, 1 }, 'e' },
	{ PIECE,      UNMAPPED, EARLY, BY_PFN,  { 0,      0,  AR,      EHWPOISON, 1, 1 }, 'e' },
	{ ISOLATED,   MAPPED,   LATE,  MADVISE, { 0,      AR, AR,      EHWPOISON, 1, 1 }, 'b' },
	{ ISOLATED,   MAPPED,   EARLY, MADVISE, { 0,      AR, AR,      EHWPOISON, 1, 1 }, 'b' },
	{ ISOLATED,   MAPPED,   LATE,  BY_PFN,  { 0,      0,  AR,      EHWPOISON, 1, 1 } },
	{ ISOLATED,   MAPPED,   EARLY, BY_PFN,  { 0,      AO, AR,      EHWPOISON, 1, 1 } },
	{ ISOLATED,   UNMAPPED, LATE,  MADVISE, { 0,      AR, AR,      EHWPOISON, 1, 1 }, 'c' },
	{ ISOLATED,   UNMAPPED, EARLY, MADVISE, { 0,      AR, AR,      EHWPOISON, 1, 1 }, 'c' },
	{ ISOLATED,   UNMAPPED, LATE,  BY_PFN,  { 0,      0,  AR,      EHWPOISON, 1, 1 } },
	{ ISOLATED,   UNMAPPED, EARLY, BY_PFN,  { 0,      0,  AR,      EHWPOISON, 1, 1 } },
	{ HELD,       PRIVATE,  LATE,  BY_PFN,  { 0,      0,  NO_PAGE, 0,         1, 1 }, 'g' },
	{ HELD,       PRIVATE,  EARLY, BY_PFN,  { 0,      0,  NO_PAGE, 0,         1, 1 }, 'g' },
	{ HELD,       UNMAPPED, LATE,  BY_PFN,  { 0,      0,  0,       0,         1, 1 }, 'g' },
	{ HELD,       UNMAPPED, EARLY, BY_PFN,  { 0,      0,  0,       0,         1, 1 }, 'g' },
};

#undef AO
#undef AR
#undef NO_PAGE
#undef LATE
#undef EARLY

static const int poison_nr_cells = ARRAY_SIZE(poison_cells);

static const char *const poison_pages[] = {
	[SMALL_PAGE] = "4K file",
	[SMALL_HELD] = "4K file, page held after a punch",
	[WHOLE_UNIT] = "huge page, whole",
	[PIECE] = "huge page, a piece of",
	[ISOLATED] = "huge page, isolated page of",
	[HELD] = "huge page, page held after a punch",
};

static const char *const poison_states[] = {
	[PRIVATE] = "private",
	[MAPPED] = "shared, mapped",
	[UNMAPPED] = "shared, unmapped",
};

static const char *const poison_hows[] = {
	[MADVISE] = "madvise",
	[BY_PFN] = "by pfn",
};

static const char poison_head[] =
	"=============================\n"
	"Memory failure in guest_memfd\n"
	"=============================\n"
	"\n"
	"When memory of a guest_memfd file fails, 4KiB are lost, whatever the size of the\n"
	"file's pages is.  The users of the page are told, all others go on.  The table lists\n"
	"who is told what, for files of 4KiB pages and for files of huge pages of any size,\n"
	"with in-place conversion.  It is the output of ``guest_memfd_poison_matrix_test -t``,\n"
	"and the same test checks each row.\n"
	"\n"
	"page\n"
	"  The page that fails.  A *piece* is a part of a huge page that has been split, an\n"
	"  *isolated* page is a shared page that userspace has accessed.  A page is *held after\n"
	"  a punch* if it isn't the file's any more, but is in a pipe or pinned.\n"
	"state\n"
	"  Whether the page is private or shared and, if shared, in the page table of the VMM.\n"
	"  If the page is held, it's the state of the hole.\n"
	"kill\n"
	"  The policy of the VMM, see PR_MCE_KILL in prctl(2).\n"
	"injected\n"
	"  ``madvise`` is MADV_HWPOISON, ``by pfn`` stands for hwpoison/corrupt-pfn in debugfs.\n"
	"  An error of the hardware that a CPU or a patrol scrubber reports is handled like the\n"
	"  latter.\n"
	"result\n"
	"  Of the injection; ok means that the kernel has taken care of the failure.\n"
	"at once\n"
	"  The si_code of the SIGBUS that the VMM gets when the page fails: AO is\n"
	"  BUS_MCEERR_AO, AR is BUS_MCEERR_AR.\n"
	"host\n"
	"  The si_code of the SIGBUS that the VMM gets when it accesses the page.  ADRERR is\n"
	"  BUS_ADRERR, which is what private memory is for the host.  All others have the\n"
	"  address of the page, and a si_addr_lsb that says 4KiB.\n"
	"guest\n"
	"  The error of KVM_RUN when the guest accesses the page.  EHWPOISON comes with\n"
	"  KVM_EXIT_MEMORY_FAULT, with the page's guest physical address, and 4KiB.\n"
	"bad\n"
	"  The number of pages more in HardwareCorrupted of /proc/meminfo.\n"
	"lost\n"
	"  The number of huge pages that are missing in the pool after the file is gone.\n"
	"\n";

static const char poison_tail[] =
	"\n"
	"a\n"
	"  Private memory isn't mapped, so there is nothing that madvise() could find.  The page\n"
	"  doesn't fail.\n"
	"b\n"
	"  A process that lets its own memory fail is treated as if it had accessed the page, no\n"
	"  matter what its policy is.\n"
	"c\n"
	"  madvise() maps the page first, see b.\n"
	"d\n"
	"  The page has left its file, and memory_failure() finds no owner to take care of.  The\n"
	"  page is marked, i.e. it isn't used again.  Host and guest find another page in the\n"
	"  hole.\n"
	"e\n"
	"  Differs from 4KiB files in what is lost.  The next access, conversion or hole splits\n"
	"  the huge page, or the piece, around the page that has failed.  The rest is mapped\n"
	"  to the guest as large as can be: with one bad page in private memory of 1GiB,\n"
	"  262143 pages are left, 511 mappings of 2MiB and 511 of 4KiB.  When the huge page is\n"
	"  removed from the file, it is dissolved: all of it but the bad page is ordinary memory\n"
	"  from then on.  The file gets a reservation for another huge page if the pool has one.\n"
	"f\n"
	"  See c and e.  A page that the host maps is isolated before it fails.\n"
	"g\n"
	"  Differs from d in that the kernel knows the huge page that the page is a part of, and\n"
	"  takes care of the failure: with the last reference, the huge page is dissolved as in\n"
	"  e, and until then it is missing in the file.\n"
	"\n"
	"For every kind of page:\n"
	"\n"
	"* A page that has failed can be converted like any other.  It is a bad page in either\n"
	"  state, and a conversion doesn't make a difference to other pages.  If it was mapped\n"
	"  when it failed, then the page table remembers, and the host gets AR for it even when\n"
	"  the page is private.\n"
	"* The pages next to it keep their contents, for the guest and for the host.\n"
	"* A hole as large as the page of the file that failed, be it 4KiB or huge, gets rid of\n"
	"  it, the next access allocates another one.  Userspace page tables remember the\n"
	"  failure, though: create the mapping anew.  A hole that is a part of a huge page\n"
	"  zeroes all pages of it but the bad ones.\n"
	"* A failure of a page that has failed before returns EHWPOISON and changes nothing.\n"
	"* A huge page that is on its way from the pool to a file, or back, has no owner for some\n"
	"  microseconds.  The injection gets EBUSY if a page of it fails then, as for hugetlbfs.\n"
	"  The huge page is marked: as soon as it is a file's, it is treated as above; in the\n"
	"  pool, it counts as free, and isn't used.\n";

static inline const char *poison_error_str(int error)
{
	switch (error) {
	case 0:
		return "ok";
	case EFAULT:
		return "EFAULT";
	case EBUSY:
		return "EBUSY";
	case EHWPOISON:
		return "EHWPOISON";
	case ENOSPC:
		return "ENOSPC";
	default:
		return strerror(error);
	}
}

static inline const char *poison_cell_name(const struct poison_cell *c, size_t unit)
{
	static char name[160];

	snprintf(name, sizeof(name), "%s, %s, %s kill, %s%s", poison_pages[c->page],
		 poison_states[c->state], c->early ? "early" : "late", poison_hows[c->how],
		 !unit ? "" : unit == (1ul << 30) ? ", 1G" : ", 2M");
	return name;
}

static inline bool poison_is_huge(const struct poison_cell *c)
{
	return c->page != SMALL_PAGE && c->page != SMALL_HELD;
}

static inline int poison_nr_cells_of(size_t unit)
{
	int i, nr = 0;

	for (i = 0; i < poison_nr_cells; i++)
		nr += poison_is_huge(&poison_cells[i]) == !!unit;
	return nr;
}

/* Print the line that is above and below the table, and below its head. */
static inline void poison_print_rule(void)
{
	static const int widths[] = { 34, 16, 5, 8, 6, 7, 6, 9, 3, 4, 4 };
	int i, j;

	for (i = 0; i < ARRAY_SIZE(widths); i++) {
		for (j = 0; j < widths[i]; j++)
			putchar('=');
		fputs(i < ARRAY_SIZE(widths) - 1 ? "  " : "\n", stdout);
	}
}

static inline void poison_print_table(void)
{
	int i;

	/* The line is put together here, as it isn't the license of this file. */
	printf(".. %s-License-Identifier: GPL-2.0\n\n", "SPDX");
	fputs(poison_head, stdout);
	poison_print_rule();
	printf("%-34s  %-16s  %-5s  %-8s  %-6s  %-7s  %-6s  %-9s  %-3s  %-4s  note\n", "page",
	       "state", "kill", "injected", "result", "at once", "host", "guest", "bad", "lost");
	poison_print_rule();
	for (i = 0; i < poison_nr_cells; i++) {
		const struct poison_cell *c = &poison_cells[i];
		const struct poison_told *t = &c->want;

		printf("%-34s  %-16s  %-5s  %-8s  %-6s  %-7s  %-6s  %-9s  %-3d  %d",
		       poison_pages[c->page], poison_states[c->state],
		       c->early ? "early" : "late", poison_hows[c->how],
		       poison_error_str(t->inject), sigbus_code_str(t->at_once),
		       t->host ? sigbus_code_str(t->host) : "ok", poison_error_str(t->guest),
		       t->corrupted, t->lost);
		printf(c->note ? "     %c\n" : "\n", c->note);
	}
	poison_print_rule();
	fputs(poison_tail, stdout);
}

#endif /* SELFTEST_KVM_GUEST_MEMFD_POISON_TABLE_H */
