/* Covers src/system/config/keys.c, card.c and config_from_json: what each key takes, and what it does not. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "base/core/compiler.h"
#include "system/config/config.h"

/* A whole configuration but for that one key. */
static json_t *document_with(const char *key, json_t *value)
{
    json_t *document = json_pack("{s:s, s:s}", "root", "/srv/root", "ids", "1073741824:65536");
    if (key != NULL) {
        (void)json_object_set_new(document, key, value);
    }
    return document;
}

static struct config *read_value(const char *key, json_t *value)
{
    json_t *document = document_with(key, value);
    struct config *config = NULL;
    struct error err = {0};
    int rc = config_from_json(document, &config, &err);
    json_decref(document);
    if (rc < 0) {
        fail_msg("%s", err.text);
    }
    return config;
}

static struct config *read_word(const char *key, const char *value)
{
    return read_value(key, json_string(value));
}

static void refuse(const char *key, json_t *value, const char *shown)
{
    json_t *document = document_with(key, value);
    struct config *config = NULL;
    struct error err = {0};
    int rc = config_from_json(document, &config, &err);
    if (rc >= 0 || strstr(err.text, key) == NULL) {
        fail_msg("%s: %s: %d, '%s'", key, shown, rc, err.text);
    }
    assert_null(config);
    json_decref(document);
}

static void limits(void **state)
{
    static const struct {
        const char *key, *value;
        size_t offset;
        uint64_t expected;
    } cases[] = {
        {"cpus", "0.5", offsetof(struct config_limits, cpus_milli), 500},
        {"cpus", "2", offsetof(struct config_limits, cpus_milli), 2000},
        {"cpus", "0.01", offsetof(struct config_limits, cpus_milli), 10},
        {"cpu_shares", "2", offsetof(struct config_limits, cpu_shares), 2},
        {"cpu_shares", "262144", offsetof(struct config_limits, cpu_shares), 262144},
        {"memory", "64M", offsetof(struct config_limits, memory_bytes), 64 << 20},
        {"memory", "1048576", offsetof(struct config_limits, memory_bytes), 1 << 20},
        {"swap", "0", offsetof(struct config_limits, swap_bytes), 0},
        {"swap", "1G", offsetof(struct config_limits, swap_bytes), 1 << 30},
        {"processes", "1", offsetof(struct config_limits, processes), 1},
        {"io_weight", "1000", offsetof(struct config_limits, io_weight), 1000},
        {"io_read", "1M", offsetof(struct config_limits, io_read_bps), 1 << 20},
        {"io_write", "4096", offsetof(struct config_limits, io_write_bps), 4096},
        {"io_read_iops", "7", offsetof(struct config_limits, io_read_iops), 7},
        {"io_write_iops", "8", offsetof(struct config_limits, io_write_iops), 8},
        {"disk", "16M", offsetof(struct config_limits, disk_bytes), 16 << 20},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct config *config = read_word(cases[i].key, cases[i].value);
        uint64_t got;
        memcpy(&got, (const char *)&config->limits + cases[i].offset, sizeof(got));
        assert_int_equal(got, cases[i].expected);
        assert_int_equal(config->limits.has_swap, strcmp(cases[i].key, "swap") == 0);
        config_destroy(config);
    }
}

