"""Disks and network cards that come and go while the guest runs: by ACPI, as Linux's acpiphp takes it."""
import json
import time

import pytest

from conftest import hull

MIB = 1 << 20


class Machine:
    def __init__(self, console, socket):
        self.console = console
        self.socket = socket

    def ctl(self, *words):
        result = hull("ctl", self.socket, *words, "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout) if result.stdout.strip() else {}

    def refused(self, *words):
        result = hull("ctl", self.socket, *words)
        assert result.returncode == 1, result.stdout
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
        return result.stderr

    def parts(self):
        return {part["device"]: part for part in self.ctl("devices")["parts"]}

    def until(self, command, expected, timeout=60):
        """The guest's own view, until it is as expected."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            seen = self.console.shell(command).strip()
            if seen == expected:
                return
            time.sleep(0.1)
        raise AssertionError(f"{command}: {seen!r}, expected {expected!r}")


def sparse(path, size):
    with open(path, "wb") as file:
        file.truncate(size)
    return path


@pytest.fixture
def start(boot, busybox, tmp_path):
    def run(*words, guest=busybox):
        socket = tmp_path / "control"
        console = boot("--engine", "soft", "--memory", "256M", *guest, "--append", "console=ttyS0 quiet", "--control",
                       socket, *words)
        console.expect("# ")
        return Machine(console, socket)
    return run


DISKS = "ls /sys/block | grep -c ^vd || true"


def plug(vm, image, *keys):
    return vm.ctl("plug", ",".join([f"disk={image}", "format=raw", *keys]))


def test_disks_come_and_go(start, tmp_path):
    vm = start("--net", "none")
    image = sparse(tmp_path / "data", 32 * MIB)
    other = sparse(tmp_path / "other", 16 * MIB)
    vm.until(DISKS, "0")

    answer = plug(vm, image, "id=data", "serial=first")
    assert (answer["device"], answer["model"], answer["id"]) == ("disk0", "virtio-blk.0", "data")
    assert answer["guest_listens"]
    vm.until(DISKS, "1")
    assert vm.console.shell("cat /sys/block/vda/size /sys/block/vda/serial").split() == [str(32 * MIB // 512), "first"]
    vm.console.shell("yes written | dd of=/dev/vda bs=1M count=8 conv=fsync iflag=fullblock 2>/dev/null")
    assert image.read_bytes()[:8] == b"written\n"
    assert plug(vm, other)["device"] == "disk1"
    vm.until(DISKS, "2")
    assert vm.parts()["disk1"]["slot"] != vm.parts()["disk0"]["slot"]

    # What is refused leaves nothing behind: no lock, no name, no slot.
    assert "locked by another process" in vm.refused("plug", f"disk={other},format=raw")
    third = sparse(tmp_path / "third", MIB)
    taken = answer["slot"]
    assert "id data" in vm.refused("plug", f"disk={third},format=raw,id=data")
    assert f"PCI slot {taken}" in vm.refused("plug", f"disk={third},format=raw,slot={taken}")
    assert "index 1" in vm.refused("plug", f"disk={third},format=raw,index=1")
    assert "not" in vm.refused("plug", f"disk={third},format=qcow2")
    assert vm.ctl("disk-list")["disks"][0]["id"] == "data"
    assert len(vm.parts()) == 2

    # The guest is in the middle of writing: its requests end, the rest are errors in the guest, and the VM goes on.
    vm.console.shell("(dd if=/dev/zero of=/dev/vda bs=64k count=400 conv=fsync; echo over > /tmp/over) 2>/tmp/dd & sleep 0.2")
    gone = vm.ctl("unplug", "device=data", "wait=true")
    assert not gone["leaving"]
    vm.until(DISKS, "1")
    assert list(vm.parts()) == ["disk1"]
    assert "no disk or card" in vm.refused("unplug", "device=data")
    assert plug(vm, image)["device"] == "disk0"  # its number and its lock are free again
    vm.until(DISKS, "2")
    assert vm.console.shell("dd if=/dev/vda bs=1M count=1 skip=7 2>/dev/null | head -c 1 | wc -c").strip() == "1"

    vm.ctl("unplug", "device=disk1", "wait=true")
    vm.until(DISKS, "1")
    for _ in range(10):
        vm.ctl("unplug", "device=disk0", "wait=true")
        vm.until(DISKS, "0")
        plug(vm, image)
        vm.until(DISKS, "1")
    assert vm.ctl("quit") == {}


def test_a_card_comes_and_goes(start):
    vm = start("--net", "none")
    card = vm.ctl("plug", "net=user,id=lab")
    assert (card["device"], card["model"]) == ("net0", "virtio-net.0")
    vm.until("ls /sys/class/net | grep -c ^eth || true", "1")
    vm.console.shell("ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; ping -c 2 -W 5 10.0.2.2", timeout=60)
    vm.ctl("unplug", "device=lab", "wait=true")
    vm.until("ls /sys/class/net | grep -c ^eth || true", "0")
    assert vm.parts() == {}


def test_saved_and_restored_with_what_was_plugged(start, boot, busybox, tmp_path):
    first = sparse(tmp_path / "first", 16 * MIB)
    data = sparse(tmp_path / "data", 32 * MIB)
    vm = start("--net", "user", "--disk", f"{first},format=raw")
    plugged = plug(vm, data, "id=data")
    vm.until(DISKS, "2")
    vm.ctl("unplug", "device=disk0", "wait=true")
    vm.until(DISKS, "1")
    vm.console.shell("echo kept | dd of=/dev/vdb bs=512 conv=sync,fsync 2>/dev/null")
    vm.ctl("save", f"file={tmp_path / 'state'}", "then=quit")
    assert vm.console.wait() == 0

    arguments = ["--engine", "soft", "--memory", "256M", *busybox, "--append", "console=ttyS0 quiet", "--net", "user",
                 "--restore", tmp_path / "state", "--control", tmp_path / "control"]
    wrong = hull("boot", *arguments, "--disk", f"{data},format=raw")
    assert wrong.returncode == 1
    assert "virtio-blk.1" in wrong.stderr
    vm.console = boot(*arguments, "--disk", f"{data},format=raw,id=data,index={plugged['index']}")
    vm.console.send_line("")
    vm.console.expect("# ")
    vm.until("head -c 4 /dev/vdb", "kept")
    assert vm.parts()["disk1"]["slot"] == plugged["slot"]
    vm.ctl("pause")
    assert plug(vm, first)["index"] == 0
    vm.ctl("resume")
    vm.until(DISKS, "2")
    vm.ctl("unplug", "device=data", "wait=true")
    vm.until(DISKS, "1")

    # A guest that is restarted has let go of what it was asked for, and finds what it was given.
    vm.ctl("pause")
    assert vm.ctl("unplug", "device=disk0")["leaving"]
    assert vm.parts()["disk0"]["leaving"]
    plug(vm, data, "slot=20")
    vm.ctl("reset")
    assert list(vm.parts()) == ["disk1", "net0"]
    vm.ctl("resume")
    vm.console.expect("built-in shell")
    vm.console.expect("# ")
    vm.until("cat /sys/block/vd*/size", str(32 * MIB // 512))
    vm.until("ls -d /sys/devices/pci0000:00/0000:00:14.0/virtio*/block/vda | wc -l", "1")
