/* Covers process/: each function in a child that looks at itself afterwards. */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/compiler.h"
#include "child.h"
#include "container/process/label.h"
#include "container/process/limits.h"

#define BIT(capability) (UINT64_C(1) << (capability))

/* A line of /proc/self/status as a number of hexadecimal digits. */
static uint64_t status_of(const char *name)
{
    FILE *file = fopen("/proc/self/status", "re");
    child_check(file != NULL);
    char line[256];
    uint64_t value = 0;
    while (fgets(line, sizeof(line), file) != NULL) {
        if (strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ':') {
            value = strtoull(line + strlen(name) + 1, NULL, 16);
        }
    }
    (void)fclose(file);
    return value;
}

static const uint32_t more_groups[] = {20, 30};

static struct spec_process usual_process(void)
{
    uint64_t kept = BIT(CAP_CHOWN) | BIT(CAP_NET_BIND_SERVICE) | BIT(CAP_KILL);
    return (struct spec_process){
        .uid = 1000,
        .gid = 1001,
        .additional_gids = more_groups,
        .additional_gid_count = 2,
        .has_capabilities = true,
        .bounding = kept,
        .permitted = kept,
        .inheritable = BIT(CAP_KILL),
        .effective = BIT(CAP_CHOWN) | BIT(CAP_KILL),
        .ambient = BIT(CAP_KILL),
        .no_new_privileges = true,
    };
}

static void check_identity(void)
{
    struct spec_process process = usual_process();
    child_check(process_set_identity(&process, false, &child_degrade, &child_error) == 0);
    uid_t ids[3];
    gid_t groups[3];
    child_check(getresuid(&ids[0], &ids[1], &ids[2]) == 0 && ids[0] == 1000 && ids[1] == 1000 &&
                ids[2] == 1000);
    child_check(getresgid(&groups[0], &groups[1], &groups[2]) == 0 && groups[0] == 1001 &&
                groups[2] == 1001);
    child_check(getgroups(3, groups) == 2 && groups[0] == 20 && groups[1] == 30);
    child_check(status_of("CapBnd") == process.bounding &&
                status_of("CapPrm") == process.permitted);
    child_check(status_of("CapEff") == process.effective &&
                status_of("CapInh") == process.inheritable);
    child_check(status_of("CapAmb") == process.ambient);
    child_check(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 &&
                prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0) == 0);
    child_check(child_degrade.size == 0);
}

static void test_identity(void **state)
{
    child_run(0, check_identity);
}

static void check_kept_right(void)
{
    struct spec_process process = usual_process();
    process.no_new_privileges = false;
    child_check(process_set_identity(&process, true, &child_degrade, &child_error) == 0);
    child_check(status_of("CapEff") == (process.effective | BIT(CAP_SYS_ADMIN)));
    child_check(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0);
    child_check(process_drop_rest(&process, &child_error) == 0);
    child_check(status_of("CapEff") == process.effective &&
                status_of("CapPrm") == process.permitted);
    child_check(status_of("CapAmb") == process.ambient &&
                status_of("CapInh") == process.inheritable);
}

static void check_kept_right_without_capabilities(void)
{
    struct spec_process process = {.uid = 1000, .gid = 1000};
    child_check(process_set_identity(&process, true, &child_degrade, &child_error) == 0);
    child_check(status_of("CapEff") == BIT(CAP_SYS_ADMIN) &&
                process_drop_rest(&process, &child_error) == 0);
    child_check(status_of("CapEff") == 0 && status_of("CapPrm") == 0);
}

static void test_right_for_seccomp(void **state)
{
    child_run(0, check_kept_right);
    child_run(0, check_kept_right_without_capabilities);
}

/* Root without a section for capabilities keeps all; another user has none. */
static void check_no_section(void)
{
    struct spec_process process = {0};
    uint64_t before = status_of("CapEff");
    child_check(process_set_identity(&process, false, &child_degrade, &child_error) == 0);
    child_check(status_of("CapEff") == before && before != 0);
    process.uid = 7;
    child_check(process_set_identity(&process, false, &child_degrade, &child_error) == 0);
    child_check(status_of("CapEff") == 0 && status_of("CapPrm") == 0);
}

static void test_no_capabilities_section(void **state)
{
    child_run(0, check_no_section);
}

