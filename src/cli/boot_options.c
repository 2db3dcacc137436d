/* The option table of `hull boot`. --disk, --net and --vsock have their own file, boot_drives.c. */
#include "cli/boot_options.h"
#include "cli/cache_mode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/size.h"
#include "base/host/event_loop.h"
#include "cli/cache_mode.h"

#define MAX_MEMORY_BYTES  (1ull << 40)
#define MEMORY_STEP_BYTES (2u << 20)
#define MIN_MEMORY_BYTES  (1ull << 20)
#define MAX_VCPUS         64
#define MAX_APPEND        2047 /* what a Linux kernel takes: COMMAND_LINE_SIZE of x86, without the end */
#define MAX_NAME          64

static int not_yet(const char *value, const char *supported, struct error *err)
{
    return error_set(err, EOPNOTSUPP, "%s is not supported yet by this version: supported: %s",
                     value, supported);
}

static int parse_name(void *into, const char *value, struct error *err)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    size_t length = strlen(value);
    if (length == 0 || length > MAX_NAME || strspn(value, letters) != length) {
        return error_set(err, EINVAL, "'%s' is no name: 1 to %d letters, digits, '-', '_' and '.'",
                         value, MAX_NAME);
    }
    ((struct boot_options *)into)->name = value;
    return 0;
}

static int parse_engine(void *into, const char *value, struct error *err)
{
    static const char *const names[] = {"auto", "kvm", "soft", "null"}; /* null: for tests */
    size_t length = strcspn(value, ",");
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        if (strlen(names[i]) == length && memcmp(names[i], value, length) == 0) {
            ((struct boot_options *)into)->engine = value;
            return 0;
        }
    }
    if (strcmp(value, "visor") == 0) {
        return not_yet(value, "auto, kvm, soft", err);
    }
    return error_set(err, EINVAL, "'%s' is no engine: auto, kvm or soft", value);
}

static int parse_machine(void *into, const char *value, struct error *err)
{
    if (strcmp(value, "micro") == 0) {
        return 0;
    }
    if (strcmp(value, "pc") == 0) {
        return not_yet(value, "micro", err);
    }
    return error_set(err, EINVAL, "'%s' is no machine: micro", value);
}

/* "1G,max=4G": the first part, of which 'out_first' is a copy, and what follows "max=", or NULL. */
static int split_max(const char *value, char *out_first, size_t size, const char **out_max,
                     struct error *err)
{
    size_t length = strcspn(value, ",");
    const char *rest = value + length;
    if (length >= size || (*rest != '\0' && strncmp(rest, ",max=", 5) != 0)) {
        return error_set(err, EINVAL, "'%s' is not understood: a number, or N,max=M", value);
    }
    (void)snprintf(out_first, size, "%.*s", (int)length, value);
    *out_max = *rest != '\0' ? rest + 5 : NULL;
    return 0;
}

static int parse_cpus(void *into, const char *value, struct error *err)
{
    char first[32];
    const char *max;
    uint64_t count, most;
    int rc = split_max(value, first, sizeof(first), &max, err);
    if (rc == 0) {
        rc = number_parse(first, 1, MAX_VCPUS, &count, err);
    }
    if (rc == 0) {
        most = 0;
        rc = max != NULL ? number_parse(max, count, MAX_VCPUS, &most, err) : 0;
    }
    if (rc == 0) {
        struct boot_options *options = into;
        options->vcpu_count = (uint32_t)count;
        options->vcpu_max = (uint32_t)most;
        options->has_cpus = true;
    }
    return rc;
}

static int parse_memory_size(const char *value, uint64_t *out_bytes, struct error *err)
{
    uint64_t bytes;
    int rc = size_parse(value, 1ull << 20, &bytes, err);
    if (rc < 0) {
        return rc;
    }
    if (bytes > MAX_MEMORY_BYTES) {
        return error_set(err, ERANGE, "%s is too much: at most 1T", value);
    }
    if (bytes < MIN_MEMORY_BYTES) {
        return error_set(err, ERANGE, "%s is too little: at least 1M", value);
    }
    if (bytes % 4096 != 0) {
        return error_set(err, EINVAL, "%s is not whole pages: a multiple of 4K", value);
    }
    *out_bytes = bytes;
    return 0;
}

