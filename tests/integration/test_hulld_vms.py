"""VMs of hulld: Debian's kernel with busybox and hull-agent in its initrd, on the soft engine, with a file system on the root disk."""
import contextlib
import json
import os
import pathlib
import random
import signal
import time

import pytest
from hulld import NEEDS_ROOT, Failure, manager, tiny_image, until  # noqa: F401 (a fixture)

pytestmark = NEEDS_ROOT


@pytest.fixture(name="image", scope="module")
def fixture_image(manager, tmp_path_factory):
    """An image whose guest mounts its root disk and serves the agent."""
    return tiny_image(manager, tmp_path_factory.mktemp("image"))


class Guest:
    def __init__(self, manager, name, **config):
        self.manager, self.name = manager, name
        manager.do("POST", "/v1/instances", {"name": name, "kind": "vm", "image": "tiny", "start": True,
                                             "config": {"engine": "soft", "memory": "256M", **config},
                                             "devices": {"eth0": {"type": "none"}, "root": {"type": "disk", "size": "128M"}}})

    def status(self):
        return self.manager.get(f"/v1/instances/{self.name}")["status"]

    def act(self, action, **more):
        return self.manager.do("POST", f"/v1/instances/{self.name}/actions", {"action": action, **more})

    def run(self, command):
        done = self.manager.hull("exec", self.name, "--", "sh", "-c", command, check=False)
        assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
        return done.stdout.strip()

    def up(self):
        until(lambda: self.manager.hull("exec", self.name, "--", "true", check=False).returncode == 0, f"the agent of {self.name}")
        return self

    def write(self, text):
        self.run(f"echo {text} >/mnt/file; sync")

    def read(self):
        return self.run("cat /mnt/file")

    def pid(self):
        return self.manager.get(f"/v1/instances/{self.name}")["info"].get("pid")

    def counter(self, name):
        counters = self.manager.get(f"/v1/instances/{self.name}")["info"].get("counters", {})
        return next((device[name] for device in counters.values() if name in device), None)


class Existing(Guest):
    def __init__(self, manager, name):  # pylint: disable=super-init-not-called
        self.manager, self.name = manager, name


@contextlib.contextmanager
def guest_of(manager, name, **config):
    guest = Guest(manager, name, **config)
    try:
        yield guest.up()
    finally:
        for instance in manager.names():
            with contextlib.suppress(Failure):
                manager.do("DELETE", f"/v1/instances/{instance}?force=true")


def test_life(manager, image):
    with guest_of(manager, "vm1") as guest:
        assert guest.status() == "running"
        info = manager.get("/v1/instances/vm1")["info"]
        assert info["disk"][0]["name"] == "root" and info["disk"][0]["read_bytes"] > 0
        assert info["engine"] == "soft" and info["cpu_time_ns"] > 0 and info["memory_used_bytes"] > 1 << 20
        assert guest.run("cat /proc/sys/kernel/hostname") == "vm1"
        assert guest.run("grep -c vda /proc/partitions") == "1"
        guest.act("pause")
        assert guest.status() == "paused"
        guest.act("resume")
        guest.write("kept")
        guest.act("stop")
        assert guest.status() == "stopped"
        with pytest.raises(AssertionError, match="does not run"):
            guest.run("true")
        guest.act("start")
        assert guest.up().read() == "kept"
        assert "hull" not in manager.hull("logs", "vm1").stderr
        manager.do("DELETE", "/v1/instances/vm1?force=true")
        assert not (manager.state / "instances/vm1").exists() and not (manager.state / "run/instances/vm1").exists()
        assert not list((manager.state / "pools/default/disks").rglob("vm1*"))


def test_snapshots(manager, image):
    with guest_of(manager, "vm1") as guest:
        guest.write("first")
        manager.do("POST", "/v1/instances/vm1/snapshots", {"name": "cold"})
        guest.write("second")
        guest.run("echo alive >/tmp/only-in-memory")
        manager.do("POST", "/v1/instances/vm1/snapshots", {"name": "warm", "memory": True})
        guest.write("third")
        guest.run("rm /tmp/only-in-memory")
        manager.do("POST", "/v1/instances/vm1/snapshots/warm/restore", {})
        assert guest.up().read() == "second"
        assert guest.run("cat /tmp/only-in-memory") == "alive"
        manager.do("POST", "/v1/instances/vm1/snapshots/cold/restore", {})
        assert guest.up().read() == "first"
        manager.do("DELETE", "/v1/instances/vm1/snapshots/cold")
        manager.do("DELETE", "/v1/instances/vm1/snapshots/warm")
        guest.act("restart")
        assert guest.up().read() == "first"


