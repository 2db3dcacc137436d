/* A container's folder: ids, one owner at a time, what is damaged, who has a reused process id. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "container/command/number.h"
#include "container/runtime/channel.h"
#include "container/runtime/state.h"

static char root[64];

static int make_root(void **ctx)
{
    (void)snprintf(root, sizeof(root), "/tmp/hull-test-state-XXXXXX");
    return mkdtemp(root) == NULL;
}

static int remove_root(void **ctx)
{
    return rmdir(root);
}

static void ids(void **ctx)
{
    struct error err;
    char long_id[300];
    memset(long_id, 'a', sizeof(long_id));
    long_id[256] = '\0';
    static const char *const bad[] = {"", ".", "..", "a/b", "../a", "a b", "a\n", "\xc3\xa4"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(state_check_id(bad[i], &err), -EINVAL);
    }
    assert_int_equal(state_check_id(long_id, &err), -EINVAL);
    long_id[255] = '\0';
    assert_int_equal(state_check_id(long_id, &err), 0);
    assert_int_equal(state_check_id("a.b_c+d-9", &err), 0);
}

static void life(void **ctx)
{
    struct error err;
    struct state made, loaded;
    assert_int_equal(state_load(root, "box", false, &loaded, &err), -ENOENT);
    assert_int_equal(state_create(root, "box", &made, &err), 0);
    assert_int_equal(state_create(root, "box", &loaded, &err), -EEXIST);
    assert_int_equal(state_status(&made), CONTAINER_CREATING);
    json_object_set_new(made.data, "pid", json_integer(getpid()));
    json_object_set_new(made.data, "startTicks",
                        json_integer((json_int_t)process_start_ticks(getpid())));
    json_object_set_new(made.data, "bundle", json_string("/b"));
    assert_int_equal(state_save(&made, &err), 0);
    assert_int_equal(state_load(root, "box", false, &loaded, &err), 0);
    assert_int_equal(loaded.pid, getpid());
    assert_string_equal(state_string(&loaded, "bundle"), "/b");
    assert_int_equal(state_status(&loaded), CONTAINER_RUNNING);
    int process = state_open_process(&loaded);
    assert_true(process >= 0);
    close(process);
    loaded.start_ticks++; /* somebody else has the number */
    assert_int_equal(state_status(&loaded), CONTAINER_STOPPED);
    assert_int_equal(state_open_process(&loaded), -1);
    state_close(&loaded);

    char **list;
    size_t count;
    assert_int_equal(state_list(root, &list, &count, &err), 0);
    assert_int_equal(count, 1);
    assert_string_equal(list[0], "box");
    free(list[0]);
    free(list);
    assert_int_equal(state_remove(root, &made, &err), 0);
    state_close(&made);
    assert_int_equal(state_load(root, "box", false, &loaded, &err), -ENOENT);
}

static void damaged(void **ctx)
{
    static const char *const texts[] = {
        "", "{", "[]", "{\"pid\":-1}", "{\"pid\":4294967296}", "{\"pid\":1,\"pid\":2}"};
    struct error err;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct state made, loaded;
        assert_int_equal(state_create(root, "box", &made, &err), 0);
        int fd = openat(made.folder, "state.json", O_WRONLY | O_CREAT, 0600);
        assert_true(fd >= 0 && write(fd, texts[i], strlen(texts[i])) == (ssize_t)strlen(texts[i]));
        close(fd);
        state_close(&made);
        assert_int_equal(state_load(root, "box", false, &loaded, &err), -EINVAL);
        assert_non_null(strstr(err.text, "delete --force"));
        assert_int_equal(state_remove_damaged(root, "box", &err), 0);
    }
}

static void ended_processes_have_no_start(void **ctx)
{
    pid_t pid = fork();
    if (pid == 0) {
        _exit(0);
    }
    siginfo_t info;
    assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
    assert_int_equal(process_start_ticks(pid), 0); /* a zombie */
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(process_start_ticks(pid), 0);
    assert_true(process_start_ticks(getpid()) > 0);
}

static void channels(void **ctx)
{
    struct error err = {0};
    static struct channel_message message;
    int ends[2], fds[2] = {0, 1};
    assert_int_equal(channel_create(ends, &err), 0);
    assert_int_equal(channel_send(ends[0], CHANNEL_READY, "text", 4, fds, 2, &err), 0);
    assert_int_equal(channel_expect(ends[1], CHANNEL_READY, &message, "it", &err), 0);
    assert_int_equal(message.size, 4);
    assert_int_equal(message.fd_count, 2);
    close(message.fds[0]);
    close(message.fds[1]);

    assert_int_equal(channel_send(ends[0], CHANNEL_GO, NULL, 0, NULL, 0, &err), 0);
    assert_int_equal(channel_expect(ends[1], CHANNEL_READY, &message, "it", &err), -EPROTO);
    struct error told;
    (void)error_set(&told, ENOTDIR, "something");
    channel_send_error(ends[0], &told);
    assert_int_equal(channel_expect(ends[1], CHANNEL_READY, &message, "it", &err), -ENOTDIR);
    assert_string_equal(err.text, "something");
    channel_send_error(ends[0], &told);
    assert_int_equal(channel_expect_end(ends[1], &err), -ENOTDIR);
    close(ends[0]);
    assert_int_equal(channel_expect(ends[1], CHANNEL_READY, &message, "it", &err), -EPIPE);
    assert_non_null(strstr(err.text, "it ended"));
    assert_int_equal(channel_expect_end(ends[1], &err), 0);
    close(ends[1]);
}

static void numbers(void **ctx)
{
    struct error err;
    int64_t bytes;
    unsigned count;
    assert_int_equal(number_parse_bytes("64m", &bytes, &err), 0);
    assert_int_equal(bytes, 64 << 20);
    assert_int_equal(number_parse_bytes("2GB", &bytes, &err), 0);
    assert_int_equal(bytes, 2ll << 30);
    assert_int_equal(number_parse_bytes("-1", &bytes, &err), 0);
    assert_int_equal(bytes, -1);
    static const char *const bad[] = {"", "m", "1x", "-2", "9999999999999t", "1mm", " "};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(number_parse_bytes(bad[i], &bytes, &err), -EINVAL);
    }
    assert_int_equal(number_parse_count("7", 10, &count, &err), 0);
    assert_int_equal(count, 7);
    assert_int_equal(number_parse_count("11", 10, &count, &err), -ERANGE);
    assert_int_equal(number_parse_count("-1", 10, &count, &err), -ERANGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids),
        cmocka_unit_test_setup_teardown(life, make_root, remove_root),
        cmocka_unit_test_setup_teardown(damaged, make_root, remove_root),
        cmocka_unit_test(ended_processes_have_no_start),
        cmocka_unit_test(channels),
        cmocka_unit_test(numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
