/* SPDX-License-Identifier: GPL-2.0-only */
/* What the tests of guest_memfd files made of HugeTLB pages have in common. */
#ifndef SELFTEST_KVM_GUEST_MEMFD_HUGETLB_H
#define SELFTEST_KVM_GUEST_MEMFD_HUGETLB_H

#include <linux/falloc.h>

#include "hugetlb_util.h"
#include "kselftest_harness.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "test_util.h"

#ifdef __x86_64__
#define VM_TYPE_PRIVATE		KVM_X86_SW_PROTECTED_VM
#else
#define VM_TYPE_PRIVATE		VM_TYPE_DEFAULT
#endif

#define PUNCH			(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)
#define TOO_MUCH		BIT_ULL(40)

/* Zeroing 1G takes its time, the more so in an emulated kernel with debugging on. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	600

static size_t __maybe_unused page_size;

#define TEST_REQUIRE_GUEST_MEMFD_HUGETLB()				\
	__TEST_REQUIRE(kvm_has_cap(KVM_CAP_GUEST_MEMFD) &&		\
		       kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) & GUEST_MEMFD_FLAG_HUGETLB, \
		       "guest_memfd without huge pages")

#endif /* SELFTEST_KVM_GUEST_MEMFD_HUGETLB_H */
