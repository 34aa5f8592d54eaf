// SPDX-License-Identifier: GPL-2.0
/*
 * A guest that does nothing but convert: it has its private memory shared and made private
 * again, a unit at a time and in ranges, with the host reading and writing what is shared,
 * and looks at all contents before and after. It runs without any system below it, in
 * 64-bit mode; ../payload.c says how it gets there.
 *
 * The model is simple. Each 64-bit word has a value of its own, word_at(). Whoever uses a
 * page, guest or host, complements all of it; turned[] says of each page whether its words
 * are complemented now. So whatever page is lost, stale, or somebody else's shows up.
 */
#include <asm/kvm_para.h>
#include <linux/errno.h>
#include <linux/kvm_para.h>
#include <linux/types.h>

#include "port.h"

#define PAGE		4096ULL
#define WORDS		(PAGE / sizeof(__u64))
#define MAX_PAGES	262144		/* 1G of private memory */
#define ROUNDS		48

#define SERIAL_PORT	0x3f8

static __u64 base, pages, unit;		/* gpa; in pages; in pages */
static __u8 turned[MAX_PAGES];

static inline void write_port8(__u16 port, __u8 value)
{
	asm volatile("outb %0, %1" :: "a"(value), "d"(port) : "memory");
}

static inline void write_port32(__u16 port, __u32 value)
{
	asm volatile("outl %0, %1" :: "a"(value), "d"(port) : "memory");
}

static inline __u32 read_port32(__u16 port)
{
	__u32 value;

	asm volatile("inl %1, %0" : "=a"(value) : "d"(port) : "memory");
	return value;
}

static void print(const char *text)
{
	while (*text)
		write_port8(SERIAL_PORT, *text++);
}

static void print_number(__s64 value)
{
	char digits[24];
	int pos = sizeof(digits) - 1;
	__u64 rest = value < 0 ? -value : value;

	digits[pos] = '\0';
	do {
		digits[--pos] = '0' + rest % 10;
		rest /= 10;
	} while (rest);
	if (value < 0)
		digits[--pos] = '-';
	print(digits + pos);
}

static void __attribute__((noreturn)) finish(int status)
{
	for (;;)
		write_port8(PORT_STATUS, status);
}

static void __attribute__((noreturn))
fail(int line, const char *what, __u64 page, __s64 is, __s64 should)
{
	print("payload.c:");
	print_number(line);
	print(": ");
	print(what);
	print(", page ");
	print_number(page);
	print(": is ");
	print_number(is);
	print(", should be ");
	print_number(should);
	print("\n");
	finish(1);
}

#define expect(what, page, is, should) do {				\
	__s64 __is = (is), __should = (should);				\
									\
	if (__is != __should)						\
		fail(__LINE__, what, page, __is, __should);		\
} while (0)

/* The same numbers in every run. */
static __u64 random_below(__u64 limit)
{
	static __u64 state = 1;

	state = state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (state >> 33) % limit;
}

static __s64 hypercall(__u64 gpa, __u64 nr, __u64 attributes)
{
	__s64 ret;

	/* AMD's instruction; on Intel, KVM replaces it. */
	asm volatile("vmmcall" : "=a"(ret)
		     : "a"(KVM_HC_MAP_GPA_RANGE), "b"(gpa), "c"(nr), "d"(attributes)
		     : "memory");
	return ret;
}

static __s64 share(__u64 page, __u64 nr)
{
	return hypercall(base + page * PAGE, nr, KVM_MAP_GPA_RANGE_DECRYPTED);
}

static __s64 make_private(__u64 page, __u64 nr)
{
	return hypercall(base + page * PAGE, nr, KVM_MAP_GPA_RANGE_ENCRYPTED);
}

static int host(int what, __u64 page)
{
	write_port32(PORT_HOST_PAGE, page);
	write_port8(PORT_HOST_DO, what);
	return read_port32(PORT_HOST_DO);
}

static volatile __u64 *words_of(__u64 page)
{
	return (__u64 *)(base + page * PAGE);
}

static __u64 word_at(__u64 page, __u64 word)
{
	__u64 value = (page * WORDS + word + 1) * 0x9e3779b97f4a7c15ULL;

	return turned[page] ? ~value : value;
}

static void write_page(__u64 page)
{
	for (__u64 word = 0; word < WORDS; word++)
		words_of(page)[word] = word_at(page, word);
}

static void check_page(__u64 page)
{
	for (__u64 word = 0; word < WORDS; word++)
		if (words_of(page)[word] != word_at(page, word))
			fail(__LINE__, "contents", page, words_of(page)[word], word_at(page, word));
}

static void check_pages(__u64 page, __u64 nr)
{
	for (__u64 end = page + nr; page < end; page++)
		check_page(page);
}

/*
 * The host can't read or write it, and what it tried has left no trace. As it can't use part
 * of a unit even if that is shared, those are asked in another way: to change a part of a
 * unit is refused, except where nothing would change.
 */
static void check_private(__u64 page)
{
	if (unit > 1)
		expect("part of a private unit, to shared", page, share(page, 1), -EOPNOTSUPP);
	expect("the host's access to a private page", page, host(HOST_COMPLEMENT, page), -EFAULT);
	check_page(page);
}

