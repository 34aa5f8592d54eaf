// SPDX-License-Identifier: GPL-2.0-only
/*
 * Punch holes into guest_memfd files made of HugeTLB pages while the host faults pages
 * in.
 *
 * A fault on a shared page splits the page off its huge page.  The fault maps the page
 * a moment after it has looked the page up in the file.  For another moment after that
 * the fault still uses the page, which may even be unmapped again.  At any time, a hole
 * that covers a huge page merges the huge page and gives it back to the pool.
 *
 * One thread punches.  All others write to pages all over the file, and unmap them
 * again.  Each has a word of its own in every page, and so knows what the word must be:
 * zero if there was a hole since the write, the value it has written if there was none,
 * and either of the two if the thread can't tell.
 */
#include <time.h>

#include <asm/barrier.h>

#include "guest_memfd_fixture.h"

#define NR_TOUCHERS	3
/* Pages of a unit that are used; with more of them, threads rarely meet. */
#define UNIT_CELLS	128
#define MAX_CELLS	(16 * UNIT_CELLS)
/* Punch at least that many holes, even if that takes longer than the test should. */
#define MIN_HOLES	8

static int seconds = 5;

#define _test_data_race		gmem
#define _fixture_variant_race	gmem_variant

static int unit_cells, nr_cells;

static const char *setup(struct gmem *self, const struct gmem_variant *variant)
{
	const char *missing = gmem_setup(self, variant);

	if (missing)
		return missing;

	read_kernel_counters(&self->counters);
	self->counted = true;
	self->nr_hugetlb = read_vmstat("nr_hugetlb");
	unit_cells = min_t(long, (self->unit / page_size), UNIT_CELLS);
	nr_cells = self->nr * unit_cells;
	TEST_ASSERT(nr_cells <= MAX_CELLS, "%d cells are too many", nr_cells);
	gmem_open_with_vm(self, GMEM_SHARED);
	return NULL;
}

GMEM_FIXTURE(race, setup(self, variant));
#ifdef __aarch64__
GMEM_VARIANT_OF_UNITS(race, 64k, 16, 16);
GMEM_VARIANT_OF_UNITS(race, 32m, 25, 2);
#endif
GMEM_VARIANTS(race, 2, 1);

/*
 * Holes that were begun and that are done, per page.  The page's contents are unknown
 * in between.
 */
struct holes {
	u32 begun, done;
};

static struct holes holes[MAX_CELLS];

static u32 read_holes(u32 *count)
{
	u32 val;

	/* A thread that counts a hole after this sees what was done to the page before ... */
	smp_mb();
	val = READ_ONCE(*count);
	/*
	 * ... and this thread sees from here on what was done to the page before the
	 * hole was counted.
	 */
	smp_mb();
	return val;
}

static void count_holes(u32 *count)
{
	/*
	 * Pairs with the above: a hole counted as done is done, one not counted as
	 * begun isn't begun.
	 */
	smp_mb();
	WRITE_ONCE(*count, *count + 1);
	smp_mb();	/* As above. */
}

/* A word, and the holes in its page when it was written. */
struct word {
	u64 val;
	struct holes holes;
};

struct toucher {
	struct gmem *self;
	struct word words[MAX_CELLS];
	u32 seed;
	u32 nr;
	int id;
	/* Words found in a page with a hole, without one, and in a race with one. */
	long nr_zero, nr_kept, nr_raced;
};

static struct toucher touchers[NR_TOUCHERS];
static bool stop;

/* The value of each write is unique. */
#define STAMP(cell, id, nr)	(((u64)(cell) + 1) << 40 | ((u64)(id) + 1) << 32 | (u32)(nr))

/*
 * Return the file offset of a cell.  Cells are spread all over a unit, each at another
 * place of its block.
 */
static off_t cell_offset(struct gmem *self, int cell)
{
	const int nr = cell % unit_cells, unit = cell / unit_cells;
	const long stride = self->unit / page_size / unit_cells;

	return unit * self->unit + (nr * stride + nr % stride) * page_size;
}

