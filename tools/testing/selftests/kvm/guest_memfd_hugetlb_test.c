// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test guest_memfd files made of HugeTLB pages without a running guest: allocation,
 * punching holes, lifetime and NUMA placement.  The tests assert the state of
 * the pool after every step.
 */
#include "guest_memfd_fixture.h"

#define _test_data_hugetlb		gmem
#define _fixture_variant_hugetlb	gmem_variant

GMEM_FIXTURE(hugetlb, gmem_setup_vm(self, variant));
GMEM_VARIANTS(hugetlb, 4, 2);

TEST_F(hugetlb, fallocate_whole_units)
{
	int fd = gmem_create(self, 0);
	size_t off;
	int i;

	/* Allocating any page of a unit allocates all of it. */
	for (i = 0; i < self->nr; i++) {
		off = i * self->unit + (i & 1 ? self->unit - page_size : 0);
		allocate_fd(fd, off, page_size);
		assert_pool(i + 1, self->nr - i - 1);
	}

	/* Allocating a page, a unit or the whole file once more changes nothing. */
	allocate_fd(fd, self->unit / 2, page_size);
	allocate_fd(fd, self->unit, self->unit);
	allocate_fd(fd, 0, self->size);
	assert_pool(self->nr, 0);

	close(fd);
	assert_pool(0, 0);
}

TEST_F(hugetlb, fallocate_across_units)
{
	int fd = gmem_create(self, 0);

	/* The last page of one unit and the first of the next. */
	allocate_fd(fd, self->unit - page_size, 2 * page_size);
	assert_pool(2, self->nr - 2);
	close(fd);
	assert_pool(0, 0);
}

/* Assert that fallocate() has the same result for a file of huge pages and one of 4K pages. */
static void assert_same_as_4k(int fd, int fd_4k, int mode, off_t offset, off_t len)
{
	int r, r_4k, error, error_4k;

	r_4k = fallocate(fd_4k, mode, offset, len);
	error_4k = r_4k ? errno : 0;
	r = fallocate(fd, mode, offset, len);
	error = r ? errno : 0;
	TEST_ASSERT(error == error_4k,
		    "fallocate(%#x, 0x%lx, 0x%lx) should be as for 4K pages (%s), but: %s",
		    mode, offset, len, strerror(error_4k), strerror(error));
}

TEST_F(hugetlb, fallocate_as_4k_files)
{
	const int modes[] = {
		FALLOC_FL_KEEP_SIZE, PUNCH, 0, FALLOC_FL_PUNCH_HOLE,
		FALLOC_FL_KEEP_SIZE | FALLOC_FL_ZERO_RANGE, FALLOC_FL_COLLAPSE_RANGE,
		FALLOC_FL_INSERT_RANGE, FALLOC_FL_KEEP_SIZE | FALLOC_FL_UNSHARE_RANGE,
		BIT(20),
	};
	const off_t offsets[] = {
		0, 1, page_size - 1, page_size, self->unit, self->size - page_size,
		self->size, self->size + page_size, -1, INT64_MAX & ~(page_size - 1),
	};
	const off_t lens[] = {
		0, 1, page_size - 1, page_size + 1, -1, -(off_t)page_size,
	};
	int fd = gmem_create(self, 0), fd_4k, i, j, k;

	fd_4k = vm_create_guest_memfd(self->vm, self->size, 0);

	/* These lengths are invalid with any offset and any mode. */
	for (i = 0; i < ARRAY_SIZE(modes); i++)
		for (j = 0; j < ARRAY_SIZE(offsets); j++)
			for (k = 0; k < ARRAY_SIZE(lens); k++)
				assert_same_as_4k(fd, fd_4k, modes[i], offsets[j], lens[k]);
	assert_pool(0, self->nr);

	/* Valid ones with an invalid mode or offset. */
	for (i = 1; i < ARRAY_SIZE(modes); i++)
		for (j = 0; j < ARRAY_SIZE(offsets); j++)
			assert_same_as_4k(fd, fd_4k, modes[i], offsets[j], page_size);
	assert_pool(0, self->nr);

	/* Past the end of the file, also if only in part; nothing is allocated. */
	assert_same_as_4k(fd, fd_4k, FALLOC_FL_KEEP_SIZE, self->size, page_size);
	assert_same_as_4k(fd, fd_4k, FALLOC_FL_KEEP_SIZE, self->size, self->unit);
	assert_same_as_4k(fd, fd_4k, FALLOC_FL_KEEP_SIZE, self->size - page_size, 2 * page_size);
	assert_same_as_4k(fd, fd_4k, FALLOC_FL_KEEP_SIZE, 0, self->size + page_size);
	assert_same_as_4k(fd, fd_4k, FALLOC_FL_KEEP_SIZE, 0, INT64_MAX & ~(page_size - 1));
	assert_pool(0, self->nr);

	/* This call is valid. */
	assert_same_as_4k(fd, fd_4k, FALLOC_FL_KEEP_SIZE, self->size - page_size, page_size);
	assert_pool(1, self->nr - 1);

	close(fd_4k);
	close(fd);
	assert_pool(0, 0);
}

