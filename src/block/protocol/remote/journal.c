/* Writes that a server has confirmed but may still lose: see remote.h. */
#include <stdlib.h>

#include "base/host/iov.h"
#include "block/protocol/remote/remote.h"

/* From so much on a flush of our own makes the journal shorter; at the double of it writes wait. Zeroes count as a little. */
#define LONG_JOURNAL (32u << 20)
#define ENTRY_COST   (uint64_t)(sizeof(struct remote_write) + 64)

/* Data from this size on comes from pages that the allocator would give back and ask for anew, a fault each, as a stream of
 * writes goes on. */
#define LARGE_WRITE (64u << 10)

static uint64_t cost_of(const struct remote_write *write)
{
    return ENTRY_COST + (write->is_zeroes ? 0 : write->size_bytes);
}

static struct remote_write *take_spare(struct remote *remote, size_t size)
{
    struct remote_write **at = &remote->journal.spare;
    while (*at != NULL && ((*at)->capacity < size || (*at)->capacity / 2 > size)) {
        at = &(*at)->next;
    }
    struct remote_write *found = *at;
    if (found != NULL) {
        *at = found->next;
    }
    return found;
}

struct remote_write *remote_write_new(struct remote *remote, const struct block_request *request,
                                      uint64_t vector_offset, uint64_t offset, uint64_t size)
{
    bool has_data = request->op == BLOCK_WRITE;
    size_t capacity = has_data ? (size_t)size : 0;
    struct remote_write *write = NULL;
    if (capacity >= LARGE_WRITE) {
        write = take_spare(remote, capacity);
    }
    if (write != NULL) {
        capacity = write->capacity;
    } else {
        write = malloc(sizeof(*write) + capacity);
    }
    if (write == NULL) {
        return NULL;
    }
    *write = (struct remote_write){
        .capacity = capacity,
        .offset_bytes = offset,
        .size_bytes = size,
        .is_zeroes = !has_data,
        .may_unmap = request->may_unmap,
    };
    if (has_data) {
        iov_get(request->iov, request->iov_count, vector_offset, write->data, (size_t)size);
    }
    return write;
}

bool remote_journal_is_needed(const struct remote *remote)
{
    return remote->info.has_flush && !remote->info.is_durable && !remote->is_single;
}

void remote_journal_add(struct remote *remote, struct remote_write *write)
{
    write->next = NULL;
    write->number = ++remote->journal.last_number;
    if (remote->journal.first == NULL) {
        remote->journal.tail = &remote->journal.first;
    }
    *remote->journal.tail = write;
    remote->journal.tail = &write->next;
    remote->journal.size_bytes += cost_of(write);
}

void remote_journal_drop(struct remote *remote, uint64_t number, bool is_stream)
{
    while (remote->journal.first != NULL && remote->journal.first->number <= number) {
        struct remote_write *write = remote->journal.first;
        remote->journal.first = write->next;
        remote->journal.size_bytes -= cost_of(write);
        if (is_stream && write->capacity >= LARGE_WRITE) {
            write->next = remote->journal.spare;
            remote->journal.spare = write;
        } else {
            free(write);
        }
    }
    while (!is_stream && remote->journal.spare != NULL) {
        struct remote_write *write = remote->journal.spare;
        remote->journal.spare = write->next;
        free(write);
    }
}

bool remote_journal_is_long(const struct remote *remote)
{
    return remote->journal.size_bytes > LONG_JOURNAL;
}

bool remote_journal_is_full(const struct remote *remote)
{
    return remote->journal.size_bytes > 2ull * LONG_JOURNAL;
}

void remote_journal_begin_replay(struct remote *remote)
{
    remote->journal.replay = remote->journal.first;
}

struct remote_write *remote_journal_next(struct remote *remote)
{
    struct remote_write *write = remote->journal.replay;
    for (const struct remote_command *c = remote->started.first; write != NULL && c != NULL;
         c = c->next) {
        if (c->offset_bytes < write->offset_bytes + write->size_bytes &&
            write->offset_bytes < c->offset_bytes + c->size_bytes) {
            return NULL; /* the server may do what it has in any order */
        }
    }
    if (write != NULL) {
        remote->journal.replay = write->next;
    }
    return write;
}
