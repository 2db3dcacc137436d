/* Names of images: digests, aliases, distributions. */
#ifndef MANAGER_IMAGE_NAMES_H
#define MANAGER_IMAGE_NAMES_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/core/error.h"

#define IMAGE_ALIAS_SIZE 129

/* "sha256-" and 64 digits? */
bool image_is_digest(const char *text);
/* Words of letters, digits, "-", "_" and ".", divided by "/": "debian/12/web". They do not begin with a dot or "-", nor all of
 * it with "sha256-". Errors: -EINVAL in words. */
int must_check image_check_alias(const char *alias, struct error *err);
/* The name of the template that holds a digest's files against `hull ct template`'s sweeps. */
void image_template_name(const char *digest, char out_name[65]);

/* The one of 'images' (documents) that has the alias, the digest, or the beginning of a digest. Borrowed from 'images'. */
int must_check image_pick(const json_t *images, const json_t *aliases, const char *name,
                          const json_t **out_image, struct error *err);

struct distribution {
    const char *name;  /* "debian/12" */
    const char *suite; /* "bookworm" */
    const char *id, *version;
    const char *keyring, *keyring_package; /* where the host has no sources of the suite */
    const char *packages;                  /* beside the variant's, divided by blanks */
};
/* By name, or its suite. -EINVAL with those that there are. */
int must_check distribution_find(const char *name, const struct distribution **out_distribution,
                                 struct error *err);

/* The names of those that use an image, for an error: as many as there is room for. 'users': array of texts. */
#define IMAGE_USERS_SIZE 140
void image_list_users(const json_t *users, char out_list[IMAGE_USERS_SIZE]);

#endif
