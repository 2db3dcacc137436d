/* The first file system of VMs: the host's busybox, the virtio modules and those of ext4, and a script that goes on in root=. It
 * is an archive in cpio's format "newc", written here. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/core/compiler.h"
#include "base/host/file.h"
#include "manager/image/kernel.h"
#include "manager/image/tool.h"

#define MAX_FILE    (64u << 20)
#define MAX_MODULES 64
#define BUSYBOX     "busybox-static"

/* What it loads, in this order; what they need comes before them. What is not there is built into the kernel. */
static const char *const wanted[] = {"virtio_pci",
                                     "virtio_blk",
                                     "virtio_console",
                                     "virtio_net",
                                     "ext4",
                                     "crc32c_generic",
                                     "crc32c_intel",
                                     "virtio_rng",
                                     "virtio_balloon",
                                     "virtio_mem",
                                     "vmw_vsock_virtio_transport"};

static const char *const folders[] = {"bin", "dev", "etc", "lib", "mnt", "proc", "sys"};
static const char *const applets[] = {"sh",    "mount", "insmod", "switch_root",
                                      "sleep", "cat",   "ls",     "poweroff"};

static const char script[] =
    "#!/bin/sh\n"
    "export PATH=/bin\n"
    "mount -t devtmpfs dev /dev\n"
    "mount -t proc proc /proc\n"
    "mount -t sysfs sys /sys\n"
    "while read -r module; do\n"
    "    insmod \"/lib/$module\" || echo \"initrd: the module $module did not load\"\n"
    "done </lib/order\n"
    /* The console of console=hvc0 is there only now. */
    "if (: >/dev/console) 2>/dev/null; then\n"
    "    exec </dev/console >/dev/console 2>&1\n"
    "fi\n"
    "root=/dev/vda init=/sbin/init mode=rw flags=\n"
    "read -r line </proc/cmdline\n"
    "for word in $line; do\n"
    "    case $word in\n"
    "    root=*) root=${word#root=} ;;\n"
    "    rootflags=*) flags=,${word#rootflags=} ;;\n"
    "    init=*) init=${word#init=} ;;\n"
    "    ro) mode=ro ;;\n"
    "    esac\n"
    "done\n"
    "tries=0\n"
    "while [ ! -e \"$root\" ] && [ $tries -lt 100 ]; do\n"
    "    sleep 0.1\n"
    "    tries=$((tries + 1))\n"
    "done\n"
    "if ! mount -t ext4 -o \"$mode$flags\" \"$root\" /mnt; then\n"
    "    echo \"initrd: the root file system on $root cannot be mounted; there are:\"\n"
    "    ls /dev\n"
    "    poweroff -f\n"
    "fi\n"
    "mount --move /dev /mnt/dev\n"
    "mount --move /proc /mnt/proc\n"
    "mount --move /sys /mnt/sys\n"
    "exec switch_root /mnt \"$init\"\n";

struct cpio {
    FILE *file;
    unsigned inode;
    const char *path; /* for errors */
};

static int pad(struct cpio *cpio)
{
    static const char zeros[4] = {0};
    long at = ftell(cpio->file);
    size_t count = at < 0 ? 0 : (size_t)(-at & 3);
    return fwrite(zeros, 1, count, cpio->file) == count ? 0 : -1;
}

static int put(struct cpio *cpio, const char *name, mode_t mode, unsigned major, unsigned minor,
               const void *data, size_t size, struct error *err)
{
    int length =
        fprintf(cpio->file, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s%c",
                cpio->inode++, mode, 0u, 0u, 1u, 0u, (unsigned)size, 0u, 0u, major, minor,
                (unsigned)strlen(name) + 1, 0u, name, 0);
    bool is_good =
        length > 0 && pad(cpio) == 0 && fwrite(data, 1, size, cpio->file) == size && pad(cpio) == 0;
    return is_good ? 0 : error_set_errno(err, errno, "writing %s", cpio->path);
}

static int read_file(const char *path, void **out_data, size_t *out_size, struct error *err)
{
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? error_set_errno(err, errno, "reading %s", path)
                  : file_read_whole(fd, MAX_FILE, path, out_data, out_size, err);
}

static int put_file(struct cpio *cpio, const char *name, mode_t mode, const char *path,
                    struct error *err)
{
    AUTO_FREE void *data = NULL;
    size_t size;
    int rc = read_file(path, &data, &size, err);
    return rc < 0 ? rc : put(cpio, name, S_IFREG | mode, 0, 0, data, size, err);
}