static int parse_memory(void *into, const char *value, struct error *err)
{
    char first[32];
    const char *max;
    uint64_t bytes, most;
    int rc = split_max(value, first, sizeof(first), &max, err);
    if (rc == 0) {
        rc = parse_memory_size(first, &bytes, err);
    }
    if (rc == 0) {
        most = bytes;
        rc = max != NULL ? parse_memory_size(max, &most, err) : 0;
    }
    if (rc == 0 && (most < bytes || (most - bytes) % MEMORY_STEP_BYTES != 0)) {
        rc = error_set(err, EINVAL,
                       "%s: the most is at least the first, and the difference a multiple of 2M",
                       value);
    }
    if (rc == 0) {
        struct boot_options *options = into;
        options->memory_bytes = bytes;
        options->memory_max_bytes = most;
        options->has_memory = true;
    }
    return rc;
}

static int parse_append(void *into, const char *value, struct error *err)
{
    if (strlen(value) > MAX_APPEND) {
        return error_set(err, E2BIG, "%zu characters are too many: at most %d", strlen(value),
                         MAX_APPEND);
    }
    ((struct boot_options *)into)->append = value;
    return 0;
}

static int parse_console(void *into, const char *value, struct error *err)
{
    static const struct {
        const char *word;
        enum boot_console console;
        bool has_path;
    } kinds[] = {
        {"stdio", BOOT_CONSOLE_STDIO, false}, {"pty", BOOT_CONSOLE_PTY, false},
        {"unix", BOOT_CONSOLE_UNIX, true},    {"file", BOOT_CONSOLE_FILE, true},
        {"none", BOOT_CONSOLE_NONE, false},
    };
    struct boot_options *options = into;
    size_t length = strcspn(value, ":");
    for (size_t i = 0; i < ARRAY_COUNT(kinds); i++) {
        bool is_this = strlen(kinds[i].word) == length && memcmp(value, kinds[i].word, length) == 0;
        bool has_path = value[length] == ':' && value[length + 1] != '\0';
        if (is_this && has_path == kinds[i].has_path && (has_path || value[length] == '\0')) {
            options->console = kinds[i].console;
            options->console_path = has_path ? value + length + 1 : NULL;
            return 0;
        }
    }
    return error_set(err, EINVAL, "'%s' is no console: stdio, pty, unix:PATH, file:PATH or none",
                     value);
}

static int parse_console_device(void *into, const char *value, struct error *err)
{
    struct boot_options *options = into;
    if (strcmp(value, "serial") != 0 && strcmp(value, "virtio") != 0) {
        return error_set(err, EINVAL, "'%s' is no console device: serial or virtio", value);
    }
    options->has_virtio_console = value[0] == 'v';
    return 0;
}

static int parse_on_off(const char *value, bool *out_is_on, struct error *err)
{
    if (strcmp(value, "on") != 0 && strcmp(value, "off") != 0) {
        return error_set(err, EINVAL, "'%s' is neither: on or off", value);
    }
    *out_is_on = value[1] == 'n';
    return 0;
}

static int parse_balloon(void *into, const char *value, struct error *err)
{
    return parse_on_off(value, &((struct boot_options *)into)->has_balloon, err);
}

static int parse_rng(void *into, const char *value, struct error *err)
{
    return parse_on_off(value, &((struct boot_options *)into)->has_rng, err);
}

static int parse_display(void *into, const char *value, struct error *err)
{
    return strcmp(value, "none") == 0 ? 0 : not_yet(value, "none", err);
}

