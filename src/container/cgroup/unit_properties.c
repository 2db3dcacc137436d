/* What a configuration limits, in systemd's words. systemd writes it to the group again whenever it likes (daemon-reload), so
 * it has to know of it; what it has no word for is in the files alone. */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/host/file.h"
#include "container/cgroup/device_program.h"
#include "container/cgroup/limits.h"
#include "container/cgroup/unit.h"

#define ANNOTATION     "org.systemd.property."
#define DEFAULT_PERIOD 100000u /* us, of the kernel */
#define PERCENT_US     10000u  /* of a second: systemd keeps quotas in parts of it */
#define MAX_CPUS       8192u
#define MAX_LIST       64u

/* The first systemd that has it. */
#define SINCE_PERIOD 242
#define SINCE_CPUSET 244
#define SINCE_IDLE   252
#define SINCE_SWAP   232

static void add(json_t *list, const char *name, uint64_t value, int version)
{
    json_t *row = value > INT64_MAX ? json_pack("[s,s,i,i]", name, "t", -1, version)
                                    : json_pack("[s,s,I,i]", name, "t", (json_int_t)value, version);
    (void)json_array_append_new(list, row);
}

static void add_cpu(json_t *list, const struct spec_resources *resources, bool is_v1)
{
    bool is_idle = resources->cpu.idle.has && resources->cpu.idle.value == 1;
    if (is_idle && !is_v1) {
        add(list, "CPUWeight", 0, SINCE_IDLE);
    } else if (is_given_u64(resources->cpu.shares) && !is_idle) {
        uint64_t shares = resources->cpu.shares.value;
        add(list, is_v1 ? "CPUShares" : "CPUWeight", is_v1 ? shares : limit_cpu_weight(shares), 0);
    }
    if (is_given_u64(resources->cpu.period_us)) {
        add(list, "CPUQuotaPeriodUSec", resources->cpu.period_us.value, SINCE_PERIOD);
    }
    if (is_given_i64(resources->cpu.quota_us)) {
        uint64_t period = is_given_u64(resources->cpu.period_us) ? resources->cpu.period_us.value
                                                                 : DEFAULT_PERIOD;
        uint64_t quota = UINT64_MAX;
        if (resources->cpu.quota_us.value > 0) {
            __uint128_t exact = (__uint128_t)resources->cpu.quota_us.value * 1000000u / period;
            exact = (exact + PERCENT_US - 1) / PERCENT_US * PERCENT_US;
            quota = exact > INT64_MAX ? UINT64_MAX : (uint64_t)exact;
        }
        add(list, "CPUQuotaPerSecUSec", quota, 213);
    }
}

/* "0-2,7" as a bit mask, lowest byte first. NULL: it is no such list, which writing it to the file will tell. */
static json_t *mask_of(const char *text)
{
    uint8_t mask[MAX_CPUS / 8] = {0};
    size_t size = 0;
    while (*text != '\0') {
        char *end;
        if (!isdigit((unsigned char)*text)) {
            return NULL;
        }
        unsigned long first = strtoul(text, &end, 10), last = first;
        if (*end == '-' && isdigit((unsigned char)end[1])) {
            last = strtoul(end + 1, &end, 10);
        }
        if (first > last || last >= MAX_CPUS || (*end != '\0' && *end != ',')) {
            return NULL;
        }
        for (unsigned long i = first; i <= last; i++) {
            mask[i / 8] |= (uint8_t)(1u << i % 8);
        }
        size = MAX(size, last / 8 + 1);
        text = end + (*end == ',');
    }
    json_t *bytes = json_array();
    for (size_t i = 0; i < size; i++) {
        (void)json_array_append_new(bytes, json_integer(mask[i]));
    }
    return bytes;
}

static void add_mask(json_t *list, const char *name, const char *text)
{
    json_t *bytes = text != NULL && *text != '\0' ? mask_of(text) : NULL;
    if (bytes != NULL) {
        (void)json_array_append_new(list, json_pack("[s,s,o,i]", name, "ay", bytes, SINCE_CPUSET));
    }
}

