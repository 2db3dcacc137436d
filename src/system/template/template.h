/* Templates: root file systems built once, from which containers are made.
 *
 * A template is a layer (a folder of files, owned by ids as a container sees them), perhaps on the layers of another template.
 * Its name on disk is the digest of its content: SHA-256 over its manifest, which has the digest of its tree and of what it
 * stands on. Names for people are links to digests, and may be moved to a newer build: containers keep the digest until they
 * are told to upgrade.
 *
 * The tree's digest: SHA-256 over all entries in the order of their paths: type, mode, uid, gid, device number, size,
 * modification time (s), link target, extended attributes, and the content's SHA-256; so it does not depend on the host. Beside
 * it the manifest has a quick digest over what changes whenever somebody writes to the tree (inode, ctime, size of all
 * entries): that one is compared on each use, the full one by template_check.
 *
 * Threads: none. */
#ifndef SYSTEM_TEMPLATE_TEMPLATE_H
#define SYSTEM_TEMPLATE_TEMPLATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/core/error.h"
#include "system/layers/layers.h"
#include "system/store.h"

#define TEMPLATE_DIGEST_SIZE 72 /* "sha256-" and 64 hexadecimal digits, and NUL */

struct template_build {
    const char *name; /* gets to mean the new one */
    /* A fresh root by mmdebstrap: "minimal" (what a container with systemd, its network and apt needs), "standard" (and what an
     * administrator expects: ssh server, editors, cron, logs ...), "web" (standard and nginx), "busybox" (busybox-static alone:
     * no distribution). NULL with 'from'. */
    const char *variant;
    const char *suite; /* Debian's: "bookworm"; NULL: the host's */
    const char *
        from; /* name or digest of the template that this one is a layer on (an application template); NULL: none */
    const char *const *packages; /* more of Debian's, NULL at the end; may be NULL */
    const char *const
        *files;      /* "FILE:/PATH" copied in (folders too), NULL at the end; may be NULL */
    const char *run; /* a command for sh, run in it as root at the end; NULL: none */
    const char *
        root_tree; /* an existing folder or tar file taken as the content instead of a variant; NULL: none */
    /* Called now and then with what is being done and parts of 100, -1: unknown; may be NULL. Not 0 cancels: -ECANCELED. */
    int (*progress)(void *ctx, const char *what, int percent);
    void *ctx;
};

/* Builds it beside the others and renames it into place; a failure or a kill leaves nothing that has a name (what is left is
 * found by template_sweep). The packages' sources are those of the host's apt. 'out_digest' is the new one's; the same content
 * as one that is there is that one. Errors name the program that is missing (mmdebstrap) or what it said last. */
int must_check template_build(const struct store *store, const struct template_build *request,
                              char out_digest[TEMPLATE_DIGEST_SIZE], struct error *err);

/* A template ready for use: its layers' folders, the uppermost first. */
struct template_layers {
    char digest[TEMPLATE_DIGEST_SIZE];
    char name[72]; /* by which it was found; "" for a digest */
    char *path[LAYERS_MAX];
    size_t count;
    int lock_fd; /* holds them against template_delete and template_sweep until template_close */
};
/* By name, digest, or the beginning of a digest that fits one alone. With 'is_verified' the quick digests of all layers are
 * compared. Errors: -ENOENT with the names that there are and how to build one, -EBADMSG: its files were changed. */
int must_check template_open(const struct store *store, const char *name, bool is_verified,
                             struct template_layers *out_layers, struct error *err);
/* Close it when the new container's configuration, which names the digest, is written. One of zeros is fine. */
void template_close(struct template_layers *layers);

/* Compares the full digests. -EBADMSG names the first path that differs as far as it is known. */
int must_check template_check(const struct store *store, const char *name, struct error *err);

/* A list of objects {name, digest, variant, suite, from, packages: [..], size_bytes, files, created_at (RFC 3339), used_by:
 * [..]}: a new reference. 'used_by' are the containers whose configuration has the digest, and templates on it. */
int must_check template_list(const struct store *store, json_t **out_list, struct error *err);
/* Takes the name away, and the files when neither a name, a container nor a template needs them. Errors: -EBUSY naming who does
 * (with 'is_forced' the name goes all the same, and the files later). */
int must_check template_delete(const struct store *store, const char *name, bool is_forced,
                               struct error *err);
/* Removes half-built and half-removed templates of processes that are gone, and templates that nobody needs. 'out_count' may be
 * NULL. */
int must_check template_sweep(const struct store *store, unsigned *out_count, struct error *err);

#endif