TEST_F(hugetlb, file_is_not_readable)
{
	int fd = gmem_create(self, 0);
	char buf[64] = "";

	TEST_ASSERT(pread(fd, buf, sizeof(buf), 0) < 0, "pread() should fail");
	TEST_ASSERT(pwrite(fd, buf, sizeof(buf), 0) < 0, "pwrite() should fail");
	TEST_ASSERT(ftruncate(fd, self->unit), "ftruncate() should fail");
	assert_pool(0, self->nr);
	close(fd);
}

TEST_F(hugetlb, punch_whole_unit)
{
	int fd = gmem_create(self, 0);
	int i;

	allocate_fd(fd, 0, self->size);
	assert_pool(self->nr, 0);

	for (i = 0; i < self->nr; i++) {
		punch_fd(fd, i * self->unit, self->unit);
		assert_pool(self->nr - i - 1, i + 1);
		/* Punching a hole once more changes nothing. */
		punch_fd(fd, i * self->unit, self->unit);
		assert_pool(self->nr - i - 1, i + 1);
	}

	/* The file can allocate the punched units again. */
	allocate_fd(fd, 0, self->size);
	assert_pool(self->nr, 0);
	punch_fd(fd, 0, self->size);
	assert_pool(0, self->nr);

	close(fd);
	assert_pool(0, 0);
}

TEST_F(hugetlb, punch_part_keeps_unit)
{
	const struct {
		size_t off, len;
	} parts[] = {
		{ 0, page_size },
		{ page_size, page_size },
		{ self->unit - page_size, page_size },
		{ self->unit / 2, self->unit / 2 },
		{ 0, self->unit - page_size },
		{ page_size, self->unit - page_size },
		{ self->unit - page_size, 2 * page_size },
		{ page_size, 2 * self->unit - 2 * page_size },
	};
	int fd = gmem_create(self, 0);
	int i;

	/* Punching an empty file allocates nothing. */
	for (i = 0; i < ARRAY_SIZE(parts); i++)
		punch_fd(fd, parts[i].off, parts[i].len);
	assert_pool(0, self->nr);

	allocate_fd(fd, 0, 2 * self->unit);
	for (i = 0; i < ARRAY_SIZE(parts); i++) {
		punch_fd(fd, parts[i].off, parts[i].len);
		assert_pool(2, self->nr - 2);
	}

	/* Punching a unit in two halves does not free it. */
	punch_fd(fd, 0, self->unit / 2);
	punch_fd(fd, self->unit / 2, self->unit / 2);
	assert_pool(2, self->nr - 2);

	close(fd);
	assert_pool(0, 0);
}

