/* Writing guest data where the mapping has to change: clusters are allocated, what the guest does not overwrite in them is
 * copied, and the L2 entries follow when all data is written. */
#include <stdlib.h>
#include <string.h>

#include "block/format/qcow2/qcow2.h"

#define ZERO_BUFFER_SIZE 65536u

static const uint8_t zeroes[ZERO_BUFFER_SIZE];

/* Guest clusters in a row that get new mappings to host clusters in a row. */
struct piece {
    uint64_t first, count; /* guest clusters */
    uint64_t host_offset;
    bool is_new;         /* else the cluster that the entry has already */
    bool is_whole;       /* the entries have nothing but new data afterwards */
    uint64_t start, end; /* the guest bytes that are written, copies included */
    uint8_t *buffer;     /* heap: what is copied */
    struct piece *next;
};

struct writing {
    struct qcow2 *q;
    const struct iovec *iov;
    int iov_count;
    uint64_t offset; /* of the guest, where the vector begins */
    uint64_t end;
    struct qcow2_join join;
    struct piece *pieces, **tail;
};

static bool can_reuse(const struct qcow2 *q, struct qcow2_entry entry, uint64_t cluster)
{
    uint64_t l1_index = cluster >> q->layout.l2_bits;
    return (entry.descriptor & QCOW2_COMPRESSED) == 0 && (entry.descriptor & QCOW2_COPIED) != 0 &&
           l1_index < q->l1.entry_count && (q->l1.entry[l1_index] & QCOW2_COPIED) != 0;
}

/* The bytes in front of a write, or behind it, that have to go along. */
struct border {
    uint64_t offset, size;
    const uint8_t *data; /* NULL: zeros */
    bool is_skipped;     /* the file has zeros there, or they are allocated already */
};

static bool reads_zero(const struct qcow2 *q, enum qcow2_kind kind, uint64_t offset)
{
    switch (kind) {
    case QCOW2_KIND_ZERO:
    case QCOW2_KIND_ZERO_ALLOCATED:
        return true;
    case QCOW2_KIND_ABSENT:
    case QCOW2_KIND_ABSENT_ALLOCATED:
        return !qcow2_has_backing_at(q, offset);
    case QCOW2_KIND_DATA:
    case QCOW2_KIND_COMPRESSED:
    case QCOW2_KIND_INVALID:
        break;
    }
    return false;
}

/* Finds out what stands in the border, and reads it if it is not zeros. */
static int load_border(struct qcow2 *q, struct border *border, uint8_t *buffer, bool is_fresh)
{
    uint64_t at = border->offset, end = border->offset + border->size;
    bool is_zero = true;
    while (at < end && is_zero) {
        struct qcow2_mapping mapping;
        int rc = qcow2_map(q, at, end - at, false, &mapping);
        if (rc < 0) {
            return rc;
        }
        is_zero = reads_zero(q, mapping.kind, at);
        at += mapping.size;
    }
    if (is_zero) {
        border->is_skipped = is_fresh;
        return 0;
    }
    struct iovec iov = {buffer, (size_t)border->size};
    border->data = buffer;
    return qcow2_read(q, border->offset, border->size, &iov, 1);
}

static void submit_border(struct writing *w, const struct piece *piece, const struct border *border)
{
    uint64_t host =
        piece->host_offset + (border->offset - (piece->first << w->q->layout.cluster_bits));
    if (border->size == 0 || border->is_skipped) {
        return;
    }
    if (border->data == NULL && border->size > ZERO_BUFFER_SIZE) {
        qcow2_join_submit(&w->join, w->q->data, BLOCK_WRITE_ZEROES, host, border->size, NULL, 0, 0);
        return;
    }
    const uint8_t *data = border->data != NULL ? border->data : zeroes;
    struct iovec iov = {(void *)data, (size_t)border->size};
    qcow2_join_submit(&w->join, w->q->data, BLOCK_WRITE, host, border->size, &iov, 1, 0);
}

