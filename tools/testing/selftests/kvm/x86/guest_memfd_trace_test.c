// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of what guest_memfd says of itself: tracepoints, and statistics of the VM.
 *
 * The tests replay the trace.  From nothing but the events they know into which folios the
 * file must be cut by now, and compare that with what the kernel finds when it looks at its
 * pages.  So an event that is missing, or is wrong, shows.  The statistics must agree with
 * the numbers of events.
 */
#include <sys/mount.h>
#include <sys/stat.h>

#include "guest_memfd_fixture.h"
#include "guest_memfd_poison.h"

#define TRACEFS		"/sys/kernel/tracing/"
#define ABSENT		0xff
#define NR_CONVERSIONS	1000

#define EVENT_FORMAT	"guestmem_%15[a-z]: ino %lu unit 0x%lx index 0x%lx order %d ret %d"
#define SPLIT_FORMAT	"guestmem_split: ino %lu unit 0x%lx index 0x%lx order %d " \
			"at 0x%lx, 0x%lx ret %d"

struct event_counts {
	u64 splits, merges, isolates, allocs, removes, late_units, poisons;
	u64 conversions, conversions_failed, pages_converted;
	u64 refused_splits, busy_merges, late_removes;
};

/* The state of the file, according to the trace. */
struct replay {
	struct event_counts counts;
	u64 ino;
	u64 late_unit;		/* the last one that has left the file */
	u64 failed_page;
	u64 unit_pages;
	u64 *unit;		/* per page, its unit's pfn */
	u8 *order;
	bool *private;
	const char *wrong;
};

/* Trace events of guest_memfd, or of nothing any more. */
static bool trace(bool on)
{
	return write_text_file(TRACEFS "events/guestmem/enable", on ? "1" : "0") &&
	       write_text_file(TRACEFS "events/kvm/kvm_gmem_convert/enable", on ? "1" : "0") &&
	       write_text_file(TRACEFS "buffer_size_kb", on ? "16384" : "1408") &&
	       /* Events of two processors are in order. */
	       write_text_file(TRACEFS "trace_clock", on ? "global" : "local") &&
	       write_text_file(TRACEFS "tracing_on", "1") &&
	       write_text_file(TRACEFS "trace", "\n");
}

static const char *setup(struct gmem *self, const struct gmem_variant *variant)
{
	const char *missing;

	if (access(TRACEFS "trace", R_OK) && mount("tracefs", TRACEFS, "tracefs", 0, NULL))
		return "needs root and tracefs";
	/* One test loses a huge page. */
	fill_up_pool(BIT_ULL(variant->size_log2), variant->nr_units);
	missing = gmem_setup_guest(self, variant, 0);
	if (!missing && !trace(true)) {
		trace(false);
		missing = "needs CONFIG_EVENT_TRACING, and memory for a trace";
	}
	return missing;
}

#define _test_data_traced	gmem
#define _fixture_variant_traced	gmem_variant

GMEM_FIXTURE_SETUP(traced, setup(self, variant));
FIXTURE_TEARDOWN_PARENT(traced)
{
	trace(false);
	EXPECT_NOTHING_LEFT_BEHIND();
}

GMEM_VARIANTS(traced, 4, 2);

/* Cut a block where it has a cut inside, and only there. */
static void replay_cut(struct replay *r, u64 index, int order, u64 first, u64 last)
{
	const u64 end = index + (1ul << order);

	if ((first > index && first < end) || (last > index && last < end)) {
		replay_cut(r, index, order - 1, first, last);
		replay_cut(r, index + (1ul << (order - 1)), order - 1, first, last);
		return;
	}
	memset(r->order + index, order, 1ul << order);
}

/* Whether all pages of a block are private, or none is. */
static bool is_uniform(struct replay *r, u64 index, int order)
{
	u64 page;

	for (page = index; page < index + (1ul << order); page++) {
		if (r->private[page] != r->private[index])
			return false;
	}
	return true;
}

/* A unit enters the file in the largest blocks that are either private or shared. */
static void replay_alloc(struct replay *r, u64 index, int order)
{
	if (order && !is_uniform(r, index, order)) {
		replay_alloc(r, index, order - 1);
		replay_alloc(r, index + (1ul << (order - 1)), order - 1);
		return;
	}
	memset(r->order + index, order, 1ul << order);
}

static void replay_split(struct replay *r, u64 index, int order, u64 first, u64 last, int ret)
{
	if (ret) {
		r->counts.refused_splits++;
		return;
	}
	r->counts.splits++;
	if (r->order[index] != order)
		r->wrong = "a folio is split that isn't there";
	replay_cut(r, index, order, first, last);
}

