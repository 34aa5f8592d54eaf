// SPDX-License-Identifier: GPL-2.0-only
/*
 * Give pages of guest_memfd files away to a file system in user space.
 *
 * If a page comes out of a pipe and has no other reference, FUSE moves it into its own
 * page cache instead of copying its contents: SPLICE_F_GIFT, SPLICE_F_MOVE.  A page of
 * a guest_memfd file that was punched meanwhile looks like such a page, but it is a
 * piece of a HugeTLB page and has to go back there.
 */
#include <sys/mount.h>
#include <sys/prctl.h>

#include <linux/fuse.h>

#include "guest_memfd_fixture.h"

/* The name and the node of a file tell its number of pages, and whether they come from the pipe. */
#define MAX_PAGES	8
#define COPIED(nr)	"c" #nr

#define TAG_COPIED	0xff

/*
 * The file system is a process of its own: if it dies, all tasks that wait for it get
 * an error.  The contents of a file are either tags, or the pages that were put into a
 * pipe.
 */
struct server {
	int dev;
	int contents[2];
	int answer[2];
};

static u64 node_of(const char *name)
{
	u64 nr = strtoul(name + 1, NULL, 10);

	TEST_ASSERT(nr && nr <= MAX_PAGES, "There should be no file '%s'", name);
	return 2 * nr + (name[0] == 's');
}

static u64 node_size(u64 node)
{
	return node / 2 * page_size;
}

static void get_attr(struct fuse_attr *attr, u64 node)
{
	const bool root = node == FUSE_ROOT_ID;

	*attr = (struct fuse_attr) {
		.ino = node,
		.size = root ? 0 : node_size(node),
		.mode = root ? S_IFDIR | 0700 : S_IFREG | 0600,
		.nlink = 1,
	};
}

static void answer(struct server *s, struct fuse_in_header *in, int error, void *data, int len)
{
	struct fuse_out_header out = {
		.len = sizeof(out) + len,
		.error = -error,
		.unique = in->unique,
	};
	struct iovec iov[] = {
		{ .iov_base = &out, .iov_len = sizeof(out) },
		{ .iov_base = data, .iov_len = len },
	};
	ssize_t ret = writev(s->dev, iov, 2);

	/* The caller may have given up the request. */
	TEST_ASSERT(ret == out.len || (ret < 0 && errno == ENOENT),
		    "Answering request %u should succeed, errno %d", in->opcode, errno);
}

static void answer_init(struct server *s, struct fuse_in_header *in)
{
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		.max_readahead = MAX_PAGES * page_size,
		.max_background = 1,
		.max_write = page_size,
	};

	answer(s, in, 0, &out, sizeof(out));
}

static void answer_lookup(struct server *s, struct fuse_in_header *in)
{
	struct fuse_entry_out out = { .nodeid = node_of((char *)(in + 1)) };

	get_attr(&out.attr, out.nodeid);
	answer(s, in, 0, &out, sizeof(out));
}

static void answer_getattr(struct server *s, struct fuse_in_header *in)
{
	struct fuse_attr_out out = {};

	get_attr(&out.attr, in->nodeid);
	answer(s, in, 0, &out, sizeof(out));
}

/* Answer without FOPEN_KEEP_CACHE, i.e. the page cache has nothing of an opened file. */
static void answer_open(struct server *s, struct fuse_in_header *in)
{
	struct fuse_open_out out = {};

	answer(s, in, 0, &out, sizeof(out));
}

static void splice_all(int from, int to, size_t len, unsigned int flags)
{
	ssize_t ret = splice(from, NULL, to, NULL, len, flags);

	TEST_ASSERT(ret == len, "splice() should return %zu, got %zd, errno %d", len, ret, errno);
}

/* Answer with pages of the pipe.  They move from one pipe to the other, and stay gifts. */
static void answer_read_spliced(struct server *s, struct fuse_in_header *in, u32 size)
{
	struct fuse_out_header out = {
		.len = sizeof(out) + size,
		.unique = in->unique,
	};

	TEST_ASSERT(write(s->answer[1], &out, sizeof(out)) == sizeof(out),
		    "write() to a pipe should succeed");
	splice_all(s->contents[0], s->answer[1], size, 0);
	splice_all(s->answer[0], s->dev, out.len, SPLICE_F_MOVE);
}

