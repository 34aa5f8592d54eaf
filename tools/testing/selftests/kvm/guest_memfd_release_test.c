// SPDX-License-Identifier: GPL-2.0-only
/*
 * Return HugeTLB pages of guest_memfd files to the pool: how many of them a pinned page
 * keeps, how long the others take, and which other tasks they wait for.  Where
 * hugetlbfs has the same case, the test runs with it, too, to compare.
 */
#include "guest_memfd_fixture.h"

#define RT_RUNTIME	"/proc/sys/kernel/sched_rt_runtime_us"
#define FAIR_RUNTIME	"/sys/kernel/debug/sched/fair_server/cpu1/runtime"

/* With other tasks busy, an emulated machine takes that long for next to nothing. */
#define MAX_MS		400
/* With no other task busy, it takes no more than that, almost always. */
#define SLOW_MS		30
/* How long other tasks are busy.  A release must not wait for them. */
#define BUSY_MS		4000

#define _test_data_release		gmem
#define _fixture_variant_release	gmem_variant

/* Use all available pages, so that a second file of that size doesn't fit. */
static const char *setup(struct gmem *self, const struct gmem_variant *variant)
{
	const char *missing = gmem_setup(self, variant);

	self->nr = hugetlb_available(&self->pool);
	self->size = self->nr * self->unit;
	return missing;
}

/* The setup reads no counters: that drains per-CPU batches. */
GMEM_FIXTURE(release, setup(self, variant));
GMEM_VARIANTS(release, 8, 2);
GMEM_VARIANT_OF_UNITS(release, 2m_hugetlbfs, 21, 8, .hugetlbfs = true);
GMEM_VARIANT_OF_UNITS(release, 1g_hugetlbfs, 30, 2, .hugetlbfs = true);

static void let_tasks_hog_cpus(bool hog)
{
	write_text_file(RT_RUNTIME, hog ? "-1" : "950000");
	write_text_file(FAIR_RUNTIME, hog ? "0" : "50000000");
}

/* A file and, if it's a guest_memfd, its VM. */
struct file {
	struct kvm_vm *vm;
	size_t size;
	void *mem;
	int fd;
};

static bool try_open(struct file *f, struct gmem *self, size_t size, bool hugetlbfs)
{
	*f = (struct file) { .size = size };
	if (hugetlbfs) {
		f->fd = memfd_create("release", MFD_HUGETLB |
				   __builtin_ctzll(self->unit) << MAP_HUGE_SHIFT);
		TEST_ASSERT(f->fd >= 0 && !ftruncate(f->fd, size), "A memfd should be created");
	} else {
		f->vm = vm_create_barebones_type(VM_TYPE_PRIVATE);
		self->vm = f->vm;
		f->fd = __gmem_create(self, size, GMEM_SHARED);
		if (f->fd < 0) {
			TEST_ASSERT(errno == ENOMEM, "Creation should fail with ENOMEM, not %d",
				    errno);
			kvm_vm_free(f->vm);
			return false;
		}
	}

	f->mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
	if (f->mem != MAP_FAILED)
		return true;

	/* hugetlbfs reserves pages here. */
	TEST_ASSERT(hugetlbfs && errno == ENOMEM, "mmap() should succeed, errno %d", errno);
	close(f->fd);
	return false;
}

static void close_file(struct file *f)
{
	kvm_munmap(f->mem, f->size);
	kvm_close(f->fd);
	if (f->vm)
		kvm_vm_free(f->vm);
}

#define open_file(f, size)							\
do {										\
	size_t __size = size;							\
										\
	TEST_ASSERT(try_open(f, self, __size, variant->hugetlbfs), \
		    "There should be %zu bytes", __size);			\
} while (0)

