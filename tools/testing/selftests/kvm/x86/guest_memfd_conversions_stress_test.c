// SPDX-License-Identifier: GPL-2.0-only
/*
 * Conversions of guest_memfd memory under load.
 *
 * vCPUs and threads and children of the host convert, read, write and punch
 * random ranges of one file, while others map and unmap, pin, allocate, and move
 * a memslot.  Nobody waits for anybody: who wants to do something that others
 * could notice takes the locks of all pages concerned, or does without.
 *
 * The oracle is a table, in ordinary memory of the guest, that has for each page
 * a lock, whether the page is private, and its contents: a stamp that names the
 * page and is never used twice.  Whoever holds the lock checks that
 *
 *  - contents are what was written last, be it by the guest or by the host, and
 *    before or after any number of conversions, or zeroes after a hole,
 *  - the host gets SIGBUS for what is private, and only for that,
 *  - what is pinned doesn't become private, and everything else does.
 *
 * Without the lock nobody may see anything in a page but stamps of that page or
 * zeroes.  When all is over, conversions must succeed at the first try, contents
 * must be what the table says, and all counters must be what they were.
 *
 * With huge pages, all of that is done to their 4K pages, and some of it to a huge
 * page as a whole.  A hole is zeroes then, unless it's all of a huge page.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/uio.h>
#include <sys/wait.h>

#include <linux/falloc.h>
#include <linux/sizes.h>

#include "../../../../../mm/gup_test.h"

#include "guest_memfd_stress.h"
#include "guest_memfd_stress_host.h"
#include "guestmem_units.h"
#include "hugetlb_util.h"
#include "kernel_counters.h"
#include "kvm_syscalls.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define GUP_TEST_FILE		"/sys/kernel/debug/gup_test"

#define WORLD_SLOT		10
#define DATA_SLOT		11
#define NR_HOST_THREADS		2

/* Tries that others can make fail, before calling it a hang. */
#define MAX_MEMORY_FAULTS	10000

/* What a run of at least that many seconds has not reached can't be reached. */
#define LONG_RUN		60
#define ROUND_SECONDS		30

static struct kvm_vm *vm;

/* What is done to the huge page that has a cell, and to all of it. */
static void host_step_unit(struct actor *a, u64 c)
{
	u64 first = c - c % world->unit_cells;
	u32 op = pick(&a->rng, 3);

	if (!trylock_range(world, first, world->unit_cells))
		return;

	if (op) {
		host_convert(a, first, world->unit_cells, op == 1);
		count(world, op == 1 ? EVENT_host_to_private_unit : EVENT_host_to_shared_unit);
	} else {
		host_punch_unit(a, first, c);
	}
	unlock_range(world, first, world->unit_cells);
}

static void host_step(struct actor *a)
{
	u32 op = pick(&a->rng, 100);
	u64 first, nr;

	nr = pick_range(world, &a->rng, world->nr_cells, &first);
	if (world->unit_cells && op < 8) {
		host_step_unit(a, first);
		return;
	}
	if (!trylock_range(world, first, nr)) {
		count(world, EVENT_host_found_pages_busy);
		return;
	}

	host_check(a, first, nr);
	if (op < 15) {
		host_write(a, first, nr);
	} else if (op < 50) {
		host_convert(a, first, nr, pick(&a->rng, 2));
	} else if (op < 60) {
		host_convert(a, first, nr, false);
		host_write(a, first, nr);
		host_convert(a, first, nr, true);
	} else if (op < 75) {
		if (!world->cells[first].private)
			host_pin(a, first);
	} else if (op < 85) {
		host_syscall(a, first);
	} else if (op < 90) {
		kvm_fallocate(gmem_fd, FALLOC_FL_KEEP_SIZE, cell_offset(first),
			      nr * PAGE_SIZE);
		count(world, EVENT_host_allocations);
		host_check(a, first, nr);
	} else {
		punch(first, nr);
		count(world, EVENT_host_holes);
		host_check(a, first, nr);
	}
	unlock_range(world, first, nr);
}

static void *host_thread(void *data)
{
	struct actor *a = data;

	while (!READ_ONCE(world->stop))
		host_step(a);
	return NULL;
}

