/* Random requests to qcow2 images of every kind against a flat model; then qemu-img checks the image and compares it with the
 * model. Images are made here or by qemu-img. Usage: qcow2_oracle [FIRST_SEED [COUNT [STEPS]]] */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "block/crypt.h"
#include "tests/block/model.h"

#define PASSPHRASE  "horse"
#define QEMU_SECRET "--object secret,id=k,data=" PASSPHRASE " "

static char folder[64];
/* A LUKS header that images made here have; NULL: there is no libcryptsetup. */
static struct block *luks_header;
static uint64_t luks_header_size;

struct kind {
    uint32_t cluster_size, version, refcount_bits;
    bool is_zstd, is_extended, is_lazy, has_backing, has_data, is_raw_data, by_qemu, has_bitmap,
        is_encrypted;
    enum block_preallocation preallocation;
};

struct run {
    struct event_loop *loop;
    struct kind kind;
    struct model model;
    uint8_t *backing;
    uint64_t backing_size;
    char image[128], base[128], data[128], flat[128];
    uint8_t *saved; /* the model at the snapshot */
    uint64_t saved_size;
    bool has_snapshot, has_hot, is_direct;
    const char *last;
};

static void quit(const struct run *run, uint64_t seed, const char *what, const char *more)
{
    const struct kind *k = &run->kind;
    printf(
        "seed %llu: %s %s (after %s): clusters %u, version %u, refcount bits %u%s%s%s%s%s%s%s%s%s, "
        "preallocation %d\n",
        (unsigned long long)seed, what, more, run->last, k->cluster_size, k->version,
        k->refcount_bits, k->is_zstd ? ", zstd" : "", k->is_extended ? ", extended" : "",
        k->is_lazy ? ", lazy" : "", k->has_backing ? ", backing" : "",
        k->has_data ? ", data file" : "", k->is_raw_data ? ", raw" : "",
        k->by_qemu ? ", by qemu" : "", k->has_bitmap ? ", bitmaps" : "",
        k->is_encrypted ? ", encrypted" : "", (int)k->preallocation);
    printf("kept in %s\n", folder);
    exit(1);
}

