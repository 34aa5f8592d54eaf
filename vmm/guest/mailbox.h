/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The registers by which a guest of the arm64 VMM talks to the VMM, besides its console, which is
 * text for people. They are 64 bits each, at the address in mailbox= on the kernel's command line.
 */
#ifndef GUEST_MAILBOX_H
#define GUEST_MAILBOX_H

#define MAILBOX_STATUS		0x00	/* the exit status; the guest powers off afterwards */
#define MAILBOX_VERIFIED	0x08	/* the number of pages that were verified */
#define MAILBOX_SHOW		0x10	/* show what the hypervisor says, with one of these: */

#define SHOW_BEFORE		1
#define SHOW_SHARED		2
#define SHOW_UNSHARED		3

/*
 * Have the VMM use shared pages: in each one that begins with this word, it complements the second
 * word. Read the register to learn how many pages there were.
 */
#define MAILBOX_ANSWER		0x18

/* The UDP port of the VMM, which sends back the complement of all that it gets. */
#define ECHO_PORT		4711
#define HOST_ADDRESS		0x0a000201	/* 10.0.2.1 */
#define GUEST_ADDRESS		0x0a000202

/* The disk: each 64-bit word is its offset, by this factor. */
#define DISK_FACTOR		0x9e3779b97f4a7c15ULL

#endif
