/* The rooms that have routes. */
#include "manager/api/catalog.h"

int api_catalog_create_all(struct api_catalog **out_catalog, struct error *err)
{
    static const struct api_route *const routes[] = {
        system_routes,  check_routes, instance_routes, image_routes,
        network_routes, pool_routes,  transfer_routes, NULL,
    };
    static const struct api_schema *const schemas[] = {
        system_schemas,  check_schemas, instance_schemas, image_schemas,
        network_schemas, pool_schemas,  transfer_schemas, NULL,
    };
    return api_catalog_create(routes, schemas, out_catalog, err);
}
