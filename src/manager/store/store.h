/* The manager's database: JSON documents by kind and name, in SQLite (WAL). Only hulld opens it.
 *
 * Kinds: "instance", "image", "alias", "network", "pool", "volume", "profile", "operation", "schedule", "setting". A document
 * always has a member "name".
 * Names of volumes are POOL/NAME.
 *
 * Threads: none. */
#ifndef MANAGER_STORE_STORE_H
#define MANAGER_STORE_STORE_H

#include <jansson.h>
#include <stdbool.h>

#include "base/core/error.h"

#define STORE_SCHEMA_VERSION 1 /* PRAGMA user_version */

struct documents;

/* Makes it where it is missing, and changes an older one in one transaction. A newer schema is -EPROTO in words, and nothing is
 * touched. One that is damaged (PRAGMA quick_check) is renamed to PATH.corrupt-TIME, told in 'out_was_corrupt' (may be NULL),
 * and made anew, empty. */
int must_check documents_open(const char *path, struct documents **out_documents,
                              bool *out_was_corrupt, struct error *err);
/* For a worker, beside the hulld that has it: nothing can be changed. Errors: -EPROTO: another schema. */
int must_check documents_open_read(const char *path, struct documents **out_documents,
                                   struct error *err);
void documents_close(struct documents *documents); /* NULL is fine */

/* A new reference. -ENOENT: "instance web1: there is none", with the nearest names that there are. */
int must_check documents_get(struct documents *documents, const char *kind, const char *name,
                             json_t **out_document, struct error *err);
bool documents_has(struct documents *documents, const char *kind, const char *name);
/* All of a kind, by name: a new array. */
int must_check documents_list(struct documents *documents, const char *kind, json_t **out_list,
                              struct error *err);
/* Makes or replaces. Borrows the document. */
int must_check documents_put(struct documents *documents, const char *kind, const char *name,
                             const json_t *document, struct error *err);
int must_check documents_delete(struct documents *documents, const char *kind, const char *name,
                                struct error *err);

/* Several changes as one: all durable (synchronous=FULL) or none. They do not nest. */
int must_check documents_begin(struct documents *documents, struct error *err);
int must_check documents_commit(struct documents *documents, struct error *err);
void documents_rollback(struct documents *documents);

#endif
