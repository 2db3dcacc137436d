/* DNS for the names of a switch's ports: "web1" and "web1.hull". Whatever else is asked is another server's.
 *
 * Threads: any. */
#ifndef NET_USER_DNS_H
#define NET_USER_DNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DNS_PORT          53
#define DNS_ANSWER_SIZE   512 /* at most */
#define DNS_MAX_ADDRESSES 8

/* Addresses of a name (in small letters) that are 'size' bytes (4 or 16) long. Their number, at most DNS_MAX_ADDRESSES; -1:
 * there is no such name. */
typedef int (*dns_find_fn)(void *ctx, const char *name, size_t size,
                           uint8_t out_addresses[DNS_MAX_ADDRESSES][16]);

/* Answers a query, from its first byte behind the UDP header on. Returns the answer's size; 0: pass the query on. */
size_t dns_answer(const uint8_t *query, size_t size, dns_find_fn find, void *ctx,
                  uint8_t out_answer[DNS_ANSWER_SIZE]);

#endif