static void answer_read(struct server *s, struct fuse_in_header *in)
{
	struct fuse_read_in *arg = (void *)(in + 1);
	char buf[MAX_PAGES * page_size];
	int i;

	/* FUSE moves only pages that it reads ahead, and it reads all of the file ahead at once. */
	TEST_ASSERT(!arg->offset && arg->size == node_size(in->nodeid),
		    "All of the file should be read, not 0x%x at 0x%lx", arg->size,
		    arg->offset);

	if (in->nodeid % 2) {
		answer_read_spliced(s, in, arg->size);
		return;
	}

	for (i = 0; i < arg->size / page_size; i++)
		fill(buf + i * page_size, UNIT_TAG(TAG_COPIED, i));
	answer(s, in, 0, buf, arg->size);
}

static void answer_request(struct server *s, struct fuse_in_header *in)
{
	switch (in->opcode) {
	case FUSE_INIT:
		answer_init(s, in);
		break;
	case FUSE_LOOKUP:
		answer_lookup(s, in);
		break;
	case FUSE_GETATTR:
		answer_getattr(s, in);
		break;
	case FUSE_OPEN:
		answer_open(s, in);
		break;
	case FUSE_READ:
		answer_read(s, in);
		break;
	case FUSE_FLUSH:
	case FUSE_RELEASE:
		answer(s, in, 0, NULL, 0);
		break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		break;
	default:
		answer(s, in, EOPNOTSUPP, NULL, 0);
	}
}

static void serve(struct server *s)
{
	char buf[2 * FUSE_MIN_READ_BUFFER] __aligned(8);
	ssize_t len;

	for (;;) {
		len = read(s->dev, buf, sizeof(buf));
		if (len >= (ssize_t)sizeof(struct fuse_in_header))
			answer_request(s, (void *)buf);
		else if (len < 0 && (errno == ENODEV || errno == ECONNABORTED))
			exit(0);
		else
			TEST_ASSERT(len < 0 && (errno == EINTR || errno == ENOENT),
				    "read() of a request should succeed, got %zd, errno %d",
				    len, errno);
	}
}

/* Mount the file system without a mount point.  Returns a file descriptor of the mount. */
static int mount_fuse(int dev)
{
	int fs = fsopen("fuse", 0), mnt;
	char text[16];

	snprintf(text, sizeof(text), "%d", dev);
	TEST_ASSERT(fs >= 0 &&
		    !fsconfig(fs, FSCONFIG_SET_STRING, "fd", text, 0) &&
		    !fsconfig(fs, FSCONFIG_SET_STRING, "rootmode", "40000", 0) &&
		    !fsconfig(fs, FSCONFIG_SET_STRING, "user_id", "0", 0) &&
		    !fsconfig(fs, FSCONFIG_SET_STRING, "group_id", "0", 0) &&
		    !fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0),
		    "fsconfig() should succeed, errno %d", errno);
	mnt = fsmount(fs, 0, 0);
	TEST_ASSERT(mnt >= 0, "fsmount() should succeed, errno %d", errno);
	close(fs);
	return mnt;
}

#define _test_data_fuse		gmem
#define _fixture_variant_fuse	gmem_variant

/* The mount, and the pipe that takes the pages of the next file that is read. */
static int mnt, contents;

/* Returns false without CONFIG_FUSE_FS. */
static bool start_server(void)
{
	struct server s = { .dev = open("/dev/fuse", O_RDWR) };
	pid_t pid;

	if (s.dev < 0)
		return false;

	/* The kernel has no request for the server before the mount. */
	mnt = mount_fuse(s.dev);
	kvm_pipe(s.contents);
	kvm_pipe(s.answer);
	pid = kvm_fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(mnt);
		close(s.contents[1]);
		serve(&s);
	}

	contents = s.contents[1];
	close(s.contents[0]);
	close(s.answer[0]);
	close(s.answer[1]);
	close(s.dev);
	return true;
}

static const char *setup(struct gmem *self, const struct gmem_variant *variant)
{
	const char *missing = gmem_setup_counted(self, variant);

	if (!missing && !start_server())
		missing = "needs CONFIG_FUSE_FS";
	if (!missing)
		gmem_open_with_vm(self, GMEM_SHARED);
	return missing;
}

GMEM_FIXTURE(fuse, setup(self, variant));
GMEM_VARIANTS(fuse, 4, 2);

static int open_file(const char *name)
{
	int fd = openat(mnt, name, O_RDONLY);

	TEST_ASSERT(fd >= 0, "Opening %s should succeed, errno %d", name, errno);
	return fd;
}

static void *map_file(int fd, int nr_pages)
{
	return kvm_mmap(nr_pages * page_size, PROT_READ, MAP_SHARED, fd);
}

/* A page that was put into the pipe. */
struct gift {
	u64 pfn;
	u64 tag;
	bool moves;
};

static struct gift give(void *mem, u64 tag, bool moves)
{
	struct iovec iov = { .iov_base = mem, .iov_len = page_size };
	struct gift gift = { .tag = tag, .moves = moves };

