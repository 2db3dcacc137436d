/* Memory of payloads. Large pieces are kept for the next request: the system would have to clear them each time. */
#include <stdlib.h>

#include "block/nbd/client.h"

#define BUFFER_ALIGN 4096u /* disks that go past the page cache want it */
#define KEPT_FROM    (128u << 10)
#define KEPT_BYTES   (16u << 20)

void *nbd_buffer_take(struct nbd_server *server, size_t size, size_t *out_room)
{
    for (unsigned i = 0; size >= KEPT_FROM && i < server->spare_count; i++) {
        struct nbd_spare *spare = &server->spare[i];
        if (spare->room >= size && spare->room / 2 <= size) {
            void *data = spare->data;
            *out_room = spare->room;
            server->spare_bytes -= spare->room;
            *spare = server->spare[--server->spare_count];
            return data;
        }
    }
    void *data = NULL;
    *out_room = MAX(size, 1);
    return posix_memalign(&data, BUFFER_ALIGN, *out_room) == 0 ? data : NULL;
}

void nbd_buffer_give(struct nbd_server *server, void *data, size_t room)
{
    if (data == NULL || room < KEPT_FROM || server->spare_count == NBD_MAX_SPARE ||
        server->spare_bytes + room > KEPT_BYTES) {
        free(data);
        return;
    }
    server->spare[server->spare_count++] = (struct nbd_spare){data, room};
    server->spare_bytes += room;
}

void nbd_buffer_drop_spare(struct nbd_server *server)
{
    while (server->spare_count > 0) {
        free(server->spare[--server->spare_count].data);
    }
    server->spare_bytes = 0;
}
