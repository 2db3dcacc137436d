/* Keys of a VM's disks: tried here, so that the VM's process gets what decrypts the data and never sees a passphrase. */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/host/file.h"
#include "cli/boot_files.h"

static int unlock(const struct boot_disk *disk, int fd, struct event_loop *loop,
                  struct block_crypt *crypt, struct error *err)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (copy < 0) {
        return error_set_errno(err, errno, "disk %s", disk->path);
    }
    struct block_file_options options = {
        .is_readonly = true, .is_growable = true, .aio = BLOCK_AIO_THREADS};
    struct block *file;
    int rc = block_open_file(copy, disk->path, &options, loop, &file, err);
    if (rc == 0) {
        rc = block_unlock_image(file, disk->format, cli_key_unlock, (void *)&disk->key, crypt, err);
        block_close(file);
    }
    return rc;
}

int boot_unlock_disk(const struct boot_disk *disk, int fd, int *out_fd, struct error *err)
{
    *out_fd = -1;
    if (disk->key.kind == CLI_KEY_NONE) {
        return 0;
    }
    struct event_loop *loop = NULL;
    AUTO_CLOSE int memory = -1;
    struct block_crypt *crypt = block_crypt_new();
    int rc = crypt != NULL ? 0 : error_set_errno(err, ENOMEM, "disk %s: its key", disk->path);
    if (rc == 0) {
        rc = event_loop_create(&loop, err);
    }
    if (rc == 0) {
        rc = unlock(disk, fd, loop, crypt, err);
    }
    if (rc == 0) {
        memory = memfd_create("key", MFD_CLOEXEC);
        if (memory < 0 || write(memory, crypt, sizeof(*crypt)) != (ssize_t)sizeof(*crypt)) {
            rc = error_set_errno(err, errno, "disk %s: passing its key", disk->path);
        }
    }
    event_loop_destroy(loop);
    block_crypt_free(crypt);
    if (rc == 0) {
        *out_fd = TAKE_FD(memory);
    }
    return rc;
}
