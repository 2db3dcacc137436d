/* A whole document: what it begins with, and the sections. */
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/host/file.h"
#include "container/spec/read.h"

/* Text of 16 MiB makes nodes of many times that, if it is written so; a real one of 30 KiB needs 300 KiB. */
#define MAX_TREE_BYTES (64u << 20)
#define MAX_KEPT_BYTES (64u << 20)
#define MAX_HOST_NAME  64 /* __NEW_UTS_LEN */

#define AT(member) offsetof(struct spec, member)

/* Lies at the begin of its own arena. */
struct document {
    struct spec spec;
    struct arena arena;
};

static bool is_identifiers(const char **text, const char *stops)
{
    size_t length;
    do {
        length = strspn(*text, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-");
        *text += length;
    } while (length > 0 && **text == '.' && *++*text != '\0');
    return length > 0 && (*text)[-1] != '.' && (**text == '\0' || strchr(stops, **text) != NULL);
}

/* MAJOR.MINOR.PATCH[-PRERELEASE][+BUILD] of semver.org 2.0.0. */
static bool is_version(const char *text)
{
    for (unsigned part = 0; part < 3; part++) {
        size_t digits = strspn(text, "0123456789");
        if (digits == 0 || (digits > 1 && text[0] == '0')) {
            return false;
        }
        text += digits;
        if (part < 2 && *text++ != '.') {
            return false;
        }
    }
    if (*text == '-' && (text++, !is_identifiers(&text, "+"))) {
        return false;
    }
    if (*text == '+' && (text++, !is_identifiers(&text, ""))) {
        return false;
    }
    return *text == '\0';
}

/* What a younger minor version adds is to be ignored. */
static int read_version(struct reader *reader, const struct node *node, const struct field *field,
                        void *out)
{
    int rc = read_text(reader, node, field, out);
    if (rc < 0) {
        return rc;
    }
    const char *version = *(const char **)out;
    if (!is_version(version)) {
        return reader_fail(reader, node, NULL, "'%.40s' is not a version like " SPEC_VERSION,
                           version);
    }
    if (strncmp(version, "1.", 2) != 0) {
        return reader_fail(reader, node, NULL,
                           "version %.40s is not supported, " SPEC_VERSION_MIN " to " SPEC_VERSION
                           " are",
                           version);
    }
    return 0;
}

static int read_root(struct reader *reader, const struct node *node, const struct field *unused,
                     void *out)
{
    static const struct field fields[] = {
        {"path", read_text, AT(root_path), true},
        {"readonly", read_bool, AT(is_root_readonly)},
    };
    return read_object(reader, node, fields, ARRAY_COUNT(fields), out);
}

static int read_host_name(struct reader *reader, const struct node *node, const struct field *field,
                          void *out)
{
    int rc = read_text(reader, node, field, out);
    if (rc == 0 && node->length > MAX_HOST_NAME) {
        rc = reader_fail(reader, node, NULL, "must not be longer than %d bytes", MAX_HOST_NAME);
    }
    return rc;
}

static int read_process_section(struct reader *reader, const struct node *node,
                                const struct field *field, void *out)
{
    struct spec *spec = (struct spec *)((char *)out - field->offset);
    spec->has_process = true;
    return read_process(reader, node, NULL, out);
}

static int read_document(struct reader *reader, const struct node *node, const struct field *unused,
                         void *out)
{
    static const struct field fields[] = {
        {"ociVersion", read_version, AT(version), true},
        {"process", read_process_section, AT(process)},
        {"root", read_root, 0, true},
        {"hostname", read_host_name, AT(hostname)},
        {"domainname", read_host_name, AT(domainname)},
        {"mounts", read_mounts, AT(mounts)},
        {"hooks", read_hooks, AT(hooks)},
        {"annotations", read_pairs, AT(annotations)},
        {"linux", read_linux, AT(linux_)},
    };
    struct spec *spec = out;
    int rc = read_object(reader, node, fields, ARRAY_COUNT(fields), spec);
    const char *name = spec->hostname != NULL     ? "hostname"
                       : spec->domainname != NULL ? "domainname"
                                                  : NULL;
    if (rc == 0 && name != NULL && spec_find_namespace(spec, CLONE_NEWUTS) == NULL) {
        rc = reader_fail(reader, node, name,
                         "needs a namespace of type uts in linux.namespaces, or it is the host's");
    }
    return rc;
}

static int read_process_alone(struct reader *reader, const struct node *node,
                              const struct field *unused, void *out)
{
    struct spec *spec = out;
    spec->has_process = true;
    return read_process(reader, node, NULL, &spec->process);
}

static int read_resources_alone(struct reader *reader, const struct node *node,
                                const struct field *unused, void *out)
{
    return read_resources(reader, node, NULL, &((struct spec *)out)->linux_.resources);
}

static int parse(const char *text, size_t size, read_fn read, struct spec **out_spec,
                 struct error *err)
{
    struct arena tree, kept;
    arena_init(&tree, MAX_TREE_BYTES);
    arena_init(&kept, MAX_KEPT_BYTES);
    struct reader reader = {.arena = &kept, .err = err};
    struct document *document = arena_alloc(&kept, sizeof(*document));
    const struct node *root = NULL;
    int rc = document == NULL ? error_set_errno(err, ENOMEM, "reading the configuration")
                              : tree_parse(&tree, text, size, &root, err);
    if (rc == 0) {
        rc = read(&reader, root, NULL, &document->spec);
    }
    arena_fini(&tree);
    if (rc < 0) {
        arena_fini(&kept);
        return rc;
    }
    document->arena = kept;
    *out_spec = &document->spec;
    return 0;
}

int spec_parse(const char *text, size_t size, struct spec **out_spec, struct error *err)
{
    return parse(text, size, read_document, out_spec, err);
}

int spec_parse_process(const char *text, size_t size, struct spec **out_spec, struct error *err)
{
    return parse(text, size, read_process_alone, out_spec, err);
}

int spec_parse_resources(const char *text, size_t size, struct spec **out_spec, struct error *err)
{
    return parse(text, size, read_resources_alone, out_spec, err);
}

int spec_load(const char *path, struct spec **out_spec, struct error *err)
{
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return error_set_errno(err, errno, "opening %s", path);
    }
    AUTO_FREE void *text = NULL;
    size_t size;
    int rc = file_read_whole(fd, TREE_MAX_BYTES, path, &text, &size, err);
    if (rc < 0) {
        return rc;
    }
    rc = spec_parse(text, size, out_spec, err);
    return rc < 0 ? error_prefix(err, rc, "%s", path) : 0;
}

void spec_destroy(struct spec *spec)
{
    if (spec != NULL) {
        struct arena arena = container_of(spec, struct document, spec)->arena;
        arena_fini(&arena);
    }
}