static int command(const char *text)
{
    int status = system(text);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

static void pick_kind(struct model *random, struct kind *kind)
{
    *kind = (struct kind){
        .cluster_size = 512u << model_random(random, 9),
        .version = model_random(random, 6) == 0 ? 2 : 3,
        .refcount_bits = 1u << model_random(random, 7),
        .is_zstd = model_random(random, 3) == 0,
        .is_extended = model_random(random, 3) == 0,
        .is_lazy = model_random(random, 4) == 0,
        .has_backing = model_random(random, 2) == 0,
        .has_data = model_random(random, 6) == 0,
        .is_raw_data = model_random(random, 2) == 0,
        .by_qemu = model_random(random, 2) == 0,
        .preallocation = model_random(random, 3) == 0
                             ? (enum block_preallocation)model_random(random, 4)
                             : BLOCK_PREALLOCATION_OFF,
    };
    if (model_random(random, 12) == 0) {
        kind->cluster_size = 2 << 20;
    }
    if (kind->is_extended && kind->cluster_size < 16384) {
        kind->cluster_size = 16384;
    }
    if (kind->version == 2) {
        kind->refcount_bits = 16;
        kind->is_zstd = kind->is_extended = kind->is_lazy = kind->has_data = false;
    }
    kind->is_raw_data = kind->is_raw_data && kind->has_data && !kind->has_backing;
    kind->is_encrypted = model_random(random, 5) == 0 && !kind->has_data && luks_header != NULL;
    if (kind->is_encrypted && kind->by_qemu) {
        kind->by_qemu = model_random(random, 3) == 0; /* it takes its time */
        /* Its preallocated clusters hold anything. */
        kind->preallocation = kind->by_qemu ? BLOCK_PREALLOCATION_OFF : kind->preallocation;
    }
    kind->has_bitmap = kind->by_qemu && !kind->is_encrypted && kind->version == 3 &&
                       !kind->has_data && model_random(random, 3) == 0;
    if (kind->has_backing) {
        kind->preallocation = BLOCK_PREALLOCATION_OFF;
    }
}

static int open_fd(const char *path, int flags)
{
    return open(path, flags | O_CLOEXEC, 0600);
}

static int unlock(void *ctx, const struct block_crypt_header *header, struct block_crypt *out_crypt,
                  struct error *err)
{
    return block_crypt_unlock(header, PASSPHRASE, strlen(PASSPHRASE), out_crypt, err);
}

static struct block *open_block(struct run *run, const char *path, const char *format,
                                bool is_readonly, struct block *backing, struct block *data)
{
    struct block_options options = {
        .format = format,
        .is_readonly = is_readonly,
        .is_direct = run->is_direct,
        .aio = run->is_direct && run->model.size % 1024 == 0 ? BLOCK_AIO_THREADS : BLOCK_AIO_AUTO,
        .backing = backing,
        .data_file = data,
        .unlock = unlock};
    struct block *block;
    struct error err = {0};
    int fd = open_fd(path, is_readonly ? O_RDONLY : O_RDWR);
    if (block_open(fd, path, &options, run->loop, &block, &err) < 0) {
        printf("%s\n", err.text);
        return NULL;
    }
    return block;
}

static struct block *open_growable(struct run *run, const char *path)
{
    struct block_file_options options = {.is_growable = true, .is_direct = run->is_direct};
    struct block *block;
    struct error err = {0};
    if (block_open_file(open_fd(path, O_RDWR | O_CREAT), path, &options, run->loop, &block, &err) <
        0) {
        printf("%s\n", err.text);
        return NULL;
    }
    return block;
}

static bool open_image(struct run *run)
{
    struct block *backing = NULL, *data = NULL;
    if (run->kind.has_backing) {
        backing = open_block(run, run->base, "raw", true, NULL, NULL);
    }
    if (run->kind.has_data) {
        data = open_growable(run, run->data);
    }
    run->model.block = open_block(run, run->image, "qcow2", false, backing, data);
    return run->model.block != NULL;
}

static bool create_here(struct run *run)
{
    const struct kind *kind = &run->kind;
    struct block *file = open_growable(run, run->image);
    struct block *data = kind->has_data ? open_growable(run, run->data) : NULL;
    struct block_create_options options = {
        .format = "qcow2",
        .size_bytes = run->model.size,
        .cluster_size = kind->cluster_size,
        .version = kind->version,
        .refcount_bits = kind->refcount_bits,
        .compression = kind->is_zstd ? "zstd" : NULL,
        .has_extended_l2 = kind->is_extended,
        .has_lazy_refcounts = kind->is_lazy,
        .is_data_file_raw = kind->is_raw_data,
        .backing_name = kind->has_backing ? run->base : NULL,
        .backing_format = kind->has_backing ? "raw" : NULL,
        .data_name = kind->has_data ? run->data : NULL,
        .data_file = data,
        .preallocation = kind->preallocation,
        .crypt_header = kind->is_encrypted ? luks_header : NULL,
        .crypt_header_bytes = kind->is_encrypted ? luks_header_size : 0,
        .unlock = unlock,
    };
    struct error err = {0};
    int rc = block_create(file, &options, &err);
    if (rc < 0) {
        printf("%s\n", err.text);
    }
    block_close(file);
    block_close(data);
    return rc == 0;
}

static bool create_by_qemu(struct run *run)
{
    static const char *const modes[] = {"off", "metadata", "falloc", "full"};
    const struct kind *kind = &run->kind;
    char text[2048], options[600];
    (void)snprintf(
        options, sizeof(options),
        "cluster_size=%u,compat=%s,refcount_bits=%u,lazy_refcounts=%s,preallocation=%s%s%s%s%s%s%s",
        kind->cluster_size, kind->version == 2 ? "0.10" : "1.1", kind->refcount_bits,
        kind->is_lazy ? "on" : "off", modes[kind->preallocation],
        kind->is_zstd ? ",compression_type=zstd" : "", kind->is_extended ? ",extended_l2=on" : "",
        kind->has_data ? ",data_file=" : "", kind->has_data ? run->data : "",
        kind->is_raw_data ? ",data_file_raw=on" : "",
        kind->is_encrypted ? ",encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=10" : "");
    /* Or with data that qemu-img has written, compressed perhaps. */
    if (!kind->has_backing && kind->preallocation == BLOCK_PREALLOCATION_OFF && !kind->has_data &&
        !kind->is_encrypted && model_random(&run->model, 2) == 0) {
        uint8_t *bytes = run->model.bytes;
        for (uint64_t i = 0; i < run->model.size; i++) {
            bytes[i] = i % 100000 < 30000 ? 0 : (uint8_t)(i / 7 + (i >> 11) * (i >> 15));
        }
        int fd = open_fd(run->flat, O_RDWR | O_CREAT | O_TRUNC);
        if (write(fd, bytes, run->model.size) != (ssize_t)run->model.size) {
            return false;
        }
        close(fd);
        (void)snprintf(
            text, sizeof(text),
            "qemu-img convert %s -f raw -O qcow2 -o %s %s %s && qemu-img snapshot -c zero %s",
            model_random(&run->model, 2) == 0 ? "-c" : "", options, run->flat, run->image,
            kind->refcount_bits >= 16 ? run->image : "/dev/null 2>/dev/null || true");
        return command(text) == 0;
    }
    (void)snprintf(text, sizeof(text), "qemu-img create %s-q -f qcow2 -o %s %s%s %s %llu",
                   kind->is_encrypted ? QEMU_SECRET : "", options,
                   kind->has_backing ? "-F raw -b " : "", kind->has_backing ? run->base : "",
                   run->image, (unsigned long long)run->model.size);
    int rc = command(text);
    /* On a busy machine it now and then cannot tell how fast the CPU is. */
    for (unsigned i = 0; rc != 0 && kind->is_encrypted && i < 10; i++) {
        rc = command(text);
    }
    if (rc == 0 && kind->has_bitmap) {
        (void)snprintf(text, sizeof(text),
                       "qemu-img bitmap --add -f qcow2 %s one && "
                       "qemu-img bitmap --add --disable -f qcow2 %s two",
                       run->image, run->image);
        rc = command(text);
    }
    return rc == 0;
}

static bool make_backing(struct run *run)
{
    struct model *model = &run->model;
    run->backing_size = (1 + model_random(model, model->size / 512 * 5 / 4)) * 512;
    run->backing = malloc(run->backing_size);
    for (uint64_t i = 0; i < run->backing_size; i++) {
        run->backing[i] = i % 131072 < 16384 ? 0 : (uint8_t)(i % 251 + (i >> 12));
    }
    int fd = open_fd(run->base, O_RDWR | O_CREAT | O_TRUNC);
    bool is_ok = write(fd, run->backing, run->backing_size) == (ssize_t)run->backing_size;
    close(fd);
    memcpy(model->bytes, run->backing, MIN(run->backing_size, model->size));
    return is_ok;
}

static void try_snapshot(struct run *run, uint64_t seed)
{
    struct model *model = &run->model;
    struct error err = {0};
    int rc = 0;
    uint64_t what = model_random(model, 3);
    if (run->kind.has_data || run->kind.refcount_bits == 1) {
        return;
    }
    if (!run->has_snapshot) {
        run->last = "snapshot create";
        rc = block_snapshot_create(model->block, "one", &err);
        if (rc == -ERANGE) {
            return; /* compressed clusters fill small counts */
        }
        run->saved = malloc(model->size);
        memcpy(run->saved, model->bytes, model->size);
        run->saved_size = model->size;
        run->has_snapshot = true;
    } else if (what == 0 && run->saved_size == model->size) {
        run->last = "snapshot apply";
        rc = block_snapshot_apply(model->block, "one", &err);
        if (rc == -ERANGE) {
            return;
        }
        memcpy(model->bytes, run->saved, model->size);
    } else {
        run->last = "snapshot delete";
        rc = block_snapshot_delete(model->block, "one", &err);
        free(run->saved);
        run->saved = NULL;
        run->has_snapshot = false;
    }
    if (rc < 0) {
        quit(run, seed, "snapshot failed:", err.text);
    }
}

static void try_resize(struct run *run, uint64_t seed)
{
    struct model *model = &run->model;
    uint64_t size = (1 + model_random(model, (16u << 20) / 512)) * 512;
    if (run->has_snapshot || run->has_hot || run->kind.is_raw_data || run->kind.version == 2 ||
        run->kind.has_bitmap) {
        return;
    }
    run->last = "resize";
    int rc = block_resize(model->block, size);
    if (rc < 0) {
        quit(run, seed, "resize failed", strerror(-rc));
    }
    model->bytes = realloc(model->bytes, size);
    if (size > model->size) {
        memset(model->bytes + model->size, 0, size - model->size);
    }
    model->size = size;
}

static void check_with_qemu(struct run *run, uint64_t seed)
{
    char text[1024], image[512];
    bool is_encrypted = run->kind.is_encrypted;
    (void)snprintf(image, sizeof(image), "%s%s%s",
                   is_encrypted ? QEMU_SECRET "--image-opts driver=qcow2,encrypt.key-secret=k,"
                                              "file.driver=file,file.filename="
                                : "-f qcow2 ",
                   run->image, is_encrypted ? " " : "");
    (void)snprintf(text, sizeof(text), "qemu-img check -q %s >%s/check 2>&1", image, folder);
    int rc = command(text);
    if (rc != 0) {
        quit(run, seed, "qemu-img check is not content", "");
    }
    int fd = open_fd(run->flat, O_RDWR | O_CREAT | O_TRUNC);
    if (write(fd, run->model.bytes, run->model.size) != (ssize_t)run->model.size) {
        quit(run, seed, "cannot write the model", "");
    }
    close(fd);
    (void)snprintf(text, sizeof(text), "qemu-img compare -q %s %s%s >%s/compare 2>&1", image,
                   is_encrypted ? "driver=raw,file.driver=file,file.filename=" : "-F raw ",
                   run->flat, folder);
    if (command(text) != 0) {
        quit(run, seed, "qemu-img compare finds a difference", "");
    }
    if (run->kind.is_raw_data) { /* the data file alone is the disk too */
        (void)snprintf(text, sizeof(text), "cmp -s -n %llu %s %s",
                       (unsigned long long)run->model.size, run->data, run->flat);
        if (command(text) != 0) {
            quit(run, seed, "the raw data file differs", "");
        }
    }
}

static void check_here(struct run *run, uint64_t seed)
{
    struct block_check_result result;
    struct error err = {0};
    run->last = "check";
    if (block_check(run->model.block, 0, NULL, NULL, &result, &err) < 0) {
        quit(run, seed, "check failed:", err.text);
    }
    if (result.errors > 0) {
        quit(run, seed, "check finds errors", "");
    }
}

/* Snapshots that come and go, and checks, while requests are in flight. */
static void meanwhile(void *ctx)
{
    struct run *run = ctx;
    struct model *model = &run->model;
    struct block_check_result result;
    struct error err = {0};
    if (model_random(model, 30) != 0) {
        return;
    }
    run->last = "something in between";
    if (!run->kind.has_data && run->kind.refcount_bits > 1 && model_random(model, 4) != 0) {
        int rc = run->has_hot ? block_snapshot_delete(model->block, "hot", &err)
                              : block_snapshot_create(model->block, "hot", &err);
        if (rc < 0 && rc != -ERANGE) {
            quit(run, 0, "snapshot failed:", err.text);
        }
        run->has_hot = rc == 0 ? !run->has_hot : run->has_hot;
    } else if (block_check(model->block, 0, NULL, NULL, &result, &err) < 0 || result.errors > 0) {
        quit(run, 0, "check in between:", err.text);
    }
}

static void reopen(struct run *run, uint64_t seed, bool with_qemu)
{
    struct error err = {0};
    run->last = "reopen";
    if (block_finish(run->model.block, &err) < 0) {
        quit(run, seed, "closing failed:", err.text);
    }
    if (with_qemu) {
        check_with_qemu(run, seed);
    }
    if (!open_image(run)) {
        quit(run, seed, "opening failed", "");
    }
}

static void run_seed(struct event_loop *loop, uint64_t seed, unsigned steps)
{
    struct run run = {.loop = loop, .last = "create"};
    struct model *model = &run.model;
    model->state = seed * 0x9e3779b97f4a7c15u + 88172645463325252u;
    for (int i = 0; i < 8; i++) {
        (void)model_random(model, 2);
    }
    pick_kind(model, &run.kind);
    model->size = (1 + model_random(model, (12u << 20) / 512)) * 512;
    /* Only when asked for: Linux does writes past the page cache that end within a block of ext4 through the cache where the
     * block is not written yet, and when two such collide, the next fdatasync says EIO. */
    run.is_direct = model_random(model, 3) == 0 && getenv("HULL_ORACLE_DIRECT") != NULL;
    model->max_request = 1u << (10 + model_random(model, 10));
    model->parallel = 1 + (unsigned)model_random(model, 16);
    model->has_compression = model_random(model, 2) == 0;
    model->bytes = calloc(1, model->size);
    model->meanwhile = meanwhile;
    model->ctx = &run;
    (void)snprintf(run.image, sizeof(run.image), "%s/image.qcow2", folder);
    (void)snprintf(run.base, sizeof(run.base), "%s/base.raw", folder);
    (void)snprintf(run.data, sizeof(run.data), "%s/data.raw", folder);
    (void)snprintf(run.flat, sizeof(run.flat), "%s/flat.raw", folder);
    unlink(run.image);
    unlink(run.data);
    if (run.kind.has_backing && !make_backing(&run)) {
        quit(&run, seed, "cannot make the backing file", "");
    }
    if (!(run.kind.by_qemu ? create_by_qemu(&run) : create_here(&run)) || !open_image(&run)) {
        quit(&run, seed, "cannot make the image", "");
    }
    for (unsigned i = 0; i < steps; i++) {
        run.last = "requests";
        if (!model_step(model)) {
            char text[64];
            (void)snprintf(text, sizeof(text), "at %llu", (unsigned long long)model->failed_at);
            quit(&run, seed, model->failure, text);
        }
        if (model_random(model, 24) == 0) {
            try_snapshot(&run, seed);
        }
        if (model_random(model, 40) == 0) {
            try_resize(&run, seed);
        }
        if (model_random(model, 40) == 0) {
            reopen(&run, seed, model_random(model, 2) == 0);
        }
        if (model_random(model, 40) == 0) {
            check_here(&run, seed);
        }
    }
    run.last = "the end";
    if (!model_verify(model)) {
        quit(&run, seed, model->failure, "");
    }
    reopen(&run, seed, true);
    if (!model_verify(model)) {
        quit(&run, seed, model->failure, "after reopening");
    }
    block_close(model->block);
    free(model->bytes);
    free(run.backing);
    free(run.saved);
}

static void make_luks_header(struct event_loop *loop)
{
    struct block_crypt *crypt = block_crypt_new();
    struct block_crypt_creation creation = {.version = 1, .iter_ms = 1};
    struct error err = {0};
    if (block_open_memory(0, "LUKS header", loop, &luks_header, NULL) < 0) {
        exit(1);
    }
    if (block_crypt_format(luks_header, &creation, PASSPHRASE, strlen(PASSPHRASE), crypt, &err) <
        0) {
        printf("%s\n", err.text);
        block_close(luks_header);
        luks_header = NULL;
    } else {
        luks_header_size = crypt->payload_offset;
    }
    block_crypt_free(crypt);
}

int main(int argc, char **argv)
{
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : 40;
    unsigned steps = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 10) : 120;
    if (command("qemu-img --version >/dev/null 2>&1") != 0) {
        printf("skipped: there is no qemu-img\n");
        return 77;
    }
    (void)snprintf(folder, sizeof(folder), "/tmp/hull-oracle-XXXXXX");
    if (mkdtemp(folder) == NULL) {
        perror(folder);
        return 1;
    }
    struct event_loop *loop;
    if (event_loop_create(&loop, NULL) < 0) {
        return 1;
    }
    make_luks_header(loop);
    for (uint64_t seed = first; seed < first + count; seed++) {
        if (getenv("VERBOSE") != NULL) {
            printf("seed %llu\n", (unsigned long long)seed);
            fflush(stdout);
        }
        run_seed(loop, seed, steps);
    }
    block_close(luks_header);
    event_loop_destroy(loop);
    char text[128];
    (void)snprintf(text, sizeof(text), "rm -r %s", folder);
    (void)command(text);
    printf("%llu images as they should be\n", (unsigned long long)count);
    return 0;
}
