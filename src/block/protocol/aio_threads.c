/* A pool of threads that run a file's requests with blocking system calls: where io_uring is refused. */
#include "block/protocol/aio.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define THREAD_COUNT      4
#define THREAD_STACK_SIZE (128u << 10)

struct threads {
    struct aio aio;
    struct event_notifier *notifier;
    pthread_t thread[THREAD_COUNT];
    unsigned thread_count;

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t has_work;
    pthread_cond_t has_finished;
    struct block_request *work;
    struct block_request **work_tail;
    struct block_request *finished;
    struct block_request **finished_tail;
    bool is_stopping;
};

/* Goes on after a short transfer of 'done_bytes', one part of the vector after the other. */
static int transfer_rest(struct file_block *file, struct block_request *request,
                         uint64_t done_bytes)
{
    uint64_t at = 0;
    for (int i = 0; i < request->iov_count; i++) {
        const struct iovec *part = &request->iov[i];
        while (done_bytes < at + part->iov_len) {
            size_t skip = (size_t)(done_bytes - at);
            uint8_t *data = (uint8_t *)part->iov_base + skip;
            off_t offset = (off_t)(request->offset_bytes + done_bytes);
            ssize_t n = request->op == BLOCK_READ
                            ? pread(file->fd, data, part->iov_len - skip, offset)
                            : pwrite(file->fd, data, part->iov_len - skip, offset);
            if (n < 0 && errno == EINTR) {
                continue;
            }
            if (n < 0) {
                return -errno;
            }
            if (n == 0) {
                return request->op == BLOCK_READ ? file_block_read_end(file, request, done_bytes)
                                                 : -EIO;
            }
            done_bytes += (uint64_t)n;
        }
        at += part->iov_len;
    }
    return 0;
}

static int transfer(struct file_block *file, struct block_request *request)
{
    off_t offset = (off_t)request->offset_bytes;
    ssize_t n;
    do {
        n = request->op == BLOCK_READ ? preadv(file->fd, request->iov, request->iov_count, offset)
                                      : pwritev(file->fd, request->iov, request->iov_count, offset);
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        return -errno;
    }
    if ((uint64_t)n != request->size_bytes && file->align != 0 &&
        ((uint64_t)n & (file->align - 1)) != 0 && request->op == BLOCK_READ) {
        return file_block_read_end(file, request,
                                   (uint64_t)n); /* within a block: the end of the file */
    }
    return (uint64_t)n == request->size_bytes ? 0 : transfer_rest(file, request, (uint64_t)n);
}

static int write_zeroes(struct file_block *file, uint64_t offset, uint64_t size)
{
    while (size > 0) {
        ssize_t n = pwrite(file->fd, aio_zeroes, MIN(size, AIO_ZEROES_SIZE), (off_t)offset);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? -errno : -EIO;
        }
        offset += (uint64_t)n;
        size -= (uint64_t)n;
    }
    return 0;
}

static int deallocate(struct file_block *file, struct block_request *request)
{
    if (file->is_device && request->op == BLOCK_DISCARD) {
        uint64_t range[2] = {request->offset_bytes, request->size_bytes};
        /* A hint: a device that cannot has still done what was asked. */
        return ioctl(file->fd, BLKDISCARD, range) < 0 && errno != EOPNOTSUPP && errno != ENOTTY
                   ? -errno
                   : 0;
    }
    for (;;) {
        int mode = file_block_fallocate_mode(file, request);
        if (mode < 0) {
            return request->op == BLOCK_DISCARD
                       ? 0
                       : write_zeroes(file, request->offset_bytes, request->size_bytes);
        }
        if (fallocate(file->fd, mode, (off_t)request->offset_bytes, (off_t)request->size_bytes) ==
            0) {
            return 0;
        }
        if (errno != EOPNOTSUPP && errno != EINTR) {
            return -errno;
        }
        if (errno == EOPNOTSUPP && !file_block_fallocate_refused(file, request, mode)) {
            return 0;
        }
    }
}

static int perform(struct file_block *file, struct block_request *request)
{
    switch (request->op) {
    case BLOCK_READ:
    case BLOCK_WRITE:
        return transfer(file, request);
    case BLOCK_FLUSH:
        return fdatasync(file->fd) < 0 ? -errno : 0;
    case BLOCK_DISCARD:
    case BLOCK_WRITE_ZEROES:
        return deallocate(file, request);
    case BLOCK_MAP: /* file.c does these at once */
    case BLOCK_RESIZE:
        break;
    }
    return -EINVAL;
}

