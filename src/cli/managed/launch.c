/* hull launch and create. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/size.h"
#include "cli/managed/managed.h"

#define MAX_COUNT    1000
#define MAX_PROFILES 16
#define MAX_SETTINGS 64
#define MAX_NUMBER   10000 /* of made up names */

struct launch_options {
    struct managed_options managed;
    const char *kind; /* NULL: hulld's default */
    const char *profiles[MAX_PROFILES];
    size_t profile_count;
    const char *settings[MAX_SETTINGS]; /* "KEY=VALUE" */
    size_t setting_count;
    const char *cpus, *memory, *disk, *network, *description;
    uint64_t count; /* 0: not given */
    struct in_addr first_ip;
    bool has_ip, no_start;
};

static int parse_vm(void *into, const char *value, struct error *err)
{
    ((struct launch_options *)into)->kind = "vm";
    return 0;
}

static int parse_container(void *into, const char *value, struct error *err)
{
    ((struct launch_options *)into)->kind = "container";
    return 0;
}

static int parse_cpus(void *into, const char *value, struct error *err)
{
    ((struct launch_options *)into)->cpus =
        value; /* a container's may be a fraction: hulld checks it */
    return 0;
}

static int parse_memory(void *into, const char *value, struct error *err)
{
    uint64_t bytes;
    ((struct launch_options *)into)->memory = value;
    return size_parse(value, 1u << 20, &bytes, err);
}

static int parse_disk(void *into, const char *value, struct error *err)
{
    uint64_t bytes;
    ((struct launch_options *)into)->disk = value;
    return size_parse(value, 1, &bytes, err);
}

static int parse_network(void *into, const char *value, struct error *err)
{
    ((struct launch_options *)into)->network = value;
    return 0;
}

static int parse_description(void *into, const char *value, struct error *err)
{
    ((struct launch_options *)into)->description = value;
    return 0;
}

static int parse_profile(void *into, const char *value, struct error *err)
{
    struct launch_options *options = into;
    if (options->profile_count == MAX_PROFILES) {
        return error_set(err, EINVAL, "at most %d", MAX_PROFILES);
    }
    options->profiles[options->profile_count++] = value;
    return 0;
}

static int parse_set(void *into, const char *value, struct error *err)
{
    struct launch_options *options = into;
    if (options->setting_count == MAX_SETTINGS) {
        return error_set(err, EINVAL, "at most %d", MAX_SETTINGS);
    }
    options->settings[options->setting_count++] = value;
    json_t *scratch = json_object();
    int rc = managed_set(scratch, value, err);
    json_decref(scratch);
    return rc;
}

static int parse_count(void *into, const char *value, struct error *err)
{
    return number_parse(value, 1, MAX_COUNT, &((struct launch_options *)into)->count, err);
}

static int parse_ip_start(void *into, const char *value, struct error *err)
{
    struct launch_options *options = into;
    options->has_ip = true;
    return inet_pton(AF_INET, value, &options->first_ip) == 1
               ? 0
               : error_set(err, EINVAL, "'%.40s' is no IPv4 address", value);
}

static int parse_no_start(void *into, const char *value, struct error *err)
{
    ((struct launch_options *)into)->no_start = true;
    return 0;
}

#define CREATE_OPTIONS                                                                             \
    {"vm", 0, NULL, "as a VM", NULL, parse_vm},                                                    \
        {"container", 0, NULL, "as a container", NULL, parse_container},                           \
        {"cpus", 'c', "N", "how many CPUs it may use", NULL, parse_cpus},                          \
        {"memory", 'm', "SIZE", "how much memory it has", NULL, parse_memory},                     \
        {"disk", 'd', "SIZE", "how large its root disk is", NULL, parse_disk},                     \
        {"network", 'n',          "NETWORK", "what its network card eth0 is connected to",         \
         "NETWORK", parse_network},                                                                \
        {"profile", 'p',                                                                           \
         "PROFILE", "a profile, in the order in which they are given (default: default)",          \
         "PROFILE", parse_profile},                                                                \
        {"set",       's',                                                                         \
         "KEY=VALUE", "any key of its configuration, or DEVICE.PROPERTY=VALUE of a device",        \
         NULL,        parse_set},                                                                  \
        {"description", 0, "TEXT", "what it is for", NULL, parse_description},                     \
        {"count", 0, "N", "N of them: NAME-1, NAME-2, ...", NULL, parse_count},                    \
        {"ip-start", 0,                                                                            \
         "ADDRESS",  "the first one's IPv4 address; the others have the next ones",                \
         NULL,       parse_ip_start},                                                              \
        MANAGED_OPTION_QUIET

