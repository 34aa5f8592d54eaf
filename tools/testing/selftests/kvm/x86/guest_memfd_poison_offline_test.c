// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of ways to take memory out of use, or into use again, that don't work for HugeTLB
 * pages of guest_memfd files: soft offline, mending a page that has failed, and removing the
 * memory block.  The kernel refuses each of them at once, and nothing changes.  Nothing changes
 * either if memory_failure() filters a failure out, or if the kernel compacts memory.
 */
#include "guest_memfd_fixture.h"
#include "guest_memfd_poison.h"

#define MEMORY_DIR	"/sys/devices/system/memory/"
/* In seconds.  A refusal takes milliseconds, but a loop would never end. */
#define OFFLINE_TIMEOUT	20

/* The number of pages that had failed when the test began. */
static long corrupted;

/* Let the filter accept only pages on LRU lists.  No page of a file is on one. */
static void set_filter(bool enable)
{
	const u64 flags = enable ? BIT_ULL(KPF_LRU) : 0;

	TEST_ASSERT(!write_pfn(HWPOISON_DIR "corrupt-filter-flags-mask", flags) &&
		    !write_pfn(HWPOISON_DIR "corrupt-filter-flags-value", flags) &&
		    !write_pfn(HWPOISON_DIR "corrupt-filter-enable", enable),
		    "The filter should be there");
}

static const char *setup(struct gmem *self, const struct gmem_variant *variant)
{
	const char *missing = setup_poison(self, variant, 1);

	if (missing)
		return missing;
	/* A test that failed may have left it on. */
	set_filter(false);
	corrupted = nr_corrupted_pages();
	return NULL;
}

GMEM_RESHAPE_FIXTURE(setup(self, variant));

/* Assert that the file is as the model says, and that no page has failed. */
static void check_untouched(struct gmem *self)
{
	guest_check_others(self);
	assert_nr_allocated(guestmem_model_nr_present(&self->model));
	TEST_ASSERT_EQ(nr_corrupted_pages(), corrupted);
}

/* Assert that pages from A_PAGE on have no reference left, which would be in the way of a merge. */
static void check_whole_again(struct gmem *self, u64 nr)
{
	set_private(A_PAGE, nr);
	assert_nr_folios(0, 1);
	check_untouched(self);
}

static void soft_offline_is_refused(struct gmem *self, u64 pfn)
{
	long before = nr_corrupted_pages();
	int error = write_pa(SOFT_OFFLINE, pfn);

	TEST_ASSERT(error == EBUSY || error == EIO || error == EOPNOTSUPP,
		    "Soft offline of pfn 0x%lx should be refused, got %s", pfn, strerror(error));
	TEST_ASSERT_EQ(nr_corrupted_pages(), before);
}

TEST_F(reshape, soft_offline_whole)
{
	u64 pfn = write_all_and_find(self, A_PAGE) - A_PAGE;

	soft_offline_is_refused(self, pfn);
	soft_offline_is_refused(self, pfn + A_PAGE);
	soft_offline_is_refused(self, pfn + self->unit_pages - 1);
	check_untouched(self);

	/* The unit can be split and merged as before, and its pages fail as before. */
	TEST_ASSERT_EQ(pfn_of_whole(self, A_PAGE), pfn + A_PAGE);
	__poison(self, A_PAGE, pfn + A_PAGE);
	check_and_close(self, pfn + A_PAGE);
}

TEST_F(reshape, soft_offline_pieces)
{
	u64 pfn;

	guest_write(self, 0, self->nr_pages);
	set_shared(A_PAGE, 2);
	host_fill(self, A_PAGE);
	pfn = pfn_of(self, 0);
	/* An isolated page, one that isn't mapped, head and tail of a large piece. */
	soft_offline_is_refused(self, pfn + A_PAGE);
	soft_offline_is_refused(self, pfn + A_PAGE + 1);
	soft_offline_is_refused(self, pfn + self->unit_pages / 2);
	soft_offline_is_refused(self, pfn + self->unit_pages - 1);
	host_check_filled(self, A_PAGE);
	check_untouched(self);
	check_whole_again(self, 2);
}