static void peek_words(struct actor *a, u64 first, u64 nr)
{
	u64 c, val;

	for (c = first; c < first + nr; c++) {
		if (access_word(host_word(a, c, pick(&a->rng, NR_WORDS)), &val, false)) {
			TEST_ASSERT(stamp_is_of_cell(val, c), "Cell %lu has 0x%lx", c, val);
			count(world, EVENT_peek_shared);
		} else {
			count(world, EVENT_peek_sigbus);
		}
	}
}

static void pause_up_to_us(struct actor *a, u32 us)
{
	usleep(1 + pick(&a->rng, us));
}

static void *pin_thread(void *data)
{
	struct actor *a = data;
	char buf[16 * PAGE_SIZE];
	struct pin pin;
	u64 first, i;

	make_pipe(&pin);
	while (!READ_ONCE(world->stop)) {
		first = pick(&a->rng, world->nr_cells - 15);
		if (!pin_pages(&pin, host_word(a, first, 0), sizeof(buf))) {
			count(world, EVENT_pin_vmsplice_refused);
			/* Nothing is in the way, so stay out of the way. */
			pause_up_to_us(a, 100);
			continue;
		}
		pause_up_to_us(a, 1000);
		unpin_pages(&pin, buf);
		for (i = 0; i < pin.len / PAGE_SIZE; i++)
			TEST_ASSERT(stamp_is_of_cell(*(u64 *)(buf + i * PAGE_SIZE), first + i),
				    "Pinned cell %lu has 0x%lx", first + i,
				    *(u64 *)(buf + i * PAGE_SIZE));
		count(world, EVENT_pin_vmsplice);
		pause_up_to_us(a, 1000);
	}
	close_pipe(&pin);
	return NULL;
}

static void *longterm_pin_thread(void *data)
{
	int fd = open(GUP_TEST_FILE, O_RDWR | O_CLOEXEC);
	struct actor *a = data;

	while (fd >= 0 && !READ_ONCE(world->stop)) {
		u64 nr = 1 + pick(&a->rng, 8);
		u64 first = pick(&a->rng, world->nr_cells - nr + 1);
		struct pin_longterm_test args = {
			.addr = (unsigned long)host_word(a, first, 0),
			.size = nr * PAGE_SIZE,
			.flags = kvm_random_u32(&a->rng) % 4,
		};

		if (ioctl(fd, PIN_LONGTERM_TEST_START, &args)) {
			TEST_ASSERT(errno == EFAULT, "Pinning: errno %d", errno);
			count(world, EVENT_pin_longterm_refused);
			pause_up_to_us(a, 100);
			continue;
		}
		pause_up_to_us(a, 1000);
		TEST_ASSERT(!ioctl(fd, PIN_LONGTERM_TEST_STOP), "Unpinning should succeed");
		count(world, EVENT_pin_longterm);
		pause_up_to_us(a, 1000);
	}
	if (fd >= 0)
		kvm_close(fd);
	return NULL;
}

/* Map, look, forget, look again, unmap. */
static void *map_thread(void *data)
{
	struct actor *a = data;
	char *mem = a->mem;

	while (!READ_ONCE(world->stop)) {
		u64 first, nr = pick_range(world, &a->rng, world->nr_cells, &first);
		char *part;

		part = __kvm_mmap(nr * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
				  gmem_fd, cell_offset(first));
		a->mem = part - first * PAGE_SIZE;
		peek_words(a, first, nr);
		kvm_madvise(part, nr * PAGE_SIZE, MADV_DONTNEED);
		peek_words(a, first, nr);
		kvm_munmap(part, nr * PAGE_SIZE);
		count(world, EVENT_mappings);

		a->mem = mem;
		nr = pick_range(world, &a->rng, world->nr_cells, &first);
		kvm_madvise(mem + first * PAGE_SIZE, nr * PAGE_SIZE, MADV_DONTNEED);
		count(world, EVENT_madvise_dontneed);
		sched_yield();
	}
	return NULL;
}

static void *fork_thread(void *data)
{
	struct actor *a = data;
	int status, i;
	pid_t pid;

	while (!READ_ONCE(world->stop)) {
		kvm_random_u32(&a->rng);
		pid = fork();
		TEST_ASSERT(pid >= 0, "fork() should succeed");
		if (!pid) {
			a->child = true;
			for (i = 0; i < 30 && !READ_ONCE(world->stop); i++) {
				host_step(a);
				peek_words(a, pick(&a->rng, world->nr_cells), 1);
			}
			_exit(0);
		}
		TEST_ASSERT(waitpid(pid, &status, 0) == pid && !status,
			    "A child ended with status 0x%x", status);
		count(world, EVENT_children);
	}
	return NULL;
}

