/* Rubbish as config.yaml of a system container. What is accepted is written, read again and the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/invariant.h"
#include "system/config/config.h"
#include "system/config/yaml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct config *config)
{
    invariant((config->template_digest != NULL) != (config->root != NULL));
    invariant(config->is_privileged || config->id_count >= 1000);
    invariant(config->id_count == 0 ||
              (config->first_id >= 65536 && config->first_id <= UINT32_MAX - config->id_count));
    invariant(config->init[0] == NULL || config->init[0][0] == '/');
    for (size_t i = 0; i < config->card_count; i++) {
        const struct network_card *card = &config->cards[i];
        invariant(strlen(card->bridge) > 0 && strlen(card->bridge) < IFNAMSIZ &&
                  strlen(card->name) < IFNAMSIZ);
        invariant(card->address_count <= NETWORK_MAX_ADDRESSES);
    }
    for (size_t i = 0; i < config->mount_count; i++) {
        invariant(config->mounts[i].source[0] == '/' && config->mounts[i].target[0] == '/');
    }
    for (size_t i = 0; i < config->environment_count; i++) {
        invariant(strchr(config->environment[i], '=') != NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text =
        malloc(size + (size == 0)); /* of just this size, so that reading beyond it is seen */
    invariant(text != NULL);
    memcpy(text, data, size);
    json_t *document = NULL, *again = NULL;
    struct config *config = NULL;
    struct error err = {0};
    int rc = yaml_parse(text, size, "text", &document, &err);
    free(text);
    invariant(rc == 0 || (document == NULL && err.text[0] != '\0'));
    if (rc < 0) {
        return 0;
    }
    rc = config_from_json(document, &config, &err);
    invariant(rc == 0 || (config == NULL && err.text[0] != '\0'));
    if (rc == 0) {
        check(config);
        config_destroy(config);
    }
    if (yaml_write(document, &text, &err) == 0) {
        invariant(yaml_parse(text, strlen(text), "what was written", &again, &err) == 0);
        invariant(json_equal(document, again));
        free(text);
        json_decref(again);
    }
    json_decref(document);
    return 0;
}
