// SPDX-License-Identifier: GPL-2.0-only
/*
 * One VM of guest_memfd_pkvm_stress_test, with two vCPUs and two threads of the VMM.
 *
 * The oracle is a table of pages.  An actor locks the pages that it works on, not the block
 * or the huge page around them.  For each page the table has its contents, and
 *
 *  - whether it is shared, i.e. the host has access to it, or private,
 *  - whether the guest owns it: such a page has what the guest has written, it can't be
 *    converted, and neither user space nor the kernel can read it, unless the guest shares it:
 *    then it is shared as well, and can't be converted, either,
 *  - whether the guest has lost it: then the guest never gets anything in its place.  The
 *    vCPU that accesses it can't go on.
 *
 * Deleting a memslot takes no page's lock, but counts, so that an actor knows whether a page
 * was taken before, or whether that may happen just now.  A guest owns blocks of 2M if the
 * file has them, i.e. may own, and lose, pages that it has never touched.
 *
 * Each VM also has anonymous memory, as a kernel access that takes a page from the guest
 * by force can't happen to private memory of a guest_memfd.
 */
#include <sys/prctl.h>

#include "fail_nth.h"
#include "guest_memfd_pkvm_stress.h"
#include "pkvm_guest.h"

#define NR_VCPUS	2
#define NR_ACTORS	4
#define NR_SLOTS	4
#define NR_ANON		64
#define ANON_GPA	(TEST_GPA + SZ_2G)
/* Failed pages of a VM.  The hypervisor keeps those that a guest has owned, for good. */
#define MAX_POISONS	64
#define NR_TRIES	64
#define MAX_RETRIES	10000
/* Pages that a guest shares, or takes back, at once. */
#define MAX_RANGE	32

enum owner { FREE, OWNED, LOST };

struct slot {
	bool locked;
	u64 first, nr;
	/* Deletions that have begun, deletions that are done, and memslots that are back. */
	u32 begun, taken, back;
};

struct page {
	bool locked, shared, failed;
	/* The guest may have lost it without having touched it; it may be zero instead of @tag. */
	bool maybe_lost, maybe_zero;
	enum owner owner;
	/* The counters of the memslot before and after the last touch. */
	u32 taken, begun;
	struct slot *slot;
	/* Whether the guest has touched the block around it, if the guest can own that. */
	bool *touched;
	u64 nr, gpa, tag, pfn;
};

struct actor {
	pthread_t thread;
	struct kvm_vcpu *vcpu;
	struct kvm_random_state rng;
	struct pkvm_request req;
	unsigned int fail_nth;
	int pipe[2];
};

struct gmem gmem;
u64 nr_pages;
int vm_nr;
bool may_poison, is_doomed;
s64 stop_ms;

static struct page pages[MAX_PAGES + NR_ANON];
/* The last one is that of anonymous memory, and stays. */
static struct slot slots[NR_SLOTS + 1];
static bool touched_blocks[MAX_PAGES / PAGES_2M];
static u64 next_page, last_tag;
static int nr_running, nr_poisoned;
static char *anon;
static int proc_self_mem;

static void lock(bool *locked)
{
	while (__atomic_test_and_set(locked, __ATOMIC_ACQUIRE))
		sched_yield();
}

static void unlock(bool *locked)
{
	__atomic_clear(locked, __ATOMIC_RELEASE);
}

/* All actors lock pages in the order of the file. */
static void lock_pages(u64 first, u64 nr)
{
	for (; nr--; first++)
		lock(&pages[first].locked);
}

static void unlock_pages(u64 first, u64 nr)
{
	for (; nr--; first++)
		unlock(&pages[first].locked);
}

static u64 pick(struct actor *a, u64 nr)
{
	return kvm_random_u64_in_range(&a->rng, 0, nr - 1);
}

static u64 next_tag(void)
{
	return TAG(increment(&last_tag) + 1);
}

/* Whether the first huge page stays in the file, with pages that may fail. */
static bool has_known_pfns(void)
{
	return may_poison && gmem.unit > page_size;
}

/* Whether the guest may own the page without having touched it. */
static bool may_be_in_block(struct page *p)
{
	return p->touched && READ_ONCE(*p->touched) && !p->shared;
}

