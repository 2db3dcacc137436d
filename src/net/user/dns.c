#include "net/user/dns.h"

#include <string.h>

#include "base/core/endian.h"
#include "net/user/dhcp.h"

#define HEADER_SIZE 12
#define MAX_NAME    255
#define MAX_LABEL   63
#define TTL_SECONDS 30

enum {
    FLAG_ANSWER = 0x8000,
    FLAG_AUTHORITY = 0x0400,
    FLAG_WANTS_RECURSION = 0x0100,
    FLAG_HAS_RECURSION = 0x0080,
    OPCODE_MASK = 0x7800,
    NO_SUCH_NAME = 3,
    TYPE_A = 1,
    TYPE_AAAA = 28,
    TYPE_ANY = 255,
    CLASS_IN = 1,
};

struct question {
    char first[MAX_LABEL + 1]; /* the first label, in small letters */
    unsigned labels;
    bool is_in_domain; /* the last one is "hull" */
    unsigned type, class;
    size_t size; /* from the header on */
};

static char small(uint8_t letter)
{
    return (char)(letter >= 'A' && letter <= 'Z' ? letter - 'A' + 'a' : letter);
}

/* The one question; false: it has none that can be read. */
static bool read_question(const uint8_t *at, size_t size, struct question *out)
{
    size_t used = 0;
    *out = (struct question){0};
    for (;;) {
        char label[MAX_LABEL + 1];
        size_t length = used < size ? at[used] : MAX_LABEL + 1;
        if (length > MAX_LABEL || used + 1 + length > MAX_NAME || used + 1 + length > size) {
            return false; /* pointers stand in answers only */
        }
        used++;
        if (length == 0) {
            break;
        }
        for (size_t i = 0; i < length; i++) {
            label[i] = small(at[used + i]);
            if (label[i] == '\0') {
                return false;
            }
        }
        label[length] = '\0';
        if (out->labels++ == 0) {
            memcpy(out->first, label, length + 1);
        }
        out->is_in_domain = out->labels > 1 && strcmp(label, DHCP_DOMAIN) == 0;
        used += length;
    }
    if (size - used < 4) {
        return false;
    }
    out->type = be16_get(at + used);
    out->class = be16_get(at + used + 2);
    out->size = used + 4;
    return true;
}

static uint8_t *put_addresses(uint8_t *at, unsigned type, size_t size, unsigned count,
                              uint8_t addresses[DNS_MAX_ADDRESSES][16])
{
    for (unsigned i = 0; i < count; i++) {
        be16_put(at, 0xc000 | HEADER_SIZE); /* the question's name */
        be16_put(at + 2, (uint16_t)type);
        be16_put(at + 4, CLASS_IN);
        be32_put(at + 6, TTL_SECONDS);
        be16_put(at + 10, (uint16_t)size);
        memcpy(at + 12, addresses[i], size);
        at += 12 + size;
    }
    return at;
}

size_t dns_answer(const uint8_t *query, size_t size, dns_find_fn find, void *ctx,
                  uint8_t out_answer[DNS_ANSWER_SIZE])
{
    uint8_t ipv4[DNS_MAX_ADDRESSES][16], ipv6[DNS_MAX_ADDRESSES][16];
    struct question question;
    if (size < HEADER_SIZE || (be16_get(query + 2) & (FLAG_ANSWER | OPCODE_MASK)) != 0 ||
        be16_get(query + 4) != 1 ||
        !read_question(query + HEADER_SIZE, size - HEADER_SIZE, &question) ||
        question.class != CLASS_IN || question.labels == 0) {
        return 0;
    }
    bool wants4 = question.type == TYPE_A || question.type == TYPE_ANY;
    bool wants6 = question.type == TYPE_AAAA || question.type == TYPE_ANY;
    bool is_short = question.labels == 1 || (question.labels == 2 && question.is_in_domain);
    int count4 = is_short ? find(ctx, question.first, 4, ipv4) : -1;
    int count6 = is_short ? find(ctx, question.first, 16, ipv6) : -1;
    bool is_known = count4 >= 0;
    if (!is_known && !question.is_in_domain && (question.labels > 1 || !(wants4 || wants6))) {
        return 0;
    }
    count4 = wants4 && is_known ? count4 : 0;
    count6 = wants6 && is_known ? count6 : 0;
    unsigned flags = FLAG_ANSWER | FLAG_AUTHORITY | FLAG_HAS_RECURSION |
                     (be16_get(query + 2) & FLAG_WANTS_RECURSION) | (is_known ? 0 : NO_SUCH_NAME);
    memset(out_answer, 0, HEADER_SIZE);
    memcpy(out_answer, query, 2); /* its number */
    be16_put(out_answer + 2, (uint16_t)flags);
    be16_put(out_answer + 4, 1);
    memcpy(out_answer + HEADER_SIZE, query + HEADER_SIZE, question.size);
    uint8_t *at = out_answer + HEADER_SIZE + question.size;
    /* Without more than there is room for. */
    size_t left = DNS_ANSWER_SIZE - (size_t)(at - out_answer);
    unsigned fits4 = (unsigned)count4, fits6 = (unsigned)count6;
    while (fits4 * 16 + fits6 * 28 > left) {
        if (fits6 > 0) {
            fits6--;
        } else {
            fits4--;
        }
    }
    be16_put(out_answer + 6, (uint16_t)(fits4 + fits6));
    at = put_addresses(at, TYPE_A, 4, fits4, ipv4);
    at = put_addresses(at, TYPE_AAAA, 16, fits6, ipv6);
    return (size_t)(at - out_answer);
}
