/* The keys of an instance's configuration and the properties of its devices: one table, for checks, help, completion, the JSON
 * Schema and the reference in docs/.
 *
 * Threads: none. */
#ifndef MANAGER_INSTANCE_KEYS_H
#define MANAGER_INSTANCE_KEYS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/core/error.h"

enum key_kinds {
    KEY_CONTAINER = 1,
    KEY_VM = 2,
    KEY_BOTH = 3,
};

struct instance_key {
    const char *name;   /* "memory" */
    const char *device; /* the type of device whose property it is; NULL: config */
    unsigned kinds;
    const char *value;    /* what stands for the value in help: "SIZE" */
    const char *fallback; /* what holds when it is not said; NULL: nothing */
    const char *help;     /* one sentence without a dot */
    const char *complete; /* words divided by "|"; may be NULL */
    unsigned live;        /* the kinds whose running instances take a change at once */
    bool is_fixed;        /* said at creation, then never changed */
    bool is_list;         /* an array of texts, or one text with an item on each line */
    int (*check)(const char *value, struct error *err); /* of lists: each item */
};
extern const struct instance_key instance_keys[]; /* ends with a row without a name */
/* NULL: there is none; then 'out_nearest' (may be NULL) is the most similar one, or NULL. */
const struct instance_key *instance_find_key(const char *device, const char *name,
                                             const char **out_nearest);
/* "disk|nic|...", as long as the program runs. */
const char *instance_device_types(void);

/* JSON Schema (2020-12) of an instance's document: a new reference. */
json_t *instance_schema(void);
/* The reference of keys and properties, in Markdown. */
void instance_reference(FILE *to);

#endif
