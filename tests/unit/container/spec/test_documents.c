/* Covers src/container/spec: the documents that it writes itself are read by it, and features names nothing that it does not know. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "container/spec/features.h"
#include "container/spec/spec.h"

static const char *folder;

static int parse_json(json_t *document, struct spec **out_spec, struct error *err)
{
    char *text = json_dumps(document, JSON_COMPACT);
    assert_non_null(text);
    int rc = spec_parse(text, strlen(text), out_spec, err);
    free(text);
    return rc;
}

static void defaults_are_read(void **state)
{
    for (unsigned is_rootless = 0; is_rootless < 2; is_rootless++) {
        json_t *document = spec_default_json(is_rootless);
        struct spec *spec = NULL;
        struct error err = {0};
        if (parse_json(document, &spec, &err) < 0) {
            fail_msg("%s", err.text);
        }
        assert_string_equal(spec->version, SPEC_VERSION);
        assert_int_equal(spec->mount_count, 7);
        assert_int_equal(spec->linux_.uid_mappings.count, is_rootless);
        spec_destroy(spec);
        json_decref(document);
    }
}

/* What runc writes, but for its name, version, and what younger versions of it changed. */
static void defaults_are_those_of_runc(void **state)
{
    static const char *const names[] = {"pass-root.json", "pass-rootless.json"};
    static const char *const same[] = {"root", "mounts"};
    static const char *const same_process[] = {"terminal", "user",    "args",           "env",
                                               "cwd",      "rlimits", "noNewPrivileges"};
    for (unsigned is_rootless = 0; is_rootless < 2; is_rootless++) {
        char path[4096];
        (void)snprintf(path, sizeof(path), "%s/%s", folder, names[is_rootless]);
        json_t *runc = json_load_file(path, 0, NULL), *own = spec_default_json(is_rootless);
        assert_non_null(runc);
        for (size_t i = 0; i < ARRAY_COUNT(same); i++) {
            assert_true(json_equal(json_object_get(own, same[i]), json_object_get(runc, same[i])));
        }
        for (size_t i = 0; i < ARRAY_COUNT(same_process); i++) {
            assert_true(
                json_equal(json_object_get(json_object_get(own, "process"), same_process[i]),
                           json_object_get(json_object_get(runc, "process"), same_process[i])));
        }
        json_t *own_linux = json_object_get(own, "linux"),
               *runc_linux = json_object_get(runc, "linux");
        const json_t *limits = json_object_get(own_linux, "resources");
        assert_true(is_rootless ? limits == NULL
                                : json_equal(limits, json_object_get(runc_linux, "resources")));
        assert_true(json_equal(json_object_get(own_linux, "readonlyPaths"),
                               json_object_get(runc_linux, "readonlyPaths")));
        json_decref(runc);
        json_decref(own);
    }
}

/* A document with one name of a list of features in it, where it belongs: 'format' has %s for it. */
static void assert_known(const json_t *list, const char *format)
{
    size_t index;
    json_t *name;
    assert_true(json_array_size(list) > 0);
    json_array_foreach(list, index, name)
    {
        char text[1024];
        struct spec *spec = NULL;
        struct error err = {0};
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        (void)snprintf(text, sizeof(text), format, json_string_value(name));
#pragma GCC diagnostic pop
        char whole[2048];
        (void)snprintf(whole, sizeof(whole),
                       "{\"ociVersion\": \"1.3.0\", \"root\": {\"path\": \"r\"}, %s}", text);
        if (spec_parse(whole, strlen(whole), &spec, &err) < 0) {
            fail_msg("%s: %s", text, err.text);
        }
        assert_int_equal(spec->process.unknown_capabilities.count, 0);
        assert_true(spec->mount_count == 0 || spec->mounts[0].data[0] == '\0');
        spec_destroy(spec);
    }
}

static void features_are_known(void **state)
{
    json_t *features = features_json();
    assert_non_null(features);
    json_t *linux_ = json_object_get(features, "linux");
    json_t *seccomp = json_object_get(linux_, "seccomp"),
           *policy = json_object_get(linux_, "memoryPolicy");
    assert_known(json_object_get(features, "hooks"), "\"hooks\": {\"%s\": [{\"path\": \"/a\"}]}");
    assert_known(json_object_get(features, "mountOptions"),
                 "\"linux\": {\"namespaces\": [{\"type\": \"user\"}]}, \"mounts\": "
                 "[{\"destination\": \"/a\", \"source\": \"/a\", \"options\": [\"%s\"]}]");
    assert_known(json_object_get(linux_, "namespaces"),
                 "\"linux\": {\"namespaces\": [{\"type\": \"%s\"}]}");
    assert_known(json_object_get(linux_, "capabilities"),
                 "\"process\": {\"cwd\": \"/\", \"args\": [\"a\"], \"capabilities\": "
                 "{\"bounding\": [\"%s\"]}}");
    assert_known(json_object_get(seccomp, "actions"),
                 "\"linux\": {\"seccomp\": {\"defaultAction\": \"SCMP_ACT_ALLOW\", "
                 "\"listenerPath\": \"/s\", \"syscalls\": [{\"names\": [\"a\"], \"action\": "
                 "\"%s\"}]}}");
    assert_known(json_object_get(seccomp, "operators"),
                 "\"linux\": {\"seccomp\": {\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": "
                 "[{\"names\": [\"a\"], \"action\": \"SCMP_ACT_LOG\", \"args\": [{\"index\": 0, "
                 "\"value\": 0, \"op\": \"%s\"}]}]}}");
    assert_known(json_object_get(seccomp, "archs"),
                 "\"linux\": {\"seccomp\": {\"defaultAction\": \"SCMP_ACT_ALLOW\", "
                 "\"architectures\": [\"%s\"]}}");
    assert_known(json_object_get(seccomp, "knownFlags"),
                 "\"linux\": {\"seccomp\": {\"defaultAction\": \"SCMP_ACT_ALLOW\", \"flags\": "
                 "[\"%s\"]}}");
    assert_known(json_object_get(policy, "flags"),
                 "\"linux\": {\"memoryPolicy\": {\"mode\": \"MPOL_BIND\", \"nodes\": \"0\", "
                 "\"flags\": [\"%s\"]}}");
    assert_int_equal(json_array_size(json_object_get(policy, "modes")), 7);
    assert_true(json_is_true(json_object_get(json_object_get(linux_, "netDevices"), "enabled")));
    assert_non_null(json_object_get(json_object_get(features, "annotations"),
                                    "io.github.seccomp.libseccomp.version"));
    json_decref(features);
}

/* What runc or crun know. */
static void features_have_those_of_peers(void **state)
{
    static const char *const options[] = {"ridmap",     "rasync",    "loud",
                                          "rsymfollow", "tmpcopyup", "rrw"};
    json_t *features = features_json();
    for (size_t i = 0; i < ARRAY_COUNT(options); i++) {
        size_t index;
        json_t *name;
        bool is_there = false;
        json_array_foreach(json_object_get(features, "mountOptions"), index, name)
        {
            is_there |= strcmp(json_string_value(name), options[i]) == 0;
        }
        assert_true(is_there);
    }
    json_decref(features);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_read),
        cmocka_unit_test(defaults_are_those_of_runc),
        cmocka_unit_test(features_are_known),
        cmocka_unit_test(features_have_those_of_peers),
    };
    folder = argc > 1 ? argv[1] : ".";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
