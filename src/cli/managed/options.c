#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/core/size.h"
#include "cli/managed/managed.h"

int managed_parse_quiet(void *into, const char *value, struct error *err)
{
    ((struct managed_options *)into)->is_quiet = true;
    return 0;
}

int managed_parse_force(void *into, const char *value, struct error *err)
{
    ((struct managed_options *)into)->is_forced = true;
    return 0;
}

int managed_parse_all(void *into, const char *value, struct error *err)
{
    ((struct managed_options *)into)->is_all = true;
    return 0;
}

int managed_parse_json(void *into, const char *value, struct error *err)
{
    ((struct managed_options *)into)->output = OUTPUT_JSON;
    return 0;
}

int managed_parse_output(void *into, const char *value, struct error *err)
{
    return output_parse_format(value, &((struct managed_options *)into)->output, err);
}

int managed_parse_timeout(void *into, const char *value, struct error *err)
{
    uint64_t seconds;
    int rc = number_parse(value, 1, 86400, &seconds, err);
    if (rc == 0) {
        ((struct managed_options *)into)->timeout_s = (int)seconds;
    }
    return rc;
}

/* hulld is elsewhere: absolute, whether it is there or not. */
int managed_absolute(const char *path, char out_path[PATH_MAX], struct error *err)
{
    char here[PATH_MAX] = "";
    if (path[0] != '/' && getcwd(here, sizeof(here)) == NULL) {
        return error_set_errno(err, errno, "the current folder");
    }
    int length = snprintf(out_path, PATH_MAX, "%s%s%s", here, here[0] != '\0' ? "/" : "", path);
    return length >= 0 && length < PATH_MAX
               ? 0
               : error_set(err, ENAMETOOLONG, "%.100s: too long", path);
}
