/* The table of keys, and how it is searched. */
#include "manager/instance/keys.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/command/options.h"
#include "base/core/size.h"
#include "manager/instance/schedule.h"
#include "system/config/config.h"

#define MAX_APPEND    2047 /* a kernel's command line */
#define MAX_USER_DATA 65536
#define MAX_WORDS     4096

static int check_bool(const char *value, struct error *err)
{
    return strcmp(value, "true") == 0 || strcmp(value, "false") == 0
               ? 0
               : error_set(err, EINVAL, "'%.40s': true or false", value);
}

static int check_one_of(const char *value, const char *words, struct error *err)
{
    size_t length = strlen(value);
    for (const char *word = words; length != 0; word += strcspn(word, "|") + 1) {
        size_t size = strcspn(word, "|");
        if (size == length && memcmp(word, value, length) == 0) {
            return 0;
        }
        if (word[size] == '\0') {
            break;
        }
    }
    return error_set(err, EINVAL, "'%.40s': one of %s", value, words);
}

static int check_restart(const char *value, struct error *err)
{
    return check_one_of(value, "no|on-failure|always", err);
}

static int check_engine(const char *value, struct error *err)
{
    return check_one_of(value, "auto|kvm|soft", err);
}

static int check_machine(const char *value, struct error *err)
{
    return check_one_of(value, "micro|pc", err);
}

static int check_spoofing(const char *value, struct error *err)
{
    return check_one_of(value, "drop|allow", err);
}

static int check_cache(const char *value, struct error *err)
{
    return check_one_of(value, "none|writeback|writethrough|directsync|unsafe", err);
}

static int check_range(const char *value, uint64_t max, struct error *err)
{
    uint64_t ignored;
    return number_parse(value, 0, max, &ignored, err);
}

static int check_order(const char *value, struct error *err)
{
    return check_range(value, 1000000, err);
}

static int check_most_cpus(const char *value, struct error *err)
{
    uint64_t ignored;
    return number_parse(value, 1, 64, &ignored, err);
}

static int check_seconds(const char *value, struct error *err)
{
    return check_range(value, 86400, err);
}

static int check_keep(const char *value, struct error *err)
{
    return check_range(value, 10000, err);
}

static int check_memory(const char *value, struct error *err)
{
    uint64_t bytes;
    int rc = size_parse(value, 1 << 20, &bytes, err);
    return rc == 0 && (bytes < 4 << 20 || bytes > UINT64_C(1) << 44)
               ? error_set(err, EINVAL, "'%.40s': from 4M to 16T", value)
               : rc;
}

static int check_swap(const char *value, struct error *err)
{
    uint64_t ignored;
    return size_parse(value, 1 << 20, &ignored, err);
}

static int check_disk_size(const char *value, struct error *err)
{
    uint64_t bytes;
    int rc = size_parse(value, 1, &bytes, err);
    return rc == 0 && (bytes < 1 << 20 || bytes > UINT64_C(1) << 50)
               ? error_set(err, EINVAL, "'%.40s': from 1M to 1024T; a bare number counts bytes",
                           value)
               : rc;
}

static int check_path(const char *value, struct error *err)
{
    return value[0] == '/' && strlen(value) < PATH_MAX
               ? 0
               : error_set(err, EINVAL, "'%.100s' is no absolute path", value);
}

/* What is handed to other programs as one of several values divided by commas or colons. */
static int check_plain_path(const char *value, struct error *err)
{
    int rc = check_path(value, err);
    return rc == 0 && strpbrk(value, ",:\n") != NULL
               ? error_set(err, EINVAL, "'%.100s': without ',', ':' and line ends", value)
               : rc;
}

static int check_text(const char *value, struct error *err)
{
    return strlen(value) <= MAX_USER_DATA
               ? 0
               : error_set(err, E2BIG, "more than %d bytes", MAX_USER_DATA);
}

static int check_ssh_key(const char *value, struct error *err)
{
    return strlen(value) < 16384 && strchr(value, ' ') != NULL && strchr(value, '\n') == NULL
               ? 0
               : error_set(err, EINVAL, "'%.40s': a public key, as in authorized_keys", value);
}

static int check_append(const char *value, struct error *err)
{
    return strlen(value) <= MAX_APPEND && strchr(value, '\n') == NULL
               ? 0
               : error_set(err, EINVAL, "one line of at most %d bytes", MAX_APPEND);
}

