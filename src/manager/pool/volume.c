/* Volumes by the names that devices give them. */
#include <errno.h>
#include <stdio.h>

#include "manager/pool/pool.h"
#include "manager/text.h"
#include "system/store.h"

#define VOLUME_DISK_SIZE 80 /* "volumes/NAME" */

int pool_volume_folder(const json_t *pool, const char *name, char out_path[PATH_MAX],
                       struct error *err)
{
    const struct pool_driver *driver;
    struct pool_disk disk;
    char own[VOLUME_DISK_SIZE];
    int rc = store_check_name("volume", name, err);
    (void)snprintf(own, sizeof(own), "volumes/%.64s", name);
    rc = rc < 0 ? rc : pool_driver_find(pool, &driver, err);
    rc = rc < 0 ? rc : driver->tree_find(pool, own, out_path, err);
    return rc == -ENOENT && driver->disk_find(pool, own, &disk, NULL) == 0
               ? error_set(err, EINVAL,
                           "volume %s/%s: is a disk (type block), and a share is of a folder: take "
                           "a volume of type tree, or a device of type disk",
                           text_or_empty(pool, "name"), name)
               : rc;
}
