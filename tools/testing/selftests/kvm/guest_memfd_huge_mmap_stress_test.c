// SPDX-License-Identifier: GPL-2.0-only
/*
 * Use a guest_memfd file of a VM without private memory by a guest and by host threads at the
 * same time.  The threads map parts of the file, in huge and small pages, split and lock the
 * VMA of all of it, take its mappings away, pin pages, fork, and look.
 *
 * The guest has the first word of each page.  Each thread has another word, and knows what
 * it has written there.  Each round begins with huge pages that are whole.
 *
 * SECONDS in the environment says how long that takes.
 */
#include <stdlib.h>

#include "guest_memfd_fixture.h"

#define NR_THREADS	3
#define ROUND_NS	(2ull * NSEC_PER_SEC)
#define MAX_PART	1500ull

struct actor {
	struct gmem *self;
	pthread_t thread;
	int nr;
	u64 state;
	u64 *words;
	u64 nr_ops;
};

static bool is_done;

static const char *setup(struct gmem *self, const struct gmem_variant *variant)
{
	const char *missing = gmem_setup_counted(self, variant);

	if (missing)
		return missing;

	self->vm = create_guest(VM_TYPE_DEFAULT, self->vcpus, MAX_VCPUS);
	self->vcpu = self->vcpus[0];
	gmem_open(self, GUEST_MEMFD_FLAG_INIT_SHARED);
	return NULL;
}

#define _test_data_stress	gmem
#define _fixture_variant_stress	gmem_variant

GMEM_FIXTURE(stress, setup(self, variant));
GMEM_VARIANTS(stress, 8, 1);

/* Each thread has numbers of its own. */
static u64 below(struct actor *a, u64 nr)
{
	a->state = a->state * 6364136223846793005ull + 1442695040888963407ull;
	return (a->state >> 33) % nr;
}

struct part {
	u64 first, nr;
};

static struct part any_part(struct actor *a, u64 max)
{
	struct part p = { .first = below(a, a->self->nr_pages) };

	p.nr = 1 + below(a, min(max, a->self->nr_pages - p.first));
	return p;
}

/* Find what was written to a page, and write something else. */
static void use(struct actor *a, char *at, u64 page)
{
	u64 *word = (u64 *)at + 1 + a->nr;

	TEST_ASSERT_EQ(READ_ONCE(*word), a->words[page]);
	a->words[page] = ++a->nr_ops;
	WRITE_ONCE(*word, a->words[page]);
}

static void use_pages(struct actor *a)
{
	struct part p = any_part(a, MAX_PART);
	u64 page;

	for (page = p.first; page < p.first + p.nr; page++)
		use(a, addr_of(a->self, page), page);
}

static void use_page(struct actor *a)
{
	u64 page = below(a, a->self->nr_pages);

	use(a, addr_of(a->self, page), page);
}

static void map_part(struct actor *a)
{
	struct part p = any_part(a, MAX_PART);
	u64 size = p.nr * page_size, i, page;
	char *mem;

	mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, a->self->fd,
		   p.first * page_size);
	TEST_ASSERT(mem != MAP_FAILED, "mmap() should succeed, errno %d", errno);
	if (!below(a, 4))
		madvise(mem, size, MADV_NOHUGEPAGE);
	for (i = 0; i < 8; i++) {
		page = below(a, p.nr);
		use(a, mem + page * page_size, p.first + page);
	}
	if (!below(a, 4)) {
		mem = mremap(mem, size, size, MREMAP_MAYMOVE);
		TEST_ASSERT(mem != MAP_FAILED, "mremap() should succeed, errno %d", errno);
	}
	kvm_munmap(mem, size);
}

static void map_all(struct actor *a)
{
	char *mem = kvm_mmap(a->self->size, PROT_READ | PROT_WRITE, MAP_SHARED, a->self->fd);
	u64 page, i;

	for (i = 0; i < 8; i++) {
		page = below(a, a->self->nr_pages);
		use(a, mem + page * page_size, page);
	}
	kvm_munmap(mem, a->self->size);
}

