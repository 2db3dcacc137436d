/* /proc and /sys as a container should see them. */
#include "system/views/views.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "container/cgroup/tree.h"
#include "container/mount/filesystem.h"
#include "container/mount/handle.h"
#include "container/mount/procfs.h"
#include "system/views/fuse.h"
#include "system/views/load.h"
#include "system/views/meter.h"
#include "system/views/sysinfo.h"

#define NS_PER_S          UINT64_C(1000000000)
#define SERVE_MAX         64 /* requests in one go: the keeper has more to do */
#define CPU_FOLDER        "/sys/devices/system/cpu"
#define START_FIELD       22 /* of /proc/PID/stat, proc(5): starttime */
#define FIELD_BEHIND_NAME 3

struct views {
    int fuse_fd, proc_fd;
    struct fuse_server server;
    struct sysinfo_desk *desk;
    struct load load;
    bool is_started; /* before that the host's values are shown */
    struct meter meter;
    pid_t pid;
    unsigned pid_level; /* of the container's pid namespace below the caller's */
    uint64_t start_ns;  /* of CLOCK_BOOTTIME */
    uint64_t started_s; /* since 1970 */
};

enum view_file {
    VIEW_MEMINFO,
    VIEW_CPUINFO,
    VIEW_STAT,
    VIEW_UPTIME,
    VIEW_LOADAVG,
    VIEW_SWAPS,
    VIEW_DISKSTATS,
    VIEW_PRESSURE_CPU,
    VIEW_PRESSURE_IO,
    VIEW_PRESSURE_MEMORY,
    VIEW_CPU_ONLINE,
    VIEW_CPU_POSSIBLE,
    VIEW_CPU_PRESENT,
};

const struct views_file views_files[] = {
    [VIEW_MEMINFO] = {"meminfo", "/proc/meminfo"},
    [VIEW_CPUINFO] = {"cpuinfo", "/proc/cpuinfo"},
    [VIEW_STAT] = {"stat", "/proc/stat"},
    [VIEW_UPTIME] = {"uptime", "/proc/uptime"},
    [VIEW_LOADAVG] = {"loadavg", "/proc/loadavg"},
    [VIEW_SWAPS] = {"swaps", "/proc/swaps"},
    [VIEW_DISKSTATS] = {"diskstats", "/proc/diskstats"},
    [VIEW_PRESSURE_CPU] = {"pressure/cpu", "/proc/pressure/cpu"},
    [VIEW_PRESSURE_IO] = {"pressure/io", "/proc/pressure/io"},
    [VIEW_PRESSURE_MEMORY] = {"pressure/memory", "/proc/pressure/memory"},
    [VIEW_CPU_ONLINE] = {"cpu_online", CPU_FOLDER "/online"},
    [VIEW_CPU_POSSIBLE] = {"cpu_possible", CPU_FOLDER "/possible"},
    [VIEW_CPU_PRESENT] = {"cpu_present", CPU_FOLDER "/present"},
    {NULL, NULL},
};

bool views_is_available(const struct views_file *file)
{
    return faccessat(AT_FDCWD, file->covers, F_OK, 0) == 0;
}

static uint64_t clock_boot_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_BOOTTIME, &now); /* there is such a clock, and 'now' is ours */
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* The host's file in new memory; one that is not there is empty. NULL: no memory. */
static char *read_host(const struct views *views, const char *file)
{
    char *text = control_read_all(views->proc_fd, file);
    return text == NULL ? strdup("") : text;
}

static void render_host(const struct views *views, const char *file, struct text *text)
{
    AUTO_FREE char *host = read_host(views, file);
    if (host == NULL) {
        text->is_failed = true;
        return;
    }
    text_append(text, host, strlen(host));
}

static uint64_t uptime_ns(const struct views *views)
{
    uint64_t now = clock_boot_ns();
    return now > views->start_ns ? now - views->start_ns : 0;
}

static void ask_load(struct views *views)
{
    const struct meter_place *place = &views->meter.thread;
    load_ask(&views->load, clock_monotonic_ns(), place->fd, place->is_unified, views->proc_fd);
}

static pid_t namespace_pid(const struct views *views, pid_t pid)
{
    char file[32], status[4096];
    (void)snprintf(file, sizeof(file), "%d/status", pid);
    return pid <= 0 || control_read(views->proc_fd, file, status, sizeof(status)) <= 0
               ? 0
               : load_namespace_pid(status, views->pid_level);
}

/* The kernel tells the last id to those inside only: the newest thread's is it, or the reader's, which has often just begun. */
static pid_t last_pid(const struct views *views, pid_t reader)
{
    pid_t newest = namespace_pid(views, views->load.counts.newest);
    return MAX(newest, namespace_pid(views, reader));
}