/* Whether the guest has lost a page, for sure, with @taken read before. */
static bool is_lost(struct page *p, u32 taken)
{
	return p->owner == LOST || (p->owner == OWNED && taken > p->begun);
}

/* The hypervisor clears what the guest has owned, and hasn't shared. */
static void lose(struct page *p)
{
	if (p->owner == OWNED)
		p->tag = p->shared ? p->tag : 0;
	else if (p->owner == FREE)
		p->maybe_zero = true;
	p->owner = LOST;
}

static void make_private(struct page *p, u32 taken)
{
	if (p->shared && p->owner == FREE)
		p->taken = taken;
	else if (p->shared)
		lose(p);
	p->shared = false;
}

static void make_shared(struct page *p, u32 begun)
{
	if (p->owner == OWNED) {
		lose(p);
	} else if (p->owner == FREE && may_be_in_block(p)) {
		p->maybe_lost |= begun != p->taken;
		p->maybe_zero |= p->maybe_lost;
	}
	p->shared = true;
}

/* References of others to the memory don't last. */
static int convert_pages(u64 first, u64 nr, bool private, u64 *offset)
{
	int tries, r;

	for (tries = 0; tries < MAX_RETRIES; tries++) {
		r = try_convert(gmem.fd, first, nr, private, offset);
		if (r != -EAGAIN)
			break;
		sched_yield();
	}
	return r;
}

/* KVM can't give the guest a page that isn't lost: it is shared, or the memslot isn't there. */
static void handle_memory_fault(struct kvm_run *run, struct page *p, bool no_slot)
{
	u32 taken = load(&p->slot->taken);
	u64 offset;

	TEST_ASSERT_EQ(run->exit_reason, KVM_EXIT_MEMORY_FAULT);
	TEST_ASSERT_EQ(run->memory_fault.gpa, p->gpa);
	TEST_ASSERT_EQ(run->memory_fault.size, page_size);
	TEST_ASSERT_EQ(run->memory_fault.flags, KVM_MEMORY_EXIT_FLAG_PRIVATE);
	if (!p->shared) {
		TEST_ASSERT(no_slot, "The guest can't have private page %lu", p->nr);
		return;
	}

	TEST_ASSERT_EQ(convert_pages(p->nr, 1, true, &offset), 0);
	make_private(p, taken);
	count(OP_SHARED);
}

/* Run a vCPU, with too little memory if it is told so.  Returns a negative errno, or 0. */
static int run_vcpu(struct actor *a)
{
	int r;

	if (a->fail_nth)
		fail_nth_arm(a->fail_nth, FAIL_ONE);
	r = __vcpu_run(a->vcpu) ? -errno : 0;
	if (a->fail_nth && fail_nth_disarm()) {
		a->fail_nth = 0;
		if (r == -ENOMEM) {
			count(OP_SHORT);
			r = -EAGAIN;
		}
	}
	return r;
}

/*
 * Let the guest do something with a page.  Returns false if it has lost the page.  While there
 * is no memslot, an access of memory that the guest doesn't own looks like MMIO: let the guest
 * try again.
 */
