/* A VM's disks: opened as the configuration says, with the filters that it asks for on top. */
#include <string.h>
#include <unistd.h>

#include "block/crypt.h"
#include "block/image.h"
#include "block/remote.h"
#include "vmm/vmm.h"

/* The bytes that hull-storage serves; it does what there is to do about servers that go and come, and hull about itself. */
static int open_remote(struct vmm *vmm, const struct config_disk *disk, int channel,
                       const char *name, bool is_readonly, bool is_under_format,
                       struct block **out_block, struct error *err)
{
    struct block_remote_options options = {.is_readonly = is_readonly,
                                           .is_for_format = is_under_format,
                                           .reconnect_ns = disk->reconnect_ns};
    int rc = block_open_nbd_channel(channel, name, &options, vmm->loop, out_block, err);
    return rc == 0 && is_under_format ? block_remote_for_format(out_block, err) : rc;
}

/* A disk, or a layer of one. What the options hold is handed over, also on failure. */
static int open_image(struct vmm *vmm, const struct config_disk *disk, int fd, bool is_remote,
                      const char *name, const struct block_options *options,
                      struct block **out_block, struct error *err)
{
    if (!is_remote) {
        return block_open(fd, name, options, vmm->loop, out_block, err);
    }
    struct block *file;
    int rc = open_remote(vmm, disk, fd, name, options->is_readonly,
                         strcmp(options->format, "raw") != 0, &file, err);
    if (rc < 0) {
        block_close(options->backing);
        block_close(options->data_file);
        return rc;
    }
    return block_open_format(file, options, out_block, err);
}

/* A descriptor that whoever opens it owns from now on. */
static int take_fd(int *fd)
{
    int taken = *fd;
    *fd = -1;
    return taken;
}

/* What an image stands on, from the bottom up: nothing else than these descriptors is there to be opened. */
static int open_layers(struct vmm *vmm, struct config_disk *disk, struct block_options *options,
                       struct error *err)
{
    for (size_t i = disk->layer_count; i > 0; i--) {
        struct config_layer *layer = &disk->layer[i - 1];
        struct block_options below = {.format = layer->format,
                                      .is_readonly = true,
                                      .is_direct = disk->is_direct,
                                      .aio = disk->aio,
                                      .backing = options->backing};
        options->backing = NULL; /* handed over, also on failure */
        int rc = open_image(vmm, disk, take_fd(&layer->fd), layer->is_remote, layer->name, &below,
                            &options->backing, err);
        if (rc < 0) {
            return rc;
        }
    }
    if (disk->data.fd < 0) {
        return 0;
    }
    if (disk->data.is_remote) {
        return open_remote(vmm, disk, take_fd(&disk->data.fd), disk->data.name,
                           options->is_readonly, true, &options->data_file, err);
    }
    struct block_file_options file = {.is_readonly = options->is_readonly,
                                      .is_growable = true,
                                      .is_direct = disk->is_direct,
                                      .is_unsafe = disk->is_unsafe,
                                      .aio = disk->aio};
    return block_open_file(take_fd(&disk->data.fd), disk->data.name, &file, vmm->loop,
                           &options->data_file, err);
}

/* What hull has unlocked; the copy that it sent is wiped. */
static int take_key(void *ctx, const struct block_crypt_header *header,
                    struct block_crypt *out_crypt, struct error *err)
{
    static const struct block_crypt zeros;
    const struct config_disk *disk = ctx;
    ssize_t size = pread(disk->crypt_fd, out_crypt, sizeof(*out_crypt), 0);
    if (size != (ssize_t)sizeof(*out_crypt)) {
        return error_set(err, EINVAL, "disk %s: its key is not whole", disk->name);
    }
    (void)!pwrite(disk->crypt_fd, &zeros, sizeof(zeros), 0); /* memory of ours */
    return 0;
}

/* A new image over '*block' that takes all writes and ends with the VM, so that nothing of it needs to be durable. */
static int add_overlay(struct vmm *vmm, struct config_disk *disk, struct block **block,
                       struct error *err)
{
    struct block_file_options options = {
        .is_growable = true, .is_direct = disk->is_direct, .is_unsafe = true, .aio = disk->aio};
    struct block_info info;
    block_get_info(*block, &info);
    struct block_create_options create = {.format = "qcow2",
                                          .size_bytes = info.size_bytes,
                                          .backing_name = "base",
                                          .backing_format = "raw"};
    struct block_options overlay = {.format = "qcow2", .backing = *block};
    struct block *file;
    int rc =
        block_open_file(take_fd(&disk->overlay_fd), disk->name, &options, vmm->loop, &file, err);
    if (rc < 0) {
        return rc;
    }
    rc = block_create(file, &create, err);
    if (rc < 0) {
        block_close(file);
        return rc;
    }
    *block = NULL; /* handed over, also on failure */
    return block_open_format(file, &overlay, block, err);
}