static void advise(struct actor *a)
{
	static const int advices[] = {
		MADV_DONTNEED, MADV_DONTNEED, MADV_DONTDUMP, MADV_DODUMP, MADV_COLD,
		MADV_POPULATE_WRITE,
	};
	struct part p = any_part(a, below(a, 2) ? MAX_PART : a->self->nr_pages);

	madvise(addr_of(a->self, p.first), p.nr * page_size,
		advices[below(a, ARRAY_SIZE(advices))]);
}

static void lock(struct actor *a)
{
	struct part p = any_part(a, MAX_PART);

	mlock(addr_of(a->self, p.first), p.nr * page_size);
	munlock(a->self->mem, a->self->size);
}

static void hold(struct actor *a)
{
	u64 page = below(a, a->self->nr_pages);
	struct holder h;

	vmsplice_open_and_hold(&h, addr_of(a->self, page));
	usleep(below(a, 2000));
	vmsplice_release(&h);
}

static void look(struct actor *a)
{
	u64 page = below(a, a->self->nr_pages), val;
	int fd = open("/proc/self/mem", O_RDONLY);
	char text[256];

	TEST_ASSERT_EQ(pread(fd, &val, sizeof(val),
			     (off_t)(word_of(a->self, page) + 1 + a->nr)), sizeof(val));
	TEST_ASSERT_EQ(val, a->words[page]);
	close(fd);
	read_text_file("/proc/self/smaps_rollup", text, sizeof(text));
}

static void fork_reader(struct actor *a)
{
	pid_t pid = kvm_fork_sharing_files();
	u64 page, i;

	if (!pid) {
		for (i = 0; i < 8; i++) {
			page = below(a, a->self->nr_pages);
			if (READ_ONCE(word_of(a->self, page)[1 + a->nr]) != a->words[page])
				_exit(1);
		}
		_exit(0);
	}
	assert_child_succeeds(pid);
}

static void *act(void *arg)
{
	static void (*const ops[])(struct actor *a) = {
		use_pages, use_page, use_page, map_part, map_all, advise, lock, hold, look,
		fork_reader,
	};
	struct actor *a = arg;

	while (!READ_ONCE(is_done))
		ops[below(a, ARRAY_SIZE(ops))](a);
	return NULL;
}

/* The first access to the memory is one of the guest, or of the host. */
static void do_round(struct gmem *self, struct actor *actors, bool guest_first)
{
	const u64 end = now_ns() + ROUND_NS;
	u64 first, nr;
	int i;

	punch(self, 0, self->nr_pages);
	is_done = false;
	if (guest_first)
		guest_write(self, 0, self->nr_pages);
	for (i = 0; i < NR_THREADS; i++) {
		memset(actors[i].words, 0, self->nr_pages * sizeof(u64));
		kvm_pthread_create(&actors[i].thread, NULL, act, &actors[i]);
	}

	guest_write(self, 0, self->nr_pages);
	while (now_ns() < end) {
		first = random_below(self->nr_pages);
		nr = 1 + random_below(min(MAX_PART, self->nr_pages - first));
		guest_write(self, first, nr);
		guest_check(self, random_below(self->nr_pages), 1);
	}
	WRITE_ONCE(is_done, true);
	for (i = 0; i < NR_THREADS; i++)
		kvm_pthread_join(actors[i].thread, NULL);

	/* The kernel checks all that is split. */
	free(guestmem_read_units());
	guest_check_all();
}

TEST_F(stress, all)
{
	const char *seconds = getenv("SECONDS");
	const u64 end = now_ns() + (seconds ? strtoul(seconds, NULL, 0) : 8) * NSEC_PER_SEC;
	struct actor actors[NR_THREADS] = {};
	u64 nr_rounds = 0, nr_ops = 0;
	int i;

	for (i = 0; i < NR_THREADS; i++) {
		actors[i].self = self;
		actors[i].nr = i;
		actors[i].state = random_below(~0ull);
		actors[i].words = malloc(self->nr_pages * sizeof(u64));
	}
	while (now_ns() < end)
		do_round(self, actors, nr_rounds++ % 2);
	for (i = 0; i < NR_THREADS; i++) {
		nr_ops += actors[i].nr_ops;
		free(actors[i].words);
	}
	TH_LOG("%lu rounds, the host has used %lu pages", nr_rounds, nr_ops);
}

GMEM_TEST_MAIN(NEEDS_HUGETLB)
