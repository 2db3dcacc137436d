/* Parts of `hull ctl`. */
#ifndef CLI_CTL_H
#define CLI_CTL_H

#include "cli/control_client.h"
#include "cli/output.h"

/* The request for a verb and its words KEY=VALUE; owned by the caller. */
int must_check ctl_request_make(const char *verb, int count, char **words, json_t **out_request,
                                struct error *err);

/* Carries out a save request: "file" names the target. Returns an exit status. */
int ctl_save(struct control_client *client, json_t *request, enum output_format format);

#endif
