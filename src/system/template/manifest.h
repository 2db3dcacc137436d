/* What is known of one template, STATE/templates/DIGEST/manifest.json, and the lock of all of them. */
#ifndef SYSTEM_TEMPLATE_MANIFEST_H
#define SYSTEM_TEMPLATE_MANIFEST_H

#include <jansson.h>

#include "base/core/error.h"
#include "base/host/file.h"
#include "system/store.h"
#include "system/template/digest.h"
#include "system/template/template.h"

#define MANIFEST_PREFIX     "sha256-"
#define MANIFEST_UNFINISHED ".build-" /* folders of templates that are being built begin so */

struct manifest {
    json_t *
        document; /* {format, tree, below?, quick, variant, suite, from, packages, size_bytes, files, created_at} */
    const char *tree;  /* the document's */
    const char *below; /* digest of the template that this one is a layer on; NULL: none */
    const char *quick;
};

/* Reads it and checks that it is the one of this digest. Errors: -ENOENT, -EBADMSG. */
int must_check manifest_load(const struct store *store, const char *digest,
                             struct manifest *out_manifest, struct error *err);
void manifest_fini(struct manifest *manifest);
/* Writes the document to FOLDER/manifest.json, whole or not at all. */
int must_check manifest_save(const char *folder, json_t *document, struct error *err);
/* The digest that names a template: of its tree's and of what is below. */
void manifest_digest(const char *tree, const char *below, char out_digest[TEMPLATE_DIGEST_SIZE]);

/* "sha256-" and 64 digits? */
bool manifest_is_digest(const char *text);

/* Held while templates appear, get names and go; a flock(2) on STATE/templates, so it goes with the process. Waits. */
int must_check manifest_lock(const struct store *store, int *out_fd, struct error *err);

#endif
