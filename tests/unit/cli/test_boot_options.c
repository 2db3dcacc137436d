#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cli/boot_options.h"
#include "cli/verbs.h"

static int parse(struct boot_options *options, const char *const *words, struct error *err)
{
    char *argv[16] = {"boot"};
    int argc = 1;
    for (; words[argc - 1] != NULL; argc++) {
        argv[argc] = (char *)words[argc - 1];
    }
    int count;
    bool wants_help;
    boot_options_init(options);
    *err = (struct error){0};
    int rc =
        options_parse("hull", &boot_verb, false, argc, argv, options, &count, &wants_help, err);
    return rc < 0 ? rc : boot_options_check(options, err);
}

static void takes_policies_of_disks(void **state)
{
    struct boot_options options;
    struct error err = {0};
    boot_options_init(&options);
    assert_int_equal(
        boot_parse_disk(&options,
                        "a.img,cache=directsync,werror=stop,rerror=ignore,discard=ignore,"
                        "copy-on-read=on,snapshot,throttling.bps-total=10M,bps_max=20M,"
                        "bps-max-length=7,read_iops_sec=100,iops-size=64K,group=g",
                        &err),
        0);
    const struct boot_disk *disk = &options.disk[0];
    assert_string_equal(disk->cache, "directsync");
    assert_string_equal(disk->on_write_error, "stop");
    assert_string_equal(disk->on_read_error, "ignore");
    assert_string_equal(disk->discard, "ignore");
    assert_true(disk->has_copy_on_read && disk->is_snapshot);
    const struct block_throttle_limit *bps = &disk->throttle.kind[BLOCK_THROTTLE_BPS];
    assert_int_equal(bps->rate, 10u << 20);
    assert_int_equal(bps->burst, 20u << 20);
    assert_int_equal(bps->burst_length_s, 7);
    assert_int_equal(disk->throttle.kind[BLOCK_THROTTLE_IOPS_READ].rate, 100);
    assert_int_equal(disk->throttle.operation_bytes, 65536);
    assert_string_equal(disk->throttle_group, "g");
    boot_options_fini(&options);
}

static void defaults_are_those_of_the_contract(void **state)
{
    struct boot_options options;
    struct error err;
    assert_int_equal(parse(&options, (const char *[]){"--kernel", "k", NULL}, &err), 0);
    assert_string_equal(options.engine, "auto");
    assert_int_equal(options.vcpu_count, 1);
    assert_int_equal(options.memory_bytes, 512ull << 20);
    assert_int_equal(options.net_count, 1);
    assert_int_equal(options.net[0].kind, BOOT_NET_USER);
    assert_int_equal(options.console, BOOT_CONSOLE_STDIO);
    assert_true(options.has_rng && options.has_balloon);
    boot_options_fini(&options);
}

static void everything_at_once(void **state)
{
    struct boot_options options;
    struct error err;
    const char *words[] = {
        "-kk",
        "--memory=2G",
        "-c4",
        "--disk=a.img,readonly,serial=S1,aio=threads,format=raw,bus=virtio",
        "--net=user,restrict,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=udp::53-10.0.2.15:53,hostfwd=tcp:[::1]:80-[fec0::5]:80,mac=52:54:00:aa:bb:cc,id=lan,index=2,slot=9",
        "--net=tap=tap0",
        "--console=unix:/x",
        "--vsock=cid=3,dir=/d",
        "--timeout=0.5",
        NULL};
    assert_int_equal(parse(&options, words, &err), 0);
    assert_int_equal(options.memory_bytes, 2ull << 30);
    assert_string_equal(options.disk[0].path, "a.img");
    assert_string_equal(options.disk[0].serial, "S1");
    assert_true(options.disk[0].is_readonly);
    assert_int_equal(options.net_count, 2);
    assert_int_equal(options.net[0].hostfwd_count, 3);
    assert_string_equal(options.net[0].hostfwd[1], "udp::53-10.0.2.15:53");
    assert_true(options.net[0].is_restricted && !options.net[1].is_restricted);
    assert_string_equal(options.net[0].place.id, "lan");
    assert_true(options.net[0].place.has_index && !options.net[1].place.has_index);
    assert_int_equal(options.net[0].place.index, 2);
    assert_int_equal(options.net[0].place.slot, 9);
    assert_int_equal(options.net[0].mac[5], 0xcc);
    assert_string_equal(options.net[1].tap, "tap0");
    assert_string_equal(options.console_path, "/x");
    assert_int_equal(options.vsock_cid, 3);
    assert_string_equal(options.vsock_dir, "/d");
    boot_options_fini(&options);
}

