/* Covers mount/control_groups.c, devices.c, sysctl.c, terminal.c and the propagation of rootfs.c. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <termios.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/compiler.h"
#include "box.h"

#define PROC                                                                                       \
    {                                                                                              \
        .destination = "/proc", .type = "proc", .source = "proc", .data = ""                       \
    }
#define GROUPS(attributes)                                                                         \
    {                                                                                              \
        .destination = "/sys/fs/cgroup", .type = "cgroup", .source = "cgroup", .data = "",         \
        .attributes_set = attributes                                                               \
    }

static struct box box_with(const struct spec_mount *mounts, size_t count, uint64_t more_flags)
{
    return (struct box){
        .flags = CLONE_NEWNS | CLONE_NEWPID | more_flags,
        .spec = {.has_process = true, .mounts = mounts, .mount_count = count},
    };
}

static const struct spec_mount groups[] = {PROC, GROUPS(MOUNT_ATTR_NOSUID | MOUNT_ATTR_RDONLY)};

static bool is_hybrid_host(void)
{
    struct statfs fs;
    return statfs("/sys/fs/cgroup", &fs) == 0 && fs.f_type == TMPFS_MAGIC &&
           access("/sys/fs/cgroup/systemd", F_OK) == 0 &&
           access("/sys/fs/cgroup/unified", F_OK) == 0;
}

static void check_hybrid(void)
{
    box_check(strcmp(box_mount_type("/sys/fs/cgroup"), "tmpfs") == 0 &&
              box_has_option("/sys/fs/cgroup", "ro"));
    box_check(strcmp(box_mount_type("/sys/fs/cgroup/systemd"), "cgroup") == 0);
    box_check(box_has_option("/sys/fs/cgroup/systemd", "ro") &&
              box_has_option("/sys/fs/cgroup/systemd", "nosuid"));
    box_check(strcmp(box_mount_type("/sys/fs/cgroup/unified"), "cgroup2") == 0);
    box_check(access("/sys/fs/cgroup/unified/cgroup.procs", F_OK) == 0);
}

static void test_hybrid_groups(void **state)
{
    if (!is_hybrid_host()) {
        (void)fprintf(stderr, "not run: this host's control groups are not hybrid\n");
        return;
    }
    struct box box = box_with(groups, 2, CLONE_NEWCGROUP);
    box.check = check_hybrid;
    box_run(&box);
    box.flags &= ~(uint64_t)CLONE_NEWCGROUP; /* bound, not mounted */
    box_run(&box);
    box.flags |= CLONE_NEWUSER;
    box_run(&box);
    box.flags |= CLONE_NEWCGROUP;
    box_run(&box);
}

static void fill_unified(const char *root)
{
    (void)umount2("/sys/fs/cgroup", MNT_DETACH);
    box_check(mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, NULL) == 0);
}

static void check_unified(void)
{
    box_check(strcmp(box_mount_type("/sys/fs/cgroup"), "cgroup2") == 0 &&
              box_has_option("/sys/fs/cgroup", "ro"));
    box_check(access("/sys/fs/cgroup/cgroup.procs", F_OK) == 0);
}

static void test_unified_groups(void **state)
{
    struct box box = box_with(groups, 2, CLONE_NEWCGROUP);
    box.fill = fill_unified;
    box.check = check_unified;
    box_run(&box);
    box.flags &= ~(uint64_t)CLONE_NEWCGROUP;
    box_run(&box);
    box.flags |= CLONE_NEWUSER;
    box_run(&box);
}

static const struct spec_device devices[] = {
    {.path = "/dev/net/zero",
     .type = 'c',
     .major = 1,
     .minor = 5,
     .file_mode = {true, 0640},
     .uid = {true, 11},
     .gid = {true, 12}},
    {.path = "/run/pipe", .type = 'p', .file_mode = {true, 0600}},
    {.path = "/dev/tty", .type = 'c', .major = 1, .minor = 3}, /* in place of the default one */
    {.path = "/dev/loop-7", .type = 'b', .major = 7, .minor = 7, .file_mode = {true, 0600}},
};

static void check_devices(void)
{
    struct stat st;
    box_check(stat("/dev/net/zero", &st) == 0 && S_ISCHR(st.st_mode) &&
              st.st_rdev == makedev(1, 5));
    box_check((st.st_mode & 0777) == 0640 && st.st_uid == 11 && st.st_gid == 12);
    box_check(stat("/run/pipe", &st) == 0 && S_ISFIFO(st.st_mode) && (st.st_mode & 0777) == 0600);
    box_check(box_is_device("/dev/tty", 1, 3) && box_is_device("/dev/null", 1, 3));
    box_check(stat("/dev/loop-7", &st) == 0 && S_ISBLK(st.st_mode) && st.st_rdev == makedev(7, 7));
}

