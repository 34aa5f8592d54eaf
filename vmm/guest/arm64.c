// SPDX-License-Identifier: GPL-2.0
/*
 * The init program of a guest of the arm64 VMM: uses all that the guest has, and verifies it.
 *
 *   memory    as much as is free: writes two words of each page, verifies them at the end
 *   disk      reads all of it, which has a pattern, writes half of it anew, reads that
 *   network   sends packets to the VMM, which sends back their complement
 *   sharing   has the kernel share pages, one by one and 64M at once, which the VMM then uses, and
 *             take them back. The DMA heap system_cc_shared does that in a protected guest.
 *
 * A failure ends the guest: the mailbox (mailbox.h) tells the VMM.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <linux/dma-heap.h>
#include <linux/fs.h>
#include <linux/types.h>

#include "mailbox.h"

#define PAGE		4096UL
#define WORDS		(PAGE / sizeof(__u64))
#define CHUNK		(256 * 1024UL)
#define NR_SINGLE	64
#define LARGE		(64 * 1024 * 1024UL)
#define SHARED_TAG	0x7368617265640000ULL
#define NR_PACKETS	64

static volatile __u64 *mailbox;

static void tell(int reg, __u64 value)
{
	mailbox[reg / sizeof(*mailbox)] = value;
}

static void __attribute__((noreturn)) finish(int status)
{
	fflush(stdout);
	/* The console's output must be out before the VMM ends us. */
	usleep(100000);
	if (mailbox)
		tell(MAILBOX_STATUS, status);
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

static void __attribute__((noreturn)) fail(const char *what)
{
	printf("init: %s: %s\n", what, strerror(errno));
	finish(1);
}

static void mount_at(const char *type, const char *dir)
{
	mkdir(dir, 0755);
	if (mount(type, dir, type, 0, NULL) < 0 && errno != EBUSY)
		fail(dir);
}

static void open_mailbox(void)
{
	const char *address = getenv("mailbox");
	int fd = open("/dev/mem", O_RDWR | O_SYNC);

	if (!address || fd < 0)
		fail("no mailbox= on the command line, or no /dev/mem");
	mailbox = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		       strtoul(address, NULL, 0));
	if (mailbox == MAP_FAILED) {
		mailbox = NULL;
		fail("mmap(/dev/mem)");
	}
	close(fd);
}

static unsigned long available_kib(void)
{
	FILE *file = fopen("/proc/meminfo", "r");
	unsigned long kib = 0;
	char line[128];

	while (file && !kib && fgets(line, sizeof(line), file))
		sscanf(line, "MemAvailable: %lu", &kib);
	if (!kib)
		fail("/proc/meminfo");
	fclose(file);
	return kib;
}

static __u64 pattern(__u64 index)
{
	return (index + 1) * DISK_FACTOR;
}

static __u64 *write_memory(__u64 pages)
{
	__u64 *words = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			    -1, 0);

	if (words == MAP_FAILED)
		fail("mmap(memory)");
	for (__u64 i = 0; i < pages; i++) {
		words[i * WORDS] = pattern(i);
		words[i * WORDS + WORDS - 1] = ~pattern(i);
	}
	return words;
}

static void verify_memory(const __u64 *words, __u64 pages)
{
	for (__u64 i = 0; i < pages; i++) {
		if (words[i * WORDS] != pattern(i) || words[i * WORDS + WORDS - 1] != ~pattern(i)) {
			printf("init: page %llu isn't what it was\n", i);
			finish(1);
		}
	}
	tell(MAILBOX_VERIFIED, pages);
	printf("verified %llu pages\n", pages);
}

/* Reads or writes a part of the disk, not of the page cache. */
static void disk_io(int fd, __u64 *buffer, __u64 offset, __u64 invert, int write)
{
	ssize_t n;

	for (__u64 i = 0; write && i < CHUNK / sizeof(*buffer); i++)
		buffer[i] = (offset + i * sizeof(*buffer)) * DISK_FACTOR ^ invert;
	n = write ? pwrite(fd, buffer, CHUNK, offset) : pread(fd, buffer, CHUNK, offset);
	if (n != (ssize_t)CHUNK)
		fail(write ? "writing to the disk" : "reading the disk");
	for (__u64 i = 0; !write && i < CHUNK / sizeof(*buffer); i++) {
		if (buffer[i] != ((offset + i * sizeof(*buffer)) * DISK_FACTOR ^ invert)) {
			printf("init: the disk is wrong at 0x%llx\n", offset + i * sizeof(*buffer));
			finish(1);
		}
	}
}

static void use_disk(void)
{
	int fd = open("/dev/vda", O_RDWR | O_DIRECT);
	__u64 size, offset, *buffer;

	if (fd < 0) {
		printf("no disk\n");
		return;
	}
	if (ioctl(fd, BLKGETSIZE64, &size) < 0 || posix_memalign((void **)&buffer, PAGE, CHUNK))
		fail("the disk's size");
	size -= size % CHUNK;
	for (offset = 0; offset < size; offset += CHUNK)
		disk_io(fd, buffer, offset, 0, 0);
	for (offset = 0; offset < size / 2; offset += CHUNK)
		disk_io(fd, buffer, offset, ~0ULL, 1);
	if (fsync(fd) < 0)
		fail("fsync(disk)");
	for (offset = 0; offset < size; offset += CHUNK)
		disk_io(fd, buffer, offset, offset < size / 2 ? ~0ULL : 0, 0);
	free(buffer);
	close(fd);
	printf("disk: read %llu KiB, wrote and read again %llu KiB\n", size / 1024, size / 2048);
}

