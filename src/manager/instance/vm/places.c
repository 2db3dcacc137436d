#include "manager/instance/vm/places.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/host/file.h"

#define MAX_DISKS        16 /* of hull boot */
#define MAX_NETS         8
#define LEARN_TIMEOUT_MS 5000

static json_t *list_of(const struct vm_places *places, bool is_disk)
{
    return is_disk ? places->disks : places->nets;
}

static json_int_t number(const json_t *entry, const char *key)
{
    return json_integer_value(json_object_get(entry, key));
}

int vm_places_add(struct vm_places *places, bool is_disk, const char *name, struct error *err)
{
    json_t *list = list_of(places, is_disk);
    bool is_taken[MAX(MAX_DISKS, MAX_NETS)] = {false};
    int max = is_disk ? MAX_DISKS : MAX_NETS;
    const char *other;
    json_t *entry;
    json_object_foreach(list, other, entry)
    {
        if (number(entry, "index") >= 0 && number(entry, "index") < max) {
            is_taken[number(entry, "index")] = true;
        }
    }
    for (int i = 0; i < max; i++) {
        if (!is_taken[i]) {
            return json_object_set_new(list, name, json_pack("{s:i}", "index", i)) == 0
                       ? 0
                       : error_set_errno(err, ENOMEM, "device %s", name);
        }
    }
    return error_set(err, ENOSPC, "device %s: a VM has at most %d %s", name, max,
                     is_disk ? "disks, with the seed" : "cards");
}

void vm_places_remove(struct vm_places *places, bool is_disk, const char *name)
{
    (void)json_object_del(list_of(places, is_disk), name);
}

/* Those that the document still has keep theirs. */
static int take(const json_t *kept, struct vm_places *places, bool is_disk, const char *name,
                bool adds, struct error *err)
{
    json_t *list = list_of(places, is_disk);
    const json_t *entry = json_object_get(kept, name);
    if (adds) {
        return json_object_get(list, name) != NULL ? 0 : vm_places_add(places, is_disk, name, err);
    }
    return entry == NULL || json_object_set(list, name, (json_t *)entry) == 0
               ? 0
               : error_set_errno(err, ENOMEM, "device %s", name);
}

static int take_all(const struct vm *vm, const json_t *kept, struct vm_places *places, bool adds,
                    struct error *err)
{
    const json_t *disks = json_object_get(kept, "disks");
    const json_t *devices = json_object_get(vm->document, "devices");
    char seed[PATH_MAX];
    struct stat info;
    const char *name;
    json_t *device;
    int rc = 0;
    if (json_object_get(devices, "root") != NULL) {
        rc = take(disks, places, true, "root", adds, err);
    }
    json_object_foreach((json_t *)devices, name, device)
    {
        const char *type = vm_property(device, "type");
        bool is_disk = type != NULL && strcmp(type, "disk") == 0;
        if (rc == 0 && (is_disk || (type != NULL && strcmp(type, "nic") == 0))) {
            rc = take(is_disk ? disks : json_object_get(kept, "nets"), places, is_disk, name, adds,
                      err);
        }
    }
    vm_state_path(vm, "seed.iso", seed);
    if (rc == 0 && stat(seed, &info) == 0) {
        rc = take(disks, places, true, VM_SEED, adds, err);
    }
    return rc;
}

int vm_places_load(const struct vm *vm, struct vm_places *out_places, struct error *err)
{
    char path[PATH_MAX];
    vm_state_path(vm, "places.json", path);
    json_t *kept = json_load_file(path, JSON_REJECT_DUPLICATES, NULL); /* NULL: none is kept yet */
    struct vm_places places = {.disks = json_object(), .nets = json_object()};
    int rc = take_all(vm, kept, &places, false, err);
    if (rc == 0) {
        rc = take_all(vm, kept, &places, true, err);
    }
    json_decref(kept);
    if (rc < 0) {
        vm_places_fini(&places);
        return rc;
    }
    *out_places = places;
    return 0;
}

int vm_places_save(const struct vm *vm, const struct vm_places *places, struct error *err)
{
    char path[PATH_MAX];
    json_t *all = json_pack("{s:O, s:O}", "disks", places->disks, "nets", places->nets);
    AUTO_FREE char *text = all != NULL ? json_dumps(all, JSON_COMPACT) : NULL;
    json_decref(all);
    vm_state_path(vm, "places.json", path);
    return text == NULL ? error_set_errno(err, ENOMEM, "vm %s", vm->name)
                        : file_replace(path, text, 0600, true, err);
}

void vm_places_fini(struct vm_places *places)
{
    json_decref(places->disks);
    json_decref(places->nets);
    *places = (struct vm_places){0};
}

char *vm_places_words(const struct vm_places *places, bool is_disk, const char *name)
{
    const json_t *entry = json_object_get(list_of(places, is_disk), name);
    json_int_t slot = number(entry, "slot");
    return slot > 0
               ? vm_text(",id=%s,index=%d,slot=%d", name, (int)number(entry, "index"), (int)slot)
               : vm_text(",id=%s,index=%d", name, (int)number(entry, "index"));
}

unsigned vm_places_index(const struct vm_places *places, bool is_disk, const char *name)
{
    return (unsigned)number(json_object_get(list_of(places, is_disk), name), "index") & 0xff;
}

void vm_places_name(const struct vm_places *places, bool is_disk, const char *name,
                    char out_name[16])
{
    (void)snprintf(out_name, 16, "%s%u", is_disk ? "disk" : "net",
                   vm_places_index(places, is_disk, name));
}

static void learn(json_t *list, const char *kind, const json_t *parts)
{
    const char *name;
    json_t *entry;
    json_object_foreach(list, name, entry)
    {
        size_t at;
        json_t *part;
        json_array_foreach(parts, at, part)
        {
            const char *device = vm_property(part, "device");
            if (device != NULL && strncmp(device, kind, strlen(kind)) == 0 &&
                number(part, "index") == number(entry, "index")) {
                json_object_set(entry, "slot", json_object_get(part, "slot"));
            }
        }
    }
}

void vm_places_learn(const struct vm *vm, struct vm_places *places)
{
    struct control_client client;
    json_t *answer = NULL;
    if (vm_control_open(vm->place, vm->name, LEARN_TIMEOUT_MS, &client, NULL) < 0) {
        return;
    }
    if (vm_control_ask(&client, json_pack("{s:s}", "do", "devices"), -1, &answer, NULL) == 0) {
        const json_t *parts = json_object_get(answer, "parts");
        learn(places->disks, "disk", parts);
        learn(places->nets, "net", parts);
    }
    json_decref(answer);
    control_client_close(&client);
}
