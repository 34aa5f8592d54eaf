// SPDX-License-Identifier: GPL-2.0
#include <stdio.h>
#include <stdlib.h>

#include "measure.h"

static int by_value(const void *a, const void *b)
{
	__u64 x = *(const __u64 *)a, y = *(const __u64 *)b;

	return x < y ? -1 : x > y;
}

__u64 print_row(const char *title, __u64 *values, int nr)
{
	qsort(values, nr, sizeof(*values), by_value);
	printf("row\t%s\t%llu\t%llu\t%llu\n", title, values[nr / 2], values[0], values[nr - 1]);
	return values[nr / 2];
}