static void render_processors(const struct views *views, enum view_file file, pid_t reader,
                              struct text *text)
{
    AUTO_FREE struct cpus *cpus = malloc(sizeof(*cpus));
    if (cpus == NULL) {
        text->is_failed = true;
        return;
    }
    meter_read_cpus(&views->meter, views->pid, cpus);
    if (file == VIEW_CPUINFO) {
        AUTO_FREE char *host = read_host(views, "cpuinfo");
        render_cpuinfo(text, cpus, host == NULL ? "" : host);
        return;
    }
    if (file != VIEW_STAT && file != VIEW_UPTIME) {
        render_cpu_list(text, cpus);
        return;
    }
    AUTO_FREE struct cpu_time *times = meter_read_times(&views->meter, cpus);
    if (times == NULL) {
        text->is_failed = true;
    } else if (file == VIEW_UPTIME) {
        render_uptime(text, cpus, times, uptime_ns(views));
    } else {
        render_stat(text, &(struct stat_view){
                              .cpus = cpus,
                              .times = times,
                              .uptime_ns = uptime_ns(views),
                              .started_s = views->started_s,
                              .processes = (uint64_t)last_pid(views, reader),
                              .running = views->load.counts.running,
                              .blocked = views->load.counts.blocked,
                          });
    }
}

static void read_totals(const struct views *views, struct memory_totals *out_totals)
{
    struct group_memory memory;
    meter_read_memory(&views->meter, &memory);
    AUTO_FREE char *host = read_host(views, "meminfo");
    memory_totals(&memory, host == NULL ? "" : host, out_totals);
}

static void render_memory(const struct views *views, enum view_file file, struct text *text)
{
    if (file == VIEW_SWAPS) {
        struct memory_totals totals;
        read_totals(views, &totals);
        render_swaps(text, &totals);
        return;
    }
    struct group_memory memory;
    meter_read_memory(&views->meter, &memory);
    AUTO_FREE char *host = read_host(views, "meminfo");
    render_meminfo(text, &memory, host == NULL ? "" : host);
}

static void render_disks(const struct views *views, struct text *text)
{
    AUTO_FREE struct disks *disks = malloc(sizeof(*disks));
    AUTO_FREE char *host = read_host(views, "diskstats");
    if (disks == NULL || host == NULL) {
        text->is_failed = true;
        return;
    }
    meter_read_disks(&views->meter, disks);
    render_diskstats(text, disks, host);
}

/* "pressure/cpu" is "cpu.pressure" of the group. */
static void render_pressure(const struct views *views, const char *name, struct text *text)
{
    char file[32];
    (void)snprintf(file, sizeof(file), "%s.pressure", strchr(name, '/') + 1);
    AUTO_FREE char *own =
        views->meter.unified_fd < 0 ? NULL : control_read_all(views->meter.unified_fd, file);
    if (own == NULL) {
        render_host(views, name, text);
    } else {
        text_append(text, own, strlen(own));
    }
}

static void render(void *ctx, unsigned file, pid_t reader, struct text *text)
{
    struct views *views = ctx;
    const struct views_file *covered = &views_files[file];
    bool is_proc = strncmp(covered->covers, "/proc/", 6) == 0;
    if (!views->is_started && is_proc) {
        render_host(views, covered->name, text);
        return;
    }
    switch ((enum view_file)file) {
    case VIEW_MEMINFO:
    case VIEW_SWAPS:
        render_memory(views, file, text);
        break;
    case VIEW_LOADAVG:
        ask_load(views);
        render_loadavg(text, &views->load, last_pid(views, reader));
        break;
    case VIEW_DISKSTATS:
        render_disks(views, text);
        break;
    case VIEW_PRESSURE_CPU:
    case VIEW_PRESSURE_IO:
    case VIEW_PRESSURE_MEMORY:
        render_pressure(views, covered->name, text);
        break;
    case VIEW_STAT:
        ask_load(views);
        /* fall through */
    case VIEW_CPUINFO:
    case VIEW_UPTIME:
    case VIEW_CPU_ONLINE:
    case VIEW_CPU_POSSIBLE:
    case VIEW_CPU_PRESENT:
        render_processors(views, file, reader, text);
        break;
    }
}

static int open_device(struct error *err)
{
    int fd = open("/dev/fuse", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        int code = errno == EACCES || errno == EPERM ? EPERM : ENODEV;
        return error_set(err, code, "the host has no FUSE for the views of /proc: /dev/fuse: %s",
                         strerror(errno));
    }
    return fd;
}

