/* Users as /etc/passwd of the caller's root has them: no other sources, for there may be none in a container. */
#ifndef CONTAINER_RUNTIME_PASSWD_H
#define CONTAINER_RUNTIME_PASSWD_H

#include <pwd.h>
#include <stdint.h>

/* NULL: there is none. Valid until the next call. */
const struct passwd *passwd_find(uint32_t uid);

#endif
