/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Functions of a guest program that has no system below it: the console, the hypercall that asks
 * for conversions, the host's services of port.h, and a model of the memory's contents. Such a
 * program is one file that includes this header; ../payload.c says how the program is started.
 *
 * The model is simple. Each 64-bit word has a value of its own, word_at(). A user of a
 * page, guest or host, complements all of it; turned[] says of each page whether its words
 * are complemented now. So the program finds a page that is lost, stale, or the wrong one.
 */
#ifndef GUEST_BARE_H
#define GUEST_BARE_H

#include <asm/kvm_para.h>
#include <linux/errno.h>
#include <linux/kvm_para.h>
#include <linux/types.h>

#include "port.h"

#define PAGE		4096ULL
#define WORDS		(PAGE / sizeof(__u64))
#define MAX_PAGES	262144		/* 1G of private memory */

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
fail(const char *file, int line, const char *what, __u64 page, __s64 is, __s64 should)
{
	print(file);
	print(":");
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
		fail(__FILE__, __LINE__, what, page, __is, __should);	\
} while (0)

/* Returns the same random numbers in every run. */
static __u64 random_below(__u64 limit)
{
	static __u64 state = 1;

	state = state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (state >> 33) % limit;
}

static __s64 hypercall(__u64 gpa, __u64 nr, __u64 attributes)
{
	__s64 ret;

	/* This is AMD's instruction; on Intel, KVM replaces it. */
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
		expect("contents", page, words_of(page)[word], word_at(page, word));
}

static void check_pages(__u64 page, __u64 nr)
{
	for (__u64 end = page + nr; page < end; page++)
		check_page(page);
}

/* Checks that the host can't read or write a page, and that its attempt has left no trace. */
static void check_private(__u64 page)
{
	expect("the host's access to a private page", page, host(HOST_COMPLEMENT, page), -EFAULT);
	check_page(page);
}

/* Has the guest and then the host use a shared page: each must see what the other wrote. */
static void use_shared(__u64 page)
{
	check_page(page);
	turned[page] ^= 1;
	write_page(page);
	expect("the host's access to a shared page", page, host(HOST_COMPLEMENT, page), 0);
	turned[page] ^= 1;
	check_page(page);
}

/* The entry point of the program. */
void payload_main(__u64 base_gpa, __u64 size, __u64 unit_size);

#endif
