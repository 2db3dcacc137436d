#include "manager/instance/vm/vm.h"

#include <stdio.h>
#include <string.h>

void vm_init(struct vm *vm, const struct place *place, const struct job *job,
             const json_t *document)
{
    const json_t *request = job != NULL ? job->request : NULL;
    *vm = (struct vm){
        .place = place,
        .document = document,
        .name = json_string_value(json_object_get(document, "name")),
        .pools = json_object_get(request, "pools"),
        .networks = json_object_get(request, "networks"),
    };
}

void vm_run_path(const struct vm *vm, const char *file, char out_path[PATH_MAX])
{
    place_run_path(vm->place, "instances", vm->name, file, out_path);
}

void vm_state_path(const struct vm *vm, const char *file, char out_path[PATH_MAX])
{
    place_state_path(vm->place, "instances", vm->name, file, out_path);
}

const char *vm_property(const json_t *device, const char *key)
{
    const char *text = json_string_value(json_object_get(device, key));
    return text != NULL && text[0] != '\0' ? text : NULL;
}

const char *vm_config(const struct vm *vm, const char *key)
{
    return vm_property(json_object_get(vm->document, "config"), key);
}

bool vm_is_on(const char *value)
{
    return value != NULL && strcmp(value, "true") == 0;
}

const char *vm_hostname(const struct vm *vm)
{
    const char *name = vm_config(vm, "hostname");
    return name != NULL ? name : vm->name;
}

static int find(const json_t *documents, const char *what, const char *name, json_t *fallback,
                json_t **out_document, struct error *err)
{
    json_t *found = json_object_get(documents, name);
    if (found != NULL) {
        json_decref(fallback);
        *out_document = json_incref(found);
        return 0;
    }
    if (fallback == NULL) {
        return error_set(err, ENOENT, "%s %s: there is none", what, name);
    }
    *out_document = fallback;
    return 0;
}

int vm_find_pool(const struct vm *vm, const json_t *device, json_t **out_pool, struct error *err)
{
    const char *name = vm_property(device, "pool");
    name = name != NULL ? name : "default";
    json_t *fallback = NULL;
    if (strcmp(name, "default") == 0) {
        char path[PATH_MAX];
        place_state_path(vm->place, "pools", "default", NULL, path);
        fallback =
            json_pack("{s:s, s:s, s:{s:s}}", "name", name, "driver", "dir", "config", "path", path);
    }
    return find(vm->pools, "pool", name, fallback, out_pool, err);
}

int vm_find_network(const struct vm *vm, const json_t *nic, json_t **out_network, struct error *err)
{
    const char *name = vm_property(nic, "network");
    name = name != NULL ? name : "default";
    json_t *fallback = NULL;
    if (strcmp(name, "default") == 0 && !vm->place->is_root) {
        fallback = json_pack("{s:s, s:s}", "name", name, "type", "user");
    }
    return find(vm->networks, "network", name, fallback, out_network, err);
}

char *vm_text(const char *format, ...)
{
    va_list arguments;
    char *text;
    va_start(arguments, format);
    int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    return length < 0 ? NULL : text;
}
