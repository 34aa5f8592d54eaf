// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compare what tools/mm/guestmem-units says with the model of a file's layout.  The program
 * has to be in PATH.
 */
#include <sys/stat.h>

#include "guest_memfd_fixture.h"

#define TOOL		"guestmem-units"
#define NEEDS_TOOL	"needs " TOOL " of tools/mm in PATH"
#define MAX_UNITS	8
#define MAX_RUNS	128
#define MAX_OUTPUT	SZ_64K

struct seen_unit {
	u64 pfn, out, order, inode, index;
	struct {
		u64 order, count;
	} runs[MAX_RUNS];
	u64 nr_runs;
};

/* The contents of the JSON text. */
struct seen {
	u64 page_size, bad;
	struct seen_unit units[MAX_UNITS];
	u64 nr_units;
};

/* If it is there then it has to work. */
static bool has_tool(void)
{
	int status = system(TOOL " --help >/dev/null 2>&1");

	return !WIFEXITED(status) || WEXITSTATUS(status) != 127;
}

static const char *setup(struct gmem *self, const struct gmem_variant *variant)
{
	const char *missing = gmem_setup_counted(self, variant);

	if (missing)
		return missing;
	if (!has_tool())
		return NEEDS_TOOL;
	gmem_open_with_vm(self, GUEST_MEMFD_FLAG_MMAP);
	return NULL;
}

#define _test_data_units	gmem
#define _fixture_variant_units	gmem_variant

GMEM_FIXTURE(units, setup(self, variant));
GMEM_VARIANTS(units, 4, 2);

/* Run the program.  Returns what it prints, in a static buffer. */
static const char *run_tool(const char *options, int status)
{
	static char text[MAX_OUTPUT];
	char command[128];
	size_t len;
	FILE *out;
	int ret;

	snprintf(command, sizeof(command), TOOL " %s 2>&1", options);
	out = popen(command, "r");
	TEST_ASSERT(out, "popen() should succeed");
	len = fread(text, 1, sizeof(text) - 1, out);
	text[len] = '\0';
	ret = pclose(out);
	TEST_ASSERT(WIFEXITED(ret) && WEXITSTATUS(ret) == status, "%s ended with 0x%x: %s", command,
		    ret, text);
	return text;
}

static const char *skip_space(const char *at)
{
	return at + strspn(at, " \t\n\r");
}

/* Take a number that has a name. */
static void take_number(struct seen *s, const char *path, u64 val)
{
	struct seen_unit *unit;
	u64 nr, run;
	int len = 0;

	if (!strcmp(path, ".page_size")) {
		s->page_size = val;
		return;
	}
	if (!strcmp(path, ".bad")) {
		s->bad = val;
		return;
	}

	TEST_ASSERT(sscanf(path, ".units[%lu]%n", &nr, &len) == 1 && len && nr < MAX_UNITS,
		    "There should be no %s", path);
	unit = &s->units[nr];
	s->nr_units = max(s->nr_units, nr + 1);
	path += len;
	if (sscanf(path, ".folios[%lu]%n", &run, &len) == 1) {
		TEST_ASSERT(run < MAX_RUNS, "There are too many folios");
		unit->nr_runs = max(unit->nr_runs, run + 1);
		path += len;
		if (!strcmp(path, ".order"))
			unit->runs[run].order = val;
		else if (!strcmp(path, ".count"))
			unit->runs[run].count = val;
		else
			TEST_FAIL("There should be no %s of folios", path);
	} else if (!strcmp(path, ".pfn")) {
		unit->pfn = val;
	} else if (!strcmp(path, ".out")) {
		unit->out = val;
	} else if (!strcmp(path, ".order")) {
		unit->order = val;
	} else if (!strcmp(path, ".inode")) {
		unit->inode = val;
	} else if (!strcmp(path, ".index")) {
		unit->index = val;
	} else {
		TEST_FAIL("There should be no %s of a unit", path);
	}
}

/*
 * Parse a JSON value, which consists of objects, arrays, and numbers that aren't negative.
 * @path is what leads to it.  Returns what follows.
 */
static const char *parse(struct seen *s, const char *at, const char *path)
{
	char below[128], name[32], *end;
	bool is_object = *at == '{';
	int nr = 0, len;
	u64 val;

	if (*at != '{' && *at != '[') {
		val = strtoull(at, &end, 10);
		TEST_ASSERT(end > at && isdigit(*at) && (*at != '0' || end == at + 1),
			    "There should be a number: %.20s", at);
		take_number(s, path, val);
		return end;
	}

	at = skip_space(at + 1);
	if (*at == (is_object ? '}' : ']'))
		return at + 1;
	for (;;) {
		if (is_object) {
			len = 0;
			TEST_ASSERT(sscanf(at, "\"%31[a-z_]\"%n", name, &len) == 1 && len,
				    "There should be a name: %.20s", at);
			at = skip_space(at + len);
			TEST_ASSERT(*at == ':', "There should be a colon: %.20s", at);
			at = skip_space(at + 1);
			snprintf(below, sizeof(below), "%s.%s", path, name);
		} else {
			snprintf(below, sizeof(below), "%s[%d]", path, nr++);
		}
		at = skip_space(parse(s, at, below));
		if (*at != ',')
			break;
		at = skip_space(at + 1);
	}
	TEST_ASSERT(*at == (is_object ? '}' : ']'), "There should be an end: %.20s", at);
	return at + 1;
}

