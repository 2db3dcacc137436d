"""hull-net-user as a switch: tap interfaces of network namespaces are its ports, as those of rootless containers are."""
import array
import contextlib
import fcntl
import json
import os
import socket
import struct
import subprocess
import time

import pytest

from conftest import BUILD, let_others_pass
from test_net_user import IFF_NO_PI, IFF_TAP, TUNSETIFF, Namespace, ask, serve

NET_USER = BUILD / "bin/hull-net-user"
IFF_VNET_HDR = 0x4000
TIMEOUT = 20  # seconds; an upper bound for a loaded machine
ONE, TWO, THREE = "52:54:00:00:00:01", "52:54:00:00:00:02", "52:54:00:00:00:03"
# What busybox runs when it has a lease.
LEASE = """#!/bin/sh
[ "$1" = bound ] && echo "$ip/$mask $router $dns $domain $hostname"
exit 0
"""


class Switch:
    def __init__(self, host, folder, *options, user=None):
        self.path, self.pid_file = folder / "switch.sock", folder / "switch.pid"
        self.host = host
        ready, other = os.pipe()
        self.process = host.run(lambda: subprocess.Popen(
            [NET_USER, "--switch", str(self.path), "--pid-file", str(self.pid_file), "--ready-fd", str(other), "--verbose", *options], pass_fds=(other,),
            user=user, stderr=subprocess.DEVNULL))
        os.close(other)
        with open(ready, encoding="utf-8") as status:
            self.status = status.read()

    def ask(self, request, fd=None):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(TIMEOUT)
            connection.connect(str(self.path))
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd is not None else []
            connection.sendmsg([json.dumps(request).encode()], ancillary)
            return json.loads(connection.recv(1 << 18))

    def attach(self, fd, **request):
        answer = self.ask({"do": "attach", **request}, fd)
        assert answer.get("ok"), answer
        return answer["ipv4"]

    def ports(self):
        return {port["name"]: port for port in self.ask({"do": "status"})["ports"]}

    def end(self):
        self.process.terminate()
        self.process.wait(TIMEOUT)


class Machine:
    """A network namespace with a tap interface, "eth0", whose other end is a port."""

    def __init__(self, switch, name, mac, *, flags=0, address=None, **more):
        self.namespace, self.name = Namespace(), name
        self.tap = self.namespace.run(self.open_tap, flags)
        self.namespace.ip(f"link set eth0 address {mac}")
        self.namespace.ip("link set eth0 up")
        try:
            self.ipv4 = switch.attach(self.tap, name=name, mac=mac, **more)
        except BaseException:
            self.close()
            raise
        if address != "":
            self.namespace.ip(f"addr add {address or self.ipv4}/24 dev eth0")
            self.namespace.ip("route add default via 10.0.2.2")

    @staticmethod
    def open_tap(flags):
        tap = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"eth0", IFF_TAP | IFF_NO_PI | flags))
        return tap

    def call(self, *words):
        return self.namespace.run(lambda: subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT, check=False))

    def pings(self, address):
        return self.call("busybox", "ping", "-c", "1", "-W", "2", address).returncode == 0

    def close(self):
        os.close(self.tap)
        self.namespace.pool.shutdown()


def until(check, what):
    end = time.monotonic() + TIMEOUT
    while not (found := check()):
        assert time.monotonic() < end, what
        time.sleep(0.02)
    return found


@pytest.fixture
def host():
    namespace = Namespace()
    yield namespace
    namespace.pool.shutdown()


@pytest.fixture
def switch(host, tmp_path):
    made = Switch(host, tmp_path)
    assert made.status == "ready\n"
    yield made
    made.end()


@pytest.fixture
def machine(switch):
    with contextlib.ExitStack() as stack:
        def make(*arguments, **more):
            made = Machine(switch, *arguments, **more)
            stack.callback(made.close)
            return made
        yield make


