/* Bitmaps of what guests change, for incremental backups. */
#include <string.h>

#include "block/bitmap.h"
#include "vmm/disk_request.h"
#include "vmm/disk_verbs.h"

/* The bitmap that a request names by 'key'. */
static int find_bitmap(const struct vmm *vmm, const struct control_request *request,
                       const char *key, size_t *out_disk, struct block_bitmap **out_bitmap,
                       struct error *err)
{
    const char *name = NULL;
    *out_bitmap = NULL;
    int rc = request_find_disk(vmm, request, out_disk, err);
    if (rc == 0) {
        rc = request_get_text(request, key, true, &name, err);
    }
    if (rc < 0) {
        return rc;
    }
    *out_bitmap = block_bitmap_find(vmm->front[*out_disk], name);
    return *out_bitmap != NULL ? 0
                               : error_set(err, ENODEV, "%s: disk%zu has no bitmap %.40s",
                                           request->verb, *out_disk, name);
}

/* One that may be changed. */
static int find_usable(const struct vmm *vmm, const struct control_request *request,
                       size_t *out_disk, struct block_bitmap **out_bitmap, struct error *err)
{
    int rc = find_bitmap(vmm, request, "bitmap", out_disk, out_bitmap, err);
    if (rc == 0) {
        rc = block_bitmap_check(*out_bitmap, err);
    }
    if (rc < 0) {
        (void)error_prefix(err, rc, "%s", request->verb); /* rc says it already */
    }
    return rc;
}

/* What has been changed by a verb is in the image at once. */
static int keep(const struct vmm *vmm, const struct control_request *request, size_t disk,
                struct error *err)
{
    block_drain(block_front_block(vmm->front[disk]));
    int rc = block_bitmaps_store(vmm->front[disk], err);
    return rc < 0 ? error_prefix(err, rc, "%s", request->verb) : 0;
}

static int run_add(struct vmm *vmm, struct control_client *client, struct control_request *request,
                   json_t **out_answer, struct error *err)
{
    size_t disk = 0;
    const char *name = NULL;
    uint64_t granularity = 0;
    const json_t *persistent = json_object_get(request->arguments, "persistent");
    const json_t *enabled = json_object_get(request->arguments, "enabled");
    struct block_bitmap *bitmap = NULL;
    if ((persistent != NULL && !json_is_boolean(persistent)) ||
        (enabled != NULL && !json_is_boolean(enabled))) {
        return error_set(err, EINVAL, "%s: \"persistent\" and \"enabled\" are true or false",
                         request->verb);
    }
    int rc = request_find_disk(vmm, request, &disk, err);
    if (rc == 0) {
        rc = request_get_text(request, "bitmap", true, &name, err);
    }
    if (rc == 0) {
        rc = request_get_number(request, "granularity", BLOCK_MAX_BITMAP_GRANULARITY, 0,
                                &granularity, err);
    }
    if (rc == 0) {
        rc = request_check_free(vmm, request, disk, err);
    }
    if (rc < 0) {
        return rc;
    }
    rc = block_bitmap_add(vmm->front[disk], name, (uint32_t)granularity, json_is_true(persistent),
                          !json_is_false(enabled), &bitmap, err);
    if (rc < 0) {
        return error_prefix(err, rc, "%s", request->verb);
    }
    rc = json_is_true(persistent) ? keep(vmm, request, disk, err) : 0;
    if (rc < 0) {
        block_bitmap_remove(vmm->front[disk], bitmap);
    }
    return rc;
}

static int run_remove(struct vmm *vmm, struct control_client *client,
                      struct control_request *request, json_t **out_answer, struct error *err)
{
    size_t disk = 0;
    struct block_bitmap *bitmap = NULL;
    int rc = find_bitmap(vmm, request, "bitmap", &disk, &bitmap, err);
    if (rc == 0) {
        rc = request_check_free(vmm, request, disk, err);
    }
    if (rc < 0) {
        return rc;
    }
    bool is_persistent = bitmap->is_persistent;
    block_bitmap_remove(vmm->front[disk], bitmap);
    return is_persistent ? keep(vmm, request, disk, err) : 0;
}

