/* JSON text (RFC 8259) as a tree of nodes.
 *
 * Not jansson: its integers end at 2^63 - 1, and RLIM_INFINITY, which callers write for "unlimited", is 2^64 - 1. Nodes are
 * small and point into the text, so both may go as soon as what counts is copied out. */
#ifndef CONTAINER_SPEC_TREE_H
#define CONTAINER_SPEC_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/core/compiler.h"
#include "base/core/error.h"
#include "container/spec/arena.h"

#define TREE_MAX_BYTES (16u << 20)
#define TREE_MAX_DEPTH 64

enum node_type {
    NODE_NULL,
    NODE_BOOL,
    NODE_INTEGER,
    NODE_REAL, /* with fraction or exponent, or an integer beyond 64 bits */
    NODE_STRING,
    NODE_LIST,
    NODE_OBJECT,
};

struct node {
    uint8_t type;        /* enum node_type */
    bool is_negative;    /* of NODE_INTEGER */
    uint32_t key_length; /* of 'key' */
    uint32_t length;     /* of a string; of a list or an object: how many are in it */
    uint32_t extent;     /* of all of it in the text */
    const char *begin;   /* in the text */
    const char *key;     /* of a member of an object: without escapes, no NUL behind it */
    const struct node *parent, *next, *first;
    union {
        bool boolean;
        uint64_t magnitude; /* of NODE_INTEGER; at most 2^63 where it is negative */
        const char *string; /* UTF-8 without NUL inside; no NUL behind it */
    };
};

/* Nodes live in 'arena', and point into 'text'.
 * Errors: -EINVAL with line and column for what is no JSON, for a key twice in an object and for NUL in a string; -E2BIG beyond
 * TREE_MAX_BYTES, TREE_MAX_DEPTH or the arena. */
int must_check tree_parse(struct arena *arena, const char *text, size_t size,
                          const struct node **out_root, struct error *err);

bool node_has_key(const struct node *node, const char *key);
/* The object's member of that name, NULL: there is none, or it is null. */
const struct node *node_find(const struct node *object, const char *key);
bool node_equals(const struct node *string, const char *text);
const char *node_type_name(enum node_type type); /* "a string" */

#endif