def test_instances_reach_each_other(switch, machine, tmp_path):
    script = tmp_path / "lease"
    script.write_text(LEASE)
    script.chmod(0o755)
    one = machine("web1", ONE, ipv4="10.0.2.77/24", address="")
    two = machine("Web2", TWO, flags=IFF_VNET_HDR)
    assert two.ipv4 == "10.0.2.15"
    # The address that was reserved, and what goes with it.
    lease = one.call("busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "5", "-s", str(script), "-O", "hostname", "-O", "domain")
    assert lease.stdout.split() == ["10.0.2.77/24", "10.0.2.2", "10.0.2.3", "hull", "web1"], lease
    other = one.call("busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "5", "-s", str(script), "-r", "10.0.2.99")
    assert other.stdout.startswith("10.0.2.77/24"), other
    one.namespace.ip("addr add 10.0.2.77/24 dev eth0")
    assert one.pings("10.0.2.15") and two.pings("10.0.2.77")
    for name in ("web1", "WEB1.hull"):
        found = two.call("busybox", "nslookup", "-type=a", name, "10.0.2.3")
        assert found.returncode == 0 and "10.0.2.77" in found.stdout, found
    assert "NXDOMAIN" in two.call("busybox", "nslookup", "-type=a", "web3.hull", "10.0.2.3").stdout
    # Frames of any size, both ways.
    server = one.namespace.listen(("10.0.2.77", 5000))
    thread = serve(server, lambda data: data[::-1])
    data = os.urandom(1 << 20)
    assert ask(two.namespace.connect(("10.0.2.77", 5000)), data) == data[::-1]
    thread.join()
    server.close()
    ports = switch.ports()
    assert ports["web1"]["ipv4"] == "10.0.2.77" and ports["web2"]["mac"] == TWO
    assert ports["web2"]["sent_bytes"] > 1 << 20 and ports["web2"]["received_bytes"] > 1 << 20


def test_ipv6_between_instances(machine):
    one, two = machine("web1", ONE), machine("web2", TWO)
    # By the stack's advertisements, as kernels make it of the prefix.
    until(lambda: "fec0::5054:ff:fe00:1/64" in one.call("ip", "-6", "addr", "show", "dev", "eth0", "-tentative").stdout, "an address")
    until(lambda: two.call("busybox", "ping", "-6", "-c", "1", "-W", "2", "fec0::5054:ff:fe00:1").returncode == 0, "a way")
    found = two.call("busybox", "nslookup", "-type=aaaa", "web1", "fec0::3")
    assert "fec0::5054:ff:fe00:1" in found.stdout, found


def test_the_host_is_the_gateway(host, machine):
    server = host.listen(("127.0.0.1", 8000))
    one, two = machine("web1", ONE), machine("web2", TWO)
    for guest in (one, two):
        thread = serve(server, lambda data: data[::-1])
        data = os.urandom(1_000_000)
        assert ask(guest.namespace.connect(("10.0.2.2", 8000)), data) == data[::-1]
        thread.join()
    server.close()


def test_forwards_live_as_long_as_the_port(host, switch, machine):
    forwards = [{"listen": "tcp:127.0.0.1:8080", "connect": "tcp:80"}, {"listen": "tcp:[::]:8081", "connect": "tcp:80"},
                {"listen": "udp:5353", "connect": "udp:53"}]
    one = machine("web1", ONE, forwards=forwards)
    two = machine("web2", TWO)
    until(lambda: "fec0::5054:ff:fe00:1" in one.call("ip", "-6", "addr", "show", "dev", "eth0", "-tentative").stdout, "an address")
    for address, own in (("127.0.0.1", ("0.0.0.0", 80)), ("::1", ("::", 80))):
        server = one.namespace.listen(own)
        thread = serve(server, lambda data: b"web1 has " + data)
        assert ask(host.connect((address, 8081 if ":" in address else 8080)), b"this") == b"web1 has this"
        thread.join()
        server.close()
    server = one.namespace.listen(("0.0.0.0", 53), socket.SOCK_DGRAM)
    client = host.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    client.settimeout(TIMEOUT)
    client.sendto(b"ask", ("127.0.0.1", 5353))
    data, back = server.recvfrom(100)
    server.sendto(data + b"ed", back)
    assert client.recv(100) == b"asked"
    # The port is taken; after its owner's end it is free.
    with pytest.raises(AssertionError, match="already in use: choose another host port"):
        machine("web3", THREE, forwards=forwards[:1])
    assert switch.ports().keys() == {"web1", "web2"}
    one.namespace.ip("link delete eth0")
    until(lambda: switch.ports().keys() == {"web2"}, "the end of the port")
    with pytest.raises(ConnectionRefusedError):
        host.connect(("127.0.0.1", 8080))
    machine("web3", THREE, ipv4=one.ipv4, forwards=forwards)
    assert two.pings("10.0.2.2")


def test_a_namespace_that_ended(switch):
    """The switch's own descriptor keeps it alive: somebody has to say so."""
    forwards = [{"listen": "tcp:127.0.0.1:8080", "connect": "tcp:80"}]
    Machine(switch, "web1", ONE, forwards=forwards).close()
    Machine(switch, "web2", TWO).close()
    assert switch.ports().keys() == {"web1", "web2"}
    again = Machine(switch, "web1", ONE, forwards=forwards)
    assert again.ipv4 == "10.0.2.15" and switch.ports().keys() == {"web1", "web2"} and again.pings("10.0.2.2")
    assert switch.ask({"do": "detach", "mac": TWO}) == {"ok": True} == switch.ask({"do": "detach", "mac": THREE})
    assert "error" in switch.ask({"do": "detach"})
    assert switch.ports().keys() == {"web1"} and again.pings("10.0.2.2")
    again.close()


def test_addresses_of_others(machine, switch):
    one, two = machine("web1", ONE), machine("web2", TWO)
    free = machine("router", THREE, spoofing=True)
    before = switch.ports()["web1"]["refused_frames"]
    one.namespace.ip("addr add 10.0.2.200/24 dev eth0")
    one.call("busybox", "arping", "-c", "1", "-I", "eth0", "-s", "10.0.2.200", two.ipv4)
    assert not one.call("busybox", "ping", "-c", "1", "-W", "1", "-I", "10.0.2.200", two.ipv4).returncode == 0
    assert switch.ports()["web1"]["refused_frames"] > before
    free.namespace.ip("addr add 10.0.2.201/24 dev eth0")
    assert free.call("busybox", "ping", "-c", "1", "-W", "2", "-I", "10.0.2.201", two.ipv4).returncode == 0
    # Hardware addresses likewise, but never another port's.
    for guest, address, works in ((one, "52:54:00:00:00:99", False), (free, "52:54:00:00:00:98", True), (free, TWO, False)):
        guest.namespace.ip(f"link set eth0 down address {address}")
        guest.namespace.ip("link set eth0 up")
        two.namespace.ip("neigh flush dev eth0")
        assert guest.pings(two.ipv4) == works, address


def test_requests_that_make_no_sense(switch, machine):
    machine("web1", ONE)
    own, other = socket.socketpair()
    packets, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    stays, stream = socket.socketpair()
    with own, other, packets, stays, open("/dev/null", "rb") as file:
        with stream:
            switch.attach(stream.fileno(), mac=THREE, name="stream", ipv4="10.0.2.50")
        for request, fd, said in (
                ({"mac": THREE}, other, "the port of stream has it"), ({"mac": "52:55:0a:00:02:02"}, other, "the network's own"), ({}, other, "would do"),
                ({"mac": TWO, "ipv4": "10.0.2.2"}, other, "taken"), ({"mac": TWO, "ipv4": "10.0.3.7"}, other, "no such address"),
                ({"mac": TWO, "name": "a.b"}, other, "letters"), ({"mac": TWO, "ipv6": "2001::1"}, other, "fec0::/64"),
                ({"mac": TWO, "forwards": [{"listen": "tcp:a", "connect": "tcp:80"}]}, other, "bad host port"), ({"mac": TWO}, None, "descriptor"),
                ({"mac": TWO}, file, "stream socket or a tap"), ({"mac": TWO}, packets, "stream socket or a tap"), ({"do": "dance"}, None, "request")):
            answer = switch.ask({"do": "attach", **request}, fd.fileno() if fd is not None else None)
            assert said in answer["error"], answer
        assert switch.ports().keys() == {"web1", "stream"}
        # A frame larger than any is the end of its port, and of nothing else.
        assert switch.attach(other.fileno(), mac=TWO, name="web2") == "10.0.2.16"
        other.close()
        own.sendall(struct.pack(">I", 1 << 20))
        own.settimeout(TIMEOUT)
        while own.recv(1 << 16):
            pass
        assert switch.ports().keys() == {"web1", "stream"}
    until(lambda: switch.ports().keys() == {"web1"}, "the end of a port")


def test_one_who_takes_nothing_holds_up_nobody(switch, machine, host):
    one = machine("web1", ONE)
    own, other = socket.socketpair()
    with own:
        with other:
            switch.attach(other.fileno(), mac=TWO, name="stuck")
        # Broadcasts fill its queue until they are lost.
        sender = one.namespace.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)

        def lost():
            for _ in range(200):
                sender.sendto(bytes(1400), ("10.0.2.255", 9))
            return switch.ports()["stuck"]["lost_frames"]
        until(lost, "a full queue")
        server = host.listen(("127.0.0.1", 8000))
        thread = serve(server, lambda data: data * 1000)
        assert ask(one.namespace.connect(("10.0.2.2", 8000)), b"x" * 100) == b"x" * 100_000
        thread.join()
        server.close()


def test_it_ends_when_nobody_needs_it(host, tmp_path):
    switch = Switch(host, tmp_path, "--idle", "1")
    second = Switch(host, tmp_path)
    assert "the switch runs already" in second.status
    second.end()
    assert switch.process.pid == int(switch.pid_file.read_text())
    own, other = socket.socketpair()
    with own, other:
        switch.attach(other.fileno(), mac=ONE)
    assert switch.process.wait(TIMEOUT) == 0
    # Its socket is taken over.
    third = Switch(host, tmp_path)
    assert third.status == "ready\n" and third.ports() == {}
    third.end()


@pytest.mark.parametrize("user", [None, 12345])
def test_jail_of_a_switch(host, tmp_path, user):
    tmp_path.chmod(0o777)
    let_others_pass(tmp_path.parent)
    switch = Switch(host, tmp_path, user=user)
    assert switch.status == "ready\n"
    status = dict(line.split(":", 1) for line in open(f"/proc/{switch.process.pid}/status", encoding="utf-8"))
    assert status["Seccomp"].strip() == "2" and status["NoNewPrivs"].strip() == "1"
    assert {status[key].strip() for key in ("CapEff", "CapPrm", "CapBnd")} == {"0" * 16}
    machine = Machine(switch, "web1", ONE)  # a tap that it is given, all the same
    assert machine.pings("10.0.2.2")
    machine.close()
    switch.end()
