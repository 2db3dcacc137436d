"""hull-net-user against a guest in a network namespace: a tap interface whose frames go through the frame socket.

A second namespace is its host, so that ports and name servers here are the tests' own.
"""
import concurrent.futures
import ctypes
import fcntl
import os
import select
import socket
import struct
import subprocess
import threading
import time

import pytest

from conftest import BUILD

NET_USER = BUILD / "bin/hull-net-user"
CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
LIBC = ctypes.CDLL(None, use_errno=True)
MAC = bytes.fromhex("525400123456")
TIMEOUT = 20  # seconds; an upper bound for a loaded machine


class Namespace:
    """A network namespace with a thread that lives in it."""

    def __init__(self):
        self.pool = concurrent.futures.ThreadPoolExecutor(1)
        if not self.run(lambda: LIBC.unshare(CLONE_NEWNET) == 0):
            self.pool.shutdown()
            pytest.skip("making a network namespace needs CAP_SYS_ADMIN")
        self.ip("link set lo up")

    def run(self, function, *arguments):
        return self.pool.submit(function, *arguments).result(TIMEOUT)

    def ip(self, command):
        self.run(lambda: subprocess.run(["ip", *command.split()], check=True))

    def listen(self, address, kind=socket.SOCK_STREAM):
        def start():
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            server = socket.socket(family, kind)
            server.settimeout(TIMEOUT)
            server.bind(address)
            if kind == socket.SOCK_STREAM:
                server.listen()
            return server
        return self.run(start)

    def connect(self, address):
        return self.run(lambda: socket.create_connection(address, TIMEOUT))


class Helper:
    """A running hull-net-user, in the namespace."""

    def __init__(self, namespace, *arguments, user=None):
        self.socket, other = socket.socketpair()
        ready, ready_other = os.pipe()
        self.process = namespace.run(lambda: subprocess.Popen(
            [NET_USER, "--fd", str(other.fileno()), "--ready-fd", str(ready_other), "--verbose", *arguments],
            pass_fds=(other.fileno(), ready_other), user=user, stderr=subprocess.PIPE, text=True))
        other.close()
        os.close(ready_other)
        with open(ready, encoding="utf-8") as status:
            self.status = status.read()  # until it closes the pipe

    def send(self, frame):
        self.socket.sendall(struct.pack(">I", len(frame)) + frame)

    def receive(self, wanted, timeout=TIMEOUT):
        """The first frame for which wanted(frame) holds."""
        self.socket.settimeout(timeout)
        while True:
            size, = struct.unpack(">I", self.socket.recv(4, socket.MSG_WAITALL))
            frame = self.socket.recv(size, socket.MSG_WAITALL)
            if wanted(frame):
                return frame

    def close(self):
        """The exit status after the VM has closed its end."""
        self.socket.close()
        status = self.process.wait(TIMEOUT)
        self.log = self.process.stderr.read()
        self.process.stderr.close()
        return status


class Guest:
    """A namespace whose tap interface is the other end of a helper's frame socket."""

    def __init__(self, helper):
        self.helper = helper
        self.namespace = Namespace()
        self.tap = self.namespace.run(self.open_tap)
        for command in ("link set eth0 up", "addr add 10.0.2.15/24 dev eth0", "route add default via 10.0.2.2"):
            self.namespace.ip(command)
        self.stop, self.stopper = os.pipe()
        self.bridge = threading.Thread(target=self.carry)
        self.bridge.start()

    @staticmethod
    def open_tap():
        tap = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"eth0", IFF_TAP | IFF_NO_PI))
        return tap

    def carry(self):
        received = b""
        while True:
            ready, _, _ = select.select([self.tap, self.helper.socket, self.stop], [], [])
            if self.stop in ready:
                return
            if self.tap in ready:
                self.helper.send(os.read(self.tap, 65536))
            if self.helper.socket in ready:
                got = self.helper.socket.recv(1 << 18)
                if not got:
                    return
                received += got
                while len(received) >= 4:
                    end = 4 + struct.unpack_from(">I", received)[0]
                    if len(received) < end:
                        break
                    os.write(self.tap, received[4:end])
                    received = received[end:]

    def close(self):
        os.write(self.stopper, b"x")
        self.bridge.join()
        for fd in (self.tap, self.stop, self.stopper):
            os.close(fd)
        self.namespace.pool.shutdown()


