// SPDX-License-Identifier: GPL-2.0
/*
 * The device tree, by libfdt. The guest works in private memory because of the node of the pool:
 * all devices refer to it, so that each buffer of theirs is in memory that the guest has shared.
 */
#include <stdlib.h>
#include <string.h>

#include <libfdt.h>

#include "arm64.h"

#define FDT_SIZE		(64 * KIB)

#define PHANDLE_GIC		1
#define PHANDLE_POOL		2

#define GIC_SPI			0
#define GIC_PPI			1
#define LEVEL_HIGH		4

static void check(int err)
{
	if (err < 0)
		die(0, NULL, "the device tree: %s", fdt_strerror(err));
}

static void put_cells(void *fdt, const char *name, const __u32 *cells, int nr)
{
	fdt32_t big[32];

	for (int i = 0; i < nr; i++)
		big[i] = cpu_to_fdt32(cells[i]);
	check(fdt_property(fdt, name, big, nr * sizeof(big[0])));
}

#define put(fdt, name, ...)							\
do {										\
	__u32 __cells[] = { __VA_ARGS__ };					\
										\
	put_cells(fdt, name, __cells, ARRAY_SIZE(__cells));			\
} while (0)

static void put_doubles(void *fdt, const char *name, const __u64 *values, int nr)
{
	__u32 cells[32];

	for (int i = 0; i < nr; i++) {
		cells[2 * i] = values[i] >> 32;
		cells[2 * i + 1] = values[i];
	}
	put_cells(fdt, name, cells, 2 * nr);
}

/* Addresses and sizes, of two cells each. */
#define put_wide(fdt, name, ...)						\
do {										\
	__u64 __values[] = { __VA_ARGS__ };					\
										\
	put_doubles(fdt, name, __values, ARRAY_SIZE(__values));			\
} while (0)

static void put_string(void *fdt, const char *name, const char *value)
{
	check(fdt_property_string(fdt, name, value));
}

static void put_flag(void *fdt, const char *name)
{
	check(fdt_property(fdt, name, NULL, 0));
}

static void begin(void *fdt, const char *fmt, __u64 unit)
{
	char name[64];

	snprintf(name, sizeof(name), fmt, unit);
	check(fdt_begin_node(fdt, name));
}

static void add_chosen(struct vm *vm, void *fdt)
{
	char cmdline[1024];
	int len;

	len = snprintf(cmdline, sizeof(cmdline), "console=ttyS0 panic=-1 mailbox=0x%llx %s",
		       MAILBOX_BASE, vm->opt->append);
	if (len >= (int)sizeof(cmdline))
		die(0, NULL, "the command line is too long: %d bytes", len);
	begin(fdt, "chosen", 0);
	put_string(fdt, "bootargs", cmdline);
	if (vm->initrd) {
		put_wide(fdt, "linux,initrd-start", vm->initrd);
		put_wide(fdt, "linux,initrd-end", vm->initrd + vm->initrd_size);
	}
	check(fdt_end_node(fdt));
}

static void add_memory(struct vm *vm, void *fdt)
{
	__u64 pool = RAM_BASE + vm->opt->memory - POOL_SIZE;

	begin(fdt, "memory@%llx", RAM_BASE);
	put_string(fdt, "device_type", "memory");
	put_wide(fdt, "reg", RAM_BASE, vm->opt->memory);
	check(fdt_end_node(fdt));

	begin(fdt, "reserved-memory", 0);
	put(fdt, "#address-cells", 2);
	put(fdt, "#size-cells", 2);
	put_flag(fdt, "ranges");
	begin(fdt, "pool@%llx", pool);
	put_string(fdt, "compatible", "restricted-dma-pool");
	put_wide(fdt, "reg", pool, POOL_SIZE);
	put(fdt, "phandle", PHANDLE_POOL);
	check(fdt_end_node(fdt));
	check(fdt_end_node(fdt));
}

