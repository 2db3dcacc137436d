/* hull boot: one VM in the foreground. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host/file.h"
#include "base/host/program.h"
#include "cli/boot_files.h"
#include "cli/boot_session.h"
#include "cli/verbs.h"

/* hull-vmm --config-fd N, with everything that the document names. */
static int start_vmm(const struct boot_files *files, int config_fd, pid_t *out_pid,
                     struct error *err)
{
    char fd_text[16];
    (void)snprintf(fd_text, sizeof(fd_text), "%d", config_fd);
    const char *argv[] = {"hull-vmm", "--config-fd", fd_text, NULL};
    struct process_spec spec = {
        .program = "hull-vmm", .argv = argv, .stdout_fd = -1, .keep = {config_fd}, .keep_count = 1};
    const int single[] = {
        files->kernel,      files->initrd,         files->restore,    files->log,
        files->vsock_dir,   files->control,        files->control_vm, files->console_vm,
        files->console_log, files->console_old_log};
    for (size_t i = 0; i < ARRAY_COUNT(single); i++) {
        if (single[i] >= 0) {
            spec.keep[spec.keep_count++] = single[i];
        }
    }
    for (size_t i = 0; i < BOOT_MAX_DISKS; i++) {
        if (files->disk[i] >= 0) {
            spec.keep[spec.keep_count++] = files->disk[i];
        }
        if (files->crypt[i] >= 0) {
            spec.keep[spec.keep_count++] = files->crypt[i];
        }
        if (files->overlay[i] >= 0) {
            spec.keep[spec.keep_count++] = files->overlay[i];
        }
        if (files->data[i] >= 0) {
            spec.keep[spec.keep_count++] = files->data[i];
        }
        for (size_t j = 0; j < BOOT_MAX_LAYERS; j++) {
            if (files->layer[i][j] >= 0) {
                spec.keep[spec.keep_count++] = files->layer[i][j];
            }
        }
    }
    for (size_t i = 0; i < BOOT_MAX_NETS; i++) {
        if (files->net[i] >= 0) {
            spec.keep[spec.keep_count++] = files->net[i];
        }
    }
    for (size_t i = 0; i < BOOT_MAX_SERIALS; i++) {
        if (files->serial[i].vm_fd >= 0) {
            spec.keep[spec.keep_count++] = files->serial[i].vm_fd;
        }
    }
    for (size_t i = 0; i < BOOT_MAX_SHARES; i++) {
        if (files->share[i] >= 0) {
            spec.keep[spec.keep_count++] = files->share[i];
        }
    }
    return process_spawn(&spec, false, out_pid, err);
}

static int send_config(const struct boot_options *options, const struct boot_files *files, int fd,
                       struct error *err)
{
    AUTO_FREE char *text = boot_config_make(options, files);
    if (text == NULL) {
        return error_set(err, EINVAL, "configuration: --append or --cpu is not UTF-8: UTF-8 text");
    }
    return file_write_all(fd, text, strlen(text) + 1, "configuration for hull-vmm", err);
}

/* The guest may run. If hull-vmm has ended meanwhile, its exit status says why. */
static void say_go(int fd)
{
    (void)!write(fd, "", 1);
}

static void stop_vmm(pid_t vmm)
{
    if (vmm > 0) {
        (void)kill(vmm, SIGKILL); /* it has not run any guest yet */
        (void)waitpid(vmm, NULL, 0);
    }
}

/* The VM's process makes its machine while the helpers start; it waits with the guest's first instruction until all serve. */
static int start(const struct boot_options *options, struct boot_files *files, pid_t *out_vmm,
                 struct error *err)
{
    int pipe_fds[2];
    int rc = boot_files_open(files, options, err);
    if (rc < 0) {
        return rc;
    }
    if (pipe2(pipe_fds, O_CLOEXEC) < 0) {
        return error_set_errno(err, errno, "boot: making a pipe");
    }
    AUTO_CLOSE int config_in = pipe_fds[0];
    AUTO_CLOSE int config_out = pipe_fds[1];
    pid_t vmm = 0;
    rc = start_vmm(files, config_in, &vmm, err);
    close(config_in);
    config_in = -1;
    if (rc == 0) {
        rc = send_config(options, files, config_out, err);
    }
    if (rc == 0) {
        rc = boot_files_await_helpers(files, options, err);
    }
    if (rc < 0) {
        stop_vmm(vmm);
        return rc;
    }
    say_go(config_out);
    boot_files_hand_over(files);
    *out_vmm = vmm;
    return 0;
}

