/* Attempts to get out of a container's tree, or to have its runtime write elsewhere, that other runtimes once fell for. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/compiler.h"
#include "box.h"
#include "container/mount/procfs.h"
#include "container/process/process.h"

#define PROC                                                                                       \
    {                                                                                              \
        .destination = "/proc", .type = "proc", .source = "proc", .data = ""                       \
    }

static struct box box_with(const struct spec_mount *mounts, size_t count)
{
    return (struct box){
        .flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC,
        .spec = {.has_process = true, .mounts = mounts, .mount_count = count},
    };
}

static void enter_root(const char *root)
{
    box_check(chdir(root) == 0);
}

static void leave_root(void)
{
    box_check(chdir("/") == 0);
}

/* CVE-2019-16884: an image's own files as /proc, so that a label is written to one of them. */
static const struct spec_mount fake_proc[] = {
    {.destination = "/proc", .source = "/mnt", .data = "", .is_bind = true},
};
static const struct spec_mount tmpfs_as_proc[] = {
    {.destination = "//proc/", .type = "tmpfs", .source = "tmpfs", .data = ""},
};

static const struct spec_mount part_of_proc[] = {
    {.destination = "/proc", .source = "/proc/self", .data = "", .is_bind = true},
};
static const struct spec_mount proc_of_host[] = {
    {.destination = "/proc",
     .source = "/proc",
     .data = "",
     .is_bind = true,
     .is_recursive_bind = true},
};

static void check_proc_of_host(void)
{
    box_check(getpid() == 1 && !box_is_link("/proc/self", "1"));
}

static void test_fake_proc(void **state)
{
    struct box box = box_with(fake_proc, 1);
    box.expected_error = "only a proc file system may be mounted on /proc";
    box_run(&box);
    box = box_with(tmpfs_as_proc, 1);
    box.expected_error = "only a proc file system may be mounted on /proc";
    box_run(&box);
    box = box_with(part_of_proc, 1);
    box.expected_error = "only a proc file system may be mounted on /proc";
    box_run(&box);
    box = box_with(proc_of_host, 1);
    box.check = check_proc_of_host;
    box_run(&box);
}

/* CVE-2019-19921, CVE-2023-27561, CVE-2023-28642: /proc or /sys as links to a volume of the attacker. */
static void fill_linked_proc(const char *root)
{
    enter_root(root);
    box_check(mkdir("volume", 0777) == 0 && symlink("volume", "proc") == 0 &&
              symlink("/volume", "sys") == 0);
    leave_root();
}

static const struct spec_mount proc_alone[] = {PROC};
static const struct spec_mount sys_alone[] = {
    {.destination = "/sys", .type = "sysfs", .source = "sysfs", .data = ""},
};

static void test_linked_proc(void **state)
{
    struct box box = box_with(proc_alone, 1);
    box.fill = fill_linked_proc;
    box.expected_error = "file system proc must be mounted on an ordinary directory";
    box_run(&box);
    box = box_with(sys_alone, 1);
    box.fill = fill_linked_proc;
    box.expected_error = "file system sysfs must be mounted on an ordinary directory";
    box_run(&box);
}

/* CVE-2025-52881: a mount inside /proc over what the runtime will write to, also through a link. */
static const struct spec_mount inside_proc[] = {
    PROC,
    {.destination = "/proc/self/attr", .type = "tmpfs", .source = "tmpfs", .data = ""},
};
static const struct spec_mount inside_proc_by_link[] = {
    PROC,
    {.destination = "/link/kernel", .source = "/mnt", .data = "", .is_bind = true},
};
static const struct spec_mount inside_proc_by_name[] = {
    PROC,
    {.destination = "/proc/uptime", .source = "/mnt/uptime", .data = "", .is_bind = true},
};

static void fill_link_to_proc(const char *root)
{
    box_check(mount("tmpfs", "/mnt", "tmpfs", 0, NULL) == 0);
    box_write("/mnt/uptime", "1.00 1.00\n");
    enter_root(root);
    box_check(symlink("/proc/sys", "link") == 0);
    leave_root();
}

static void check_uptime(void)
{
    box_check(strcmp(box_read("/proc/uptime"), "1.00 1.00\n") == 0);
}

static void test_mounts_inside_proc(void **state)
{
    struct box box = box_with(inside_proc, 2);
    box.expected_error = "cannot be mounted because it is inside /proc";
    box_run(&box);
    box = box_with(inside_proc_by_link, 2);
    box.fill = fill_link_to_proc;
    box.expected_error = "cannot be mounted because it is inside /proc";
    box_run(&box);
    box = box_with(inside_proc_by_name, 2); /* what lxcfs needs */
    box.fill = fill_link_to_proc;
    box.check = check_uptime;
    box_run(&box);
}

