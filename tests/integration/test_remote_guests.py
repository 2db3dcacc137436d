"""Guests with remote disks: they go on while servers die and come back."""
import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

from conftest import HULL, hull
from test_disk import make_raw, run
from test_remote_disks import (MIB, SecureServer, ganesha, make_certificate, needs_certtool, needs_nbdkit,  # noqa: F401 (fixtures)
                               qemu_nbd, source, target, uri, web)

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


@pytest.fixture
def guest(boot, busybox):
    def start(*arguments):
        vm = boot("--engine", "soft", "--memory", "256M", "--net", "none", *busybox, "--append", "console=ttyS0 quiet",
                  *arguments)
        vm.expect("# ")
        return vm
    return start


def test_guest_goes_on_when_the_server_dies(guest, tmp_path):
    """A guest writes, flushes and verifies while qemu-nbd, which forgets what is not flushed, is killed and started again."""
    image, path = tmp_path / "a.qcow2", tmp_path / "nbd"
    run("qemu-img", "create", "-f", "qcow2", image, "64M")
    with qemu_nbd(path, image, "qcow2") as server:
        vm = guest("--disk", f"{uri(path)},format=raw")
        children = run("pgrep", "-P", vm.child.pid, "hull-storage").split()
        assert len(children) == 1
        status = pathlib.Path(f"/proc/{children[0]}/status").read_text(encoding="ascii")
        assert "Seccomp:\t2" in status and "NoNewPrivs:\t1" in status and "CapEff:\t0000000000000000" in status
        vm.shell("head -c 1m /dev/urandom > /tmp/piece")
        vm.send_line("for i in $(seq 0 39); do dd if=/tmp/piece of=/dev/vda bs=64k seek=$((i*16)) conv=notrunc 2>/dev/null"
                     " || echo wri''te-failed; [ $((i % 10)) = 9 ] && sync; done; echo writ''ten")
        for _ in range(4):
            time.sleep(0.3)
            server.kill()
            time.sleep(0.3)
            server.start()
        assert vm.expect("written|write-failed")[0] == "written"
        vm.shell("sync; echo 3 > /proc/sys/vm/drop_caches; sum=$(md5sum < /tmp/piece);"
                 "for i in $(seq 0 39); do [ \"$(dd if=/dev/vda bs=64k skip=$((i*16)) count=16 2>/dev/null | md5sum)\" ="
                 " \"$sum\" ] || exit 1; done; ! dmesg | grep -i 'i/o error'")
        vm.send_line("poweroff -f")
        assert vm.wait() == 0
    assert subprocess.run(["qemu-img", "check", "-f", "qcow2", image], stdout=subprocess.DEVNULL, check=False).returncode in (0, 3)


def test_guest_with_layers_behind_nbd(guest, tmp_path):
    """An overlay in a file over an image behind NBD; a qcow2 behind NBD that is written to."""
    base, path = make_raw(tmp_path / "base.raw", 8 * MIB), tmp_path / "nbd"
    image, other = tmp_path / "image.qcow2", tmp_path / "nbd2"
    overlay = tmp_path / "overlay.qcow2"
    run("qemu-img", "create", "-f", "qcow2", "-F", "raw", "-b", base, overlay, "8M")
    run("qemu-img", "create", "-f", "qcow2", "-o", "preallocation=metadata", image, "8M")
    os.truncate(image, 12 * MIB)
    with qemu_nbd(path, base, "raw", "-r"), qemu_nbd(other, image, "raw"):
        vm = guest("--disk", f"{overlay},format=qcow2,backing={uri(path)},backing-format=raw",
                   "--disk", f"{uri(other)},format=qcow2,reconnect=5")
        vm.shell("cmp /dev/vda /dev/vda && dd if=/dev/vda of=/dev/vdb bs=1M 2>/dev/null && sync && cmp /dev/vda /dev/vdb")
        vm.shell("dd if=/dev/zero of=/dev/vda bs=64k count=4 conv=notrunc 2>/dev/null && sync")
        vm.send_line("poweroff -f")
        assert vm.wait() == 0
    run("qemu-img", "check", "-f", "qcow2", overlay)
    run("qemu-img", "check", "-f", "qcow2", image)
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", base, image)


@needs_nbdkit
@needs_certtool
def test_guest_over_tls(guest, source, tmp_path):
    """Keys are read and names are looked up again within the jail."""
    server = SecureServer(make_certificate(tmp_path / "keys"), source)
    try:
        vm = guest("--disk", f"nbds://localhost:{server.port}/?tls-certificates={tmp_path}/keys,format=raw,readonly")
        vm.shell("dd if=/dev/vda of=/dev/null bs=1M count=2 2>/dev/null")
        server.kill()
        server.start()
        want = hashlib.md5(source.read_bytes()).hexdigest()
        assert want in vm.shell("md5sum < /dev/vda")
    finally:
        server.kill()


