/* A walk by descriptors. Levels high above the one it is in are closed, and found again by "..", which must be the same folder
 * then. */
#include "system/layers/walk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define OPEN_LEVELS 48 /* two descriptors each */
#define PASSES_MAX  64 /* over a folder that is to become empty */

struct identity {
    dev_t device;
    ino_t inode;
};

struct walk_level {
    DIR *list; /* NULL: closed */
    int other; /* -1: closed, or there is none */
    bool has_other;
    bool has_found; /* an entry in this pass */
    unsigned passes;
    long place; /* in the list that was closed */
    struct identity self, second;
    char *name;
};

static void close_level(struct walk_level *level)
{
    if (level->list != NULL) {
        closedir(level->list);
        level->list = NULL;
    }
    if (level->other >= 0) {
        close(level->other);
        level->other = -1;
    }
}

void walk_fini(struct walk *walk)
{
    for (size_t i = 0; i < walk->count; i++) {
        close_level(&walk->levels[i]);
        free(walk->levels[i].name);
    }
    free(walk->levels);
    walk->levels = NULL;
    walk->count = walk->capacity = 0;
}

int walk_open(int folder_fd, const char *name, int flags)
{
    struct open_how how = {
        .flags = (unsigned)flags | O_NOFOLLOW | O_NOATIME | O_CLOEXEC,
        .resolve = RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS,
    };
    long fd = syscall(SYS_openat2, folder_fd, name, &how, sizeof(how));
    if (fd < 0 && errno == EPERM) { /* whose file this is, its access times are */
        how.flags &= ~(uint64_t)O_NOATIME;
        fd = syscall(SYS_openat2, folder_fd, name, &how, sizeof(how));
    }
    return fd < 0 ? -errno : (int)fd;
}

int walk_open_folder(int folder_fd, const char *name)
{
    return walk_open(folder_fd, name, O_RDONLY | O_DIRECTORY);
}

static int identify(int fd, struct identity *out)
{
    struct stat st;
    if (fstat(fd, &st) < 0) {
        return -errno;
    }
    *out = (struct identity){st.st_dev, st.st_ino};
    return 0;
}

static int list_level(struct walk_level *level, int fd, int other_fd, const char *name)
{
    *level = (struct walk_level){.other = other_fd, .has_other = other_fd >= 0};
    int rc = identify(fd, &level->self);
    rc = rc == 0 && level->has_other ? identify(other_fd, &level->second) : rc;
    level->name = rc < 0 ? NULL : strdup(name);
    rc = rc == 0 && level->name == NULL ? -ENOMEM : rc;
    level->list = rc < 0 ? NULL : fdopendir(fd);
    if (level->list == NULL) {
        rc = rc < 0 ? rc : -errno;
        free(level->name);
    }
    return rc;
}

int walk_enter(struct walk *walk, int fd, int other_fd, const char *name)
{
    int rc = walk->depth_max != 0 && walk->count >= walk->depth_max ? -ELOOP : 0;
    if (rc == 0 && walk->count == walk->capacity) {
        size_t capacity = walk->capacity == 0 ? OPEN_LEVELS : walk->capacity * 2;
        struct walk_level *levels = reallocarray(walk->levels, capacity, sizeof(*levels));
        if (levels != NULL) {
            walk->levels = levels;
            walk->capacity = capacity;
        }
        rc = levels == NULL ? -ENOMEM : 0;
    }
    rc = rc < 0 ? rc : list_level(&walk->levels[walk->count], fd, other_fd, name);
    if (rc < 0) {
        close(fd);
        if (other_fd >= 0) {
            close(other_fd);
        }
        return rc;
    }
    walk->count++;
    if (walk->count > OPEN_LEVELS) {
        struct walk_level *far = &walk->levels[walk->count - OPEN_LEVELS - 1];
        if (far->list != NULL) {
            far->place = telldir(far->list);
            close_level(far);
        }
    }
    return 0;
}

static struct walk_level *top(const struct walk *walk)
{
    return &walk->levels[walk->count - 1];
}

int walk_next(struct walk *walk, const struct dirent **out_entry)
{
    struct walk_level *level = top(walk);
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(level->list);
        if (entry == NULL && errno != 0) {
            return -errno;
        }
        if (entry == NULL) {
            if (!walk->removes || !level->has_found) {
                return 0;
            }
            if (++level->passes > PASSES_MAX) {
                return -ENOTEMPTY; /* somebody fills it as quickly */
            }
            level->has_found = false;
            rewinddir(level->list);
        } else if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            level->has_found = true;
            *out_entry = entry;
            return 1;
        }
    }
}

/* Opens the folder above 'fd' again, which was 'expected'. */
static int open_above(int fd, const struct identity *expected)
{
    struct identity found;
    int above = walk_open_folder(fd, "..");
    int rc = above < 0 ? above : identify(above, &found);
    if (rc == 0 && (found.device != expected->device || found.inode != expected->inode)) {
        rc = -ESTALE;
    }
    if (rc < 0 && above >= 0) {
        close(above);
    }
    return rc < 0 ? rc : above;
}

static int reopen(struct walk_level *level, const struct walk_level *below, bool from_start)
{
    int fd = open_above(dirfd(below->list), &level->self);
    if (fd < 0) {
        return fd;
    }
    level->list = fdopendir(fd);
    if (level->list == NULL) {
        int rc = -errno;
        close(fd);
        return rc;
    }
    if (!from_start) {
        seekdir(level->list, level->place);
    }
    if (level->has_other) {
        level->other = open_above(below->other, &level->second);
    }
    return level->has_other && level->other < 0 ? level->other : 0;
}

int walk_leave(struct walk *walk)
{
    struct walk_level *below = top(walk);
    int rc = 0;
    if (walk->count > 1 && walk->levels[walk->count - 2].list == NULL) {
        rc = reopen(&walk->levels[walk->count - 2], below, walk->removes);
    }
    close_level(below);
    free(below->name);
    walk->count--;
    return rc;
}

int walk_fd(const struct walk *walk)
{
    return dirfd(top(walk)->list);
}

int walk_other_fd(const struct walk *walk)
{
    return top(walk)->other;
}

const char *walk_name(const struct walk *walk)
{
    return top(walk)->name;
}

const char *walk_path(const struct walk *walk, const char *name, char out_text[WALK_PATH_SIZE])
{
    size_t first = walk->count, size = strlen(name) + sizeof(".../");
    while (first > 1 && size + strlen(walk->levels[first - 1].name) + 1 <= WALK_PATH_SIZE) {
        first--;
        size += strlen(walk->levels[first].name) + 1;
    }
    size_t used = 0;
    out_text[0] = '\0';
    if (first > 1) {
        used += (size_t)snprintf(out_text, WALK_PATH_SIZE, ".../");
    }
    for (; first < walk->count && used < WALK_PATH_SIZE; first++) {
        used += (size_t)snprintf(out_text + used, WALK_PATH_SIZE - used, "%s/",
                                 walk->levels[first].name);
    }
    if (used < WALK_PATH_SIZE) {
        (void)snprintf(out_text + used, WALK_PATH_SIZE - used, "%s", name);
    }
    return out_text;
}