/* Only the unit that is pinned stays in use. */
TEST_F(release, pinned_and_closed)
{
	struct file f, other;
	struct holder h;

	open_file(&f, self->size);
	WRITE_ONCE(*(u64 *)f.mem, 1);
	vmsplice_open_and_hold(&h, f.mem);
	close_file(&f);
	TEST_ASSERT_POOL(&self->pool, -1, 0);

	open_file(&other, self->size - self->unit);
	TEST_ASSERT(!try_open(&f, self, self->unit, variant->hugetlbfs),
		    "There should be nothing left");
	TEST_ASSERT_POOL(&self->pool, -1, self->nr - 1);
	vmsplice_release(&h);
	TEST_ASSERT_POOL_SETTLES(&self->pool, 0, self->nr - 1);
	close_file(&other);
	TEST_ASSERT_POOL(&self->pool, 0, 0);

	open_file(&f, self->size);
	close_file(&f);
}

/* Several pages are pinned, and their unit is punched before the file is closed. */
TEST_F(release, pinned_punched_and_closed)
{
	struct holder h[3];
	struct file f;
	int i;

	open_file(&f, self->size);
	for (i = 0; i < ARRAY_SIZE(h); i++) {
		WRITE_ONCE(*(u64 *)(f.mem + page_size * 2 * i), 1);
		vmsplice_open_and_hold(&h[i], f.mem + page_size * 2 * i);
	}
	punch_fd(f.fd, 0, self->unit);
	if (!variant->hugetlbfs)
		TEST_ASSERT_POOL(&self->pool, -1, self->nr - 1);
	close_file(&f);
	for (i = 0; i < ARRAY_SIZE(h); i++) {
		TEST_ASSERT_POOL(&self->pool, -1, 0);
		vmsplice_release(&h[i]);
	}
	TEST_ASSERT_POOL_SETTLES(&self->pool, 0, 0);
}

/*
 * mlock() pages on CPU 1.  Pages that are mlocked or munlocked stay in a batch of the
 * CPU until the batch is full.
 */
static void mlock_on_cpu_1(struct file *f)
{
	pin_self_to_cpu(1);
	TEST_ASSERT(!mlock(f->mem, 3 * page_size), "mlock() should succeed, errno %d", errno);
}

TEST_F(release, mlocked_and_exited)
{
	struct file f;
	pid_t pid;

	pid = kvm_fork();
	if (!pid) {
		open_file(&f, self->size);
		mlock_on_cpu_1(&f);
		pin_self_to_cpu(0);
		_exit(0);
	}
	assert_child_succeeds(pid);
	TEST_ASSERT_POOL_SETTLES(&self->pool, 0, 0);
}

/* mlock() pages on CPU 1, and unmap one, which stays in a batch of a CPU that is not drained. */
static void mlock_and_munmap_page(struct file *f)
{
	mlock_on_cpu_1(f);
	kvm_munmap(f->mem, page_size);
	pin_self_to_cpu(0);
	f->mem += page_size;
	f->size -= page_size;
}

TEST_F(release, munmapped_and_closed)
{
	struct file f;

	SKIP_IF(return, variant->hugetlbfs ? "has no pages to unmap" : NULL);

	open_file(&f, self->size);
	mlock_and_munmap_page(&f);
	close_file(&f);
	TEST_ASSERT_POOL(&self->pool, 0, 0);
}

TEST_F(release, munmapped_and_punched)
{
	struct file f;

	SKIP_IF(return, variant->hugetlbfs ? "has no pages to unmap" : NULL);

	open_file(&f, self->size);
	mlock_and_munmap_page(&f);
	punch_fd(f.fd, 0, self->unit);
	TEST_ASSERT_POOL(&self->pool, 0, self->nr);
	close_file(&f);
}

static void hog_cpu_1(void)
{
	struct sched_param param = { .sched_priority = 1 };
	s64 end;

	pin_self_to_cpu(1);
	TEST_ASSERT(!sched_setscheduler(0, SCHED_FIFO, &param), "SCHED_FIFO should be there");
	end = now_us() + BUSY_MS * 1000ll;
	while (now_us() < end)
		;
	_exit(0);
}

static void fill_in_file(void)
{
	s64 end = now_us() + BUSY_MS * 1000ll;
	int fd = memfd_create("filler", 0);

	/* One call takes long, and the task doesn't go to sleep in it. */
	pin_self_to_cpu(1);
	while (now_us() < end) {
		if (fallocate(fd, 0, 0, SZ_1G) || ftruncate(fd, 0))
			break;
	}
	_exit(0);
}

