/* The engines of this build, and which one runs a VM. */
#include "engine/engine.h"

#include <stdio.h>
#include <string.h>

#include "engine/choose.h"
#include "engine/kvm/kvm.h"
#include "engine/null/null.h"
#include "engine/soft/soft.h"

const struct engine_ops *const engines[] = {
    &kvm_engine_ops,
    &soft_engine_ops,
    &null_engine_ops,
    NULL,
};

void engine_prepare(void)
{
    soft_engine_prepare();
}

const struct engine_ops *engine_find_among(const struct engine_ops *const *list, const char *name)
{
    size_t length = strcspn(name, ",");
    for (; *list != NULL; list++) {
        if (strlen((*list)->name) == length && strncmp((*list)->name, name, length) == 0) {
            return *list;
        }
    }
    return NULL;
}

/* Appends to a text of ERROR_TEXT_SIZE bytes; what does not fit is cut. */
static void printf_like(2, 3) text_append(char *text, const char *format, ...)
{
    size_t length = strlen(text);
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text + length, ERROR_TEXT_SIZE - length, format, args); /* cut is fine */
    va_end(args);
}

static int choose_auto(const struct engine_ops *const *list, const struct engine_ops **out_engine,
                       char *out_reason, struct error *err)
{
    char passed_over[ERROR_TEXT_SIZE] = "";
    for (; *list != NULL; list++) {
        struct engine_probe probe = {0};
        (*list)->probe(&probe);
        if (probe.quality == ENGINE_USABLE) {
            out_reason[0] = '\0';
            text_append(out_reason, "%s: %s%s%s", (*list)->name, probe.reason,
                        passed_over[0] != '\0' ? "; not " : "", passed_over);
            *out_engine = *list;
            return 0;
        }
        text_append(passed_over, "%s%s: %s", passed_over[0] != '\0' ? "; not " : "", (*list)->name,
                    probe.reason);
    }
    return error_set(err, ENODEV, "choosing an engine: none is usable here: not %s", passed_over);
}

int engine_choose_among(const struct engine_ops *const *list, const char *name,
                        const struct engine_ops **out_engine, char *out_reason, struct error *err)
{
    if (strcmp(name, "auto") == 0) {
        return choose_auto(list, out_engine, out_reason, err);
    }
    const struct engine_ops *engine = engine_find_among(list, name);
    if (engine == NULL) {
        char names[ERROR_TEXT_SIZE] = "auto";
        for (; *list != NULL; list++) {
            text_append(names, ", %s", (*list)->name);
        }
        return error_set(err, EINVAL, "there is no engine '%.40s': use one of %s", name, names);
    }
    struct engine_probe probe = {0};
    engine->probe(&probe);
    if (probe.quality == ENGINE_UNUSABLE) {
        return error_set(err, ENODEV, "engine %s is not usable here: %s%s%s", engine->name,
                         probe.reason, probe.remedy[0] != '\0' ? ": " : "", probe.remedy);
    }
    out_reason[0] = '\0';
    text_append(out_reason, "%s, as asked for: %s", engine->name, probe.reason);
    *out_engine = engine;
    return 0;
}

bool engine_same_tsc_rate(uint64_t hz, uint64_t other_hz)
{
    uint64_t apart = hz > other_hz ? hz - other_hz : other_hz - hz;
    return apart <= hz / 1000000 * ENGINE_TSC_TOLERANCE_PPM;
}

const struct engine_ops *engine_find(const char *name)
{
    return engine_find_among(engines, name);
}

int engine_choose(const char *name, const struct engine_ops **out_engine, char *out_reason,
                  struct error *err)
{
    return engine_choose_among(engines, name, out_engine, out_reason, err);
}
