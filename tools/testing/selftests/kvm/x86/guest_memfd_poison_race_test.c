// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of pages of guest_memfd files that fail while their huge pages are split, merged,
 * faulted in, punched and allocated.  The kernel takes care of every failure, forgets none,
 * and nothing else is lost.
 */
#include "guest_memfd_fixture.h"
#include "guest_memfd_poison.h"

#define MAX_FAILURES	24
#define MAX_UNITS	16

/* Things that racers do while pages fail. */
#define RACE_SPLIT	BIT(0)	/* a page is shared, and private again */
#define RACE_LARGE	BIT(1)	/* as above, but by half a unit */
#define RACE_GUEST	BIT(2)
#define RACE_HOST	BIT(3)
#define RACE_PUNCH	BIT(4)	/* whole units, or parts of one */

struct racer {
	struct gmem *self;
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	u32 what;
	u32 may_fail;
	u32 seed;
	bool *done;
};

struct failure {
	u64 page;		/* in the file, unless that is punched */
	u64 pfn;
};

GMEM_RESHAPE_FIXTURE(setup_poison(self, variant, 2 * variant->nr_units));

static u64 pick(struct racer *r, u64 nr)
{
	return ((u64)rand_r(&r->seed) << 31 | rand_r(&r->seed)) % nr;
}

/* Pick a page.  Pages that fail, and pages near them, are more likely than others. */
static u64 pick_page(struct racer *r)
{
	struct gmem *self = r->self;
	u64 unit = pick(r, self->nr) * self->unit_pages;

	return unit + (pick(r, 4) ? pick(r, min(self->unit_pages, 128ul)) :
				    pick(r, self->unit_pages));
}

static void race_convert(struct racer *r)
{
	struct gmem *self = r->self;
	u64 first = pick_page(r), nr = 1;
	int i, error;

	if (r->what & RACE_LARGE) {
		first = first / self->unit_pages * self->unit_pages;
		nr = self->unit_pages / 2;
	}
	for (i = 0; i < 2; i++) {
		error = try_convert(self->fd, first, nr, i, NULL);
		TEST_ASSERT(!error || error == -EAGAIN, "Conversion should succeed, errno %d",
			    -error);
	}
}

static void race_guest(struct racer *r)
{
	set_request(r->vcpu, OP_READ, gpa_of(pick_page(r)), 1, PAGE_SIZE, 0);
	if (!_vcpu_run(r->vcpu))
		return;
	TEST_ASSERT(errno == EHWPOISON || errno == EFAULT ||
		    (errno == ENOSPC && r->may_fail & RACE_PUNCH),
		    "KVM_RUN failed, errno %d", errno);
	guest_start_over(r->vcpu);
}

static void race_punch(struct racer *r)
{
	struct gmem *self = r->self;
	u64 offset = pick(r, self->nr) * self->unit;

	punch_fd(self->fd, offset, pick(r, 2) ? self->unit : PAGE_SIZE);
	/* With every unit that fails, the pool may have one unit less for the file. */
	if (fallocate(self->fd, FALLOC_FL_KEEP_SIZE, 0, self->size))
		TEST_ASSERT(errno == ENOSPC, "fallocate() failed, errno %d", errno);
}

static void *race(void *data)
{
	struct racer *r = data;

	while (!READ_ONCE(*r->done)) {
		if (r->what & (RACE_SPLIT | RACE_LARGE))
			race_convert(r);
		if (r->what & RACE_GUEST)
			race_guest(r);
		if (r->what & RACE_HOST)
			host_can_read(r->self, pick_page(r));
		if (r->what & RACE_PUNCH)
			race_punch(r);
	}
	return NULL;
}

/*
 * Let pages fail one by one while there is a racer for each bit of @what.  Returns how many
 * pages have failed on their way to or from the pool: such pages have no user, and the kernel
 * notes their failure.
 */
static int race_with_failures(struct gmem *self, u32 what, struct failure *f, int nr)
{
	struct racer racers[5] = {};
	bool done = false;
	int nr_noted = 0;
	int i, nr_racers = 0;

	for (i = 0; i < ARRAY_SIZE(racers); i++) {
		struct racer *r = &racers[nr_racers];

		if (!(what & BIT(i)))
			continue;
		*r = (struct racer) {
			.self = self, .vcpu = self->vcpu, .what = BIT(i), .may_fail = what,
			.seed = i + 1, .done = &done,
		};
		nr_racers++;
		kvm_pthread_create(&r->thread, NULL, race, r);
	}
	for (i = 0; i < nr; i++) {
		int error;

		usleep(1000 * (1 + i % 20));
		error = write_pfn(CORRUPT_PFN, f[i].pfn);
		nr_noted += error == EBUSY;
		TEST_ASSERT(!error || (error == EBUSY && what & RACE_PUNCH),
			    "Memory failure at pfn 0x%lx should be handled, got %s",
			    f[i].pfn, strerror(error));
	}
	WRITE_ONCE(done, true);
	for (i = 0; i < nr_racers; i++)
		kvm_pthread_join(racers[i].thread, NULL);
	return nr_noted;
}

static void assert_not_forgotten(struct failure *f, int nr)
{
	int i, error;

	for (i = 0; i < nr; i++) {
		error = write_pfn(CORRUPT_PFN, f[i].pfn);
		TEST_ASSERT(error == EHWPOISON,
			    "Memory failure at pfn 0x%lx should be known, got %s", f[i].pfn,
			    strerror(error));
	}
}

