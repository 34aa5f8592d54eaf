/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The host of guest_memfd_conversions_stress_test: operations on cells that an actor has
 * locked, and on huge pages, and the actors that do these, or disturb others.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_STRESS_HOST_H
#define SELFTEST_KVM_GUEST_MEMFD_STRESS_HOST_H

#include <sys/uio.h>
#include <sys/wait.h>

#include <linux/falloc.h>

#include "guest_memfd_stress.h"
#include "guestmem_units.h"
#include "hugetlb_util.h"
#include "kernel_files.h"
#include "kvm_syscalls.h"
#include "memory_failure.h"
#include "memory_holder.h"
#include "ucall_common.h"

#define PUNCH			(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)
#define DATA_SLOT		11

extern struct world *world;
extern struct kvm_vm *vm;
extern int gmem_fd;

/* A thread, or a child. */
struct actor {
	struct kvm_random_state rng;
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	char *mem;		/* from the first cell on */
	bool is_new;		/* nothing has been mapped there yet */
	bool child;
};

/* Pages that vmsplice() has put into a pipe. */
struct pin {
	int fds[2];
	ssize_t len;
};

/*
 * A pinned page.  The actor that has locked the cell has pinned it.  If the page
 * leaves the file (@lost), it keeps all that is in it (@stamp).  Otherwise it has
 * what the cell has.
 */
struct pinned_cell {
	struct pin pin;
	u64 c;
	u64 stamp;
	bool lost;
	bool active;
};

struct session {
	u64 unit;
	u64 first;		/* cell */
	struct pinned_cell pin;
};

u64 *host_word(struct actor *a, u64 c, int i);

u64 cell_offset(u64 c);

u64 unit_offset(u64 unit);

/* Return a description of a cell, in a static buffer. */
const char *describe(u64 c);

/*
 * Access a cell that is locked and shared.  Returns false for SIGBUS, but waits for
 * huge pages to come back where there aren't enough.
 */
bool host_access(struct actor *a, u64 c, int i, u64 *val, bool write);

void host_check_cell(struct actor *a, u64 c);

void host_check_cells(struct actor *a, u64 first, u64 nr);

void host_write_cells(struct actor *a, u64 first, u64 nr);

/* Check a range through a new mapping, which is unmapped then. */
void host_mmap_check(struct actor *a, u64 first, u64 nr);

/* Convert memory.  Returns 0, or -EAGAIN if pins block every try. */
int convert_bytes(u64 offset, u64 size, bool private);

/*
 * Convert a range or, with @all, the unit that the range is all of.  Returns whether
 * it worked.
 */
bool __host_convert(struct actor *a, u64 first, u64 nr, bool all, bool private);

void host_convert(struct actor *a, u64 first, u64 nr, bool private);

void host_punch(u64 first, u64 nr);

void host_allocate(u64 first, u64 nr);

void make_pipe(struct pin *pin);

void close_pipe(struct pin *pin);

/*
 * Pin pages until they are read from the pipe.  Returns false if the first page can't
 * be pinned.
 */
bool pin_pages(struct pin *pin, void *mem, size_t len);

void unpin_pages(struct pin *pin, void *buf);

/* Check that system calls see private pages as they see unmapped ones. */
void host_syscall(struct actor *a, u64 c);

/* Pin a page that isn't poisoned.  Returns false if the page is private. */
bool host_pin(struct actor *a, struct pinned_cell *p, u64 c);

/* Note that a pinned page is about to leave the file. */
void host_lose_pin(struct pinned_cell *p);

void check_pin(struct pinned_cell *p);

void host_unpin(struct actor *a, struct pinned_cell *p);

/*
 * Assert that a range with a pinned page can't become private.  The conversion fails
 * at that page, or at a page before it that is in use as well.
 */
void host_convert_pinned(struct actor *a, struct pinned_cell *p, u64 first, u64 nr, bool all);

/* Pin a page.  It stays shared, or leaves the file with all that is in it. */
void host_pin_page(struct actor *a, u64 c);

void punch_unit(struct actor *a, struct session *s);

void reach_state(struct actor *a, struct session *s, enum unit_state state, enum unit_op op);

/*
 * Do several things in a row with all of the unit of cell @c locked.  For a while,
 * the actor is alone with the unit, but for actors that don't take locks.
 */
void host_step_unit(struct actor *a, u64 c);

void pause_up_to_us(struct actor *a, u32 us);

void *host_thread(void *data);

void *vcpu_thread(void *data);

void *pin_thread(void *data);

void *longterm_pin_thread(void *data);

/* Map a range, look at it, drop it from the page table, look again, and unmap it. */
void *map_thread(void *data);

void *fork_thread(void *data);

/* Create and delete a memslot, aligned like the file or not.  The guest does not notice. */
void *rebind_thread(void *data);

/* Whether the kernel has all that the next three need, see guest_memfd_stress_walkers.c. */
bool has_walkers(void);

void *walk_thread(void *data);

void *compact_thread(void *data);

void *contig_thread(void *data);

void set_slot(int i, u64 gpa, u64 size);

void run_vcpu(struct kvm_vcpu *vcpu);

#endif /* SELFTEST_KVM_GUEST_MEMFD_STRESS_HOST_H */
