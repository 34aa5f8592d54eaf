/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A small virtual machine monitor, to read.
 *
 * The words, used the same way everywhere:
 *
 *   ordinary memory  the slot at guest physical address 0, plain anonymous memory of
 *                    this process. Kernel, page tables and whatever KVM itself reads
 *                    or writes for the guest live there.
 *   private memory   the slot at PRIVATE_BASE, a guest_memfd. At first, all pages of it are
 *                    private, and this process can't access them. Pages become shared
 *                    when the guest asks for that.
 *   shared memory    instead of both (--shared): one slot at address 0, a guest_memfd
 *                    that is shared all over. The guest is a guest like any other.
 *   the file         that guest_memfd.
 *   the view         the file, mapped into this process once and for all. This process can
 *                    use shared pages through the view; a private page gives a SIGBUS.
 *   a unit           the memory that the file allocates at a time: a 1G or 2M page from
 *                    the hugetlb pool, or a 4K page without huge pages.
 *   a piece          a folio that the host's kernel has made of a unit: the unit itself, or
 *                    the largest blocks that are all private, or all shared. A page that
 *                    this process has used is a piece of its own, in shared memory a unit.
 *   a block          2M of the file, one cell of the map.
 *
 * Read main.c to see the steps of a run in their order, then memory.c, which is the main
 * part of this program. README.md has the whole tour.
 */
#ifndef VMM_H
#define VMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include <linux/kvm.h>
#include <linux/types.h>

#include "util.h"

/* Above all that 32 bits can address, and aligned for the largest page. */
#define PRIVATE_BASE		(4 * GIB)
#define PRIVATE_MAX		(64 * GIB)

enum { SLOT_LOW, SLOT_PRIVATE };

/* pool.c: one size of the hugetlb pool, read from sysfs. */
struct pool {
	bool there;		/* false: the kernel has no pages of this size */
	long total, free, reserved, surplus;
};

struct pool pool_read(__u64 page_size);
bool pool_same(const struct pool *a, const struct pool *b);
long meminfo_kib(const char *field);

/* stats.c: the counters in the binary statistics files that this program uses. */
struct stats {
	__s64 pages_1g, pages_2m, pages_4k;		/* VM: pages mapped now */
	__s64 pf_taken, pf_fixed, exits;		/* vCPU: since its creation */
};

void stats_read(int vm_fd, int vcpu_fd, struct stats *stats);
void stats_print(FILE *out, const char *title, int fd);

/* serial.c: a 16550, transmit only. */
struct serial {
	int vm_fd;
	FILE *out;
	const char *prefix;	/* printed before each line */
	bool in_line;
	bool tx_empty;		/* an interrupt for "transmitter empty" is due */
	__u8 regs[8];
};

#define SERIAL_PORT		0x3f8
void serial_io(struct serial *serial, int reg, bool is_write, __u8 *data);

/* Negative controls: mistakes that a VMM could make, and that the checks must find. */
enum mistake {
	NO_MISTAKE,
	MISTAKE_SHARED,		/* memory starts shared, and stays so */
	MISTAKE_ORDINARY,	/* the slot forgets the file */
	MISTAKE_DEAF,		/* the VMM says "converted" and does nothing */
	MISTAKE_SMALL,		/* the view is mapped by 4K pages, and used all over */
};

/* The options of the command line. */
struct options {
	const char *kernel, *initrd, *append;
	const char *payload;	/* instead of a kernel */
	__u64 memory;	/* at address 0: ordinary, or shared */
	bool shared;
	bool populate;	/* write all of shared memory first */
	__u64 private;	/* 0: none */
	__u64 page_size;	/* of the file; PAGE: no huge pages */
	enum mistake mistake;
	bool stats;		/* dump every counter KVM has */
};

