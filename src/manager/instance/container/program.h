/* A program in a container, its streams on a session. */
#ifndef MANAGER_INSTANCE_CONTAINER_PROGRAM_H
#define MANAGER_INSTANCE_CONTAINER_PROGRAM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "system/life/life.h"

#define PROGRAM_MAX_WORDS 1024

struct program {
    const struct life *life;
    const char *name;
    int fd; /* the session's */
    const char *cwd;
    bool has_terminal;
    int64_t columns, rows; /* 0: not known */
    /* Of here: */
    char *variables[256]; /* "--env" words */
    size_t variable_count;
    const char *words[PROGRAM_MAX_WORDS];
    size_t word_count;
    char user[32]; /* "UID:GID"; "": root */
};

int must_check program_add_word(struct program *program, const char *word, struct error *err);
int must_check program_add_variable(struct program *program, const char *name, const char *value,
                                    struct error *err);
/* A name of the container's /etc/passwd, or numbers: who it is, with HOME and USER. NULL: root. */
int must_check program_set_user(struct program *program, const char *user, struct error *err);
/* Until its end or that of the session. */
int must_check program_run(struct program *program, struct error *err);
void program_fini(struct program *program);

#endif
