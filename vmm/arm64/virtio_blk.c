// SPDX-License-Identifier: GPL-2.0
/* A disk, which is a file of this process. Requests are done one after the other, at once. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>

#include "arm64.h"

#define SECTOR			512

/* Reads or writes one piece. Returns whether that worked. */
static bool transfer(struct virtio *virtio, const struct piece *piece, __u32 type, __u64 *offset)
{
	const struct virtio_blk_config *config = virtio->config;
	bool is_read = type == VIRTIO_BLK_T_IN;
	ssize_t n;

	/* The file isn't to become larger than the disk. */
	if (piece->write != is_read || piece->size > config->capacity * SECTOR - *offset)
		return false;
	if (piece->write)
		n = pread(virtio->fd, piece->at, piece->size, *offset);
	else
		n = pwrite(virtio->fd, piece->at, piece->size, *offset);
	*offset += piece->size;
	return n == (ssize_t)piece->size;
}

/*
 * Does a request: a header, the data, a byte for the status, in pieces as Linux has them. Returns
 * how much the device has written to memory, or 0 if it has refused the request.
 */
static __u32 do_request(struct virtio *virtio, int queue, struct piece *pieces, int nr)
{
	const struct virtio_blk_config *config = virtio->config;
	struct piece *last = &pieces[nr - 1];
	struct virtio_blk_outhdr header;
	__u32 written = 1;
	bool ok = true;
	__u64 offset;

	if (nr < 2 || pieces[0].size != sizeof(header) || pieces[0].write || !last->write ||
	    last->size != 1) {
		virtio_refuse(virtio, queue);
		return 0;
	}
	memcpy(&header, pieces[0].at, sizeof(header));
	if (header.sector > config->capacity) {
		*(__u8 *)last->at = VIRTIO_BLK_S_IOERR;
		return written;
	}
	offset = header.sector * SECTOR;
	switch (header.type) {
	case VIRTIO_BLK_T_IN:
	case VIRTIO_BLK_T_OUT:
		for (int i = 1; ok && i < nr - 1; i++) {
			ok = transfer(virtio, &pieces[i], header.type, &offset);
			if (pieces[i].write)
				written += pieces[i].size;
			else
				virtio->bytes += pieces[i].size;
		}
		*(__u8 *)last->at = ok ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR;
		return written;
	case VIRTIO_BLK_T_FLUSH:
		*(__u8 *)last->at = fsync(virtio->fd) ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK;
		return written;
	}
	*(__u8 *)last->at = VIRTIO_BLK_S_UNSUPP;
	return written;
}

static void blk_notify(struct virtio *virtio, int queue)
{
	struct piece pieces[MAX_PIECES];
	__u32 written;
	__u16 head;
	int nr;

	while ((nr = virtio_next(virtio, queue, pieces, &head))) {
		written = do_request(virtio, queue, pieces, nr);
		if (written)
			virtio_done(virtio, queue, head, written);
	}
}

void blk_create(struct vm *vm)
{
	static struct virtio_blk_config config;
	struct stat st;
	int fd;

	fd = open(vm->opt->disk, O_RDWR | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		die(errno, NULL, "open(\"%s\")", vm->opt->disk);
	config.capacity = st.st_size / SECTOR;
	config.seg_max = QUEUE_SIZE - 2;
	vm->devices[DISK] = (struct virtio){
		.vm = vm, .name = "disk", .id = VIRTIO_ID_BLOCK, .irq = VIRTIO_SPI + DISK,
		.features = BIT_ULL(VIRTIO_BLK_F_FLUSH) | BIT_ULL(VIRTIO_BLK_F_SEG_MAX),
		.config = &config, .config_size = sizeof(config), .notify = blk_notify, .fd = fd,
	};
}