/* Head, data and tail; as one request where the borders are small. */
static int submit_piece(struct writing *w, struct piece *piece, uint64_t from, uint64_t to,
                        struct border *head, struct border *tail)
{
    struct qcow2 *q = w->q;
    uint64_t host = piece->host_offset + (from - (piece->first << q->layout.cluster_bits));
    uint64_t border_size =
        (head->is_skipped ? 0 : head->size) + (tail->is_skipped ? 0 : tail->size);
    bool has_small =
        border_size > 0 && head->size <= ZERO_BUFFER_SIZE && tail->size <= ZERO_BUFFER_SIZE;
    if (!has_small || w->iov_count + 2 > BLOCK_MAX_IOV) {
        submit_border(w, piece, head);
        submit_border(w, piece, tail);
        qcow2_join_submit(&w->join, q->data, BLOCK_WRITE, host, to - from, w->iov, w->iov_count,
                          from - w->offset);
        return 0;
    }
    struct iovec *iov = malloc(sizeof(struct iovec) * (size_t)(w->iov_count + 2));
    if (iov == NULL) {
        return -ENOMEM;
    }
    int count = 0;
    uint64_t skip = from - w->offset, left = to - from;
    if (head->size > 0 && !head->is_skipped) {
        const uint8_t *data = head->data != NULL ? head->data : zeroes;
        iov[count++] = (struct iovec){(void *)data, (size_t)head->size};
        host -= head->size;
    }
    for (int i = 0; i < w->iov_count && left > 0; i++) {
        size_t cut = (size_t)MIN(skip, (uint64_t)w->iov[i].iov_len);
        size_t length = (size_t)MIN(left, (uint64_t)(w->iov[i].iov_len - cut));
        skip -= cut;
        left -= length;
        if (length > 0) {
            iov[count++] = (struct iovec){(uint8_t *)w->iov[i].iov_base + cut, length};
        }
    }
    if (tail->size > 0 && !tail->is_skipped) {
        const uint8_t *data = tail->data != NULL ? tail->data : zeroes;
        iov[count++] = (struct iovec){(void *)data, (size_t)tail->size};
    }
    qcow2_join_submit(&w->join, q->data, BLOCK_WRITE, host, to - from + border_size, iov, count, 0);
    free(iov);
    return 0;
}

/* Where the clusters of a piece go. */
static int find_place(struct qcow2 *q, struct piece *piece, struct qcow2_entry entry,
                      bool *is_fresh)
{
    uint32_t bits = q->layout.cluster_bits;
    *is_fresh = false;
    if (q->layout.has_data_file) {
        piece->host_offset = piece->first << bits;
        return 0;
    }
    if (!piece->is_new) {
        piece->host_offset = qcow2_entry_offset(entry);
        return qcow2_hits_metadata(q, piece->host_offset, q->layout.cluster_size)
                   ? qcow2_corrupt(q, "guest cluster where metadata is", piece->host_offset)
                   : 0;
    }
    int rc = qcow2_alloc(q, piece->count, &piece->host_offset, &piece->count);
    *is_fresh = q->is_last_fresh;
    return rc;
}

/* How many of the clusters from 'cluster' on, up to 'max', get new clusters and have all their entry replaced. */
static int count_new(struct qcow2 *q, uint64_t cluster, uint64_t max, uint64_t *out_count)
{
    uint64_t count = 0;
    while (count < max) {
        struct qcow2_entry entry;
        int rc = qcow2_entry_get(q, cluster + count, &entry);
        if (rc < 0) {
            return rc;
        }
        if (can_reuse(q, entry, cluster + count)) {
            break;
        }
        count++;
    }
    *out_count = count;
    return 0;
}

