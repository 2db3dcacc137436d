/* What `hull boot` leaves for those who look after it: a locked file as long as it runs, its exit status when it has ended. */
#include <stdio.h>

#include "base/host/file.h"
#include "base/host/pid_file.h"
#include "cli/boot_files.h"

int boot_open_pid_file(const char *path, int *out_fd, struct error *err)
{
    return pid_file_open(path, "the VM", out_fd, err);
}

int boot_write_status(const char *path, int status, struct error *err)
{
    char text[16];
    (void)snprintf(text, sizeof(text), "%d\n", status);
    return file_replace(path, text, 0644, false, err);
}
