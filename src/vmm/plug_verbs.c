/* Disks and network cards that come and go while the VM runs. What they need comes as descriptors, as in the configuration: a
 * member "fd" is the number of one that was sent with the request, from 0 on. */
#include <stdio.h>
#include <string.h>

#include "base/host/log.h"
#include "vmm/disk_request.h"
#include "vmm/disk_verbs.h"

static const char *const part_words[] = {[MACHINE_PART_DISK] = "disk", [MACHINE_PART_NET] = "net"};
static const char *const models[] = {
    [MACHINE_PART_DISK] = "virtio-blk", [MACHINE_PART_NET] = "virtio-net"};

static const struct config_place *place_of(const struct vmm *vmm, enum machine_part part,
                                           size_t index)
{
    return part == MACHINE_PART_DISK ? &vmm->config.disk[index].place
                                     : &vmm->config.net[index].place;
}

static size_t part_count(const struct vmm *vmm, enum machine_part part)
{
    return part == MACHINE_PART_DISK ? vmm->config.disk_count : vmm->config.net_count;
}

/* {"device":"disk1", "index":1, "slot":7, "id":"data"} */
static json_t *describe(const struct vmm *vmm, enum machine_part part, size_t index)
{
    const struct config_place *place = place_of(vmm, part, index);
    char device[32], model[32];
    (void)snprintf(device, sizeof(device), "%s%zu", part_words[part], index);
    (void)snprintf(model, sizeof(model), "%s.%zu", models[part], index);
    json_t *entry = json_pack("{s:s, s:s, s:i, s:i}", "device", device, "model", model, "index",
                              (int)index, "slot", (int)machine_slot(vmm->machine, part, index));
    if (place->id[0] != '\0') {
        json_object_set_new(entry, "id", json_string(place->id));
    }
    if (machine_is_leaving(vmm->machine, part, index)) {
        json_object_set_new(entry, "leaving", json_true());
    }
    return entry;
}

json_t *vmm_list_parts(const struct vmm *vmm)
{
    json_t *list = json_array();
    for (enum machine_part part = MACHINE_PART_DISK; part <= MACHINE_PART_NET; part++) {
        for (size_t i = 0; i < part_count(vmm, part); i++) {
            if (machine_has_part(vmm->machine, part, i)) {
                json_array_append_new(list, describe(vmm, part, i));
            }
        }
    }
    return list;
}

static void tell(struct vmm *vmm, const char *event, enum machine_part part, size_t index)
{
    const struct config_place *place = place_of(vmm, part, index);
    char device[32];
    (void)snprintf(device, sizeof(device), "%s%zu", part_words[part], index);
    log_info("vm %s: %s: %s", vmm->config.name, event, device);
    json_t *line =
        json_pack("{s:s, s:s, s:s}", "event", event, "name", vmm->config.name, "device", device);
    if (place->id[0] != '\0') {
        json_object_set_new(line, "id", json_string(place->id));
    }
    if (vmm->control != NULL) {
        control_send_event(vmm->control, line);
    } else {
        json_decref(line);
    }
}

void vmm_unplugged(void *ctx, enum machine_part part, size_t index)
{
    struct vmm *vmm = ctx;
    tell(vmm, "device-removed", part, index);
    if (part == MACHINE_PART_DISK) {
        vmm_forget_disk(vmm, index);
    } else {
        config_remove_net(&vmm->config, index);
    }
}

/* What a request brings, while its descriptors find their places. */
struct plug {
    struct control_request *request;
    bool is_used[CONTROL_MAX_FILES];
};

static int *sent_file(const struct plug *plug, size_t number)
{
    return number == 0   ? &plug->request->fd
           : number == 1 ? &plug->request->other_fd
                         : &plug->request->more_fd[number - 2];
}

/* Puts the descriptor itself in the place of its number. */
static int put_file(struct plug *plug, json_t *object, const char *key, struct error *err)
{
    const json_t *number = json_object_get(object, key);
    if (number == NULL) {
        return 0;
    }
    json_int_t at = json_integer_value(number);
    if (!json_is_integer(number) || at < 0 || at >= CONTROL_MAX_FILES || plug->is_used[at] ||
        *sent_file(plug, (size_t)at) < 0) {
        return error_set(err, EINVAL, "\"%s\" is the number of a descriptor that was sent", key);
    }
    plug->is_used[at] = true;
    return json_object_set_new(object, key, json_integer(*sent_file(plug, (size_t)at))) == 0
               ? 0
               : error_set_errno(err, ENOMEM, "reading the request");
}

static int put_files(struct plug *plug, json_t *object, struct error *err)
{
    static const char *const keys[] = {"fd", "crypt_fd", "overlay_fd"};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < ARRAY_COUNT(keys); i++) {
        rc = put_file(plug, object, keys[i], err);
    }
    if (rc == 0) {
        rc = put_file(plug, json_object_get(object, "data"), "fd", err);
    }
    size_t index;
    json_t *layer;
    json_array_foreach(json_object_get(object, "backing"), index, layer)
    {
        rc = rc == 0 ? put_file(plug, layer, "fd", err) : rc;
    }
    return rc;
}

