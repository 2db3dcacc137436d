/* The 'mounts' section. */
#include <string.h>

#include "container/spec/mount_options.h"
#include "container/spec/read.h"

#define AT(member) offsetof(struct spec_mount, member)

/* "idmap needs ...": looked at once namespaces are known. */
static bool has_user_namespace(const struct node *mounts)
{
    const struct node *linux_ = node_find(mounts->parent, "linux");
    const struct node *namespaces = linux_ != NULL ? node_find(linux_, "namespaces") : NULL;
    const struct node *n = namespaces != NULL ? namespaces->first : NULL;
    while (n != NULL) {
        const struct node *type = node_find(n, "type");
        if (type != NULL && type->type == NODE_STRING && node_equals(type, "user")) {
            return true;
        }
        n = n->next;
    }
    return false;
}

/* A number and what must follow it; 'text' ends in NUL. */
static bool take_number(const char **text, char stop, uint32_t *out)
{
    uint64_t value = 0;
    size_t digits = strspn(*text, "0123456789");
    for (size_t i = 0; i < digits && value <= UINT32_MAX; i++) {
        value = value * 10 + (uint64_t)((*text)[i] - '0');
    }
    *text += digits;
    bool is_right = digits > 0 && value <= UINT32_MAX && (stop == '\0' || **text == stop);
    *text += is_right && stop != '\0' ? 1 : 0;
    *out = (uint32_t)value;
    return is_right;
}

/* "0-1000-10#10-20-5", up to ';' or the end. */
static bool take_mappings(const char **text, struct spec_id_mapping *items, size_t *out_count)
{
    bool goes_on = true;
    for (*out_count = 0; goes_on; ++*out_count) {
        struct spec_id_mapping *mapping = &items[*out_count];
        if (!take_number(text, '-', &mapping->container_id) ||
            !take_number(text, '-', &mapping->host_id) ||
            !take_number(text, '\0', &mapping->size) || mapping->size == 0) {
            return false;
        }
        goes_on = **text == '#';
        *text += goes_on;
    }
    return **text == ';' || **text == '\0';
}

/* crun's way to say a mount's mappings: "uids=...;gids=...". */
static int read_mappings_option(struct reader *reader, const struct node *node, size_t prefix,
                                struct spec_mount *mount)
{
    const char *text = reader_string(reader, node);
    if (text == NULL) {
        return -E2BIG;
    }
    text += prefix;
    bool goes_on = true, is_right = true;
    while (is_right && goes_on) {
        bool is_uids = strncmp(text, "uids=", 5) == 0;
        struct spec_id_mappings *mappings = is_uids ? &mount->uid_mappings : &mount->gid_mappings;
        if (!is_uids && strncmp(text, "gids=", 5) != 0) {
            is_right = false;
            break;
        }
        text += 5;
        /* A mapping takes six characters at least, with what parts it from the next. */
        struct spec_id_mapping *items =
            reader_alloc(reader, node, (node->length / 6 + (size_t)1) * sizeof(*items));
        if (items == NULL) {
            return -E2BIG;
        }
        is_right = take_mappings(&text, items, &mappings->count);
        mappings->item = items;
        int rc = is_right ? check_id_mappings(reader, node, mappings) : 0;
        if (rc < 0) {
            return rc;
        }
        goes_on = *text == ';';
        text += goes_on;
    }
    mount->has_idmap = true;
    mount->is_recursive_idmap |= node->string[0] == 'r';
    return is_right ? 0
                    : reader_fail(reader, node, NULL,
                                  "must be like idmap=uids=0-1000-10#10-20-5;gids=0-1000-10: "
                                  "begin inside, begin on the host, count");
}

static size_t mappings_prefix(const struct node *option)
{
    static const char *const prefixes[] = {"idmap=", "ridmap="};
    for (size_t i = 0; i < ARRAY_COUNT(prefixes); i++) {
        size_t length = strlen(prefixes[i]);
        if (option->length >= length && memcmp(option->string, prefixes[i], length) == 0) {
            return length;
        }
    }
    return 0;
}

