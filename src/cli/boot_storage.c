/* Remote disks of a VM: which processes belong to it, and what is done when one ends. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "base/host/pass_fd.h"
#include "block/remote.h"
#include "cli/boot_files.h"
#include "cli/storage_keeper.h"

/* Time for what they still have to make durable when the VM has gone. */
#define END_NS 10000000000ull
/* One that has lived for that long had another trouble than the one before it. */
#define LONG_LIFE_NS     (10 * 1000000000ull)
#define FIRST_PAUSE_NS   200000000ull
#define LONGEST_PAUSE_NS 5000000000ull
/* In a row. What it crashes at may be a server's doing: it does not get as many attempts as it likes. */
#define MAX_CRASHES 10

static const char *name_of(const struct boot_storage *storage, char *out_text, size_t size)
{
    return block_uri_for_people(storage->process.uri, out_text, size);
}

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

/* The VM gets the connection as a message. */
static int hand_over(const struct boot_storage *storage, int connection)
{
    ssize_t sent = pass_fd_send(storage->channel, "", 1, &connection, 1, MSG_DONTWAIT);
    return sent < 0 ? -errno : 0;
}

int boot_open_remote(const struct boot_disk *disk, struct boot_files *files, int *out_fd,
                     struct error *err)
{
    struct storage_process process = {.uri = disk->path,
                                      .is_readonly = disk->is_readonly,
                                      .has_reconnect = disk->has_reconnect,
                                      .reconnect_s = disk->reconnect_s};
    if (files->is_for_running_vm) {
        AUTO_CLOSE int log_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
        process.log_fd = log_fd;
        return storage_keeper_start(&process, out_fd, err);
    }
    return boot_storage_open(&process, files, out_fd, err);
}

int boot_storage_open(const struct storage_process *process, struct boot_files *files, int *out_fd,
                      struct error *err)
{
    int pair[2];
    if (files->storage_count == BOOT_MAX_STORAGES) {
        return error_set(err, E2BIG, "too many remote disks: at most %d", BOOT_MAX_STORAGES);
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        return error_set_errno(err, errno, "making a socket pair");
    }
    struct boot_storage *storage = &files->storage[files->storage_count++];
    *storage = (struct boot_storage){
        .process = *process,
        .channel = pair[0],
        .ready_fd = -1,
        .connection = -1,
        .started_ns = clock_monotonic_ns(),
    };
    AUTO_CLOSE int vm_channel = pair[1];
    AUTO_CLOSE int connection = -1;
    int rc = storage_process_start(&storage->process, &connection, &storage->pid, err);
    if (rc == 0) {
        rc = hand_over(storage, connection);
        rc = rc < 0 ? error_set_errno(err, -rc, "handing over a connection") : 0;
    }
    if (rc == 0) {
        *out_fd = TAKE_FD(vm_channel);
    }
    return rc;
}

/* The VM has closed the disk, or has ended. */
static bool is_unwanted(const struct boot_storage *storage)
{
    struct pollfd channel = {.fd = storage->channel};
    return storage->channel < 0 ||
           (poll(&channel, 1, 0) > 0 && (channel.revents & (POLLHUP | POLLERR)) != 0);
}

static void plan_start(struct boot_storage *storage)
{
    uint64_t now = clock_monotonic_ns();
    if (now - storage->started_ns >= LONG_LIFE_NS) {
        storage->pause_ns = 0;
        storage->crashes = 0;
    }
    storage->next_start_ns = now + storage->pause_ns;
    storage->pause_ns = MIN(MAX(2 * storage->pause_ns, FIRST_PAUSE_NS), LONGEST_PAUSE_NS);
}

static void ended(struct boot_storage *storage, int wait_status)
{
    char name[256];
    bool was_serving = storage->ready_fd < 0;
    storage->pid = 0;
    if (is_unwanted(storage)) {
        close_fd(&storage->ready_fd);
        close_fd(&storage->connection);
        close_fd(&storage->channel);
        return;
    }
    plan_start(storage);
    (void)name_of(storage, name, sizeof(name));
    if (WIFSIGNALED(wait_status) && ++storage->crashes > MAX_CRASHES) {
        storage->next_start_ns = 0;
        (void)fprintf(stderr,
                      "hull: disk %s: hull-storage has ended too often: it is not started again\n",
                      name);
        close_fd(&storage->channel);
    } else if (was_serving && WIFSIGNALED(wait_status)) {
        (void)fprintf(stderr, "hull: disk %s: hull-storage ended by signal %d: starting it again\n",
                      name, WTERMSIG(wait_status));
    } else if (was_serving) {
        (void)fprintf(stderr, "hull: disk %s: hull-storage has ended: starting it again\n", name);
    }
}

