"""What a VM's disks do besides storing: limits, failures of the host, overlays that are lost, copies on read, zeros, locks."""
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import time

import pexpect
import pytest

from conftest import HULL, hull
from test_remote_disks import Server, uri

MIB = 1 << 20


def ctl(control, *words):
    result = hull("ctl", control, *words)
    assert result.returncode == 0, result.stderr
    return result.stdout


def status(control):
    return json.loads(ctl(control, "status", "--json"))


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def sparse(path, size):
    with open(path, "wb") as file:
        file.truncate(size)
    return path


def qcow2(path, *words):
    assert hull("disk", "create", path, *words, "--format", "qcow2").returncode == 0
    return path


@pytest.fixture
def shell(boot, busybox, tmp_path):
    """A guest at its shell: (console, control socket)."""
    def start(*disks):
        control = tmp_path / "control"
        words = [word for disk in disks for word in ("--disk", disk)]
        vm = boot("--engine", "soft", "--memory", "256M", "--net", "none", *busybox, "--control", control, "--append",
                  "console=ttyS0 quiet", *words)
        vm.expect("# ")
        return vm, control
    return start


def seconds_of(vm, command):
    start = time.monotonic()
    vm.shell(command)
    return time.monotonic() - start


def test_limits_hold_are_shared_and_change_at_run_time(shell, tmp_path):
    first, second = sparse(tmp_path / "a", 64 * MIB), sparse(tmp_path / "b", 64 * MIB)
    vm, control = shell(f"{first},iops=200,group=both", f"{second},group=both")
    read = "dd if=/dev/{} of=/dev/null bs=4k count={} iflag=direct 2>/dev/null"
    assert 1.7 < seconds_of(vm, read.format("vda", 400)) < 3.5  # 20 at once, then 200 a second
    both = f"({read.format('vda', 200)} & {read.format('vdb', 200)}; wait)"
    assert 1.7 < seconds_of(vm, both) < 3.5
    answer = json.loads(ctl(control, "disk-throttle", "disk=disk1", "iops=0", "bps=4M", "--json"))
    assert answer == {"bps": 4 * MIB}
    assert 1.7 < seconds_of(vm, "dd if=/dev/vda of=/dev/null bs=64k count=128 iflag=direct 2>/dev/null") < 3.5
    ctl(control, "disk-throttle", "disk=disk0", "bps=0")
    assert seconds_of(vm, read.format("vda", 400)) < 1.5
    for words, why in ((["disk=disk7", "bps=1"], "there is no disk disk7"), (["disk=disk0", "bps-max=1"], "needs bps"),
                       (["disk=disk0", "speed=1"], "a number for bps")):
        result = hull("ctl", control, "disk-throttle", *words)
        assert result.returncode == 1 and why in result.stderr


