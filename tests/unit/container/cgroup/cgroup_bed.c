#include "tests/unit/container/cgroup/cgroup_bed.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "container/cgroup/tree.h"

char bed_base[64];
const struct spec_resources no_limits;

struct cgroup *bed_create(const char *name, const struct spec_resources *resources,
                          struct degrade *degrade)
{
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/%s", bed_base, name);
    struct cgroup_request request = {
        .manager = CGROUP_MANAGER_FILES,
        .id = "test",
        .path = path,
        .resources = resources,
        .owner_uid = -1,
        .owner_gid = -1,
    };
    struct cgroup *cgroup = NULL;
    struct error err = {0};
    if (cgroup_create(&request, &cgroup, degrade, &err) < 0) {
        fail_msg("%s", err.text);
    }
    return cgroup;
}

void bed_destroy(struct cgroup *cgroup)
{
    struct error err = {0};
    if (cgroup_remove(cgroup, REMOVE_TIMEOUT_MS, &err) < 0) {
        fail_msg("%s", err.text);
    }
    cgroup_free(cgroup);
}

unsigned bed_count_groups(const char *path)
{
    struct cgroup_layout layout;
    assert_int_equal(cgroup_layout_read(&layout, NULL), 0);
    unsigned count = 0;
    for (size_t i = 0; i < layout.count; i++) {
        int fd = cgroup_open_hierarchy(layout.hierarchy[i].folder, layout.hierarchy[i].is_unified);
        assert_true(fd >= 0);
        count += faccessat(fd, path + 1, F_OK, 0) == 0;
        close(fd);
    }
    cgroup_layout_fini(&layout);
    return count;
}

pid_t bed_start_process(void)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        for (;;) {
            pause();
        }
    }
    return pid;
}

int bed_wait_process(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

void bed_attach(struct cgroup *cgroup, pid_t pid)
{
    struct error err = {0};
    if (cgroup_attach(cgroup, pid, false, &err) < 0) {
        fail_msg("%s", err.text);
    }
}

int bed_place_fd(const struct cgroup *cgroup, enum cgroup_controller controller)
{
    const struct cgroup_place *place = cgroup_find_v1(cgroup, controller);
    place = place != NULL ? place : cgroup_find_unified(cgroup);
    return place->fd;
}

void assert_file(const struct cgroup *cgroup, enum cgroup_controller controller,
                 const char *v1_file, const char *v1_text, const char *v2_file, const char *v2_text)
{
    bool is_v1 = cgroup_find_v1(cgroup, controller) != NULL;
    const char *file = is_v1 ? v1_file : v2_file;
    char text[256];
    int rc = control_read(bed_place_fd(cgroup, controller), file, text, sizeof(text));
    if (rc < 0) {
        fail_msg("%s: %s", file, strerror(-rc));
    }
    assert_string_equal(text, is_v1 ? v1_text : v2_text);
}

bool bed_is_told(const struct degrade *degrade, const char *field)
{
    char text[DEGRADE_MAX_BYTES + 1], wanted[128];
    memcpy(text, degrade->text, degrade->size);
    text[degrade->size] = '\0';
    (void)snprintf(wanted, sizeof(wanted), "%s\t", field);
    return strstr(text, wanted) != NULL;
}

int bed_check_nothing_left(void **state)
{
    unsigned left = bed_count_groups(bed_base);
    if (left > 0) {
        print_error("%u groups %s are left\n", left, bed_base);
    }
    return left > 0 ? -1 : 0;
}

int bed_begin(void)
{
    struct cgroup_layout layout;
    struct error err = {0};
    if (cgroup_layout_read(&layout, &err) < 0 || layout.count == 0) {
        print_message("no control groups on this host: %s\n", err.text);
        return 77;
    }
    int fd = cgroup_open_hierarchy(layout.hierarchy[0].folder, layout.hierarchy[0].is_unified);
    cgroup_layout_fini(&layout);
    if (fd < 0 || geteuid() != 0 || faccessat(fd, ".", W_OK, AT_EACCESS) < 0) {
        print_message("groups at the root of the hierarchies need root\n");
        return 77;
    }
    close(fd);
    (void)snprintf(bed_base, sizeof(bed_base), "/hull-test-%d", getpid());
    return 0;
}