/* Starts a piece at guest offset 'at', whose cluster cannot simply be written in place. *out_end: how far it reaches. */
static int start_piece(struct writing *w, uint64_t at, uint64_t *out_end)
{
    struct qcow2 *q = w->q;
    uint32_t bits = q->layout.cluster_bits;
    uint64_t cluster = at >> bits, last = (w->end - 1) >> bits;
    struct qcow2_entry entry, last_entry;
    bool is_fresh = false;
    int rc = qcow2_entry_get(q, cluster, &entry);
    if (rc < 0) {
        return rc;
    }
    struct piece *piece = calloc(1, sizeof(*piece));
    if (piece == NULL) {
        return -ENOMEM;
    }
    piece->first = cluster;
    piece->count = 1;
    piece->is_new = !can_reuse(q, entry, cluster);
    if (piece->is_new) {
        rc = count_new(q, cluster, last - cluster + 1, &piece->count);
    }
    if (rc == 0) {
        rc = find_place(q, piece, entry, &is_fresh);
    }
    if (rc < 0) {
        free(piece);
        return rc;
    }
    *w->tail = piece; /* from here on its clusters go back if something fails */
    w->tail = &piece->next;
    uint64_t to = MIN(w->end, (cluster + piece->count) << bits);
    rc = qcow2_entry_get(q, (to - 1) >> bits, &last_entry);
    if (rc < 0) {
        return rc;
    }
    /* With subclusters, those that stay as they are need no copy: unless the entry moves to another cluster. */
    uint32_t head_bits = bits, tail_bits = bits;
    if (q->layout.is_extended) {
        bool has_old = (entry.descriptor & QCOW2_COMPRESSED) != 0 || (uint32_t)entry.bitmap != 0;
        bool has_last_old =
            (last_entry.descriptor & QCOW2_COMPRESSED) != 0 || (uint32_t)last_entry.bitmap != 0;
        head_bits = piece->is_new && has_old ? bits : q->layout.subcluster_bits;
        tail_bits = piece->is_new && has_last_old ? bits : q->layout.subcluster_bits;
    }
    struct border head = {.offset = align_down(at, BIT(head_bits))};
    struct border tail = {.offset = to, .size = align_up(to, BIT(tail_bits)) - to};
    head.size = at - head.offset;
    if (q->layout.has_data_file) {
        /* The data file gets no longer than the disk. */
        uint64_t limit = MAX(q->block.info.size_bytes, to);
        tail.size = MIN(tail.size, limit - to);
    }
    if (!piece->is_new && q->layout.is_extended) {
        /* Bytes of a subcluster that is there already stay where they are. */
        uint64_t mask = q->layout.cluster_size - 1;
        uint32_t sub = q->layout.subcluster_bits;
        if (qcow2_entry_kind(&q->layout, entry, (uint32_t)((at & mask) >> sub)) ==
            QCOW2_KIND_DATA) {
            head.is_skipped = true;
        }
        if (qcow2_entry_kind(&q->layout, last_entry, (uint32_t)(((to - 1) & mask) >> sub)) ==
            QCOW2_KIND_DATA) {
            tail.is_skipped = true;
        }
    }
    piece->start = head.offset;
    piece->end = to + tail.size;
    if ((!head.is_skipped && head.size > 0) || (!tail.is_skipped && tail.size > 0)) {
        piece->buffer = malloc((size_t)(head.size + tail.size));
        rc = piece->buffer != NULL ? 0 : -ENOMEM;
    }
    if (rc == 0 && head.size > 0 && !head.is_skipped) {
        rc = load_border(q, &head, piece->buffer, is_fresh);
    }
    if (rc == 0 && tail.size > 0 && !tail.is_skipped) {
        rc = load_border(q, &tail, piece->buffer + head.size, is_fresh);
    }
    if (rc == 0) {
        rc = submit_piece(w, piece, at, to, &head, &tail);
    }
    *out_end = to;
    return rc;
}