@contextlib.contextmanager
def small_file_system(folder, size):
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("a small file system needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def next_event(events, name):
    """The next event of that name; those before it."""
    before = []
    while True:
        event = json.loads(events.stdout.readline())
        if event["event"] == name:
            return event, before
        before.append(event["event"])


@pytest.mark.parametrize("image_format, by_hand", [("raw", True), ("qcow2", False)])
def test_no_space_pauses_the_vm_until_there_is_some(shell, tmp_path, image_format, by_hand):
    folder = tmp_path / "small"
    with small_file_system(folder, "8m"):
        disk = folder / "disk"
        if image_format == "raw":
            sparse(disk, 32 * MIB)
        else:
            qcow2(disk, "32M")
        vm, control = shell(f"{disk},format={image_format}")
        events = subprocess.Popen([HULL, "ctl", control, "events"], stdout=subprocess.PIPE, text=True)
        vm.send_line("yes hull | dd of=/dev/vda bs=64k count=256 iflag=fullblock conv=fsync 2>/dev/null; echo wrote''=$?")
        failed, before = next_event(events, "disk-error")
        assert not before and failed["disk"] == "disk0"
        paused, before = next_event(events, "paused")
        assert not before and paused["why"].startswith("disk0: write") and "No space left" in paused["why"], paused
        resumed, _ = next_event(events, "resumed")  # it is tried again: still no space
        assert "tried again" in resumed["why"]
        assert next_event(events, "paused")[1] == ["disk-error"]
        if by_hand:  # a VM that its user has paused does not go on by itself
            ctl(control, "pause")
            subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
            time.sleep(2.5)
            assert status(control)["state"] == "paused"
            ctl(control, "resume")
        else:
            subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
        assert vm.expect(r"wrote=(\d+)")[1] == "0"
        assert "why" not in status(control)
        digest = vm.shell("dd if=/dev/vda bs=64k count=256 iflag=direct 2>/dev/null | md5sum").split()[0]
        wanted = subprocess.run("yes hull | head -c 16777216 | md5sum", shell=True, capture_output=True, text=True, check=True)
        assert digest == wanted.stdout.split()[0]
        ctl(control, "quit")
        events.wait(10)
        vm.wait()


@pytest.mark.skipif(shutil.which("nbdkit") is None, reason="nbdkit is not installed")
def test_vm_goes_on_when_its_server_does(shell, tmp_path):
    """A server that answers with errors, and one that is away for longer than requests wait."""
    image, path, trouble = sparse(tmp_path / "image", 8 * MIB), tmp_path / "nbd", tmp_path / "trouble"
    server = Server(path, ["nbdkit", "-f", "-U", path, "--filter=error", "file", image, "error-rate=100%", f"error-file={trouble}"])
    try:
        vm, control = shell(f"{uri(path, '')},format=raw,werror=stop,rerror=stop,reconnect=1")

        def trouble_for(break_it, mend_it, command):
            break_it()
            vm.send_line(f"{command} 2>/dev/null; echo ended''=$?")
            until(lambda: status(control)["state"] == "paused")
            assert "disk0: " in status(control)["why"]
            mend_it()
            assert vm.expect(r"ended=(\d+)")[1] == "0"
            assert status(control)["state"] == "running"

        trouble_for(trouble.touch, trouble.unlink, "yes hull | head -c 65536 | dd of=/dev/vda bs=4k oflag=direct")
        trouble_for(trouble.touch, trouble.unlink, "dd if=/dev/vda of=/tmp/in bs=4k count=16 iflag=direct")
        trouble_for(server.kill, server.start, "dd if=/tmp/in of=/dev/vda bs=4k seek=16 oflag=direct conv=fsync")
        vm.shell("! dmesg | grep -i 'i/o error'")
        ctl(control, "quit")
        vm.wait()
    finally:
        server.stop()
    assert image.read_bytes()[:131072] == (b"hull\n" * 20000)[:65536] * 2


def test_no_space_is_reported_when_that_is_wanted(shell, tmp_path):
    folder = tmp_path / "small"
    with small_file_system(folder, "4m"):
        vm, control = shell(f"{sparse(folder / 'disk', 32 * MIB)},werror=report")
        vm.shell("! dd if=/dev/zero of=/dev/vda bs=64k count=128 conv=fsync 2>/dev/null")
        assert status(control)["state"] == "running"
        vm.close()


def test_snapshot_writes_are_lost(shell, tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(b"before" + bytes(4 * MIB - 6))
    inner = tmp_path / "disk.vdi"
    for path, words in ((disk, f"{disk},snapshot"), (inner, f"{inner},format=vdi,snapshot")):
        if path == inner:
            if shutil.which("qemu-img") is None:
                continue
            subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vdi", disk, inner], check=True)
        before = path.read_bytes()
        vm, control = shell(words)
        assert "before" in vm.shell("dd if=/dev/vda bs=6 count=1 2>/dev/null")
        vm.shell("echo after | dd of=/dev/vda conv=fsync 2>/dev/null; echo 3 > /proc/sys/vm/drop_caches")
        assert "after" in vm.shell("dd if=/dev/vda bs=6 count=1 2>/dev/null")
        ctl(control, "quit")
        vm.wait()
        assert path.read_bytes() == before


def test_copy_on_read_zeros_and_discards(shell, tmp_path):
    base = tmp_path / "base"
    base.write_bytes(os.urandom(2 * MIB) + bytes(2 * MIB))
    top = qcow2(tmp_path / "top", "4M", "--backing", base, "--backing-format", "raw")
    zeros, kept = tmp_path / "zeros", tmp_path / "kept"
    for path in (zeros, kept):
        path.write_bytes(os.urandom(2 * MIB))
    vm, control = shell(f"{top},format=qcow2,backing={base},backing-format=raw,copy-on-read=on",
                        f"{zeros},detect-zeroes=unmap", f"{kept},discard=ignore")
    vm.shell("dd if=/dev/vda of=/dev/null bs=128k count=32 iflag=direct 2>/dev/null")
    vm.shell("dd if=/dev/zero of=/dev/vdb bs=128k oflag=direct count=16 2>/dev/null; blkdiscard /dev/vdc")
    ctl(control, "quit")
    vm.wait()
    assert zeros.stat().st_blocks == 0
    assert kept.stat().st_blocks * 512 == 2 * MIB
    extents = json.loads(hull("disk", "map", top, "--image-format", "qcow2", "--json", "--allow", base).stdout)
    assert all(extent["depth"] == 0 for extent in extents if extent["start"] < 2 * MIB), extents


@pytest.mark.parametrize("cache", ["none", "writethrough", "directsync", "unsafe"])
def test_cache_modes(shell, tmp_path, cache):
    disk = qcow2(tmp_path / "disk", "16M")
    vm, control = shell(f"{disk},format=qcow2,cache={cache}")
    kind = vm.shell("cat /sys/block/vda/queue/write_cache").strip()
    assert kind == ("write through" if cache in ("writethrough", "directsync") else "write back")
    digest = vm.shell("dd if=/dev/urandom of=/tmp/x bs=512 count=4000 2>/dev/null; dd if=/tmp/x of=/dev/vda bs=7k conv=fsync "
                      "2>/dev/null; md5sum < /tmp/x").split()[0]
    ctl(control, "quit")
    vm.wait()
    raw = tmp_path / "raw"
    assert hull("disk", "convert", disk, raw, "--image-format", "qcow2", "--format", "raw").returncode == 0
    data = pathlib.Path(raw).read_bytes()[:4000 * 512]
    assert subprocess.run(["md5sum"], input=data, capture_output=True, check=True).stdout.decode().split()[0] == digest


def qemu_refuses(*words):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 0 or "lock" in done.stderr, done.stderr
    return done.returncode != 0


@pytest.mark.skipif(shutil.which("qemu-io") is None, reason="qemu-io is not installed")
def test_locks_are_those_of_qemu(boot, busybox, tmp_path):
    disk = qcow2(tmp_path / "disk", "8M")
    control = tmp_path / "control"

    def start(words):
        return boot("--engine", "soft", "--net", "none", "--paused", *busybox, "--control", control, "--disk", words,
                    timeout=20)

    io = pexpect.spawn("qemu-io", ["-f", "qcow2", str(disk)], timeout=10)
    io.expect("qemu-io> ")
    for words in (f"{disk},format=qcow2", f"{disk},format=qcow2,readonly"):
        start(words).expect("locked by another process")
    io.close(force=True)
    write, info = ("qemu-io", "-f", "qcow2", "-c", "write 0 512", disk), ("qemu-img", "info", "-f", "qcow2", disk)
    for words, refused in ((f"{disk},format=qcow2", (True, True)), (f"{disk},format=qcow2,readonly", (True, False))):
        vm = start(words)
        until(control.exists)
        assert (qemu_refuses(*write), qemu_refuses(*info)) == refused
        ctl(control, "quit")
        vm.wait()
    assert not qemu_refuses(*write)
