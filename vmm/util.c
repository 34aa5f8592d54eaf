// SPDX-License-Identifier: GPL-2.0
/* Functions that the VMMs for x86 and arm64 have in common. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util.h"

/* Prints what failed, why (as errno has it), and what to do about it; exits. */
void die(int err, const char *advice, const char *fmt, ...)
{
	va_list args;

	fflush(stdout);
	fprintf(stderr, "gmem-vmm: ");
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fprintf(stderr, "%s%s\n", err ? ": " : "", err ? strerror(err) : "");
	if (advice)
		fprintf(stderr, "  %s\n", advice);
	exit(1);
}

/* Returns "96M" or "1G", as one would type it. Good for up to 4 calls in one printf(). */
const char *size_name(__u64 size)
{
	static char names[4][24];
	static int next;
	char *name = names[next++ % 4];
	int shift = 0;

	while (shift < 3 && size && !(size % KIB)) {
		size /= KIB;
		shift++;
	}
	snprintf(name, sizeof(names[0]), "%llu%.*s", size, shift > 0, &"BKMG"[shift]);
	return name;
}

__u64 parse_size(const char *option, const char *text)
{
	char *end;
	__u64 size = strtoull(text, &end, 0);

	switch (*end) {
	case 'G':
		size *= KIB;
		/* fall through */
	case 'M':
		size *= KIB;
		/* fall through */
	case 'K':
		size *= KIB;
		end++;
	}
	if (end == text || *end || size % PAGE)
		die(0, "bytes, or with K, M or G; a multiple of 4K", "%s %s", option, text);
	return size;
}

const void *map_file(const char *path, size_t *size)
{
	struct stat st;
	void *map;
	int fd;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		die(errno, NULL, "open(\"%s\")", path);
	map = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (map == MAP_FAILED)
		die(errno, NULL, "mmap(\"%s\", %ld bytes)", path, st.st_size);
	close(fd);
	*size = st.st_size;
	return map;
}
