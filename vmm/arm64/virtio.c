// SPDX-License-Identifier: GPL-2.0
/*
 * virtio by MMIO, version 2 (Virtual I/O Device 1.2, 4.2), with split virtqueues.
 *
 * The driver has to accept VIRTIO_F_ACCESS_PLATFORM: then it uses the addresses that the DMA API
 * returns, which are in the pool. All that a driver tells is checked: a queue or a buffer that
 * isn't in shared memory is refused, because the VMM can't access it.
 */
#include <string.h>

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>

#include "arm64.h"

#define MAGIC			0x74726976	/* "virt" */
#define VENDOR			0x6d656d67	/* "gmem" */

#define COMMON_FEATURES		(BIT_ULL(VIRTIO_F_VERSION_1) | BIT_ULL(VIRTIO_F_ACCESS_PLATFORM))

static struct queue *selected(struct virtio *virtio)
{
	return virtio->queue_sel < NR_QUEUES ? &virtio->queues[virtio->queue_sel] : NULL;
}

static void update_irq(struct virtio *virtio)
{
	vm_set_irq(virtio->vm, virtio->irq, virtio->interrupt);
}

static void reset(struct virtio *virtio)
{
	virtio->status = 0;
	virtio->interrupt = 0;
	virtio->driver_features = 0;
	memset(virtio->queues, 0, sizeof(virtio->queues));
	update_irq(virtio);
}

static __u32 read_register(struct virtio *virtio, __u32 offset)
{
	__u64 features = virtio->features | COMMON_FEATURES;
	struct queue *queue = selected(virtio);

	switch (offset) {
	case VIRTIO_MMIO_MAGIC_VALUE:
		return MAGIC;
	case VIRTIO_MMIO_VERSION:
		return 2;
	case VIRTIO_MMIO_DEVICE_ID:
		return virtio->id;
	case VIRTIO_MMIO_VENDOR_ID:
		return VENDOR;
	case VIRTIO_MMIO_DEVICE_FEATURES:
		return virtio->features_sel > 1 ? 0 : features >> (32 * virtio->features_sel);
	case VIRTIO_MMIO_QUEUE_NUM_MAX:
		return queue ? QUEUE_SIZE : 0;
	case VIRTIO_MMIO_QUEUE_READY:
		return queue && queue->ready;
	case VIRTIO_MMIO_INTERRUPT_STATUS:
		return virtio->interrupt;
	case VIRTIO_MMIO_STATUS:
		return virtio->status;
	case VIRTIO_MMIO_SHM_LEN_LOW:
	case VIRTIO_MMIO_SHM_LEN_HIGH:
		return ~0U;		/* there is no such region */
	}
	return 0;
}

static void set_low(__u64 *address, __u32 value)
{
	*address = (*address & ~0xffffffffULL) | value;
}

static void set_high(__u64 *address, __u32 value)
{
	*address = (*address & 0xffffffffULL) | (__u64)value << 32;
}

/* Sizes are powers of 2, so that the indices can wrap around; the rings are aligned. */
static bool queue_is_valid(const struct queue *queue)
{
	return queue->size && queue->size <= QUEUE_SIZE && !(queue->size & (queue->size - 1)) &&
	       !(queue->desc % 16) && !(queue->avail % 2) && !(queue->used % 4);
}

static void write_queue(struct queue *queue, __u32 offset, __u32 value)
{
	/* The driver has to give up a queue before it changes the queue. */
	if (queue->ready && offset != VIRTIO_MMIO_QUEUE_READY)
		return;

	switch (offset) {
	case VIRTIO_MMIO_QUEUE_NUM:
		queue->size = value;
		break;
	case VIRTIO_MMIO_QUEUE_DESC_LOW:
		set_low(&queue->desc, value);
		break;
	case VIRTIO_MMIO_QUEUE_DESC_HIGH:
		set_high(&queue->desc, value);
		break;
	case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
		set_low(&queue->avail, value);
		break;
	case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
		set_high(&queue->avail, value);
		break;
	case VIRTIO_MMIO_QUEUE_USED_LOW:
		set_low(&queue->used, value);
		break;
	case VIRTIO_MMIO_QUEUE_USED_HIGH:
		set_high(&queue->used, value);
		break;
	case VIRTIO_MMIO_QUEUE_READY:
		queue->ready = value && queue_is_valid(queue);
		break;
	}
}