static void add_cpus(struct vm *vm, void *fdt)
{
	begin(fdt, "cpus", 0);
	put(fdt, "#address-cells", 1);
	put(fdt, "#size-cells", 0);
	for (int i = 0; i < vm->opt->vcpus; i++) {
		begin(fdt, "cpu@%llx", i);
		put_string(fdt, "device_type", "cpu");
		put_string(fdt, "compatible", "arm,armv8");
		put_string(fdt, "enable-method", "psci");
		put(fdt, "reg", i);
		check(fdt_end_node(fdt));
	}
	check(fdt_end_node(fdt));

	begin(fdt, "psci", 0);
	put_string(fdt, "compatible", "arm,psci-1.0");
	put_string(fdt, "method", "hvc");
	check(fdt_end_node(fdt));

	begin(fdt, "timer", 0);
	put_string(fdt, "compatible", "arm,armv8-timer");
	put(fdt, "interrupts", GIC_PPI, 13, LEVEL_HIGH, GIC_PPI, 14, LEVEL_HIGH,
	    GIC_PPI, 11, LEVEL_HIGH, GIC_PPI, 10, LEVEL_HIGH);
	put_flag(fdt, "always-on");
	check(fdt_end_node(fdt));
}

static void add_gic(struct vm *vm, void *fdt)
{
	begin(fdt, "intc@%llx", GIC_DIST_BASE);
	put_string(fdt, "compatible", "arm,gic-v3");
	put(fdt, "#interrupt-cells", 3);
	put_flag(fdt, "interrupt-controller");
	put(fdt, "phandle", PHANDLE_GIC);
	put_wide(fdt, "reg", GIC_DIST_BASE, GIC_DIST_SIZE, GIC_REDIST_BASE,
		 GIC_REDIST_SIZE * vm->opt->vcpus);
	put(fdt, "#address-cells", 2);
	put(fdt, "#size-cells", 2);
	put_flag(fdt, "ranges");
	if (vm->opt->its) {
		begin(fdt, "its@%llx", GIC_ITS_BASE);
		put_string(fdt, "compatible", "arm,gic-v3-its");
		put_flag(fdt, "msi-controller");
		put(fdt, "#msi-cells", 1);
		put_wide(fdt, "reg", GIC_ITS_BASE, GIC_ITS_SIZE);
		check(fdt_end_node(fdt));
	}
	check(fdt_end_node(fdt));
}

static void add_devices(struct vm *vm, void *fdt)
{
	begin(fdt, "serial@%llx", SERIAL_BASE);
	put_string(fdt, "compatible", "ns16550a");
	put_wide(fdt, "reg", SERIAL_BASE, 8);
	put(fdt, "clock-frequency", 1843200);
	put(fdt, "interrupts", GIC_SPI, SERIAL_SPI, LEVEL_HIGH);
	check(fdt_end_node(fdt));

	for (int i = 0; i < NR_DEVICES; i++) {
		if (!vm->devices[i].name)
			continue;
		begin(fdt, "virtio@%llx", VIRTIO_BASE + i * VIRTIO_SIZE);
		put_string(fdt, "compatible", "virtio,mmio");
		put_wide(fdt, "reg", VIRTIO_BASE + i * VIRTIO_SIZE, VIRTIO_SIZE);
		put(fdt, "interrupts", GIC_SPI, VIRTIO_SPI + i, LEVEL_HIGH);
		put_flag(fdt, "dma-coherent");
		put(fdt, "memory-region", PHANDLE_POOL);
		check(fdt_end_node(fdt));
	}
}

void fdt_build(struct vm *vm)
{
	void *fdt = calloc(1, FDT_SIZE);

	if (!fdt)
		die(0, NULL, "no memory for the device tree");
	check(fdt_create(fdt, FDT_SIZE));
	check(fdt_finish_reservemap(fdt));
	begin(fdt, "", 0);
	put(fdt, "#address-cells", 2);
	put(fdt, "#size-cells", 2);
	put(fdt, "interrupt-parent", PHANDLE_GIC);
	put_string(fdt, "compatible", "linux,dummy-virt");
	add_chosen(vm, fdt);
	add_memory(vm, fdt);
	add_cpus(vm, fdt);
	add_gic(vm, fdt);
	add_devices(vm, fdt);
	check(fdt_end_node(fdt));
	check(fdt_finish(fdt));
	memory_load(vm, vm->fdt, fdt, fdt_totalsize(fdt));
	free(fdt);
}
