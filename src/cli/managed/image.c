/* hull image. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "cli/managed/managed.h"

#define MAX_PACKAGES 128

struct image_options {
    struct managed_options managed;
    const char *alias, *variant, *format, *form, *kernel, *initrd, *append;
    const char *packages[MAX_PACKAGES];
    size_t package_count;
};

#define PARSE(member)                                                                              \
    static int parse_##member(void *into, const char *value, struct error *err)                    \
    {                                                                                              \
        ((struct image_options *)into)->member = value;                                            \
        return 0;                                                                                  \
    }
PARSE(alias)
PARSE(variant)
PARSE(format)
PARSE(kernel)
PARSE(initrd)
PARSE(append)

static int parse_vm(void *into, const char *value, struct error *err)
{
    ((struct image_options *)into)->form = "vm";
    return 0;
}

static int parse_container(void *into, const char *value, struct error *err)
{
    ((struct image_options *)into)->form = "container";
    return 0;
}

static int parse_package(void *into, const char *value, struct error *err)
{
    struct image_options *options = into;
    if (options->package_count == MAX_PACKAGES) {
        return error_set(err, EINVAL, "at most %d", MAX_PACKAGES);
    }
    options->packages[options->package_count++] = value;
    return 0;
}

static int begin(const struct verb *verb, int min, int max, int argc, char **argv, void *into,
                 int *out_count, struct client *client)
{
    struct error err;
    int status = cli_words(verb, min, max, argc, argv, into, out_count);
    return status >= 0 ? status : managed_open(client, &err) < 0 ? cli_fail(&err) : -1;
}

static void set(json_t *object, const char *key, const char *value)
{
    if (value != NULL) {
        (void)json_object_set_new(object, key, json_string(value));
    }
}

/* Files are hulld's to open: as absolute paths. */
static int set_path(json_t *object, const char *key, const char *path, struct error *err)
{
    char absolute[PATH_MAX];
    if (path == NULL) {
        return 0;
    }
    int rc = managed_absolute(path, absolute, err);
    if (rc == 0) {
        set(object, key, absolute);
    }
    return rc;
}

static const struct option_spec show_table[] = {
    OUTPUT_OPTION_JSON(managed_parse_json),
    OUTPUT_OPTION_FORMAT(managed_parse_output),
    {0},
};

static json_t *short_name(const json_t *row)
{
    const char *name = json_string_value(json_object_get(row, "name"));
    char text[16];
    if (name == NULL) {
        return json_string("-");
    }
    (void)snprintf(text, sizeof(text), "%.12s", strncmp(name, "sha256-", 7) == 0 ? name + 7 : name);
    return json_string(text);
}

static void add_texts(json_t *row)
{
    managed_add_words(row, "aliases", "aliases_text");
    managed_add_words(row, "forms", "forms_text");
    managed_add_size(row, "size_bytes", "size_text");
    managed_add_time(row, "created_at", "created_text");
    (void)json_object_set_new(row, "digest_text", short_name(row));
}

static int list_run(int argc, char **argv)
{
    static const struct output_column columns[] = {{"aliases_text", "IMAGE"},
                                                   {"digest_text", "DIGEST"},
                                                   {"forms_text", "FORMS"},
                                                   {"size_text", "SIZE"},
                                                   {"created_text", "CREATED"},
                                                   {"source", "SOURCE"},
                                                   {NULL, NULL}};
    struct managed_options options = {0};
    struct client client;
    int count;
    int status = begin(&image_list_verb, 0, 0, argc, argv, &options, &count, &client);
    return status >= 0 ? status
                       : managed_list(&client, "/v1/images", options.output, columns, add_texts);
}

const struct verb image_list_verb = {
    .name = "image list",
    .arguments = "",
    .summary = "List the images that there are",
    .examples = "  hull image list\n  hull image list --json\n",
    .options = show_table,
    .run = list_run,
};

