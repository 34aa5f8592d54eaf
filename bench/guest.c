// SPDX-License-Identifier: GPL-2.0
/*
 * The guest of the benchmarks. The code is copied and runs elsewhere, so the Makefile has it
 * compiled without references to anything outside: no library, no constants in other sections,
 * no vector registers.
 */
#include "guest.h"

#include <asm/kvm_para.h>
#include <linux/kvm_para.h>

#define __guest __attribute__((section("guest")))

static inline __attribute__((always_inline)) __u64 guest_now(void)
{
	__u32 low, high;

	asm volatile("rdtsc" : "=a"(low), "=d"(high) :: "memory");
	return (__u64)high << 32 | low;
}

static inline __attribute__((always_inline)) void done(void)
{
	asm volatile("outb %%al, %%dx" :: "a"(0), "d"(PORT_DONE) : "memory");
}

/* VMMCALL is AMD's; on Intel, KVM patches it. */
static inline __attribute__((always_inline))
__s64 convert(__u64 gpa, __u64 pages, __u64 attributes)
{
	__s64 ret;

	asm volatile("vmmcall" : "=a"(ret)
		     : "a"(KVM_HC_MAP_GPA_RANGE), "b"(gpa), "c"(pages), "d"(attributes)
		     : "memory");
	return ret;
}

/*
 * Does a round trip of a page. The first access follows each hypercall at once: the cost of
 * getting the page back into the guest is part of the conversion.
 */
static __guest void round_trip(volatile struct sample *sample, __u64 gpa, __u64 rep)
{
	volatile __u64 *word = (__u64 *)gpa;
	__u64 times[5], seen_shared, seen_private;
	__s64 error;

	*word = guest_word(gpa, rep);
	times[0] = guest_now();
	error = convert(gpa, 1, KVM_MAP_GPA_RANGE_DECRYPTED);
	times[1] = guest_now();
	seen_shared = *word;
	times[2] = guest_now();
	error |= convert(gpa, 1, KVM_MAP_GPA_RANGE_ENCRYPTED);
	times[3] = guest_now();
	seen_private = *word;
	times[4] = guest_now();

	sample->to_shared = times[1] - times[0];
	sample->access_shared = times[2] - times[1];
	sample->to_private = times[3] - times[2];
	sample->access_private = times[4] - times[3];
	sample->seen_shared = seen_shared;
	sample->seen_private = seen_private;
	sample->error = error;
}

static __guest void hypercall(volatile struct sample *sample)
{
	__u64 start = guest_now();

	sample->error = convert(0, 1, KVM_MAP_GPA_RANGE_DECRYPTED);
	sample->to_shared = guest_now() - start;
}

static __guest void access_pages(__u64 gpa, __u64 pages, __u64 op)
{
	for (__u64 end = gpa + pages * PAGE; gpa < end; gpa += PAGE) {
		volatile __u64 *word = (__u64 *)gpa;

		if (op == GUEST_WRITE)
			*word = guest_word(gpa, 0);
		else
			(void)*word;
	}
}

__guest void guest_main(volatile struct command *command)
{
	for (;;) {
		__u64 op = command->op, gpa = command->gpa;

		if (op == GUEST_READ || op == GUEST_WRITE)
			access_pages(gpa, command->pages, op);
		for (__u64 rep = 0; rep < command->reps; rep++) {
			if (op == GUEST_HYPERCALLS)
				hypercall(&command->samples[rep]);
			if (op == GUEST_ROUND_TRIPS)
				round_trip(&command->samples[rep], gpa, rep);
		}
		done();
	}
}
