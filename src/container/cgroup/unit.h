/* A container's unit of systemd: a transient scope, which is made, changed and stopped by the program hull-oci-systemd. */
#ifndef CONTAINER_CGROUP_UNIT_H
#define CONTAINER_CGROUP_UNIT_H

#include <jansson.h>

#include "container/cgroup/internal.h"

struct unit_name {
    char name[CGROUP_MAX_UNIT], slice[CGROUP_MAX_UNIT];
};

/* "SLICE:PREFIX:NAME", which is scope PREFIX-NAME.scope in SLICE. NULL and "": prefix hull-oci, the container's id, and with an
 * empty SLICE system.slice, or user.slice for a user's systemd. Errors: -EINVAL. */
int must_check unit_name_parse(const char *path, const char *id, bool is_users,
                               struct unit_name *out_name, struct error *err);
/* Whether a name is one that systemd takes, with that end (".scope"). */
bool unit_name_is_valid(const char *name, const char *end);

/* Whether a caller, who is not the host's root, has a systemd of a user of its own. 'runtime_dir': of the caller's
 * environment. */
bool unit_is_users(bool is_rootless, bool is_root, const char *runtime_dir);

/* Limits as systemd's properties: a new list of [NAME, TYPE, VALUE, VERSION], with the type as D-Bus has it, a uint64 of
 * "infinity" as -1, and the systemd that has it first. 'v1_controllers': bits 1 << CGROUP_*, of those that v1 has. NULL: no
 * memory. */
json_t *unit_properties(const struct spec_resources *resources, uint32_t v1_controllers);
/* Adds the device rules: where v1 has the filter, systemd writes its own idea of it again. What it has no words for is not
 * allowed. */
void unit_properties_add_devices(json_t *properties, const struct spec_resources *resources);
/* Adds the annotations org.systemd.property.NAME, whose values are text as GVariant has it. */
int must_check unit_properties_annotate(json_t *properties, const struct spec_pairs *annotations,
                                        struct error *err);

/* systemd is there, and so is the program to speak with it. -EOPNOTSUPP, -ENOENT. */
int must_check unit_check(struct error *err);
/* Begins the scope with a process inside. 'has_v1_filter': v1 filters the devices. 'out_group': its control group as new
 * memory, without the leading '/'. */
int must_check unit_start(const struct cgroup *cgroup, const struct cgroup_request *request,
                          uint32_t v1_controllers, bool has_v1_filter, char **out_group,
                          struct error *err);
int must_check unit_update(const struct cgroup *cgroup, const struct spec_resources *resources,
                           struct error *err);
/* Also of one that has ended already. Where nobody is to be asked (any more) there is nothing to be stopped. */
int must_check unit_stop(const struct cgroup *cgroup, struct error *err);

#endif