static void limits_for_later(void **state)
{
    struct boot_options options;
    struct error err;
    const char *plain[] = {"-kk", NULL};
    const char *more[] = {"-kk", "--cpus=2,max=8", "--memory=1G,max=4G", NULL};
    assert_int_equal(parse(&options, plain, &err), 0);
    assert_int_equal(options.vcpu_max, 0);
    assert_int_equal(options.memory_max_bytes, options.memory_bytes);
    assert_false(options.has_cpus || options.has_memory);
    boot_options_fini(&options);
    assert_int_equal(parse(&options, more, &err), 0);
    assert_int_equal(options.vcpu_count, 2);
    assert_int_equal(options.vcpu_max, 8);
    assert_int_equal(options.memory_bytes, 1ull << 30);
    assert_int_equal(options.memory_max_bytes, 4ull << 30);
    assert_true(options.has_cpus && options.has_memory);
    boot_options_fini(&options);
}

static void each_error_has_its_text(void **state)
{
    static const struct {
        const char *words[4];
        const char *text;
    } cases[] = {
        {{NULL}, "boot: nothing to boot: --kernel FILE"},
        {{"--memory", "0", NULL}, "option --memory: 0 is too little: at least 1M"},
        {{"--memory", "2T", NULL}, "option --memory: 2T is too much: at most 1T"},
        {{"--memory", "1025K", NULL},
         "option --memory: 1025K is not whole pages: a multiple of 4K"},
        {{"--cpus", "65", NULL}, "option --cpus: 65 is out of range: 1 to 64"},
        {{"--cpus", "0", NULL}, "option --cpus: 0 is out of range: 1 to 64"},
        {{"--cpus", "4,max=2", NULL}, "option --cpus: 2 is out of range: 4 to 64"},
        {{"--cpus", "4,most=8", NULL},
         "option --cpus: '4,most=8' is not understood: a number, or N,max=M"},
        {{"--memory", "1G,max=512M", NULL},
         "option --memory: 1G,max=512M: the most is at least the first, and the difference a multiple "
         "of 2M"},
        {{"--memory", "1G,max=1025M", NULL},
         "option --memory: 1G,max=1025M: the most is at least the first, and the difference a "
         "multiple of 2M"},
        {{"--memory", "1G,max=2T", NULL}, "option --memory: 2T is too much: at most 1T"},
        {{"--engine", "tcg", NULL}, "option --engine: 'tcg' is no engine: auto, kvm or soft"},
        {{"--engine", "visor", NULL},
         "option --engine: visor is not supported yet by this version: supported: auto, kvm, soft"},
        {{"--machine", "pc", NULL},
         "option --machine: pc is not supported yet by this version: supported: micro"},
        {{"--machine", "q35", NULL}, "option --machine: 'q35' is no machine: micro"},
        {{"--firmware", "uefi", NULL},
         "option --firmware: uefi is not supported yet by this version: supported: --kernel FILE"},
        {{"--cdrom", "x.iso", NULL},
         "option --cdrom: not supported yet by this version: supported: --disk FILE,readonly"},
        {{"--share", "/x", NULL}, "option --share: '/x' is no share: DIR:TAG[,readonly]"},
        {{"--share", ":y", NULL}, "option --share: ':y' is no share: DIR:TAG[,readonly]"},
        {{"--share", "/x:y,write", NULL}, "option --share: key 'write' is unknown: readonly"},
        {{"--serial", "unix", NULL},
         "option --serial: 'unix' is no serial port: pty, pty:LINK, unix:PATH or file:PATH"},
        {{"--serial", "stdio", NULL},
         "option --serial: 'stdio' is no serial port: pty, pty:LINK, unix:PATH or file:PATH"},
        {{"--gdb", ":1", NULL},
         "option --gdb: not supported yet by this version: supported: --control PATH"},
        {{"--boot", "d", NULL},
         "option --boot: not supported yet by this version: supported: --kernel FILE"},
        {{"--display", "vnc=:1", NULL},
         "option --display: vnc=:1 is not supported yet by this version: supported: none"},
        {{"--vga", "std", NULL},
         "option --vga: std is not supported yet by this version: supported: none"},
        {{"--disk", "", NULL}, "option --disk: no file is named: FILE[,KEY=VALUE]..."},
        {{"--disk", "a,bus=nvme", NULL},
         "option --disk: bus nvme is not supported yet by this version: supported: virtio"},
        {{"--disk", "a,format=qed", NULL},
         "option --disk: format qed is not supported yet by this version: supported: raw, qcow2, luks, and for "
         "reading vmdk, vhdx, vhd, vdi"},
        {{"--disk", "a,format=vmdk", NULL},
         "option --disk: format vmdk is for reading only: readonly, or snapshot, or `hull disk convert`"},
        {{"--disk", "a,werror=halt", NULL},
         "option --disk: werror 'halt' is unknown: report|stop|ignore|enospc"},
        {{"--disk", "a,cache=off", NULL},
         "option --disk: cache 'off' is unknown: writeback|none|writethrough|directsync|unsafe"},
        {{"--disk", "a,bps=1M,bps-rd=1M", NULL},
         "option --disk: bps is for reads and writes together: not with bps-rd or bps-wr"},
        {{"--disk", "a,iops-max=5", NULL}, "option --disk: iops-max needs iops"},
        {{"--disk", "a,readonly,copy-on-read", NULL},
         "option --disk: a disk that is readonly has no copy-on-read"},
        {{"--disk", "a,detect-zeroes=unmap,discard=ignore", NULL},
         "option --disk: detect-zeroes=unmap needs discard=unmap"},
        {{"--disk", "a,backing=b,backing-format=raw", NULL},
         "option --disk: a raw image stands on nothing: format=qcow2 does"},
        {{"--disk", "a,format=qcow2,backing=b", NULL},
         "option --disk: backing=b needs backing-format=raw or qcow2 behind it"},
        {{"--disk", "a,format=qcow2,backing=b,backing-format=raw,backing=c,backing-format=raw",
          NULL},
         "option --disk: backing=b is raw and stands on nothing"},
        {{"--disk", "a,snapshot=perhaps", NULL},
         "option --disk: snapshot 'perhaps' is unknown: on|off"},
        {{"--disk", "a,readonyl", NULL},
         "option --disk: key 'readonyl' is unknown: did you mean readonly?"},
        {{"--disk", "a,serial=123456789012345678901", NULL},
         "option --disk: serial '123456789012345678901' is too long: at most 20 characters"},
        {{"--net", "usr", NULL},
         "option --net: 'usr' is no network: user, passt, tap=IFNAME, macvtap=IFNAME, switch=PATH or none"},
        {{"--net", "tap=", NULL},
         "option --net: '' is no interface: tap=IFNAME, of 1 to 15 characters"},
        {{"--net", "macvtap=a/b", NULL},
         "option --net: 'a/b' is no interface: macvtap=IFNAME, of 1 to 15 characters"},
        {{"--net", "switch=/run/s,spoofing=yes", NULL},
         "option --net: spoofing 'yes': allow or deny"},
        {{"--net", "switch=/run/s,restrict", NULL},
         "option --net: key 'restrict' is unknown: hostfwd|ipv4|ipv6|mac|name|spoofing|id|slot|index"},
        {{"--net", "user,hostfwd=tcp:22", NULL},
         "option --net: hostfwd 'tcp:22' is no rule: tcp:ADDR:PORT-:GUESTPORT, as in tcp:127.0.0.1:2222-:22"},
        {{"--net", "user,hostfwd=tcp::70000-:22", NULL},
         "option --net: hostfwd 'tcp::70000-:22' is no rule: tcp:ADDR:PORT-:GUESTPORT, as in tcp:127.0.0.1:2222-:22"},
        {{"--net", "user,mac=1:2", NULL},
         "option --net: mac '1:2' is no address: six hexadecimal bytes of a single card, as in 52:54:00:12:34:56"},
        {{"--net", "user,mac=01:00:00:00:00:00", NULL},
         "option --net: mac '01:00:00:00:00:00' is a group address: six hexadecimal bytes of a single card, as in 52:54:00:12:34:56"},
        {{"--net", "user,slot=32", NULL}, "option --net: slot: 32 is out of range: 1 to 31"},
        {{"--disk", "a,index=16", NULL}, "option --disk: index: 16 is out of range: 0 to 15"},
        {{"--disk", "a,id=", NULL}, "option --disk: id '' is no name: 1 to 64 characters"},
        {{"--net=none", "--net=user", "-kk", NULL},
         "option --net: none and a network card exclude each other: one of them"},
        {{"--console", "file:", NULL},
         "option --console: 'file:' is no console: stdio, pty, unix:PATH, file:PATH or none"},
        {{"--console", "pty:x", NULL},
         "option --console: 'pty:x' is no console: stdio, pty, unix:PATH, file:PATH or none"},
        {{"--balloon", "yes", NULL}, "option --balloon: 'yes' is neither: on or off"},
        {{"--vsock", "cid=2,dir=x", NULL},
         "option --vsock: cid: 2 is out of range: 3 to 4294967294"},
        {{"--vsock", "cid=3", NULL}, "option --vsock: 'cid=3' is not complete: cid=N,dir=DIR"},
        {{"--timeout", "0", NULL}, "option --timeout: '0' is no time: seconds, as in 30 or 0.5"},
        {{"--timeout", "nan", NULL},
         "option --timeout: 'nan' is no time: seconds, as in 30 or 0.5"},
        {{"--name", "a b", NULL},
         "option --name: 'a b' is no name: 1 to 64 letters, digits, '-', '_' and '.'"},
        {{"--kernel", "", NULL}, "option --kernel: is empty: the path of a file"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct boot_options options;
        struct error err;
        assert_true(parse(&options, cases[i].words, &err) < 0);
        assert_string_equal(err.text, cases[i].text);
        boot_options_fini(&options);
    }
}

static void help_names_every_option_in_one_sentence(void **state)
{
    for (const struct option_spec *o = boot_option_table; o->name != NULL; o++) {
        assert_non_null(o->parse);
        size_t length = strlen(o->help);
        assert_true(length > 0 && o->help[length - 1] != '.');
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_policies_of_disks),
        cmocka_unit_test(defaults_are_those_of_the_contract),
        cmocka_unit_test(everything_at_once),
        cmocka_unit_test(limits_for_later),
        cmocka_unit_test(each_error_has_its_text),
        cmocka_unit_test(help_names_every_option_in_one_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
