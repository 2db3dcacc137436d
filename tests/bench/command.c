#include "command.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

static void write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) {
        bench_fail(path);
    }
    (void)close(fd);
}

/* Without being root: the name space of an ordinary user, who is root only there. */
static void become_root(void)
{
    char map[64];
    uid_t user = geteuid();
    gid_t group = getegid();
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0) {
        bench_fail("a user name space (or run this as root)");
    }
    write_file("/proc/self/setgroups", "deny");
    (void)snprintf(map, sizeof(map), "0 %u 1", user);
    write_file("/proc/self/uid_map", map);
    (void)snprintf(map, sizeof(map), "0 %u 1", group);
    write_file("/proc/self/gid_map", map);
}

/* Mounts are this process's own and end with it. */
static void enter_root(const char *root)
{
    if (geteuid() != 0) {
        become_root();
    } else if (unshare(CLONE_NEWNS) < 0) {
        bench_fail("a mount name space");
    }
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
        /* The first file system of a Linux guest may refuse it, and nobody looks on there. */
        if (errno != EINVAL) {
            bench_fail("making mounts private");
        }
    }
    if (chdir(root) < 0) {
        bench_fail(root);
    }
    if (mount("/dev", "dev", NULL, MS_BIND | MS_REC, NULL) < 0) {
        bench_fail("mounting /dev in the root");
    }
    if (chroot(".") < 0 || chdir("/") < 0) {
        bench_fail("chroot");
    }
    if (mount("tmp", "/tmp", "tmpfs", 0, "mode=1777") < 0) {
        bench_fail("mounting /tmp");
    }
}

/* Mixes what the command writes into *checksum; the time that it took, or 0 if it failed. */
static uint64_t run_shell(const char *command, uint64_t *checksum)
{
    int output[2];
    if (pipe2(output, O_CLOEXEC) < 0) {
        bench_fail("pipe");
    }
    uint64_t start = bench_now_ns();
    pid_t child = fork();
    if (child < 0) {
        bench_fail("fork");
    }
    if (child == 0) {
        static char *const environment[] = {"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C",
                                            "HOME=/tmp", NULL};
        (void)dup2(output[1], STDOUT_FILENO);
        (void)execle("/bin/sh", "sh", "-ec", command, (char *)NULL, environment);
        perror("/bin/sh");
        _exit(127);
    }
    (void)close(output[1]);
    uint8_t data[4096];
    ssize_t got;
    while ((got = read(output[0], data, sizeof(data))) > 0) {
        for (ssize_t i = 0; i < got; i++) {
            *checksum = (*checksum ^ data[i]) * 0x100000001b3ull;
        }
    }
    (void)close(output[0]);
    int status = 0;
    (void)waitpid(child, &status, 0);
    uint64_t took = bench_now_ns() - start;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? took : 0;
}

int command_measure(const char *name, const char *root, const char *command, const char *verify)
{
    uint64_t start = bench_now_ns();
    if (strcmp(root, "/") != 0) {
        enter_root(root);
    }
    uint64_t checksum = 0xcbf29ce484222325ull;
    uint64_t took = run_shell(command, &checksum);
    if (took == 0) {
        printf("failed case=%s the command failed\n", name);
        return 1;
    }
    if (verify != NULL && run_shell(verify, &checksum) == 0) {
        printf("failed case=%s its result could not be read\n", name);
        return 1;
    }
    printf("result case=%s ns=%" PRIu64 " count=1 checksum=%016" PRIx64 " elapsed_ns=%" PRIu64 "\n",
           name, took, checksum, bench_now_ns() - start);
    return 0;
}
