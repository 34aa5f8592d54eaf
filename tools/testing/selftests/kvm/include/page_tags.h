/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Fill pages with consecutive words that begin with a tag.  Words that move or are
 * mixed up show.
 */
#ifndef SELFTEST_KVM_PAGE_TAGS_H
#define SELFTEST_KVM_PAGE_TAGS_H

#include "guest_memfd_hugetlb.h"

static inline void fill(void *mem, u64 tag)
{
	u64 *word = mem;
	int i;

	for (i = 0; i < page_size / sizeof(*word); i++)
		WRITE_ONCE(word[i], tag + i);
}

static inline void assert_filled(void *mem, u64 tag)
{
	u64 *word = mem;
	int i;

	for (i = 0; i < page_size / sizeof(*word); i++)
		TEST_ASSERT(READ_ONCE(word[i]) == tag + i, "Word %d should be 0x%lx, is 0x%lx",
			    i, tag + i, word[i]);
}

#endif /* SELFTEST_KVM_PAGE_TAGS_H */
