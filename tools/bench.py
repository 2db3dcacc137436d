#!/usr/bin/env python3
"""Measures Hull beside QEMU's TCG on this machine, in turn within one run, and prints medians and ratios.

Both boot the same files: Debian's kernel, the same initrd, the same disk, one vCPU, 512 MiB, a virtio disk and network card.
QEMU is `qemu-system-x86_64 -accel tcg -machine q35 -cpu max`. Machines are noisy: believe ratios, and only large ones.
"""
import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import pexpect

ROOT = pathlib.Path(__file__).resolve().parent.parent
BOOT_TIMEOUT = 600


def exit_kernel():
    """A multiboot-1 kernel whose first instructions write to port 0xf4: mov al, 0; out 0xf4, al; hlt."""
    load, flags = 0x100000, 0x10000
    header = [0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF, load, load, 0, 0, load + 32]
    return b"".join(word.to_bytes(4, "little") for word in header) + bytes([0xB0, 0x00, 0xE6, 0xF4, 0xF4]) + bytes(27)


class Hull:
    name = "hull soft"

    def __init__(self, build):
        self.hull = build / "bin/hull"

    def command(self, kernel, initrd=None, append="", disk=None, control=None):
        words = [self.hull, "boot", "--engine", "soft", "--kernel", kernel]
        words += ["--initrd", initrd] if initrd else []
        words += ["--append", append] if append else []
        words += ["--disk", disk] if disk else []
        words += ["--control", control] if control else []
        return [str(w) for w in words]

    def exit_command(self, kernel):
        return [*self.command(kernel), "--debug-exit"]


class Qemu:
    name = "qemu tcg"

    def command(self, kernel, initrd=None, append="", disk=None, control=None):
        words = ["qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-cpu", "max", "-m", "512", "-nodefaults",
                 "-display", "none", "-no-reboot", "-serial", "stdio", "-netdev", "user,id=n",
                 "-device", "virtio-net-pci,netdev=n,romfile=", "-kernel", kernel]
        words += ["-initrd", initrd] if initrd else []
        words += ["-append", append] if append else []
        words += ["-drive", f"file={disk},format=raw,if=virtio"] if disk else []
        return [str(w) for w in words]

    def exit_command(self, kernel):
        return [*self.command(kernel), "-device", "isa-debug-exit,iobase=0xf4,iosize=1"]


class Guest:
    """A booted guest with its console."""

    def __init__(self, words):
        self.start = time.monotonic()
        self.child = pexpect.spawn(words[0], words[1:], timeout=BOOT_TIMEOUT, encoding="utf-8", codec_errors="replace",
                                   dimensions=(50, 200))
        self.child.delaybeforesend = None

    def until(self, pattern):
        """Seconds from the program's start until the console shows the pattern."""
        self.child.expect(pattern)
        return time.monotonic() - self.start

    def timed_shell(self, command):
        start = time.monotonic()
        self.child.sendline(f"{command}; echo status''=$?=")
        self.child.expect(r"status=(\d+)=")
        if self.child.match[1] != "0":
            raise RuntimeError(f"{command!r} failed in the guest")
        return time.monotonic() - start

    def processes(self):
        """The program and its descendants."""
        found, waiting = [], [self.child.pid]
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
                waiting += [int(p) for p in (task / "children").read_text().split()]
        return found

    def cpu_seconds(self):
        total = 0
        for pid in self.processes():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def overhead_mib(self):
        """Resident memory (PSS) of the process with the guest's memory, beyond that memory: (that process, all)."""
        own, total = 0, 0
        for pid in self.processes():
            pss = guest = 0
            size = 0
            for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
                if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                    low, high = (int(x, 16) for x in line.split()[0].split("-"))
                    size = high - low
                elif line.startswith("Pss:"):
                    kib = int(line.split()[1])
                    # Guest memory is the only mapping of this size in either program.
                    if size >= 256 << 20 and kib > 0:
                        guest += kib
                    else:
                        pss += kib
            total += pss
            own = max(own, pss if guest else 0)
        return own / 1024, total / 1024

    def close(self):
        self.child.close(force=True)


class Table:
    def __init__(self):
        self.rows = []

    def add(self, what, unit, hull, qemu=None):
        self.rows.append({"what": what, "unit": unit, "hull": hull, "qemu": qemu})
        peer = f"{qemu:12.3f}   {hull / qemu:7.2f}" if qemu else f"{'-':>12}   {'-':>7}"
        print(f"{what:52} {unit:8} {hull:12.3f} {peer}", flush=True)

    @staticmethod
    def head():
        print(f"{'':52} {'':8} {Hull.name:>12} {Qemu.name:>12}   {'ratio':>7}")


def in_turn(monitors, runs, measure):
    """measure(monitor) 'runs' times for each, A B A B; the medians."""
    results = {m.name: [] for m in monitors}
    for _ in range(runs):
        for monitor in monitors:
            results[monitor.name].append(measure(monitor))
    return [statistics.median(results[m.name]) for m in monitors]