static void check_missing_capabilities(void)
{
    static const char *unknown[] = {"CAP_OF_TOMORROW", NULL};
    child_check(prctl(PR_CAPBSET_DROP, CAP_SYS_TIME, 0, 0, 0) == 0);
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    child_check(syscall(SYS_capget, &header, data) == 0);
    data[0].effective &= ~(uint32_t)BIT(CAP_SYS_TIME);
    data[0].permitted &= ~(uint32_t)BIT(CAP_SYS_TIME);
    child_check(syscall(SYS_capset, &header, data) == 0);
    struct spec_process process = usual_process();
    process.bounding |= BIT(CAP_SYS_TIME);
    process.permitted |= BIT(CAP_SYS_TIME);
    process.ambient |= BIT(CAP_SYS_TIME);
    process.unknown_capabilities = (struct spec_strings){unknown, 1};
    child_check(process_set_identity(&process, false, &child_degrade, &child_error) == 0);
    child_check(status_of("CapPrm") == (process.permitted & ~BIT(CAP_SYS_TIME)));
    child_check(status_of("CapAmb") == BIT(CAP_KILL));
    child_check(strstr(
        child_degrade.text,
        "process.capabilities.permitted\tthe host does not grant capabilities of number 25\n"));
    child_check(strstr(child_degrade.text, "process.capabilities.bounding\t") &&
                strstr(child_degrade.text, "process.capabilities.ambient\t"));
    child_check(strstr(child_degrade.text, "CAP_OF_TOMORROW is not known") != NULL);
}

static void test_missing_capabilities_are_told(void **state)
{
    child_run(0, check_missing_capabilities);
}

static void check_labels(void)
{
    struct spec_process process = {.apparmor_profile = "container-default",
                                   .selinux_label = "system_u:system_r:container_t:s0"};
    child_check(label_set_exec(&process, &child_degrade, &child_error) == 0);
    child_check(strstr(child_degrade.text, "process.apparmorProfile\tAppArmor is not enabled") !=
                NULL);
    child_check(strstr(child_degrade.text, "process.selinuxLabel\tSELinux is not enabled") != NULL);
    child_degrade.size = 0;
    process = (struct spec_process){.apparmor_profile = "unconfined"};
    child_check(label_set_exec(&process, &child_degrade, &child_error) == 0 &&
                child_degrade.size == 0);
}

static void test_labels(void **state)
{
    char text[64];
    assert_int_equal(label_format_apparmor("docker-default", text, sizeof(text)), 0);
    assert_string_equal(text, "exec docker-default");
    assert_int_equal(label_format_apparmor("a//&b", text, sizeof(text)), 0);
    assert_int_equal(label_format_apparmor("a\nexec b", text, sizeof(text)), -EINVAL);
    assert_int_equal(label_format_apparmor("", text, sizeof(text)), -EINVAL);
    assert_int_equal(label_format_apparmor("a-name-that-is-too-long", text, 16), -EINVAL);
    if (access("/sys/module/apparmor", F_OK) == 0 || access("/sys/fs/selinux/enforce", F_OK) == 0) {
        (void)fprintf(stderr, "not run: labels on a host without AppArmor and SELinux\n");
        return;
    }
    child_run(0, check_labels);
}

static void check_rlimits(void)
{
    struct rlimit now;
    child_check(setrlimit(RLIMIT_NOFILE, &(struct rlimit){500, 1000}) == 0);
    child_check(prctl(PR_CAPBSET_DROP, CAP_SYS_RESOURCE, 0, 0, 0) == 0);
    child_check(setresuid(1000, 1000, 1000) == 0); /* no capabilities */
    const struct spec_rlimit limits[] = {
        {RLIMIT_NOFILE, 1500, 2000}, {RLIMIT_CORE, 0, 0}, {RLIMIT_STACK, 65536, 1 << 20}};
    struct spec_process process = {.rlimits = limits, .rlimit_count = 3};
    child_check(limits_set_rlimits(&process, &child_degrade, &child_error) == 0);
    child_check(getrlimit(RLIMIT_NOFILE, &now) == 0 && now.rlim_cur == 1000 &&
                now.rlim_max == 1000);
    child_check(getrlimit(RLIMIT_CORE, &now) == 0 && now.rlim_cur == 0 && now.rlim_max == 0);
    child_check(getrlimit(RLIMIT_STACK, &now) == 0 && now.rlim_cur == 65536 &&
                now.rlim_max == 1 << 20);
    child_check(
        strcmp(
            child_degrade.text,
            "process.rlimits.RLIMIT_NOFILE\traising the hard limit from 1000 to 2000 needs CAP_SYS_RESOURCE\n") ==
        0);
    const struct spec_rlimit wrong = {RLIMIT_NPROC, 10, 5};
    process.rlimits = &wrong;
    process.rlimit_count = 1;
    child_check(limits_set_rlimits(&process, &child_degrade, &child_error) == -EINVAL);
    child_check(strstr(child_error.text, "process.rlimits.RLIMIT_NPROC") != NULL);
}