static bool guest_do_page(struct actor *a, struct page *p, enum pkvm_op op, u64 tag)
{
	struct kvm_run *run = a->vcpu->run;
	bool again = false, no_slot;
	u32 back = load(&p->slot->back);
	u64 offset, result;
	int r;

	a->req = (struct pkvm_request) { .op = op, .gva = p->gpa, .nr = 1, .tag = tag };
	for (;;) {
		r = run_vcpu(a);
		no_slot = load(&p->slot->begun) != back;
		if (r == -EINTR || r == -EAGAIN)
			continue;
		if (r == -EHWPOISON) {
			TEST_ASSERT(p->failed, "Page %lu hasn't failed, owner %d", p->nr, p->owner);
			return false;
		}
		if (r) {
			TEST_ASSERT(r == -EFAULT, "KVM_RUN is %d for page %lu, exit reason %u", r,
				    p->nr, run->exit_reason);
			if (run->exit_reason == KVM_EXIT_UNKNOWN)
				return false;
			handle_memory_fault(run, p, no_slot);
			continue;
		}

		TEST_ASSERT_KVM_EXIT_REASON(a->vcpu, KVM_EXIT_MMIO);
		offset = run->mmio.phys_addr - gmem.vm->ucall_mmio_addr;
		if (offset > sizeof(a->req)) {
			TEST_ASSERT(run->mmio.phys_addr / page_size == p->gpa / page_size &&
				    p->owner == FREE && no_slot,
				    "Page %lu, owner %d, shouldn't be MMIO at 0x%llx", p->nr,
				    p->owner, run->mmio.phys_addr);
			memset(run->mmio.data, 0xff, sizeof(run->mmio.data));
			again = true;
			sched_yield();
		} else if (!run->mmio.is_write) {
			memcpy(run->mmio.data, (char *)&a->req + offset, sizeof(u64));
		} else if (again) {
			again = false;
		} else {
			memcpy(&result, run->mmio.data, sizeof(u64));
			TEST_ASSERT(!result, "Page %lu, owner %d, doesn't have 0x%lx at 0x%lx",
				    p->nr, p->owner, tag, result);
			return true;
		}
	}
}

/* Let the guest access a page.  Returns false if that was the end of the vCPU. */
static bool touch(struct actor *a, struct page *p, enum pkvm_op op, u64 tag)
{
	u32 taken = load(&p->slot->taken), begun;
	bool has_page;

	if (p->touched)
		WRITE_ONCE(*p->touched, true);
	if (p->owner == FREE && !may_be_in_block(p))
		p->taken = taken;

	has_page = guest_do_page(a, p, op, tag);
	begun = load(&p->slot->begun);
	a->fail_nth = 0;
	if (!has_page) {
		TEST_ASSERT(p->owner == LOST || p->maybe_lost || begun != p->taken,
			    "The guest has lost page %lu, owner %d", p->nr, p->owner);
		lose(p);
		count(OP_LOST);
		return false;
	}

	TEST_ASSERT(!is_lost(p, taken), "The guest should have lost page %lu", p->nr);
	if (p->owner == FREE)
		increment(&totals->progress[vm_nr]);
	count(p->owner == FREE ? OP_FIRST : OP_TOUCH);
	p->owner = OWNED;
	p->taken = taken;
	p->begun = begun;
	p->maybe_lost = false;
	p->maybe_zero = false;
	p->tag = tag;
	return true;
}

/* Run a vCPU until it has a result, or an error.  Returns 0 or a negative errno. */
static int run_request(struct actor *a, u64 *result)
{
	struct kvm_run *run = a->vcpu->run;
	u64 offset;
	int r;

	for (;;) {
		r = run_vcpu(a);
		if (r == -EINTR || r == -EAGAIN)
			continue;
		if (r)
			return r;

		TEST_ASSERT_KVM_EXIT_REASON(a->vcpu, KVM_EXIT_MMIO);
		offset = run->mmio.phys_addr - gmem.vm->ucall_mmio_addr;
		TEST_ASSERT(offset <= sizeof(a->req), "The guest accesses 0x%llx",
			    run->mmio.phys_addr);
		if (run->mmio.is_write) {
			memcpy(result, run->mmio.data, sizeof(u64));
			return 0;
		}
		memcpy(run->mmio.data, (char *)&a->req + offset, sizeof(u64));
	}
}

/* Try to convert a range, one page of which is pinned. */
static void convert_pinned(struct actor *a, u64 first, u64 nr)
{
	u64 pinned = first + pick(a, nr), offset = -1;
	struct iovec iov = { .iov_base = word_of(&gmem, pinned), .iov_len = page_size };
	static char sink[SZ_64K];

	/* The page is the host's, whether the guest has lost it or not. */
	TEST_ASSERT_EQ(vmsplice(a->pipe[1], &iov, 1, 0), page_size);
	TEST_ASSERT_EQ(try_convert(gmem.fd, first, nr, true, &offset), -EAGAIN);
	TEST_ASSERT_EQ(offset, pinned * page_size);
	TEST_ASSERT_EQ(read(a->pipe[0], sink, page_size), page_size);
	count(OP_PIN);
}

