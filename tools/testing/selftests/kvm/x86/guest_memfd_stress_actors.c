// SPDX-License-Identifier: GPL-2.0-only
/* The actors: those that work, and those that disturb them. */
#include "../../../../mm/gup_test.h"

#include "guest_memfd_stress_host.h"

struct kvm_vm *vm;

/* How many tries other actors can make fail before the test calls it a hang. */
#define MAX_MEMORY_FAULTS	10000

static void host_step(struct actor *a)
{
	u32 op = pick(&a->rng, 100);
	u64 first, nr;

	nr = pick_range(world, &a->rng, world->nr_cells, &first);
	if (world->unit_cells && op < 15) {
		host_step_unit(a, first);
		return;
	}
	if (!trylock_range(world, first, nr)) {
		count(world, EVENT_host_found_pages_busy);
		return;
	}

	host_check_cells(a, first, nr);
	if (op < 20) {
		host_write_cells(a, first, nr);
	} else if (op < 50) {
		host_convert(a, first, nr, pick(&a->rng, 2));
	} else if (op < 60) {
		host_convert(a, first, nr, false);
		host_write_cells(a, first, nr);
		host_convert(a, first, nr, true);
	} else if (op < 70) {
		if (!world->cells[first].poison)
			host_pin_page(a, first);
	} else if (op < 80) {
		if (!world->cells[first].poison)
			host_syscall(a, first);
	} else if (op < 85) {
		host_mmap_check(a, first, nr);
	} else if (op < 90) {
		host_allocate(first, nr);
		host_check_cells(a, first, nr);
	} else {
		host_punch(first, nr);
		host_check_cells(a, first, nr);
	}
	unlock_range(world, first, nr);
}

void *host_thread(void *data)
{
	struct actor *a = data;

	while (!stopped(world))
		host_step(a);
	return NULL;
}

static void peek_words(struct actor *a, u64 first, u64 nr)
{
	u64 c, val;

	for (c = first; c < first + nr; c++) {
		if (sigbus_try_access(host_word(a, c, pick(&a->rng, NR_WORDS)), &val, false)) {
			TEST_ASSERT(stamp_is_of_cell(val, c), "Cell %lu has 0x%lx", c, val);
			set_present(world, c, 1);
			count(world, EVENT_peek_shared);
		} else {
			count(world, EVENT_peek_sigbus);
		}
	}
}

void pause_up_to_us(struct actor *a, u32 us)
{
	usleep(1 + pick(&a->rng, us));
}

void *pin_thread(void *data)
{
	struct actor *a = data;
	char buf[16 * PAGE_SIZE];
	struct pin pin;
	u64 first, i;

	make_pipe(&pin);
	while (!stopped(world)) {
		first = pick(&a->rng, world->nr_cells - 15);
		if (!pin_pages(&pin, host_word(a, first, 0), sizeof(buf))) {
			count(world, EVENT_pin_vmsplice_refused);
			/*
			 * Nothing slows this loop down, so stay out of the way of
			 * other actors.
			 */
			pause_up_to_us(a, 100);
			continue;
		}
		pause_up_to_us(a, 1000);
		unpin_pages(&pin, buf);
		for (i = 0; i < pin.len / PAGE_SIZE; i++)
			TEST_ASSERT(stamp_is_of_cell(*(u64 *)(buf + i * PAGE_SIZE), first + i),
				    "Pinned cell %lu has 0x%lx", first + i,
				    *(u64 *)(buf + i * PAGE_SIZE));
		set_present(world, first, pin.len / PAGE_SIZE);
		count(world, EVENT_pin_vmsplice);
		pause_up_to_us(a, 1000);
	}
	close_pipe(&pin);
	return NULL;
}

void *longterm_pin_thread(void *data)
{
	int fd = open(GUP_TEST, O_RDWR | O_CLOEXEC);
	struct actor *a = data;

	while (fd >= 0 && !stopped(world)) {
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
		set_present(world, first, nr);
		pause_up_to_us(a, 1000);
		TEST_ASSERT(!ioctl(fd, PIN_LONGTERM_TEST_STOP), "Unpinning should succeed");
		count(world, EVENT_pin_longterm);
		pause_up_to_us(a, 1000);
	}
	if (fd >= 0)
		kvm_close(fd);
	return NULL;
}

