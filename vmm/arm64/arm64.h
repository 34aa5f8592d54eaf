/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A small virtual machine monitor for arm64, to read. It boots a Linux as a protected guest of
 * pKVM, all of whose memory is one guest_memfd, or the same Linux as an ordinary guest.
 *
 * The words are those of ../vmm.h: the file, the view, a unit. In addition:
 *
 *   the guest owns   a page that the hypervisor has given to the guest. The host can't access
 *                    the page, and can't convert it unless the guest asks for that.
 *   the pool         the part of the guest's memory that all DMA goes through: the guest shares
 *                    it when it boots (a "restricted-dma-pool" of the device tree).
 *
 * Read main.c to see the steps of a run in their order, then memory.c: what the VMM does when
 * the guest shares memory and takes it back. vm.c has the exits of the vCPUs, virtio*.c the
 * devices.
 */
#ifndef ARM64_VMM_H
#define ARM64_VMM_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include <linux/kvm.h>
#include <linux/types.h>

#include "../util.h"

/* Guest physical addresses. */
#define GIC_DIST_BASE		0x08000000ULL
#define GIC_ITS_BASE		0x08080000ULL
#define GIC_REDIST_BASE		0x080a0000ULL
#define GIC_DIST_SIZE		(64 * KIB)
#define GIC_ITS_SIZE		(128 * KIB)
#define GIC_REDIST_SIZE		(128 * KIB)		/* of each vCPU */
#define SERIAL_BASE		0x09000000ULL
#define MAILBOX_BASE		0x09010000ULL
#define VIRTIO_BASE		0x0a000000ULL
#define VIRTIO_SIZE		0x1000ULL		/* of each device */
#define RAM_BASE		0x40000000ULL
#define POOL_SIZE		(16 * MIB)		/* at the end of the memory */

/* Shared peripheral interrupts, counted from the first one. */
#define SERIAL_SPI		1
#define VIRTIO_SPI		2			/* of the first device */

#define MAX_VCPUS		8

struct options {
	const char *kernel, *initrd, *append, *disk, *tap;
	__u64 memory, page_size;	/* PAGE: no huge pages */
	int vcpus;
	bool protected, its;
	bool greedy;			/* mistakes on purpose: convert without being asked, */
	bool refuses;			/* or don't convert to private */
};

struct vm;

struct vcpu {
	struct vm *vm;
	int index, fd;
	struct kvm_run *run;		/* shared with KVM */
	int run_size;
	pthread_t thread;
	/* The last conversion that failed, and how often in a row. */
	__u64 failed_gpa;
	int failures;
};

/* A virtqueue, as the driver has set it up. */
struct queue {
	__u32 size;
	__u64 desc, avail, used;	/* guest physical addresses */
	__u16 next;			/* of the available ring */
	bool ready;
};

/* A piece of the memory that a request of the driver is made of. */
struct piece {
	void *at;
	__u32 size;
	bool write;			/* the device may write to it */
};

#define MAX_PIECES		70
#define QUEUE_SIZE		64
#define NR_QUEUES		2

struct virtio {
	struct vm *vm;
	const char *name;
	__u32 id, irq;
	__u64 features;			/* without those that all devices have */
	const void *config;
	__u32 config_size;
	/* The driver has put something into a queue. Called with the VM's lock. */
	void (*notify)(struct virtio *virtio, int queue);
	int fd;				/* the disk's file, or the TAP device */
	/* Counted for the report. */
	__u64 requests, bytes, refused;
	/* Registers. */
	__u32 features_sel, driver_features_sel, queue_sel, status, interrupt;
	__u64 driver_features;
	struct queue queues[NR_QUEUES];
};

enum { DISK, NETWORK, NR_DEVICES };

/* The guest has told some of these numbers, the VMM has counted the others. */
struct report {
	int status;			/* -1: the guest told none */
	__u64 verified;
	__u64 shared, unshared;		/* conversions that the guest asked for */
	__u64 converted;		/* pages of these */
	__u64 refused;			/* conversions that failed */
	__u64 answered;			/* pages that the VMM used for the guest */
	__u64 greedy, greedy_worked;	/* conversions that the guest hasn't asked for */
};

struct vm {
	const struct options *opt;
	int kvm_fd, fd, gic_fd, its_fd;
	struct vcpu vcpus[MAX_VCPUS];
	/*
	 * Held for conversions, and while the VMM uses shared memory: a page must not become
	 * private in between, as the next access to it would be a SIGBUS.
	 */
	pthread_mutex_t lock;
	bool done;			/* the guest has ended, see vm_is_done() */
	int gmem_fd;
	__u8 *view;
	__u8 *shared;			/* for each page: is it shared? With the lock. */
	__u64 entry, fdt;		/* guest physical addresses */
	__u64 initrd;
	size_t initrd_size;
	struct virtio devices[NR_DEVICES];
	int echo_fd;			/* a socket on the network, or -1 */
	pthread_t network;
	struct report report;
};

/* memory.c */
void memory_create(struct vm *vm);
void memory_load(struct vm *vm, __u64 gpa, const void *from, size_t size);
void memory_loaded(struct vm *vm);
void *memory_at(struct vm *vm, __u64 gpa, __u64 size);
int memory_convert(struct vm *vm, __u64 gpa, __u64 size, bool private);
__u64 memory_answer(struct vm *vm, __u64 tag);
__u64 memory_reachable(struct vm *vm);
__u64 memory_count_shared(struct vm *vm);
void memory_destroy(struct vm *vm);

/* vm.c */
void vm_create(struct vm *vm);
void vm_create_vcpus(struct vm *vm);
void vm_create_gic(struct vm *vm);
void vm_run(struct vm *vm);
bool vm_is_done(struct vm *vm);
void vm_set_irq(struct vm *vm, int spi, bool level);
void vm_destroy(struct vm *vm);

/* load.c */
void load_linux(struct vm *vm);

/* fdt.c */
void fdt_build(struct vm *vm);

/* virtio.c */
void virtio_access(struct virtio *virtio, __u32 offset, bool write, void *data, int size);
void virtio_refuse(struct virtio *virtio, int queue);
int virtio_next(struct virtio *virtio, int queue, struct piece *pieces, __u16 *head);
void virtio_done(struct virtio *virtio, int queue, __u16 head, __u32 written);

/* virtio_blk.c, virtio_net.c */
void blk_create(struct vm *vm);
void net_create(struct vm *vm);
void net_start(struct vm *vm);
void net_stop(struct vm *vm);

/* report.c */
struct entries {
	__u64 owned_2m, owned_4k, shared_4k, poisoned, disagree;
};

bool report_entries(struct vm *vm, struct entries *entries);
void report_map(struct vm *vm, const char *when);
int report_check(struct vm *vm);

#endif /* ARM64_VMM_H */
