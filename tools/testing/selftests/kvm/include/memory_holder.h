/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Holders of references to user memory, for as long as a test likes: pins for DMA, as
 * gup_test makes them, pages in a pipe, and fixed buffers of io_uring.
 */
#ifndef SELFTEST_KVM_MEMORY_HOLDER_H
#define SELFTEST_KVM_MEMORY_HOLDER_H

#include "test_util.h"

#define GUP_TEST	"/sys/kernel/debug/gup_test"
#define HOLDER_PAGES	64

#define NEEDS_GUP_TEST	"needs root, debugfs and CONFIG_GUP_TEST"

/* A holder's file descriptors and, for a pipe, the number of pages that it holds. */
struct holder {
	int fd[2];
	int nr;
};

/* A way to hold pages.  The functions return false if that isn't possible. */
struct holder_ops {
	bool (*open)(struct holder *h);
	bool (*hold)(struct holder *h, void *mem, int nr);
	/* NULL if there is no way to read held pages. */
	void (*read)(struct holder *h, void *to);
	void (*release)(struct holder *h);
};

extern const struct holder_ops holder_longterm_read, holder_longterm_write, holder_longterm_fast,
			       holder_vmsplice, holder_io_uring;

bool gup_open(struct holder *h);
bool gup_hold_write(struct holder *h, void *mem, int nr);
/* Read the pages that are pinned, which may have left the file by now. */
void gup_read(struct holder *h, void *to);
void gup_release(struct holder *h);

bool vmsplice_open(struct holder *h);
/* Put @nr pages into a pipe.  If not all of them go in, take them out again and return false. */
bool vmsplice_hold(struct holder *h, void *mem, int nr);
/* Put a page into a new pipe. */
void vmsplice_open_and_hold(struct holder *h, void *mem);
void vmsplice_release(struct holder *h);

bool io_uring_open(struct holder *h);
bool io_uring_hold(struct holder *h, void *mem, int nr);

#endif /* SELFTEST_KVM_MEMORY_HOLDER_H */
