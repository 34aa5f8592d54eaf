// SPDX-License-Identifier: GPL-2.0-only
/*
 * On arm64, the tests read the mappings from KVM's dump of its stage-2 tables.  On a pKVM
 * host the tables belong to the hypervisor, which doesn't show them.
 */
#include "guest_memfd_guest.h"

bool is_pkvm(void)
{
	/*
	 * The capability has the sizes of blocks that KVM can split, none if pKVM
	 * doesn't let it.
	 */
	return !kvm_check_cap(KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES);
}

bool can_read_mappings(void)
{
	/* With pKVM, the dump isn't made from a page table. */
	return !is_pkvm() && !access("/sys/kernel/debug/kvm", R_OK | X_OK);
}

/*
 * Return what is mapped in a range, according to a dump like
 *
 *   0x0000000200000000-0x0000000240000000           1G 1   R W px ux  AF BLK
 *
 * where a line stands for any number of consecutive entries of the same level.
 */
static struct mappings read_mappings(struct kvm_vm *vm, u64 gpa, u64 size)
{
	struct mappings m = {};
	char path[128], line[256];
	FILE *file;

	snprintf(path, sizeof(path), "/sys/kernel/debug/kvm/%d-%d/stage2_page_tables",
		 getpid(), vm->fd);
	file = fopen(path, "r");
	TEST_ASSERT(file, "%s can't be opened, errno %d", path, errno);

	while (fgets(line, sizeof(line), file)) {
		u64 start, end;
		int level;

		if (sscanf(line, "0x%lx-0x%lx %*u%*c %d", &start, &end, &level) != 3 ||
		    !strstr(line, " AF"))
			continue;

		start = max(start, gpa);
		end = min(end, gpa + size);
		if (start >= end)
			continue;

		switch (level) {
		case 1:
			m.nr_1g += (end - start) / SZ_1G;
			break;
		case 2:
			m.nr_2m += (end - start) / SZ_2M;
			break;
		case 3:
			m.nr_4k += (end - start) / PAGE_SIZE;
			break;
		default:
			TEST_FAIL("A mapping of level %d: %s", level, line);
		}
	}
	fclose(file);
	return m;
}

void assert_mappings(struct kvm_vm *vm, u64 gpa, u64 size, struct mappings want,
		     const char *what)
{
	struct mappings now;

	if (!can_read_mappings())
		return;

	now = read_mappings(vm, gpa, size);
	TEST_ASSERT(now.nr_4k == want.nr_4k && now.nr_2m == want.nr_2m &&
		    now.nr_1g == want.nr_1g,
		    "%s: mapped are %ld x 4K, %ld x 2M, %ld x 1G, should be %ld x 4K, %ld x 2M, %ld x 1G",
		    what, now.nr_4k, now.nr_2m, now.nr_1g,
		    want.nr_4k, want.nr_2m, want.nr_1g);
}