static int parse_firmware(void *into, const char *value, struct error *err)
{
    return not_yet(value, "--kernel FILE", err);
}

static int parse_cdrom(void *into, const char *value, struct error *err)
{
    return error_set(err, EOPNOTSUPP,
                     "not supported yet by this version: supported: --disk FILE,readonly");
}

static int parse_boot_order(void *into, const char *value, struct error *err)
{
    return error_set(err, EOPNOTSUPP,
                     "not supported yet by this version: supported: --kernel FILE");
}

static int parse_gdb(void *into, const char *value, struct error *err)
{
    return error_set(err, EOPNOTSUPP,
                     "not supported yet by this version: supported: --control PATH");
}

static int parse_timeout(void *into, const char *value, struct error *err)
{
    char *end;
    double seconds = strtod(value, &end);
    if (end == value || *end != '\0' || !(seconds > 0) || seconds > 1e9) {
        return error_set(err, EINVAL, "'%s' is no time: seconds, as in 30 or 0.5", value);
    }
    ((struct boot_options *)into)->timeout_s = seconds;
    return 0;
}

/* Options that only keep their word: a path or a flag each. */
#define KEEP_DEFINE(name, field)                                                                   \
    static int parse_##name(void *into, const char *value, struct error *err)                      \
    {                                                                                              \
        if (value[0] == '\0') {                                                                    \
            return error_set(err, EINVAL, "is empty: the path of a file");                         \
        }                                                                                          \
        ((struct boot_options *)into)->field = value;                                              \
        return 0;                                                                                  \
    }
KEEP_DEFINE(kernel, kernel)
KEEP_DEFINE(initrd, initrd)
KEEP_DEFINE(control, control)
KEEP_DEFINE(restore, restore)
KEEP_DEFINE(log, log)
KEEP_DEFINE(console_log, console_log)
KEEP_DEFINE(status_file, status_file)
KEEP_DEFINE(pid_file, pid_file)

static int parse_cpu(void *into, const char *value, struct error *err)
{
    if (value[0] == '\0') {
        return error_set(err, EINVAL, "is empty: host, x86-64-v2 or x86-64-v3");
    }
    ((struct boot_options *)into)->cpu_model = value;
    return 0;
}

#define FLAG_DEFINE(name, field)                                                                   \
    static int parse_##name(void *into, const char *value, struct error *err)                      \
    {                                                                                              \
        ((struct boot_options *)into)->field = true;                                               \
        return 0;                                                                                  \
    }
FLAG_DEFINE(huge_pages, huge_pages)
FLAG_DEFINE(debug_exit, debug_exit)
FLAG_DEFINE(no_reboot, no_reboot)
FLAG_DEFINE(paused, paused)
FLAG_DEFINE(verbose, verbose)

