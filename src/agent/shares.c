#include "agent/shares.h"

#include <ctype.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

#include "agent/mounts.h"
#include "base/host/event_loop.h"
#include "base/host/file.h"

#define COMMAND_LINE "/proc/cmdline"
#define LONGEST_LINE 8192
#define WAIT_MS      60000
#define RETRY_MS     100

static int digit_of(char c)
{
    return isdigit((unsigned char)c)    ? c - '0'
           : isxdigit((unsigned char)c) ? tolower((unsigned char)c) - 'a' + 10
                                        : -1;
}

/* "%20" becomes " ", in place. False: it is none, or a byte of 0. */
static bool decode(char *text)
{
    char *to = text;
    for (const char *from = text; *from != '\0'; from++) {
        if (*from != '%') {
            *to++ = *from;
            continue;
        }
        int high = digit_of(from[1]);
        int low = high < 0 ? -1 : digit_of(from[2]);
        if (low < 0 || (high == 0 && low == 0)) {
            return false;
        }
        *to++ = (char)(high << 4 | low);
        from += 2;
    }
    *to = '\0';
    return true;
}

size_t shares_parse(char *command_line, struct share_mount out_shares[SHARES_MAX])
{
    static const char name[] = "hull.share=";
    size_t count = 0;
    char *rest = command_line;
    for (char *word; count < SHARES_MAX && (word = strsep(&rest, " \t\n")) != NULL;) {
        if (strncmp(word, name, sizeof(name) - 1) != 0) {
            continue;
        }
        char *parts = word + sizeof(name) - 1;
        struct share_mount share = {.tag = strsep(&parts, ":"), .path = strsep(&parts, ":")};
        share.is_readonly = parts != NULL && strcmp(parts, "ro") == 0;
        if (share.tag[0] != '\0' && share.path != NULL && share.path[0] == '/' &&
            decode(share.path) && (parts == NULL || share.is_readonly)) {
            out_shares[count++] = share;
        }
    }
    return count;
}

static bool is_mounted(const struct share_mount *share)
{
    struct mounts mounts;
    if (mounts_read(&mounts, NULL) < 0) {
        return false;
    }
    bool is_there = false;
    for (size_t i = 0; i < mounts.count && !is_there; i++) {
        const struct mount_entry *entry = &mounts.entry[i];
        is_there = strcmp(entry->type, "virtiofs") == 0 && strcmp(entry->source, share->tag) == 0 &&
                   strcmp(entry->place, share->path) == 0;
    }
    mounts_free(&mounts);
    return is_there;
}

static int try_mount(const struct share_mount *share, struct error *err)
{
    /* The kernel loads the file system's module. */
    unsigned long flags = MS_NODEV | MS_NOSUID | (share->is_readonly ? MS_RDONLY : 0);
    int rc = file_make_folders(share->path, 0755, 0755, err);
    if (rc == 0 && mount(share->tag, share->path, "virtiofs", flags, NULL) < 0) {
        rc = error_set_errno(err, errno, "mounting share %s on %s", share->tag, share->path);
    }
    return rc;
}

void shares_mount(void)
{
    char line[LONGEST_LINE];
    struct share_mount share[SHARES_MAX];
    AUTO_CLOSE int fd = open(COMMAND_LINE, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
    line[MAX(size, 0)] = '\0';
    size_t count = shares_parse(line, share);
    int64_t end = clock_monotonic_ms() + WAIT_MS;
    for (size_t i = 0; i < count; i++) {
        struct error why;
        int rc = 0;
        while (!is_mounted(&share[i]) && (rc = try_mount(&share[i], &why)) < 0 &&
               clock_monotonic_ms() < end) {
            (void)poll(NULL, 0, RETRY_MS);
        }
        if (rc < 0) {
            (void)fprintf(stderr, "hull-agent: %s\n", why.text);
        }
    }
}
