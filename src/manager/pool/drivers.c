/* The drivers that there are. */
#include <errno.h>
#include <string.h>

#include "manager/pool/dir.h"

int pool_driver_find(const json_t *pool, const struct pool_driver **out_driver, struct error *err)
{
    static const struct pool_driver *const drivers[] = {&dir_driver, &btrfs_driver};
    const char *name = json_string_value(json_object_get(pool, "driver"));
    for (unsigned i = 0; name != NULL && i < ARRAY_COUNT(drivers); i++) {
        if (strcmp(drivers[i]->name, name) == 0) {
            *out_driver = drivers[i];
            return 0;
        }
    }
    return error_set(err, EINVAL, "driver '%.40s' of a pool: dir or btrfs",
                     name != NULL ? name : "");
}

json_t *pool_default(const struct place *place)
{
    char path[PATH_MAX];
    place_state_path(place, "pools", "default", NULL, path);
    return json_pack("{s:s,s:s,s:s,s:{s:s}}", "name", "default", "driver", "dir", "description",
                     "The host's own disk", "config", "path", path);
}
