"""Disks behind real servers, worked on by fio inside of guests while the servers are killed and started again."""
import contextlib
import hashlib
import os
import random
import shutil
import signal
import time

import pytest

from test_disk_serve import MIB, run
from test_remote_disks import Server, ganesha, needs_nbdkit, target, uri  # noqa: F401 (fixtures)
from test_storage import Disk, start

pytestmark = pytest.mark.skipif(shutil.which("qemu-nbd") is None, reason="qemu-utils are not installed")
SIZE = 48 * MIB


class RemoteDisk(Disk):
    """A disk behind a server that can be killed."""

    def __init__(self, server, image, image_format, argument):
        super().__init__(image, image_format, argument)
        self.server = server

    def finish(self):
        """qemu-nbd writes what it has when it is asked to end."""
        if isinstance(self.server, Server):
            self.server.stop()


def of_qemu(folder):
    """It forgets the tables of its image when it is killed."""
    image, path = folder / "a.qcow2", folder / "qemu-nbd"
    run("qemu-img", "create", "-q", "-f", "qcow2", image, SIZE)
    return RemoteDisk(Server(path, ["qemu-nbd", "-t", "-e", "4", "-f", "qcow2", "-k", path, "-x", "disk", image]), image, "qcow2",
                      f"{uri(path)},format=raw")


def sparse(path):
    with open(path, "wb") as file:
        file.truncate(SIZE)
    return path


def of_nbdkit(folder):
    image, path = sparse(folder / "b.raw"), folder / "nbdkit"
    return RemoteDisk(Server(path, ["nbdkit", "-f", "-U", path, "file", image]), image, "raw", f"{uri(path, '')},format=raw")


def above_nbdkit(folder):
    """The VM's own qcow2 image in the server's bytes."""
    image, path = folder / "c.qcow2", folder / "nbdkit2"
    run("qemu-img", "create", "-q", "-f", "qcow2", image, SIZE)
    os.truncate(image, SIZE + SIZE // 8)  # it cannot grow
    return RemoteDisk(Server(path, ["nbdkit", "-f", "-U", path, "file", image]), image, "qcow2",
                      f"{uri(path, '')},format=qcow2")


def work(vm, seconds):
    """Lets the guest go on; what it says is read, or it would wait at its console."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(AssertionError):
            vm.expect("storage: FAIL", timeout=0.05)
            raise RuntimeError(vm.transcript()[-6000:])


def kill_helper(vm, rng, is_first):
    """One of hull's own processes. Crashes that follow each other closely are given up in the end: one that has lived a while."""
    lines = run("ps", "-o", "pid=,etimes=,comm=", "--ppid", vm.child.pid).splitlines()
    pids = [int(line.split()[0]) for line in lines if "hull-storage" in line and (is_first or int(line.split()[1]) > 10)]
    if pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(pids), signal.SIGKILL)


def outlast(boot, folder, disks, mib, seconds, rng, timeout):
    """fio on all of them, while one server after the other, or hull-storage, dies and comes back for so many seconds; all at
    least once."""
    vm = start(boot, folder, disks, "outlast", mib, timeout=timeout)
    vm.expect("storage: at work")
    end = time.monotonic() + seconds
    waiting = []
    count = 0
    while count <= len(disks) or time.monotonic() < end:
        count += 1
        waiting = waiting or rng.sample([*disks, "helper"], len(disks) + 1)
        name = waiting.pop()
        if name == "helper":
            kill_helper(vm, rng, count <= len(disks) + 1)
            continue
        server = disks[name].server
        work(vm, rng.random() * 0.3)
        server.kill()
        work(vm, rng.random() * 0.3)
        server.start()
    vm.send_line("")
    for name, letter in zip(disks, "bcdefghij"):
        told = vm.expect(rf"storage: (?:sum vd{letter} (\w+)|FAIL)[^\r\n]*\r")[1]
        assert told is not None, vm.transcript()[-6000:]
        disks[name].told = told
    vm.expect("storage: done")
    assert vm.wait() == 0
    assert vm.transcript().count("connected again") >= len(disks)
    for name, disk in disks.items():
        disk.finish()
        disk.check(may_leak=True)
        path = disk.raw(folder / "content")
        assert hashlib.sha256(path.read_bytes()).hexdigest() == disk.told, name
    return count


@contextlib.contextmanager
def ended(disks):
    try:
        yield disks
    finally:
        for disk in disks.values():
            if disk.server.child.poll() is None:
                disk.server.kill()


def all_kinds(folder, target, ganesha):
    os.truncate(target.disk, SIZE)
    return {
        "qemu-nbd": of_qemu(folder),
        "nbdkit": of_nbdkit(folder),
        "above-nbdkit": above_nbdkit(folder),
        "iscsi": RemoteDisk(target, target.disk, "raw", f"{target.uri()},format=raw"),
        "nfs": RemoteDisk(ganesha, sparse(ganesha.export / "d.raw"), "raw", f"{ganesha.uri('d.raw')},format=raw"),
    }


@needs_nbdkit
def test_fio_while_servers_die(boot, tmp_path, target, ganesha):
    with ended(all_kinds(tmp_path, target, ganesha)) as disks:
        outlast(boot, tmp_path, disks, 8, 0, random.Random(), 240)


@pytest.mark.long
@needs_nbdkit
def test_fio_while_servers_die_for_long(boot, tmp_path, target, ganesha):
    with ended(all_kinds(tmp_path, target, ganesha)) as disks:
        count = outlast(boot, tmp_path, disks, 32, int(os.environ.get("HULL_STORAGE_SECONDS", "300")), random.Random(), 1800)
        print(f"{count} servers were killed")
