/* Locks hull-net-user in before the first frame of the guest is looked at. libslirp parses what an enemy sends, so the process
 * keeps nothing but the host's network: making sockets is its work. */
#ifndef NET_USER_JAIL_H
#define NET_USER_JAIL_H

#include <stdbool.h>

#include "base/core/error.h"

/* Own namespaces (all but network), an empty root that holds only etc/resolv.conf (that of 'dns' if not NULL), no privileges, a
 * filter of system calls. What the kernel does not allow an ordinary user is left out with a line in the log, except with 'dns',
 * which needs the root. Failure leaves the process half locked: end it. 'is_switch': it takes taps, too. */
int must_check jail_enter(const char *dns, bool is_switch, bool outlives_parent, struct error *err);

#endif
