// SPDX-License-Identifier: GPL-2.0
/*
 * What does it cost to hand a page of guest memory to the host, and to take it back?
 *
 * The same program runs on a kernel that converts in place (one ioctl on the file, contents
 * stay) and on a kernel that does not (two backings: flip an attribute of the VM, free the
 * page on one side, get a page on the other; contents are lost). The program counts by RDTSC,
 * which in a machine that runs with -icount is the number of instructions.
 *
 * Each result is one line: "row", title, median, lowest, highest; separated by tabs. --quick
 * leaves out 1G, which takes minutes.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "measure.h"
#include "vm.h"

/* In the middle of a block of 2M that is all private, as most pages of a guest are. */
#define IN_SMALL		(SMALL_BASE + SMALL_SIZE / 2 + 256 * PAGE)
#define IN_LARGE		(LARGE_BASE + LARGE_SIZE / 2 + 256 * PAGE)
#define BLOCK			(LARGE_BASE + LARGE_SIZE / 2)
#define PAGEMAP_PFN		((1ULL << 55) - 1)

#define BATCHES			5
#define PER_BATCH		16

static struct gmem small = { .slot = 1, .base = SMALL_BASE, .size = SMALL_SIZE };
static struct gmem large = { .slot = 2, .base = LARGE_BASE, .size = LARGE_SIZE };

static struct gmem *gmem_of(__u64 gpa)
{
	return gpa >= large.base ? &large : &small;
}

/*
 * Converts with two backings: tells KVM which one to use, and frees the pages of the other one.
 * To private, the file's pages are allocated before the guest wants them, as when it started.
 */
static void set_two_backings(struct vm *vm, __u64 gpa, __u64 size, bool to_shared)
{
	struct kvm_memory_attributes args = {
		.address = gpa,
		.size = size,
		.attributes = to_shared ? 0 : KVM_MEMORY_ATTRIBUTE_PRIVATE,
	};
	const struct gmem *gmem = gmem_of(gpa);
	off_t offset = gpa - gmem->base;

	if (ioctl(vm->fd, KVM_SET_MEMORY_ATTRIBUTES, &args))
		die("KVM_SET_MEMORY_ATTRIBUTES(address 0x%llx, size 0x%llx)", gpa, size);
	if (to_shared) {
		if (fallocate(gmem->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size))
			die("fallocate(PUNCH_HOLE)");
		return;
	}
	if (fallocate(gmem->fd, FALLOC_FL_KEEP_SIZE, offset, size))
		die("fallocate()");
	if (madvise(gmem->shared + offset, size, MADV_DONTNEED))
		die("madvise(MADV_DONTNEED)");
}

static void set_shared(struct vm *vm, __u64 gpa, __u64 size, bool to_shared)
{
	if (vm->in_place)
		gmem_convert(gmem_of(gpa), gpa, size, to_shared);
	else
		set_two_backings(vm, gpa, size, to_shared);
}

static volatile __u64 *host_words(__u64 gpa)
{
	const struct gmem *gmem = gmem_of(gpa);

	return (volatile __u64 *)(gmem->shared + (gpa - gmem->base));
}

/* How the host answers hypercalls. Counts round trips, and guest's words that came through. */
static __u64 rep, guests_words;
static __u64 pfns[MAX_REPS];
static int pagemap_fd = -1;

static __s64 convert_nothing(struct vm *vm, __u64 gpa, __u64 pages, bool to_shared)
{
	(void)vm, (void)gpa, (void)pages, (void)to_shared;
	return 0;
}

/* The host's part of a round trip: take what the guest wrote, write something else. */
static __s64 convert_and_answer(struct vm *vm, __u64 gpa, __u64 pages, bool to_shared)
{
	set_shared(vm, gpa, pages * PAGE, to_shared);
	if (to_shared) {
		guests_words += host_words(gpa)[0] == guest_word(gpa, rep);
		host_words(gpa)[0] = host_word(gpa, rep++);
	}
	return 0;
}