static void set_slot(int i, u64 gpa, u64 size)
{
	struct slot *s = &world->slots[i];

	vm_set_user_memory_region2(vm, DATA_SLOT + i, size ? KVM_MEM_GUEST_MEMFD : 0, gpa, size,
				   size ? (void *)PAGE_SIZE : NULL, size ? gmem_fd : 0,
				   size ? cell_offset(s->first) : 0);
}

/* Memslots come and go, aligned like the file or not, and nobody notices. */
static void *rebind_thread(void *data)
{
	struct slot *s = &world->slots[REBIND_SLOT];
	struct actor *a = data;

	while (!READ_ONCE(world->stop)) {
		set_slot(REBIND_SLOT, s->gpa + pick(&a->rng, 3) * PAGE_SIZE,
			 s->nr * PAGE_SIZE);
		pause_up_to_us(a, 5000);
		set_slot(REBIND_SLOT, 0, 0);
		count(world, EVENT_slot_moves);
		pause_up_to_us(a, 5000);
	}
	return NULL;
}

static void handle_hypercall(struct kvm_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	u64 gpa = run->hypercall.args[0], size = run->hypercall.args[1] * PAGE_SIZE;
	u64 flags = run->hypercall.args[2], offset;
	struct slot *s;

	TEST_ASSERT_EQ(run->hypercall.nr, KVM_HC_MAP_GPA_RANGE);
	for (s = world->slots; s < world->slots + REBIND_SLOT; s++) {
		if (gpa >= s->gpa && gpa + size <= s->gpa + s->nr * PAGE_SIZE)
			break;
	}
	TEST_ASSERT(s < world->slots + REBIND_SLOT, "0x%lx is nowhere", gpa);

	offset = cell_offset(s->first) + gpa - s->gpa;
	run->hypercall.ret = 0;
	if (flags & HYPERCALL_PUNCH)
		kvm_fallocate(gmem_fd, PUNCH, offset, size);
	else
		run->hypercall.ret = -convert(offset, size, flags & HYPERCALL_PRIVATE);
}

/* Somebody converted what the guest was looking at: look again. */
static void handle_memory_fault(struct kvm_vcpu *vcpu, u64 *progress, int *faults)
{
	struct kvm_run *run = vcpu->run;

	TEST_ASSERT(errno == EFAULT && run->exit_reason == KVM_EXIT_MEMORY_FAULT,
		    "KVM_RUN: errno %d, %s", errno, exit_reason_str(run->exit_reason));
	TEST_ASSERT(run->memory_fault.gpa >= world->slots[0].gpa,
		    "Fault on ordinary memory, gpa 0x%llx", run->memory_fault.gpa);
	count(world, EVENT_retry_memory_fault);

	if (*progress != READ_ONCE(world->progress[vcpu->id])) {
		*progress = READ_ONCE(world->progress[vcpu->id]);
		*faults = 0;
	}
	TEST_ASSERT(++*faults < MAX_MEMORY_FAULTS, "vCPU %u can't get at gpa 0x%llx", vcpu->id,
		    run->memory_fault.gpa);
}

static void run_vcpu(struct kvm_vcpu *vcpu)
{
	u64 progress = 0;
	int faults = 0;
	struct ucall uc;

	for (;;) {
		if (_vcpu_run(vcpu)) {
			handle_memory_fault(vcpu, &progress, &faults);
			continue;
		}
		if (vcpu->run->exit_reason == KVM_EXIT_HYPERCALL) {
			handle_hypercall(vcpu);
			continue;
		}

		switch (get_ucall(vcpu, &uc)) {
		case UCALL_SYNC:
		case UCALL_DONE:
			return;
		case UCALL_ABORT:
			REPORT_GUEST_ASSERT(uc);
		default:
			TEST_FAIL("Unexpected exit: %s",
				  exit_reason_str(vcpu->run->exit_reason));
		}
	}
}

static void *vcpu_thread(void *data)
{
	run_vcpu(((struct actor *)data)->vcpu);
	return NULL;
}

/* A round: one file, one VM. */

struct variant {
	const char *name;
	u64 flags;
	size_t unit;
};

