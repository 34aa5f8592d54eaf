/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the guest tells the VMM besides its console: accesses to I/O ports.
 * The console is text for people; a result must not be parsed out of it.
 */
#ifndef GUEST_PORT_H
#define GUEST_PORT_H

#define PORT_STATUS	0x500	/* 8 bit: all programs are done, the exit status; the end */
#define PORT_VERIFIED	0x504	/* 32 bit: so many pages of the file were verified */

/*
 * The guest has just used all of its private memory: show what the unit with this page
 * (32 bit, its number in the private slot) is made of now, and by what KVM maps it.
 */
#define PORT_SHOW_UNIT	0x510

/*
 * The host as someone who uses what is shared, as a device would. Written: what it is to
 * do (8 bit) with the page (32 bit, its number in the private slot) that was named before.
 * Read: how that ended, 0 or a negative errno (32 bit).
 */
#define PORT_HOST_PAGE	0x508
#define PORT_HOST_DO	0x50c
#define HOST_COMPLEMENT	1	/* read each 64-bit word of it, and write its complement */
#define HOST_PIN	2	/* hold on to the page, as a device does for DMA */
#define HOST_UNPIN	3	/* let go of whatever is held */

#endif
