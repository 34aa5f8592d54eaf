// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of the conversion of random parts of the HugeTLB pages that a guest_memfd file is
 * made of, and of conversion while vCPUs use the same huge page.  As in
 * guest_memfd_reshape_test, a model says which folios there should be.
 */
#include "guest_memfd_fixture.h"

GMEM_RESHAPE_FIXTURE(gmem_setup_guest(self, variant, 0));

/*
 * Return the start of a random range, and its length in @nr: any size between one
 * page and @max, small sizes being as likely as large ones.
 */
static u64 random_range(u64 max, u64 *nr)
{
	int order = random_below(64 - __builtin_clzll(max));

	*nr = min(max, BIT(order) + random_below(BIT(order)));
	return random_below(max - *nr + 1);
}

static const char *random_step(struct gmem *self)
{
	u64 nr, first = random_range(self->nr_pages, &nr), unit, page, i;

	switch (random_below(16)) {
	case 0 ... 4:
		__convert(self, first, nr, false);
		return "to shared";
	case 5 ... 9:
		__convert(self, first, nr, true);
		return "to private";
	case 10 ... 11:
		for (i = 0; i < 16; i++) {
			page = first + random_below(nr);
			if (self->model.private[page] || random_below(2))
				host_check(self, page);
			else
				host_write(self, page);
		}
		return "host";
	case 12:
		guest_write(self, first, nr);
		return "guest writes";
	case 13:
		/* Checking zeroes takes long, so don't make too many of them. */
		punch(self, first, min(nr, 1000ul));
		return "punch a part";
	case 14:
		unit = first / self->unit_pages;
		punch(self, unit * self->unit_pages, self->unit_pages);
		return "punch a unit";
	default:
		allocate(self, first, nr);
		return "allocate";
	}
}

TEST_F(reshape, random_ranges)
{
	const int nr_steps = self->unit > SZ_2M ? 120 : 1500;
	const char *step, *diff;
	u64 nr, first;
	int i, unit;

	TH_LOG("seed %#x", kvm_random_seed);
	for (i = 0; i < nr_steps; i++) {
		step = random_step(self);
		diff = guestmem_model_diff(&self->model);
		TEST_ASSERT(!diff, "Seed %#x, step %d, %s: %s", kvm_random_seed, i, step, diff);
		assert_nr_allocated(guestmem_model_nr_present(&self->model));

		first = random_range(self->nr_pages, &nr);
		for (unit = 0; unit < self->nr && !(i % 8); unit++)
			if (self->model.present[unit] && self->tags[unit * self->unit_pages + 99])
				guest_check(self, unit * self->unit_pages, self->unit_pages);
		if (self->tags[first] && self->tags[first + nr - 1])
			guest_check(self, first, nr);
	}
	set_private(0, self->nr_pages);
	guest_check_all();
	assert_model();
}

/* A vCPU that goes on using a unit while pages of the unit are converted. */
struct neighbour {
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	enum guest_op op;
	u64 nr, tag;
	bool *stop;
	long rounds, exits;
};

static void *run_neighbour(void *data)
{
	struct neighbour *n = data;
	int r;

	while (!READ_ONCE(*n->stop)) {
		set_request(n->vcpu, n->op, TEST_GPA, n->nr, PAGE_SIZE, n->tag);
		for (;;) {
			r = _vcpu_run(n->vcpu);
			if (!r)
				break;
			/* The page was converted during the fault: try again. */
			TEST_ASSERT((errno == EFAULT || errno == EAGAIN) &&
				    n->vcpu->run->exit_reason == KVM_EXIT_MEMORY_FAULT,
				    "KVM_RUN should succeed, errno %d, exit %s", errno,
				    exit_reason_str(n->vcpu->run->exit_reason));
			n->exits++;
		}
		assert_request_done(n->vcpu);
		n->rounds++;
	}
	return NULL;
}

/*
 * All writers of a page write the same value.  A reader that sees another value sees
 * another page, or what the page was before.
 */
TEST_F(reshape, racing_neighbours)
{
	struct neighbour neighbours[2] = { { .op = OP_CHECK_TAGS }, { .op = OP_WRITE_TAGS } };
	const u64 nr = self->unit_pages, base = new_tag(0);
	const int nr_rounds = self->unit > SZ_2M ? 30 : 600;
	bool stop = false;
	u64 page, len, i;
	int round, j;

	guest_do(self->vcpu, OP_WRITE_TAGS, TEST_GPA, nr, PAGE_SIZE, base);
	guestmem_model_allocate(&self->model, 0, nr);
	for (i = 0; i < nr; i++)
		self->tags[i] = base + i;

	for (j = 0; j < ARRAY_SIZE(neighbours); j++) {
		struct neighbour *n = &neighbours[j];

		n->vcpu = self->vcpus[j];
		n->nr = nr;
		n->tag = base;
		n->stop = &stop;
		kvm_pthread_create(&n->thread, NULL, run_neighbour, n);
	}

	for (round = 0; round < nr_rounds; round++) {
		page = round < nr && self->unit == SZ_2M ? round : random_below(nr);
		len = round % 4 ? 1 : 1 + random_below(min(nr - page, 600ul));
		convert_despite_races(self->fd, page, len, false);
		guestmem_model_convert(&self->model, page, len, false);
		host_check(self, page);
		host_check(self, page + len - 1);
		WRITE_ONCE(*word_of(self, page), base + page);
		if (page)
			host_check(self, page - 1);
		if (page + len < nr)
			host_check(self, page + len);
		convert_despite_races(self->fd, page, len, true);
		guestmem_model_convert(&self->model, page, len, true);
	}

	WRITE_ONCE(stop, true);
	for (j = 0; j < ARRAY_SIZE(neighbours); j++)
		kvm_pthread_join(neighbours[j].thread, NULL);
	TH_LOG("rounds of vCPUs: %ld and %ld, memory faults: %ld and %ld",
	       neighbours[0].rounds, neighbours[1].rounds, neighbours[0].exits,
	       neighbours[1].exits);

	/* Pages that could not be merged at once are merged without further ado. */
	guestmem_settle();
	assert_model();
	guest_check(self, 0, nr);
}

GMEM_TEST_MAIN(NEEDS_HUGETLB | NEEDS_PRIVATE_VM)
