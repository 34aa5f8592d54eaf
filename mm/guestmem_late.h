/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_GUESTMEM_LATE_H
#define _MM_GUESTMEM_LATE_H

#include <linux/atomic.h>
#include <linux/llist.h>
#include <linux/refcount.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

struct guestmem_origin;

/**
 * struct guestmem_late - the late units of one file, which have left it in pieces
 * @refs: one for the file, one for each late unit and one if @work is queued
 * @nr_held: number of units that are late because a piece of them is still in use
 * @nr_back: number of units whose pieces are all back, but that aren't in the pool yet
 * @list: the units whose pieces are all back
 * @work: returns the units of @list to the pool
 * @wait: where tasks wait for @nr_back to become 0
 *
 * The struct outlives the file, as the last reference to a piece may be dropped at any time.
 */
struct guestmem_late {
	refcount_t refs;
	atomic_long_t nr_held;
	atomic_long_t nr_back;
	struct llist_head list;
	struct work_struct work;
	wait_queue_head_t wait;
};

struct guestmem_late *guestmem_late_alloc(void);
void guestmem_late_put(struct guestmem_late *late);
void guestmem_late_add(struct guestmem_late *late, struct guestmem_origin *origin,
		       bool held);
void guestmem_late_sync(struct guestmem_late *late);

#endif /* _MM_GUESTMEM_LATE_H */
