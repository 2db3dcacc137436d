"""Rows about whole guests: how soon they run, and what an idle or busy one costs. Hull and TCG only."""
import os
import pathlib
import select
import statistics
import subprocess
import time

from monitors import Guest, GuestLost

IDLE_SECONDS = 10


def exit_kernel():
    """A multiboot-1 kernel whose first instructions write to port 0xf4: mov al, 0; out 0xf4, al; hlt."""
    load, flags = 0x100000, 0x10000
    header = [0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF, load, load, 0, 0, load + 32]
    return b"".join(word.to_bytes(4, "little") for word in header) + bytes([0xB0, 0x00, 0xE6, 0xF4, 0xF4]) + bytes(27)


def start_to_exit(kernel):
    def measure(monitor):
        start = time.monotonic()
        child = subprocess.Popen(monitor.exit_command(kernel), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
        # Popen.wait with a timeout looks at 0.5, 1.5, 3.5, 7.5, 15.5 ms ... and would measure its own pauses.
        pidfd, ended = os.pidfd_open(child.pid), []
        try:
            ended = select.select([pidfd], [], [], 60)[0]
            took = time.monotonic() - start
        finally:
            os.close(pidfd)
            if not ended:
                child.kill()
            status = child.wait()
        if status != 1:
            raise GuestLost(f"status {status} in place of 1")
        return took * 1000
    return measure


def boot_time(pattern, **machine):
    def measure(monitor):
        guest = Guest(monitor.command(**machine))
        try:
            return guest.until(pattern)
        finally:
            guest.close()
    return measure


def idle_cost(**machine):
    """Share of a core in percent, memory of the machine's process and of all in MiB."""
    def measure(monitor):
        guest = Guest(monitor.command(**machine))
        try:
            guest.until("# ")
            time.sleep(3)
            before = guest.cpu_seconds()
            time.sleep(IDLE_SECONDS)
            if not guest.child.isalive():
                raise GuestLost("ended while idle")
            return (guest.cpu_seconds() - before) / IDLE_SECONDS * 100, *guest.overhead_mib()
        finally:
            guest.close()
    return measure


class Boots:
    """names of rows; measure(wanted, ...) fills them: {row: {"unit", "what", side: value or None, "notes"}}"""

    ROWS = {
        "start": ("ms", "program start to a guest's first instruction, and exit"),
        "init": ("s", "start to init, busybox guest"),
        "login": ("s", "start to login, systemd guest"),
        "idle": ("%", "idle guest at a shell prompt, share of a core"),
        "memory": ("MiB", "memory beyond the guest's, idle, machine process"),
        "memory_all": ("MiB", "memory beyond the guest's, idle, all processes"),
    }

    def __init__(self, monitors, guests, scratch, rounds, progress):
        self.monitors, self.guests, self.scratch = monitors, guests, pathlib.Path(scratch)
        self.rounds, self.progress = rounds, progress
        self.rows = {}

    def in_turn(self, names, runs, measure):
        """measure(monitor) 'runs' times for each, A B A B; medians into the rows 'names'."""
        results, notes = {m.name: [] for m in self.monitors}, []
        for run in range(runs):
            for monitor in self.monitors:
                self.progress(f"{names[0]} {run + 1}/{runs} {monitor.name}")
                try:
                    values = measure(monitor)
                    results[monitor.name].append(values if isinstance(values, tuple) else (values,))
                except (GuestLost, subprocess.TimeoutExpired, OSError) as error:
                    notes.append(f"{monitor.name}: {error}")
        for column, name in enumerate(names):
            unit, what = self.ROWS[name]
            self.rows[name] = {"unit": unit, "what": what, "notes": sorted(set(notes))}
            for monitor in self.monitors:
                samples = [values[column] for values in results[monitor.name]]
                self.rows[name][monitor.name] = statistics.median(samples) if samples else None
                self.rows[name][f"{monitor.name}_samples"] = samples

    def measure(self, wanted):
        busybox = {"kernel": self.guests / "vmlinuz-cloud", "initrd": self.guests / "initrd-cloud"}
        if "start" in wanted:
            tiny = self.scratch / "exit"
            tiny.write_bytes(exit_kernel())
            self.in_turn(["start"], 4 * self.rounds + 1, start_to_exit(tiny))
        if "init" in wanted:
            self.in_turn(["init"], self.rounds, boot_time("init: up after", **busybox, append="console=ttyS0"))
        if "login" in wanted:
            disk = self.scratch / "debian.raw"
            subprocess.run(["cp", "--sparse=always", self.guests / "debian.raw", disk], check=True)
            self.in_turn(["login"], max(1, self.rounds // 2),
                         boot_time("login: ", kernel=self.guests / "vmlinuz-generic",
                                   initrd=self.guests / "initrd-generic", disk=disk,
                                   append="console=ttyS0 root=/dev/vda"))
        if wanted & {"idle", "memory", "memory_all"}:
            self.in_turn(["idle", "memory", "memory_all"], max(1, self.rounds // 2),
                         idle_cost(**busybox, append="console=ttyS0 quiet"))
        return self.rows
