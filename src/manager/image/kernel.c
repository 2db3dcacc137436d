#include "manager/image/kernel.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "base/core/compiler.h"
#include "base/host/file.h"
#include "manager/image/suite.h"
#include "manager/image/tool.h"
#include "system/layers/layers.h"

#define POLL_NS       100000000
#define PACKAGE_START "linux-image-"

static const char *const metapackages[] = {"linux-image-cloud-amd64", "linux-image-amd64"};

static void in_cache(const struct job *job, const char *name, char out_path[PATH_MAX])
{
    (void)snprintf(out_path, PATH_MAX, "%s/kernels%s%s", job->place.cache,
                   name[0] != '\0' ? "/" : "", name);
}

static bool is_version(const char *text)
{
    size_t length =
        strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.+-~_");
    return length > 0 && length < 80 && text[length] == '\0' && isdigit((unsigned char)text[0]);
}

/* The version that a metapackage stands for: "  Depends: linux-image-6.1.0-18-cloud-amd64". */
static int newest_known(struct job *job, const char *config, char out_package[96],
                        struct error *err)
{
    for (size_t i = 0; i < ARRAY_COUNT(metapackages); i++) {
        const char *const argv[] = {"env",         config,          "apt-cache", "depends",
                                    "--important", metapackages[i], NULL};
        const struct tool tool = {.package = "apt", .argv = argv};
        AUTO_FREE char *text = NULL;
        int rc = tool_read(job, &tool, &text, err);
        if (rc == -ECANCELED || rc == -ENOENT) {
            return rc;
        }
        char *save = NULL;
        char *line = rc == 0 ? strtok_r(text, "\n", &save) : NULL;
        for (; line != NULL; line = strtok_r(NULL, "\n", &save)) {
            char *name = strstr(line, PACKAGE_START);
            if (strstr(line, "Depends:") != NULL && name != NULL &&
                is_version(name + strlen(PACKAGE_START))) {
                (void)snprintf(out_package, 96, "%s", name);
                return 0;
            }
        }
    }
    return error_set(err, ENOENT,
                     "apt knows no package %s, of which the kernel is taken: add Debian's "
                     "sources, or run `apt-get update`",
                     metapackages[0]);
}

static bool fill(const struct job *job, const char *version, struct kernel *out_kernel)
{
    char path[PATH_MAX];
    (void)snprintf(out_kernel->version, sizeof(out_kernel->version), "%s", version);
    in_cache(job, version, path);
    (void)snprintf(out_kernel->image, PATH_MAX, "%.3900s/vmlinuz", path);
    (void)snprintf(out_kernel->layer, PATH_MAX, "%.3900s/layer", path);
    return access(out_kernel->image, R_OK) == 0 && access(out_kernel->layer, R_OK) == 0;
}

/* The newest that is kept. */
static bool find_kept(const struct job *job, struct kernel *out_kernel)
{
    char path[PATH_MAX], best[80] = "";
    in_cache(job, "", path);
    DIR *dir = opendir(path);
    struct dirent *entry;
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        if (is_version(entry->d_name) && fill(job, entry->d_name, out_kernel) &&
            strverscmp(entry->d_name, best) > 0) {
            (void)snprintf(best, sizeof(best), "%.79s", entry->d_name);
        }
    }
    if (dir != NULL) {
        (void)closedir(dir); /* nothing was written */
    }
    return best[0] != '\0' && fill(job, best, out_kernel);
}

/* One name of the folder that begins so. */
static int find_one(const char *folder, const char *start, const char *end, char out_path[PATH_MAX],
                    struct error *err)
{
    DIR *dir = opendir(folder);
    struct dirent *entry;
    bool is_found = false;
    while (dir != NULL && !is_found && (entry = readdir(dir)) != NULL) {
        size_t length = strlen(entry->d_name);
        is_found = strncmp(entry->d_name, start, strlen(start)) == 0 && length > strlen(end) &&
                   strcmp(entry->d_name + length - strlen(end), end) == 0;
        if (is_found) {
            (void)snprintf(out_path, PATH_MAX, "%.3800s/%s", folder, entry->d_name);
        }
    }
    if (dir != NULL) {
        (void)closedir(dir); /* nothing was written */
    }
    return is_found ? 0 : error_set(err, ENOENT, "%s: there is no %s...%s", folder, start, end);
}

