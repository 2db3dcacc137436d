#include "manager/api/api.h"

static const char *const everything[] = {OPERATION_EVERYTHING, NULL};

static int check(struct api_call *call, struct error *err)
{
    bool repairs = json_is_true(json_object_get(call->body, "repair"));
    json_auto_t *request = json_pack("{s:b}", "repair", (int)repairs);
    return api_begin(call, "system-check", repairs ? "checking and repairing" : "checking",
                     everything, request, err);
}

static int df(struct api_call *call, struct error *err)
{
    static const char *const nothing[] = {NULL};
    json_auto_t *request = json_object();
    return api_begin(call, "system-df", "counting what is used", nothing, request, err);
}

const struct api_route check_routes[] = {
    {"POST", "/v1/system/check", "checkSystem", "Compares what hulld knows with what there is",
     API_OPERATION, "SystemCheck", NULL, NULL, check},
    {"POST", "/v1/system/df", "countSpace", "What takes how much space", API_OPERATION, NULL, NULL,
     NULL, df},
    {0},
};

const struct api_schema check_schemas[] = {
    {"SystemCheck", "{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{"
                    "\"repair\":{\"type\":\"boolean\"}}}"},
    {0},
};
