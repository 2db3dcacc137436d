/* Inside of config: what reads the values of a document, and checks them. */
#ifndef VMM_CONFIG_READER_H
#define VMM_CONFIG_READER_H

#include "vmm/config.h"

/* What is being read, for messages and for a sticky failure: after the first one all reads give defaults. */
struct config_reader {
    const char *where;
    struct error *err;
    int status;
};

void config_fail(struct config_reader *reader, const char *key, const char *accepted);
const char *config_get_text(struct config_reader *reader, const json_t *object, const char *key,
                            const char *fallback, size_t max_length);
uint64_t config_get_number(struct config_reader *reader, const json_t *object, const char *key,
                           uint64_t min, uint64_t max, const uint64_t *fallback);
bool config_get_bool(struct config_reader *reader, const json_t *object, const char *key);
/* A descriptor that is open here; -1 if 'is_optional' and not named. */
int config_get_fd(struct config_reader *reader, const json_t *object, const char *key,
                  bool is_optional);
/* Index of the text in 'words'. */
size_t config_get_word(struct config_reader *reader, const json_t *object, const char *key,
                       const char *const *words, size_t count, const char *accepted);

/* Members of any of "disks" and "nets". */
void config_read_place(struct config_reader *reader, const json_t *object,
                       struct config_place *place);

/* One member of "disks": config_disk.c. */
void config_read_disk(struct config_reader *reader, const json_t *object, struct config_disk *disk);

#endif
