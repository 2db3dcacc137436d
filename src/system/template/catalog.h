/* Which templates there are, what they are called, and who needs them. */
#ifndef SYSTEM_TEMPLATE_CATALOG_H
#define SYSTEM_TEMPLATE_CATALOG_H

#include <jansson.h>
#include <stdbool.h>

#include "base/core/error.h"
#include "system/template/manifest.h"

/* A new list of the digests of all finished templates, sorted. */
int must_check catalog_digests(const struct store *store, json_t **out_list, struct error *err);
/* A new object {NAME: digest}, of names whose template is there. */
int must_check catalog_names(const struct store *store, json_t **out_names, struct error *err);
/* The first name of 'names' that means the digest, or NULL. */
const char *catalog_name_of(const json_t *names, const char *digest);
/* The digest that a name, a digest or the beginning of one means; 'out_is_name' may be NULL. */
int must_check template_find(const struct store *store, const char *word,
                            char out_digest[TEMPLATE_DIGEST_SIZE], bool *out_is_name,
                            struct error *err);
/* A new list of "container NAME" and "template NAME" (the digest where it has no name): who says in its configuration or
 * manifest that it needs the template. A configuration that holds the digest anywhere counts, readable or not. */
int must_check catalog_users(const struct store *store, const char *digest, const json_t *names,
                             json_t **out_users, struct error *err);
/* Lets a name mean a digest, whatever it meant before. */
int must_check catalog_set_name(const struct store *store, const char *name, const char *digest,
                                struct error *err);

/* Opens the template's folder and holds it against removal (a shared flock). -ENOENT: it is gone. */
int must_check catalog_hold(const struct store *store, const char *digest, int *out_fd,
                            struct error *err);

#endif
