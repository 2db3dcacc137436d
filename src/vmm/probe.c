/* hull-vmm --probe: what the engines of this build say about this host, for `hull host`. */
#include <stdio.h>

#include "base/host/file.h"
#include "vmm/vmm.h"

static const char *quality_name(enum engine_quality quality)
{
    switch (quality) {
    case ENGINE_USABLE:
        return "usable";
    case ENGINE_TOY:
        return "limited";
    case ENGINE_UNUSABLE:
        break;
    }
    return "unusable";
}

int vmm_probe(void)
{
    json_t *list = json_array();
    for (size_t i = 0; engines[i] != NULL; i++) {
        struct engine_probe probe = {0};
        engines[i]->probe(&probe);
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s}", "name", engines[i]->name,
                                              "quality", quality_name(probe.quality), "reason",
                                              probe.reason, "remedy", probe.remedy));
    }
    const struct engine_ops *chosen;
    char reason[ERROR_TEXT_SIZE] = "";
    json_t *root = json_pack("{s:i, s:o}", "version", 1, "engines", list);
    if (engine_choose("auto", &chosen, reason, NULL) == 0) {
        json_object_set_new(root, "auto", json_string(chosen->name));
        json_object_set_new(root, "auto_reason", json_string(reason));
    }
    AUTO_FREE char *text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    return text != NULL && puts(text) >= 0 && fflush(stdout) == 0 ? 0 : 1;
}
