// SPDX-License-Identifier: GPL-2.0
/*
 * Draw what the hypervisor says about the guest's memory, and check that all is as it has to be.
 *
 * The file pkvm_pages in the VM's directory of debugfs comes from the hypervisor's own tables. A
 * line is "0x40000000-0x40200000 level 2 owned", with more text if KVM doesn't agree.
 */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arm64.h"

#define CELLS_PER_ROW		64

typedef void (*entry_visitor)(void *context, __u64 start, __u64 end, int level, const char *what);

/* Calls @visit for each line. Returns false if there is no such file. */
static bool visit_entries(struct vm *vm, entry_visitor visit, void *context)
{
	char path[128], line[256], what[128];
	__u64 start, end;
	FILE *file;
	int level;

	snprintf(path, sizeof(path), "/sys/kernel/debug/kvm/%d-%d/pkvm_pages", getpid(), vm->fd);
	file = fopen(path, "r");
	if (!file)
		return false;
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "0x%llx-0x%llx level %d %127[^\n]", &start, &end, &level,
			   what) != 4)
			die(0, NULL, "%s: %s", path, line);
		visit(context, start, end, level, what);
	}
	fclose(file);
	return true;
}

static void count_entry(void *context, __u64 start, __u64 end, int level, const char *what)
{
	struct entries *entries = context;
	__u64 size = end - start;

	if (!strncmp(what, "shared", 6))
		entries->shared_4k += size / PAGE;
	else if (!strncmp(what, "poisoned", 8))
		entries->poisoned += size / PAGE;
	else if (level == 2)
		entries->owned_2m += size / BLOCK;
	else
		entries->owned_4k += size / PAGE;
	entries->disagree += !!strstr(what, "agree");
}

bool report_entries(struct vm *vm, struct entries *entries)
{
	memset(entries, 0, sizeof(*entries));
	return vm->opt->protected && visit_entries(vm, count_entry, entries);
}

struct cells {
	__u64 nr;
	char cell[];
};

/* A cell is a block; what is shared stands out. */
static void draw_entry(void *context, __u64 start, __u64 end, int level, const char *what)
{
	char c = !strncmp(what, "shared", 6) ? 's' : strncmp(what, "owned", 5) ? 'x' :
		 level == 2 ? '#' : '+';
	struct cells *cells = context;

	for (__u64 i = (start - RAM_BASE) / BLOCK; i <= (end - 1 - RAM_BASE) / BLOCK; i++)
		if (i < cells->nr && cells->cell[i] != 's')
			cells->cell[i] = c;
}

/* Draws the memory as the hypervisor maps it for the guest. */
void report_map(struct vm *vm, const char *when)
{
	__u64 nr = vm->opt->memory / BLOCK;
	struct entries entries;
	struct cells *cells;

	if (!report_entries(vm, &entries))
		return;
	cells = calloc(1, sizeof(*cells) + nr + 1);
	if (!cells)
		die(0, NULL, "no memory for %llu cells", nr);
	cells->nr = nr;
	memset(cells->cell, '.', nr);
	visit_entries(vm, draw_entry, cells);
	printf("  EL2, %s:\n", when);
	for (__u64 i = 0; i < nr; i += CELLS_PER_ROW)
		printf("    %.*s\n", CELLS_PER_ROW, cells->cell + i);
	printf("    %llu blocks of 2M (#), %llu pages (+), %llu shared (s), %llu lost (x)\n",
	       entries.owned_2m, entries.owned_4k, entries.shared_4k, entries.poisoned);
	fflush(stdout);
	free(cells);
}

static int complain(const char *fmt, __u64 is, __u64 wanted)
{
	fprintf(stderr, "gmem-vmm: WRONG: ");
	fprintf(stderr, fmt, is, wanted);
	fprintf(stderr, "\n");
	return 1;
}

