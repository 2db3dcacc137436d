/* A hash table with open addressing. */
#include "system/layers/links.h"

#include <stdlib.h>

#define CAPACITY_MIN 64

void links_fini(struct links *links)
{
    free(links->slots);
    *links = (struct links){0};
}

static struct links_entry *find_slot(struct links_entry *slots, size_t capacity, dev_t device,
                                     ino_t inode)
{
    uint64_t hash = ((uint64_t)inode ^ (uint64_t)device << 40) * UINT64_C(0x9e3779b97f4a7c15);
    size_t at = (size_t)(hash >> 32) & (capacity - 1);
    while (slots[at].number != 0 && (slots[at].inode != inode || slots[at].device != device)) {
        at = (at + 1) & (capacity - 1);
    }
    return &slots[at];
}

static bool make_room(struct links *links)
{
    if (links->count * 4 < links->capacity * 3) {
        return true;
    }
    size_t capacity = links->capacity == 0 ? CAPACITY_MIN : links->capacity * 2;
    struct links_entry *slots = calloc(capacity, sizeof(*slots));
    if (slots == NULL) {
        return false;
    }
    for (size_t i = 0; i < links->capacity; i++) {
        const struct links_entry *old = &links->slots[i];
        if (old->number != 0) {
            *find_slot(slots, capacity, old->device, old->inode) = *old;
        }
    }
    free(links->slots);
    links->slots = slots;
    links->capacity = capacity;
    return true;
}

struct links_entry *links_find(struct links *links, dev_t device, ino_t inode, bool *out_is_new)
{
    if (!make_room(links)) {
        return NULL;
    }
    struct links_entry *entry = find_slot(links->slots, links->capacity, device, inode);
    *out_is_new = entry->number == 0;
    if (*out_is_new) {
        *entry = (struct links_entry){.device = device, .inode = inode, .number = ++links->count};
    }
    return entry;
}
