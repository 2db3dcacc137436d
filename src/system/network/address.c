/* Addresses and their networks: text and arithmetic. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "system/network/network.h"

static unsigned width(const struct network_address *address)
{
    return address->family == AF_INET6 ? 128 : 32;
}

/* The byte's bits that belong to the host within the network. */
static uint8_t host_mask(const struct network_address *address, size_t byte)
{
    size_t first = byte * 8;
    if (address->prefix <= first) {
        return 0xff;
    }
    return address->prefix >= first + 8 ? 0 : (uint8_t)(0xff >> (address->prefix - first));
}

/* Are all the host's bits 'ones', or all zeros? */
static bool has_host_bits(const struct network_address *address, bool ones)
{
    for (size_t i = 0; i < width(address) / 8; i++) {
        uint8_t mask = host_mask(address, i);
        if ((address->bytes[i] & mask) != (ones ? mask : 0)) {
            return false;
        }
    }
    return true;
}

/* Two addresses, or one, are all hosts (RFC 3021, RFC 6164). */
static bool is_tiny(const struct network_address *address)
{
    return address->prefix + 1 >= width(address);
}

/* Why no host can have it; NULL: one can. */
static const char *no_host(const struct network_address *address)
{
    static const uint8_t nothing[15];
    const uint8_t *bytes = address->bytes;
    if (address->family == AF_INET) {
        if (bytes[0] == 0 || bytes[0] == 127 || bytes[0] >= 224) {
            return "is of a kind that no container can have";
        }
    } else if (bytes[0] == 0xff ||
               (memcmp(bytes, nothing, sizeof(nothing)) == 0 && bytes[15] <= 1) ||
               IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)(const void *)bytes)) {
        return "is of a kind that no container can have";
    }
    if (is_tiny(address)) {
        return NULL;
    }
    if (has_host_bits(address, false)) {
        return "is the network's own address";
    }
    return address->family == AF_INET && has_host_bits(address, true)
               ? "is the network's broadcast address"
               : NULL;
}

/* Digits alone, without leading zeros. */
static bool read_prefix(const char *text, unsigned *out_prefix)
{
    size_t length = strspn(text, "0123456789");
    if (length == 0 || length > 3 || text[length] != '\0' || (text[0] == '0' && length > 1)) {
        return false;
    }
    unsigned value = 0;
    for (size_t i = 0; i < length; i++) {
        value = value * 10 + (unsigned)(text[i] - '0');
    }
    *out_prefix = value;
    return true;
}

int network_parse(const char *text, unsigned default_prefix, bool is_host,
                  struct network_address *out_address, struct error *err)
{
    struct network_address address = {0};
    char number[INET6_ADDRSTRLEN] = "";
    const char *slash = strchr(text, '/');
    size_t length = slash != NULL ? (size_t)(slash - text) : strlen(text);
    if (length < sizeof(number)) {
        memcpy(number, text, length);
    }
    if (inet_pton(AF_INET, number, address.bytes) == 1) {
        address.family = AF_INET;
    } else if (inet_pton(AF_INET6, number, address.bytes) == 1) {
        address.family = AF_INET6;
    } else {
        return error_set(err, EINVAL,
                         "'%.60s' is no address; 10.90.0.10/24 and fd00::10/64 would do", text);
    }
    address.prefix = default_prefix != 0 ? default_prefix : width(&address);
    if (slash != NULL && !read_prefix(slash + 1, &address.prefix)) {
        return error_set(err, EINVAL,
                         "'%.60s': the length of its prefix is no number; /24 would do", text);
    }
    if (address.prefix > width(&address)) {
        return error_set(err, EINVAL, "'%.60s': a prefix of %u bits is too long; at most %u", text,
                         address.prefix, width(&address));
    }
    const char *why = is_host ? no_host(&address) : NULL;
    if (why != NULL) {
        return error_set(err, EINVAL, "'%.60s' %s", text, why);
    }
    *out_address = address;
    return 0;
}

void network_format(const struct network_address *address, bool with_prefix,
                    char out_text[NETWORK_TEXT_SIZE])
{
    char number[INET6_ADDRSTRLEN];
    if (inet_ntop(address->family, address->bytes, number, sizeof(number)) == NULL) {
        (void)snprintf(out_text, NETWORK_TEXT_SIZE, "none");
    } else if (with_prefix) {
        (void)snprintf(out_text, NETWORK_TEXT_SIZE, "%s/%u", number, address->prefix);
    } else {
        (void)snprintf(out_text, NETWORK_TEXT_SIZE, "%s", number);
    }
}

int network_advance(const struct network_address *address, uint32_t count,
                    struct network_address *out_address, struct error *err)
{
    struct network_address next = *address;
    uint64_t carry = count;
    for (size_t i = width(address) / 8; i-- > 0 && carry != 0;) {
        carry += next.bytes[i];
        next.bytes[i] = (uint8_t)carry;
        carry >>= 8;
    }
    if (carry != 0 || !network_contains(address, &next) ||
        (!is_tiny(&next) && has_host_bits(&next, true))) {
        char text[NETWORK_TEXT_SIZE];
        network_format(address, true, text);
        return error_set(err, ERANGE, "the network of %s ends before %u addresses further", text,
                         count);
    }
    *out_address = next;
    return 0;
}

bool network_contains(const struct network_address *network, const struct network_address *other)
{
    if (network->family != other->family || network->family == 0) {
        return false;
    }
    for (size_t i = 0; i < width(network) / 8; i++) {
        if (((network->bytes[i] ^ other->bytes[i]) & ~host_mask(network, i)) != 0) {
            return false;
        }
    }
    return true;
}
