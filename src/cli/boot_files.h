/* Everything that `hull boot` opens before a VM starts: the VM's own process may open nothing. */
#ifndef CLI_BOOT_FILES_H
#define CLI_BOOT_FILES_H

#include <jansson.h>
#include <poll.h>
#include <sys/types.h>

#include "cli/boot_options.h"
#include "cli/storage_process.h"

#define BOOT_MAX_STORAGES 288

/* The hull-storage of a remote disk, and of a remote file below one: it is started anew when it ends before the VM does. */
struct boot_storage {
    struct storage_process process;
    pid_t pid;    /* 0: none */
    int channel;  /* through which the VM gets connections to it, -1: the VM wants none any more */
    int ready_fd; /* of one that is starting again, -1: none is */
    int connection; /* to that one */
    uint64_t started_ns, pause_ns;
    uint64_t next_start_ns; /* 0: it runs, or is given up */
    unsigned crashes;
    bool was_told; /* that it cannot be started */
};

struct boot_serial_files {
    int vm_fd,
        own_fd; /* of a pty the other side, held so that nobody's absence hangs it up; -1: none */
    char pty_path[64];
    bool has_path; /* made here: to be removed at the end */
};

struct boot_files {
    bool is_for_running_vm; /* its processes do not end with us */
    int kernel, initrd, restore, log, vsock_dir;
    int console_log, console_old_log;
    int pid; /* of --pid-file, locked; not for the VM */
    int disk[BOOT_MAX_DISKS];
    int layer[BOOT_MAX_DISKS][BOOT_MAX_LAYERS]; /* what each stands on */
    int data[BOOT_MAX_DISKS];                   /* its data file */
    int crypt[BOOT_MAX_DISKS];                  /* an unlocked key, in memory: struct block_crypt */
    int overlay[BOOT_MAX_DISKS];                /* of snapshot=on: empty, without a name */
    struct boot_storage storage[BOOT_MAX_STORAGES];
    unsigned storage_count;
    int net[BOOT_MAX_NETS];          /* tap, or the VM's end of a socket to a helper */
    pid_t helper[BOOT_MAX_NETS];     /* 0: none */
    int helper_ready[BOOT_MAX_NETS]; /* says "ready", or why not, in one line */
    int share[BOOT_MAX_SHARES];      /* the VM's ends of sockets to hull-share */
    pid_t sharer[BOOT_MAX_SHARES];   /* 0: none */
    int sharer_ready[BOOT_MAX_SHARES];
    int control;                 /* listening, -1: none */
    int control_vm, control_own; /* a connection between hull and the VM */
    int console_vm,
        console_own; /* stdio: a socket pair. Others: the VM's descriptor; the pty's other side */
    struct boot_serial_files serial[BOOT_MAX_SERIALS];
    char pty_path[64];
    bool has_control_path, has_console_path; /* made here: to be removed at the end */
};

void boot_files_init(struct boot_files *files);
/* Opens all and starts the network helpers. On failure boot_files_fini cleans up. */
int must_check boot_files_open(struct boot_files *files, const struct boot_options *options,
                               struct error *err);
/* Waits until each helper serves. */
int must_check boot_files_await_helpers(struct boot_files *files,
                                        const struct boot_options *options, struct error *err);
/* Closes what the VM has got and hull does not use any more. */
void boot_files_hand_over(struct boot_files *files);
/* Closes all, ends the helpers, removes the sockets' paths. */
void boot_files_fini(struct boot_files *files, const struct boot_options *options);

/* A disk image or a file below one: opened, locked, looked at. */
int must_check boot_open_disk(const struct boot_disk *disk, int *out_fd, struct error *err);
/* A remote disk: starts its hull-storage and waits until that serves. 'out_fd': the channel for the VM, with the connection. */
int must_check boot_open_remote(const struct boot_disk *disk, struct boot_files *files, int *out_fd,
                                struct error *err);
/* The same for who is not hull boot. What 'process' points to lives as long as 'files'. */
int must_check boot_storage_open(const struct storage_process *process, struct boot_files *files,
                                 int *out_fd, struct error *err);
/* While the VM runs. What is to be polled: BOOT_MAX_STORAGES at most; returns their number. */
unsigned boot_storage_poll(const struct boot_files *files, struct pollfd *out_fds);
/* Takes what those of boot_storage_poll are ready for, and starts those whose time has come. */
void boot_storage_serve(struct boot_files *files, const struct pollfd *fds, unsigned count);
/* One of the processes may have ended. */
void boot_storage_reap(struct boot_files *files);
/* Of clock_monotonic_ns: when there is something to start; 0: nothing. */
uint64_t boot_storage_deadline(const struct boot_files *files);
/* The helpers end when the VM has gone; what does not is ended. */
void boot_end_storage(struct boot_files *files);
/* The one line of a helper, without its end; empty if it ended without a word. -ETIMEDOUT: it does not start. */
int must_check boot_read_ready(int fd, char *out_line, size_t size);
/* A descriptor with what unlocks the image in 'fd' (a struct block_crypt); -1: it is not encrypted. boot_crypt.c. */
int must_check boot_unlock_disk(const struct boot_disk *disk, int fd, int *out_fd,
                                struct error *err);
/* --pid-file, locked until its descriptor is closed; -EBUSY: a VM has it. --status-file. boot_marks.c. */
int must_check boot_open_pid_file(const char *path, int *out_fd, struct error *err);
int must_check boot_write_status(const char *path, int status, struct error *err);
/* The network behind one card of the VM 'name': net_files.c. */
int must_check boot_open_net(const struct boot_net *net, const char *name, int *out_fd,
                             pid_t *out_helper, int *out_ready_fd, struct error *err);

/* A raw pseudo terminal: both sides, and the name of the user's. boot_serial.c. */
int must_check boot_open_pty(int *out_vm_fd, int *out_own_fd, char *out_path, size_t size,
                             struct error *err);
/* What a serial port leads to. Closing leaves the VM's descriptor. */
int must_check boot_open_serial(const struct boot_serial *serial, struct boot_serial_files *files,
                                struct error *err);
void boot_close_serial(const struct boot_serial *serial, struct boot_serial_files *files);
/* Starts hull-share for a folder, and waits until it serves: boot_share.c. */
int must_check boot_open_share(const struct boot_share *share, bool is_verbose, int *out_fd,
                               pid_t *out_helper, int *out_ready_fd, struct error *err);
int must_check boot_await_share(const struct boot_share *share, int ready_fd, struct error *err);

/* The configuration document for hull-vmm. Owned by the caller; NULL: no memory. */
char *boot_config_make(const struct boot_options *options, const struct boot_files *files);

/* Members of its "disks" and "nets", owned by the caller. 'index': whose descriptors in 'files', and which card of the VM. */
json_t *boot_config_disk(const struct boot_disk *disk, const struct boot_files *files,
                         unsigned index);
json_t *boot_config_net(const struct boot_net *net, int fd);
/* A disk and all that it stands on, as number 'index' in 'files'. */
int must_check boot_open_chain(const struct boot_disk *disk, struct boot_files *files,
                               unsigned index, struct error *err);

#endif