static int move(const char *from, const char *to, struct error *err)
{
    return rename(from, to) < 0 ? error_set_errno(err, errno, "moving %s to %s", from, to) : 0;
}

/* Packages have the kernel in /boot, or, newer ones, with its modules. */
static int find_image(const char *root, const char *version, char out_path[PATH_MAX],
                      struct error *err)
{
    (void)snprintf(out_path, PATH_MAX, "%.3800s/boot/vmlinuz-%.79s", root, version);
    if (access(out_path, R_OK) < 0) {
        (void)snprintf(out_path, PATH_MAX, "%.3800s/usr/lib/modules/%.79s/vmlinuz", root, version);
    }
    return access(out_path, R_OK) < 0 ? error_set(err, ENOENT, "it has no kernel of that name") : 0;
}

/* From the packages' files in FOLDER/root to FOLDER/new/{vmlinuz, layer}. */
static int arrange(struct job *job, const char *folder, const char *version, struct error *err)
{
    char path[PATH_MAX], image[PATH_MAX], to[PATH_MAX];
    (void)snprintf(path, sizeof(path), "%.3800s/root", folder);
    int rc = find_image(path, version, image, err);
    if (rc < 0) {
        return rc;
    }
    const char *const depmod[] = {"depmod", "-b", path, version, NULL};
    const struct tool tool = {.package = "kmod", .argv = depmod};
    (void)snprintf(to, sizeof(to), "%.3800s/new/layer/usr/lib/modules", folder);
    rc = file_make_folders(to, 0755, 0755, err);
    /* Packages of newer Debians have usr/lib/modules; depmod follows a link. */
    (void)snprintf(to, sizeof(to), "%.3800s/root/lib", folder);
    if (rc == 0 && access(to, F_OK) < 0 && symlink("usr/lib", to) < 0) {
        rc = error_set_errno(err, errno, "making %s", to);
    }
    rc = rc < 0 ? rc : tool_run(job, &tool, err);
    (void)snprintf(to, sizeof(to), "%.3800s/new/vmlinuz", folder);
    rc = rc < 0 ? rc : move(image, to, err); /* before the folder that it may be in */
    (void)snprintf(path, sizeof(path), "%.3800s/root/lib/modules/%.79s", folder, version);
    (void)snprintf(to, sizeof(to), "%.3800s/new/layer/usr/lib/modules/%.79s", folder, version);
    return rc < 0 ? rc : move(path, to, err);
}

/* The package, and those that have parts of it: all that it depends on with the same version in their names. */
#define MAX_PARTS 8
struct parts {
    char *text;
    const char *names[MAX_PARTS];
    size_t count;
};

static int find_parts(struct job *job, const char *config, const char *package, struct parts *out,
                      struct error *err)
{
    const char *const argv[] = {"env",         config,  "apt-cache", "depends",
                                "--important", package, NULL};
    const struct tool tool = {.package = "apt", .argv = argv};
    const char *version = package + strlen(PACKAGE_START);
    size_t length = strlen(version);
    char *save = NULL;
    *out = (struct parts){.names = {package}, .count = 1};
    int rc = tool_read(job, &tool, &out->text, err);
    char *word = rc == 0 ? strtok_r(out->text, " \n", &save) : NULL;
    for (; word != NULL && out->count < MAX_PARTS; word = strtok_r(NULL, " \n", &save)) {
        size_t size = strlen(word);
        if (size > length && strncmp(word, "linux-", strlen("linux-")) == 0 &&
            strcmp(word + size - length, version) == 0 && strcmp(word, package) != 0) {
            out->names[out->count++] = word;
        }
    }
    return rc;
}

static int fetch_part(struct job *job, const char *config, const char *package, const char *folder,
                      struct error *err)
{
    char root[PATH_MAX], archive[PATH_MAX], start[112];
    (void)snprintf(root, sizeof(root), "%.3800s/root", folder);
    (void)snprintf(start, sizeof(start), "%.100s_", package);
    const char *const download[] = {"env",      "-C",    folder, config,
                                    "apt-get",  "-q",    "-o",   "APT::Sandbox::User=root",
                                    "download", package, NULL};
    const char *const unpack[] = {"dpkg-deb", "-x", archive, root, NULL};
    const struct tool downloader = {.package = "coreutils", .argv = download};
    const struct tool unpacker = {.package = "dpkg", .argv = unpack};
    int rc = tool_run(job, &downloader, err);
    rc = rc < 0 ? rc : find_one(folder, start, ".deb", archive, err);
    return rc < 0 ? rc : tool_run(job, &unpacker, err);
}

