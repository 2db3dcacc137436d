"""Networks of type user: an ordinary user's instances on a private switch."""
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

import pytest
from conftest import BUILD, GUESTS, HULL, kernel_arguments
from hulld import NEEDS_ROOT, TIMEOUT, Manager, until
from test_hulld_networks import ONE, THREE, TOOL, TWO, make_host  # noqa: F401 (a fixture)
from test_hulld_vms import Existing
from test_net_switch import Machine, Switch

# One worker has all of them: a user that ends takes all processes of his number along.
pytestmark = [NEEDS_ROOT, pytest.mark.xdist_group("users")]
USER = 12345
AGENT = BUILD / "bin/hull-agent"


class UsersManager(Manager):
    """hulld as an ordinary user."""

    def within(self, *words):
        return super().within("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *words)


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    kernel_arguments("cloud")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="hull-user-"))
    os.chown(folder, USER, USER)
    if subprocess.run(["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "test", "-r", GUESTS / "initrd-cloud"], check=False).returncode != 0:
        shutil.rmtree(folder)
        pytest.skip("an ordinary user cannot read this build")
    made = UsersManager(folder)
    try:
        yield made
    finally:
        for file in made.state.glob("run/networks/*/switch.pid"):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(file.read_text()), signal.SIGTERM)
        made.end()


@pytest.fixture(scope="module")
def image(user, tmp_path_factory):
    """A guest that serves the agent, and has its address by DHCP."""
    folder = user.folder / "image"
    (folder / "root/bin").mkdir(parents=True)
    shutil.copy(AGENT, folder / "root/bin/hull-agent")
    archive = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], input=b"bin/hull-agent\n", cwd=folder / "root", stdout=subprocess.PIPE, check=True)
    initrd = folder / "initrd"
    initrd.write_bytes((GUESTS / "initrd-cloud").read_bytes() + archive.stdout)
    disk = folder / "disk.raw"
    with open(disk, "wb") as file:
        file.truncate(8 << 20)
    user.do("POST", "/v1/images", {"source": "import", "path": str(disk), "format": "raw", "alias": "tiny", "kernel": str(GUESTS / "vmlinuz-cloud"),
                                   "initrd": str(initrd), "append": "console=ttyS0 quiet hull.run=hull-agent"})
    return "tiny"


def launch(user, name, **devices):
    user.do("POST", "/v1/instances", {"name": name, "kind": "vm", "image": "tiny", "start": True, "config": {"engine": "soft", "memory": "192M"},
                                      "devices": {"eth0": {"type": "nic"}, "root": {"type": "disk", "size": "16M"}, **devices}})
    return Existing(user, name)


def address_of(user, name):
    return next(row for row in user.get("/v1/instances") if row["name"] == name)["ipv4"][0]


def connect(guest, address):
    """What DHCP would have given, for a guest without a client of it."""
    guest.run(f"ip addr flush dev eth0; ip addr add {address}/24 dev eth0; ip link set eth0 up; ip route add default via 10.0.2.2; "
              "echo nameserver 10.0.2.3 >/etc/resolv.conf")


def switch_pid(user):
    return int((user.state / "run/networks/default/switch.pid").read_text())


def ask(user, port):
    """What a server on the host's port says; the host is the manager's network namespace."""
    return subprocess.run(["nsenter", "--net", "-t", str(user.holder.pid), "busybox", "nc", "-w", "10", "127.0.0.1", str(port)], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, timeout=TIMEOUT, check=False).stdout


