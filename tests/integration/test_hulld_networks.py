"""Networks of hulld, in network namespaces of the tests' own: a host, a machine outside, and instances on bridges."""
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import time

import pytest
from conftest import BUILD

TOOL = BUILD / "tests/unit/manager/network_tool"
NEEDED = ["ip", "nft", "dnsmasq", "busybox"]
PATIENCE = 10  # seconds

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not TOOL.exists() or any(shutil.which(name) is None for name in NEEDED),
    reason="needs root, a build with tests, and " + ", ".join(NEEDED))

# Serves its name to whoever connects, and who connects is told.
SERVER = """
import socket, sys
server = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
while True:
    connection, peer = server.accept()
    connection.sendall(f"{sys.argv[2]} {peer[0]}".encode())
    connection.close()
"""
CLIENT = """
import socket, sys
try:
    connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3]))
    print(connection.recv(100).decode())
except OSError:
    print("nobody")
"""
# All frames that come to the card, up to one that begins like the last.
SNIFFER = """
import socket, sys
frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
frames.setsockopt(263, 8, 1)  # SOL_PACKET, PACKET_AUXDATA: a VLAN's tag is not in the frame
frames.bind(("eth0", 0))
print("ready", flush=True)
while True:
    data, extra, _, _ = frames.recvmsg(2048, 256)
    tag = next((value[16:18] for level, kind, value in extra if level == 263 and kind == 8 and int.from_bytes(value[:4], "little") & 16), None)
    text = data.hex()
    print(text[:24] + "8100" if tag is not None else text)
    if text.startswith(sys.argv[1]):
        break
"""
# As a guest may that does not play by the rules: an offer of addresses, routes.
RAW = """
import socket, sys
frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
frames.bind((sys.argv[1], 0))
frames.send(bytes.fromhex(sys.argv[2]))
"""


def run(*words, check=True, **others):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, **others)
    assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done