static struct qcow2_entry new_entry(const struct qcow2 *q, const struct piece *piece,
                                    uint64_t cluster, struct qcow2_entry old)
{
    uint32_t bits = q->layout.cluster_bits;
    struct qcow2_entry entry = {
        .descriptor = QCOW2_COPIED | (piece->host_offset + ((cluster - piece->first) << bits))};
    if (!q->layout.is_extended) {
        return entry;
    }
    uint64_t from = MAX(piece->start, cluster << bits), to = MIN(piece->end, (cluster + 1) << bits);
    uint64_t mask = q->layout.cluster_size - 1;
    uint32_t sub = q->layout.subcluster_bits;
    unsigned first = (unsigned)((from & mask) >> sub), last = (unsigned)(((to - 1) & mask) >> sub);
    uint64_t touched = BITS(last, first);
    entry.bitmap = (old.descriptor & QCOW2_COMPRESSED) != 0 ? 0 : old.bitmap;
    entry.bitmap = (entry.bitmap | touched) & ~(touched << 32);
    return entry;
}

static int link_piece(struct qcow2 *q, struct piece *piece)
{
    while (piece->count > 0) {
        uint64_t cluster = piece->first;
        struct qcow2_entry old;
        int rc = qcow2_entry_get(q, cluster, &old);
        if (rc == 0) {
            rc = qcow2_entry_set(q, cluster, new_entry(q, piece, cluster, old));
        }
        if (rc < 0) {
            return rc;
        }
        bool is_new = piece->is_new;
        piece->first++; /* what is named now is not given back */
        piece->count--;
        piece->host_offset += q->layout.cluster_size;
        if (is_new) {
            rc = qcow2_free_entry_later(q, old);
            if (rc < 0) {
                return rc;
            }
        }
    }
    return 0;
}

static int end_pieces(struct writing *w, int rc)
{
    while (w->pieces != NULL) {
        struct piece *piece = w->pieces;
        w->pieces = piece->next;
        if (rc == 0) {
            rc = link_piece(w->q, piece);
        }
        if (rc < 0 && piece->is_new && piece->count > 0 && !w->q->layout.has_data_file) {
            qcow2_unalloc(w->q, piece->host_offset, piece->count << w->q->layout.cluster_bits);
        }
        free(piece->buffer);
        free(piece);
    }
    return rc;
}

/* The range lock is held. */
static int write_locked(struct qcow2 *q, uint64_t offset, uint64_t size, const struct iovec *iov,
                        int iov_count)
{
    struct writing w = {
        .q = q, .iov = iov, .iov_count = iov_count, .offset = offset, .end = offset + size};
    w.tail = &w.pieces;
    uint64_t at = offset;
    int rc = 0;
    while (at < w.end && rc == 0) {
        struct qcow2_mapping mapping;
        rc = qcow2_map(q, at, w.end - at, false, &mapping);
        if (rc < 0) {
            break;
        }
        if (mapping.kind == QCOW2_KIND_DATA && mapping.is_copied) {
            if (!q->layout.has_data_file &&
                qcow2_hits_metadata(q, mapping.host_offset, mapping.size)) {
                rc = qcow2_corrupt(q, "guest cluster where metadata is", mapping.host_offset);
                break;
            }
            qcow2_join_submit(&w.join, q->data, BLOCK_WRITE, mapping.host_offset, mapping.size, iov,
                              iov_count, at - offset);
            at += mapping.size;
        } else {
            rc = start_piece(&w, at, &at);
        }
    }
    int join_rc = qcow2_join_wait(&w.join);
    return end_pieces(&w, rc < 0 ? rc : join_rc);
}

int qcow2_write(struct qcow2 *q, uint64_t offset, uint64_t size, const struct iovec *iov,
                int iov_count)
{
    int rc = qcow2_prepare_write(q);
    if (rc < 0) {
        return rc;
    }
    struct qcow2_range range;
    qcow2_lock_range(q, &range, offset, size);
    rc = write_locked(q, offset, size, iov, iov_count);
    qcow2_unlock_range(q, &range);
    return rc;
}

/* Zeros as data, a buffer at a time. The range lock is held. */
static int write_zero_data(struct qcow2 *q, uint64_t offset, uint64_t size)
{
    uint64_t done = 0;
    while (done < size) {
        struct iovec iov = {(void *)zeroes, (size_t)MIN(size - done, (uint64_t)ZERO_BUFFER_SIZE)};
        int rc = write_locked(q, offset + done, iov.iov_len, &iov, 1);
        if (rc < 0) {
            return rc;
        }
        done += iov.iov_len;
    }
    return 0;
}

