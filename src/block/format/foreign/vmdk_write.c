/* Writes stream-optimized VMDKs: header, descriptor, then grains as they come, each deflated behind its marker; grain tables, grain
 * directory, footer and the end's marker when the image is finished. vmdk_sparse.c draws the layout.
 *
 * Grains are deflated by many threads and appended in the order in which their requests were submitted, so that whoever submits
 * in the order of the disk gets a file that can be read as a stream. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <zlib.h>

#include "base/core/bits.h"
#include "base/core/endian.h"
#include "base/host/coroutine.h"
#include "base/host/iov.h"
#include "base/host/work_pool.h"
#include "block/copy.h"
#include "block/format/foreign/format.h"
#include "block/format/foreign/write.h"
#include "block/provider.h"

#define GRAIN_SIZE       65536u
#define GRAIN_SECTORS    (GRAIN_SIZE / SECTOR_SIZE)
#define TABLE_ENTRIES    512u
#define TABLE_SIZE       (4u * TABLE_ENTRIES)
#define DESCRIPTOR_AT    1u /* sectors */
#define DESCRIPTOR_COUNT 20u
#define OVERHEAD         128u
#define MARKER_SIZE      12u
#define FLAGS            0x30001u /* line ends are there to be checked; compressed; with markers */
#define VERSION          3u
#define MAX_DISK_SIZE    (1ull << 46) /* 64 TiB: 4 bytes a grain stay in memory */

enum marker_type {
    MARKER_END,
    MARKER_TABLE,
    MARKER_DIRECTORY,
    MARKER_FOOTER
};

struct vmdk_writer {
    struct block block;
    struct work_pool *pool;
    uint32_t **table; /* by grain / 512; NULL: nothing in it was written. Places are in sectors. */
    uint64_t table_count;
    uint64_t end_sector;        /* of the file */
    uint64_t next_ticket, turn; /* order of appending */
    struct coroutine_queue turn_waiting;
    int status; /* the first failure: what follows it would be of no use */
    char name[256];
};

/* One grain on its way into the file. */
struct grain {
    struct write_job *job;
    uint64_t index;
    uint64_t skip; /* in the request */
    size_t size;
    uint8_t *data;
    uint8_t *packed; /* marker and deflated bytes, with zeros up to a sector; NULL: all zeros */
    size_t packed_size;
    int status;
};

struct write_job {
    struct vmdk_writer *writer;
    struct block_request *request;
    uint64_t ticket;
    int status;
    unsigned pending; /* grains */
    struct coroutine *waiter;
};

static struct vmdk_writer *writer_from_block(const struct block *block)
{
    return container_of(block, struct vmdk_writer, block);
}

/* On a thread of the pool. */
static void pack(void *ctx)
{
    struct grain *grain = ctx;
    if (block_is_zero(grain->data, GRAIN_SIZE)) {
        return;
    }
    uLongf size = compressBound(GRAIN_SIZE);
    grain->packed = calloc(1, align_up(MARKER_SIZE + size, SECTOR_SIZE));
    if (grain->packed == NULL || compress2(grain->packed + MARKER_SIZE, &size, grain->data,
                                           GRAIN_SIZE, Z_DEFAULT_COMPRESSION) != Z_OK) {
        grain->status = -ENOMEM;
        return;
    }
    le64_put(grain->packed, grain->index * GRAIN_SECTORS);
    le32_put(grain->packed + 8, (uint32_t)size);
    grain->packed_size = align_up(MARKER_SIZE + size, SECTOR_SIZE);
}

static void pack_grain(void *ctx)
{
    struct grain *grain = ctx;
    struct block_request *request = grain->job->request;
    grain->data = malloc(GRAIN_SIZE);
    if (grain->data == NULL) {
        grain->status = -ENOMEM;
        return;
    }
    iov_get(request->iov, request->iov_count, grain->skip, grain->data, grain->size);
    memset(grain->data + grain->size, 0, GRAIN_SIZE - grain->size);
    work_pool_run(grain->job->writer->pool, pack, grain);
    free(grain->data);
    grain->data = NULL;
}

static void pack_ended(void *ctx)
{
    struct write_job *job = ((struct grain *)ctx)->job;
    if (--job->pending == 0 && job->waiter != NULL) {
        coroutine_resume(job->waiter);
    }
}