def start_to_exit(kernel):
    def measure(monitor):
        start = time.monotonic()
        status = subprocess.run(monitor.exit_command(kernel), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE, timeout=60).returncode
        if status != 1:
            raise RuntimeError(f"{monitor.name}: status {status} in place of 1")
        return (time.monotonic() - start) * 1000
    return measure


def boot_time(pattern, **machine):
    def measure(monitor):
        guest = Guest(monitor.command(**machine))
        try:
            return guest.until(pattern)
        finally:
            guest.close()
    return measure


def shell_job(command, **machine):
    def measure(monitor):
        guest = Guest(monitor.command(**machine))
        try:
            guest.until("# ")
            return guest.timed_shell(command)
        finally:
            guest.close()
    return measure


def stats(build, control):
    reply = subprocess.run([build / "bin/hull", "ctl", control, "stats", "--json"], check=True, capture_output=True)
    return json.loads(reply.stdout)


def instruction_count(answer):
    """Sum of every counter named 'instructions', wherever it stands."""
    if isinstance(answer, dict):
        return sum(v if k == "instructions" else instruction_count(v) for k, v in answer.items())
    if isinstance(answer, list):
        return sum(instruction_count(v) for v in answer)
    return 0


def measure_rate(build, seconds, machine):
    """Guest instructions per CPU second while a shell loop runs, in millions."""
    with tempfile.TemporaryDirectory() as scratch:
        control = pathlib.Path(scratch) / "control"
        guest = Guest(Hull(build).command(control=control, **machine))
        try:
            guest.until("# ")
            guest.child.sendline("i=0; while :; do i=$((i+1)); done")
            time.sleep(1)
            count, cpu = instruction_count(stats(build, control)), guest.cpu_seconds()
            time.sleep(seconds)
            return (instruction_count(stats(build, control)) - count) / (guest.cpu_seconds() - cpu) / 1e6
        finally:
            guest.close()


def measure_idle(seconds, machine):
    def measure(monitor):
        guest = Guest(monitor.command(**machine))
        try:
            guest.until("# ")
            time.sleep(3)
            before = guest.cpu_seconds()
            time.sleep(seconds)
            return (guest.cpu_seconds() - before) / seconds * 100, *guest.overhead_mib()
        finally:
            guest.close()
    return measure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="runs of each, of which the median counts (5)")
    parser.add_argument("--json", metavar="FILE", help="write the rows there too")
    parser.add_argument("--quick", action="store_true", help="without the systemd guest")
    parser.add_argument("build", type=pathlib.Path)
    arguments = parser.parse_args()
    build, runs = arguments.build.resolve(), arguments.runs
    guests = build / "guest"
    maker = [sys.executable, ROOT / "tools/guest/make_guest.py", guests]
    for what in (["initrd", "cloud"], ["initrd", "generic"], ["disk"]):
        subprocess.run([*maker, *what], check=True)

    monitors = [Hull(build), Qemu()]
    busybox = {"kernel": guests / "vmlinuz-cloud", "initrd": guests / "initrd-cloud", "append": "console=ttyS0 quiet"}
    table = Table()
    table.head()
    with tempfile.TemporaryDirectory(dir=build) as scratch:
        tiny = pathlib.Path(scratch) / "exit"
        tiny.write_bytes(exit_kernel())
        table.add("program start to a guest's first instruction, and exit", "ms",
                  *in_turn(monitors, 2 * runs + 1, start_to_exit(tiny)))
        loud = {**busybox, "append": "console=ttyS0"}
        table.add("start to init, busybox guest", "s", *in_turn(monitors, runs, boot_time("init: up after", **loud)))
        if not arguments.quick:
            disk = pathlib.Path(scratch) / "debian.raw"
            subprocess.run(["cp", "--sparse=always", guests / "debian.raw", disk], check=True)
            systemd = {"kernel": guests / "vmlinuz-generic", "initrd": guests / "initrd-generic", "disk": disk,
                       "append": "console=ttyS0 root=/dev/vda"}
            table.add("start to login, systemd guest", "s",
                      *in_turn(monitors, max(1, runs // 2), boot_time("login: ", **systemd)))
        table.add("sha256sum of 16 MiB in the guest", "s",
                  *in_turn(monitors, runs, shell_job("head -c 16777216 /dev/zero | sha256sum", **busybox)))
        table.add("50,000 rounds of a shell loop in the guest", "s",
                  *in_turn(monitors, runs, shell_job("i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done", **busybox)))
        table.add("interpreter, guest instructions per CPU second", "million",
                  statistics.median(measure_rate(build, 4, busybox) for _ in range(runs)))
        idle = [[], []]
        for _ in range(max(1, runs // 2)):
            for kept, monitor in zip(idle, monitors):
                kept.append(measure_idle(10, busybox)(monitor))
        for column, what, unit in [(0, "idle guest at a shell prompt, share of a core", "percent"),
                                   (1, "memory beyond the guest's, machine process", "MiB"),
                                   (2, "memory beyond the guest's, all processes", "MiB")]:
            hull, qemu = (statistics.median(row[column] for row in kept) for kept in idle)
            table.add(what, unit, hull, qemu)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(table.rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
