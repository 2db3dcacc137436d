"""Shares and serial ports of hulld's VMs: Debian's kernel with busybox and hull-agent in its initrd, on the soft engine."""
import os
import subprocess

import pytest
from conftest import BUILD, GUESTS, HULL
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


class Terminal:
    """`hull console` at a serial port of a VM."""

    def __init__(self, guest, device):
        self.process = subprocess.Popen([HULL, "console", guest.name, "--device", device], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        env=guest.manager.environment)

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        self.process.terminate()
        self.process.communicate()

    def type(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def read(self):
        """A line as the guest's terminal makes it, without what it echoes."""
        return self.process.stdout.readline().decode().replace("\r", "")


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

        # the terminal of a port, by its name: both ways, and for one client
        vm.run("(while read word; do echo got $word; done) </dev/ttyS1 >/dev/ttyS1 2>/dev/null &")
        with Terminal(vm, "line1") as line:
            line.type("hello\n")
            assert line.read() == "got hello\n"
            refused = manager.hull("console", "devices", "--device", "line1", check=False)
            assert refused.returncode != 0 and "somebody else has its line1" in refused.stderr
        for name, why in (("line2", "nobody can type"), ("work", "has no serial port work"), ("../line1", "has no serial port")):
            refused = manager.hull("console", "devices", "--device", name, check=False)
            assert refused.returncode != 0 and why in refused.stderr

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


def test_a_volume_is_shared(manager, image, tmp_path):
    """By two VMs at once; what waits for the next start is said, and a volume in use stays."""
    manager.hull("volume", "create", "common", "--type", "tree")
    manager.hull("volume", "create", "block", "--size", "1M")
    vm = GuestWith(manager, "first", {"work": {"type": "share", "source": "common", "path": "/srv/common"},
                                      "line": {"type": "serial", "to": f"unix:{tmp_path}/line.sock"}})
    other = GuestWith(manager, "second", {})
    try:
        until(lambda: "/srv/common virtiofs" in vm.up().run("cat /proc/mounts"), "the volume")
        vm.run("echo kept >/srv/common/file; chown 12:34 /srv/common/file")
        assert (manager.state / "pools/default/trees/volumes/common/file").read_text(encoding="ascii") == "kept\n"
        vm.run("stty -F /dev/ttyS1 raw -echo; (while read word; do echo got $word; done) </dev/ttyS1 >/dev/ttyS1 2>/dev/null &")
        with Terminal(vm, "line") as line:
            line.type("it\n")
            assert line.read() == "got it\n"
        done = manager.do("PATCH", "/v1/instances/second", {"devices": {"work": {"type": "share", "source": "common", "path": "/srv", "readonly": "true"}}})
        assert done["result"]["waits_for_restart"] is True
        other.act("restart")
        until(lambda: "/srv virtiofs ro" in other.up().run("cat /proc/mounts"), "the volume in the other one")
        assert other.run("stat -c %u:%g /srv/file; cat /srv/file").split() == ["12:34", "kept"]

        assert manager.get("/v1/volumes/default/common")["used_by"] == ["first", "second"]
        refused = manager.hull("volume", "delete", "default/common", check=False)
        assert refused.returncode != 0 and "is used by first, second" in refused.stderr

        # a container sees the same owners, and writes as its root
        manager.do("POST", "/v1/instances", {"name": "third", "kind": "container", "image": "bb", "start": True, "devices": {
            "eth0": {"type": "none"}, "work": {"type": "share", "source": "common", "path": "/srv"}}})
        assert manager.hull("exec", "third", "--", "sh", "-c", "echo by a container >/srv/more; ls -n /srv/file").stdout.split()[2:4] == ["12", "34"]
        assert vm.run("stat -c %u /srv/common/more; cat /srv/common/more") == "0\nby a container"
        manager.do("DELETE", "/v1/instances/third?force=true")

        other.act("stop", force=True)
        manager.hull("config", "second", "set", "work.source=block")
        refused = manager.hull("start", "second", check=False)
        assert refused.returncode != 0 and "share work: volume default/block: is a disk (type block)" in refused.stderr
        manager.hull("config", "second", "set", "work.source=missing")
        refused = manager.hull("start", "second", check=False)
        assert refused.returncode != 0 and "missing" in refused.stderr
        with pytest.raises(Failure, match="name"):
            manager.do("PATCH", "/v1/instances/second", {"devices": {"work": {"source": "../volumes/common"}}})
    finally:
        for name in sorted(manager.names()):
            manager.do("DELETE", f"/v1/instances/{name}?force=true")
    manager.hull("volume", "delete", "default/common", "default/block")


def test_what_cannot_be_shared_is_refused(manager, image, tmp_path):
    with pytest.raises(AssertionError, match="an existing folder"):
        GuestWith(manager, "wrong", {"work": {"type": "share", "source": str(tmp_path / "nowhere"), "path": "/srv"}})
    assert "wrong" not in manager.names()
    with pytest.raises(Failure, match="only for VMs"):
        manager.do("POST", "/v1/instances", {"name": "wrong", "kind": "container", "image": "tiny", "devices": {"line": {"type": "serial"}}})