static struct seen read_json(void)
{
	const char *at = run_tool("--json", 0);
	struct seen s;
	u64 i;

	/* A number that is missing must not pass for 0. */
	memset(&s, 0xff, sizeof(s));
	s.nr_units = 0;
	for (i = 0; i < MAX_UNITS; i++)
		s.units[i].nr_runs = 0;
	TEST_ASSERT(!*skip_space(parse(&s, at, "")), "Nothing should follow");
	TEST_ASSERT_EQ(s.page_size, (u64)page_size);
	TEST_ASSERT_EQ(s.bad, 0);
	return s;
}

/* Assert that a unit is in the folios that the model has. */
static void assert_unit(struct gmem *self, struct seen_unit *seen, u64 unit)
{
	u64 page = unit * self->unit_pages, run, i;

	TEST_ASSERT_EQ(seen->index, page);
	TEST_ASSERT_EQ(seen->order, (u64)self->model.unit_order);
	TEST_ASSERT_EQ(seen->out, 0);
	TEST_ASSERT_EQ(seen->pfn, guestmem_read_unit(self->fd, page, self->unit_pages, NULL));
	for (run = 0; run < seen->nr_runs; run++) {
		for (i = 0; i < seen->runs[run].count; i++) {
			TEST_ASSERT(page < (unit + 1) * self->unit_pages, "That is too much");
			TEST_ASSERT_EQ(seen->runs[run].order, (u64)self->model.order[page]);
			page += 1ul << seen->runs[run].order;
		}
	}
	TEST_ASSERT_EQ(page, (unit + 1) * self->unit_pages);
}

/* Assert that it lists the units of the file that are split, and no others. */
static void assert_json(struct gmem *self)
{
	struct seen s = read_json();
	u64 unit, nr = 0, i;
	struct stat st;

	TEST_ASSERT(!fstat(self->fd, &st), "fstat() should succeed");
	assert_layout();
	for (unit = 0; unit < self->nr; unit++) {
		if (!self->model.present[unit] || guestmem_model_nr_folios(&self->model, unit) == 1)
			continue;
		for (i = 0; i < s.nr_units; i++) {
			if (s.units[i].inode == st.st_ino &&
			    s.units[i].index == unit * self->unit_pages)
				break;
		}
		TEST_ASSERT(i < s.nr_units, "Unit %lu is split, and should be listed", unit);
		assert_unit(self, &s.units[i], unit);
		nr++;
	}
	TEST_ASSERT_EQ(s.nr_units, nr);
}

TEST_F(units, json)
{
	assert_json(self);
	allocate(self, 0, self->nr_pages);
	assert_json(self);
	set_shared(self->unit_pages + 5, 1);
	set_shared(self->unit_pages * 3 / 2, 3);
	assert_json(self);
	set_shared(7, self->unit_pages - 9);
	assert_json(self);
	set_private(0, self->nr_pages);
	assert_json(self);
}

TEST_F(units, text)
{
	const char *text, *map;
	u64 nr_cells = 0;

	text = run_tool("", 0);
	TEST_ASSERT(!strcmp(text, "0 units are split, 0 bad\n"), "It says %s", text);

	allocate(self, 0, self->nr_pages);
	set_shared(self->unit_pages + 5, 1);
	text = run_tool("", 0);
	TEST_ASSERT(strstr(text, "\n1 units are split, 0 bad\n"), "It says %s", text);
	/* A cell of the map is a page of 4K, or of 2M if the unit is larger. */
	for (map = strstr(text, "\n    "); map && *map && *map != '1'; map++)
		nr_cells += !isspace(*map);
	TEST_ASSERT_EQ(nr_cells, 512);
	TEST_ASSERT(strstr(text, self->unit == SZ_1G ? "\n    s[" : "\n    [###[["),
		    "It says %s", text);
}

TEST(wrong_usage)
{
	SKIP_IF(return, has_tool() ? NULL : NEEDS_TOOL);
	run_tool("--watch=0", 2);
	run_tool("--watch=x", 2);
	run_tool("--watch=-1", 2);
	run_tool("--what", 2);
	run_tool("file", 2);
	TEST_ASSERT(strstr(run_tool("--help", 0), "Usage:"), "It should tell how it is used");
}

GMEM_TEST_MAIN(NEEDS_HUGETLB | NEEDS_PRIVATE_VM | NEEDS_CONVERSION)
