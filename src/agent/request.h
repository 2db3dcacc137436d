/* What a host asks for, read from the first frame of a connection. */
#ifndef AGENT_REQUEST_H
#define AGENT_REQUEST_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/cards.h"
#include "base/core/error.h"

enum request_kind {
    REQUEST_INFO,
    REQUEST_EXEC,
    REQUEST_PUSH,
    REQUEST_PULL,
    REQUEST_SHUTDOWN,
    REQUEST_FREEZE,
    REQUEST_THAW,
    REQUEST_TIME,
    REQUEST_GROW,
    REQUEST_IDENTITY,
};

/* Strings are borrowed from 'document'. */
struct request {
    json_t *document;
    enum request_kind kind;
    /* exec */
    const char **command;     /* NULL at the end; empty: the user's shell */
    const char **environment; /* NAME and VALUE in turn, NULL at the end */
    const char *cwd;          /* NULL: the user's home */
    const char *user;         /* NULL: root */
    bool has_terminal;
    uint16_t columns, rows;
    const char *path; /* push, pull; absolute */
    bool is_reboot;   /* shutdown */
    int64_t time_ns;  /* time */
    /* identity */
    const char *hostname;   /* NULL: stays */
    const char *machine_id; /* NULL: stays; 32 hexadecimal digits */
    bool has_host_keys;     /* are made anew */
    struct card_change cards[CARDS_MAX];
    size_t card_count;
};

/* -EINVAL: the text says what would be accepted. request_free in the other case. */
int must_check request_parse(const char *text, size_t size, struct request *out_request,
                             struct error *err);
void request_free(struct request *request);
/* Does it leave the system as it is, but for what programs and files do? */
bool request_is_harmless(enum request_kind kind);

#endif
