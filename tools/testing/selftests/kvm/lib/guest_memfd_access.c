// SPDX-License-Identifier: GPL-2.0-only
#include "guest_memfd_util.h"

size_t page_size;

static void __attribute__((constructor)) init_page_size(void)
{
	page_size = getpagesize();
}

u64 new_tag(u64 page)
{
	static u64 generation = 0x7a670000;

	return (++generation << 32) + page;
}

void guest_write(struct gmem *self, u64 first, u64 nr)
{
	u64 tag = new_tag(first), i;

	guest_do(self->vcpu, OP_WRITE_TAGS, gpa_of(first), nr, page_size, tag);
	for (i = 0; i < nr; i++)
		self->tags[first + i] = tag + i;
	guestmem_model_allocate(&self->model, first, nr);
}

void guest_check(struct gmem *self, u64 first, u64 nr)
{
	const u64 *tags = self->tags, end = first + nr;
	u64 i, next;

	for (i = first; i < end; i = next) {
		bool zero = !tags[i];

		for (next = i + 1; next < end; next++)
			if (tags[next] != (zero ? 0 : tags[i] + next - i))
				break;
		guest_do(self->vcpu, zero ? OP_CHECK_ZERO : OP_CHECK_TAGS, gpa_of(i),
			 next - i, page_size, tags[i]);
	}
	guestmem_model_allocate(&self->model, first, nr);
}

static void guest_do_words(struct gmem *self, enum guest_op op, u64 page)
{
	guest_do(self->vcpu, op, gpa_of(page), page_size / sizeof(u64), sizeof(u64),
		 self->tags[page]);
	guestmem_model_allocate(&self->model, page, 1);
}

void guest_fill(struct gmem *self, u64 page)
{
	self->tags[page] = new_tag(page);
	guest_do_words(self, OP_WRITE_TAGS, page);
}

void guest_check_filled(struct gmem *self, u64 page)
{
	guest_do_words(self, OP_CHECK_TAGS, page);
}

void host_fill(struct gmem *self, u64 page)
{
	self->tags[page] = new_tag(page);
	fill(addr_of(self, page), self->tags[page]);
	guestmem_model_touch(&self->model, page);
}

void host_check_filled(struct gmem *self, u64 page)
{
	assert_filled(addr_of(self, page), self->tags[page]);
	guestmem_model_touch(&self->model, page);
}

bool can_read(int pipe[2], const void *addr)
{
	char c;

	if (write(pipe[1], addr, 1) == 1) {
		TEST_ASSERT(read(pipe[0], &c, 1) == 1, "read() should succeed");
		return true;
	}
	TEST_ASSERT(errno == EFAULT, "write() should fail with EFAULT, errno %d", errno);
	return false;
}

bool host_can_read(struct gmem *self, u64 page)
{
	return can_read(self->pipe, addr_of(self, page));
}

void host_check(struct gmem *self, u64 page)
{
	u64 *word = word_of(self, page);

	if (self->model.private[page]) {
		TEST_ASSERT(!host_can_read(self, page),
			    "The host should not be able to read private page %lu", page);
		return;
	}
	TEST_ASSERT(READ_ONCE(*word) == self->tags[page], "Page %lu should be 0x%lx, is 0x%lx",
		    page, self->tags[page], *word);
	guestmem_model_touch(&self->model, page);
}

void host_check_ends(struct gmem *self, u64 page)
{
	bool private = self->model.private[page];

	TEST_ASSERT(host_can_read(self, page) == !private, "Page %lu should be %s", page,
		    private ? "private" : "shared");
	host_check(self, page);
	if (private) {
		TEST_EXPECT_SIGBUS((void)READ_ONCE(*word_of(self, page)));
		TEST_EXPECT_SIGBUS(WRITE_ONCE(*last_word_of(self, page), 0));
	} else {
		TEST_ASSERT(READ_ONCE(*last_word_of(self, page)) == self->tags[page],
			    "The end of page %lu should be 0x%lx, is 0x%lx", page,
			    self->tags[page], *last_word_of(self, page));
	}
}

void host_write(struct gmem *self, u64 page)
{
	self->tags[page] = new_tag(page);
	WRITE_ONCE(*word_of(self, page), self->tags[page]);
	guestmem_model_touch(&self->model, page);
}

void fill(void *mem, u64 tag)
{
	u64 *word = mem;
	int i;

	for (i = 0; i < page_size / sizeof(*word); i++)
		WRITE_ONCE(word[i], tag + i);
}

void assert_filled(void *mem, u64 tag)
{
	u64 *word = mem;
	int i;

	for (i = 0; i < page_size / sizeof(*word); i++)
		TEST_ASSERT(READ_ONCE(word[i]) == tag + i, "Word %d should be 0x%lx, is 0x%lx",
			    i, tag + i, word[i]);
}

u64 random_below(u64 nr)
{
	return kvm_random_u64_in_range(&kvm_rng, 0, nr - 1);
}

void kvm_pipe(int fds[2])
{
	TEST_ASSERT(!pipe(fds), "pipe() should succeed, errno %d", errno);
}

pid_t kvm_fork(void)
{
	pid_t pid = fork();

	TEST_ASSERT(pid >= 0, "fork() should succeed, errno %d", errno);
	return pid;
}

pid_t kvm_fork_sharing_files(void)
{
	pid_t pid = syscall(__NR_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);

	TEST_ASSERT(pid >= 0, "clone() should succeed, errno %d", errno);
	return pid;
}

void assert_child_succeeds(pid_t pid)
{
	int status = 0;

	TEST_ASSERT(waitpid(pid, &status, 0) == pid && !status,
		    "The child should succeed, status %#x", status);
}

void kill_child(pid_t pid)
{
	int status = 0;

	kill(pid, SIGKILL);
	TEST_ASSERT(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) &&
		    WTERMSIG(status) == SIGKILL,
		    "The child should be killed, not fail, status %#x", status);
}

void tell(int fd)
{
	TEST_ASSERT(write(fd, "", 1) == 1, "write() should succeed");
}

bool wait_for(int fd)
{
	char c;

	return read(fd, &c, 1) == 1;
}
