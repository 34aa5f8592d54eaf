/* SPDX-License-Identifier: GPL-2.0-only */
/* The events that the test counts.  Each table of events includes this file once. */
#ifdef EVENT
EVENT(guest_peeks, IN_BOTH) EVENT(guest_found_pages_busy, IN_BOTH)
EVENT(guest_writes, IN_BOTH) EVENT(guest_to_shared, IN_BOTH)
EVENT(guest_to_private, IN_BOTH) EVENT(guest_conversion_of_mixed, IN_BOTH)
EVENT(guest_conversion_of_nothing, IN_BOTH) EVENT(guest_conversion_gave_up, IN_NONE)
EVENT(guest_holes, IN_BOTH) EVENT(guest_reads_hosts_data, IN_BOTH)
EVENT(guest_reads_it_in_private, IN_BOTH) EVENT(guest_loses_the_file, IN_BOTH)
EVENT(host_found_pages_busy, IN_BOTH) EVENT(host_writes, IN_BOTH)
EVENT(host_reads_guests_data, IN_BOTH) EVENT(host_reads_once_private_data, IN_BOTH)
EVENT(host_sigbus_for_private, IN_BOTH) EVENT(host_efault_for_private, IN_BOTH)
EVENT(host_syscall_on_shared, IN_BOTH) EVENT(host_to_shared, IN_BOTH)
EVENT(host_to_private, IN_BOTH) EVENT(host_conversion_of_mixed, IN_BOTH)
EVENT(host_conversion_of_nothing, IN_BOTH) EVENT(host_conversion_gave_up, IN_NONE)
EVENT(host_holes, IN_BOTH) EVENT(host_allocations, IN_BOTH)
EVENT(unit_stays_busy, IN_NONE) EVENT(pinned_page_stays_shared, IN_BOTH)
EVENT(pinned_page_punched, IN_SMALL) EVENT(pinned_page_zeroed, IN_HUGE)
EVENT(pinned_page_of_lost_unit, IN_HUGE) EVENT(pinned_page_of_closed_file, IN_BOTH)
EVENT(pinned_page_then_private, IN_BOTH) EVENT(children, IN_BOTH)
EVENT(child_conversions, IN_BOTH) EVENT(peek_shared, IN_BOTH) EVENT(peek_sigbus, IN_BOTH)
EVENT(pin_vmsplice, IN_BOTH) EVENT(pin_vmsplice_refused, IN_BOTH)
EVENT(pin_longterm, IN_BOTH) EVENT(pin_longterm_refused, IN_BOTH) EVENT(mappings, IN_BOTH)
EVENT(madvise_dontneed, IN_BOTH) EVENT(slot_moves, IN_BOTH)
EVENT(poison_in_private, IN_POISONED) EVENT(poison_in_shared, IN_POISONED)
EVENT(poison_in_whole, IN_POISONED) EVENT(poison_found_by_guest, IN_POISONED)
EVENT(poison_found_by_host, IN_POISONED) EVENT(poison_punched, IN_POISONED)
EVENT(poison_closed, IN_POISONED) EVENT(walks, IN_WALKED) EVENT(compactions, IN_WALKED)
EVENT(searches_for_contiguous_memory, IN_WALKED_2M) EVENT(retry_eagain, IN_BOTH)
EVENT(retry_enospc, IN_NONE) EVENT(retry_memory_fault, IN_NONE)
#undef EVENT
#endif

/*
 * Operations.  Conversions are in the order of count_conversion(): a page, a range,
 * all of a huge page.
 */
#ifdef OP
OP(to_private_page) OP(to_private_range) OP(to_private_unit) OP(to_shared_page)
OP(to_shared_range) OP(to_shared_unit) OP(punch_part) OP(punch_unit) OP(fallocate)
OP(host_touch) OP(host_mmap_touch) OP(guest_access) OP(pin) OP(unpin) OP(close)
#undef OP
#endif

/* States.  A huge page is in exactly one of the first three, and in any of the others. */
#ifdef STATE
STATE(whole_private) STATE(whole_shared) STATE(mixed) STATE(hole) STATE(isolated)
STATE(pinned) STATE(poisoned)
#undef STATE
#endif