void boot_storage_reap(struct boot_files *files)
{
    for (unsigned i = 0; i < files->storage_count; i++) {
        struct boot_storage *storage = &files->storage[i];
        int status;
        if (storage->pid > 0 && waitpid(storage->pid, &status, WNOHANG) == storage->pid) {
            ended(storage, status);
        }
    }
}

static void start_again(struct boot_storage *storage)
{
    struct error err;
    storage->next_start_ns = 0;
    storage->started_ns = clock_monotonic_ns();
    close_fd(&storage->ready_fd);
    close_fd(&storage->connection);
    if (is_unwanted(storage)) {
        close_fd(&storage->channel);
        return;
    }
    if (storage_process_spawn(&storage->process, &storage->connection, &storage->ready_fd,
                              &storage->pid, &err) < 0) {
        (void)fprintf(stderr, "hull: %s\n", err.text);
        plan_start(storage);
    }
}

/* It has said that it serves, or why not: then it ends. */
static void take_word(struct boot_storage *storage)
{
    struct error err;
    int rc = storage_process_await(&storage->process, storage->ready_fd, &err);
    close_fd(&storage->ready_fd);
    if (rc == 0) {
        (void)hand_over(storage, storage->connection); /* in vain where the VM has ended */
        storage->was_told = false;
    } else {
        if (!storage->was_told) {
            (void)fprintf(stderr, "hull: %s\n", err.text);
        }
        storage->was_told = true;
        storage->ready_fd = -1;
        if (storage->pid > 0) {
            (void)kill(storage->pid, SIGKILL); /* not waited for yet, so it is still ours */
            (void)waitpid(storage->pid, NULL, 0);
            storage->pid = 0;
            plan_start(storage);
        }
    }
    close_fd(&storage->connection);
}

unsigned boot_storage_poll(const struct boot_files *files, struct pollfd *out_fds)
{
    for (unsigned i = 0; i < files->storage_count; i++) {
        out_fds[i] = (struct pollfd){.fd = files->storage[i].ready_fd, .events = POLLIN};
    }
    return files->storage_count;
}

void boot_storage_serve(struct boot_files *files, const struct pollfd *fds, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct boot_storage *storage = &files->storage[i];
        if (fds[i].revents != 0 && storage->ready_fd >= 0 && storage->ready_fd == fds[i].fd) {
            take_word(storage);
        }
        if (storage->next_start_ns != 0 && clock_monotonic_ns() >= storage->next_start_ns) {
            start_again(storage);
        }
    }
}

uint64_t boot_storage_deadline(const struct boot_files *files)
{
    uint64_t deadline = 0;
    for (unsigned i = 0; i < files->storage_count; i++) {
        uint64_t next = files->storage[i].next_start_ns;
        deadline = next != 0 && (deadline == 0 || next < deadline) ? next : deadline;
    }
    return deadline;
}

void boot_end_storage(struct boot_files *files)
{
    uint64_t end = clock_monotonic_ns() + END_NS;
    for (unsigned i = 0; i < files->storage_count; i++) {
        struct boot_storage *storage = &files->storage[i];
        close_fd(&storage->channel);
        close_fd(&storage->connection);
        close_fd(&storage->ready_fd);
        if (storage->pid == 0) {
            continue;
        }
        uint64_t now = clock_monotonic_ns();
        AUTO_CLOSE int fd = (int)syscall(SYS_pidfd_open, storage->pid, 0);
        struct pollfd ended = {.fd = fd, .events = POLLIN};
        if (fd < 0 || poll(&ended, 1, now < end ? (int)((end - now) / 1000000) : 0) <= 0) {
            (void)kill(storage->pid, SIGKILL); /* not waited for yet, so it is still ours */
        }
        (void)waitpid(storage->pid, NULL, 0);
    }
    files->storage_count = 0;
}
