// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of private memory that the architecture can't take back from the guest: the memory
 * must not become shared, and must never be used for anything else.
 *
 * The tests need root and a kernel in which kvm_arch_gmem_reclaim() may be made to fail, i.e.
 * one with CONFIG_FAIL_FUNCTION and, e.g., CONFIG_KVM_AMD_SEV, but no confidential VM.
 */
#include "guest_memfd_fixture.h"

#define FAIL_FUNCTION	"/sys/kernel/debug/fail_function/"
#define CANNOT_FAIL	"needs root, CONFIG_FAIL_FUNCTION and a kernel with SEV"
#define RECLAIM		"kvm_arch_gmem_reclaim"
#define IS_BUGGED	"kvm_gmem_is_bugged"

#define A_PAGE		77

static bool can_fail(void)
{
	/* Another test may have asked for it before, and one that failed for the other. */
	write_text_file(FAIL_FUNCTION "inject", "!" IS_BUGGED);
	if (access(FAIL_FUNCTION RECLAIM, F_OK) &&
	    !write_text_file(FAIL_FUNCTION "inject", RECLAIM))
		return false;

	return write_text_file(FAIL_FUNCTION RECLAIM "/retval", "0xfffffffffffffffb") &&
	       write_text_file(FAIL_FUNCTION "verbose", "0") &&
	       write_text_file(FAIL_FUNCTION "probability", "100");
}

static void let_it_fail(bool fails)
{
	TEST_ASSERT(write_text_file(FAIL_FUNCTION "times", fails ? "-1" : "0"),
		    "Fault injection should be there");
}

/*
 * Have KVM take all VMs for bugged, or none.  All functions share the settings of
 * fault injection, so only one of them can be in the list.
 */
static void vm_is_bugged(bool bugged)
{
	let_it_fail(false);
	TEST_ASSERT(write_text_file(FAIL_FUNCTION "inject",
				    bugged ? "!" RECLAIM : "!" IS_BUGGED) &&
		    write_text_file(FAIL_FUNCTION "inject", bugged ? IS_BUGGED : RECLAIM),
		    "kvm_gmem_is_bugged() should be one that may fail");
	if (bugged)
		let_it_fail(true);
}

static const char *setup(struct gmem *self, const struct gmem_variant *variant)
{
	if (!can_fail())
		return CANNOT_FAIL;

	let_it_fail(false);
	return gmem_setup_guest(self, variant, 0);
}

GMEM_RESHAPE_FIXTURE(setup(self, variant));
GMEM_VARIANT_OF_UNITS(reshape, 4k, 12, 512);

/* Check that pages stay private. */
static void assert_not_shared(struct gmem *self, u64 first, u64 nr)
{
	u64 error_offset = ~0ull, i;

	TEST_ASSERT_EQ(try_convert(self->fd, first, nr, false, &error_offset), -EIO);
	TEST_ASSERT(error_offset == ~0ull, "No page is to blame, not offset 0x%lx", error_offset);
	for (i = first; i < first + nr; i++)
		host_check(self, i);
}

TEST_F(reshape, not_converted)
{
	const u64 nr = max(self->unit_pages, 256ul);

	guest_write(self, 0, self->nr_pages);
	set_shared(3, 2);
	host_fill(self, 3);

	let_it_fail(true);
	assert_not_shared(self, A_PAGE, 1);
	assert_not_shared(self, nr - 3, 7);
	assert_not_shared(self, 2, 4);
	host_check_filled(self, 3);
	/* The private pages have kept their contents, and huge pages are whole again. */
	guest_check_all();
	assert_model();

	/* A conversion to private doesn't ask the architecture. */
	__convert(self, 3, 1, true);
	host_check(self, 3);
	guest_check(self, 3, 1);

	let_it_fail(false);
	__convert(self, A_PAGE, 1, false);
	__convert(self, nr - 3, 7, false);
	__convert(self, 2, 4, false);
	host_check(self, A_PAGE);
	host_check(self, nr + 3);
	host_check(self, 2);
	__convert(self, 0, self->nr_pages, true);
	guest_check_all();
}

static void assert_no_hole(struct gmem *self, u64 first, u64 nr)
{
	assert_error(fallocate(self->fd, PUNCH, first * PAGE_SIZE, nr * PAGE_SIZE), EIO);
}

/* Punch a part of a huge page: this fails, as pages that don't come back can't be zeroed. */
TEST_F(reshape, not_zeroed)
{
	SKIP_IF(return, self->unit == PAGE_SIZE ? "is about huge pages" : NULL);
	guest_write(self, 0, self->nr_pages);
	let_it_fail(true);
	assert_no_hole(self, A_PAGE, 2);
	guest_check_all();

	let_it_fail(false);
	punch(self, A_PAGE, 2);
	guest_check_all();
}

/* Punch a huge page: it leaves the file, but doesn't come back to the pool. */
TEST_F(reshape, not_freed)
{
	struct hugetlb_pool pool = self->pool;

	SKIP_IF(return, self->unit == PAGE_SIZE ? "is about huge pages" : NULL);
	guest_write(self, 0, self->nr_pages);
	let_it_fail(true);
	punch_unit(self, 0);
	let_it_fail(false);

	/* The file has a hole, without a reservation for the huge page that doesn't come back. */
	TEST_ASSERT_POOL(&pool, -self->nr, 0);
	guest_check(self, self->unit_pages, self->nr_pages - self->unit_pages);
	gmem_close(self);
	TEST_ASSERT_POOL_SETTLES(&pool, -1, 0);
	self->pool.free--;
	self->pool.node_free[0]--;
	gmem_open(self, 0);
}

/*
 * A VM that is bugged may have kept its memory: what is private doesn't become shared, nor do
 * parts of a huge page become zeroes.  A hole of whole huge pages gives them back to the pool,
 * and memory may become private.
 */
TEST_F(reshape, bugged)
{
	u64 nr = self->unit_pages;

	SKIP_IF(return, self->unit == PAGE_SIZE ? "is about huge pages" : NULL);
	guest_write(self, 0, self->nr_pages);
	set_shared(3, 2);
	host_fill(self, 3);

	vm_is_bugged(true);
	assert_no_hole(self, A_PAGE, 2);
	assert_no_hole(self, 0, nr - 1);
	assert_no_hole(self, nr - 1, nr + 1);
	assert_no_hole(self, nr - 1, 2);
	assert_not_shared(self, A_PAGE, 1);
	host_check_filled(self, 3);
	guest_check_all();
	assert_model();

	set_private(3, 2);
	punch(self, nr, nr);
	assert_model();

	vm_is_bugged(false);
	guest_check_all();
	punch(self, A_PAGE, 2);
	set_shared(A_PAGE, 1);
	host_check(self, A_PAGE);
	guest_check_all();
}

int main(int argc, char *argv[])
{
	int ret;

	gmem_init(NEEDS_HUGETLB | NEEDS_CONVERSION);
	ret = test_harness_run(argc, argv);
	write_text_file(FAIL_FUNCTION "probability", "0");
	write_text_file(FAIL_FUNCTION "inject", "!" RECLAIM);
	write_text_file(FAIL_FUNCTION "inject", "!" IS_BUGGED);

	return ret;
}
