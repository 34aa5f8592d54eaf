/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The environment of guest_memfd_fail_nth_test: a file with contents in a memslot,
 * a guest that reads the contents, and the checks that all of it is as it should
 * be.
 */
#ifndef SELFTEST_KVM_GUEST_MEMFD_FAIL_NTH_H
#define SELFTEST_KVM_GUEST_MEMFD_FAIL_NTH_H

#include "fail_nth.h"
#include "guest_memfd_util.h"

/* The file has many of the blocks in which the kernel stores the state, whatever their size is. */
#define SMALL_SIZE		(2ULL * SZ_1G)
/* The page cache needs another node for the last units. */
#define HUGE_UNITS		12

/* The guest reads this value where there is no memslot. */
#define NO_MEMSLOT		0x6f6e206d656d6f72ull
#define STAMP(index)		(0x7a6a000000000000ull + (index))

/* Pages that the test looks at.  Some have contents, others are holes. */
struct probe {
	u64 index;
	bool hole;
};

struct range {
	u64 first, nr;
};

/* A conversion, and the state of the file before it.  Ranges are in pages. */
struct conversion {
	const char *name;
	bool init_private;
	/* These ranges aren't in the initial state of the file. */
	struct range other[4];
	struct range range;
	bool to_private;
};

/* All operations work on this. */
struct context {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	struct hugetlb_pool pool;
	const struct probe *probes;
	int nr_probes;
	size_t unit, size;
	bool huge;
	int fd;
	char *mem;
	/* For the current operation. */
	const struct conversion *conversion;
	u64 error_offset;
	u64 offset, len;
	bool may_efault;
	int new_fd, nr_fds;
	int pipe[2];
	long nr_cached;
	long nr_mapped;
	/* The page that has failed. */
	u64 pfn;
	/* How huge pages are split. */
	char *layout;
};

/* Do nothing but KVM_RUN, as allocations fail meanwhile.  Returns 0 or a negative errno. */
int enter_guest(struct context *ctx);

/* Have the guest read a page, when it runs next, and find @val. */
void request_read(struct context *ctx, u64 index, u64 val);

/* Let the guest write or check all pages with contents. */
void guest_do_probes(struct context *ctx, bool write);

void guest_read(struct context *ctx, u64 index, u64 val);

/* Return how much of the file is allocated, in pages. */
long nr_cached(struct context *ctx);

long nr_mapped(struct context *ctx);

/* Assert that each unit of the file is either allocated or reserved. */
void assert_reservation(struct context *ctx);

void set_slot(struct context *ctx);

/* Create a VM whose guest has not run, and a private file in a memslot. */
void create_file(struct context *ctx);

/* As above, and fill the file with contents. */
void create_context(struct context *ctx, bool huge);

void destroy_context(struct context *ctx);

void assert_file(struct context *ctx, bool (*private)(const struct conversion *c, u64 i));

long nr_injected(const char *kind);

/* Find a function of the kernel, and where the next one starts. */
bool find_function(const char *name, unsigned long *start, unsigned long *end);

/* Have allocations of one kind fail that a function makes, in any task or only in some. */
void fail_in(const char *kind, unsigned long start, unsigned long end, bool any_task);

bool is_in(const struct range *r, u64 i);

bool was_private(const struct conversion *c, u64 i);

bool becomes_private(const struct conversion *c, u64 i);

/* Conversions, and the number of them that there are for each kind of file. */
#define NR_CONVERSIONS	16
extern const struct conversion small_conversions[NR_CONVERSIONS];
extern const struct conversion huge_conversions[NR_CONVERSIONS];

extern const struct fail_nth_op op_create, op_bind, op_unbind, op_convert, op_allocate, op_punch,
				op_guest_fault, op_prefault, op_first_fault,
				op_host_fault, op_huge_host_fault, op_host_syscall, op_host_pin,
				op_fault_beside_poison, op_convert_beside_poison;

/*
 * Let a page fail in a huge page that is whole, i.e. has no struct pages for its tails.  The
 * host can't tell which huge page it is.  So it looks at one, gives it back, and the file
 * gets it again.
 */
void prepare_poison_without_vmemmap(struct context *ctx);

/* Punch the huge page, wait until the pool has lost it, and let another one replace it. */
void replace_lost_unit(struct context *ctx);

/*
 * The worker that takes huge pages out of the pool lacks memory for struct pages.  The pool
 * keeps the huge page meanwhile, and loses it afterwards.
 */
void check_lost_is_retried(struct context *ctx);

#endif /* SELFTEST_KVM_GUEST_MEMFD_FAIL_NTH_H */