/*
 * A task that is busy once start_task() says so, and has none of the files that are
 * opened later.
 */
struct task {
	pid_t pid;
	int go;
};

static void create_task(struct task *t, void (*fn)(void))
{
	int go[2];

	kvm_pipe(go);
	t->go = go[1];
	t->pid = kvm_fork();
	if (!t->pid) {
		TEST_ASSERT(wait_for(go[0]), "read() should succeed");
		fn();
	}
}

static void start_task(struct task *t)
{
	tell(t->go);
	usleep(300 * 1000);
}

static void end_task(struct task *t)
{
	TEST_ASSERT(!waitpid(t->pid, NULL, WNOHANG), "The task should still be busy");
	kill_child(t->pid);
}

static void assert_fast(const char *what, s64 start)
{
	s64 ms = (now_us() - start) / 1000;

	TEST_ASSERT(ms < MAX_MS, "%s should take less than %d ms, not %ld", what, MAX_MS, ms);
}

/*
 * Assert that the pool gets units back fast: a unit that the host has used, another one
 * with a page that was in use, and all that are left.
 */
static void punch_and_close(struct file *f, size_t unit, struct hugetlb_pool *pool, int nr)
{
	struct holder h;
	s64 start;

	vmsplice_open_and_hold(&h, f->mem + unit);

	start = now_us();
	punch_fd(f->fd, 0, unit);
	TEST_ASSERT_POOL(pool, -1, nr - 1);
	assert_fast("A hole", start);

	start = now_us();
	punch_fd(f->fd, unit, unit);
	vmsplice_release(&h);
	TEST_ASSERT_POOL_SETTLES(pool, 0, nr);
	assert_fast("A hole, and the last page of it", start);

	start = now_us();
	close_file(f);
	TEST_ASSERT_POOL(pool, 0, 0);
	assert_fast("Closing a file", start);
}

static void prepare(struct file *f, size_t unit)
{
	pin_self_to_cpu(0);
	WRITE_ONCE(*(u64 *)f->mem, 1);
	WRITE_ONCE(*(u64 *)(f->mem + unit), 1);
}

static void test_busy(struct gmem *self, void (*fn)(void), bool hog)
{
	struct task task;
	struct file f;

	create_task(&task, fn);
	TEST_ASSERT(try_open(&f, self, self->size, false), "There should be a file");
	prepare(&f, self->unit);
	if (hog)
		let_tasks_hog_cpus(true);
	start_task(&task);
	punch_and_close(&f, self->unit, &self->pool, self->nr);
	end_task(&task);
	if (hog)
		let_tasks_hog_cpus(false);
}

/* CPU 1 is busy and never gets to do what other CPUs want of it. */
TEST_F(release, busy_cpu)
{
	SKIP_IF(return, variant->hugetlbfs ? "is about guest_memfd" : NULL);
	test_busy(self, hog_cpu_1, true);
}

/* A task that does not sleep holds grace periods of RCU tasks off.  Nothing waits for them. */
TEST_F(release, busy_task)
{
	SKIP_IF(return, variant->hugetlbfs ? "is about guest_memfd" : NULL);
	test_busy(self, fill_in_file, false);
}

/*
 * Act as a VMM that uses all of a file, and shares a page with a pipe or a ring if
 * @kind says so.
 */
static void vmm(struct file *f, size_t unit, int kind, int ready)
{
	struct holder h;
	int i, nr = f->size / unit;

	for (i = 0; i < nr; i++)
		WRITE_ONCE(*(u64 *)(f->mem + i * unit), 1);

	if (kind == 1)
		vmsplice_open_and_hold(&h, f->mem);
	if (kind == 2)
		TEST_ASSERT(io_uring_open(&h) && io_uring_hold(&h, f->mem, 1),
			    "A fixed buffer should be possible");
	tell(ready);
	pause();
}

static const char * const vmm_kinds[] = { "nothing", "a pipe", "a ring" };