/* One that needs no libraries. */
static int check_static(const void *data, size_t size, const char *path, struct error *err)
{
    Elf64_Ehdr header;
    Elf64_Phdr part;
    if (size < sizeof(header) || memcmp(data, ELFMAG, SELFMAG) != 0) {
        return error_set(err, ENOEXEC, "%s: is no program", path);
    }
    memcpy(&header, data, sizeof(header));
    for (unsigned i = 0; i < header.e_phnum; i++) {
        if (header.e_phoff > size || (size - header.e_phoff) / sizeof(part) <= i) {
            return error_set(err, ENOEXEC, "%s: is no program", path);
        }
        memcpy(&part, (const char *)data + header.e_phoff + i * sizeof(part), sizeof(part));
        if (part.p_type == PT_INTERP) {
            return error_set(err, ENOEXEC, "%s: needs libraries: install the package " BUSYBOX,
                             path);
        }
    }
    return 0;
}

static int put_busybox(struct cpio *cpio, struct error *err)
{
    static const char *const paths[] = {"/bin/busybox", "/usr/bin/busybox"};
    for (size_t i = 0; i < ARRAY_COUNT(paths); i++) {
        AUTO_FREE void *data = NULL;
        size_t size;
        if (access(paths[i], R_OK) == 0) {
            int rc = read_file(paths[i], &data, &size, err);
            rc = rc < 0 ? rc : check_static(data, size, paths[i], err);
            return rc < 0 ? rc : put(cpio, "bin/busybox", S_IFREG | 0755, 0, 0, data, size, err);
        }
    }
    return error_set(err, ENOENT, "/bin/busybox: not found: install the package " BUSYBOX);
}

/* Paths of modules as modules.dep has them, in loading order. */
struct modules {
    char *text; /* of modules.dep, cut into words */
    const char *paths[MAX_MODULES];
    size_t count;
};

/* "kernel/drivers/virtio/virtio-rng.ko.xz" is "virtio_rng". */
static bool is_module(const char *path, const char *name)
{
    const char *base = strrchr(path, '/');
    base = base != NULL ? base + 1 : path;
    size_t i = 0;
    for (; name[i] != '\0'; i++) {
        char c = base[i] == '-' ? '_' : base[i];
        if (c != name[i]) {
            return false;
        }
    }
    return strncmp(base + i, ".ko", 3) == 0;
}

static int add_module(struct modules *modules, const char *path, struct error *err)
{
    for (size_t i = 0; i < modules->count; i++) {
        if (strcmp(modules->paths[i], path) == 0) {
            return 0;
        }
    }
    if (modules->count == MAX_MODULES || strstr(path, "..") != NULL) {
        return error_set(err, EBADMSG, "module %s of the kernel: cannot be taken", path);
    }
    modules->paths[modules->count++] = path;
    return 0;
}

/* Its line is "PATH: NEEDED NEEDED", the last needed one first to load. */
static int add_line(struct modules *modules, char *line, struct error *err)
{
    char *words[MAX_MODULES];
    size_t count = 0;
    char *save;
    for (char *word = strtok_r(line, ": ", &save); word != NULL && count < MAX_MODULES;
         word = strtok_r(NULL, ": ", &save)) {
        words[count++] = word;
    }
    int rc = 0;
    for (size_t i = count; rc == 0 && i > 1; i--) {
        rc = add_module(modules, words[i - 1], err);
    }
    return rc == 0 && count > 0 ? add_module(modules, words[0], err) : rc;
}

static int order_modules(const char *folder, struct modules *modules, struct error *err)
{
    char path[PATH_MAX];
    void *text;
    size_t size;
    (void)snprintf(path, sizeof(path), "%.3900s/modules.dep", folder);
    int rc = read_file(path, &text, &size, err);
    if (rc < 0) {
        return rc;
    }
    modules->text = text;
    for (size_t i = 0; rc == 0 && i < ARRAY_COUNT(wanted); i++) {
        for (char *line = text; rc == 0 && line < modules->text + size;) {
            size_t length = strcspn(line, "\n");
            char *next = line + length + 1;
            char *colon = memchr(line, ':', length);
            if (colon != NULL) {
                line[length] = '\0';
                *colon = '\0';
                bool is_it = is_module(line, wanted[i]);
                *colon = ':';
                if (is_it) {
                    rc = add_line(modules, line, err);
                } else {
                    line[length] = '\n';
                }
            }
            line = next;
        }
    }
    return rc;
}

