/* A system container's life, as `hull ct` and the manager use it: everything but its running, which is the keeper's (keeper.h).
 *
 * Threads: none; several processes may work on the same store, on one container one after the other (a lock). What fails leaves
 * nothing behind but what was there before. */
#ifndef SYSTEM_LIFE_LIFE_H
#define SYSTEM_LIFE_LIFE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/core/error.h"
#include "container/runtime/runtime.h"
#include "system/config/config.h"
#include "system/store.h"

struct life {
    struct store store;
    char oci[STORE_MAX_PATH + 8]; /* the runtime's root */
    struct runtime runtime;       /* that root, control groups by files */
    bool is_users;                /* of an ordinary user (rootless.h) */
    const char *keeper;           /* path of hull-ct-keeper; NULL: nothing can be started */
    /* Asked now and then while something is waited for: does nobody want it any more? May be NULL. */
    bool (*is_cancelled)(void *ctx);
    void *cancel_ctx;
};

/* 'state' and 'run' as store_open takes them; 'keeper' is borrowed. For an ordinary user, to do more than look, within his namespace
 * (rootless_enter). */
int must_check life_open(struct life *out_life, const char *state, const char *run,
                         const char *keeper, struct error *err);

enum life_status {
    LIFE_STOPPED,
    LIFE_STARTING, /* it has a keeper and is not running yet, or not any more */
    LIFE_RUNNING,
    LIFE_PAUSED,
    LIFE_LOST, /* runs (or has left something) without a keeper: see life_repair */
};
/* "stopped", "starting", "running", "paused", "error". */
const char *life_status_name(enum life_status status);
enum life_status life_status(const struct life *life, const char *name);

/* Whether it has ended by itself since it was started last, and if so, whether that was a failure: an exit status that
 * is not 0, or a signal, but for that of a halt from inside. */
bool life_has_ended(const struct life *life, const char *name, bool *out_has_failed);

/* What all containers have taken: ids and addresses. While it is open nobody else makes containers. */
struct life_index;
int must_check life_index_open(const struct life *life, struct life_index **out_index,
                               struct error *err);
void life_index_close(struct life_index *index); /* NULL is fine */
/* The lowest address of that network that neither a container on the bridge has nor the one in 'network' itself.
 * Errors: -ENOSPC. */
int must_check life_index_find_address(const struct life_index *index, const char *bridge,
                                       const struct network_address *network,
                                       struct network_address *out_address, struct error *err);

/* Which container has an address at a bridge; NULL: none. */
const char *life_index_owner(const struct life_index *index, const char *bridge,
                             const struct network_address *address);

/* Makes a container of a document (config.h) with 'root' or 'template_name'; ids and 'created' are added, and the digest of the
 * template, which is verified once for each index. Errors: -EEXIST; -EADDRINUSE naming the container that has the address. */
int must_check life_create(struct life_index *index, const char *name, json_t *document,
                           struct error *err);
/* One that is stopped, with its snapshots. 'is_forced': it is ended first. */
int must_check life_delete(const struct life *life, const char *name, bool is_forced,
                           struct error *err);

/* One that a process which was killed has left standing still, for a snapshot or a clone, goes on. Waits for those that work on
 * it. */
int must_check life_release(const struct life *life, const char *name, struct error *err);

/* Starting in two steps, so that many can start at once. */
struct life_start {
    const char *name;
    pid_t keeper;
    int report; /* readable when the start has succeeded or failed */
};
int must_check life_start_begin(const struct life *life, const char *name,
                                struct life_start *out_start, struct error *err);
/* Waits for the report, and takes it. */
int must_check life_start_end(struct life_start *start, struct error *err);

/* Starts them, 'width' at a time, and calls 'done' for each as it is through ('err' NULL: it runs). 'done' returns not 0: no
 * further ones are begun. Returns how many failed. */
unsigned life_start_all(const struct life *life, const char *const *names, size_t count,
                        unsigned width,
                        int (*done)(void *ctx, const char *name, const struct error *err),
                        void *ctx);

/* Has its init stop, and waits; with 'is_forced' or after the timeout it is killed. 'timeout_s' -1: the container's own.
 * Errors: -ESRCH where it does not run; -ETIME: it did not stop cleanly and was killed; -ECANCELED: it was told to
 * stop, and may or may not. */