static const struct option_spec launch_table[] = {
    CREATE_OPTIONS,
    {"no-start", 0, NULL, "only make it", NULL, parse_no_start},
    {0},
};
static const struct option_spec create_table[] = {
    CREATE_OPTIONS,
    {0},
};

/* "debian/12" as the beginning of a name: "debian-12". */
static void name_base(const char *image, char *out_base, size_t size)
{
    size_t used = 0;
    for (; *image != '\0' && used + 1 < size && used < 40; image++) {
        char c = *image;
        bool is_plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
        if (c >= 'A' && c <= 'Z') {
            out_base[used++] = (char)(c - 'A' + 'a');
        } else if (is_plain) {
            out_base[used++] = c;
        } else if (used > 0 && out_base[used - 1] != '-') {
            out_base[used++] = '-';
        }
    }
    while (used > 0 && out_base[used - 1] == '-') {
        used--;
    }
    out_base[used] = '\0';
    if (used == 0) {
        (void)snprintf(out_base, size, "instance");
    }
}

/* Are the names BASE-FIRST ... free? */
static bool are_free(const json_t *names, const char *base, unsigned first, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char name[80];
        (void)snprintf(name, sizeof(name), "%s-%u", base, first + (unsigned)i);
        if (json_object_get(names, name) != NULL) {
            return false;
        }
    }
    return true;
}

/* The first number with which 'count' names are free. */
static int find_number(struct client *client, const char *base, size_t count, unsigned *out_first,
                       struct error *err)
{
    json_t *list, *row;
    size_t i;
    int rc = client_call(client, "GET", "/v1/instances", NULL, NULL, &list, err);
    if (rc < 0) {
        return rc;
    }
    json_t *names = json_object();
    json_array_foreach(list, i, row)
    {
        const char *name = json_string_value(json_object_get(row, "name"));
        if (name != NULL) {
            (void)json_object_set_new(names, name, json_true());
        }
    }
    unsigned first = 1;
    while (first < MAX_NUMBER && !are_free(names, base, first, count)) {
        first++;
    }
    *out_first = first;
    json_decref(names);
    json_decref(list);
    return 0;
}

static void set_member(json_t *document, const char *outer, const char *device, const char *key,
                       const char *value)
{
    if (value == NULL) {
        return;
    }
    json_t *into = json_object_get(document, outer);
    if (device != NULL) {
        json_t *found = json_object_get(into, device);
        if (found == NULL) {
            found = json_object();
            (void)json_object_set_new(into, device, found);
        }
        into = found;
    }
    (void)json_object_set_new(into, key, json_string(value));
}

/* The request for one; 'index' of those that are made at once. */
static int make_request(const struct launch_options *options, const char *image, const char *name,
                        unsigned index, bool starts, json_t **out_request, struct error *err)
{
    json_t *request = json_pack("{s:s, s:s, s:{}, s:{}, s:b}", "name", name, "image", image,
                                "config", "devices", "start", starts);
    if (request == NULL) {
        return error_set(err, EINVAL, "instance %.64s: its words are not UTF-8", name);
    }
    if (options->kind != NULL) {
        (void)json_object_set_new(request, "kind", json_string(options->kind));
    }
    if (options->description != NULL) {
        (void)json_object_set_new(request, "description", json_string(options->description));
    }
    if (options->profile_count > 0) {
        json_t *profiles = json_array();
        for (size_t i = 0; i < options->profile_count; i++) {
            (void)json_array_append_new(profiles, json_string(options->profiles[i]));
        }
        (void)json_object_set_new(request, "profiles", profiles);
    }
    set_member(request, "config", NULL, "cpus", options->cpus);
    set_member(request, "config", NULL, "memory", options->memory);
    set_member(request, "devices", "root", "size", options->disk);
    set_member(request, "devices", "eth0", "network", options->network);
    if (options->has_ip) {
        char text[INET_ADDRSTRLEN];
        struct in_addr address = {htonl(ntohl(options->first_ip.s_addr) + index)};
        set_member(request, "devices", "eth0", "ipv4",
                   inet_ntop(AF_INET, &address, text, sizeof(text)));
    }
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < options->setting_count; i++) {
        rc = managed_set(request, options->settings[i], err);
    }
    if (rc < 0) {
        json_decref(request);
        return rc;
    }
    *out_request = request;
    return 0;
}