/* Choose pages all over the file, in all of its units.  Returns the number of pages. */
static int choose_failures(struct gmem *self, u64 *unit_pfns, struct failure *f)
{
	const int nr = self->unit == SZ_1G ? MAX_FAILURES / 2 : MAX_FAILURES;
	int i;

	for (i = 0; i < nr; i++) {
		u64 unit = i * 7 % self->nr, in_unit = i * 37 % self->unit_pages;

		f[i].page = unit * self->unit_pages + in_unit;
		f[i].pfn = unit_pfns[unit] + in_unit;
	}
	return nr;
}

/* Assert that all pages are marked, and mend them.  The file has been closed. */
static void mend_all(struct gmem *self, struct failure *f, int nr, long corrupted)
{
	int i;

	assert_lost(0, 0);
	TEST_ASSERT_EQ(nr_corrupted_pages(), corrupted + nr);
	for (i = 0; i < nr; i++) {
		u64 pfn = f[i].pfn;

		wait_until_dissolved(pfn);
		/* In a huge page, the first page is marked for all pages. */
		if (read_kpageflags(pfn) & BIT_ULL(KPF_HUGE))
			pfn -= pfn % self->unit_pages;
		TEST_ASSERT(is_marked_poisoned(pfn), "pfn 0x%lx should be marked", pfn);
		mend(pfn);
	}
}

/* Let pages fail while units stay in the file, so that all other pages keep their contents. */
static void test_race(struct gmem *self, u32 what)
{
	long corrupted = nr_corrupted_pages();
	struct failure f[MAX_FAILURES];
	u64 unit_pfns[MAX_UNITS];
	int nr, i;

	guest_write(self, 0, self->nr_pages);
	for (i = 0; i < self->nr; i++)
		unit_pfns[i] = pfn_of_whole(self, i * self->unit_pages);
	nr = choose_failures(self, unit_pfns, f);
	race_with_failures(self, what, f, nr);
	assert_not_forgotten(f, nr);
	TEST_ASSERT_EQ(nr_corrupted_pages(), corrupted + nr);

	/* Some conversions of the racers have failed, and have left pages shared. */
	convert_despite_races(self->fd, 0, self->nr_pages, true);
	guestmem_model_convert(&self->model, 0, self->nr_pages, true);
	for (i = 0; i < nr; i++)
		guestmem_model_poison(&self->model, f[i].page);
	check_poisoned_file(self);
	self->nr_lost = min(nr, self->nr);
	gmem_close(self);
	mend_all(self, f, nr, corrupted);
}

GMEM_TEST(reshape, split, test_race(self, RACE_SPLIT))
GMEM_TEST(reshape, split_large, test_race(self, RACE_LARGE))
GMEM_TEST(reshape, guest, test_race(self, RACE_GUEST))

TEST_F(reshape, split_guest_host)
{
	test_race(self, RACE_SPLIT | RACE_LARGE | RACE_GUEST | RACE_HOST);
}

/*
 * Let one page of each unit fail while units are punched and allocated.  The unit is in the
 * file, on its way to the pool or to the file, or free.  A free unit can be taken out of the
 * pool only if more units are free than are reserved.  A unit whose failure is noted on its
 * way to the pool remains in the pool, and isn't used, as in hugetlbfs.
 */
static void test_race_punch(struct gmem *self, u32 what)
{
	long corrupted = nr_corrupted_pages(), hogged;
	struct failure f[MAX_UNITS];
	struct hugetlb_pool pool;
	int i, nr_noted, tries;
	void *hog;

	guest_write(self, 0, self->nr_pages);
	for (i = 0; i < self->nr; i++) {
		f[i].page = i * self->unit_pages;
		f[i].pfn = pfn_of_whole(self, f[i].page) + i * 37 % self->unit_pages;
	}
	hogged = max(hugetlb_available(&self->pool) - 3 * self->nr, 0l);
	hog = hugetlb_hog(self->unit, hogged, -1);
	nr_noted = race_with_failures(self, what | RACE_PUNCH, f, self->nr);
	TEST_ASSERT(nr_noted <= self->nr / 2, "%d of %d failures found no user", nr_noted,
		    self->nr);
	assert_not_forgotten(f, self->nr);
	TEST_ASSERT_EQ(nr_corrupted_pages(), corrupted + self->nr);
	hugetlb_unhog(hog, self->unit, hogged);
	gmem_close(self);
	for (tries = 0; tries < 100 && self->nr_lost < self->nr; tries++) {
		usleep(20 * 1000);
		hugetlb_read_pool(self->unit, &pool);
		self->nr_lost = self->pool.total - pool.total;
	}
	TEST_ASSERT(self->nr_lost <= self->nr && self->nr_lost >= self->nr - nr_noted,
		    "%d of %d units should have left the pool, or %d less, but %d have",
		    self->nr, self->nr, nr_noted, self->nr_lost);
	mend_all(self, f, self->nr, corrupted);
}

GMEM_TEST(reshape, punch, test_race_punch(self, 0))
GMEM_TEST(reshape, punch_guest, test_race_punch(self, RACE_GUEST))
GMEM_TEST(reshape, punch_all, test_race_punch(self, RACE_SPLIT | RACE_GUEST | RACE_HOST))

GMEM_TEST_MAIN(NEEDS_HUGETLB | NEEDS_PRIVATE_VM)
