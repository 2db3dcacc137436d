/* Network devices of the host that become the container's (config-linux.md, Network Devices). */
#ifndef CONTAINER_RUNTIME_NET_DEVICES_H
#define CONTAINER_RUNTIME_NET_DEVICES_H

#include <sys/types.h>

#include "container/spec/spec.h"

/* In the runtime: moves them into the network namespace of 'container', with their new names and permanent global addresses, and sets them up.
 * The caller has one thread. Errors name the device; those that have been moved before stay there, and are the host's again (virtual
 * ones are gone) when the namespace ends. */
int must_check net_devices_move(const struct spec_linux *linux_, pid_t container,
                                struct error *err);

#endif
