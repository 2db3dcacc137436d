#include <errno.h>
#include <fts.h>
#include <search.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "manager/check/check.h"

/* A file that has several names. */
struct named_file {
    dev_t device;
    ino_t inode;
};

static int compare(const void *a, const void *b)
{
    const struct named_file *left = a, *right = b;
    if (left->device != right->device) {
        return left->device < right->device ? -1 : 1;
    }
    return (left->inode > right->inode) - (left->inode < right->inode);
}

/* Is this the first of its names? Without memory all of them are. */
static bool is_first_name(void **seen, const struct stat *info)
{
    if (info->st_nlink < 2 || S_ISDIR(info->st_mode)) {
        return true;
    }
    struct named_file *file = malloc(sizeof(*file));
    if (file == NULL) {
        return true;
    }
    *file = (struct named_file){info->st_dev, info->st_ino};
    struct named_file **found = tsearch(file, seen, compare);
    if (found == NULL || *found != file) {
        free(file);
        return found == NULL;
    }
    return true;
}

int check_space(const char *path, uint64_t *out_bytes, struct error *err)
{
    char *const paths[] = {(char *)path, NULL};
    void *seen = NULL;
    *out_bytes = 0;
    FTS *tree = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR | FTS_XDEV, NULL);
    if (tree == NULL) {
        return error_set_errno(err, errno, "folder %s", path);
    }
    int rc = 0;
    FTSENT *entry;
    while (errno = 0, rc == 0 && (entry = fts_read(tree)) != NULL) {
        bool is_gone = (entry->fts_info == FTS_NS || entry->fts_info == FTS_DNR ||
                        entry->fts_info == FTS_ERR) &&
                       entry->fts_errno == ENOENT;
        if (entry->fts_info == FTS_DP || is_gone) {
            continue;
        }
        if (entry->fts_info == FTS_NS || entry->fts_info == FTS_DNR || entry->fts_info == FTS_ERR) {
            rc = error_set_errno(err, entry->fts_errno, "%s", entry->fts_path);
        } else if (is_first_name(&seen, entry->fts_statp)) {
            *out_bytes += (uint64_t)entry->fts_statp->st_blocks * 512;
        }
    }
    if (rc == 0 && errno != 0) {
        rc = error_set_errno(err, errno, "folder %s", path);
    }
    fts_close(tree);
    tdestroy(seen, free);
    return rc;
}
