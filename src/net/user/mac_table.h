/* Which port a hardware address was last seen at. It has a fixed size: where it is full, the oldest of four goes.
 *
 * Threads: none. */
#ifndef NET_USER_MAC_TABLE_H
#define NET_USER_MAC_TABLE_H

#include <stdint.h>

#define MAC_TABLE_SETS  256
#define MAC_TABLE_WAYS  4
#define MAC_TABLE_TTL_S 300

struct mac_entry {
    uint64_t mac; /* 0: none */
    uint64_t seen_s;
    unsigned port; /* its owner's number for it */
};

struct mac_table {
    struct mac_entry entry[MAC_TABLE_SETS][MAC_TABLE_WAYS];
};

void mac_table_learn(struct mac_table *table, const uint8_t mac[6], unsigned port, uint64_t now_s);
/* -1: it was not seen of late. */
int mac_table_find(const struct mac_table *table, const uint8_t mac[6], uint64_t now_s);
void mac_table_forget(struct mac_table *table, unsigned port);

#endif