const struct option_spec boot_option_table[] = {
    {"name", 'n', "NAME", "name of the VM in messages (default: vm)", NULL, parse_name},
    {"engine", 'e', "ENGINE[,KEY=VALUE]...",
     "what runs guest code: auto, kvm or soft (default: auto); keys of soft: cache, halt-poll, jumps, translate, flags, "
     "lock, verify, lockstep, icount, trace, perfmap, symbols: see the man page",
     "auto|kvm|soft|soft,cache=|soft,halt-poll=|soft,jumps=|soft,translate=off|soft,flags=exact|soft,lock=always|soft,verify=on|soft,lockstep=on|"
     "soft,icount=on|soft,trace=|soft,perfmap=on|soft,symbols=",
     parse_engine},
    {"machine", 0, "MACHINE", "the board: micro (default)", "micro", parse_machine},
    {"cpus", 'c', "N[,max=N]",
     "number of virtual CPUs, 1 to 64 (default: 1); up to max of them by `hull ctl PATH cpus` while it runs",
     NULL, parse_cpus},
    {"memory", 'm', "SIZE[,max=SIZE]",
     "guest memory; a bare number counts MiB (default: 512M); up to max by `hull ctl PATH memory` "
     "while it runs",
     NULL, parse_memory},
    {"cpu", 0, "MODEL",
     "CPU model: host, x86-64-v2 or x86-64-v3 (default: host); with ,hyperv=on for Windows",
     "host|x86-64-v2|x86-64-v3", parse_cpu},
    {"huge-pages", 0, NULL, "back guest memory with the host's huge pages", NULL, parse_huge_pages},
    {"kernel", 'k', "FILE", "Linux bzImage, PVH or multiboot ELF image to boot", "FILE",
     parse_kernel},
    {"initrd", 'i', "FILE", "initial RAM disk for the kernel", "FILE", parse_initrd},
    {"append", 'a', "STRING", "the kernel's command line", NULL, parse_append},
    {"firmware", 0, "KIND", "not in this version: bios or uefi", "bios|uefi", parse_firmware},
    {"disk", 'd', "FILE|URI[,KEY=VALUE]...",
     "a disk; keys: format=raw|qcow2, readonly, bus=virtio, serial=TEXT, aio=auto|io_uring|threads, "
     "cache=" CACHE_MODES ", snapshot (writes are lost at the end), "
     "werror=, rerror=report|stop|ignore|enospc, discard=unmap|ignore, detect-zeroes=off|on|unmap, "
     "copy-on-read, limits: bps, bps-rd, bps-wr, iops, iops-rd, iops-wr=N, each with -max and -max-length, "
     "iops-size=SIZE, group=NAME; id=NAME, index=N, slot=N; of a URI, as nbd://server/export: reconnect=SECONDS; "
     "of qcow2: backing=FILE,backing-format=raw|qcow2 for each file it stands on, data-file=FILE",
     "FILE", boot_parse_disk},
    {"cdrom", 0, "FILE", "not in this version: a CD image", "FILE", parse_cdrom},
    {"boot", 0, "ORDER", "not in this version: order of boot devices", NULL, parse_boot_order},
    {"net", 0, "KIND[,KEY=VALUE]...",
     "a network card: user[,restrict][,hostfwd=tcp:ADDR:PORT-:PORT]..., "
     "switch=PATH[,name=NAME][,ipv4=ADDRESS][,ipv6=ADDRESS][,spoofing=allow][,hostfwd=...]... (of hull-net-user), passt, "
     "tap=IFNAME, macvtap=IFNAME or none; also mac=ADDRESS, id=NAME, index=N, slot=N (default: user)",
     "user|switch=|passt|tap=|macvtap=|none", boot_parse_net},
    {"share", 0, "DIR:TAG[,readonly]",
     "share a folder with the guest, which mounts it by its tag: mount -t virtiofs TAG /mnt", "DIR",
     boot_parse_share},
    {"vsock", 0, "cid=N,dir=DIR",
     "a vsock device; port P of the guest meets the unix socket P in DIR", NULL, boot_parse_vsock},
    {"balloon", 0, "on|off", "memory balloon with free page reporting (default: on)", "on|off",
     parse_balloon},
    {"rng", 0, "on|off", "source of random numbers (default: on)", "on|off", parse_rng},
    {"console", 0, "WHERE",
     "the guest's console: stdio, pty, unix:PATH, file:PATH or none (default: stdio)",
     "stdio|pty|unix:|file:|none", parse_console},
    {"console-device", 0, "DEVICE", "serial (ttyS0, default) or virtio (hvc0)", "serial|virtio",
     parse_console_device},
    {"console-log", 0, "FILE",
     "append the guest's output to FILE, too; what is older than 1 MiB goes to FILE.1, the rest is lost",
     "FILE", parse_console_log},
    {"serial", 0, "WHERE",
     "one more serial port, from ttyS1 on: pty, pty:LINK (a name for it), unix:PATH or file:PATH",
     "pty|pty:|unix:|file:", boot_parse_serial},
    {"display", 0, "WHERE", "the guest's screen: none", "none", parse_display},
    {"vga", 0, "CARD", "the graphics card: none", "none", parse_display},
    {"control", 0, "PATH", "listen for control commands on this unix socket", "FILE",
     parse_control},
    {"debug-exit", 0, NULL, "a guest write of V to port 0xf4 ends with status (V<<1)|1", NULL,
     parse_debug_exit},
    {"gdb", 0, "ADDR:PORT", "not in this version: wait for a debugger", NULL, parse_gdb},
    {"restore", 0, "FILE",
     "go on from a state that `hull ctl PATH save` wrote; --cpus and --memory are as there unless they are said",
     "FILE", parse_restore},
    {"paused", 'p', NULL, "do not start the guest until `hull ctl PATH resume`", NULL,
     parse_paused},
    {"no-reboot", 0, NULL, "end with status 2 when the guest asks for a reset", NULL,
     parse_no_reboot},
    {"timeout", 't', "SECONDS", "end with status 124 after this time", NULL, parse_timeout},
    {"log", 0, "FILE", "append log lines to FILE in place of standard error", "FILE", parse_log},
    {"pid-file", 0, "FILE",
     "hold FILE, with this process's number in it, locked (F_OFD_SETLK) as long as the VM runs",
     "FILE", parse_pid_file},
    {"status-file", 0, "FILE", "write the exit status to FILE at the end, in one line", "FILE",
     parse_status_file},
    {"verbose", 'v', NULL, "log more", NULL, parse_verbose},
    {0},
};

