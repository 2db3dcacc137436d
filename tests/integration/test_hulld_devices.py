"""Shares and serial ports of hulld's VMs: Debian's kernel with busybox and hull-agent in its initrd, on the soft engine."""
import os
import subprocess

import pytest
from conftest import BUILD, GUESTS
from hulld import NEEDS_ROOT, Failure, manager, until  # noqa: F401 (a fixture)
from test_hulld_vms import Existing, Guest
from test_share import make_initrd

pytestmark = NEEDS_ROOT


@pytest.fixture(name="image", scope="module")
def fixture_image(manager, tmp_path_factory):
    folder = tmp_path_factory.mktemp("image")
    initrd = make_initrd(folder, BUILD / "bin/hull-agent")
    disk = folder / "disk.raw"
    with open(disk, "wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["/sbin/mkfs.ext4", "-q", disk], check=True)
    manager.do("POST", "/v1/images", {"source": "import", "path": str(disk), "format": "raw", "alias": "tiny", "kernel": str(GUESTS / "vmlinuz-cloud"),
                                      "initrd": str(initrd), "append": "console=ttyS0 quiet hull.run=mount,/dev/vda,/mnt;hull-agent"})


class GuestWith(Guest):
    def __init__(self, manager, name, devices):  # pylint: disable=super-init-not-called
        self.manager, self.name = manager, name
        manager.do("POST", "/v1/instances", {"name": name, "kind": "vm", "image": "tiny", "start": True, "config": {"engine": "soft", "memory": "256M"},
                                             "devices": {"eth0": {"type": "none"}, "root": {"type": "disk", "size": "128M"}, **devices}})


def test_shares_are_mounted_and_serial_ports_lead_out(manager, image, tmp_path):
    shared, readonly, port = tmp_path / "shared folder", tmp_path / "readonly", tmp_path / "port"
    shared.mkdir()
    readonly.mkdir()
    (shared / "from-host").write_text("from the host\n", encoding="ascii")
    vm = GuestWith(manager, "devices", {
        "work": {"type": "share", "source": str(shared), "path": "/srv/a folder"},
        "ro": {"type": "share", "source": str(readonly), "path": "/srv/ro", "readonly": "true"},
        "own": {"type": "share", "source": str(shared), "tag": "by-hand"},
        "line1": {"type": "serial"},
        "line2": {"type": "serial", "to": f"file:{port}"},
    }).up()
    try:
        until(lambda: "/srv/ro virtiofs ro" in vm.run("cat /proc/mounts"), "mounts by the agent")
        assert vm.run("cat '/srv/a folder/from-host'") == "from the host"
        vm.run("echo from the guest >'/srv/a folder/from-guest'")
        assert (shared / "from-guest").read_text(encoding="ascii") == "from the guest\n"
        assert "Read-only" in vm.run("touch /srv/ro/x 2>&1 || true")
        vm.run("mkdir /by-hand && mount -t virtiofs by-hand /by-hand && grep -q 'from the guest' /by-hand/from-guest")

        # where a pty is stands in the folder of the running VM
        link = manager.state / "run/instances/devices/line1.pty"
        pty = os.open(link, os.O_RDWR | os.O_NOCTTY)
        try:
            vm.run("stty -F /dev/ttyS1 raw -echo; echo by pty >/dev/ttyS1; stty -F /dev/ttyS2 raw; echo by file >/dev/ttyS2")
            assert os.read(pty, 100) == b"by pty\n"
        finally:
            os.close(pty)
        assert port.read_bytes() == b"by file\n"

        # snapshots hold open files; a guest that starts anew has its shares again
        vm.run("(exec 5>>'/srv/a folder/log'; echo 1 >&5; sleep 10000) >/dev/null 2>&1 &")
        until((shared / "log").exists, "the guest's log")
        manager.do("POST", "/v1/instances/devices/snapshots", {"name": "warm", "memory": True})
        vm.act("restart")
        vm.up()
        until(lambda: "/srv/ro virtiofs ro" in vm.run("cat /proc/mounts"), "mounts after a restart")
        manager.do("POST", "/v1/instances/devices/snapshots/warm/restore", {})
        assert vm.up().run("cat '/srv/a folder/log'; kill -0 $(pidof sleep) && echo alive") == "1\nalive"
        # a copy of the running VM has the same folder
        manager.do("POST", "/v1/instances/devices/clone", {"name": "copy", "live": True})
        copy = Existing(manager, "copy").up()
        copy.run("echo from the copy >'/srv/a folder/from-copy'")
        assert vm.run("cat '/srv/a folder/from-copy'") == "from the copy"
    finally:
        for name in sorted(manager.names()):
            manager.do("DELETE", f"/v1/instances/{name}?force=true")
    assert not os.path.lexists(link)


def test_what_cannot_be_shared_is_refused(manager, image, tmp_path):
    with pytest.raises(AssertionError, match="an existing folder"):
        GuestWith(manager, "wrong", {"work": {"type": "share", "source": str(tmp_path / "nowhere"), "path": "/srv"}})
    assert "wrong" not in manager.names()
    with pytest.raises(Failure, match="only for VMs"):
        manager.do("POST", "/v1/instances", {"name": "wrong", "kind": "container", "image": "tiny", "devices": {"line": {"type": "serial"}}})
