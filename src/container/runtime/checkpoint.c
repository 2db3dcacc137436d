/* checkpoint: the container's processes become files. */
#include "container/runtime/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/runtime/files.h"
#include "container/runtime/loaded.h"
#include "container/runtime/preflight.h"

#define DUMP_LOG    "dump.log"
#define SLAVE_MAJOR 136 /* Documentation/admin-guide/devices.txt: 136 to 143, 256 terminals each */

const char *checkpoint_work_path(const struct checkpoint_options *options)
{
    return options->work_path != NULL ? options->work_path : options->image_path;
}

int checkpoint_make_folder(const char *path, const char *option, struct error *err)
{
    return mkdir(path, 0700) < 0 && errno != EEXIST
               ? error_set_errno(err, errno, "%s: making %s", option, path)
               : 0;
}

/* criu keeps packets away from the container by iptables, or by nftables where that is not installed. */
static bool has_iptables(void)
{
    static const char *const paths[] = {"/usr/sbin/iptables-restore", "/sbin/iptables-restore",
                                        "/usr/bin/iptables-restore"};
    bool is_there = false;
    for (size_t i = 0; i < ARRAY_COUNT(paths); i++) {
        is_there |= access(paths[i], X_OK) == 0;
    }
    return is_there;
}

void checkpoint_add_common(struct criu_words *words, const struct checkpoint_options *options,
                           const char *root, const char *log)
{
    const struct {
        bool is_wanted;
        const char *word;
    } flags[] = {
        {options->allows_tcp, "--tcp-established"}, {options->allows_unix, "--ext-unix-sk"},
        {options->is_shell_job, "--shell-job"},     {options->allows_locks, "--file-locks"},
        {options->dedups, "--auto-dedup"},
    };
    const struct {
        const char *word, *value;
    } pairs[] = {
        {"--images-dir", options->image_path},
        {"--work-dir", checkpoint_work_path(options)},
        {"--log-file", log},
        {"--root", root},
        /* A system container has no connections when it is written, and no network when it is made again. */
        {"--network-lock", options->is_system ? "skip"
                           : has_iptables()   ? "iptables"
                                              : "nftables"},
        {"--lsm-profile", options->lsm_profile},
        {"--lsm-mount-context", options->lsm_mount_context},
    };
    criu_add(words, "-v4");
    for (size_t i = 0; i < ARRAY_COUNT(pairs); i++) {
        if (pairs[i].value != NULL) {
            criu_add(words, "%s", pairs[i].word);
            criu_add(words, "%s", pairs[i].value);
        }
    }
    for (size_t i = 0; i < ARRAY_COUNT(flags); i++) {
        if (flags[i].is_wanted) {
            criu_add(words, "%s", flags[i].word);
        }
    }
    if (options->empty_network) {
        criu_add(words, "--empty-ns");
        criu_add(words, "net");
    }
}

/* Where the source of a mount is on the host, if it comes from there: devices, and what the configuration binds. */
static bool find_source(const struct spec *spec, const char *point, const char *type,
                        const char *root, char *out, size_t size)
{
    if (strcmp(type, "devtmpfs") == 0 && strcmp(root, "/") != 0) {
        (void)snprintf(out, size, "/dev%s", root); /* also what covers masked files */
        return true;
    }
    for (size_t i = spec->mount_count; i-- > 0;) {
        const struct spec_mount *mount = &spec->mounts[i];
        size_t length = strlen(mount->destination);
        while (length > 1 && mount->destination[length - 1] == '/') {
            length--;
        }
        bool is_it = strncmp(point, mount->destination, length) == 0 &&
                     (point[length] == '\0' ||
                      (point[length] == '/' && mount->is_recursive_bind && length > 1));
        if (is_it && mount->is_bind && mount->source != NULL) {
            return snprintf(out, size, "%s%s", mount->source, point + length) < (int)size;
        }
    }
    return false;
}