static void bad_values(void **state)
{
    static const struct {
        const char *key, *values[10];
    } cases[] = {
        {"cpus", {"0", "-1", "nan", "inf", "1x", "", "8193", "0.001"}},
        {"cpu_shares", {"0", "1", "262145", "-2", "2.5", "", "x", "99999999999999999999"}},
        {"cpu_set", {"", "a", "0;1", "0 1"}},
        {"pool", {"", "../x", "a b", ".x"}},
        {"memory", {"", "0", "1K", "-1", "lots", "9999999999T", "18446744073709551615", "64MM"}},
        {"swap", {"", "-1", "x"}},
        {"processes", {"0", "-1", "4194305", "x", ""}},
        {"io_weight", {"9", "1001"}},
        {"io_read", {"0", "4095", "x"}},
        {"io_write_iops", {"0", "4294967296"}},
        {"disk", {"15M", "x", "0"}},
        {"hostname", {"", "-x", "a b", "a/b", "x\n", "\xc3\xbc"}},
        {"init", {"relative", ""}},
        {"privileged", {"maybe", "", "1", "TRUE"}},
        {"ids",
         {"0:65536", "65535:65536", "65536:999", "4294967295:1000", "-1:65536", "65536:-1", "65536",
          "65536:65536:1", "65536:18446744073709551615", "x:y"}},
        {"seccomp", {"", "relative", "Default"}},
        {"dns", {"", "name", "1.2.3", "0.0.0.0", "10.0.0.256", "fe80::1::2"}},
        {"search", {"a b", "a\nb", "a#b"}},
        {"mount", {"", "/a", "/a:b", "a:/b", "/a:/b:rw", "/a:/b:ro:x", "/a:/b:ro x", ":/b", "/a:"}},
        {"environment", {"", "X", "=x"}},
        {"order", {"-1", "1000001", "x", ""}},
        {"stop_timeout", {"-1", "86401", "soon"}},
        {"stop_signal", {"", "NOTHING", "0", "-1", "65"}},
        {"created", {"0123456789012345678901234567890123456789012345678901234567890123"}},
        {"network",
         {"", "eth0", "bridge=", "bridge=a/b", "bridge=aaaaaaaaaaaaaaaa", "name=eth0",
          "bridge=b,ip=1.2.3", "bridge=b,ip=10.0.0.0/24", "bridge=b,mtu=67",
          "bridge=b,mac=01:00:00:00:00:00"}},
        {"colour", {"red"}},
        {"Memory", {"64M"}},
        {"memory ", {"64M"}},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        for (size_t j = 0; j < ARRAY_COUNT(cases[i].values) && cases[i].values[j] != NULL; j++) {
            refuse(cases[i].key, json_string(cases[i].values[j]), cases[i].values[j]);
        }
        refuse(cases[i].key, json_pack("{s:s}", "a", "b"), "an object");
        refuse(cases[i].key, json_pack("[[s]]", "a"), "a list in a list");
        refuse(cases[i].key, json_integer(1), "a number");
    }
}

/* As many of everything as there may be, and one more. */
static void many(void **state)
{
    static const struct {
        const char *key, *before, *after;
        unsigned most;
    } cases[] = {
        {"network", "bridge=b,name=e", "", CONFIG_MAX_CARDS},
        {"dns", "10.0.0.", "", CONFIG_MAX_DNS},
        {"mount", "/a:/b", "", CONFIG_MAX_MOUNTS},
        {"environment", "X", "=", CONFIG_MAX_ENVIRONMENT},
        {"init", "/x", "", CONFIG_MAX_INIT - 1},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        json_t *list = json_array();
        char text[64];
        for (unsigned j = 0; j < cases[i].most; j++) {
            (void)snprintf(text, sizeof(text), "%s%u%s", cases[i].before, j + 1, cases[i].after);
            (void)json_array_append_new(list, json_string(text));
        }
        config_destroy(read_value(cases[i].key, json_incref(list)));
        (void)json_array_append_new(list, json_string("/x:/y"));
        refuse(cases[i].key, list, "one too many");
    }
}