/* Options of the file system's own are joined by commas. */
static int read_options(struct reader *reader, const struct node *node, const struct field *unused,
                        void *out)
{
    struct spec_mount *mount = out;
    int rc = read_expect(reader, node, NODE_LIST);
    size_t size = 1;
    for (const struct node *n = node->first; rc == 0 && n != NULL; n = n->next) {
        rc = read_expect(reader, n, NODE_STRING);
        size += n->length + 1;
    }
    if (rc < 0) {
        return rc;
    }
    char *data = reader_alloc(reader, node, size);
    if (data == NULL) {
        return -E2BIG;
    }
    mount->data = data;
    for (const struct node *n = node->first; rc == 0 && n != NULL; n = n->next) {
        size_t prefix = mappings_prefix(n);
        if (prefix > 0) {
            rc = read_mappings_option(reader, n, prefix, mount);
        } else if (!mount_option_apply(mount, n->string, n->length)) {
            *data = ',';
            data += data > mount->data ? 1 : 0;
            memcpy(data, n->string, n->length);
            data += n->length;
        }
    }
    *data = '\0';
    return rc;
}

/* Old documents have relative ones, which begin at the root. */
static int read_destination(struct reader *reader, const struct node *node,
                            const struct field *field, void *out)
{
    int rc = read_text(reader, node, field, out);
    if (rc < 0 || node->string[0] == '/') {
        return rc;
    }
    char *path = reader_alloc(reader, node, node->length + (size_t)2);
    if (path == NULL) {
        return -E2BIG;
    }
    path[0] = '/';
    memcpy(path + 1, node->string, node->length);
    *(const char **)out = path;
    return 0;
}

static int check_mount(struct reader *reader, const struct node *node,
                       const struct spec_mount *mount)
{
    if ((mount->uid_mappings.count > 0) != (mount->gid_mappings.count > 0)) {
        return reader_fail(reader, node,
                           mount->uid_mappings.count > 0 ? "gidMappings" : "uidMappings",
                           "is required where the other one is given");
    }
    if (mount->has_idmap && mount->uid_mappings.count == 0 && !has_user_namespace(node->parent)) {
        return reader_fail(reader, node, "options",
                           "idmap needs uidMappings and gidMappings, or a user namespace");
    }
    if (mount->is_bind && mount->source == NULL && !mount->is_remount) {
        return reader_fail(reader, node, "source", "is required of a bind mount");
    }
    return 0;
}

static int read_mount(struct reader *reader, const struct node *node, const struct field *unused,
                      void *out)
{
    static const struct field fields[] = {
        {"destination", read_destination, AT(destination), true},
        {"type", read_text, AT(type)},
        {"source", read_text, AT(source)},
        {"options", read_options, 0},
        {"uidMappings", read_id_mappings, AT(uid_mappings)},
        {"gidMappings", read_id_mappings, AT(gid_mappings)},
    };
    struct spec_mount *mount = out;
    mount->data = "";
    int rc = read_object(reader, node, fields, ARRAY_COUNT(fields), mount);
    if (rc < 0) {
        return rc;
    }
    mount->has_idmap |= mount->uid_mappings.count > 0 || mount->gid_mappings.count > 0;
    if (mount->type != NULL && strcmp(mount->type, "bind") == 0) {
        mount->is_bind = true; /* beside the specification, as the peers do */
    }
    if (mount->is_bind) {
        mount->type = "bind";
    }
    return check_mount(reader, node, mount);
}

int read_mounts(struct reader *reader, const struct node *node, const struct field *field,
                void *out)
{
    struct spec *spec = (struct spec *)((char *)out - field->offset);
    return read_elements(reader, node, NODE_LIST, sizeof(struct spec_mount), read_mount,
                         (const void **)&spec->mounts, &spec->mount_count);
}
