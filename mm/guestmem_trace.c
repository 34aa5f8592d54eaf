// SPDX-License-Identifier: GPL-2.0
/* The tracepoints of guest memory. */
#define CREATE_TRACE_POINTS
#include <trace/events/guestmem.h>