def test_instances_of_a_user(user, image):
    launch(user, "web1", eth0={"type": "nic", "spoofing": "allow"}, web={"type": "forward", "listen": "tcp:127.0.0.1:8080", "connect": "tcp:80"})
    launch(user, "web2")
    web1, web2 = Existing(user, "web1").up(), Existing(user, "web2").up()
    first, second = address_of(user, "web1"), address_of(user, "web2")
    assert first != second and first.startswith("10.0.2.") and user.json("network", "info", "default")["leases"][0]["ends_at"] == 0
    assert {lease["name"]: lease["ipv4"] for lease in user.get("/v1/networks/default/leases")} == {"web1": first, "web2": second}
    connect(web1, first)
    connect(web2, second)
    web1.run("ping -c 1 -w 20 web2")
    web2.run("ping -c 1 -w 20 web1.hull")
    # What went through the ports, as the instances see it.
    ports = {port["instance"]: port for port in user.json("network", "info", "default")["ports"]}
    assert set(ports) == {"web1", "web2"} and all(port["device"] == "eth0" for port in ports.values())
    assert all(port[f"{way}_packets"] >= 4 and port[f"{way}_bytes"] >= 4 * 60 for port in ports.values() for way in ("received", "sent")), ports
    assert ports["web2"]["dropped_packets"] == 0 and ports["web2"]["ipv4"] == second
    # From others' addresses nothing arrives.
    strange, other = [free for n in range(200, 204) if (free := f"10.0.2.{n}") not in (first, second)][:2]
    web2.run(f"ip addr add {strange}/24 dev eth0; ! ping -c 1 -w 2 -I {strange} web1")
    dropped = {port["instance"]: port["dropped_packets"] for port in user.get("/v1/networks/default")["ports"]}
    assert dropped["web2"] > 0 and dropped["web1"] == ports["web1"]["dropped_packets"]
    row = next(line.split() for line in user.hull("network", "info", "default").stdout.splitlines() if line.startswith("web2 "))
    assert row[:3] == ["web2", "eth0", ports["web2"]["mac"]] and int(row[-1]) == dropped["web2"]
    web1.run(f"ip addr add {other}/24 dev eth0; ping -c 1 -w 20 -I {other} web2; ip addr del {other}/24 dev eth0")
    web1.run("(while true; do echo here is web1 | nc -l -p 80; done) >/dev/null 2>&1 &")
    assert until(lambda: ask(user, 8080), "the forward") == b"here is web1\n"
    # hulld is another one now, the switch the same.
    pid = switch_pid(user)
    user.kill()
    user.start()
    web1.run("ping -c 1 -w 20 web2")
    assert switch_pid(user) == pid
    # A snapshot with memory goes on at the same address.
    web2.run("echo alive >/tmp/only-in-memory")
    user.do("POST", "/v1/instances/web2/snapshots", {"name": "s1", "memory": True})
    user.do("POST", "/v1/instances/web2/snapshots/s1/restore", {})
    web2.up()
    assert web2.run("cat /tmp/only-in-memory") == "alive" and address_of(user, "web2") == second
    web2.run("ping -c 1 -w 20 web1")
    # Without the switch the instances lose their link, and nothing else; the next start has another one.
    os.kill(switch_pid(user), signal.SIGKILL)
    until(lambda: web1.run("cat /sys/class/net/eth0/carrier") == "0", "no link")
    web2.act("restart")
    web2.up()
    assert switch_pid(user) != pid and address_of(user, "web2") == second
    web1.act("restart")
    web1.up()
    connect(web1, first)
    connect(web2, second)
    web2.run("ping -c 1 -w 20 web1")
    # A copy of a running VM has an address of its own.
    user.do("POST", "/v1/instances/web2/clone", {"name": "web3", "live": True})
    web3 = Existing(user, "web3").up()
    third = address_of(user, "web3")
    assert third not in (first, second)
    connect(web3, third)
    web3.run("ping -c 1 -w 20 web1")
    web1.run("ping -c 1 -w 20 web3")
    # A switch that stands still delays nobody, and has no figures.
    pid = switch_pid(user)
    os.kill(pid, signal.SIGSTOP)
    try:
        seen = user.get("/v1/networks/default")["ports"]
        assert {port["instance"] for port in seen} == {"web1", "web2", "web3"} and not any("sent_bytes" in port for port in seen)
    finally:
        os.kill(pid, signal.SIGCONT)
    for name in ("web1", "web2", "web3"):
        user.do("DELETE", f"/v1/instances/{name}?force=true")
    assert user.get("/v1/networks/default/leases") == [] == user.get("/v1/networks/default")["ports"]


