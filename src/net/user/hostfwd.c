#include "net/user/hostfwd.h"

#include <arpa/inet.h>
#include <stdint.h>
#include <string.h>

#define SYNTAX "(tcp|udp):[HOST-ADDRESS]:HOST-PORT-[GUEST-ADDRESS]:GUEST-PORT"

/* Reads decimal digits for 1..65535; returns what follows them, NULL if it is no port. */
static const char *parse_port(const char *text, in_port_t *out_port)
{
    uint32_t port = 0;
    const char *at = text;
    while (*at >= '0' && *at <= '9' && port <= UINT16_MAX) {
        port = port * 10 + (uint32_t)(*at++ - '0');
    }
    if (at == text || port == 0 || port > UINT16_MAX) {
        return NULL;
    }
    *out_port = htons((uint16_t)port);
    return at;
}

/* Reads [ADDRESS]:PORT; returns what follows, NULL with a reason if it is none. */
static const char *parse_address(const char *text, const char *side,
                                 union hostfwd_address *out_address, struct error *err)
{
    char host[INET6_ADDRSTRLEN];
    bool is_v6 = *text == '[';
    const char *start = text + is_v6;
    size_t length = strcspn(start, is_v6 ? "]" : ":");
    const char *colon = start + length + (is_v6 && start[length] == ']');
    if (*colon != ':' || length >= sizeof(host)) {
        (void)error_set(err, EINVAL, "no %s port after \"%.60s\": expected " SYNTAX, side, text);
        return NULL;
    }
    memcpy(host, start, length);
    host[length] = '\0';
    union hostfwd_address address = {0};
    bool is_known;
    if (is_v6) {
        address.v6.sin6_family = AF_INET6;
        is_known = inet_pton(AF_INET6, host, &address.v6.sin6_addr) == 1;
    } else {
        address.v4.sin_family = AF_INET;
        is_known = length == 0 || inet_pton(AF_INET, host, &address.v4.sin_addr) == 1;
    }
    if (!is_known) {
        (void)error_set(err, EINVAL,
                        "bad %s address \"%s\": expected an IPv4 address, an IPv6 address in "
                        "brackets, or nothing",
                        side, host);
        return NULL;
    }
    const char *end = parse_port(colon + 1, is_v6 ? &address.v6.sin6_port : &address.v4.sin_port);
    if (end == NULL) {
        (void)error_set(err, EINVAL, "bad %s port in \"%.60s\": expected 1 to 65535", side, text);
        return NULL;
    }
    *out_address = address;
    return end;
}

static int parse(const char *text, struct hostfwd *out_forward, struct error *err)
{
    struct hostfwd forward = {.is_udp = strncmp(text, "udp:", 4) == 0};
    if (!forward.is_udp && strncmp(text, "tcp:", 4) != 0) {
        return error_set(err, EINVAL, "no protocol: expected " SYNTAX);
    }
    const char *at = parse_address(text + 4, "host", &forward.host, err);
    if (at == NULL) {
        return -EINVAL;
    }
    if (*at != '-') {
        return error_set(err, EINVAL, "no \"-\" after the host port: expected " SYNTAX);
    }
    at = parse_address(at + 1, "guest", &forward.guest, err);
    if (at == NULL) {
        return -EINVAL;
    }
    if (*at != '\0') {
        return error_set(err, EINVAL, "\"%.60s\" after the guest port: expected nothing", at);
    }
    if (forward.host.any.sa_family != forward.guest.any.sa_family) {
        return error_set(err, EINVAL,
                         "an IPv4 and an IPv6 address: expected the same kind on both sides");
    }
    if (forward.guest.any.sa_family == AF_INET6 &&
        IN6_IS_ADDR_UNSPECIFIED(&forward.guest.v6.sin6_addr)) {
        return error_set(err, EINVAL, "the guest's IPv6 address is missing");
    }
    *out_forward = forward;
    return 0;
}

int hostfwd_parse(const char *text, struct hostfwd *out_forward, struct error *err)
{
    int rc = parse(text, out_forward, err);
    return rc < 0 ? error_prefix(err, rc, "forwarding \"%.80s\"", text) : 0;
}