static int pack_all(struct write_job *job, struct grain *grains, size_t count)
{
    job->pending = 1; /* ours: nobody resumes us before all are started */
    for (size_t i = 0; i < count; i++) {
        struct grain *grain = &grains[i];
        uint64_t skip = i * (uint64_t)GRAIN_SIZE;
        *grain = (struct grain){.job = job,
                                .index = job->request->offset_bytes / GRAIN_SIZE + i,
                                .skip = skip,
                                .size = (size_t)MIN(job->request->size_bytes - skip, GRAIN_SIZE)};
        job->pending++;
        if (coroutine_start(pack_grain, pack_ended, grain) < 0) {
            grain->status = -ENOMEM;
            job->pending--;
        }
    }
    if (--job->pending > 0) {
        job->waiter = coroutine_self();
        coroutine_yield();
    }
    for (size_t i = 0; i < count; i++) {
        if (grains[i].status < 0) {
            return grains[i].status;
        }
    }
    return 0;
}

/* Gives a grain its place behind the others. */
static int place(struct vmdk_writer *writer, const struct grain *grain)
{
    uint32_t **table = &writer->table[grain->index / TABLE_ENTRIES];
    if (*table == NULL && (*table = calloc(TABLE_ENTRIES, sizeof(**table))) == NULL) {
        return -ENOMEM;
    }
    uint32_t *entry = &(*table)[grain->index % TABLE_ENTRIES];
    if (*entry != 0) {
        return -EEXIST; /* once a grain */
    }
    if (writer->end_sector + grain->packed_size / SECTOR_SIZE > UINT32_MAX) {
        return -EFBIG;
    }
    *entry = (uint32_t)writer->end_sector;
    writer->end_sector += grain->packed_size / SECTOR_SIZE;
    return 0;
}

static int append(struct write_job *job, struct grain *grains, size_t count)
{
    struct vmdk_writer *writer = job->writer;
    struct iovec *iov = calloc(count, sizeof(*iov));
    uint64_t offset = writer->end_sector * SECTOR_SIZE;
    struct block_request request = {.op = BLOCK_WRITE, .offset_bytes = offset, .iov = iov};
    int rc = iov != NULL ? 0 : -ENOMEM;
    for (size_t i = 0; i < count && rc == 0; i++) {
        if (grains[i].packed != NULL && (rc = place(writer, &grains[i])) == 0) {
            iov[request.iov_count++] = (struct iovec){grains[i].packed, grains[i].packed_size};
            request.size_bytes += grains[i].packed_size;
        }
    }
    writer->turn++; /* the place is taken: the next one may have its own */
    coroutine_queue_wake_all(&writer->turn_waiting);
    if (rc == 0 && request.size_bytes != 0) {
        rc = block_perform(writer->block.file, &request);
    }
    free(iov);
    return rc;
}

static void write_run(void *ctx)
{
    struct write_job *job = ctx;
    struct vmdk_writer *writer = job->writer;
    size_t count = (size_t)((job->request->size_bytes + GRAIN_SIZE - 1) / GRAIN_SIZE);
    struct grain *grains = calloc(count, sizeof(*grains));
    int rc = grains != NULL ? pack_all(job, grains, count) : -ENOMEM;
    while (writer->turn != job->ticket) {
        coroutine_queue_wait(&writer->turn_waiting);
    }
    rc = writer->status < 0 ? writer->status : rc;
    if (rc == 0) {
        rc = append(job, grains, count);
    } else {
        writer->turn++;
        coroutine_queue_wake_all(&writer->turn_waiting);
    }
    writer->status = writer->status < 0 ? writer->status : rc;
    for (size_t i = 0; i < count && grains != NULL; i++) {
        free(grains[i].packed);
    }
    free(grains);
    job->status = rc;
}

static void write_end(void *ctx)
{
    struct write_job *job = ctx;
    struct write_job copy = *job;
    free(job);
    block_complete(&copy.writer->block, copy.request, copy.status);
}

static void start_write(struct vmdk_writer *writer, struct block_request *request)
{
    uint64_t end = request->offset_bytes + request->size_bytes;
    struct write_job *job = NULL;
    int rc = -EINVAL;
    if (request->offset_bytes % GRAIN_SIZE == 0 &&
        (end % GRAIN_SIZE == 0 || end == writer->block.info.size_bytes)) {
        rc = -ENOMEM;
        job = malloc(sizeof(*job));
    }
    if (job != NULL) {
        *job = (struct write_job){
            .writer = writer, .request = request, .ticket = writer->next_ticket++};
        if (coroutine_start(write_run, write_end, job) == 0) {
            return;
        }
        writer->next_ticket--; /* nobody has come since */
        free(job);
    }
    block_complete(&writer->block, request, rc);
}

static void writer_submit(struct block *block, struct block_request *request)
{
    struct vmdk_writer *writer = writer_from_block(block);
    switch (request->op) {
    case BLOCK_WRITE:
        start_write(writer, request);
        break;
    case BLOCK_WRITE_ZEROES: /* what is not written reads as zeros */
    case BLOCK_DISCARD:
    case BLOCK_FLUSH: /* nothing is an image before it is finished */
        block_complete(block, request, writer->status);
        break;
    case BLOCK_READ:
    case BLOCK_MAP:
    case BLOCK_RESIZE:
        block_complete(block, request, -EOPNOTSUPP);
        break;
    }
}

