/* Covers the renderers and parsers of src/system/views on fixed inputs: memory.c, cpus.c, disks.c, load.c, text.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "system/views/cpus.h"
#include "system/views/disks.h"
#include "system/views/load.h"
#include "system/views/memory.h"

#define MIB (UINT64_C(1) << 20)
#define S   UINT64_C(1000000000)

static void assert_text(struct text *text, const char *wanted)
{
    text_append(text, "", 1);
    assert_false(text->is_failed);
    assert_string_equal(text->data, wanted);
    text_fini(text);
}

static const char host_meminfo[] = "MemTotal:       24684096 kB\n"
                                   "MemFree:        22264636 kB\n"
                                   "MemAvailable:   23946620 kB\n"
                                   "Buffers:           31948 kB\n"
                                   "Cached:          1649580 kB\n"
                                   "SwapCached:            8 kB\n"
                                   "Active(anon):       2248 kB\n"
                                   "SwapTotal:       4194304 kB\n"
                                   "SwapFree:        4190000 kB\n"
                                   "Shmem:              9292 kB\n"
                                   "SReclaimable:     411324 kB\n"
                                   "VmallocTotal:   34359738367 kB\n"
                                   "HugePages_Total:       0\n"
                                   "DirectMap1G:    25165824 kB\n";

static const char stat_v1[] = "cache 4096\n"
                              "rss 4096\n"
                              "hierarchical_memory_limit 268435456\n"
                              "hierarchical_memsw_limit 402653184\n"
                              "total_cache 20971520\n"
                              "total_rss 10485760\n"
                              "total_shmem 1048576\n"
                              "total_swap 2097152\n"
                              "total_swapcached 1048576\n"
                              "total_active_anon 4194304\n"
                              "total_active_file 6291456\n"
                              "total_inactive_file 8388608\n";

static void memory_v1(void **state)
{
    struct group_memory memory;
    group_memory_parse_v1(&memory, 64 * MIB, stat_v1);
    assert_int_equal(memory.limit, 256 * MIB);
    assert_int_equal(memory.swap_limit, 128 * MIB);
    struct text text = {0};
    render_meminfo(&text, &memory, host_meminfo);
    assert_text(&text, "MemTotal:         262144 kB\n"
                       "MemFree:          196608 kB\n"
                       "MemAvailable:     210944 kB\n"
                       "Buffers:               0 kB\n"
                       "Cached:            19456 kB\n"
                       "SwapCached:         1024 kB\n"
                       "Active(anon):       4096 kB\n"
                       "SwapTotal:        131072 kB\n"
                       "SwapFree:         129024 kB\n"
                       "Shmem:              1024 kB\n"
                       "SReclaimable:          0 kB\n"
                       "VmallocTotal:   34359738367 kB\n"
                       "HugePages_Total:       0\n"
                       "DirectMap1G:    25165824 kB\n");
    struct memory_totals totals;
    memory_totals(&memory, host_meminfo, &totals);
    render_swaps(&text, &totals);
    assert_text(&text, "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
                       "none                                    virtual\t\t131072\t\t2048\t\t0\n");
}

static void memory_v2(void **state)
{
    static const char stat[] = "anon 10485760\nfile 20971520\nshmem 1048576\nswapcached 0\n"
                               "inactive_file 8388608\nactive_file 6291456\nactive_anon 4194304\n"
                               "slab_reclaimable 2097152\nslab 3145728\n";
    struct group_memory memory;
    group_memory_parse_v2(&memory, 256 * MIB, 64 * MIB, 0, 0, stat);
    struct text text = {0};
    render_meminfo(&text, &memory, host_meminfo);
    assert_text(&text, "MemTotal:         262144 kB\n"
                       "MemFree:          196608 kB\n"
                       "MemAvailable:     212992 kB\n"
                       "Buffers:               0 kB\n"
                       "Cached:            20480 kB\n"
                       "SwapCached:            0 kB\n"
                       "Active(anon):       4096 kB\n"
                       "SwapTotal:             0 kB\n"
                       "SwapFree:              0 kB\n"
                       "Shmem:              1024 kB\n"
                       "SReclaimable:       2048 kB\n"
                       "VmallocTotal:   34359738367 kB\n"
                       "HugePages_Total:       0\n"
                       "DirectMap1G:    25165824 kB\n");
    struct memory_totals totals;
    memory_totals(&memory, host_meminfo, &totals);
    render_swaps(&text, &totals);
    assert_text(&text, "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n");
}

static void memory_without_limits(void **state)
{
    struct group_memory memory[3];
    group_memory_init(&memory[0]);
    group_memory_parse_v1(&memory[1], 64 * MIB,
                          "hierarchical_memory_limit 9223372036854771712\n"
                          "hierarchical_memsw_limit 9223372036854771712\n");
    /* A limit that the host cannot fill is none. */
    group_memory_parse_v2(&memory[2], 1024 * 1024 * MIB, 64 * MIB, MEMORY_NO_LIMIT, MIB, "");
    for (size_t i = 0; i < ARRAY_COUNT(memory); i++) {
        struct text text = {0};
        render_meminfo(&text, &memory[i], host_meminfo);
        assert_text(&text, host_meminfo);
        struct memory_totals totals;
        memory_totals(&memory[i], host_meminfo, &totals);
        render_swaps(&text, &totals);
        assert_text(&text,
                    "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
                    "none                                    virtual\t\t4194304\t\t4304\t\t0\n");
    }
}

