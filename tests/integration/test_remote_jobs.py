"""Mirrors, backups and snapshots of a running VM to disks of every protocol, whose servers die and come back meanwhile: storage migration."""
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

from conftest import hull
from test_disk_jobs import MARK, SIZE, Machine, digest_of, run
from test_remote_disks import (MIB, Ceph, SecureServer, free_port, ganesha, make_certificate, needs_certtool, needs_nbdkit,  # noqa: F401 (fixtures)
                               takes_connections, target, until)

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")

# Numbers, each durable before it is told, all over the disk; and their sum is known to the host.
WRITER = ("(i=0; while [ ! -e /tmp/stop ]; do yes \"block $i.\" | head -c 4096 > /tmp/b; "
          "dd if=/tmp/b of=/dev/vda bs=4k seek=$((i * 37 % 16384)) conv=notrunc,fsync 2>/dev/null || touch /tmp/failed; "
          "i=$((i + 1)); done; echo $i > /tmp/count) & writer=$!")


class Port:
    """qemu-nbd on a TCP port."""

    def __init__(self, image, image_format="raw"):
        self.port = free_port()
        self.command = ["qemu-nbd", "-t", "-e", "16", "-b", "127.0.0.1", "-p", str(self.port), "-f", image_format, "-x", "disk", str(image)]
        self.start()

    def start(self):
        self.child = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: self.child.poll() is not None or takes_connections(self.port), "qemu-nbd does not start")
        assert self.child.poll() is None

    def kill(self):
        self.child.kill()
        self.child.wait()

    def uri(self):
        return f"nbd://127.0.0.1:{self.port}/disk"


@pytest.fixture
def machine(boot, busybox, tmp_path):
    run("qemu-img", "create", "-f", "qcow2", tmp_path / "base.qcow2", SIZE)
    vm = Machine(boot, busybox, tmp_path, tmp_path / "base.qcow2")
    yield vm


def empty(path, size=SIZE):
    path.touch()
    os.truncate(path, size)
    return path


