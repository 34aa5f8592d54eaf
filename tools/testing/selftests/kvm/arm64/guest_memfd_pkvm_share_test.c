// SPDX-License-Identifier: GPL-2.0-only
/*
 * Let a protected guest of pKVM share pages of a guest_memfd, and have them back.
 *
 * The guest asks, user space converts the memory, and the hypervisor answers the guest when the
 * vCPU goes on.  User space can refuse, but it can neither convert what the guest hasn't asked
 * for, nor answer in the hypervisor's place.
 */
#include "guest_memfd_fixture.h"
#include "memory_failure.h"
#include "pkvm_guest.h"
#include "processor.h"

#define _test_data_pkvm_share		gmem
#define _fixture_variant_pkvm_share	gmem_variant

static const char *setup(struct gmem *self, const struct gmem_variant *variant)
{
	const char *missing = missing_for_protected_vms();

	return missing ? missing : gmem_setup_counted(self, variant);
}

GMEM_FIXTURE_SETUP(pkvm_share, setup(self, variant));

/* The processes of the test are gone, and the tables of their guests. */
FIXTURE_TEARDOWN_PARENT(pkvm_share)
{
	EXPECT_NOTHING_LEFT_BEHIND();
	EXPECT_EQ(self->counters.sec_page_tables, settled_sec_page_tables(&self->counters));
}

GMEM_VARIANT_OF_UNITS(pkvm_share, 4k, 12, 1024);
GMEM_VARIANT_OF_UNITS(pkvm_share, 64k, 16, 64);
GMEM_VARIANT_OF_UNITS(pkvm_share, 2m, 21, 2);
GMEM_VARIANT_OF_UNITS(pkvm_share, 32m, 25, 1);
GMEM_VARIANT_OF_UNITS(pkvm_share, 1g, 30, 1);

static void open_vm(struct gmem *self)
{
	self->vm = create_protected_vm(self->vcpus, 2, self->nr_pages);
	self->vcpu = self->vcpus[0];
	self->fd = gmem_create(self, GUEST_MEMFD_FLAG_MMAP);
	self->mem = gmem_map(self, self->fd);
	add_slot(self->vm, TEST_GPA, self->size, self->mem, self->fd, 0);
	kvm_pipe(self->pipe);
}

static void guest_write_all(struct gmem *self)
{
	assert_pkvm_do(self->vcpu, PKVM_WRITE, 0, self->nr_pages, TAG(0), 0);
}

static void assert_guest_has(struct gmem *self, u64 first, u64 nr)
{
	assert_pkvm_do(self->vcpu, PKVM_CHECK, first, nr, TAG(first), 0);
	assert_pkvm_do(self->vcpus[1], PKVM_CHECK, first, nr, TAG(first), 0);
}

/* Pages that aren't shared, of a guest that has all others as blocks, if it can. */
static void assert_owned_but(struct gmem *self, u64 nr_shared)
{
	const u64 nr_split = DIV_ROUND_UP(nr_shared, PAGES_2M);

	if (self->unit >= SZ_2M)
		assert_pkvm_entries(self->vm, 0, self->nr_pages,
				    .owned_2m = self->size / SZ_2M - nr_split,
				    .owned_4k = nr_split * PAGES_2M - nr_shared,
				    .shared = nr_shared);
	else
		assert_pkvm_entries(self->vm, 0, self->nr_pages,
				    .owned_4k = self->nr_pages - nr_shared, .shared = nr_shared);
}

/* Have the guest ask for something, and assert that user space is told. */
static void ask(struct gmem *self, struct kvm_vcpu *vcpu, enum pkvm_op op, u64 page, u64 nr)
{
	const bool share = op == PKVM_SHARE || op == PKVM_SHARE_RANGE;
	const u64 to_2m = PAGES_2M - page % PAGES_2M;
	struct pkvm_request req = { .op = op, .gva = gpa_of(page), .nr = nr };
	struct kvm_run *run = vcpu->run;
	u64 result;
	int r;

	r = pkvm_do(vcpu, req, &result);
	TEST_ASSERT(r == -EFAULT, "The guest does %d at page %lu, KVM_RUN is %d", op, page, r);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MEMORY_FAULT);
	TEST_ASSERT_EQ(run->memory_fault.gpa, gpa_of(page));
	if (op == PKVM_SHARE || op == PKVM_UNSHARE)
		nr = 1;
	TEST_ASSERT_EQ(run->memory_fault.size, min(nr, to_2m) * page_size);
	TEST_ASSERT_EQ(run->memory_fault.flags, share ? 0 : KVM_MEMORY_EXIT_FLAG_PRIVATE);
}