/* The guest wants to share pages, or take them back.  Returns whether the VMM has agreed. */
static bool convert_as_asked(struct actor *a, struct page *p, u64 nr, bool share)
{
	struct kvm_run *run = a->vcpu->run;
	u64 offset;

	TEST_ASSERT_EQ(run->exit_reason, KVM_EXIT_MEMORY_FAULT);
	TEST_ASSERT_EQ(run->memory_fault.gpa, p->gpa);
	TEST_ASSERT_EQ(run->memory_fault.size, nr * page_size);
	TEST_ASSERT_EQ(run->memory_fault.flags, share ? 0 : KVM_MEMORY_EXIT_FLAG_PRIVATE);

	switch (pick(a, 8)) {
	case 0:
		count(OP_DISAGREE);
		return false;
	case 1:
		vcpu_set_reg(a->vcpu, ARM64_CORE_REG(regs.regs[0]), 0);
		vcpu_set_reg(a->vcpu, ARM64_CORE_REG(regs.pc), 0);
		count(OP_FORGE);
		return false;
	case 2:
		if (share)
			break;
		convert_pinned(a, p->nr, nr);
		return false;
	}

	TEST_ASSERT_EQ(convert_pages(p->nr, nr, !share, &offset), 0);
	return true;
}

/*
 * Let the guest share pages that it owns, or take them back, by the call for one page or by
 * that for a range.  A range with pages of both kinds is refused by the hypervisor.
 */
static void share_or_unshare(struct actor *a, struct page *p, u64 nr, bool by_range)
{
	bool share = !p->shared, converted = false, lost = false, mixed = false;
	u32 taken = load(&p->slot->taken), begun;
	u64 result = 0, i;
	int r;

	a->req = (struct pkvm_request) { .gva = p->gpa, .nr = nr };
	if (by_range)
		a->req.op = share ? PKVM_SHARE_RANGE : PKVM_UNSHARE_RANGE;
	else
		a->req.op = share ? PKVM_SHARE : PKVM_UNSHARE;

	r = run_request(a, &result);
	for (i = 0; i < nr; i++)
		mixed |= p[i].shared == share;
	if (r) {
		TEST_ASSERT_EQ(r, -EFAULT);
		TEST_ASSERT(!mixed, "The guest may %s %lu pages at %lu", share ? "share" : "take",
			    nr, p->nr);
		converted = convert_as_asked(a, p, nr, share);
		TEST_ASSERT_EQ(run_request(a, &result), 0);
	}
	begun = load(&p->slot->begun);
	for (i = 0; i < nr; i++)
		lost |= begun != p[i].taken;

	TEST_ASSERT(result == (converted ? (by_range ? nr : 0) : PKVM_REFUSED) ||
		    (result == PKVM_REFUSED && lost),
		    "The guest hears 0x%lx about %lu pages at %lu, which are%s converted", result,
		    nr, p->nr, converted ? "" : "n't");
	TEST_ASSERT(r || mixed || lost, "The VMM isn't asked about %lu pages at %lu", nr, p->nr);
	for (i = 0; i < nr; i++, p++) {
		if (result != PKVM_REFUSED) {
			p->taken = taken;
			p->begun = begun;
		} else if (converted) {
			lose(p);
		}
		if (converted)
			p->shared = share;
	}
	if (mixed)
		count(OP_MIXED);
	else if (result != PKVM_REFUSED && nr > 1)
		count(share ? OP_SHARE_RANGE : OP_UNSHARE_RANGE);
	else if (result != PKVM_REFUSED)
		count(share ? OP_SHARE : OP_UNSHARE);
}

/*
 * Do that with a range, or a page of it, up to three times.  Returns false if it was the end of
 * the vCPU.
 */
