/* A container as small as possible. */
#include "box.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/sched.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/compiler.h"
#include "container/process/process.h"

static char *report; /* shared by all processes of a box */
#define REPORT_SIZE 4096

void box_check_at(bool condition, const char *text, const char *file, int line)
{
    if (!condition) {
        (void)snprintf(report, REPORT_SIZE, "%s:%d: %s (%s)", file, line, text, strerror(errno));
        _exit(1);
    }
}

const char *box_read(const char *path)
{
    static char text[4096];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
    text[size < 0 ? 0 : size] = '\0';
    if (fd >= 0) {
        close(fd);
    }
    return text;
}

void box_write(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    box_check(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

/* The topmost mount's line, from its options on. */
static const char *find_mount(const char *wanted)
{
    static char found[4096];
    found[0] = '\0';
    FILE *list = fopen("/proc/self/mountinfo", "re");
    box_check(list != NULL);
    char line[4096], path[1024];
    int end = 0;
    while (fgets(line, sizeof(line), list) != NULL) {
        if (sscanf(line, "%*s %*s %*s %*s %1023s %n", path, &end) == 1 &&
            strcmp(path, wanted) == 0) {
            strcpy(found, line + end);
        }
    }
    (void)fclose(list);
    return found;
}

const char *box_mount_options(const char *path)
{
    static char options[512];
    options[0] = '\0';
    (void)sscanf(find_mount(path), "%511s", options);
    return options;
}

const char *box_mount_type(const char *path)
{
    static char type[64];
    type[0] = '\0';
    const char *end = strstr(find_mount(path), " - ");
    if (end != NULL) {
        (void)sscanf(end, " - %63s", type);
    }
    return type;
}

const char *box_mount_tail(const char *path)
{
    const char *line = find_mount(path), *blank = strchr(line, ' ');
    return blank == NULL ? "" : blank;
}

/* Ends the process: what the box expects, or a failure. */
static void end_with(const struct box *box, int rc, const struct error *err)
{
    if (rc < 0) {
        if (box->expected_error == NULL || strstr(err->text, box->expected_error) == NULL) {
            (void)snprintf(report, REPORT_SIZE, "failed with: %s", err->text);
            _exit(1);
        }
        _exit(0);
    }
}

static void run_container(const struct box *box, struct rootfs *rootfs, int gate, int reply)
{
    struct error err = {0};
    struct degrade degrade = {0};
    char byte;
    box_check(read(gate, &byte, 1) == 1);
    if (box->flags & CLONE_NEWUSER) {
        box_check(setresgid(0, 0, 0) == 0 && setresuid(0, 0, 0) == 0);
    }
    if (box->flags & CLONE_NEWCGROUP) {
        box_check(unshare(CLONE_NEWCGROUP) == 0);
    }
    end_with(box, rootfs_mount(rootfs, &degrade, &err), &err);
    if (box->between != NULL) {
        box->between(rootfs);
    }
    end_with(box, rootfs_enter(rootfs, &err), &err);
    box_check(box->expected_error == NULL);
    if (box->locks) {
        int fd = -1;
        box_check(write(reply, "x", 1) == 1 && read(gate, &fd, sizeof(fd)) == (ssize_t)sizeof(fd));
        end_with(box, rootfs_enter_locked(rootfs, fd, &err), &err);
    }
    rootfs_destroy(rootfs);
    if (box->check != NULL) {
        box->check();
    }
    _exit(0);
}

static void lock_container(pid_t pid, int gate, int reply)
{
    struct error err = {0};
    char byte;
    if (read(reply, &byte, 1) != 1) {
        return; /* it failed before, and has said why */
    }
    int fd = rootfs_lock(pid, &err);
    if (fd < 0) {
        (void)snprintf(report, REPORT_SIZE, "failed with: %s", err.text);
        _exit(1);
    }
    /* The container's process shares this one's descriptors. */
    box_check(write(gate, &fd, sizeof(fd)) == (ssize_t)sizeof(fd));
}

static int count_mounts(void)
{
    FILE *list = fopen("/proc/self/mountinfo", "re");
    box_check(list != NULL);
    int count = 0;
    for (int c = fgetc(list); c != EOF; c = fgetc(list)) {
        count += c == '\n';
    }
    (void)fclose(list);
    return count;
}

static void run_runtime(const struct box *box, const char *root)
{
    struct error err = {0};
    box_check(unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL) == 0);
    box_check(mount("tmpfs", root, "tmpfs", 0, "mode=755") == 0);
    if (box->flags & CLONE_NEWUSER) {
        box_check(chown(root, BOX_MAPPED_ID, BOX_MAPPED_ID) == 0);
    }
    if (box->fill != NULL) {
        box->fill(root);
    }
    struct spec spec = box->spec;
    static const struct spec_id_mapping mapping = {0, BOX_MAPPED_ID, 65536},
                                        own_id = {0, BOX_USER_ID, 1};
    struct spec_id_mappings mappings = {box->is_unprivileged ? &own_id : &mapping, 1};
    if (box->is_unprivileged) {
        box_check(chown(root, BOX_USER_ID, BOX_USER_ID) == 0 && setgroups(0, NULL) == 0);
        box_check(setresgid(BOX_USER_ID, BOX_USER_ID, BOX_USER_ID) == 0);
        box_check(setresuid(BOX_USER_ID, BOX_USER_ID, BOX_USER_ID) == 0 &&
                  prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0);
    }
    struct spec_namespace namespaces[8];
    for (int bit = 0; bit < 64; bit++) {
        if (box->flags & UINT64_C(1) << bit) {
            namespaces[spec.linux_.namespace_count++] =
                (struct spec_namespace){.clone_flag = UINT64_C(1) << bit};
        }
    }
    spec.linux_.namespaces = namespaces;
    if (box->flags & CLONE_NEWUSER) {
        spec.linux_.uid_mappings = spec.linux_.gid_mappings = mappings;
    }
    struct rootfs_request request = {
        .spec = &spec,
        .root = root,
        .no_pivot = box->no_pivot,
        .is_rootless = box->is_rootless,
        .has_own_user_namespace = (box->flags & CLONE_NEWUSER) != 0,
    };
    int mounts_before = count_mounts();
    struct rootfs *rootfs;
    end_with(box, rootfs_create(&request, &rootfs, &err), &err);
    int gate[2], reply[2];
    box_check(pipe(gate) == 0 && pipe(reply) == 0);
    struct clone_args args = {
        .flags = (box->flags & ~(uint64_t)CLONE_NEWCGROUP) | (box->locks ? CLONE_FILES : 0),
        .exit_signal = SIGCHLD,
    };
    long pid = syscall(SYS_clone3, &args, sizeof(args));
    box_check(pid >= 0);
    if (pid == 0) {
        run_container(box, rootfs, gate[0], reply[1]);
    }
    if (box->flags & CLONE_NEWUSER) {
        end_with(box, process_map_ids((pid_t)pid, &spec.linux_, box->is_unprivileged, &err), &err);
    }
    end_with(box, rootfs_map(rootfs, (pid_t)pid, &err), &err);
    box_check(write(gate[1], "x", 1) == 1);
    if (box->locks) {
        lock_container((pid_t)pid, gate[1], reply[0]);
    }
    int status;
    box_check(waitpid((pid_t)pid, &status, 0) == pid);
    if (!box->locks) {
        rootfs_destroy(rootfs);
    }
    box_check(!box->keeps_host || status != 0 || count_mounts() == mounts_before);
    _exit(WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : 1);
}

void box_run(const struct box *box)
{
    char root[] = "/tmp/hull-box-XXXXXX";
    report = mmap(NULL, REPORT_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(report != MAP_FAILED && mkdtemp(root) != NULL);
    (void)chmod(root, 0755);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        run_runtime(box, root);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    (void)rmdir(root);
    char text[REPORT_SIZE];
    memcpy(text, report, sizeof(text));
    munmap(report, REPORT_SIZE);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fail_msg("%s (wait status %d)", text, status);
    }
}

bool box_is_possible(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        _exit(unshare(CLONE_NEWNS | CLONE_NEWPID) == 0 && unshare(CLONE_NEWUSER) == 0 ? 0 : 1);
    }
    int status = 1;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
        (void)fprintf(stderr, "skipped: needs root and namespaces\n");
        return false;
    }
    return true;
}