static int check_model(const char *value, struct error *err)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                  "-_.,+=";
    return *value != '\0' && strspn(value, letters) == strlen(value)
               ? 0
               : error_set(err, EINVAL, "'%.40s': a model's name and flags, as host,-avx2", value);
}

static int check_schedule(const char *value, struct error *err)
{
    struct schedule ignored;
    return schedule_parse(value, &ignored, err);
}

static int check_network_name(const char *value, struct error *err)
{
    return store_check_name("network", value, err);
}

static int check_pool_name(const char *value, struct error *err)
{
    return store_check_name("pool", value, err);
}

static int check_tag(const char *value, struct error *err)
{
    return store_check_name("tag", value, err);
}

static int check_interface(const char *value, struct error *err)
{
    size_t length = strlen(value);
    return length > 0 && length < IFNAMSIZ && strpbrk(value, "/ :,=\t\n") == NULL &&
                   strcmp(value, ".") != 0 && strcmp(value, "..") != 0
               ? 0
               : error_set(err, EINVAL, "'%.40s': at most 15 letters and digits, as eth0", value);
}

/* A volume's name, or an absolute path of the host. */
static int check_source(const char *value, struct error *err)
{
    return value[0] == '/' ? check_plain_path(value, err) : store_check_name("volume", value, err);
}

static int check_mac(const char *value, struct error *err)
{
    static const char digits[] = "0123456789abcdefABCDEF";
    bool is_good = strlen(value) == 17, is_zero = true;
    for (size_t i = 0; is_good && i < 17; i++) {
        is_good = i % 3 == 2 ? value[i] == ':' : strchr(digits, value[i]) != NULL;
        is_zero = is_zero && (value[i] == ':' || value[i] == '0');
    }
    /* The lowest bit of the first byte: many receivers. */
    is_good = is_good && !is_zero && (strtoul(value, NULL, 16) & 1) == 0;
    return is_good ? 0
                   : error_set(err, EINVAL, "'%.40s': a card's own address, as 52:54:00:12:34:56",
                               value);
}

static int check_address(const char *value, int family, const char *example, struct error *err)
{
    struct network_address address;
    int rc = strchr(value, '/') != NULL ? -EINVAL : network_parse(value, 0, true, &address, err);
    return rc < 0 || address.family != family
               ? error_set(err, EINVAL, "'%.60s': an address, as %s", value, example)
               : 0;
}

static int check_ipv4(const char *value, struct error *err)
{
    return check_address(value, AF_INET, "10.1.2.3", err);
}

static int check_ipv6(const char *value, struct error *err)
{
    return check_address(value, AF_INET6, "fd00::3", err);
}

/* "tcp:80", "udp:127.0.0.1:53", "tcp:[::1]:80". */
static int check_endpoint(const char *value, struct error *err)
{
    const char *rest =
        strncmp(value, "tcp:", 4) == 0 || strncmp(value, "udp:", 4) == 0 ? value + 4 : NULL;
    const char *colon = rest != NULL ? strrchr(rest, ':') : NULL;
    const char *port = colon != NULL ? colon + 1 : rest;
    uint64_t number;
    bool is_good = rest != NULL && number_parse(port, 1, 65535, &number, NULL) == 0;
    if (is_good && colon != NULL) {
        char host[NETWORK_TEXT_SIZE];
        struct network_address address;
        size_t length = (size_t)(colon - rest);
        bool has_brackets = length >= 2 && rest[0] == '[' && colon[-1] == ']';
        rest += has_brackets;
        length -= has_brackets ? 2 : 0;
        is_good = length > 0 && length < sizeof(host);
        (void)snprintf(host, sizeof(host), "%.*s", (int)(is_good ? length : 0), rest);
        is_good = is_good && strchr(host, '/') == NULL &&
                  network_parse(host, 0, false, &address, NULL) == 0 &&
                  has_brackets == (address.family == AF_INET6);
    }
    return is_good ? 0
                   : error_set(err, EINVAL,
                               "'%.60s': tcp or udp, an address or none, and a port: tcp:8080, "
                               "udp:127.0.0.1:53",
                               value);
}

/* Where a serial port leads. */
static int check_serial(const char *value, struct error *err)
{
    return strcmp(value, "pty") == 0 ? 0
           : strncmp(value, "file:/", 6) == 0 || strncmp(value, "unix:/", 6) == 0
               ? check_path(value + 5, err)
               : error_set(err, EINVAL, "'%.60s': pty, file:/PATH or unix:/PATH", value);
}