	assert_filled(mem, tag);
	gift.pfn = read_pagemap_pfn(mem);
	/* FUSE doesn't move a dirty page either. */
	TEST_ASSERT(gift.pfn && !(read_kpageflags(gift.pfn) & BIT_ULL(KPF_DIRTY)),
		    "The page should not be dirty");
	TEST_ASSERT(vmsplice(contents, &iov, 1, SPLICE_F_GIFT) == page_size,
		    "vmsplice() should succeed, errno %d", errno);
	return gift;
}

/*
 * Write to pages of guest memory, and clean them: convert the unit to private and back,
 * as splitting the huge page once more makes its pages clean.  Call this before any of
 * the pages is given away.
 */
static void fill_pages(struct gmem *self, int unit, long first, int nr)
{
	int i;

	for (i = first; i < first + nr; i++)
		fill(page_of(self, unit, i), UNIT_TAG(unit, i));
	gmem_set_private(self->fd, unit * self->unit, self->unit);
	gmem_set_shared(self->fd, unit * self->unit, self->unit);
}

static struct gift give_filled_page(struct gmem *self, int unit, long page)
{
	return give(page_of(self, unit, page), UNIT_TAG(unit, page), false);
}

static struct gift give_guest_page(struct gmem *self, int unit, long page)
{
	fill_pages(self, unit, page, 1);
	return give_filled_page(self, unit, page);
}

/*
 * Give a page away that has no other user and can be moved, to show that FUSE moves
 * pages at all.  The page is one of FUSE itself: FUSE refuses pages that were
 * anonymous, and those of tmpfs.
 */
static struct gift give_ordinary_page(void)
{
	struct kernel_counters counters;
	int fd = open_file(COPIED(1));
	struct gift gift;
	void *mem;
	char c;

	TEST_ASSERT(read(fd, &c, 1) == 1, "read() should succeed, errno %d", errno);
	mem = map_file(fd, 1);
	gift = give(mem, UNIT_TAG(TAG_COPIED, 0), true);
	kvm_munmap(mem, page_size);
	close(fd);

	/* This also drains per-CPU batches, which hold references. */
	read_kernel_counters(&counters);
	/* Opening the file once more removes all its pages from the page cache. */
	close(open_file(COPIED(1)));
	return gift;
}

/*
 * Read a file made of @gifts, and assert that each page was moved or copied as
 * expected.  Returns a mapping of the file.
 */
static void *read_gifts(const struct gift *gifts, int nr)
{
	char name[8], buf[nr * page_size];
	void *mem;
	u64 pfn;
	int fd, i;

	snprintf(name, sizeof(name), "s%d", nr);
	fd = open_file(name);
	TEST_ASSERT(read(fd, buf, nr * page_size) == nr * page_size,
		    "read() should succeed, errno %d", errno);
	mem = map_file(fd, nr);
	close(fd);

	for (i = 0; i < nr; i++) {
		assert_filled(buf + i * page_size, gifts[i].tag);
		assert_filled(mem + i * page_size, gifts[i].tag);
		pfn = read_pagemap_pfn(mem + i * page_size);
		TEST_ASSERT((pfn == gifts[i].pfn) == gifts[i].moves,
			    "Page %d, pfn 0x%lx, should be %s, pfn 0x%lx", i, gifts[i].pfn,
			    gifts[i].moves ? "moved" : "copied", pfn);
	}
	return mem;
}

/*
 * Assert that new guest memory doesn't change the file that is mapped at @mem, unmap
 * @mem, and give the guest memory back.
 */
static void assert_independent(struct gmem *self, void *mem, const struct gift *gifts, int nr)
{
	int i;

	allocate_fd(self->fd, 0, self->size);
	for (i = 0; i < self->nr; i++)
		TEST_ASSERT_EQ(*(u64 *)page_of(self, i, 0), 0);
	for (i = 0; i < nr; i++)
		assert_filled(mem + i * page_size, gifts[i].tag);
	kvm_munmap(mem, nr * page_size);
	punch_fd(self->fd, 0, self->size);
	assert_nr_allocated_settles(0);
}

TEST_F(fuse, ordinary_page_is_moved)
{
	struct gift gifts[2];

	gifts[0] = give_ordinary_page();
	kvm_munmap(read_gifts(gifts, 1), page_size);

	gifts[0] = give_ordinary_page();
	gifts[1] = give_ordinary_page();
	kvm_munmap(read_gifts(gifts, 2), 2 * page_size);
}

