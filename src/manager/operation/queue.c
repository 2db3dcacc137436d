#include "manager/operation/queue.h"

#include <string.h>

#include "manager/operation/operation.h"

void queue_pass_start(struct queue_pass *pass)
{
    *pass = (struct queue_pass){.taken = json_object()};
    pass->is_broken = pass->taken == NULL;
}

void queue_pass_finish(struct queue_pass *pass)
{
    json_decref(pass->taken);
    pass->taken = NULL;
}

bool queue_take(struct queue_pass *pass, const json_t *resources)
{
    bool is_free = true;
    size_t i;
    json_t *resource;
    bool wants_all = false;
    json_array_foreach(resources, i, resource)
    {
        const char *name = json_string_value(resource);
        bool is_shared = name[0] == '~';
        wants_all = wants_all || strcmp(name, OPERATION_EVERYTHING) == 0;
        const json_t *taken = json_object_get(pass->taken, name + is_shared);
        is_free = is_free && (taken == NULL || (is_shared && !json_is_true(taken)));
    }
    json_array_foreach(resources, i, resource)
    {
        const char *name = json_string_value(resource);
        bool is_shared = name[0] == '~';
        if (is_shared && json_object_get(pass->taken, name + 1) != NULL) {
            continue; /* one alone has it, or it is shared already */
        }
        if (json_object_set_new(pass->taken, name + is_shared, json_boolean(!is_shared)) < 0) {
            pass->is_broken = true;
        }
    }
    is_free = is_free && (wants_all ? pass->count == 0
                                    : !pass->is_all_taken || json_array_size(resources) == 0);
    pass->is_all_taken = pass->is_all_taken || wants_all;
    pass->count += json_array_size(resources) > 0;
    return is_free && !pass->is_broken;
}
