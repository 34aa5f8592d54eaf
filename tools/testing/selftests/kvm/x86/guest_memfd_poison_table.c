// SPDX-License-Identifier: GPL-2.0-only
#include "guest_memfd_poison_table.h"

#define AO		BUS_MCEERR_AO
#define AR		BUS_MCEERR_AR
#define NO_PAGE		BUS_ADRERR
#define LATE		false
#define EARLY		true

const struct poison_cell poison_cells[] = {
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

const int poison_nr_cells = ARRAY_SIZE(poison_cells);

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

const char *poison_error_str(int error)
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

const char *poison_cell_name(const struct poison_cell *c, size_t unit)
{
	static char name[160];

	snprintf(name, sizeof(name), "%s, %s, %s kill, %s%s", poison_pages[c->page],
		 poison_states[c->state], c->early ? "early" : "late", poison_hows[c->how],
		 !unit ? "" : unit == (1ul << 30) ? ", 1G" : ", 2M");
	return name;
}

/* Print the line that is above and below the table, and below its head. */
static void poison_print_rule(void)
{
	static const int widths[] = { 34, 16, 5, 8, 6, 7, 6, 9, 3, 4, 4 };
	int i, j;

	for (i = 0; i < ARRAY_SIZE(widths); i++) {
		for (j = 0; j < widths[i]; j++)
			putchar('=');
		fputs(i < ARRAY_SIZE(widths) - 1 ? "  " : "\n", stdout);
	}
}

void poison_print_table(void)
{
	int i;

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
}
