// SPDX-License-Identifier: GPL-2.0-only
/* Operations of the host on cells that it has locked, and checks of what it finds there. */
#include "guest_memfd_stress_host.h"

struct world *world;
int gmem_fd;

/* How many tries other actors can make fail before the host gives up. */
#define MAX_CONVERSIONS		300

/* How often to try to get a huge page that isn't back yet, and how long to wait in between. */
#define MAX_UNIT_TRIES		2000
#define UNIT_DELAY_US		5000

u64 *host_word(struct actor *a, u64 c, int i)
{
	return (u64 *)(a->mem + c * PAGE_SIZE + word_offset(i));
}

u64 cell_offset(u64 c)
{
	return world->file_offset + c * PAGE_SIZE;
}

u64 unit_offset(u64 unit)
{
	return unit * world->unit_size;
}

const char *describe(u64 c)
{
	const struct cell *cell = &world->cells[c];
	static char text[200];
	struct unit *u;
	int len;

	len = snprintf(text, sizeof(text), "cell %lu (%s%s%s)", c,
		       cell->private ? "private" : "shared",
		       cell->isolated ? ", isolated" : "", cell->poison ? ", poisoned" : "");
	if (world->unit_cells) {
		u = unit_of(world, c);
		snprintf(text + len, sizeof(text) - len,
			 " of unit %lu (%u private, %u isolated, %u pinned, %u poisoned%s)",
			 c / world->unit_cells, u->nr_private, u->nr_isolated, u->nr_pinned,
			 u->nr_poisoned, u->present ? "" : ", a hole");
	}
	return text;
}

bool host_access(struct actor *a, u64 c, int i, u64 *val, bool write)
{
	bool maybe_missing = world->few_spares && !unit_of(world, c)->present;
	int tries;

	for (tries = 0; !sigbus_try_access(host_word(a, c, i), val, write); tries++) {
		if (!maybe_missing || tries == MAX_UNIT_TRIES)
			return false;
		count(world, EVENT_retry_enospc);
		usleep(UNIT_DELAY_US);
	}
	set_present(world, c, 1);
	set_isolated(world, c, true);
	return true;
}

static void host_check_private(struct actor *a, u64 c)
{
	int i = pick(&a->rng, NR_WORDS);
	u64 val = ~0ull;

	TEST_ASSERT(!sigbus_try_access(host_word(a, c, i), &val, i & 1),
		    "SIGBUS expected, got 0x%lx from %s", val, describe(c));
	count(world, EVENT_host_sigbus_for_private);
}

static void host_check_poison(struct actor *a, u64 c)
{
	u64 val = 0;

	TEST_ASSERT(!sigbus_try_access(host_word(a, c, 0), &val, false),
		    "It should not be mapped, but there is 0x%lx in %s", val, describe(c));
	count(world, EVENT_poison_found_by_host);
}

static void host_check_shared(struct actor *a, u64 c)
{
	struct cell *cell = &world->cells[c];
	u64 val;
	int i;

	for (i = 0; i < NR_WORDS; i++) {
		TEST_ASSERT(host_access(a, c, i, &val, false),
			    "Unexpected SIGBUS, %s", describe(c));
		TEST_ASSERT(val == cell->stamp, "Word %d should be 0x%lx, is 0x%lx, %s",
			    i, cell->stamp, val, describe(c));
	}
	if (cell->stamp & STAMP_BY_GUEST) {
		count(world, EVENT_host_reads_guests_data);
		if (cell->stamp & STAMP_IN_PRIVATE)
			count(world, EVENT_host_reads_once_private_data);
	}
}

void host_check_cell(struct actor *a, u64 c)
{
	if (world->cells[c].private)
		host_check_private(a, c);
	else if (world->cells[c].poison)
		host_check_poison(a, c);
	else
		host_check_shared(a, c);
}

void host_check_cells(struct actor *a, u64 first, u64 nr)
{
	u64 c;

	count_op(world, a->is_new ? OP_host_mmap_touch : OP_host_touch, first, nr);
	for (c = first; c < first + nr; c++) {
		if (is_one_of_many(&a->rng, c, first, nr))
			continue;
		/* The kernel logs every SIGBUS for poison, and there may be a lot of it. */
		if (world->cells[c].poison && nr > 1 && pick(&a->rng, 4))
			continue;
		host_check_cell(a, c);
	}
}

void host_write_cells(struct actor *a, u64 first, u64 nr)
{
	u64 c;
	int i;

	count_op(world, OP_host_touch, first, nr);
	for (c = first; c < first + nr; c++) {
		if (world->cells[c].private || world->cells[c].poison)
			continue;
		world->cells[c].stamp = new_stamp(world, c, false);
		for (i = 0; i < NR_WORDS; i++)
			TEST_ASSERT(host_access(a, c, i, &world->cells[c].stamp, true),
				    "Unexpected SIGBUS, %s", describe(c));
		count(world, EVENT_host_writes);
	}
}