/* Let the guest go on, and assert what the hypervisor has told it. */
static void assert_answer(struct kvm_vcpu *vcpu, u64 wanted)
{
	u64 result = ~0ull;

	TEST_ASSERT_EQ(pkvm_resume(vcpu, &result), 0);
	TEST_ASSERT_EQ(result, wanted);
}

static void share_page(struct gmem *self, u64 page)
{
	ask(self, self->vcpu, PKVM_SHARE, page, 1);
	convert_fd(self->fd, page, 1, false);
	assert_answer(self->vcpu, 0);
}

static void unshare_page(struct gmem *self, u64 page)
{
	ask(self, self->vcpu, PKVM_UNSHARE, page, 1);
	convert_fd(self->fd, page, 1, true);
	assert_answer(self->vcpu, 0);
}

static void assert_refuses_at(struct gmem *self, u64 first, u64 nr, bool private, int error,
			      u64 page)
{
	u64 offset = -1;
	int r = try_convert(self->fd, first, nr, private, &offset);

	TEST_ASSERT(r == -error, "Conversion of %lu pages at %lu should be %s, is %d", nr, first,
		    strerror(error), r);
	TEST_ASSERT_EQ(offset, page * page_size);
}

static void assert_refuses(struct gmem *self, u64 first, u64 nr, bool private, int error)
{
	assert_refuses_at(self, first, nr, private, error, first);
}

static void assert_private(struct gmem *self, u64 page)
{
	TEST_ASSERT(!host_can_read(self, page), "The host can read page %lu", page);
}

/* A page in the middle of a huge page, and of a block. */
static u64 some_page(struct gmem *self)
{
	return self->nr_pages / 2 + 5;
}

TEST_F(pkvm_share, page)
{
	const u64 page = some_page(self);
	int round;

	open_vm(self);
	guest_write_all(self);
	assert_owned_but(self, 0);
	for (round = 0; round < 3; round++) {
		share_page(self, page);
		assert_owned_but(self, 1);
		TEST_ASSERT_EQ(*word_of(self, page), TAG(page));
		assert_private(self, page - 1);
		assert_private(self, page + 1);
		assert_guest_has(self, 0, self->nr_pages);

		/* Both see what the other one writes. */
		*word_of(self, page) = 0;
		assert_pkvm_do(self->vcpus[1], PKVM_CHECK, page, 1, TAG(page), gpa_of(page));
		assert_pkvm_do(self->vcpus[1], PKVM_WRITE, page, 1, TAG(page), 0);
		TEST_ASSERT_EQ(*word_of(self, page), TAG(page));

		unshare_page(self, page);
		assert_owned_but(self, 0);
		assert_private(self, page);
		assert_guest_has(self, 0, self->nr_pages);
	}
}

/* The guest has no page there: it gets one first. */
TEST_F(pkvm_share, missing)
{
	const u64 page = some_page(self);
	struct pkvm_request req;
	u64 result;

	open_vm(self);
	share_page(self, page);
	TEST_ASSERT_EQ(*word_of(self, page), 0);
	unshare_page(self, page);

	/* The host has shared the page: it becomes private, then the guest's, then shared. */
	convert_fd(self->fd, 1, 1, false);
	*word_of(self, 1) = TAG(1);
	req = (struct pkvm_request) { .op = PKVM_SHARE, .gva = gpa_of(1), .nr = 1 };
	TEST_ASSERT_EQ(pkvm_do(self->vcpu, req, &result), -EFAULT);
	TEST_ASSERT_KVM_EXIT_REASON(self->vcpu, KVM_EXIT_MEMORY_FAULT);
	TEST_ASSERT_EQ(self->vcpu->run->memory_fault.flags, KVM_MEMORY_EXIT_FLAG_PRIVATE);
	convert_fd(self->fd, 1, 1, true);
	TEST_ASSERT_EQ(pkvm_resume(self->vcpu, &result), -EFAULT);
	TEST_ASSERT_EQ(self->vcpu->run->memory_fault.flags, 0);
	convert_fd(self->fd, 1, 1, false);
	assert_answer(self->vcpu, 0);
	TEST_ASSERT_EQ(*word_of(self, 1), TAG(1));
	assert_pkvm_agrees(self->vm);
}

