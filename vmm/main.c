// SPDX-License-Identifier: GPL-2.0
/*
 * The commands, their options, and the life of a guest from creation to the last
 * counter: run_guest() is the table of contents of this program.
 */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "guest/port.h"
#include "vmm.h"

#define MAX_GUESTS	8

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

/* Reads the counters when the guest is done, but its memory is still mapped. */
static void measure(struct vm *vm)
{
	const struct stats *start = &vm->start;
	struct report *report = vm->report;
	struct stats with, without;

	stats_read(vm->fd, vm->vcpu_fd, &with);
	report->total.pf_taken = with.pf_taken - start->pf_taken;
	report->total.pf_fixed = with.pf_fixed - start->pf_fixed;
	report->total.exits = with.exits - start->exits;
	if (vm->opt->stats) {
		stats_print(stderr, "VM statistics", vm->fd);
		stats_print(stderr, "vCPU statistics", vm->vcpu_fd);
	}
	if (vm->gmem_fd < 0)
		return;

	report->during = pool_read(vm->opt->page_size);
	report->has_map = memory_map_units(vm->gmem_fd, vm->file_size, report->map);
	/* A test whether a shared page can be used would use the page. */
	if (vm->opt->shared)
		report->layout = layout_read(vm);
	else
		report->reachable = memory_reachable(vm->view, vm->file_size);
	/* pages_* count the whole VM. The pages that go away with the slot were the slot's. */
	memory_remove_file(vm);
	stats_read(vm->fd, vm->vcpu_fd, &without);
	report->mapped.pages_1g = with.pages_1g - without.pages_1g;
	report->mapped.pages_2m = with.pages_2m - without.pages_2m;
	report->mapped.pages_4k = with.pages_4k - without.pages_4k;
}

/* Destroys the VM. The VM lives as long as its vCPU is mapped, so unmap that, too. */
static void destroy(struct vm *vm)
{
	munmap(vm->run, vm->run_size);
	memory_destroy(vm);
	close(vm->vcpu_fd);
	close(vm->fd);
	close(vm->kvm_fd);
}

static void add_memory(struct vm *vm)
{
	if (vm->opt->shared) {
		memory_add_shared(vm);
		return;
	}
	memory_add_ordinary(vm);
	if (vm->opt->private)
		memory_add_private(vm);
}

/* Loads the guest and sets its registers. Counts the pages of shared memory used for that. */
static void load(struct vm *vm)
{
	struct layout *layout;

	if (vm->opt->populate)
		memory_populate_shared(vm);
	if (vm->opt->payload)
		payload_load(vm);
	else
		x86_load_linux(vm);
	x86_setup_vcpu(vm);
	if (!vm->opt->shared) {
		memory_populate_ordinary(vm);
		return;
	}
	layout = layout_read(vm);
	vm->report->loaded = layout_count(layout, 0, layout->pages, PAGE_HOST);
	layout_free(layout);
}

/* Runs a guest. Its console goes to @out; with @story, the changing counters do so, too. */
static void run_guest(const struct options *opt, struct report *report, FILE *out, bool story)
{
	struct vm vm = { .opt = opt, .gmem_fd = -1, .report = report };
	FILE *tell = story ? out : NULL;
	long unevictable = meminfo_kib("Unevictable");
	double begin = now();

	memset(report, 0, sizeof(*report));
	report->status = -1;
	report->size = opt->shared ? opt->memory : opt->private;
	report->shared = opt->shared;
	report->page_size = opt->page_size;
	vm.serial.out = out;
	vm.serial.prefix = story ? "  guest | " : NULL;

	report->before = pool_read(opt->page_size);
	report_pool(tell, "before", &report->before, "");
	vm_create(&vm);
	add_memory(&vm);
	report->created = pool_read(opt->page_size);
	report_pool(tell, "file created", &report->created, "   (promised, not yet taken)");

	vm_create_vcpu(&vm);
	load(&vm);
	stats_read(vm.fd, vm.vcpu_fd, &vm.start);
	vm.last = vm.start;
	vm_run(&vm);
	report->seconds = now() - begin;

	report->unevictable = meminfo_kib("Unevictable") - unevictable;
	measure(&vm);
	report_pool(tell, "guest verified", &report->during, "");
	if (story)
		report_file(out, report);
	destroy(&vm);
	report->after = pool_read(opt->page_size);
	report_pool(tell, "guest gone", &report->after, "");
}