/* CVE-2025-52881 again: even with another file system over the /proc of the runtime itself a parameter is written to the kernel. */
static void fill_covered_proc(const char *root)
{
    box_check(mount("/proc/version", "/proc/sys/kernel/domainname", NULL, MS_BIND, NULL) == 0);
}

static const struct spec_pair parameters[] = {{"kernel.domainname", "of-the-container"}};

static void check_parameter(void)
{
    char name[64];
    box_check(getdomainname(name, sizeof(name)) == 0 && strcmp(name, "of-the-container") == 0);
}

static void test_covered_proc(void **state)
{
    struct box box = box_with(proc_alone, 1);
    box.spec.linux_.sysctl.item = parameters;
    box.spec.linux_.sysctl.count = 1;
    box.fill = fill_covered_proc;
    box.check = check_parameter;
    box_run(&box);
}

static void check_verified_proc(void)
{
    box_check(mount("tmpfs", "/proc/sys/kernel", "tmpfs", 0, NULL) == 0);
    box_write("/proc/sys/kernel/domainname", "");
    int proc = open("/proc", O_PATH | O_DIRECTORY);
    box_check(procfs_open_file(proc, "sys/kernel/domainname", O_WRONLY) == -EXDEV);
    box_check(procfs_open_file(proc, "self/root/etc", O_RDONLY) == -ELOOP);
    box_check(procfs_open_file(proc, "../etc", O_RDONLY) < 0);
    struct error err = {0};
    int own = procfs_open(&err);
    box_check(own >= 0 && procfs_write(own, "sys/kernel/domainname", "changed") == 0);
    char name[64];
    box_check(getdomainname(name, sizeof(name)) == 0 && strcmp(name, "changed") == 0);
}

static void test_files_of_a_verified_proc(void **state)
{
    struct box box = box_with(proc_alone, 1);
    box.check = check_verified_proc;
    box_run(&box);
}

/* CVE-2025-31133, and devices of an image in place of the runtime's: /dev/null as a link to what masking would then show. */
static void fill_null_link(const char *root)
{
    enter_root(root);
    box_write("secret", "secret");
    box_check(mkdir("dev", 0755) == 0 && symlink("/secret", "dev/null") == 0);
    leave_root();
}

static void fill_wrong_device(const char *root)
{
    enter_root(root);
    box_check(mkdir("dev", 0755) == 0 && mknod("dev/zero", S_IFCHR | 0666, makedev(1, 3)) == 0);
    leave_root();
}

static void test_foreign_device_nodes(void **state)
{
    struct box box = box_with(proc_alone, 1);
    box.fill = fill_null_link;
    box.expected_error = "device /dev/null: another file of that name is there";
    box_run(&box);
    box.flags |= CLONE_NEWUSER;
    box_run(&box);
    box = box_with(proc_alone, 1);
    box.fill = fill_wrong_device;
    box.expected_error = "device /dev/zero: another file of that name is there";
    box_run(&box);
}

/* As if another container with the same volume as /dev had exchanged the node after it was made. */
static void exchange_null(struct rootfs *rootfs)
{
    int root = rootfs_root(rootfs);
    box_check(unlinkat(root, "dev/null", 0) == 0 && symlinkat("/secret", root, "dev/null") == 0);
}

static const char *masked[] = {"/proc/version", "/visible/link", "/proc/bus", NULL};

static void fill_masked(const char *root)
{
    enter_root(root);
    box_write("secret", "secret");
    box_check(mkdir("visible", 0755) == 0 && symlink("/secret", "visible/link") == 0);
    leave_root();
}

static void check_masked(void)
{
    struct stat st;
    box_check(stat("/proc/version", &st) == 0 && S_ISCHR(st.st_mode) &&
              st.st_rdev == makedev(1, 3));
    box_check(strcmp(box_read("/proc/version"), "") == 0);
    box_check(box_is_device("/secret", 1, 3)); /* a link is followed, below the root */
    box_check(box_is_link("/visible/link", "/secret"));
}

static void test_masking_by_the_hosts_null(void **state)
{
    struct box box = box_with(proc_alone, 1);
    box.fill = fill_masked;
    box.between = exchange_null;
    box.spec.linux_.masked_paths = (struct spec_strings){masked, ARRAY_COUNT(masked) - 1};
    box.check = check_masked;
    box_run(&box);
}