static void guest_do_range(struct gmem *self, enum pkvm_op op, u64 first, u64 nr)
{
	u64 page, end = first + nr, done;

	for (page = first; page < end; page += done) {
		done = min(PAGES_2M - page % PAGES_2M, end - page);
		ask(self, self->vcpu, op, page, end - page);
		convert_fd(self->fd, page, done, op == PKVM_UNSHARE_RANGE);
		assert_answer(self->vcpu, done);
	}
}

TEST_F(pkvm_share, ranges)
{
	u64 page;

	open_vm(self);
	guest_write_all(self);

	/* From the middle of one block to the middle of another. */
	guest_do_range(self, PKVM_SHARE_RANGE, 100, PAGES_2M);
	for (page = 100; page < 100 + PAGES_2M; page++)
		TEST_ASSERT_EQ(*word_of(self, page), TAG(page));
	assert_private(self, 99);
	assert_private(self, 100 + PAGES_2M);
	assert_guest_has(self, 0, 2 * PAGES_2M);

	/* A page that is shared, or isn't, is in the way of a range. */
	assert_pkvm_do(self->vcpu, PKVM_SHARE_RANGE, 90, 20, 0, PKVM_REFUSED);
	assert_pkvm_do(self->vcpu, PKVM_UNSHARE_RANGE, 90, 20, 0, PKVM_REFUSED);
	guest_do_range(self, PKVM_UNSHARE_RANGE, 100, PAGES_2M);
	assert_owned_but(self, 0);

	guest_do_range(self, PKVM_SHARE_RANGE, PAGES_2M, PAGES_2M);
	assert_owned_but(self, PAGES_2M);
	guest_do_range(self, PKVM_UNSHARE_RANGE, PAGES_2M + 3, 2);
	assert_guest_has(self, 0, self->nr_pages);
	guest_do_range(self, PKVM_UNSHARE_RANGE, PAGES_2M, 3);
	guest_do_range(self, PKVM_UNSHARE_RANGE, PAGES_2M + 5, PAGES_2M - 5);
	assert_owned_but(self, 0);
	assert_guest_has(self, 0, self->nr_pages);
}

TEST_F(pkvm_share, missing_range)
{
	open_vm(self);
	assert_pkvm_do(self->vcpu, PKVM_WRITE, 17, 1, TAG(17), 0);
	guest_do_range(self, PKVM_SHARE_RANGE, 16, 16);
	TEST_ASSERT_EQ(*word_of(self, 16), 0);
	TEST_ASSERT_EQ(*word_of(self, 17), TAG(17));
	guest_do_range(self, PKVM_UNSHARE_RANGE, 16, 16);
	assert_pkvm_do(self->vcpu, PKVM_CHECK, 17, 1, TAG(17), 0);
}

TEST_F(pkvm_share, bad_calls)
{
	const u64 page = some_page(self);

	open_vm(self);
	guest_write_all(self);
	assert_pkvm_do(self->vcpu, PKVM_FEATURES, 0, 1, 0, 1ull << 31);
	assert_pkvm_do(self->vcpu, PKVM_UNSHARE, page, 1, 0, PKVM_REFUSED);
	/* An argument too many, frames beyond what there can be, no frame at all. */
	assert_pkvm_do(self->vcpu, PKVM_CALL, page, 1, 1, PKVM_REFUSED);
	assert_pkvm_do(self->vcpu, PKVM_CALL, page + (1ull << 44), 1, 0, PKVM_REFUSED);
	assert_pkvm_do(self->vcpu, PKVM_CALL, -1ull - TEST_GPA / page_size, 1, 0, PKVM_REFUSED);
	assert_pkvm_do(self->vcpu, PKVM_CALL, -1ull - TEST_GPA / page_size, ~0ull, 0, PKVM_REFUSED);
	share_page(self, page);
	assert_pkvm_do(self->vcpu, PKVM_SHARE, page, 1, 0, PKVM_REFUSED);
	assert_owned_but(self, 1);
	assert_guest_has(self, 0, self->nr_pages);
}