static void replay_merge(struct replay *r, u64 index, int order, int ret)
{
	u64 page;

	if (ret) {
		r->counts.busy_merges++;
		return;
	}
	r->counts.merges++;
	for (page = index; page < index + (1ul << order); page++) {
		if (r->order[page] >= order)
			r->wrong = "folios are merged that aren't there";
	}
	memset(r->order + index, order, 1ul << order);
}

static void replay_convert(struct replay *r, const char *args)
{
	u64 ino, start, end, page;
	char to[16];
	int ret;

	TEST_ASSERT(sscanf(args, "ino %lu [%lx, %lx) to %15[a-z]: %d", &ino, &start, &end, to,
			   &ret) == 5, "Not understood: %s", args);
	if (ino != r->ino)
		return;
	if (ret) {
		r->counts.conversions_failed++;
		return;
	}
	r->counts.conversions++;
	for (page = start; page < end; page++) {
		r->counts.pages_converted += r->private[page] != !strcmp(to, "private");
		r->private[page] = !strcmp(to, "private");
	}
}

/* Replay an event of guestmem other than a split. */
static void replay_event(struct replay *r, const char *name, u64 unit, u64 index, int order,
			 int ret)
{
	u64 page;

	if (!strcmp(name, "alloc")) {
		if (ret)
			return;
		r->counts.allocs++;
		replay_alloc(r, index, order);
		for (page = index; page < index + (1ul << order); page++)
			r->unit[page] = unit;
		/* It is split before it enters. */
		r->counts.splits += r->order[index] != order;
	} else if (!strcmp(name, "remove")) {
		r->counts.removes++;
		r->counts.late_removes += ret == -EBUSY;
		if (ret)
			r->late_unit = unit;
		memset(r->order + index, ABSENT, 1ul << order);
	} else if (!strcmp(name, "merge")) {
		replay_merge(r, index, order, ret);
	} else if (!strcmp(name, "isolate")) {
		r->counts.isolates += !ret;
	} else if (!strcmp(name, "poison")) {
		r->counts.poisons += !ret;
		r->failed_page = index;
	} else {
		TEST_FAIL("There is no event %s", name);
	}
	if (r->unit[index] != unit)
		r->wrong = "that page is part of another unit";
}

static void replay_line(struct replay *r, const char *line)
{
	u64 ino, unit, index, first, last;
	const char *event;
	char name[16];
	int order, ret;

	event = strstr(line, "kvm_gmem_convert: ");
	if (event) {
		replay_convert(r, event + strlen("kvm_gmem_convert: "));
		return;
	}

	event = strstr(line, "guestmem_");
	if (!event)
		return;
	if (sscanf(event, SPLIT_FORMAT, &ino, &unit, &index, &order, &first, &last, &ret) == 7) {
		if (ino == r->ino && r->unit[index] != unit)
			r->wrong = "that page is part of another unit";
		if (ino == r->ino)
			replay_split(r, index, order, first, last, ret);
		return;
	}
	TEST_ASSERT(sscanf(event, EVENT_FORMAT, name, &ino, &unit, &index, &order, &ret) == 6,
		    "Not understood: %s", line);
	if (!strcmp(name, "late"))
		r->counts.late_units += unit == r->late_unit && !ret;
	else if (ino == r->ino)
		replay_event(r, name, unit, index, order, ret);
}

/* Replay all of the trace. */
static struct replay replay(struct gmem *self)
{
	FILE *file = fopen(TRACEFS "trace", "r");
	u64 page, nr_kept, nr_all;
	struct replay r = { };
	char line[512];
	struct stat st;

	TEST_ASSERT(file && !fstat(self->fd, &st), "The trace should be there");
	r.ino = st.st_ino;
	r.order = malloc(self->nr_pages);
	r.private = malloc(self->nr_pages);
	r.unit = calloc(self->nr_pages, sizeof(*r.unit));
	memset(r.order, ABSENT, self->nr_pages);
	for (page = 0; page < self->nr_pages; page++)
		r.private[page] = true;
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "# entries-in-buffer/entries-written: %lu/%lu", &nr_kept,
			   &nr_all) == 2)
			TEST_ASSERT_EQ(nr_kept, nr_all);
		if (line[0] != '#')
			replay_line(&r, line);
		TEST_ASSERT(!r.wrong, "%s: %s", r.wrong, line);
	}
	fclose(file);
	return r;
}

static void free_replay(struct replay *r)
{
	free(r->order);
	free(r->private);
	free(r->unit);
}

