/* Members of JSON objects that are texts; borrowed, as long as the object lives. */
#ifndef MANAGER_TEXT_H
#define MANAGER_TEXT_H

#include <jansson.h>

/* NULL: there is none, or it is something else. 'object' may be NULL. */
static inline const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

/* The same, "" where there is none. */
static inline const char *text_or_empty(const json_t *object, const char *key)
{
    const char *text = text_of(object, key);
    return text != NULL ? text : "";
}

#endif