TEST_F(pkvm_share, refused)
{
	const u64 page = some_page(self);

	open_vm(self);
	guest_write_all(self);
	ask(self, self->vcpu, PKVM_SHARE, page, 1);
	assert_answer(self->vcpu, PKVM_REFUSED);
	assert_owned_but(self, 0);
	ask(self, self->vcpu, PKVM_SHARE_RANGE, page, 7);
	assert_answer(self->vcpu, PKVM_REFUSED);
	assert_owned_but(self, 0);
	/* The request is over. */
	assert_refuses(self, page, 7, false, EPERM);
	assert_private(self, page);

	share_page(self, page);
	ask(self, self->vcpu, PKVM_UNSHARE, page, 1);
	assert_answer(self->vcpu, PKVM_REFUSED);
	assert_refuses(self, page, 1, true, EPERM);
	assert_owned_but(self, 1);
	assert_guest_has(self, 0, self->nr_pages);
	TEST_ASSERT_EQ(*word_of(self, page), TAG(page));
}

/* User space converts what the guest hasn't asked for. */
TEST_F(pkvm_share, unsolicited)
{
	const u64 page = some_page(self);

	open_vm(self);
	guest_write_all(self);
	assert_refuses(self, page, 1, false, EPERM);

	ask(self, self->vcpu, PKVM_SHARE_RANGE, page, 4);
	assert_refuses(self, page - 1, 5, false, EPERM);
	assert_refuses(self, page, 5, false, EPERM);
	assert_refuses(self, page, 3, false, EPERM);
	assert_refuses(self, page + 1, 3, false, EPERM);
	assert_refuses(self, page + 4, 4, false, EPERM);
	assert_refuses(self, 0, self->nr_pages, false, EPERM);
	assert_owned_but(self, 0);
	assert_private(self, page);
	convert_fd(self->fd, page, 4, false);
	/* Once more changes nothing. */
	convert_fd(self->fd, page, 4, false);
	/* The guest hasn't got its answer yet. */
	assert_refuses(self, page, 4, true, EPERM);
	assert_answer(self->vcpu, 4);
	assert_refuses(self, page, 4, true, EPERM);
	assert_refuses(self, page, 1, true, EPERM);

	ask(self, self->vcpu, PKVM_UNSHARE_RANGE, page, 4);
	assert_refuses(self, page, 3, true, EPERM);
	assert_refuses(self, page + 1, 3, true, EPERM);
	assert_owned_but(self, 4);
	/* Private pages on both sides are as they should be. */
	convert_fd(self->fd, page - 1, 6, true);
	assert_refuses(self, page, 4, false, EPERM);
	assert_answer(self->vcpu, 4);
	assert_owned_but(self, 0);
	assert_guest_has(self, 0, self->nr_pages);
}

static u64 core_reg(struct kvm_vcpu *vcpu, int nr)
{
	return vcpu_get_reg(vcpu, ARM64_CORE_REG(regs.regs[nr]));
}

/* Answer in the hypervisor's place, and have the guest go on somewhere else. */
static void forge(struct kvm_vcpu *vcpu, u64 x0, u64 x1)
{
	vcpu_set_reg(vcpu, ARM64_CORE_REG(regs.regs[0]), x0);
	vcpu_set_reg(vcpu, ARM64_CORE_REG(regs.regs[1]), x1);
	vcpu_set_reg(vcpu, ARM64_CORE_REG(regs.pc), 0x1234000);
	vcpu_set_reg(vcpu, ARM64_CORE_REG(regs.pstate), PSR_MODE_EL0t);
}