TEST_F(fuse, punched)
{
	const long pages[] = { 0, self->unit / page_size - 1, 77 };
	struct gift gift;
	void *mem;
	int i;

	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		gift = give_guest_page(self, 0, pages[i]);
		punch_unit(self, 0);
		assert_nr_allocated(1);
		assert_nr_late(1);

		/* The pipe had the last reference. */
		mem = read_gifts(&gift, 1);
		assert_nr_allocated_settles(0);
		assert_nr_late(0);
		assert_independent(self, mem, &gift, 1);
	}
}

/* The file has a reference as well, so FUSE doesn't even try to move the page. */
TEST_F(fuse, still_in_the_file)
{
	void *mem, *page = page_of(self, 0, 5);
	struct gift gifts[2];

	fill_pages(self, 0, 5, 2);
	gifts[0] = give_filled_page(self, 0, 5);
	gifts[1] = give_filled_page(self, 0, 6);
	kvm_munmap(page + page_size, page_size);
	mem = read_gifts(gifts, 2);
	assert_nr_allocated(1);
	assert_nr_late(0);

	/* Both pages are unchanged, and still belong to the guest_memfd file. */
	assert_filled(page, gifts[0].tag);
	TEST_ASSERT(mmap(page + page_size, page_size, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED, self->fd, 6 * page_size) == page + page_size,
		    "mmap() should succeed, errno %d", errno);
	assert_filled(page + page_size, gifts[1].tag);
	TEST_ASSERT_EQ(read_pagemap_pfn(page), gifts[0].pfn);
	TEST_ASSERT_EQ(read_pagemap_pfn(page + page_size), gifts[1].pfn);
	fill(page, 1);
	fill(page + page_size, 1);
	assert_filled(mem, gifts[0].tag);
	assert_filled(mem + page_size, gifts[1].tag);

	/* There are no references left. */
	punch_unit(self, 0);
	assert_nr_allocated(0);
	assert_independent(self, mem, gifts, 2);
}

/* One answer has all kinds of pages. */
TEST_F(fuse, part_of_an_answer)
{
	struct gift gifts[6];
	void *mem;

	fill_pages(self, 0, 0, 1);
	fill_pages(self, 0, 300, 2);
	gifts[0] = give_filled_page(self, 0, 0);
	gifts[1] = give_ordinary_page();
	gifts[2] = give_guest_page(self, 1, 1);
	gifts[3] = give_filled_page(self, 0, 300);
	gifts[4] = give_ordinary_page();
	gifts[5] = give_filled_page(self, 0, 301);
	punch_unit(self, 0);
	assert_nr_allocated(2);
	assert_nr_late(1);

	mem = read_gifts(gifts, 6);
	assert_nr_allocated_settles(1);
	assert_nr_late(0);
	assert_filled(page_of(self, 1, 1), gifts[2].tag);
	punch_unit(self, 1);
	assert_nr_allocated(0);
	assert_independent(self, mem, gifts, 6);
}

TEST_F(fuse, closed_and_vm_freed)
{
	struct gift gifts[3];
	void *mem;

	gifts[0] = give_guest_page(self, 0, 13);
	gifts[1] = give_ordinary_page();
	gifts[2] = give_guest_page(self, 1, 12);
	gmem_close(self);
	kvm_vm_free(self->vm);
	assert_nr_late(2);

	mem = read_gifts(gifts, 3);
	TEST_ASSERT_POOL_SETTLES(&self->pool, 0, 0);
	assert_nr_late(0);
	assert_filled(mem, gifts[0].tag);
	assert_filled(mem + 2 * page_size, gifts[2].tag);
}

static void *punch_first_unit(void *data)
{
	punch_unit(data, 0);
	return NULL;
}

/* A page may, or may not, be in the file when the server answers. */
TEST_F(fuse, punched_meanwhile)
{
	const int nr_rounds = self->unit > SZ_2M ? 4 : 30;
	struct gift gifts[MAX_PAGES];
	pthread_t thread;
	int i, first, round;
	void *mem;

	for (round = 0; round < nr_rounds; round++) {
		first = round * MAX_PAGES % 500;
		fill_pages(self, 0, first, MAX_PAGES);
		for (i = 0; i < MAX_PAGES; i++)
			gifts[i] = give_filled_page(self, 0, first + i);
		kvm_pthread_create(&thread, NULL, punch_first_unit, self);
		mem = read_gifts(gifts, MAX_PAGES);
		kvm_pthread_join(thread, NULL);
		assert_nr_allocated_settles(0);
		kvm_munmap(mem, MAX_PAGES * page_size);
	}
	assert_nr_late(0);
}

GMEM_TEST_MAIN(NEEDS_HUGETLB)
