/* Answers to sysinfo(2). */
#include "system/views/sysinfo.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/host/file.h"

#define WRITERS_MAX       4 /* who comes while all are busy gets the host's numbers */
#define WRITER_STACK_SIZE ((size_t)64 << 10)
#define NS_PER_S          UINT64_C(1000000000)
#define SMALLEST_PAGE     4096

#if defined(__x86_64__)
#define NATIVE_ARCH     AUDIT_ARCH_X86_64
#define COMPAT_ARCH     AUDIT_ARCH_I386
#define SYS_sysinfo_32  116
#define HAS_COMPAT_ARCH 1
#elif defined(__aarch64__)
#define NATIVE_ARCH     AUDIT_ARCH_AARCH64
#define COMPAT_ARCH     AUDIT_ARCH_ARM
#define SYS_sysinfo_32  116
#define HAS_COMPAT_ARCH 1
#else
#error "which AUDIT_ARCH is it?"
#endif

void sysinfo_fill(struct sysinfo *out_info, const struct memory_totals *totals, uint64_t uptime_ns,
                  const struct load *load)
{
    /* Whole seconds are rounded up, as the kernel does. */
    *out_info = (struct sysinfo){
        .uptime = (long)((uptime_ns + NS_PER_S - 1) / NS_PER_S),
        .totalram = totals->total,
        .freeram = totals->free,
        .sharedram = totals->shared,
        .bufferram = totals->buffers,
        .totalswap = totals->swap_total,
        .freeswap = totals->swap_free,
        .procs = (unsigned short)MIN(load->counts.total, UINT16_MAX),
        .mem_unit = 1,
    };
    for (size_t i = 0; i < ARRAY_COUNT(load->average); i++) {
        out_info->loads[i] = load->average[i] << (SI_LOAD_SHIFT - LOAD_FIXED_SHIFT);
    }
}

void sysinfo_fill_32(struct sysinfo_32 *out_info, const struct sysinfo *info)
{
    uint64_t unit = 1;
    if (MAX(info->totalram, info->totalswap) > UINT32_MAX) {
        unit = SMALLEST_PAGE;
    }
    *out_info = (struct sysinfo_32){
        .uptime = (int32_t)info->uptime,
        .totalram = (uint32_t)(info->totalram / unit),
        .freeram = (uint32_t)(info->freeram / unit),
        .sharedram = (uint32_t)(info->sharedram / unit),
        .bufferram = (uint32_t)(info->bufferram / unit),
        .totalswap = (uint32_t)(info->totalswap / unit),
        .freeswap = (uint32_t)(info->freeswap / unit),
        .procs = info->procs,
        .mem_unit = (uint32_t)unit,
    };
    for (size_t i = 0; i < ARRAY_COUNT(out_info->loads); i++) {
        out_info->loads[i] = (uint32_t)MIN(info->loads[i], UINT32_MAX);
    }
}

struct sysinfo_desk {
    atomic_uint references; /* its owner's, and one for each writer */
};

int sysinfo_desk_create(struct sysinfo_desk **out_desk, struct error *err)
{
    struct sysinfo_desk *desk = malloc(sizeof(*desk));
    if (desk == NULL) {
        return error_set(err, ENOMEM, "no memory for answers to sysinfo");
    }
    atomic_init(&desk->references, 1);
    *out_desk = desk;
    return 0;
}

static void desk_put(struct sysinfo_desk *desk)
{
    if (atomic_fetch_sub(&desk->references, 1) == 1) {
        free(desk);
    }
}

void sysinfo_desk_destroy(struct sysinfo_desk *desk)
{
    if (desk != NULL) {
        desk_put(desk);
    }
}

struct writing {
    struct sysinfo_desk *desk;
    int listener_fd, memory_fd;
    uint64_t id, address;
    size_t size;
    union {
        struct sysinfo native;
        struct sysinfo_32 compat;
    } info;
};

static void writing_free(struct writing *writing)
{
    close(writing->listener_fd);
    close(writing->memory_fd);
    free(writing);
}

/* Who has gone meanwhile needs no answer. */
static int send_answer(int listener_fd, const struct seccomp_notif_resp *answer, struct error *err)
{
    if (ioctl(listener_fd, SECCOMP_IOCTL_NOTIF_SEND, answer) < 0) {
        return errno == ENOENT ? -ENOENT : error_set_errno(err, errno, "answering sysinfo");
    }
    return 0;
}