def test_guest_with_a_disk_of_the_web(guest, source, web):
    vm = guest("--disk", f"{web[0]}/file,format=raw,readonly")
    web[1]["is_flaky"] = True
    want = hashlib.md5(source.read_bytes()).hexdigest()
    assert want in vm.shell("md5sum < /dev/vda")  # among what hull says about the server


def test_guest_with_disks_of_iscsi_and_nfs(guest, target, ganesha, source):
    """Both helpers connect again within their jails."""
    shutil.copy(source, ganesha.export / "a.raw")
    vm = guest("--disk", f"{target.uri()},format=raw", "--disk", f"{ganesha.uri('a.raw')},format=raw")
    vm.shell("dd if=/dev/vdb of=/dev/vda bs=1M 2>/dev/null; sync; echo 3 > /proc/sys/vm/drop_caches")
    for server in (target, ganesha):
        server.kill()
        server.start()
    vm.shell("cmp -n 20000000 /dev/vda /dev/vdb && dd if=/dev/zero of=/dev/vda bs=1M count=4 2>/dev/null && sync")
    vm.send_line("poweroff -f")
    vm.wait()
    with open(target.disk, "rb") as disk, open(source, "rb") as first:
        assert not any(disk.read(4 * MIB)) and first.read(4 * MIB) and disk.read(8 * MIB) == first.read(8 * MIB)


def test_boot_says_what_is_wrong(tmp_path):
    path = tmp_path / "nbd"

    def error(disk):
        result = hull("boot", "--kernel", HULL, "--disk", disk)
        assert result.returncode == 1 and result.stderr.count("\n") == 1, result.stderr
        return result.stderr
    assert "a remote disk needs format=raw or format=qcow2" in error(uri(path))
    assert "connecting: connect: No such file" in error(f"{uri(path)},format=raw")
    assert "reconnect is for remote disks" in error(f"{path},reconnect=3")


def helpers_of(vm):
    return [int(pid) for pid in run("pgrep", "-P", vm.child.pid, "hull-storage").split()]


def kill_helpers(vm):
    for pid in helpers_of(vm):
        os.kill(pid, signal.SIGKILL)


def test_guest_goes_on_when_its_helper_dies(guest, source, tmp_path):
    """hull-storage is started again; what has been written and not flushed is there: qemu-nbd dies with it."""
    image, path, other = tmp_path / "a.qcow2", tmp_path / "nbd", tmp_path / "nbd2"
    run("qemu-img", "create", "-f", "qcow2", image, "16M")
    with qemu_nbd(path, image, "qcow2") as server, qemu_nbd(other, source, "raw", "-r"):
        vm = guest("--disk", f"{uri(path)},format=raw", "--disk", f"{uri(other)},format=raw,snapshot")
        before = helpers_of(vm)
        assert len(before) == 2
        vm.shell("head -c 1m /dev/urandom > /tmp/piece; dd if=/tmp/piece of=/dev/vda bs=64k oflag=direct 2>/dev/null")
        kill_helpers(vm)
        server.kill()
        server.start()
        vm.shell("dd if=/tmp/piece of=/dev/vdb bs=64k 2>/dev/null && sync && echo 3 > /proc/sys/vm/drop_caches")
        vm.shell("cmp -n 1048576 /tmp/piece /dev/vda && cmp -n 1048576 /tmp/piece /dev/vdb")
        vm.shell("cmp -n 1048576 /dev/vda /dev/vdb && ! dmesg | grep -i 'i/o error'")
        assert not set(before) & set(helpers_of(vm))
        vm.send_line("poweroff -f")
        assert vm.wait() == 0
    assert "ended by signal 9: starting it again" in vm.transcript() and "connected again" in vm.transcript()


def test_guest_whose_helper_cannot_come_back(guest, source, tmp_path):
    """There are errors and no hang, as long as there is no server; then the disk works again."""
    path = tmp_path / "nbd"
    with qemu_nbd(path, source, "raw", "-r") as server:
        vm = guest("--disk", f"{uri(path)},format=raw,readonly,reconnect=1")
        server.kill()
        kill_helpers(vm)
        vm.shell("! dd if=/dev/vda of=/dev/null bs=1M skip=4 count=1 iflag=direct 2>/dev/null")
        server.start()
        want = hashlib.md5(source.read_bytes()[:4 * MIB]).hexdigest()
        found = vm.shell("for i in $(seq 60); do dd if=/dev/vda of=/tmp/in bs=1M count=4 iflag=direct 2>/dev/null && break; sleep 0.5;"
                         " done; md5sum < /tmp/in")
        assert want in found
        vm.send_line("poweroff -f")
        assert vm.wait() == 0