/*
 * The host uses a shared page after the guest has, so each must see what the other wrote.
 * A page that is part of something larger can be shared, but the host does not get at it.
 */
static void use_shared(__u64 page)
{
	check_page(page);
	turned[page] ^= 1;
	write_page(page);
	if (unit > 1) {
		expect("part of a shared unit, to private", page, make_private(page, 1),
		       -EOPNOTSUPP);
		expect("the host's access to a part of a unit", page,
		       host(HOST_COMPLEMENT, page), -EFAULT);
	} else {
		expect("the host's access to a shared page", page,
		       host(HOST_COMPLEMENT, page), 0);
		turned[page] ^= 1;
	}
	check_page(page);
}

static void check_neighbours(__u64 page, __u64 nr)
{
	if (page)
		check_private(page - 1);
	if (page + nr < pages)
		check_private(page + nr);
}

/* One unit there and back, contents and neighbours looked at in between. */
static void flip_unit(__u64 page)
{
	check_private(page);
	expect("to shared", page, share(page, unit), 0);
	use_shared(page);
	use_shared(page + unit - 1);
	check_pages(page, unit);
	check_neighbours(page, unit);
	expect("to private", page, make_private(page, unit), 0);
	check_pages(page, unit);
	check_private(page);
	check_neighbours(page, unit);
}

static void flip_units(void)
{
	flip_unit(0);
	flip_unit(pages - unit);
	for (int i = 0; i < ROUNDS; i++)
		flip_unit(random_below(pages / unit) * unit);
}

/* Ranges: shared in one call and a second time, private again in two that overlap. */
static void flip_range(__u64 page, __u64 nr)
{
	__u64 half = nr / unit / 2 * unit;

	expect("range to shared", page, share(page, nr), 0);
	for (int i = 0; i < 8; i++)
		use_shared(page + random_below(nr));
	expect("range to shared, again", page, share(page, nr), 0);
	check_pages(page, nr);
	check_neighbours(page, nr);
	if (half)
		expect("first half to private", page, make_private(page, half), 0);
	if (half && half < nr) {
		check_private(page);
		use_shared(page + half);
	}
	expect("range to private", page, make_private(page, nr), 0);
	check_private(page + random_below(nr));
	check_pages(page, nr);
	check_neighbours(page, nr);
}

static void flip_ranges(void)
{
	__u64 units = pages / unit;

	for (int i = 0; i < ROUNDS; i++) {
		__u64 first = random_below(units);
		__u64 nr = 1 + random_below(units - first < 600 ? units - first : 600);

		flip_range(first * unit, nr * unit);
	}
	flip_range(0, pages);
}

/* What can't be done: an error, and nothing has happened. */
static void check_errors(void)
{
	expect("below the slot", 0, share(-1, 2), -EINVAL);
	expect("beyond the slot", pages, share(pages - 1, 2), -EINVAL);
	expect("no pages", 0, share(0, 0), -EINVAL);
	expect("not a page", 0, hypercall(base + 1, 1, KVM_MAP_GPA_RANGE_DECRYPTED), -EINVAL);
	check_private(0);
	check_private(pages - 1);
	if (unit == 1)
		return;
	expect("part of a unit", 1, share(1, 1), -EOPNOTSUPP);
	expect("a unit and a part", 0, share(0, unit + 1), -EOPNOTSUPP);
	expect("a part and a unit", 0, share(unit - 1, unit + 1), -EOPNOTSUPP);
	/* Nothing changes in a part that is private already. */
	expect("part of a unit, to private", 1, make_private(1, 1), 0);
	check_pages(0, 2 * unit);
}

/* Somebody holds on to one page of a range: none of it converts, until that one lets go. */
static void check_pin(__u64 first, __u64 nr, __u64 pinned)
{
	expect("pin of a private page", pinned, host(HOST_PIN, pinned), -EFAULT);
	expect("to shared", first, share(first, nr), 0);
	expect("pin", pinned, host(HOST_PIN, pinned), 0);
	expect("to private while pinned", first, make_private(first, nr), -EAGAIN);
	for (__u64 page = first; page < first + nr; page++)
		use_shared(page);
	/* Its neighbours are nobody's. */
	if (pinned > first)
		expect("what is below the pin", first, make_private(first, pinned - first), 0);
	expect("unpin", pinned, host(HOST_UNPIN, pinned), 0);
	expect("to private", first, make_private(first, nr), 0);
	check_pages(first, nr);
	check_private(pinned);
}

/* Where the program is entered. */
void payload_main(__u64 base_gpa, __u64 size, __u64 unit_size);

void payload_main(__u64 base_gpa, __u64 size, __u64 unit_size)
{
	base = base_gpa;
	pages = size / PAGE;
	unit = unit_size / PAGE;
	if (pages > MAX_PAGES || pages < 16 * unit) {
		print("payload: 16 units at least, and 1G at most\n");
		finish(64);
	}
	for (__u64 page = 0; page < pages; page++)
		write_page(page);
	check_pages(0, pages);
	flip_units();
	flip_ranges();
	check_errors();
	if (unit == 1) {
		check_pin(100, 1, 100);
		check_pin(100, 16, 105);
	}
	check_pages(0, pages);
	write_port32(PORT_VERIFIED, pages);
	print("converted and verified\n");
	finish(0);
}
