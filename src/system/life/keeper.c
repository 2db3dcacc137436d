/* hull-ct-keeper: one beside each running system container. */
#include "system/life/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "container/descriptor.h"
#include "container/runtime/fault.h"
#include "container/runtime/loaded.h"
#include "container/runtime/protect.h"
#include "container/runtime/runtime.h"
#include "container/runtime/shrink.h"
#include "system/layers/layers.h"
#include "system/life/console.h"
#include "system/life/document.h"
#include "system/life/files.h"
#include "system/life/internal.h"
#include "system/life/notify.h"
#include "system/network/network.h"
#include "system/rootless/rootless.h"
#include "system/views/views.h"

#define MAX_START (4u << 20)
/* A container that ends as quickly as this after a reboot, so many times in a row, is not started again. */
#define QUICK_END_S    10
#define MAX_QUICK_ENDS 5
#define MAX_ROOT       (PATH_MAX - 64)
/* After so long a container has booted: its keeper has less to do, and gives back what it needed meanwhile. */
#define BOOTED_MS 10000

struct keeper {
    struct store store;
    const char *name;
    char folder[PATH_MAX], bundle[PATH_MAX], root[PATH_MAX], log_path[PATH_MAX];
    char oci[PATH_MAX];
    char images[PATH_MAX]; /* of the checkpoint to go on from; "": none */
    json_t *start;
    struct config *config;
    struct runtime runtime;
    struct console console;
    struct notify notify;
    struct views *views;  /* NULL: the host has no FUSE */
    struct loaded loaded; /* while it runs */
    pid_t pid;
    int pidfd;
    int report; /* -1: has been said */
    bool is_users;
    bool has_plain_init; /* in place of systemd */
    int network;         /* the container's namespace, where a switch has to be left; -1 */
};

/* Tells the one who waits for the start. */
static void report(struct keeper *k, const struct error *err)
{
    json_t *line = err == NULL ? json_pack("{s:i}", "pid", (int)k->pid)
                               : json_pack("{s:s, s:i}", "error", err->text, "code", err->code);
    char *text = json_dumps(line, JSON_COMPACT);
    if (k->report >= 0 && text != NULL) {
        struct error ignored;
        error_ignore(file_write_all(k->report, text, strlen(text), "the report", &ignored));
    } else if (err != NULL) {
        (void)fprintf(stderr, "hull-ct-keeper: %s\n", err->text);
    }
    if (k->report >= 0) {
        close(k->report);
        k->report = -1;
    }
    free(text);
    json_decref(line);
}

static const char *text_of(const struct keeper *k, const char *key)
{
    const char *text = json_string_value(json_object_get(k->start, key));
    return text != NULL ? text : "";
}

static int read_start(struct keeper *k, struct error *err)
{
    char path[PATH_MAX];
    store_keeper_path(&k->store, k->name, KEEPER_START, path);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return error_set_errno(err, errno, "opening %s", path);
    }
    AUTO_FREE void *text = NULL;
    size_t size;
    int rc = file_read_whole(fd, MAX_START, path, &text, &size, err);
    if (rc < 0) {
        return rc;
    }
    json_error_t bad;
    k->start = json_loadb(text, size, JSON_REJECT_DUPLICATES, &bad);
    if (k->start == NULL) {
        return error_set(err, EINVAL, "%s: %s", path, bad.text);
    }
    rc = config_from_json(json_object_get(k->start, "config"), &k->config, err);
    (void)snprintf(k->store.state, sizeof(k->store.state), "%s", text_of(k, "state"));
    store_container_path(&k->store, k->name, NULL, k->folder);
    store_container_path(&k->store, k->name, CONTAINER_CONSOLE, k->log_path);
    (void)snprintf(k->images, sizeof(k->images), "%s", text_of(k, KEEPER_IMAGES));
    return rc;
}

