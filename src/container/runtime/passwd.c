/* Users in /etc/passwd. */
#include "container/runtime/passwd.h"

#include <stdio.h>

const struct passwd *passwd_find(uint32_t uid)
{
    FILE *file = fopen("/etc/passwd", "re");
    struct passwd *entry = NULL;
    while (file != NULL && (entry = fgetpwent(file)) != NULL && entry->pw_uid != uid) {
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return entry;
}
