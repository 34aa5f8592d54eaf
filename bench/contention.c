// SPDX-License-Identifier: GPL-2.0
/*
 * What do conversions do to each other, and to the rest of the machine?
 *
 * Up to eight vCPUs, each in a thread, convert pages of one file at the same time: pages that are
 * far from each other, or pages next to each other. In the emulated machine, which counts
 * instructions, there is one processor, so that the vCPUs take turns: a lock is waited for only if
 * its owner was preempted or sleeps. On real hardware, they run at the same time.
 *
 * A call holds invalidate_lock for write for less than its own CPU time. mmu_lock is held for less
 * than what a call costs more if the file has a slot that the guest has touched: this is the work
 * on the guest's page tables. delay.h has how long interrupts are off.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "delay.h"
#include "file.h"

#define SIZE			LARGE_SIZE
#define BLOCK			(2 * MIB)
#define SPAN			(SIZE / MAX_VCPUS)
#define BATCH			16
#define REPEATS			5

static bool quick;

struct worker {
	pthread_t thread;
	struct vcpu *vcpu;
	__u64 gpa, end, conversions;
};

/* Of all threads, the longest call. The threads take turns at nothing else. */
static __u64 longest_cpu, longest_wall;
static struct file *the_file;

static __u64 thread_time(void)
{
	struct timespec time;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
	return time.tv_sec * 1000000000ULL + time.tv_nsec;
}