/* A link in an image as mount point or device directory leads to the same name in the image, not on the host. */
static void fill_links_out(const char *root)
{
    box_check(mount("tmpfs", "/mnt", "tmpfs", 0, NULL) == 0 && mkdir("/mnt/host", 0755) == 0);
    enter_root(root);
    box_check(symlink("/mnt/host", "absolute") == 0 &&
              symlink("../../../../../../mnt/host", "up") == 0);
    box_check(symlink("/mnt/host", "dev") == 0 && mkdir("proc", 0755) == 0);
    leave_root();
}

static const struct spec_mount through_links[] = {
    PROC,
    {.destination = "/absolute/a", .type = "tmpfs", .source = "tmpfs", .data = ""},
    {.destination = "/up/b", .type = "tmpfs", .source = "tmpfs", .data = ""},
    {.destination = "/proc/1/root/c", .type = "tmpfs", .source = "tmpfs", .data = ""},
};

static void check_host_untouched(struct rootfs *rootfs)
{
    struct stat st;
    box_check(stat("/mnt/host", &st) == 0 && st.st_nlink == 2 &&
              access("/mnt/host/null", F_OK) < 0);
}

static void check_links_out(void)
{
    box_check(strcmp(box_mount_type("/mnt/host/a"), "tmpfs") == 0);
    box_check(strcmp(box_mount_type("/mnt/host/b"), "tmpfs") == 0);
    box_check(box_is_device("/mnt/host/null", 1, 3));
}

static void test_links_out_of_the_image(void **state)
{
    struct box box = box_with(through_links, 3);
    box.fill = fill_links_out;
    box.between = check_host_untouched;
    box.check = check_links_out;
    box_run(&box);
    box = box_with(through_links, 4); /* a magic link */
    box.fill = fill_links_out;
    box.expected_error =
        "mounting /proc/1/root/c: opening the mount point: Too many levels of symbolic links";
    box_run(&box);
}

/* CVE-2024-21626: a working directory through a descriptor of the host that was left open. */
static void check_cwd(void)
{
    struct error err = {0};
    struct degrade degrade = {0};
    struct spec spec = {.has_process = true, .process.cwd = "/proc/self/fd/200"};
    box_check(process_set_environment(&spec, true, true, &degrade, &err) == -EXDEV);
    box_check(strstr(err.text, "outside of the container's root") != NULL);
    char path[64];
    box_check(getcwd(path, sizeof(path)) != NULL && strcmp(path, "/") == 0);
}

static void leave_host_open(const char *root)
{
    int fd = open("/", O_PATH | O_DIRECTORY);
    box_check(fd >= 0 && dup2(fd, 200) == 200);
}

static void test_cwd_on_the_host(void **state)
{
    struct box box = box_with(proc_alone, 1);
    box.fill = leave_host_open;
    box.check = check_cwd;
    box_run(&box);
}

/* Descriptors of the tree end with it, and would at exec at the latest. */
static bool was_open[256];

static void remember_descriptors(const char *root)
{
    for (int fd = 0; fd < 256; fd++) {
        was_open[fd] = fcntl(fd, F_GETFD) >= 0;
    }
}

/* New ones; without pipes, which are the box's. */
static void check_new_descriptors(bool may_be_closed_by_exec)
{
    for (int fd = 0; fd < 256; fd++) {
        int flags = fcntl(fd, F_GETFD);
        struct stat st;
        bool is_new = flags >= 0 && !was_open[fd] && fstat(fd, &st) == 0 && !S_ISFIFO(st.st_mode);
        box_check(!is_new || (may_be_closed_by_exec && (flags & FD_CLOEXEC)));
    }
}

static void check_before_entering(struct rootfs *rootfs)
{
    check_new_descriptors(true);
}

static void check_after_all(void)
{
    check_new_descriptors(false);
}

static void test_no_descriptors_are_left(void **state)
{
    struct box box = box_usual();
    box.fill = remember_descriptors;
    box.between = check_before_entering;
    box.check = check_after_all;
    box_run(&box);
}

/* CVE-2025-52565: /dev/console and the terminal's name as links of the image. */
static const struct spec_mount terminals[] = {
    PROC,
    {.destination = "/dev/pts",
     .type = "devpts",
     .source = "devpts",
     .data = "newinstance,ptmxmode=0666"},
};