/* A key that `system` has under this name. */
static int check_system(const char *name, const char *value, struct error *err)
{
    struct config *config = calloc(1, sizeof(*config));
    if (config == NULL) {
        return error_set(err, ENOMEM, "no memory for checking a key");
    }
    int rc = config_find_key(name, strlen(name))->parse(config, value, err);
    config_destroy(config);
    return rc;
}

#define SYSTEM_KEY(key)                                                                            \
    static int check_##key(const char *value, struct error *err)                                   \
    {                                                                                              \
        return check_system(#key, value, err);                                                     \
    }
SYSTEM_KEY(hostname)
SYSTEM_KEY(cpus)
SYSTEM_KEY(cpu_shares)
SYSTEM_KEY(cpu_set)
SYSTEM_KEY(pool)
SYSTEM_KEY(processes)
SYSTEM_KEY(io_weight)
SYSTEM_KEY(io_read)
SYSTEM_KEY(io_read_iops)
SYSTEM_KEY(seccomp)
SYSTEM_KEY(stop_signal)
SYSTEM_KEY(environment)
SYSTEM_KEY(dns)
SYSTEM_KEY(search)

static int check_init(const char *value, struct error *err)
{
    return *value != '\0' ? 0 : error_set(err, EINVAL, "an empty word");
}

const struct instance_key instance_keys[] = {
    {"cpus", NULL, KEY_BOTH, "N", NULL,
     "CPUs: of a container as many as it may use at once, also parts (0.5); of a VM its virtual "
     "ones (1 when it is not said)",
     NULL, KEY_BOTH, .check = check_cpus},
    {"memory", NULL, KEY_BOTH, "SIZE", NULL,
     "most memory, a container's caches included; a bare number counts MiB (of a VM 512M when it "
     "is not said)",
     NULL, KEY_BOTH, .check = check_memory},
    {"hostname", NULL, KEY_BOTH, "NAME", NULL, "its name for itself (its own when it is not said)",
     .check = check_hostname},
    {"autostart", NULL, KEY_BOTH, "BOOL", "false", "start it with the host", "true|false", KEY_BOTH,
     .check = check_bool},
    {"autostart_order", NULL, KEY_BOTH, "N", "0",
     "its place among those that start with the host; smaller is sooner", NULL, KEY_BOTH,
     .check = check_order},
    {"autostart_delay", NULL, KEY_BOTH, "SECONDS", "0",
     "how long those after it wait when it is started with the host", NULL, KEY_BOTH,
     .check = check_seconds},
    {"restart", NULL, KEY_BOTH, "WHEN", "no",
     "what to do when it ends by itself: leave it, start it if it failed, or start it always",
     "no|on-failure|always", KEY_BOTH, .check = check_restart},
    {"stop_timeout", NULL, KEY_BOTH, "SECONDS", "30", "how long a clean stop may take", NULL,
     KEY_BOTH, .check = check_seconds},
    {"user_data", NULL, KEY_BOTH, "TEXT", NULL, "cloud-init's user data, for the first start",
     .check = check_text},
    {"ssh_keys", NULL, KEY_BOTH, "KEY", NULL,
     "public keys with which root may log in, for the first start", .is_list = true,
     .check = check_ssh_key},
    {"snapshots_schedule", NULL, KEY_BOTH, "WHEN", NULL,
     "when snapshots are made by themselves: @hourly, @daily, @weekly, @monthly or the five fields "
     "of cron",
     "@hourly|@daily|@weekly|@monthly", KEY_BOTH, .check = check_schedule},
    {"snapshots_keep", NULL, KEY_BOTH, "N", "7",
     "how many of the snapshots that were made by themselves stay; 0: all", NULL, KEY_BOTH,
     .check = check_keep},

    {"swap", NULL, KEY_CONTAINER, "SIZE", NULL, "most swap, beside the memory; 0: none", NULL,
     KEY_CONTAINER, .check = check_swap},
    {"cpu_shares", NULL, KEY_CONTAINER, "N", "1024", "its weight when CPUs are short", NULL,
     KEY_CONTAINER, .check = check_cpu_shares},
    {"cpu_set", NULL, KEY_CONTAINER, "LIST", NULL, "the CPUs that it may use: 0-1,3", NULL,
     KEY_CONTAINER, .check = check_cpu_set},
    {"cpu_pool", NULL, KEY_CONTAINER, "POOL", NULL,
     "the pool of CPUs that it is in, see `hull ct pool`", NULL, KEY_CONTAINER,
     .check = check_pool},
    {"processes", NULL, KEY_CONTAINER, "N", NULL, "most processes and threads", NULL, KEY_CONTAINER,
     .check = check_processes},
    {"io_weight", NULL, KEY_CONTAINER, "N", "100", "its weight when disks are busy, 10 to 1000",
     NULL, KEY_CONTAINER, .check = check_io_weight},
    {"io_read", NULL, KEY_CONTAINER, "SIZE", NULL,
     "most bytes a second read from the disk of its files", NULL, KEY_CONTAINER,
     .check = check_io_read},
    {"io_write", NULL, KEY_CONTAINER, "SIZE", NULL, "most bytes a second written", NULL,
     KEY_CONTAINER, .check = check_io_read},
    {"io_read_iops", NULL, KEY_CONTAINER, "N", NULL, "most reads a second", NULL, KEY_CONTAINER,
     .check = check_io_read_iops},
    {"io_write_iops", NULL, KEY_CONTAINER, "N", NULL, "most writes a second", NULL, KEY_CONTAINER,
     .check = check_io_read_iops},
    {"init", NULL, KEY_CONTAINER, "WORD", "/sbin/init",
     "its first program and that one's arguments", .is_list = true, .check = check_init},
    {"environment", NULL, KEY_CONTAINER, "NAME=VALUE", NULL, "variables for its init",
     .is_list = true, .check = check_environment},
    {"privileged", NULL, KEY_CONTAINER, "BOOL", "false",
     "run with the host's ids; its root is the host's then", "true|false", .is_fixed = true,
     .check = check_bool},
    {"nesting", NULL, KEY_CONTAINER, "BOOL", "false", "allow containers inside", "true|false",
     .check = check_bool},
    {"seccomp", NULL, KEY_CONTAINER, "PROFILE", "default",
     "default, none, or a file with a profile", "default|none", .check = check_seccomp},
    {"stop_signal", NULL, KEY_CONTAINER, "SIGNAL", NULL,
     "what has its init stop (what that init wants when it is not said)", NULL, KEY_CONTAINER,
     .check = check_stop_signal},
    {"dns", NULL, KEY_CONTAINER, "ADDRESS", NULL,
     "name servers (those of its networks when it is not said)", .is_list = true,
     .check = check_dns},
    {"search", NULL, KEY_CONTAINER, "DOMAIN", NULL, "domain of names without one",
     .check = check_search},

    {"cpus_max", NULL, KEY_VM, "N", NULL,
     "how many CPUs it may get while it runs (four times cpus when it is not said, but no more than "
     "the host has)",
     .check = check_most_cpus},
    {"memory_max", NULL, KEY_VM, "SIZE", NULL,
     "how much memory it may get while it runs (four times memory when it is not said; with "
     "huge_pages none)",
     .check = check_memory},
    {"cpu_model", NULL, KEY_VM, "MODEL", NULL, "what its CPUs are, as `hull boot --cpu` takes it",
     .check = check_model},
    {"engine", NULL, KEY_VM, "ENGINE", "auto", "what runs its code", "auto|kvm|soft",
     .check = check_engine},
    {"machine", NULL, KEY_VM, "MACHINE", "micro", "its board", "micro|pc", .check = check_machine},
    {"kernel", NULL, KEY_VM, "FILE", NULL, "a kernel of the host in place of the image's", "FILE",
     .check = check_path},
    {"initrd", NULL, KEY_VM, "FILE", NULL, "an initial RAM disk for that kernel", "FILE",
     .check = check_path},
    {"append", NULL, KEY_VM, "TEXT", NULL, "more words for the kernel's command line",
     .check = check_append},
    {"huge_pages", NULL, KEY_VM, "BOOL", "false", "back its memory with the host's huge pages",
     "true|false", .check = check_bool},

    {"pool", "disk", KEY_BOTH, "POOL", "default", "the storage pool that it lies in",
     .is_fixed = true, .check = check_pool_name},
    {"size", "disk", KEY_BOTH, "SIZE", NULL,
     "its size; only grows (of a VM's root 10G when it is not said; of a container's root no limit)",
     .check = check_disk_size},
    {"source", "disk", KEY_BOTH, "VOLUME|FILE", NULL,
     "a volume of the pool, or a path of the host; none: the instance's own, which goes with it",
     .check = check_source},
    {"path", "disk", KEY_CONTAINER, "DIR", NULL,
     "where a container has it; \"/\" is that of the device \"root\"", .check = check_plain_path},
    {"readonly", "disk", KEY_BOTH, "BOOL", "false", "it is only read", "true|false",
     .check = check_bool},
    {"cache", "disk", KEY_VM, "MODE", NULL, "as `hull boot --disk FILE,cache=` takes it",
     "none|writeback|writethrough|directsync|unsafe", .check = check_cache},

    {"network", "nic", KEY_BOTH, "NETWORK", "default", "what it is connected to",
     .check = check_network_name},
    {"name", "nic", KEY_CONTAINER, "NAME", NULL,
     "what it is called in a container (as the device when it is not said)",
     .check = check_interface},
    {"mac", "nic", KEY_BOTH, "MAC", NULL, "its address; made up when it is not said",
     .check = check_mac},
    {"ipv4", "nic", KEY_BOTH, "ADDRESS", NULL, "an address that is always its own",
     .check = check_ipv4},
    {"ipv6", "nic", KEY_BOTH, "ADDRESS", NULL, "an address that is always its own",
     .check = check_ipv6},
    {"spoofing", "nic", KEY_BOTH, "WHAT", "drop", "what happens to packets from other addresses",
     "drop|allow", .check = check_spoofing},

    {"source", "share", KEY_BOTH, "VOLUME|DIR", NULL,
     "a volume of the pool that is a folder (type tree), or a folder of the host", "DIR",
     .check = check_source},
    {"pool", "share", KEY_BOTH, "POOL", "default", "the storage pool of that volume",
     .check = check_pool_name},
    {"path", "share", KEY_BOTH, "DIR", NULL,
     "where the instance has it; a VM without it, or without hull-agent, mounts it itself: mount -t virtiofs TAG DIR",
     .check = check_plain_path},
    {"tag", "share", KEY_VM, "TAG", NULL,
     "by what a VM mounts it (the device's name when it is not said)", .check = check_tag},
    {"readonly", "share", KEY_BOTH, "BOOL", "false", "it is only read", "true|false",
     .check = check_bool},

    {"listen", "forward", KEY_BOTH, "PROTOCOL:[ADDRESS:]PORT", NULL, "where the host listens",
     .check = check_endpoint},
    {"connect", "forward", KEY_BOTH, "PROTOCOL:PORT", NULL, "which port of the instance gets it",
     .check = check_endpoint},
    {"nic", "forward", KEY_BOTH, "DEVICE", NULL,
     "by which of its cards (the first when it is not said)", .check = check_interface},

    {"to", "serial", KEY_VM, "WHERE", "pty",
     "where a further serial port leads, from ttyS1 on in the order of the devices; a pty has the name RUN/instances/NAME/DEVICE.pty",
     "pty|file:|unix:", .check = check_serial},
    {0},
};

/* Are they the same, NULL included? */
static bool is_device(const struct instance_key *key, const char *device)
{
    return key->device == NULL || device == NULL ? key->device == device
                                                 : strcmp(key->device, device) == 0;
}

static const struct instance_key *find(const char *device, const char *name)
{
    for (const struct instance_key *key = instance_keys; key->name != NULL; key++) {
        if (is_device(key, device) && strcmp(key->name, name) == 0) {
            return key;
        }
    }
    return NULL;
}

const struct instance_key *instance_find_key(const char *device, const char *name,
                                             const char **out_nearest)
{
    const struct instance_key *found = find(device, name);
    if (out_nearest == NULL || found != NULL) {
        return found;
    }
    char words[MAX_WORDS] = "", nearest[64];
    size_t used = 0;
    for (const struct instance_key *key = instance_keys; key->name != NULL; key++) {
        if (is_device(key, device) && used < sizeof(words)) {
            used += (size_t)snprintf(words + used, sizeof(words) - used, "%s%s",
                                     used != 0 ? "|" : "", key->name);
        }
    }
    const struct instance_key *near = NULL;
    if (nearest_word(name, words, nearest, sizeof(nearest)) != NULL) {
        near = find(device, nearest);
    }
    *out_nearest = near != NULL ? near->name : NULL;
    return NULL;
}

const char *instance_device_types(void)
{
    return "disk|nic|share|forward|serial";
}
