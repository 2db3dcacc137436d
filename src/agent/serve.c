#include "agent/serve.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "agent/answer.h"
#include "agent/exec.h"
#include "agent/info.h"
#include "agent/request.h"
#include "agent/system.h"
#include "agent/transfer.h"
#include "base/host/file.h"
#include "session/frames.h"

#define REQUEST_SECONDS 10 /* until the request is there */

static int limit_reading(int fd, time_t seconds, struct error *err)
{
    struct timeval limit = {.tv_sec = seconds};
    return setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0
               ? error_set_errno(err, errno, "connection")
               : 0;
}

static int receive_request(int fd, struct request *out_request, struct error *err)
{
    AUTO_FREE char *text = malloc(SESSION_MAX_PAYLOAD);
    enum session_frame type;
    size_t size;
    if (text == NULL) {
        return error_set_errno(err, ENOMEM, "request");
    }
    int rc = limit_reading(fd, REQUEST_SECONDS, err);
    rc = rc < 0 ? rc : session_stream_receive(fd, &type, text, &size, err);
    rc = rc < 0 ? rc : limit_reading(fd, 0, err);
    if (rc == 0 && type != SESSION_CONTROL) {
        rc = error_set(err, EPROTO, "the first frame of a connection is CONTROL with a request");
    }
    return rc < 0 ? rc : request_parse(text, size, out_request, err);
}

static int set_time(int fd, const struct request *r, struct error *err)
{
    int64_t off_ns = 0;
    int rc = system_set_time(r->time_ns, &off_ns, err);
    return rc < 0 ? rc : answer_ok(fd, json_pack("{s:I}", "was_off_ns", (json_int_t)off_ns), err);
}

static int grow(int fd, struct error *err)
{
    uint64_t size = 0;
    int rc = system_grow(&size, err);
    return rc < 0 ? rc : answer_ok(fd, json_pack("{s:I}", "size_bytes", (json_int_t)size), err);
}

static int set_identity(int fd, const struct request *r, struct error *err)
{
    int rc = system_set_identity(r, err);
    rc = rc < 0 ? rc : answer_ok(fd, json_pack("{s:I}", "cards", (json_int_t)r->card_count), err);
    if (rc == 0) {
        answer_finish(fd);
        system_use_identity(r);
    }
    return rc;
}

static int answer(int fd, const struct request *r, struct freeze_record *record, struct error *err)
{
    int rc;
    switch (r->kind) {
    case REQUEST_INFO:
        return answer_ok(fd, info_make(), err);
    case REQUEST_EXEC:
        return exec_serve(fd, r, err);
    case REQUEST_PUSH:
        return transfer_push(fd, r->path, err);
    case REQUEST_PULL:
        return transfer_pull(fd, r->path, err);
    case REQUEST_SHUTDOWN:
        rc = answer_ok(fd, json_object(), err);
        answer_finish(fd);
        if (rc == 0) {
            system_shut_down(r->is_reboot);
        }
        return rc;
    case REQUEST_FREEZE:
        return freeze_serve(fd, record, err);
    case REQUEST_THAW:
        return freeze_thaw(fd, record, err);
    case REQUEST_TIME:
        return set_time(fd, r, err);
    case REQUEST_GROW:
        return grow(fd, err);
    case REQUEST_IDENTITY:
        return set_identity(fd, r, err);
    }
    return error_set(err, EINVAL, "request");
}

int serve_connection(int fd, bool is_guest, struct freeze_record *record)
{
    struct request request = {0};
    struct error problem = {0};
    int rc = receive_request(fd, &request, &problem);
    if (rc == 0 && !is_guest && !request_is_harmless(request.kind)) {
        rc = error_set(&problem, EPERM,
                       "this agent does not serve a VM's host: it takes info, exec, push and pull");
    } else if (rc == 0) {
        rc = answer(fd, &request, record, &problem);
    }
    if (rc < 0) {
        answer_error(fd, &problem);
    }
    request_free(&request);
    answer_finish(fd);
    return rc < 0 ? 1 : 0;
}