/* The configuration has them now. */
static void files_are_taken(const struct plug *plug)
{
    for (size_t i = 0; i < CONTROL_MAX_FILES; i++) {
        if (plug->is_used[i]) {
            *sent_file(plug, i) = -1;
        }
    }
}

static int plug_disk(struct vmm *vmm, struct plug *plug, json_t *object, size_t *out_index,
                     struct error *err)
{
    int rc = config_add_disk(&vmm->config, object, out_index, err);
    if (rc < 0) {
        return rc;
    }
    files_are_taken(plug);
    struct config_disk *config = &vmm->config.disk[*out_index];
    if (config->aio == BLOCK_AIO_URING) {
        config->aio = BLOCK_AIO_AUTO; /* as far as there are rings in reserve */
    }
    struct machine_disk disk;
    rc = vmm_open_disk(vmm, *out_index, &disk, err);
    if (rc == 0) {
        rc = machine_plug_disk(vmm->machine, *out_index, &disk, err);
    }
    if (rc < 0) {
        vmm_forget_disk(vmm, *out_index);
    }
    return rc;
}

static int plug_net(struct vmm *vmm, struct plug *plug, json_t *object, size_t *out_index,
                    struct error *err)
{
    int rc = config_add_net(&vmm->config, object, out_index, err);
    if (rc < 0) {
        return rc;
    }
    files_are_taken(plug);
    struct machine_net net;
    rc = vmm_open_net(vmm, *out_index, &net, err);
    if (rc == 0) {
        rc = machine_plug_net(vmm->machine, *out_index, &net, err);
    }
    if (rc < 0) {
        config_remove_net(&vmm->config, *out_index);
    }
    return rc;
}

/* The part that has the user's name, or is called so: "disk1". */
static bool find_part(const struct vmm *vmm, const char *name, enum machine_part *out_part,
                      size_t *out_index)
{
    for (enum machine_part part = MACHINE_PART_DISK; part <= MACHINE_PART_NET; part++) {
        for (size_t i = 0; i < part_count(vmm, part); i++) {
            char device[32];
            (void)snprintf(device, sizeof(device), "%s%zu", part_words[part], i);
            if (machine_has_part(vmm->machine, part, i) &&
                (strcmp(name, device) == 0 || strcmp(name, place_of(vmm, part, i)->id) == 0)) {
                *out_part = part;
                *out_index = i;
                return true;
            }
        }
    }
    return false;
}

static int check_id(const struct vmm *vmm, const json_t *object, struct error *err)
{
    const char *id = json_string_value(json_object_get(object, "id"));
    enum machine_part part;
    size_t index;
    if (id != NULL && id[0] != '\0' && find_part(vmm, id, &part, &index)) {
        return error_set(err, EBUSY, "id %.40s: %s%zu has that name", id, part_words[part], index);
    }
    return 0;
}

static int run_plug(struct vmm *vmm, struct control_client *client, struct control_request *request,
                    json_t **out_answer, struct error *err)
{
    const json_t *disk = json_object_get(request->arguments, "disk");
    const json_t *net = json_object_get(request->arguments, "net");
    enum machine_part part = disk != NULL ? MACHINE_PART_DISK : MACHINE_PART_NET;
    json_t *object = json_deep_copy(disk != NULL ? disk : net);
    if (!json_is_object(object) || (disk != NULL && net != NULL)) {
        json_decref(object);
        return error_set(err, EINVAL,
                         "plug: \"disk\" or \"net\" is an object that says what to plug");
    }
    struct plug plug = {.request = request};
    size_t index;
    int rc = check_id(vmm, object, err);
    if (rc == 0) {
        rc = put_files(&plug, object, err);
    }
    if (rc == 0) {
        rc = part == MACHINE_PART_DISK ? plug_disk(vmm, &plug, object, &index, err)
                                       : plug_net(vmm, &plug, object, &index, err);
    }
    json_decref(object);
    if (rc < 0) {
        return error_prefix(err, rc, "plug");
    }
    tell(vmm, "device-added", part, index);
    *out_answer = describe(vmm, part, index);
    json_object_set_new(*out_answer, "guest_listens",
                        json_boolean(machine_listens_to_plugs(vmm->machine)));
    return 0;
}

static int run_unplug(struct vmm *vmm, struct control_client *client,
                      struct control_request *request, json_t **out_answer, struct error *err)
{
    const char *name;
    enum machine_part part;
    size_t index;
    int rc = request_get_text(request, "device", true, &name, err);
    if (rc < 0) {
        return rc;
    }
    if (!find_part(vmm, name, &part, &index)) {
        return error_set(err, ENODEV,
                         "unplug: there is no disk or card %.40s: devices has the names", name);
    }
    if (part == MACHINE_PART_DISK) {
        rc = request_check_free(vmm, request, index, err);
    }
    if (rc == 0) {
        rc = machine_unplug(vmm->machine, part, index, err);
    }
    if (rc < 0) {
        return rc;
    }
    *out_answer = describe(vmm, part, index);
    json_object_set_new(*out_answer, "guest_listens",
                        json_boolean(machine_listens_to_plugs(vmm->machine)));
    return 0;
}

const struct control_verb vmm_plug_verbs[] = {{"plug", run_plug}, {"unplug", run_unplug}};
const size_t vmm_plug_verb_count = ARRAY_COUNT(vmm_plug_verbs);
