#include "container/runtime/halt.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/host/file.h"

#define MAX_PASSES 64
#define PAUSE_NS   2000000

/* The letter of /proc/PID/stat; 0: it is gone. */
static char state_of(pid_t pid)
{
    char path[64], text[1024];
    (void)snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    text[size > 0 ? size : 0] = '\0';
    const char *rest = strrchr(text, ')');
    return rest != NULL && rest[1] == ' ' ? rest[2] : 0;
}

bool halt_is_halted(pid_t init)
{
    return state_of(init) == 'T';
}

static int namespace_of(pid_t pid, ino_t *out_number)
{
    char path[64];
    struct stat st;
    (void)snprintf(path, sizeof(path), "/proc/%d/ns/pid", pid);
    if (stat(path, &st) < 0) {
        return -errno;
    }
    *out_number = st.st_ino;
    return 0;
}

/* The number may have become another's since: only what is still in the namespace gets it. */
static bool signal_one(pid_t pid, ino_t wanted, int number)
{
    ino_t found;
    AUTO_CLOSE int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    return fd >= 0 && namespace_of(pid, &found) == 0 && found == wanted &&
           syscall(SYS_pidfd_send_signal, fd, number, NULL, 0) == 0;
}

/* How many were found that are not as they should be. */
static int pass(ino_t wanted, bool is_halted, unsigned *out_left, struct error *err)
{
    DIR *folder = opendir("/proc");
    if (folder == NULL) {
        return error_set_errno(err, errno, "opening /proc");
    }
    *out_left = 0;
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        ino_t found;
        pid_t pid = atoi(entry->d_name);
        if (pid <= 0 || namespace_of(pid, &found) < 0 || found != wanted) {
            continue;
        }
        char state = state_of(pid);
        bool is_ended = state == 0 || state == 'Z' || state == 'X';
        bool is_there = (state == 'T' || state == 't') == is_halted;
        *out_left +=
            !is_ended && !is_there && signal_one(pid, wanted, is_halted ? SIGSTOP : SIGCONT);
    }
    closedir(folder);
    return 0;
}

int halt_processes(pid_t init, bool is_halted, struct error *err)
{
    static const struct timespec pause = {.tv_nsec = PAUSE_NS};
    ino_t wanted = 0, own = 0;
    int rc = namespace_of(init, &wanted);
    rc = rc < 0 ? rc : namespace_of(getpid(), &own);
    if (rc < 0) {
        return error_set_errno(err, -rc, "looking at the container's processes");
    }
    if (wanted == own) {
        return error_set(
            err, EOPNOTSUPP,
            "the container has neither a group that can be frozen nor processes of its own");
    }
    unsigned left = 1;
    /* Whoever was not stopped yet may have forked. */
    for (unsigned i = 0; rc == 0 && left != 0 && i < MAX_PASSES; i++) {
        rc = pass(wanted, is_halted, &left, err);
        if (left != 0) {
            (void)nanosleep(&pause, NULL); /* shorter is fine */
        }
    }
    if (rc == 0 && left != 0) {
        rc = error_set(err, ETIMEDOUT, "the container's processes do not %s",
                       is_halted ? "stop" : "go on");
    }
    if (rc < 0 && is_halted) {
        struct error ignored;
        error_ignore(pass(wanted, false, &left, &ignored));
    }
    return rc;
}
