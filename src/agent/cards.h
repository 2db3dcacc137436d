/* Network cards of a clone: it has those of the one that it was cloned from, and gets addresses of its own. */
#ifndef AGENT_CARDS_H
#define AGENT_CARDS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/core/error.h"

#define CARDS_MAX     32
#define CARD_MAC_SIZE 6

struct card_change {
    uint8_t from[CARD_MAC_SIZE], to[CARD_MAC_SIZE];
};

/* "52:54:00:12:34:56". false: no MAC, or one of many cards, or of none. */
bool must_check card_parse_mac(const char *text, uint8_t out_mac[CARD_MAC_SIZE]);

/* Gives the card with the MAC 'from' the other one. Its IP addresses, which are those of somebody else now, go. One that was up
 * is up afterwards. -ENODEV: there is no such card. */
int must_check card_change(const struct card_change *change, struct error *err);
/* Has whoever gave it its addresses do so anew, if it is up. Not waited for. */
void card_configure_again(const struct card_change *change);

#endif