TEST_F(hugetlb, punch_units_and_edges)
{
	int fd;

	/* The hole covers a part of a unit, whole units, and a part of a unit. */
	if (self->nr > 2) {
		fd = gmem_create(self, 0);
		allocate_fd(fd, 0, self->size);
		punch_fd(fd, self->unit - page_size,
			 self->size - 2 * self->unit + 2 * page_size);
		assert_pool(2, self->nr - 2);
		close(fd);
	}

	/* The hole covers a part of a unit and a whole unit, in both orders. */
	fd = gmem_create(self, 0);
	allocate_fd(fd, 0, 2 * self->unit);
	punch_fd(fd, page_size, 2 * self->unit - page_size);
	assert_pool(1, self->nr - 1);
	allocate_fd(fd, self->unit, page_size);
	assert_pool(2, self->nr - 2);
	punch_fd(fd, 0, 2 * self->unit - page_size);
	assert_pool(1, self->nr - 1);
	close(fd);
	assert_pool(0, 0);
}

TEST_F(hugetlb, punch_past_eof)
{
	int fd = gmem_create(self, 0);

	allocate_fd(fd, 0, self->size);
	punch_fd(fd, self->size, page_size);
	punch_fd(fd, self->size, self->unit);
	punch_fd(fd, 2 * self->size, TOO_MUCH);
	assert_pool(self->nr, 0);

	/* A hole that begins within the last unit covers a part of it, however long the hole is. */
	punch_fd(fd, self->size - page_size, TOO_MUCH);
	assert_pool(self->nr, 0);
	punch_fd(fd, self->size - self->unit, TOO_MUCH);
	assert_pool(self->nr - 1, 1);
	punch_fd(fd, 0, INT64_MAX & ~(page_size - 1));
	assert_pool(0, self->nr);

	close(fd);
	assert_pool(0, 0);
}

/* A reserved page is there for the file, even if another user has taken all other pages. */
TEST_F(hugetlb, reservation_holds)
{
	int fd = gmem_create(self, 0), i;
	long rest = hugetlb_available(&self->pool) - self->nr;
	void *hog = hugetlb_hog(self->unit, rest, -1);

	assert_pool(rest, self->nr);
	for (i = 0; i < 3; i++) {
		allocate_fd(fd, 0, self->size);
		assert_pool(rest + self->nr, 0);
		punch_fd(fd, 0, self->size);
		assert_pool(rest, self->nr);
		TEST_ASSERT(!__hugetlb_hog(self->unit, 1, -1),
			    "What was punched should be reserved again");
	}
	close(fd);
	assert_pool(rest, 0);
	hugetlb_unhog(hog, self->unit, rest);
	assert_pool(0, 0);
}

