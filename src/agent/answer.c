#include "agent/answer.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/host/event_loop.h"
#include "session/frames.h"

#define FINISH_MS 5000

const char *answer_code(int code)
{
    switch (code) {
    case EINVAL:
    case EBADMSG:
    case EPROTO:
    case EMSGSIZE:
        return "invalid";
    case ENOENT:
    case ENOTDIR:
        return "not-found";
    case EACCES:
    case EPERM:
    case EXDEV:
        return "forbidden";
    case EBUSY:
        return "busy";
    case EOPNOTSUPP:
    case ENOSYS:
    case ENOTTY:
        return "unsupported";
    default:
        return "failed";
    }
}

int answer_ok(int fd, json_t *ok, struct error *err)
{
    json_t *answer = json_pack("{s:o}", "ok", ok);
    return answer == NULL ? error_set_errno(err, ENOMEM, "answer")
                          : session_stream_send_control(fd, answer, err);
}

void answer_error(int fd, const struct error *problem)
{
    json_t *answer = json_pack("{s:{s:s,s:s%}}", "error", "code", answer_code(problem->code),
                               "message", problem->text, strlen(problem->text));
    if (answer == NULL) { /* names in the text need not be UTF-8 */
        answer = json_pack("{s:{s:s,s:s}}", "error", "code", answer_code(problem->code), "message",
                           "it failed, with words that are no text");
    }
    if (answer != NULL) {
        error_ignore(session_stream_send_control(fd, answer, NULL));
    }
}

void answer_finish(int fd)
{
    char rest[4096];
    int64_t end = clock_monotonic_ms() + FINISH_MS;
    (void)shutdown(fd, SHUT_WR);
    for (;;) {
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        int64_t left = end - clock_monotonic_ms();
        if (left <= 0 || poll(&wait, 1, (int)left) <= 0 || read(fd, rest, sizeof(rest)) <= 0) {
            break;
        }
    }
}