def test_a_forward_that_is_taken(user, image):
    forward = {"type": "forward", "listen": "tcp:127.0.0.1:8081", "connect": "tcp:80"}
    launch(user, "web1", web=forward)
    operation = user.wait(user.ok("POST", "/v1/instances", {"name": "web2", "kind": "vm", "image": "tiny", "start": True,
                                                            "config": {"engine": "soft", "memory": "192M"},
                                                            "devices": {"eth0": {"type": "nic"}, "root": {"type": "disk", "size": "16M"}, "web": forward}}))
    assert operation["status"] == "failed" and "8081 is forwarded to web1/eth0 already" in operation["error"]["message"], operation
    user.do("DELETE", "/v1/instances/web1?force=true")


class Attached:
    """The switch of a network, for a machine that is no VM."""

    def __init__(self, path):
        self.path = path

    def ask(self, request, fd=None):
        return Switch.ask(self, request, fd)

    def attach(self, fd, **request):
        return Switch.attach(self, fd, **request)


@pytest.mark.skipif(not TOOL.exists(), reason="needs a build with tests")
def test_what_a_keeper_attaches_with(host, monkeypatch):
    """Root has such networks, too. The card says all that goes into the request."""
    monkeypatch.setenv("HULL_LIBEXEC", str(BUILD / "bin"))
    network = {"name": "u1", "type": "user", "config": {"ipv4": "172.20.0.1/16"}}
    nic = {"mac": ONE, "ipv4": "172.20.0.9", "spoofing": "allow"}
    card = host.tool("container", network=network, instance="c1", nic=nic, forwards=[{"listen": "tcp:8080", "connect": "tcp:80"}])
    path = str(host.state / "run/networks/u1/switch.sock")
    assert card == {"switch": path, "name": "c1", "mac": ONE, "ipv4": "172.20.0.9/16", "gateway": "172.20.0.1", "dns": ["172.20.0.2"], "spoofing": True,
                    "forwards": [{"listen": "tcp:8080", "connect": "tcp:80"}]}
    switch = Attached(path)
    machine = Machine(switch, card["name"], card["mac"], address="", **{key: card[key] for key in ("ipv4", "spoofing", "forwards")})
    machine.namespace.ip("addr add 172.20.0.9/16 dev eth0")
    assert machine.pings("172.20.0.1")
    # The same switch again, and addresses that nobody else has.
    other = host.tool("container", network=network, instance="c2", nic={"mac": TWO})
    assert other["ipv4"] != card["ipv4"] and [port["name"] for port in switch.ask({"do": "status"})["ports"]] == ["c1"]
    for wrong in ("172.20.0.9", "172.20.0.1", "172.20.0.2", "172.21.0.1"):
        assert wrong in host.tool("container", check=False, network=network, instance="c3", nic={"mac": THREE, "ipv4": wrong}).stderr
    assert host.tool("addresses", network=network, nic={"mac": ONE}) == ["172.20.0.9"]
    assert "has no interfaces for VMs" in host.tool("tap", check=False, network=network, instance="vm1", nic={"mac": THREE}).stderr
    host.tool("release", network=network, instance="c1", nic=nic, forget=True)
    assert switch.ask({"do": "status"})["ports"] == []
    assert host.tool("addresses", network=network, nic={"mac": ONE}) == []
    pid = int((host.state / "run/networks/u1/switch.pid").read_text())
    host.tool("down", network=network)
    assert not pathlib.Path(f"/proc/{pid}/exe").exists() and not list((host.state / "run/networks").iterdir())
    machine.close()


def test_boot_without_a_switch(tmp_path):
    options = kernel_arguments("cloud")
    for net, said in ((f"switch={tmp_path}/none", "No such file"), (f"switch={tmp_path}/none,hostfwd=tcp::8080-10.0.2.15:80", "a port alone")):
        done = subprocess.run([HULL, "boot", *options, "--net", net], capture_output=True, text=True, check=False)
        assert done.returncode != 0 and said in done.stderr, done