TEST_F(hugetlb, close_while_slot_exists)
{
	void *hva = kvm_mmap(self->size, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	int fd = gmem_create(self, 0);

	allocate_fd(fd, 0, self->unit);
	vm_set_user_memory_region2(self->vm, 1, KVM_MEM_GUEST_MEMFD, SZ_4G,
				   self->size, hva, fd, 0);
	close(fd);
	assert_pool(0, 0);

	/* The slot is still there, and can be removed. */
	vm_set_user_memory_region2(self->vm, 1, 0, SZ_4G, 0, NULL, 0, 0);
	kvm_vm_free(self->vm);
	assert_pool(0, 0);
}

TEST_F(hugetlb, file_outlives_vm)
{
	int fd = gmem_create(self, 0);

	allocate_fd(fd, 0, self->unit);
	kvm_vm_free(self->vm);
	assert_pool(1, self->nr - 1);

	allocate_fd(fd, 0, self->size);
	assert_pool(self->nr, 0);
	punch_fd(fd, 0, self->unit);
	assert_pool(self->nr - 1, 1);

	close(fd);
	assert_pool(0, 0);
}

TEST_F(hugetlb, references_keep_file)
{
	int fd = gmem_create(self, GUEST_MEMFD_FLAG_MMAP), fd2;
	void *mem;
	int to_child[2];
	pid_t pid;
	char c;

	allocate_fd(fd, 0, self->unit);

	fd2 = kvm_dup(fd);
	close(fd);
	assert_pool(1, self->nr - 1);

	mem = kvm_mmap(self->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd2);
	kvm_pipe(to_child);
	pid = kvm_fork();
	if (!pid) {
		close(to_child[1]);
		_exit(read(to_child[0], &c, 1));
	}
	close(to_child[0]);

	close(fd2);
	kvm_munmap(mem, self->size);
	assert_pool(1, self->nr - 1);

	close(to_child[1]);
	assert_child_succeeds(pid);
	TEST_ASSERT_POOL_SETTLES(&self->pool, 0, 0);

	/* A mapping alone keeps the file, too. */
	fd = gmem_create(self, GUEST_MEMFD_FLAG_MMAP);
	mem = gmem_map(self, fd);
	allocate_fd(fd, 0, self->unit);
	close(fd);
	assert_pool(1, self->nr - 1);
	kvm_munmap(mem, self->size);
	TEST_ASSERT_POOL_SETTLES(&self->pool, 0, 0);
}

/* Allocate a unit of the file, and assert that it's from the pool of @node. */
static void allocate_on_node(struct gmem *self, int fd, int unit, int node)
{
	struct hugetlb_pool now;

	allocate_fd(fd, unit * self->unit, page_size);
	assert_pool(unit + 1, 1 - unit);
	hugetlb_read_pool(self->unit, &now);
	TEST_ASSERT(now.node_free[node] == self->pool.node_free[node] - 1,
		    "Unit %d should be on node %d, free are %ld and %ld pages", unit, node,
		    now.node_free[0], now.node_free[1]);
}

TEST_F(hugetlb, numa_mbind_places_units)
{
	int fd, node;
	void *mem;

	SKIP_IF(return, hugetlb_missing_nodes(&self->pool));

	self->size = 2 * self->unit;
	fd = gmem_create(self, GUEST_MEMFD_FLAG_MMAP);
	mem = gmem_map(self, fd);

	/* Unit 0 on one node, unit 1 on the other, then the other way round. */
	for (node = 0; node < 2; node++) {
		bind_to_node(mem, self->unit, node);
		bind_to_node(mem + self->unit, self->unit, !node);

		allocate_on_node(self, fd, 0, node);
		allocate_on_node(self, fd, 1, !node);
		punch_fd(fd, 0, self->size);
		assert_pool(0, 2);
	}

	kvm_munmap(mem, self->size);
	close(fd);
	assert_pool(0, 0);
}

TEST_F(hugetlb, numa_node_without_pages)
{
	struct hugetlb_pool now;
	long hogged;
	void *mem, *hog;
	int fd;

	SKIP_IF(return, hugetlb_missing_nodes(&self->pool));

	hogged = self->pool.node_free[1];
	self->size = self->unit;
	fd = gmem_create(self, GUEST_MEMFD_FLAG_MMAP);
	mem = gmem_map(self, fd);
	hog = hugetlb_hog(self->unit, hogged, 1);
	bind_to_node(mem, self->size, 1);

	assert_error(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, self->size), ENOSPC);
	assert_pool(hogged, 1);

	/*
	 * The reservation is unharmed: an allocation from another node, or a later one,
	 * succeeds.
	 */
	bind_to_node(mem, self->size, 0);
	allocate_fd(fd, 0, self->size);
	assert_pool(hogged + 1, 0);
	punch_fd(fd, 0, self->size);

	bind_to_node(mem, self->size, 1);
	hugetlb_unhog(hog, self->unit, hogged);
	assert_pool(0, 1);
	allocate_fd(fd, 0, self->size);
	hugetlb_read_pool(self->unit, &now);
	TEST_ASSERT_EQ(now.node_free[1], self->pool.node_free[1] - 1);

	kvm_munmap(mem, self->size);
	close(fd);
	assert_pool(0, 0);
}

