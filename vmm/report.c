// SPDX-License-Identifier: GPL-2.0
/*
 * The output of all measurements. Every number comes from a counter, and report_check() says what
 * each counter must be.
 */
#include <stdarg.h>
#include <string.h>

#include "vmm.h"

#define CELLS_PER_ROW	64
#define CELLS_PER_UNIT	512

static __u64 pages_of(const struct report *report)
{
	return report->size / PAGE;
}

static __u64 units_of(const struct report *report)
{
	return report->size / report->page_size;
}

static bool is_huge(const struct report *report)
{
	return report->page_size != PAGE;
}

void report_pool(FILE *out, const char *when, const struct pool *pool, const char *what)
{
	if (out && pool->there)
		fprintf(out, "  %-16s total %4ld   free %4ld   reserved %4ld%s\n", when,
			pool->total, pool->free, pool->reserved, what);
}

static void print_mapped(FILE *out, const struct stats *mapped)
{
	fprintf(out, "mapped into the guest: %lld x 1G, %lld x 2M, %lld x 4K",
		mapped->pages_1g, mapped->pages_2m, mapped->pages_4k);
}

/* Prints one cell per block of 2M: # if all its pages are allocated, . if none, + if some. */
static void report_map(FILE *out, const struct report *report)
{
	__u64 blocks = (report->size + BLOCK - 1) / BLOCK, pages = 0;

	if (!report->has_map) {
		fprintf(out, "  map of the file: not measured, this kernel has no cachestat()\n");
		return;
	}
	fprintf(out, "  the file: %llu x %s; a cell is 2M: # allocated, . not, + partly\n",
		units_of(report), size_name(report->page_size));
	for (__u64 i = 0; i < blocks; i++) {
		__u64 left = pages_of(report) - i * (BLOCK / PAGE);
		__u64 whole = left < BLOCK / PAGE ? left : BLOCK / PAGE;

		if (i % CELLS_PER_ROW == 0)
			fputs("    ", out);
		fputc(report->map[i] == whole ? '#' : report->map[i] ? '+' : '.', out);
		if (i % CELLS_PER_ROW == CELLS_PER_ROW - 1 || i == blocks - 1)
			fputc('\n', out);
		pages += report->map[i];
	}
	fprintf(out, "    %llu of %llu pages allocated; ", pages, pages_of(report));
	print_mapped(out, &report->mapped);
	fputc('\n', out);
}

static void print_cells(FILE *out, const char *cells)
{
	for (; *cells; cells += strnlen(cells, CELLS_PER_ROW))
		fprintf(out, "    %.*s\n", CELLS_PER_ROW, cells);
}

/* Without CONFIG_DEBUG_GUESTMEM, prints that, and how many blocks KVM's counters show as whole. */
static void print_not_told(FILE *out, const struct layout *layout, const struct stats *mapped)
{
	if (!layout->told)
		fprintf(out,
			"    (computed: this kernel has no CONFIG_DEBUG_GUESTMEM. By KVM's counters,\n"
			"    %lld of %llu blocks of 2M are whole.)\n",
			mapped->pages_1g * (__s64)(GIB / BLOCK) + mapped->pages_2m,
			layout->pages * PAGE / BLOCK);
}

/* Prints the pieces of a file that is all of the guest's memory. */
static void report_layout(FILE *out, const struct report *report)
{
	const struct layout *layout = report->layout;
	static char cells[PRIVATE_MAX / BLOCK + 1];

	fprintf(out, "  the file: %llu x %s, in %llu pieces: ", units_of(report),
		size_name(report->page_size), layout_pieces(layout, 0, layout->pages));
	layout_list(out, layout, 0, layout->pages);
	fprintf(out, "\n  a cell is 2M: [ a piece begins, # it goes on, h the host has used pages\n"
		"  of it, + smaller pieces, . not allocated\n");
	layout_cells(layout, 0, layout->pages, BLOCK / PAGE, true, cells);
	for (__u64 i = 0; report->has_map && cells[i]; i++)
		if (!report->map[i])
			cells[i] = '.';
	print_cells(out, cells);
	print_not_told(out, layout, &report->mapped);
	fprintf(out, "    pages the host has used: %llu, of these %llu to load the guest\n    ",
		layout_count(layout, 0, layout->pages, PAGE_HOST), report->loaded);
	print_mapped(out, &report->mapped);
	fprintf(out, "; %lld faults\n", report->total.pf_fixed);
}

void report_file(FILE *out, const struct report *report)
{
	if (report->layout)
		report_layout(out, report);
	else if (!report->layouts)	/* else it was shown already */
		report_map(out, report);
}

