/* What the files of a container's life share. */
#ifndef SYSTEM_LIFE_INTERNAL_H
#define SYSTEM_LIFE_INTERNAL_H

#include "system/layers/layers.h"
#include "system/life/document.h"
#include "system/life/life.h"
#include "system/template/template.h"

/* The lock of a container, which has to be there, against other processes that change it, or of all ("") against those that
 * make new ones; a descriptor to be closed. Who has a container's may wait for that of all, not the other way round. */
int life_lock(const struct life *life, const char *name, struct error *err);
/* Does not wait: -EBUSY. */
int life_try_lock(const struct life *life, const char *name, struct error *err);
/* A connection to the keeper that ends with the container; -ENOENT where there is none. 'kind': KEEPER_WATCH, KEEPER_ATTACH. */
int life_connect(const struct life *life, const char *name, char kind, struct error *err);

/* The layers that a configuration stands on, for reading; 'storage' holds the strings. */
int must_check life_layers(const struct life *life, const struct config *config,
                           struct template_layers *out_layers, struct error *err);

/* life_create with private files that are another's, and were 'ids' there. */
struct life_source {
    const char *files; /* upper/ or disk.img */
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

/* Of an ordinary user's container: what he can never have, and whether what the runtime could not give ("degraded" of its state) are
 * limits that were asked for. Where none are and none were, nothing needs to be applied. */
int must_check users_check(const struct config *config, struct error *err);
int must_check users_check_limits(const struct config *config, const json_t *degraded,
                                  struct error *err);
bool users_may_skip_limits(const struct config *before, const struct config *after);

/* Applies limits to a running container. */
int must_check life_apply(const struct life *life, const struct config *config, struct error *err);

#endif
