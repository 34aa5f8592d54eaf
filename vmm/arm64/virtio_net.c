// SPDX-License-Identifier: GPL-2.0
/*
 * A network card, whose other end is a TAP device of the host, and something to talk to: a UDP
 * socket on that network that sends back the complement of what it gets.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <poll.h>
#include <unistd.h>

#include <linux/if_tun.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>

#include "../guest/mailbox.h"
#include "arm64.h"

enum { RECEIVE, TRANSMIT };

#define POLL_MSEC		100

static int to_iovec(const struct piece *pieces, int nr, struct iovec *iov, bool write)
{
	int count = 0;

	for (int i = 0; i < nr; i++)
		if (pieces[i].write == write)
			iov[count++] = (struct iovec){ pieces[i].at, pieces[i].size };
	return count;
}

static void transmit(struct virtio *virtio)
{
	struct piece pieces[MAX_PIECES];
	struct iovec iov[MAX_PIECES];
	__u16 head;
	int nr;

	while ((nr = virtio_next(virtio, TRANSMIT, pieces, &head))) {
		ssize_t n = writev(virtio->fd, iov, to_iovec(pieces, nr, iov, false));

		/* A packet that the TAP device doesn't take is lost, as on any network. */
		if (n > 0)
			virtio->bytes += n;
		virtio_done(virtio, TRANSMIT, head, 0);
	}
}

/* Hands packets to the driver, for as long as there are both packets and buffers. */
static void receive(struct virtio *virtio)
{
	struct pollfd pollfd = { .fd = virtio->fd, .events = POLLIN };
	struct piece pieces[MAX_PIECES];
	struct iovec iov[MAX_PIECES];
	__u16 head;

	while (poll(&pollfd, 1, 0) == 1) {
		int nr = virtio_next(virtio, RECEIVE, pieces, &head);
		struct virtio_net_hdr_v1 *header;
		ssize_t n;

		if (!nr)
			return;
		n = readv(virtio->fd, iov, to_iovec(pieces, nr, iov, true));
		/* The TAP device leaves this to us. */
		header = pieces[0].at;
		if (pieces[0].write && pieces[0].size >= sizeof(*header))
			header->num_buffers = 1;
		virtio_done(virtio, RECEIVE, head, n > 0 ? n : 0);
	}
}

static void net_notify(struct virtio *virtio, int queue)
{
	if (queue == TRANSMIT)
		transmit(virtio);
	else
		receive(virtio);
}

static int open_tap(const char *name)
{
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	int size = sizeof(struct virtio_net_hdr_v1);
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };

	if (fd < 0)
		die(errno, "needs a kernel with CONFIG_TUN", "open(\"/dev/net/tun\")");
	snprintf(ifr.ifr_name, IFNAMSIZ, "%s", name);
	if (ioctl(fd, TUNSETIFF, &ifr) < 0)
		die(errno, NULL, "TUNSETIFF(\"%s\")", name);
	if (ioctl(fd, TUNSETVNETHDRSZ, &size) < 0)
		die(errno, NULL, "TUNSETVNETHDRSZ(%d)", size);
	return fd;
}

/* Gives the host its address on that network, and returns a socket there. */
static int configure_host(const char *name)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(HOST_ADDRESS),
	};
	struct ifreq ifr = {};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die(errno, NULL, "socket()");
	snprintf(ifr.ifr_name, IFNAMSIZ, "%s", name);
	memcpy(&ifr.ifr_addr, &address, sizeof(address));
	if (ioctl(fd, SIOCSIFADDR, &ifr) < 0)
		die(errno, NULL, "SIOCSIFADDR(\"%s\")", name);
	address.sin_addr.s_addr = htonl(0xffffff00);
	memcpy(&ifr.ifr_netmask, &address, sizeof(address));
	if (ioctl(fd, SIOCSIFNETMASK, &ifr) < 0)
		die(errno, NULL, "SIOCSIFNETMASK(\"%s\")", name);
	ifr.ifr_flags = IFF_UP | IFF_RUNNING;
	if (ioctl(fd, SIOCSIFFLAGS, &ifr) < 0)
		die(errno, NULL, "SIOCSIFFLAGS(\"%s\", IFF_UP)", name);
	address.sin_addr.s_addr = htonl(HOST_ADDRESS);
	address.sin_port = htons(ECHO_PORT);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		die(errno, NULL, "bind(port %d)", ECHO_PORT);
	return fd;
}

static void echo(struct vm *vm)
{
	struct sockaddr_in from;
	socklen_t len = sizeof(from);
	__u8 packet[2048];
	ssize_t n;

	n = recvfrom(vm->echo_fd, packet, sizeof(packet), MSG_DONTWAIT,
		     (struct sockaddr *)&from, &len);
	for (ssize_t i = 0; i < n; i++)
		packet[i] = ~packet[i];
	if (n > 0)
		sendto(vm->echo_fd, packet, n, 0, (struct sockaddr *)&from, len);
}

static void *run_network(void *arg)
{
	struct vm *vm = arg;
	struct pollfd pollfds[] = {
		{ .fd = vm->devices[NETWORK].fd, .events = POLLIN },
		{ .fd = vm->echo_fd, .events = POLLIN },
	};

	while (!vm_is_done(vm)) {
		if (poll(pollfds, ARRAY_SIZE(pollfds), POLL_MSEC) <= 0)
			continue;
		if (pollfds[1].revents)
			echo(vm);
		if (!pollfds[0].revents)
			continue;
		pthread_mutex_lock(&vm->lock);
		receive(&vm->devices[NETWORK]);
		pthread_mutex_unlock(&vm->lock);
		/* Without a buffer, the packet stays where it is: give the driver some time. */
		usleep(1000);
	}
	return NULL;
}

void net_create(struct vm *vm)
{
	static const struct virtio_net_config config = {
		.mac = { 0x02, 0x67, 0x6d, 0x65, 0x6d, 0x01 }, .status = VIRTIO_NET_S_LINK_UP,
	};

	vm->devices[NETWORK] = (struct virtio){
		.vm = vm, .name = "network", .id = VIRTIO_ID_NET, .irq = VIRTIO_SPI + NETWORK,
		.features = BIT_ULL(VIRTIO_NET_F_MAC) | BIT_ULL(VIRTIO_NET_F_STATUS),
		.config = &config, .config_size = sizeof(config), .notify = net_notify,
		.fd = open_tap(vm->opt->tap),
	};
	vm->echo_fd = configure_host(vm->opt->tap);
}

void net_start(struct vm *vm)
{
	if (pthread_create(&vm->network, NULL, run_network, vm))
		die(0, NULL, "no thread for the network");
}

/* Waits for the thread, which ends a moment after the guest. */
void net_stop(struct vm *vm)
{
	pthread_join(vm->network, NULL);
	close(vm->echo_fd);
	close(vm->devices[NETWORK].fd);
}
