/* The 'hooks' section. */
#include "container/spec/hooks.h"

#define AT(member) offsetof(struct spec_hooks, member)

static int read_hook(struct reader *reader, const struct node *node, const struct field *unused,
                     void *out)
{
    static const struct field fields[] = {
        {"path", read_absolute_path, offsetof(struct spec_hook, path), true},
        {"args", read_strings, offsetof(struct spec_hook, args)},
        {"env", read_strings, offsetof(struct spec_hook, env)},
        {"timeout", read_spec_i64, offsetof(struct spec_hook, timeout), false, 1, INT32_MAX},
    };
    return read_object(reader, node, fields, ARRAY_COUNT(fields), out);
}

static int read_hooks_at(struct reader *reader, const struct node *node, const struct field *field,
                         void *out)
{
    struct spec_hooks_at *at = out;
    return read_elements(reader, node, NODE_LIST, sizeof(struct spec_hook), read_hook,
                         (const void **)&at->item, &at->count);
}

const struct field spec_hook_fields[SPEC_HOOK_FIELDS] = {
    {"prestart", read_hooks_at, AT(prestart)},
    {"createRuntime", read_hooks_at, AT(create_runtime)},
    {"createContainer", read_hooks_at, AT(create_container)},
    {"startContainer", read_hooks_at, AT(start_container)},
    {"poststart", read_hooks_at, AT(poststart)},
    {"poststop", read_hooks_at, AT(poststop)},
};

int read_hooks(struct reader *reader, const struct node *node, const struct field *unused,
               void *out)
{
    return read_object(reader, node, spec_hook_fields, ARRAY_COUNT(spec_hook_fields), out);
}
