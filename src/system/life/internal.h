/* What the files of a container's life share. */
#ifndef SYSTEM_LIFE_INTERNAL_H
#define SYSTEM_LIFE_INTERNAL_H

#include "container/runtime/loaded.h"
#include "system/layers/layers.h"
#include "system/life/document.h"
#include "system/life/life.h"
#include "system/template/template.h"

/* The lock of a container, which has to be there and goes on if it was left standing still, against other processes that
 * change it, or of all ("") against those that make new ones; a descriptor to be closed. Who has a container's may wait
 * for that of all, not the other way round. */
int life_lock(const struct life *life, const char *name, struct error *err);
/* Does not wait: -EBUSY. */
int life_try_lock(const struct life *life, const char *name, struct error *err);
/* A connection to the keeper that ends with the container; -ENOENT where there is none. 'kind': KEEPER_WATCH, KEEPER_ATTACH. */
int life_connect(const struct life *life, const char *name, char kind, struct error *err);

/* With the container's lock: one that is up stands still, until life_still_end. 'out_disk' is where its disk is mounted, for
 * layers_image_copy; "" if it has none, or is not up. */
int must_check life_still_begin(const struct life *life, const struct config *config,
                                char out_disk[PATH_MAX], struct error *err);
/* The container is about to stand still by SIGSTOP, for a checkpoint: what ends that is life_still_end, or its end. */
int must_check life_still_note(const struct life *life, const char *name, struct error *err);
/* Also of one that a process which is no more has left so; one that does not stand still is fine. */
int must_check life_still_end(const struct life *life, const char *name, struct error *err);

/* life_start_begin by somebody who has the container's lock; 'images' is criu's folder to restore from, or NULL. */
int must_check life_start_locked(const struct life *life, const char *name, const char *images,
                                 struct life_start *out_start, struct error *err);
/* Its files are not those of the checkpoint any more. */
void life_forget_checkpoint(const struct life *life, const char *name);

/* The layers that a configuration stands on, for reading; 'storage' holds the strings. */
int must_check life_layers(const struct life *life, const struct config *config,
                           struct template_layers *out_layers, struct error *err);

/* life_create with private files that are another's, and were 'ids' there. */
struct life_source {
    const char *files; /* upper/ or disk.img */
    const char *disk;  /* of life_still_begin */
    struct layers_ids ids;
};
int must_check life_create_copy(struct life_index *index, const char *name, json_t *document,
                                const struct life_source *source, struct error *err);

/* -EADDRINUSE if another container has one of the configuration's addresses. */
int must_check life_index_check(const struct life_index *index, const char *name,
                                const struct config *config, struct error *err);
const struct life *life_index_life(const struct life_index *index);
/* A free range of ids. */
int must_check life_index_ids(const struct life_index *index, uint32_t *out_first,
                              uint32_t *out_count, struct error *err);
/* What a container that is being made has taken. */
int must_check life_index_add(struct life_index *index, const char *name,
                              const struct config *config, struct error *err);
/* The digest and name of a template, verified. */
int must_check life_index_template(struct life_index *index, const char *wanted,
                                   const struct template_layers **out_layers, struct error *err);

/* life_status, and what the runtime knows: 'out_loaded' is loaded_close's, if not stopped. */
enum life_status life_look(const struct life *life, const char *name, struct loaded *out_loaded,
                           bool *out_is_loaded);
/* What it uses at the moment: memory_used_bytes, cpu_ns, processes. And life_info's "limits_hit". */
void life_add_usage(const struct loaded *loaded, json_t *info);
json_t *life_count(const struct loaded *loaded);
/* The same for a container that no control group counts, by its first process: a look at all processes of the host. */
void life_add_processes(pid_t init, json_t *info);
/* Of an ordinary user's container: what he can never have, and whether what the runtime could not give ("degraded" of its state) are
 * limits that were asked for. Where none are and none were, nothing needs to be applied. */
int must_check users_check(const struct config *config, struct error *err);
int must_check users_check_limits(const struct config *config, const json_t *degraded,
                                  struct error *err);
/* Of a container without a control group: its bundle gets an init that needs none, and what it has to do without is noted in its
 * state's "degraded", in words for people ("system.control_group", "system.init"). */
int must_check users_take_plain_init(const char *bundle, struct error *err);
void users_tell_lack(json_t *state, bool has_plain_init);
bool users_may_skip_limits(const struct config *before, const struct config *after);

/* Applies limits to a running container. */
int must_check life_apply(const struct life *life, const struct config *config, struct error *err);

#endif