#define NR_RACERS	4

TEST_F(hugetlb, race_to_one_unit)
{
	self->nr = 1;
	self->size = self->unit;
	self->fd = gmem_create(self, 0);
	race_to_first_unit(self, 0, NR_RACERS);
	close(self->fd);
	assert_pool(0, 0);
}

/* Threads allocate, punch, create and close files at once, and no page may get lost. */
struct stress {
	struct gmem *self;
	int fd;
	u32 seed;
	time_t end;
	long done;
};

static void *stress_worker(void *data)
{
	struct stress *s = data;
	struct gmem *self = s->self;
	int fd;

	while (time(NULL) < s->end) {
		u64 r = (u64)rand_r(&s->seed) << 16 ^ rand_r(&s->seed);
		off_t off = r % (self->size / page_size) * page_size;
		off_t len = min_t(size_t, self->size - off, self->unit);

		switch (rand_r(&s->seed) % 8) {
		case 0 ... 2:
			allocate_fd(s->fd, off, page_size);
			break;
		case 3 ... 4:
			punch_fd(s->fd, align_down(off, self->unit), self->unit);
			break;
		case 5:
			punch_fd(s->fd, off, len);
			break;
		case 6:
			punch_fd(s->fd, off, page_size);
			break;
		case 7:
			/* A file of its own; the pool may be too small for it. */
			fd = __gmem_create(self, self->unit, 0);
			TEST_ASSERT(fd >= 0 || errno == ENOMEM,
				    "Creation should succeed or fail with ENOMEM, errno %d", errno);
			if (fd < 0)
				break;
			allocate_fd(fd, 0, self->unit);
			close(fd);
			break;
		}
		s->done++;
	}
	return NULL;
}

TEST_F(hugetlb, stress)
{
	struct stress s[NR_RACERS];
	pthread_t threads[NR_RACERS];
	int fd = gmem_create(self, 0), i;
	u32 seed = kvm_random_seed;

	for (i = 0; i < NR_RACERS; i++) {
		s[i] = (struct stress) {
			.self = self, .fd = fd, .seed = seed + i, .end = time(NULL) + 5,
		};
		kvm_pthread_create(&threads[i], NULL, stress_worker, &s[i]);
	}
	for (i = 0; i < NR_RACERS; i++) {
		kvm_pthread_join(threads[i], NULL);
		s[0].done += i ? s[i].done : 0;
	}
	TH_LOG("seed %#x, %ld operations", seed, s[0].done);

	punch_fd(fd, 0, self->size);
	assert_pool(0, self->nr);
	allocate_fd(fd, 0, self->size);
	assert_pool(self->nr, 0);
	close(fd);
	assert_pool(0, 0);
}

/* A process is killed while it allocates: the kernel must undo what is half done. */
TEST_F(hugetlb, killed_while_allocating)
{
	int i, rounds = self->unit > SZ_2M ? 6 : 40;
	u32 seed = kvm_random_seed;

	for (i = 0; i < rounds; i++) {
		pid_t pid = kvm_fork();

		if (!pid) {
			int fd;

			/* Only the process that created a VM can use it. */
			self->vm = vm_create_barebones_type(VM_TYPE_PRIVATE);
			fd = gmem_create(self, 0);
			for (;;) {
				allocate_fd(fd, 0, self->size);
				punch_fd(fd, page_size, self->size - page_size);
			}
		}
		usleep(rand_r(&seed) % (self->unit > SZ_2M ? 2000 * 1000 : 100 * 1000));
		kill_child(pid);
		TEST_ASSERT_POOL_SETTLES(&self->pool, 0, 0);
	}
}

GMEM_TEST_MAIN(NEEDS_HUGETLB)
