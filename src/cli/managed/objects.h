/* What networks, pools, volumes and profiles have in common: documents that are listed, made, shown, changed and deleted alike. */
#ifndef CLI_MANAGED_OBJECTS_H
#define CLI_MANAGED_OBJECTS_H

#include "cli/managed/managed.h"

struct object_options {
    struct managed_options managed;
    const char *type, *description, *size;
    uint64_t size_bytes;
};

struct object_kind {
    const char *noun;       /* "network" */
    const char *collection; /* "/v1/networks" */
    const char *folder;     /* the one meant by a name without any; NULL: names have none */
    const struct output_column *columns;
    const char *type_key, *default_type; /* what --type says; NULL: it has none */
    bool has_devices;                    /* DEVICE.PROPERTY=VALUE, too */
    bool is_replaced;                    /* PUT of the whole in place of PATCH */
    /* A member of one object that is a list, which `info` shows as a table of its own. NULL: none. */
    const char *part;
    const struct output_column *part_columns;
};

int object_parse_type(void *into, const char *value, struct error *err);
int object_parse_description(void *into, const char *value, struct error *err);
int object_parse_size(void *into, const char *value, struct error *err);

extern const struct option_spec object_show_table[], object_quiet_table[];

/* Options, words, and the manager. As cli_words. */
int object_begin(const struct verb *verb, int min, int max, int argc, char **argv, void *into,
                 int *out_count, struct client *client);
/* Its address: "POOL/NAME" are two words of the path, and so is NAME of a kind that has folders. The caller frees. */
char *object_path(const struct object_kind *kind, const char *name);
int object_list(const struct object_kind *kind, const struct verb *verb, int argc, char **argv);
int object_create(const struct object_kind *kind, const struct verb *verb, int argc, char **argv);
int object_info(const struct object_kind *kind, const struct verb *verb, int argc, char **argv);
int object_edit(const struct object_kind *kind, const struct verb *verb, int argc, char **argv);
int object_set(const struct object_kind *kind, const struct verb *verb, int argc, char **argv);
int object_delete(const struct object_kind *kind, const struct verb *verb, int argc, char **argv);

/* The run function of a verb. */
#define OBJECT_RUN(kind, action)                                                                   \
    static int kind##_##action##_run(int argc, char **argv)                                        \
    {                                                                                              \
        return object_##action(&kind##_kind, &kind##_##action##_verb, argc, argv);                 \
    }

#endif