static s64 kill_and_open(struct gmem *self, bool hugetlbfs, int kind)
{
	int ready[2];
	struct file f;
	s64 start, us;
	pid_t pid;

	kvm_pipe(ready);
	pid = kvm_fork();
	if (!pid) {
		TEST_ASSERT(try_open(&f, self, self->size, hugetlbfs), "There should be a file");
		vmm(&f, self->unit, kind, ready[1]);
	}
	TEST_ASSERT(wait_for(ready[0]), "The VMM should be there");
	kill_child(pid);

	start = now_us();
	while (!try_open(&f, self, self->size, hugetlbfs))
		TEST_ASSERT(now_us() - start < 20 * 1000000ll, "There should be a file again");
	us = now_us() - start;
	close_file(&f);
	close(ready[0]);
	close(ready[1]);

	return us;
}

/* Returns how often an equal file was not possible within SLOW_MS. */
static int kill_repeatedly(struct gmem *self, bool hugetlbfs, int kind, int nr_rounds)
{
	s64 us, max = 0;
	int nr_slow = 0;
	int i;

	for (i = 0; i < nr_rounds; i++) {
		us = kill_and_open(self, hugetlbfs, kind);
		max = us > max ? us : max;
		nr_slow += us > SLOW_MS * 1000ll;
	}
	ksft_print_msg("%s, %s: at most %ld.%03ld ms, %d times more than %d\n",
		       hugetlbfs ? "hugetlbfs" : "guest_memfd", vmm_kinds[kind], max / 1000,
		       max % 1000, nr_slow, SLOW_MS);
	TEST_ASSERT(max < MAX_MS * 1000ll,
		    "An equal file should be possible within %d ms", MAX_MS);

	return nr_slow;
}

TEST_F(release, killed)
{
	const int nr_rounds = self->unit > SZ_2M ? 2 : 13;
	int kind, nr_slow, nr_slow_hugetlbfs;

	SKIP_IF(return, variant->hugetlbfs ? "is what guest_memfd is compared with" : NULL);

	for (kind = 0; kind < ARRAY_SIZE(vmm_kinds); kind++) {
		nr_slow_hugetlbfs = kill_repeatedly(self, true, kind, nr_rounds);
		nr_slow = kill_repeatedly(self, false, kind, nr_rounds);
		TEST_ASSERT(nr_slow <= nr_slow_hugetlbfs + nr_rounds / 4 + 1,
			    "An equal file should be possible within %d ms as often as with hugetlbfs, %d of %d times is too slow, against %d",
			    SLOW_MS, nr_slow, nr_rounds, nr_slow_hugetlbfs);
	}
}

struct conversion {
	int fd;
	int r;
};

static void *convert_two_pages(void *arg)
{
	struct conversion *c = arg;
	u64 error_offset;

	pin_self_to_cpu(0);
	c->r = __gmem_set_private(c->fd, 0, 2 * page_size, &error_offset);
	return NULL;
}

/*
 * A new page of an ordinary file is in a batch of the CPU that allocated it.  A conversion
 * of the page waits for that CPU, even if it also has a page for which it is enough to drain
 * its own CPU.  Users of other pages of the file don't wait.
 */