@pytest.fixture
def host():
    namespace = Namespace()
    yield namespace
    namespace.pool.shutdown()


@pytest.fixture
def start(host):
    """Starts a helper and a guest behind it."""
    started = []

    def start(*arguments, **options):
        helper = Helper(host, *arguments, **options)
        assert helper.status == "ready\n"
        guest = Guest(helper)
        started.append((helper, guest))
        return guest

    yield start
    for helper, guest in started:
        guest.close()
        assert helper.close() == 0, helper.log


def serve(server, reply):
    """Answers one connection: reads to its end, then sends reply(what came)."""
    def run():
        connection, _ = server.accept()
        with connection:
            connection.settimeout(TIMEOUT)
            data = b""
            while part := connection.recv(1 << 16):
                data += part
            connection.sendall(reply(data))
    thread = threading.Thread(target=run)
    thread.start()
    return thread


def ask(connection, data):
    """Sends while receiving nothing; then the whole answer."""
    with connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
        return answer


def test_guest_reaches_the_hosts_loopback(host, start):
    server = host.listen(("127.0.0.1", 8000))
    guest = start()
    thread = serve(server, lambda data: data[::-1])
    data = os.urandom(3_000_000)
    assert ask(guest.namespace.connect(("10.0.2.2", 8000)), data) == data[::-1]
    thread.join()
    server.close()


def test_guest_meets_refusal_at_a_closed_port(start):
    with pytest.raises(ConnectionRefusedError):
        start().namespace.connect(("10.0.2.2", 8001))


def test_tcp_forward_lets_the_server_speak_first(host, start):
    guest = start("--hostfwd", "tcp:127.0.0.1:2222-:22")
    server = guest.namespace.listen(("10.0.2.15", 22))
    client = host.connect(("127.0.0.1", 2222))
    connection, _ = server.accept()
    connection.sendall(b"SSH-2.0-test\r\n")
    assert client.recv(100) == b"SSH-2.0-test\r\n"
    client.sendall(b"hello")
    assert connection.recv(100) == b"hello"
    for each in (client, connection, server):
        each.close()


def test_udp_forward(host, start):
    guest = start("--hostfwd", "udp:127.0.0.1:5353-10.0.2.15:53")
    server = guest.namespace.listen(("10.0.2.15", 53), socket.SOCK_DGRAM)
    client = host.listen(("127.0.0.1", 0), socket.SOCK_DGRAM)
    client.sendto(b"question", ("127.0.0.1", 5353))
    data, peer = server.recvfrom(100)
    assert data == b"question"
    server.sendto(b"answer", peer)
    assert client.recv(100) == b"answer"
    client.close()
    server.close()


def test_names_are_asked_at_the_given_server(host, start):
    server = host.listen(("127.0.0.53", 53), socket.SOCK_DGRAM)
    guest = start("--dns", "127.0.0.53")
    client = guest.namespace.listen(("10.0.2.15", 0), socket.SOCK_DGRAM)
    client.sendto(b"query", ("10.0.2.3", 53))
    data, peer = server.recvfrom(100)
    assert data == b"query"
    server.sendto(b"reply", peer)
    assert client.recv(100) == b"reply"
    client.close()
    server.close()


def test_restricted_guest_reaches_nothing_but_forwards_work(host, start):
    outside = host.listen(("127.0.0.1", 8000))
    guest = start("--restrict", "--hostfwd", "tcp:127.0.0.1:2222-:22")
    inside = guest.namespace.listen(("10.0.2.15", 22))
    thread = serve(inside, bytes.upper)
    assert ask(host.connect(("127.0.0.1", 2222)), b"abc") == b"ABC"
    thread.join()
    with pytest.raises(OSError):
        guest.namespace.run(lambda: socket.create_connection(("10.0.2.2", 8000), 2))
    inside.close()
    outside.close()


def test_guest_that_reads_late_loses_no_byte(host, start):
    server = host.listen(("127.0.0.1", 8000))
    guest = start()
    data = os.urandom(8_000_000)
    thread = serve(server, lambda _: data)
    client = guest.namespace.connect(("10.0.2.2", 8000))
    client.shutdown(socket.SHUT_WR)
    time.sleep(0.5)  # the point: every buffer on the way is full now
    answer = b""
    while part := client.recv(1 << 16):
        answer += part
    assert answer == data
    client.close()
    thread.join()
    server.close()


