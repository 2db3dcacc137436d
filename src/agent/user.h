/* Users and groups as /etc/passwd and /etc/group have them: a static program has no other sources. */
#ifndef AGENT_USER_H
#define AGENT_USER_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "base/core/error.h"

#define USER_MAX_GROUPS 256

struct user {
    uid_t uid;
    gid_t gid;
    gid_t groups[USER_MAX_GROUPS];
    size_t group_count;
    char name[256], home[1024], shell[1024];
};

/* "NAME", "UID", each perhaps with ":GROUP" or ":GID". A number needs no entry: the home is "/" then. 'passwd' and 'group'
 * (NULL: there is none) are read from their start. Errors: -ENOENT, -EINVAL. */
int must_check user_find_in(FILE *passwd, FILE *group, const char *wanted, struct user *out_user,
                            struct error *err);
/* The same with this system's files. */
int must_check user_find(const char *wanted, struct user *out_user, struct error *err);

#endif