static void configure_network(int fd)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(GUEST_ADDRESS),
	};
	struct ifreq ifr = { .ifr_name = "eth0" };

	memcpy(&ifr.ifr_addr, &address, sizeof(address));
	if (ioctl(fd, SIOCSIFADDR, &ifr) < 0)
		fail("the address of eth0");
	address.sin_addr.s_addr = htonl(0xffffff00);
	memcpy(&ifr.ifr_netmask, &address, sizeof(address));
	if (ioctl(fd, SIOCSIFNETMASK, &ifr) < 0)
		fail("the netmask of eth0");
	ifr.ifr_flags = IFF_UP | IFF_RUNNING;
	if (ioctl(fd, SIOCSIFFLAGS, &ifr) < 0)
		fail("eth0 can't be brought up");
}

/* Sends a packet until its complement comes back: packets may get lost. */
static void echo(int fd, __u8 *packet, size_t size)
{
	__u8 answer[2048];
	ssize_t n;

	for (int tries = 0; tries < 10; tries++) {
		if (send(fd, packet, size, 0) != (ssize_t)size)
			fail("send()");
		do {
			n = recv(fd, answer, sizeof(answer), 0);
			for (ssize_t i = 0; n == (ssize_t)size && i < n; i++)
				if ((answer[i] ^ packet[i]) != 0xff)
					n = 0;
			if (n == (ssize_t)size)
				return;
		} while (n >= 0);
	}
	fail("no answer from the network");
}

static void use_network(void)
{
	struct sockaddr_in host = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(HOST_ADDRESS),
		.sin_port = htons(ECHO_PORT),
	};
	struct timeval timeout = { .tv_sec = 2 };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	size_t size, bytes = 0;
	__u8 packet[1400];

	if (fd < 0 || !if_nametoindex("eth0")) {
		printf("no network\n");
		return;
	}
	configure_network(fd);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	if (connect(fd, (struct sockaddr *)&host, sizeof(host)) < 0)
		fail("connect()");
	for (int i = 0; i < NR_PACKETS; i++) {
		size = 1 + (i * 997) % sizeof(packet);
		for (size_t j = 0; j < size; j++)
			packet[j] = i * 31 + j;
		echo(fd, packet, size);
		bytes += size;
	}
	close(fd);
	printf("network: %d packets of %zu bytes, all of them answered\n", NR_PACKETS, bytes);
}

/* Allocates memory that the guest shares with the host; returns its file and mapping. */
static int share(int heap, size_t size, __u64 **words)
{
	struct dma_heap_allocation_data data = { .len = size, .fd_flags = O_RDWR | O_CLOEXEC };

	if (ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data) < 0)
		fail("DMA_HEAP_IOCTL_ALLOC");
	*words = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, data.fd, 0);
	if (*words == MAP_FAILED)
		fail("mmap(shared memory)");
	for (size_t page = 0; page < size / PAGE; page++) {
		(*words)[page * WORDS] = SHARED_TAG;
		(*words)[page * WORDS + 1] = pattern(page);
	}
	return data.fd;
}

static void unshare_memory(int fd, __u64 *words, size_t size)
{
	for (size_t page = 0; page < size / PAGE; page++) {
		if (words[page * WORDS + 1] != ~pattern(page)) {
			printf("init: the VMM hasn't used a shared page\n");
			finish(1);
		}
		words[page * WORDS] = 0;
	}
	munmap(words, size);
	close(fd);
}

static void share_memory(void)
{
	int heap = open("/dev/dma_heap/system_cc_shared", O_RDWR), fds[NR_SINGLE], large_fd;
	__u64 *words[NR_SINGLE], *large;

	/* A guest that isn't protected shares all of its memory. */
	if (heap < 0)
		heap = open("/dev/dma_heap/system", O_RDWR);
	if (heap < 0)
		fail("/dev/dma_heap/system");
	for (int i = 0; i < NR_SINGLE; i++)
		fds[i] = share(heap, PAGE, &words[i]);
	large_fd = share(heap, LARGE, &large);
	tell(MAILBOX_ANSWER, SHARED_TAG);
	if (mailbox[MAILBOX_ANSWER / sizeof(*mailbox)] != NR_SINGLE + LARGE / PAGE) {
		printf("init: the VMM finds %llu shared pages\n",
		       mailbox[MAILBOX_ANSWER / sizeof(*mailbox)]);
		finish(1);
	}
	tell(MAILBOX_SHOW, SHOW_SHARED);
	for (int i = 0; i < NR_SINGLE; i++)
		unshare_memory(fds[i], words[i], PAGE);
	unshare_memory(large_fd, large, LARGE);
	/* The memory of a dma-buf is freed later. */
	usleep(200000);
	printf("shared %d pages, and 64 MiB, and took them back\n", NR_SINGLE);
	tell(MAILBOX_SHOW, SHOW_UNSHARED);
	close(heap);
}

int main(void)
{
	__u64 pages, *words;

	setvbuf(stdout, NULL, _IOLBF, 0);
	mount_at("proc", "/proc");
	mount_at("sysfs", "/sys");
	mount_at("devtmpfs", "/dev");
	open_mailbox();

	/* More is left than what is shared below. */
	pages = available_kib() * 1024 / PAGE * 3 / 4;
	if (available_kib() * 1024 / 4 < LARGE + LARGE / 2)
		pages = available_kib() * 1024 / PAGE / 4;
	words = write_memory(pages);
	tell(MAILBOX_SHOW, SHOW_BEFORE);
	use_disk();
	use_network();
	share_memory();
	verify_memory(words, pages);
	finish(0);
}
