/* What `hull boot` was asked for, as its options say it. Nothing is opened yet. */
#ifndef CLI_BOOT_OPTIONS_H
#define CLI_BOOT_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/command/options.h"
#include "block/filter.h"
#include "cli/key.h"

#define BOOT_MAX_DISKS    16
#define BOOT_MAX_LAYERS   16
#define BOOT_MAX_NETS     8
#define BOOT_MAX_HOSTFWDS 32

/* What a disk's image stands on. */
struct boot_layer {
    const char *path, *format;
};

struct boot_disk {
    char *path; /* owned: the option's words, to which the others point */
    const char *format;
    const char *aio;
    bool is_readonly;
    const char *cache; /* "writeback" ...: see cli/cache_mode.h */
    const char *on_read_error, *on_write_error;
    const char *detect_zeroes, *discard;
    struct cli_key key; /* of an encrypted image */
    bool has_copy_on_read;
    bool is_snapshot; /* writes go to an overlay without a name */
    struct block_throttle_limits throttle;
    const char *throttle_group; /* NULL: its own */
    bool is_raw_for_sure;       /* format=raw was given: no look for other formats */
    char serial[21];
    struct boot_layer layer[BOOT_MAX_LAYERS]; /* backing files, the upper ones first */
    unsigned layer_count;
    const char *data_path; /* the external data file; NULL: none */
    bool has_format;       /* it was said */
    bool has_reconnect;
    unsigned reconnect_s; /* of remote disks, if has_reconnect */
};

enum boot_net_kind {
    BOOT_NET_USER,
    BOOT_NET_PASST,
    BOOT_NET_TAP,
};

struct boot_net {
    enum boot_net_kind kind;
    char *text; /* owned: the option's words, to which 'tap' and 'hostfwd' point */
    const char *tap;
    const char *hostfwd[BOOT_MAX_HOSTFWDS];
    unsigned hostfwd_count;
    bool is_restricted; /* user: nothing but forwarded ports */
    uint8_t mac[6];
    bool has_mac;
};

enum boot_console {
    BOOT_CONSOLE_STDIO,
    BOOT_CONSOLE_PTY,
    BOOT_CONSOLE_UNIX,
    BOOT_CONSOLE_FILE,
    BOOT_CONSOLE_NONE,
};

struct boot_options {
    const char *name;
    const char *engine;
    const char *cpu_model; /* NULL: the machine's default */
    uint32_t vcpu_count;
    uint32_t vcpu_max; /* 0: they neither come nor go */
    uint64_t memory_bytes, memory_max_bytes;
    bool has_cpus, has_memory; /* they were said */
    bool huge_pages;

    const char *kernel, *initrd, *append;
    struct boot_disk disk[BOOT_MAX_DISKS];
    unsigned disk_count;
    struct boot_net net[BOOT_MAX_NETS];
    unsigned net_count;
    bool has_no_net; /* --net none */

    enum boot_console console;
    const char *console_path;
    const char *console_log;
    bool has_virtio_console;
    bool has_balloon, has_rng;
    uint32_t vsock_cid; /* 0: no vsock */
    char *vsock_dir;    /* owned */

    const char *control, *restore, *log;
    const char *status_file, *pid_file;
    bool debug_exit, no_reboot, paused, verbose;
    double timeout_s;    /* 0: none */
    uint64_t started_ns; /* CLOCK_MONOTONIC when the command started */
};

extern const struct option_spec boot_option_table[];

/* The defaults of cli.md. */
void boot_options_init(struct boot_options *options);
void boot_options_fini(struct boot_options *options);
/* What single options cannot tell: a kernel is there, at most one of this and that. */
int must_check boot_options_check(struct boot_options *options, struct error *err);

/* Splits the next "KEY[=VALUE]" off '*rest', in place. 'out_value' is NULL without '='. */
bool boot_next_key(char **rest, char **out_key, char **out_value);
/* -EINVAL, with the nearest of 'words', which are divided by '|'. */
int boot_unknown_key(const char *key, const char *words, struct error *err);

/* --disk (boot_disk.c), --net and --vsock (boot_drives.c). */
int boot_parse_disk(void *into, const char *value, struct error *err);
int boot_parse_net(void *into, const char *value, struct error *err);
int boot_parse_vsock(void *into, const char *value, struct error *err);

#endif
