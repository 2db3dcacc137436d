#include "cli/host_checks.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/magic.h>
#include <linux/sched.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include "base/host/file.h"
#include "base/host/program.h"

void host_row(json_t *rows, const char *area, const char *name, const char *status,
              const char *reason, const char *remedy)
{
    json_array_append_new(rows, json_pack("{s:s, s:s, s:s, s:s, s:s}", "area", area, "name", name,
                                          "status", status, "reason", reason, "remedy", remedy));
}

/* The first number in a small file of /proc, or 'fallback'. */
static long number_in(const char *path, long fallback)
{
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    char text[64];
    ssize_t count = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    if (count <= 0) {
        return fallback;
    }
    text[count] = '\0';
    char *end;
    long number = strtol(text, &end, 10);
    return end == text ? fallback : number;
}

static void check_namespaces(json_t *rows)
{
    static const char *const names[] = {"mnt", "pid",  "net",    "ipc",
                                        "uts", "user", "cgroup", "time"};
    char missing[80] = "";
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        char path[64];
        (void)snprintf(path, sizeof(path), "/proc/self/ns/%s", names[i]);
        if (access(path, F_OK) < 0) {
            size_t used = strlen(missing);
            (void)snprintf(missing + used, sizeof(missing) - used, " %s", names[i]);
        }
    }
    if (missing[0] == '\0') {
        host_row(rows, "containers", "namespaces", "usable", "the kernel has all eight kinds", "");
    } else {
        char reason[128];
        (void)snprintf(reason, sizeof(reason), "the kernel lacks:%s", missing);
        host_row(rows, "containers", "namespaces", "limited", reason, "a newer kernel");
    }
}

/* Whether an ordinary process may make one is best asked by making one. */
static int try_user_namespace(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        _exit(unshare(CLONE_NEWUSER) == 0 ? 0 : MIN(errno, 255));
    }
    int status = 0;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status)) {
        return EAGAIN;
    }
    return WEXITSTATUS(status);
}

static void check_user_namespaces(json_t *rows)
{
    int failed = try_user_namespace();
    bool is_for_root_only =
        number_in("/proc/sys/kernel/unprivileged_userns_clone", 1) == 0 ||
        number_in("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", 0) != 0;
    if (failed != 0) {
        char reason[128];
        (void)snprintf(reason, sizeof(reason), "making one: %s", strerror(failed));
        host_row(
            rows, "containers", "user namespaces", "unusable", reason,
            "sysctl user.max_user_namespaces=15000, and kernel.unprivileged_userns_clone=1 where there is one");
    } else if (is_for_root_only) {
        host_row(
            rows, "containers", "user namespaces", "limited", "only root may make them",
            "sysctl kernel.unprivileged_userns_clone=1, or kernel.apparmor_restrict_unprivileged_userns=0");
    } else {
        host_row(rows, "containers", "user namespaces", "usable", "every user may make them", "");
    }
}

static bool is_file_system(const char *path, long magic)
{
    struct statfs status;
    return statfs(path, &status) == 0 && (long)status.f_type == magic;
}

static void check_cgroups(json_t *rows)
{
    if (is_file_system("/sys/fs/cgroup", CGROUP2_SUPER_MAGIC)) {
        host_row(rows, "containers", "cgroups", "usable", "version 2", "");
    } else if (is_file_system("/sys/fs/cgroup/unified", CGROUP2_SUPER_MAGIC)) {
        host_row(rows, "containers", "cgroups", "usable", "hybrid: controllers on version 1", "");
    } else if (access("/sys/fs/cgroup/memory", F_OK) == 0 ||
               access("/sys/fs/cgroup/cpu", F_OK) == 0) {
        host_row(rows, "containers", "cgroups", "usable", "version 1", "");
    } else {
        host_row(rows, "containers", "cgroups", "unusable", "nothing is mounted on /sys/fs/cgroup",
                 "mount -t cgroup2 none /sys/fs/cgroup");
    }
}

static bool has_file_system(const char *name)
{
    FILE *file = fopen("/proc/filesystems", "re");
    char line[64];
    bool is_found = false;
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        const char *tab = strrchr(line, '\t');
        is_found = is_found || (tab != NULL && strcmp(tab + 1, name) == 0);
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return is_found;
}