static void test_rlimits(void **state)
{
    child_run(0, check_rlimits);
}

/* A process that does nothing until the caller ends. */
static pid_t start_waiting(void)
{
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        child_check(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent);
        for (;;) {
            (void)pause();
        }
    }
    child_check(pid > 0);
    return pid;
}

static void check_prepare(void)
{
    pid_t pid = start_waiting();
    const struct spec_rlimit low = {RLIMIT_NOFILE, 10, 20};
    struct spec_process process = {
        .oom_score_adj = {true, 321}, .rlimits = &low, .rlimit_count = 1};
    child_check(process_prepare(pid, &process, &child_degrade, &child_error) == 0);
    char path[64], text[16] = "";
    (void)snprintf(path, sizeof(path), "/proc/%d/oom_score_adj", pid);
    int fd = open(path, O_RDONLY);
    child_check(fd >= 0 && read(fd, text, sizeof(text) - 1) == 4 && strcmp(text, "321\n") == 0);
    struct rlimit now, own;
    child_check(getrlimit(RLIMIT_NOFILE, &own) == 0 &&
                prlimit(pid, RLIMIT_NOFILE, NULL, &now) == 0);
    child_check(now.rlim_max == own.rlim_max); /* lowering is left to the process */
    process.oom_score_adj.value = 5000;
    child_check(process_prepare(pid, &process, &child_degrade, &child_error) == -EINVAL);
    child_check(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
}

static void check_score_without_right(void)
{
    child_check(setresuid(1000, 1000, 1000) == 0 && prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0);
    struct spec_process process = {.oom_score_adj = {true, -1000}};
    child_check(process_prepare(getpid(), &process, &child_degrade, &child_error) == 0);
    child_check(strstr(child_degrade.text, "process.oomScoreAdj\tlowering it to -1000") != NULL);
}

static void test_prepare(void **state)
{
    child_run(0, check_prepare);
    child_run(0, check_score_without_right);
}

static void check_environment(void)
{
    struct spec spec = {
        .has_process = true,
        .process =
            {
                .cwd = "/tmp/hull-process-cwd/a/b",
                .umask = {true, 0027},
                .scheduler = {.is_set = true, .policy = SCHED_BATCH, .nice = 3},
                .io_priority = {true, 2 << 13 | 6},
                .cpu_affinity_final = "0",
            },
        .linux_ = {.has_personality = true,
                   .personality = PER_LINUX32,
                   .memory_policy = {.is_set = true, .mode = MPOL_BIND, .nodes = "0"}},
    };
    child_check(mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL) == 0 &&
                mount("tmpfs", "/tmp", "tmpfs", 0, NULL) == 0);
    long before = syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0);
    child_check(process_set_environment(&spec, false, false, &child_degrade, &child_error) ==
                -ENOENT);
    child_check(
        strcmp(child_error.text,
               "process.cwd: entering /tmp/hull-process-cwd/a/b: No such file or directory") == 0);
    child_check(process_set_environment(&spec, false, true, &child_degrade, &child_error) == 0);
    char path[64];
    child_check(getcwd(path, sizeof(path)) != NULL && strcmp(path, spec.process.cwd) == 0);
    child_check(umask(0) == 0027);
    child_check(sched_getscheduler(0) == SCHED_BATCH && getpriority(PRIO_PROCESS, 0) == 3);
    child_check(syscall(SYS_ioprio_get, 1, 0) == (2 << 13 | 6));
    cpu_set_t cpus;
    child_check(sched_getaffinity(0, sizeof(cpus), &cpus) == 0 && CPU_COUNT(&cpus) == 1 &&
                CPU_ISSET(0, &cpus));
    child_check(personality(0xffffffff) == PER_LINUX32);
    int mode = -1;
    child_check(syscall(SYS_get_mempolicy, &mode, NULL, 0, NULL, 0) == 0 ? mode == MPOL_BIND
                                                                         : errno == ENOSYS);
    long after = syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0);
    child_check(after != before || (after < 0 && errno == ENOSYS));
    spec.process.umask.has = false;
    spec.process.cwd = "/";
    child_check(process_set_environment(&spec, true, false, &child_degrade, &child_error) == 0);
    child_check(umask(0) == 0022);
    child_check(syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0) == after);
    spec.process.cpu_affinity_final = "0-";
    child_check(process_set_environment(&spec, true, false, &child_degrade, &child_error) ==
                -EINVAL);
}