static const struct variant variants[] = {
	{ "private", GUEST_MEMFD_FLAG_MMAP },
	{ "shared", GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED },
	{ "private 2M pages", GUEST_MEMFD_FLAG_MMAP, SZ_2M },
	{ "shared 2M pages", GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED, SZ_2M },
	{ "private 1G page", GUEST_MEMFD_FLAG_MMAP, SZ_1G },
	{ "shared 1G page", GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED, SZ_1G },
};

#define SMALL_CELLS		2048
/* Whatever the kernel keeps in one piece, e.g. 2M or 128M, it ends in the middle. */
#define SMALL_FIRST_PAGE	(SZ_128M / PAGE_SIZE - 777)
#define HUGE_UNITS		8
/* Units that somebody has punched, but a page of them is pinned. */
#define SPARE_UNITS		8
/* A part of a 1G page, around its middle. */
#define LARGE_CELLS		2048
#define LARGE_FIRST_PAGE	((SZ_1G / 2 - SZ_2M) / PAGE_SIZE)

static const struct world_size {
	size_t unit;
	u64 nr_cells, unit_cells;
	u64 first_page;
	u64 nr_units;
} world_sizes[] = {
	{ 0, SMALL_CELLS, 0, SMALL_FIRST_PAGE },
	{ SZ_2M, HUGE_UNITS * PAGES_2M, PAGES_2M, 0, HUGE_UNITS + SPARE_UNITS },
	{ SZ_1G, LARGE_CELLS, 0, LARGE_FIRST_PAGE, 1 },
};

static int nr_vcpus = 3;

static const struct world_size *world_size(const struct variant *v)
{
	const struct world_size *ws = world_sizes;

	while (ws->unit != v->unit)
		ws++;
	return ws;
}

static void create_world(const struct variant *v, struct kvm_vcpu **vcpus)
{
	const struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = KVM_X86_SW_PROTECTED_VM,
	};
	const struct world_size *ws = world_size(v);
	u64 nr = ws->nr_cells, size, i, c;
	u64 ends[NR_SLOTS] = { nr * 2 / 8, nr * 5 / 8, nr * 7 / 8, nr };

	vm = __vm_create_with_vcpus(shape, nr_vcpus, 0, guest_code, vcpus);
	vm_enable_cap(vm, KVM_CAP_EXIT_HYPERCALL, BIT(KVM_HC_MAP_GPA_RANGE));
	/* Children don't need it, and copying it on write disturbs the guest. */
	kvm_madvise(addr_gpa2hva(vm, 0), memslot2region(vm, 0)->region.memory_size,
		    MADV_DONTFORK);

	size = align_up(sizeof(*world) + nr * sizeof(world->cells[0]), PAGE_SIZE);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_SHMEM, WORLD_GPA, WORLD_SLOT,
				    size / PAGE_SIZE, 0);
	virt_map(vm, WORLD_GPA, WORLD_GPA, size / PAGE_SIZE);
	world = addr_gpa2hva(vm, WORLD_GPA);
	world->seed = kvm_random_seed;
	world->huge = !!v->unit;
	world->nr_cells = nr;
	world->unit_cells = ws->unit_cells;
	world->file_offset = ws->first_page * PAGE_SIZE;
	for (c = 0; c < nr; c++)
		world->cells[c].private = !(v->flags & GUEST_MEMFD_FLAG_INIT_SHARED);

	if (v->unit)
		gmem_fd = vm_create_guest_memfd_hugetlb(vm, ws->nr_units * v->unit, v->flags,
							__builtin_ctzll(v->unit));
	else
		gmem_fd = vm_create_guest_memfd(vm, cell_offset(nr), v->flags);
	for (i = 0; i < NR_SLOTS; i++) {
		struct slot *s = &world->slots[i];

		s->first = i ? ends[i - 1] : 0;
		s->nr = ends[i] - s->first;
		s->gpa = (4 + i) * SZ_1G + (i == 2 ? PAGE_SIZE : 0);
		if (i == REBIND_SLOT)
			continue;
		set_slot(i, s->gpa, s->nr * PAGE_SIZE);
		virt_map(vm, s->gpa, s->gpa, s->nr * PAGE_SIZE / PAGE_SIZE);
	}
}

static const pthread_fn_t chaos_threads[] = {
	pin_thread, longterm_pin_thread, map_thread, fork_thread, rebind_thread,
};

