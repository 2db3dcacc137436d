/* A system container's configuration: STATE/containers/NAME/config.yaml.
 *
 * The document is what counts: it is read with libyaml into JSON values, checked against one table (config_keys), and written
 * back from it. The table also makes the options of `hull ct create` and the keys of `hull ct set`. Keys that are not in the
 * table are errors that name the nearest one. Not trusted: whoever may write there is root, but a damaged file gets a clear
 * error.
 *
 * Threads: none. */
#ifndef SYSTEM_CONFIG_CONFIG_H
#define SYSTEM_CONFIG_CONFIG_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/core/error.h"
#include "system/network/network.h"
#include "system/store.h"

#define CONFIG_MAX_CARDS       8
#define CONFIG_MAX_DNS         8
#define CONFIG_MAX_MOUNTS      32
#define CONFIG_MAX_ENVIRONMENT 64
#define CONFIG_MAX_INIT        16

/* What happens to a limit that is 0 or NULL here: it is not set. */
struct config_limits {
    uint64_t cpus_milli; /* CPUs that it may use at once, in thousandths */
    uint64_t cpu_shares; /* weight among all containers; 0: 1024 */
    const char *cpu_set; /* "0-1"; NULL: the pool's, or all */
    const char *pool;    /* of CPUs; NULL: none */
    uint64_t memory_bytes;
    bool has_swap;
    uint64_t swap_bytes; /* beside the memory */
    uint64_t processes;
    uint64_t io_weight; /* 1 to 1000 (default 100) */
    uint64_t io_read_bps, io_write_bps, io_read_iops, io_write_iops;
    uint64_t disk_bytes; /* of the upper layer; set at creation */
};

struct config_mount {
    const char *source, *target;
    bool is_read_only;
};

/* Typed; strings are the document's. */
struct config {
    json_t *document; /* this struct's */
    const char *name;
    const char *template_digest; /* NULL: 'root' is used */
    const char *template_name;   /* which it was made of; for upgrades and lists */
    const char *root;            /* an existing folder in place of a template */
    const char *hostname;
    const char
        *init[CONFIG_MAX_INIT]; /* a program and its words, NULL at the end; [0] NULL: /sbin/init */
    size_t init_count;
    bool is_privileged; /* the host's ids; needs to be asked for */
    bool may_nest; /* containers inside: keeps what they need (/proc unmasked, mounts, keyrings) */
    uint32_t first_id, id_count;
    const char *seccomp; /* "default", "none", or a file of a profile */
    struct config_limits limits;
    struct network_card cards[CONFIG_MAX_CARDS];
    size_t card_count;
    const char *dns[CONFIG_MAX_DNS]; /* addresses */
    size_t dns_count;
    const char *search; /* domain for names without one; NULL: none */
    struct config_mount mounts[CONFIG_MAX_MOUNTS];
    size_t mount_count;
    bool starts_with_host;
    int64_t start_order;                             /* the smaller the sooner */
    const char *environment[CONFIG_MAX_ENVIRONMENT]; /* NAME=VALUE */
    size_t environment_count;
    uint64_t stop_timeout_s;
    int stop_signal;     /* 0: found out from the init */
    const char *created; /* RFC 3339 */
    char *kept[CONFIG_MAX_CARDS *
               (4 + NETWORK_MAX_FORWARDS)]; /* strings that are not the document's */
    size_t kept_count;
};

/* Reads and checks. The result is freed by config_destroy. Errors: -ENOENT "container NAME does not exist", -EINVAL naming the
 * key. */
int must_check config_load(const struct store *store, const char *name, struct config **out_config,
                           struct error *err);
/* That there is such a container, and that its configuration can be read. */
int must_check config_check(const struct store *store, const char *name, struct error *err);
/* As config_load, from another folder below STATE/containers, for a snapshot. */
int must_check config_load_at(const struct store *store, const char *folder, const char *name,
                              struct config **out_config, struct error *err);
/* From a document; takes its own reference. */
int must_check config_from_json(json_t *document, struct config **out_config, struct error *err);
/* Writes a document whole or not at all, to the folder of that container, which is there. */
int must_check config_save(const struct store *store, const char *name, const json_t *document,
                           struct error *err);
void config_destroy(struct config *config);

/* Changes the document by a word of the command line, and checks nothing but the key: "KEY=VALUE"; "KEY=" takes it away; of
 * lists "KEY+=ITEM" and "KEY-=ITEM" too, and "KEY=ITEM" leaves one. */
int must_check config_change(json_t *document, const char *word, struct error *err);

/* Names of all containers, sorted; each and the list are the caller's to free. */
int must_check config_list(const struct store *store, char ***out_names, size_t *out_count,
                           struct error *err);

/* The keys, for options, help and completion. A row without a name ends it. */
struct config_key {
    const char *name;     /* "memory" */
    const char *value;    /* what stands for the value in help: "SIZE" */
    const char *help;     /* one sentence without a dot */
    const char *complete; /* as option_spec.complete */
    bool is_live;         /* a running container takes a change at once, else at its next start */
    bool is_list;
    bool is_fixed; /* set at creation */
    int (*parse)(struct config *config, const char *value, struct error *err);
};
extern const struct config_key config_keys[];
/* The parser of "network". */
int must_check config_parse_card(struct config *config, const char *value, struct error *err);
const struct config_key *config_find_key(const char *name, size_t length);

#endif