static void print_conversions(FILE *out, const struct report *report)
{
	if (report->conversions)
		fprintf(out, "  conversions: %llu, of %llu pages; %llu refused, %llu retries\n",
			report->conversions, report->converted, report->refused, report->retries);
}

static int cmd_run(const struct options *opts, int nr)
{
	static struct report report;

	if (nr != 1)
		die(0, NULL, "run takes one --hugepage; compare takes a list");
	run_guest(opts, &report, stdout, false);
	if (report.size) {
		report_pool(stderr, "before", &report.before, "");
		report_pool(stderr, "file created", &report.created, "");
		report_pool(stderr, "guest done", &report.during, "");
		report_pool(stderr, "guest gone", &report.after, "");
		report_file(stderr, &report);
		if (!report.shared)
			report_table(stderr, &report, 1);
	}
	print_conversions(stderr, &report);
	return report_check(stderr, &report) ? 1 : 0;
}

static int cmd_show(const struct options *opts, int nr)
{
	static struct report report;

	if (nr != 1)
		die(0, NULL, "show takes one --hugepage; compare takes a list");
	run_guest(opts, &report, stdout, true);
	print_conversions(stdout, &report);
	fflush(stdout);
	return report_check(stderr, &report) ? 1 : 0;
}

static int cmd_compare(const struct options *opts, int nr)
{
	static struct report reports[MAX_GUESTS];
	int failures = 0;

	for (int i = 0; i < nr; i++) {
		if (!opts[i].private)
			die(0, "give --private a size", "there is nothing to compare");
		printf("A guest with %s of private memory in units of %s\n",
		       size_name(opts[i].private), size_name(opts[i].page_size));
		run_guest(&opts[i], &reports[i], stdout, true);
		printf("\n");
	}
	printf("Side by side\n");
	report_table(stdout, reports, nr);
	fflush(stdout);
	for (int i = 0; i < nr; i++)
		failures += report_check(stderr, &reports[i]);
	return failures ? 1 : 0;
}

static const struct command {
	const char *name, *help;
	int (*run)(const struct options *opts, int nr);
} commands[] = {
	{ "run", "boot one guest, its console on stdout, what was measured on stderr", cmd_run },
	{ "show", "boot one guest, and tell what it does and what was measured", cmd_show },
	{ "compare", "boot one guest for each size in --hugepage, then compare", cmd_compare },
};

static void print_usage(FILE *out)
{
	fprintf(out, "usage: gmem-vmm COMMAND --kernel BZIMAGE | --payload ELF [OPTION]...\n\n");
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		fprintf(out, "  %-22s %s\n", commands[i].name, commands[i].help);
	fprintf(out, "\n"
		"  --kernel FILE          a bzImage\n"
		"  --initrd FILE          an initramfs\n"
		"  --payload FILE         a program that runs in the guest instead of a kernel\n"
		"  --append TEXT          more for the kernel's command line\n"
		"  --memory SIZE          ordinary memory, for the kernel and its root (160M)\n"
		"  --private SIZE[,...]   private memory at 4G, for the guest to hot-add (none)\n"
		"  --shared SIZE          instead of both: a guest like any other, all of its memory\n"
		"                         one guest_memfd that is shared\n"
		"  --populate             write all of shared memory before the guest is loaded,\n"
		"                         as if a snapshot were restored\n"
		"  --hugepage 1G|2M|0     what the file is made of; 0 is 4K pages (0);\n"
		"                         compare takes a list, and one for --private\n"
		"  --stats                dump all of KVM's counters\n"
		"  --mistake shared       the guest runs just as well, but its memory is shared,\n"
		"            ordinary     or not in guest_memfd at all: the checks must find it;\n"
		"            deaf         conversions are said to be done, and are not\n"
		"            small        shared memory is populated by 4K pages: no huge page is left\n");
}

/*
 * Makes one guest for each size in the list of page sizes. The list of private sizes may be
 * shorter: its last size is for all remaining guests. Returns the number of guests.
 */
