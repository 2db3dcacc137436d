/* linux.devices and linux.netDevices. */
#include <string.h>

#include "container/spec/read.h"

#define DEVICE(member) offsetof(struct spec_device, member)
#define MAX_NAME       15 /* IFNAMSIZ without the NUL */

static int read_type(struct reader *reader, const struct node *node, const struct field *field,
                     void *out)
{
    int rc = read_expect(reader, node, NODE_STRING);
    if (rc == 0 &&
        (node->length != 1 || *node->string == '\0' || strchr("cbup", *node->string) == NULL)) {
        rc = reader_fail(reader, node, NULL, "'%.*s' is not one of c, b, u, p",
                         (int)MIN(node->length, 40u), node->string);
    }
    if (rc == 0) {
        *(char *)out = *node->string == 'u' ? 'c' : *node->string;
    }
    return rc;
}

static int read_device(struct reader *reader, const struct node *node, const struct field *unused,
                       void *out)
{
    static const struct field fields[] = {
        {"type", read_type, DEVICE(type), true},
        {"path", read_absolute_path, DEVICE(path), true},
        {"major", read_u32, DEVICE(major), false, 0, (1u << 12) - 1},
        {"minor", read_u32, DEVICE(minor), false, 0, (1u << 20) - 1},
        {"fileMode", read_spec_u64, DEVICE(file_mode), false, 0, UINT32_MAX},
        {"uid", read_spec_u64, DEVICE(uid), false, 0, UINT32_MAX - 1},
        {"gid", read_spec_u64, DEVICE(gid), false, 0, UINT32_MAX - 1},
    };
    struct spec_device *device = out;
    int rc = read_object(reader, node, fields, ARRAY_COUNT(fields), device);
    if (rc < 0) {
        return rc;
    }
    device->file_mode.value &= 07777; /* callers leave the kind of file in it */
    if (device->type == 'p') {
        return 0;
    }
    const char *missing = node_find(node, "major") == NULL   ? "major"
                          : node_find(node, "minor") == NULL ? "minor"
                                                             : NULL;
    return missing == NULL ? 0 : reader_fail(reader, node, missing, "is required, but not given");
}

int read_devices(struct reader *reader, const struct node *node, const struct field *field,
                 void *out)
{
    struct spec_linux *linux_ = (struct spec_linux *)((char *)out - field->offset);
    return read_elements(reader, node, NODE_LIST, sizeof(struct spec_device), read_device,
                         (const void **)&linux_->devices, &linux_->device_count);
}

/* As the kernel's dev_valid_name and dev_alloc_name have it: "%d" once, for a number that the kernel chooses. */
static bool is_interface_name(const char *name, size_t length, bool may_be_pattern)
{
    if (length == 0 || length > MAX_NAME || memcmp(name, "..", MIN(length, 2u)) == 0) {
        return false;
    }
    bool has_number = false;
    for (size_t i = 0; i < length; i++) {
        bool is_number = name[i] == '%' && i + 1 < length && name[i + 1] == 'd';
        if ((unsigned char)name[i] <= ' ' || name[i] == '/' || name[i] == ':' ||
            (name[i] == '%' && (!may_be_pattern || !is_number || has_number))) {
            return false;
        }
        has_number |= is_number;
    }
    return true;
}

static int read_new_name(struct reader *reader, const struct node *node, const struct field *field,
                         void *out)
{
    int rc = read_text(reader, node, field, out);
    if (rc == 0 && node->length > 0 && !is_interface_name(node->string, node->length, true)) {
        rc = reader_fail(reader, node, NULL,
                         "must be a name of at most %d characters without spaces, / and :, with "
                         "%%d once at most",
                         MAX_NAME);
    }
    return rc;
}

static int read_net_device(struct reader *reader, const struct node *node,
                           const struct field *unused, void *out)
{
    static const struct field fields[] = {
        {"name", read_new_name, offsetof(struct spec_net_device, new_name)},
    };
    struct spec_net_device *device = out;
    if (!is_interface_name(node->key, node->key_length, false)) {
        return reader_fail(reader, node, NULL,
                           "must be named as a network device: at most %d characters without "
                           "spaces, / and :",
                           MAX_NAME);
    }
    int rc = read_object(reader, node, fields, ARRAY_COUNT(fields), device);
    device->name = rc == 0 ? reader_key(reader, node) : NULL;
    return rc == 0 && device->name == NULL ? -E2BIG : rc;
}

static const char *name_inside(const struct spec_net_device *device)
{
    return device->new_name != NULL ? device->new_name : device->name;
}

/* More than any kernel holds; it bounds the comparison of each with each. */
#define MAX_NET_DEVICES 4096

int read_net_devices(struct reader *reader, const struct node *node, const struct field *field,
                     void *out)
{
    struct spec_linux *linux_ = (struct spec_linux *)((char *)out - field->offset);
    int rc = read_expect(reader, node, NODE_OBJECT);
    if (rc == 0 && node->length > MAX_NET_DEVICES) {
        rc = reader_fail(reader, node, NULL, "has more than %d devices", MAX_NET_DEVICES);
    }
    if (rc < 0) {
        return rc;
    }
    rc = read_elements(reader, node, NODE_OBJECT, sizeof(struct spec_net_device), read_net_device,
                       (const void **)&linux_->net_devices, &linux_->net_device_count);
    for (size_t i = 0; rc == 0 && i < linux_->net_device_count; i++) {
        const char *name = name_inside(&linux_->net_devices[i]);
        for (size_t j = 0; rc == 0 && strchr(name, '%') == NULL && j < i; j++) {
            if (strcmp(name, name_inside(&linux_->net_devices[j])) == 0) {
                rc = reader_fail(reader, node, NULL, "two devices would be called '%s'", name);
            }
        }
    }
    return rc;
}