static void memory_with_one_limit(void **state)
{
    /* Only of swap. */
    struct group_memory memory;
    struct memory_totals totals;
    group_memory_parse_v2(&memory, MEMORY_NO_LIMIT, 64 * MIB, 100 * MIB, 10 * MIB, "");
    memory_totals(&memory, host_meminfo, &totals);
    assert_int_equal(totals.total, UINT64_C(24684096) << 10);
    assert_int_equal(totals.free, UINT64_C(22264636) << 10);
    assert_int_equal(totals.swap_total, 100 * MIB);
    assert_int_equal(totals.swap_free, 90 * MIB);
    /* Only of memory, and used beyond it: the limit was lowered. */
    group_memory_parse_v1(&memory, 64 * MIB,
                          "hierarchical_memory_limit 33554432\ntotal_active_file 99999999\n");
    memory_totals(&memory, host_meminfo, &totals);
    assert_int_equal(totals.total, 32 * MIB);
    assert_int_equal(totals.free, 0);
    assert_int_equal(totals.available, 32 * MIB);
    assert_int_equal(totals.swap_total, UINT64_C(4194304) << 10);
    assert_int_equal(totals.swap_free, UINT64_C(4190000) << 10);
    /* More swap than the host has. */
    group_memory_parse_v2(&memory, 32 * MIB, 0, UINT64_C(1) << 50, 0, "");
    memory_totals(&memory, host_meminfo, &totals);
    assert_int_equal(totals.swap_total, UINT64_C(4194304) << 10);
    /* No memory controller and no text of the host at all. */
    group_memory_init(&memory);
    memory_totals(&memory, "", &totals);
    assert_int_equal(totals.total, 0);
    struct text text = {0};
    render_meminfo(&text, &memory, "");
    assert_int_equal(text.size, 0);
}

static const char host_cpuinfo[] = "processor\t: 0\nmodel name\t: A\nflags\t\t: fpu\n\n"
                                   "processor\t: 1\nmodel name\t: B\nflags\t\t: fpu\n\n"
                                   "processor\t: 4\nmodel name\t: E\nflags\t\t: fpu\n\n";

static void cpu_sets(void **state)
{
    static struct cpus cpus;
    struct text text = {0};
    cpus_parse(&cpus, "0-1,4", 0, 0);
    assert_int_equal(cpus.count, 3);
    render_cpu_list(&text, &cpus);
    assert_text(&text, "0-2\n");
    cpus_parse(&cpus, "1,4\n", -1, 100000);
    assert_int_equal(cpus.count, 2);
    render_cpuinfo(&text, &cpus, host_cpuinfo);
    assert_text(&text, "processor\t: 0\nmodel name\t: B\nflags\t\t: fpu\n\n"
                       "processor\t: 1\nmodel name\t: E\nflags\t\t: fpu\n\n");
    /* 1.5 CPUs need two; more than the set has are not given. */
    cpus_parse(&cpus, "0-1,4", 150000, 100000);
    assert_int_equal(cpus.count, 2);
    assert_int_equal(cpus.set_count, 3);
    render_cpuinfo(&text, &cpus, host_cpuinfo);
    assert_text(&text, "processor\t: 0\nmodel name\t: A\nflags\t\t: fpu\n\n"
                       "processor\t: 1\nmodel name\t: B\nflags\t\t: fpu\n\n");
    cpus_parse(&cpus, "0-1", 1000000, 100000);
    assert_int_equal(cpus.count, 2);
    cpus_parse(&cpus, "0-1", 1, 100000);
    assert_int_equal(cpus.count, 1);
    render_cpu_list(&text, &cpus);
    assert_text(&text, "0\n");
    /* Rubbish, and numbers that no host has. */
    cpus_parse(&cpus, "", INT64_MAX, 1);
    assert_int_equal(cpus.count, 1);
    cpus_parse(&cpus, "5-2,x", 0, 0);
    assert_int_equal(cpus.count, 1);
    cpus_parse(&cpus, "0-99999999999999999999,3", 0, 0);
    assert_int_equal(cpus.count, CPUS_MAX);
    cpus_parse(&cpus, "3,3,3-3", 0, 0);
    assert_int_equal(cpus.count, 1);
}

