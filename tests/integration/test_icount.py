"""Time that is counted in instructions: two runs of a guest are the same, instruction by instruction and byte by byte."""
import re
import subprocess
import threading

import pytest

from conftest import GUESTS, hull

COMMAND = "hull.run=cat,/proc/interrupts,/proc/uptime;head,-c,64,/dev/urandom,|,md5sum;date;sleep,3"


def run(boot, tmp_path, options, *guest):
    """Boots a guest that powers off by itself; returns what was counted, and its console."""
    log = tmp_path / "log"
    log.unlink(missing_ok=True)
    vm = boot("--engine", f"soft,{options}", "--log", log, "--verbose", "--net", "none", *guest, timeout=600)
    assert vm.wait(600) == 0
    count = re.search(r"icount: (\d+) instructions, (\d+) ns, hash of memory (\w+)", log.read_text())
    return count.groups(), vm.transcript()


def test_busybox_guest_repeats(boot, busybox, tmp_path):
    """Also while somebody stops it all the time, with verified blocks, and with an idle guest that sleeps."""
    guest = ["--memory", "256M", *busybox, "--append", f"console=ttyS0 {COMMAND}"]
    first = run(boot, tmp_path, "icount=on", *guest)
    assert "2026" in first[1]
    control = tmp_path / "control"
    is_over = threading.Event()

    def disturb():
        while not is_over.is_set():
            hull("ctl", control, "pause")
            hull("ctl", control, "resume")

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        second = run(boot, tmp_path, "icount=on,verify=on", "--control", control, *guest)
    finally:
        is_over.set()
        thread.join()
    assert first == second
    slower, _ = run(boot, tmp_path, "icount=3", *guest)
    assert slower != first[0]


@pytest.mark.long
def test_interpreter_counts_the_same(boot, busybox, tmp_path):
    """The same boot interpreted and translated: that is a comparison of the two over more than a billion instructions."""
    guest = ["--memory", "256M", *busybox, "--append", f"console=ttyS0 {COMMAND}"]
    assert run(boot, tmp_path, "icount=on", *guest) == run(boot, tmp_path, "icount=on,translate=off", *guest)


@pytest.mark.parametrize("options", ["icount=on", pytest.param("icount=on,translate=off", marks=pytest.mark.long)])
def test_systemd_guest_repeats(boot, debian, tmp_path, options):
    """With a disk, whose requests are done when the guest's order to look at them is."""
    *arguments, command_line = debian
    disk = arguments[arguments.index("--disk") + 1]
    arguments += [f"{command_line} systemd.unit=poweroff.target"]
    results = []
    # Two ways to the disk, which are done with several requests in different orders.
    for each, aio in (("icount=on", "auto"), (options, "threads")):
        subprocess.run(["cp", "--sparse=always", GUESTS / "debian.raw", disk], check=True)
        guest = [f"{disk},aio={aio}" if argument == disk else argument for argument in arguments]
        results.append(run(boot, tmp_path, each, "--memory", "512M", *guest))
    assert results[0] == results[1]


def test_refused():
    assert "icount is for 1" in hull("boot", "--engine", "soft,icount=on", "--cpus", 2,
                                     "--kernel", GUESTS / "vmlinuz-cloud").stderr
    assert "icount=on|SHIFT" in hull("boot", "--engine", "soft,icount=11",
                                     "--kernel", GUESTS / "vmlinuz-cloud").stderr