static int mount_layers(struct keeper *k, struct error *err)
{
    const char *lower[LAYERS_MAX];
    size_t count = 0, i;
    json_t *item;
    json_array_foreach(json_object_get(k->start, "layers"), i, item)
    {
        if (count < LAYERS_MAX) {
            lower[count++] = json_string_value(item);
        }
    }
    char upper[PATH_MAX], work[PATH_MAX], disk[PATH_MAX];
    const struct layers_ids ids = {.first = k->config->first_id,
                                   .count = k->config->is_privileged ? 0 : k->config->id_count};
    store_container_path(&k->store, k->name, CONTAINER_UPPER, upper);
    store_container_path(&k->store, k->name, CONTAINER_WORK, work);
    if (json_is_true(json_object_get(k->start, "hasDisk"))) {
        char image[PATH_MAX];
        store_container_path(&k->store, k->name, CONTAINER_DISK, image);
        store_keeper_path(&k->store, k->name, KEEPER_DISK, disk);
        if (mkdir(disk, 0711) < 0 && errno != EEXIST) {
            return error_set_errno(err, errno, "making %s", disk);
        }
        int rc = layers_image_mount(image, disk, err);
        if (rc < 0) {
            return rc;
        }
        (void)snprintf(upper, sizeof(upper), "%.*s/upper", MAX_ROOT, disk);
        (void)snprintf(work, sizeof(work), "%.*s/work", MAX_ROOT, disk);
        rc = layers_make_upper(upper, work, &ids, err);
        if (rc < 0 && rc != -EEXIST) {
            return rc;
        }
    }
    const struct layers_mount request = {.lower = lower,
                                         .lower_count = count,
                                         .upper = upper,
                                         .work = work,
                                         .ids = ids,
                                         .target = k->root};
    return layers_mount(&request, err);
}

static int mount_root(struct keeper *k, struct error *err)
{
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0) {
        return error_set_errno(err, errno, "making a mount namespace");
    }
    (void)snprintf(k->root, sizeof(k->root), "%s/root/%s", k->store.run, k->name);
    if (mkdir(k->root, 0711) < 0 && errno != EEXIST) {
        return error_set_errno(err, errno, "making %s", k->root);
    }
    int rc = mount_layers(k, err);
    if (rc < 0) {
        return rc;
    }
    /* Propagated nowhere, also not to the runtime's copies. */
    if (mount(NULL, k->root, NULL, MS_PRIVATE | MS_REC, NULL) < 0) {
        return error_set_errno(err, errno, "making %s private", k->root);
    }
    const json_t *files = json_object_get(k->start, "files");
    if (json_array_size(files) == 0) {
        return 0;
    }
    rc = files_write(k->root, files, k->config->is_privileged ? 0 : k->config->first_id, err);
    char marker[PATH_MAX];
    store_container_path(&k->store, k->name, CONTAINER_WRITTEN, marker);
    AUTO_CLOSE int fd = rc == 0 ? open(marker, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (fd >= 0) {
        char given[PATH_MAX];
        store_container_path(&k->store, k->name, CONTAINER_GIVEN, given);
        (void)unlink(given);
    }
    return rc == 0 && fd < 0 ? error_set_errno(err, errno, "making %s", marker) : rc;
}

static void make_views(struct keeper *k)
{
    char target[PATH_MAX];
    struct error err;
    store_keeper_path(&k->store, k->name, KEEPER_VIEWS, target);
    if ((mkdir(target, 0755) < 0 && errno != EEXIST) || views_create(target, &k->views, &err) < 0) {
        k->views = NULL;
    }
}

/* While the runtime works, somebody has to answer for the views, which are bound to files then. */
static pid_t serve_views_meanwhile(struct keeper *k)
{
    if (k->views == NULL) {
        return -1;
    }
    pid_t parent = getpid(), pid = fork();
    if (pid != 0) {
        return pid;
    }
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct pollfd ready = {.fd = views_fd(k->views), .events = POLLIN};
    struct error err;
    while (getppid() == parent && poll(&ready, 1, -1) >= 0) {
        if (views_serve(k->views, &err) < 0) {
            break;
        }
    }
    _exit(0);
}

static void end_child(pid_t pid)
{
    if (pid > 0) {
        (void)kill(pid, SIGKILL);
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
        }
    }
}

/* A socket at which the runtime hands something over, and what it has handed over. */
static int listen_at(struct keeper *k, const char *file, char path[PATH_MAX], struct error *err)
{
    store_keeper_path(&k->store, k->name, file, path);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path)) {
        return error_set(err, ENAMETOOLONG, "%.100s...: a socket's path has at most %zu bytes",
                         path, sizeof(address.sun_path) - 1);
    }
    memcpy(address.sun_path, path, strlen(path));
    (void)unlink(path);
    AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 2) < 0
               ? error_set_errno(err, errno, "listening at %s", path)
               : TAKE_FD(fd);
}

static int create_container(struct keeper *k, struct error *err)
{
    char console[PATH_MAX];
    AUTO_CLOSE int listener = listen_at(k, KEEPER_CONSOLE, console, err);
    if (listener < 0) {
        return listener;
    }
    const struct create_options options = {.bundle = k->bundle, .console_socket = console};
    pid_t views = serve_views_meanwhile(k);
    int rc = runtime_create(&k->runtime, k->name, &options, err);
    end_child(views);
    if (rc < 0) {
        return rc;
    }
    AUTO_CLOSE int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    int master = connection >= 0 ? notify_take_fd(connection) : -1;
    if (master < 0) {
        return error_set(err, EPROTO, "the runtime has handed over no terminal");
    }
    console_set_master(&k->console, master);
    return loaded_open(&k->runtime, k->name, false, &k->loaded, err);
}