static int mount_views(int fuse_fd, const char *target, struct error *err)
{
    char data[128];
    (void)snprintf(data, sizeof(data),
                   "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
                   fuse_fd);
    const struct filesystem_request request = {
        .type = "fuse",
        .source = "hull-views",
        .data = data,
        .attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
    };
    AUTO_CLOSE int target_fd = open(target, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (target_fd < 0) {
        return error_set_errno(err, errno, "opening %s for the views of /proc", target);
    }
    int mount_fd = -1;
    int rc = filesystem_open(&request, target_fd, &mount_fd, err);
    if (rc < 0 || mount_fd < 0) {
        return rc;
    }
    rc = handle_attach(mount_fd, target_fd);
    close(mount_fd);
    return rc < 0 ? error_set_errno(err, -rc, "mounting the views of /proc on %s", target) : 0;
}

int views_create(const char *target, struct views **out_views, struct error *err)
{
    struct views *views = calloc(1, sizeof(*views));
    if (views == NULL) {
        return error_set(err, ENOMEM, "no memory for the views of /proc");
    }
    views->fuse_fd = views->proc_fd = -1;
    meter_init(&views->meter);
    fuse_server_init(&views->server, render, views, clock_realtime_ns() / NS_PER_S);
    int rc = views->proc_fd = procfs_open(err);
    if (rc >= 0) {
        rc = views->fuse_fd = open_device(err);
    }
    if (rc >= 0) {
        rc = sysinfo_desk_create(&views->desk, err);
    }
    if (rc >= 0) {
        rc = mount_views(views->fuse_fd, target, err);
    }
    if (rc < 0) {
        views_destroy(views);
        return rc;
    }
    *out_views = views;
    return 0;
}

/* The start in ns of CLOCK_BOOTTIME; 0: there is no such process. */
static uint64_t read_start(int proc_fd, pid_t pid)
{
    char file[32], text[1024];
    (void)snprintf(file, sizeof(file), "%d/stat", pid);
    const char *at =
        control_read(proc_fd, file, text, sizeof(text)) <= 0 ? NULL : strrchr(text, ')');
    for (unsigned field = FIELD_BEHIND_NAME; at != NULL && field <= START_FIELD; field++) {
        at = strchr(at + 1, ' ');
    }
    uint64_t ticks = at == NULL ? 0 : strtoull(at + 1, NULL, 10);
    return ticks * (NS_PER_S / (uint64_t)sysconf(_SC_CLK_TCK));
}

int views_start(struct views *views, const struct cgroup *cgroup, pid_t pid, struct error *err)
{
    char file[32], status[4096];
    (void)snprintf(file, sizeof(file), "%d/status", pid);
    uint64_t start_ns = read_start(views->proc_fd, pid);
    if (start_ns == 0 || control_read(views->proc_fd, file, status, sizeof(status)) <= 0) {
        return error_set(err, ESRCH, "the views of /proc: there is no process %d", pid);
    }
    meter_fini(&views->meter);
    meter_open(&views->meter, cgroup);
    views->pid = pid;
    views->pid_level = load_namespace_level(status);
    views->start_ns = start_ns;
    views->started_s = (clock_realtime_ns() - (clock_boot_ns() - start_ns)) / NS_PER_S;
    views->load = (struct load){0};
    views->is_started = true;
    return 0;
}

int views_fd(const struct views *views)
{
    return views->fuse_fd;
}

static void send_reply(const struct views *views, struct fuse_reply *reply)
{
    struct iovec parts[] = {
        {.iov_base = &reply->header, .iov_len = sizeof(reply->header)},
        {.iov_base = (void *)(uintptr_t)reply->data,
         .iov_len = reply->header.len - sizeof(reply->header)},
    };
    /* Who has asked may have gone meanwhile, and the mount too, which the next read tells. */
    ssize_t written = writev(views->fuse_fd, parts, parts[1].iov_len > 0 ? 2 : 1);
    (void)written;
}

int views_serve(struct views *views, struct error *err)
{
    union {
        struct fuse_in_header header;
        char bytes[FUSE_REQUEST_MAX];
    } request;
    for (unsigned i = 0; i < SERVE_MAX; i++) {
        ssize_t size = read(views->fuse_fd, &request, sizeof(request));
        if (size < 0 && errno == EAGAIN) {
            return 0;
        }
        if (size < 0 && (errno == EINTR || errno == ENOENT)) { /* called off, before it was read */
            continue;
        }
        if (size < 0) {
            return error_set_errno(err, errno, "reading requests for the views of /proc");
        }
        struct fuse_reply reply;
        fuse_server_answer(&views->server, &request, (size_t)size, &reply);
        if (reply.opened != 0) {
            struct fuse_growth growth;
            fuse_server_grow(&reply, &growth);
            (void)!write(views->fuse_fd, &growth, growth.header.len);
        }
        if (!reply.is_none) {
            send_reply(views, &reply);
        }
    }
    return 0;
}

int views_timeout_ms(const struct views *views)
{
    return load_timeout_ms(&views->load, clock_monotonic_ns());
}

void views_tick(struct views *views)
{
    const struct meter_place *place = &views->meter.thread;
    load_tick(&views->load, clock_monotonic_ns(), place->fd, place->is_unified, views->proc_fd);
}

static void fill_sysinfo(void *ctx, struct sysinfo *out_info)
{
    struct views *views = ctx;
    struct memory_totals totals;
    read_totals(views, &totals);
    if (views->is_started) {
        ask_load(views);
    }
    sysinfo_fill(out_info, &totals, uptime_ns(views), &views->load);
}

int views_sysinfo(struct views *views, int listener_fd, struct error *err)
{
    return sysinfo_answer(views->desk, listener_fd, views->proc_fd, fill_sysinfo, views, err);
}

void views_destroy(struct views *views)
{
    if (views == NULL) {
        return;
    }
    if (views->fuse_fd >= 0) {
        close(views->fuse_fd);
    }
    if (views->proc_fd >= 0) {
        close(views->proc_fd);
    }
    meter_fini(&views->meter);
    fuse_server_fini(&views->server);
    sysinfo_desk_destroy(views->desk);
    free(views);
}
