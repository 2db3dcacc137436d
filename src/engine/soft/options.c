#include "engine/soft/options.h"

#include <errno.h>
#include <string.h>

#include "base/core/bits.h"
#include "engine/soft/icount.h"

/* Whether the translator's blocks are verified unless an option says otherwise: meson option verify_code. */
#ifdef HULL_VERIFY_CODE
#define VERIFIES true
#else
#define VERIFIES false
#endif

struct option {
    const char *name;
    const char *on, *off; /* values; NULL: there is no such */
    bool *is_on;
    char *text; /* instead of a switch: takes any value */
    size_t text_size;
    /* Instead of both. */
    bool (*take)(struct soft_vm *vm, const char *value, size_t length);
};

static bool is_word(const char *word, const char *text, size_t length)
{
    return word && strlen(word) == length && strncmp(word, text, length) == 0;
}

/* "on", or a number up to SOFT_ICOUNT_MAX_SHIFT. */
static bool take_icount(struct soft_vm *vm, const char *value, size_t length)
{
    vm->icount.is_on = !is_word("off", value, length);
    vm->icount.shift = 0;
    if (is_word("on", value, length) || !vm->icount.is_on) {
        return true;
    }
    for (size_t i = 0; i < length; i++) {
        if (value[i] < '0' || value[i] > '9' || vm->icount.shift > SOFT_ICOUNT_MAX_SHIFT) {
            return false;
        }
        vm->icount.shift = vm->icount.shift * 10 + (uint32_t)(value[i] - '0');
    }
    return length && vm->icount.shift <= SOFT_ICOUNT_MAX_SHIFT;
}

/* Of the code cache, in MiB; the default, and what there may be. */
#define CACHE_MIB     64u
#define CACHE_MIN_MIB 4u
#define CACHE_MAX_MIB 1024u

/* A number of MiB, or one with K, M or G behind it. */
static bool take_cache(struct soft_vm *vm, const char *value, size_t length)
{
    uint64_t number = 0, unit = 1 << 20;
    size_t digits = 0;
    for (; digits < length && value[digits] >= '0' && value[digits] <= '9'; digits++) {
        uint64_t digit = (uint64_t)(value[digits] - '0');
        number = MIN(number * 10 + digit, UINT32_MAX);
    }
    if (digits && digits + 1 == length) {
        char suffix = value[digits] & ~0x20;
        unit = suffix == 'K' ? 1 << 10 : suffix == 'M' ? 1 << 20 : suffix == 'G' ? 1 << 30 : 0;
        digits++;
    }
    uint64_t size = number * unit;
    vm->code_cache_size = align_up(size, 1 << 20);
    return digits == length && size >= (uint64_t)CACHE_MIN_MIB << 20 &&
           size <= (uint64_t)CACHE_MAX_MIB << 20;
}

/* A number of nanoseconds; 0: no polling. */
static bool take_halt_poll(struct soft_vm *vm, const char *value, size_t length)
{
    uint64_t number = 0;
    for (size_t i = 0; i < length; i++) {
        if (value[i] < '0' || value[i] > '9') {
            return false;
        }
        number = MIN(number * 10 + (uint64_t)(value[i] - '0'), UINT32_MAX);
    }
    vm->halt_poll_ns = (uint32_t)number;
    return length && number <= SOFT_HALT_POLL_MAX_NS;
}

/* Which of the words it is; 'count': none. */
static size_t find_word(const char *const words[], size_t count, const char *value, size_t length)
{
    size_t i = 0;
    while (i < count && !is_word(words[i], value, length)) {
        i++;
    }
    return i;
}

static bool take_windows(struct soft_vm *vm, const char *value, size_t length)
{
    static const char *const names[] = {[SOFT_WINDOWS_AUTO] = "auto",
                                        [SOFT_WINDOWS_NEVER] = "off",
                                        [SOFT_WINDOWS_ALWAYS] = "always"};
    size_t i = find_word(names, ARRAY_COUNT(names), value, length);
    vm->windows = (enum soft_windows_policy)i;
    return i < ARRAY_COUNT(names);
}

static bool take_jumps(struct soft_vm *vm, const char *value, size_t length)
{
    static const char *const names[] = {
        [SOFT_JUMPS_AUTO] = "auto", [SOFT_JUMPS_FIT] = "fit", [SOFT_JUMPS_FREE] = "free"};
    size_t i = find_word(names, ARRAY_COUNT(names), value, length);
    vm->jumps = (enum soft_jumps_policy)i;
    return i < ARRAY_COUNT(names);
}

static bool take_value(struct soft_vm *vm, const struct option *option, const char *value,
                       size_t length)
{
    if (option->take) {
        return option->take(vm, value, length);
    }
    if (option->text) {
        if (!length || length >= option->text_size) {
            return false;
        }
        memcpy(option->text, value, length);
        option->text[length] = '\0';
        return true;
    }
    bool is_on = is_word(option->on, value, length);
    if (!is_on && !is_word(option->off, value, length)) {
        return false;
    }
    *option->is_on = is_on;
    return true;
}

int soft_options_parse(struct soft_vm *vm, struct soft_trace_options *out_trace,
                       const char *options, struct error *err)
{
    const struct option known[] = {
        {"translate", "off", "on", &vm->interprets},
        {"flags", "exact", NULL, &vm->has_exact_flags},
        {"lock", "always", "auto", &vm->keeps_locks},
        {"verify", "on", "off", &vm->verifies},
        {"lockstep", "on", "off", &vm->is_lockstep},
        {"perfmap", "on", "off", &out_trace->has_perf_map},
        {"icount", .take = take_icount},
        {"cache", .take = take_cache},
        {"halt-poll", .take = take_halt_poll},
        {"windows", .take = take_windows},
        {"jumps", .take = take_jumps},
        {"trace", .text = out_trace->path, .text_size = sizeof(out_trace->path)},
        {"symbols", .text = out_trace->symbols, .text_size = sizeof(out_trace->symbols)},
    };
    vm->verifies = VERIFIES;
    vm->code_cache_size = (size_t)CACHE_MIB << 20;
    vm->halt_poll_ns = SOFT_HALT_POLL_DEFAULT_NS;
    while (options && *options) {
        size_t length = strcspn(options, ","), name_length = strcspn(options, ",="), i = 0;
        const char *value = options + name_length + (name_length < length);
        size_t value_length = (size_t)(options + length - value);
        while (i < ARRAY_COUNT(known) && !is_word(known[i].name, options, name_length)) {
            i++;
        }
        if (i == ARRAY_COUNT(known) || !take_value(vm, &known[i], value, value_length)) {
            return error_set(
                err, EINVAL,
                "'%.*s' is no option of the engine soft: cache=SIZE (4M to 1G), "
                "halt-poll=NS (0 to 1000000), windows=auto|off|always, jumps=auto|fit|free, translate=on|off, "
                "flags=exact, lock=auto|always, verify=on|off, lockstep=on, icount=on|SHIFT (0 to "
                "10), trace=FILE, perfmap=on and symbols=FILE are",
                (int)length, options);
        }
        options += length + (options[length] == ',');
    }
    /* With icount: what flags that do not matter look like depends on where blocks begin and end. */
    vm->has_exact_flags |= vm->is_lockstep || vm->icount.is_on;
    return 0;
}
