/* What a container's processes use, where no control group counts it: those of its pid namespace, one by one. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "system/life/internal.h"

/* Who asks for one container asks for the others, too. */
#define KEEP_NS UINT64_C(100000000)

struct use {
    ino_t space; /* its pid namespace */
    uint64_t ticks, pages, threads;
};

/* Of all pid namespaces that may be looked into, as it was a moment ago. */
static struct use *all;
static size_t all_count;
static uint64_t all_until_ns;

/* 0: nobody's that is known. */
static ino_t space_of(const char *pid)
{
    char path[64];
    struct stat st;
    (void)snprintf(path, sizeof(path), "/proc/%.20s/ns/pid", pid);
    return stat(path, &st) == 0 ? st.st_ino : 0;
}

static struct use *find(ino_t space)
{
    for (size_t i = 0; i < all_count; i++) {
        if (all[i].space == space) {
            return &all[i];
        }
    }
    return NULL;
}

static struct use *find_or_add(ino_t space)
{
    struct use *found = find(space);
    if (found == NULL) {
        struct use *more = realloc(all, (all_count + 1) * sizeof(*all));
        if (more == NULL) {
            return NULL;
        }
        all = more;
        found = &all[all_count++];
        *found = (struct use){.space = space};
    }
    return found;
}

static void read_text(const char *pid, const char *file, char *out, size_t size)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%.20s/%s", pid, file);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, out, size - 1) : -1;
    out[n > 0 ? n : 0] = '\0';
}

/* Time of those children with it that were waited for. Of memory what is its own: files' pages others have, too. */
static void add_process(const char *pid, struct use *use)
{
    char text[1024];
    unsigned long long user, kernel, threads, resident, shared;
    long long childrens_user, childrens_kernel;
    read_text(pid, "stat", text, sizeof(text));
    const char *rest = strrchr(text, ')');
    if (rest == NULL ||
        sscanf(rest,
               ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %lld %lld %*d %*d %llu",
               &user, &kernel, &childrens_user, &childrens_kernel, &threads) != 5) {
        return;
    }
    use->ticks += user + kernel + (uint64_t)(childrens_user + childrens_kernel);
    use->threads += threads;
    read_text(pid, "statm", text, sizeof(text));
    if (sscanf(text, "%*u %llu %llu", &resident, &shared) == 2 && resident > shared) {
        use->pages += resident - shared;
    }
}

static void look_at_all(ino_t own)
{
    DIR *folder = opendir("/proc");
    all_count = 0;
    for (const struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
        bool is_process = entry->d_name[0] >= '1' && entry->d_name[0] <= '9';
        ino_t space = is_process ? space_of(entry->d_name) : 0;
        struct use *use = space != 0 && space != own ? find_or_add(space) : NULL;
        if (use != NULL) {
            add_process(entry->d_name, use);
        }
    }
    if (folder != NULL) {
        (void)closedir(folder);
    }
    all_until_ns = clock_monotonic_ns() + KEEP_NS;
}

void life_add_processes(pid_t init, json_t *info)
{
    char pid[16];
    (void)snprintf(pid, sizeof(pid), "%d", init);
    ino_t own = space_of("self"), space = init > 0 ? space_of(pid) : 0;
    /* One that has no namespace of its own is not told from others. */
    if (space == 0 || space == own) {
        return;
    }
    if (clock_monotonic_ns() >= all_until_ns || find(space) == NULL) {
        look_at_all(own);
    }
    const struct use *use = find(space);
    if (use == NULL) {
        return;
    }
    uint64_t tick_ns = 1000000000u / (uint64_t)sysconf(_SC_CLK_TCK);
    uint64_t used = use->pages * (uint64_t)sysconf(_SC_PAGESIZE);
    (void)json_object_set_new(info, "memory_used_bytes", json_integer((json_int_t)used));
    (void)json_object_set_new(info, "cpu_ns", json_integer((json_int_t)(use->ticks * tick_ns)));
    (void)json_object_set_new(info, "processes", json_integer((json_int_t)use->threads));
}