static int info_run(int argc, char **argv)
{
    struct managed_options options = {0};
    struct client client;
    struct error err;
    json_t *info;
    int count;
    int status = begin(&image_info_verb, 1, 1, argc, argv, &options, &count, &client);
    if (status >= 0) {
        return status;
    }
    char *path = client_path("/v1/images", argv[0], NULL);
    int rc = client_call(&client, "GET", path, NULL, NULL, &info, &err);
    free(path);
    if (rc < 0) {
        return cli_fail(&err);
    }
    output_object(options.output, info);
    json_decref(info);
    return CLI_OK;
}

const struct verb image_info_verb = {
    .name = "image info",
    .arguments = "IMAGE",
    .summary = "Show what an image is",
    .description = "IMAGE is an alias, a digest, or the beginning of one.\n",
    .examples = "  hull image info debian/12\n",
    .options = show_table,
    .complete = "IMAGE",
    .run = info_run,
};

static const struct option_spec build_table[] = {
    {"alias", 'a', "NAME", "what it is called (default: like the distribution)", NULL, parse_alias},
    {"variant", 0, "VARIANT", "which of the distribution's variants", "minimal|standard|web",
     parse_variant},
    {"package", 'p', "NAME", "a further package in it", NULL, parse_package},
    {"vm", 0, NULL, "only for VMs", NULL, parse_vm},
    {"container", 0, NULL, "only for containers", NULL, parse_container},
    MANAGED_OPTION_QUIET,
    {0},
};

/* Makes the request, and prints what the image is called. Takes the body over. */
static int make(struct client *client, const struct image_options *options, json_t *body)
{
    json_t *result;
    int status = managed_do(client, "POST", "/v1/images", body, options->managed.is_quiet, &result);
    const char *digest = json_string_value(json_object_get(result, "name"));
    if (status == CLI_OK && digest != NULL && !options->managed.is_quiet) {
        (void)puts(digest);
    }
    json_decref(result);
    json_decref(body);
    return status;
}

static int build_run(int argc, char **argv)
{
    struct image_options options = {0};
    struct client client;
    int count;
    int status = begin(&image_build_verb, 1, 1, argc, argv, &options, &count, &client);
    if (status >= 0) {
        return status;
    }
    json_t *body = json_pack("{s:s, s:s, s:s}", "source", "build", "distribution", argv[0], "alias",
                             options.alias != NULL ? options.alias : argv[0]);
    set(body, "variant", options.variant);
    if (options.form != NULL) {
        (void)json_object_set_new(body, "forms", json_pack("[s]", options.form));
    }
    if (options.package_count > 0) {
        json_t *packages = json_array();
        for (size_t i = 0; i < options.package_count; i++) {
            (void)json_array_append_new(packages, json_string(options.packages[i]));
        }
        (void)json_object_set_new(body, "packages", packages);
    }
    return make(&client, &options, body);
}

const struct verb image_build_verb = {
    .name = "image build",
    .arguments = "DISTRIBUTION",
    .summary = "Build an image from a distribution's packages",
    .examples = "  hull image build debian/12\n"
                "  hull image build debian/12 --alias web --package nginx --package curl\n",
    .options = build_table,
    .run = build_run,
};

static const struct option_spec import_table[] = {
    {"alias", 'a', "NAME", "what it is called", NULL, parse_alias},
    {"format", 0, "FORMAT", "what the file is (default: it is looked at)",
     "tar|qcow2|raw|vmdk|vhdx|oci", parse_format},
    {"kernel", 0, "FILE", "of a disk: the kernel to boot it with (default: by its boot loader)",
     "FILE", parse_kernel},
    {"initrd", 0, "FILE", "of a disk: the initrd", "FILE", parse_initrd},
    {"append", 0, "TEXT", "of a disk: the kernel's command line", NULL, parse_append},
    MANAGED_OPTION_QUIET,
    {0},
};

