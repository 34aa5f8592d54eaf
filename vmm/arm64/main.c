// SPDX-License-Identifier: GPL-2.0
/* The options, and the life of a guest: run_guest() is the table of contents of this program. */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "arm64.h"

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

/* Prints the pool of huge pages, and returns the number of free ones. */
static long print_pool(const struct options *opt, const char *when)
{
	static const char *const names[] = { "nr_hugepages", "free_hugepages", "resv_hugepages" };
	long value[ARRAY_SIZE(names)] = { 0 };
	char path[128];
	FILE *file;

	if (opt->page_size == PAGE)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%llukB/%s",
			 opt->page_size / KIB, names[i]);
		file = fopen(path, "r");
		if (!file || fscanf(file, "%ld", &value[i]) != 1)
			die(0, NULL, "this machine has no huge pages of %s",
			    size_name(opt->page_size));
		fclose(file);
	}
	printf("  %-16s total %4ld   free %4ld   reserved %4ld\n", when, value[0], value[1],
	       value[2]);
	fflush(stdout);
	return value[1] - value[2];
}

static int run_guest(const struct options *opt)
{
	static struct vm vm;
	double begin = now();
	long before, after;
	int wrong;

	vm = (struct vm){ .opt = opt, .echo_fd = -1, .report.status = -1 };
	pthread_mutex_init(&vm.lock, NULL);
	printf("A guest with %s of memory in units of %s, %d vCPUs, %s, %s ITS\n",
	       size_name(opt->memory), size_name(opt->page_size), opt->vcpus,
	       opt->protected ? "protected" : "not protected", opt->its ? "with" : "without");
	before = print_pool(opt, "before");
	vm_create(&vm);
	memory_create(&vm);
	if (opt->disk)
		blk_create(&vm);
	if (opt->tap)
		net_create(&vm);
	vm_create_vcpus(&vm);
	vm_create_gic(&vm);
	load_linux(&vm);
	if (opt->tap)
		net_start(&vm);
	vm_run(&vm);
	if (opt->tap)
		net_stop(&vm);

	report_map(&vm, "the guest has ended");
	print_pool(opt, "guest ended");
	wrong = report_check(&vm);
	vm_destroy(&vm);
	memory_destroy(&vm);
	after = print_pool(opt, "guest gone");
	if (before != after) {
		fprintf(stderr, "gmem-vmm: WRONG: %ld huge pages are free, not %ld\n", after,
			before);
		wrong++;
	}
	printf("  %.1f s\n", now() - begin);
	return wrong ? 1 : 0;
}

static void print_usage(FILE *out)
{
	fprintf(out, "usage: gmem-vmm-arm64 --kernel IMAGE [OPTION]...\n\n"
		"  --kernel FILE          an Image\n"
		"  --initrd FILE          an initramfs\n"
		"  --append TEXT          more for the kernel's command line\n"
		"  --memory SIZE          the guest's memory (1G)\n"
		"  --hugepage 1G|32M|2M|64K|0  what the memory is made of; 0 is 4K pages (0)\n"
		"  --cpus NUMBER          vCPUs (2)\n"
		"  --disk FILE            a disk\n"
		"  --tap NAME             a network, with a TAP device of this name\n"
		"  --its                  an interrupt controller with an ITS\n"
		"  --unprotected          a guest like any other, all of its memory shared\n"
		"  --mistake greedy       the VMM converts what the guest hasn't asked for, which\n"
		"                         must fail: the guest doesn't notice;\n"
		"            refuse       the guest gets nothing back: the checks must find it\n");
}

enum {
	KERNEL, INITRD, APPEND, MEMORY, HUGEPAGE, CPUS, DISK_FILE, TAP, ITS, UNPROTECTED, MISTAKE,
	NR_OPTIONS
};

static const struct option long_options[] = {
	{ "kernel",	 required_argument, NULL, KERNEL },
	{ "initrd",	 required_argument, NULL, INITRD },
	{ "append",	 required_argument, NULL, APPEND },
	{ "memory",	 required_argument, NULL, MEMORY },
	{ "hugepage",	 required_argument, NULL, HUGEPAGE },
	{ "cpus",	 required_argument, NULL, CPUS },
	{ "disk",	 required_argument, NULL, DISK_FILE },
	{ "tap",	 required_argument, NULL, TAP },
	{ "its",	 no_argument,	    NULL, ITS },
	{ "unprotected", no_argument,	    NULL, UNPROTECTED },
	{ "mistake",	 required_argument, NULL, MISTAKE },
	{ }
};

int main(int argc, char **argv)
{
	const char *value[NR_OPTIONS] = {
		[APPEND] = "", [MEMORY] = "1G", [HUGEPAGE] = "0", [CPUS] = "2",
	};
	struct options opt;
	int c;

	while ((c = getopt_long(argc, argv, "", long_options, NULL)) >= 0 && c < NR_OPTIONS)
		value[c] = optarg ? optarg : "yes";
	if (c >= 0 || optind < argc || !value[KERNEL]) {
		print_usage(stderr);
		return 64;
	}
	opt = (struct options){
		.kernel = value[KERNEL], .initrd = value[INITRD], .append = value[APPEND],
		.disk = value[DISK_FILE], .tap = value[TAP],
		.memory = parse_size("--memory", value[MEMORY]),
		.page_size = parse_size("--hugepage", value[HUGEPAGE]),
		.vcpus = atoi(value[CPUS]), .protected = !value[UNPROTECTED], .its = value[ITS],
	};
	if (!opt.page_size)
		opt.page_size = PAGE;
	if (opt.memory % BLOCK || opt.memory < 64 * MIB)
		die(0, "a multiple of 2M, at least 64M", "--memory %s", value[MEMORY]);
	if (opt.page_size & (opt.page_size - 1))
		die(0, "a power of 2, or 0", "--hugepage %s", value[HUGEPAGE]);
	if (opt.vcpus < 1 || opt.vcpus > MAX_VCPUS)
		die(0, "1 to 8", "--cpus %s", value[CPUS]);
	opt.greedy = value[MISTAKE] && !strcmp(value[MISTAKE], "greedy");
	opt.refuses = value[MISTAKE] && !strcmp(value[MISTAKE], "refuse");
	if (value[MISTAKE] && !opt.greedy && !opt.refuses)
		die(0, "greedy or refuse", "--mistake %s", value[MISTAKE]);
	return run_guest(&opt);
}