static void *thread_main(void *ctx)
{
    struct threads *threads = ctx;
    pthread_mutex_lock(&threads->lock);
    for (;;) {
        while (threads->work == NULL && !threads->is_stopping) {
            pthread_cond_wait(&threads->has_work, &threads->lock);
        }
        struct block_request *request = threads->work;
        if (request == NULL) {
            break;
        }
        threads->work = request->next;
        if (threads->work == NULL) {
            threads->work_tail = &threads->work;
        }
        pthread_mutex_unlock(&threads->lock);
        int status = perform(threads->aio.file, request);
        pthread_mutex_lock(&threads->lock);
        request->status = status;
        request->next = NULL;
        bool was_empty = threads->finished == NULL;
        *threads->finished_tail = request;
        threads->finished_tail = &request->next;
        pthread_cond_signal(&threads->has_finished);
        if (was_empty) {
            event_notifier_signal(threads->notifier);
        }
    }
    pthread_mutex_unlock(&threads->lock);
    return NULL;
}

static void threads_submit(struct aio *aio, struct block_request *request)
{
    struct threads *threads = container_of(aio, struct threads, aio);
    request->next = NULL;
    pthread_mutex_lock(&threads->lock);
    *threads->work_tail = request;
    threads->work_tail = &request->next;
    pthread_cond_signal(&threads->has_work);
    pthread_mutex_unlock(&threads->lock);
}

static void threads_plug(struct aio *aio, bool is_plugged)
{
}

static void run_finished(void *ctx)
{
    struct threads *threads = ctx;
    pthread_mutex_lock(&threads->lock);
    struct block_request *list = threads->finished;
    threads->finished = NULL;
    threads->finished_tail = &threads->finished;
    pthread_mutex_unlock(&threads->lock);
    while (list != NULL) {
        struct block_request *request = list;
        list = request->next;
        struct file_block *file = threads->aio.file;
        file_block_complete(file, request, request->status);
    }
}

static void threads_wait(struct aio *aio)
{
    struct threads *threads = container_of(aio, struct threads, aio);
    pthread_mutex_lock(&threads->lock);
    while (threads->finished == NULL) {
        pthread_cond_wait(&threads->has_finished, &threads->lock);
    }
    pthread_mutex_unlock(&threads->lock);
    run_finished(threads);
}

static void threads_destroy(struct aio *aio)
{
    struct threads *threads = container_of(aio, struct threads, aio);
    pthread_mutex_lock(&threads->lock);
    threads->is_stopping = true;
    pthread_cond_broadcast(&threads->has_work);
    pthread_mutex_unlock(&threads->lock);
    for (unsigned i = 0; i < threads->thread_count; i++) {
        pthread_join(threads->thread[i], NULL);
    }
    event_notifier_destroy(threads->notifier);
    pthread_cond_destroy(&threads->has_finished);
    pthread_cond_destroy(&threads->has_work);
    pthread_mutex_destroy(&threads->lock);
    free(threads);
}

static const struct aio_ops threads_ops = {
    .name = "threads",
    .submit = threads_submit,
    .plug = threads_plug,
    .wait = threads_wait,
    .destroy = threads_destroy,
};

static int start_threads(struct threads *threads, struct error *err)
{
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    (void)pthread_attr_setstacksize(&attr, THREAD_STACK_SIZE); /* a larger one does as well */
    /* Signals belong to the program's other threads. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int code = 0;
    while (threads->thread_count < THREAD_COUNT && code == 0) {
        code = pthread_create(&threads->thread[threads->thread_count], &attr, thread_main, threads);
        threads->thread_count += code == 0;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    /* One thread is enough to go on with. */
    return threads->thread_count > 0 ? 0 : error_set_errno(err, code, "starting I/O threads");
}

int aio_threads_create(struct file_block *file, struct event_loop *loop, struct aio **out_aio,
                       struct error *err)
{
    struct threads *threads = calloc(1, sizeof(*threads));
    if (threads == NULL) {
        return error_set_errno(err, ENOMEM, "starting I/O threads");
    }
    threads->aio = (struct aio){.ops = &threads_ops, .file = file};
    pthread_mutex_init(&threads->lock, NULL);
    pthread_cond_init(&threads->has_work, NULL);
    pthread_cond_init(&threads->has_finished, NULL);
    threads->work_tail = &threads->work;
    threads->finished_tail = &threads->finished;
    int rc = event_notifier_create(loop, run_finished, threads, &threads->notifier, err);
    if (rc == 0) {
        rc = start_threads(threads, err);
    }
    if (rc < 0) {
        threads_destroy(&threads->aio);
        return rc;
    }
    *out_aio = &threads->aio;
    return 0;
}