int must_check life_stop(const struct life *life, const char *name, bool is_forced, int timeout_s,
                         struct error *err);
int must_check life_pause(const struct life *life, const char *name, bool is_paused,
                          struct error *err);

/* What its processes have in memory becomes a new file, and the container ends; its files stay as they are. What cannot be
 * written, or that there is no criu that works, is told before anything is touched; after any failure it goes on. Needs root.
 * Errors: -EOPNOTSUPP, -EEXIST. */
int must_check life_checkpoint(const struct life *life, const char *name, const char *file,
                               struct error *err);
/* It goes on where it was, with its cards as they are configured now. Once, and only the file of its last checkpoint, and only
 * if it has not run since (-ESTALE). After a failure it is stopped, as it was. */
int must_check life_restore(const struct life *life, const char *name, const char *file,
                            struct error *err);

/* Files that are written into it (or removed, without a text) by its next start, and not again: a list of {"path", "text"}. It is
 * owned by the container's root; nothing outside of its tree is reached. Replaces what was given and not written yet. */
int must_check life_give_files(const struct life *life, const char *name, const json_t *files,
                               struct error *err);

/* Changes the configuration by words (config_change), and what is live of a running container at once. 'out_waits' says whether
 * something waits for the next start. */
int must_check life_set(const struct life *life, const char *name, const char *const *words,
                        size_t count, bool *out_waits, struct error *err);
/* After a pool's CPUs were changed: for all that run in it. */
int must_check life_apply_pool(const struct life *life, const char *pool, struct error *err);

/* One object for lists: name, status, template, ipv4, ipv6, cpus, memory_bytes (limit), created_at ...; of one that runs also
 * memory_used_bytes, cpu_ns, processes, pid, and limits_hit: which limit was hit how often, as far as the host counts them
 * (memory_limit, memory_oom_kills, swap_limit, processes_limit, cpu_throttled). */
int must_check life_info(const struct life *life, const char *name, json_t **out_info,
                         struct error *err);
/* Snapshots of the upper layer and the configuration. One of a running container is made while it is frozen. */
int must_check life_snapshot(const struct life *life, const char *name, const char *snapshot,
                             struct error *err);
int must_check life_snapshot_list(const struct life *life, const char *name, json_t **out_list,
                                  struct error *err);
int must_check life_snapshot_restore(const struct life *life, const char *name,
                                     const char *snapshot, struct error *err);
int must_check life_snapshot_delete(const struct life *life, const char *name, const char *snapshot,
                                    struct error *err);
/* A new container with ids of its own, from a container (NULL) or its snapshot; 'words' change its configuration. */
int must_check life_clone(const struct life *life, const char *name, const char *snapshot,
                          const char *new_name, const char *const *words, size_t word_count,
                          struct error *err);
/* What a container has of its own, or its snapshot, between it and a folder in which owners are those that the container sees.
 * 'folder' is made by life_private_out; beside it "FOLDER.disk" is used meanwhile. 'poll' may be NULL; not 0 cancels. */
struct life_private {
    const char *folder;
    int (*poll)(void *ctx);
    void *ctx;
};
/* Of one that is stopped, or of a snapshot. 'out_layers': what it stands on, to be closed. */
struct template_layers;
int must_check life_private_out(const struct life *life, const char *name, const char *snapshot,
                                const struct life_private *private,
                                struct template_layers *out_layers, struct error *err);
/* Into one that was just made, in place of what it has, or into a snapshot that is made by that; its next start writes its name
 * and the like. */
int must_check life_private_in(const struct life *life, const char *name, const char *snapshot,
                               const struct life_private *private, struct error *err);
/* The newest template of its name becomes what it stands on, at its next start. 'out_is_new': there was a newer one. */
int must_check life_upgrade(const struct life *life, const char *name, bool *out_is_new,
                            struct error *err);

/* Looks for what crashes have left: containers without keepers, half-made and half-removed folders, groups, network devices,
 * run folders. Calls 'found' with each in words; 'repairs': it is removed. Returns how many there are (not repaired ones, with
 * 'repairs'), or -errno. */
int life_check(const struct life *life, bool repairs,
               void (*found)(void *ctx, const char *what, bool is_repaired), void *ctx,
               struct error *err);

#endif
