/* The 'process' section: what is run, as whom, with which rights and limits. */
#include <string.h>
#include <strings.h>

#include "container/spec/read.h"

#define MAX_UNKNOWN_CAPABILITIES 64

#define AT(member) offsetof(struct spec_process, member)

static int read_gid(struct reader *reader, const struct node *node, const struct field *field,
                    void *out)
{
    return read_u32(reader, node, field, out);
}

static int read_gids(struct reader *reader, const struct node *node, const struct field *field,
                     void *out)
{
    struct spec_process *process = (struct spec_process *)((char *)out - field->offset);
    return read_elements(reader, node, NODE_LIST, sizeof(uint32_t), read_gid,
                         (const void **)&process->additional_gids, &process->additional_gid_count);
}

static int read_user(struct reader *reader, const struct node *node, const struct field *unused,
                     void *out)
{
    static const struct field fields[] = {
        {"uid", read_u32, AT(uid), true, 0, UINT32_MAX - 1},
        {"gid", read_u32, AT(gid), true, 0, UINT32_MAX - 1},
        {"umask", read_spec_u64, AT(umask), false, 0, 0777},
        {"additionalGids", read_gids, AT(additional_gids)},
    };
    return read_object(reader, node, fields, ARRAY_COUNT(fields), out);
}

static int read_args(struct reader *reader, const struct node *node, const struct field *field,
                     void *out)
{
    int rc = read_strings(reader, node, field, out);
    if (rc == 0 && node->length == 0) {
        rc = reader_fail(reader, node, NULL, "must have at least one entry, the program");
    }
    return rc;
}

/* "cap_kill", "KILL" and "CAP_KILL" are one. */
static bool find_capability(const char *name, size_t length, uint64_t *out_number)
{
    if (length > 4 && strncasecmp(name, "CAP_", 4) == 0) {
        name += 4;
        length -= 4;
    }
    for (size_t i = 0; i < spec_capability_names.count; i++) {
        const char *known = spec_capability_names.item[i].name + 4;
        if (strlen(known) == length && strncasecmp(known, name, length) == 0) {
            *out_number = spec_capability_names.item[i].value;
            return true;
        }
    }
    return false;
}

int spec_parse_capability(const char *name, uint8_t *out_number, struct error *err)
{
    uint64_t number;
    if (!find_capability(name, strlen(name), &number)) {
        return error_set(err, EINVAL,
                         "'%.60s' is no capability; capabilities(7) has their names, like "
                         "CAP_KILL",
                         name);
    }
    *out_number = (uint8_t)number;
    return 0;
}

/* The specification wants those told, not refused. */
static int add_unknown(struct reader *reader, const struct node *node, struct spec_strings *unknown)
{
    if (unknown->item == NULL) {
        unknown->item =
            reader_alloc(reader, node, (MAX_UNKNOWN_CAPABILITIES + 1) * sizeof(unknown->item[0]));
        if (unknown->item == NULL) {
            return -E2BIG;
        }
    }
    for (size_t i = 0; i < unknown->count; i++) {
        if (node_equals(node, unknown->item[i])) {
            return 0;
        }
    }
    if (unknown->count < MAX_UNKNOWN_CAPABILITIES) {
        unknown->item[unknown->count] = reader_string(reader, node);
        if (unknown->item[unknown->count] == NULL) {
            return -E2BIG;
        }
        unknown->count++;
    }
    return 0;
}

static int read_capability_set(struct reader *reader, const struct node *node,
                               const struct field *field, void *out)
{
    struct spec_process *process = (struct spec_process *)((char *)out - field->offset);
    int rc = read_expect(reader, node, NODE_LIST);
    for (const struct node *n = node->first; rc == 0 && n != NULL; n = n->next) {
        uint64_t number;
        rc = read_expect(reader, n, NODE_STRING);
        if (rc == 0 && find_capability(n->string, n->length, &number)) {
            *(spec_capabilities_t *)out |= UINT64_C(1) << number;
        } else if (rc == 0) {
            rc = add_unknown(reader, n, &process->unknown_capabilities);
        }
    }
    return rc;
}

static int read_capabilities(struct reader *reader, const struct node *node,
                             const struct field *field, void *out)
{
    static const struct field fields[] = {
        {"bounding", read_capability_set, AT(bounding)},
        {"effective", read_capability_set, AT(effective)},
        {"inheritable", read_capability_set, AT(inheritable)},
        {"permitted", read_capability_set, AT(permitted)},
        {"ambient", read_capability_set, AT(ambient)},
    };
    ((struct spec_process *)out)->has_capabilities = true;
    return read_object(reader, node, fields, ARRAY_COUNT(fields), out);
}

