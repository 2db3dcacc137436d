#include "base/host/confine.h"

#include <errno.h>
#include <unistd.h>

int confine_close_others(int fd, int other_fd, struct error *err)
{
    unsigned low = (unsigned)(other_fd < 0 ? fd : MIN(fd, other_fd));
    unsigned high = (unsigned)(other_fd < 0 ? fd : MAX(fd, other_fd));
    if ((low > 3 && close_range(3, low - 1, 0) < 0) ||
        (high > low + 1 && close_range(low + 1, high - 1, 0) < 0) ||
        close_range(high + 1, ~0u, 0) < 0) {
        return error_set_errno(err, errno, "closing descriptors");
    }
    return 0;
}

int confine_limit(int resource, rlim_t most)
{
    struct rlimit limit;
    if (getrlimit((__rlimit_resource_t)resource, &limit) < 0) {
        return 0; /* the kernel has no such limit */
    }
    limit.rlim_max = MIN(most, limit.rlim_max);
    limit.rlim_cur = limit.rlim_max;
    return setrlimit((__rlimit_resource_t)resource, &limit) < 0 ? -errno : 0;
}