/* All measurements of the life of one guest. */
struct report {
	__u64 size, page_size;	/* of the file */
	bool shared;		/* the file is all of the guest's memory, and shared */
	int status;			/* told by the guest, -1: it told none */
	__u64 verified;		/* pages that the guest says it has verified */
	double seconds;
	struct pool before, created, during, after;
	long unevictable;		/* KiB more than before the guest ran */
	struct stats total;		/* over the life of the guest */
	struct stats mapped;		/* pages_*: of the file's slot alone */
	__u64 reachable;		/* pages of private memory that this process can read */
	__u64 loaded;			/* pages of shared memory used to load the guest */
	__u64 conversions, converted;	/* asked for by the guest; pages of those done */
	__u64 retries, refused, wrong_offsets;
	bool has_map;
	__u16 map[PRIVATE_MAX / BLOCK];	/* pages the file has in each block */
	int layouts, wrong_layouts;	/* drawn for the guest; those that were wrong */
	struct layout *layout;		/* of shared memory, when the guest was done */
};

struct vm {
	const struct options *opt;
	int kvm_fd, fd, vcpu_fd;
	struct kvm_run *run;	/* shared with KVM */
	int run_size;
	__u8 *memory;		/* guest physical address 0 */
	int gmem_fd;		/* -1: none */
	__u64 file_size;
	__u8 *view;		/* of the file */
	__u8 *shared;		/* for each page of the file: is it shared? */
	struct serial serial;
	struct stats start, last;	/* before the guest ran; when a layout was drawn */
	__u32 host_page;
	__s32 host_result;	/* guest/port.h: of the last request to the host */
	__u64 payload_entry;
	int pin[2];		/* a pipe that holds on to a page; pin[0] is 0: none */
	__u64 pinned;		/* its offset in the file */
	struct report *report;
};

/* vm.c: /dev/kvm, the VM, the vCPU, and its exits. */
void vm_create(struct vm *vm);
void vm_create_vcpu(struct vm *vm);
void vm_run(struct vm *vm);
int vm_check(int fd, int capability);

/* memory.c: the slots. */
void memory_add_ordinary(struct vm *vm);
void memory_populate_ordinary(struct vm *vm);
void memory_add_private(struct vm *vm);
void memory_add_shared(struct vm *vm);
void memory_populate_shared(struct vm *vm);
void memory_remove_file(struct vm *vm);
void memory_destroy(struct vm *vm);
__u64 memory_reachable(__u8 *view, __u64 size);
bool memory_map_units(int gmem_fd, __u64 size, __u16 *map);

/* convert.c: conversions for the guest, and the host's use of shared pages. */
__s64 convert_hypercall(struct vm *vm);
int convert_host_do(struct vm *vm, int what, __u64 page);

/* layout.c: the pieces of the file's units, as the kernel says and as they should be. */
struct layout {
	__u64 pages;		/* of the file */
	__u64 unit;		/* in pages */
	bool told;		/* false: the kernel does not say, order[] is as it should be */
	__u64 wrong;		/* pages that are in another piece than they should be */
	__u8 *order;		/* for each page: the piece it is part of has 2^order pages */
	__u8 *state;		/* for each page: one of these: */
};

enum { PAGE_PRIVATE, PAGE_SHARED, PAGE_HOST /* shared, and mapped by this process */ };

struct layout *layout_read(struct vm *vm);
void layout_free(struct layout *layout);
__u64 layout_pieces(const struct layout *layout, __u64 page, __u64 nr);
__u64 layout_count(const struct layout *layout, __u64 page, __u64 nr, int state);
void layout_mapping(const struct layout *layout, struct stats *stats);
void layout_cells(const struct layout *layout, __u64 page, __u64 nr, __u64 pages_per_cell,
		  bool shared, char *cells);
void layout_list(FILE *out, const struct layout *layout, __u64 page, __u64 nr);

/* x86.c: from a bzImage to a vCPU that is about to execute its first instruction. */
void x86_load_linux(struct vm *vm);
void x86_setup_vcpu(struct vm *vm);

/* payload.c: a program in 64-bit mode instead of a Linux. */
void payload_load(struct vm *vm);
void payload_setup_registers(struct vm *vm);

/* report.c: the output of the measurements. */
void report_pool(FILE *out, const char *when, const struct pool *pool, const char *what);
void report_file(FILE *out, const struct report *report);
void report_unit(struct vm *vm, __u64 page);
void report_table(FILE *out, const struct report *reports, int nr);
int report_check(FILE *out, const struct report *report);

#endif /* VMM_H */
