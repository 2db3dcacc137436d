#include "agent/mounts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "base/host/file.h"

/* "\040" and the like, in place. */
static void unescape(char *text)
{
    char *to = text;
    for (const char *from = text; *from != '\0'; to++) {
        if (from[0] == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] >= '0' &&
            from[2] <= '7' && from[3] >= '0' && from[3] <= '7') {
            *to = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0'));
            from += 4;
        } else {
            *to = *from++;
        }
    }
    *to = '\0';
}

static bool has_option(char *options, const char *wanted)
{
    for (char *rest = options, *option; (option = strsep(&rest, ",")) != NULL;) {
        if (strcmp(option, wanted) == 0) {
            return true;
        }
    }
    return false;
}

/* "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue" */
bool mounts_parse_line(char *line, struct mount_entry *out_entry)
{
    char *word[10] = {0};
    size_t count = 0;
    line[strcspn(line, "\n")] = '\0';
    for (char *rest = line, *next; count < 10 && (next = strsep(&rest, " ")) != NULL;) {
        if (count != 6) {
            word[count++] = next;
        } else if (strcmp(next, "-") == 0) { /* there may be any number of words before it */
            word[count++] = next;
        }
    }
    unsigned major, minor;
    if (count != 10 || sscanf(word[2], "%u:%u", &major, &minor) != 2) {
        return false;
    }
    unescape(word[4]);
    unescape(word[8]);
    *out_entry = (struct mount_entry){
        .device = makedev(major, minor),
        .is_readonly =
            has_option(word[9], "ro"), /* of the file system; a mount may be "ro" alone */
        .place = word[4],
        .type = word[7],
        .source = word[8],
    };
    return true;
}

static bool keep_entry(struct mounts *mounts, const struct mount_entry *found)
{
    struct mount_entry *entry = &mounts->entry[mounts->count];
    *entry = *found;
    entry->place = strdup(found->place);
    entry->type = strdup(found->type);
    entry->source = strdup(found->source);
    mounts->count++;
    return entry->place != NULL && entry->type != NULL && entry->source != NULL;
}

int mounts_read(struct mounts *out_mounts, struct error *err)
{
    struct mounts mounts = {.entry = calloc(MOUNTS_MAX, sizeof(*mounts.entry))};
    FILE *file = fopen("/proc/self/mountinfo", "re");
    int rc = file == NULL           ? error_set_errno(err, errno, "reading /proc/self/mountinfo")
             : mounts.entry == NULL ? error_set_errno(err, ENOMEM, "reading mounts")
                                    : 0;
    AUTO_FREE char *line = NULL;
    size_t size = 0;
    while (rc == 0 && mounts.count < MOUNTS_MAX && getline(&line, &size, file) > 0) {
        struct mount_entry found;
        if (mounts_parse_line(line, &found) && !keep_entry(&mounts, &found)) {
            rc = error_set_errno(err, ENOMEM, "reading mounts");
        }
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    if (rc < 0) {
        mounts_free(&mounts);
        return rc;
    }
    *out_mounts = mounts;
    return 0;
}

void mounts_free(struct mounts *mounts)
{
    for (size_t i = 0; i < mounts->count; i++) {
        free(mounts->entry[i].place);
        free(mounts->entry[i].type);
        free(mounts->entry[i].source);
    }
    free(mounts->entry);
    *mounts = (struct mounts){0};
}