static void add_memory(json_t *list, const struct spec_resources *resources, bool is_v1)
{
    struct spec_i64 limit = resources->memory.limit, swap = resources->memory.swap;
    if (is_given_i64(limit)) {
        add(list, is_v1 ? "MemoryLimit" : "MemoryMax", (uint64_t)limit.value, is_v1 ? 0 : 231);
    }
    if (is_v1) {
        return;
    }
    if (is_given_i64(resources->memory.reservation)) {
        add(list, "MemoryLow", (uint64_t)resources->memory.reservation.value, 231);
    }
    if (is_given_i64(swap) && swap.value < 0) {
        add(list, "MemorySwapMax", UINT64_MAX, SINCE_SWAP);
    } else if (is_given_i64(swap) && is_given_i64(limit) && limit.value > 0 &&
               swap.value >= limit.value) {
        add(list, "MemorySwapMax", (uint64_t)(swap.value - limit.value), SINCE_SWAP);
    }
}

/* Files of v2 that a configuration names itself. */
static const struct {
    const char *file, *property;
    int version;
} unified_names[] = {
    {"memory.max", "MemoryMax", 231}, {"memory.high", "MemoryHigh", 231},
    {"memory.low", "MemoryLow", 231}, {"memory.min", "MemoryMin", 240},
    {"pids.max", "TasksMax", 227},    {"memory.swap.max", "MemorySwapMax", SINCE_SWAP},
    {"cpu.weight", "CPUWeight", 232},
};

static void add_unified(json_t *list, const struct spec_pair *pair)
{
    if (strcmp(pair->name, "cpuset.cpus") == 0) {
        add_mask(list, "AllowedCPUs", pair->value);
    } else if (strcmp(pair->name, "cpuset.mems") == 0) {
        add_mask(list, "AllowedMemoryNodes", pair->value);
    }
    for (size_t i = 0; i < ARRAY_COUNT(unified_names); i++) {
        char *end;
        bool is_max = strcmp(pair->value, "max") == 0;
        uint64_t value = strtoull(pair->value, &end, 10);
        if (strcmp(pair->name, unified_names[i].file) == 0 &&
            (is_max || (isdigit((unsigned char)pair->value[0]) && *end == '\0'))) {
            add(list, unified_names[i].property, is_max ? UINT64_MAX : value,
                unified_names[i].version);
        }
    }
}

json_t *unit_properties(const struct spec_resources *resources, uint32_t v1_controllers)
{
    json_t *list = json_array();
    add_cpu(list, resources, (v1_controllers & 1U << CGROUP_CPU) != 0);
    if ((v1_controllers & 1U << CGROUP_CPUSET) == 0) {
        add_mask(list, "AllowedCPUs", resources->cpu.cpus);
        add_mask(list, "AllowedMemoryNodes", resources->cpu.mems);
    }
    add_memory(list, resources, (v1_controllers & 1U << CGROUP_MEMORY) != 0);
    /* systemd knows no limit of 0 processes: that one is in the file. */
    if (is_given_i64(resources->pids_limit)) {
        add(list, "TasksMax", (uint64_t)resources->pids_limit.value, 227);
    }
    if (is_given_u64(resources->block_io.weight)) {
        bool is_v1 = (v1_controllers & 1U << CGROUP_BLOCK_IO) != 0;
        uint64_t weight = resources->block_io.weight.value;
        add(list, is_v1 ? "BlockIOWeight" : "IOWeight", is_v1 ? weight : limit_io_weight(weight),
            is_v1 ? 0 : 230);
    }
    for (size_t i = 0; i < resources->unified.count; i++) {
        add_unified(list, &resources->unified.item[i]);
    }
    return list;
}

static bool may_overlap(int64_t a, int64_t b)
{
    return a < 0 || b < 0 || a == b;
}

