// SPDX-License-Identifier: GPL-2.0-only
/*
 * guestmem-units: show how huge pages of guest memory (guest_memfd) are split.
 *
 * The kernel says so in debugfs, if it has CONFIG_DEBUG_GUESTMEM: see mm/guestmem_debug.c.
 * Huge pages that aren't split aren't listed there, and reading it takes as long as it
 * takes to check each struct page of those that are.
 *
 * Exit status: 0, or 1 if something can't be read or is inconsistent, or 2 for wrong usage.
 */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define UNITS_FILE	"/sys/kernel/debug/guestmem/units"
#define UNIT_FORMAT	"pfn 0x%llx order %u out %llu ino %llu index 0x%llx folios %llu:%n"
#define LATE_FORMAT	"pfn 0x%llx out %llu\n%n"
#define END_FORMAT	"%llu units, %llu bad"
#define MAX_ORDER	30
#define MAX_COLUMNS	64

/* Folios of the same order, one after the other. */
struct run {
	unsigned int order;
	unsigned long long nr;
};

/* A huge page, as one line of the file describes it. */
struct unit {
	unsigned long long pfn;
	/* Pages that aren't part of the file anymore, and haven't come back yet. */
	unsigned long long nr_out;
	/* The other fields are valid if it is part of a file. */
	bool is_in_file;
	unsigned int order;
	unsigned long long ino;
	unsigned long long index;
	unsigned long long nr_folios;
	unsigned long long nr_by_order[MAX_ORDER + 1];
	struct run *runs;
	size_t nr_runs;
};

struct snapshot {
	struct unit *units;
	size_t nr_units;
	unsigned long long nr_bad;
};

static long page_size;

