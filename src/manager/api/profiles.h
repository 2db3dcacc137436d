/* Profiles: what instances share. A profile's document (kind "profile"): name, description, config, devices, created_at. */
#ifndef MANAGER_API_PROFILES_H
#define MANAGER_API_PROFILES_H

#include "manager/api/api.h"

int profiles_list(struct api_call *call, struct error *err);
int profiles_create(struct api_call *call, struct error *err);
int profiles_get(struct api_call *call, struct error *err);
int profiles_put(struct api_call *call, struct error *err);
int profiles_delete(struct api_call *call, struct error *err);

#endif