/* What a later rule denies is in no entry, nor is the rest of such an entry. */
static bool is_denied_later(const struct spec_device_rule *rule,
                            const struct spec_device_rule *later, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!later[i].is_allowed &&
            (later[i].type == 'a' || rule->type == 'a' ||
             (later[i].type == rule->type && may_overlap(later[i].major, rule->major) &&
              may_overlap(later[i].minor, rule->minor)))) {
            return true;
        }
    }
    return false;
}

static void add_device(json_t *list, const struct spec_device_rule *rule, char type)
{
    char name[64], rights[4];
    const char *class = type == 'c' ? "char" : "block";
    int64_t major = rule->type == 'a' ? -1 : rule->major;
    int64_t minor = rule->type == 'a' ? -1 : rule->minor;
    if (major >= 0 && minor >= 0) {
        (void)snprintf(name, sizeof(name), "/dev/%s/%" PRId64 ":%" PRId64, class, major, minor);
    } else if (minor >= 0) {
        return;
    } else if (major >= 0) {
        (void)snprintf(name, sizeof(name), "%s-%" PRId64, class, major);
    } else {
        (void)snprintf(name, sizeof(name), "%s-*", class);
    }
    (void)snprintf(rights, sizeof(rights), "%s%s%s", rule->can_read ? "r" : "",
                   rule->can_write ? "w" : "", rule->can_mknod ? "m" : "");
    if (rights[0] != '\0') {
        (void)json_array_append_new(list, json_pack("[s,s]", name, rights));
    }
}

static void add_devices(json_t *list, const struct spec_device_rule *rules, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct spec_device_rule *rule = &rules[i];
        if (!rule->is_allowed || is_denied_later(rule, rule + 1, count - i - 1)) {
            continue;
        }
        if (rule->type != 'b') {
            add_device(list, rule, 'c');
        }
        if (rule->type != 'c') {
            add_device(list, rule, 'b');
        }
    }
}

void unit_properties_add_devices(json_t *properties, const struct spec_resources *resources)
{
    json_t *list = json_array();
    add_devices(list, resources->devices, resources->device_count);
    add_devices(list, device_default_rules, device_default_rule_count);
    /* An empty list takes away what was there. */
    (void)json_array_append_new(properties,
                                json_pack("[s,s,s,i]", "DevicePolicy", "s", "strict", 0));
    (void)json_array_append_new(properties, json_pack("[s,s,[],i]", "DeviceAllow", "a(ss)", 0));
    (void)json_array_append_new(properties,
                                json_pack("[s,s,o,i]", "DeviceAllow", "a(ss)", list, 0));
}

/* 'a' or "a", up to a ',' or the end; NULL: it is none. */
static json_t *take_string(char **text)
{
    char quote = **text;
    char *start = *text + 1;
    char *end = quote == '\'' || quote == '"' ? strchr(start, quote) : NULL;
    if (end == NULL || memchr(start, '\\', (size_t)(end - start)) != NULL) {
        return NULL;
    }
    *text = end + 1;
    return json_stringn(start, (size_t)(end - start));
}

static json_t *string_list(char *text)
{
    json_t *list = json_array();
    text += 1 + strspn(text + 1, " ");
    while (*text != ']' && json_array_size(list) < MAX_LIST) {
        json_t *word = take_string(&text);
        text += strspn(text, " ");
        if (word == NULL || (*text != ',' && *text != ']')) {
            json_decref(word);
            break;
        }
        (void)json_array_append_new(list, word);
        text += *text == ',';
        text += strspn(text, " ");
    }
    if (strcmp(text, "]") != 0) {
        json_decref(list);
        return NULL;
    }
    return list;
}