def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def dhcp_message(kind, *options):
    body = struct.pack(">BBBBIHH16s16s192sI", 1, 1, 6, 0, 0x1234ABCD, 0, 0, b"", MAC, b"", 0x63825363)
    body += bytes([53, 1, kind]) + b"".join(bytes([code, len(value)]) + value for code, value in options) + b"\xff"
    udp = struct.pack(">HHHH", 68, 67, 8 + len(body), 0) + body
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, bytes(4), b"\xff" * 4)
    ip = ip[:10] + struct.pack(">H", checksum(ip)) + ip[12:]
    return b"\xff" * 6 + MAC + b"\x08\x00" + ip + udp


def dhcp_answer(helper):
    """(type, address offered, options) of the next answer."""
    frame = helper.receive(lambda f: f[12:14] == b"\x08\x00" and f[23] == 17 and f[34:38] == b"\x00\x43\x00\x44")
    body = frame[42:]
    assert body[4:8] == struct.pack(">I", 0x1234ABCD)
    options, rest = {}, body[240:]
    while rest[0] != 255:
        options[rest[0]] = rest[2:2 + rest[1]]
        rest = rest[2 + rest[1]:]
    return options[53][0], socket.inet_ntoa(body[16:20]), options


def test_dhcp_gives_the_address_that_users_know(host):
    helper = Helper(host, "--hostname", "web1", "--search", "example.org")
    assert helper.status == "ready\n"
    helper.send(dhcp_message(1))
    kind, address, options = dhcp_answer(helper)
    assert (kind, address) == (2, "10.0.2.15")
    helper.send(dhcp_message(3, (50, socket.inet_aton(address)), (54, options[54])))
    kind, address, options = dhcp_answer(helper)
    assert (kind, address) == (5, "10.0.2.15")
    assert options[1] == socket.inet_aton("255.255.255.0")
    assert options[3] == socket.inet_aton("10.0.2.2")
    assert options[6] == socket.inet_aton("10.0.2.3")
    assert options[12] == b"web1"
    assert b"\x07example\x03org\x00" in options[119]
    assert helper.close() == 0


def arp_request(address):
    body = struct.pack(">HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, MAC, socket.inet_aton("10.0.2.15"), b"",
                       socket.inet_aton(address))
    return b"\xff" * 6 + MAC + b"\x08\x06" + body


def test_arp_finds_host_and_name_server(host):
    helper = Helper(host)
    for address in ("10.0.2.2", "10.0.2.3"):
        helper.send(arp_request(address))
        reply = helper.receive(lambda f: f[12:14] == b"\x08\x06" and f[20:22] == b"\x00\x02")
        assert reply[28:32] == socket.inet_aton(address)
    assert helper.close() == 0


@pytest.mark.parametrize("arguments, ipv6", [([], True), (["--no-ipv6"], False)])
def test_routers_are_advertised_for_ipv6_only(host, arguments, ipv6):
    helper = Helper(host, *arguments)
    icmp = struct.pack(">BBHI", 133, 0, 0, 0)
    source, target = socket.inet_pton(socket.AF_INET6, "fe80::1234"), socket.inet_pton(socket.AF_INET6, "ff02::2")
    pseudo = source + target + struct.pack(">II", len(icmp), 58)
    icmp = icmp[:2] + struct.pack(">H", checksum(pseudo + icmp)) + icmp[4:]
    frame = bytes.fromhex("333300000002") + MAC + b"\x86\xdd" + struct.pack(
        ">IHBB", 6 << 28, len(icmp), 58, 255) + source + target + icmp
    helper.send(frame)
    helper.send(arp_request("10.0.2.2"))
    kinds = set()

    def is_arp_reply(got):
        if got[12:14] == b"\x86\xdd" and got[20] == 58:
            kinds.add(got[54])
        return got[12:14] == b"\x08\x06" and got[20:22] == b"\x00\x02"
    helper.receive(is_arp_reply)
    assert (134 in kinds) == ipv6
    assert helper.close() == 0


def test_broken_framing_ends_it_with_a_reason(host):
    helper = Helper(host)
    helper.socket.sendall(struct.pack(">I", 65551))
    assert helper.process.wait(TIMEOUT) == 1
    assert helper.close() == 1
    assert "announced a frame of 65551 bytes: at most 65550 may be" in helper.log