/* Builds the image where it is not there. The exit status. */
static int need_image(struct client *client, const struct launch_options *options,
                      const char *image)
{
    struct error err;
    json_t *found;
    char *path = client_path("/v1/images", image, NULL);
    int rc = client_call(client, "GET", path, NULL, NULL, &found, &err);
    free(path);
    if (rc == 0) {
        json_decref(found);
        return CLI_OK;
    }
    if (rc != -ENOENT || strchr(image, '/') == NULL) {
        return cli_fail(&err);
    }
    if (!options->managed.is_quiet) {
        (void)fprintf(stderr, "image %s is not there yet: it is built first, which takes minutes\n",
                      image);
    }
    json_t *request =
        json_pack("{s:s, s:s, s:s}", "source", "build", "distribution", image, "alias", image);
    int status = managed_do(client, "POST", "/v1/images", request, options->managed.is_quiet, NULL);
    json_decref(request);
    return status;
}

static int make_all(struct client *client, const struct launch_options *options, const char *image,
                    const char *name, bool starts)
{
    struct batch batch;
    struct error err;
    char base[64], one[80];
    size_t count = options->count != 0 ? (size_t)options->count : 1;
    bool is_numbered = name == NULL || options->count != 0;
    unsigned first = 1;
    if (name != NULL) {
        (void)snprintf(base, sizeof(base), "%.63s", name);
    } else {
        name_base(image, base, sizeof(base));
    }
    if (is_numbered && find_number(client, base, count, &first, &err) < 0) {
        return cli_fail(&err);
    }
    batch_begin(&batch, client, starts ? "launching" : "creating", options->managed.is_quiet);
    for (size_t i = 0; i < count; i++) {
        json_t *request;
        (void)snprintf(one, sizeof(one), "%s", base);
        if (is_numbered) {
            (void)snprintf(one, sizeof(one), "%s-%u", base, first + (unsigned)i);
        }
        if (make_request(options, image, one, (unsigned)i, starts, &request, &err) < 0) {
            batch.has_failed = true;
            (void)cli_fail(&err);
            break;
        }
        batch_try(&batch, "POST", "/v1/instances", request);
        json_decref(request);
    }
    int status = batch_end(&batch, NULL);
    if (status == CLI_OK && name == NULL) { /* the user does not know what it is called */
        for (size_t i = 0; i < count; i++) {
            (void)printf("%s-%u\n", base, first + (unsigned)i);
        }
    }
    return status;
}

static int make_run(const struct verb *verb, bool starts, int argc, char **argv)
{
    struct launch_options options = {0};
    struct client client;
    struct error err = {0};
    int count;
    int status = cli_words(verb, 1, 2, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    if (count == 2 && strlen(argv[1]) > 63) {
        error_set(&err, EINVAL, "name %.80s: at most 63 characters", argv[1]);
        return cli_fail(&err);
    }
    if (managed_open(&client, &err) < 0) {
        return cli_fail(&err);
    }
    status = need_image(&client, &options, argv[0]);
    return status != CLI_OK ? status
                            : make_all(&client, &options, argv[0], count == 2 ? argv[1] : NULL,
                                       starts && !options.no_start);
}

static int launch_run(int argc, char **argv)
{
    return make_run(&launch_verb, true, argc, argv);
}

const struct verb launch_verb = {
    .name = "launch",
    .arguments = "IMAGE [NAME]",
    .summary = "Make an instance from an image, and start it",
    .description =
        "An instance is a VM or a container. Without NAME it is called like the image, with a number, and its name is\n"
        "printed. An image of a distribution (debian/12) that is not there is built first.\n",
    .examples = "  hull launch debian/12 web1\n"
                "  hull launch debian/12 db1 --vm --cpus 4 --memory 4G --disk 40G\n"
                "  hull launch debian/12 node --count 20 --ip-start 10.90.0.10\n"
                "  hull launch debian/12 web2 --profile small --set eth0.ipv4=10.90.0.5\n",
    .options = launch_table,
    .complete = "IMAGE",
    .run = launch_run,
};

static int create_run(int argc, char **argv)
{
    return make_run(&create_verb, false, argc, argv);
}

const struct verb create_verb = {
    .name = "create",
    .arguments = "IMAGE [NAME]",
    .summary = "Make an instance from an image, without starting it",
    .description = "The same as `hull launch --no-start`.\n",
    .examples = "  hull create debian/12 web1 --container --memory 512M\n",
    .options = create_table,
    .complete = "IMAGE",
    .run = create_run,
};
