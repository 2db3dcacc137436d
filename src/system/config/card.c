/* A network card as one word: "bridge=hull0,name=eth0,ip=10.90.0.10/24,gateway=10.90.0.1". */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/size.h"
#include "base/host/file.h"
#include "system/config/config.h"

/* A copy that lives as long as the configuration. */
static const char *keep(struct config *config, const char *text)
{
    if (config->kept_count == ARRAY_COUNT(config->kept)) {
        return NULL;
    }
    char *copy = strdup(text);
    if (copy != NULL) {
        config->kept[config->kept_count++] = copy;
    }
    return copy;
}

static bool is_device_name(const char *text)
{
    size_t length = strlen(text);
    return length > 0 && length < IFNAMSIZ && strcmp(text, ".") != 0 && strcmp(text, "..") != 0 &&
           strcspn(text, "/: \t\n") == length;
}

static int parse_mac(const char *text, uint8_t out[6], struct error *err)
{
    char more;
    if (sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%c", &out[0], &out[1], &out[2], &out[3],
               &out[4], &out[5], &more) != 6 ||
        (out[0] & 1) != 0) {
        return error_set(err, EINVAL, "mac '%.40s': as 02:00:00:12:34:56, no group address", text);
    }
    return 0;
}

static int parse_gateway(struct network_card *card, const char *text, struct error *err)
{
    struct network_address address;
    int rc = network_parse(text, 0, true, &address, err);
    if (rc == 0) {
        *(address.family == AF_INET ? &card->gateway4 : &card->gateway6) = address;
    }
    return rc;
}

static int parse_forward(struct config *config, struct network_card *card, const char *value,
                         struct error *err)
{
    const char *arrow = strchr(value, '>');
    if (arrow == NULL || arrow == value || arrow[1] == '\0' ||
        card->forward_count == NETWORK_MAX_FORWARDS) {
        return error_set(err, EINVAL, "forward '%.60s': LISTEN>CONNECT, at most %d", value,
                         NETWORK_MAX_FORWARDS);
    }
    const char *copy = keep(config, value);
    if (copy == NULL) {
        return error_set(err, ENOMEM, "no memory for network cards");
    }
    card->forwards[card->forward_count++] = copy;
    return 0;
}

static int parse_part(struct config *config, struct network_card *card, const char *name,
                      const char *value, struct error *err)
{
    if (strcmp(name, "bridge") == 0 || strcmp(name, "parent") == 0 || strcmp(name, "name") == 0) {
        if (!is_device_name(value)) {
            return error_set(err, EINVAL, "%s '%.40s' is no name of a network device", name, value);
        }
        const char *copy = keep(config, value);
        if (copy == NULL) {
            return error_set(err, ENOMEM, "no memory for network cards");
        }
        *(name[0] == 'n' ? &card->name : &card->bridge) = copy;
        card->is_macvlan = card->is_macvlan || name[0] == 'p';
        return 0;
    }
    if (strcmp(name, "switch") == 0) {
        card->switch_path = value[0] == '/' ? keep(config, value) : NULL;
        return card->switch_path != NULL
                   ? 0
                   : error_set(err, EINVAL, "switch '%.60s': the absolute path of a socket", value);
    }
    if (strcmp(name, "forward") == 0) {
        return parse_forward(config, card, value, err);
    }
    if (strcmp(name, "spoofing") == 0) {
        card->may_spoof = strcmp(value, "allow") == 0;
        return card->may_spoof || strcmp(value, "drop") == 0
                   ? 0
                   : error_set(err, EINVAL, "spoofing '%.40s': allow or drop", value);
    }
    if (strcmp(name, "ip") == 0) {
        if (card->address_count == NETWORK_MAX_ADDRESSES) {
            return error_set(err, E2BIG, "more than %d addresses", NETWORK_MAX_ADDRESSES);
        }
        return network_parse(value, 0, true, &card->addresses[card->address_count++], err);
    }
    if (strcmp(name, "gateway") == 0) {
        return parse_gateway(card, value, err);
    }
    if (strcmp(name, "mac") == 0) {
        return parse_mac(value, card->mac, err);
    }
    if (strcmp(name, "mtu") == 0) {
        uint64_t mtu;
        int rc = number_parse(value, 68, 65535, &mtu, err);
        card->mtu = rc == 0 ? (unsigned)mtu : 0;
        return rc;
    }
    return error_set(err, EINVAL,
                     "'%.40s' is unknown: bridge, parent, switch, name, ip, gateway, mac, mtu, "
                     "forward or spoofing",
                     name);
}

int config_parse_card(struct config *config, const char *value, struct error *err)
{
    AUTO_FREE char *text = strdup(value);
    if (text == NULL || config->card_count == CONFIG_MAX_CARDS) {
        return error_set(err, E2BIG, "more than %d network cards", CONFIG_MAX_CARDS);
    }
    struct network_card *card = &config->cards[config->card_count];
    *card = (struct network_card){0};
    char *rest = text;
    for (char *part; (part = strsep(&rest, ",")) != NULL;) {
        char *equals = strchr(part, '=');
        if (equals == NULL || equals[1] == '\0') {
            return error_set(err, EINVAL, "'%.60s': KEY=VALUE", part);
        }
        *equals = '\0';
        int rc = parse_part(config, card, part, equals + 1, err);
        if (rc < 0) {
            return rc;
        }
    }
    if ((card->bridge == NULL) == (card->switch_path == NULL)) {
        return error_set(err, EINVAL,
                         "'%.60s': bridge=NAME is missing (or, for an ordinary user, "
                         "switch=PATH)",
                         value);
    }
    if (card->may_spoof && card->switch_path == NULL) {
        return error_set(err, EINVAL, "spoofing=allow is of cards with switch=PATH");
    }
    if (card->bridge != NULL && strcmp(card->bridge, "none") == 0) {
        return 0; /* lo alone */
    }
    char name[IFNAMSIZ];
    (void)snprintf(name, sizeof(name), "eth%zu", config->card_count);
    card->name = card->name != NULL ? card->name : keep(config, name);
    for (size_t i = 0; card->name != NULL && i < config->card_count; i++) {
        if (strcmp(config->cards[i].name, card->name) == 0) {
            return error_set(err, EINVAL, "two cards are named %s", card->name);
        }
    }
    config->card_count++;
    return card->name != NULL ? 0 : error_set(err, ENOMEM, "no memory for network cards");
}
