"""Memory and CPUs of a running guest: more, fewer, and through a save in between."""
import json
import pathlib
import re
import subprocess
import time

import pexpect
import pytest

from conftest import GUESTS, hull

MIB = 1 << 20


@pytest.fixture
def guest(busybox, tmp_path):
    """Arguments for a busybox guest that has virtio_mem, and onlines what comes."""
    kernel, initrd = busybox[1], busybox[3]
    folder = GUESTS / "modules-cloud/kernel/drivers/virtio"
    archive = subprocess.run(["cpio", "--quiet", "-o", "-H", "newc"], input=b"virtio_mem.ko\n", cwd=folder,
                             stdout=subprocess.PIPE, check=True).stdout
    data = pathlib.Path(initrd).read_bytes()
    both = tmp_path / "initrd"
    both.write_bytes(data + bytes(-len(data) % 4) + archive)
    return ["--engine", "soft", "--kernel", kernel, "--initrd", both, "--net", "none",
            "--append", "console=ttyS0 quiet memhp_default_state=online_movable"]


def control(path, *arguments):
    result = hull("ctl", path, *arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout) if result.stdout.strip() else {}


def serves(path):
    return lambda: hull("ctl", path, "status").returncode == 0


def until(what, timeout=120):
    """The first true value of 'what'."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        value = what()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError("it never came to that")


def has_memory(path, mib):
    return lambda: control(path, "status")["memory_present_bytes"] == mib * MIB


def total_mib(vm):
    return int(re.search(r"MemTotal: +(\d+) kB", vm.shell("cat /proc/meminfo"))[1]) // 1024


def resident_mib(path):
    pid = control(path, "status")["pid"]
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) // 1024


def test_memory_comes_and_goes(boot, guest, tmp_path):
    path, saved = tmp_path / "control", tmp_path / "saved"
    arguments = [*guest, "--memory", "512M,max=2G"]
    vm = boot(*arguments, "--control", path)
    vm.expect("# ")
    vm.shell("insmod /virtio_mem.ko")
    first = total_mib(vm)
    assert first < 512
    control(path, "memory", "size=1G")
    until(has_memory(path, 1024))
    assert first + 500 <= total_mib(vm) <= first + 512
    before = resident_mib(path)
    vm.shell("mount -t tmpfs -o size=500m none /mnt && dd if=/dev/urandom of=/mnt/file bs=1M count=300")
    digest = vm.shell("md5sum /mnt/file").split()[0]
    assert resident_mib(path) > before + 250

    # What came later is in a saved state too, and can be given back after it.
    control(path, "save", f"file={saved}")
    control(path, "quit")
    vm.child.expect(pexpect.EOF)
    vm = boot(*arguments, "--restore", saved, "--control", path)
    until(serves(path))
    status = control(path, "status")
    assert (status["memory_bytes"], status["memory_present_bytes"]) == (1024 * MIB, 1024 * MIB)
    vm.send_line("")
    assert vm.shell("md5sum /mnt/file").split()[0] == digest
    vm.shell("rm /mnt/file")
    full = resident_mib(path)
    control(path, "memory", "size=512M")
    until(has_memory(path, 512))
    assert first - 12 <= total_mib(vm) <= first
    assert until(lambda: resident_mib(path) < full - 150)

    # Below what it was made with, the balloon helps; and all of it comes back.
    control(path, "memory", "size=400M")
    until(has_memory(path, 400))
    control(path, "memory", "size=768M")
    until(has_memory(path, 768))
    result = hull("ctl", path, "memory", "size=3G")
    assert result.returncode == 1 and "from 0 to 2147483648" in result.stderr


ONLINE = "for c in /sys/devices/system/cpu/cpu[1-9]; do echo 1 > $c/online; done"


def cpus_of(vm):
    return int(vm.shell("nproc"))


def test_cpus_come_and_go(boot, guest, tmp_path):
    path, saved = tmp_path / "control", tmp_path / "saved"
    arguments = [*guest, "--memory", "256M", "--cpus", "1,max=4"]
    vm = boot(*arguments, "--control", path)
    vm.expect("# ")
    assert cpus_of(vm) == 1
    assert vm.shell("cat /sys/devices/system/cpu/possible").strip() == "0-3"
    assert control(path, "cpus", "count=3") == {"vcpus": 3, "vcpus_leaving": 0}
    until(lambda: "cpu2" in vm.shell("ls /sys/devices/system/cpu"))
    vm.shell(ONLINE)
    assert cpus_of(vm) == 3
    # Each of them works, and so does what all of them do at once.
    vm.shell("for c in 0 1 2; do taskset $((1 << c)) md5sum /bin/busybox & done; wait")

    control(path, "save", f"file={saved}")
    control(path, "quit")
    vm.child.expect(pexpect.EOF)
    vm = boot(*arguments, "--restore", saved, "--control", path)
    until(serves(path))
    vm.send_line("")
    assert cpus_of(vm) == 3
    status = control(path, "status")
    assert (status["vcpus"], status["vcpus_max"]) == (3, 4)

    control(path, "cpus", "count=1")
    until(lambda: control(path, "status")["vcpus"] == 1)
    assert control(path, "status")["vcpus_leaving"] == 0
    assert cpus_of(vm) == 1
    control(path, "cpus", "count=4")
    until(lambda: "cpu3" in vm.shell("ls /sys/devices/system/cpu"))
    vm.shell(ONLINE)
    assert cpus_of(vm) == 4
    # After a reset they are there from the start.
    control(path, "reset")
    vm.expect("built-in shell.*# ", timeout=60)
    assert cpus_of(vm) == 4
    result = hull("ctl", path, "cpus", "count=5")
    assert result.returncode == 1 and "from 1 to 4" in result.stderr
