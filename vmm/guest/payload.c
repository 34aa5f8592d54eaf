// SPDX-License-Identifier: GPL-2.0
/*
 * A guest that does nothing but convert: it shares its private memory and makes it private
 * again, by single pages, by units and in ranges of any size. The host reads and writes shared
 * pages. The guest looks at all contents before and after.
 */
#include "bare.h"

/* To look at all of a 1G unit takes long on an emulated CPU. */
#define ROUNDS(nr)	((nr) > 4096 ? 1 : 48)

static void check_neighbours(__u64 page, __u64 nr)
{
	if (page)
		check_private(page - 1);
	if (page + nr < pages)
		check_private(page + nr);
}

/* Shares a page or a unit and takes it back, and checks contents and neighbours in between. */
static void flip(__u64 page, __u64 nr)
{
	check_private(page);
	expect("to shared", page, share(page, nr), 0);
	use_shared(page);
	use_shared(page + nr - 1);
	check_pages(page, nr);
	check_neighbours(page, nr);
	expect("to private", page, make_private(page, nr), 0);
	check_pages(page, nr);
	check_private(page);
	check_neighbours(page, nr);
}

/* Flips blocks of @nr pages, aligned to their size. */
static void flip_blocks(__u64 nr)
{
	flip(0, nr);
	flip(pages - nr, nr);
	for (int i = 0; i < ROUNDS(nr); i++)
		flip(random_below(pages / nr) * nr, nr);
}

/* Shares a range in one call and once more, and takes it back in two calls that overlap. */
static void flip_range(__u64 page, __u64 nr)
{
	__u64 half = nr / 2;

	expect("range to shared", page, share(page, nr), 0);
	for (int i = 0; i < 8; i++)
		use_shared(page + random_below(nr));
	expect("range to shared, again", page, share(page, nr), 0);
	check_pages(page, nr);
	check_neighbours(page, nr);
	if (half) {
		expect("first half to private", page, make_private(page, half), 0);
		check_private(page);
		use_shared(page + half);
	}
	expect("range to private", page, make_private(page, nr), 0);
	check_private(page + random_below(nr));
	check_pages(page, nr);
	check_neighbours(page, nr);
}

/* Flips ranges of pages anywhere in a unit, across units, and the whole of memory. */
static void flip_ranges(void)
{
	for (int i = 0; i < ROUNDS(1); i++) {
		__u64 first = random_below(pages);
		__u64 nr = 1 + random_below(pages - first < 1500 ? pages - first : 1500);

		flip_range(first, nr);
	}
	flip_range(0, pages);
}

/* Asks for conversions that can't be done: they must fail and change nothing. */
static void check_errors(void)
{
	expect("below the slot", 0, share(-1, 2), -EINVAL);
	expect("beyond the slot", pages, share(pages - 1, 2), -EINVAL);
	expect("no pages", 0, share(0, 0), -EINVAL);
	expect("not a page", 0, hypercall(base + 1, 1, KVM_MAP_GPA_RANGE_DECRYPTED), -EINVAL);
	check_private(0);
	check_private(pages - 1);
}

/* The host holds one page of a range: no page of it converts until the host lets go. */
static void check_pin(__u64 first, __u64 nr, __u64 pinned)
{
	expect("pin of a private page", pinned, host(HOST_PIN, pinned), -EFAULT);
	expect("to shared", first, share(first, nr), 0);
	expect("pin", pinned, host(HOST_PIN, pinned), 0);
	expect("to private while pinned", first, make_private(first, nr), -EAGAIN);
	for (__u64 page = first; page < first + nr; page++)
		use_shared(page);
	/* The host does not hold the neighbours. */
	if (pinned > first)
		expect("what is below the pin", first, make_private(first, pinned - first), 0);
	expect("unpin", pinned, host(HOST_UNPIN, pinned), 0);
	expect("to private", first, make_private(first, nr), 0);
	check_pages(first, nr);
	check_private(pinned);
}

void payload_main(__u64 base_gpa, __u64 size, __u64 unit_size)
{
	base = base_gpa;
	pages = size / PAGE;
	unit = unit_size / PAGE;
	if (pages > MAX_PAGES || pages < 4096) {
		print("payload: 16M at least, and 1G at most\n");
		finish(64);
	}
	for (__u64 page = 0; page < pages; page++)
		write_page(page);
	check_pages(0, pages);
	flip_blocks(1);
	if (unit > 1)
		flip_blocks(unit);
	flip_ranges();
	check_errors();
	check_pin(100, 1, 100);
	check_pin(100, 16, 105);
	/* A pin in the middle of the range, and in another unit if there is one. */
	check_pin(300, 1000, 900);
	check_pages(0, pages);
	write_port32(PORT_VERIFIED, pages);
	print("converted and verified\n");
	finish(0);
}
