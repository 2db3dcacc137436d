/* Options of the engine, what the trace and perf's map say of a small guest, and whether lock-step finds what is wrong. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/soft/translate/block_table.h"
#include "soft_guest.h"

/* mov eax, 5; cpuid-free loop: dec eax; jnz; then out 0xf4, al */
static const uint8_t code[] = {0xb8, 5, 0, 0, 0, 0xff, 0xc8, 0x75, 0xfc, 0xe6, 0xf4, 0xf4};

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void read_file(const char *path, char *out, size_t size)
{
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    out[fread(out, 1, size - 1, file)] = '\0';
    (void)fclose(file);
}

static void test_trace(void **state)
{
    char folder[] = "/tmp/hull-trace-XXXXXX", log[64], symbols[64], map[64], options[300];
    static char text[262144];
    struct soft_guest g;
    struct x86_state s, after;
    assert_non_null(mkdtemp(folder));
    snprintf(log, sizeof(log), "%s/log", folder);
    snprintf(symbols, sizeof(symbols), "%s/map", folder);
    snprintf(map, sizeof(map), "/tmp/perf-%d.map", (int)getpid());
    snprintf(options, sizeof(options), "verify=on,trace=%s,symbols=%s,perfmap=on", log, symbols);
    write_file(symbols, "0000000000020000 T last\n000000000000f000 D data\n"
                        "0000000000010000 T first\n");
    guest_start_with(&g, 1, options);
    guest_long_mode(&g, 0, code, sizeof(code), &s);
    assert_int_equal(guest_run(&g, 0, &s, &after), VCPU_EXIT_KICKED);
    read_file(map, text, sizeof(text));
    assert_non_null(strstr(text, " guest:first+0x0\n"));
    assert_non_null(strstr(text, " guest:first+0x5\n"));
    guest_end(&g);
    read_file(log, text, sizeof(text));
    assert_non_null(strstr(text, "vcpu 0 block first+0x0 rip 0x10000 gpa 0x10000"));
    assert_non_null(strstr(text, "b805000000               mov eax, 0x5"));
    assert_non_null(strstr(text, "out 0xf4, al  ; interpreted"));
    assert_non_null(strstr(text, "  host code\n"));
    assert_non_null(
        strstr(text, "interprets first+0x9 0x10009: out 0xf4, al: there is no template"));
    (void)unlink(log);
    (void)unlink(symbols);
    (void)unlink(map);
    assert_int_equal(rmdir(folder), 0);
}

/* Runs 'code' in lock-step twice; 'spoils': the second time its block adds another number. */
static void run_in_lockstep(bool spoils)
{
    static const uint8_t adding[] = {0x05, 0x55, 0x44, 0x33, 0x22, 0x48, 0x89, 0x04,
                                     0x25, 0x00, 0x00, 0x02, 0x00, 0xe6, 0xf4, 0xf4};
    struct soft_guest g;
    struct x86_state s, after;
    guest_start_with(&g, 1, "lockstep=on");
    guest_long_mode(&g, 0, adding, sizeof(adding), &s);
    assert_int_equal(guest_run(&g, 0, &s, &after), VCPU_EXIT_KICKED);
    struct soft_vcpu *v = soft_from_vcpu(g.vcpu[0]);
    assert_true(v->stats.lockstep_equal > 0);
    assert_int_equal(v->stats.lockstep_left_out, 0);
    uint8_t *code_end = v->native->writable + v->native->used;
    unsigned found = 0;
    for (uint8_t *at = v->native->writable + v->native->fixed; at + 4 < code_end; at++) {
        if (memcmp(at, adding + 1, 4) == 0) {
            *at += spoils;
            found++;
        }
    }
    assert_int_equal(found, 1);
    assert_int_equal(guest_run(&g, 0, &s, &after), VCPU_EXIT_KICKED);
    guest_end(&g);
}

static void test_lockstep(void **state)
{
    run_in_lockstep(false);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)freopen("/dev/null", "w", stderr);
        run_in_lockstep(true);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
}

static void test_options(void **state)
{
    static const char *const bad[] = {
        "trace",
        "trace=",
        "translate",
        "translate=maybe",
        "flags=on",
        "verify",
        "verify=onto",
        "perfmap=exact,",
        "verif=on",
        "=on",
        ",verify=on",
        "verify=on,,",
        "tracer=x",
        "trace=/no/such/folder/x",
        "symbols=/no/such/file,trace=/dev/null",
    };
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct error err = {0};
        struct vm *vm = NULL;
        struct vm_config config = {.options = bad[i], .vcpu_count = 1};
        assert_int_equal(guest_memory_create(&config.memory, &err), 0);
        if (soft_engine_ops.vm_create(&config, &vm, &err) == 0) {
            fail_msg("%s is accepted", bad[i]);
        }
        assert_true(strlen(err.text) > 10);
        guest_memory_destroy(config.memory);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trace),
        cmocka_unit_test(test_lockstep),
        cmocka_unit_test(test_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
