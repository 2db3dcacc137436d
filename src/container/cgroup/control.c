/* Control files: short texts that the kernel makes and takes. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/host/file.h"
#include "container/cgroup/tree.h"

#define CONTROL_FILE_MAX ((size_t)16 << 20)

int control_read(int group_fd, const char *file, char *out_text, size_t size)
{
    AUTO_CLOSE int fd = openat(group_fd, file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    ssize_t got = read(fd, out_text, size - 1);
    if (got < 0) {
        return -errno;
    }
    if (got > 0 && out_text[got - 1] == '\n') {
        got--;
    }
    out_text[got] = '\0';
    return (int)got;
}

static int parse_u64(const char *text, uint64_t *out_value)
{
    if (strncmp(text, "max", 3) == 0) {
        *out_value = UINT64_MAX;
        return 0;
    }
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (end == text || errno != 0 || (*end != '\0' && *end != '\n' && *end != ' ')) {
        return -EINVAL;
    }
    *out_value = value;
    return 0;
}

int control_read_u64(int group_fd, const char *file, uint64_t *out_value)
{
    char text[64];
    int rc = control_read(group_fd, file, text, sizeof(text));
    return rc < 0 ? rc : parse_u64(text, out_value);
}

int control_read_key(int group_fd, const char *file, const char *key, uint64_t *out_value)
{
    AUTO_FREE char *text = control_read_all(group_fd, file);
    if (text == NULL) {
        return -errno;
    }
    size_t size = strlen(key);
    for (const char *line = text; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, size) == 0 && line[size] == ' ') {
            return parse_u64(line + size + 1, out_value);
        }
    }
    return -ENOENT;
}

int control_write(int group_fd, const char *file, const char *text)
{
    AUTO_CLOSE int fd = openat(group_fd, file, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    return write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

int control_printf(int group_fd, const char *file, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (length < 0 || (size_t)length >= sizeof(text)) {
        return -E2BIG;
    }
    return control_write(group_fd, file, text);
}

char *control_read_all(int group_fd, const char *file)
{
    AUTO_CLOSE int fd = openat(group_fd, file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return NULL;
    }
    size_t capacity = 4096, size = 0;
    AUTO_FREE char *text = malloc(capacity);
    while (text != NULL) {
        ssize_t got = read(fd, text + size, capacity - 1 - size);
        if (got < 0) {
            return NULL;
        }
        if (got == 0) {
            text[size] = '\0';
            return TAKE_PTR(text);
        }
        size += (size_t)got;
        if (capacity - 1 - size < 2048) {
            if (capacity >= CONTROL_FILE_MAX) {
                errno = E2BIG;
                return NULL;
            }
            capacity *= 2;
            char *more = realloc(text, capacity);
            if (more == NULL) {
                return NULL;
            }
            text = more;
        }
    }
    return NULL;
}