static void cpu_max(void **state)
{
    int64_t quota, period;
    cpus_parse_max("max 100000", &quota, &period);
    assert_int_equal(quota, 0);
    assert_int_equal(period, 100000);
    cpus_parse_max("150000 100000\n", &quota, &period);
    assert_int_equal(quota, 150000);
    assert_int_equal(period, 100000);
    cpus_parse_max("", &quota, &period);
    assert_int_equal(quota, 0);
    assert_int_equal(period, 0);
}

static void cpu_times(void **state)
{
    static const char usage[] = "cpu user system\n0 1000000000 500000000\n1 2000000000 0\n"
                                "2 8000000000 0\n3 0 4000000000\n";
    static struct cpus cpus;
    struct cpu_time times[4];
    /* Its own CPUs; what was used on others is everybody's. */
    cpus_parse(&cpus, "1,3", 0, 0);
    cpu_times_parse_v1(&cpus, usage, times);
    assert_int_equal(times[0].user_ns, 2 * S + 9 * S / 2);
    assert_int_equal(times[0].system_ns, S / 4);
    assert_int_equal(times[1].user_ns, 9 * S / 2);
    assert_int_equal(times[1].system_ns, 4 * S + S / 4);
    /* A quota: even parts. */
    cpus_parse(&cpus, "0-3", 200000, 100000);
    cpu_times_parse_v1(&cpus, usage, times);
    assert_int_equal(times[0].user_ns, 11 * S / 2);
    assert_int_equal(times[1].user_ns, 11 * S / 2);
    assert_int_equal(times[1].system_ns, 9 * S / 4);
    cpu_times_parse_v1(&cpus, "", times);
    assert_int_equal(times[0].user_ns, 0);
}

static void stat_and_uptime(void **state)
{
    static struct cpus cpus;
    cpus_parse(&cpus, "0-1", 0, 0);
    /* The second has used more than the time since the start: ticks are not exact. */
    const struct cpu_time times[] = {{3 * S, S / 2}, {100 * S, S}};
    const struct stat_view view = {
        .cpus = &cpus,
        .times = times,
        .uptime_ns = 60 * S + S / 10,
        .started_s = 1795317280,
        .processes = 17,
        .running = 2,
        .blocked = 1,
    };
    struct text text = {0};
    render_stat(&text, &view);
    assert_text(&text, "cpu  10300 0 150 5660 0 0 0 0 0 0\n"
                       "cpu0 300 0 50 5660 0 0 0 0 0 0\n"
                       "cpu1 10000 0 100 0 0 0 0 0 0 0\n"
                       "intr 0\nctxt 0\nbtime 1795317280\nprocesses 17\nprocs_running 2\n"
                       "procs_blocked 1\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n");
    render_uptime(&text, &cpus, times, view.uptime_ns);
    assert_text(&text, "60.10 56.60\n");
}

static const char host_diskstats[] =
    "   7       0 loop0 1182 1 2702560 3344 588 12439 960624 291 0 1560 3689 0 0 0 0 49 53\n"
    " 254       0 vda 2470898 81915 94691483 2740310 5769224 559858 782877136 9888847 0 933256 "
    "13130057 1088736 51 570065816 467521 596543 33377\n"
    " 254       1 vda1 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n";

static const char rendered_diskstats[] = " 254       0 vda 3 0 16 0 5 0 24 0 0 0 0 1 0 8 0 0 0\n";

