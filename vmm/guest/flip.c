// SPDX-License-Identifier: GPL-2.0
/*
 * A guest that uses all of its memory all the time, and shares single pages of it: what
 * becomes of their unit? At every step, the guest asks the VMM to show the unit. Before that, it
 * uses every page, so that the pages that KVM has unmapped are mapped again when the unit is
 * shown.
 */
#include "bare.h"

#define MORE_PAGES	30

/* Uses one word of each page, which must be the right one. */
static void use_all(void)
{
	for (__u64 page = 0; page < pages; page++) {
		volatile __u64 *word = words_of(page) + page % WORDS;

		expect("contents", page, *word, word_at(page, page % WORDS));
		*word = word_at(page, page % WORDS);
	}
}

static void show(const char *text, __u64 page)
{
	use_all();
	print(text);
	print("\n");
	write_port32(PORT_SHOW_UNIT, page);
}

static void share_page(__u64 page)
{
	check_private(page);
	expect("to shared", page, share(page, 1), 0);
	use_shared(page);
}

static void take_back(__u64 page)
{
	expect("to private", page, make_private(page, 1), 0);
	check_private(page);
}

/* Shares pages all over unit 0, of which the host uses every other one. */
static void flip_many(void)
{
	__u64 shared[MORE_PAGES], step = unit / MORE_PAGES;

	for (int i = 0; i < MORE_PAGES; i++) {
		shared[i] = i * step + random_below(step);
		check_private(shared[i]);
		expect("to shared", shared[i], share(shared[i], 1), 0);
		if (i % 2)
			use_shared(shared[i]);
	}
	show("30 more pages shared, all over the unit", 0);
	for (int i = 0; i < MORE_PAGES; i++)
		take_back(shared[i]);
}

void payload_main(__u64 base_gpa, __u64 size, __u64 unit_size)
{
	/* One page in each half of unit 0. */
	__u64 first, second;

	base = base_gpa;
	pages = size / PAGE;
	unit = unit_size / PAGE;
	if (pages > MAX_PAGES || unit < 512) {
		print("flip: units of 2M or 1G, and 1G at most\n");
		finish(64);
	}
	first = unit / 3;
	second = unit / 4 * 3 + 1;
	for (__u64 page = 0; page < pages; page++)
		write_page(page);
	show("all private, and all of it used", 0);
	share_page(first);
	show("one page shared", 0);
	share_page(second);
	show("two pages shared, one in each half of the unit", 0);
	take_back(first);
	show("the first one is private again", 0);
	share_page(first);
	flip_many();
	take_back(second);
	take_back(first);
	show("all private again", 0);
	check_pages(0, pages);
	write_port32(PORT_VERIFIED, pages);
	print("wrote and verified all of it\n");
	finish(0);
}