static void test_listed_devices(void **state)
{
    struct box box = box_with(groups, 1, 0);
    box.spec.linux_.devices = devices;
    box.spec.linux_.device_count = ARRAY_COUNT(devices);
    box.check = check_devices;
    box_run(&box);
}

static const struct spec_device for_user[] = {
    {.path = "/dev/other-name", .type = 'c', .major = 1, .minor = 5},
};
static const struct spec_device for_nobody[] = {
    {.path = "/dev/none", .type = 'c', .major = 250, .minor = 250},
};

/* The host's node of that number, under another name. */
static void fill_node_by_number(const char *root)
{
    box_check(mount("tmpfs", "/dev/char", "tmpfs", 0, "mode=755") == 0);
    box_check(mknod("/dev/char/1:5", S_IFCHR | 0666, makedev(1, 5)) == 0);
}

static void check_bound_device(void)
{
    box_check(box_is_device("/dev/other-name", 1, 5) && box_is_device("/dev/null", 1, 3));
    int fd = open("/dev/other-name", O_RDONLY);
    char byte = 'x';
    box_check(fd >= 0 && read(fd, &byte, 1) == 1 && byte == 0);
}

static void test_devices_in_user_namespace(void **state)
{
    struct box box = box_with(groups, 1, CLONE_NEWUSER);
    if (access("/dev/char", F_OK) == 0) {
        box.fill = fill_node_by_number;
        box.spec.linux_.devices = for_user;
        box.spec.linux_.device_count = 1;
        box.check = check_bound_device;
        box_run(&box);
    }
    box = box_with(groups, 1, CLONE_NEWUSER);
    box.spec.linux_.devices = for_nobody;
    box.spec.linux_.device_count = 1;
    box.expected_error = "device /dev/none: No such file or directory";
    box_run(&box);
}

static const struct spec_pair allowed[] = {
    {"net.ipv4.ip_forward", "1"},
    {"net/ipv4/conf/lo/rp_filter", "1"},
    {"kernel.msgmax", "9000"},
    {"fs.mqueue.msg_max", "20"},
};

static void check_allowed(void)
{
    box_check(strcmp(box_read("/proc/sys/net/ipv4/ip_forward"), "1\n") == 0);
    box_check(strcmp(box_read("/proc/sys/net/ipv4/conf/lo/rp_filter"), "1\n") == 0);
    box_check(strcmp(box_read("/proc/sys/kernel/msgmax"), "9000\n") == 0);
    box_check(strcmp(box_read("/proc/sys/fs/mqueue/msg_max"), "20\n") == 0);
}

static void test_parameters(void **state)
{
    struct box box = box_with(groups, 1, CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS);
    box.spec.linux_.sysctl.item = allowed;
    box.spec.linux_.sysctl.count = ARRAY_COUNT(allowed);
    box.check = check_allowed;
    box_run(&box);
    box.flags |= CLONE_NEWUSER;
    box_run(&box);
}

static void refuse(const char *name, uint64_t flags, const char *text)
{
    struct spec_pair pair = {name, "1"};
    struct box box = box_with(groups, 1, flags);
    box.spec.linux_.sysctl.item = &pair;
    box.spec.linux_.sysctl.count = 1;
    box.expected_error = text;
    box_run(&box);
}

static void test_parameters_of_the_host(void **state)
{
    refuse("net.ipv4.ip_forward", CLONE_NEWIPC, "not allowed in the host's network namespace");
    refuse("kernel/shmmax", CLONE_NEWNET, "not allowed in the host's ipc namespace");
    refuse("fs.mqueue.msg_max", 0, "not allowed in the host's ipc namespace");
    refuse("kernel.core_pattern", CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS,
           "not in a separate kernel namespace");
    refuse("kernel.hostname", CLONE_NEWUTS, "the field \"hostname\"");
    refuse("kernel.domainname", 0, "not in a separate kernel namespace");
    refuse("net/../kernel/core_pattern", CLONE_NEWNET, "not a name of a kernel parameter");
    refuse("net...kernel", CLONE_NEWNET, "not a name of a kernel parameter");
    refuse("", CLONE_NEWNET, "not a name of a kernel parameter");
    refuse("net.no_such_thing", CLONE_NEWNET,
           "sysctl \"net.no_such_thing\": No such file or directory");
}