static int run_clear(struct vmm *vmm, struct control_client *client,
                     struct control_request *request, json_t **out_answer, struct error *err)
{
    size_t disk = 0;
    struct block_bitmap *bitmap = NULL;
    int rc = find_usable(vmm, request, &disk, &bitmap, err);
    if (rc < 0) {
        return rc;
    }
    block_drain(block_front_block(vmm->front[disk]));
    dirty_map_clear(&bitmap->map, 0, bitmap->map.size_bytes);
    return keep(vmm, request, disk, err);
}

static int run_merge(struct vmm *vmm, struct control_client *client,
                     struct control_request *request, json_t **out_answer, struct error *err)
{
    size_t disk = 0;
    struct block_bitmap *bitmap, *source = NULL;
    int rc = find_usable(vmm, request, &disk, &bitmap, err);
    if (rc == 0) {
        rc = find_bitmap(vmm, request, "source", &disk, &source, err);
    }
    if (rc == 0) {
        rc = block_bitmap_check(source, err);
    }
    if (rc < 0) {
        return rc;
    }
    block_bitmap_merge(bitmap, source);
    return keep(vmm, request, disk, err);
}

static int set_enabled(struct vmm *vmm, struct control_request *request, bool is_enabled,
                       struct error *err)
{
    size_t disk = 0;
    struct block_bitmap *bitmap = NULL;
    int rc = find_usable(vmm, request, &disk, &bitmap, err);
    if (rc < 0) {
        return rc;
    }
    bitmap->is_enabled = is_enabled;
    return keep(vmm, request, disk, err);
}

static int run_enable(struct vmm *vmm, struct control_client *client,
                      struct control_request *request, json_t **out_answer, struct error *err)
{
    return set_enabled(vmm, request, true, err);
}

static int run_disable(struct vmm *vmm, struct control_client *client,
                       struct control_request *request, json_t **out_answer, struct error *err)
{
    return set_enabled(vmm, request, false, err);
}

static int run_list(struct vmm *vmm, struct control_client *client, struct control_request *request,
                    json_t **out_answer, struct error *err)
{
    size_t disk = 0;
    int rc = request_find_disk(vmm, request, &disk, err);
    if (rc < 0) {
        return rc;
    }
    json_t *bitmaps = json_array();
    for (const struct block_bitmap *at = block_bitmap_first(vmm->front[disk]); at != NULL;
         at = at->next) {
        json_t *name = json_string(at->name); /* of an image perhaps: anything */
        json_array_append_new(bitmaps,
                              json_pack("{s:o, s:I, s:I, s:b, s:b, s:b, s:b}", "bitmap",
                                        name != NULL ? name : json_string("?"), "granularity",
                                        (json_int_t)at->map.granularity, "dirty_bytes",
                                        (json_int_t)dirty_map_bytes(&at->map), "enabled",
                                        (int)at->is_enabled, "persistent", (int)at->is_persistent,
                                        "inconsistent", (int)at->is_inconsistent, "busy",
                                        (int)(at->user != NULL)));
    }
    *out_answer = json_pack("{s:o}", "bitmaps", bitmaps);
    return 0;
}

const struct control_verb vmm_bitmap_verbs[] = {
    {"disk-bitmap-add", run_add},       {"disk-bitmap-remove", run_remove},
    {"disk-bitmap-clear", run_clear},   {"disk-bitmap-merge", run_merge},
    {"disk-bitmap-enable", run_enable}, {"disk-bitmap-disable", run_disable},
    {"disk-bitmap-list", run_list},
};
const size_t vmm_bitmap_verb_count = ARRAY_COUNT(vmm_bitmap_verbs);
