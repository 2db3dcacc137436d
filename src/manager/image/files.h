/* The files of an image's VM form, STATE/images/DIGEST, and what is known of them.
 *
 *   manifest.json   {format: 1, image: DIGEST, files: [{name, size, mtime_ns, sha256}], vm: as in the image's document}
 *   disk.qcow2, vmlinuz, initrd
 *
 * They are made in STATE/images/.build-ID (ID is the operation's) and renamed when they are whole and durable. */
#ifndef MANAGER_IMAGE_FILES_H
#define MANAGER_IMAGE_FILES_H

#include <jansson.h>
#include <limits.h>

#include "base/core/error.h"
#include "manager/operation/job.h"
#include "manager/place.h"

#define IMAGE_SHA256_SIZE 65

/* STATE/images/.build-ID, empty: what an earlier worker left there is gone. */
int must_check files_begin(struct job *job, char out_folder[PATH_MAX], struct error *err);
/* Removes the folder. For all ends but a good one. */
void files_abandon(const char *folder);
/* Reads the files that 'vm' names, and writes the manifest. 'digest' NULL: it is made of theirs and of how they boot. */
int must_check files_describe(struct job *job, const char *folder, const char *digest,
                              const json_t *vm, char out_digest[72], struct error *err);
/* Gives the folder its name. If a whole one has it already, that one stays. */
int must_check files_commit(const struct place *place, const char *folder, const char *digest,
                            struct error *err);

/* The member "vm" of the manifest, a new reference, when all files are there with their sizes and times. -ENOENT: there is no such
 * form; -EBADMSG: the files are others. */
int must_check files_open(const struct place *place, const char *digest, json_t **out_vm,
                          struct error *err);
/* Compares contents, too. */
int must_check files_check(struct job *job, const char *digest, struct error *err);
/* The manifest as text, checked: a new reference. For files_open, and for tests. */
int must_check files_parse(const char *text, const char *digest, json_t **out_manifest,
                           struct error *err);
/* Nothing there is fine. */
int must_check files_remove(const struct place *place, const char *digest, struct error *err);

/* The names of instances whose document names the digest: an array of texts, a new reference. */
int must_check files_users(const struct place *place, const char *digest, json_t **out_names,
                           struct error *err);

#endif
