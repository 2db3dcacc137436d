#include "net/user/mac_table.h"

#include <string.h>

static uint64_t number_of(const uint8_t mac[6])
{
    uint64_t number = 0;
    for (unsigned i = 0; i < 6; i++) {
        number = number << 8 | mac[i];
    }
    return number;
}

static unsigned set_of(uint64_t number)
{
    return (unsigned)((number * 0x9e3779b97f4a7c15) >> 56) % MAC_TABLE_SETS;
}

void mac_table_learn(struct mac_table *table, const uint8_t mac[6], unsigned port, uint64_t now_s)
{
    uint64_t number = number_of(mac);
    struct mac_entry *set = table->entry[set_of(number)];
    struct mac_entry *into = &set[0];
    for (unsigned i = 0; i < MAC_TABLE_WAYS; i++) {
        if (set[i].mac == number) {
            into = &set[i];
            break;
        }
        if (set[i].mac == 0 ? into->mac != 0 : into->mac != 0 && set[i].seen_s < into->seen_s) {
            into = &set[i];
        }
    }
    *into = (struct mac_entry){.mac = number, .seen_s = now_s, .port = port};
}

int mac_table_find(const struct mac_table *table, const uint8_t mac[6], uint64_t now_s)
{
    uint64_t number = number_of(mac);
    const struct mac_entry *set = table->entry[set_of(number)];
    for (unsigned i = 0; i < MAC_TABLE_WAYS; i++) {
        if (number != 0 && set[i].mac == number && now_s - set[i].seen_s <= MAC_TABLE_TTL_S) {
            return (int)set[i].port;
        }
    }
    return -1;
}

void mac_table_forget(struct mac_table *table, unsigned port)
{
    for (unsigned i = 0; i < MAC_TABLE_SETS; i++) {
        for (unsigned way = 0; way < MAC_TABLE_WAYS; way++) {
            if (table->entry[i][way].mac != 0 && table->entry[i][way].port == port) {
                table->entry[i][way] = (struct mac_entry){0};
            }
        }
    }
}