class Host:
    """A network namespace in which Hull makes its networks, another one outside of it, and more for instances."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.state = self.folder / "state"
        self.prefix = f"hn{os.getpid()}"
        self.spaces = []
        self.servers = []
        self.count = 0
        self.boot()

    def space(self, name):
        full = f"{self.prefix}-{name}"
        run("ip", "netns", "add", full)
        self.spaces.append(full)
        run("ip", "-n", full, "link", "set", "lo", "up")
        return full

    def boot(self):
        """A host that has just started: nothing of its networks is in its kernel."""
        self.count += 1
        self.name, self.outside = self.space(f"host{self.count}"), self.space(f"out{self.count}")
        run("ip", "-n", self.name, "link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", self.outside)
        for space, device, address in ((self.name, "up0", "192.0.2.1/24"), (self.outside, "eth0", "192.0.2.2/24")):
            run("ip", "-n", space, "addr", "add", address, "dev", device)
            run("ip", "-n", space, "link", "set", device, "up")

    def inside(self, space, *words, **others):
        return run("ip", "netns", "exec", space, *words, **others)

    def tool(self, verb, check=True, **request):
        done = self.inside(self.name, TOOL, self.state, verb, input=json.dumps(request), check=check)
        return done if not check else json.loads(done.stdout) if done.stdout else None

    def instance(self, name, mac, network, *, forwards=None, nic=None):
        """A container: its card is in a namespace of its own."""
        request = {"network": network, "instance": name, "nic": {"mac": mac, **(nic or {})}, "forwards": forwards or []}
        card = self.tool("container", **request)
        space = self.space(f"{name}-{self.count}")
        end = f"ve-{name}"
        run("ip", "-n", self.name, "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", space)
        run("ip", "-n", space, "link", "set", "eth0", "address", mac, "up")
        run("ip", "-n", space, "addr", "add", card["ipv4"], "dev", "eth0")
        run("ip", "-n", space, "route", "add", "default", "via", card["gateway"])
        # As hull does it: the guards are there before the bridge hears of it.
        self.tool("protect", **request, interface=end)
        run("ip", "-n", self.name, "link", "set", end, "master", card["bridge"], "up")
        return space, card

    def serve(self, space, port, name):
        server = subprocess.Popen(["ip", "netns", "exec", space, sys.executable, "-c", SERVER, str(port), name], stdout=subprocess.PIPE)
        self.servers.append(server)
        assert server.stdout.readline() == b"ready\n"

    def ask(self, space, address, port, patience=3):
        return self.inside(space, sys.executable, "-c", CLIENT, address, port, patience).stdout.strip()

    def pings(self, space, address, patience=2):
        return self.inside(space, "busybox", "ping", "-c", "1", "-W", str(patience), address, check=False).returncode == 0

    def dnsmasq(self, network="n1"):
        return int((self.state / "run/networks" / network / "dns/dnsmasq.pid").read_text())

    def close(self):
        for server in self.servers:
            server.kill()
            server.wait()
            server.stdout.close()
        for file in self.state.glob("run/networks/*/dns/dnsmasq.pid"):
            end(int(file.read_text()))
        for space in self.spaces:
            run("ip", "netns", "del", space, check=False)


def command_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def end(pid):
    if command_of(pid).startswith(b"hull-dnsmasq:"):
        pidfd = os.pidfd_open(pid)
        os.kill(pid, 9)
        # Its command line is gone before its sockets are.
        assert select.select([pidfd], [], [], PATIENCE)[0]
        os.close(pidfd)


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def nat(name="n1", ipv4="10.77.5.1/24", **config):
    return {"name": name, "type": "nat", "config": {"ipv4": ipv4, **config}}


@pytest.fixture(name="host")
def make_host():
    folder = tempfile.mkdtemp(prefix="hull-networks-")
    host = Host(folder)
    try:
        yield host
    finally:
        host.close()
        shutil.rmtree(folder)


ONE, TWO, THREE = "52:54:00:00:00:01", "52:54:00:00:00:02", "52:54:00:00:00:03"


def test_nat(host):
    """Instances reach each other, by name too, and the world with the host's address; the world reaches what is forwarded."""
    forwards = [{"listen": "tcp:8080", "connect": "tcp:80"}, {"listen": "tcp:192.0.2.1:8081", "connect": "tcp:80"}]
    web1, card1 = host.instance("web1", ONE, nat(), forwards=forwards)
    web2, card2 = host.instance("web2", TWO, nat())
    address1, address2 = (card["ipv4"].split("/")[0] for card in (card1, card2))
    assert address1 != address2
    host.serve(web1, 80, "web1")
    host.serve(web2, 81, "web2")
    host.serve(host.outside, 82, "outside")
    assert host.ask(web2, address1, 80) == f"web1 {address2}"
    assert host.ask(web1, address2, 81) == f"web2 {address1}"
    assert host.ask(host.name, address1, 80) == "web1 10.77.5.1"
    assert host.ask(web1, "192.0.2.2", 82) == "outside 192.0.2.1"
    # By name, with and without the domain; of the network alone.
    for name in ("web2", "web2.hull"):
        said = host.inside(web1, "busybox", "nslookup", name, "10.77.5.1").stdout
        assert address2 in said, said
    assert host.inside(web1, "busybox", "nslookup", "web9.hull", "10.77.5.1", check=False).returncode != 0
    # From outside: what is forwarded, and nothing else.
    assert host.ask(host.outside, "192.0.2.1", 8080) == "web1 192.0.2.2"
    assert host.ask(host.outside, "192.0.2.1", 8081) == "web1 192.0.2.2"
    run("ip", "-n", host.outside, "route", "add", "10.77.5.0/24", "via", "192.0.2.1")
    assert host.ask(host.outside, address1, 80, 1) == "nobody"
    assert not host.pings(host.outside, address1, 1)
    # From the host itself, by loopback and by its address, and from the instances.
    assert host.ask(host.name, "127.0.0.1", 8080).startswith("web1 ")
    assert host.ask(host.name, "192.0.2.1", 8080).startswith("web1 ")
    assert host.ask(host.name, "127.0.0.1", 8081, 1) == "nobody"
    assert host.ask(web2, "192.0.2.1", 8080).startswith("web1 ")
    # The host's loopback addresses are not the network's.
    host.serve(host.name, 90, "host")
    run("ip", "-n", web1, "route", "add", "127.0.0.2/32", "via", "10.77.5.1", "src", address1)
    assert host.ask(web1, "127.0.0.2", 90, 1) == "nobody"
    assert host.ask(web1, "10.77.5.1", 90) == f"host {address1}"
    # Gone with its NIC.
    host.tool("release", network=nat(), instance="web1", nic={"mac": ONE})
    assert host.ask(host.name, "127.0.0.1", 8080, 1) == "nobody"
    assert host.inside(web2, "busybox", "nslookup", "web1", "10.77.5.1", check=False).returncode != 0