/* Where the host has a control group that is mounted in the container: below a mount of the same hierarchy. */
static bool find_group(const char *device, const char *root, char *out, size_t size)
{
    FILE *list = fopen("/proc/self/mountinfo", "re");
    AUTO_FREE char *line = NULL;
    size_t room = 0;
    bool is_found = false;
    while (list != NULL && !is_found && getline(&line, &room, list) >= 0) {
        char its_device[32], its_root[PATH_MAX], point[PATH_MAX];
        if (sscanf(line, "%*s %*s %31s %4095s %4095s", its_device, its_root, point) == 3 &&
            strcmp(its_device, device) == 0 && strcmp(its_root, "/") == 0) {
            is_found = snprintf(out, size, "%s%s", point, root) < (int)size;
        }
    }
    if (list != NULL) {
        (void)fclose(list);
    }
    return is_found;
}

/* A system container's mounts that the runtime has made, and only the host can make again. */
static bool find_system_source(const char *point, const char *type, const char *device,
                               const char *root, char *out, size_t size, json_t *outside)
{
    unsigned device_major, device_minor, number;
    if (strncmp(type, "cgroup", 6) == 0) {
        return find_group(device, root, out, size);
    }
    if (strcmp(type, "devpts") != 0 || strcmp(point, CHECKPOINT_CONSOLE) != 0 ||
        sscanf(root, "/%u", &number) != 1 ||
        sscanf(device, "%u:%u", &device_major, &device_minor) != 2) {
        return false;
    }
    json_object_set_new(
        outside, CHECKPOINT_TERMINAL,
        json_sprintf("tty[%llx:%llx]",
                     (unsigned long long)makedev(SLAVE_MAJOR + number / 256, number % 256),
                     (unsigned long long)makedev(device_major, device_minor)));
    (void)snprintf(out, size, "%s", CHECKPOINT_CONSOLE); /* the new terminal, at restore */
    return true;
}

/* proc(5), mountinfo: octal escapes of blanks and their like. */
static void unescape(char *text)
{
    char *to = text;
    for (const char *from = text; *from != '\0'; to++) {
        unsigned code;
        if (from[0] == '\\' && sscanf(from + 1, "%3o", &code) == 1) {
            *to = (char)code;
            from += 4;
        } else {
            *to = *from++;
        }
    }
    *to = '\0';
}

/* {mount point: source}, and the numbers of all mounts of the container in 'ids'. */
static int list_mounts(const struct loaded *loaded, const struct spec *spec, bool is_system,
                       json_t *outside, json_t *ids, struct error *err)
{
    char path[64], source[2 * PATH_MAX];
    (void)snprintf(path, sizeof(path), "/proc/%d/mountinfo", (int)loaded->state.pid);
    FILE *list = fopen(path, "re");
    if (list == NULL) {
        return error_set_errno(err, errno, "reading the mounts of container %s", loaded->state.id);
    }
    json_t *mounts = json_object_get(outside, "mounts");
    AUTO_FREE char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, list) >= 0) {
        char id[16], device[32], root[PATH_MAX], point[PATH_MAX], type[64];
        const char *rest = strstr(line, " - ");
        if (rest == NULL ||
            sscanf(line, "%15s %*s %31s %4095s %4095s", id, device, root, point) != 4 ||
            sscanf(rest, " - %63s", type) != 1) {
            continue;
        }
        unescape(root);
        unescape(point);
        json_object_set_new(ids, id, json_true());
        if (find_source(spec, point, type, root, source, sizeof(source)) ||
            (is_system &&
             find_system_source(point, type, device, root, source, sizeof(source), outside))) {
            json_object_set_new(mounts, point, json_string(source));
        }
    }
    (void)fclose(list);
    return 0;
}

