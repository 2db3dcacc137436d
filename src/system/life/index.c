/* What all containers have taken, loaded once for all that is made together. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/host/file.h"
#include "system/life/internal.h"

/* Ranges that systemd-nspawn takes too (0x00080000 to 0x6fffffff); users' own ranges (subuid(5)) begin at 100000 and seldom
 * come so far. */
#define FIRST_ID  0x40000000u
#define LAST_ID   0x6fff0000u
#define ID_COUNT  65536u
#define MAX_RANGE ((LAST_ID - FIRST_ID) / ID_COUNT + 1)
#define MAX_TRIED (1u << 20)

struct taken {
    char name[72], bridge[IFNAMSIZ];
    struct network_address address;
};

struct life_index {
    const struct life *life;
    int lock;
    uint8_t ids[MAX_RANGE];
    struct taken *taken;
    size_t count, room;
    char wanted[80]; /* of 'layers' */
    struct template_layers layers;
};

const struct life *life_index_life(const struct life_index *index)
{
    return index->life;
}

static void take_ids(struct life_index *index, uint64_t first, uint64_t count)
{
    for (uint64_t id = first - first % ID_COUNT; id < first + count; id += ID_COUNT) {
        if (id >= FIRST_ID && id <= LAST_ID) {
            index->ids[(id - FIRST_ID) / ID_COUNT] = 1;
        }
    }
}

static int take_address(struct life_index *index, const char *name, const char *bridge,
                        const struct network_address *address)
{
    if (index->count == index->room) {
        size_t room = index->room * 2 + 64;
        struct taken *larger = realloc(index->taken, room * sizeof(*larger));
        if (larger == NULL) {
            return -ENOMEM;
        }
        index->taken = larger;
        index->room = room;
    }
    struct taken *taken = &index->taken[index->count++];
    (void)snprintf(taken->name, sizeof(taken->name), "%s", name);
    (void)snprintf(taken->bridge, sizeof(taken->bridge), "%s", bridge);
    taken->address = *address;
    return 0;
}

int life_index_add(struct life_index *index, const char *name, const struct config *config,
                   struct error *err)
{
    take_ids(index, config->first_id, config->id_count);
    for (size_t i = 0; i < config->card_count; i++) {
        const struct network_card *card = &config->cards[i];
        for (size_t j = 0; card->bridge != NULL && j < card->address_count; j++) {
            if (take_address(index, name, card->bridge, &card->addresses[j]) < 0) {
                return error_set(err, ENOMEM, "no memory for the list of addresses");
            }
        }
    }
    return 0;
}

int life_index_open(const struct life *life, struct life_index **out_index, struct error *err)
{
    struct life_index *index = calloc(1, sizeof(*index));
    if (index == NULL) {
        return error_set(err, ENOMEM, "no memory for the list of containers");
    }
    index->life = life;
    index->lock = life_lock(life, "", err);
    char **names = NULL;
    size_t count = 0;
    int rc = index->lock < 0 ? index->lock : config_list(&life->store, &names, &count, err);
    for (size_t i = 0; i < count; i++) {
        struct config *config;
        struct error damaged; /* it has nothing that anybody could read */
        if (rc == 0 && config_load(&life->store, names[i], &config, &damaged) == 0) {
            rc = life_index_add(index, names[i], config, err);
            config_destroy(config);
        }
        free(names[i]);
    }
    free(names);
    if (rc < 0) {
        life_index_close(index);
        return rc;
    }
    *out_index = index;
    return 0;
}

void life_index_close(struct life_index *index)
{
    if (index == NULL) {
        return;
    }
    if (index->lock >= 0) {
        close(index->lock);
    }
    template_close(&index->layers);
    free(index->taken);
    free(index);
}

int life_index_ids(const struct life_index *index, uint32_t *out_first, uint32_t *out_count,
                   struct error *err)
{
    /* All of a user's: his namespace has one range, and keeps them from everybody else's. */
    if (index->life->is_users) {
        *out_first = 0;
        *out_count = ID_COUNT;
        return 0;
    }
    for (uint32_t i = 0; i < MAX_RANGE; i++) {
        if (!index->ids[i]) {
            *out_first = FIRST_ID + i * ID_COUNT;
            *out_count = ID_COUNT;
            return 0;
        }
    }
    return error_set(err, ENOSPC, "no range of ids is free: %u containers have them all",
                     MAX_RANGE);
}

static bool is_same_address(const struct network_address *a, const struct network_address *b)
{
    return a->family == b->family &&
           memcmp(a->bytes, b->bytes, a->family == AF_INET ? 4 : sizeof(a->bytes)) == 0;
}

static const struct taken *find(const struct life_index *index, const char *bridge,
                                const struct network_address *address, const char *but_name)
{
    for (size_t i = 0; i < index->count; i++) {
        const struct taken *taken = &index->taken[i];
        if (is_same_address(&taken->address, address) && strcmp(taken->bridge, bridge) == 0 &&
            strcmp(taken->name, but_name) != 0) {
            return taken;
        }
    }
    return NULL;
}

const char *life_index_owner(const struct life_index *index, const char *bridge,
                             const struct network_address *address)
{
    const struct taken *taken = find(index, bridge, address, "");
    return taken != NULL ? taken->name : NULL;
}

int life_index_check(const struct life_index *index, const char *name, const struct config *config,
                     struct error *err)
{
    for (size_t i = 0; i < config->card_count; i++) {
        const struct network_card *card = &config->cards[i];
        for (size_t j = 0; card->bridge != NULL && j < card->address_count; j++) {
            const struct taken *other = find(index, card->bridge, &card->addresses[j], name);
            if (other != NULL) {
                char text[NETWORK_TEXT_SIZE];
                network_format(&card->addresses[j], false, text);
                return error_set(err, EADDRINUSE, "address %s: container %s has it", text,
                                 other->name);
            }
        }
    }
    return 0;
}

/* The network's first address: all bits of the host cleared. */
static struct network_address network_of(const struct network_address *address)
{
    struct network_address network = *address;
    size_t bits = network.prefix;
    for (size_t i = 0; i<sizeof(network.bytes); i++, bits = bits> 8 ? bits - 8 : 0) {
        network.bytes[i] &= bits >= 8 ? 0xff : (uint8_t)(0xff00u >> bits);
    }
    return network;
}

int life_index_find_address(const struct life_index *index, const char *bridge,
                            const struct network_address *network,
                            struct network_address *out_address, struct error *err)
{
    struct network_address first = network_of(network), candidate;
    for (uint32_t i = 1; i < MAX_TRIED; i++) {
        int rc = network_advance(&first, i, &candidate, err);
        if (rc < 0) {
            break;
        }
        if (!is_same_address(&candidate, network) && find(index, bridge, &candidate, "") == NULL) {
            *out_address = candidate;
            return 0;
        }
    }
    char text[NETWORK_TEXT_SIZE];
    network_format(&first, true, text);
    return error_set(err, ENOSPC, "no address of %s is free", text);
}

int life_index_template(struct life_index *index, const char *wanted,
                        const struct template_layers **out_layers, struct error *err)
{
    if (strcmp(index->wanted, wanted) != 0 || index->layers.count == 0) {
        template_close(&index->layers);
        index->layers = (struct template_layers){0};
        int rc = template_open(&index->life->store, wanted, true, &index->layers, err);
        if (rc < 0) {
            return rc;
        }
        (void)snprintf(index->wanted, sizeof(index->wanted), "%s", wanted);
    }
    *out_layers = &index->layers;
    return 0;
}