enum erase {
    ERASE_ZERO,  /* reads as zeros, keeps its space */
    ERASE_UNMAP, /* reads as zeros, gives its space back */
};

/* The entry of a whole cluster that is to read as zeros. False: this image has none. */
static bool zero_entry(const struct qcow2 *q, uint64_t cluster, struct qcow2_entry old,
                       enum erase erase, struct qcow2_entry *out_entry)
{
    bool is_plain = !qcow2_has_backing_at(q, cluster << q->layout.cluster_bits);
    bool keeps = erase == ERASE_ZERO && can_reuse(q, old, cluster);
    *out_entry = (struct qcow2_entry){0};
    if (keeps) {
        out_entry->descriptor = QCOW2_COPIED | qcow2_entry_offset(old);
    }
    if (q->layout.is_extended) {
        out_entry->bitmap = keeps || !is_plain ? BITS(63, 32) : 0;
    } else if (q->layout.version >= 3 && (keeps || !is_plain)) {
        out_entry->descriptor |= QCOW2_ZERO;
    } else if (keeps) {
        out_entry->descriptor = 0; /* version 2: the space cannot be kept */
    }
    return is_plain || q->layout.version >= 3;
}

/* A whole guest cluster. */
static int erase_cluster(struct qcow2 *q, uint64_t cluster, enum erase erase)
{
    struct qcow2_entry old, entry;
    uint64_t offset = cluster << q->layout.cluster_bits;
    int rc = qcow2_entry_get(q, cluster, &old);
    if (rc < 0) {
        return rc;
    }
    if (!zero_entry(q, cluster, old, erase, &entry)) {
        return -EOPNOTSUPP;
    }
    if (entry.descriptor == old.descriptor && entry.bitmap == old.bitmap) {
        return 0;
    }
    rc = qcow2_entry_set(q, cluster, entry);
    if (rc == 0 && q->layout.has_data_file && qcow2_entry_has_cluster(&q->layout, old) &&
        erase == ERASE_UNMAP) {
        /* Only a hint; the range lock keeps the next user of the place away until it is done. */
        (void)!block_discard(q->data, offset, q->layout.cluster_size);
    }
    bool keeps = qcow2_entry_offset(entry) != 0;
    return rc < 0 || keeps ? rc : qcow2_free_entry_later(q, old);
}

/* Whole subclusters of one cluster, but not all of them. */
static int erase_subclusters(struct qcow2 *q, uint64_t offset, uint64_t size)
{
    uint64_t cluster = offset >> q->layout.cluster_bits;
    uint64_t mask = q->layout.cluster_size - 1;
    struct qcow2_entry entry;
    int rc = qcow2_entry_get(q, cluster, &entry);
    if (rc < 0) {
        return rc;
    }
    if ((entry.descriptor & QCOW2_COMPRESSED) != 0) {
        return write_zero_data(q, offset, size);
    }
    unsigned first = (unsigned)((offset & mask) >> q->layout.subcluster_bits);
    unsigned last = (unsigned)(((offset + size - 1) & mask) >> q->layout.subcluster_bits);
    uint64_t bits = BITS(last, first);
    entry.bitmap = (entry.bitmap & ~bits) | bits << 32;
    return qcow2_entry_set(q, cluster, entry);
}

static int zero_part(struct qcow2 *q, uint64_t offset, uint64_t size)
{
    uint64_t at = offset;
    while (at < offset + size) {
        struct qcow2_mapping mapping;
        int rc = qcow2_map(q, at, offset + size - at, false, &mapping);
        if (rc == 0 && !reads_zero(q, mapping.kind, at)) {
            rc = write_zero_data(q, at, mapping.size);
        }
        if (rc < 0) {
            return rc;
        }
        at += mapping.size;
    }
    return 0;
}