static void run_actors(struct kvm_vcpu **vcpus, char **mem, int seconds)
{
	struct actor actors[MAX_VCPUS + NR_HOST_THREADS + ARRAY_SIZE(chaos_threads)] = {};
	int nr = nr_vcpus + NR_HOST_THREADS + ARRAY_SIZE(chaos_threads), i;

	for (i = 0; i < nr; i++) {
		struct actor *a = &actors[i];
		int host = i - nr_vcpus, chaos = host - NR_HOST_THREADS;

		a->rng = new_kvm_random_state(kvm_random_seed + 1000 + i);
		a->mem = mem[i % 2];
		a->vcpu = host < 0 ? vcpus[i] : NULL;
		/* What is locked can't be forgotten. */
		if (chaos >= 0 && chaos_threads[chaos] == map_thread)
			a->mem = mem[0];
		kvm_pthread_create(&a->thread, NULL, host < 0 ? vcpu_thread :
				   chaos < 0 ? host_thread : chaos_threads[chaos], a);
	}
	sleep(seconds);
	WRITE_ONCE(world->stop, 1);
	for (i = 0; i < nr; i++)
		kvm_pthread_join(actors[i].thread, NULL);
}

/* It's all private but for what is not in use, i.e. there's nothing to be split. */
static void check_units(void)
{
	int nr, nr_late;

	if (!world->huge || !guestmem_has_units())
		return;

	if (world->file_offset)
		gmem_set_private(gmem_fd, 0, SZ_1G);
	nr = guestmem_nr_units(&nr_late);
	TEST_ASSERT(!nr && !nr_late, "%d units are split, %d are nobody's", nr, nr_late);
}

/* Nobody is in the way any more, i.e. there is no reason to retry anything. */
static void check_world(struct kvm_vcpu *vcpu, char *mem)
{
	struct actor a = { .rng = new_kvm_random_state(kvm_random_seed), .mem = mem };
	u64 size = world->nr_cells * PAGE_SIZE;

	TEST_ASSERT(trylock_range(world, 0, world->nr_cells), "All cells should be unlocked");
	host_check(&a, 0, world->nr_cells);

	gmem_set_shared(gmem_fd, cell_offset(0), size);
	set_range_private(world, 0, world->nr_cells, false);
	host_check(&a, 0, world->nr_cells);

	gmem_set_private(gmem_fd, 0, cell_offset(0) + size);
	set_range_private(world, 0, world->nr_cells, true);
	check_units();
	host_check(&a, 0, world->nr_cells);
	run_vcpu(vcpu);
}

static void run_round(const struct variant *v, int seconds, u64 *events)
{
	struct sigaction sa = {
		.sa_sigaction = sigbus_handler,
		.sa_flags = SA_SIGINFO | SA_NODEFER,
	};
	struct kvm_vcpu *vcpus[MAX_VCPUS];
	int fds = nr_open_fds(), i;
	char *mem[2];
	u64 size;

	create_world(v, vcpus);
	sigaction(SIGBUS, &sa, NULL);
	for (i = 0; i < nr_vcpus; i++)
		vcpu_args_set(vcpus[i], 1, (u64)i);

	size = world->nr_cells * PAGE_SIZE;
	for (i = 0; i < 2; i++)
		mem[i] = __kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED, gmem_fd,
				    world->file_offset);
	/* Unmapping it leaves references in batches.  Draining these slows all down. */
	if (v->flags & GUEST_MEMFD_FLAG_INIT_SHARED)
		TEST_ASSERT(!syscall(__NR_mlock2, mem[1], size, MLOCK_ONFAULT),
			    "mlock2() should succeed");

	run_actors(vcpus, mem, seconds);
	check_world(vcpus[0], mem[0]);

	for (i = 0; i < NR_EVENTS; i++)
		events[i] += world->events[i];
	kvm_munmap(mem[0], size);
	kvm_munmap(mem[1], size);
	kvm_close(gmem_fd);
	kvm_vm_free(vm);
	TEST_ASSERT_EQ(nr_open_fds(), fds);
}

/* In a process of its own, so that all that is left is the kernel's fault. */
static void fork_round(const struct variant *v, int seconds, u64 *events,
		       struct kernel_counters *after)
{
	struct hugetlb_pool pool;
	struct kernel_counters before;
	const char *leak;
	int status;
	pid_t pid;

	read_kernel_counters(&before);
	if (v->unit)
		hugetlb_read_pool(v->unit, &pool);

