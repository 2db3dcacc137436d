/* The variant "busybox": the host's static busybox, links to it, and an init that stops on SIGPWR, SIGUSR2 and SIGTERM. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <time.h>

#include "base/host/file.h"
#include "system/template/build.h"

#define PACKAGE "busybox-static"

static const char *const folders[] = {
    "bin", "sbin", "usr",  "usr/bin", "usr/sbin", "etc",     "etc/init.d", "proc", "sys",
    "dev", "run",  "root", "tmp",     "var",      "var/log", "var/tmp",    "home", "mnt"};

static const struct {
    const char *path;
    mode_t mode;
    const char *text;
} files[] = {
    {"etc/inittab", 0644,
     "::sysinit:/etc/init.d/rcS\n"
     "console::respawn:-/bin/sh\n"
     "::restart:/sbin/init\n"
     "::ctrlaltdel:/sbin/poweroff\n"},
    {"etc/init.d/rcS", 0755,
     "#!/bin/sh\n"
     "# Started by init before anything else; what is executable in /etc/rc.d is run in the order of names.\n"
     "[ -s /etc/hostname ] && hostname -F /etc/hostname\n"
     "for script in /etc/rc.d/*; do\n"
     "    [ -x \"$script\" ] && \"$script\"\n"
     "done\n"},
    {"etc/passwd", 0644,
     "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"},
    {"etc/shadow", 0640, "root:*:19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n"},
    {"etc/group", 0644, "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"},
    {"etc/profile", 0644, "PS1='\\u@\\h:\\w\\$ '\nexport PATH=/usr/sbin:/usr/bin:/sbin:/bin\n"},
    {"etc/hostname", 0644, ""},
    {"etc/hosts", 0644, ""},
    {"etc/resolv.conf", 0644, ""},
};

/* The same busybox makes the same template: everything is as old as it. */
static int set_time(int root, const char *path, const struct timespec *when)
{
    const struct timespec times[2] = {*when, *when};
    return utimensat(root, path, times, AT_SYMLINK_NOFOLLOW);
}

struct links {
    int root;
    int code; /* the first that failed */
    struct timespec when;
};

static void add_link(void *ctx, const char *path)
{
    struct links *links = ctx;
    bool is_ours = strncmp(path, "bin/", 4) == 0 || strncmp(path, "sbin/", 5) == 0 ||
                   strncmp(path, "usr/bin/", 8) == 0 || strncmp(path, "usr/sbin/", 9) == 0;
    if (!is_ours || strstr(path, "..") != NULL) {
        return;
    }
    if ((symlinkat("/bin/busybox", links->root, path) < 0 && errno != EEXIST) ||
        set_time(links->root, path, &links->when) < 0) {
        links->code = links->code != 0 ? links->code : errno;
    }
}

/* Without an interpreter: it runs where there is nothing else. */
static int check_static(int fd, const char *path, struct error *err)
{
    Elf64_Ehdr header;
    int rc = file_read_at(fd, &header, sizeof(header), 0, path, err);
    if (rc < 0) {
        return rc;
    }
    if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_phentsize != sizeof(Elf64_Phdr)) {
        return error_set(err, ENOEXEC, "%s: not a program of this machine", path);
    }
    for (unsigned i = 0; i < header.e_phnum; i++) {
        Elf64_Phdr part;
        rc = file_read_at(fd, &part, sizeof(part), header.e_phoff + i * sizeof(part), path, err);
        if (rc < 0) {
            return rc;
        }
        if (part.p_type == PT_INTERP) {
            return error_set(err, ENOEXEC, "%s: needs libraries: install the package " PACKAGE,
                             path);
        }
    }
    return 0;
}

static int open_host(const char **out_path, struct error *err)
{
    static const char *const paths[] = {"/bin/busybox", "/usr/bin/busybox"};
    for (size_t i = 0; i < ARRAY_COUNT(paths); i++) {
        int fd = open(paths[i], O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
            *out_path = paths[i];
            return fd;
        }
    }
    return error_set(err, ENOENT, "/bin/busybox: not found: install the package " PACKAGE);
}