static int run(const struct boot_options *options, struct boot_files *files)
{
    struct error err = {0};
    int signal_fd = boot_session_signals();
    if (signal_fd < 0) {
        (void)error_set_errno(&err, errno, "boot: watching signals");
        return cli_fail(&err);
    }
    pid_t vmm = 0;
    int status;
    if (start(options, files, &vmm, &err) < 0) {
        status = cli_fail(&err);
    } else {
        if (options->console == BOOT_CONSOLE_PTY) {
            (void)fprintf(stderr, "hull: %s: console on %s\n", options->name, files->pty_path);
        }
        for (unsigned i = 0; i < options->serial_count; i++) {
            if (options->serial[i].kind == BOOT_CONSOLE_PTY) {
                (void)fprintf(stderr, "hull: %s: serial port %u on %s\n", options->name, i + 1,
                              files->serial[i].pty_path);
            }
        }
        bool is_stdio = options->console == BOOT_CONSOLE_STDIO;
        status =
            boot_session_run(options, vmm, signal_fd, is_stdio ? files->console_own : -1, files);
    }
    close(signal_fd);
    return status;
}

static int boot_run(int argc, char **argv)
{
    struct boot_options options;
    boot_options_init(&options);
    int count = 0;
    struct error err;
    int status = cli_options(&boot_verb, false, argc, argv, &options, &count);
    if (status < 0 && count != 0) {
        (void)error_set(&err, EINVAL,
                        "boot: argument %s is unknown: only options, see `hull boot --help`",
                        argv[0]);
        status = cli_fail(&err);
    }
    if (status < 0 && boot_options_check(&options, &err) < 0) {
        status = cli_fail(&err);
    }
    if (status < 0) {
        struct boot_files files;
        boot_files_init(&files);
        status = run(&options, &files);
        /* Before the lock of the pid file goes: who finds that free finds this, too. */
        if (options.status_file != NULL && !(files.pid < 0 && options.pid_file != NULL) &&
            boot_write_status(options.status_file, status, &err) < 0) {
            (void)cli_fail(&err);
        }
        boot_files_fini(&files, &options);
    }
    boot_options_fini(&options);
    return status;
}