TEST_F(reshape, soft_offline_madvise)
{
	guest_write(self, 0, self->nr_pages);
	share_and_fill(self, A_PAGE, 1);
	TEST_ASSERT(madvise(word_of(self, A_PAGE), PAGE_SIZE, MADV_SOFT_OFFLINE) &&
		    (errno == EBUSY || errno == EIO || errno == EOPNOTSUPP),
		    "MADV_SOFT_OFFLINE should be refused, errno %d", errno);
	host_check_filled(self, A_PAGE);
	/* MADV_SOFT_OFFLINE has left no reference behind. */
	check_whole_again(self, 1);
}

TEST_F(reshape, soft_offline_held)
{
	struct holder h = {};
	u64 pfn = hold_and_punch(self, &h);

	assert_nr_allocated(1);
	soft_offline_is_refused(self, pfn);
	/* The second page has come back already. */
	soft_offline_is_refused(self, pfn + 1);
	assert_nr_allocated(1);
	vmsplice_release(&h);
	guestmem_settle();
	assert_nr_allocated_settles(0);
	guest_check_all();
	check_untouched(self);
}

/* For a page that has failed, soft offline has nothing to do. */
TEST_F(reshape, soft_offline_poisoned)
{
	u64 pfn;
	int error;

	pfn = write_all_and_poison(self, A_PAGE);
	error = write_pa(SOFT_OFFLINE, pfn);
	TH_LOG("soft offline of a poisoned page: %s", strerror(error));
	soft_offline_is_refused(self, pfn + 1);
	check_poisoned_file(self);
	soft_offline_is_refused(self, pfn + 1);
	check_and_close(self, pfn);
}

/* Assert that the kernel refuses to mend a page, as Linux 7.3 does for pages of files. */
static void mending_is_refused(u64 pfn)
{
	long before = nr_corrupted_pages();
	int error = write_pfn(UNPOISON_PFN, pfn);

	TEST_ASSERT(error == EBUSY || error == EOPNOTSUPP,
		    "Mending pfn 0x%lx should be refused, got %s", pfn, strerror(error));
	TEST_ASSERT_EQ(nr_corrupted_pages(), before);
}

TEST_F(reshape, mend_whole)
{
	u64 pfn = write_all_and_poison(self, A_PAGE);

	mending_is_refused(pfn);
	mending_is_refused(pfn - A_PAGE);
	mending_is_refused(pfn);
	check_poisoned_file(self);
	mending_is_refused(pfn);
	check_and_close(self, pfn);
}

TEST_F(reshape, mend_pieces)
{
	u64 pfn, tail;

	guest_write(self, 0, self->nr_pages);
	share_and_fill(self, A_PAGE, 1);
	tail = pfn_of(self, self->unit_pages - 1);
	pfn = poison(self, A_PAGE);
	__poison(self, self->unit_pages - 1, tail);
	mending_is_refused(pfn);
	mending_is_refused(tail);
	check_poisoned_file(self);
	mending_is_refused(pfn);
	mending_is_refused(tail);
	set_private(A_PAGE, 1);
	mending_is_refused(pfn);
	check_poisoned_file(self);

	__close_and_assert_lost(self, pfn, tail, 0);
}

TEST_F(reshape, mend_held)
{
	struct holder h = {};
	u64 pfn = hold_and_punch(self, &h);

	poison_pfn(pfn);
	poison_pfn(pfn + 1);
	self->nr_lost = 1;
	mending_is_refused(pfn);
	mending_is_refused(pfn + 1);
	/* The unit doesn't return to the pool as long as the pipe has the page. */
	usleep(200 * 1000);
	assert_nr_allocated(1);
	release_and_assert_lost(self, &h);
	__close_and_assert_lost(self, pfn, pfn + 1, 0);
}