	fflush(stdout);
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork() should succeed");
	if (!pid) {
		run_round(v, seconds, events);
		exit(0);
	}
	TEST_ASSERT(waitpid(pid, &status, 0) == pid, "waitpid() should succeed");
	if (status) {
		ksft_test_result_fail("%s\n", v->name);
		ksft_finished();
	}

	if (v->unit)
		TEST_ASSERT_POOL_SETTLES(&pool, 0, 0);
	if (guestmem_has_units())
		guestmem_settle();
	leak = kernel_counters_settle(&before, after);
	TEST_ASSERT(!leak, "%s", leak);
}

/* Memory that goes missing, a little bit in every round. */
static void check_trend(const struct kernel_counters *first, const struct kernel_counters *last)
{
	ksft_print_msg("free pages %ld -> %ld, slab pages %ld -> %ld\n", first->free, last->free,
		       first->slab, last->slab);
	TEST_ASSERT(last->free > first->free - SZ_16M / PAGE_SIZE, "Memory is missing");
	TEST_ASSERT(last->slab < first->slab + SZ_4M / PAGE_SIZE, "Slab memory is missing");
}

static void usage(const char *cmd)
{
	printf("%s [-h] [-n vcpus] [-r seed] [-s seconds]\n\n"
	       " -n: number of vCPUs (default: %d)\n"
	       " -r: seed, to repeat what each thread wanted to do\n"
	       " -s: seconds in total (default: 16)\n", cmd, nr_vcpus);
}

/* Why there can't be huge pages, or NULL. */
static const char *missing_pages(const struct variant *v)
{
	const struct world_size *ws = world_size(v);
	struct hugetlb_pool pool;
	static char text[64];

	if (!v->unit)
		return NULL;

	snprintf(text, sizeof(text), "needs %lu x %zu kB page", ws->nr_units, v->unit / 1024);
	if (!(kvm_check_cap(KVM_CAP_GUEST_MEMFD_FLAGS) & GUEST_MEMFD_FLAG_HUGETLB) ||
	    !hugetlb_size_supported(v->unit))
		return text;
	hugetlb_read_pool(v->unit, &pool);
	return hugetlb_available(&pool) >= ws->nr_units ? NULL : text;
}

static void run(int seconds)
{
	u64 (*events)[NR_EVENTS];
	int round_seconds = clamp(seconds / (int)ARRAY_SIZE(variants), 1, ROUND_SECONDS);
	int nr_rounds = max(seconds / round_seconds, (int)ARRAY_SIZE(variants)), i;
	struct kernel_counters first = {}, last;
	const char *missing;
	bool huge = false;

	events = kvm_mmap(2 * sizeof(*events), PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1);
	ksft_set_plan(nr_rounds + 1);
	for (i = 0; i < nr_rounds; i++) {
		const struct variant *v = &variants[i % ARRAY_SIZE(variants)];

		missing = missing_pages(v);
		if (missing) {
			ksft_test_result_skip("%s: %s\n", v->name, missing);
			continue;
		}
		/* What's missing in 1G pages may have happened in 2M pages. */
		huge |= v->unit == SZ_2M;
		fork_round(v, round_seconds, events[!!v->unit], &last);
		if (i == ARRAY_SIZE(variants) - 1 || !first.free)
			first = last;
		ksft_test_result_pass("%s\n", v->name);
		kvm_random_seed++;
	}

	check_trend(&first, &last);
	ksft_test_result(print_events(events, huge) || seconds < LONG_RUN,
			 "everything_happened\n");
}

int main(int argc, char *argv[])
{
	int seconds = 16, opt;

	while ((opt = getopt(argc, argv, "hn:r:s:")) != -1) {
		switch (opt) {
		case 'n':
			nr_vcpus = atoi_positive("vcpus", optarg);
			TEST_ASSERT(nr_vcpus <= MAX_VCPUS, "At most %d vCPUs", MAX_VCPUS);
			break;
		case 'r':
			kvm_random_seed = strtoul(optarg, NULL, 0);
			break;
		case 's':
			seconds = atoi_positive("seconds", optarg);
			break;
		default:
			usage(argv[0]);
			exit(opt == 'h' ? 0 : 1);
		}
	}

	TEST_REQUIRE(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM));
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES) &
		     KVM_MEMORY_ATTRIBUTE_PRIVATE);

	ksft_print_header();
	ksft_print_msg("seed %#x, %d vCPUs, %d s\n", kvm_random_seed, nr_vcpus, seconds);
	run(seconds);
	ksft_finished();
}
