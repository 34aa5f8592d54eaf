// SPDX-License-Identifier: GPL-2.0-only
#include <sys/stat.h>

#include "guestmem_units.h"

#define UNITS_FILE	"/sys/kernel/debug/guestmem/units"

/*
 * BLOCK_MIXED has pages that aren't all alike, BLOCK_ALONE is a page that never is part
 * of a block, and BLOCK_MAPPED is, or is part of, a block that the host has mapped as such.
 */
enum block_kind {
	BLOCK_MIXED,
	BLOCK_PRIVATE,
	BLOCK_SHARED,
	BLOCK_MAPPED,
	BLOCK_ALONE,
};

/* A split unit as the kernel describes it in a line of its list. */
struct guestmem_unit {
	u64 pfn;		/* of the first page */
	bool in_file;		/* if not, nothing of what follows is known */
	u64 ino, index;
	u64 nr_out, nr_folios;
	int unit_order;
	const char *orders;	/* of the folios, as text in that line */
};

bool guestmem_has_units(void)
{
	return !access(UNITS_FILE, R_OK);
}

static char *read_file(const char *path)
{
	FILE *file = fopen(path, "r");
	char *text = NULL;
	size_t size = 0;

	TEST_ASSERT(file, "Opening %s should succeed, errno %d", path, errno);
	/* The file has no NUL, i.e. this reads all of it. */
	TEST_ASSERT(getdelim(&text, &size, '\0', file) > 0,
		    "Reading %s should succeed, errno %d", path, errno);
	fclose(file);
	return text;
}

static char *next_line(char *line)
{
	line = strchr(line, '\n');
	return line && line[1] ? line + 1 : NULL;
}

/* Parse a line of the list.  Returns false if it isn't a unit. */
static bool parse_unit(const char *line, struct guestmem_unit *u)
{
	int len = 0, nr;

	nr = sscanf(line, "pfn 0x%lx order %d out %lu ino %lu index 0x%lx folios %lu:%n", &u->pfn,
		    &u->unit_order, &u->nr_out, &u->ino, &u->index, &u->nr_folios, &len);
	u->in_file = nr == 6;
	u->orders = line + len;
	return nr > 0;
}

/* As above, but for units of a file only. */
static bool parse_unit_of(int fd, const char *line, struct guestmem_unit *u)
{
	struct stat st;

	TEST_ASSERT(!fstat(fd, &st), "fstat() should succeed");
	return parse_unit(line, u) && u->in_file && u->ino == st.st_ino;
}

char *guestmem_read_units(void)
{
	char *text = read_file(UNITS_FILE), *line, *last = text;
	int nr_units, nr_bad = -1;

	for (line = text; line; line = next_line(line))
		last = line;

	TEST_ASSERT(sscanf(last, "%d units, %d bad", &nr_units, &nr_bad) == 2 && !nr_bad,
		    "Units should be in order:\n%s", text);
	return text;
}

int guestmem_nr_units(int *nr_late)
{
	char *text = guestmem_read_units(), *line;
	struct guestmem_unit u;
	int nr = 0;

	*nr_late = 0;
	for (line = text; line; line = next_line(line)) {
		if (parse_unit(line, &u))
			++*(u.in_file ? &nr : nr_late);
	}
	free(text);
	return nr;
}

/* Fill in the orders that are listed in @line. */
static void parse_orders(const char *line, u64 unit_pages, u8 *orders)
{
	unsigned long repeat, page = 0;
	int order, len;

	for (; page < unit_pages && sscanf(line, " %d%n", &order, &len) == 1; line += len) {
		line += len;
		repeat = 1;
		len = 0;
		if (sscanf(line, "*%lu%n", &repeat, &len) != 1)
			len = 0;
		TEST_ASSERT(page + (repeat << order) <= unit_pages,
			    "A unit should not have more than its pages");
		memset(orders + page, order, repeat << order);
		page += repeat << order;
	}
	TEST_ASSERT(page == unit_pages, "A unit should have all of its pages");
}

u64 guestmem_read_unit(int fd, u64 index, u64 unit_pages, u8 *orders)
{
	char *text = guestmem_read_units(), *line;
	struct guestmem_unit u;

	for (line = text; line; line = next_line(line)) {
		if (parse_unit_of(fd, line, &u) && u.index == index)
			break;
	}
	TEST_ASSERT(line, "The unit of page %lu should be split", index);
	if (orders)
		parse_orders(u.orders, unit_pages, orders);
	free(text);
	return u.pfn;
}

void guestmem_assert_unchanged(const char *units)
{
	char *now = guestmem_read_units();

	TEST_ASSERT(!strcmp(now, units), "Units should be\n%.2000s\nare\n%.2000s", units, now);
	free(now);
}

void guestmem_settle(void)
{
	int nr, nr_late, tries;

	for (tries = 0; tries < 500; tries++) {
		nr = guestmem_nr_units(&nr_late);
		if (!nr && !nr_late)
			return;
		usleep(20 * 1000);
	}
	TEST_FAIL("%d units should be whole again, %d given back:\n%s", nr, nr_late,
		  guestmem_read_units());
}