static u64 memory_block_of(u64 pfn)
{
	FILE *f = fopen(MEMORY_DIR "block_size_bytes", "r");
	unsigned long size;

	TEST_ASSERT(f && fscanf(f, "%lx", &size) == 1, "No size of memory blocks");
	fclose(f);
	return pfn * PAGE_SIZE / size;
}

/*
 * Take a memory block offline, in a child.  Returns the error, or -1 if a signal had to end
 * the child.
 */
static int offline_block(u64 block)
{
	char path[100];
	int status, i;
	pid_t pid;

	snprintf(path, sizeof(path), MEMORY_DIR "memory%lu/state", block);
	pid = kvm_fork();
	if (!pid) {
		int fd = open(path, O_WRONLY);

		_exit(fd < 0 || write(fd, "offline", 7) != 7 ? errno : 0);
	}
	for (i = 0; i < OFFLINE_TIMEOUT * 100; i++) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
		usleep(10 * 1000);
	}
	kill(pid, SIGKILL);
	TEST_ASSERT(waitpid(pid, &status, 0) == pid, "waitpid() should succeed");
	return -1;
}

/*
 * Assert that the memory block of @pfn can't be removed.  The blocks of a 1G unit have no
 * other memory; a block with a 2M unit may have kernel memory as well.
 */
static void removal_is_refused(u64 pfn)
{
	u64 block = memory_block_of(pfn);
	int error = offline_block(block);

	TEST_ASSERT(error == EBUSY, "Removing memory block %lu should fail with EBUSY, got %s",
		    block, error < 0 ? "nowhere" : strerror(error));
}

static const char *missing_hotremove(void)
{
	return access(MEMORY_DIR "block_size_bytes", R_OK) ||
	       access(MEMORY_DIR "memory0/state", W_OK) ? "needs CONFIG_MEMORY_HOTREMOVE" : NULL;
}

TEST_F(reshape, remove_whole)
{
	u64 pfn;

	SKIP_IF(return, missing_hotremove());
	pfn = write_all_and_find(self, A_PAGE);
	removal_is_refused(pfn);
	check_untouched(self);
	TEST_ASSERT_EQ(pfn_of_whole(self, A_PAGE), pfn);
}

TEST_F(reshape, remove_split)
{
	u64 pfn;

	SKIP_IF(return, missing_hotremove());
	guest_write(self, 0, self->nr_pages);
	share_and_fill(self, A_PAGE, 1);
	pfn = pfn_of(self, A_PAGE);
	removal_is_refused(pfn);
	removal_is_refused(pfn + self->unit_pages - 1 - A_PAGE);
	host_check_filled(self, A_PAGE);
	check_untouched(self);
	check_whole_again(self, 1);
}

struct flipper {
	int fd;
	bool stop;
	long nr;
};

/* Convert a page back and forth: its unit is split, frozen and merged all the time. */
static void *flip_page(void *arg)
{
	struct flipper *f = arg;

	for (; !READ_ONCE(f->stop); f->nr++) {
		convert_despite_races(f->fd, A_PAGE, 1, false);
		convert_despite_races(f->fd, A_PAGE, 1, true);
	}

	return NULL;
}

TEST_F(reshape, remove_while_converted)
{
	struct flipper f = { .fd = self->fd };
	pthread_t thread;
	u64 pfn;
	int i;

	SKIP_IF(return, missing_hotremove());
	pfn = write_all_and_find(self, A_PAGE);
	kvm_pthread_create(&thread, NULL, flip_page, &f);
	for (i = 0; i < 20; i++) {
		removal_is_refused(pfn);
		removal_is_refused(pfn + self->unit_pages - 1 - A_PAGE);
		soft_offline_is_refused(self, pfn);
	}
	WRITE_ONCE(f.stop, true);
	pthread_join(thread, NULL);
	TEST_ASSERT(f.nr > i, "The page should be converted all the time, not %ld times", f.nr);

	/* A moment later, no reference is in the way of a merge. */
	guestmem_settle();
	convert_despite_races(self->fd, A_PAGE, 1, false);
	convert_despite_races(self->fd, A_PAGE, 1, true);
	check_untouched(self);
	TEST_ASSERT_EQ(pfn_of_whole(self, A_PAGE), pfn);
}

