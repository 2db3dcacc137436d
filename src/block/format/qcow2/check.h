/* Inside of the check: the counts that the image's own tables call for. */
#ifndef BLOCK_FORMAT_QCOW2_CHECK_H
#define BLOCK_FORMAT_QCOW2_CHECK_H

#include "block/format/qcow2/qcow2.h"

#define QCOW2_MAX_CHECK_CLUSTERS (80u << 20) /* of two bytes each */

struct qcow2_checker {
    struct qcow2 *q;
    void (*report)(void *ctx, const char *text);
    void *report_ctx;
    unsigned reported;
    struct block_check_result *result;
    bool fixes_entries;     /* invalid entries of the active tables are cleared on the way */
    bool skips_counts;      /* refcount table and blocks are left out: they are made anew */
    bool has_bad_blocks;    /* the refcount table cannot be used as it is */
    uint64_t cluster_count; /* of the file */
    uint16_t *refs;         /* for each cluster; UINT16_MAX: at least that many */
    uint8_t *visited;       /* one bit for each cluster: tables of the L1 table in progress */
    uint64_t last_host;     /* for fragmentation */
};

void qcow2_checker_say(struct qcow2_checker *c, const char *format, ...) printf_like(2, 3);
/* Counts all references. May yield. */
int must_check qcow2_checker_walk(struct qcow2_checker *c);
/* Compares with the counts in the file; 'fix': those in the file are set, where they have blocks. May yield. */
int must_check qcow2_checker_compare(struct qcow2_checker *c, unsigned fix);
/* A new refcount table with new blocks behind the end of the file, after the walk's counts. May yield. */
int must_check qcow2_rebuild_counts(struct qcow2_checker *c);

#endif
