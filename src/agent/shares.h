/* Folders of the host (virtiofs) that the guest mounts at its start: words of the kernel's command line,
 *
 *   hull.share=TAG:PATH[:ro]      with spaces and the like in PATH as %20
 */
#ifndef AGENT_SHARES_H
#define AGENT_SHARES_H

#include <stdbool.h>
#include <stddef.h>

#define SHARES_MAX 8

struct share_mount {
    char *tag, *path; /* in the command line */
    bool is_readonly;
};

/* Takes the command line apart, in place. What cannot be is left out. */
size_t shares_parse(char *command_line, struct share_mount out_shares[SHARES_MAX]);
/* Mounts all that this machine was started with and that are not mounted yet, and says on stderr what it could not. Waits for their
 * devices, and for a root that can be written to. */
void shares_mount(void);

#endif