#define USUAL_FLAGS                                                                                \
    (CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP)

#define PLAIN (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NODEV)

static const struct spec_mount usual_mounts[] = {
    {.destination = "/proc", .type = "proc", .source = "proc", .data = ""},
    {.destination = "/dev",
     .type = "tmpfs",
     .source = "tmpfs",
     .data = "mode=755,size=65536k",
     .attributes_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_STRICTATIME},
    {.destination = "/dev/pts",
     .type = "devpts",
     .source = "devpts",
     .data = "newinstance,ptmxmode=0666,mode=0620",
     .attributes_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC},
    {.destination = "/dev/shm",
     .type = "tmpfs",
     .source = "shm",
     .data = "mode=1777,size=65536k",
     .attributes_set = PLAIN},
    {.destination = "/dev/mqueue",
     .type = "mqueue",
     .source = "mqueue",
     .data = "",
     .attributes_set = PLAIN},
    {.destination = "/sys",
     .type = "sysfs",
     .source = "sysfs",
     .data = "",
     .attributes_set = PLAIN | MOUNT_ATTR_RDONLY},
    {.destination = "/sys/fs/cgroup",
     .type = "cgroup",
     .source = "cgroup",
     .data = "",
     .attributes_set = PLAIN | MOUNT_ATTR_RDONLY},
};

static const char *usual_masked[] = {"/proc/kcore",   "/proc/acpi",    "/proc/scsi",
                                     "/sys/firmware", "/proc/nothing", NULL};
static const char *usual_readonly[] = {"/proc/sys", "/proc/irq", "/proc/nothing", NULL};

struct box box_usual(void)
{
    return (struct box){
        .flags = USUAL_FLAGS,
        .spec =
            {
                .has_process = true,
                .mounts = usual_mounts,
                .mount_count = ARRAY_COUNT(usual_mounts),
                .linux_.masked_paths = {usual_masked, ARRAY_COUNT(usual_masked) - 1},
                .linux_.readonly_paths = {usual_readonly, ARRAY_COUNT(usual_readonly) - 1},
            },
    };
}

bool box_is_device(const char *path, unsigned device_major, unsigned device_minor)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISCHR(st.st_mode) &&
           st.st_rdev == makedev(device_major, device_minor);
}

bool box_is_link(const char *path, const char *target)
{
    char text[256] = "";
    return readlink(path, text, sizeof(text) - 1) > 0 && strcmp(text, target) == 0;
}

bool box_has_option(const char *path, const char *option)
{
    char options[600], wanted[64];
    (void)snprintf(options, sizeof(options), ",%s,", box_mount_options(path));
    (void)snprintf(wanted, sizeof(wanted), ",%s,", option);
    return strstr(options, wanted) != NULL;
}