static int make_guests(struct options *guests, const char *page_sizes, const char *sizes)
{
	char *pages = strdup(page_sizes), *privates = strdup(sizes), *save[2] = { NULL, NULL };
	const char *word, *private = strtok_r(privates, ",", &save[1]);
	__u64 size;
	int nr = 0;

	for (word = strtok_r(pages, ",", &save[0]); word; word = strtok_r(NULL, ",", &save[0])) {
		size = parse_size("--hugepage", word);
		if (nr == MAX_GUESTS || (size & (size - 1)))
			die(0, "1G, 2M, or 0 for no huge pages", "--hugepage %s", page_sizes);
		guests[nr] = guests[0];
		guests[nr].page_size = size ? size : PAGE;
		if (private)
			guests[nr].private = parse_size("--private", private);
		else if (nr)
			guests[nr].private = guests[nr - 1].private;
		if (guests[nr++].private > PRIVATE_MAX)
			die(0, "64G is the limit here", "--private %s", sizes);
		private = strtok_r(NULL, ",", &save[1]);
	}
	free(pages);
	free(privates);
	return nr;
}

static enum mistake parse_mistake(const char *text)
{
	static const char *const names[] = {
		[MISTAKE_SHARED] = "shared", [MISTAKE_ORDINARY] = "ordinary",
		[MISTAKE_DEAF] = "deaf", [MISTAKE_SMALL] = "small",
	};

	if (!text)
		return NO_MISTAKE;
	for (size_t i = 1; i < ARRAY_SIZE(names); i++)
		if (!strcmp(text, names[i]))
			return i;
	die(0, "shared, ordinary, deaf or small", "--mistake %s", text);
}

enum {
	KERNEL, INITRD, PAYLOAD, APPEND, MEMORY, PRIVATE, SHARED, POPULATE, HUGEPAGE, STATS,
	MISTAKE, NR_OPTIONS
};

static const struct option long_options[] = {
	{ "kernel",	  required_argument, NULL, KERNEL },
	{ "initrd",	  required_argument, NULL, INITRD },
	{ "payload",	  required_argument, NULL, PAYLOAD },
	{ "append",	  required_argument, NULL, APPEND },
	{ "memory",	  required_argument, NULL, MEMORY },
	{ "private",	  required_argument, NULL, PRIVATE },
	{ "shared",	  required_argument, NULL, SHARED },
	{ "populate",	  no_argument,	     NULL, POPULATE },
	{ "hugepage",	  required_argument, NULL, HUGEPAGE },
	{ "stats",	  no_argument,	     NULL, STATS },
	{ "mistake",	  required_argument, NULL, MISTAKE },
	{ }
};

/* Parses the options of a command. Returns the number of guests. */
static int parse_options(int argc, char **argv, struct options *opts)
{
	const char *value[NR_OPTIONS] = {
		[APPEND] = "", [MEMORY] = "160M", [PRIVATE] = "0", [HUGEPAGE] = "0",
	};
	int c;

	while ((c = getopt_long(argc, argv, "", long_options, NULL)) >= 0 && c < NR_OPTIONS)
		value[c] = optarg ? optarg : "yes";
	if (c >= 0 || optind < argc || !value[KERNEL] == !value[PAYLOAD]) {
		print_usage(stderr);
		exit(64);
	}
	*opts = (struct options){
		.kernel = value[KERNEL], .initrd = value[INITRD], .append = value[APPEND],
		.payload = value[PAYLOAD],
		.memory = parse_size("--memory", value[MEMORY]), .shared = value[SHARED],
		.stats = value[STATS], .mistake = parse_mistake(value[MISTAKE]),
	};
	opts->populate = value[POPULATE] || opts->mistake == MISTAKE_SMALL;
	if (opts->populate && !opts->shared)
		die(0, "--shared", "--populate and --mistake small are for shared memory");
	if (opts->shared) {
		if (value[PAYLOAD] || strcmp(value[PRIVATE], "0"))
			die(0, NULL, "--shared is for a Linux, and for all of its memory");
		opts->memory = parse_size("--shared", value[SHARED]);
		if (opts->memory % BLOCK)
			die(0, "a multiple of 2M", "--shared %s", value[SHARED]);
	}
	if (opts->memory > 3 * GIB)
		die(0, "3G is the limit here", "--memory or --shared %s", size_name(opts->memory));
	return make_guests(opts, value[HUGEPAGE], value[PRIVATE]);
}

int main(int argc, char **argv)
{
	struct options opts[MAX_GUESTS];
	int nr;

	for (size_t i = 0; argc > 1 && i < ARRAY_SIZE(commands); i++) {
		if (strcmp(argv[1], commands[i].name))
			continue;
		nr = parse_options(argc - 1, argv + 1, opts);
		return commands[i].run(opts, nr);
	}
	if (argc > 1 && !strcmp(argv[1], "--help")) {
		print_usage(stdout);
		return 0;
	}
	print_usage(stderr);
	return 64;
}