def test_clones(manager, image):
    with guest_of(manager, "vm1") as guest:
        guest.write("shared")
        guest.run("echo alive >/tmp/only-in-memory")
        manager.do("POST", "/v1/instances/vm1/clone", {"name": "live", "live": True})
        live = Existing(manager, "live").up()
        assert live.read() == "shared" and live.run("cat /tmp/only-in-memory") == "alive"
        assert live.run("cat /proc/sys/kernel/hostname") == "live"
        live.write("own")
        assert guest.read() == "shared" and guest.run("cat /proc/sys/kernel/hostname") == "vm1"
        guest.act("stop", force=True)
        manager.do("POST", "/v1/instances/vm1/clone", {"name": "copy"})
        copy = Existing(manager, "copy")
        assert copy.status() == "stopped"
        copy.act("start")
        assert copy.up().read() == "shared"
        manager.do("DELETE", "/v1/instances/vm1?force=true")
        copy.write("alone")
        assert copy.read() == "alone" and live.read() == "own"


def test_a_vm_of_many_clones(manager, image):
    """Each one leaves a layer below its disk; it starts all the same, on fewer."""
    with guest_of(manager, "vm1") as guest:
        for turn in range(20):
            guest.write(f"turn-{turn}")
            manager.do("POST", "/v1/instances/vm1/clone", {"name": "copy"})
            manager.do("DELETE", "/v1/instances/copy")
        assert len(list((manager.state / "pools/default/layers").glob("vm1-root-*.json"))) > 16
        guest.act("restart", force=True)
        assert guest.up().read() == "turn-19"
        assert len(list((manager.state / "pools/default/layers").glob("vm1-root-*.json"))) < 16


def test_a_vm_outlives_hulld(manager, image):
    with guest_of(manager, "vm1") as guest:
        pid = guest.pid()
        guest.act("pause")
        manager.kill()
        manager.start()
        until(lambda: guest.status() == "paused", "what the new one has found")
        assert guest.pid() == pid
        guest.act("resume")
        assert guest.run("echo here") == "here"


def test_one_that_ends_by_itself_is_started_again(manager, image):
    with guest_of(manager, "vm1", restart="on-failure") as guest:
        pid = guest.pid()
        os.kill(pid, signal.SIGKILL)
        until(lambda: guest.status() == "running" and guest.pid() not in (None, pid), "another life")
        guest.up()
        manager.hull("exec", "vm1", "--", "poweroff", "-f", check=False)
        until(lambda: guest.status() == "stopped", "the end that the guest wanted")


def test_the_log_is_there_when_nobody_listened(manager, image):
    with guest_of(manager, "vm1") as guest:
        guest.run("echo out-of-the-guest >/dev/console")
        until(lambda: "out-of-the-guest" in manager.hull("logs", "vm1").stdout, "the console's log")
        log = pathlib.Path(manager.state / "instances/vm1/logs/console.log")
        assert log.stat().st_mode & 0o077 == 0