/* Disks that name the same group share its limits, which one of them gives; the others may repeat them. */
static int find_group(struct vmm *vmm, size_t index, struct error *err)
{
    static const struct block_throttle_limits none;
    const struct config_disk *disk = &vmm->config.disk[index];
    struct block_throttle_limits limits = disk->throttle;
    struct block_throttle_group *shared = NULL;
    for (size_t i = 0; disk->throttle_group != NULL && i < vmm->config.disk_count; i++) {
        const struct config_disk *other = &vmm->config.disk[i];
        if (i == index || !other->place.is_there || other->throttle_group == NULL ||
            strcmp(other->throttle_group, disk->throttle_group) != 0) {
            continue;
        }
        bool has_limits = memcmp(&other->throttle, &none, sizeof(none)) != 0;
        if (has_limits && memcmp(&limits, &none, sizeof(none)) != 0 &&
            memcmp(&limits, &other->throttle, sizeof(limits)) != 0) {
            return error_set(err, EINVAL, "disk %s: other limits than disk %s of its group %s",
                             disk->name, other->name, disk->throttle_group);
        }
        limits = has_limits ? other->throttle : limits;
        shared = vmm->policy[i].throttle != NULL ? vmm->policy[i].throttle : shared;
    }
    vmm->policy[index].throttle = shared;
    if (shared != NULL) {
        return 0;
    }
    int rc =
        block_throttle_create(&limits, vmm->loop, NULL, NULL, &vmm->policy[index].throttle, err);
    vmm->policy[index].owns_throttle = rc == 0;
    return rc;
}

static int add_filters(struct vmm *vmm, size_t index, struct block **block, struct error *err)
{
    const struct config_disk *disk = &vmm->config.disk[index];
    struct block *below = *block;
    int rc = find_group(vmm, index, err);
    if (rc < 0) {
        return rc;
    }
    *block = NULL; /* handed over, also on failure */
    if (disk->has_copy_on_read) {
        rc = block_filter_copy_on_read(below, &below, err);
    }
    if (rc == 0 && (disk->detect_zeroes != BLOCK_DETECT_ZEROES_OFF || disk->ignores_discard)) {
        rc = block_filter_zeroes(below, disk->detect_zeroes, disk->ignores_discard, &below, err);
    }
    /* Always there: limits may come while the VM runs. */
    return rc < 0 ? rc : block_filter_throttle(below, vmm->policy[index].throttle, block, err);
}

static int open_disk(struct vmm *vmm, size_t index, struct block **out_block, struct error *err)
{
    struct config_disk *disk = &vmm->config.disk[index];
    bool has_overlay = disk->overlay_fd >= 0;
    struct block_options options = {.format = disk->format,
                                    .is_readonly = disk->is_readonly || has_overlay,
                                    .is_direct = disk->is_direct,
                                    .is_unsafe = disk->is_unsafe,
                                    .aio = disk->aio};
    if (disk->crypt_fd >= 0) {
        options.unlock = take_key;
        options.unlock_ctx = disk;
    }
    int rc = open_layers(vmm, disk, &options, err);
    if (rc < 0) {
        block_close(options.backing);
        return rc;
    }
    rc = open_image(vmm, disk, take_fd(&disk->fd), disk->is_remote, disk->name, &options, out_block,
                    err);
    if (rc == 0 && has_overlay) {
        rc = add_overlay(vmm, disk, out_block, err);
    }
    if (rc == 0) {
        struct block *root = *out_block;
        *out_block = NULL; /* handed over, also on failure */
        rc = block_front_create(root, &vmm->front[index], err);
    }
    if (rc < 0) {
        return rc;
    }
    *out_block = block_front_block(vmm->front[index]);
    return add_filters(vmm, index, out_block, err);
}

int vmm_open_disk(struct vmm *vmm, size_t index, struct machine_disk *out_disk, struct error *err)
{
    const struct config_disk *disk = &vmm->config.disk[index];
    *out_disk = (struct machine_disk){.on_read_error = disk->on_read_error,
                                      .on_write_error = disk->on_write_error,
                                      .is_write_through = disk->is_write_through,
                                      .slot = disk->place.slot};
    memcpy(out_disk->serial, disk->serial, strlen(disk->serial) + 1);
    int rc = open_disk(vmm, index, &out_disk->block, err);
    if (rc < 0) {
        block_close(out_disk->block);
        out_disk->block = NULL;
        return rc;
    }
    vmm->disk[index] = out_disk->block;
    return 0;
}

int vmm_open_disks(struct vmm *vmm, struct machine_config *machine, struct error *err)
{
    for (size_t i = 0; i < vmm->config.disk_count; i++) {
        if (vmm->config.disk[i].place.is_there) {
            int rc = vmm_open_disk(vmm, i, &machine->disk[i], err);
            if (rc < 0) {
                return rc;
            }
        }
        machine->disk_count = i + 1;
    }
    return 0;
}

/* The limits go with the last disk that has them. */
static void put_limits(struct vmm *vmm, size_t index)
{
    struct vmm_disk_policy *policy = &vmm->policy[index];
    for (size_t i = 0; policy->owns_throttle && i < vmm->config.disk_count; i++) {
        if (i != index && vmm->policy[i].throttle == policy->throttle) {
            vmm->policy[i].owns_throttle = true;
            policy->owns_throttle = false;
        }
    }
    if (policy->owns_throttle) {
        block_throttle_put(policy->throttle);
    }
    *policy = (struct vmm_disk_policy){0};
}

void vmm_forget_disk(struct vmm *vmm, size_t index)
{
    put_limits(vmm, index);
    vmm->disk[index] = NULL;
    vmm->front[index] = NULL;
    config_remove_disk(&vmm->config, index);
}

void vmm_close_disks(struct vmm *vmm)
{
    for (size_t i = 0; i < vmm->config.disk_count; i++) {
        put_limits(vmm, i);
    }
}