static int copy_program(int from, int root, const struct stat *st, struct error *err)
{
    AUTO_CLOSE int to = openat(root, "bin/busybox", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
    if (to < 0) {
        return error_set_errno(err, errno, "copying busybox");
    }
    off_t left = st->st_size;
    while (left > 0) {
        ssize_t sent = sendfile(to, from, NULL, (size_t)left);
        if (sent <= 0) {
            return error_set_errno(err, sent == 0 ? EIO : errno, "copying busybox");
        }
        left -= sent;
    }
    return fchmod(to, 0755) < 0 ? error_set_errno(err, errno, "copying busybox") : 0;
}

static int write_files(int root, struct error *err)
{
    for (size_t i = 0; i < ARRAY_COUNT(files); i++) {
        AUTO_CLOSE int fd =
            openat(root, files[i].path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0 || fchmod(fd, files[i].mode) < 0) {
            return error_set_errno(err, errno, "writing /%s", files[i].path);
        }
        int rc = file_write_all(fd, files[i].text, strlen(files[i].text), files[i].path, err);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static int make_folders(int root, struct error *err)
{
    for (size_t i = 0; i < ARRAY_COUNT(folders); i++) {
        bool is_open = strstr(folders[i], "tmp") != NULL;
        bool is_private = strcmp(folders[i], "root") == 0;
        if (mkdirat(root, folders[i], 0755) < 0 || fchmodat(root, folders[i],
                                                            is_open      ? 01777
                                                            : is_private ? 0700
                                                                         : 0755,
                                                            0) < 0) {
            return error_set_errno(err, errno, "making /%s", folders[i]);
        }
    }
    return 0;
}

static int set_times(int root, const struct timespec *when, struct error *err)
{
    int rc = set_time(root, "bin/busybox", when);
    for (size_t i = 0; rc == 0 && i < ARRAY_COUNT(files); i++) {
        rc = set_time(root, files[i].path, when);
    }
    for (size_t i = 0; rc == 0 && i < ARRAY_COUNT(folders); i++) {
        rc = set_time(root, folders[i], when);
    }
    rc = rc < 0 ? rc : set_time(root, ".", when);
    return rc < 0 ? error_set_errno(err, errno, "setting times") : 0;
}

static int make_links(struct build *build, const char *busybox, int root,
                      const struct timespec *when, struct error *err)
{
    struct links links = {.root = root, .when = *when};
    const char *const argv[] = {busybox, "--list-full", NULL};
    const struct boxed program = {.what = "busybox", .argv = argv, .line = add_link, .ctx = &links};
    int rc = boxed_run(&program, err);
    if (rc == 0 && links.code != 0) {
        rc = error_set_errno(err, links.code, "making links to busybox");
    }
    struct stat st;
    if (rc == 0 && (fstatat(root, "sbin/init", &st, AT_SYMLINK_NOFOLLOW) < 0 ||
                    fstatat(root, "bin/sh", &st, AT_SYMLINK_NOFOLLOW) < 0)) {
        rc = error_set(err, ENOEXEC, "%s: has no init and sh: install the package " PACKAGE,
                       busybox);
    }
    return rc;
}

int build_busybox(struct build *build, struct error *err)
{
    char path[PATH_MAX];
    const char *busybox = NULL;
    struct stat st;
    build_phase(build, "copying busybox", 1, 90, 0);
    AUTO_CLOSE int from = open_host(&busybox, err);
    if (from < 0) {
        return from;
    }
    build_path(build, "root", path);
    AUTO_CLOSE int root = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (root < 0 || fstat(from, &st) < 0) {
        return error_set_errno(err, errno, "opening %s", path);
    }
    int rc = check_static(from, busybox, err);
    rc = rc < 0 ? rc : make_folders(root, err);
    rc = rc < 0 ? rc : copy_program(from, root, &st, err);
    rc = rc < 0 ? rc : write_files(root, err);
    rc = rc < 0 ? rc : make_links(build, busybox, root, &st.st_mtim, err);
    return rc < 0 ? rc : set_times(root, &st.st_mtim, err);
}
