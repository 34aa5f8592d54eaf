/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _GUESTMEM_LAYOUT_USER_H
#define _GUESTMEM_LAYOUT_USER_H

/* The kernel functions that mm/guestmem_layout.[ch] uses, for user space. */

#include <stdbool.h>

#define pgoff_t unsigned long

#define min(a, b) ({ __auto_type _a = (a); __auto_type _b = (b); _a < _b ? _a : _b; })
#define max(a, b) ({ __auto_type _a = (a); __auto_type _b = (b); _a > _b ? _a : _b; })

#define round_down(x, y)	((x) & ~((y) - 1))

static inline unsigned int rounddown(unsigned int x, unsigned int y)
{
	return x / y * y;
}

/* For 0, which has no such bit, the sanitizer of undefined behavior complains. */
static inline unsigned long __ffs(unsigned long word)
{
	return __builtin_ctzl(word);
}

static inline unsigned long __fls(unsigned long word)
{
	return sizeof(word) * 8 - 1 - __builtin_clzl(word);
}

#endif /* _GUESTMEM_LAYOUT_USER_H */