static const struct verb_section man_sections[] = {
    {"WHEN A DISK FAILS",
     "With werror=stop (or rerror=stop; enospc, the default of werror, where the host has no space) the\n"
     "VM is paused and the request kept. It is tried again after 1, 2, 4 and then every 5 seconds, and\n"
     "the VM goes on when that works; `hull ctl PATH resume` tries it at once, and `hull ctl PATH\n"
     "pause` makes the pause the user's own. `hull ctl PATH status` and events say why it is paused.\n"
     "\n"
     "The requests of a remote disk wait for its server for reconnect=SECONDS (60) before they fail.\n"
     "Its process, hull-storage, is started again when it ends; nothing that was written is lost.\n"},
    {"NAMES AND PLACES OF DEVICES",
     "Disks are disk0, disk1 and so on in the order of the options, cards net0, net1. index=N gives one\n"
     "another number, slot=N another PCI slot (1 to 31) than the lowest that is free, id=NAME a name of\n"
     "the user's. That matters where devices came and went while the VM ran (`hull ctl PATH plug`,\n"
     "`unplug`): a VM is restored with the numbers that `hull ctl PATH devices` showed when it was\n"
     "saved; its slots are in the saved state.\n"},
    {"SHARED FOLDERS",
     "The guest mounts a share by its tag: mount -t virtiofs TAG /mnt (module virtiofs). It is served by\n"
     "a process of its own, hull-share, which sees that folder alone. Run by root, files belong to\n"
     "whom the guest says; run by another user, all are that user's. Links lead where they lead in\n"
     "the guest. A saved state has the open files by their names, and goes on with those that are\n"
     "still the same; the others are stale. When hull-share ends, requests fail and the VM goes on.\n"},
    {"OPTIONS OF THE ENGINE SOFT",
     "  cache=SIZE      memory for translated code, for each virtual CPU: 4M to 1G (default: 64M); a\n"
     "                  bare number counts MiB. Tables take up to two fifths as much, and 4M\n"
     "  halt-poll=NS    how long at most a virtual CPU that halts waits for its wake-up before its\n"
     "                  thread sleeps: 0 (never) to 1000000 (default: 100000)\n"
     "  jumps=auto, fit, free\n"
     "                  lay jumps out for Intel's CPUs from Skylake to Comet Lake: on these, which\n"
     "                  is the default; always; never\n"
     "\n"
     "The others are for those who look for a bug; without them nothing is checked or written.\n"
     "\n"
     "  translate=off   the interpreter runs everything\n"
     "  flags=exact     status flags that nothing reads are exact in the frames of faults, too\n"
     "  lock=always     LOCK prefixes are executed with one virtual CPU, too\n"
     "  verify=on       each block of translated code is verified before it runs\n"
     "  lockstep=on     the interpreter repeats what translated code did, and the first\n"
     "                  difference ends the VM; some hundred times slower, one virtual CPU\n"
     "  icount=on, icount=SHIFT\n"
     "                  time is counted in instructions of 2^SHIFT ns (on: 1 ns), so that two\n"
     "                  runs of a guest are the same; one virtual CPU. Use it with --net none.\n"
     "                  With --verbose the log ends with a count and a hash of the memory\n"
     "  trace=FILE      a log of the translated blocks and of what the interpreter ran for them\n"
     "  perfmap=on      /tmp/perf-PID.map, by which perf names translated code\n"
     "  symbols=FILE    names for both: the guest's System.map or /proc/kallsyms\n"},
    {0},
};

const struct verb boot_verb = {
    .name = "boot",
    .arguments = "",
    .summary = "Run one VM in the foreground",
    .description =
        "Boots a kernel in a new VM and stays until it ends. The console is this terminal;\n"
        "Ctrl-] then q quits, Ctrl-] then ? lists what else there is. Sizes take K, M, G and T.\n"
        "SIGINT and SIGTERM press the power button; a second one stops the VM at once, as do\n"
        "60 seconds after SIGTERM.\n",
    .examples =
        "  hull boot --kernel vmlinuz --initrd initrd.img --append console=ttyS0 --memory 1G\n"
        "  hull boot -k vmlinuz -d disk.img -a 'root=/dev/vda console=ttyS0' -c 2\n"
        "  hull boot -k vmlinuz -i initrd.img --net user,hostfwd=tcp:127.0.0.1:2222-:22\n"
        "  hull boot -k vmlinuz -d disk.img --share ~/src:src --share /usr/share/doc:doc,readonly\n"
        "  hull boot -k vmlinuz -i initrd.img --control /run/vm.sock --console pty\n"
        "  hull boot -k vmlinuz -i initrd.img --engine soft,icount=on --net none --verbose\n",
    .exit_status = "  0    the guest powered off, or the user quit\n"
                   "  1    wrong usage, or a failure of the host\n"
                   "  2    the guest asked for a reset, with --no-reboot\n"
                   "  3    triple fault or another unrecoverable CPU state\n"
                   "  4    a device stopped the VM because the guest broke its protocol\n"
                   "  124  --timeout ran out\n"
                   "  With --debug-exit, a guest write of V to port 0xf4 gives (V<<1)|1.\n",
    .sections = man_sections,
    .options = boot_option_table,
    .run = boot_run,
};
