/* Parts of `hull ctl`. */
#ifndef CLI_CTL_H
#define CLI_CTL_H

#include <stdbool.h>

#include "cli/output.h"
#include "control/client.h"

/* The request for a verb and its words KEY=VALUE; owned by the caller. */
int must_check ctl_request_make(const char *verb, int count, char **words, json_t **out_request,
                                struct error *err);

/* Carries out a save request: "file" names the target. Returns an exit status. */
int ctl_save(struct control_client *client, json_t *request, enum output_format format);

/* Disks and cards that come and go. The file or network is opened here. */
int ctl_plug(struct control_client *client, const json_t *request, enum output_format format);
int ctl_unplug(struct control_client *client, json_t *request, enum output_format format);

/* The verbs that need a file, which is made or opened here, as the VM's process can open none. */
bool ctl_disk_has(const char *verb, const json_t *request);
int ctl_disk(struct control_client *client, const char *verb, json_t *request,
             enum output_format format);

/* wait=true: is it in the request? It is the client's own, so it goes out of it. */
bool ctl_job_take_wait(json_t *request);
/* Before the job is started. */
int must_check ctl_job_follow(struct control_client *client, struct error *err);
/* Until the job that 'started' tells of is ready or has ended; then shows it. An error if it has not ended well. */
int must_check ctl_job_await(struct control_client *client, json_t *started,
                             enum output_format format, struct error *err);

#endif
