/* Templates, in hulld: aliases of images that say what is launched with them.
 *
 * An alias's document (kind "alias") that is one has "template" {kind, from, profiles, config, devices, description,
 * created_at}. */
#ifndef MANAGER_TRANSFER_TEMPLATES_H
#define MANAGER_TRANSFER_TEMPLATES_H

#include <jansson.h>

#include "base/core/error.h"
#include "manager/store/store.h"

/* What is asked for with an image of that name: 'body', and below it what its template says. A new reference. */
int must_check template_apply(struct documents *documents, const char *image, const json_t *body,
                              json_t **out_body, struct error *err);

#endif