static int check_devices(struct vm *vm)
{
	int wrong = 0;

	for (int i = 0; i < NR_DEVICES; i++) {
		struct virtio *virtio = &vm->devices[i];

		if (!virtio->name)
			continue;
		printf("  %s: %llu requests, %llu bytes, %llu refused\n", virtio->name,
		       virtio->requests, virtio->bytes, virtio->refused);
		if (!virtio->requests || virtio->refused)
			wrong += complain("a device has had %llu requests, and refused %llu",
					  virtio->requests, virtio->refused);
	}
	return wrong;
}

/* Returns how many pages that aren't shared are in a block of 2M with pages that are. */
static __u64 count_split(struct vm *vm)
{
	__u64 split = 0;

	for (__u64 page = 0; page < vm->opt->memory / PAGE; page += BLOCK / PAGE) {
		__u64 shared = 0;

		for (__u64 i = 0; i < BLOCK / PAGE; i++)
			shared += vm->shared[page + i];
		split += shared ? BLOCK / PAGE - shared : 0;
	}
	return split;
}

/* The guest has blocks, wherever it doesn't share a page of them. */
static int check_blocks(struct vm *vm, const struct entries *entries)
{
	if (vm->opt->page_size < BLOCK)
		return 0;
	if (entries->owned_2m && entries->owned_4k <= count_split(vm))
		return 0;
	return complain("the guest has %llu pages that aren't in blocks, there should be %llu",
			entries->owned_4k, count_split(vm));
}

/* The host can read what the guest shares, and nothing else; the three parties agree. */
static int check_protected(struct vm *vm)
{
	__u64 shared = memory_count_shared(vm), reachable = memory_reachable(vm);
	struct report *report = &vm->report;
	struct entries entries;
	int wrong = 0;

	printf("  conversions: %llu to shared, %llu to private, of %llu pages; %llu refused\n",
	       report->shared, report->unshared, report->converted, report->refused);
	printf("  pages that the guest shares: %llu; that the host can read: %llu of %llu\n",
	       shared, reachable, vm->opt->memory / PAGE);
	if (reachable != shared)
		wrong += complain("the host can read %llu pages, and the guest shares %llu",
				  reachable, shared);
	if (report->greedy_worked || vm->opt->greedy != !!report->greedy)
		wrong += complain("%llu of %llu conversions worked that the guest hadn't asked for",
				  report->greedy_worked, report->greedy);
	if (report->refused)
		wrong += complain("%llu conversions failed%.0llu", report->refused, 0);
	if (!report->shared || !report->unshared)
		wrong += complain("the guest has shared %llu times, and taken back %llu times",
				  report->shared, report->unshared);
	if (!report_entries(vm, &entries)) {
		printf("  not measured: the hypervisor's tables (needs debugfs)\n");
		return wrong;
	}
	if (entries.disagree)
		wrong += complain("%llu ranges on which KVM and the hypervisor don't agree%.0llu",
				  entries.disagree, 0);
	if (entries.shared_4k != shared)
		wrong += complain("for the hypervisor, the guest shares %llu pages, not %llu",
				  entries.shared_4k, shared);
	wrong += check_blocks(vm, &entries);
	if (entries.poisoned)
		wrong += complain("the guest has lost %llu pages%.0llu", entries.poisoned, 0);
	return wrong;
}

/* Prints all counters, and complains about those that are wrong. Returns how many that are. */
int report_check(struct vm *vm)
{
	struct report *report = &vm->report;
	int wrong = check_devices(vm);

	printf("  pages that the guest has verified: %llu; used by the VMM for it: %llu\n",
	       report->verified, report->answered);
	if (vm->opt->protected)
		wrong += check_protected(vm);
	if (report->status)
		wrong += complain("the guest's exit status is %lld, not %llu", report->status, 0);
	if (!report->verified || !report->answered)
		wrong += complain("the guest has verified %llu pages, the VMM has used %llu",
				  report->verified, report->answered);
	return wrong;
}