static void writer_wait(struct block *block)
{
    struct vmdk_writer *writer = writer_from_block(block);
    if (work_pool_is_busy(writer->pool)) {
        work_pool_wait(writer->pool);
    } else {
        block_wait(block->file);
    }
}

static void put_header(const struct vmdk_writer *writer, uint64_t directory_sector, uint8_t *bytes)
{
    memset(bytes, 0, SECTOR_SIZE);
    memcpy(bytes, "KDMV", 4);
    le32_put(bytes + 4, VERSION);
    le32_put(bytes + 8, FLAGS);
    le64_put(bytes + 12, writer->block.info.size_bytes / SECTOR_SIZE);
    le64_put(bytes + 20, GRAIN_SECTORS);
    le64_put(bytes + 28, DESCRIPTOR_AT);
    le64_put(bytes + 36, DESCRIPTOR_COUNT);
    le32_put(bytes + 44, TABLE_ENTRIES);
    le64_put(bytes + 56, directory_sector);
    le64_put(bytes + 64, OVERHEAD);
    memcpy(bytes + 73, "\n \r\n", 4);
    le16_put(bytes + 77, 1); /* deflate */
}

static int put_marker(struct vmdk_writer *writer, enum marker_type type, uint64_t sectors)
{
    uint8_t bytes[SECTOR_SIZE] = {0};
    le64_put(bytes, sectors);
    le32_put(bytes + 12, type);
    int rc =
        block_write(writer->block.file, writer->end_sector * SECTOR_SIZE, bytes, sizeof(bytes));
    writer->end_sector++;
    return rc;
}

