/* Where a tree lies: the folder that holds it, by a descriptor, and its name there. */
#ifndef SYSTEM_LAYERS_PLACE_H
#define SYSTEM_LAYERS_PLACE_H

#include <limits.h>

#include "base/core/error.h"

#define PLACE_NAME_SIZE 40

struct place {
    int folder; /* -1: not open */
    char name[NAME_MAX + 1];
};

#define AUTO_PLACE __attribute__((cleanup(place_fini)))
void place_fini(struct place *place);

/* Of an absolute path; -ENOENT if the folder is not there. */
int must_check layers_place_open(const char *path, struct place *out, struct error *err);

/* A name for what nobody shall see, that is in no use: ".hull-KIND-" and random digits. 'kind' has at most 8 characters. */
void place_make_name(const char *kind, char out_name[PLACE_NAME_SIZE]);

/* What the tree is called while it is removed; always the same, so that the next try finds what a killed one has left. */
void place_name_removed(const struct place *place, char out_name[PLACE_NAME_SIZE]);

#endif
