// SPDX-License-Identifier: GPL-2.0-only
/*
 * Send pages of guest_memfd files made of HugeTLB pages through TCP while they leave
 * the file.  TCP_ZEROCOPY_RECEIVE maps pages that it takes for kernel memory without
 * another user.  So it must never see a page that is neither in a file nor known to be
 * a piece of a huge page.
 */
#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "guest_memfd_fixture.h"

/* Send every other page, as two pages in a row would be sent as one. */
#define NR_PAGES	16
#define SENT_BYTES	(NR_PAGES * page_size)

/* From linux/tcp.h, which can't be included together with netinet's headers. */
#define TCP_ZEROCOPY_RECEIVE	35

struct zerocopy_receive {
	u64 address;
	u32 length;
	u32 recv_skip_hint;
	u32 inq;
	s32 err;
	u64 copybuf_address;
	s32 copybuf_len;
	u32 flags;
	u64 msg_control;
	u64 msg_controllen;
	u32 msg_flags;
	u32 reserved;
};

/*
 * A reader on another CPU leaves it to the sender's CPU to free what it has read, and that
 * CPU doesn't before it receives something else.  Until then the pages are in use.
 */
#define DEFER_MAX	"/proc/sys/net/core/skb_defer_max"

#define _test_data_tcp		gmem
#define _fixture_variant_tcp	gmem_variant

GMEM_FIXTURE(tcp, gmem_setup_shared(self, variant));
GMEM_VARIANTS(tcp, 2, 2);

static void connect_sockets(int *from, int *to)
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	socklen_t len = sizeof(addr);

	ioctl(listener, SIOCSIFFLAGS, &lo);
	TEST_ASSERT(!bind(listener, (void *)&addr, len) && !listen(listener, 1) &&
		    !getsockname(listener, (void *)&addr, &len),
		    "Listening should succeed, errno %d", errno);
	*from = socket(AF_INET, SOCK_STREAM, 0);
	TEST_ASSERT(!connect(*from, (void *)&addr, len), "connect() should succeed, errno %d",
		    errno);
	*to = accept(listener, NULL, NULL);
	TEST_ASSERT(*to >= 0, "accept() should succeed, errno %d", errno);
	close(listener);
}

struct receiver {
	int fd;
	void *window;
	u64 mapped;
	bool stop;
};

/* Map what TCP can map until told to stop, and leave everything else in the socket. */
static void *receive(void *arg)
{
	struct zerocopy_receive zc;
	struct receiver *r = arg;
	socklen_t len;

	while (!READ_ONCE(r->stop)) {
		zc = (struct zerocopy_receive) {
			.address = (uintptr_t)r->window,
			.length = SENT_BYTES,
		};
		len = sizeof(zc);
		if (!getsockopt(r->fd, IPPROTO_TCP, TCP_ZEROCOPY_RECEIVE, &zc, &len))
			r->mapped += zc.length;
	}
	return NULL;
}

/* Send pages by way of a pipe, which doesn't copy them. */
static void send_pages(int fd, void *mem)
{
	struct iovec iov[NR_PAGES];
	ssize_t sent;
	int pipefd[2], i;

	for (i = 0; i < NR_PAGES; i++) {
		iov[i] = (struct iovec) {
			.iov_base = mem + 2 * i * page_size,
			.iov_len = page_size,
		};
		WRITE_ONCE(*(u64 *)iov[i].iov_base, i);
	}
	kvm_pipe(pipefd);
	TEST_ASSERT(vmsplice(pipefd[1], iov, NR_PAGES, 0) == SENT_BYTES,
		    "vmsplice() should succeed, errno %d", errno);
	for (i = 0; i < SENT_BYTES; i += sent) {
		sent = splice(pipefd[0], NULL, fd, NULL, SENT_BYTES - i, SPLICE_F_MORE);
		TEST_ASSERT(sent > 0, "splice() should succeed, errno %d", errno);
	}
	close(pipefd[0]);
	close(pipefd[1]);
}

TEST_F(tcp, punched)
{
	const int nr_rounds = self->unit > SZ_2M ? 4 : 300;
	struct receiver r = {};
	char buf[SZ_64K];
	pthread_t thread;
	int from, i, copied;
	ssize_t len;

	for (i = 0; i < nr_rounds; i++) {
		connect_sockets(&from, &r.fd);
		r.window = mmap(NULL, SENT_BYTES, PROT_READ, MAP_SHARED, r.fd, 0);
		if (r.window == MAP_FAILED)
			SKIP(return, "needs zero copy receive of TCP");
		r.stop = false;
		pthread_create(&thread, NULL, receive, &r);

		pin_self_to_cpu(0);
		send_pages(from, self->mem);
		punch_unit(self, 0);

		WRITE_ONCE(r.stop, true);
		pthread_join(thread, NULL);
		/* Read the bytes that TCP couldn't map, on another CPU. */
		pin_self_to_cpu(1);
		for (copied = 0; (len = recv(r.fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0; )
			copied += len;
		if (!i)
			TH_LOG("%lu bytes mapped, %d copied", r.mapped, copied);
		kvm_munmap(r.window, SENT_BYTES);
		close(from);
		close(r.fd);
	}

	TEST_ASSERT(!r.mapped, "%lu bytes of a huge page were mapped by TCP", r.mapped);
	gmem_close(self);
	TEST_ASSERT_POOL_SETTLES(&self->pool, 0, 0);
}

int main(int argc, char *argv[])
{
	char saved[16] = "";
	int ret;

	gmem_init(NEEDS_HUGETLB);
	TEST_REQUIRE(sysconf(_SC_NPROCESSORS_ONLN) > 1);

	/* Without the file, nothing is deferred. */
	if (read_text_file(DEFER_MAX, saved, sizeof(saved)))
		TEST_ASSERT(write_text_file(DEFER_MAX, "0"), "Cannot write to %s", DEFER_MAX);
	ret = test_harness_run(argc, argv);
	if (saved[0])
		write_text_file(DEFER_MAX, saved);

	return ret;
}