/* Out of the images. Its console is a terminal of the host then: the one that it had has ended with its other end. */
static int restore_container(struct keeper *k, struct error *err)
{
    int slave;
    AUTO_CLOSE int master =
        console_make_terminal(k->config->is_privileged ? 0 : k->config->first_id, &slave, err);
    if (master < 0) {
        return master;
    }
    const struct create_options create = {.bundle = k->bundle};
    const struct checkpoint_options options = {.image_path = k->images,
                                               .status_fd = -1,
                                               .allows_locks = true,
                                               .empty_network = true,
                                               .is_system = true,
                                               .terminal = slave};
    int status;
    pid_t views = serve_views_meanwhile(k);
    int rc = runtime_restore(&k->runtime, k->name, &create, &options, true, &status, err);
    end_child(views);
    close(slave);
    if (rc < 0) {
        return rc;
    }
    char note[PATH_MAX];
    store_container_path(&k->store, k->name, CONTAINER_CHECKPOINT, note);
    (void)unlink(note);
    console_set_master(&k->console, TAKE_FD(master));
    return loaded_open(&k->runtime, k->name, false, &k->loaded, err);
}

static int connect_network(struct keeper *k, struct error *err)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%d/ns/net", k->pid);
    AUTO_CLOSE int namespace_fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = namespace_fd < 0 ? error_set_errno(err, errno, "opening %s", path) : 0;
    bool needs_lo = k->is_users || k->images[0] != '\0';
    if (rc == 0 && needs_lo && k->config->card_count == 0) {
        rc = network_plug_card(NULL, k->name, namespace_fd, err);
    }
    for (size_t i = 0; rc == 0 && i < k->config->card_count; i++) {
        struct network_card card = k->config->cards[i];
        char host_name[IFNAMSIZ];
        if (card.switch_path != NULL) {
            k->network = k->network < 0 ? fcntl(namespace_fd, F_DUPFD_CLOEXEC, 3) : k->network;
            rc = network_plug_card(&card, k->name, namespace_fd, err);
            continue;
        }
        document_host_name(&k->store, k->name, i, host_name);
        card.host_name = host_name;
        rc = network_detach_card(host_name, err); /* of a keeper that was killed */
        rc = rc < 0 ? rc : network_attach_card(&card, namespace_fd, err);
    }
    return rc;
}

/* Removes what a container of this name has left on the host, but for the keeper's own. */
static void remove_container(struct keeper *k)
{
    struct error err;
    if (k->pidfd >= 0) {
        close(k->pidfd);
        k->pidfd = -1;
    }
    if (k->network >= 0) {
        network_unplug_cards(k->config->cards, k->config->card_count, k->network);
        close(k->network);
        k->network = -1;
    }
    if (k->loaded.state.data != NULL) {
        loaded_close(&k->loaded);
        k->loaded = (struct loaded){0};
    }
    if (runtime_delete(&k->runtime, k->name, true, &err) < 0) {
        (void)fprintf(stderr, "hull-ct-keeper: %s\n", err.text);
    }
    /* Its network devices go with its network namespace, in the kernel's time. */
}

/* A user's container has what its host gives him of control groups: limits that were asked for are there, or it is told what is
 * missing. systemd needs one of its own; where there is none another init takes its place, and the container is made again. */
static int check_groups(struct keeper *k, struct error *err)
{
    int rc = users_check_limits(k->config, json_object_get(k->loaded.state.data, "degraded"), err);
    AUTO_HANDLE int group = cgroup_open_unified(k->loaded.cgroup);
    if (rc < 0 || group >= 0) {
        return rc;
    }
    if (!k->has_plain_init && k->config->init[0] == NULL &&
        files_stop_signal(k->root) == SIGRTMIN + 3) {
        remove_container(k);
        rc = users_take_plain_init(k->bundle, err);
        rc = rc < 0 ? rc : create_container(k, err);
        k->has_plain_init = rc == 0;
    }
    if (rc < 0) {
        return rc;
    }
    users_tell_lack(k->loaded.state.data, k->has_plain_init);
    return state_save(&k->loaded.state, err);
}

