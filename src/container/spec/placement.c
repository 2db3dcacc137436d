/* linux.intelRdt and linux.memoryPolicy: where on the machine a container's data lie. */
#include <linux/mempolicy.h>
#include <string.h>

#include "container/spec/read.h"

#define AT(member)   offsetof(struct spec_intel_rdt, member)
#define INTERLEAVE_W 6 /* MPOL_WEIGHTED_INTERLEAVE, younger than this header */

/* Lines of the file 'schemata'. */
static int check_line(struct reader *reader, const struct node *node)
{
    return memchr(node->string, '\n', node->length) == NULL
               ? 0
               : reader_fail(reader, node, NULL, "must not contain a newline");
}

static int read_schema(struct reader *reader, const struct node *node, const struct field *field,
                       void *out)
{
    int rc = read_text(reader, node, field, out);
    return rc < 0 ? rc : check_line(reader, node);
}

static int read_bandwidth(struct reader *reader, const struct node *node, const struct field *field,
                          void *out)
{
    int rc = read_schema(reader, node, field, out);
    if (rc == 0 && (node->length < 3 || memcmp(node->string, "MB:", 3) != 0)) {
        rc = reader_fail(reader, node, NULL, "must begin with MB:");
    }
    return rc;
}

static int read_schemata(struct reader *reader, const struct node *node, const struct field *field,
                         void *out)
{
    int rc = read_strings(reader, node, field, out);
    for (const struct node *n = node->first; rc == 0 && n != NULL; n = n->next) {
        rc = check_line(reader, n);
    }
    return rc;
}

/* The name of a folder below the root of resctrl; "/" is that root. */
static int read_clos(struct reader *reader, const struct node *node, const struct field *field,
                     void *out)
{
    int rc = read_text(reader, node, field, out);
    const char *name = rc == 0 ? *(const char **)out : NULL;
    if (name != NULL && strcmp(name, "/") != 0 &&
        (strchr(name, '/') != NULL || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)) {
        rc = reader_fail(reader, node, NULL, "must be the name of one folder, or /");
    }
    return rc;
}

int read_intel_rdt(struct reader *reader, const struct node *node, const struct field *unused,
                   void *out)
{
    static const struct field fields[] = {
        {"closID", read_clos, AT(clos_id)},
        {"l3CacheSchema", read_schema, AT(l3_cache_schema)},
        {"memBwSchema", read_bandwidth, AT(memory_bandwidth_schema)},
        {"schemata", read_schemata, AT(schemata)},
        {"enableMonitoring", read_bool, AT(monitors)},
    };
    ((struct spec_intel_rdt *)out)->is_set = true;
    return read_object(reader, node, fields, ARRAY_COUNT(fields), out);
}

struct policy {
    uint32_t mode;
    uint64_t flags;
    const char *nodes;
};

/* set_mempolicy(2): which modes need nodes, and which must have none. */
static int check_nodes(struct reader *reader, const struct node *node, const struct policy *policy)
{
    bool needs = policy->mode == MPOL_BIND || policy->mode == MPOL_INTERLEAVE ||
                 policy->mode == MPOL_PREFERRED_MANY || policy->mode == INTERLEAVE_W;
    bool must_not = policy->mode == MPOL_DEFAULT || policy->mode == MPOL_LOCAL;
    if (needs && policy->nodes == NULL) {
        return reader_fail(reader, node, "nodes", "is required by this mode");
    }
    if (must_not && policy->nodes != NULL) {
        return reader_fail(reader, node, "nodes", "must not be given with this mode");
    }
    uint64_t both = MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES;
    if ((policy->flags & both) == both) {
        return reader_fail(reader, node, "flags",
                           "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other");
    }
    return 0;
}

int read_memory_policy(struct reader *reader, const struct node *node, const struct field *unused,
                       void *out)
{
    static const struct field fields[] = {
        {"mode", read_name, offsetof(struct policy, mode), true, .names = &spec_memory_mode_names},
        {"flags", read_flags, offsetof(struct policy, flags), .names = &spec_memory_flag_names},
        {"nodes", read_number_list, offsetof(struct policy, nodes)},
    };
    struct policy policy = {0};
    int rc = read_object(reader, node, fields, ARRAY_COUNT(fields), &policy);
    rc = rc < 0 ? rc : check_nodes(reader, node, &policy);
    *(struct spec_memory_policy *)out = (struct spec_memory_policy){
        .is_set = true, .mode = (int)(policy.mode | policy.flags), .nodes = policy.nodes};
    return rc;
}