void host_mmap_check(struct actor *a, u64 first, u64 nr)
{
	char *mem = a->mem, *part;

	part = __kvm_mmap(nr * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, gmem_fd,
			  cell_offset(first));
	a->mem = part - first * PAGE_SIZE;
	a->is_new = true;
	host_check_cells(a, first, nr);
	a->is_new = false;
	a->mem = mem;
	kvm_munmap(part, nr * PAGE_SIZE);
}

int convert_bytes(u64 offset, u64 size, bool private)
{
	u64 error_offset;
	int tries, r;

	for (tries = 0; tries < MAX_CONVERSIONS; tries++) {
		r = __gmem_set_memory_attributes(gmem_fd, offset, size,
						 private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
						 &error_offset);
		if (!r) {
			TEST_ASSERT_EQ(error_offset, GMEM_NO_ERROR_OFFSET);
			return 0;
		}

		TEST_ASSERT(errno == EAGAIN,
			    "Converting 0x%lx bytes at 0x%lx to %s: %s", size, offset,
			    private ? "private" : "shared", strerror(errno));
		TEST_ASSERT(error_offset >= offset && error_offset < offset + size &&
			    !(error_offset % PAGE_SIZE),
			    "error_offset 0x%lx isn't a page of 0x%lx bytes at 0x%lx",
			    error_offset, size, offset);

		count(world, EVENT_retry_eagain);
		if (tries < 10)
			sched_yield();
		else
			usleep(100);
	}
	return -EAGAIN;
}

static void count_host_conversion(struct actor *a, int already, bool private)
{
	if (already > 0)
		count(world, EVENT_host_conversion_of_nothing);
	else if (!already)
		count(world, EVENT_host_conversion_of_mixed);
	else
		count(world, private ? EVENT_host_to_private : EVENT_host_to_shared);
	if (a->child)
		count(world, EVENT_child_conversions);
}

bool __host_convert(struct actor *a, u64 first, u64 nr, bool all, bool private)
{
	int already = uniform(world, first, nr, private), r;

	count_conversion(world, first, nr, all, private);
	if (all)
		r = convert_bytes(unit_offset(first / world->unit_cells), world->unit_size,
				  private);
	else
		r = convert_bytes(cell_offset(first), nr * PAGE_SIZE, private);

	if (r == -EAGAIN) {
		TEST_ASSERT(already <= 0 || all, "There is nothing to convert, nor to retry");
		count(world, EVENT_host_conversion_gave_up);
		return false;
	}
	set_range_private(world, first, nr, all, private);
	count_host_conversion(a, already, private);
	return true;
}

void host_convert(struct actor *a, u64 first, u64 nr, bool private)
{
	__host_convert(a, first, nr, false, private);
	host_check_cells(a, first, nr);
}

void host_punch(u64 first, u64 nr)
{
	count_punch(world, first, nr);
	kvm_fallocate(gmem_fd, PUNCH, cell_offset(first), nr * PAGE_SIZE);
	set_range_punched(world, first, nr);
	count(world, EVENT_host_holes);
}

void host_allocate(u64 first, u64 nr)
{
	int tries;

	count_op(world, OP_fallocate, first, nr);
	for (tries = 0; fallocate(gmem_fd, FALLOC_FL_KEEP_SIZE, cell_offset(first),
				  nr * PAGE_SIZE); tries++) {
		TEST_ASSERT(errno == ENOSPC && world->few_spares && tries < MAX_UNIT_TRIES,
			    "fallocate() should succeed, errno %d", errno);
		count(world, EVENT_retry_enospc);
		usleep(UNIT_DELAY_US);
	}
	set_present(world, first, nr);
	count(world, EVENT_host_allocations);
}

void make_pipe(struct pin *pin)
{
	TEST_ASSERT(!pipe2(pin->fds, O_CLOEXEC), "pipe2() should succeed");
}

void close_pipe(struct pin *pin)
{
	kvm_close(pin->fds[0]);
	kvm_close(pin->fds[1]);
}

bool pin_pages(struct pin *pin, void *mem, size_t len)
{
	struct iovec iov = { mem, len };

	pin->len = vmsplice(pin->fds[1], &iov, 1, SPLICE_F_NONBLOCK);
	TEST_ASSERT(pin->len > 0 || errno == EFAULT, "vmsplice(): %zd, errno %d", pin->len, errno);
	return pin->len > 0;
}

void unpin_pages(struct pin *pin, void *buf)
{
	TEST_ASSERT_EQ(read(pin->fds[0], buf, pin->len), pin->len);
}