static int run_container(struct keeper *k, struct error *err)
{
    bool restores = k->images[0] != '\0';
    int rc = restores ? restore_container(k, err) : create_container(k, err);
    if (rc < 0) {
        return rc;
    }
    fault_step("keeper-created");
    rc = k->is_users ? check_groups(k, err) : 0;
    if (rc < 0) {
        return rc;
    }
    k->pid = k->loaded.state.pid;
    k->pidfd = state_open_process(&k->loaded.state);
    rc = k->pidfd < 0 ? error_set(err, ESRCH, "the container's process has ended") : 0;
    rc = rc < 0 ? rc : connect_network(k, err);
    fault_step("keeper-connected");
    if (rc == 0 && k->views != NULL) {
        rc = views_start(k->views, k->loaded.cgroup, k->pid, err);
    }
    rc = rc < 0 || restores ? rc : runtime_start(&k->runtime, k->name, err);
    k->images[0] = '\0';
    fault_step("keeper-started");
    return rc;
}

/* The sooner of the views' time and of that to shrink at (-1: never), as poll wants it. */
static int poll_timeout(const struct keeper *k, int64_t shrink_at)
{
    int timeout = k->views != NULL ? views_timeout_ms(k->views) : -1;
    if (shrink_at < 0) {
        return timeout;
    }
    int64_t left = shrink_at - clock_monotonic_ms();
    left = left < 0 ? 0 : left;
    return timeout < 0 || left < timeout ? (int)left : timeout;
}

/* Until the container's first process has ended; its status as waitpid has it. */
static int keep(struct keeper *k)
{
    int64_t shrink_at = clock_monotonic_ms() + BOOTED_MS;
    shrink(); /* what making a container took */
    for (;;) {
        struct pollfd polled[CONSOLE_POLL + NOTIFY_POLL + 2];
        console_poll(&k->console, polled);
        struct pollfd *notified = polled + CONSOLE_POLL, *own = notified + NOTIFY_POLL;
        notify_poll(&k->notify, notified);
        own[0] = (struct pollfd){.fd = k->pidfd, .events = POLLIN};
        own[1] =
            (struct pollfd){.fd = k->views != NULL ? views_fd(k->views) : -1, .events = POLLIN};
        if (poll(polled, ARRAY_COUNT(polled), poll_timeout(k, shrink_at)) < 0 && errno != EINTR) {
            break;
        }
        if (shrink_at >= 0 && clock_monotonic_ms() >= shrink_at) {
            shrink_at = -1;
            shrink();
        }
        struct error err;
        console_serve(&k->console, polled);
        if (own[1].revents != 0 && views_serve(k->views, &err) < 0) {
            views_destroy(k->views);
            k->views = NULL;
        }
        notify_serve(&k->notify, notified, k->views);
        if (k->views != NULL && views_timeout_ms(k->views) == 0) {
            views_tick(k->views);
        }
        if (own[0].revents != 0) {
            break;
        }
    }
    console_drain(&k->console);
    int status = 0;
    while (waitpid(k->pid, &status, 0) < 0 && errno == EINTR) {
    }
    return status;
}

/* pid_namespaces(7): reboot(2) in a pid namespace has its init killed by SIGHUP for a restart, by SIGINT for a halt. */
static bool wants_restart(int status)
{
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGHUP;
}