static const struct spec_mount terminals[] = {
    PROC,
    {.destination = "/dev", .type = "tmpfs", .source = "tmpfs", .data = "mode=755"},
    {.destination = "/dev/pts",
     .type = "devpts",
     .source = "devpts",
     .data = "newinstance,ptmxmode=0666"},
};

static int master = -1;
static char terminal_name[64];

static void open_terminal(struct rootfs *rootfs)
{
    struct error err = {0};
    box_check(rootfs_open_terminal(rootfs, 9, true, &master, terminal_name, sizeof(terminal_name),
                                   &err) == 0);
    box_check(fcntl(master, F_GETFD) & FD_CLOEXEC);
}

static void check_terminal(void)
{
    struct stat console, slave;
    box_check(strcmp(terminal_name, "/dev/pts/0") == 0);
    box_check(stat("/dev/console", &console) == 0 && stat(terminal_name, &slave) == 0);
    box_check(S_ISCHR(console.st_mode) && console.st_rdev == slave.st_rdev && slave.st_uid == 9);
    int fd = open("/dev/console", O_RDWR | O_NOCTTY);
    char text[8] = "";
    box_check(fd >= 0 && isatty(fd) && write(master, "hi\n", 3) == 3 &&
              read(fd, text, sizeof(text)) == 3);
    box_check(strcmp(text, "hi\n") == 0);
    /* One more, as exec does it, wherever it is. */
    box_check(chdir("/proc") == 0);
    struct error err = {0};
    int other;
    box_check(rootfs_open_terminal(NULL, 8, true, &other, terminal_name, sizeof(terminal_name),
                                   &err) == 0);
    box_check(strcmp(terminal_name, "/dev/pts/1") == 0 && fcntl(other, F_GETFD) == FD_CLOEXEC);
    box_check(umount2("/dev/pts", MNT_DETACH) == 0);
    box_check(symlink("/dev/null", "/dev/pts/ptmx") == 0);
    box_check(rootfs_open_terminal(NULL, 8, true, &other, terminal_name, sizeof(terminal_name),
                                   &err) == -ENODEV);
}

static void test_terminal(void **state)
{
    struct box box = box_with(terminals, 3, 0);
    box.between = open_terminal;
    box.check = check_terminal;
    box_run(&box);
    box.flags |= CLONE_NEWUSER;
    box_run(&box);
}

static void fill_shared(const char *root)
{
    box_check(mount(NULL, "/", NULL, MS_SHARED | MS_REC, NULL) == 0);
}

static void check_shared(void)
{
    box_check(strstr(box_mount_tail("/"), "shared:") != NULL &&
              strstr(box_mount_tail("/"), "master:") == NULL);
}

static void check_shared_of_user(void)
{
    box_check(strstr(box_mount_tail("/"), "shared:") != NULL);
}

static void check_slave(void)
{
    box_check(strstr(box_mount_tail("/"), "shared:") == NULL &&
              strstr(box_mount_tail("/"), "master:") != NULL);
}

static void check_private(void)
{
    box_check(strstr(box_mount_tail("/"), "shared:") == NULL &&
              strstr(box_mount_tail("/"), "master:") == NULL);
}

/* What was mounted on the host before is there still, and nothing of the container's. */
static void test_propagation(void **state)
{
    struct box box = box_with(groups, 1, 0);
    box.fill = fill_shared;
    box.check = check_slave;
    box_run(&box);
    box.spec.linux_.rootfs_propagation = MS_SLAVE | MS_REC;
    box_run(&box);
    box.spec.linux_.rootfs_propagation = MS_PRIVATE | MS_REC;
    box.check = check_private;
    box_run(&box);
    box.spec.linux_.rootfs_propagation = MS_SHARED | MS_REC;
    box.check = check_shared;
    box.keeps_host = true;
    box_run(&box);
    box.flags |= CLONE_NEWUSER;
    box.check = check_shared_of_user;
    box_run(&box);
    box.locks = true;
    box_run(&box);
}

int main(void)
{
    if (!box_is_possible()) {
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hybrid_groups),  cmocka_unit_test(test_unified_groups),
        cmocka_unit_test(test_listed_devices), cmocka_unit_test(test_devices_in_user_namespace),
        cmocka_unit_test(test_parameters),     cmocka_unit_test(test_parameters_of_the_host),
        cmocka_unit_test(test_terminal),       cmocka_unit_test(test_propagation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