void guestmem_model_init(struct guestmem_model *m, int fd, u64 size, u64 unit, bool private)
{
	const u64 page_size = getpagesize();

	*m = (struct guestmem_model) {
		.fd = fd,
		.unit_pages = unit / page_size,
		.unit_order = __builtin_ctzll(unit / page_size),
		.nr_pages = size / page_size,
	};
	m->present = calloc(m->nr_pages / m->unit_pages, sizeof(*m->present));
	m->private = malloc(m->nr_pages);
	m->touched = calloc(m->nr_pages, sizeof(*m->touched));
	m->poisoned = calloc(m->nr_pages, sizeof(*m->poisoned));
	m->order = malloc(m->nr_pages);
	TEST_ASSERT(m->present && m->private && m->touched && m->poisoned && m->order,
		    "No memory");
	memset(m->private, private, m->nr_pages);
	memset(m->order, m->unit_order, m->nr_pages);
}

void guestmem_model_free(struct guestmem_model *m)
{
	free(m->present);
	free(m->private);
	free(m->touched);
	free(m->poisoned);
	free(m->order);
}

static enum block_kind page_kind(struct guestmem_model *m, u64 page)
{
	if (m->poisoned[page])
		return BLOCK_ALONE;
	if (m->private[page])
		return BLOCK_PRIVATE;
	return m->touched[page] ? BLOCK_MAPPED : BLOCK_SHARED;
}

/* Find the folios of a unit: begin with pages, and join blocks that can be joined. */
static void update_unit(struct guestmem_model *m, u64 unit)
{
	const u64 start = unit * m->unit_pages;
	u8 *before = m->order + start, *kind, *order;
	u64 i, nr;
	int o;

	if (!m->present[unit])
		return;

	kind = malloc(m->unit_pages);
	order = calloc(m->unit_pages, 1);
	TEST_ASSERT(kind && order, "No memory");
	for (i = 0; i < m->unit_pages; i++)
		kind[i] = page_kind(m, start + i);

	for (o = 1, nr = m->unit_pages / 2; nr; o++, nr /= 2) {
		for (i = 0; i < nr; i++) {
			enum block_kind k = kind[2 * i];

			if (k != kind[2 * i + 1] || k == BLOCK_ALONE ||
			    (k == BLOCK_SHARED && before[i << o] < o) ||
			    (k == BLOCK_MAPPED && m->touched[start + (i << o)] <= o))
				k = BLOCK_MIXED;
			if (k != BLOCK_MIXED)
				memset(order + (i << o), o, 1ul << o);
			kind[i] = k;
		}
	}

	memcpy(before, order, m->unit_pages);
	free(kind);
	free(order);
}

static void update(struct guestmem_model *m, u64 first, u64 nr)
{
	u64 unit;

	for (unit = first / m->unit_pages; unit * m->unit_pages < first + nr; unit++)
		update_unit(m, unit);
}

void guestmem_model_convert(struct guestmem_model *m, u64 first, u64 nr, bool private)
{
	memset(m->private + first, private, nr);
	if (private)
		memset(m->touched + first, 0, nr);
	update(m, first, nr);
}

void guestmem_model_allocate(struct guestmem_model *m, u64 first, u64 nr)
{
	u64 unit;

	for (unit = first / m->unit_pages; unit * m->unit_pages < first + nr; unit++) {
		if (m->present[unit])
			continue;
		m->present[unit] = true;
		update_unit(m, unit);
	}
}

/* Returns false if the block is mapped already. */
static bool touch_block(struct guestmem_model *m, u64 page, int order)
{
	u64 nr;

	TEST_ASSERT(!m->private[page], "The host cannot touch private page %lu", page);
	if (m->touched[page] == order + 1)
		return false;

	/* Only a smaller mapping can come after another one, which is gone then. */
	if (m->touched[page]) {
		nr = 1ul << (m->touched[page] - 1);
		memset(m->touched + page / nr * nr, 0, nr);
	}
	nr = 1ul << order;
	memset(m->touched + page / nr * nr, order + 1, nr);
	return true;
}

/* Returns what touch_block() does. */
static bool touch_largest(struct guestmem_model *m, u64 page)
{
	if (m->max_order && m->order[page] == m->max_order)
		return touch_block(m, page, m->max_order);

	return touch_block(m, page, m->order[page] < m->map_order ? 0 : m->map_order);
}

void guestmem_model_touch(struct guestmem_model *m, u64 page)
{
	guestmem_model_allocate(m, page, 1);
	if (touch_largest(m, page))
		update(m, page, 1);
}

void guestmem_model_touch_block(struct guestmem_model *m, u64 page, int order)
{
	guestmem_model_allocate(m, page, 1);
	if (m->order[page] >= order && touch_block(m, page, order))
		update(m, page, 1);
}

void guestmem_model_touch_small(struct guestmem_model *m, u64 first, u64 nr)
{
	u64 page;

	guestmem_model_allocate(m, first, nr);
	for (page = first; page < first + nr; page++)
		touch_block(m, page, 0);
	update(m, first, nr);
}