/* The number of units that are in pieces, according to the trace. */
static u64 nr_split_units(struct gmem *self, struct replay *r)
{
	u64 page, nr = 0;

	for (page = 0; page < self->nr_pages; page += self->unit_pages)
		nr += r->order[page] != ABSENT && r->order[page] != self->model.unit_order;
	return nr;
}

static void assert_stats(struct gmem *self, struct replay *r)
{
	const struct event_counts *c = &r->counts;

	TEST_ASSERT_EQ(vm_get_stat(self->vm, gmem_conversions), c->conversions);
	TEST_ASSERT_EQ(vm_get_stat(self->vm, gmem_conversions_failed), c->conversions_failed);
	TEST_ASSERT_EQ(vm_get_stat(self->vm, gmem_pages_converted), c->pages_converted);
	TEST_ASSERT_EQ(vm_get_stat(self->vm, gmem_splits), c->splits);
	TEST_ASSERT_EQ(vm_get_stat(self->vm, gmem_merges), c->merges);
	TEST_ASSERT_EQ(vm_get_stat(self->vm, gmem_split_units), nr_split_units(self, r));
}

/* Assert that the trace leads to the layout that the kernel has.  Returns what was seen. */
#define assert_traced()		__assert_traced(self)

static struct event_counts __assert_traced(struct gmem *self)
{
	struct guestmem_model *m = &self->model, seen = *m;
	struct replay r = replay(self);
	u64 unit;

	assert_layout();
	seen.present = calloc(self->nr, sizeof(bool));
	for (unit = 0; unit < self->nr; unit++) {
		seen.present[unit] = r.order[unit * self->unit_pages] != ABSENT;
		if (!seen.present[unit])
			memset(r.order + unit * self->unit_pages, m->unit_order,
			       self->unit_pages);
	}
	seen.order = r.order;
	TEST_ASSERT_LAYOUT(&seen);
	for (unit = 0; unit < self->nr; unit++) {
		if (seen.present[unit] && guestmem_model_nr_folios(&seen, unit) > 1)
			TEST_ASSERT_EQ(guestmem_read_unit(self->fd, unit * self->unit_pages,
							  self->unit_pages, NULL),
				       r.unit[unit * self->unit_pages]);
	}
	for (unit = 0; unit < self->nr; unit++) {
		if (!seen.present[unit])
			memset(r.order + unit * self->unit_pages, ABSENT, self->unit_pages);
	}
	assert_stats(self, &r);
	free(seen.present);
	free_replay(&r);
	return r.counts;
}

TEST_F(traced, one_page)
{
	const u64 page = self->unit_pages / 2 + 3;
	struct event_counts c;

	guest_write(self, 0, self->unit_pages);
	c = assert_traced();
	TEST_ASSERT(c.allocs == 1 && !c.splits && !c.merges, "A unit is new, and that is all");

	set_shared(page, 1);
	c = assert_traced();
	TEST_ASSERT(c.splits == 1 && c.conversions == 1 && c.pages_converted == 1,
		    "One folio should be split, %lu were", c.splits);

	/* It is shared already. */
	set_shared(page, 1);
	c = assert_traced();
	TEST_ASSERT(c.splits == 1 && c.conversions == 2 && c.pages_converted == 1,
		    "Nothing should happen");

	set_private(page, 1);
	c = assert_traced();
	TEST_ASSERT(c.merges && !c.busy_merges && c.splits == 1, "It should be merged");

	punch_unit(self, 0);
	c = assert_traced();
	TEST_ASSERT(c.removes == 1 && !c.late_removes, "The unit should have left");
}

/* The host touches pages of a range that is shared. */
TEST_F(traced, isolate)
{
	struct event_counts c;
	u64 i;

	set_shared(0, self->unit_pages);
	for (i = 0; i < 10; i++)
		host_write(self, i * self->unit_pages / 10);
	c = assert_traced();
	TEST_ASSERT_EQ(c.isolates, 10);
	set_private(0, self->unit_pages);
	assert_traced();
}

/* Anything that the guest, and the host, may do. */
TEST_F(traced, random)
{
	u64 first, nr;
	int i;

	for (i = 0; i < 200; i++) {
		first = random_below(self->nr_pages);
		nr = 1 + random_below(i % 3 ? 4 : self->unit_pages);
		nr = min(nr, self->nr_pages - first);
		switch (random_below(5)) {
		case 0:
			set_private(first, nr);
			break;
		case 1:
		case 2:
			set_shared(first, nr);
			break;
		case 3:
			if (!self->model.private[first])
				host_write(self, first);
			break;
		case 4:
			punch_unit(self, random_below(self->nr));
			break;
		}
		if (i % 20 == 19)
			assert_traced();
	}
	set_private(0, self->nr_pages);
	assert_traced();
	punch(self, 0, self->nr_pages);
	assert_traced();
}

