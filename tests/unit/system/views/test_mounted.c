/* Covers src/system/views as a container meets it: mounted, in a mount namespace of its own, with a group that has limits; a
 * child in that group reads while the test serves. Needs root, FUSE and control groups. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "system/views/fuse.h"
#include "system/views/views.h"

#define LIMIT             ((int64_t)128 << 20)
#define REMOVE_TIMEOUT_MS 20000
#define GIVE_UP_MS        60000

static char folder[] = "/tmp/hull-test-XXXXXX";
static struct views *views;
static struct cgroup *cgroup;

/* In the child: what goes wrong is told by the line. */
#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            dprintf(2, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #x, strerror(errno));               \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static int open_view(const char *name, int flags)
{
    char path[512];
    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    return open(path, flags | O_CLOEXEC);
}

/* The whole file, by reads of 'piece' bytes. */
static const char *read_view(const char *name, size_t piece)
{
    static char text[1 << 20];
    size_t size = 0;
    int fd = open_view(name, O_RDONLY);
    CHECK(fd >= 0);
    for (;;) {
        CHECK(size + piece < sizeof(text));
        ssize_t got = read(fd, text + size, piece);
        CHECK(got >= 0);
        if (got == 0) {
            break;
        }
        size += (size_t)got;
    }
    close(fd);
    text[size] = '\0';
    return text;
}

/* By sendfile, as busybox' cat does: the kernel goes by the file's size then. Several times, as each shrinks what it
 * believes. */
static void sent_views_are_whole(const char *name)
{
    char text[4096];
    for (unsigned i = 0; i < 5; i++) {
        size_t size = strlen(read_view(name, 4096));
        int fd = open_view(name, O_RDONLY), pipes[2];
        CHECK(fd >= 0 && pipe(pipes) == 0 && size < sizeof(text));
        CHECK(sendfile(pipes[1], fd, NULL, 1 << 20) == (ssize_t)size);
        CHECK(sendfile(pipes[1], fd, NULL, 1 << 20) == 0);
        CHECK(read(pipes[0], text, sizeof(text)) == (ssize_t)size && text[size - 1] == '\n' &&
              memchr(text, '\0', size) == NULL);
        close(fd);
        close(pipes[0]);
        close(pipes[1]);
    }
}

static unsigned long long value_of(const char *text, const char *name)
{
    const char *at = strstr(text, name);
    CHECK(at != NULL);
    return strtoull(at + strlen(name), NULL, 10);
}

/* Answers until the child has ended, which has to end well. */
static void serve_until_end(pid_t pid)
{
    int pid_fd = (int)syscall(SYS_pidfd_open, pid, 0);
    assert_true(pid_fd >= 0);
    struct pollfd waiting[] = {
        {.fd = views_fd(views), .events = POLLIN},
        {.fd = pid_fd, .events = POLLIN},
    };
    struct error err = {0};
    while (waiting[1].revents == 0) {
        if (poll(waiting, 2, GIVE_UP_MS) <= 0) {
            (void)kill(pid, SIGKILL);
            fail_msg("nothing happens any more");
        }
        if (waiting[0].revents != 0 && views_serve(views, &err) < 0) {
            (void)kill(pid, SIGKILL);
            fail_msg("%s", err.text);
        }
    }
    close(pid_fd);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* The container's first process, in a pid namespace of its own, that runs 'fn' once the views have started. */
static void run_inside(void (*fn)(void))
{
    int go[2];
    assert_int_equal(pipe2(go, O_CLOEXEC), 0);
    pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, NULL, NULL, NULL, NULL);
    assert_true(pid >= 0);
    if (pid == 0) {
        char byte;
        close(go[1]);
        CHECK(read(go[0], &byte, 1) == 1);
        fn();
        _exit(0);
    }
    struct error err = {0};
    if (cgroup_attach(cgroup, pid, false, &err) < 0 || views_start(views, cgroup, pid, &err) < 0) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(write(go[1], "x", 1), 1);
    close(go[0]);
    close(go[1]);
    serve_until_end(pid);
}

