/* The program hull-oci-systemd, which has libsystemd so that hull-oci need not: one request on standard input, one answer on
 * standard output, both JSON.
 *
 * Request: "verb" (start, update, stop), "unit", "user" (whose systemd), "properties" [[NAME, TYPE, VALUE, VERSION]...]: those
 * that are younger than the systemd that runs are left out. Answer: {} or {"group": PATH} or {"error": TEXT, "errno": N}. */
#ifndef CONTAINER_SYSTEMD_SYSTEMD_H
#define CONTAINER_SYSTEMD_SYSTEMD_H

#include <jansson.h>
#include <stdbool.h>
#include <systemd/sd-bus.h>

#include "base/core/compiler.h"
#include "base/core/error.h"

int systemd_main(void);

/* Appends a(sv). -EINVAL with the property's name for what has another type than it says. */
int must_check properties_append(sd_bus_message *message, const json_t *properties, int version,
                                 struct error *err);

#endif
