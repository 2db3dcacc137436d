/* A server of an empty folder, and requests as a guest's kernel makes them. */
#ifndef TESTS_UNIT_SHARE_BED_H
#define TESTS_UNIT_SHARE_BED_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "share/server.h"

struct bed {
    struct share share;
    char folder[64];
    uint8_t request[FS_MAX_MESSAGE];
    size_t request_size;
    uint8_t reply[FS_MAX_MESSAGE];
    size_t reply_size; /* without the header */
};

void bed_create(struct bed *bed, bool is_readonly);
void bed_destroy(struct bed *bed);
/* The server anew, as a restored VM has it. */
void bed_restart(struct bed *bed);

/* A request of so many parts, then a call: (data, size) pairs up to NULL. Returns 0 or -errno. */
int bed_call(struct bed *bed, uint32_t opcode, uint64_t nodeid, ...);
/* The reply behind its header. */
const void *bed_reply(const struct bed *bed);
/* The node of a name; 0: it fails. */
uint64_t bed_look_up(struct bed *bed, uint64_t folder, const char *name);
void bed_forget(struct bed *bed, uint64_t node, uint64_t count);
/* Opens a node; -errno, or the handle. */
int64_t bed_open(struct bed *bed, uint64_t node, uint32_t flags);
/* Reads up to 64 bytes from a handle as a text, into a buffer of 65. -errno, or how many. */
int bed_read(struct bed *bed, uint64_t node, int64_t fh, char *out_text);
void bed_host_file(struct bed *bed, const char *name, const char *text);

#endif