static void die(const char *fmt, ...)
{
	va_list args;

	fputs("guestmem-units: ", stderr);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

static void *grow(void *array, size_t nr, size_t size)
{
	/* Double it whenever its size is a power of two. */
	if (nr & (nr - 1))
		return array;

	array = reallocarray(array, nr ? 2 * nr : 1, size);
	if (!array)
		die("out of memory");
	return array;
}

/* Parse "ORDER" or "ORDER*NUMBER".  Returns false if it isn't that. */
static bool parse_run(struct unit *unit, const char *word)
{
	struct run run = { .nr = 1 };
	char *end;

	errno = 0;
	run.order = strtoul(word, &end, 10);
	if (*end == '*')
		run.nr = strtoull(end + 1, &end, 10);
	if (errno || *end || !isdigit((unsigned char)*word) || run.order > MAX_ORDER || !run.nr)
		return false;

	unit->runs = grow(unit->runs, unit->nr_runs, sizeof(run));
	unit->runs[unit->nr_runs++] = run;
	unit->nr_by_order[run.order] += run.nr;
	return true;
}

/* The folios of a unit must be as many, and as large, as the line says. */
static bool is_complete(const struct unit *unit)
{
	unsigned long long nr_folios = 0, nr_pages = 0;
	size_t i;

	for (i = 0; i < unit->nr_runs; i++) {
		nr_folios += unit->runs[i].nr;
		nr_pages += unit->runs[i].nr << unit->runs[i].order;
	}
	return nr_folios == unit->nr_folios && nr_pages == 1ULL << unit->order;
}

/* Parse a line that begins with "pfn".  Returns false if it isn't understood. */
static bool parse_unit(struct unit *unit, char *line)
{
	char *word, *save;
	int len = 0;

	*unit = (struct unit){ };
	if (sscanf(line, UNIT_FORMAT, &unit->pfn, &unit->order, &unit->nr_out, &unit->ino,
		   &unit->index, &unit->nr_folios, &len) != 6 || !len)
		return sscanf(line, LATE_FORMAT, &unit->pfn, &unit->nr_out, &len) == 2 && len &&
		       !line[len];

	unit->is_in_file = true;
	for (word = strtok_r(line + len, "\n ", &save); word; word = strtok_r(NULL, "\n ", &save)) {
		if (!parse_run(unit, word))
			return false;
	}
	return unit->order <= MAX_ORDER && is_complete(unit);
}

static struct snapshot take_snapshot(void)
{
	FILE *file = fopen(UNITS_FILE, "r");
	unsigned long long nr_units, nr_bad;
	struct snapshot s = { };
	bool has_end = false;
	struct unit unit;
	char *line = NULL;
	size_t size = 0;

	if (!file && errno == ENOENT)
		die("%s isn't there: it needs CONFIG_DEBUG_GUESTMEM, and debugfs mounted",
		    UNITS_FILE);
	if (!file)
		die("cannot open %s: %s", UNITS_FILE, strerror(errno));

	while (getline(&line, &size, file) > 0) {
		if (sscanf(line, END_FORMAT, &nr_units, &nr_bad) == 2) {
			has_end = nr_bad || nr_units == s.nr_units;
			s.nr_bad = nr_bad;
		} else if (parse_unit(&unit, line)) {
			s.units = grow(s.units, s.nr_units, sizeof(unit));
			s.units[s.nr_units++] = unit;
		} else {
			/* A violation may be in the middle of a line, whose end is left. */
			if (*line != '\n')
				fprintf(stderr, "guestmem-units: %s", line);
			free(unit.runs);
		}
	}
	if (ferror(file) || !has_end)
		die("%s isn't understood", UNITS_FILE);

	fclose(file);
	free(line);
	return s;
}

static void free_snapshot(struct snapshot *s)
{
	size_t i;

	for (i = 0; i < s->nr_units; i++)
		free(s->units[i].runs);
	free(s->units);
}

/* Print the size of a folio. */
static void print_size(unsigned int order)
{
	static const char suffixes[] = "KMGT";
	unsigned long long size = ((unsigned long long)page_size << order) / 1024;
	const char *suffix = suffixes;

	while (size >= 1024 && suffix[1]) {
		size /= 1024;
		suffix++;
	}
	printf("%llu%c", size, *suffix);
}

/*
 * Print a map of a unit.  A cell is a part of the unit, in which a folio begins ([), goes on
 * (#), or which has several folios (s).
 */
static void print_map(const struct unit *unit)
{
	unsigned int cell = unit->order > 9 ? 9 : 0;
	unsigned long long page = 0, next = 0, i;
	unsigned int column = 0;
	size_t run;

	for (run = 0; run < unit->nr_runs; run++) {
		for (i = 0; i < unit->runs[run].nr; i++) {
			unsigned long long end = page + (1ULL << unit->runs[run].order);

			for (; next < end; next += 1ULL << cell) {
				if (column++ % MAX_COLUMNS == 0)
					printf("\n    ");
				if (unit->runs[run].order < cell)
					putchar('s');
				else
					putchar(next == page ? '[' : '#');
			}
			page = end;
		}
	}
	putchar('\n');
}

static void print_unit(const struct unit *unit)
{
	int order;

	if (!unit->is_in_file) {
		printf("unit pfn 0x%llx: not in a file, or about to change, %llu pages out\n",
		       unit->pfn, unit->nr_out);
		return;
	}

	printf("unit pfn 0x%llx ", unit->pfn);
	print_size(unit->order);
	printf(" inode %llu page 0x%llx: %llu folios:", unit->ino,
	       unit->index, unit->nr_folios);
	for (order = unit->order; order >= 0; order--) {
		if (!unit->nr_by_order[order])
			continue;
		putchar(' ');
		print_size(order);
		if (unit->nr_by_order[order] > 1)
			printf(" x %llu", unit->nr_by_order[order]);
	}
	print_map(unit);
}

static void print_text(const struct snapshot *s)
{
	size_t i;

	for (i = 0; i < s->nr_units; i++)
		print_unit(&s->units[i]);
	printf("%zu units are split, %llu bad\n", s->nr_units, s->nr_bad);
}

static void print_json(const struct snapshot *s)
{
	const struct unit *unit;
	size_t i, run;

	printf("{\"page_size\": %ld, \"bad\": %llu, \"units\": [", page_size,
	       s->nr_bad);
	for (i = 0; i < s->nr_units; i++) {
		unit = &s->units[i];
		printf("%s\n {\"pfn\": %llu, \"out\": %llu", i ? "," : "", unit->pfn,
		       unit->nr_out);
		if (!unit->is_in_file) {
			putchar('}');
			continue;
		}
		printf(", \"order\": %u, \"inode\": %llu, \"index\": %llu, \"folios\": [",
		       unit->order, unit->ino, unit->index);
		for (run = 0; run < unit->nr_runs; run++)
			printf("%s{\"order\": %u, \"count\": %llu}", run ? ", " : "",
			       unit->runs[run].order, unit->runs[run].nr);
		printf("]}");
	}
	printf("%s]}\n", s->nr_units ? "\n" : "");
}

static void usage(FILE *out)
{
	fputs("Usage: guestmem-units [--json] [--watch[=SECONDS]]\n"
	      "\n"
	      "Show into which folios huge pages of guest_memfd are split.  In the map, a cell is\n"
	      "512 pages, or a page if the huge page has no more than that: [ a folio begins, #\n"
	      "it goes on, s several folios.\n"
	      "\n"
	      "  --json             print one JSON object instead, sizes as orders, i.e. log2 of\n"
	      "                     the number of pages\n"
	      "  --watch[=SECONDS]  print again and again, every second by default\n", out);
}

int main(int argc, char *argv[])
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "watch", optional_argument, NULL, 'w' },
		{ "help", no_argument, NULL, 'h' },
		{ }
	};
	unsigned long seconds = 0;
	bool json = false;
	struct snapshot s;
	unsigned long long nr_bad;
	char *end;
	int c;

	page_size = sysconf(_SC_PAGESIZE);
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'j':
			json = true;
			break;
		case 'w':
			seconds = optarg ? strtoul(optarg, &end, 10) : 1;
			if (!seconds || seconds > UINT_MAX || (optarg && *end)) {
				fputs("guestmem-units: --watch takes a number of seconds\n",
				      stderr);
				return 2;
			}
			break;
		case 'h':
			usage(stdout);
			return 0;
		default:
			usage(stderr);
			return 2;
		}
	}
	if (optind < argc) {
		usage(stderr);
		return 2;
	}

	for (;;) {
		s = take_snapshot();
		if (seconds && !json && isatty(STDOUT_FILENO))
			fputs("\033[H\033[2J", stdout);
		(json ? print_json : print_text)(&s);
		nr_bad = s.nr_bad;
		free_snapshot(&s);
		if (fflush(stdout) || ferror(stdout))
			die("cannot write");
		if (!seconds)
			return nr_bad ? 1 : 0;
		sleep(seconds);
	}
}
