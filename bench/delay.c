// SPDX-License-Identifier: GPL-2.0
/* The longest time with interrupts off, see delay.h. */
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/perf_event.h>

#include "delay.h"
#include "vm.h"

#define PERIOD_NS		20000
#define DATA_PAGES		128ULL

struct sample_record {
	struct perf_event_header header;
	__u64 ip, time;
};

static int fd = -1;
static struct perf_event_mmap_page *ring;
static struct {
	__u64 time, ip;
	long long delay, shortest, longest;	/* relative to the first sample's */
	bool any;
} state;

bool delay_begin(void)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.sample_period = PERIOD_NS,
		.sample_type = PERF_SAMPLE_IP | PERF_SAMPLE_TIME,
	};

	fd = syscall(SYS_perf_event_open, &attr, -1, 0, -1, 0);
	if (fd < 0)
		return false;
	ring = mmap(NULL, (1 + DATA_PAGES) * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (ring == MAP_FAILED)
		die("mmap(perf event)");
	memset(&state, 0, sizeof(state));
	return true;
}

/*
 * The timer's next expiry is a multiple of the period after its last one, and in the future. So
 * the delay follows from the last one, and from the time in between.
 */
static void take(const struct sample_record *sample)
{
	if (state.any) {
		long long periods = state.delay < 0 ? 0 : state.delay / PERIOD_NS;

		state.delay += (long long)(sample->time - state.time) - (periods + 1) * PERIOD_NS;
		if (state.delay < state.shortest)
			state.shortest = state.delay;
		if (state.delay > state.longest) {
			state.longest = state.delay;
			state.ip = sample->ip;
		}
	}
	state.any = true;
	state.time = sample->time;
}

/* Copies out of the ring, in which a record may wrap around. */
static void copy(void *to, __u64 at, __u64 size)
{
	const char *data = (const char *)ring + ring->data_offset;

	for (__u64 i = 0; i < size; i++)
		((char *)to)[i] = data[(at + i) % ring->data_size];
}

void delay_collect(void)
{
	__u64 head = __atomic_load_n(&ring->data_head, __ATOMIC_ACQUIRE), tail = ring->data_tail;
	struct sample_record record;

	while (tail < head) {
		copy(&record.header, tail, sizeof(record.header));
		if (record.header.type == PERF_RECORD_SAMPLE) {
			copy(&record, tail, sizeof(record));
			take(&record);
		} else {
			/* Samples were lost or throttled: begin anew. */
			state.any = false;
			state.delay = 0;
		}
		tail += record.header.size;
	}
	__atomic_store_n(&ring->data_tail, tail, __ATOMIC_RELEASE);
}

static void print_place(const char *what, long long delay)
{
	FILE *file = fopen("/proc/kallsyms", "r");
	unsigned long long at, nearest = 0;
	char type, name[200] = "", best[200] = "?";

	while (file && fscanf(file, "%llx %c %199s%*[^\n]", &at, &type, name) == 3) {
		if (at <= state.ip && at >= nearest && strchr("tT", type)) {
			nearest = at;
			memcpy(best, name, sizeof(best));
		}
	}
	if (file)
		fclose(file);
	fprintf(stderr, "%s: %lld ns, up to %s\n", what, delay, best);
}

__u64 delay_end(const char *what)
{
	long long delay;

	ioctl(fd, PERF_EVENT_IOC_DISABLE, 0);
	delay_collect();
	munmap(ring, (1 + DATA_PAGES) * PAGE);
	close(fd);
	delay = state.longest - state.shortest;
	print_place(what, delay);
	return delay;
}