def helpers(uri):
    """The processes hull-storage of that disk."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            words = path.read_bytes().split(b"\0")
            if words[0] == b"hull-storage" and uri.encode() in words:
                found.append(path.parent.name)
    return found


def migrate(vm, server, uri, *words, is_slow=False):
    """Mirrors the disk while the guest writes and the server dies; then the guest goes on there, and the server dies again. 'is_slow': it
    does so once."""
    vm.fill(12, 8)
    vm.console.shell("rm -f /tmp/stop; " + WRITER)
    job = vm.ctl("disk-mirror", "disk=disk0", f"file={uri}", "speed=16M", *words)["job"]
    until(lambda: vm.job(job)["done_bytes"] >= 4 * MIB, "nothing is copied", 60)
    server.kill()
    time.sleep(0.3)
    server.start()
    vm.ctl("job-speed", f"job={job}", "speed=0")
    vm.wait(job, "ready", timeout=300)
    if not is_slow:
        server.kill()
        server.start()
    old = helpers(uri)
    assert len(old) == 1
    os.kill(int(old[0]), signal.SIGKILL)
    until(lambda: helpers(uri) not in (old, []), "hull-storage is not started again")
    vm.ctl("disk-mirror-complete", f"job={job}")
    vm.done(job)
    if not is_slow:
        server.kill()
        server.start()
    vm.console.shell("touch /tmp/stop; wait $writer; [ ! -e /tmp/failed ] && [ $(cat /tmp/count) -gt 5 ]")
    told = vm.digest()
    assert len(vm.chain()) == 1
    vm.quit()
    until(lambda: not helpers(uri), "hull-storage is left")
    return told


def digest(path, size=SIZE):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read(size)).hexdigest()


def test_to_nbd_over_tcp(machine, tmp_path):
    copy = empty(tmp_path / "copy.raw")
    server = Port(copy)
    try:
        told = migrate(machine, server, server.uri(), f"log={tmp_path}/log")
    finally:
        server.kill()
    assert digest(copy) == told
    assert "connected again" in (tmp_path / "log").read_text(encoding="utf-8")


@needs_nbdkit
@needs_certtool
def test_to_nbd_with_tls(machine, tmp_path):
    copy = empty(tmp_path / "copy.raw")
    server = SecureServer(make_certificate(tmp_path / "keys"), copy)
    try:
        told = migrate(machine, server, f"nbds://localhost:{server.port}/?tls-certificates={tmp_path}/keys")
    finally:
        server.kill()
    assert digest(copy) == told


def test_to_iscsi(machine, target, tmp_path):
    """The unit is larger than the disk: the rest of it stays as it is."""
    os.truncate(target.disk, SIZE + 8 * MIB)
    with open(target.disk, "r+b") as file:
        file.seek(SIZE)
        file.write(b"mine" * 1024)
    target.kill()
    target.start()
    told = migrate(machine, target, target.uri())
    assert digest(target.disk) == told
    with open(target.disk, "rb") as file:
        file.seek(SIZE)
        assert file.read(4096) == b"mine" * 1024


def test_to_nfs(machine, ganesha):
    empty(ganesha.export / "copy.raw")
    told = migrate(machine, ganesha, ganesha.uri("copy.raw"))
    assert digest(ganesha.export / "copy.raw") == told


@pytest.mark.long
def test_to_rbd(machine, tmp_path):
    if shutil.which("ceph-mon") is None or shutil.which("ceph-osd") is None or os.geteuid() != 0:
        pytest.skip("ceph-mon or ceph-osd is not installed, or this is not root")
    folder = tmp_path / "ceph"
    folder.mkdir()
    ceph = Ceph(folder)
    try:
        run("rbd", "-c", ceph.conf, "create", "--size", "64M", "disk")
        ceph.start = lambda: ceph.spawn("ceph-osd", "0")  # how it gets on is seen by the mirror
        told = migrate(machine, ceph, ceph.uri("disk"), "reconnect=300", is_slow=True)
        assert hull("disk", "convert", ceph.uri("disk"), tmp_path / "copy.raw").returncode == 0
        assert digest(tmp_path / "copy.raw") == told
    finally:
        ceph.stop()


def test_backup_to_a_server_that_dies(machine, tmp_path):
    """It is of the moment in which it began, whatever the guest writes and whoever dies meanwhile."""
    vm = machine
    copy = empty(tmp_path / "copy.raw")
    server = Port(copy)
    try:
        vm.fill(12, 8)
        before = vm.digest()
        job = vm.ctl("disk-backup", "disk=disk0", f"file={server.uri()}", "speed=4M")["job"]
        vm.fill(2, 20)
        until(lambda: vm.job(job)["done_bytes"] >= 4 * MIB, "nothing is copied", 60)
        server.kill()
        time.sleep(0.3)
        server.start()
        old = helpers(server.uri())
        assert len(old) == 1
        os.kill(int(old[0]), signal.SIGKILL)
        until(lambda: helpers(server.uri()) not in (old, []), "hull-storage is not started again")
        vm.fill(2, 40)
        vm.ctl("job-speed", f"job={job}", "speed=0")
        vm.done(job)
        assert vm.digest() != before
        vm.quit()
        until(lambda: not helpers(server.uri()), "hull-storage is left")
    finally:
        server.kill()
    assert digest(copy) == before


def test_images_behind_a_server(machine, tmp_path):
    """A qcow2 in a remote disk: made there, as target of backups and mirrors, and on top of the disk."""
    vm = machine
    full, some, top = [empty(tmp_path / f"{name}.qcow2", SIZE + 8 * MIB) for name in ("full", "some", "top")]
    servers = [Port(image) for image in (full, some, top)]
    try:
        vm.fill(4, 0)
        before = vm.digest()
        vm.ctl("disk-bitmap-add", "disk=disk0", "bitmap=b")
        words = ["disk-backup", "disk=disk0", "format=qcow2", "bitmap=b", "wait=true"]
        vm.ctl(*words, f"file={servers[0].uri()}", "mode=full")
        vm.fill(1, 8)
        after = vm.digest()
        vm.ctl(*words, f"file={servers[1].uri()}", f"backing={full}", "backing-format=qcow2")
        vm.ctl("disk-snapshot", "disk=disk0", f"file={servers[2].uri()}")
        vm.fill(1, 16)
        last = vm.digest()
        vm.quit()
        until(lambda: not helpers(servers[2].uri()), "hull-storage is left")
    finally:
        for server in servers:
            server.kill()
    assert digest_of(full, tmp_path) == before
    assert digest_of(some, tmp_path) == after
    assert digest_of(top, tmp_path) == last


def test_a_target_is_used_again(machine, tmp_path):
    """What an ended job has left there is in nobody's way; and what cannot be a target is told."""
    vm = machine
    copy = empty(tmp_path / "copy.raw")
    server = Port(copy)
    try:
        vm.fill(2, 0)
        job = vm.ctl("disk-mirror", "disk=disk0", f"file={server.uri()}", "speed=1M")["job"]
        vm.ctl("job-cancel", f"job={job}")
        vm.wait(job, "cancelled")
        until(lambda: not helpers(server.uri()), "hull-storage is left")
        assert copy.read_bytes()[:len(MARK)] == MARK
        vm.ctl("disk-backup", "disk=disk0", f"file={server.uri()}", "wait=true")
        assert digest(copy) == vm.digest()
        assert "Connection refused" in vm.refused("disk-mirror", "disk=disk0", f"file=nbd://127.0.0.1:{free_port()}/x")
        assert "has 67108864 bytes" in vm.refused("disk-resize", "disk=disk0", "bytes=32M")
        vm.ctl("disk-resize", "disk=disk0", "bytes=80M")
        assert "the same is needed" in vm.refused("disk-mirror", "disk=disk0", f"file={server.uri()}")
        # A server that does not come back: the job fails, the guest goes on.
        vm.ctl("disk-resize", "disk=disk0", "bytes=64M", "shrink=true")
        job = vm.ctl("disk-mirror", "disk=disk0", f"file={server.uri()}", "speed=1M", "reconnect=1")["job"]
        server.kill()
        assert "writing to" in vm.wait(job, "failed")["failure"]
        vm.fill(1, 4)
        # Nobody waits for it who has no use for the copy any more: a job that is cancelled, a VM that ends.
        for end in ("job-cancel", "quit"):
            server.start()
            job = vm.ctl("disk-mirror", "disk=disk0", f"file={server.uri()}", "speed=1M", "reconnect=3000")["job"]
            until(lambda: vm.job(job)["done_bytes"] > 0, "nothing is copied")
            server.kill()
            vm.ctl("job-speed", f"job={job}", "speed=0")
            if end == "quit":
                vm.quit()
            else:
                vm.ctl(end, f"job={job}")
                vm.wait(job, "cancelled")
    finally:
        server.kill()


