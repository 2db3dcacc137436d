#include "base/host/library.h"

#include <dlfcn.h>
#include <string.h>

int library_load(const struct library *library, const char *purpose, struct error *err)
{
    /* Never closed: libraries like these start threads and register handlers that outlive their use. */
    void *handle = dlopen(library->file, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
        return error_set(err, ENOENT, "%s needs the library %s: install the package %s", purpose,
                         library->file, library->package);
    }
    for (size_t i = 0; i < library->symbol_count; i++) {
        void *address = dlsym(handle, library->symbol[i].name);
        if (address == NULL) {
            return error_set(err, ENOENT, "%s needs a newer %s: it has no %s", purpose,
                             library->file, library->symbol[i].name);
        }
        memcpy(library->symbol[i].address, &address, sizeof(address)); /* dlsym(3) */
    }
    return 0;
}
