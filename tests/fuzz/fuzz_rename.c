/* Rubbish as an archive in which an extended attribute is to have another name. What is left of it has the one and not the other. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/core/cleanup.h"
#include "base/core/invariant.h"
#include "base/host/file.h"
#include "manager/transfer/rename.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/dev/shm/fuzz_rename.%d", (int)getpid());
    {
        AUTO_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (fd < 0 || file_write_all(fd, data, size, path, NULL) < 0) {
            abort();
        }
    }
    int before = rename_find(path, "user.overlay.opaque", NULL);
    if (rename_attribute(path, "user.overlay.opaque", "trusted.overlay.opaque", NULL) == 0) {
        invariant(before >= 0);
        invariant(rename_find(path, "user.overlay.opaque", NULL) == 0);
        invariant(before == 0 || rename_find(path, "trusted.overlay.opaque", NULL) == 1);
    }
    (void)unlink(path);
    return 0;
}
