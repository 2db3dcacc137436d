/* The process that freezes writes nothing and allocates nothing from then on: its memory is locked, its descriptors are
 * open. */
#include "agent/freeze.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/answer.h"
#include "agent/mounts.h"
#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "session/frames.h"

#define MAX_FROZEN  64
#define HOLD_MS     60000
#define FREEZING_MS 20000 /* what is not written yet goes to the disk first */

/* Only the owner writes 'place' and 'count'; it is the owner for as long as file systems may be frozen. */
struct freeze_record {
    _Atomic pid_t owner;    /* 0: nothing is frozen */
    _Atomic bool is_frozen; /* all of them are: who wants to thaw waits for that */
    _Atomic unsigned count;
    char place[MAX_FROZEN][512];
};

struct frozen {
    int fd[MAX_FROZEN];
    const char *place[MAX_FROZEN]; /* of 'mounts' */
    size_t count;
    struct mounts mounts;
};

int freeze_record_create(struct freeze_record **out_record, struct error *err)
{
    void *memory = mmap(NULL, sizeof(struct freeze_record), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return error_set_errno(err, errno, "memory");
    }
    *out_record = memory;
    return 0;
}

static bool is_chosen(const struct frozen *f, const struct mounts *mounts, size_t index)
{
    const struct mount_entry *entry = &mounts->entry[index];
    if (entry->is_readonly || strncmp(entry->source, "/dev/", 5) != 0 ||
        strlen(entry->place) >= sizeof(((struct freeze_record *)NULL)->place[0])) {
        return false;
    }
    for (size_t i = 0; i < index; i++) { /* the same one, mounted before at another place */
        if (mounts->entry[i].device == entry->device) {
            return false;
        }
    }
    return f->count < MAX_FROZEN;
}

/* The last mounted first: it may lie in a file of one that was mounted before. */
static int choose(struct frozen *f, struct error *err)
{
    int rc = mounts_read(&f->mounts, err);
    for (size_t i = f->mounts.count; rc == 0 && i-- > 0;) {
        const struct mount_entry *entry = &f->mounts.entry[i];
        struct stat status;
        if (!is_chosen(f, &f->mounts, i)) {
            continue;
        }
        AUTO_CLOSE int fd = open(entry->place, O_RDONLY | O_CLOEXEC);
        /* A place that others have mounted over is another file system; a file that is mounted on is fine. */
        if (fd < 0 || fstat(fd, &status) < 0 || status.st_dev != entry->device) {
            continue;
        }
        f->place[f->count] = entry->place;
        f->fd[f->count++] = TAKE_FD(fd);
    }
    return rc;
}

static void thaw_places(struct freeze_record *record)
{
    unsigned count = record->count;
    while (count-- > 0) { /* the other way round */
        int fd = open(record->place[count], O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
            (void)ioctl(fd, FITHAW, 0); /* EINVAL: it is not frozen */
            close(fd);
        }
    }
    record->count = 0;
}

/* Whoever gets the ownership from 'pid' to itself thaws. */
static bool take_over(struct freeze_record *record, pid_t pid)
{
    pid_t owner = pid;
    if (owner == 0 || !atomic_compare_exchange_strong(&record->owner, &owner, getpid())) {
        return false;
    }
    thaw_places(record);
    record->is_frozen = false;
    record->owner = 0;
    return true;
}

void freeze_forget(struct freeze_record *record, pid_t pid)
{
    pid_t owner = record->owner;
    if (pid == 0 || owner == pid) {
        (void)take_over(record, owner);
    }
}

static int freeze_all(struct frozen *f, struct freeze_record *record, struct error *err)
{
    size_t kept = 0;
    for (size_t i = 0; i < f->count; i++) {
        /* Noted before: if we are killed in between, thawing one that is not frozen does no harm. */
        (void)strcpy(record->place[kept], f->place[i]); /* is_chosen has checked its length */
        record->count = (unsigned)kept + 1;
        if (ioctl(f->fd[i], FIFREEZE, 0) == 0) {
            f->place[kept++] = f->place[i];
            continue;
        }
        record->count = (unsigned)kept;
        if (errno != EOPNOTSUPP && errno != EBUSY) { /* EBUSY: somebody else has frozen it */
            int code = errno;
            thaw_places(record);
            return error_set_errno(err, code, "freezing %s", f->place[i]);
        }
    }
    f->count = kept;
    return 0;
}

static json_t *list_places(const struct frozen *f)
{
    json_t *list = json_array();
    for (size_t i = 0; i < f->count; i++) {
        error_ignore(json_array_append_new(list, json_string(f->place[i])));
    }
    return json_pack("{s:o}", "file_systems", list);
}

/* Until the host closes the connection, somebody else has thawed, or the time is over. */
static void hold(int fd, const struct freeze_record *record)
{
    char rest[256];
    int64_t end = clock_monotonic_ms() + HOLD_MS;
    while (record->owner == getpid()) {
        struct pollfd wait = {.fd = fd, .events = POLLIN | POLLRDHUP};
        int64_t left = end - clock_monotonic_ms();
        if (left <= 0) {
            return;
        }
        int ready = poll(&wait, 1, (int)MIN(left, 1000)); /* now and then: is it thawed? */
        if (ready > 0 && ((wait.revents & ~POLLIN) != 0 || read(fd, rest, sizeof(rest)) <= 0)) {
            return;
        }
    }
}

static int freeze(int fd, struct frozen *f, struct freeze_record *record, struct error *err)
{
    int rc = choose(f, err);
    if (rc < 0) {
        return rc;
    }
    if (mlockall(MCL_CURRENT | MCL_FUTURE) < 0) {
        return error_set_errno(err, errno, "locking memory");
    }
    rc = freeze_all(f, record, err);
    record->is_frozen = true;
    rc = rc < 0 ? rc : answer_ok(fd, list_places(f), err);
    if (rc == 0) {
        hold(fd, record);
    }
    return rc;
}

int freeze_serve(int fd, struct freeze_record *record, struct error *err)
{
    struct frozen f = {0};
    pid_t nobody = 0;
    if (!atomic_compare_exchange_strong(&record->owner, &nobody, getpid())) {
        return error_set(err, EBUSY, "file systems are frozen already");
    }
    int rc = freeze(fd, &f, record, err);
    (void)take_over(record, getpid());
    for (size_t i = 0; i < f.count; i++) {
        close(f.fd[i]);
    }
    mounts_free(&f.mounts);
    return rc;
}

int freeze_thaw(int fd, struct freeze_record *record, struct error *err)
{
    int64_t end = clock_monotonic_ms() + FREEZING_MS;
    pid_t owner;
    while ((owner = record->owner) != 0 && !record->is_frozen) {
        if (clock_monotonic_ms() > end) {
            return error_set(err, EBUSY, "file systems are still being frozen");
        }
        (void)poll(NULL, 0, 20);
    }
    json_t *list = json_array();
    for (unsigned i = 0; i < record->count && i < MAX_FROZEN; i++) {
        error_ignore(json_array_append_new(list, json_string(record->place[i])));
    }
    if (!take_over(record, owner)) { /* it thawed by itself just now */
        error_ignore(json_array_clear(list));
    }
    return answer_ok(fd, json_pack("{s:o}", "file_systems", list), err);
}