/* What the first process has as standard input, output and error, as criu names it; null where it is the container's own. */
static json_t *describe_stream(const struct loaded *loaded, int fd, const json_t *mount_ids)
{
    char path[64], target[PATH_MAX], id[16] = "";
    (void)snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)loaded->state.pid, fd);
    ssize_t size = readlink(path, target, sizeof(target) - 1);
    struct stat info;
    if (size < 0 || stat(path, &info) < 0) {
        return json_null();
    }
    target[size] = '\0';
    if (strncmp(target, "pipe:[", 6) == 0 || strncmp(target, "socket:[", 8) == 0) {
        return json_string(target);
    }
    (void)snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", (int)loaded->state.pid, fd);
    FILE *list = fopen(path, "re");
    char line[128];
    while (list != NULL && fgets(line, sizeof(line), list) != NULL) {
        (void)sscanf(line, "mnt_id: %15s", id);
    }
    if (list != NULL) {
        (void)fclose(list);
    }
    if (target[0] != '/' || id[0] == '\0' || json_object_get(mount_ids, id) != NULL) {
        return json_null();
    }
    return json_sprintf("file[%lx:%llx]", strtoul(id, NULL, 10), (unsigned long long)info.st_ino);
}

/* A network namespace of the container that others have made. */
static void add_network(const struct loaded *loaded, const struct spec *spec, json_t *outside,
                        struct criu_words *words)
{
    const struct spec_namespace *network = spec_find_namespace(spec, CLONE_NEWNET);
    char path[64];
    struct stat info;
    (void)snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)loaded->state.pid);
    if (network != NULL && network->path != NULL && stat(path, &info) == 0) {
        json_object_set_new(outside, "network", json_true());
        criu_add(words, "--external");
        criu_add(words, "net[%llu]:" CHECKPOINT_NETWORK, (unsigned long long)info.st_ino);
    }
}

