"""VMs of whole Debians with systemd, built from a mirror: cloud-init, keys, and devices that come and go while they run."""
import pathlib
import shutil
import tempfile

import pytest
from conftest import BUILD
from hulld import NEEDS_ROOT, Manager, until
from test_hulld_vms import Existing

pytestmark = [NEEDS_ROOT, pytest.mark.long]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA8mLw5Eo2cGn1hFVZg6mAM7zEVsQvGqMuzxkXfTd9N6 it's a \"test\"@host"
USER_DATA = """#cloud-config
hostname: from-user-data
write_files:
  - {path: /srv/written, content: "by cloud-init", permissions: '0640'}
runcmd:
  - [sh, -c, "echo ran >/srv/ran"]
"""


class MirrorManager(Manager):
    """Its hulld has the host's network until restart_apart: only there is a mirror."""
    is_apart = False

    def within(self, *words):
        return super().within(*words) if self.is_apart else ["nsenter", "--mount", "-t", str(self.holder.pid), *map(str, words)]

    def restart_apart(self):
        self.is_apart = True
        self.restart()


@pytest.fixture(name="manager", scope="module")
def fixture_manager():
    if shutil.which("mmdebstrap") is None or not (BUILD / "bin/hull-agent").exists():
        pytest.skip("needs mmdebstrap and hull-agent")
    made = MirrorManager(pathlib.Path(tempfile.mkdtemp(prefix="hull-debian-", dir="/var/tmp")))
    try:
        built = made.hull("image", "build", "debian/12", "--vm", "--alias", "plain", check=False, timeout=1800)
        if built.returncode != 0:
            pytest.skip(f"no mirror: {built.stderr[-300:]}")
        made.hull("image", "build", "debian/12", "--vm", "--package", "cloud-init", "--alias", "cloud", timeout=1800)
        made.restart_apart()
        yield made
    finally:
        made.end()


def launch(manager, name, image, **config):
    manager.do("POST", "/v1/instances", {"name": name, "kind": "vm", "image": image, "start": True, "config": {"memory": "512M", "ssh_keys": [KEY], **config}})
    return Existing(manager, name).up()


def test_cloud_init(manager):
    guest = launch(manager, "cloud1", "cloud", user_data=USER_DATA)
    assert "status: done" in guest.run("cloud-init status --wait; cloud-init status")
    assert guest.run("hostname; stat -c %a /srv/written; cat /srv/written /srv/ran").split("\n") == ["from-user-data", "640", "by cloud-initran"]
    assert guest.run("cat /root/.ssh/authorized_keys") == KEY  # without a command before it: root may log in
    assert guest.run("cat /home/debian/.ssh/authorized_keys") == KEY
    manager.do("DELETE", "/v1/instances/cloud1?force=1")


def test_keys_and_devices(manager):
    """Without cloud-init; then everything that comes and goes in a guest with systemd and udev."""
    guest = launch(manager, "plain1", "plain")
    assert guest.run("cat /root/.ssh/authorized_keys; stat -c %a /root/.ssh /root/.ssh/authorized_keys").split("\n") == [KEY, "700", "600"]
    manager.hull("volume", "create", "vol", "--size", "24M")
    manager.hull("volume", "create", "tree", "--type", "tree")

    def change(*words):
        return "next start" in manager.hull("config", "plain1", *words).stderr

    def names(command):
        return set(guest.run(command).split())

    assert not change("set", "cpus=2", "memory=1G")
    assert guest.run("nproc") == "2"
    until(lambda: int(guest.run("awk '/MemTotal/ {print $2}' /proc/meminfo")) > 900 << 10, "the memory")
    assert not change("set", "data.type=disk", "data.size=32M", "vol.type=disk", "vol.source=vol", "eth1.type=nic", "eth1.network=default")
    until(lambda: {"33554432", "25165824"} <= names("lsblk -bdno SIZE"), "the disks")
    until(lambda: "eth1" in names("ls /sys/class/net"), "the card")
    until(lambda: guest.run("ip -4 -br addr show dev eth1 | grep -c '/24' || true") == "1", "its address")
    assert change("set", "tree.type=share", "tree.source=tree", "tree.path=/srv/tree")  # a folder waits
    assert not change("unset", "data", "vol", "eth1")
    assert "eth1" not in names("ls /sys/class/net") and not {"33554432", "25165824"} & names("lsblk -bdno SIZE")
    assert not change("set", "cpus=1", "memory=512M")
    assert guest.run("nproc") == "1"
    guest.act("restart")
    until(lambda: "virtiofs" in guest.up().run("grep ' /srv/tree ' /proc/mounts || true"), "the folder")
    guest.run("echo kept >/srv/tree/file")
    assert guest.run("systemctl is-system-running --wait || true") == "running"
    assert guest.run("grep -c ssh-ed25519 /root/.ssh/authorized_keys") == "1"  # once is enough
    manager.do("DELETE", "/v1/instances/plain1?force=1")
    assert (manager.state / "pools/default/trees/volumes/tree/file").read_text(encoding="ascii") == "kept\n"
    manager.hull("volume", "delete", "default/vol", "default/tree")