void guestmem_model_touch_all(struct guestmem_model *m)
{
	u64 page;

	guestmem_model_allocate(m, 0, m->nr_pages);
	for (page = 0; page < m->nr_pages; page++)
		touch_largest(m, page);
	update(m, 0, m->nr_pages);
}

void guestmem_model_poison(struct guestmem_model *m, u64 page)
{
	m->poisoned[page] = true;
	update(m, page, 1);
}

/* Punch a range of pages.  Only units that are punched as a whole leave the file. */
void guestmem_model_punch(struct guestmem_model *m, u64 first, u64 nr)
{
	u64 unit = (first + m->unit_pages - 1) / m->unit_pages;
	u64 start;

	for (; (unit + 1) * m->unit_pages <= first + nr; unit++) {
		start = unit * m->unit_pages;
		m->present[unit] = false;
		memset(m->touched + start, 0, m->unit_pages);
		memset(m->poisoned + start, false, m->unit_pages);
		memset(m->order + start, m->unit_order, m->unit_pages);
	}
}

u64 guestmem_model_nr_folios(struct guestmem_model *m, u64 unit)
{
	u64 i, nr = 0;

	for (i = 0; i < m->unit_pages; i += 1ul << m->order[unit * m->unit_pages + i])
		nr++;
	return nr;
}

/* A unit that the host maps as a whole is split into one piece. */
static bool is_split(struct guestmem_model *m, u64 unit)
{
	return guestmem_model_nr_folios(m, unit) > 1 || m->touched[unit * m->unit_pages];
}

int guestmem_model_nr_present(struct guestmem_model *m)
{
	u64 unit;
	int nr = 0;

	for (unit = 0; unit < m->nr_pages / m->unit_pages; unit++)
		nr += m->present[unit];
	return nr;
}

u64 guestmem_model_nr_vmemmap(struct guestmem_model *m)
{
	u64 i, nr = 0;

	for (i = 0; i < m->nr_pages; i += 64) {
		if (m->present[i / m->unit_pages] && i % m->unit_pages &&
		    !(i % (1ul << m->order[i])))
			nr++;
	}
	return nr;
}

/* Return the orders of a unit's folios as text, in the form that the kernel prints. */
static char *orders_text(struct guestmem_model *m, u64 unit)
{
	const u8 *order = m->order + unit * m->unit_pages;
	u64 i = 0, nr;
	FILE *stream;
	size_t size;
	char *text;
	u8 o;

	stream = open_memstream(&text, &size);
	while (i < m->unit_pages) {
		o = order[i];
		for (nr = 0; i < m->unit_pages && order[i] == o; i += 1ul << o)
			nr++;
		if (nr == 1)
			fprintf(stream, " %d", o);
		else
			fprintf(stream, " %d*%lu", o, nr);
	}
	fclose(stream);
	return text;
}

/*
 * Return how one unit of the file, in a line of the kernel's list, differs from the
 * model, or NULL.
 */
static const char *diff_line(struct guestmem_model *m, const char *line, bool *seen)
{
	static char text[2000];
	struct guestmem_unit u;
	u64 unit, nr;
	char *want;
	bool same;
	int len;

	if (!parse_unit_of(m->fd, line, &u))
		return NULL;

	unit = u.index / m->unit_pages;
	if (u.index % m->unit_pages || u.index >= m->nr_pages || seen[unit]) {
		snprintf(text, sizeof(text), "No unit should be at 0x%lx", u.index);
		return text;
	}
	seen[unit] = true;

	len = strcspn(u.orders, "\n");
	want = orders_text(m, unit);
	nr = guestmem_model_nr_folios(m, unit);
	same = u.unit_order == m->unit_order && !u.nr_out && strlen(want) == len &&
	       !strncmp(want, u.orders, len) && u.nr_folios == nr && is_split(m, unit) &&
	       m->present[unit];
	snprintf(text, sizeof(text),
		 "Unit %lu: %s%lu folios of orders%.800s\nhas order %d, %lu pages out, %lu folios of orders%.*s",
		 unit, m->present[unit] ? "" : "should be a hole, was ", nr, want, u.unit_order,
		 u.nr_out, u.nr_folios, len < 800 ? len : 800, u.orders);
	free(want);
	return same ? NULL : text;
}

const char *guestmem_model_diff(struct guestmem_model *m)
{
	const u64 nr_units = m->nr_pages / m->unit_pages;
	char *text = guestmem_read_units(), *line;
	bool *seen = calloc(nr_units, sizeof(*seen));
	const char *diff = NULL;
	static char unseen[1000];
	u64 unit;

	for (line = text; line && !diff; line = next_line(line))
		diff = diff_line(m, line, seen);

	for (unit = 0; unit < nr_units && !diff; unit++) {
		if (seen[unit] || !m->present[unit] || !is_split(m, unit))
			continue;
		line = orders_text(m, unit);
		snprintf(unseen, sizeof(unseen), "Unit %lu is whole, should be of orders%.800s",
			 unit, line);
		free(line);
		diff = unseen;
	}

	free(seen);
	free(text);
	return diff;
}
