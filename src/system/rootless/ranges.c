/* Who is root of what, and subuid(5), subgid(5). */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/host/file.h"
#include "system/rootless/rootless.h"

bool rootless_is_host_root(void)
{
    char line[64] = "";
    unsigned inside, outside, size;
    AUTO_CLOSE int fd = open("/proc/self/uid_map", O_RDONLY | O_CLOEXEC);
    if (geteuid() != 0) {
        return false;
    }
    if (fd < 0 || read(fd, line, sizeof(line) - 1) <= 0) {
        return true;
    }
    return sscanf(line, "%u %u %u", &inside, &outside, &size) == 3 && inside == 0 && outside == 0 &&
           size == UINT32_MAX;
}

static bool is_user(const char *word, size_t length, const char *user, uid_t uid)
{
    char number[16];
    int digits = snprintf(number, sizeof(number), "%u", uid);
    bool is_name = user != NULL && strlen(user) == length && memcmp(word, user, length) == 0;
    return is_name || ((size_t)digits == length && memcmp(word, number, length) == 0);
}

int rootless_find_range(const char *text, const char *user, uid_t uid, uint32_t least,
                        struct rootless_range *out_range)
{
    for (const char *line = text; *line != '\0';) {
        size_t length = strcspn(line, ":\n");
        unsigned long long first, count;
        bool is_line = line[length] == ':' && is_user(line, length, user, uid) &&
                       sscanf(line + length + 1, "%llu:%llu", &first, &count) == 2;
        if (is_line && count >= least && first > 0 && first <= UINT32_MAX &&
            count <= UINT32_MAX - first) {
            *out_range = (struct rootless_range){(uint32_t)first, (uint32_t)count};
            return 0;
        }
        line += strcspn(line, "\n");
        line += *line == '\n';
    }
    return -ENOENT;
}
