/* Instances as files, and as images of their own.
 *
 * Jobs (transfer_jobs) and their requests; each also has "profiles", "networks" and "pools", as those of instance.h:
 *   instance-export   {name, document, snapshots: bool, compress: zstd|none}: streams an archive (bundle.h)
 *   instance-import   {name, keep_identity, as_new, trusted, network, pool, chosen_profiles,
 *                     known: [digests of all images]}: takes one
 *   template-create   {name, document, template: ALIAS, description, live: bool}
 *   template-delete   {template: ALIAS, digest, with_image: bool}
 *
 * The bytes go over stream.h. What an import takes lies in STATE/transfers/ID until all of it is there and checked; likewise
 * what an export packs.
 *
 * Threads: none. */
#ifndef MANAGER_TRANSFER_TRANSFER_H
#define MANAGER_TRANSFER_TRANSFER_H

#include <jansson.h>
#include <limits.h>

#include "base/core/error.h"
#include "manager/instance/work.h"
#include "manager/transfer/bundle.h"

#define TRANSFER_BASE          "base.tar"
#define TRANSFER_KERNEL        "boot/vmlinuz"
#define TRANSFER_INITRD        "boot/initrd"
#define TRANSFER_MAX_STATES    1001 /* snapshots, and what it is now */
#define TRANSFER_FORMAT_MEMORY 2    /* of a header that has memory */

int transfer_export(struct job *job, json_t **out_result, struct error *err);
int transfer_export_recover(struct job *job, json_t **out_result, struct error *err);
int transfer_import(struct job *job, json_t **out_result, struct error *err);
int transfer_import_recover(struct job *job, json_t **out_result, struct error *err);
int transfer_template(struct job *job, json_t **out_result, struct error *err);
int transfer_template_recover(struct job *job, json_t **out_result, struct error *err);
int transfer_template_delete(struct job *job, json_t **out_result, struct error *err);

/* parts.c: STATE/transfers/ID, empty: what an earlier worker left there is gone. */
int must_check transfer_folder_make(struct job *job, char out_folder[PATH_MAX], struct error *err);
void transfer_folder_remove(const struct job *job);
/* "FOLDER/NAME" */
void transfer_path(const char *folder, const char *name, char out_path[PATH_MAX]);
/* "states/3.tar", "disks/root/3.raw" */
void transfer_state_name(size_t state, char out_name[BUNDLE_NAME_SIZE]);
int must_check transfer_disk_name(const char *device, size_t state, char out_name[BUNDLE_NAME_SIZE],
                                  struct error *err);
void transfer_memory_name(size_t state, char out_name[BUNDLE_NAME_SIZE]); /* "memory/3.save" */
int transfer_poll(void *job); /* not 0: it was cancelled */

/* What an instance is at one moment, out of itself, while that is not running: the one that an export makes if it runs, so that
 * the rest of the job has time. */
struct transfer_moment {
    char snapshot[64]; /* "": as it is, and it is stopped */
};
int must_check transfer_moment_begin(struct work *work, struct transfer_moment *out_moment,
                                     struct error *err);
void transfer_moment_end(struct work *work, const struct transfer_moment *moment);
/* For a worker that has died with one. */
void transfer_moment_recover(struct job *job);

/* container.c: the files of a container into the archive. 'states' are the header's. */
int must_check container_prepare(struct work *work, const char *folder,
                                 const struct transfer_moment *moment, json_t *header,
                                 struct error *err);
int must_check container_send(struct work *work, const char *folder, const json_t *header,
                              struct bundle_writer *writer, struct error *err);
/* All of it as one archive of tar, as its programs see it, without what is that machine's alone. */
int must_check container_pack(struct work *work, const char *folder,
                              const struct transfer_moment *moment, const char *path,
                              struct error *err);
/* What came, in the folder, by the names of members; a sparse file is one there, too. */
struct transfer_files {
    const char *folder;
    struct transfer_file {
        char name[BUNDLE_NAME_SIZE];
        struct bundle_map map; /* of a sparse one */
        bool is_sparse;
    } * list;
    size_t count;
};
const struct transfer_file *transfer_find(const struct transfer_files *files, const char *name);

/* Of an import: one that was here before. */
bool transfer_knows_image(const struct job *job, const char *digest);
/* The container of work->document, whose image is the one that came where this host does not have it: then it is put, and
 * work->document names it. */
int must_check container_receive_image(struct work *work, const struct transfer_files *files,
                                       const json_t *header, bool *out_is_made, struct error *err);
int must_check container_receive(struct work *work, const struct transfer_files *files,
                                 const json_t *header, struct error *err);

/* disks.c: the same for VMs. */
int must_check vm_prepare(struct work *work, const char *folder,
                          const struct transfer_moment *moment, json_t *header, struct error *err);
int must_check vm_send(struct work *work, const struct transfer_moment *moment,
                       const json_t *header, struct bundle_writer *writer, struct error *err);
void vm_send_recover(struct job *job);
int must_check vm_read_boot(struct work *work, json_t **out_boot, struct error *err);
/* The root disk as it is at the moment, as one file. */
int must_check vm_pack(struct work *work, const struct transfer_moment *moment, const char *path,
                       struct error *err);
int must_check vm_receive(struct work *work, const struct transfer_files *files,
                          const json_t *header, struct error *err);

/* memory.c: the memory of a VM's snapshots. Says in 'header' which have one. */
int must_check vm_prepare_memory(struct work *work, json_t *header, struct error *err);
int must_check vm_send_memory(struct work *work, const json_t *header, struct bundle_writer *writer,
                              struct error *err);
/* Once the snapshots' folders are there. What becomes another machine (as_new) gets none. */
int must_check vm_receive_memory(struct work *work, const struct transfer_files *files,
                                 const json_t *header, struct error *err);

#endif
