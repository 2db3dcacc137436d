/* Rubbish as config.json, or as a process or resources object alone: p or r in front says which. What is accepted is walked through. */
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/invariant.h"
#include "container/spec/spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk_strings(const struct spec_strings *strings)
{
    for (size_t i = 0; i < strings->count; i++) {
        invariant(strings->item[i] != NULL);
        (void)strlen(strings->item[i]);
    }
    invariant(strings->item == NULL || strings->item[strings->count] == NULL);
}

static void walk_pairs(const struct spec_pairs *pairs)
{
    for (size_t i = 0; i < pairs->count; i++) {
        invariant(strlen(pairs->item[i].name) > 0);
        (void)strlen(pairs->item[i].value);
    }
}

static void walk(const struct spec *spec)
{
    invariant(!spec->has_process || spec->process.cwd[0] == '/');
    invariant(!spec->has_process || spec->process.args.count > 0);
    walk_strings(&spec->process.args);
    walk_strings(&spec->process.env);
    walk_strings(&spec->process.unknown_capabilities);
    for (size_t i = 0; i < spec->mount_count; i++) {
        invariant(spec->mounts[i].destination[0] == '/' && spec->mounts[i].data != NULL);
        invariant(!spec->mounts[i].has_idmap || spec->mounts[i].uid_mappings.count > 0 ||
                  spec_find_namespace(spec, CLONE_NEWUSER) != NULL);
    }
    walk_pairs(&spec->annotations);
    walk_pairs(&spec->linux_.sysctl);
    walk_pairs(&spec->linux_.resources.unified);
    walk_strings(&spec->linux_.masked_paths);
    walk_strings(&spec->linux_.readonly_paths);
    for (size_t i = 0; i < spec->linux_.net_device_count; i++) {
        invariant(strlen(spec->linux_.net_devices[i].name) < 16);
    }
    for (size_t i = 0; i < spec->linux_.seccomp.rule_count; i++) {
        walk_strings(&spec->linux_.seccomp.rules[i].names);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char kind = size > 0 ? (char)data[0] : '{';
    size_t skipped = kind == 'p' || kind == 'r' ? 1 : 0;
    size -= skipped;
    char *text =
        malloc(size + (size == 0)); /* of just this size, so that reading beyond it is seen */
    invariant(text != NULL);
    memcpy(text, data + skipped, size);
    struct spec *spec = NULL;
    struct error err = {0};
    int rc = kind == 'p'   ? spec_parse_process(text, size, &spec, &err)
             : kind == 'r' ? spec_parse_resources(text, size, &spec, &err)
                           : spec_parse(text, size, &spec, &err);
    free(text);
    invariant(rc == 0 || (spec == NULL && err.text[0] != '\0'));
    if (rc == 0) {
        walk(spec);
    }
    spec_destroy(spec);
    return 0;
}