/* The tables that are not empty; the directory says where each one is. */
static int put_tables(struct vmdk_writer *writer, uint8_t *directory)
{
    for (uint64_t t = 0; t < writer->table_count; t++) {
        if (writer->table[t] == NULL) {
            continue;
        }
        int rc = put_marker(writer, MARKER_TABLE, TABLE_SIZE / SECTOR_SIZE);
        if (rc < 0) {
            return rc;
        }
        uint8_t bytes[TABLE_SIZE];
        for (size_t i = 0; i < TABLE_ENTRIES; i++) {
            le32_put(bytes + 4 * i, writer->table[t][i]);
        }
        if (writer->end_sector > UINT32_MAX) {
            return -EFBIG;
        }
        le32_put(directory + 4 * t, (uint32_t)writer->end_sector);
        rc =
            block_write(writer->block.file, writer->end_sector * SECTOR_SIZE, bytes, sizeof(bytes));
        writer->end_sector += TABLE_SIZE / SECTOR_SIZE;
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static int put_end(struct vmdk_writer *writer, const uint8_t *directory, uint64_t size)
{
    uint8_t header[SECTOR_SIZE];
    struct block *file = writer->block.file;
    int rc = put_marker(writer, MARKER_DIRECTORY, size / SECTOR_SIZE);
    uint64_t directory_sector = writer->end_sector;
    put_header(writer, directory_sector, header);
    if (rc < 0 || (rc = block_write(file, directory_sector * SECTOR_SIZE, directory, size)) < 0) {
        return rc;
    }
    writer->end_sector += size / SECTOR_SIZE;
    rc = put_marker(writer, MARKER_FOOTER, 1);
    if (rc < 0 ||
        (rc = block_write(file, writer->end_sector * SECTOR_SIZE, header, sizeof(header))) < 0) {
        return rc;
    }
    writer->end_sector++;
    return put_marker(writer, MARKER_END, 0);
}

static int put_start(struct vmdk_writer *writer)
{
    uint64_t sectors = writer->block.info.size_bytes / SECTOR_SIZE;
    uint8_t bytes[(DESCRIPTOR_AT + DESCRIPTOR_COUNT) * SECTOR_SIZE] = {0};
    uint32_t id = 0;
    if (getrandom(&id, sizeof(id), 0) != sizeof(id)) {
        return -EIO;
    }
    put_header(writer, UINT64_MAX, bytes); /* the footer knows */
    (void)snprintf((char *)bytes + (size_t)DESCRIPTOR_AT * SECTOR_SIZE,
                   (size_t)DESCRIPTOR_COUNT * SECTOR_SIZE,
                   "# Disk DescriptorFile\nversion=1\nCID=%08x\nparentCID=ffffffff\n"
                   "createType=\"streamOptimized\"\n\n# Extent description\n"
                   "RW %llu SPARSE \"%s\"\n\n# The Disk Data Base\n#DDB\n\n"
                   "ddb.adapterType = \"lsilogic\"\nddb.geometry.cylinders = \"%llu\"\n"
                   "ddb.geometry.heads = \"255\"\nddb.geometry.sectors = \"63\"\n"
                   "ddb.virtualHWVersion = \"4\"\n",
                   id & ~1u, (unsigned long long)sectors, writer->name,
                   (unsigned long long)MIN(sectors / (255ull * 63) + 1, 65535));
    return block_write(writer->block.file, 0, bytes, sizeof(bytes));
}

static int writer_finish(struct block *block, struct error *err)
{
    struct vmdk_writer *writer = writer_from_block(block);
    uint64_t size = align_up(MAX(4 * writer->table_count, 1), SECTOR_SIZE);
    uint8_t *directory = calloc(1, size);
    int rc = writer->status;
    if (rc == 0) {
        rc = directory == NULL ? -ENOMEM : put_tables(writer, directory);
    }
    if (rc == 0) {
        rc = put_end(writer, directory, size);
    }
    if (rc == 0) {
        rc = put_start(writer);
    }
    free(directory);
    return rc < 0 ? error_set_errno(err, -rc, "finishing %s", block_name(block)) : 0;
}

static void writer_close(struct block *block)
{
    struct vmdk_writer *writer = writer_from_block(block);
    for (uint64_t t = 0; t < writer->table_count; t++) {
        free(writer->table[t]);
    }
    free(writer->table);
    work_pool_destroy(writer->pool);
    block_fini(block);
    free(writer);
}

static const struct block_ops vmdk_writer_ops = {
    .name = "vmdk",
    .submit = writer_submit,
    .wait = writer_wait,
    .finish = writer_finish,
    .close = writer_close,
};

/* A name that can stand between quotes in the descriptor. */
static void take_name(struct vmdk_writer *writer, const char *name)
{
    size_t used = 0;
    for (; *name != '\0' && used + 1 < sizeof(writer->name); name++) {
        bool is_plain = (unsigned char)*name >= ' ' && *name != '"' && *name != 0x7f;
        writer->name[used] = '_';
        if (is_plain) {
            writer->name[used] = *name;
        }
        used++;
    }
}

static int writer_init(struct vmdk_writer *writer, struct block *file,
                       const struct vmdk_write_options *options, struct error *err)
{
    if (options->size_bytes == 0 || options->size_bytes % SECTOR_SIZE != 0 ||
        options->size_bytes > MAX_DISK_SIZE) {
        return error_set(err, EINVAL,
                         "a VMDK for %llu bytes cannot be: a multiple of 512 up to 64T",
                         (unsigned long long)options->size_bytes);
    }
    take_name(writer, options->name);
    writer->end_sector = OVERHEAD;
    uint64_t per_table = (uint64_t)GRAIN_SIZE * TABLE_ENTRIES;
    writer->table_count = (options->size_bytes + per_table - 1) / per_table;
    writer->table = calloc(writer->table_count, sizeof(*writer->table));
    if (writer->table == NULL) {
        writer->table_count = 0;
        return error_set_errno(err, ENOMEM, "making a VMDK");
    }
    writer->block.info = (struct block_info){
        .size_bytes = options->size_bytes,
        .logical_block_size = SECTOR_SIZE,
        .physical_block_size = 4096,
        .cluster_size = GRAIN_SIZE,
        .can_write_zeroes = true,
        .can_compress = true,
    };
    return work_pool_create(0, file->loop, &writer->pool, err);
}

const uint32_t vmdk_write_grain_size = GRAIN_SIZE;

uint64_t vmdk_write_overhead(uint64_t size_bytes, uint64_t used_bytes)
{
    uint64_t grains = (used_bytes + GRAIN_SIZE - 1) / GRAIN_SIZE;
    uint64_t tables = (size_bytes / GRAIN_SIZE + TABLE_ENTRIES) / TABLE_ENTRIES;
    /* A grain that cannot be made smaller, with its marker; tables with theirs; what stands around it. */
    return grains * SECTOR_SIZE + MIN(grains, tables) * (SECTOR_SIZE + TABLE_SIZE) +
           align_up(4 * tables, SECTOR_SIZE) + (OVERHEAD + 4ull) * SECTOR_SIZE;
}

int vmdk_write_create(struct block *file, const struct vmdk_write_options *options,
                      struct block **out_block, struct error *err)
{
    struct vmdk_writer *writer =
        block_new(sizeof(*writer), &vmdk_writer_ops, file->name, file->loop, err);
    int rc = writer == NULL ? -ENOMEM : writer_init(writer, file, options, err);
    if (rc < 0) {
        if (writer != NULL) {
            writer_close(&writer->block);
        }
        block_close(file);
        return rc;
    }
    writer->block.file = file;
    *out_block = &writer->block;
    return 0;
}