TEST(busy_cpu_converts)
{
	struct kvm_vm *vm = vm_create_barebones_type(VM_TYPE_PRIVATE);
	struct conversion c = { .r = 1 };
	pthread_t thread;
	struct task task;
	char *mem, *other;
	s64 start;

	if (!vm_check_cap(vm, KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES))
		SKIP(goto out, "needs conversion");

	create_task(&task, hog_cpu_1);
	c.fd = vm_create_guest_memfd(vm, 4 * page_size, GMEM_SHARED);
	mem = kvm_mmap(4 * page_size, PROT_READ | PROT_WRITE, MAP_SHARED, c.fd);
	pin_self_to_cpu(1);
	/* Begin with an empty batch, as a full one is drained. */
	other = kvm_mmap(page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	TEST_ASSERT(!madvise(other, page_size, MADV_COLD), "MADV_COLD should succeed");
	WRITE_ONCE(mem[page_size], 1);
	pin_self_to_cpu(0);
	WRITE_ONCE(*mem, 1);
	let_tasks_hog_cpus(true);
	start_task(&task);
	kvm_pthread_create(&thread, NULL, convert_two_pages, &c);
	usleep(100 * 1000);
	TEST_ASSERT(READ_ONCE(c.r) == 1, "The conversion should wait, got %d", c.r);

	start = now_us();
	WRITE_ONCE(mem[2 * page_size], 1);
	gmem_set_private(c.fd, 3 * page_size, page_size);
	assert_fast("Touching and converting other pages", start);

	end_task(&task);
	let_tasks_hog_cpus(false);
	pthread_join(thread, NULL);
	TEST_ASSERT(!c.r, "The conversion should succeed then, got %d", c.r);
	kvm_munmap(other, page_size);
	kvm_munmap(mem, 4 * page_size);
	kvm_close(c.fd);
out:
	kvm_vm_free(vm);
}

/* Size of a hole that takes long to punch in a file of 4K pages. */
#define SLOW_SIZE	(512ul * SZ_1M)

/* A VMM that shares its file descriptors, but not its memory, with the test. */
struct slot_vmm {
	int vm_fd;
	int fd;
	bool ready, go, returned, punched;
};

static void slot_vmm(struct slot_vmm *v, bool create)
{
	struct kvm_vm *vm = vm_create_barebones_type(VM_TYPE_PRIVATE);
	void *mem = kvm_mmap(SLOW_SIZE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);

	v->vm_fd = vm->fd;
	v->fd = vm_create_guest_memfd(vm, SLOW_SIZE, GMEM_SHARED);
	if (!create)
		vm_set_user_memory_region2(vm, 1, KVM_MEM_GUEST_MEMFD, SZ_4G, SLOW_SIZE, mem,
					   v->fd, 0);
	WRITE_ONCE(v->ready, true);
	while (!READ_ONCE(v->go))
		usleep(1000);
	vm_set_user_memory_region2(vm, 1, KVM_MEM_GUEST_MEMFD, SZ_4G, create ? SLOW_SIZE : 0,
				   mem, v->fd, 0);
	WRITE_ONCE(v->returned, true);
	pause();
}

static void *punch_slowly(void *arg)
{
	struct slot_vmm *v = arg;

	punch_fd(v->fd, 0, SLOW_SIZE);
	WRITE_ONCE(v->punched, true);
	return NULL;
}

/* Whether a task waits in a system call, but not in usleep(). */
static bool is_blocked(pid_t pid)
{
	char path[40], text[256], state = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	return read_text_file(path, text, sizeof(text)) &&
	       sscanf(text, "%*d (%*[^)]) %c", &state) == 1 && state == 'D';
}

/* Kill a VMM whose memslot waits while another task punches a hole into the same file. */
static void test_killable(bool create)
{
	struct slot_vmm *v;
	pthread_t thread;
	pid_t pid;

	v = kvm_mmap(sizeof(*v), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
	pid = kvm_fork_sharing_files();
	if (!pid) {
		slot_vmm(v, create);
		_exit(1);
	}
	while (!READ_ONCE(v->ready)) {
		TEST_ASSERT(!waitpid(pid, NULL, WNOHANG), "The VMM should become ready");
		usleep(1000);
	}

	allocate_fd(v->fd, 0, SLOW_SIZE);
	kvm_pthread_create(&thread, NULL, punch_slowly, v);
	while (nr_cached_pages(v->fd) == SLOW_SIZE / page_size)
		usleep(100);
	WRITE_ONCE(v->go, true);
	while (!is_blocked(pid) && !READ_ONCE(v->punched))
		usleep(100);
	TEST_ASSERT(!READ_ONCE(v->returned), "The VMM should wait for the other one");
	kill_child(pid);
	TEST_ASSERT(!READ_ONCE(v->punched),
		    "The VMM should be gone while the other one still punches");

	pthread_join(thread, NULL);
	close(v->fd);
	close(v->vm_fd);
	kvm_munmap(v, sizeof(*v));
}

TEST(memslot_creation_is_killable)
{
	test_killable(true);
}

TEST(memslot_deletion_is_killable)
{
	test_killable(false);
}

int main(int argc, char *argv[])
{
	int ret;

	gmem_init(NEEDS_HUGETLB);

	ret = test_harness_run(argc, argv);
	/* A test that failed may have left them changed. */
	let_tasks_hog_cpus(false);

	return ret;
}
