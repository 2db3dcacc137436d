/* hull ct create: one container, or many with consecutive names and addresses. */
#include <errno.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/core/size.h"
#include "base/host/file.h"
#include "cli/ct/ct.h"
#include "cli/progress.h"
#include "system/rootless/rootless.h"

#define MAX_COUNT 10000
/* How long the owners of addresses may take to say so. */
#define PROBE_TIMEOUT_MS 50
#define PROBE_TRIES      3
#define PROBE_PAUSE_MS   100

struct ct_create_options {
    struct ct_options ct;
    json_t *document;
    const char *bridge, *ip, *ip_start, *gateway;
    uint64_t count; /* 0: one, with the name as it is */
    bool starts, resumes;
};

static int add(struct ct_create_options *options, const char *key, const char *value,
               struct error *err)
{
    char word[4096];
    const struct config_key *row = config_find_key(key, strlen(key));
    if (snprintf(word, sizeof(word), "%s%s%s", key, row->is_list ? "+=" : "=", value) >=
        (int)sizeof(word)) {
        return error_set(err, EINVAL, "too long");
    }
    return *value == '\0' ? error_set(err, EINVAL, "no value")
                          : config_change(options->document, word, err);
}

/* A row of the table of options for each key that is worth one. */
#define KEY_PARSER(key)                                                                            \
    static int parse_##key(void *into, const char *value, struct error *err)                       \
    {                                                                                              \
        return add(into, #key, value, err);                                                        \
    }
KEY_PARSER(hostname)
KEY_PARSER(cpus)
KEY_PARSER(cpu_shares)
KEY_PARSER(cpu_set)
KEY_PARSER(pool)
KEY_PARSER(memory)
KEY_PARSER(swap)
KEY_PARSER(processes)
KEY_PARSER(disk)
KEY_PARSER(network)
KEY_PARSER(dns)
KEY_PARSER(mount)
KEY_PARSER(environment)
KEY_PARSER(root)
KEY_PARSER(order)

static int parse_from(void *into, const char *value, struct error *err)
{
    return json_object_set_new(((struct ct_create_options *)into)->document, "template_name",
                               json_string(value));
}

static int set_true(struct ct_create_options *options, const char *key)
{
    return json_object_set_new(options->document, key, json_string("true"));
}

static int parse_autostart(void *into, const char *value, struct error *err)
{
    return set_true(into, "autostart");
}

static int parse_nesting(void *into, const char *value, struct error *err)
{
    return set_true(into, "nesting");
}

static int parse_privileged(void *into, const char *value, struct error *err)
{
    return set_true(into, "privileged");
}

static int parse_set(void *into, const char *value, struct error *err)
{
    return config_change(((struct ct_create_options *)into)->document, value, err);
}

static int parse_bridge(void *into, const char *value, struct error *err)
{
    ((struct ct_create_options *)into)->bridge = value;
    return strlen(value) < IFNAMSIZ ? 0
                                    : error_set(err, EINVAL, "'%.40s' is no network device", value);
}

static int parse_ip(void *into, const char *value, struct error *err)
{
    ((struct ct_create_options *)into)->ip = value;
    return 0;
}

static int parse_ip_start(void *into, const char *value, struct error *err)
{
    ((struct ct_create_options *)into)->ip_start = value;
    return 0;
}

static int parse_gateway(void *into, const char *value, struct error *err)
{
    struct network_address address;
    ((struct ct_create_options *)into)->gateway = value;
    return network_parse(value, 0, true, &address, err);
}

static int parse_count(void *into, const char *value, struct error *err)
{
    return number_parse(value, 1, MAX_COUNT, &((struct ct_create_options *)into)->count, err);
}

static int parse_start(void *into, const char *value, struct error *err)
{
    ((struct ct_create_options *)into)->starts = true;
    return 0;
}

static int parse_resume(void *into, const char *value, struct error *err)
{
    ((struct ct_create_options *)into)->resumes = true;
    return 0;
}

static const struct option_spec create_table[] = {
    {"from", 0, "TEMPLATE", "the template that it stands on", "TEMPLATE", parse_from},
    {"root", 0, "DIR", "a folder with a root file system, in place of a template", "DIR",
     parse_root},
    {"count", 'n', "N", "make so many: NAME-1 to NAME-N", NULL, parse_count},
    {"ip-start", 0, "ADDRESS", "the first one's address; the others have the following ones", NULL,
     parse_ip_start},
    {"start", 0, NULL, "start what is made", NULL, parse_start},
    {"resume", 0, NULL, "go on with a --count that failed in part: keep those that are there", NULL,
     parse_resume},
    {"ip", 0, "ADDRESS", "its address, perhaps with /PREFIX; auto (default) takes a free one; none",
     "auto|none", parse_ip},
    {"bridge", 0, "NAME",
     "the bridge of its network card (default: " NETWORK_DEFAULT_BRIDGE ", made if it is missing); "
     "none: no card",
     NULL, parse_bridge},
    {"gateway", 0, "ADDRESS", "its gateway (default: the bridge's address)", NULL, parse_gateway},
    {"network", 0, "CARD",
     "a network card in all detail: bridge=NAME,name=eth0,ip=A/N,gateway=A,mac=M,mtu=N", NULL,
     parse_network},
    {"dns", 0, "ADDRESS", "a name server", NULL, parse_dns},
    {"hostname", 0, "NAME", "its name for itself (default: NAME)", NULL, parse_hostname},
    {"cpus", 'c', "N", "CPUs that it may use at once, also parts: 0.5", NULL, parse_cpus},
    {"cpu-shares", 0, "N", "its weight when CPUs are short (default: 1024)", NULL,
     parse_cpu_shares},
    {"cpu-set", 0, "LIST", "the CPUs that it may use: 0-1,3", NULL, parse_cpu_set},
    {"pool", 0, "POOL", "the pool of CPUs that it is in", NULL, parse_pool},
    {"memory", 'm', "SIZE", "most memory, caches included", NULL, parse_memory},
    {"swap", 0, "SIZE", "most swap, beside the memory; 0: none", NULL, parse_swap},
    {"processes", 0, "N", "most processes and threads", NULL, parse_processes},
    {"disk", 0, "SIZE", "most that its private files may occupy", NULL, parse_disk},
    {"mount", 0, "SOURCE:TARGET[:ro]", "a folder or file of the host, shown in the container", NULL,
     parse_mount},
    {"env", 'e', "NAME=VALUE", "a variable for its init", NULL, parse_environment},
    {"autostart", 0, NULL, "start it with the host", NULL, parse_autostart},
    {"order", 0, "N", "its place among those that start with the host", NULL, parse_order},
    {"nesting", 0, NULL, "allow containers inside", NULL, parse_nesting},
    {"privileged", 0, NULL, "run with the host's ids: its root is the host's", NULL,
     parse_privileged},
    {"set", 0, "KEY=VALUE", "any other key, see `hull ct set --help`", NULL, parse_set},
    CT_OPTION_QUIET,
    CT_OPTION_STATE,
    {0},
};

/* A bridge's own network: what --ip without a prefix and --gateway default to. */
struct bridge {
    const char *name;
    struct network_address own; /* family 0: none */
};

static int look_at_bridge(const struct ct_create_options *options, struct bridge *out,
                          struct error *err)
{
    struct network_address addresses[NETWORK_MAX_ADDRESSES];
    size_t count = 0;
    struct error missing;
    out->name = options->bridge != NULL ? options->bridge : NETWORK_DEFAULT_BRIDGE;
    bool is_default = strcmp(out->name, NETWORK_DEFAULT_BRIDGE) == 0;
    int rc = network_device_addresses(out->name, addresses, &count, is_default ? &missing : err);
    for (size_t i = 0; rc == 0 && i < count && out->own.family == 0; i++) {
        if (addresses[i].family == AF_INET) {
            out->own = addresses[i];
        }
    }
    if (out->own.family == 0 && is_default) {
        rc = network_parse(NETWORK_DEFAULT_ADDRESS, 0, true, &out->own, err);
    }
    return rc;
}

static const char *option_of(const struct ct_create_options *options)
{
    return options->ip_start != NULL ? "--ip-start" : "--ip";
}

/* "bridge=B,ip=A/N,gateway=G" for the container 'offset' further. */
static int make_card(const struct ct_create_options *options, const struct life_index *index,
                     const struct bridge *bridge, uint32_t offset, char *out_card, size_t size,
                     struct error *err)
{
    struct network_address address = {0}, first;
    const char *given = options->ip_start != NULL ? options->ip_start : options->ip;
    unsigned prefix = bridge->own.family == AF_INET ? bridge->own.prefix : 24;
    int rc = 0;
    if (given != NULL && strcmp(given, "none") == 0) {
        (void)snprintf(out_card, size, "bridge=%s", bridge->name);
        return 0;
    }
    if (given != NULL && strcmp(given, "auto") != 0) {
        rc = network_parse(given, strchr(given, ':') != NULL ? 64 : prefix, true, &first, err);
        rc = rc < 0 ? rc : network_advance(&first, offset, &address, err);
    } else if (bridge->own.family != 0) {
        rc = life_index_find_address(index, bridge->name, &bridge->own, &address, err);
    } else {
        rc = error_set(err, EINVAL,
                       "bridge %s has no IPv4 address to choose one from: --ip says which, or none",
                       bridge->name);
    }
    if (rc < 0) {
        return error_prefix(err, rc, "%s", option_of(options));
    }
    char text[NETWORK_TEXT_SIZE], gateway[NETWORK_TEXT_SIZE] = "";
    network_format(&address, true, text);
    if (options->gateway != NULL) {
        (void)snprintf(gateway, sizeof(gateway), "%s", options->gateway);
    } else if (network_contains(&bridge->own, &address)) {
        network_format(&bridge->own, false, gateway);
    }
    (void)snprintf(out_card, size, "bridge=%s,ip=%s%s%s", bridge->name, text,
                   gateway[0] != '\0' ? ",gateway=" : "", gateway);
    return 0;
}

/* One container; 'offset' of those that are made together. */
static int create_one(const struct ct_create_options *options, struct life_index *index,
                      const struct bridge *bridge, const char *name, uint32_t offset,
                      struct error *err)
{
    json_t *document = json_deep_copy(options->document);
    int rc = 0;
    if (bridge->name != NULL) {
        char card[256];
        rc = make_card(options, index, bridge, offset, card, sizeof(card), err);
        if (rc == 0) {
            (void)json_object_set_new(document, "network", json_pack("[s]", card));
        }
    }
    rc = rc < 0 ? rc : life_create(index, name, document, err);
    json_decref(document);
    return rc;
}

struct made {
    char **name; /* those that are to be started */
    size_t count;
};

static int name_of(const struct ct_create_options *options, const char *base, uint64_t i,
                   char **out_name)
{
    int n = options->count == 0 ? asprintf(out_name, "%s", base)
                                : asprintf(out_name, "%s-%llu", base, (unsigned long long)i + 1);
    return n < 0 ? -ENOMEM : 0;
}

/* Addresses that were given are asked for on the bridge, all at once; those of containers are known. */
static int probe(const struct ct_create_options *options, const struct life_index *index,
                 const struct bridge *bridge, struct error *err)
{
    const char *given = options->ip_start != NULL ? options->ip_start : options->ip;
    if (bridge->name == NULL || if_nametoindex(bridge->name) == 0 || given == NULL ||
        strcmp(given, "auto") == 0 || strcmp(given, "none") == 0) {
        return 0;
    }
    uint64_t count = options->count != 0 ? options->count : 1;
    AUTO_FREE struct network_address *address = calloc(count, sizeof(*address));
    AUTO_FREE bool *used = calloc(count, sizeof(*used));
    struct network_address first;
    size_t asked = 0;
    int rc = address == NULL || used == NULL ? error_set(err, ENOMEM, "no memory for addresses")
                                             : network_parse(given, 0, true, &first, err);
    if (rc < 0) {
        return error_prefix(err, rc, "%s", option_of(options));
    }
    if (strchr(given, '/') == NULL) {
        first.prefix = first.family == AF_INET ? 1 : 64; /* its network is looked at later */
    }
    for (uint64_t i = 0; i < count; i++) {
        struct error beyond; /* is told where it is made */
        if (network_advance(&first, (uint32_t)i, &address[asked], &beyond) < 0) {
            break;
        }
        asked += life_index_owner(index, bridge->name, &address[asked]) == NULL;
    }
    /* A container that has just ended may answer until the kernel has taken its devices away. */
    for (unsigned i = 0; asked != 0 && i < PROBE_TRIES; i++) {
        rc = network_probe(bridge->name, address, asked, PROBE_TIMEOUT_MS, used, err);
        if (rc <= 0) {
            return rc;
        }
        (void)poll(NULL, 0, PROBE_PAUSE_MS);
    }
    for (size_t i = 0; rc > 0 && i < asked; i++) {
        if (used[i]) {
            char text[NETWORK_TEXT_SIZE];
            network_format(&address[i], false, text);
            rc = error_set(err, EADDRINUSE, "address %s: somebody at bridge %s has it already",
                           text, bridge->name);
        }
    }
    return rc;
}

/* All of them, one after the other: that is quick, and addresses stay in order. A failure is told, and those before it are
 * kept. */
static int create_all(const struct ct_create_options *options, const struct life *life,
                      const char *base, struct made *made)
{
    struct bridge bridge = {0};
    struct error err = {0};
    /* An ordinary user can have none at a bridge. */
    bool has_card = json_object_get(options->document, "network") != NULL ||
                    (options->bridge == NULL && !rootless_is_host_root()) ||
                    (options->bridge != NULL && strcmp(options->bridge, "none") == 0);
    struct life_index *index = NULL;
    int rc = has_card ? 0 : look_at_bridge(options, &bridge, &err);
    rc = rc < 0 ? rc : life_index_open(life, &index, &err);
    rc = rc < 0 ? rc : probe(options, index, &bridge, &err);
    uint64_t count = options->count != 0 ? options->count : 1;
    struct progress progress;
    progress_begin(&progress, "making containers", options->ct.is_quiet);
    made->name = calloc(count + 1, sizeof(char *));
    for (uint64_t i = 0; rc == 0 && made->name != NULL && i < count; i++) {
        char *name = NULL;
        rc = name_of(options, base, i, &name);
        rc = rc < 0 ? error_set(&err, ENOMEM, "no memory")
                    : create_one(options, index, &bridge, name, (uint32_t)i, &err);
        if (rc == -EEXIST && options->resumes) {
            rc = 0;
        }
        if (rc == 0) {
            made->name[made->count++] = TAKE_PTR(name);
        }
        free(name);
        progress_update(&progress, i + 1, count);
    }
    progress_end(&progress);
    life_index_close(index);
    if (rc < 0 && made->count != 0) {
        (void)fprintf(stderr,
                      "hull: %s\nhull: %zu of %llu containers were made; the same command with "
                      "--resume makes the others\n",
                      err.text, made->count, (unsigned long long)count);
        return CLI_FAILURE;
    }
    return rc < 0 ? cli_fail(&err) : CLI_OK;
}

/* Of those that --resume found, the ones that run already are left alone. */
static void leave_running(const struct life *life, struct made *made)
{
    size_t kept = 0;
    for (size_t i = 0; i < made->count; i++) {
        if (life_status(life, made->name[i]) == LIFE_STOPPED) {
            made->name[kept++] = made->name[i];
        } else {
            free(made->name[i]);
        }
    }
    made->count = kept;
}

static int check(const struct ct_create_options *options, int count, const char **out_base,
                 struct error *err, char **argv)
{
    const char *from = json_string_value(json_object_get(options->document, "template_name"));
    bool has_root = json_object_get(options->document, "root") != NULL;
    if ((from != NULL) == has_root) {
        return error_set(err, EINVAL,
                         "one of --from TEMPLATE and --root DIR says what it stands on");
    }
    if (count == 0 && (options->count == 0 || from == NULL)) {
        return error_set(err, EINVAL, "no name is given: hull ct create NAME ...");
    }
    if (options->ip != NULL && options->ip_start != NULL) {
        return error_set(err, EINVAL, "--ip and --ip-start exclude each other");
    }
    if (options->count > 1 && options->ip != NULL && strcmp(options->ip, "none") != 0 &&
        strcmp(options->ip, "auto") != 0) {
        return error_set(err, EINVAL, "--ip: many cannot have one address: --ip-start");
    }
    bool has_place = options->ip != NULL || options->ip_start != NULL || options->gateway != NULL;
    if (json_object_get(options->document, "network") != NULL &&
        (has_place || options->bridge != NULL)) {
        return error_set(err, EINVAL, "--network says all: no --ip, --bridge or --gateway then");
    }
    *out_base = count != 0 ? argv[0] : from;
    return store_check_name("container", *out_base, err);
}

static int create_run(int argc, char **argv)
{
    struct ct_create_options options = {.document = json_object()};
    struct life life;
    struct made made = {0};
    struct error err = {0};
    const char *base = NULL;
    int count;
    int status = cli_words(&ct_create_verb, 0, 1, argc, argv, &options, &count);
    if (status < 0) {
        int rc = check(&options, count, &base, &err, argv);
        rc = rc < 0 ? rc : ct_open(&options.ct, &life, &err);
        status = rc < 0 ? cli_fail(&err) : create_all(&options, &life, base, &made);
        if (options.starts && made.count != 0) {
            leave_running(&life, &made);
            int started =
                ct_start(&life, (const char *const *)made.name, made.count, options.ct.is_quiet);
            status = status != CLI_OK ? status : started;
        }
    }
    for (size_t i = 0; i < made.count; i++) {
        free(made.name[i]);
    }
    free(made.name);
    json_decref(options.document);
    return status;
}

const struct verb ct_create_verb = {
    .name = "ct create",
    .arguments = "[NAME]",
    .summary = "Make containers of a template",
    .description =
        "The container shares the template's files and writes to its own. Its users and groups are a\n"
        "range of ids of their own on the host. It gets a network card on a bridge, with an address\n"
        "from the bridge's network.\n"
        "\n"
        "With --count, names and addresses are consecutive, and NAME may be left away: it is that of\n"
        "the template then. One that fails is named, and those before it stay.\n",
    .examples =
        "  hull ct create web --from debian --memory 512M --cpus 2 --start\n"
        "  hull ct create db --from debian --ip 10.90.0.5 --disk 10G --mount /srv/db:/var/lib/db\n"
        "  hull ct create --from debian --count 20 --ip-start 10.90.0.10 --start\n",
    .options = create_table,
    .run = create_run,
};
