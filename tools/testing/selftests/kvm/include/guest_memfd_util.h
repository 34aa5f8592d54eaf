/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A guest_memfd file that host and guest use at the same time, and a model of it.  The file
 * is made of 4K pages or of HugeTLB pages, its units.  The model knows which page is private,
 * how the file is cut into folios, and the tag of each page.  Host and guest write the tag
 * into the first word of the page.
 *
 * Functions that convert or punch assert that layout and pool are what the model says.  All
 * numbers are pages unless their names say otherwise.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_UTIL_H
#define SELFTEST_KVM_GUEST_MEMFD_UTIL_H

#include <pthread.h>
#include <sched.h>

#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <linux/bitmap.h>
#include <linux/falloc.h>
#include <linux/sizes.h>

#include "guest_memfd_guest.h"
#include "guestmem_units.h"
#include "hugetlb_util.h"
#include "kernel_files.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "memory_failure.h"
#include "memory_holder.h"
#include "test_util.h"

#ifdef __x86_64__
#define VM_TYPE_PRIVATE		KVM_X86_SW_PROTECTED_VM
#else
#define VM_TYPE_PRIVATE		VM_TYPE_DEFAULT
#endif

#define PUNCH			(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)
#define GMEM_SHARED		(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)
#define TOO_MUCH		BIT_ULL(40)

extern size_t page_size;

/* The things without which a program skips all tests. */
enum {
	NEEDS_HUGETLB		= BIT(0),
	NEEDS_PRIVATE_VM	= BIT(1),
	NEEDS_CONVERSION	= BIT(2),
};

/* Skip all tests if anything is missing.  If SEED is in the environment, repeat that run. */
void gmem_init(unsigned int needs);

bool has_guest_memfd_hugetlb(void);
bool has_conversion(void);

/* The parameters of a fixture. */
struct gmem_variant {
	u8 size_log2;
	int nr_units;
	u64 flags;
	bool hugetlbfs;
	const struct holder_ops *holder;
};

/* The data of all fixtures. */
struct gmem {
	struct hugetlb_pool pool;
	/* Before anything was created, if @counted. */
	struct kernel_counters counters;
	long nr_hugetlb;	/* as in /proc/vmstat, or -1 */
	bool counted;
	struct kvm_vcpu *vcpus[MAX_VCPUS];
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	struct guestmem_model model;
	u64 *tags;
	size_t unit, size;
	u64 unit_pages, nr_pages;
	char *mem;
	int nr;
	int fd;
	/* The number of huge pages that the pool has lost, as a page of them has failed. */
	int nr_lost;
	/* For host_can_read(). */
	int pipe[2];
};

/*
 * Check that there can be files of @nr units in all.  Returns NULL, or the reason why
 * there can't be any, in a static buffer.  If there are pages of that size, @pool is
 * filled in.
 */
const char *missing_units(size_t unit, long nr, struct hugetlb_pool *pool);

/*
 * Fill in pool, sizes and number of units from a variant.  Returns what missing_units()
 * returns.  The second function also finds out which units are split, which takes debugfs,
 * and reads the kernel's counters, for gmem_left_behind().
 */
const char *gmem_setup(struct gmem *self, const struct gmem_variant *variant);
const char *gmem_setup_counted(struct gmem *self, const struct gmem_variant *variant);

/* As gmem_setup(), and create a VM. */
const char *gmem_setup_vm(struct gmem *self, const struct gmem_variant *variant);

/* As gmem_setup_counted(), and open a file that is shared, without or with a guest. */
const char *gmem_setup_shared(struct gmem *self, const struct gmem_variant *variant);
const char *gmem_setup_guest(struct gmem *self, const struct gmem_variant *variant, u64 flags);

/*
 * Return what the test has left behind, or NULL.  All pages are back in the pool, except for
 * those that are lost.  No unit is split any more, which the kernel's list of them tells.
 * The counters are as before.  Reading the counters drains per-CPU batches, so it comes last:
 * pages must come back without that.
 */
const char *gmem_left_behind(struct gmem *self);

/* Create a file of self->size.  __gmem_create() returns a negative value for an error. */
int __gmem_create(struct gmem *self, size_t size, u64 flags);
int gmem_create(struct gmem *self, u64 flags);

/* Create a file that can be mapped, map it, and have it in a memslot if there is a vCPU. */
void gmem_open(struct gmem *self, u64 flags);
void gmem_close(struct gmem *self);
void *gmem_map(struct gmem *self, int fd);

/* As above, and before that create a VM without, or with, vCPUs. */
void gmem_open_with_vm(struct gmem *self, u64 flags);
void gmem_open_with_guest(struct gmem *self, u64 flags);

#define assert_pool(allocated, reserved)				\
	TEST_ASSERT_POOL(&self->pool, -(allocated), reserved)

/* Assert that @present units are in use, and that all others are reserved. */
#define assert_nr_allocated(present)					\
do {									\
	int __present = present;					\
									\
	assert_pool(__present, self->nr - __present);			\
} while (0)

/* As above, but give the last user of a unit the time to go. */
#define assert_nr_allocated_settles(present)				\
do {									\
	int __present = present;					\
									\
	TEST_ASSERT_POOL_SETTLES(&self->pool, -__present, self->nr - __present); \
} while (0)

/* Assert that @nr units have left their files, but are in use. */
void assert_nr_late(int nr);

/* Assert that the layout, or layout and pool, are what the model says. */
void __assert_layout(struct gmem *self);
void __assert_model(struct gmem *self);

