/* linux.seccomp. Names and arguments of system calls are left to the room that makes programs of them. */
#include <seccomp.h>
#include <string.h>

#include "container/spec/read.h"

#define DEFAULT_ERRNO EPERM
#define MAX_ERRNO     4095  /* the kernel's; a higher one would be cut */
#define MAX_TRACE     65535 /* SECCOMP_RET_DATA */

/* An action and its number, which may come in any order. */
struct action {
    uint32_t action;
    struct spec_u64 number;
};

static int finish_action(struct reader *reader, const struct node *node, const char *number_name,
                         const struct action *action, uint32_t *out)
{
    bool is_errno = action->action == SCMP_ACT_ERRNO(0);
    bool has_number = is_errno || action->action == SCMP_ACT_TRACE(0);
    if (action->number.has && !has_number) {
        return reader_fail(reader, node, number_name,
                           "is for SCMP_ACT_ERRNO and SCMP_ACT_TRACE only");
    }
    uint32_t max = is_errno ? MAX_ERRNO : MAX_TRACE;
    if (action->number.value > max) {
        return reader_fail(reader, node, number_name, "must not be above %u", max);
    }
    uint32_t number = action->number.has ? (uint32_t)action->number.value : DEFAULT_ERRNO;
    *out = has_number ? action->action | number : action->action;
    return 0;
}

static int read_arg(struct reader *reader, const struct node *node, const struct field *unused,
                    void *out)
{
#define ARG(member) offsetof(struct spec_seccomp_arg, member)
    static const struct field fields[] = {
        {"index", read_u32, ARG(index), true, 0, 5},
        {"value", read_u64, ARG(value), true},
        {"valueTwo", read_u64, ARG(value_two)},
        {"op", read_name, ARG(op), true, .names = &spec_seccomp_operator_names},
    };
    return read_object(reader, node, fields, ARRAY_COUNT(fields), out);
}

struct rule {
    struct spec_seccomp_rule rule;
    struct action action;
};

static int read_args(struct reader *reader, const struct node *node, const struct field *unused,
                     void *out)
{
    struct rule *rule = out;
    return read_elements(reader, node, NODE_LIST, sizeof(struct spec_seccomp_arg), read_arg,
                         (const void **)&rule->rule.args, &rule->rule.arg_count);
}

static int read_names(struct reader *reader, const struct node *node, const struct field *field,
                      void *out)
{
    int rc = read_strings(reader, node, field, out);
    if (rc == 0 && node->length == 0) {
        rc = reader_fail(reader, node, NULL, "must have at least one entry");
    }
    return rc;
}

static int read_rule(struct reader *reader, const struct node *node, const struct field *unused,
                     void *out)
{
    static const struct field fields[] = {
        {"names", read_names, offsetof(struct rule, rule.names), true},
        {"action", read_name, offsetof(struct rule, action.action), true,
         .names = &spec_seccomp_action_names},
        {"errnoRet", read_spec_u64, offsetof(struct rule, action.number)},
        {"args", read_args, 0},
    };
    struct rule rule = {.action = {0}};
    int rc = read_object(reader, node, fields, ARRAY_COUNT(fields), &rule);
    rc = rc < 0 ? rc : finish_action(reader, node, "errnoRet", &rule.action, &rule.rule.action);
    *(struct spec_seccomp_rule *)out = rule.rule;
    return rc;
}

static int read_arch(struct reader *reader, const struct node *node, const struct field *unused,
                     void *out)
{
    static const struct field any = {.names = &spec_seccomp_arch_names};
    return read_name(reader, node, &any, out);
}

struct section {
    struct spec_seccomp seccomp;
    struct action default_action;
    uint64_t flags;
};

static int read_archs(struct reader *reader, const struct node *node, const struct field *unused,
                      void *out)
{
    struct section *section = out;
    return read_elements(reader, node, NODE_LIST, sizeof(uint32_t), read_arch,
                         (const void **)&section->seccomp.architectures,
                         &section->seccomp.architecture_count);
}

static int read_rules(struct reader *reader, const struct node *node, const struct field *unused,
                      void *out)
{
    struct section *section = out;
    return read_elements(reader, node, NODE_LIST, sizeof(struct spec_seccomp_rule), read_rule,
                         (const void **)&section->seccomp.rules, &section->seccomp.rule_count);
}

/* The section's text without the space between its parts. */
static const char *compact(struct reader *reader, const struct node *node)
{
    char *text = reader_alloc(reader, node, node->extent + (size_t)1);
    char *out = text;
    bool is_in_string = false;
    const struct node *left_away[] = {node_find(node, "listenerPath"),
                                      node_find(node, "listenerMetadata")};
    for (const char *c = node->begin; text != NULL && c < node->begin + node->extent; c++) {
        for (size_t i = 0; i < ARRAY_COUNT(left_away); i++) {
            if (left_away[i] != NULL && left_away[i]->begin == c) {
                c += left_away[i]->extent;
            }
        }
        if (is_in_string || strchr(" \t\r\n", *c) == NULL) {
            *out++ = *c;
        }
        if (is_in_string && *c == '\\') {
            *out++ = *++c;
        } else if (*c == '"') {
            is_in_string = !is_in_string;
        }
    }
    return text;
}

static int check(struct reader *reader, const struct node *node, const struct spec_seccomp *seccomp)
{
    if (seccomp->listener_metadata != NULL && seccomp->listener_path == NULL) {
        return reader_fail(reader, node, "listenerMetadata",
                           "must not be given without listenerPath");
    }
    if (seccomp->default_action == SCMP_ACT_NOTIFY) {
        return reader_fail(reader, node, "defaultAction",
                           "SCMP_ACT_NOTIFY would stop the call that hands the listener over");
    }
    bool notifies = false;
    for (size_t i = 0; i < seccomp->rule_count; i++) {
        notifies |= seccomp->rules[i].action == SCMP_ACT_NOTIFY;
    }
    if (notifies && seccomp->listener_path == NULL) {
        return reader_fail(reader, node, "listenerPath", "is required by SCMP_ACT_NOTIFY");
    }
    return 0;
}

int read_seccomp(struct reader *reader, const struct node *node, const struct field *unused,
                 void *out)
{
#define SECTION(member) offsetof(struct section, member)
    static const struct field fields[] = {
        {"defaultAction", read_name, SECTION(default_action.action), true,
         .names = &spec_seccomp_action_names},
        {"defaultErrnoRet", read_spec_u64, SECTION(default_action.number)},
        {"architectures", read_archs, 0},
        {"flags", read_flags, SECTION(flags), .names = &spec_seccomp_flag_names},
        {"listenerPath", read_text, SECTION(seccomp.listener_path)},
        {"listenerMetadata", read_text, SECTION(seccomp.listener_metadata)},
        {"syscalls", read_rules, 0},
    };
    struct section section = {.seccomp = {.is_set = true}};
    struct spec_seccomp *seccomp = &section.seccomp;
    int rc = read_object(reader, node, fields, ARRAY_COUNT(fields), &section);
    if (rc == 0) {
        rc = finish_action(reader, node, "defaultErrnoRet", &section.default_action,
                           &seccomp->default_action);
    }
    seccomp->flags = (uint32_t)section.flags;
    rc = rc < 0 ? rc : check(reader, node, seccomp);
    seccomp->source = rc == 0 ? compact(reader, node) : NULL;
    *(struct spec_seccomp *)out = *seccomp;
    return rc == 0 && seccomp->source == NULL ? -E2BIG : rc;
}