/* Prints and checks the pieces of a unit, when the running guest asks for that. */
void report_unit(struct vm *vm, __u64 page)
{
	__u64 unit = vm->opt->page_size / PAGE, first = page & ~(unit - 1);
	char cells[CELLS_PER_UNIT + 1];
	struct layout *layout;
	struct stats now, want;
	FILE *out = vm->serial.out;

	if (unit < CELLS_PER_UNIT || page >= vm->file_size / PAGE)
		return;
	layout = layout_read(vm);
	layout_mapping(layout, &want);
	stats_read(vm->fd, vm->vcpu_fd, &now);
	/* Subtract the mappings of ordinary memory, which were all there before the guest ran. */
	now.pages_1g -= vm->start.pages_1g;
	now.pages_2m -= vm->start.pages_2m;
	now.pages_4k -= vm->start.pages_4k;

	fprintf(out, "  unit %llu: shared pages %llu, pieces %llu: ", first / unit,
		unit - layout_count(layout, first, unit, PAGE_PRIVATE),
		layout_pieces(layout, first, unit));
	layout_list(out, layout, first, unit);
	fputc('\n', out);
	layout_cells(layout, first, unit, unit / CELLS_PER_UNIT, false, cells);
	print_cells(out, cells);
	print_not_told(out, layout, &now);
	fputs("    ", out);
	print_mapped(out, &now);
	fprintf(out, "; faults since the last map %lld\n", now.pf_fixed - vm->last.pf_fixed);

	vm->report->layouts++;
	if (layout->wrong || now.pages_1g != want.pages_1g || now.pages_2m != want.pages_2m ||
	    now.pages_4k != want.pages_4k) {
		fprintf(out, "    not as it should be: %llu pages in other pieces; should be ",
			layout->wrong);
		print_mapped(out, &want);
		fputc('\n', out);
		vm->report->wrong_layouts++;
	}
	vm->last = now;
	layout_free(layout);
}

/* Prints a number with thousands separated, right-aligned in a column. */
static void print_number(FILE *out, __s64 value)
{
	char digits[24], text[32];
	int len = snprintf(digits, sizeof(digits), "%lld", value), used = 0;

	for (int i = 0; i < len; i++) {
		text[used++] = digits[i];
		if ((len - i) % 3 == 1 && i < len - 1 && digits[i] != '-')
			text[used++] = ',';
	}
	text[used] = '\0';
	fprintf(out, "%12s", text);
}

typedef __s64 (*report_value)(const struct report *report);

static __s64 value_mib(const struct report *r) { return r->size / MIB; }
static __s64 value_units(const struct report *r) { return units_of(r); }
static __s64 value_verified(const struct report *r) { return r->verified; }
static __s64 value_1g(const struct report *r) { return r->mapped.pages_1g; }
static __s64 value_2m(const struct report *r) { return r->mapped.pages_2m; }
static __s64 value_4k(const struct report *r) { return r->mapped.pages_4k; }
static __s64 value_fixed(const struct report *r) { return r->total.pf_fixed; }
static __s64 value_per_gib(const struct report *r) { return r->total.pf_fixed * GIB / r->size; }
static __s64 value_exits(const struct report *r) { return r->total.exits; }
static __s64 value_reachable(const struct report *r) { return r->reachable; }
static __s64 value_unevictable(const struct report *r) { return r->unevictable; }

static __s64 value_taken_from_pool(const struct report *r)
{
	return is_huge(r) ? r->before.free - r->during.free : 0;
}

void report_table(FILE *out, const struct report *reports, int nr)
{
	static const struct {
		const char *title;
		report_value value;
	} rows[] = {
		{ "MiB in the file", value_mib },
		{ "units in the file", value_units },
		{ "huge pages taken from the pool", value_taken_from_pool },
		{ "mapped into the guest: pages_1g", value_1g },
		{ "                       pages_2m", value_2m },
		{ "                       pages_4k", value_4k },
		{ "stage-2 faults: pf_fixed", value_fixed },
		{ "                per GiB", value_per_gib },
		{ "vCPU exits", value_exits },
		{ "pages verified by the guest", value_verified },
		{ "pages the host can read", value_reachable },
		{ "Unevictable, KiB more", value_unevictable },
	};

	fprintf(out, "  %-34s", "guest memory in units of");
	for (int i = 0; i < nr; i++)
		fprintf(out, "%12s", size_name(reports[i].page_size));
	fputc('\n', out);
	for (size_t row = 0; row < ARRAY_SIZE(rows); row++) {
		fprintf(out, "  %-34s", rows[row].title);
		for (int i = 0; i < nr; i++)
			print_number(out, rows[row].value(&reports[i]));
		fputc('\n', out);
	}
	fprintf(out, "  %-34s", "seconds, boot to verified");
	for (int i = 0; i < nr; i++)
		fprintf(out, "%12.1f", reports[i].seconds);
	fputc('\n', out);
}

struct checker {
	FILE *out;
	__u64 page_size;
	int failures;
};

static void __attribute__((format(printf, 3, 4)))
expect(struct checker *checker, bool ok, const char *fmt, ...)
{
	va_list args;

	if (ok)
		return;
	fprintf(checker->out, "not as it should be (%s): ", size_name(checker->page_size));
	va_start(args, fmt);
	vfprintf(checker->out, fmt, args);
	va_end(args);
	fputc('\n', checker->out);
	checker->failures++;
}