static int import_run(int argc, char **argv)
{
    struct image_options options = {0};
    struct client client;
    struct error err;
    int count;
    int status = begin(&image_import_verb, 1, 1, argc, argv, &options, &count, &client);
    if (status >= 0) {
        return status;
    }
    json_t *body = json_pack("{s:s}", "source", "import");
    int rc = 0;
    if (strstr(argv[0], "://") != NULL) {
        set(body, "url", argv[0]);
    } else {
        rc = set_path(body, "path", argv[0], &err);
    }
    set(body, "alias", options.alias);
    set(body, "format", options.format);
    set(body, "append", options.append);
    rc = rc < 0 ? rc : set_path(body, "kernel", options.kernel, &err);
    rc = rc < 0 ? rc : set_path(body, "initrd", options.initrd, &err);
    if (rc < 0) {
        json_decref(body);
        return cli_fail(&err);
    }
    return make(&client, &options, body);
}

const struct verb image_import_verb = {
    .name = "image import",
    .arguments = "FILE|URL",
    .summary = "Make an image from a disk, a tar of a root file system, or an OCI image",
    .examples = "  hull image import disk.qcow2 --alias mine\n"
                "  hull image import root.tar --alias small\n"
                "  hull image import docker://docker.io/library/debian --alias debian-oci\n",
    .options = import_table,
    .complete = "FILE",
    .run = import_run,
};

static const struct option_spec export_table[] = {
    {"vm", 0, NULL, "the VM's form", NULL, parse_vm},
    {"container", 0, NULL, "the container's form", NULL, parse_container},
    {"format", 0, "FORMAT", "what to write", "tar.zst|tar.gz|tar.xz|tar|qcow2|raw|vmdk|vhdx",
     parse_format},
    MANAGED_OPTION_QUIET,
    {0},
};

static int export_run(int argc, char **argv)
{
    struct image_options options = {0};
    struct client client;
    struct error err;
    int count;
    int status = begin(&image_export_verb, 2, 2, argc, argv, &options, &count, &client);
    if (status >= 0) {
        return status;
    }
    json_t *body = json_object();
    set(body, "form", options.form);
    set(body, "format", options.format);
    if (set_path(body, "path", argv[1], &err) < 0) {
        json_decref(body);
        return cli_fail(&err);
    }
    char *path = client_path("/v1/images", argv[0], "export", NULL);
    status = managed_do(&client, "POST", path, body, options.managed.is_quiet, NULL);
    free(path);
    json_decref(body);
    return status;
}

const struct verb image_export_verb = {
    .name = "image export",
    .arguments = "IMAGE FILE",
    .summary = "Write an image into a file",
    .examples = "  hull image export debian/12 debian.tar --container\n"
                "  hull image export debian/12 debian.qcow2 --vm\n",
    .options = export_table,
    .complete = "IMAGE",
    .run = export_run,
};

static const struct option_spec quiet_table[] = {
    MANAGED_OPTION_QUIET,
    {0},
};

/* Deletes what the words name below a collection. */
static int delete_all(const struct verb *verb, const char *collection, const char *label, int argc,
                      char **argv)
{
    struct managed_options options = {0};
    struct client client;
    struct batch batch;
    int count;
    int status = begin(verb, 1, -1, argc, argv, &options, &count, &client);
    if (status >= 0) {
        return status;
    }
    batch_begin(&batch, &client, label, options.is_quiet);
    for (int i = 0; i < count; i++) {
        char *path = client_path(collection, argv[i], NULL);
        batch_try(&batch, "DELETE", path, NULL);
        free(path);
    }
    return batch_end(&batch, NULL);
}

static int delete_run(int argc, char **argv)
{
    return delete_all(&image_delete_verb, "/v1/images", "deleting images", argc, argv);
}

