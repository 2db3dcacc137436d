#include "net/user/dhcp.h"

#include <stdbool.h>
#include <string.h>

#include "base/core/endian.h"

#define HEADER_SIZE   240 /* up to the options, with the cookie */
#define MIN_SIZE      300 /* of BOOTP */
#define COOKIE        0x63825363
#define LEASE_SECONDS (24 * 3600)

enum {
    OP_REQUEST = 1,
    OP_REPLY = 2,
    OPTION_MASK = 1,
    OPTION_ROUTER = 3,
    OPTION_NAME_SERVER = 6,
    OPTION_HOST_NAME = 12,
    OPTION_DOMAIN = 15,
    OPTION_REQUESTED = 50,
    OPTION_LEASE_TIME = 51,
    OPTION_TYPE = 53,
    OPTION_SERVER = 54,
    OPTION_END = 255,
    DISCOVER = 1,
    OFFER = 2,
    REQUEST = 3,
    ACK = 5,
    NAK = 6,
    INFORM = 8,
};

/* Of a client's options; NULL: it did not say. */
struct options {
    unsigned type;
    const uint8_t *requested, *server;
};

static void read_options(const uint8_t *at, size_t size, struct options *out)
{
    *out = (struct options){0};
    while (size > 0 && at[0] != OPTION_END) {
        if (at[0] == 0) {
            at++;
            size--;
            continue;
        }
        if (size < 2 || at[1] > size - 2) {
            return;
        }
        size_t length = at[1];
        if (at[0] == OPTION_TYPE && length == 1) {
            out->type = at[2];
        } else if (at[0] == OPTION_REQUESTED && length == 4) {
            out->requested = at + 2;
        } else if (at[0] == OPTION_SERVER && length == 4) {
            out->server = at + 2;
        }
        at += 2 + length;
        size -= 2 + length;
    }
}

static uint8_t *put(uint8_t *at, unsigned option, const void *data, size_t size)
{
    at[0] = (uint8_t)option;
    at[1] = (uint8_t)size;
    memcpy(at + 2, data, size);
    return at + 2 + size;
}

static bool is_zero(const uint8_t *address)
{
    return be32_get(address) == 0;
}

/* The kind of answer; 0: none. */
static unsigned decide(const uint8_t *request, const struct options *options,
                       const struct dhcp_lease *lease)
{
    const uint8_t *has = request + 12;
    switch (options->type) {
    case DISCOVER:
        return OFFER;
    case INFORM:
        return is_zero(has) ? 0 : ACK;
    case REQUEST:
        if (options->server != NULL && memcmp(options->server, lease->router, 4) != 0) {
            return 0; /* it has taken another one's offer */
        }
        if (options->requested != NULL) {
            return memcmp(options->requested, lease->address, 4) == 0 ? ACK : NAK;
        }
        return memcmp(has, lease->address, 4) == 0 ? ACK : NAK;
    default:
        return 0; /* DECLINE, RELEASE: the address is its own all the same */
    }
}

size_t dhcp_answer(const uint8_t *request, size_t size, const struct dhcp_lease *lease,
                   uint8_t out_answer[DHCP_ANSWER_SIZE], uint8_t out_target[4])
{
    struct options options;
    if (size < HEADER_SIZE || request[0] != OP_REQUEST || request[1] != 1 || request[2] != 6 ||
        memcmp(request + 28, lease->mac, 6) != 0 || be32_get(request + 236) != COOKIE) {
        return 0;
    }
    read_options(request + HEADER_SIZE, size - HEADER_SIZE, &options);
    unsigned type = decide(request, &options, lease);
    if (type == 0) {
        return 0;
    }
    memset(out_answer, 0, DHCP_ANSWER_SIZE);
    out_answer[0] = OP_REPLY;
    memcpy(out_answer + 1, request + 1, 2);
    memcpy(out_answer + 4, request + 4, 4);   /* the transaction */
    memcpy(out_answer + 10, request + 10, 2); /* flags */
    memcpy(out_answer + 28, request + 28, 16);
    be32_put(out_answer + 236, COOKIE);
    uint8_t kind = (uint8_t)type;
    uint8_t *at = put(out_answer + HEADER_SIZE, OPTION_TYPE, &kind, 1);
    at = put(at, OPTION_SERVER, lease->router, 4);
    /* A client with an address listens there; others hear what is for all. */
    memset(out_target, 0xff, 4);
    if (type != NAK) {
        uint8_t seconds[4];
        be32_put(seconds, LEASE_SECONDS);
        if (options.type != INFORM) {
            memcpy(out_answer + 16, lease->address, 4);
            at = put(at, OPTION_LEASE_TIME, seconds, 4);
        }
        if (!is_zero(request + 12)) {
            memcpy(out_answer + 12, request + 12, 4);
            memcpy(out_target, request + 12, 4);
        }
        at = put(at, OPTION_MASK, lease->mask, 4);
        at = put(at, OPTION_ROUTER, lease->router, 4);
        at = put(at, OPTION_NAME_SERVER, lease->name_server, 4);
        at = put(at, OPTION_DOMAIN, DHCP_DOMAIN, strlen(DHCP_DOMAIN));
        if (lease->name[0] != '\0') {
            at = put(at, OPTION_HOST_NAME, lease->name, strnlen(lease->name, 63));
        }
    }
    *at++ = OPTION_END;
    size_t length = (size_t)(at - out_answer);
    return length < MIN_SIZE ? MIN_SIZE : length;
}
