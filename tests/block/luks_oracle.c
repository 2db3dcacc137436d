/* Random requests to raw disks behind LUKS headers of both versions, with sectors of 512 and 4096 bytes, against a flat model; of
 * version 1 qemu-img then compares the image with the model. Usage: luks_oracle [FIRST_SEED [COUNT [STEPS]]] */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "block/crypt.h"
#include "tests/block/model.h"

#define PASSPHRASE "horse"
#define MAX_SIZE   (4u << 20)

static char folder[64];

struct kind {
    struct block_crypt_creation creation;
    const char *name;
};

static const struct kind kinds[] = {
    {{.version = 1, .iter_ms = 1}, "version 1"},
    {{.version = 2, .iter_ms = 1}, "version 2"},
    {{.version = 2, .iter_ms = 1, .sector_size = 4096}, "version 2, sectors of 4096 bytes"},
};

struct run {
    struct event_loop *loop;
    uint64_t seed;
    const struct kind *kind;
    struct model model;
    char image[128], flat[128];
    bool has_qemu;
};

static void quit(const struct run *run, const char *what, const char *more)
{
    printf("seed %llu, %s: %s %s, at %llu; kept in %s\n", (unsigned long long)run->seed,
           run->kind->name, what, more, (unsigned long long)run->model.failed_at, folder);
    exit(1);
}

static int unlock(void *ctx, const struct block_crypt_header *header, struct block_crypt *out_crypt,
                  struct error *err)
{
    return block_crypt_unlock(header, PASSPHRASE, strlen(PASSPHRASE), out_crypt, err);
}

static int command(const char *text)
{
    int status = system(text);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

/* 77: there is no libcryptsetup. */
static int make_image(struct run *run)
{
    struct block_file_options options = {.is_growable = true};
    struct block_crypt *crypt = block_crypt_new();
    struct block *file = NULL;
    struct error err = {0};
    int fd = open(run->image, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || block_open_file(fd, run->image, &options, run->loop, &file, &err) < 0) {
        quit(run, "no file", err.text);
    }
    int rc =
        block_crypt_format(file, &run->kind->creation, PASSPHRASE, strlen(PASSPHRASE), crypt, &err);
    if (rc == 0) {
        rc = block_resize(file, crypt->payload_offset + run->model.size);
    }
    block_close(file);
    block_crypt_free(crypt);
    if (rc == -EOPNOTSUPP) {
        printf("%s\n", err.text);
        return 77;
    }
    if (rc < 0) {
        quit(run, "no image", err.text);
    }
    return 0;
}

static void open_image(struct run *run)
{
    struct block_options options = {.format = "luks",
                                    .unlock = unlock,
                                    .aio = model_random(&run->model, 2) == 0 ? BLOCK_AIO_THREADS
                                                                             : BLOCK_AIO_AUTO};
    struct error err = {0};
    int fd = open(run->image, O_RDWR | O_CLOEXEC);
    if (block_open(fd, run->image, &options, run->loop, &run->model.block, &err) < 0) {
        quit(run, "does not open", err.text);
    }
    struct block_info info;
    block_get_info(run->model.block, &info);
    if (info.size_bytes != run->model.size) {
        quit(run, "another size", "");
    }
}

/* What nobody has written is anything. */
static void fill(struct run *run, uint64_t from)
{
    if (from < run->model.size &&
        block_write_zeroes(run->model.block, from, run->model.size - from, false) < 0) {
        quit(run, "no zeros", "");
    }
}

static void compare_with_qemu(const struct run *run)
{
    char text[768];
    int fd = open(run->flat, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (write(fd, run->model.bytes, run->model.size) != (ssize_t)run->model.size) {
        quit(run, "cannot write the model", "");
    }
    close(fd);
    (void)snprintf(text, sizeof(text),
                   "qemu-img compare -q --object secret,id=k,data=" PASSPHRASE
                   " --image-opts driver=luks,key-secret=k,file.driver=file,file.filename=%s"
                   " driver=raw,file.driver=file,file.filename=%s",
                   run->image, run->flat);
    if (command(text) != 0) {
        quit(run, "qemu-img compare finds a difference", "");
    }
}

static void reopen(struct run *run)
{
    struct error err = {0};
    if (block_finish(run->model.block, &err) < 0) {
        quit(run, "closing failed", err.text);
    }
    if (run->has_qemu && run->kind->creation.version == 1) {
        compare_with_qemu(run);
    }
    open_image(run);
}

static void resize(struct run *run)
{
    struct model *model = &run->model;
    uint64_t size = (1 + model_random(model, MAX_SIZE / 4096)) * 4096, before = model->size;
    if (block_resize(model->block, size) < 0) {
        quit(run, "resize failed", "");
    }
    model->bytes = realloc(model->bytes, size);
    if (size > before) {
        memset(model->bytes + before, 0, size - before);
    }
    model->size = size;
    fill(run, before);
}

static int run_seed(struct run *run, unsigned steps)
{
    struct model *model = &run->model;
    model->state = run->seed * 0x9e3779b97f4a7c15u + 88172645463325252u;
    for (int i = 0; i < 8; i++) {
        (void)model_random(model, 2);
    }
    run->kind = &kinds[model_random(model, ARRAY_COUNT(kinds))];
    model->size = (1 + model_random(model, MAX_SIZE / 4096)) * 4096;
    if (run->kind->creation.sector_size != 4096) {
        model->size += model_random(model, 8) * 512;
    }
    model->max_request = 1u << (10 + model_random(model, 10));
    model->parallel = 1 + (unsigned)model_random(model, 16);
    model->bytes = calloc(1, model->size);
    (void)snprintf(run->image, sizeof(run->image), "%s/image.luks", folder);
    (void)snprintf(run->flat, sizeof(run->flat), "%s/flat.raw", folder);
    int rc = make_image(run);
    if (rc != 0) {
        free(model->bytes);
        return rc;
    }
    open_image(run);
    fill(run, 0);
    for (unsigned i = 0; i < steps; i++) {
        if (!model_step(model)) {
            quit(run, model->failure, "");
        }
        if (model_random(model, 30) == 0) {
            resize(run);
        }
        if (model_random(model, 30) == 0) {
            reopen(run);
        }
    }
    reopen(run);
    if (!model_verify(model)) {
        quit(run, model->failure, "in the end");
    }
    block_close(model->block);
    free(model->bytes);
    return 0;
}

int main(int argc, char **argv)
{
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : 20;
    unsigned steps = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 10) : 120;
    struct event_loop *loop;
    (void)snprintf(folder, sizeof(folder), "/tmp/hull-luks-XXXXXX");
    if (mkdtemp(folder) == NULL || event_loop_create(&loop, NULL) < 0) {
        perror(folder);
        return 1;
    }
    bool has_qemu = command("qemu-img --version >/dev/null 2>&1") == 0;
    int rc = 0;
    for (uint64_t seed = first; seed < first + count && rc == 0; seed++) {
        struct run run = {.loop = loop, .seed = seed, .has_qemu = has_qemu};
        rc = run_seed(&run, steps);
    }
    event_loop_destroy(loop);
    char text[128];
    (void)snprintf(text, sizeof(text), "rm -r %s", folder);
    (void)command(text);
    if (rc == 0) {
        printf("%llu disks as they should be%s\n", (unsigned long long)count,
               has_qemu ? "" : "; without qemu-img");
    }
    return rc;
}