void host_syscall(struct actor *a, u64 c)
{
	int i = pick(&a->rng, NR_WORDS);
	struct pin pin;
	ssize_t r;
	u64 val;

	count_op(world, OP_host_touch, c, 1);
	make_pipe(&pin);
	if (!world->cells[c].private) {
		/* Wait for the huge page here: system calls don't. */
		TEST_ASSERT(host_access(a, c, i, &val, false),
			    "Unexpected SIGBUS, %s", describe(c));
		TEST_ASSERT_EQ(write(pin.fds[1], host_word(a, c, i), sizeof(val)), sizeof(val));
		TEST_ASSERT_EQ(read(pin.fds[0], &val, sizeof(val)), sizeof(val));
		TEST_ASSERT_EQ(val, world->cells[c].stamp);
		count(world, EVENT_host_syscall_on_shared);
	} else {
		r = write(pin.fds[1], host_word(a, c, i), sizeof(val));
		TEST_ASSERT(r == -1 && errno == EFAULT, "write(): %zd, errno %d", r, errno);
		TEST_ASSERT(!pin_pages(&pin, host_word(a, c, 0), PAGE_SIZE),
			    "A private page can't be pinned");
		count(world, EVENT_host_efault_for_private);
	}
	close_pipe(&pin);
}

bool host_pin(struct actor *a, struct pinned_cell *p, u64 c)
{
	bool private = world->cells[c].private;
	u64 val;

	count_op(world, OP_pin, c, 1);
	/* Wait for the huge page here: vmsplice() doesn't. */
	if (world->few_spares && !private)
		host_access(a, c, 0, &val, false);

	make_pipe(&p->pin);
	p->active = pin_pages(&p->pin, host_word(a, c, 0), PAGE_SIZE);
	TEST_ASSERT(p->active == !private, "What is shared can be pinned, and nothing else");
	if (!p->active) {
		close_pipe(&p->pin);
		return false;
	}

	p->c = c;
	p->lost = false;
	set_present(world, c, 1);
	set_isolated(world, c, true);
	if (world->unit_cells)
		add(&unit_of(world, c)->nr_pinned, 1);
	return true;
}

void host_lose_pin(struct pinned_cell *p)
{
	if (!p->active || p->lost)
		return;

	p->stamp = world->cells[p->c].stamp;
	p->lost = true;
	if (world->unit_cells)
		add(&unit_of(world, p->c)->nr_pinned, -1);
}

void check_pin(struct pinned_cell *p)
{
	u64 buf[PAGE_SIZE / sizeof(u64)];
	int i;

	unpin_pages(&p->pin, buf);
	close_pipe(&p->pin);
	p->active = false;
	for (i = 0; i < NR_WORDS; i++)
		TEST_ASSERT_EQ(buf[word_offset(i) / sizeof(u64)], p->stamp);
}

void host_unpin(struct actor *a, struct pinned_cell *p)
{
	if (!p->active)
		return;

	count_op(world, OP_unpin, p->c, 1);
	if (!p->lost) {
		p->stamp = world->cells[p->c].stamp;
		if (world->unit_cells)
			add(&unit_of(world, p->c)->nr_pinned, -1);
	}
	check_pin(p);
}

void host_convert_pinned(struct actor *a, struct pinned_cell *p, u64 first, u64 nr, bool all)
{
	u64 start = cell_offset(first), size = nr * PAGE_SIZE, error_offset;
	int r;

	if (all) {
		start = unit_offset(first / world->unit_cells);
		size = world->unit_size;
	}
	count_conversion(world, first, nr, all, true);
	r = __gmem_set_private(gmem_fd, start, size, &error_offset);
	TEST_ASSERT(r == -1 && errno == EAGAIN && error_offset >= start &&
		    error_offset <= cell_offset(p->c),
		    "Converting pinned cell %lu: %d, errno %d, error_offset 0x%lx", p->c, r,
		    errno, error_offset);
	if (nr == 1)
		TEST_ASSERT_EQ(error_offset, cell_offset(p->c));
	host_check_cells(a, p->c, 1);
	count(world, EVENT_pinned_page_stays_shared);
}

void host_pin_page(struct actor *a, u64 c)
{
	struct pinned_cell p;

	if (!host_pin(a, &p, c))
		return;

	host_convert_pinned(a, &p, c, 1, false);
	/* Other actors find the page pinned. */
	usleep(pick(&a->rng, 500));
	if (pick(&a->rng, 3) == 0) {
		if (!world->unit_cells)
			host_lose_pin(&p);
		host_punch(c, 1);
		host_check_cells(a, c, 1);
		host_write_cells(a, c, 1);
		count(world, world->unit_cells ? EVENT_pinned_page_zeroed :
						 EVENT_pinned_page_punched);
	}

	host_unpin(a, &p);
	host_convert(a, c, 1, true);
	if (world->cells[c].private)
		count(world, EVENT_pinned_page_then_private);
}
