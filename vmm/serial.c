// SPDX-License-Identifier: GPL-2.0
/*
 * The console: a 16550 UART that only transmits.
 *
 * The kernel's own messages poll the line status register, which always says "empty".
 * Programs write through the tty layer, which fills the transmitter from an interrupt:
 * without that interrupt the kernel talks and user space is mute. So the UART has an interrupt,
 * IRQ 4. The interrupt is due when the transmitter has become empty (at once, in an emulator) and
 * the driver has enabled it, and it is over when the driver has read it from the IIR.
 */
#include <sys/ioctl.h>

#include <linux/serial_reg.h>

#include "vmm.h"

#define SERIAL_IRQ	4

static bool interrupt_due(const struct serial *serial)
{
	return serial->tx_empty && (serial->regs[UART_IER] & UART_IER_THRI);
}

/* The PIC sees edges: a pending interrupt that is due again must go down first. */
static void update_irq(struct serial *serial)
{
	struct kvm_irq_level line = { .irq = SERIAL_IRQ };

	ioctl(serial->vm_fd, KVM_IRQ_LINE, &line);
	line.level = interrupt_due(serial);
	if (line.level)
		ioctl(serial->vm_fd, KVM_IRQ_LINE, &line);
}

static void transmit(struct serial *serial, __u8 byte)
{
	if (!serial->out || byte == '\r')
		return;
	if (!serial->in_line && serial->prefix)
		fputs(serial->prefix, serial->out);
	fputc(byte, serial->out);
	serial->in_line = byte != '\n';
	if (!serial->in_line)
		fflush(serial->out);
}

static void serial_write(struct serial *serial, int reg, __u8 byte)
{
	bool divisor = serial->regs[UART_LCR] & UART_LCR_DLAB;

	if (divisor && reg <= UART_IER)
		return;			/* the baud rate, which makes no difference here */
	serial->regs[reg] = byte;
	if (reg == UART_TX && !(serial->regs[UART_MCR] & UART_MCR_LOOP))
		transmit(serial, byte);
	if (reg == UART_TX || reg == UART_IER) {
		serial->tx_empty = true;
		update_irq(serial);
	}
}

static __u8 serial_read(struct serial *serial, int reg)
{
	__u8 byte;

	switch (reg) {
	case UART_RX:
		return 0;
	case UART_IIR:
		byte = interrupt_due(serial) ? UART_IIR_THRI : UART_IIR_NO_INT;
		if (byte == UART_IIR_THRI) {
			serial->tx_empty = false;
			update_irq(serial);
		}
		/* "The FIFOs work": the driver then sends 16 bytes per interrupt. */
		return byte | (serial->regs[UART_FCR] & UART_FCR_ENABLE_FIFO ? 0xc0 : 0);
	case UART_LSR:
		return UART_LSR_TEMT | UART_LSR_THRE;
	case UART_MSR:
		return UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS;
	}
	return serial->regs[reg];
}

void serial_io(struct serial *serial, int reg, bool is_write, __u8 *data)
{
	if (is_write)
		serial_write(serial, reg, *data);
	else
		*data = serial_read(serial, reg);
}