static const struct {
    const char *word, *type;
    int64_t min;
    int64_t max;
} number_types[] = {
    {"byte ", "y", 0, UINT8_MAX},    {"int16 ", "n", INT16_MIN, INT16_MAX},
    {"uint16 ", "q", 0, UINT16_MAX}, {"int32 ", "i", INT32_MIN, INT32_MAX},
    {"uint32 ", "u", 0, UINT32_MAX}, {"int64 ", "x", INT64_MIN, INT64_MAX},
    {"uint64 ", "t", 0, INT64_MAX},  {"", "i", INT32_MIN, INT32_MAX},
};

static json_t *number(const char *text, const char **out_type)
{
    size_t i = 0;
    while (strncmp(text, number_types[i].word, strlen(number_types[i].word)) != 0) {
        i++; /* the last one is every number's */
    }
    char *end;
    const char *digits = text + strlen(number_types[i].word);
    errno = 0;
    int64_t value = strtoll(digits, &end, 10);
    *out_type = number_types[i].type;
    bool is_good = (isdigit((unsigned char)*digits) || *digits == '-') && end != digits &&
                   *end == '\0' && errno == 0 && value >= number_types[i].min &&
                   value <= number_types[i].max;
    return is_good ? json_integer(value) : NULL;
}

static json_t *parse_value(char *text, const char **out_type)
{
    char *rest = text;
    if (strcmp(text, "true") == 0 || strcmp(text, "false") == 0) {
        *out_type = "b";
        return json_boolean(*text == 't');
    }
    if (*text == '[') {
        *out_type = "as";
        return string_list(text);
    }
    if (*text == '\'' || *text == '"') {
        json_t *word = take_string(&rest);
        *out_type = "s";
        if (*rest != '\0') {
            json_decref(word);
            return NULL;
        }
        return word;
    }
    return number(text, out_type);
}

static bool is_name(const char *name)
{
    size_t size = 0;
    while (isalpha((unsigned char)name[size])) {
        size++;
    }
    return size >= 3 && size <= 100 && name[size] == '\0';
}

static int annotate(json_t *properties, const struct spec_pair *pair, struct error *err)
{
    const char *given = pair->name + strlen(ANNOTATION);
    char name[128];
    AUTO_FREE char *text = strdup(pair->value);
    if (text == NULL) {
        return error_set(err, ENOMEM, "no memory for an annotation");
    }
    if (!is_name(given)) {
        return error_set(err, EINVAL, "annotations: %.200s names no property of a unit",
                         pair->name);
    }
    const char *type = "";
    json_t *value = parse_value(text, &type);
    (void)snprintf(name, sizeof(name), "%s", given);
    size_t size = strlen(name);
    /* Times are in seconds in unit files, and in microseconds on the bus. */
    if (size > 3 && strcmp(name + size - 3, "Sec") == 0 && islower((unsigned char)name[size - 4]) &&
        json_is_integer(value)) {
        json_int_t seconds = json_integer_value(value);
        json_decref(value);
        value =
            seconds < 0 || seconds > INT64_MAX / 1000000 ? NULL : json_integer(seconds * 1000000);
        type = "t";
        (void)snprintf(name + size - 3, sizeof(name) - size + 3, "USec");
    }
    if (value == NULL) {
        return error_set(err, EINVAL,
                         "annotations: %.200s: \"%.100s\" is not like true, 'text', ['a', 'b'], 5 "
                         "or uint64 5",
                         pair->name, pair->value);
    }
    return json_array_append_new(properties, json_pack("[s,s,o,i]", name, type, value, 0)) < 0
               ? error_set(err, ENOMEM, "no memory for an annotation")
               : 0;
}

int unit_properties_annotate(json_t *properties, const struct spec_pairs *annotations,
                             struct error *err)
{
    for (size_t i = 0; i < annotations->count; i++) {
        if (strncmp(annotations->item[i].name, ANNOTATION, strlen(ANNOTATION)) == 0) {
            int rc = annotate(properties, &annotations->item[i], err);
            if (rc < 0) {
                return rc;
            }
        }
    }
    return 0;
}