static void whole(void **state)
{
    static const char *const bad[] = {
        "{}",
        "{\"root\": \"/\"}",
        "{\"ids\": \"65536:65536\"}",
        "{\"root\": \"/\", \"template\": \"sha256-x\", \"ids\": \"65536:65536\"}",
        "{\"root\": \"/\", \"ids\": \"65536:65536\", \"cpu_set\": \"0\", \"pool\": \"p\"}",
        "{\"template\": \"x\", \"ids\": \"65536:65536\"}",
        "{\"template_name\": \"../x\", \"root\": \"/\", \"ids\": \"65536:65536\"}",
        "[]",
        "\"text\"",
        "null",
    };
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        json_t *document = json_loads(bad[i], JSON_DECODE_ANY, NULL);
        struct config *config = NULL;
        struct error err = {0};
        if (config_from_json(document, &config, &err) != -EINVAL || err.text[0] == '\0') {
            fail_msg("%s", bad[i]);
        }
        json_decref(document);
    }
    json_t *document = json_pack("{s:s, s:s, s:n}", "root", "/", "privileged", "yes", "memory");
    struct config *config = NULL;
    struct error err = {0};
    assert_int_equal(config_from_json(document, &config, &err), 0);
    assert_true(config->is_privileged && config->id_count == 0 && config->limits.memory_bytes == 0);
    assert_int_equal(config->stop_timeout_s, 30);
    config_destroy(config);
    json_decref(document);
}

static void cards(void **state)
{
    struct config *config = read_value(
        "network",
        json_pack("[s, s, s, s]",
                  "bridge=hull0,ip=10.90.0.10/24,ip=fd00::10/64,gateway=10.90.0.1,gateway=fd00::1",
                  "bridge=b,name=lan,mac=02:00:00:12:34:56,mtu=1400", "bridge=none",
                  "parent=up0,name=wire"));
    assert_int_equal(config->card_count, 3);
    const struct network_card *card = &config->cards[0];
    assert_string_equal(card->bridge, "hull0");
    assert_string_equal(card->name, "eth0");
    assert_int_equal(card->address_count, 2);
    assert_true(card->gateway4.family == AF_INET && card->gateway6.family == AF_INET6);
    card = &config->cards[1];
    assert_string_equal(card->name, "lan");
    assert_memory_equal(card->mac, "\x02\x00\x00\x12\x34\x56", 6);
    assert_int_equal(card->mtu, 1400);
    assert_false(card->is_macvlan);
    card = &config->cards[2];
    assert_true(card->is_macvlan);
    assert_string_equal(card->bridge, "up0");
    config_destroy(config);
    refuse("network", json_pack("[s, s]", "bridge=a,name=x", "bridge=b,name=x"), "the same name");
    config = read_value("network", json_pack("[s, s]", "switch=/run/s,spoofing=allow",
                                             "switch=/run/s,name=b,spoofing=drop"));
    assert_true(config->cards[0].may_spoof && !config->cards[1].may_spoof);
    config_destroy(config);
    refuse("network", json_pack("[s]", "switch=/run/s,spoofing=perhaps"), "neither allow nor drop");
    refuse("network", json_pack("[s]", "bridge=a,spoofing=allow"), "of a bridge");
}

static void other_keys(void **state)
{
    struct config *config = read_word("mount", "/a b:/c d:ro");
    assert_string_equal(config->mounts[0].source, "/a b");
    assert_string_equal(config->mounts[0].target, "/c d");
    assert_true(config->mounts[0].is_read_only);
    config_destroy(config);
    config = read_word("stop_signal", "SIGRTMIN+3");
    assert_int_equal(config->stop_signal, SIGRTMIN + 3);
    config_destroy(config);
    config = read_word("ids", "4294901760:65535");
    assert_true(config->first_id == 4294901760u && config->id_count == 65535);
    config_destroy(config);
    for (const struct config_key *key = config_keys; key->name != NULL; key++) {
        assert_ptr_equal(config_find_key(key->name, strlen(key->name)), key);
        assert_true(key->parse != NULL && key->help != NULL && key->value != NULL);
        assert_false(key->is_fixed && key->is_live);
    }
    assert_null(config_find_key("mem", 3));
    assert_null(config_find_key("", 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(limits), cmocka_unit_test(bad_values), cmocka_unit_test(many),
        cmocka_unit_test(whole),  cmocka_unit_test(cards),      cmocka_unit_test(other_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
