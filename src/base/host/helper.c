#include "base/host/helper.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/core/bits.h"

int helper_parse_fd(const char *name, const char *text, int *out_fd, struct error *err)
{
    char *end;
    errno = 0;
    long fd = strtol(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || fd < 3 || fd > INT_MAX) {
        return error_set(err, EINVAL,
                         "--%s %.60s: expected the number of an open descriptor above 2", name,
                         text);
    }
    *out_fd = (int)fd;
    return 0;
}

int helper_check_socket(int fd, struct error *err)
{
    int type = 0;
    socklen_t size = sizeof(type);
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_STREAM) {
        return error_set(err, EINVAL, "--fd %d: expected a connected stream socket", fd);
    }
    return 0;
}

/* In one piece. */
static void say(int fd, const char *before, const char *text)
{
    char line[ERROR_TEXT_SIZE + 16];
    int size = snprintf(line, sizeof(line), "%s%s\n", before, text);
    (void)!write(fd, line, MIN((size_t)size, sizeof(line) - 1)); /* nobody may listen */
}

void helper_say_ready(int ready_fd)
{
    if (ready_fd >= 0) {
        say(ready_fd, "", "ready");
        close(ready_fd);
    }
}

int helper_fail(int ready_fd, const struct error *err)
{
    say(ready_fd >= 0 ? ready_fd : STDERR_FILENO, "hull: ", err->text);
    return 1;
}