TEST_F(pkvm_share, forged)
{
	const u64 page = some_page(self);

	open_vm(self);
	guest_write_all(self);
	ask(self, self->vcpu, PKVM_SHARE_RANGE, page, 2);
	TEST_ASSERT_EQ(core_reg(self->vcpu, 1), gpa_of(page));
	forge(self->vcpu, 0, 2);
	assert_answer(self->vcpu, PKVM_REFUSED);

	ask(self, self->vcpu, PKVM_SHARE_RANGE, page, 2);
	convert_fd(self->fd, page, 2, false);
	forge(self->vcpu, PKVM_REFUSED, 0);
	assert_answer(self->vcpu, 2);

	/* The lie that would be worth it. */
	ask(self, self->vcpu, PKVM_UNSHARE_RANGE, page, 2);
	forge(self->vcpu, 0, 2);
	assert_answer(self->vcpu, PKVM_REFUSED);
	ask(self, self->vcpu, PKVM_UNSHARE, page, 1);
	convert_fd(self->fd, page, 1, true);
	forge(self->vcpu, 0, 2);
	assert_answer(self->vcpu, 0);
	assert_owned_but(self, 1);
	assert_guest_has(self, 0, self->nr_pages);
}

/* The host has pinned what the guest wants to have back. */
TEST_F(pkvm_share, pinned)
{
	const u64 page = some_page(self);
	struct iovec iov;

	open_vm(self);
	guest_write_all(self);
	guest_do_range(self, PKVM_SHARE_RANGE, page, 3);
	iov = (struct iovec) { .iov_base = word_of(self, page + 1), .iov_len = page_size };
	TEST_ASSERT_EQ(vmsplice(self->pipe[1], &iov, 1, 0), page_size);

	ask(self, self->vcpu, PKVM_UNSHARE_RANGE, page, 3);
	assert_refuses_at(self, page, 3, true, EAGAIN, page + 1);
	assert_owned_but(self, 3);
	assert_answer(self->vcpu, PKVM_REFUSED);
	TEST_ASSERT_EQ(*word_of(self, page), TAG(page));
	assert_guest_has(self, 0, self->nr_pages);

	ask(self, self->vcpu, PKVM_UNSHARE_RANGE, page, 3);
	assert_refuses_at(self, page, 3, true, EAGAIN, page + 1);
	close(self->pipe[0]);
	close(self->pipe[1]);
	convert_fd(self->fd, page, 3, true);
	assert_answer(self->vcpu, 3);
	assert_owned_but(self, 0);
	assert_guest_has(self, 0, self->nr_pages);
}

TEST_F(pkvm_share, two_vcpus)
{
	const u64 page = some_page(self);
	int i;

	open_vm(self);
	guest_write_all(self);

	/* The last one first. */
	ask(self, self->vcpus[0], PKVM_SHARE, page, 1);
	ask(self, self->vcpus[1], PKVM_SHARE, page + 1, 1);
	assert_refuses(self, page, 2, false, EPERM);
	convert_fd(self->fd, page + 1, 1, false);
	assert_answer(self->vcpus[1], 0);
	convert_fd(self->fd, page, 1, false);
	assert_answer(self->vcpus[0], 0);
	assert_owned_but(self, 2);

	/* Both want the same. */
	for (i = 0; i < 2; i++)
		ask(self, self->vcpus[i], PKVM_UNSHARE, page, 1);
	convert_fd(self->fd, page, 1, true);
	convert_fd(self->fd, page, 1, true);
	assert_answer(self->vcpus[0], 0);
	assert_answer(self->vcpus[1], PKVM_REFUSED);
	assert_owned_but(self, 1);

	/* A request that is over doesn't stand for that of another vCPU. */
	ask(self, self->vcpus[1], PKVM_SHARE, page, 1);
	convert_fd(self->fd, page, 1, false);
	assert_answer(self->vcpus[1], 0);
	unshare_page(self, page);
	unshare_page(self, page + 1);
	assert_owned_but(self, 0);
	assert_guest_has(self, 0, self->nr_pages);
}

static void reuse_page(void)
{
	int fd = memfd_create("reuse", 0);

	TEST_ASSERT_EQ(write(fd, &fd, sizeof(fd)), sizeof(fd));
	/* It stays open. */
}