#define assert_layout()		__assert_layout(self)
#define assert_model()		__assert_model(self)
#define assert_nr_folios(unit, nr)					\
	TEST_ASSERT_EQ(guestmem_model_nr_folios(&self->model, unit), nr)

static inline u64 gpa_of(u64 page)
{
	return TEST_GPA + page * page_size;
}

static inline void *addr_of(struct gmem *self, u64 page)
{
	return self->mem + page * page_size;
}

/* Return the address of a page of a unit.  Negative numbers count from the end of the unit. */
static inline void *page_of(struct gmem *self, int unit, long page)
{
	return addr_of(self, unit * self->unit_pages +
		       (page + self->unit_pages) % self->unit_pages);
}

/* A value for fill(), and for a page that page_of() returns. */
#define UNIT_TAG(unit, page)	(((u64)(unit) + 0x7a67) << 40 | (u32)(page) << 12)

static inline u64 *word_of(struct gmem *self, u64 page)
{
	return addr_of(self, page);
}

static inline u64 *last_word_of(struct gmem *self, u64 page)
{
	return word_of(self, page + 1) - 1;
}

/* Convert a range, with or without looking at the result. */
void __convert(struct gmem *self, u64 first, u64 nr, bool private);
void convert(struct gmem *self, u64 first, u64 nr, bool private);

#define set_shared(first, nr)		convert(self, first, nr, false)
#define set_private(first, nr)		convert(self, first, nr, true)

/* Convert any file, without a model.  Returns 0 or a negative errno. */
int try_convert(int fd, u64 first, u64 nr, bool private, u64 *error_offset);
void convert_fd(int fd, u64 first, u64 nr, bool private);

/* Convert a range that other threads may have in use, but not for long. */
void convert_despite_races(int fd, u64 first, u64 nr, bool private);

/*
 * Assert that a conversion to private fails because @page is in use, that it splits nothing,
 * and that the guest doesn't lose a mapping.
 */
void assert_busy(struct gmem *self, u64 first, u64 nr, u64 page);

/* Punch or allocate bytes of any file. */
static inline void punch_fd(int fd, u64 offset, u64 size)
{
	kvm_fallocate(fd, PUNCH, offset, size);
}

static inline void allocate_fd(int fd, u64 offset, u64 size)
{
	kvm_fallocate(fd, FALLOC_FL_KEEP_SIZE, offset, size);
}

void punch(struct gmem *self, u64 first, u64 nr);
void allocate(struct gmem *self, u64 first, u64 nr);

static inline void punch_unit(struct gmem *self, u64 unit)
{
	punch(self, unit * self->unit_pages, self->unit_pages);
}

/*
 * Have vCPUs and threads allocate the first unit of the file at the same time, again and
 * again.  All other units are allocated, and the pool has no page but those of the file, so
 * that the losers of a race have to do without another page.
 */
void race_to_first_unit(struct gmem *self, int nr_vcpus, int nr_threads);

/*
 * Have all vCPUs, threads that punch, and a thread that uses @mem if that isn't NULL, use the
 * same pages for some time.  A single thread that punches leaves the others time in between.
 */
void run_churners(struct gmem *self, int seconds, int nr_punchers, void *mem);

u64 new_tag(u64 page);

/* Let the guest write new tags, or find the last ones, and zeroes elsewhere. */
void guest_write(struct gmem *self, u64 first, u64 nr);
void guest_check(struct gmem *self, u64 first, u64 nr);
#define guest_check_all()		guest_check(self, 0, self->nr_pages)

/* The same for all words of one page. */
void guest_fill(struct gmem *self, u64 page);
void guest_check_filled(struct gmem *self, u64 page);
void host_fill(struct gmem *self, u64 page);
void host_check_filled(struct gmem *self, u64 page);

/*
 * Return whether the host can read a page.  A system call reads from the page, which
 * fails with EFAULT where an access of user space raises SIGBUS.
 */
bool can_read(int pipe[2], const void *addr);
bool host_can_read(struct gmem *self, u64 page);

/*
 * Assert that the host has no access to a private page, and finds the tag in a shared
 * page.
 */
void host_check(struct gmem *self, u64 page);
void host_write(struct gmem *self, u64 page);

/* As host_check(), but at both ends of the page, by system calls and by SIGBUS. */
void host_check_ends(struct gmem *self, u64 page);

/* Fill a page with consecutive words.  Words that move or are mixed up show. */
void fill(void *mem, u64 tag);
void assert_filled(void *mem, u64 tag);

u64 random_below(u64 nr);

/* Assert that a system call, or what stands for one, fails with @error. */
#define assert_error(call, error)					\
do {									\
	long __r = (long)(call);					\
									\
	TEST_ASSERT(__r == -1 && errno == (error), "%s should be %s, is %ld, errno %d", \
		    #call, #error, __r, errno);				\
} while (0)

/* Assert that the creation of a file has succeeded if @offered, and closes it, or is EINVAL. */
void assert_offered(int fd, bool offered, const char *what);

/* Processes.  Each function asserts that it succeeds. */
void kvm_pipe(int fds[2]);
pid_t kvm_fork(void);
/* Fork a child that shares the file descriptors, but not the memory. */
pid_t kvm_fork_sharing_files(void);
void assert_child_succeeds(pid_t pid);
/* Kill a child, which must not have ended by then. */
void kill_child(pid_t pid);
/* Tell another process that it may go on, and wait for that.  wait_for() fails at the end. */
void tell(int fd);
bool wait_for(int fd);

#endif /* SELFTEST_KVM_GUEST_MEMFD_UTIL_H */
