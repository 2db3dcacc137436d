/* DHCP for cards whose address is known: RFC 2131 without a pool.
 *
 * Threads: any. */
#ifndef NET_USER_DHCP_H
#define NET_USER_DHCP_H

#include <stddef.h>
#include <stdint.h>

#define DHCP_SERVER_PORT 67
#define DHCP_CLIENT_PORT 68
#define DHCP_ANSWER_SIZE 512 /* at most */
#define DHCP_DOMAIN      "hull"

struct dhcp_lease {
    const uint8_t *mac;
    uint8_t address[4], mask[4], router[4], name_server[4];
    const char *name; /* of the host, at most 63 bytes; "": it has none */
};

/* Answers what a client sends, from its first byte behind the UDP header on. Returns the answer's size; 0: there is none to
 * give. 'out_target': the address to send it to. */
size_t dhcp_answer(const uint8_t *request, size_t size, const struct dhcp_lease *lease,
                   uint8_t out_answer[DHCP_ANSWER_SIZE], uint8_t out_target[4]);

#endif