/* Return the address of a word.  The words of a cell are spread all over their page as well. */
static u64 *cell_word(struct gmem *self, int cell, int id)
{
	const size_t distance = align_down(page_size / NR_TOUCHERS, sizeof(u64));

	return (u64 *)(self->mem + cell_offset(self, cell) + id * distance);
}

/* Check a toucher's own word in a page.  No other toucher writes to it. */
static void check_word(struct toucher *t, int cell)
{
	struct word *w = &t->words[cell];
	u32 done, begun;
	u64 val;

	done = read_holes(&holes[cell].done);
	val = READ_ONCE(*cell_word(t->self, cell, t->id));
	begun = read_holes(&holes[cell].begun);

	if (!w->val) {
		TEST_ASSERT(!val, "Cell %d, word %d should still be zero, is 0x%lx", cell,
			    t->id, val);
		return;
	}

	TEST_ASSERT(!val || val == w->val, "Cell %d, word %d should be zero or 0x%lx, is 0x%lx",
		    cell, t->id, w->val, val);
	/* "Done" is counted after "begun", i.e. it may be behind. */
	if ((s32)(done - w->holes.begun) > 0) {
		TEST_ASSERT(!val, "Cell %d, word %d should be zero after a hole, is 0x%lx", cell,
			    t->id, val);
		t->nr_zero++;
	} else if (begun == w->holes.done) {
		TEST_ASSERT(val, "Cell %d, word %d should be 0x%lx, there was no hole", cell,
			    t->id, w->val);
		t->nr_kept++;
	} else {
		t->nr_raced++;
	}
	w->val = val;
}

static void write_word(struct toucher *t, int cell)
{
	struct word *w = &t->words[cell];

	w->val = STAMP(cell, t->id, ++t->nr);
	w->holes.done = read_holes(&holes[cell].done);
	WRITE_ONCE(*cell_word(t->self, cell, t->id), w->val);
	w->holes.begun = read_holes(&holes[cell].begun);
}

static void check_foreign_word(struct toucher *t, int cell, int id)
{
	u64 val = READ_ONCE(*cell_word(t->self, cell, id));

	TEST_ASSERT(!val || val >> 32 == STAMP(cell, id, 0) >> 32,
		    "Cell %d, word %d has 0x%lx", cell, id, val);
}

static void *touch(void *data)
{
	struct toucher *t = data;
	int cell, id;

	while (!READ_ONCE(stop)) {
		cell = rand_r(&t->seed) % nr_cells;
		id = rand_r(&t->seed) % NR_TOUCHERS;

		/* The first access faults, either for reading or for writing. */
		if (t->nr % 2)
			check_word(t, cell);
		write_word(t, cell);
		check_foreign_word(t, cell, id);
		if (t->nr % 4)
			continue;
		TEST_ASSERT(!madvise(t->self->mem + cell_offset(t->self, cell), page_size,
				     MADV_DONTNEED), "madvise() should succeed, errno %d", errno);
		check_word(t, cell);
	}
	return NULL;
}

static void punch_cells(struct gmem *self, int first, int nr, off_t start, off_t end)
{
	int i;

	for (i = first; i < first + nr; i++)
		count_holes(&holes[i].begun);
	punch_fd(self->fd, start, end - start);
	for (i = first; i < first + nr; i++)
		count_holes(&holes[i].done);
}

static void punch_units(struct gmem *self, int first, int nr)
{
	punch_cells(self, first * unit_cells, nr * unit_cells, first * self->unit,
		    (first + nr) * self->unit);
}

/* Punch any range of cells, i.e. parts of units and maybe units in between. */
static void punch_pages(struct gmem *self, int first, int nr)
{
	punch_cells(self, first, nr, cell_offset(self, first),
		    cell_offset(self, first + nr - 1) + page_size);
}

