/* A profile for who has none of his own: what containers with a whole system in them need, and not what only the host's administrator
 * does. It is an ordinary linux.seccomp, so that it can be written to a config.json, changed there and given to other runtimes.
 *
 * Calls that libseccomp knows are allowed, but for a list; those that it does not know yet are ENOSYS, as on an older kernel. */
#ifndef CONTAINER_SECCOMP_PROFILE_H
#define CONTAINER_SECCOMP_PROFILE_H

#include <jansson.h>
#include <stdbool.h>

struct seccomp_profile_options {
    bool may_nest; /* containers inside: bpf(2) for their devices, keyrings for their runtimes */
    /* Socket of an agent that answers sysinfo(2) (listenerPath). NULL: the kernel does. */
    const char *sysinfo_listener;
};

/* A new reference. NULL: memory is out. */
json_t *seccomp_default_profile(const struct seccomp_profile_options *options);

#endif