def test_odd_frames_do_no_harm(host):
    helper = Helper(host)
    for size in (0, 1, 13, 14, 15, 33, 34, 41, 60, 65550):
        helper.send(bytes(size))
        helper.send((b"\xff" * 6 + MAC + b"\x08\x00\x45" + b"\xff" * size)[:size])
        helper.send((b"\xff" * 6 + MAC + b"\x86\xdd\x60" + b"\xff" * size)[:size])
    helper.send(arp_request("10.0.2.2"))
    helper.receive(lambda f: f[12:14] == b"\x08\x06" and f[20:22] == b"\x00\x02")
    assert helper.close() == 0


def test_port_in_use_is_named(host):
    for kind, name in ((socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")):
        server = host.listen(("127.0.0.1", 2222), kind)
        helper = Helper(host, "--hostfwd", f"{name}:127.0.0.1:2222-:22")
        assert helper.status == (f"hull: forwarding {name} 127.0.0.1:2222: address already in use: "
                                 "choose another host port\n")
        assert helper.close() == 1
        server.close()


@pytest.mark.parametrize("rule, reason", [
    ("2222-:22", "no protocol"),
    ("tcp:2222-:22", "bad host address"),
    ("tcp::0-:22", "bad host port"),
    ("tcp::65536-:22", "bad host port"),
    ("tcp::2222", "no \"-\" after the host port"),
    ("tcp::2222-22", "no guest port"),
    ("tcp::2222-:22x", "after the guest port"),
    ("tcp:localhost:2222-:22", "bad host address \"localhost\""),
    ("tcp:[::1]:2222-:22", "same kind on both sides"),
    ("tcp:[::1]:2222-[::]:22", "IPv6 address is missing"),
    ("tcp:[::1:2222-:22", "no host port"),
    ("tcp:192.0.2.1:2222-:22", "expected an address of this host"),
])
def test_bad_forwards_say_why(host, rule, reason):
    helper = Helper(host, "--hostfwd", rule)
    assert helper.status.startswith("hull: forwarding ") and reason in helper.status
    assert helper.close() == 1


def process_status(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return {key: value.strip() for key, value in (line.split(":", 1) for line in status)}


@pytest.mark.parametrize("user", [None, 12345])
def test_jail_leaves_nothing(host, start, user):
    """As whoever runs this, and as an ordinary user."""
    guest = start(user=user)
    pid = guest.helper.process.pid
    status = process_status(pid)
    assert {status[key] for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    if user is None:
        assert status["Uid"].split() == ["65534"] * 4
    for name in ("mnt", "ipc", "uts"):
        assert os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")
    root = f"/proc/{pid}/root"
    assert sorted(os.listdir(root)) == ["etc"] and os.listdir(f"{root}/etc") == ["resolv.conf"]
    with pytest.raises(OSError):
        os.mkdir(f"{root}/etc/new")
    kinds = [os.readlink(f"/proc/{pid}/fd/{fd}").split(":")[0] for fd in os.listdir(f"/proc/{pid}/fd")]
    # Null devices, the log, the frame socket.
    assert sorted(kinds) == ["/dev/null"] * 3 + ["pipe", "socket"]


def test_idle_network_does_not_wake_up(host):
    helper = Helper(host, "--no-ipv6")
    helper.send(arp_request("10.0.2.2"))
    helper.receive(lambda f: f[12:14] == b"\x08\x06" and f[20:22] == b"\x00\x02")
    time.sleep(0.5)  # it settles
    before = process_status(helper.process.pid)
    time.sleep(1.5)
    after = process_status(helper.process.pid)
    assert after["voluntary_ctxt_switches"] == before["voluntary_ctxt_switches"]
    assert helper.close() == 0


def test_ends_with_its_parent(host):
    """The process that started it dies while the frame socket stays open."""
    ours, other = socket.socketpair()
    ready, ready_other = os.pipe()
    script = ('"$0" --fd "$1" --ready-fd "$2" & echo $!; read -r line')
    parent = subprocess.Popen(["bash", "-c", script, NET_USER, str(other.fileno()), str(ready_other)],
                              pass_fds=(other.fileno(), ready_other), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    os.close(ready_other)
    other.close()
    assert os.read(ready, 100) == b"ready\n"
    parent.kill()
    ours.settimeout(TIMEOUT)
    while ours.recv(1 << 16):
        pass
    parent.communicate()
    os.close(ready)
    ours.close()
