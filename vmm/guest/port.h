/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the guest tells the VMM besides its console: writes to I/O ports.
 * The console is text for people; a result must not be parsed out of it.
 */
#ifndef GUEST_PORT_H
#define GUEST_PORT_H

#define PORT_STATUS	0x500	/* 8 bit: all programs are done, the exit status; the end */
#define PORT_VERIFIED	0x504	/* 32 bit: so many pages of private memory were verified */

#endif