/* A page is pinned: it can't become private, and its unit comes back late. */
TEST_F(traced, pinned)
{
	const u64 page = self->unit_pages / 2 + 3;
	struct event_counts c;
	struct holder h;
	int tries;

	SKIP_IF(return, gup_open(&h) ? NULL : NEEDS_GUP_TEST);
	set_shared(page, 1);
	host_write(self, page);
	TEST_ASSERT(gup_hold_write(&h, addr_of(self, page), 1), "Pinning should succeed");
	assert_busy(self, page, 1, page);
	c = assert_traced();
	TEST_ASSERT(c.conversions_failed == 1, "%lu conversions failed", c.conversions_failed);

	punch_fd(self->fd, 0, self->unit);
	guestmem_model_punch(&self->model, 0, self->unit_pages);
	c = assert_traced();
	TEST_ASSERT(c.late_removes == 1 && !c.late_units, "The unit should be late");
	gup_release(&h);
	for (tries = 0; !c.late_units && tries < 100; tries++) {
		usleep(10000);
		c = assert_traced();
	}
	TEST_ASSERT(c.late_units == 1, "The unit should be back");
}

/* A page of a large folio fails, and a conversion of the file splits that around it. */
TEST_F(traced, poison)
{
	const u64 shared = self->unit_pages / 2 + 3, page = 7;
	struct event_counts c;
	struct replay r;
	u64 pfn;

	SKIP_IF(return, can_inject_memory_failure() ? NULL : NEEDS_MEMORY_FAILURE);
	sigbus_start(false);
	guest_write(self, 0, self->unit_pages);
	set_shared(shared, 1);
	pfn = guestmem_read_unit(self->fd, 0, self->unit_pages, NULL) + page;
	TEST_ASSERT_EQ(write_pfn(CORRUPT_PFN, pfn), 0);
	self->nr_lost = 1;
	sigbus_take();
	r = replay(self);
	TEST_ASSERT(r.counts.poisons == 1 && r.failed_page == page,
		    "A failure of page %lu should be traced", page);
	free_replay(&r);

	guestmem_model_poison(&self->model, page);
	set_shared(0, page);
	set_private(shared, 1);
	c = assert_traced();
	TEST_ASSERT_EQ(c.poisons, 1);
	close_and_assert_lost(pfn);
}

/* A file that is closed leaves no unit that is split behind. */
TEST_F(traced, close)
{
	guest_write(self, 0, self->unit_pages);
	set_shared(self->unit_pages / 2, 1);
	TEST_ASSERT_EQ(vm_get_stat(self->vm, gmem_split_units), 1);
	gmem_close(self);
	TEST_ASSERT_EQ(vm_get_stat(self->vm, gmem_split_units), 0);
}

static void guest_use(struct gmem *self, u64 page)
{
	guest_do(self->vcpu, OP_READ, TEST_GPA + page * PAGE_SIZE, 1, PAGE_SIZE, 0);
}

/* Convert pages, and have the guest use them.  Returns by how much the TSC grows. */
static u64 convert_often(struct gmem *self)
{
	u64 start = rdtsc(), page;
	int i;

	for (i = 0; i < NR_CONVERSIONS; i += 2) {
		page = i * 37 % self->unit_pages;
		convert_fd(self->fd, page, 1, false);
		guest_use(self, page);
		convert_fd(self->fd, page, 1, true);
		guest_use(self, page);
	}
	return rdtsc() - start;
}

/* Conversions cost at most 5 % more if events of guestmem, and no others, are traced. */
TEST_F(traced, cost)
{
	u64 untraced, traced;

	SKIP_IF(return, getenv("ICOUNT") ? NULL : "the TSC must count instructions, see ICOUNT");
	guest_write(self, 0, self->unit_pages);
	convert_often(self);
	trace(false);
	untraced = convert_often(self);
	TEST_ASSERT(write_text_file(TRACEFS "events/guestmem/enable", "1"), "There are events");
	traced = convert_often(self);
	printf("# %d conversions: %lu, traced %lu, i.e. %lu and %lu each\n", NR_CONVERSIONS,
	       untraced, traced, untraced / NR_CONVERSIONS, traced / NR_CONVERSIONS);
	TEST_ASSERT(traced <= untraced + untraced / 20, "%lu are %lu more than %lu", traced,
		    traced - untraced, untraced);
	assert_layout();
}

GMEM_TEST_MAIN(NEEDS_HUGETLB | NEEDS_PRIVATE_VM | NEEDS_CONVERSION)