TEST_F(reshape, remove_held)
{
	struct holder h = {};
	u64 pfn;

	SKIP_IF(return, missing_hotremove());
	share_and_fill(self, A_PAGE, 1);
	vmsplice_open_and_hold(&h, addr_of(self, A_PAGE));
	pfn = pfn_of(self, A_PAGE);
	punch_unit(self, 0);
	removal_is_refused(pfn);
	removal_is_refused(pfn + self->unit_pages - 1 - A_PAGE);
	assert_nr_allocated(1);
	vmsplice_release(&h);
	guestmem_settle();
	assert_nr_allocated_settles(0);
}

TEST_F(reshape, remove_poisoned)
{
	u64 pfn;

	SKIP_IF(return, missing_hotremove());
	pfn = write_all_and_poison(self, A_PAGE);
	removal_is_refused(pfn);
	check_poisoned_file(self);
	removal_is_refused(pfn);
	check_and_close(self, pfn);
}

static void fail_unnoticed(struct gmem *self, u64 page, u64 pfn)
{
	int error = write_pa(HARD_OFFLINE, pfn);

	TEST_ASSERT(!error || error == EOPNOTSUPP,
		    "Memory failure that is filtered should be none, got %s", strerror(error));
	TEST_ASSERT_EQ(nr_corrupted_pages(), corrupted);
	TEST_ASSERT(!is_marked_poisoned(pfn), "pfn 0x%lx should be as it was", pfn);
	guest_check(self, page, 1);
}

/* Let pages fail that the filter rejects. */
TEST_F(reshape, filtered)
{
	u64 pfn = write_all_and_find(self, A_PAGE);

	set_filter(true);
	fail_unnoticed(self, A_PAGE, pfn);
	assert_nr_folios(0, 1);
	check_untouched(self);

	share_and_fill(self, A_PAGE, 1);
	fail_unnoticed(self, A_PAGE, pfn);
	fail_unnoticed(self, A_PAGE + 1, pfn + 1);
	fail_unnoticed(self, self->unit_pages - 1, pfn - A_PAGE + self->unit_pages - 1);
	host_check_filled(self, A_PAGE);
	/* The filter has left no reference behind. */
	check_whole_again(self, 1);
	set_filter(false);
}

static void run_compaction(void)
{
	int i;

	for (i = 0; i < 3; i++)
		TEST_ASSERT(!write_pfn("/proc/sys/vm/compact_memory", 1),
			    "Compaction should be possible");
}

/* Compact memory: compaction finds huge pages of the file, and passes by. */
TEST_F(reshape, compact)
{
	struct holder h = {};
	u64 pfn = write_all_and_find(self, A_PAGE);

	run_compaction();
	check_untouched(self);

	share_and_fill(self, A_PAGE, 2);
	TEST_ASSERT_EQ(pfn_of(self, A_PAGE), pfn);
	run_compaction();
	TEST_ASSERT_EQ(pfn_of(self, A_PAGE), pfn);
	host_check_filled(self, A_PAGE);
	check_untouched(self);

	/* Compaction has left no reference behind. */
	set_private(A_PAGE, 2);
	assert_nr_folios(0, 1);
	TEST_ASSERT_EQ(pfn_of_whole(self, A_PAGE), pfn);
	guest_check_all();
	punch_unit(self, 0);

	hold_and_punch(self, &h);
	run_compaction();
	assert_nr_allocated(self->nr);
	vmsplice_release(&h);
	guestmem_settle();
	assert_nr_allocated_settles(self->nr - 1);
}

GMEM_TEST_MAIN(NEEDS_HUGETLB | NEEDS_PRIVATE_VM)
