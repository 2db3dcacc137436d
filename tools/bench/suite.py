"""Rows about cases of hull-bench and programs: native, Hull and TCG in turn, for one number of vCPUs.

Both guests boot once and stay, idle while another side is measured. Whatever goes wrong with one sample is noted at its row,
and the run goes on; a guest that is lost is booted again, a few times.
"""
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
import pathlib

from monitors import BOOT_TIMEOUT, Guest, GuestLost
from programs import PROGRAMS, arguments

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "guest"))
from overlay import add_files  # noqa: E402

MEMORY_MIB = 1024
REBOOTS = 3
CASE_TIMEOUT = 120
CLOCK_TOLERANCE = 0.02


class SampleFailed(Exception):
    """One measurement brought no number; the text says why."""


def parse(name, text):
    """The line about the case: {"ns", "checksum", "elapsed_ns"}."""
    found = re.search(rf"^(result|lacks|failed) case={name} (.*)$", text, re.MULTILINE)
    if not found:
        last = text.strip().splitlines() or ["no output"]
        raise SampleFailed(f"no result: {last[-1][:100]}")
    if found[1] != "result":
        raise SampleFailed(f"{found[1]} {found[2]}")
    words = dict(word.split("=") for word in found[2].split())
    return {"ns": float(words["ns"]), "checksum": words["checksum"], "elapsed_ns": int(words["elapsed_ns"])}


class Native:
    """This machine, held to as many of its CPUs as the guests have vCPUs."""

    name = "native"

    def __init__(self, hull_bench, root, cpus):
        self.hull_bench, self.root = hull_bench, root
        self.cpus = sorted(os.sched_getaffinity(0))[-cpus:]

    def sample(self, name, milliseconds):
        words = arguments(name, self.root) if name in PROGRAMS else ["--milliseconds", str(milliseconds), name]
        try:
            ran = subprocess.run([self.hull_bench, *words], capture_output=True, text=True, timeout=CASE_TIMEOUT + 5,
                                 stdin=subprocess.DEVNULL, check=False,
                                 preexec_fn=lambda: os.sched_setaffinity(0, self.cpus))
        except subprocess.TimeoutExpired as error:
            raise SampleFailed("hangs") from error
        return parse(name, ran.stdout or ran.stderr)

    def close(self):
        pass

    def clock_report(self):
        return None

    def busy_memory(self):
        return None


class GuestSide:
    """A monitor's guest, booted when it is needed."""

    def __init__(self, monitor, machine, has_disk):
        self.name, self.monitor, self.machine, self.has_disk = monitor.name, monitor, machine, has_disk
        self.guest, self.boots = None, 0
        self.clock_start = None
        self.clock_total = [0.0, 0.0]  # seconds by the guest, by the host
        self.fast = []  # cases whose time by the guest is more than the host's

    def boot(self):
        if self.boots > REBOOTS:
            raise SampleFailed("guest was lost too often")
        self.boots += 1
        self.guest = Guest(self.monitor.command(**self.machine))
        try:
            self.guest.until("# ", BOOT_TIMEOUT)
            self.guest.shell("dmesg -n 1", 60)
            if self.has_disk:
                text, _ = self.guest.shell("mount -t ext4 -o ro /dev/vda /mnt && echo moun''ted", 60)
                if "mounted" not in text:
                    raise GuestLost("disk does not mount")
            self.clock_start = self.clocks()
        except GuestLost as error:
            self.lose()
            raise SampleFailed(f"boot: {error}") from error

    def lose(self):
        self.guest.close()
        self.guest, self.clock_start = None, None

    def clocks(self):
        """(guest's, host's) seconds; of three tries that with the least delay."""
        best = None
        for _ in range(3):
            start = time.monotonic()
            text, took = self.guest.shell("hull-bench --now", 60)
            found = re.search(r"now ns=(\d+)", text)
            if not found:
                raise GuestLost("no clock")
            if best is None or took < best[0]:
                best = (took, int(found[1]) / 1e9, start + took / 2)
        return best[1:]

    def add_clock(self):
        if self.guest is None or self.clock_start is None:
            return
        try:
            now = self.clocks()
        except GuestLost:
            return
        self.clock_total[0] += now[0] - self.clock_start[0]
        self.clock_total[1] += now[1] - self.clock_start[1]
        self.clock_start = now

    def clock_report(self):
        """(is it right, text)"""
        self.add_clock()
        guest, host = self.clock_total
        if not host:
            return None, f"{self.name}: no guest lived long enough to compare"
        right = abs(guest - host) <= CLOCK_TOLERANCE * host + 0.2 and not self.fast
        text = f"{self.name}: {guest:.1f} s by the guest's clock, {host:.1f} s by the host's"
        if self.fast:
            text += f"; more time in the guest than outside in: {', '.join(sorted(set(self.fast)))}"
        return right, text

    def busy_memory(self):
        return self.guest.overhead_mib()[0] if self.guest else None

    def sample(self, name, milliseconds):
        if self.guest is None:
            self.boot()
        command = f"/bench/{name}" if name in PROGRAMS else f"hull-bench --milliseconds {milliseconds} {name}"
        try:
            text, took = self.guest.shell(command, CASE_TIMEOUT + 30)
        except GuestLost as error:
            self.lose()
            raise SampleFailed(f"guest {error}") from error
        result = parse(name, text)
        if result["elapsed_ns"] / 1e9 > took * (1 + CLOCK_TOLERANCE) + 0.02:
            self.fast.append(name)
        return result

    def close(self):
        if self.guest is not None:
            self.lose()


