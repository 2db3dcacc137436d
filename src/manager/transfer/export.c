/* instance-export. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "manager/text.h"
#include "manager/transfer/stream.h"
#include "manager/transfer/transfer.h"

/* The instance's document as another host can use it. */
static json_t *make_document(const json_t *document, bool has_snapshots)
{
    json_t *copy = json_deep_copy(document), *item;
    size_t i;
    (void)json_object_del(copy, "incomplete");
    if (!has_snapshots) {
        (void)json_object_del(copy, "snapshots");
        (void)json_object_del(copy, "snapshot");
    }
    json_array_foreach(json_object_get(copy, "snapshots"), i, item)
    {
        (void)json_object_set_new(item, "memory", json_false()); /* until it is found */
    }
    return copy;
}

static json_t *make_states(const json_t *document, bool has_snapshots)
{
    json_t *states = json_array();
    const json_t *item;
    size_t i;
    json_array_foreach(has_snapshots ? json_object_get(document, "snapshots") : NULL, i, item)
    {
        (void)json_array_append_new(states,
                                    json_pack("{s:O}", "snapshot", json_object_get(item, "name")));
    }
    (void)json_array_append_new(states, json_object());
    return states;
}

static json_t *make_header(const struct work *work)
{
    char now[32];
    bool has_snapshots = json_is_true(json_object_get(work->job->request, "snapshots"));
    instance_format_time(now);
    return json_pack("{s:i, s:s, s:s, s:s, s:s, s:o, s:o}", "format", 1, "kind", work->driver->kind,
                     "name", work->name, "hull", HULL_VERSION, "created_at", now, "document",
                     make_document(work->document, has_snapshots), "states",
                     make_states(work->document, has_snapshots));
}

static int send_all(struct work *work, const char *folder, const struct transfer_moment *moment,
                    const json_t *header, struct transfer_stream *stream, struct error *err)
{
    struct bundle_writer *writer = NULL;
    bool is_compressed = strcmp(text_or_empty(work->job->request, "compress"), "none") != 0;
    int rc = bundle_writer_create(is_compressed, stream_write, stream, &writer, err);
    rc = rc < 0 ? rc : bundle_put_json(writer, BUNDLE_HEADER, header, err);
    if (rc == 0) {
        rc = work->driver == &vm_driver ? vm_send(work, moment, header, writer, err)
                                        : container_send(work, folder, header, writer, err);
    }
    rc = rc < 0 ? rc : bundle_finish(writer, err);
    bundle_writer_destroy(writer);
    return rc;
}

static int export(struct work *work, struct transfer_stream *stream, struct error *err)
{
    char folder[PATH_MAX];
    struct transfer_moment moment = {0};
    json_auto_t *header = make_header(work);
    int rc = header == NULL ? error_set_errno(err, ENOMEM, "an export")
                            : transfer_folder_make(work->job, folder, err);
    rc = rc < 0 ? rc : transfer_moment_begin(work, &moment, err);
    if (rc == 0) {
        rc = work->driver == &vm_driver ? vm_prepare(work, folder, &moment, header, err)
                                        : container_prepare(work, folder, &moment, header, err);
    }
    rc = rc < 0 ? rc : send_all(work, folder, &moment, header, stream, err);
    transfer_moment_end(work, &moment);
    transfer_folder_remove(work->job);
    return rc;
}

int transfer_export(struct job *job, json_t **out_result, struct error *err)
{
    struct work work;
    struct transfer_stream *stream = NULL;
    int rc = work_open(job, &work, err);
    if (rc < 0) {
        return rc;
    }
    rc = stream_open(job, &stream, err);
    rc = rc < 0 ? rc : export(&work, stream, err);
    rc = rc < 0 ? rc : stream_finish(stream, err);
    if (rc == 0) {
        *out_result = work_result(&work);
        (void)json_object_set_new(*out_result, "bytes", json_integer((json_int_t)stream->moved));
    }
    stream_close(stream);
    work_close(&work);
    return rc;
}

int transfer_export_recover(struct job *job, json_t **out_result, struct error *err)
{
    transfer_moment_recover(job);
    vm_send_recover(job);
    transfer_folder_remove(job);
    return error_set(err, ECANCELED, "the export was interrupted");
}
