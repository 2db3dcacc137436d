/* Where the manager's things lie: for the host's root, or for an ordinary user. See README.md. */
#ifndef MANAGER_PLACE_H
#define MANAGER_PLACE_H

#include <limits.h>
#include <stdbool.h>

#include "base/core/error.h"

#define PLACE_MAX_PATH 1024

struct place {
    char state[PLACE_MAX_PATH]; /* absolute */
    char run[PLACE_MAX_PATH];
    char cache[PLACE_MAX_PATH]; /* what can be had again */
    bool is_root;               /* the manager's user is root */
    bool
        has_owners; /* this process may give files to others: root, or a user's worker in his namespace */
};

/* Finds the folders, and makes those that are missing for their owner alone. 'state' NULL: the default, also $HULL_STATE; with another one RUN is
 * STATE/run, as in system/store.h. Errors: -EACCES; -ENAMETOOLONG. */
int must_check place_open(const char *state, struct place *out_place, struct error *err);
/* Only finds them. For clients: where a manager's socket would be ($HULL_SOCKET, the user's, the host's). */
int must_check place_find_socket(char out_path[PLACE_MAX_PATH], struct error *err);

/* "STATE/AREA/NAME/FILE"; 'name' and 'file' may be NULL. -ENAMETOOLONG does not happen with checked names. */
void place_state_path(const struct place *place, const char *area, const char *name,
                      const char *file, char out_path[PATH_MAX]);
void place_run_path(const struct place *place, const char *area, const char *name, const char *file,
                    char out_path[PATH_MAX]);

/* Names of instances are host names: letters, digits and "-", at most 63, neither at an end. Of all else: store_check_name of system/store.h.
 * Errors: -EINVAL in words. */
int must_check place_check_instance_name(const char *name, struct error *err);

#endif