static void disks(void **state)
{
    static struct disks disks;
    struct text text = {0};
    disks_parse_v1(&disks,
                   "254:0 Read 8192\n254:0 Write 12288\n254:0 Sync 1\n254:0 Discard 4096\n"
                   "254:0 Total 24576\n8:0 Read 1\nTotal 24577\n",
                   true);
    disks_parse_v1(&disks, "254:0 Read 3\n254:0 Write 5\n254:0 Discard 1\nTotal 9\n", false);
    assert_int_equal(disks.count, 2);
    render_diskstats(&text, &disks, host_diskstats);
    assert_text(&text, rendered_diskstats);
    memset(&disks, 0, sizeof(disks));
    disks_parse_v2(&disks, "254:0 rbytes=8192 wbytes=12288 rios=3 wios=5 dbytes=4096 dios=1\n"
                           "8:0 \nrubbish\n");
    render_diskstats(&text, &disks, host_diskstats);
    assert_text(&text, rendered_diskstats);
    memset(&disks, 0, sizeof(disks));
    render_diskstats(&text, &disks, host_diskstats);
    assert_int_equal(text.size, 0);
    /* More disks than there is room for. */
    char many[16384];
    size_t size = 0;
    for (unsigned i = 0; i < 2 * DISKS_MAX; i++) {
        size += (size_t)snprintf(many + size, sizeof(many) - size, "8:%u rbytes=1 rios=1\n", i);
    }
    disks_parse_v2(&disks, many);
    assert_int_equal(disks.count, DISKS_MAX);
}

static void load_averages(void **state)
{
    struct load load = {.counts = {.running = 1, .total = 34}};
    struct text text = {0};
    render_loadavg(&text, &load, 12);
    assert_text(&text, "0.00 0.00 0.00 1/34 12\n");
    /* A minute of two: 2 * (1 - 1/e), and less over more minutes. */
    load_advance(load.average, 2, 12);
    render_loadavg(&text, &load, 12);
    assert_text(&text, "1.27 0.37 0.13 1/34 12\n");
    load_advance(load.average, 2, UINT64_MAX);
    render_loadavg(&text, &load, 12);
    assert_text(&text, "2.00 2.00 2.00 1/34 12\n");
    load_advance(load.average, 0, UINT64_MAX);
    render_loadavg(&text, &load, 12);
    assert_text(&text, "0.00 0.00 0.00 1/34 12\n");
}

static void load_timeouts(void **state)
{
    struct load load = {0};
    assert_int_equal(load_timeout_ms(&load, 1000 * S), -1);
    load_ask(&load, 1000 * S, -1, false, -1);
    assert_int_equal(load_timeout_ms(&load, 1000 * S), 5000);
    assert_int_equal(load_timeout_ms(&load, 1003 * S), 2000);
    assert_int_equal(load_timeout_ms(&load, 1007 * S), 0);
    load_tick(&load, 1007 * S, -1, false, -1);
    assert_int_equal(load_timeout_ms(&load, 1007 * S), 3000);
    assert_true(load_timeout_ms(&load, (1000 + 1199) * S) >= 0);
    assert_int_equal(load_timeout_ms(&load, (1000 + 1200) * S), -1);
    /* Somebody asks again, a day later. */
    load_ask(&load, 87400 * S, -1, false, -1);
    assert_int_equal(load_timeout_ms(&load, 87400 * S), 5000);
}

static void namespace_pids(void **state)
{
    static const char status[] = "Name:\tNSpid:\nPid:\t4711\nNSpid:\t4711\t25\t3\nNSpgid:\t1\n";
    assert_int_equal(load_namespace_level(status), 3);
    assert_int_equal(load_namespace_pid(status, 1), 4711);
    assert_int_equal(load_namespace_pid(status, 2), 25);
    assert_int_equal(load_namespace_pid(status, 3), 3);
    assert_int_equal(load_namespace_pid(status, 4), 0);
    assert_int_equal(load_namespace_pid("Name:\tx\n", 1), 0);
}

static void long_texts(void **state)
{
    static char block[TEXT_MAX_SIZE / 4 + 1];
    struct text text = {0};
    for (unsigned i = 0; i < 3; i++) {
        text_append(&text, block, sizeof(block));
        assert_false(text.is_failed);
    }
    text_append(&text, block, sizeof(block));
    assert_true(text.is_failed);
    assert_int_equal(text.size, 3 * sizeof(block));
    text_printf(&text, "x");
    assert_int_equal(text.size, 3 * sizeof(block));
    text_fini(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_v1),
        cmocka_unit_test(memory_v2),
        cmocka_unit_test(memory_without_limits),
        cmocka_unit_test(memory_with_one_limit),
        cmocka_unit_test(cpu_sets),
        cmocka_unit_test(cpu_max),
        cmocka_unit_test(cpu_times),
        cmocka_unit_test(stat_and_uptime),
        cmocka_unit_test(disks),
        cmocka_unit_test(load_averages),
        cmocka_unit_test(load_timeouts),
        cmocka_unit_test(namespace_pids),
        cmocka_unit_test(long_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