void boot_options_init(struct boot_options *options)
{
    *options = (struct boot_options){
        .name = "vm",
        .engine = "auto",
        .vcpu_count = 1,
        .memory_bytes = 512ull << 20,
        .memory_max_bytes = 512ull << 20,
        .has_balloon = true,
        .has_rng = true,
        .started_ns = clock_monotonic_ns(),
    };
}

void boot_options_fini(struct boot_options *options)
{
    for (unsigned i = 0; i < options->disk_count; i++) {
        free(options->disk[i].path);
    }
    for (unsigned i = 0; i < options->net_count; i++) {
        free(options->net[i].text);
    }
    for (unsigned i = 0; i < options->share_count; i++) {
        free(options->share[i].folder);
    }
    options->share_count = 0;
    free(options->vsock_dir);
    options->disk_count = 0;
    options->net_count = 0;
    options->vsock_dir = NULL;
}

void boot_mac_text(const uint8_t mac[6], char out_text[BOOT_MAC_SIZE])
{
    (void)snprintf(out_text, BOOT_MAC_SIZE, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2],
                   mac[3], mac[4], mac[5]);
}

void boot_settle_mac(struct boot_net *net, const char *name, unsigned index)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (const char *c = name; *c != '\0'; c++) {
        hash = (hash ^ (uint8_t)*c) * 16777619u;
    }
    hash = (hash ^ (net->place.has_index ? net->place.index : index)) * 16777619u;
    if (!net->has_mac) {
        const uint8_t mac[6] = {
            0x52, 0x54, 0x00, (uint8_t)(hash >> 16), (uint8_t)(hash >> 8), (uint8_t)hash};
        memcpy(net->mac, mac, sizeof(mac));
    }
}

int boot_options_check(struct boot_options *options, struct error *err)
{
    if (options->kernel == NULL && options->restore == NULL) {
        return error_set(err, EINVAL, "boot: nothing to boot: --kernel FILE");
    }
    if (options->has_no_net && options->net_count != 0) {
        return error_set(err, EINVAL,
                         "option --net: none and a network card exclude each other: one of them");
    }
    if (options->net_count == 0 && !options->has_no_net) {
        options->net[0] = (struct boot_net){.kind = BOOT_NET_USER};
        options->net_count = 1;
    }
    for (unsigned i = 0; i < options->net_count; i++) {
        boot_settle_mac(&options->net[i], options->name, i);
    }
    return 0;
}