static void use_memory_and_time(void)
{
    size_t size = 16 << 20;
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    memset(memory, 1, size);
    /* At least 100 ms of time, by the process' own clock. */
    struct timespec used;
    do {
        CHECK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used) == 0);
    } while (used.tv_sec == 0 && used.tv_nsec < 100000000);
}

static void read_all(void)
{
    use_memory_and_time();
    const char *text = read_view("meminfo", 4096);
    CHECK(strncmp(text, "MemTotal:         131072 kB\nMemFree: ", 36) == 0);
    unsigned long long free_kb = value_of(text, "\nMemFree:"),
                       anon = value_of(text, "\nAnonPages:");
    CHECK(free_kb > 0 && free_kb <= 112 * 1024);
    CHECK(anon >= 16 * 1024 && anon < 128 * 1024);
    CHECK(value_of(text, "\nMemAvailable:") >= free_kb);
    CHECK(value_of(text, "\nMemAvailable:") <= 131072);

    text = read_view("cpuinfo", 65536);
    CHECK(strncmp(text, "processor\t: 0\n", 14) == 0);
    CHECK(strstr(text, "processor\t: 1\n") == NULL);
    CHECK(strlen(text) > 200 && strcmp(text + strlen(text) - 2, "\n\n") == 0);
    CHECK(strcmp(read_view("cpu_online", 100), "0\n") == 0);
    CHECK(strcmp(read_view("cpu_possible", 1), "0\n") == 0);
    CHECK(strcmp(read_view("cpu_present", 100), "0\n") == 0);

    sent_views_are_whole("meminfo");
    sent_views_are_whole("swaps");
    text = read_view("stat", 4096);
    unsigned long long sum[5], one[5];
    CHECK(sscanf(text, "cpu  %llu %llu %llu %llu %llu", &sum[0], &sum[1], &sum[2], &sum[3],
                 &sum[4]) == 5);
    CHECK(sscanf(strchr(text, '\n') + 1, "cpu0 %llu %llu %llu %llu %llu", &one[0], &one[1], &one[2],
                 &one[3], &one[4]) == 5);
    CHECK(memcmp(sum, one, sizeof(sum)) == 0);
    CHECK(sum[0] + sum[2] >= 4);
    CHECK(strstr(text, "cpu1") == NULL);
    unsigned long long started = value_of(text, "\nbtime ");
    time_t now = time(NULL);
    CHECK(started <= (unsigned long long)now + 1 && started + 600 > (unsigned long long)now);
    CHECK(value_of(text, "\nprocesses ") == 1); /* the first one, and the only one */

    double up, idle, load[3];
    unsigned running, total, last;
    CHECK(sscanf(read_view("uptime", 3), "%lf %lf\n", &up, &idle) == 2);
    CHECK(up >= 0.04 && up < 600 && idle >= 0 && idle <= up);
    CHECK(sscanf(read_view("loadavg", 100), "%lf %lf %lf %u/%u %u\n", &load[0], &load[1], &load[2],
                 &running, &total, &last) == 6);
    CHECK(total == 1 && running <= 1 && last == 1);
    text = read_view("swaps", 4096);
    CHECK(strncmp(text, "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n", 39) == 0);
    CHECK(strlen(read_view("diskstats", 4096)) < 65536);
    static const char *const pressures[] = {"cpu", "io", "memory"};
    for (size_t i = 0; i < ARRAY_COUNT(pressures); i++) {
        char name[32], path[64];
        (void)snprintf(name, sizeof(name), "pressure/%s", pressures[i]);
        (void)snprintf(path, sizeof(path), "/proc/%s", name);
        if (access(path, F_OK) == 0) {
            CHECK(strncmp(read_view(name, 4096), "some avg10=", 11) == 0);
        }
    }
}

static void all_files(void **state)
{
    run_inside(read_all);
}

