/* How far something is: a bar on a terminal, a line now and then elsewhere, on stderr; nothing for what takes less than a second. */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *label; /* "converting disk.vmdk" */
    bool is_quiet;
    bool is_terminal;
    bool is_shown;
    uint64_t start_ns;
    uint64_t shown_ns; /* when it was shown last */
};

#define PROGRESS_INTERVAL_NS 100000000ull /* how often it is worth asking */

void progress_begin(struct progress *progress, const char *label, bool is_quiet);
/* 'total' 0: it is not known. */
void progress_update(struct progress *progress, uint64_t done, uint64_t total);
/* Takes the bar away. */
void progress_end(struct progress *progress);

#endif