static void raise_to(__u64 *longest, __u64 value)
{
	__u64 old = __atomic_load_n(longest, __ATOMIC_RELAXED);

	while (old < value && !__atomic_compare_exchange_n(longest, &old, value, false,
							   __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

static __s64 convert(struct vm *vm, __u64 gpa, __u64 pages, bool to_shared)
{
	__u64 cpu = thread_time(), wall = clock_now();

	(void)vm;
	gmem_convert(&the_file->gmem, gpa, pages * PAGE, to_shared);
	raise_to(&longest_wall, clock_now() - wall);
	raise_to(&longest_cpu, thread_time() - cpu);
	return 0;
}

static void *convert_until(void *arg)
{
	struct worker *worker = arg;

	while (clock_now() < worker->end) {
		vcpu_guest(worker->vcpu, GUEST_ROUND_TRIPS, worker->gpa, PAGE, BATCH);
		for (int i = 0; i < BATCH; i++)
			if (worker->vcpu->command->samples[i].error)
				die("the guest's hypercall failed");
		worker->conversions += 2 * BATCH;
	}
	return NULL;
}

/* Returns how many conversions there were in a hundred million instructions. */
static __u64 convert_together(int nr, bool neighbors)
{
	struct worker workers[MAX_VCPUS] = {};
	__u64 start = clock_now(), span = quick ? 20000000 : 100000000, sum = 0;

	longest_cpu = 0;
	longest_wall = 0;
	for (int i = 0; i < nr; i++) {
		workers[i].vcpu = &the_file->vm.vcpus[i];
		workers[i].gpa = the_file->gmem.base + MIB + i * (neighbors ? PAGE : SPAN);
		workers[i].end = start + span;
		if (pthread_create(&workers[i].thread, NULL, convert_until, &workers[i]))
			die("pthread_create()");
	}
	for (int i = 0; i < nr; i++) {
		pthread_join(workers[i].thread, NULL);
		sum += workers[i].conversions;
	}
	return sum * 100000000 / (clock_now() - start);
}

static void measure_vcpus(const struct kind *kind, bool neighbors)
{
	struct file file;

	file_create(&file, kind, SIZE, false);
	file.vm.convert = convert;
	while (file.vm.nr_vcpus < MAX_VCPUS)
		vm_add_vcpu(&file.vm);
	the_file = &file;
	file_populate(&file, file.gmem.base, SIZE);
	file_touch(&file, file.gmem.base, SIZE);
	begin_section("%s: vCPUs convert %s", kind->name,
		      neighbors ? "pages next to each other" : "pages of their own 128M");
	for (int nr = 1; nr <= MAX_VCPUS; nr *= 2) {
		print_value(convert_together(nr, neighbors), "%d: conversions in 100 M", nr);
		print_value(longest_cpu, "%d: longest call, its CPU time", nr);
		print_value(longest_wall, "%d: longest call, waits included", nr);
	}
	file_destroy(&file);
}

static void time_calls(const struct kind *kind, bool unbound, __u64 size, __u64 *to_shared,
		       __u64 *to_private)
{
	struct file file;

	file_create(&file, kind, SIZE, unbound);
	file_populate(&file, file.gmem.base, SIZE);
	for (int i = 0; i < REPEATS; i++) {
		if (!unbound)
			file_touch(&file, file.gmem.base, SIZE);
		to_shared[i] = file_convert(&file, file.unit, size, true);
		if (!unbound)
			file_touch(&file, file.gmem.base, SIZE);
		to_private[i] = file_convert(&file, file.unit, size, false);
	}
	file_destroy(&file);
}

static void print_locks(const char *what, __u64 *bound, __u64 *unbound)
{
	__u64 with = print_values(bound, REPEATS, "%s: invalidate_lock, at most", what);
	__u64 without = print_values(unbound, REPEATS, "%s: the call without a slot", what);

	print_value(with - (without < with ? without : with), "%s: mmu_lock, at most", what);
}

static void measure_locks(const struct kind *kind, __u64 size, const char *size_name)
{
	__u64 to_shared[2][REPEATS], to_private[2][REPEATS];

	for (int unbound = 0; unbound < 2; unbound++)
		time_calls(kind, unbound, size, to_shared[unbound], to_private[unbound]);
	begin_section("%s: locks held while %s is converted, all mapped", kind->name, size_name);
	print_locks("to shared", to_shared[0], to_shared[1]);
	print_locks("to private", to_private[0], to_private[1]);
}

/* Work that is repeated while the timer looks for interrupts that are off. */
static void do_nothing(struct file *file)
{
	__u64 end = clock_now() + 1000000;

	(void)file;
	while (clock_now() < end)
		;
}

static void convert_page(struct file *file)
{
	gmem_convert(&file->gmem, file->unit + MIB, PAGE, true);
	gmem_convert(&file->gmem, file->unit + MIB, PAGE, false);
}

static void convert_unit(struct file *file)
{
	gmem_convert(&file->gmem, file->unit, file->unit_size, true);
	gmem_convert(&file->gmem, file->unit, file->unit_size, false);
}

static void convert_many(struct file *file)
{
	__u64 step = file->kind->shift == 21 ? PAGE : BLOCK;

	for (__u64 at = 0; at < file->unit_size; at += step)
		gmem_convert(&file->gmem, file->unit + at, PAGE, true);
	gmem_convert(&file->gmem, file->unit, file->unit_size, false);
}

static void punch_and_allocate(struct file *file)
{
	file_punch(file, file->unit, file->unit_size);
	file_populate(file, file->unit, file->unit_size);
}

static const struct work {
	const char *what;
	void (*fn)(struct file *file);
	int times;
} works[] = {
	{ "no system call", do_nothing, 100 },
	{ "4K to shared and back", convert_page, 400 },
	{ "a huge page to shared and back", convert_unit, 400 },
	{ "512 single pages to shared, all back at once", convert_many, 20 },
	{ "a huge page punched and allocated", punch_and_allocate, 3 },
};

static void measure_interrupts(const struct kind *kind)
{
	struct file file;

	file_create(&file, kind, SIZE, false);
	file_populate(&file, file.gmem.base, SIZE);
	begin_section("%s: longest time with interrupts off", kind->name);
	for (unsigned int i = 0; i < ARRAY_SIZE(works); i++) {
		if (!delay_begin()) {
			printf("note\tno perf events\n");
			break;
		}
		for (int n = 0; n < works[i].times / (quick ? 10 : 1) + 1; n++) {
			works[i].fn(&file);
			delay_collect();
		}
		print_value(delay_end(works[i].what), "%s", works[i].what);
	}
	file_destroy(&file);
}

int main(int argc, char **argv)
{
	quick = bench_begin(argc, argv, "contention");
	printf("how\tin place\n");
	for (unsigned int i = 0; i < NR_KINDS; i++) {
		measure_vcpus(&kinds[i], false);
		measure_vcpus(&kinds[i], true);
	}
	for (unsigned int i = 1; i < NR_KINDS; i++) {
		measure_locks(&kinds[i], PAGE, "a page");
		measure_locks(&kinds[i], 1ULL << kinds[i].shift, "a huge page");
		measure_interrupts(&kinds[i]);
	}
	return bench_end();
}