/* Before the start, as whoever binds the files needs their names: the host's values. */
static void before_the_start(void **state)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct statvfs status;
        CHECK(statvfs(folder, &status) == 0);
        CHECK((status.f_flag & (ST_NOSUID | ST_NODEV | ST_NOEXEC | ST_RDONLY)) ==
              (ST_NOSUID | ST_NODEV | ST_NOEXEC | ST_RDONLY));
        const char *text = read_view("meminfo", 4096);
        unsigned long long total = value_of(text, "MemTotal:");
        FILE *host = fopen("/proc/meminfo", "r");
        unsigned long long wanted;
        CHECK(host != NULL && fscanf(host, "MemTotal: %llu kB", &wanted) == 1 && total == wanted);
        CHECK(strlen(read_view("cpu_online", 100)) >= 2);
        CHECK(strlen(read_view("uptime", 100)) > 5);
        _exit(0);
    }
    serve_until_end(pid);
}

/* An ordinary user may read, too. */
static void as_nobody(void)
{
    CHECK(setgid(65534) == 0 && setuid(65534) == 0);
    CHECK(value_of(read_view("meminfo", 4096), "MemTotal:") == 131072);
}

static void for_all_users(void **state)
{
    run_inside(as_nobody);
}

static void be_hostile(void)
{
    /* Many open files, of which each still gives a whole text. */
    static int fds[900];
    for (size_t i = 0; i < ARRAY_COUNT(fds); i++) {
        fds[i] = open_view("cpuinfo", O_RDONLY);
        CHECK(fds[i] >= 0);
        char byte;
        CHECK(read(fds[i], &byte, 1) == 1 && byte == 'p');
    }
    for (size_t i = 0; i < ARRAY_COUNT(fds); i++) {
        char text[16] = "";
        CHECK(read(fds[i], text, 10) == 10 && strcmp(text, "rocessor\t:") == 0);
        close(fds[i]);
    }
    /* Odd reads. */
    int fd = open_view("uptime", O_RDONLY);
    char text[256];
    CHECK(fd >= 0 && pread(fd, text, sizeof(text), 1 << 30) == 0);
    CHECK(pread(fd, text, sizeof(text), INT64_MAX - 4096) == 0);
    CHECK(read(fd, text, 0) == 0);
    CHECK(pread(fd, text, sizeof(text), 3) > 0);
    CHECK(syscall(SYS_pread64, fd, 1L, 100L, 0L) < 0 && errno == EFAULT);
    CHECK(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED);
    /* Nothing can be changed. */
    CHECK(open_view("uptime", O_WRONLY) < 0 && errno == EROFS);
    CHECK(open_view("uptime", O_RDWR | O_TRUNC) < 0 && errno == EROFS);
    CHECK(write(fd, "x", 1) < 0 && errno == EBADF);
    CHECK(open_view("new", O_WRONLY | O_CREAT) < 0 && errno == EROFS);
    CHECK(fchmod(fd, 0666) < 0);
    CHECK(ftruncate(fd, 0) < 0);
    CHECK(open_view("nothing", O_RDONLY) < 0 && errno == ENOENT);
    char path[128], long_name[300];
    memset(long_name, 'a', sizeof(long_name) - 1);
    long_name[sizeof(long_name) - 1] = '\0';
    CHECK(open_view(long_name, O_RDONLY) < 0 && errno == ENOENT);
    (void)snprintf(path, sizeof(path), "%s/pressure", folder);
    CHECK(rmdir(path) < 0 && mkdir(path, 0700) < 0);
    CHECK(lseek(fd, 0, SEEK_END) == 4096); /* where programs that read backwards begin */
    (void)fsync(fd);
    (void)lseek(fd, 0, SEEK_DATA);
    CHECK(fallocate(fd, 0, 0, 10) < 0);
    CHECK(syscall(SYS_fgetxattr, fd, "user.x", text, sizeof(text)) < 0);
    close(fd);
    DIR *dir = opendir(folder);
    CHECK(dir != NULL);
    unsigned count = 0;
    for (unsigned round = 0; round < 3; round++) {
        rewinddir(dir);
        for (count = 0; readdir(dir) != NULL; count++) {
        }
        CHECK(count == 13);
    }
    closedir(dir);
    /* Readers that are killed while they wait. */
    for (unsigned i = 0; i < 50; i++) {
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            for (;;) {
                (void)read_view("stat", 10);
            }
        }
        while (i % 2 == 0 && waitpid(pid, NULL, WNOHANG) == 0 && sched_yield() == 0 && i++ < 25) {
        }
        CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
    }
    CHECK(strlen(read_view("uptime", 100)) > 5);
}