static int read_rlimit(struct reader *reader, const struct node *node, const struct field *unused,
                       void *out)
{
    static const struct field fields[] = {
        {"type", read_name, offsetof(struct spec_rlimit, resource), true,
         .names = &spec_rlimit_names},
        {"soft", read_u64, offsetof(struct spec_rlimit, soft), true},
        {"hard", read_u64, offsetof(struct spec_rlimit, hard), true},
    };
    const struct spec_rlimit *limit = out;
    int rc = read_object(reader, node, fields, ARRAY_COUNT(fields), out);
    if (rc == 0 && limit->soft > limit->hard) {
        rc = reader_fail(reader, node, "soft", "must not be above 'hard'");
    }
    return rc;
}

static int read_rlimits(struct reader *reader, const struct node *node, const struct field *field,
                        void *out)
{
    struct spec_process *process = (struct spec_process *)((char *)out - field->offset);
    int rc = read_elements(reader, node, NODE_LIST, sizeof(struct spec_rlimit), read_rlimit,
                           (const void **)&process->rlimits, &process->rlimit_count);
    uint64_t seen = 0;
    const struct node *n = node->first;
    for (size_t i = 0; rc == 0 && i < process->rlimit_count; i++) {
        uint64_t bit = UINT64_C(1) << process->rlimits[i].resource;
        if ((seen & bit) != 0) {
            rc = reader_fail(reader, n, "type", "stands twice in the list");
        }
        seen |= bit;
        n = n->next;
    }
    return rc;
}

static int read_affinity(struct reader *reader, const struct node *node, const struct field *unused,
                         void *out)
{
    static const struct field fields[] = {
        {"initial", read_number_list, AT(cpu_affinity_initial)},
        {"final", read_number_list, AT(cpu_affinity_final)},
    };
    return read_object(reader, node, fields, ARRAY_COUNT(fields), out);
}

struct io_priority {
    uint32_t class, priority;
};

static int read_io_priority(struct reader *reader, const struct node *node,
                            const struct field *unused, void *out)
{
    static const struct field fields[] = {
        {"class", read_name, offsetof(struct io_priority, class), true,
         .names = &spec_io_class_names},
        {"priority", read_u32, offsetof(struct io_priority, priority), true, 0, 7},
    };
    struct io_priority priority = {0};
    int rc = read_object(reader, node, fields, ARRAY_COUNT(fields), &priority);
    *(struct spec_i64 *)out =
        (struct spec_i64){true, (int64_t)(priority.class << 13 | priority.priority)};
    return rc;
}

struct console_size {
    uint32_t height, width;
};

static int read_console_size(struct reader *reader, const struct node *node,
                             struct spec_process *process)
{
    static const struct field fields[] = {
        {"height", read_u32, offsetof(struct console_size, height), true, 0, UINT16_MAX},
        {"width", read_u32, offsetof(struct console_size, width), true, 0, UINT16_MAX},
    };
    struct console_size size = {0};
    int rc = read_object(reader, node, fields, ARRAY_COUNT(fields), &size);
    process->console_rows = (uint16_t)size.height;
    process->console_columns = (uint16_t)size.width;
    return rc;
}

int read_process(struct reader *reader, const struct node *node, const struct field *unused,
                 void *out)
{
    static const struct field fields[] = {
        {"terminal", read_bool, AT(has_terminal)},
        {"cwd", read_absolute_path, AT(cwd), true},
        {"args", read_args, AT(args), true},
        {"env", read_strings, AT(env)},
        {"user", read_user, 0},
        {"capabilities", read_capabilities, 0},
        {"rlimits", read_rlimits, AT(rlimits)},
        {"noNewPrivileges", read_bool, AT(no_new_privileges)},
        {"apparmorProfile", read_text, AT(apparmor_profile)},
        {"selinuxLabel", read_text, AT(selinux_label)},
        {"oomScoreAdj", read_spec_i64, AT(oom_score_adj), false, -1000, 1000},
        {"scheduler", read_scheduler, AT(scheduler)},
        {"ioPriority", read_io_priority, AT(io_priority)},
        {"execCPUAffinity", read_affinity, 0},
    };
    struct spec_process *process = out;
    int rc = read_object(reader, node, fields, ARRAY_COUNT(fields), process);
    if (rc == 0 && process->has_terminal) {
        const struct node *size = node_find(node, "consoleSize"); /* else it is to be ignored */
        rc = size != NULL ? read_console_size(reader, size, process) : 0;
    }
    return rc;
}
