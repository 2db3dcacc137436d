"""The sides that are compared: this machine, Hull's soft engine, QEMU's TCG; and a booted guest."""
import os
import pathlib
import re
import signal
import time

import pexpect

BOOT_TIMEOUT = 600


class Hull:
    name = "hull"

    def __init__(self, build):
        self.hull = build / "bin/hull"

    def command(self, kernel, initrd=None, append="", disk=None, disks=(), control=None, cpus=1, memory=512):
        """disks: (image, format, cache mode, read-only or not) each."""
        words = [self.hull, "boot", "--engine", "soft", "--cpus", cpus, "--memory", f"{memory}M", "--kernel", kernel]
        words += ["--initrd", initrd] if initrd else []
        words += ["--append", append] if append else []
        words += ["--disk", disk] if disk else []
        for image, kind, cache, is_readonly in disks:
            words += ["--disk", f"{image},format={kind},cache={cache}{',readonly' if is_readonly else ''}"]
        words += ["--control", control] if control else []
        return [str(w) for w in words]

    def exit_command(self, kernel):
        return [*self.command(kernel), "--debug-exit"]


class Qemu:
    name = "tcg"

    def command(self, kernel, initrd=None, append="", disk=None, disks=(), control=None, cpus=1, memory=512):
        words = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", "max", "-smp", cpus,
                 "-m", memory, "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
                 "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,romfile=", "-kernel", kernel]
        words += ["-initrd", initrd] if initrd else []
        words += ["-append", append] if append else []
        words += ["-drive", f"file={disk},format=raw,if=virtio"] if disk else []
        for number, (image, kind, cache, is_readonly) in enumerate(disks):
            words += ["-object", f"iothread,id=io{number}", "-drive",
                      f"file={image},format={kind},if=none,id=d{number},aio=io_uring,cache={cache}{',readonly=on' if is_readonly else ''}",
                      "-device", f"virtio-blk-pci,drive=d{number},iothread=io{number}"]
        return [str(w) for w in words]

    def exit_command(self, kernel):
        return [*self.command(kernel), "-device", "isa-debug-exit,iobase=0xf4,iosize=1"]


class GuestLost(Exception):
    """The guest ended or does not answer."""


class Guest:
    """A booted guest with its console."""

    def __init__(self, words):
        self.start = time.monotonic()
        self.child = pexpect.spawn(words[0], words[1:], timeout=BOOT_TIMEOUT, encoding="utf-8", codec_errors="replace",
                                   dimensions=(50, 250))
        self.child.delaybeforesend = None

    def until(self, pattern, timeout=-1):
        """Seconds from the program's start until the console shows the pattern."""
        try:
            self.child.expect(pattern, timeout=timeout)
        except pexpect.EOF as error:
            last = (self.child.before or "").strip().splitlines() or ["no output"]
            raise GuestLost(f"ended: {last[-1][:80]}") from error
        except pexpect.TIMEOUT as error:
            raise GuestLost("hangs") from error
        return time.monotonic() - self.start

    def shell(self, command, timeout=-1):
        """Runs a command in the guest's shell: (what it printed, seconds here)."""
        start = time.monotonic()
        # The quotes keep the words that are waited for out of the terminal's echo.
        self.child.sendline(f"echo begin''=; {command}; echo status''=$?=")
        self.until(r"(?s)begin=\r*\n(.*?)status=(\d+)=", timeout)
        return self.child.match[1].replace("\r", ""), time.monotonic() - start

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
            size, is_guest = 0, False
            for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
                if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                    low, high = (int(x, 16) for x in line.split()[0].split("-"))
                    size = high - low
                    is_guest = "memfd:guest" in line or " /guest-" in line
                elif line.startswith("Pss:"):
                    kib = int(line.split()[1])
                    # Guest memory is the only mapping of this size in either program; Hull's is seen in windows, too.
                    if (size >= 256 << 20 or is_guest) and kib > 0:
                        guest += kib
                    else:
                        pss += kib
            total += pss
            own = max(own, pss if guest else 0)
        return own / 1024, total / 1024

    def close(self):
        self.child.kill(signal.SIGKILL)
        self.child.wait()  # a guest with writes under way may take seconds to go, which pexpect would not wait for
        self.child.close()