static bool share_range(struct actor *a)
{
	u64 first = pick(a, nr_pages), nr, i;
	struct page *p = &pages[first];
	bool goes_on = true, lost = false;
	int n;

	nr = min_t(u64, 1 + pick(a, MAX_RANGE), PAGES_2M - first % PAGES_2M);
	nr = min(nr, p->slot->first + p->slot->nr - first);
	lock_pages(first, nr);
	for (i = 0; i < nr && !lost; i++)
		lost = is_lost(&p[i], load(&p->slot->taken));
	for (i = 0; i < nr && goes_on && !lost; i++)
		goes_on = touch(a, &p[i], PKVM_CHECK, p[i].tag);
	for (n = 1 + pick(a, 3); n && goes_on && !lost; n--) {
		i = pick(a, 4) ? 0 : pick(a, nr);
		share_or_unshare(a, p + i, i ? 1 : nr, true);
		for (i = 0; i < nr; i++)
			lost |= p[i].owner != OWNED;
	}
	unlock_pages(first, nr);
	return goes_on;
}

static struct page *pick_page(struct actor *a)
{
	u64 next = is_doomed ? increment(&next_page) : nr_pages;

	if (next < nr_pages)
		return &pages[next];
	return &pages[pick(a, 8) ? pick(a, nr_pages) : nr_pages + pick(a, NR_ANON)];
}

/* A page that is lost stays lost, and that is the end of the vCPU. */
static void touch_lost_page(struct actor *a)
{
	u64 nr = nr_pages + NR_ANON, start = pick(a, nr), i;
	bool lost = false;
	struct page *p;

	for (i = 0; i < nr && !lost; i++) {
		p = &pages[(start + i) % nr];
		lock(&p->locked);
		lost = is_lost(p, load(&p->slot->taken));
		if (lost)
			touch(a, p, PKVM_CHECK, p->tag);
		unlock(&p->locked);
	}
}