static int fetch_into(struct job *job, const char *config, const char *package, const char *folder,
                      struct error *err)
{
    struct parts parts;
    int rc = find_parts(job, config, package, &parts, err);
    for (size_t i = 0; rc == 0 && i < parts.count; i++) {
        rc = fetch_part(job, config, parts.names[i], folder, err);
    }
    free(parts.text);
    return rc < 0 ? rc : arrange(job, folder, package + strlen(PACKAGE_START), err);
}

static int fetch(struct job *job, const char *config, const char *package,
                 struct kernel *out_kernel, struct error *err)
{
    char folder[PATH_MAX], name[64], from[PATH_MAX], to[PATH_MAX];
    const char *version = package + strlen(PACKAGE_START);
    (void)snprintf(name, sizeof(name), ".new-%.40s", job->id);
    in_cache(job, name, folder);
    job_progress(job, "downloading the kernel", 0, 0);
    int rc = layers_remove(folder, err);
    rc = rc < 0 ? rc : file_make_folders(folder, 0700, 0755, err);
    rc = rc < 0 ? rc : fetch_into(job, config, package, folder, err);
    if (rc == 0) {
        (void)snprintf(from, sizeof(from), "%.3800s/new", folder);
        in_cache(job, version, to);
        rc = layers_remove(to, err);
        rc = rc < 0 ? rc : move(from, to, err);
    }
    error_ignore(layers_remove(folder, NULL)); /* it is only a cache */
    if (rc == 0 && !fill(job, version, out_kernel)) {
        rc = error_set(err, EBADMSG, "package %s: has no kernel", package);
    }
    return rc < 0 ? error_prefix(err, rc, "package %s", package) : 0;
}

static int take_lock(struct job *job, int *out_fd, struct error *err)
{
    static const struct timespec pause = {.tv_nsec = POLL_NS};
    char path[PATH_MAX];
    in_cache(job, "", path);
    int rc = file_make_folders(path, 0755, 0755, err);
    int fd = rc < 0 ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (rc == 0 && fd < 0) {
        rc = error_set_errno(err, errno, "opening %s", path);
    }
    while (rc == 0 && flock(fd, LOCK_EX | LOCK_NB) < 0) {
        if (errno != EWOULDBLOCK && errno != EINTR) {
            rc = error_set_errno(err, errno, "locking %s", path);
        } else if (job_is_cancelled(job)) {
            rc = error_set(err, ECANCELED, "waiting for the kernel: cancelled");
        } else {
            (void)nanosleep(&pause, NULL); /* shorter is fine */
        }
    }
    if (rc < 0 && fd >= 0) {
        close(fd);
    }
    *out_fd = fd;
    return rc;
}

const char *kernel_suite(const char *id, const char *codename)
{
    size_t length = strcmp(id, "debian") == 0 ? strlen(codename) : 0;
    return length > 0 && length < 32 && strspn(codename, "abcdefghijklmnopqrstuvwxyz") == length
               ? codename
               : NULL;
}

static int get_of(struct job *job, const char *suite, struct kernel *out_kernel, struct error *err)
{
    static const char plain[] = "HULL=1"; /* env needs a word there */
    char package[96], config[PATH_MAX];
    int rc = suite_open(job, suite, config, err);
    const char *setting = config[0] != '\0' ? config : plain;
    rc = rc < 0 ? rc : newest_known(job, setting, package, err);
    return rc < 0 || fill(job, package + strlen(PACKAGE_START), out_kernel)
               ? rc
               : fetch(job, setting, package, out_kernel, err);
}

int kernel_get(struct job *job, const char *suite, struct kernel *out_kernel, struct error *err)
{
    int fd;
    int rc = take_lock(job, &fd, err);
    if (rc < 0) {
        return rc;
    }
    struct error why;
    rc = get_of(job, suite, out_kernel, suite != NULL ? &why : err);
    if (rc == -ECANCELED && suite != NULL) {
        rc = error_set(err, ECANCELED, "%s", why.text);
    } else if (rc < 0 && suite != NULL) {
        job_progress(job, why.text, 0, 0);
        rc = get_of(job, NULL, out_kernel, err);
    }
    if (rc < 0 && rc != -ECANCELED && find_kept(job, out_kernel)) {
        rc = 0;
    }
    close(fd);
    return rc;
}