void *map_thread(void *data)
{
	struct actor *a = data;
	char *mem = a->mem;

	while (!stopped(world)) {
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

void *fork_thread(void *data)
{
	struct actor *a = data;
	int status, i;
	pid_t pid;

	while (!stopped(world)) {
		kvm_random_u32(&a->rng);
		pid = fork();
		TEST_ASSERT(pid >= 0, "fork() should succeed");
		if (!pid) {
			a->child = true;
			for (i = 0; i < 30 && !stopped(world); i++) {
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

void set_slot(int i, u64 gpa, u64 size)
{
	struct slot *s = &world->slots[i];

	vm_set_user_memory_region2(vm, DATA_SLOT + i, size ? KVM_MEM_GUEST_MEMFD : 0, gpa, size,
				   size ? (void *)PAGE_SIZE : NULL, size ? gmem_fd : 0,
				   size ? cell_offset(s->first) : 0);
}

void *rebind_thread(void *data)
{
	struct slot *s = &world->slots[REBIND_SLOT];
	struct actor *a = data;

	while (s->gpa && !stopped(world)) {
		set_slot(REBIND_SLOT, s->gpa + pick(&a->rng, 3) * PAGE_SIZE, s->nr * PAGE_SIZE);
		pause_up_to_us(a, 5000);
		set_slot(REBIND_SLOT, 0, 0);
		count(world, EVENT_slot_moves);
		pause_up_to_us(a, 5000);
	}
	return NULL;
}

/* Print what the guest doesn't say: the state of units, and of poisoned pages. */
static void report_units(void)
{
	u64 unit, first, c, pfn;

	for (unit = 0; unit < world->nr_units; unit++) {
		first = unit * world->unit_cells;
		ksft_print_msg("first %s, pfn 0x%lx\n", describe(first), world->units[unit].pfn);
		if (!world->units[unit].pfn)
			continue;
		for (c = first; c < first + world->unit_cells; c++) {
			pfn = world->units[unit].pfn +
			      (cell_offset(c) - unit_offset(unit)) / PAGE_SIZE;
			if (world->cells[c].poison)
				ksft_print_msg("%s: flags 0x%lx\n", describe(c),
					       read_kpageflags(pfn));
		}
	}
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
	if (flags & HYPERCALL_UNIT) {
		size = world->unit_size;
		offset = align_down(offset, size);
	}
	run->hypercall.ret = 0;
	if (flags & HYPERCALL_PUNCH)
		kvm_fallocate(gmem_fd, PUNCH, offset, size);
	else
		run->hypercall.ret = -convert_bytes(offset, size, flags & HYPERCALL_PRIVATE);
}

/* Let guest_probe() return false for a poisoned page.  No other instruction may find one. */
static void handle_poison(struct kvm_vcpu *vcpu)
{
	struct kvm_regs regs;

	vcpu_regs_get(vcpu, &regs);
	TEST_ASSERT(regs.rip == (uintptr_t)guest_probe_insn,
		    "Nothing should be poisoned where rip is 0x%llx, gpa 0x%llx", regs.rip,
		    vcpu->run->memory_fault.gpa);
	regs.rip = (uintptr_t)guest_probe_fixup;
	vcpu_regs_set(vcpu, &regs);
}

/*
 * Handle a fault of the guest.  Another actor has converted the page that the guest
 * was looking at, a huge page isn't back yet, or the page is poisoned.  Returns
 * whether the guest should go on, i.e. false if the file is gone.
 */
static bool handle_memory_fault(struct kvm_vcpu *vcpu, u64 *progress, int *faults)
{
	struct kvm_run *run = vcpu->run;

	TEST_ASSERT(run->exit_reason == KVM_EXIT_MEMORY_FAULT &&
		    (errno == EFAULT || errno == EHWPOISON ||
		     (errno == ENOSPC && world->few_spares)),
		    "KVM_RUN: errno %d, %s", errno, exit_reason_str(run->exit_reason));
	TEST_ASSERT(run->memory_fault.gpa >= world->slots[0].gpa,
		    "Fault on ordinary memory, gpa 0x%llx", run->memory_fault.gpa);
	if (errno == EHWPOISON) {
		handle_poison(vcpu);
		return true;
	}
	if (errno == EFAULT && READ_ONCE(world->phase) == PHASE_CLOSED) {
		count(world, EVENT_guest_loses_the_file);
		return false;
	}
	count(world, errno == ENOSPC ? EVENT_retry_enospc : EVENT_retry_memory_fault);

	if (*progress != READ_ONCE(world->progress[vcpu->id])) {
		*progress = READ_ONCE(world->progress[vcpu->id]);
		*faults = 0;
	}
	TEST_ASSERT(++*faults < MAX_MEMORY_FAULTS, "vCPU %u can't get at gpa 0x%llx", vcpu->id,
		    run->memory_fault.gpa);
	return true;
}

void run_vcpu(struct kvm_vcpu *vcpu)
{
	struct kvm_regs regs;
	u64 progress = 0;
	int faults = 0;
	struct ucall uc;

	for (;;) {
		if (_vcpu_run(vcpu)) {
			if (!handle_memory_fault(vcpu, &progress, &faults))
				return;
			continue;
		}
		if (vcpu->run->exit_reason == KVM_EXIT_HYPERCALL) {
			handle_hypercall(vcpu);
			continue;
		}

		switch (get_ucall(vcpu, &uc)) {
		case UCALL_SYNC:
			return;
		case UCALL_ABORT:
			report_units();
			REPORT_GUEST_ASSERT(uc);
		default:
			vcpu_regs_get(vcpu, &regs);
			TEST_FAIL("vCPU %u: unexpected exit at rip 0x%llx, rsp 0x%llx: %s",
				  vcpu->id, regs.rip, regs.rsp,
				  exit_reason_str(vcpu->run->exit_reason));
		}
	}
}

void *vcpu_thread(void *data)
{
	run_vcpu(((struct actor *)data)->vcpu);
	return NULL;
}