/* What `hull ct` needs besides. A module of overlayfs or FUSE may be there and not loaded: the first use loads it. */
static void check_system_containers(json_t *rows)
{
    char path[PATH_MAX];
    struct error err;
    if (program_find("hull-ct-keeper", false, path, sizeof(path), &err) < 0) {
        host_row(rows, "containers", "system containers", "unusable", err.text,
                 "install hull completely");
    } else if (!has_file_system("overlay") && access("/sys/module/overlay", F_OK) < 0) {
        host_row(rows, "containers", "system containers", "limited",
                 "overlayfs is not in the kernel, or not loaded", "modprobe overlay");
    } else if (access("/dev/fuse", F_OK) < 0) {
        host_row(rows, "containers", "system containers", "limited",
                 "/dev/fuse is missing: /proc shows the host's CPUs and memory", "modprobe fuse");
    } else if (program_find("mmdebstrap", true, path, sizeof(path), &err) < 0) {
        host_row(rows, "containers", "system containers", "limited",
                 "mmdebstrap is not found: no templates of Debian can be built",
                 "apt install mmdebstrap");
    } else {
        host_row(rows, "containers", "system containers", "usable",
                 geteuid() == 0 ? "hull ct makes them" : "root makes them by hull ct", "");
    }
}

void host_check_containers(json_t *rows)
{
    check_namespaces(rows);
    check_user_namespaces(rows);
    check_cgroups(rows);
    check_system_containers(rows);
}

/* CAP_NET_ADMIN, bit 12 of the effective set: capabilities(7). */
static bool may_configure_networks(void)
{
    FILE *file = fopen("/proc/self/status", "re");
    char line[128];
    unsigned long long set = 0;
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        if (strncmp(line, "CapEff:", 7) == 0) {
            set = strtoull(line + 7, NULL, 16);
        }
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return (set >> 12 & 1) != 0;
}

static void check_tap(json_t *rows)
{
    AUTO_CLOSE int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        char reason[128];
        (void)snprintf(reason, sizeof(reason), "/dev/net/tun: %s", strerror(errno));
        host_row(rows, "networking", "tap", "unusable", reason,
                 errno == EACCES ? "root, or rights on /dev/net/tun" : "modprobe tun");
    } else if (may_configure_networks()) {
        host_row(rows, "networking", "tap", "usable", "interfaces can be made and used", "");
    } else {
        host_row(rows, "networking", "tap", "limited",
                 "only interfaces that root made for this user",
                 "ip tuntap add dev NAME mode tap user USER");
    }
}

static void check_helper(json_t *rows, const char *name, const char *program, bool is_foreign,
                         const char *remedy)
{
    char path[4096];
    struct error err;
    if (program_find(program, is_foreign, path, sizeof(path), &err) == 0) {
        host_row(rows, "networking", name, "usable", path, "");
    } else {
        char reason[128];
        (void)snprintf(reason, sizeof(reason), "%s is not found", program);
        host_row(rows, "networking", name, "unusable", reason, remedy);
    }
}

void host_check_networking(json_t *rows)
{
    check_helper(rows, "user", "hull-net-user", false, "install hull completely");
    check_helper(rows, "passt", "passt", true, "apt install passt");
    check_tap(rows);
}

static void check_io_uring(json_t *rows)
{
    struct io_uring_params params = {0};
    AUTO_CLOSE int fd = (int)syscall(SYS_io_uring_setup, 1, &params);
    if (fd >= 0) {
        host_row(rows, "storage", "io_uring", "usable", "the kernel grants a ring", "");
        return;
    }
    char reason[128];
    (void)snprintf(reason, sizeof(reason), "making a ring: %s; threads do the work",
                   strerror(errno));
    host_row(rows, "storage", "io_uring", "limited", reason,
             errno == EPERM ? "sysctl kernel.io_uring_disabled=0, or a container that allows it"
                            : "Linux 5.6 or later");
}

static void check_huge_pages(json_t *rows)
{
    long free_pages = number_in("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", -1);
    if (free_pages > 0) {
        char reason[128];
        (void)snprintf(reason, sizeof(reason), "%ld pages of 2 MiB are free", free_pages);
        host_row(rows, "storage", "huge pages", "usable", reason, "");
    } else {
        host_row(rows, "storage", "huge pages", "limited",
                 free_pages < 0 ? "the kernel has none of 2 MiB" : "no pages are reserved",
                 "sysctl vm.nr_hugepages=N, for --huge-pages");
    }
}

void host_check_storage(json_t *rows)
{
    check_io_uring(rows);
    check_huge_pages(rows);
}

static void check_firmware_file(json_t *rows, const char *name, const char *const *paths,
                                const char *remedy)
{
    for (; *paths != NULL; paths++) {
        if (access(*paths, R_OK) == 0) {
            host_row(rows, "firmware", name, "usable", *paths, "");
            return;
        }
    }
    host_row(rows, "firmware", name, "unusable", "no file is found", remedy);
}

void host_check_firmware(json_t *rows)
{
    static const char *const bios[] = {"/usr/share/seabios/bios-256k.bin",
                                       "/usr/share/qemu/bios-256k.bin", NULL};
    static const char *const uefi[] = {"/usr/share/OVMF/OVMF_CODE_4M.fd",
                                       "/usr/share/OVMF/OVMF_CODE.fd", NULL};
    check_firmware_file(rows, "bios", bios, "apt install seabios");
    check_firmware_file(rows, "uefi", uefi, "apt install ovmf");
}
