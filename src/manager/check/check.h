/* Whether what the manager knows is what there is: `hull system check`, and what takes how much space.
 *
 * Jobs (check_jobs): system-check {repair: bool} -> {"problems":[{"about":"instance web1","what":...,"repaired":bool}]}, system-df {} -> sizes by what they are for.
 * They read the database by themselves, while no other operation runs.
 *
 * Threads: none. */
#ifndef MANAGER_CHECK_CHECK_H
#define MANAGER_CHECK_CHECK_H

#include <jansson.h>
#include <stdbool.h>

#include "manager/operation/job.h"
#include "manager/store/store.h"

/* What one check works on. */
struct check {
    struct job *job;
    struct documents *documents;
    json_t *problems; /* array */
    bool repairs;
};

/* Adds a problem. */
void check_found(struct check *check, bool is_repaired, const char *kind, const char *name,
                 const char *what);

int must_check check_instances(struct check *check, struct error *err);
int must_check check_images(struct check *check, struct error *err);
/* What `system` left: of containers without instances, too. */
int must_check check_containers(struct check *check, struct error *err);

/* The bytes that the files below a folder occupy, files with several names once. A folder that is not there has 0. */
int must_check check_space(const char *path, uint64_t *out_bytes, struct error *err);

#endif
