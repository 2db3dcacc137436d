/* What `hull boot` was asked for, as its options say it. Nothing is opened yet. */
#ifndef CLI_BOOT_OPTIONS_H
#define CLI_BOOT_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/command/options.h"
#include "block/filter.h"
#include "cli/key.h"

#define BOOT_MAX_DISKS    16
#define BOOT_MAX_LAYERS   64 /* BLOCK_MAX_CHAIN; pools let fewer stand on each other */
#define BOOT_MAX_NETS     8
#define BOOT_MAX_HOSTFWDS 32
#define BOOT_MAX_SHARES   8
#define BOOT_MAX_SERIALS  3

/* What a disk's image stands on. */
struct boot_layer {
    const char *path, *format;
};

/* What a VM calls a disk or card, and where it has it. */
struct boot_place {
    const char *id; /* NULL: nothing */
    unsigned slot;  /* on the PCI bus, 0: any */
    bool has_index;
    unsigned index;
};

struct boot_disk {
    struct boot_place place;
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
    BOOT_NET_MACVTAP,
    BOOT_NET_SWITCH,
};

struct boot_net {
    enum boot_net_kind kind;
    struct boot_place place;
    char *text;       /* owned: the option's words, to which the other texts point */
    const char *tap;  /* of tap and macvtap: the interface */
    const char *path; /* of switch: its socket */
    const char *port_name, *ipv4, *ipv6; /* of switch: what the port has; NULL: what it gives */
    bool may_spoof;                      /* of switch */
    const char *hostfwd[BOOT_MAX_HOSTFWDS];
    unsigned hostfwd_count;
    bool outlives_us;   /* its helper ends with the VM, not with us */
    bool is_restricted; /* user: nothing but forwarded ports */
    uint8_t mac[6];     /* settled by boot_options_check */
    bool has_mac;       /* it was said */
};

struct boot_share {
    char *folder;    /* owned: the option's words, to which the tag points */
    const char *tag; /* by which the guest finds it */
    bool is_readonly;
};

enum boot_console {
    BOOT_CONSOLE_STDIO,
    BOOT_CONSOLE_PTY,
    BOOT_CONSOLE_UNIX,
    BOOT_CONSOLE_FILE,
    BOOT_CONSOLE_NONE,
};

/* A serial port behind the console's. */
struct boot_serial {
    enum boot_console kind; /* PTY, UNIX or FILE */
    const char *path;       /* NULL: a pty without a link to it */
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
    struct boot_share share[BOOT_MAX_SHARES];
    unsigned share_count;

    enum boot_console console;
    const char *console_path;
    const char *console_log;
    struct boot_serial serial[BOOT_MAX_SERIALS];
    unsigned serial_count;
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
#define BOOT_MAC_SIZE 18
/* Without a wish each card gets an address that its VM's name and its place decide: the same at each start, so that a
 * guest knows its cards again, and different for VMs with different names. */
void boot_settle_mac(struct boot_net *net, const char *name, unsigned index);
void boot_mac_text(const uint8_t mac[6], char out_text[BOOT_MAC_SIZE]);

/* Splits the next "KEY[=VALUE]" off '*rest', in place. 'out_value' is NULL without '='. */
bool boot_next_key(char **rest, char **out_key, char **out_value);
/* id=, slot= and index=; -ENOENT: it is none of these. 'count': the indexes that there can be. */
int must_check boot_place_key(struct boot_place *place, const char *key, const char *value,
                              unsigned count, struct error *err);
/* -EINVAL, with the nearest of 'words', which are divided by '|'. */
int boot_unknown_key(const char *key, const char *words, struct error *err);

/* --disk (boot_disk.c), --net and --vsock (boot_drives.c). */
int boot_parse_disk(void *into, const char *value, struct error *err);
int boot_parse_net(void *into, const char *value, struct error *err);
int boot_parse_vsock(void *into, const char *value, struct error *err);
/* --serial (boot_serial.c), --share (boot_share.c). */
int boot_parse_serial(void *into, const char *value, struct error *err);
int boot_parse_share(void *into, const char *value, struct error *err);

#endif
