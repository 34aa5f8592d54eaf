// SPDX-License-Identifier: GPL-2.0
/*
 * Runs the tests of mm/guestmem_layout.c, which are in the other files.
 */
#include <errno.h>
#include <getopt.h>
#include <time.h>

#include "layout-test.h"

static struct test_list *lists, **next_list = &lists;
static unsigned long nr_tests;

void add_tests(struct test_list *list)
{
	*next_list = list;
	next_list = &list->next;
	nr_tests += list->nr;
}

static bool run_test(const struct test *test, unsigned long seed)
{
	unsigned int order;
	bool good = true;

	for (order = test->first_order; order <= test->last_order && good; order++) {
		/* A test does the same, no matter which tests ran before it. */
		random_init(seed + order);
		good = test->run(order);
	}
	return good;
}

static unsigned long number(const char *text)
{
	unsigned long value;
	char *end;

	errno = 0;
	value = strtoul(text, &end, 0);
	if (errno || end == text || *end) {
		fprintf(stderr, "%s: what's that?\n", text);
		exit(EXIT_FAILURE);
	}
	return value;
}

int main(int argc, char **argv)
{
	unsigned long seed, nr_failed = 0, nr_run = 0;
	const struct test_list *list;
	struct timespec now;
	unsigned int i;
	int option;

	clock_gettime(CLOCK_REALTIME, &now);
	seed = (now.tv_sec * 1000000000UL + now.tv_nsec) & 0xffffffff;
	while ((option = getopt(argc, argv, "s:r:")) != -1) {
		if (option == 's') {
			seed = number(optarg);
		} else if (option == 'r') {
			rounds = number(optarg);
		} else {
			fprintf(stderr, "usage: %s [-s SEED] [-r ROUNDS]\n", argv[0]);
			return EXIT_FAILURE;
		}
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("KTAP version 1\n1..%lu\n", nr_tests);
	printf("# seed %#lx, %lu rounds (-s, -r; for make: SEED=, ROUNDS=)\n", seed, rounds);

	for (list = lists; list; list = list->next) {
		for (i = 0; i < list->nr; i++) {
			bool good = run_test(&list->tests[i], seed + i * 1000);

			printf("%sok %lu %s\n", good ? "" : "not ", ++nr_run,
			       list->tests[i].name);
			nr_failed += !good;
		}
	}
	printf("# Totals: pass:%lu fail:%lu skip:0 error:0\n", nr_tests - nr_failed, nr_failed);
	return nr_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