/* A packed one is unpacked in 'scratch'; the file to take is told in 'path'. */
static int unpack_module(struct job *job, const char *scratch, char path[PATH_MAX],
                         struct error *err)
{
    static const struct {
        const char *end, *program, *package;
    } packers[] = {{".xz", "xz", "xz-utils"}, {".zst", "zstd", "zstd"}, {".gz", "gzip", "gzip"}};
    size_t length = strlen(path);
    for (size_t i = 0; i < ARRAY_COUNT(packers); i++) {
        size_t end = strlen(packers[i].end);
        if (length > end && strcmp(path + length - end, packers[i].end) == 0) {
            char to[PATH_MAX], from[PATH_MAX];
            (void)snprintf(from, sizeof(from), "%s", path);
            (void)snprintf(to, sizeof(to), "%.3900s/module.ko", scratch);
            const char *const argv[] = {packers[i].program, "-dc", from, NULL};
            const struct tool tool = {.package = packers[i].package, .argv = argv, .output = to};
            memcpy(path, to, sizeof(to));
            return tool_run(job, &tool, err);
        }
    }
    return 0;
}

static int put_modules(struct job *job, struct cpio *cpio, const char *folder, const char *scratch,
                       const struct modules *modules, struct error *err)
{
    char order[MAX_MODULES * 64] = "";
    size_t used = 0;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < modules->count; i++) {
        char path[PATH_MAX], name[96];
        (void)snprintf(path, sizeof(path), "%.3000s/%.900s", folder, modules->paths[i]);
        const char *base = strrchr(path, '/') + 1;
        int base_length = (int)MIN(strcspn(base, "."), 56u);
        used +=
            (size_t)snprintf(order + used, sizeof(order) - used, "%.*s.ko\n", base_length, base);
        (void)snprintf(name, sizeof(name), "lib/%.*s.ko", base_length, base);
        rc = unpack_module(job, scratch, path, err);
        rc = rc < 0 ? rc : put_file(cpio, name, 0644, path, err);
    }
    return rc < 0 ? rc : put(cpio, "lib/order", S_IFREG | 0644, 0, 0, order, used, err);
}

static int put_all(struct job *job, struct cpio *cpio, const struct kernel *kernel,
                   const char *scratch, struct error *err)
{
    char modules_folder[PATH_MAX];
    struct modules modules = {0};
    int rc = 0;
    (void)snprintf(modules_folder, sizeof(modules_folder), "%.3900s/usr/lib/modules/%s",
                   kernel->layer, kernel->version);
    for (size_t i = 0; rc == 0 && i < ARRAY_COUNT(folders); i++) {
        rc = put(cpio, folders[i], S_IFDIR | 0755, 0, 0, "", 0, err);
    }
    rc = rc < 0 ? rc : put(cpio, "dev/console", S_IFCHR | 0600, 5, 1, "", 0, err);
    rc = rc < 0 ? rc : put(cpio, "init", S_IFREG | 0755, 0, 0, script, sizeof(script) - 1, err);
    rc = rc < 0 ? rc : put_busybox(cpio, err);
    for (size_t i = 0; rc == 0 && i < ARRAY_COUNT(applets); i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "bin/%s", applets[i]);
        rc = put(cpio, name, S_IFLNK | 0777, 0, 0, "busybox", strlen("busybox"), err);
    }
    rc = rc < 0 ? rc : order_modules(modules_folder, &modules, err);
    rc = rc < 0 ? rc : put_modules(job, cpio, modules_folder, scratch, &modules, err);
    free(modules.text);
    return rc < 0 ? rc : put(cpio, "TRAILER!!!", 0, 0, 0, "", 0, err);
}

int kernel_make_initrd(struct job *job, const struct kernel *kernel, const char *scratch,
                       const char *path, struct error *err)
{
    struct cpio cpio = {.file = fopen(path, "we"), .inode = 1, .path = path};
    if (cpio.file == NULL) {
        return error_set_errno(err, errno, "writing %s", path);
    }
    int rc = put_all(job, &cpio, kernel, scratch, err);
    if (fclose(cpio.file) != 0 && rc == 0) {
        rc = error_set_errno(err, errno, "writing %s", path);
    }
    return rc < 0 ? error_prefix(err, rc, "initrd") : 0;
}
