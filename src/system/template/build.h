/* A template that is being built: its folder beside the others, and the parts of the work. */
#ifndef SYSTEM_TEMPLATE_BUILD_H
#define SYSTEM_TEMPLATE_BUILD_H

#include <limits.h>
#include <stdbool.h>

#include "base/core/error.h"
#include "system/template/boxed.h"
#include "system/template/template.h"

/*   STATE/templates/.build-XXXXXX/   held by a flock for as long as it is worked on
 *     root/      the content that is to be
 *     work/      overlayfs' own, of a template on another one
 *     target/    where both are mounted together
 *     scratch/   /run and /tmp of what runs inside, and files for it; its folder "hull" holds what the host gives for the time of the build
 */
struct build {
    const struct store *store;
    const struct template_build *request;
    char folder[PATH_MAX - 64];  /* so that the names below fit */
    char suite[64];              /* of Debian; "" where it is not known */
    struct template_layers base; /* with 'from' */
    int lock_fd;
    /* What is shown. */
    const char *phase;
    int percent;
    int phase_from, phase_to; /* the parts of 100 that this phase has */
    unsigned phase_steps, phase_done;
};

/* "FOLDER/name" */
void build_path(const struct build *build, const char *name, char out_path[PATH_MAX]);

/* A new phase; then each step (a line about a package) brings it a bit nearer to its end. 'steps' 0: unknown. */
void build_phase(struct build *build, const char *what, int from, int to, unsigned steps);
void build_step(struct build *build);
/* Shows where it is. Not 0: it was cancelled. For boxed.poll. */
int build_poll(void *build);
/* Steps of apt and dpkg, by what they write. For boxed.line. */
void build_apt_line(void *build, const char *line);

/* The variants: what is in them. */
struct variant {
    const char *name;
    const char *packages; /* separated by commas; NULL: no Debian */
    bool is_lean;         /* without manuals and other documentation */
};
extern const struct variant build_variants[]; /* a row without a name ends it */

int must_check build_busybox(struct build *build, struct error *err);
int must_check build_debian(struct build *build, const struct variant *variant, struct error *err);
/* Into an empty root/. */
int must_check build_root_tree(struct build *build, struct error *err);
/* Packages, files and the command of the request, in the root or in the layer. 'has_packages': they are there already. */
int must_check build_inside(struct build *build, bool has_packages, struct error *err);
/* A script for sh, run in the root. */
int must_check build_script(struct build *build, const char *what, const char *script,
                            struct error *err);

#endif