/* Does the same, and looks up the pfn of the page. Not for runs whose time counts. */
static __s64 convert_and_look(struct vm *vm, __u64 gpa, __u64 pages, bool to_shared)
{
	__u64 entry, this = rep;
	__s64 ret;

	ret = convert_and_answer(vm, gpa, pages, to_shared);
	if (!to_shared)
		return ret;
	if (pread(pagemap_fd, &entry, sizeof(entry), (unsigned long)host_words(gpa) / PAGE *
		  sizeof(entry)) != sizeof(entry))
		die("pread(\"/proc/self/pagemap\")");
	pfns[this] = entry & PAGEMAP_PFN;
	return ret;
}

/* Returns how many pages the kernel has handed out since it was booted. */
static __u64 pages_allocated(void)
{
	FILE *file = fopen("/proc/vmstat", "r");
	__u64 value, sum = 0;
	char name[64];

	if (!file)
		die("/proc/vmstat");
	while (fscanf(file, "%63s %llu", name, &value) == 2)
		if (!strncmp(name, "pgalloc_", 8))
			sum += value;
	fclose(file);
	return sum;
}

static void round_trips(struct vm *vm, __u64 gpa, int reps)
{
	rep = 0;
	vm_guest(vm, GUEST_ROUND_TRIPS, gpa, PAGE, reps);
	for (int i = 0; i < reps; i++)
		if (vm->command->samples[i].error)
			die("the guest's hypercall: %lld", vm->command->samples[i].error);
}

static void measure_guests_view(struct vm *vm, const char *where, __u64 gpa)
{
	enum { NR = BATCHES * PER_BATCH };
	__u64 whole[NR], parts[4][NR], empty[PER_BATCH], allocated[BATCHES];
	__u64 before, reading, hypercall;

	vm->convert = convert_nothing;
	vm_guest(vm, GUEST_HYPERCALLS, 0, 0, PER_BATCH);
	for (int i = 0; i < PER_BATCH; i++)
		empty[i] = vm->command->samples[i].to_shared;

	vm->convert = convert_and_answer;
	round_trips(vm, gpa, PER_BATCH);	/* the first of everything */
	for (int batch = 0; batch < BATCHES; batch++) {
		/* Reading the counter allocates as well. */
		before = pages_allocated();
		reading = pages_allocated() - before;
		round_trips(vm, gpa, PER_BATCH);
		allocated[batch] = pages_allocated() - before - 2 * reading;
		for (int i = 0; i < PER_BATCH; i++) {
			const struct sample *sample = &vm->command->samples[i];
			int at = batch * PER_BATCH + i;

			parts[0][at] = sample->to_shared;
			parts[1][at] = sample->access_shared;
			parts[2][at] = sample->to_private;
			parts[3][at] = sample->access_private;
			whole[at] = parts[0][at] + parts[1][at] + parts[2][at] + parts[3][at];
		}
	}
	printf("section\tround trip of one 4K page in a slot of %s, guest's view\n", where);
	print_row("hypercall: to shared, host writes", parts[0], NR);
	print_row("guest's first access, shared", parts[1], NR);
	print_row("hypercall: to private", parts[2], NR);
	print_row("guest's first access, private", parts[3], NR);
	print_row("the round trip: all of this", whole, NR);
	hypercall = print_row("a hypercall that does nothing", empty, PER_BATCH);
	for (int i = 0; i < NR; i++)
		whole[i] -= 2 * hypercall;
	print_row("the round trip less two of these: bare", whole, NR);
	for (int i = 0; i < BATCHES; i++)
		allocated[i] = (allocated[i] + PER_BATCH / 2) / PER_BATCH;
	print_row("pages allocated in a round trip", allocated, BATCHES);
}