/* Before anybody can see that it does not run any more. */
static void note_end(const struct keeper *k, int status)
{
    char path[PATH_MAX], line[32];
    struct error err;
    store_keeper_path(&k->store, k->name, KEEPER_STOPPING, path);
    if (access(path, F_OK) == 0) {
        return;
    }
    (void)snprintf(line, sizeof(line), WIFSIGNALED(status) ? "signal %d\n" : "exit %d\n",
                   WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    store_ended_path(&k->store, k->name, path);
    if (file_replace(path, line, 0600, false, &err) < 0) {
        (void)fprintf(stderr, "hull-ct-keeper: %s\n", err.text);
    }
}

static int live(struct keeper *k, struct error *err)
{
    for (unsigned quick = 0;;) {
        struct timespec began, ended;
        (void)clock_gettime(CLOCK_MONOTONIC, &began);
        int rc = run_container(k, err);
        if (rc < 0) {
            remove_container(k);
            return rc;
        }
        report(k, NULL);
        int status = keep(k);
        fault_step("keeper-ended");
        notify_reset(&k->notify);
        console_set_master(&k->console, -1);
        remove_container(k);
        fault_step("keeper-removed");
        (void)clock_gettime(CLOCK_MONOTONIC, &ended);
        quick = ended.tv_sec - began.tv_sec < QUICK_END_S ? quick + 1 : 0;
        if (!wants_restart(status) || quick == MAX_QUICK_ENDS) {
            note_end(k, status);
            return 0;
        }
    }
}

/* What is the keeper's own on the host. Mounts go with its namespace. */
static void clean(struct keeper *k)
{
    static const char *const files[] = {KEEPER_START,   KEEPER_CONFIG,   KEEPER_SOCKET,
                                        KEEPER_CONSOLE, KEEPER_LISTENER, KEEPER_LOG,
                                        KEEPER_STILL,   KEEPER_STOPPING};
    static const char *const folders[] = {KEEPER_VIEWS, KEEPER_DISK};
    char path[PATH_MAX];
    (void)umount2(k->root, MNT_DETACH);
    (void)rmdir(k->root);
    for (size_t i = 0; i < ARRAY_COUNT(folders); i++) {
        store_keeper_path(&k->store, k->name, folders[i], path);
        (void)umount2(path, MNT_DETACH);
        (void)rmdir(path);
    }
    for (size_t i = 0; i < ARRAY_COUNT(files); i++) {
        store_keeper_path(&k->store, k->name, files[i], path);
        (void)unlink(path);
    }
    store_keeper_path(&k->store, k->name, KEEPER_LOCK, path);
    (void)unlink(path);
    store_keeper_path(&k->store, k->name, NULL, path);
    (void)rmdir(path);
}

static int prepare(struct keeper *k, struct error *err)
{
    int rc = read_start(k, err);
    if (rc < 0) {
        return rc;
    }
    fault_step("keeper-locked");
    char path[PATH_MAX];
    (void)snprintf(k->oci, sizeof(k->oci), "%s/oci", k->store.run);
    k->is_users = !rootless_is_host_root();
    /* Until it ends: closed by nobody. */
    (void)rootless_need(k->store.run);
    k->runtime = (struct runtime){.root = k->oci,
                                  .manager = CGROUP_MANAGER_FILES,
                                  .is_rootless = k->is_users,
                                  .may_halt = k->is_users};
    store_keeper_path(&k->store, k->name, NULL, k->bundle);
    store_keeper_path(&k->store, k->name, KEEPER_SOCKET, path);
    rc = console_open(&k->console, path, k->log_path, err);
    if (rc == 0) {
        int listener = listen_at(k, KEEPER_LISTENER, path, err);
        rc = listener < 0 ? listener : 0;
        notify_init(&k->notify, listener);
    }
    fault_step("keeper-listens");
    rc = rc < 0 ? rc : mount_root(k, err);
    fault_step("keeper-mounted");
    if (rc == 0) {
        make_views(k);
        json_decref(k->start); /* all of it has been read */
        k->start = NULL;
    }
    fault_step("keeper-views");
    return rc;
}

static void ignore_signals(void)
{
    const int ignored[] = {SIGHUP, SIGINT, SIGPIPE, SIGTERM, SIGQUIT, SIGUSR1, SIGUSR2};
    for (size_t i = 0; i < ARRAY_COUNT(ignored); i++) {
        (void)signal(ignored[i], SIG_IGN); /* it ends with its container */
    }
    sigset_t none;
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

int keeper_main(int argc, char **argv)
{
    static struct keeper keeper; /* too large for a stack of a small process */
    struct keeper *k = &keeper;
    struct error err = {0};
    if (argc == 2 && strcmp(argv[1], "--hold") == 0) {
        return rootless_hold_main();
    }
    if (argc != 3 || strlen(argv[1]) >= sizeof(k->store.run) ||
        store_check_name("container", argv[2], &err) < 0) {
        (void)fputs("hull-ct-keeper: is started by `hull ct start`\n", stderr);
        return 1;
    }
    k->name = argv[2];
    (void)snprintf(k->store.run, sizeof(k->store.run), "%s", argv[1]);
    k->pidfd = k->network = -1;
    k->console = (struct console){.listener = -1, .master = -1, .slave = -1, .log = -1};
    k->report = KEEPER_REPORT_FD;
    (void)umask(022);
    ignore_signals();
    int rc = protect_program(argv, &err);
    (void)fcntl(k->report, F_SETFD, FD_CLOEXEC); /* which has executed it again */
    (void)fcntl(KEEPER_LOCK_FD, F_SETFD, FD_CLOEXEC);
    rc = rc < 0 ? rc : prepare(k, &err);
    rc = rc < 0 ? rc : live(k, &err);
    if (rc < 0) {
        report(k, &err);
    }
    clean(k);
    console_close(&k->console); /* the end, for those who watch */
    return rc < 0 ? 1 : 0;
}