static void *vcpu_thread(void *arg)
{
	bool goes_on = true, first;
	struct actor *a = arg;
	int misses = 0, i;
	struct page *p;

	while (goes_on && misses < NR_TRIES && (is_doomed || now_ms() < stop_ms)) {
		p = pick_page(a);
		lock(&p->locked);
		if (is_lost(p, load(&p->slot->taken))) {
			misses++;
		} else {
			misses = 0;
			/* Not before the guest has its own code and stack. */
			first = p->nr < nr_pages && p->owner == FREE &&
				load(&totals->progress[vm_nr]) > 2 * NR_VCPUS;
			if (first && !ops[OP_SHORT].impossible && !pick(a, 8))
				a->fail_nth = 1 + pick(a, 4);
			goes_on = touch(a, p, PKVM_CHECK, p->tag);
			if (goes_on && pick(a, 2))
				goes_on = touch(a, p, PKVM_WRITE, next_tag());
			/* A vCPU rarely meets a page again: share it and take it back. */
			for (i = p->nr < nr_pages ? pick(a, 4) : 0;
			     i && goes_on && p->owner == OWNED; i--)
				share_or_unshare(a, p, 1, pick(a, 2));
		}
		unlock(&p->locked);
		if (goes_on && !misses && p->nr < nr_pages && !pick(a, 4))
			goes_on = share_range(a);
	}
	if (goes_on)
		touch_lost_page(a);
	__atomic_fetch_sub(&nr_running, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

/* All of the range converts, or nothing because of the first page that is in the way. */
static void op_convert(struct actor *a)
{
	struct slot *s = &slots[pick(a, NR_SLOTS)];
	u64 first = s->first + pick(a, s->nr), offset = 0, i, end;
	u64 nr = min(1 + pick(a, 16), s->first + s->nr - first);
	bool private = pick(a, 2);
	u32 taken, begun;
	struct page *p;
	int r;

	lock_pages(first, nr);
	taken = load(&s->taken);
	r = convert_pages(first, nr, private, &offset);
	begun = load(&s->begun);

	end = r ? offset / page_size : first + nr;
	if (r) {
		TEST_ASSERT(r == -EPERM && end >= first && end < first + nr,
			    "Converting %lu pages at %lu is %d at %lu", nr, first, r, end);
		p = &pages[end];
		TEST_ASSERT(p->shared == private && (p->owner == OWNED ? !is_lost(p, taken) :
			    !private && p->owner == FREE && may_be_in_block(p)),
			    "Page %lu, owner %d, isn't converted", end, p->owner);
	}
	for (i = first; i < end; i++) {
		p = &pages[i];
		TEST_ASSERT(private != p->shared || p->owner != OWNED || begun != p->taken,
			    "The host converts page %lu that the guest owns, result %d", i, r);
		if (!r && private)
			make_private(p, taken);
		else if (!r && !p->shared)
			make_shared(p, begun);
	}
	unlock_pages(first, nr);
	count(r ? OP_REFUSED : OP_CONVERT);
}

static void host_access_shared(struct actor *a, struct page *p)
{
	u64 *ends[] = { word_of(&gmem, p->nr), last_word_of(&gmem, p->nr) };
	u64 tag = pick(a, 2) ? next_tag() : 0, val;
	int i;

	for (i = 0; i < ARRAY_SIZE(ends); i++) {
		TEST_ASSERT(sigbus_try_read(ends[i], &val), "Page %lu isn't shared", p->nr);
		TEST_ASSERT(val == p->tag || (p->maybe_zero && !val),
			    "Page %lu, owner %d, should be 0x%lx, is 0x%lx", p->nr, p->owner,
			    p->tag, val);
		if (tag)
			WRITE_ONCE(*ends[i], tag);
	}
	p->tag = tag ?: val;
	p->maybe_zero = false;
	if (!p->pfn)
		p->pfn = read_pagemap_pfn(ends[0]);
	count(OP_HOST);
}

static void op_host(struct actor *a)
{
	struct page *p = &pages[pick(a, nr_pages)];
	u64 val;

	lock(&p->locked);
	if (!p->shared)
		TEST_ASSERT(!sigbus_try_read(word_of(&gmem, p->nr), &val),
			    "The host reads 0x%lx in private page %lu", val, p->nr);
	else if (!p->failed)
		host_access_shared(a, p);
	unlock(&p->locked);
}

static void op_punch(struct actor *a)
{
	u64 nr = 1 + pick(a, 4), first = pick(a, nr_pages), kind = pick(a, 256), locked, i;
	enum op op = OP_PUNCH;

	/* A huge page with failed pages stays in the file, so that a VM loses only one. */
	if (kind < 16 && !has_known_pfns()) {
		op = kind < 6 && gmem.unit > page_size ? OP_PUNCH_UNIT : OP_PUNCH_BLOCK;
		nr = op == OP_PUNCH_UNIT ? gmem.unit_pages : PAGES_2M;
		first -= first % nr;
	}
	nr = min(nr, gmem.nr_pages - first);
	locked = min(nr, nr_pages - first);

	lock_pages(first, locked);
	punch_fd(gmem.fd, first * page_size, nr * page_size);
	for (i = first; i < first + locked; i++) {
		if (pages[i].owner == OWNED)
			pages[i].owner = LOST;
		else if (pages[i].owner == FREE && may_be_in_block(&pages[i]))
			pages[i].maybe_lost = true;
		pages[i].maybe_zero = false;
		pages[i].tag = 0;
		if (!has_known_pfns())
			pages[i].pfn = 0;
	}
	unlock_pages(first, locked);
	count(op);
}

static void set_slot(struct slot *s, bool exists)
{
	vm_set_user_memory_region2(gmem.vm, TEST_SLOT + (s - slots),
				   exists ? KVM_MEM_GUEST_MEMFD : 0, gpa_of(s->first),
				   exists ? s->nr * page_size : 0, addr_of(&gmem, s->first),
				   gmem.fd, s->first * page_size);
}

static void op_slot(struct actor *a)
{
	struct slot *s = &slots[pick(a, NR_SLOTS)];

	lock(&s->locked);
	increment(&s->begun);
	set_slot(s, false);
	increment(&s->taken);
	usleep(pick(a, 2000));
	set_slot(s, true);
	increment(&s->back);
	unlock(&s->locked);
	count(OP_SLOT);
}

/*
 * Lock a page of a range that the guest owns, with a known frame number if that is wanted.
 * Returns NULL if there is none.
 */
static struct page *lock_owned_page(struct actor *a, u64 first, u64 nr, bool with_pfn)
{
	u64 start = pick(a, nr), i;
	struct page *p;

	for (i = 0; i < nr; i++) {
		p = &pages[first + (start + i) % nr];
		if (READ_ONCE(p->owner) != OWNED || (with_pfn && !READ_ONCE(p->pfn)))
			continue;
		lock(&p->locked);
		if (p->owner == OWNED && !p->shared && (!with_pfn || p->pfn) &&
		    !is_lost(p, load(&p->slot->taken)))
			return p;
		unlock(&p->locked);
	}
	return NULL;
}

/* The kernel copies from its own mapping of the page, and isn't prepared for that to fail. */
static void op_reclaim(struct actor *a)
{
	struct page *p = lock_owned_page(a, nr_pages, NR_ANON, false);
	u64 word = -1;
	off_t addr;

	if (!p)
		return;
	addr = (off_t)(anon + (p->nr - nr_pages) * page_size);
	TEST_ASSERT_EQ(pread(proc_self_mem, &word, sizeof(word), addr), sizeof(word));
	TEST_ASSERT(!word, "The host reads 0x%lx", word);
	lose(p);
	unlock(&p->locked);
	count(OP_RECLAIM);
}

/* Here the kernel is prepared, i.e. the guest keeps the page. */
static void op_kcore(struct actor *a)
{
	struct page *p = lock_owned_page(a, 0, nr_pages, true);
	u64 word = 0;

	if (!p)
		return;
	TEST_ASSERT(!read_kcore(p->pfn * page_size, &word) || !word,
		    "The kernel reads 0x%lx in page %lu", word, p->nr);
	unlock(&p->locked);
	count(OP_KCORE);
}

static void poison_page(struct page *p)
{
	int error;

	if (!increment(&nr_poisoned))
		increment(&totals->nr_poisoned_vms);
	error = write_pfn(CORRUPT_PFN, p->pfn);
	TEST_ASSERT(!error, "Poisoning page %lu, pfn 0x%lx: %s", p->nr, p->pfn, strerror(error));
	p->failed = true;
	p->owner = LOST;
	count(OP_POISON);
}

static void op_poison(struct actor *a)
{
	u64 nr = has_known_pfns() ? min(nr_pages, gmem.unit_pages) : nr_pages, left;
	struct page *p;

	for (left = 1 + pick(a, 6); may_poison && left; left--) {
		p = load(&nr_poisoned) < MAX_POISONS ? lock_owned_page(a, 0, nr, true) : NULL;
		if (!p)
			return;
		poison_page(p);
		unlock(&p->locked);
	}
}

/* Compare what the hypervisor says about one page. */
static void op_debugfs(struct actor *a)
{
	struct page *p = &pages[pick(a, nr_pages)];
	char line[128], what[32] = "", found[32] = "free";
	u64 from, to;
	FILE *file;
	int n;

	lock(&p->locked);
	lock(&p->slot->locked);
	file = pkvm_open_pages(gmem.vm);
	while (fgets(line, sizeof(line), file)) {
		TEST_ASSERT(!strstr(line, "agree"), "%s", line);
		n = sscanf(line, "0x%lx-0x%lx level %*d %31s", &from, &to, what);
		TEST_ASSERT(n == 3, "Can't parse %s", line);
		if (p->gpa >= from && p->gpa < to)
			memcpy(found, what, sizeof(found));
	}
	pkvm_close_pages(file);
	if (is_lost(p, p->slot->taken))
		TEST_ASSERT(!strcmp(found, "poisoned"), "Lost page %lu is %s", p->nr, found);
	else if (p->owner == OWNED && p->slot->begun == p->taken)
		TEST_ASSERT(!strcmp(found, p->shared ? "shared" : "owned"), "Owned page %lu is %s",
			    p->nr, found);
	else if (p->owner == FREE && !p->touched)
		TEST_ASSERT(!strcmp(found, "free"), "Free page %lu is %s", p->nr, found);
	unlock(&p->slot->locked);
	unlock(&p->locked);
	count(OP_DEBUGFS);
}

static void *vmm_thread(void *arg)
{
	static const struct {
		void (*run)(struct actor *a);
		int permille;
	} choice[] = {
		{ op_convert, 400 }, { op_host, 350 }, { op_punch, 100 }, { op_slot, 5 },
		{ op_reclaim, 30 }, { op_kcore, 40 }, { op_poison, 65 }, { op_debugfs, 10 },
	};
	struct actor *a = arg;
	int i, r;

	while (load(&nr_running)) {
		for (i = 0, r = pick(a, 1000); r >= choice[i].permille; i++)
			r -= choice[i].permille;
		choice[i].run(a);
	}
	return NULL;
}

static void fill_in_page(u64 i, bool shared)
{
	struct page *p = &pages[i];
	bool is_anon = i >= nr_pages;

	p->nr = i;
	p->gpa = is_anon ? ANON_GPA + (i - nr_pages) * page_size : gpa_of(i);
	p->shared = !is_anon && shared;
	p->touched = !is_anon && gmem.unit >= SZ_2M ? &touched_blocks[i / PAGES_2M] : NULL;
	for (p->slot = slots; i >= p->slot->first + p->slot->nr;)
		p->slot++;
}

/* Let the first huge page be private, so that the guest owns pages of it soon. */
static void find_pfns(void)
{
	u64 nr = min(nr_pages, gmem.unit_pages), pfn, offset, i;

	WRITE_ONCE(*word_of(&gmem, 0), 0);
	pfn = read_pagemap_pfn(word_of(&gmem, 0));
	TEST_ASSERT_EQ(convert_pages(0, nr, true, &offset), 0);
	for (i = 0; i < nr; i++) {
		pages[i].pfn = pfn + i;
		pages[i].shared = false;
	}
}

static void open_vm(bool shared)
{
	const u64 flags = GUEST_MEMFD_FLAG_MMAP | (shared ? GUEST_MEMFD_FLAG_INIT_SHARED : 0);
	u64 i, next, tries = 0;

	gmem.vm = create_protected_vm(gmem.vcpus, NR_VCPUS, nr_pages);
	virt_map(gmem.vm, ANON_GPA, ANON_GPA, NR_ANON);
	/* The huge pages of the last VM may be on their way back. */
	while ((gmem.fd = __gmem_create(&gmem, gmem.size, flags)) < 0 && tries++ < 100)
		usleep(20 * 1000);
	TEST_ASSERT(gmem.fd >= 0, KVM_IOCTL_ERROR(KVM_CREATE_GUEST_MEMFD, gmem.fd));
	gmem.mem = gmem_map(&gmem, gmem.fd);

	for (i = 0, next = 0; i < NR_SLOTS; i++) {
		slots[i].first = next;
		/* The guest can't own the block at the end of the first memslot as a block. */
		next = (i + 1) * nr_pages / NR_SLOTS - (i ? 0 : 3);
		slots[i].nr = next - slots[i].first;
		set_slot(&slots[i], true);
	}
	slots[NR_SLOTS].first = nr_pages;
	slots[NR_SLOTS].nr = NR_ANON;
	proc_self_mem = open_path_or_exit("/proc/self/mem", O_RDONLY);
	anon = kvm_mmap(NR_ANON * page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			-1);
	vm_set_user_memory_region2(gmem.vm, TEST_SLOT + NR_SLOTS, 0, ANON_GPA,
				   NR_ANON * page_size, anon, 0, 0);
	for (i = 0; i < nr_pages + NR_ANON; i++)
		fill_in_page(i, shared);
	if (has_known_pfns())
		find_pfns();
}

void run_vm(u32 seed)
{
	struct actor actors[NR_ACTORS] = {};
	int i;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigbus_start(true);
	/* To poison pages, the host has to find out their frame numbers. */
	open_vm(may_poison || seed & 1);
	nr_running = NR_VCPUS;
	stop_ms = now_ms() + 200 + seed % 800;

	for (i = 0; i < NR_ACTORS; i++) {
		actors[i].rng = new_kvm_random_state(seed * NR_ACTORS + i);
		actors[i].vcpu = i < NR_VCPUS ? gmem.vcpus[i] : NULL;
		kvm_pipe(actors[i].pipe);
		kvm_pthread_create(&actors[i].thread, NULL, i < NR_VCPUS ? vcpu_thread : vmm_thread,
				   &actors[i]);
	}
	for (i = 0; i < NR_ACTORS; i++)
		kvm_pthread_join(actors[i].thread, NULL);

	WRITE_ONCE(totals->progress[vm_nr], nr_pages);
	while (is_doomed)
		pause();
}
