#include "manager/operation/code.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/host/event_loop.h"

const char *operation_code_name(int code)
{
    switch (code) {
    case EINVAL:
    case ENAMETOOLONG:
        return "invalid";
    case EACCES:
    case EPERM:
        return "forbidden";
    case ENOENT:
        return "not-found";
    case EEXIST:
        return "exists";
    case EBUSY:
    case ESRCH:
    case EALREADY:
        return "busy";
    case EPROTONOSUPPORT:
    case EOPNOTSUPP:
        return "unsupported";
    case ENOSPC:
    case EDQUOT:
        return "no-space";
    case ECANCELED:
        return "cancelled";
    default:
        return "failed";
    }
}

/* Names of files that an error speaks of need not be UTF-8, and a text that was cut may end within a character. */
static json_t *text_json(const char *text)
{
    json_t *json = json_string(text);
    if (json == NULL) {
        char plain[ERROR_TEXT_SIZE];
        size_t length = strnlen(text, sizeof(plain) - 1);
        for (size_t i = 0; i < length; i++) {
            plain[i] = (unsigned char)text[i] < 0x80 ? text[i] : '?';
        }
        plain[length] = '\0';
        json = json_string(plain);
    }
    return json;
}

json_t *operation_error(const struct error *err)
{
    return json_pack("{s:s,s:o}", "code", operation_code_name(err->code), "message",
                     text_json(err->text[0] != '\0' ? err->text : "it failed"));
}

void operation_time(char out_text[OPERATION_TIME_SIZE])
{
    uint64_t now = clock_realtime_ns();
    time_t seconds = (time_t)(now / 1000000000);
    struct tm parts;
    char text[24];
    (void)strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", gmtime_r(&seconds, &parts));
    (void)snprintf(out_text, OPERATION_TIME_SIZE, "%s.%03uZ", text,
                   (unsigned)(now / 1000000 % 1000));
}
