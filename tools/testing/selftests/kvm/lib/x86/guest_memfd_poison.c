// SPDX-License-Identifier: GPL-2.0-only
#include "guest_memfd_poison.h"

void fill_up_pool(size_t unit, long nr)
{
	struct hugetlb_pool pool;
	long missing;

	if (!unit || !hugetlb_size_supported(unit))
		return;
	hugetlb_read_pool(unit, &pool);
	missing = nr - hugetlb_available(&pool);
	if (missing > 0)
		hugetlb_write_attr(unit, "nr_hugepages", pool.total + missing);
}

const char *setup_poison(struct gmem *self, const struct gmem_variant *variant, long spare)
{
	const char *missing;

	fill_up_pool(BIT_ULL(variant->size_log2), variant->nr_units + spare);
	missing = gmem_setup_counted(self, variant);
	if (!missing && !can_inject_memory_failure())
		missing = NEEDS_MEMORY_FAILURE;
	if (!missing)
		gmem_open_with_guest(self, 0);
	return missing;
}

const char *missing_spare_unit(struct gmem *self)
{
	static char text[80];

	if (hugetlb_available(&self->pool) > self->nr)
		return NULL;
	snprintf(text, sizeof(text), "needs %d x %zu kB page", self->nr + 1, self->unit / 1024);
	return text;
}

u64 pfn_of(struct gmem *self, u64 page)
{
	const u64 in_unit = page % self->unit_pages;

	return guestmem_read_unit(self->fd, page - in_unit, self->unit_pages, NULL) + in_unit;
}

u64 pfn_of_whole(struct gmem *self, u64 page)
{
	u64 pfn;

	set_shared(page, 1);
	pfn = pfn_of(self, page);
	set_private(page, 1);
	assert_nr_folios(page / self->unit_pages, 1);
	return pfn;
}

u64 write_all_and_find(struct gmem *self, u64 page)
{
	guest_write(self, 0, self->nr_pages);
	return pfn_of_whole(self, page);
}

void share_and_fill(struct gmem *self, u64 first, u64 nr)
{
	u64 page;

	set_shared(first, nr);
	for (page = first; page < first + nr; page++)
		host_fill(self, page);
}

void poison_pfn(u64 pfn)
{
	long before = nr_corrupted_pages();
	int error = write_pfn(CORRUPT_PFN, pfn);

	TEST_ASSERT(!error, "Memory failure at pfn 0x%lx should be handled, got %s", pfn,
		    strerror(error));
	TEST_ASSERT_EQ(nr_corrupted_pages(), before + 1);
}

void __poison(struct gmem *self, u64 page, u64 pfn)
{
	self->nr_lost = 1;
	poison_pfn(pfn);
	guestmem_model_poison(&self->model, page);
}

u64 poison(struct gmem *self, u64 page)
{
	u64 pfn = pfn_of(self, page);

	__poison(self, page, pfn);
	return pfn;
}

u64 write_all_and_poison(struct gmem *self, u64 page)
{
	u64 pfn = write_all_and_find(self, page);

	__poison(self, page, pfn);
	return pfn;
}

u64 write_all_and_poison_piece(struct gmem *self, u64 page)
{
	guest_write(self, 0, self->nr_pages);
	set_shared(self->unit_pages - 1, 1);
	return poison(self, page);
}

u64 write_all_and_poison_shared(struct gmem *self)
{
	set_shared(A_PAGE, 1);
	guest_write(self, 0, self->nr_pages);
	host_fill(self, A_PAGE);
	return poison(self, A_PAGE);
}

void assert_poisoned_already(u64 pfn)
{
	long nr = nr_corrupted_pages();

	TEST_ASSERT_EQ(write_pfn(CORRUPT_PFN, pfn), EHWPOISON);
	TEST_ASSERT_EQ(nr_corrupted_pages(), nr);
}

void guest_is_told(struct gmem *self, u64 page)
{
	int error = guest_read_error(self->vcpu, gpa_of(page));

	TEST_ASSERT(error == EHWPOISON, "KVM_RUN should fail with EHWPOISON, got %s",
		    strerror(error));
	guest_start_over(self->vcpu);
}

void host_is_told(struct gmem *self, u64 page)
{
	struct sigbus_seen seen;
	u64 val;

	sigbus_start(false);
	TEST_ASSERT(!sigbus_try_read(word_of(self, page), &val),
		    "Access to page %lu should raise SIGBUS", page);
	seen = sigbus_take();
	signal(SIGBUS, SIG_DFL);
	TEST_ASSERT_EQ(seen.code, BUS_MCEERR_AR);
	TEST_ASSERT_EQ(seen.addr, (uintptr_t)word_of(self, page));
	TEST_ASSERT_EQ(seen.lsb, PAGE_SHIFT);
	TEST_ASSERT(!host_can_read(self, page), "The kernel should not read page %lu", page);
}