const struct verb image_delete_verb = {
    .name = "image delete",
    .arguments = "IMAGE...",
    .summary = "Delete images",
    .description = "Instances that were made from them keep what they need.\n",
    .examples = "  hull image delete debian/12\n",
    .options = quiet_table,
    .complete = "IMAGE",
    .run = delete_run,
};

static int prune_run(int argc, char **argv)
{
    struct managed_options options = {0};
    struct client client;
    int count;
    int status = begin(&image_prune_verb, 0, 0, argc, argv, &options, &count, &client);
    if (status >= 0) {
        return status;
    }
    return managed_prune(&client, options.is_quiet);
}

const struct verb image_prune_verb = {
    .name = "image prune",
    .arguments = "",
    .summary = "Delete images that have no alias and that no instance was made from",
    .examples = "  hull image prune\n",
    .options = quiet_table,
    .run = prune_run,
};

static int alias_list_run(int argc, char **argv)
{
    static const struct output_column columns[] = {
        {"name", "ALIAS"}, {"digest", "DIGEST"}, {NULL, NULL}};
    struct managed_options options = {0};
    struct client client;
    int count;
    int status = begin(&image_alias_list_verb, 0, 0, argc, argv, &options, &count, &client);
    return status >= 0 ? status
                       : managed_list(&client, "/v1/aliases", options.output, columns, NULL);
}

const struct verb image_alias_list_verb = {
    .name = "image alias list",
    .arguments = "",
    .summary = "List the names of images",
    .examples = "  hull image alias list\n",
    .options = show_table,
    .run = alias_list_run,
};

static int alias_set_run(int argc, char **argv)
{
    struct managed_options options = {0};
    struct client client;
    int count;
    int status = begin(&image_alias_set_verb, 2, 2, argc, argv, &options, &count, &client);
    if (status >= 0) {
        return status;
    }
    json_t *body = json_pack("{s:s}", "image", argv[1]);
    char *path = client_path("/v1/aliases", argv[0], NULL);
    status = managed_do(&client, "PUT", path, body, options.is_quiet, NULL);
    free(path);
    json_decref(body);
    return status;
}

const struct verb image_alias_set_verb = {
    .name = "image alias set",
    .arguments = "ALIAS IMAGE",
    .summary = "Give an image a name, which another one may have had",
    .examples = "  hull image alias set web sha256-6f1c\n",
    .options = quiet_table,
    .complete = "IMAGE",
    .run = alias_set_run,
};

static int alias_delete_run(int argc, char **argv)
{
    return delete_all(&image_alias_delete_verb, "/v1/aliases", "deleting names", argc, argv);
}

const struct verb image_alias_delete_verb = {
    .name = "image alias delete",
    .arguments = "ALIAS...",
    .summary = "Take names away; the images stay",
    .examples = "  hull image alias delete web\n",
    .options = quiet_table,
    .complete = "IMAGE",
    .run = alias_delete_run,
};

static const struct verb *const alias_verbs[] = {
    &image_alias_list_verb,
    &image_alias_set_verb,
    &image_alias_delete_verb,
    NULL,
};

const struct verb image_alias_verb = {
    .name = "image alias",
    .arguments = "VERB [ALIAS] [IMAGE]",
    .summary = "Names of images",
    .examples = "  hull image alias list\n",
    .verbs = alias_verbs,
};

static const struct verb *const image_verbs[] = {
    &image_list_verb,   &image_build_verb, &image_import_verb,
    &image_export_verb, &image_info_verb,  &image_delete_verb,
    &image_alias_verb,  &image_prune_verb, NULL,
};

const struct verb image_verb = {
    .name = "image",
    .arguments = "VERB [IMAGE]",
    .summary = "Build, import, list and delete images",
    .description =
        "An image is a root file system from which instances start, VMs and containers alike. It is known by the digest\n"
        "of its content, to which aliases (debian/12) point.\n",
    .examples = "  hull image build debian/12\n  hull image list\n",
    .verbs = image_verbs,
};