/* Checks that the pool's free and reserved pages have changed by @free and @reserved. */
static void expect_pool(struct checker *checker, const char *when, const struct pool *from,
			const struct pool *to, long free, long reserved)
{
	expect(checker, to->total == from->total && to->surplus == from->surplus &&
	       to->free - from->free == free && to->reserved - from->reserved == reserved,
	       "%s: free %ld -> %ld, reserved %ld -> %ld; a change by %ld and %ld was expected",
	       when, from->free, to->free, from->reserved, to->reserved, free, reserved);
}

static void check_mapping(struct checker *checker, const struct report *report)
{
	const struct stats *mapped = &report->mapped;
	__s64 units = units_of(report);
	__s64 want_1g = report->page_size == GIB ? units : 0;
	__s64 want_2m = report->page_size == BLOCK ? units : 0;
	__s64 want_4k = report->page_size == PAGE ? units : 0;

	expect(checker, mapped->pages_1g == want_1g && mapped->pages_2m == want_2m &&
	       mapped->pages_4k == want_4k,
	       "pages_1g %lld, pages_2m %lld, pages_4k %lld; expected %lld, %lld, %lld",
	       mapped->pages_1g, mapped->pages_2m, mapped->pages_4k, want_1g, want_2m, want_4k);
	/*
	 * One fault for each unit, and another for each page that was converted. The host may
	 * have taken pages of ordinary memory meanwhile.
	 */
	expect(checker, report->total.pf_fixed >= units &&
	       report->total.pf_fixed <= units + (__s64)report->converted + 64,
	       "%lld faults for %lld units", report->total.pf_fixed, units);
	expect(checker, !report->wrong_layouts, "%d of %d times a unit had other pieces",
	       report->wrong_layouts, report->layouts);
}

static __u64 pages_in_file(const struct report *report)
{
	__u64 pages = 0;

	for (__u64 off = 0; report->has_map && off < report->size; off += BLOCK)
		pages += report->map[off / BLOCK];
	return pages;
}

/* Checks that the guest has all that it uses in huge mappings, whatever the host has used. */
static void check_shared(struct checker *checker, const struct report *report)
{
	const struct layout *layout = report->layout;
	__u64 block = BLOCK / PAGE, in_file = pages_in_file(report), huge;

	expect(checker, report->verified >= pages_of(report) / 2,
	       "the guest verified %llu of %llu pages", report->verified, pages_of(report));
	expect(checker, !report->has_map || in_file >= report->verified,
	       "the file has %llu pages, the guest verified %llu", in_file, report->verified);
	expect(checker, !layout->wrong, "%llu pages of the file are in other pieces",
	       layout->wrong);
	huge = report->mapped.pages_1g * (GIB / PAGE) + report->mapped.pages_2m * block;
	expect(checker, report->page_size == PAGE || huge >= report->verified,
	       "the guest has %llu pages in huge mappings, and used %llu", huge, report->verified);
	expect(checker, huge + report->mapped.pages_4k <= pages_of(report),
	       "KVM maps %llu pages huge and %lld others, the file has %llu", huge,
	       report->mapped.pages_4k, pages_of(report));
}

static void check_private(struct checker *checker, const struct report *report)
{
	__u64 in_file = pages_in_file(report);

	expect(checker, report->verified >= pages_of(report),
	       "the guest verified %llu of %llu pages", report->verified, pages_of(report));
	expect(checker, !report->reachable,
	       "the host can read %llu pages of private memory", report->reachable);
	expect(checker, !report->wrong_offsets,
	       "%llu conversions failed for a page that is pinned, and named another one",
	       report->wrong_offsets);
	check_mapping(checker, report);
	expect(checker, !report->has_map || in_file == pages_of(report),
	       "the file has %llu of %llu pages", in_file, pages_of(report));
}

/*
 * Checks that all data was in guest_memfd, mapped by pages as large as possible, and that the pool
 * has everything back. Returns the number of failures.
 */
int report_check(FILE *out, const struct report *report)
{
	struct checker checker = { .out = out, .page_size = report->page_size };
	long units = units_of(report), taken = units;

	expect(&checker, report->status == 0, "the guest's exit status is %d", report->status);
	if (!report->size)
		return checker.failures;
	if (report->shared)
		check_shared(&checker, report);
	else
		check_private(&checker, report);
	if (is_huge(report)) {
		expect_pool(&checker, "the file", &report->before, &report->created, 0, units);
		/* A Linux need not use all of its memory. The unused units are still promised. */
		if (report->shared && report->has_map)
			taken = pages_in_file(report) * PAGE / report->page_size;
		expect_pool(&checker, "the guest", &report->before, &report->during, -taken,
			    units - taken);
		expect_pool(&checker, "the end", &report->before, &report->after, 0, 0);
	} else if (!report->shared) {
		/* A little less is right: the kernel adds up the CPUs' counts with a delay. */
		expect(&checker, report->unevictable * 100 >= (long)(report->size / KIB * 99),
		       "Unevictable grew by %ld KiB only", report->unevictable);
	}
	return checker.failures;
}