static void write_register(struct virtio *virtio, __u32 offset, __u32 value)
{
	struct queue *queue = selected(virtio);

	switch (offset) {
	case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
		virtio->features_sel = value;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
		virtio->driver_features_sel = value;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES:
		if (virtio->driver_features_sel == 1)
			set_high(&virtio->driver_features, value);
		else if (!virtio->driver_features_sel)
			set_low(&virtio->driver_features, value);
		break;
	case VIRTIO_MMIO_QUEUE_SEL:
		virtio->queue_sel = value;
		break;
	case VIRTIO_MMIO_QUEUE_NOTIFY:
		if (value < NR_QUEUES)
			virtio->notify(virtio, value);
		break;
	case VIRTIO_MMIO_INTERRUPT_ACK:
		virtio->interrupt &= ~value;
		update_irq(virtio);
		break;
	case VIRTIO_MMIO_STATUS:
		if (!value) {
			reset(virtio);
			break;
		}
		/* The driver looks whether this bit stays. */
		if ((virtio->driver_features & COMMON_FEATURES) != COMMON_FEATURES ||
		    virtio->driver_features & ~(virtio->features | COMMON_FEATURES))
			value &= ~VIRTIO_CONFIG_S_FEATURES_OK;
		virtio->status = value;
		break;
	default:
		if (queue)
			write_queue(queue, offset, value);
	}
}

/* Called with the VM's lock. */
void virtio_access(struct virtio *virtio, __u32 offset, bool write, void *data, int size)
{
	__u32 value = 0;

	if (!virtio->name) {
		/* "No device": the magic value alone. */
		if (!write) {
			value = offset == VIRTIO_MMIO_MAGIC_VALUE ? MAGIC : 0;
			memcpy(data, &value, size < 4 ? size : 4);
		}
		return;
	}
	if (offset >= VIRTIO_MMIO_CONFIG) {
		offset -= VIRTIO_MMIO_CONFIG;
		if (!write) {
			memset(data, 0, size);
			if (offset + size <= virtio->config_size)
				memcpy(data, virtio->config + offset, size);
		}
		return;
	}
	if (size != sizeof(value))
		return;
	if (write) {
		memcpy(&value, data, size);
		write_register(virtio, offset, value);
	} else {
		value = read_register(virtio, offset);
		memcpy(data, &value, size);
	}
}

/*
 * The driver has told something that can't be: a queue or a buffer in memory that it doesn't
 * share, for example. The device doesn't work any more until the driver resets it.
 */
void virtio_refuse(struct virtio *virtio, int nr)
{
	virtio->refused++;
	virtio->queues[nr].ready = false;
	virtio->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	virtio->interrupt |= VIRTIO_MMIO_INT_CONFIG;
	update_irq(virtio);
}

/* Reads the pieces of a request. Returns how many there are, or 0 if that can't be. */
static int read_pieces(struct virtio *virtio, const struct queue *queue,
		       const volatile struct vring_desc *table, __u16 i, struct piece *pieces)
{
	struct vring_desc desc;
	int count = 0;

	do {
		if (i >= queue->size || count == MAX_PIECES)
			return 0;
		/* The guest may change it meanwhile: look at a copy. */
		desc = table[i];
		pieces[count].at = memory_at(virtio->vm, desc.addr, desc.len);
		pieces[count].size = desc.len;
		pieces[count].write = desc.flags & VRING_DESC_F_WRITE;
		if (!pieces[count].at || (desc.flags & VRING_DESC_F_INDIRECT))
			return 0;
		count++;
		i = desc.next;
	} while (desc.flags & VRING_DESC_F_NEXT);

	return count;
}

/*
 * Takes the next request that the driver has made available. Returns how many pieces it has, or 0
 * if there is no request, or none that the device can do.
 */
int virtio_next(struct virtio *virtio, int nr, struct piece *pieces, __u16 *head)
{
	struct queue *queue = &virtio->queues[nr];
	struct vring_avail *avail;
	struct vring_desc *table;
	__u16 waiting;
	int count;

	if (!queue->ready)
		return 0;
	avail = memory_at(virtio->vm, queue->avail, sizeof(*avail) + queue->size * sizeof(__u16));
	table = memory_at(virtio->vm, queue->desc, queue->size * sizeof(*table));
	if (!avail || !table) {
		virtio_refuse(virtio, nr);
		return 0;
	}
	waiting = __atomic_load_n(&avail->idx, __ATOMIC_ACQUIRE) - queue->next;
	if (!waiting)
		return 0;

	*head = avail->ring[queue->next++ % queue->size];
	count = waiting > queue->size ? 0 : read_pieces(virtio, queue, table, *head, pieces);
	if (!count)
		virtio_refuse(virtio, nr);
	return count;
}

/* Tells the driver that a request is done, by which @written bytes were written to memory. */
void virtio_done(struct virtio *virtio, int nr, __u16 head, __u32 written)
{
	struct queue *queue = &virtio->queues[nr];
	struct vring_used *used;

	used = memory_at(virtio->vm, queue->used,
			 sizeof(*used) + queue->size * sizeof(used->ring[0]));
	if (!used) {
		virtio_refuse(virtio, nr);
		return;
	}
	used->ring[used->idx % queue->size] = (struct vring_used_elem){
		.id = head, .len = written,
	};
	__atomic_store_n(&used->idx, used->idx + 1, __ATOMIC_RELEASE);
	virtio->requests++;
	virtio->bytes += written;
	virtio->interrupt |= VIRTIO_MMIO_INT_VRING;
	update_irq(virtio);
}
