/* A job on one instance. */
#ifndef MANAGER_INSTANCE_WORK_H
#define MANAGER_INSTANCE_WORK_H

#include "manager/instance/instance.h"

struct work {
    struct job *job;
    const char *name;
    json_t *document, *expanded; /* its own references */
    const struct instance_driver *driver;
};

/* The instance that the request names. work_close when done. */
int must_check work_open(struct job *job, struct work *out_work, struct error *err);
void work_close(struct work *work);
/* Anew, after a change of the document. */
int must_check work_expand(struct work *work, struct error *err);
/* MACs for cards that have none; not published. */
int must_check work_add_macs(struct work *work, struct error *err);
/* The document to its file and to hulld. */
int must_check work_publish(struct work *work, struct error *err);
/* It is no more incomplete. */
int must_check work_complete(struct work *work, struct error *err);
/* What has been made of an instance goes again. Where it cannot, it stays known as incomplete. */
void work_undo(struct work *work);

enum instance_status work_status(const struct work *work);
void work_event(const struct work *work, const char *what);
json_t *work_result(const struct work *work); /* {name, status} */

/* What a dead worker has made under a name: it is completed if its files were, else removed (-ECANCELED). */
int must_check work_recover_made(struct job *job, const char *name, json_t **out_result,
                                 struct error *err);

/* Jobs, change.c and snapshot.c. */
int work_change(struct job *job, json_t **out_result, struct error *err);
int work_snapshot(struct job *job, json_t **out_result, struct error *err);
int work_clone(struct job *job, json_t **out_result, struct error *err);
int work_clone_recover(struct job *job, json_t **out_result, struct error *err);

#endif