static void test_environment(void **state)
{
    child_run(CLONE_NEWNS, check_environment);
}

static void test_lists(void **state)
{
    unsigned long bits[2];
    assert_int_equal(limits_parse_list("0-3,7,64-65", bits, 128), 0);
    assert_int_equal(bits[0], 0x8f);
    assert_int_equal(bits[1], 3);
    const char *wrong[] = {
        "", ",", "3-", "3-2", "a", "1,", "128", "-1", "1-2-3", "99999999999999999999", "1 2"};
    for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
        assert_int_equal(limits_parse_list(wrong[i], bits, 128), -EINVAL);
    }
}

static const struct spec_id_mapping two_ranges[] = {{0, 100000, 1000}, {1000, 200000, 10}};
static const struct spec_id_mapping own_id[] = {{0, 1000, 1}};

/* A process that waits in a new user namespace. */
static pid_t start_in_namespace(void)
{
    int ready[2];
    char byte = 0;
    child_check(pipe(ready) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        child_check(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
        child_check(unshare(CLONE_NEWUSER) == 0 && write(ready[1], "x", 1) == 1);
        for (;;) {
            (void)pause();
        }
    }
    child_check(read(ready[0], &byte, 1) == 1);
    return pid;
}

static void expect_file(pid_t pid, const char *name, const char *wanted)
{
    char path[64], text[256] = "", plain[256];
    (void)snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
    int fd = open(path, O_RDONLY);
    child_check(fd >= 0 && read(fd, text, sizeof(text) - 1) > 0);
    size_t used = 0;
    for (const char *c = text; *c != '\0'; c++) { /* columns to single blanks */
        if (*c != ' ' || (used > 0 && plain[used - 1] != ' ' && plain[used - 1] != '\n')) {
            plain[used++] = *c;
        }
    }
    plain[used] = '\0';
    child_check(strcmp(plain, wanted) == 0);
    close(fd);
}

static void check_maps(void)
{
    pid_t pid = start_in_namespace();
    struct spec_linux linux_ = {.uid_mappings = {two_ranges, 2}, .gid_mappings = {two_ranges, 1}};
    child_check(process_map_ids(pid, &linux_, false, &child_error) == 0);
    expect_file(pid, "uid_map", "0 100000 1000\n1000 200000 10\n");
    expect_file(pid, "gid_map", "0 100000 1000\n");
    expect_file(pid, "setgroups", "allow\n");
    child_check(process_map_ids(pid, &linux_, false, &child_error) == -EPERM); /* once only */
    child_check(strstr(child_error.text, "linux.gidMappings") != NULL);
    child_check(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
}

static void check_own_id(void)
{
    child_check(setresgid(1000, 1000, 1000) == 0 && setresuid(1000, 1000, 1000) == 0 &&
                prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0);
    pid_t pid = start_in_namespace();
    struct spec_linux linux_ = {.uid_mappings = {own_id, 1}, .gid_mappings = {own_id, 1}};
    child_check(process_map_ids(pid, &linux_, true, &child_error) == 0);
    expect_file(pid, "uid_map", "0 1000 1\n");
    expect_file(pid, "setgroups", "deny\n");
    child_check(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
}

/* The helpers are programs on the PATH, with these arguments. */
static void write_helper(const char *name, const char *text)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/tmp/%s", name);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
    child_check(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

static void check_helpers(void)
{
    child_check(mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL) == 0 &&
                mount("tmpfs", "/tmp", "tmpfs", 0, "mode=777") == 0);
    /* Whoever is root somewhere needs no help. */
    child_check(chmod("/tmp", 01777) == 0 && setresgid(1000, 1000, 1000) == 0 &&
                setresuid(1000, 1000, 1000) == 0 && prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0);
    write_helper("newuidmap", "#!/bin/sh\necho \"$@\" >/tmp/uids\n");
    write_helper("newgidmap", "#!/bin/sh\necho \"$@\" >/tmp/gids\n");
    child_check(setenv("PATH", "/tmp:/bin:/usr/bin", 1) == 0);
    pid_t pid = start_in_namespace();
    struct spec_linux linux_ = {.uid_mappings = {two_ranges, 2}, .gid_mappings = {two_ranges, 1}};
    child_check(process_map_ids(pid, &linux_, true, &child_error) == 0);
    char wanted[128], text[128] = "";
    (void)snprintf(wanted, sizeof(wanted), "%d 0 100000 1000 1000 200000 10\n", pid);
    int fd = open("/tmp/uids", O_RDONLY);
    child_check(fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 && strcmp(text, wanted) == 0);
    child_check(access("/tmp/gids", F_OK) == 0 && unlink("/tmp/newuidmap") == 0);
    write_helper("newuidmap", "#!/bin/sh\nexit 1\n");
    child_check(process_map_ids(pid, &linux_, true, &child_error) == -EPERM);
    child_check(strstr(child_error.text, "newuidmap refused") != NULL &&
                unlink("/tmp/newgidmap") == 0);
    child_check(setenv("PATH", "/tmp", 1) == 0);
    child_check(process_map_ids(pid, &linux_, true, &child_error) == -ENOENT);
    child_check(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
}

static void test_id_mappings(void **state)
{
    child_run(0, check_maps);
    child_run(0, check_own_id);
    child_run(CLONE_NEWNS, check_helpers);
}

/* Ids that are not mapped. */
static void check_unmapped(void)
{
    struct spec_process process = {.uid = 5};
    child_check(process_set_identity(&process, false, &child_degrade, &child_error) == -EINVAL);
    child_check(strstr(child_error.text, "is it mapped?") != NULL);
}

static void test_unmapped_ids(void **state)
{
    child_run(CLONE_NEWUSER, check_unmapped);
}

static void expect_program(const char *name, const char *env, int rc, const char *text)
{
    const char *args[] = {name, NULL}, *variables[] = {"PATH=/wrong", env, NULL};
    struct spec_process process = {.args = {args, 1},
                                   .env = {env == NULL ? NULL : variables, env == NULL ? 0 : 2}};
    struct error err = {0};
    char *path = NULL;
    assert_int_equal(process_find_program(&process, &path, &err), rc);
    assert_string_equal(rc == 0 ? path : err.text, text);
    free(path);
}

static void test_programs(void **state)
{
    expect_program("sh", "PATH=/nonexistent:/bin:/usr/bin", 0, "/bin/sh");
    expect_program("sh", NULL, 0, "/bin/sh");
    expect_program("/bin/sh", "PATH=", 0, "/bin/sh");
    expect_program("no-such", "PATH=/bin", -ENOENT,
                   "exec: \"no-such\": executable file not found in $PATH");
    expect_program("", "PATH=/bin", -ENOENT, "exec: \"\": executable file not found in $PATH");
    expect_program("/no/such", "PATH=/bin", -ENOENT,
                   "exec: \"/no/such\": stat /no/such: no such file or directory");
    expect_program("/etc/passwd", "PATH=/bin", -EACCES, "exec: \"/etc/passwd\": permission denied");
    expect_program("passwd", "PATH=/etc", -EACCES, "exec: \"passwd\": permission denied");
    expect_program("/etc", "PATH=/bin", -EACCES,
                   "exec: \"/etc\": is a directory: permission denied");
    expect_program("etc", "PATH=/", -ENOENT, "exec: \"etc\": executable file not found in $PATH");
    expect_program("/etc/passwd/x", "PATH=/bin", -ENOTDIR,
                   "exec: \"/etc/passwd/x\": not a directory");
}

int main(void)
{
    if (geteuid() != 0) {
        (void)fprintf(stderr, "skipped: needs root\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_identity),
        cmocka_unit_test(test_right_for_seccomp),
        cmocka_unit_test(test_no_capabilities_section),
        cmocka_unit_test(test_missing_capabilities_are_told),
        cmocka_unit_test(test_labels),
        cmocka_unit_test(test_rlimits),
        cmocka_unit_test(test_prepare),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_id_mappings),
        cmocka_unit_test(test_unmapped_ids),
        cmocka_unit_test(test_programs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
