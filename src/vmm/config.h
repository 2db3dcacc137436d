/* The document that starts a VM: JSON, version 1, written by cli/boot_config.c. Untrusted: every value is checked. */
#ifndef VMM_CONFIG_H
#define VMM_CONFIG_H

#include <jansson.h>

#include "block/filter.h"
#include "machine/machine.h"

#define CONFIG_MAX_SIZE  (1u << 20)
#define CONFIG_NAME_SIZE 65
#define CONFIG_VERSION   1
#define CONFIG_MAX_VCPUS 64

enum config_net_kind {
    CONFIG_NET_STREAM,
    CONFIG_NET_TAP,
    CONFIG_NET_NONE,
};

enum config_console_kind {
    CONFIG_CONSOLE_NONE,
    CONFIG_CONSOLE_STREAM, /* a connected socket with a reader that hull vouches for */
    CONFIG_CONSOLE_PTY,
    CONFIG_CONSOLE_LISTEN, /* a listening socket; one client at a time */
    CONFIG_CONSOLE_FILE,   /* output only */
};

#define CONFIG_MAX_LAYERS 64

/* A file below a disk's image. */
struct config_layer {
    int fd;
    bool is_remote; /* the descriptor is a channel that brings connections to hull-storage */
    const char *name, *format;
};

/* What devices that may come and go have in common. */
struct config_place {
    bool is_there;
    const char *id; /* the user's name for it, may be empty */
    unsigned slot;  /* on the PCI bus, 0: any */
    json_t *own;    /* owns the strings of one that came later; NULL: config.root does */
};

struct config_disk {
    struct config_place place;
    int fd; /* those that are opened are -1 from then on */
    bool is_remote;
    const char *name, *format, *serial;
    struct config_layer layer[CONFIG_MAX_LAYERS]; /* backing files, the upper ones first */
    size_t layer_count;
    struct config_layer data; /* fd -1: none */
    enum block_aio aio;
    uint64_t reconnect_ns; /* how long requests wait for a remote part of it */
    bool is_readonly;
    bool is_direct;                   /* past the host's page cache */
    bool is_write_through, is_unsafe; /* see docs/disks.md, "What survives what" */
    int crypt_fd;                     /* holds a struct block_crypt, -1: none */
    int overlay_fd;                   /* an empty file that takes all writes, -1: none */
    bool has_overlay;
    enum virtio_blk_on_error on_read_error;  /* default: REPORT */
    enum virtio_blk_on_error on_write_error; /* default: ENOSPC */
    enum block_detect_zeroes detect_zeroes;
    bool ignores_discard, has_copy_on_read;
    struct block_throttle_limits throttle;
    const char *throttle_group; /* NULL: its own */
};

struct config_net {
    struct config_place place;
    enum config_net_kind kind;
    int fd;
    const char *name;
    uint8_t mac[6];
};

struct config_serial {
    enum config_console_kind kind;
    int fd;
};

struct config {
    json_t *root; /* owns every string below */
    char name[CONFIG_NAME_SIZE];
    const char *board, *engine, *cpu_model, *command_line;
    uint32_t vcpu_count, vcpu_max;           /* count 0: as the saved state has them */
    uint64_t memory_bytes, memory_max_bytes; /* 0 likewise */
    bool huge_pages, debug_exit, no_reboot, is_paused, is_verbose;
    bool has_balloon, has_rng;
    uint32_t vsock_cid; /* 0: none */
    int vsock_dir_fd;

    int kernel_fd, initrd_fd, restore_fd; /* -1: none */
    const char *kernel_name, *initrd_name, *restore_name;
    struct config_disk disk[MACHINE_MAX_DISKS]; /* by their numbers */
    size_t disk_count;                          /* up to the last one */
    struct config_net net[MACHINE_MAX_NETS];
    size_t net_count;
    struct machine_share share[MACHINE_MAX_SHARES];
    size_t share_count;
    enum config_console_kind console;
    int console_fd;
    int console_log_fd, console_old_log_fd; /* -1: none */
    bool is_console_virtio;
    struct config_serial serial[MACHINE_MAX_SERIALS]; /* behind the first */
    size_t serial_count;

    int log_fd, control_fd, owner_fd; /* -1: none */
    uint64_t started_ns; /* CLOCK_MONOTONIC when the user's command started, 0: unknown */
};

/* Parses and checks. On success the caller frees with config_fini. Errors: -EINVAL, naming the member. */
int must_check config_parse(const char *text, size_t size, struct config *out_config,
                            struct error *err);
void config_fini(struct config *config);

/* One member of "disks" or "nets" that comes while the VM runs. Its number is "index", or the lowest that is free (-ENOSPC: none
 * is, -EBUSY: that one is not). Descriptors are owned from then on; on failure they are the caller's. */
int must_check config_add_disk(struct config *config, json_t *object, size_t *out_index,
                               struct error *err);
int must_check config_add_net(struct config *config, json_t *object, size_t *out_index,
                              struct error *err);
/* It has gone, or was not to be opened: closes what is left of it. */
void config_remove_disk(struct config *config, size_t index);
void config_remove_net(struct config *config, size_t index);

#endif