static void hostile_container(void **state)
{
    run_inside(be_hostile);
}

/* The values follow the group's. */
static void read_new_limit(void)
{
    CHECK(value_of(read_view("meminfo", 4096), "MemTotal:") == 65536);
    CHECK(value_of(read_view("stat", 4096), "btime ") > 0);
}

static void changed_limit(void **state)
{
    struct spec_resources resources = {.memory = {.limit = {.has = true, .value = LIMIT / 2}}};
    struct error err = {0};
    assert_int_equal(cgroup_update(cgroup, &resources, NULL, &err), 0);
    run_inside(read_new_limit);
    resources.memory.limit.value = LIMIT;
    assert_int_equal(cgroup_update(cgroup, &resources, NULL, &err), 0);
}

static void load_is_sampled(void **state)
{
    run_inside(read_all);
    int timeout = views_timeout_ms(views);
    assert_true(timeout >= 0 && timeout <= 5000);
    views_tick(views);
}

static void gone_group(void **state)
{
    struct error err = {0};
    assert_int_equal(views_start(views, cgroup, 0x7ffffff0, &err), -ESRCH);
}

static void no_target(void **state)
{
    struct views *other = NULL;
    struct error err = {0};
    assert_int_equal(views_create("/nowhere/at/all", &other, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/nowhere/at/all"));
    assert_null(other);
    views_destroy(NULL);
}

static void unmounted(void **state)
{
    assert_int_equal(umount2(folder, MNT_DETACH), 0);
    struct error err = {0};
    struct pollfd waiting = {.fd = views_fd(views), .events = POLLIN};
    int rc = 0;
    while (rc == 0) {
        assert_int_equal(poll(&waiting, 1, GIVE_UP_MS), 1);
        rc = views_serve(views, &err);
    }
    assert_int_equal(rc, -ENODEV);
}

static int finish(void **state)
{
    views_destroy(views);
    struct error err = {0};
    int rc = cgroup_remove(cgroup, REMOVE_TIMEOUT_MS, &err);
    if (rc < 0) {
        print_error("%s\n", err.text);
    }
    cgroup_free(cgroup);
    return rmdir(folder) < 0 || rc < 0 ? -1 : 0;
}

/* One CPU by its quota, 128 MiB. 0, or 77 with the reason. */
static int prepare(void)
{
    static char path[64];
    (void)snprintf(path, sizeof(path), "/hull-test-views-%d", getpid());
    struct spec_resources resources = {
        .memory = {.limit = {.has = true, .value = LIMIT}},
        .cpu = {.quota_us = {.has = true, .value = 100000},
                .period_us = {.has = true, .value = 100000}},
    };
    struct cgroup_request request = {
        .manager = CGROUP_MANAGER_FILES,
        .id = "test",
        .path = path,
        .resources = &resources,
        .owner_uid = -1,
        .owner_gid = -1,
    };
    struct error err = {0};
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
        print_message("a mount namespace of its own needs root\n");
        return 77;
    }
    if (cgroup_create(&request, &cgroup, NULL, &err) < 0) {
        print_message("no control group: %s\n", err.text);
        return 77;
    }
    if (mkdtemp(folder) == NULL || views_create(folder, &views, &err) < 0) {
        print_message("%s\n", err.text);
        (void)rmdir(folder);
        error_ignore(cgroup_remove(cgroup, REMOVE_TIMEOUT_MS, NULL));
        cgroup_free(cgroup);
        return 77;
    }
    return 0;
}

int main(void)
{
    int rc = prepare();
    if (rc != 0) {
        return rc;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(before_the_start), cmocka_unit_test(all_files),
        cmocka_unit_test(for_all_users),    cmocka_unit_test(hostile_container),
        cmocka_unit_test(changed_limit),    cmocka_unit_test(load_is_sampled),
        cmocka_unit_test(gone_group),       cmocka_unit_test(no_target),
        cmocka_unit_test(unmounted),
    };
    return cmocka_run_group_tests(tests, NULL, finish);
}