static int let_go_on(int listener_fd, uint64_t id, struct error *err)
{
    const struct seccomp_notif_resp answer = {.id = id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
    return send_answer(listener_fd, &answer, err);
}

static void *write_and_send(void *ctx)
{
    struct writing *writing = ctx;
    const uint8_t *from = (const uint8_t *)&writing->info;
    size_t done = 0;
    while (done < writing->size) {
        ssize_t written = pwrite(writing->memory_fd, from + done, writing->size - done,
                                 (off_t)(writing->address + done));
        if (written <= 0) {
            break;
        }
        done += (size_t)written;
    }
    desk_put(writing->desk); /* before the caller goes on, and perhaps calls again */
    const struct seccomp_notif_resp answer = {
        .id = writing->id,
        .error = done == writing->size ? 0 : -EFAULT,
    };
    error_ignore(send_answer(writing->listener_fd, &answer, NULL));
    writing_free(writing);
    return NULL;
}

/* Signals are for the thread that waits for them. */
static int start_thread(struct writing *writing)
{
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    int rc = pthread_attr_init(&attributes);
    if (rc != 0) {
        return -rc;
    }
    (void)sigfillset(&all);
    rc = pthread_attr_setstacksize(&attributes, WRITER_STACK_SIZE);
    rc = rc != 0 ? rc : pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    rc = rc != 0 ? rc : pthread_sigmask(SIG_SETMASK, &all, &before);
    if (rc == 0) {
        rc = pthread_create(&thread, &attributes, write_and_send, writing);
        (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    (void)pthread_attr_destroy(&attributes);
    return -rc;
}

/* Opens the caller's memory and then asks whether it still waits: so this is not the memory of somebody who got its id
 * later. */
static int open_memory(int listener_fd, int proc_fd, const struct seccomp_notif *call)
{
    char path[32];
    (void)snprintf(path, sizeof(path), "%u/mem", call->pid);
    AUTO_CLOSE int fd = openat(proc_fd, path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    if (ioctl(listener_fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &call->id) < 0) {
        return -errno;
    }
    return TAKE_FD(fd);
}

/* How many bytes the caller wants; 0: it is not sysinfo. */
static size_t wanted_size(const struct seccomp_data *data)
{
    if (data->arch == NATIVE_ARCH && data->nr == SYS_sysinfo) {
        return sizeof(struct sysinfo);
    }
    if (data->arch == COMPAT_ARCH && data->nr == SYS_sysinfo_32) {
        return sizeof(struct sysinfo_32);
    }
    return 0;
}

/* NULL: there is no memory, or no descriptor. */
static struct writing *writing_new(struct sysinfo_desk *desk, int listener_fd, int memory_fd)
{
    struct writing *writing = calloc(1, sizeof(*writing));
    int fd = fcntl(listener_fd, F_DUPFD_CLOEXEC, 3);
    if (writing == NULL || fd < 0) {
        free(writing);
        if (fd >= 0) {
            close(fd);
        }
        return NULL;
    }
    writing->listener_fd = fd;
    writing->memory_fd = memory_fd;
    writing->desk = desk;
    atomic_fetch_add(&desk->references, 1);
    return writing;
}

int sysinfo_answer(struct sysinfo_desk *desk, int listener_fd, int proc_fd, sysinfo_fn fill,
                   void *ctx, struct error *err)
{
    union { /* a newer kernel may write more */
        struct seccomp_notif call;
        char room[512];
    } received;
    memset(&received, 0, sizeof(received));
    if (ioctl(listener_fd, SECCOMP_IOCTL_NOTIF_RECV, &received.call) < 0) {
        return errno == ENOENT || errno == EINTR
                   ? -ENOENT
                   : error_set_errno(err, errno, "receiving a notified call");
    }
    const struct seccomp_notif *call = &received.call;
    size_t size = wanted_size(&call->data);
    if (size == 0 || atomic_load(&desk->references) > WRITERS_MAX) {
        return let_go_on(listener_fd, call->id, err);
    }
    AUTO_CLOSE int memory_fd = open_memory(listener_fd, proc_fd, call);
    if (memory_fd < 0) {
        memory_fd = -1;
        return let_go_on(listener_fd, call->id, err);
    }
    struct writing *writing = writing_new(desk, listener_fd, memory_fd);
    if (writing == NULL) {
        return let_go_on(listener_fd, call->id, err);
    }
    (void)TAKE_FD(memory_fd); /* is the writing's */
    writing->id = call->id;
    writing->address = call->data.args[0];
    writing->size = size;
    struct sysinfo info;
    fill(ctx, &info);
    if (size == sizeof(struct sysinfo_32)) {
        writing->address &= UINT32_MAX;
        sysinfo_fill_32(&writing->info.compat, &info);
    } else {
        writing->info.native = info;
    }
    if (start_thread(writing) < 0) {
        desk_put(desk);
        writing_free(writing);
        return let_go_on(listener_fd, call->id, err);
    }
    return 0;
}