static void fill_console_link(const char *root)
{
    enter_root(root);
    box_check(mkdir("dev", 0755) == 0 && symlink("/proc/sysrq-trigger", "dev/console") == 0);
    leave_root();
}

static void open_console(struct rootfs *rootfs)
{
    struct error err = {0};
    int master;
    char name[32];
    /* What the link names belongs to the kernel: nothing is mounted over it. */
    box_check(rootfs_open_terminal(rootfs, 0, true, &master, name, sizeof(name), &err) < 0);
}

static void check_console(void)
{
    box_check(!box_is_device("/proc/sysrq-trigger", 136, 0) &&
              strcmp(box_mount_type("/proc/sysrq-trigger"), "") == 0);
}

static void test_console_as_link(void **state)
{
    struct box box = box_with(terminals, 2);
    box.fill = fill_console_link;
    box.between = open_console;
    box.check = check_console;
    box_run(&box);
}

/* A root of its own user namespace with CAP_SYS_ADMIN tries to undo what is hidden. */
static const char *readonly_paths[] = {"/proc/sys", NULL};
static const struct spec_mount with_readonly_bind[] = {
    PROC,
    {.destination = "/data",
     .source = "/mnt",
     .data = "",
     .is_bind = true,
     .attributes_set = MOUNT_ATTR_RDONLY},
};

static void check_locked(void)
{
    box_check(box_has_option("/", "ro") && box_has_option("/data", "ro") &&
              box_has_option("/proc/sys", "ro"));
    box_check(mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL) < 0 && errno == EPERM);
    box_check(mount(NULL, "/data", NULL, MS_REMOUNT | MS_BIND, NULL) < 0 && errno == EPERM);
    box_check(mount(NULL, "/proc/sys", NULL, MS_REMOUNT | MS_BIND, NULL) < 0 && errno == EPERM);
    box_check(umount2("/proc/sys", MNT_DETACH) < 0 && errno == EINVAL);
    box_check(umount2("/proc/version", MNT_DETACH) < 0 && errno == EINVAL);
    box_check(box_is_device("/proc/version", 1, 3));
    /* Copies are locked as well, and a copy without what covers the original is none. */
    box_check(unshare(CLONE_NEWNS) == 0 &&
              mount(NULL, "/data", NULL, MS_REMOUNT | MS_BIND, NULL) < 0);
    box_check(mount("/proc", "/dev", NULL, MS_BIND, NULL) < 0 && errno == EINVAL);
    /* What the container itself mounts stays its own. */
    box_check(mount("tmpfs", "/dev", "tmpfs", 0, NULL) == 0 && umount("/dev") == 0);
    box_check(strstr(box_mount_tail("/"), "master:") == NULL);
}

static void test_locked_mounts(void **state)
{
    struct box box = box_with(with_readonly_bind, 2);
    box.flags |= CLONE_NEWUSER;
    box.spec.is_root_readonly = true;
    box.spec.linux_.masked_paths = (struct spec_strings){masked, 1};
    box.spec.linux_.readonly_paths = (struct spec_strings){readonly_paths, 1};
    box.locks = true;
    box.check = check_locked;
    box_run(&box);
}

static void test_who_needs_locks(void **state)
{
    struct spec spec = {
        .has_process = true, .process.has_capabilities = true, .process.bounding = 1 << 21};
    struct rootfs_request request = {.spec = &spec, .root = "/", .has_own_user_namespace = true};
    assert_true(rootfs_needs_lock(&request)); /* CAP_SYS_ADMIN is 21 */
    spec.process.bounding = 1 << 20;
    assert_false(rootfs_needs_lock(&request));
    spec.process.has_capabilities = false;
    assert_true(rootfs_needs_lock(&request));
    request.has_own_user_namespace = false;
    assert_false(rootfs_needs_lock(&request));
}

int main(void)
{
    if (!box_is_possible()) {
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fake_proc),
        cmocka_unit_test(test_linked_proc),
        cmocka_unit_test(test_mounts_inside_proc),
        cmocka_unit_test(test_covered_proc),
        cmocka_unit_test(test_files_of_a_verified_proc),
        cmocka_unit_test(test_foreign_device_nodes),
        cmocka_unit_test(test_masking_by_the_hosts_null),
        cmocka_unit_test(test_links_out_of_the_image),
        cmocka_unit_test(test_cwd_on_the_host),
        cmocka_unit_test(test_no_descriptors_are_left),
        cmocka_unit_test(test_console_as_link),
        cmocka_unit_test(test_locked_mounts),
        cmocka_unit_test(test_who_needs_locks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