def list_cases(hull_bench):
    """{name: {"unit", "threads", "smp"}} in order."""
    text = subprocess.run([hull_bench, "--list"], capture_output=True, text=True, check=True).stdout
    return {found[1]: {"threads": int(found[2]), "smp": found[3] == "1", "unit": found[4]}
            for found in re.finditer(r"^case name=(\S+) threads=(\d+) smp=(\d) unit=(.*)$", text, re.MULTILINE)}


def make_initrd(guests, hull_bench, out):
    files = {"bin/hull-bench": hull_bench.read_bytes()}
    for name in PROGRAMS:
        words = shlex.join(["hull-bench", *arguments(name, "/mnt")])
        files[f"bench/{name}"] = f"#!/bin/busybox sh\nexec {words}\n".encode()
    add_files(guests / "initrd-cloud", out, files)


class Suite:
    def __init__(self, monitors, guests, scratch, hull_bench, cpus, names, progress):
        self.names, self.cpus, self.progress = names, cpus, progress
        has_disk = any(name in PROGRAMS for name in names)
        initrd = pathlib.Path(scratch) / "initrd"
        make_initrd(guests, hull_bench, initrd)
        self.sides = [Native(hull_bench, guests / "bench-root", cpus)]
        for monitor in monitors:
            machine = {"kernel": guests / "vmlinuz-cloud", "initrd": initrd, "cpus": cpus, "memory": MEMORY_MIB,
                       "append": "console=ttyS0 quiet"}
            if has_disk:
                machine["disk"] = pathlib.Path(scratch) / f"bench-{monitor.name}-{cpus}.raw"
                subprocess.run(["cp", "--sparse=always", guests / "bench.raw", machine["disk"]], check=True)
            self.sides.append(GuestSide(monitor, machine, has_disk))
        self.rows = {name: {**{side.name: None for side in self.sides},
                            **{f"{side.name}_samples": [] for side in self.sides},
                            "checksums": {}, "notes": []} for name in names}

    def take(self, side, name, milliseconds, counts=True):
        row = self.rows[name]
        try:
            result = side.sample(name, milliseconds)
        except SampleFailed as error:
            note = f"{side.name}: {error}"
            if note not in row["notes"]:
                row["notes"].append(note)
            return
        row["checksums"].setdefault(side.name, result["checksum"])
        if result["checksum"] != row["checksums"][side.name]:
            row["notes"].append(f"{side.name}: another checksum in another round")
        if counts:
            row[f"{side.name}_samples"].append(result["ns"])

    def measure(self, rounds, milliseconds):
        """All rows, round by round; returns them and the reports about clocks and memory."""
        try:
            for name in self.names:
                if name in PROGRAMS:  # once without counting: files come into the page cache
                    for side in self.sides:
                        self.progress(f"{self.cpus} vCPU: warming up {name} {side.name}")
                        self.take(side, name, milliseconds, counts=False)
            for turn in range(rounds):
                for name in self.names:
                    for side in self.sides:
                        self.progress(f"{self.cpus} vCPU: round {turn + 1}/{rounds} {name} {side.name}")
                        # A side that failed twice at a case would only cost time.
                        if sum(note.startswith(side.name) for note in self.rows[name]["notes"]) < 2:
                            self.take(side, name, milliseconds)
            clocks = [report for report in (side.clock_report() for side in self.sides) if report]
            memory = {side.name: side.busy_memory() for side in self.sides}
        finally:
            for side in self.sides:
                side.close()
        for row in self.rows.values():
            for side in self.sides:
                samples = row[f"{side.name}_samples"]
                row[side.name] = statistics.median(samples) if samples else None
            if len(set(row["checksums"].values())) > 1:
                row["notes"].append("CHECKSUMS DIFFER: " + ", ".join(f"{k} {v}" for k, v in row["checksums"].items()))
        return self.rows, clocks, memory