/* [offset, offset + size) lies within one cluster. */
static int zero_in_cluster(struct qcow2 *q, uint64_t offset, uint64_t size, enum erase erase)
{
    uint64_t unit = BIT(q->layout.subcluster_bits);
    uint64_t mask = q->layout.cluster_size - 1;
    if (((offset & mask) == 0 && size > mask) ||
        ((offset & mask) == 0 && offset + size == q->block.info.size_bytes)) {
        int rc = erase_cluster(q, offset >> q->layout.cluster_bits, erase);
        return rc == -EOPNOTSUPP ? zero_part(q, offset, size) : rc;
    }
    uint64_t first = align_up(offset, unit), last = align_down(offset + size, unit);
    if (!q->layout.is_extended || first >= last) {
        return zero_part(q, offset, size);
    }
    int rc = first > offset ? zero_part(q, offset, first - offset) : 0;
    if (rc == 0) {
        rc = erase_subclusters(q, first, last - first);
    }
    if (rc == 0 && last < offset + size) {
        rc = zero_part(q, last, offset + size - last);
    }
    return rc;
}

/* With a raw data file its bytes count, not the entries. */
static int zero_raw(struct qcow2 *q, uint64_t offset, uint64_t size, bool may_unmap)
{
    return block_write_zeroes(q->data, offset, size, may_unmap);
}

static int erase_range(struct qcow2 *q, uint64_t offset, uint64_t size, enum erase erase)
{
    uint64_t at = offset, end = offset + size;
    int rc = 0;
    while (at < end && rc == 0) {
        struct qcow2_mapping mapping;
        rc = qcow2_map(q, at, end - at, false, &mapping);
        if (rc < 0) {
            break;
        }
        /* What reads as zeros already, and has no space to give back, is passed over. */
        if ((mapping.kind == QCOW2_KIND_ABSENT || mapping.kind == QCOW2_KIND_ZERO) &&
            reads_zero(q, mapping.kind, at) && reads_zero(q, mapping.kind, at + mapping.size - 1)) {
            at += mapping.size;
            continue;
        }
        uint64_t cluster_end = align_down(at, q->layout.cluster_size) + q->layout.cluster_size;
        uint64_t part = MIN(end, cluster_end) - at;
        rc = zero_in_cluster(q, at, part, erase);
        at += part;
    }
    return rc;
}

int qcow2_write_zeroes(struct qcow2 *q, uint64_t offset, uint64_t size, bool may_unmap)
{
    int rc = qcow2_prepare_write(q);
    if (rc < 0) {
        return rc;
    }
    struct qcow2_range range;
    qcow2_lock_range(q, &range, offset, size);
    if (q->is_raw_external) {
        rc = zero_raw(q, offset, size, may_unmap);
        if (rc == 0) {
            rc = erase_range(q, offset, size, ERASE_ZERO);
        }
    } else {
        rc = erase_range(q, offset, size, may_unmap ? ERASE_UNMAP : ERASE_ZERO);
    }
    qcow2_unlock_range(q, &range);
    return rc;
}

int qcow2_discard(struct qcow2 *q, uint64_t offset, uint64_t size)
{
    int rc = qcow2_prepare_write(q);
    if (rc < 0) {
        return rc;
    }
    /* A hint: clusters at the ends that are only touched stay as they are. */
    uint64_t end = offset + size;
    uint64_t first = align_up(offset, q->layout.cluster_size);
    uint64_t last = end == q->block.info.size_bytes ? end : align_down(end, q->layout.cluster_size);
    if (first >= last) {
        return 0;
    }
    struct qcow2_range range;
    qcow2_lock_range(q, &range, first, last - first);
    if (q->is_raw_external) {
        (void)!block_discard(q->data, first, last - first); /* only a hint */
    } else {
        bool has_backing = q->block.backing != NULL && qcow2_has_backing_at(q, first);
        /* Version 2 has no entry that hides the backing block. */
        if (q->layout.version >= 3 || !has_backing) {
            rc = erase_range(q, first, last - first, ERASE_UNMAP);
        }
    }
    qcow2_unlock_range(q, &range);
    return rc;
}