/* Everything that comes from outside, as arguments and as a file for restore. */
static int describe_outside(const struct loaded *loaded, const struct spec *spec,
                            const struct checkpoint_options *options, struct criu_words *words,
                            struct error *err)
{
    json_t *mounts = json_object(), *ids = json_object(), *streams = json_array();
    json_t *outside = json_pack("{s:o, s:o}", "mounts", mounts, "streams", streams);
    int rc = list_mounts(loaded, spec, options->is_system, outside, ids, err);
    const char *point;
    json_t *unused;
    json_object_foreach(mounts, point, unused)
    {
        criu_add(words, "--external");
        criu_add(words, "mnt[%s]:%s", point, point);
    }
    for (int fd = 0; fd < CHECKPOINT_STREAMS; fd++) {
        json_t *stream = describe_stream(loaded, fd, ids);
        const char *name = json_string_value(stream);
        if (name != NULL && strncmp(name, "file[", 5) == 0) {
            criu_add(words, "--external");
            criu_add(words, "%s", name);
        }
        json_array_append_new(streams, stream);
    }
    const char *terminal = json_string_value(json_object_get(outside, CHECKPOINT_TERMINAL));
    if (terminal != NULL) {
        criu_add(words, "--external");
        criu_add(words, "%s", terminal);
    }
    add_network(loaded, spec, outside, words);
    AUTO_FREE char *text = json_dumps(outside, JSON_COMPACT);
    json_decref(outside);
    json_decref(ids);
    AUTO_CLOSE int folder = open(options->image_path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (rc == 0 && (text == NULL || folder < 0)) {
        rc = error_set_errno(err, text == NULL ? ENOMEM : errno, "--image-path: opening %s",
                             options->image_path);
    }
    return rc < 0 ? rc : files_write_at(folder, CHECKPOINT_FILE, text, strlen(text), err);
}

static void add_dump_words(struct criu_words *words, const struct loaded *loaded,
                           const struct checkpoint_options *options)
{
    static const char *const modes[] = {"soft", "full", "strict", "ignore"};
    criu_add(words, "criu");
    criu_add(words, "%s", options->is_pre_dump ? "pre-dump" : "dump");
    criu_add(words, "--tree");
    criu_add(words, "%d", (int)loaded->state.pid);
    checkpoint_add_common(words, options, state_string(&loaded->state, "rootfs"), DUMP_LOG);
    criu_add(words, "--manage-cgroups=%s", modes[options->cgroups]);
    if (options->parent_path != NULL) {
        criu_add(words, "--prev-images-dir");
        criu_add(words, "%s", options->parent_path);
    }
    if (options->is_pre_dump || options->parent_path != NULL) {
        criu_add(words, "--track-mem");
    }
    if (options->leaves_running) {
        criu_add(words, "--leave-running");
    }
    if (options->leaves_stopped) {
        criu_add(words, "--leave-stopped");
    }
    if (options->is_lazy) {
        criu_add(words, "--lazy-pages");
    }
    if (options->page_server_address != NULL) {
        criu_add(words, "--page-server");
        criu_add(words, "--address");
        criu_add(words, "%s", options->page_server_address);
        criu_add(words, "--port");
        criu_add(words, "%u", options->page_server_port);
    }
    if (options->status_fd >= 0) {
        criu_add(words, "--status-fd");
        criu_add(words, "%d", options->status_fd);
    }
}

static int check(const struct loaded *loaded, const struct spec *spec,
                 const struct checkpoint_options *options, struct error *err)
{
    const char *id = loaded->state.id;
    if (loaded->status != CONTAINER_RUNNING) {
        return error_set(err, EINVAL, "cannot checkpoint container %s: it is %s, not running", id,
                         container_status_name(loaded->status));
    }
    if (spec->has_process && spec->process.has_terminal && !options->is_system) {
        return error_set(
            err, EOPNOTSUPP,
            "cannot checkpoint container %s: it has a terminal, whose other end is outside", id);
    }
    if (loaded->cgroup == NULL) {
        return error_set(err, EOPNOTSUPP, "cannot checkpoint container %s: it has no cgroup", id);
    }
    const struct preflight_options preflight = {.allows_tcp = options->allows_tcp,
                                                .allows_locks = options->allows_locks,
                                                .is_system = options->is_system};
    int rc = preflight_check(loaded, &preflight, err);
    return rc < 0 ? rc : criu_check(err);
}

static int dump(const struct loaded *loaded, const struct spec *spec,
                const struct checkpoint_options *options, struct error *err)
{
    const char *work = checkpoint_work_path(options);
    int rc = checkpoint_make_folder(options->image_path, "--image-path", err);
    rc = rc < 0 ? rc : checkpoint_make_folder(work, "--work-path", err);
    if (rc < 0) {
        return rc;
    }
    char log[PATH_MAX];
    (void)snprintf(log, sizeof(log), "%s/" DUMP_LOG, work);
    struct criu_words words = {0};
    add_dump_words(&words, loaded, options);
    rc = describe_outside(loaded, spec, options, &words, err);
    const struct criu_run run = {.words = &words, .log = log};
    rc = rc < 0 ? rc : criu_run(&run, err);
    criu_words_free(&words);
    return rc < 0 ? error_prefix(err, rc, "cannot checkpoint container %s", loaded->state.id) : 0;
}

int runtime_checkpoint(const struct runtime *runtime, const char *id,
                       const struct checkpoint_options *options, struct error *err)
{
    struct loaded loaded;
    int rc = loaded_open(runtime, id, true, &loaded, err);
    if (rc < 0) {
        return rc;
    }
    struct spec *spec = NULL;
    rc = loaded_spec(&loaded, &spec, err);
    rc = rc < 0 ? rc : check(&loaded, spec, options, err);
    rc = rc < 0 ? rc : dump(&loaded, spec, options, err);
    spec_destroy(spec);
    loaded_close(&loaded);
    /* Its processes have ended: as with runc the container goes, too. */
    bool is_over =
        rc == 0 && !options->leaves_running && !options->leaves_stopped && !options->is_pre_dump;
    return is_over ? runtime_delete(runtime, id, true, err) : rc;
}