void unmap_from_host(struct gmem *self, u64 first, u64 nr)
{
	kvm_madvise(addr_of(self, first), nr * PAGE_SIZE, MADV_DONTNEED);
}

void guest_check_others(struct gmem *self)
{
	u64 i, next;

	for (i = 0; i < self->nr_pages; i = next + 1) {
		for (next = i; next < self->nr_pages && !self->model.poisoned[next]; next++)
			;
		if (next > i)
			guest_check(self, i, next - i);
	}
	assert_layout();
}

void check_poisoned_file(struct gmem *self)
{
	u64 page;

	for (page = 0; page < self->nr_pages; page++)
		if (self->model.poisoned[page])
			guest_is_told(self, page);
	guest_check_others(self);
	for (page = 0; page < self->nr_pages; page++) {
		if (!self->model.poisoned[page])
			continue;
		guest_is_told(self, page);
		if (self->model.private[page])
			host_check(self, page);
		else
			host_is_told(self, page);
	}
	assert_nr_allocated(self->nr);
}

void wait_until_dissolved(u64 pfn)
{
	const u64 not_yet = BIT_ULL(KPF_BUDDY) | BIT_ULL(KPF_COMPOUND_HEAD) |
			    BIT_ULL(KPF_COMPOUND_TAIL);
	int tries;
	u64 flags;

	for (tries = 0; tries < 500; tries++) {
		flags = read_kpageflags(pfn);
		if (flags & BIT_ULL(KPF_HUGE) ||
		    (flags & BIT_ULL(KPF_HWPOISON) && !(flags & not_yet)))
			return;
		usleep(10 * 1000);
	}
}

void assert_dissolved(struct gmem *self, u64 pfn)
{
	const u64 first = pfn / self->unit_pages * self->unit_pages;
	int kpageflags = open("/proc/kpageflags", O_RDONLY);
	u64 i, flags;

	wait_until_dissolved(pfn);
	TEST_ASSERT(kpageflags >= 0, "Cannot open /proc/kpageflags");
	for (i = first; i < first + self->unit_pages; i++) {
		flags = read_entry(kpageflags, i);
		TEST_ASSERT(!(flags & BIT_ULL(KPF_HUGE)),
			    "pfn 0x%lx should not be of a huge page, flags 0x%lx", i, flags);
		TEST_ASSERT((i == pfn) == !!(flags & BIT_ULL(KPF_HWPOISON)),
			    "pfn 0x%lx should be %s, flags 0x%lx", i,
			    i == pfn ? "marked" : "in order", flags);
		TEST_ASSERT(i != pfn || !(flags & BIT_ULL(KPF_BUDDY)),
			    "pfn 0x%lx should not be a free page, flags 0x%lx", i, flags);
	}
	close(kpageflags);
}

void mend(u64 pfn)
{
	long before = nr_corrupted_pages();
	int error;

	wait_until_dissolved(pfn);
	error = write_pfn(UNPOISON_PFN, pfn);
	TEST_ASSERT(!error, "Mending pfn 0x%lx should succeed, got %s", pfn, strerror(error));
	TEST_ASSERT_EQ(nr_corrupted_pages(), before - 1);
}

void __close_and_assert_lost(struct gmem *self, u64 pfn, u64 other, u64 third)
{
	gmem_close(self);
	assert_lost(0, 0);
	/* If two pages have failed then the unit was split, and the pages have their marks. */
	if (!other)
		wait_until_dissolved(pfn);
	TEST_ASSERT(is_marked_poisoned(pfn), "pfn 0x%lx should be marked", pfn);
	if (third)
		mend(third);
	if (other)
		mend(other);
	assert_dissolved(self, pfn);
	mend(pfn);
}

void check_and_close(struct gmem *self, u64 pfn)
{
	check_poisoned_file(self);
	close_and_assert_lost(pfn);
}

u64 hold_and_punch(struct gmem *self, struct holder *h)
{
	u64 pfn;

	share_and_fill(self, A_PAGE, 2);
	vmsplice_open_and_hold(h, addr_of(self, A_PAGE));
	pfn = pfn_of(self, A_PAGE);
	punch_unit(self, 0);
	return pfn;
}

void release_and_assert_lost(struct gmem *self, struct holder *h)
{
	self->nr_lost = 1;
	vmsplice_release(h);
	guestmem_settle();
	assert_lost(0, missing_spare_unit(self) ? self->nr - 1 : self->nr);
}
