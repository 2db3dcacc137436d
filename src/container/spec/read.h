/* From nodes of JSON to fields of structs, by tables: what a field is called, what it holds, and where it goes.
 *
 * null is the same as a field that is not there. Errors are -EINVAL with the field's path ("process.rlimits[2].soft: ..."). */
#ifndef CONTAINER_SPEC_READ_H
#define CONTAINER_SPEC_READ_H

#include "container/spec/names.h"
#include "container/spec/spec.h"
#include "container/spec/tree.h"

struct reader {
    struct arena *arena; /* for what stays */
    struct error *err;
};

struct field;
/* 'out' is the field's own place. */
typedef int (*read_fn)(struct reader *reader, const struct node *node, const struct field *field,
                       void *out);

struct field {
    const char *name;
    read_fn read;
    size_t offset;
    bool is_required;
    int64_t min; /* of numbers; both 0: what the type holds */
    uint64_t max;
    const struct names *names; /* of read_name and read_flags */
};

/* "PATH: text". Returns -EINVAL. 'member' is the name of a field that the object lacks, or NULL. */
int reader_fail(struct reader *reader, const struct node *node, const char *member,
                const char *format, ...) printf_like(4, 5);
/* Zeroed. NULL: -E2BIG is told. */
void *reader_alloc(struct reader *reader, const struct node *node, size_t size);
/* The string with a NUL behind it, in memory that stays. NULL: told. */
const char *reader_string(struct reader *reader, const struct node *string);
const char *reader_key(struct reader *reader, const struct node *node);

int must_check read_object(struct reader *reader, const struct node *node,
                           const struct field *fields, size_t count, void *out);
/* Makes an array of as many elements as the list or object has, and reads each by 'read'. */
int must_check read_elements(struct reader *reader, const struct node *node, enum node_type type,
                             size_t element_size, read_fn read, const void **out_items,
                             size_t *out_count);
int must_check read_expect(struct reader *reader, const struct node *node, enum node_type type);
/* 'value' of the table's name, or "'foo' is not one of a, b, c". */
int must_check read_value(struct reader *reader, const struct node *node, const struct names *names,
                          uint64_t *out_value);

/* Readers of fields. Those with a type in their name: */
int read_bool(struct reader *, const struct node *, const struct field *, void *out);
int read_spec_bool(struct reader *, const struct node *, const struct field *, void *out);
int read_u32(struct reader *, const struct node *, const struct field *, void *out);
int read_i32(struct reader *, const struct node *, const struct field *, void *out);
int read_u64(struct reader *, const struct node *, const struct field *, void *out);
int read_i64(struct reader *, const struct node *, const struct field *, void *out);
int read_spec_u64(struct reader *, const struct node *, const struct field *, void *out);
int read_spec_i64(struct reader *, const struct node *, const struct field *, void *out);
/* const char *: NULL where the string is empty, which is wrong where the field is required. */
int read_text(struct reader *, const struct node *, const struct field *, void *out);
/* The same; beginning with '/'. */
int read_absolute_path(struct reader *, const struct node *, const struct field *, void *out);
/* The same; "0-3,7". */
int read_number_list(struct reader *, const struct node *, const struct field *, void *out);
/* struct spec_strings */
int read_strings(struct reader *, const struct node *, const struct field *, void *out);
int read_absolute_paths(struct reader *, const struct node *, const struct field *, void *out);
/* struct spec_pairs; no name is empty */
int read_pairs(struct reader *, const struct node *, const struct field *, void *out);
/* uint32_t by field->names */
int read_name(struct reader *, const struct node *, const struct field *, void *out);
/* uint64_t, of a list of names: their values together */
int read_flags(struct reader *, const struct node *, const struct field *, void *out);
/* Ranges that reach too far, or overlap. */
int check_id_mappings(struct reader *, const struct node *, const struct spec_id_mappings *);
/* struct spec_id_mappings */
int read_id_mappings(struct reader *, const struct node *, const struct field *, void *out);

/* The sections: 'out' is the struct of that name. */
int read_process(struct reader *, const struct node *, const struct field *, void *out);
int read_mounts(struct reader *, const struct node *, const struct field *, void *out_spec);
int read_hooks(struct reader *, const struct node *, const struct field *, void *out);
int read_linux(struct reader *, const struct node *, const struct field *, void *out);
int read_resources(struct reader *, const struct node *, const struct field *, void *out);
int read_seccomp(struct reader *, const struct node *, const struct field *, void *out);
int read_devices(struct reader *, const struct node *, const struct field *, void *out_linux);
int read_net_devices(struct reader *, const struct node *, const struct field *, void *out_linux);
int read_intel_rdt(struct reader *, const struct node *, const struct field *, void *out);
int read_memory_policy(struct reader *, const struct node *, const struct field *, void *out);
int read_scheduler(struct reader *, const struct node *, const struct field *, void *out);

#endif