/* The host takes pages that are shared, or about to be. */
TEST_F(pkvm_share, punch)
{
	const u64 page = some_page(self);

	open_vm(self);
	guest_write_all(self);
	guest_do_range(self, PKVM_SHARE_RANGE, page, 2);
	punch_fd(self->fd, page * page_size, page_size);
	assert_pkvm_lost(self->vcpus[1], page);
	TEST_ASSERT_EQ(*word_of(self, page + 1), TAG(page + 1));
	assert_pkvm_do(self->vcpu, PKVM_UNSHARE, page, 1, 0, PKVM_REFUSED);
	assert_pkvm_do(self->vcpu, PKVM_UNSHARE_RANGE, page, 2, 0, PKVM_REFUSED);

	ask(self, self->vcpu, PKVM_UNSHARE, page + 1, 1);
	punch_fd(self->fd, (page + 1) * page_size, page_size);
	convert_fd(self->fd, page + 1, 1, true);
	assert_answer(self->vcpu, PKVM_REFUSED);

	ask(self, self->vcpu, PKVM_SHARE_RANGE, page + 2, 2);
	punch_fd(self->fd, (page + 3) * page_size, page_size);
	/* The memory is that of another user now, the first page of another file. */
	reuse_page();
	assert_refuses_at(self, page + 2, 2, false, EPERM, page + 3);
	assert_answer(self->vcpu, PKVM_REFUSED);
	assert_private(self, page + 2);
	assert_pkvm_do(self->vcpu, PKVM_CHECK, page + 2, 1, TAG(page + 2), 0);
	assert_pkvm_agrees(self->vm);
}

/* A vCPU that is reset doesn't get the answer to what it has asked for before. */
TEST_F(pkvm_share, reset)
{
	const u64 page = some_page(self);

	open_vm(self);
	guest_write_all(self);
	ask(self, self->vcpu, PKVM_SHARE, page, 1);
	pkvm_reset(self->vcpu);
	assert_refuses(self, page, 1, false, EPERM);
	assert_guest_has(self, 0, self->nr_pages);
	assert_owned_but(self, 0);

	ask(self, self->vcpu, PKVM_SHARE, page, 1);
	convert_fd(self->fd, page, 1, false);
	pkvm_reset(self->vcpu);
	assert_guest_has(self, 0, self->nr_pages);
	assert_owned_but(self, 1);
	unshare_page(self, page);
	assert_owned_but(self, 0);
}

/* The VM goes away with pages that are shared, and requests that nothing has come of. */
TEST_F(pkvm_share, die)
{
	const u64 page = some_page(self);

	open_vm(self);
	guest_write_all(self);
	guest_do_range(self, PKVM_SHARE_RANGE, page, 9);
	ask(self, self->vcpus[0], PKVM_UNSHARE, page, 1);
	ask(self, self->vcpus[1], PKVM_SHARE, page + 20, 1);
	convert_fd(self->fd, page, 1, true);
}

/* The file goes away first, the VM lives. */
TEST_F(pkvm_share, close)
{
	const u64 page = some_page(self);

	open_vm(self);
	guest_write_all(self);
	share_page(self, page);
	ask(self, self->vcpus[1], PKVM_UNSHARE, page, 1);
	kvm_munmap(self->mem, self->size);
	close(self->fd);
	assert_answer(self->vcpus[1], PKVM_REFUSED);
	assert_pkvm_lost(self->vcpu, page);
	assert_pkvm_lost(self->vcpus[1], page + 1);
	assert_pkvm_agrees(self->vm);
}

/* Memory fails that is shared.  The huge page is lost, which is why this is the last test. */
TEST_F(pkvm_share, poison)
{
	const u64 page = some_page(self);
	u64 pfn;

	if (!can_inject_memory_failure())
		SKIP(return, "No memory failure");

	open_vm(self);
	guest_write_all(self);
	guest_do_range(self, PKVM_SHARE_RANGE, page, 2);
	TEST_ASSERT_EQ(*word_of(self, page), TAG(page));
	pfn = read_pagemap_pfn(word_of(self, page));
	ask(self, self->vcpu, PKVM_UNSHARE_RANGE, page, 2);
	self->nr_lost = 1;
	TEST_ASSERT_EQ(write_pfn(CORRUPT_PFN, pfn), 0);
	assert_refuses(self, page, 2, true, EPERM);
	assert_answer(self->vcpu, PKVM_REFUSED);
	assert_pkvm_error(self->vcpus[1], page, EHWPOISON, KVM_EXIT_MEMORY_FAULT);
	unshare_page(self, page + 1);
	assert_pkvm_do(self->vcpu, PKVM_CHECK, page + 1, 1, TAG(page + 1), 0);
	assert_pkvm_agrees(self->vm);
}

GMEM_TEST_MAIN(NEEDS_HUGETLB)
