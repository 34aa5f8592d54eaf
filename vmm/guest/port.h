/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The ports by which the guest talks to the VMM, besides its console. The console is text
 * for people; the VMM must not parse a result out of it.
 */
#ifndef GUEST_PORT_H
#define GUEST_PORT_H

#define PORT_STATUS	0x500	/* 8 bit: the exit status; all programs are done, end the guest */
#define PORT_VERIFIED	0x504	/* 32 bit: the number of pages of the file that were verified */

/*
 * The guest has just used all of its private memory: show the pieces of the unit with this page
 * (32 bit, its number in the private slot), and the pages by which KVM maps the memory.
 */
#define PORT_SHOW_UNIT	0x510

/*
 * Have the host use a shared page, as a device would. First write the page (32 bit, its number in
 * the private slot) to PORT_HOST_PAGE, then one of the values below (8 bit) to PORT_HOST_DO.
 * Reading PORT_HOST_DO then returns the result, 0 or a negative errno (32 bit).
 */
#define PORT_HOST_PAGE	0x508
#define PORT_HOST_DO	0x50c
#define HOST_COMPLEMENT	1	/* read each 64-bit word of the page, and write its complement */
#define HOST_PIN	2	/* hold on to the page, as a device does for DMA */
#define HOST_UNPIN	3	/* let go of the page that is held, if any */

#endif
