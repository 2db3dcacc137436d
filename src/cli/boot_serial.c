/* Serial ports behind the console's: --serial, and what each leads to. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "base/host/file.h"
#include "base/host/unix_socket.h"
#include "cli/boot_files.h"

int boot_parse_serial(void *into, const char *value, struct error *err)
{
    static const struct {
        const char *word;
        enum boot_console kind;
        bool has_path, may_have_path;
    } kinds[] = {
        {"pty", BOOT_CONSOLE_PTY, false, true},
        {"unix", BOOT_CONSOLE_UNIX, true, true},
        {"file", BOOT_CONSOLE_FILE, true, true},
    };
    struct boot_options *options = into;
    size_t length = strcspn(value, ":");
    if (options->serial_count == BOOT_MAX_SERIALS) {
        return error_set(err, E2BIG, "too many serial ports: at most %d", BOOT_MAX_SERIALS);
    }
    for (size_t i = 0; i < ARRAY_COUNT(kinds); i++) {
        bool is_this = strlen(kinds[i].word) == length && memcmp(value, kinds[i].word, length) == 0;
        bool has_path = value[length] == ':' && value[length + 1] != '\0';
        if (is_this &&
            (has_path ? kinds[i].may_have_path : !kinds[i].has_path && value[length] == '\0')) {
            options->serial[options->serial_count++] = (struct boot_serial){
                .kind = kinds[i].kind, .path = has_path ? value + length + 1 : NULL};
            return 0;
        }
    }
    return error_set(err, EINVAL, "'%s' is no serial port: pty, pty:LINK, unix:PATH or file:PATH",
                     value);
}

int boot_open_pty(int *out_vm_fd, int *out_own_fd, char *out_path, size_t size, struct error *err)
{
    AUTO_CLOSE int vm_fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (vm_fd < 0 || grantpt(vm_fd) < 0 || unlockpt(vm_fd) < 0 ||
        ptsname_r(vm_fd, out_path, size) != 0) {
        return error_set(err, errno, "console pty: %s: a host with /dev/pts", strerror(errno));
    }
    AUTO_CLOSE int own_fd = open(out_path, O_RDWR | O_NOCTTY | O_CLOEXEC);
    struct termios raw;
    if (own_fd < 0 || tcgetattr(own_fd, &raw) < 0) {
        return error_set_errno(err, errno, "console pty %s", out_path);
    }
    cfmakeraw(&raw);
    (void)tcsetattr(own_fd, TCSANOW, &raw); /* cooked is ugly, no failure */
    *out_vm_fd = TAKE_FD(vm_fd);
    *out_own_fd = TAKE_FD(own_fd);
    return 0;
}

/* The link replaces one of a VM that ended badly, and nothing else. */
static int make_link(const char *target, const char *path, struct error *err)
{
    char old[1];
    if (readlink(path, old, sizeof(old)) >= 0) {
        (void)unlink(path); /* if it cannot be, the next line says so */
    }
    return symlink(target, path) < 0 ? error_set_errno(err, errno, "serial port: link %s", path)
                                     : 0;
}

int boot_open_serial(const struct boot_serial *serial, struct boot_serial_files *files,
                     struct error *err)
{
    int rc = 0;
    switch (serial->kind) {
    case BOOT_CONSOLE_PTY:
        rc = boot_open_pty(&files->vm_fd, &files->own_fd, files->pty_path, sizeof(files->pty_path),
                           err);
        if (rc == 0 && serial->path != NULL) {
            rc = make_link(files->pty_path, serial->path, err);
            files->has_path = rc == 0;
        }
        return rc;
    case BOOT_CONSOLE_UNIX:
        rc = unix_socket_listen(serial->path, "serial port's socket", &files->vm_fd, err);
        files->has_path = rc == 0;
        return rc;
    default:
        files->vm_fd =
            open(serial->path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | O_TRUNC, 0644);
        return files->vm_fd >= 0
                   ? 0
                   : error_set(err, errno, "serial port's file %s: %s: a file that can be written",
                               serial->path, strerror(errno));
    }
}

void boot_close_serial(const struct boot_serial *serial, struct boot_serial_files *files)
{
    if (files->own_fd >= 0) {
        close(files->own_fd);
        files->own_fd = -1;
    }
    if (files->has_path) {
        (void)unlink(serial->path);
        files->has_path = false;
    }
}
