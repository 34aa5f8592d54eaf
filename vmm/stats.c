// SPDX-License-Identifier: GPL-2.0
/*
 * KVM's binary statistics.
 *
 * KVM_GET_STATS_FD on a VM or a vCPU returns a file: a header, a table of descriptors
 * (name, type, size, where its data is), and the data. Names, not offsets, are the
 * interface, so a reader walks the table and picks what it knows.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vmm.h"

typedef void (*stats_visitor)(void *context, const char *name, __s64 value);

static void read_at(int fd, void *buf, size_t len, off_t pos)
{
	ssize_t n = pread(fd, buf, len, pos);

	if (n != (ssize_t)len)
		die(n < 0 ? errno : 0, NULL, "pread(statistics file, %zu bytes at %ld) = %zd",
		    len, (long)pos, n);
}

/* Calls @visit for each counter. Skips histograms: many values, none of interest here. */
static void visit_stats(int fd, stats_visitor visit, void *context)
{
	struct kvm_stats_header header;
	size_t desc_size;
	char *table;
	int stats_fd;

	stats_fd = ioctl(fd, KVM_GET_STATS_FD, NULL);
	if (stats_fd < 0)
		die(errno, "needs a kernel with KVM_CAP_BINARY_STATS_FD, 5.14 or later",
		    "KVM_GET_STATS_FD()");
	read_at(stats_fd, &header, sizeof(header), 0);
	desc_size = sizeof(struct kvm_stats_desc) + header.name_size;
	table = calloc(header.num_desc, desc_size);
	if (!table)
		die(errno, NULL, "no memory for %u descriptors", header.num_desc);
	read_at(stats_fd, table, header.num_desc * desc_size, header.desc_offset);

	for (__u32 i = 0; i < header.num_desc; i++) {
		const struct kvm_stats_desc *desc = (void *)(table + i * desc_size);
		__s64 value;

		if (desc->size != 1)
			continue;
		read_at(stats_fd, &value, sizeof(value), header.data_offset + desc->offset);
		visit(context, desc->name, value);
	}
	free(table);
	close(stats_fd);
}

static void pick(void *context, const char *name, __s64 value)
{
	static const struct {
		const char *name;
		size_t offset;
	} wanted[] = {
		{ "pages_1g", offsetof(struct stats, pages_1g) },
		{ "pages_2m", offsetof(struct stats, pages_2m) },
		{ "pages_4k", offsetof(struct stats, pages_4k) },
		{ "pf_taken", offsetof(struct stats, pf_taken) },
		{ "pf_fixed", offsetof(struct stats, pf_fixed) },
		{ "exits",    offsetof(struct stats, exits) },
	};

	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
		if (!strcmp(name, wanted[i].name))
			*(__s64 *)((char *)context + wanted[i].offset) = value;
}

void stats_read(int vm_fd, int vcpu_fd, struct stats *stats)
{
	memset(stats, 0, sizeof(*stats));
	visit_stats(vm_fd, pick, stats);
	visit_stats(vcpu_fd, pick, stats);
}

static void print_one(void *context, const char *name, __s64 value)
{
	if (value)
		fprintf(context, "  %-32s %lld\n", name, value);
}

void stats_print(FILE *out, const char *title, int fd)
{
	fprintf(out, "%s (what is not 0):\n", title);
	visit_stats(fd, print_one, out);
}
