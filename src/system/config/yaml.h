/* YAML (a subset: mappings, sequences, scalars without types, one document) as JSON values and back, by libyaml. */
#ifndef SYSTEM_CONFIG_YAML_H
#define SYSTEM_CONFIG_YAML_H

#include <jansson.h>
#include <stddef.h>

#include "base/core/error.h"

/* Every scalar becomes a string, an empty one ("key:") null. 'what' names the text in errors, which have the line.
 * Errors: -EINVAL for what is no YAML, for anchors and tags, doubled keys, keys that are no scalars, more than 16 levels, and
 * texts that are not UTF-8 or hold NUL. */
int must_check yaml_parse(const char *text, size_t size, const char *what, json_t **out_value,
                          struct error *err);
/* Block style, keys in their order; new memory. Strings are quoted where another reader would take them for something else. */
int must_check yaml_write(const json_t *value, char **out_text, struct error *err);

#endif
