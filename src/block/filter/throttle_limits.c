/* The words for limits: Hull's, QEMU's and libvirt's. */
#include <stdio.h>
#include <string.h>

#include "block/filter.h"

const char *const block_throttle_names[BLOCK_THROTTLE_KINDS] = {
    [BLOCK_THROTTLE_BPS] = "bps",           [BLOCK_THROTTLE_BPS_READ] = "bps-rd",
    [BLOCK_THROTTLE_BPS_WRITE] = "bps-wr",  [BLOCK_THROTTLE_IOPS] = "iops",
    [BLOCK_THROTTLE_IOPS_READ] = "iops-rd", [BLOCK_THROTTLE_IOPS_WRITE] = "iops-wr",
};

/* What follows "-drive throttling." or stands in <iotune>, with '-' for '_'. */
static const struct {
    const char *name;
    enum block_throttle_kind kind;
} aliases[] = {
    {"bps", BLOCK_THROTTLE_BPS},
    {"bps-total", BLOCK_THROTTLE_BPS},
    {"total-bytes-sec", BLOCK_THROTTLE_BPS},
    {"bps-rd", BLOCK_THROTTLE_BPS_READ},
    {"bps-read", BLOCK_THROTTLE_BPS_READ},
    {"read-bytes-sec", BLOCK_THROTTLE_BPS_READ},
    {"bps-wr", BLOCK_THROTTLE_BPS_WRITE},
    {"bps-write", BLOCK_THROTTLE_BPS_WRITE},
    {"write-bytes-sec", BLOCK_THROTTLE_BPS_WRITE},
    {"iops", BLOCK_THROTTLE_IOPS},
    {"iops-total", BLOCK_THROTTLE_IOPS},
    {"total-iops-sec", BLOCK_THROTTLE_IOPS},
    {"iops-rd", BLOCK_THROTTLE_IOPS_READ},
    {"iops-read", BLOCK_THROTTLE_IOPS_READ},
    {"read-iops-sec", BLOCK_THROTTLE_IOPS_READ},
    {"iops-wr", BLOCK_THROTTLE_IOPS_WRITE},
    {"iops-write", BLOCK_THROTTLE_IOPS_WRITE},
    {"write-iops-sec", BLOCK_THROTTLE_IOPS_WRITE},
};

static bool cut_end(char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);
    if (length <= end_length || strcmp(text + length - end_length, end) != 0) {
        return false;
    }
    text[length - end_length] = '\0';
    return true;
}

bool block_throttle_set_key(struct block_throttle_limits *limits, const char *key, uint64_t value,
                            bool *out_is_bytes)
{
    char name[40];
    static const char prefix[] = "throttling.";
    key += strncmp(key, prefix, sizeof(prefix) - 1) == 0 ? sizeof(prefix) - 1 : 0;
    if (strlen(key) >= sizeof(name)) {
        return false;
    }
    (void)snprintf(name, sizeof(name), "%s", key);
    for (char *c = name; *c != '\0'; c++) {
        if (*c == '_') {
            *c = '-';
        }
    }
    if (strcmp(name, "iops-size") == 0 || strcmp(name, "size-iops-sec") == 0) {
        limits->operation_bytes = value;
        *out_is_bytes = true;
        return true;
    }
    bool is_length = cut_end(name, "-max-length");
    bool is_burst = !is_length && cut_end(name, "-max");
    for (size_t i = 0; i < ARRAY_COUNT(aliases); i++) {
        if (strcmp(name, aliases[i].name) == 0) {
            struct block_throttle_limit *limit = &limits->kind[aliases[i].kind];
            if (is_length) {
                limit->burst_length_s = value;
            } else {
                *(is_burst ? &limit->burst : &limit->rate) = value;
            }
            *out_is_bytes = !is_length && aliases[i].kind <= BLOCK_THROTTLE_BPS_WRITE;
            return true;
        }
    }
    return false;
}

void block_throttle_each(const struct block_throttle_limits *limits,
                         void (*fn)(void *ctx, const char *key, uint64_t value), void *ctx)
{
    for (unsigned i = 0; i < BLOCK_THROTTLE_KINDS; i++) {
        const struct block_throttle_limit *limit = &limits->kind[i];
        const struct {
            const char *end;
            uint64_t value;
        } parts[] = {
            {"", limit->rate}, {"-max", limit->burst}, {"-max-length", limit->burst_length_s}};
        for (size_t j = 0; j < ARRAY_COUNT(parts); j++) {
            char key[40];
            (void)snprintf(key, sizeof(key), "%s%s", block_throttle_names[i], parts[j].end);
            if (parts[j].value != 0) {
                fn(ctx, key, parts[j].value);
            }
        }
    }
    if (limits->operation_bytes != 0) {
        fn(ctx, "iops-size", limits->operation_bytes);
    }
}

int block_throttle_check(const struct block_throttle_limits *limits, struct error *err)
{
    static const enum block_throttle_kind totals[] = {BLOCK_THROTTLE_BPS, BLOCK_THROTTLE_IOPS};
    for (size_t i = 0; i < ARRAY_COUNT(totals); i++) {
        enum block_throttle_kind total = totals[i];
        if (limits->kind[total].rate != 0 &&
            (limits->kind[total + 1].rate != 0 || limits->kind[total + 2].rate != 0)) {
            return error_set(err, EINVAL, "%s is for reads and writes together: not with %s or %s",
                             block_throttle_names[total], block_throttle_names[total + 1],
                             block_throttle_names[total + 2]);
        }
    }
    for (unsigned i = 0; i < BLOCK_THROTTLE_KINDS; i++) {
        const struct block_throttle_limit *limit = &limits->kind[i];
        const char *name = block_throttle_names[i];
        if (limit->rate > BLOCK_THROTTLE_MAX_RATE || limit->burst > BLOCK_THROTTLE_MAX_RATE) {
            return error_set(err, ERANGE, "%s is too much: at most %llu a second", name,
                             (unsigned long long)BLOCK_THROTTLE_MAX_RATE);
        }
        if (limit->burst != 0 && limit->burst < limit->rate) {
            return error_set(err, EINVAL, "%s-max is less than %s", name, name);
        }
        if (limit->rate == 0 && limit->burst != 0) {
            return error_set(err, EINVAL, "%s-max needs %s", name, name);
        }
        if (limit->burst == 0 && limit->burst_length_s > 1) {
            return error_set(err, EINVAL, "%s-max-length needs %s-max", name, name);
        }
    }
    return 0;
}
