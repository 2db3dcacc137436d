/* Everything that `hull boot` opens before a VM starts: the VM's own process may open nothing. */
#ifndef CLI_BOOT_FILES_H
#define CLI_BOOT_FILES_H

#include <sys/types.h>

#include "cli/boot_options.h"

struct boot_files {
    int kernel, initrd, restore, log, vsock_dir;
    int disk[BOOT_MAX_DISKS];
    int layer[BOOT_MAX_DISKS][BOOT_MAX_LAYERS]; /* what each stands on */
    int data[BOOT_MAX_DISKS];                   /* its data file */
    int net[BOOT_MAX_NETS];                     /* tap, or the VM's end of a socket to a helper */
    pid_t helper[BOOT_MAX_NETS];                /* 0: none */
    int helper_ready[BOOT_MAX_NETS];            /* says "ready", or why not, in one line */
    int control;                                /* listening, -1: none */
    int control_vm, control_own;                /* a connection between hull and the VM */
    int console_vm,
        console_own; /* stdio: a socket pair. Others: the VM's descriptor; the pty's other side */
    char pty_path[64];
    bool has_control_path, has_console_path; /* made here: to be removed at the end */
};

void boot_files_init(struct boot_files *files);
/* Opens all and starts the network helpers. On failure boot_files_fini cleans up. */
int must_check boot_files_open(struct boot_files *files, const struct boot_options *options,
                               struct error *err);
/* Waits until each helper serves. */
int must_check boot_files_await_helpers(struct boot_files *files, struct error *err);
/* Closes what the VM has got and hull does not use any more. */
void boot_files_hand_over(struct boot_files *files);
/* Closes all, ends the helpers, removes the sockets' paths. */
void boot_files_fini(struct boot_files *files, const struct boot_options *options);

/* A disk image or a file below one: opened, locked, looked at. */
int must_check boot_open_disk(const struct boot_disk *disk, int *out_fd, struct error *err);
/* The network behind one card: net_files.c. */
int must_check boot_open_net(const struct boot_net *net, int *out_fd, pid_t *out_helper,
                             int *out_ready_fd, struct error *err);

/* The configuration document for hull-vmm. Owned by the caller; NULL: no memory. */
char *boot_config_make(const struct boot_options *options, const struct boot_files *files);

#endif