def test_spoofing(host):
    """What an instance sends with others' addresses is dropped; where spoofing is allowed it is not."""
    bad, card = host.instance("bad", ONE, nat())
    good, good_card = host.instance("good", TWO, nat())
    free, free_card = host.instance("free", THREE, nat(), nic={"spoofing": "allow"})
    address = good_card["ipv4"].split("/")[0]
    assert host.pings(bad, address)

    def take(space, old, new):
        run("ip", "-n", space, "addr", "del", old, "dev", "eth0")
        run("ip", "-n", space, "addr", "add", new, "dev", "eth0")

    for space, own, reaches in ((bad, card["ipv4"], False), (free, free_card["ipv4"], True)):
        take(space, own, "10.77.5.200/24")
        assert host.pings(space, address, 1) == reaches
        # With ARP out of the way the packets themselves.
        run("ip", "-n", space, "neigh", "replace", address, "lladdr", TWO, "dev", "eth0")
        run("ip", "-n", good, "neigh", "replace", "10.77.5.200", "lladdr", ONE if space == bad else THREE, "dev", "eth0")
        assert host.pings(space, address, 1) == reaches
        take(space, "10.77.5.200/24", own)
        run("ip", "-n", space, "neigh", "del", address, "dev", "eth0", check=False)
        run("ip", "-n", good, "neigh", "del", "10.77.5.200", "dev", "eth0", check=False)
        assert host.pings(space, address)
    run("ip", "-n", bad, "link", "set", "eth0", "address", "52:54:00:00:00:99")
    assert not host.pings(bad, address, 1)
    run("ip", "-n", bad, "link", "set", "eth0", "address", ONE)
    assert host.pings(bad, address)
    # A DHCP server's answer to all, and a VLAN's frame. What comes behind them from one that may send anything says that they do not come any more.
    number = int(card["ipv4"].split(".")[3].split("/")[0])
    words = [0x4500, 0x1c, 0, 0, 0x4011, 0x0a4d, 0x0500 + number, 0xffff, 0xffff]
    total = sum(words)
    udp = "ffffffffffff52540000000X08004500001c000000004011%04x0a4d05%02xffffffff0043004400080000" % (0xffff - (total % 0x10000 + total // 0x10000), number)
    vlan = "ffffffffffff52540000000X810000010800" + "00" * 46
    last = "ffffffffffff52540000000388b5" + "00" * 46
    for frame in (udp, vlan):
        for space, sender, arrives in ((bad, "1", False), (free, "3", True)):
            sniffer = subprocess.Popen(["ip", "netns", "exec", good, sys.executable, "-c", SNIFFER, last[:28]], stdout=subprocess.PIPE, text=True)
            host.servers.append(sniffer)
            assert sniffer.stdout.readline() == "ready\n"
            for where, what in ((space, frame.replace("X", sender)), (free, last)):
                host.inside(where, sys.executable, "-c", RAW, "eth0", what)
            seen = sniffer.stdout.read()
            assert any(line.startswith(frame.replace("X", sender)[:28]) for line in seen.splitlines()) == arrives, (frame, seen)


def lease(host, space):
    """What DHCP gives: the address, with prefix."""
    script = host.folder / "udhcpc"
    script.write_text('#!/bin/sh\n[ "$1" = bound ] && echo "lease $ip/$mask $router $dns $domain"\nexit 0\n')
    script.chmod(0o755)
    said = host.inside(space, "busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "5", "-T", "1", "-s", script).stdout
    return next(line for line in said.splitlines() if line.startswith("lease ")).split()[1:]


def test_dhcp(host):
    """By DHCP an instance gets the address that is reserved for it, for ever; one that it asks for too."""
    request = {"network": nat(), "instance": "web1", "nic": {"mac": ONE}}
    web1, card = host.instance("web1", ONE, nat())
    run("ip", "-n", web1, "addr", "flush", "dev", "eth0")
    assert lease(host, web1) == [card["ipv4"], "10.77.5.1", "10.77.5.1", "hull"]
    assert host.tool("addresses", **request) == [card["ipv4"].split("/")[0]]
    host.tool("release", **request)
    assert host.tool("container", **request)["ipv4"] == card["ipv4"]
    web2, card = host.instance("web2", TWO, nat(), nic={"ipv4": "10.77.5.33"})
    run("ip", "-n", web2, "addr", "flush", "dev", "eth0")
    assert lease(host, web2)[0] == "10.77.5.33/24"
    # Others' addresses, and such that cannot be.
    for wrong in ("10.77.5.33", "10.77.6.1", "10.77.5.1", "10.77.5.0", "10.77.5.255", "fd00::1", "x", "10.77.5.3\n10.0.0.1"):
        said = host.tool("container", check=False, network=nat(), instance="web3", nic={"mac": THREE, "ipv4": wrong})
        assert said.returncode == 1 and "ipv4" in said.stderr, (wrong, said.stderr)
    # What is forgotten is free.
    host.tool("release", network=nat(), instance="web2", nic={"mac": TWO}, forget=True)
    assert host.tool("container", network=nat(), instance="web3", nic={"mac": THREE, "ipv4": "10.77.5.33"})["ipv4"] == "10.77.5.33/24"


def test_after_a_boot(host):
    """All is made again: after a boot of the host, when dnsmasq has died, when its rules were flushed."""
    request = {"network": nat(), "instance": "web1", "nic": {"mac": ONE}}
    address = host.tool("container", **request)["ipv4"]
    host.tool("up", network=nat())
    first = host.dnsmasq()
    host.tool("up", network=nat())
    assert host.dnsmasq() == first and command_of(first)
    end(first)
    host.tool("up", network=nat())
    second = host.dnsmasq()
    assert second != first and command_of(second).startswith(b"hull-dnsmasq:")
    host.inside(host.name, "nft", "flush", "ruleset")
    host.tool("up", network=nat())
    assert "masquerade" in host.inside(host.name, "nft", "list", "ruleset").stdout
    end(second)
    host.boot()
    web1, card = host.instance("web1", ONE, nat())
    assert card["ipv4"] == address
    assert host.pings(web1, "192.0.2.2")
    # A number that is another process' by now is left alone.
    third = host.dnsmasq()
    end(third)
    other = subprocess.Popen(["sleep", "1000"])
    host.servers.append(subprocess.Popen(["cat", "/dev/null"], stdout=subprocess.PIPE))
    (host.state / "run/networks/n1/dns/dnsmasq.pid").write_text(f"{other.pid}\n")
    host.tool("up", network=nat())
    assert host.dnsmasq() != other.pid and other.poll() is None
    other.kill()
    other.wait()


def test_down(host):
    """Nothing is left of it; while somebody is on it, it stays."""
    before = host.inside(host.name, "ip", "-br", "link").stdout
    request = {"network": nat(), "instance": "web1", "nic": {"mac": ONE}}
    tap = host.tool("tap", **request)["interface"]
    assert host.tool("tap", **request)["interface"] == tap
    assert "hull-n1" in host.inside(host.name, "ip", "link", "show", tap).stdout
    pid = host.dnsmasq()
    said = host.tool("down", check=False, network=nat())
    assert said.returncode == 1 and tap in said.stderr, said.stderr
    assert command_of(pid)
    host.tool("release", **request)
    host.tool("down", network=nat())
    assert not command_of(pid)
    assert host.inside(host.name, "ip", "-br", "link").stdout == before
    assert host.inside(host.name, "nft", "list", "ruleset").stdout == ""
    assert not list((host.state / "run/networks").iterdir())


def test_two_networks(host):
    """They do not see each other, and both see the world."""
    one, _ = host.instance("one", ONE, nat())
    two, card = host.instance("two", TWO, nat("n2", "10.77.6.1/24"))
    assert host.pings(one, "192.0.2.2") and host.pings(two, "192.0.2.2")
    assert not host.pings(one, card["ipv4"].split("/")[0], 1)
    assert host.inside(one, "busybox", "nslookup", "two", "10.77.5.1", check=False).returncode != 0
    # The same port of the host for two: the second is told who has it.
    forward = [{"listen": "tcp:8080", "connect": "tcp:80"}]
    host.tool("container", network=nat(), instance="one", nic={"mac": ONE}, forwards=forward)
    said = host.tool("container", check=False, network=nat(), instance="three", nic={"mac": THREE}, forwards=forward)
    assert said.returncode == 1 and "one/eth0" in said.stderr, said.stderr


def test_bridge_of_the_host(host):
    """A VM's interface is put into it, and sends from its own address alone."""
    run("ip", "-n", host.name, "link", "add", "br0", "type", "bridge")
    network = {"name": "lan", "type": "bridge", "config": {"bridge": "br0"}}
    tap = host.tool("tap", network=network, instance="vm1", nic={"mac": ONE})["interface"]
    assert "br0" in host.inside(host.name, "ip", "link", "show", tap).stdout
    assert ONE in host.inside(host.name, "nft", "list", "table", "bridge", "hull_lan").stdout
    said = host.tool("tap", check=False, network=network, instance="vm2", nic={"mac": TWO},
                     forwards=[{"listen": "tcp:1", "connect": "tcp:1"}])
    assert said.returncode == 1 and "forwards nothing" in said.stderr
    host.tool("release", network=network, instance="vm1", nic={"mac": ONE})
    assert tap not in host.inside(host.name, "ip", "link").stdout
    assert "br0" in host.inside(host.name, "ip", "link").stdout
    missing = {"name": "lan2", "type": "bridge", "config": {"bridge": "br9"}}
    said = host.tool("tap", check=False, network=missing, instance="vm1", nic={"mac": ONE})
    assert said.returncode == 1 and "br9" in said.stderr


def test_ipv6(host):
    """With a network of IPv6 addresses the instances make theirs of it, and reach the bridge; a router of their own is not heard."""
    network = nat(ipv6="fd12:3456:789a::1/64")
    one, _ = host.instance("one", ONE, network)

    def has_address():
        return "fd12:3456:789a:" in host.inside(one, "ip", "-6", "addr", "show", "dev", "eth0").stdout

    until(has_address)
    assert host.pings(one, "fd12:3456:789a::1")


def test_what_is_cheap(host):
    """A network that is up is only looked at."""
    host.tool("up", network=nat())
    pid = host.dnsmasq()
    rules = host.state / "run/networks/n1/rules.nft"
    before = rules.stat().st_mtime_ns
    assert host.tool("time", network=nat())["ns"] > 0
    assert (host.dnsmasq(), rules.stat().st_mtime_ns) == (pid, before)