@contextlib.contextmanager
def loop_device(file):
    made = subprocess.run(["losetup", "--find", "--show", file], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip("no loop devices here")
    try:
        yield pathlib.Path(made.stdout.strip())
    finally:
        subprocess.run(["losetup", "-d", made.stdout.strip()], check=False)


def test_to_block_devices(machine, tmp_path):
    """A mirror to a raw one, on which the guest goes on; and an image on top of that in another one."""
    vm = machine
    first, second = empty(tmp_path / "first", SIZE + MIB), empty(tmp_path / "second", SIZE + 8 * MIB)
    with loop_device(first) as raw, loop_device(second) as top:
        vm.fill(4, 0)
        job = vm.ctl("disk-mirror", "disk=disk0", f"file={raw}", "wait=true")["job"]
        vm.fill(2, 6)
        vm.ctl("disk-mirror-complete", f"job={job}")
        vm.done(job)
        vm.console.shell("dd if=/dev/zero of=/dev/vda bs=1M count=1 seek=1 conv=notrunc,fsync 2>/dev/null")
        below = vm.digest()
        vm.ctl("disk-snapshot", "disk=disk0", f"file={top}")
        assert vm.chain() == [top.name, raw.name]
        vm.fill(2, 7)
        told = vm.digest()
        vm.quit()
        assert digest(raw) == below
        run("qemu-img", "check", "-f", "qcow2", top)
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", top, tmp_path / "flat")
        assert digest(tmp_path / "flat") == told


@pytest.mark.long
def test_encrypted_disks_do_not_leave_in_the_open(boot, busybox, tmp_path):
    key = tmp_path / "key"
    key.write_text("a word that nobody knows")
    image, copy = tmp_path / "image.luks", empty(tmp_path / "copy.raw")
    assert hull("disk", "create", image, "64M", "--encrypt", "luks", "--key-file", key, timeout=120).returncode == 0
    console = boot("--engine", "soft", "--memory", "256M", *busybox, "--append", "console=ttyS0 quiet",
                   "--disk", f"{image},format=luks,key-file={key}", "--control", tmp_path / "control")
    console.expect("# ")
    server = Port(copy)
    try:
        result = hull("ctl", tmp_path / "control", "disk-mirror", "disk=disk0", f"file={server.uri()}")
        assert result.returncode == 1 and "encrypted" in result.stderr, result.stderr
    finally:
        server.kill()
    assert json.loads(hull("ctl", tmp_path / "control", "jobs", "--json").stdout) == {"jobs": []}
    assert hull("ctl", tmp_path / "control", "quit").returncode == 0


def test_back_into_a_remote_image(boot, busybox, tmp_path):
    """Commits into images behind a server: one that was the top, and one that the VM has only read so far; a stream into one."""
    base = tmp_path / "base.qcow2"
    run("qemu-img", "create", "-f", "qcow2", base, SIZE)
    os.truncate(base, SIZE + 8 * MIB)
    server = Port(base)
    try:
        vm = Machine(boot, busybox, tmp_path, server.uri())
        vm.fill(2, 0)
        vm.ctl("disk-snapshot", "disk=disk0", f"file={tmp_path}/top.qcow2")
        vm.fill(2, 1)
        job = vm.ctl("disk-commit", "disk=disk0", f"file={server.uri()}", "wait=true")
        assert job["state"] == "done" and vm.chain() == ["disk"]
        vm.ctl("disk-snapshot", "disk=disk0", f"file={tmp_path}/top2.qcow2")
        vm.fill(2, 2)
        told = vm.digest()
        vm.quit()

        vm = Machine(boot, busybox, tmp_path, tmp_path / "top2.qcow2", f",backing={server.uri()},backing-format=qcow2")
        assert vm.digest() == told
        assert "does not stand on" in vm.refused("disk-commit", "disk=disk0", "file=nbd://127.0.0.1:1/other")
        vm.ctl("disk-commit", "disk=disk0", f"file={server.uri()}", "wait=true")
        assert vm.chain() == ["disk"]
        until(lambda: len(helpers(server.uri())) == 1, "the job's hull-storage is left")
        server.kill()
        server.start()
        vm.fill(2, 8)
        told = vm.digest()
        vm.quit()
        until(lambda: not helpers(server.uri()), "hull-storage is left")
    finally:
        server.kill()
    assert digest_of(base, tmp_path) == told


def test_killed_while_it_moves(machine, tmp_path):
    """What the server has is marked as unfinished, and the helper ends."""
    vm = machine
    copy = empty(tmp_path / "copy.raw")
    server = Port(copy)
    try:
        vm.fill(8, 0)
        job = vm.ctl("disk-mirror", "disk=disk0", f"file={server.uri()}", "speed=4M")["job"]
        until(lambda: vm.job(job)["done_bytes"] > 0, "nothing is copied")
        vm.kill()
        until(lambda: not helpers(server.uri()), "hull-storage is left")
    finally:
        server.kill()
    assert copy.read_bytes()[:len(MARK)] == MARK
    run("qemu-img", "check", "-f", "qcow2", tmp_path / "base.qcow2")