static u32 nr_touches(void)
{
	u32 nr = 0;
	int i;

	for (i = 0; i < NR_TOUCHERS; i++)
		nr += READ_ONCE(touchers[i].nr);
	return nr;
}

/* Wait until @nr words were written, so that there is something to punch again. */
static void wait_for_touches(u32 nr)
{
	const u32 start = nr_touches();

	while (nr_touches() - start < nr)
		sched_yield();
}

/* Punch for @seconds.  @parts: the percentage of holes that are not just whole units. */
static void punch_for_some_time(struct gmem *self, u32 *seed, u32 parts, long *nr_holes)
{
	/* Zeroing a large unit takes its time, so let the touchers get more done in between. */
	const u32 max_touches = self->unit > SZ_32M ? 500 : 16;
	const time_t end = time(NULL) + seconds;
	int first, nr;

	for (; time(NULL) < end || *nr_holes < MIN_HOLES; (*nr_holes)++) {
		wait_for_touches(rand_r(seed) % max_touches);
		/* When this thread wakes up, it interrupts another one at any point. */
		if (rand_r(seed) % 2)
			usleep(rand_r(seed) % 500);
		if (rand_r(seed) % 100 < parts) {
			first = rand_r(seed) % nr_cells;
			nr = 1 + rand_r(seed) % min(nr_cells - first, 2 * UNIT_CELLS);
			punch_pages(self, first, rand_r(seed) % 2 ? nr : 1);
		} else {
			first = rand_r(seed) % self->nr;
			punch_units(self, first, 1 + rand_r(seed) % (self->nr - first));
		}
	}
}

static void race(struct gmem *self, struct __test_metadata *_metadata, u32 parts)
{
	long nr_holes = 0, nr_zero = 0, nr_kept = 0, nr_raced = 0;
	pthread_t threads[NR_TOUCHERS];
	u32 seed = kvm_random_seed;
	int i, id;

	for (i = 0; i < NR_TOUCHERS; i++) {
		touchers[i].self = self;
		touchers[i].seed = seed + 1 + i;
		touchers[i].id = i;
		kvm_pthread_create(&threads[i], NULL, touch, &touchers[i]);
	}
	punch_for_some_time(self, &seed, parts, &nr_holes);
	WRITE_ONCE(stop, true);
	for (i = 0; i < NR_TOUCHERS; i++)
		kvm_pthread_join(threads[i], NULL);

	/* No hole is under way any more. */
	for (id = 0; id < NR_TOUCHERS; id++) {
		for (i = 0; i < nr_cells; i++)
			check_word(&touchers[id], i);
		nr_zero += touchers[id].nr_zero;
		nr_kept += touchers[id].nr_kept;
		nr_raced += touchers[id].nr_raced;
	}
	TH_LOG("seed %#x: %ld holes, %ld words gone, %ld kept, %ld either", kvm_random_seed,
	       nr_holes, nr_zero, nr_kept, nr_raced);
	TEST_ASSERT(nr_zero, "There should be words that were in a hole");

	punch_units(self, 0, self->nr);
	assert_pool(0, self->nr);
	for (id = 0; id < NR_TOUCHERS; id++)
		for (i = 0; i < nr_cells; i++)
			check_word(&touchers[id], i);
	assert_pool(self->nr, 0);
}

GMEM_TEST(race, whole_units, race(self, _metadata, 0))
GMEM_TEST(race, units_and_parts, race(self, _metadata, 75))

/* Run the tests.  "-s SECONDS" in front of the usual options sets the time per test. */
int main(int argc, char *argv[])
{
	gmem_init(NEEDS_HUGETLB);
	if (argc > 2 && !strcmp(argv[1], "-s")) {
		seconds = atoi_positive("seconds", argv[2]);
		argv[2] = argv[0];
		argc -= 2;
		argv += 2;
	}
	return test_harness_run(argc, argv);
}
