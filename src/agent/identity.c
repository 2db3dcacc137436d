/* A clone of a guest becomes somebody else. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/cards.h"
#include "agent/hosts.h"
#include "agent/program.h"
#include "agent/system.h"
#include "base/host/file.h"

#define MAX_HOSTS (1u << 20)

static int set_hosts(const char *old, const char *new, struct error *err)
{
    AUTO_CLOSE int fd = open("/etc/hosts", O_RDONLY | O_CLOEXEC);
    AUTO_FREE void *text = NULL;
    size_t size = 0;
    int rc = fd < 0 ? 0 : file_read_whole(fd, MAX_HOSTS, "/etc/hosts", &text, &size, err);
    if (rc < 0) {
        return rc;
    }
    AUTO_FREE char *changed = hosts_rename(text != NULL ? text : "", old, new);
    if (changed == NULL) {
        return error_set_errno(err, ENOMEM, "/etc/hosts");
    }
    return file_replace("/etc/hosts", changed, 0644, false, err);
}

static int set_hostname(const char *name, struct error *err)
{
    char old[256] = "", line[128];
    (void)gethostname(old, sizeof(old) - 1);
    (void)snprintf(line, sizeof(line), "%s\n", name);
    if (sethostname(name, strlen(name)) < 0) {
        return error_set_errno(err, errno, "setting the host name");
    }
    int rc = file_replace("/etc/hostname", line, 0644, false, err);
    return rc < 0 ? rc : set_hosts(old, name, err);
}

static int set_machine_id(const char *id, struct error *err)
{
    struct stat status;
    char line[40];
    (void)snprintf(line, sizeof(line), "%s\n", id);
    int rc = file_replace("/etc/machine-id", line, 0444, false, err);
    /* Where it is no link to the first. */
    if (rc == 0 && lstat("/var/lib/dbus/machine-id", &status) == 0 && S_ISREG(status.st_mode)) {
        rc = file_replace("/var/lib/dbus/machine-id", line, 0444, false, err);
    }
    return rc;
}

static void remove_host_keys(void)
{
    DIR *folder = opendir("/etc/ssh");
    struct dirent *entry;
    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        if (strncmp(entry->d_name, "ssh_host_", 9) == 0 && strstr(entry->d_name, "_key") != NULL) {
            (void)unlinkat(dirfd(folder), entry->d_name, 0);
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
}

/* It has the old keys in its memory. */
static void reload_ssh(void)
{
    FILE *file = fopen("/run/sshd.pid", "re");
    int pid;
    if (file != NULL && fscanf(file, "%d", &pid) == 1 && pid > 1) {
        (void)kill(pid, SIGHUP);
    }
    if (file != NULL) {
        (void)fclose(file);
    }
}

static int make_host_keys(struct error *err)
{
    static const char *const command[] = {"/usr/bin/ssh-keygen", "-A", NULL};
    if (access(command[0], X_OK) < 0) {
        return 0; /* no ssh, no keys */
    }
    remove_host_keys();
    int status = program_run(command, err);
    if (status > 0) {
        return error_set(err, EIO, "ssh-keygen -A ended with status %d", status);
    }
    reload_ssh();
    return status;
}

static int change_cards(const struct request *request, struct error *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < request->card_count; i++) {
        rc = card_change(&request->cards[i], err);
    }
    return rc;
}

int system_set_identity(const struct request *request, struct error *err)
{
    int rc = request->hostname == NULL ? 0 : set_hostname(request->hostname, err);
    if (rc == 0 && request->machine_id != NULL) {
        rc = set_machine_id(request->machine_id, err);
    }
    /* Whatever happens to its keys, it stops using another's addresses. */
    rc = rc < 0 ? rc : change_cards(request, err);
    return rc == 0 && request->has_host_keys ? make_host_keys(err) : rc;
}

void system_use_identity(const struct request *request)
{
    for (size_t i = 0; i < request->card_count; i++) {
        card_configure_again(&request->cards[i]);
    }
}
