/* SPDX-License-Identifier: GPL-2.0 */
/* Functions and units that the VMMs for x86 and arm64 have in common. */
#ifndef VMM_UTIL_H
#define VMM_UTIL_H

#include <stddef.h>

#include <linux/types.h>

#define BIT_ULL(nr)		(1ULL << (nr))
#define ARRAY_SIZE(a)		(sizeof(a) / sizeof((a)[0]))

#define KIB			1024ULL
#define MIB			(1024 * KIB)
#define GIB			(1024 * MIB)
#define PAGE			(4 * KIB)
#define BLOCK			(2 * MIB)

void __attribute__((noreturn, format(printf, 3, 4)))
die(int err, const char *advice, const char *fmt, ...);
const char *size_name(__u64 size);
__u64 parse_size(const char *option, const char *text);
const void *map_file(const char *path, size_t *size);

#endif /* VMM_UTIL_H */