/* Did all words come through, and was it the same page all the time? */
static void verify_round_trips(struct vm *vm, __u64 gpa)
{
	__u64 nr = PER_BATCH, hosts_words = 0, others = 0, seen_shared = 0;

	pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (pagemap_fd < 0)
		die("/proc/self/pagemap");
	vm->convert = convert_and_look;
	guests_words = 0;
	round_trips(vm, gpa, nr);
	for (__u64 i = 0; i < nr; i++) {
		const struct sample *sample = &vm->command->samples[i];

		seen_shared += sample->seen_shared == host_word(gpa, i);
		hosts_words += sample->seen_private == host_word(gpa, i);
		others += pfns[i] != pfns[0];
	}
	close(pagemap_fd);
	if (seen_shared != nr)
		die("the guest saw %llu of %llu words that the host had written", seen_shared, nr);
	if (vm->in_place && (guests_words != nr || hosts_words != nr || others))
		die("of %llu words %llu reached the host, %llu came back; %llu other pfns",
		    nr, guests_words, hosts_words, others);
	printf("section\tof %llu such round trips\n", nr);
	print_row("the host read what the guest had written", &guests_words, 1);
	print_row("back in private, the guest read the host's", &hosts_words, 1);
	/* With two backings, the pfn says nothing: a freed page may be allocated again next. */
	if (vm->in_place)
		print_row("the host had another pfn than the first time", &others, 1);
}

static __u64 timed(struct vm *vm, __u64 gpa, __u64 size, bool to_shared)
{
	__u64 start = clock_now();

	set_shared(vm, gpa, size, to_shared);
	return clock_now() - start;
}

/* The calls of the host alone, for memory that the guest has written to. */
static void measure_calls(struct vm *vm, const char *size_name, __u64 gpa, __u64 size, int reps)
{
	__u64 to_shared[MAX_REPS], untouched[MAX_REPS], touched[MAX_REPS];
	char title[80];

	for (int i = 0; i < reps; i++) {
		vm_guest(vm, GUEST_WRITE, gpa, size, 0);
		to_shared[i] = timed(vm, gpa, size, true);
		untouched[i] = timed(vm, gpa, size, false);
		vm_guest(vm, GUEST_WRITE, gpa, size, 0);
		set_shared(vm, gpa, size, true);
		for (__u64 at = gpa; at < gpa + size; at += PAGE)
			host_words(at)[0] = host_word(at, i);
		vm_guest(vm, GUEST_READ, gpa, size, 0);
		touched[i] = timed(vm, gpa, size, false);
	}
	snprintf(title, sizeof(title), "%s to shared", size_name);
	print_row(title, to_shared, reps);
	snprintf(title, sizeof(title), "%s to private, not touched before", size_name);
	print_row(title, untouched, reps);
	snprintf(title, sizeof(title), "%s to private, host and guest have it mapped", size_name);
	print_row(title, touched, reps);
}

/* Makes all of a file private, allocated, and mapped into the guest. */
static void populate(struct vm *vm, const struct gmem *gmem)
{
	set_shared(vm, gmem->base, gmem->size, false);
	vm_guest(vm, GUEST_WRITE, gmem->base, gmem->size, 0);
}

int main(int argc, char **argv)
{
	struct vm vm = { .convert = convert_nothing };
	bool quick = argc == 2 && !strcmp(argv[1], "--quick");

	if (argc > 1 && !quick) {
		fprintf(stderr, "usage: convert [--quick]\n");
		return 64;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	vm_create(&vm);
	printf("how\t%s\n", vm.in_place ? "in place" : "two backings");
	vm_add_gmem(&vm, &small);
	vm_add_gmem(&vm, &large);
	populate(&vm, &small);
	populate(&vm, &large);
	measure_guests_view(&vm, "64M", IN_SMALL);
	measure_guests_view(&vm, "1G", IN_LARGE);
	verify_round_trips(&vm, IN_SMALL);
	printf("section\tcalls of the host alone, guest memory populated\n");
	measure_calls(&vm, "4K", IN_LARGE, PAGE, 31);
	measure_calls(&vm, "2M", BLOCK, 2 * MIB, 9);
	if (!quick)
		measure_calls(&vm, "1G", LARGE_BASE, LARGE_SIZE, 3);
	printf("complete\n");
	return 0;
}