def test_changes(manager, image):
    with guest_of(manager, "vm1") as guest:
        manager.do("PATCH", "/v1/instances/vm1", {"devices": {"root": {"type": "disk", "size": "192M"}}})
        assert guest.run("cat /sys/block/vda/size") == str((192 << 20) // 512)
        manager.do("PATCH", "/v1/instances/vm1", {"config": {"memory": "192M"}})
        until(lambda: guest.counter("actual_pages") == (64 << 20) // 4096, "the balloon")
        manager.do("PATCH", "/v1/instances/vm1", {"devices": {"data": {"type": "disk", "size": "32M"}}})
        guest.act("restart")
        guest.up()
        assert guest.run("cat /sys/block/vdb/size") == str((32 << 20) // 512)


def test_devices_come_and_go_while_it_runs(manager, image):
    manager.do("POST", "/v1/networks", {"name": "lab", "type": "nat", "config": {"ipv4": "10.78.0.1/24", "ipv6": "none"}})
    manager.do("POST", "/v1/volumes", {"name": "vol1", "size_bytes": 24 << 20})
    with guest_of(manager, "vm1") as guest:
        try:
            manager.hull("config", "vm1", "set", "data.type=disk", "data.source=vol1")
            until(lambda: guest.run("cat /sys/block/vdb/size") == str((24 << 20) // 512), "the volume")
            guest.run("echo kept | dd of=/dev/vdb bs=512 conv=sync,fsync 2>/dev/null")
            done = manager.do("PATCH", "/v1/instances/vm1", {"devices": {"lan": {"type": "nic", "network": "lab", "ipv4": "10.78.0.10"},
                                                                         "more": {"type": "disk", "size": "32M"}}})
            assert done["result"]["waits_for_restart"] is False
            until(lambda: guest.run("ls -d /sys/block/vdc /sys/class/net/eth0 | wc -l") == "2", "the card and the disk")
            guest.run("ip addr add 10.78.0.10/24 dev eth0; ip link set eth0 up; ping -c 1 -w 20 10.78.0.1")
            info = manager.get("/v1/instances/vm1")["info"]
            assert info["network"][0]["received_bytes"] > 0
            assert next(disk for disk in info["disk"] if disk["name"] == "data")["written_bytes"] > 0

            # One that leaves makes room for the next; what stays keeps its number, also over a snapshot and a clone.
            assert "next start" not in manager.hull("config", "vm1", "unset", "data").stderr
            assert guest.run("ls /sys/block | grep ^vd").split() == ["vda", "vdc"]
            places = json.loads((manager.state / "instances/vm1/places.json").read_text())
            assert set(places["disks"]) == {"root", "more"} and places["disks"]["more"]["index"] == 2
            guest.run("echo more | dd of=/dev/vdc bs=512 conv=sync,fsync 2>/dev/null; echo here >/tmp/mark")
            manager.do("POST", "/v1/instances/vm1/snapshots", {"name": "before", "memory": True})
            manager.do("POST", "/v1/instances/vm1/clone", {"name": "vm2", "live": True})
            clone = Existing(manager, "vm2").up()
            assert clone.run("cat /tmp/mark; head -c 4 /dev/vdc").split() == ["here", "more"]
            manager.do("DELETE", "/v1/instances/vm2?force=true")
            guest.run("rm /tmp/mark")
            manager.do("POST", "/v1/instances/vm1/snapshots/before/restore", {})
            guest.up()
            assert guest.run("cat /tmp/mark; head -c 4 /dev/vdc").split() == ["here", "more"]

            # The volume has what was written to it, and a card that is taken away is gone.
            manager.hull("config", "vm1", "set", "data.type=disk", "data.source=vol1")
            until(lambda: guest.run("ls /sys/block | grep -c ^vd") == "3", "the volume again")
            assert guest.run("for disk in /dev/vd?; do head -c 4 $disk; echo; done | grep -c kept") == "1"
            manager.do("PATCH", "/v1/instances/vm1", {"devices": {"lan": None}})
            until(lambda: "eth0" not in guest.run("ls /sys/class/net"), "the card to go")
            with pytest.raises(AssertionError, match="No such file"):
                manager.do("PATCH", "/v1/instances/vm1", {"devices": {"extra": {"type": "disk", "size": "8M"}, "gone": {"type": "disk", "source": "/nowhere"}}})
            assert not {"extra", "gone"} & set(manager.get("/v1/instances/vm1")["devices"])
            assert guest.run("ls /sys/block | grep -c ^vd") == "3"  # what came is gone again
            assert not list((manager.state / "pools/default/disks").rglob("*extra*"))
            manager.do("PATCH", "/v1/instances/vm1", {"devices": {"more": None}})
            guest.act("restart")
            guest.up()
            assert guest.run("ls /sys/block | grep -c ^vd") == "2"
        finally:
            with contextlib.suppress(Failure):
                manager.do("DELETE", "/v1/instances/vm2?force=true")
    manager.do("DELETE", "/v1/volumes/default/vol1")
    manager.do("DELETE", "/v1/networks/lab")


def test_limits(manager, image):
    """CPUs and memory of a running VM, through a snapshot that was made in the middle; what it cannot have waits."""
    def change(**config):
        return manager.do("PATCH", "/v1/instances/vm1", {"config": config})["result"]["waits_for_restart"]

    def sizes():
        info = manager.get("/v1/instances/vm1")["info"]
        return info["cpus"], info["memory_bytes"] >> 20

    with guest_of(manager, "vm1", cpus_max="3", memory_max="1G") as guest:
        guest.run("insmod /virtio_mem.ko")
        assert sizes() == (1, 256)
        before = int(guest.run("sed -n 's/MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo"))
        assert change(cpus="3", memory="512M") is False
        assert sizes() == (3, 512) and guest.run("nproc") == "3"
        total = int(guest.run("sed -n 's/MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo"))
        assert 240 << 10 < total - before <= 256 << 10
        manager.do("POST", "/v1/instances/vm1/snapshots", {"name": "large", "memory": True})
        assert change(cpus="1", memory="192M") is False
        assert sizes() == (1, 192) and guest.run("nproc") == "1"
        manager.do("POST", "/v1/instances/vm1/snapshots/large/restore", {})
        # It was saved with more; its document, which a restore leaves alone, says less.
        assert sizes() == (1, 192) and guest.run("nproc") == "1"
        assert change(cpus="2", memory="256M") is False
        assert sizes() == (2, 256) and guest.run("nproc") == "2"
        # More than it was made for: the rest comes with the next start.
        assert change(cpus="1", memory="2G") is True
        assert sizes() == (1, 1024)
        guest.act("restart")
        guest.up()
        assert sizes() == (1, 2048)


def kill_worker(manager, operation, delay_s):
    """The operation's worker, that long after its beginning."""
    journal = manager.state / "operations" / f"{operation['name']}.jsonl"
    first = until(lambda: journal.exists() and journal.read_text().split("\n", 1)[0], "a journal")
    time.sleep(delay_s)
    with contextlib.suppress(ProcessLookupError):
        os.kill(json.loads(first)["worker"], signal.SIGKILL)


def test_workers_killed_while_the_guest_stands_still(manager, image):
    """Whenever it dies: the guest goes on, on disks that its pool knows."""
    rng = random.Random(7)
    with guest_of(manager, "vm1") as guest:
        for turn in range(6):
            guest.write(f"turn-{turn}")
            path, body = [("snapshots", {"name": f"s{turn}", "memory": turn % 3 == 0}), ("clone", {"name": "new", "live": True})][turn % 2]
            operation = manager.ok("POST", f"/v1/instances/vm1/{path}", body)
            kill_worker(manager, operation, rng.random() * 0.3)
            ended = manager.wait(operation)
            assert ended["status"] in ("done", "failed", "cancelled"), ended
            assert guest.read() == f"turn-{turn}", ended
            guest.write(f"after-{turn}")
            if "new" in manager.names():
                assert Existing(manager, "new").up().read() == f"turn-{turn}"
                manager.do("DELETE", "/v1/instances/new?force=true")
        guest.act("restart")
        assert guest.up().read() == "after-5"
        for snapshot in manager.get("/v1/instances/vm1/snapshots"):
            turn = int(snapshot["name"].removeprefix("s"))
            manager.do("POST", f"/v1/instances/vm1/snapshots/{snapshot['name']}/restore", {})
            assert guest.up().read() == f"turn-{turn}"


def test_a_card_on_the_nat_network(manager, image):
    manager.do("POST", "/v1/networks", {"name": "lab", "type": "nat", "config": {"ipv4": "10.77.0.1/24", "ipv6": "none"}})
    manager.do("POST", "/v1/instances", {"name": "vm1", "kind": "vm", "image": "tiny", "start": True, "config": {"engine": "soft", "memory": "256M"},
                                         "devices": {"eth0": {"type": "nic", "network": "lab", "ipv4": "10.77.0.10"}, "root": {"type": "disk", "size": "128M"}}})
    guest = Existing(manager, "vm1").up()
    try:
        guest.run("ip addr flush dev eth0; ip addr add 10.77.0.10/24 dev eth0; ip link set eth0 up; ping -c 1 -w 20 10.77.0.1")
        row = next(row for row in manager.get("/v1/instances") if row["name"] == "vm1")
        assert row["ipv4"] == ["10.77.0.10"]
        card = manager.get("/v1/instances/vm1")["info"]["network"][0]
        assert card["name"] == "eth0" and card["sent_bytes"] > 0 and card["received_bytes"] > 0
        manager.do("POST", "/v1/instances/vm1/clone", {"name": "live", "live": True})
        live = Existing(manager, "live").up()
        document = manager.get("/v1/instances/live")
        assert live.run("cat /sys/class/net/eth0/address") == document["devices"]["eth0"]["mac"] != guest.run("cat /sys/class/net/eth0/address")
        assert live.run("cat /etc/machine-id") == document["uuid"].replace("-", "")
        assert live.run("cat /proc/sys/kernel/hostname") == "live" and guest.run("cat /proc/sys/kernel/hostname") == "vm1"
        assert "10.77.0.10" not in live.run("ip addr show dev eth0")
        # Its network lets it have its own address, and no other's; both go on.
        address = next(row for row in manager.get("/v1/instances") if row["name"] == "live")["ipv4"][0]
        assert address != "10.77.0.10"
        live.run(f"ip addr add {address}/24 dev eth0; ip link set eth0 up; ping -c 1 -w 20 10.77.0.1")
        guest.run(f"ping -c 1 -w 20 10.77.0.1 && ping -c 1 -w 20 {address}")
    finally:
        with contextlib.suppress(Failure):
            manager.do("DELETE", "/v1/instances/live?force=true")
        manager.do("DELETE", "/v1/instances/vm1?force=true")
        manager.do("DELETE", "/v1/networks/lab")
