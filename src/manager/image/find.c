/* In hulld: images by name. */
#include "manager/image/image.h"
#include "manager/image/names.h"

int image_find(struct documents *documents, const char *name, json_t **out_image, struct error *err)
{
    json_t *images, *aliases;
    const json_t *image = NULL;
    int rc = documents_list(documents, "image", &images, err);
    if (rc < 0) {
        return rc;
    }
    rc = documents_list(documents, "alias", &aliases, err);
    if (rc == 0) {
        rc = image_pick(images, aliases, name, &image, err);
        json_decref(aliases);
    }
    if (rc == 0) {
        *out_image = json_deep_copy(image);
    }
    json_decref(images);
    return rc;
}
