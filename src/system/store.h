/* Where system containers and templates are kept.
 *
 *   STATE/containers/NAME/         a container: config.yaml, upper/ and work/ (or disk.img), snapshots/, console.log
 *   STATE/templates/sha256-DIGEST/ a template: manifest.json, root/ (its layer)
 *   STATE/templates/names/NAME     a link to the one that the name means
 *   RUN/oci/                       the runtime's root (container/runtime), with one folder for each that is started
 *   RUN/keeper/NAME/               the keeper's: keeper.sock, lock
 *   RUN/root/                      where keepers mount root file systems, each in its own mount namespace
 *
 * RUN is /run/hull/ct for the default STATE, else STATE/run, or what the caller says. */
#ifndef SYSTEM_STORE_H
#define SYSTEM_STORE_H

#include <limits.h>

#include "base/core/error.h"

#define STORE_DEFAULT_STATE "/var/lib/hull"
#define STORE_DEFAULT_RUN   "/run/hull/ct"
/* Of both folders, so that all names below them fit into PATH_MAX. */
#define STORE_MAX_PATH 1024

struct store {
    char state[STORE_MAX_PATH]; /* absolute */
    char run[STORE_MAX_PATH];
};

/* Finds the folders and makes those that are missing, for their owner alone. 'state', 'run' NULL: the default.
 * Errors: -ENAMETOOLONG, -EACCES, or what making them says. */
int must_check store_open(const char *state, const char *run, struct store *out_store,
                          struct error *err);

/* "STATE/containers/NAME/FILE" and the like: 'file' NULL leaves it away. The result always fits: names are at most 64
 * characters. */
void store_container_path(const struct store *store, const char *name, const char *file,
                          char out_path[PATH_MAX]);
void store_keeper_path(const struct store *store, const char *name, const char *file,
                       char out_path[PATH_MAX]);
/* How it ended by itself, a line of its keeper's: "exit N" or "signal N". None: it was stopped, or has not ended yet. */
void store_ended_path(const struct store *store, const char *name, char out_path[PATH_MAX]);
void store_template_path(const struct store *store, const char *digest, const char *file,
                         char out_path[PATH_MAX]);

/* Names of containers, templates, snapshots and pools: a letter or digit, then letters, digits, "-", "_" and ".", at most 64.
 * 'what' is for the error: "container". */
int must_check store_check_name(const char *what, const char *name, struct error *err);

#endif
