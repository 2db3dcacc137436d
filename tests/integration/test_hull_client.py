"""The managed verbs of hull and what they ask of hulld, which is a fake here: errors, slow and broken answers, progress, cancelling, sessions."""
import contextlib
import csv
import io
import json
import os
import pty
import shutil
import signal
import subprocess
import tarfile
import termios
import time

import pytest

from conftest import HULL
from fake_hulld import CONTROL, STDERR, STDIN, STDOUT, FakeHulld, Operations

TIMEOUT = 60
WEB1 = {"name": "web1", "kind": "container", "status": "running", "image": "debian/12", "ipv4": ["10.1.2.3"], "ipv6": [], "cpus": 1.5,
        "memory_bytes": 512 << 20, "node": "here", "created_at": "2026-01-02T03:04:05Z"}
VM1 = {"name": "vm1", "kind": "vm", "status": "stopped", "image": "debian/12", "ipv4": [], "ipv6": [], "cpus": 2, "memory_bytes": 2 << 30,
       "node": "here", "created_at": "2026-01-02T03:04:06Z"}


class Client:
    def __init__(self, folder):
        self.folder = folder
        self.hulld = FakeHulld(folder / "hulld.sock")
        self.routes = self.hulld.routes
        self.operations = Operations(self.hulld)
        self.environment = {**os.environ, "HULL_SOCKET": str(self.hulld.path), "NO_COLOR": "1"}

    def hull(self, *words, check=0, **options):
        options = {"stdin": subprocess.DEVNULL, **options} if "input" not in options else options
        done = subprocess.run([HULL, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=options.pop("text", True), timeout=TIMEOUT,
                              check=False, env=self.environment, **options)
        assert check is None or done.returncode == check, done
        return done

    def refused(self, *words, text):
        done = self.hull(*words, check=1)
        assert done.stderr == f"hull: {text}\n" and done.stdout == ""

    def body(self, method, path):
        """Of the one request of that kind."""
        requests = self.hulld.asked(method, path)
        assert len(requests) == 1
        return requests[0].body


@pytest.fixture
def client(tmp_path):
    made = Client(tmp_path)
    yield made
    made.hulld.end()


def test_list_shows_what_there_is(client):
    client.routes["GET /v1/instances"] = [VM1, WEB1]
    assert client.hull("list").stdout == (
        "NAME  KIND       STATUS   IMAGE      IPV4      CPUS  MEMORY  CREATED\n"
        "vm1   vm         stopped  debian/12  -         2     2G      2026-01-02 03:04\n"
        "web1  container  running  debian/12  10.1.2.3  1.5   512M    2026-01-02 03:04\n")
    assert json.loads(client.hull("list", "--json").stdout) == [VM1, WEB1]
    assert [row["name"] for row in csv.DictReader(client.hull("list", "--format", "csv", "--running").stdout.splitlines())] == ["web1"]
    assert json.loads(client.hull("list", "--vm", "--json").stdout) == [VM1]


def test_answers_in_chunks_are_whole(client):
    data = json.dumps([WEB1]).encode()
    client.routes["GET /v1/instances"] = lambda request: request.chunks(*(data[i:i + 1] for i in range(len(data))), kind=b"application/json; charset=utf-8")
    assert json.loads(client.hull("list", "--json").stdout) == [WEB1]


def test_tables_have_no_control_characters(client):
    client.routes["GET /v1/instances"] = [{**WEB1, "image": "a\x1b[2Jb"}]
    assert "a?[2Jb" in client.hull("list").stdout


def test_info_of_what_is_not_there_says_why(client):
    client.refused("info", "web2", text="/v1/instances/web2: there is none")


def test_names_are_encoded(client):
    client.hull("image", "info", "a/../b?c=%41#é", check=1)
    assert client.hulld.requests[-1].target == "/v1/images/a%2F%20..%2Fb%3Fc%3D%2541%23%C3%A9"
    client.hull("info", "..", check=1)
    assert client.hulld.requests[-1].target == "/v1/instances/%20.."


@pytest.mark.parametrize("answer, text", [
    (b"", "hulld at {path}: has ended the connection"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[]", "hulld's answer: it ends in its middle"),
    (b"SSH-2.0-x\r\n\r\n", "hulld's answer: it is no HTTP"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "hulld's answer: a length that is no number"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", "hulld's answer: a length that is no number"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n[]", "hulld's answer: both a length and chunks"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "hulld's answer: a chunk whose size is no number"),
    (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20000, "hulld's answer: a line that is too long"),
    (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 9000, "hulld's answer: a head that is too long"),
    (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\n[1,]", "hulld's answer: it is no JSON"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n[  ]", "hulld's answer: it is no JSON"),
    (b"HTTP/1.1 500 X\r\nContent-Length: 4\r\n\r\noops", "hulld: answers with status 500"),
    (b"HTTP/1.1 409 X\r\n\r\n" + b'{"error":{"code":"x","message":""}}', "hulld: answers with status 409"),
], ids=["nothing", "short", "ssh", "negative", "long-number", "both", "chunk", "line", "head", "no-json", "no-type", "no-message", "empty-message"])
def test_broken_answers_are_refused(client, answer, text):
    client.routes["GET /v1/instances"] = lambda request: request.send(answer)
    done = client.hull("list", check=1)
    accepted = {text.format(path=client.hulld.path), "hulld's answer: a line that is too long" if "too long" in text else ""}
    assert done.stderr.removeprefix("hull: ").rstrip("\n") in accepted
    assert done.stdout == ""


def test_answers_do_not_end(client):
    def endless(request):
        request.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        while True:
            request.send(b" " * (1 << 20))

    client.routes["GET /v1/instances"] = endless
    client.refused("list", text="hulld's answer: more than 67108864 bytes")


def test_messages_have_no_control_characters(client):
    client.routes["GET /v1/instances/x"] = lambda request: request.fail(409, "bad\x1b[31m\r\n\x07name")
    client.refused("info", "x", text="bad [31m   name")


def test_nobody_listens(client, tmp_path):
    client.environment["HULL_SOCKET"] = str(tmp_path / "other.sock")
    client.refused("list", text=f"hulld: nobody listens at {tmp_path}/other.sock, which HULL_SOCKET names")
    client.environment["HULL_SOCKET"] = "/" + "x" * 200
    assert "a socket's path has at most 107 bytes" in client.hull("list", check=1).stderr


def test_actions(client):
    for name in ("web1", "web2"):
        client.routes[f"POST /v1/instances/{name}/actions"] = client.operations.done()
    client.hull("stop", "web1", "web2", "--force", "--timeout", 7)
    assert client.body("POST", "/v1/instances/web1/actions") == {"action": "stop", "force": True, "timeout_s": 7}
    client.refused("start", text="start: NAMES or --all, one of both")
    client.refused("start", "web1", "--all", text="start: NAMES or --all, one of both")
    client.refused("delete", "--all", text="delete --all: would delete every instance: with --force")


def test_all_means_those_that_can(client):
    client.routes["GET /v1/instances"] = [WEB1, VM1]
    client.routes["POST /v1/instances/vm1/actions"] = client.operations.done()
    client.hull("start", "--all")
    assert client.body("POST", "/v1/instances/vm1/actions") == {"action": "start"}
    for name in ("vm1", "web1"):
        client.routes[f"DELETE /v1/instances/{name}"] = client.operations.done()
    client.hull("delete", "--all", "--force")
    assert client.hulld.asked("DELETE", "/v1/instances/web1")[0].query == {"force": "true"}


def test_one_that_fails_does_not_keep_the_others(client):
    client.routes["POST /v1/instances/a/actions"] = client.operations.failed("no space", description="starting a")
    client.routes["POST /v1/instances/c/actions"] = client.operations.done()
    done = client.hull("start", "a", "b", "c", check=1)
    assert done.stderr == "hull: /v1/instances/b/actions: there is none\nhull: starting a: no space\n"
    assert client.hulld.asked("POST", "/v1/instances/c/actions")


def test_launch(client):
    client.routes["GET /v1/images/debian/12"] = {"name": "sha256-1"}
    client.routes["POST /v1/instances"] = client.operations.done()
    done = client.hull("launch", "debian/12", "web1", "--vm", "--cpus", 2, "--memory", "1G", "--disk", "10G", "--network", "lab", "--set", "autostart=true",
                       "--set", "eth0.mac=52:54:00:1:2:3", "--profile", "a", "--profile", "b", "--description", "x")
    assert done.stdout == ""
    assert client.body("POST", "/v1/instances") == {
        "name": "web1", "image": "debian/12", "kind": "vm", "start": True, "profiles": ["a", "b"], "description": "x",
        "config": {"cpus": "2", "memory": "1G", "autostart": "true"},
        "devices": {"root": {"size": "10G"}, "eth0": {"network": "lab", "mac": "52:54:00:1:2:3"}}}


def test_launch_makes_names_and_addresses_up(client):
    client.routes["GET /v1/images/debian/12"] = {"name": "sha256-1"}
    client.routes["GET /v1/instances"] = [{**WEB1, "name": "debian-12-2"}, {**WEB1, "name": "node-3"}]
    client.routes["POST /v1/instances"] = client.operations.done()
    assert client.hull("launch", "debian/12", "--count", 2, "--no-start").stdout == "debian-12-3\ndebian-12-4\n"
    client.hull("launch", "debian/12", "node", "--count", 3, "--ip-start", "10.0.0.254")
    bodies = [request.body for request in client.hulld.asked("POST", "/v1/instances")]
    assert [body["start"] for body in bodies] == [False] * 2 + [True] * 3
    assert [(body["name"], body["devices"]["eth0"]["ipv4"]) for body in bodies[2:]] == [
        ("node-4", "10.0.0.254"), ("node-5", "10.0.0.255"), ("node-6", "10.0.1.0")]


def test_launch_builds_what_is_missing(client):
    client.routes["POST /v1/images"] = client.operations.done({"name": "sha256-2"})
    client.routes["POST /v1/instances"] = client.operations.done()
    done = client.hull("launch", "debian/12", "web1")
    assert done.stderr == "image debian/12 is not there yet: it is built first, which takes minutes\n"
    assert client.body("POST", "/v1/images") == {"source": "build", "distribution": "debian/12", "alias": "debian/12"}
    assert len(client.hulld.asked("POST", "/v1/instances")) == 1
    client.refused("launch", "sha256-9", "web1", text="/v1/images/sha256-9: there is none")


@pytest.mark.parametrize("words, text", [
    (["--memory", "much"], "option --memory: 'much' is no size: a number with K, M, G or T, as in 512M or 2G"),
    (["--set", "autostart"], "option --set: 'autostart': KEY=VALUE or DEVICE.PROPERTY=VALUE"),
    (["--ip-start", "10.0.0"], "option --ip-start: '10.0.0' is no IPv4 address"),
    (["--count", "0"], None),
], ids=["memory", "set", "ip-start", "count"])
def test_launch_refuses_what_makes_no_sense(client, words, text):
    done = client.hull("launch", "debian/12", *words, check=1)
    assert text is None or done.stderr == f"hull: {text}\n"
    assert not client.hulld.requests


def test_progress_on_a_terminal(client):
    progress = [{"progress": {"text": "copying", "done": part, "total": 4}} for part in range(4)]

    def slow(request):
        client.operations.begin(request, *progress, {"status": "done"}, description="making web1")
        path = f"GET /v1/operations/{client.operations.count:032x}"
        look = client.routes[path]

        def wait(seen):
            time.sleep(0.6)
            look(seen)

        client.routes[path] = wait

    client.routes["POST /v1/instances/web1/actions"] = slow
    status, shown = on_terminal(client, "start", "web1")
    assert status == 0
    assert "making web1: copying" in shown and "75% [" in shown
    assert shown.endswith("\r\x1b[K")


def on_terminal(client, *words, typed=b"", until=None):
    """What it prints on a terminal of its own, and its exit status."""
    parent, child = pty.openpty()
    before = termios.tcgetattr(child)
    process = subprocess.Popen([HULL, *words], stdin=child, stdout=child, stderr=child, env={**client.environment, "TERM": "xterm"},
                               preexec_fn=lambda: own_terminal(child))
    shown = b""
    deadline = time.monotonic() + TIMEOUT
    os.set_blocking(parent, False)
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError, OSError):
            shown += os.read(parent, 65536)
        if typed and (until is None or until in shown):
            os.write(parent, typed)
            typed = b""
        time.sleep(0.01)
    if process.poll() is None:
        process.kill()
        process.wait()
        raise AssertionError(shown)
    with contextlib.suppress(BlockingIOError, OSError):
        while data := os.read(parent, 65536):
            shown += data
    assert termios.tcgetattr(child) == before, "the terminal is as it was"
    os.close(parent)
    os.close(child)
    return process.returncode, shown.decode(errors="replace")


def own_terminal(fd):
    import fcntl
    os.setsid()
    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)


def interrupt(client, path, count):
    """Starts web1, whose operation does not end by itself, and presses Ctrl-C."""
    process = subprocess.Popen([HULL, "start", "web1"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=client.environment)
    for done in range(count):
        for _ in range(2000):
            if len(client.hulld.asked("GET", path)) > done and len(client.hulld.asked("DELETE", path)) >= done:
                break
            time.sleep(0.01)
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT)
    return process.returncode, out, err


def running(client, **options):
    def begin(request):
        client.operations.begin(request, {}, description="starting web1", **options)
        path = f"GET /v1/operations/{client.operations.count:032x}"
        look = client.routes[path]

        def wait(seen):
            time.sleep(0.2)
            look(seen)

        client.routes[path] = wait

    client.routes["POST /v1/instances/web1/actions"] = begin
    return f"/v1/operations/{1:032x}"


def test_ctrl_c_cancels(client):
    path = running(client)
    status, out, err = interrupt(client, path, 1)
    assert (status, out) == (130, "")
    assert err == "hull: cancelling; once more leaves it to itself\nhull: starting web1: cancelled\n"
    assert len(client.hulld.asked("DELETE", path)) == 1


def test_ctrl_c_twice_leaves_it(client):
    path = running(client, on_cancel={"status": "running"})
    status, _, err = interrupt(client, path, 2)
    assert status == 130
    assert err == f"hull: cancelling; once more leaves it to itself\nhull: starting web1: goes on as operation {1:032x}\n"


def test_hulld_goes_away_while_it_is_waited_for(client):
    def begin(request):
        client.operations.begin(request, {})
        client.routes[f"GET /v1/operations/{1:032x}"] = lambda seen: None

    client.routes["POST /v1/instances/web1/actions"] = begin
    client.refused("start", "web1", text=f"hulld at {client.hulld.path}: has ended the connection")


def test_config(client):
    document = {**WEB1, "profiles": ["default"], "config": {"memory": "512M"}, "devices": {"eth0": {"type": "nic", "ipv4": "10.1.2.3"}}}
    client.routes["GET /v1/instances/web1"] = document
    client.routes["PATCH /v1/instances/web1"] = client.operations.done({"waits_for_restart": True})
    assert client.hull("config", "web1", "get", "memory", "eth0.ipv4", "profiles").stdout == '512M\n10.1.2.3\n["default"]\n'
    assert json.loads(client.hull("config", "web1", "--json").stdout) == {key: document[key] for key in ("profiles", "config", "devices")}
    client.refused("config", "web1", "get", "cpus", text="key cpus: it is not set")
    client.refused("config", "web1", "gat", "cpus", text="config gat: unknown: did you mean get?")
    done = client.hull("config", "web1", "set", "memory=1G", "eth0.ipv4=10.1.2.4")
    assert done.stderr == "hull: web1: some of it holds from the next start on\n"
    client.hull("config", "web1", "unset", "memory", "eth0.ipv4", "eth0.mac")
    client.hull("config", "web1", "unset", "eth0", "cpus")  # a device, and a key
    client.hull("config", "web1", "set", "profiles=a,b", "description=c=d")
    client.hull("config", "web1", "unset", "profiles")
    client.environment["EDITOR"] = "sed -i -e s/512M/2G/ -e '/ipv4/d'"
    client.hull("config", "web1", "edit")
    assert [request.body for request in client.hulld.asked("PATCH", "/v1/instances/web1")] == [
        {"config": {"memory": "1G"}, "devices": {"eth0": {"ipv4": "10.1.2.4"}}},
        {"config": {"memory": None}, "devices": {"eth0": {"ipv4": None, "mac": None}}},
        {"config": {"cpus": None}, "devices": {"eth0": None}},
        {"profiles": ["a", "b"], "description": "c=d"},
        {"profiles": None},
        {"config": {"memory": "2G"}, "devices": {"eth0": {"ipv4": None}}}]
    client.environment["EDITOR"] = "true"
    assert client.hull("config", "web1", "edit").stderr == "hull: nothing was changed\n"
    client.environment["EDITOR"] = "false"
    assert "has failed" in client.hull("config", "web1", "edit", check=1).stderr


def exec_route(client, fn, name="exec"):
    seen = []

    def route(request):
        seen.append(json.loads(request.query["request"]))
        request.upgrade()
        fn(request)

    client.routes[f"GET /v1/instances/web1/{name}"] = route
    return seen


def test_exec_streams_and_status(client):
    def echo(request):
        request.control(started=True)
        data = b""
        while (packet := request.receive_packet()) != (CONTROL, b'{"eof":true}'):
            assert packet[0] == STDIN
            data += packet[1]
        request.send_frame(9, b"ping")
        assert request.receive_frame() == (10, b"ping")
        for i in range(0, len(data), 60000):
            request.send_packet(STDOUT, data[i:i + 60000])
        request.send_frame(2, bytes([STDERR]) + b"half", is_final=False)
        request.send_frame(0, b" and half\n")
        request.control(exit=7)

    seen = exec_route(client, echo)
    data = os.urandom(1 << 20)
    done = client.hull("exec", "--user", "nobody", "--cwd", "/tmp", "--env", "A=b=c", "web1", "--", "prog", "-x", "--", "é", input=data, text=False, check=7)
    assert done.stdout == data and done.stderr == b"half and half\n"
    assert seen == [{"do": "exec", "command": ["prog", "-x", "--", "é"], "environment": {"A": "b=c"}, "terminal": False, "user": "nobody", "cwd": "/tmp"}]


def test_exec_both_ways_at_once(client):
    """Neither side may wait for the other to read."""
    def cat(request):
        while (packet := request.receive_packet())[0] == STDIN:
            for _ in range(4):
                request.send_packet(STDOUT, packet[1])
        request.control(exit=0)

    exec_route(client, cat)
    assert len(client.hull("exec", "web1", "cat", input=bytes(4 << 20), text=False).stdout) == 16 << 20


@pytest.mark.parametrize("end, status, text", [
    (lambda r: r.control(signalled=9), 137, ""),
    (lambda r: r.control(error={"code": "not-found", "message": "no such program"}), 1, "hull: web1: cat: no such program\n"),
    (lambda r: r.send_frame(8, b""), 1, "hull: web1: cat: hulld has ended the connection\n"),
    (lambda r: None, 1, "hull: web1: cat: hulld has ended the connection\n"),
    (lambda r: r.send_frame(1, b"text"), 1, "hull: web1: cat: hulld's connection: a message that is no frame\n"),
    (lambda r: r.send_packet(9, b""), 1, "hull: web1: cat: hulld's connection: a frame of kind 9\n"),
    (lambda r: r.send(b"\x82\x84abcdefgh"), 1, "hull: web1: cat: hulld's connection: a frame with bits that are not agreed on\n"),
    (lambda r: r.send(b"\x82\x7f\x00\x00\x00\x01\x00\x00\x00\x00"), 1, "hull: web1: cat: hulld's connection: a frame of 4294967296 bytes: at most 1048576\n"),
    (lambda r: r.send_frame(0, b"\x01x"), 1, "hull: web1: cat: hulld's connection: pieces of a message out of order\n"),
], ids=["signal", "error", "close", "gone", "text", "kind", "masked", "large", "order"])
def test_exec_ends(client, end, status, text):
    exec_route(client, end)
    assert client.hull("exec", "web1", "cat", check=status).stderr == text


def test_exec_of_what_does_not_run(client):
    client.routes["GET /v1/instances/web1/exec"] = lambda request: request.fail(409, "instance web1 is stopped")
    client.refused("exec", "web1", "true", text="instance web1 is stopped")
    client.routes["GET /v1/instances/web1/exec"] = lambda request: request.send(
        b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: bm90IHRoZSBvbmUgdGhhdCBpdCBpcw==\r\n\r\n")
    client.refused("exec", "web1", "true", text="hulld's answer: it is no WebSocket")


def test_exec_passes_signals(client):
    def wait(request):
        request.control(started=True)
        request.send_packet(STDOUT, b"ready\n")
        packets = [request.receive_packet(), request.receive_packet()]
        assert (CONTROL, b'{"signal":15}') in packets
        request.control(signalled=15)

    exec_route(client, wait)
    process = subprocess.Popen([HULL, "exec", "web1", "sleep"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=client.environment)
    assert process.stdout.readline() == b"ready\n"
    process.terminate()
    assert process.wait(TIMEOUT) == 143


def test_exec_on_a_terminal(client):
    def shell(request):
        request.control(started=True)
        request.send_packet(STDOUT, b"ready> ")
        keys = b""
        while b"\x03" not in keys:
            kind, data = request.receive_packet()
            keys += data if kind == STDIN else b""
        request.send_packet(STDOUT, b"raw\nkeys")
        request.control(exit=3)

    seen = exec_route(client, shell)
    status, shown = on_terminal(client, "exec", "web1", "sh", typed=b"ab\x03", until=b"ready> ")
    assert status == 3
    assert shown == "ready> raw\nkeys"
    assert seen[0]["terminal"] is True and seen[0]["environment"] == {"TERM": "xterm"}


def test_console(client):
    def console(request):
        request.send_packet(STDOUT, b"login: ")
        keys = b""
        while not keys.endswith(b"!"):
            kind, data = request.receive_packet()
            keys += data if kind == STDIN else b""
        assert keys == b"ro\x1dot!"
        request.send_packet(STDOUT, b"thanks")
        request.receive_packet()

    seen = exec_route(client, console, "console")
    status, shown = on_terminal(client, "console", "web1", typed=b"ro\x1d\x1dot\x1d?!\x1dq", until=b"login: ")
    assert status == 0
    assert "console of web1; Ctrl-] q leaves it" in shown and seen == [{"do": "console"}]
    status, shown = on_terminal(client, "console", "web1", "--device", "line", typed=b"ro\x1d\x1dot\x1d?!\x1dq", until=b"login: ")
    assert status == 0
    assert "line of web1; Ctrl-] q leaves it" in shown and seen[1:] == [{"do": "console", "device": "line"}]


def take_tar(request):
    """What a push sends."""
    data = b""
    while (packet := request.receive_packet()) != (CONTROL, b'{"eof":true}'):
        assert packet[0] == STDIN
        data += packet[1]
    return tarfile.open(fileobj=io.BytesIO(data))


def test_push_a_folder(client, tmp_path):
    site = tmp_path / "site"
    (site / "sub").mkdir(parents=True)
    (site / "sub" / ("long" * 50)).write_bytes(b"x" * 70000)
    (site / "link").symlink_to("/etc/passwd")
    (site / "run.sh").write_text("#!/bin/sh\n")
    (site / "run.sh").chmod(0o755)
    os.mkfifo(site / "pipe")
    members = []

    def push(request):
        tar = take_tar(request)
        members.extend((m.name, m.type, m.mode if not m.issym() else 0, m.uid, m.linkname, tar.extractfile(m).read() if m.isreg() else None) for m in tar)
        request.control(exit=0)

    seen = exec_route(client, push, "push")
    done = client.hull("push", site, "web1:/srv/www", check=1)
    assert done.stderr == "hull: www/pipe: a device, pipe or socket: left out\n"
    assert seen == [{"do": "push", "path": "/srv/"}]
    assert members[0][:2] == ("www", tarfile.DIRTYPE)
    assert sorted(members[1:]) == [
        ("www/link", tarfile.SYMTYPE, 0, 0, "/etc/passwd", None),
        ("www/run.sh", tarfile.REGTYPE, 0o755, 0, "", b"#!/bin/sh\n"),
        ("www/sub", tarfile.DIRTYPE, 0o755, 0, "", None),
        ("www/sub/" + "long" * 50, tarfile.REGTYPE, 0o644, 0, "", b"x" * 70000)]


def test_push_into_a_folder(client, tmp_path):
    (tmp_path / "hosts").write_text("x")
    names = []

    def push(request):
        names.extend(take_tar(request).getnames())
        request.control(exit=0)

    seen = exec_route(client, push, "push")
    client.hull("push", "hosts", "web1:/etc/", cwd=tmp_path)
    assert seen == [{"do": "push", "path": "/etc/"}] and names == ["hosts"]
    client.refused("push", tmp_path / "none", "web1:/etc/", text=f"{tmp_path}/none: No such file or directory")
    client.refused("push", tmp_path / "hosts", "web1", text="'web1': NAME:PATH, an absolute path in an instance")


def test_push_that_the_other_side_ends(client, tmp_path):
    (tmp_path / "big").write_bytes(bytes(8 << 20))

    def push(request):
        request.receive_packet()
        request.control(error={"code": "x", "message": "no space"})
        with contextlib.suppress(OSError, EOFError):
            while True:
                request.receive_packet()

    exec_route(client, push, "push")
    client.refused("push", tmp_path / "big", "web1:/big", text="web1: no space")


def send_tar(request, *entries, status=0):
    """Entries: (name, what it is or leads to, kind)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content, kind in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.uid, info.mtime = kind, 0o6755, 1234, 1600000000
            if kind == tarfile.REGTYPE:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.linkname = content
                tar.addfile(info)
    data = out.getvalue()
    for i in range(0, len(data), 1000):
        request.send_packet(STDOUT, data[i:i + 1000])
    request.control(exit=status)


def test_pull(client, tmp_path):
    entries = [("./www", "", tarfile.DIRTYPE), ("./www/a", b"a" * 5000, tarfile.REGTYPE), ("./www/b", "../../x", tarfile.SYMTYPE),
               ("./www/c", "./www/a", tarfile.LNKTYPE), ("./www/sub/deep/" + "n" * 150, b"n", tarfile.REGTYPE), ("./www/null", "", tarfile.CHRTYPE)]
    seen = exec_route(client, lambda request: send_tar(request, *entries), "pull")
    done = client.hull("pull", "web1:/srv/www/", "copy", cwd=tmp_path, check=1)
    assert done.stderr == "hull: ./www/null: a device or pipe: left out\n"
    assert seen == [{"do": "pull", "path": "/srv/www/"}]
    copy = tmp_path / "copy"
    assert (copy / "a").read_bytes() == b"a" * 5000 and (copy / "c").samefile(copy / "a")
    assert (copy / "a").stat().st_mode & 0o7777 == 0o755 and (copy / "a").stat().st_mtime == 1600000000
    assert (copy / "a").stat().st_uid == os.geteuid()
    assert os.readlink(copy / "b") == "../../x" and (copy / "sub/deep" / ("n" * 150)).read_bytes() == b"n"
    (tmp_path / "into").mkdir()
    client.hull("pull", "web1:/srv/www", tmp_path / "into", check=1)
    assert (tmp_path / "into/www/a").exists()


@pytest.mark.parametrize("entries", [
    [("../evil", b"x", tarfile.REGTYPE)],
    [("evil", b"x", tarfile.REGTYPE), ("www", "", tarfile.DIRTYPE)],
    [("/evil", b"x", tarfile.REGTYPE), ("www/x", b"", tarfile.REGTYPE)],
    [("www", "", tarfile.DIRTYPE), ("www/../../evil", b"x", tarfile.REGTYPE)],
    [("www", "../outside", tarfile.SYMTYPE), ("www/evil", b"x", tarfile.REGTYPE)],
    [("www", "", tarfile.DIRTYPE), ("www/l", "../../outside", tarfile.SYMTYPE), ("www/l/evil", b"x", tarfile.REGTYPE)],
    [("www", "", tarfile.DIRTYPE), ("www/l", "../../outside", tarfile.SYMTYPE), ("www/l", "", tarfile.DIRTYPE)],
    [("www", "", tarfile.DIRTYPE), ("www/h", "../outside/secret", tarfile.LNKTYPE)],
    [("www", "", tarfile.DIRTYPE), ("www/l", "../../outside", tarfile.SYMTYPE), ("www/h", "www/l/secret", tarfile.LNKTYPE)],
])
def test_pull_writes_nothing_elsewhere(client, tmp_path, entries):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    target = tmp_path / "target"
    target.mkdir()
    exec_route(client, lambda request: send_tar(request, *entries), "pull")
    client.hull("pull", "web1:/srv/www", target, check=1)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert found - {"target/www", "target/www/l", "target/www/x"} == {"hulld.sock", "outside", "outside/secret", "target"}
    assert (tmp_path / "outside/secret").stat().st_nlink == 1


def test_pull_replaces_links_and_follows_none(client, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "name").symlink_to("secret")
    exec_route(client, lambda request: send_tar(request, ("hostname", b"web1", tarfile.REGTYPE)), "pull")
    client.hull("pull", "web1:/etc/hostname", tmp_path / "name")
    assert (tmp_path / "secret").read_text() == "secret" and (tmp_path / "name").read_text() == "web1"


def test_pull_of_what_is_not_there(client, tmp_path):
    def pull(request):
        request.send_packet(STDERR, b"tar: \x1b[1m/a: no such file\n")
        request.control(exit=2)

    exec_route(client, pull, "pull")
    assert client.hull("pull", "web1:/a", tmp_path / "a", check=1).stderr == (
        "tar: ?[1m/a: no such file\nhull: web1: cannot be read there (status 2)\n")


@pytest.mark.parametrize("data", [b"", b"x" * 512, b"\0" * 1024, b"x" * 100], ids=["none", "noise", "empty", "short"])
def test_pull_of_rubbish(client, tmp_path, data):
    def pull(request):
        request.send_packet(STDOUT, data)
        request.control(exit=0)

    exec_route(client, pull, "pull")
    assert client.hull("pull", "web1:/a", tmp_path / "a", check=1).stderr.startswith("hull: web1: ")
    assert not (tmp_path / "a").exists()


def test_logs(client):
    client.routes["GET /v1/instances/web1/logs"] = lambda request: request.chunks(b"one\n", b"two\n")
    assert client.hull("logs", "web1").stdout == "one\ntwo\n"
    client.refused("logs", "web2", text="/v1/instances/web2/logs: there is none")


def test_logs_follow(client):
    def follow(request):
        request.send_packet(STDOUT, b"new\n")
        request.send_frame(8, b"")

    seen = exec_route(client, follow, "logs/follow")
    assert client.hull("logs", "-f", "web1").stdout == "new\n"
    assert seen == [{"do": "logs", "follow": True}]


def test_events(client):
    def events(request):
        request.upgrade()
        request.send_frame(1, b'{"type":"instance","time":"2026-01-01T00:00:00Z","name":"web1","status":"running"}')
        request.send_frame(1, b'{"type":"operation","time":"2026-01-01T00:00:01Z","operation":{"status":"done","description":"starting \\u001b[1mx"}}')
        request.send_frame(8, b"")

    client.routes["GET /v1/events"] = events
    assert client.hull("events").stdout == ("2026-01-01T00:00:00Z instance name=web1 status=running\n"
                                            "2026-01-01T00:00:01Z operation done starting  [1mx\n")
    assert [json.loads(line)["type"] for line in client.hull("events", "--json").stdout.splitlines()] == ["instance", "operation"]


def test_snapshots_and_clones(client):
    client.routes["POST /v1/instances/web1/snapshots"] = client.operations.done()
    client.routes["GET /v1/instances/web1/snapshots"] = [{"name": "s1", "created_at": "2026-01-02T03:04:05Z", "memory": True}]
    client.routes["POST /v1/instances/web1/snapshots/s1/restore"] = client.operations.done()
    client.routes["DELETE /v1/instances/web1/snapshots/s1"] = client.operations.done()
    client.routes["POST /v1/instances/web1/clone"] = client.operations.done()
    assert client.hull("snapshot", "create", "web1", "s1", "--memory").stdout == ""
    assert client.body("POST", "/v1/instances/web1/snapshots") == {"name": "s1", "memory": True}
    made_up = client.hull("snapshot", "create", "web1").stdout.rstrip("\n")
    assert client.hulld.requests[-2].body == {"name": made_up, "memory": False} and made_up
    assert client.hull("snapshot", "list", "web1").stdout == "NAME  CREATED           MEMORY  PARENT\ns1    2026-01-02 03:04  yes     -\n"
    client.hull("snapshot", "restore", "web1", "s1")
    client.hull("snapshot", "delete", "web1", "s1")
    client.hull("clone", "web1/s1", "web2")
    assert client.body("POST", "/v1/instances/web1/clone") == {"name": "web2", "snapshot": "s1", "live": False}


def test_images(client):
    client.routes["POST /v1/images"] = client.operations.done({"name": "sha256-ab"})
    client.routes["GET /v1/images"] = [{"name": "sha256-0123456789abcdef", "aliases": ["debian/12", "d"], "forms": ["container", "vm"], "size_bytes": 1 << 30,
                                        "created_at": "2026-01-02T03:04:05Z", "source": "build debian/12"}]
    client.routes["POST /v1/images/debian/12/export"] = client.operations.done()
    client.routes["PUT /v1/aliases/web"] = {"name": "web"}
    assert client.hull("image", "list").stdout.splitlines()[1].split() == [
        "debian/12", "d", "0123456789ab", "container", "vm", "1G", "2026-01-02", "03:04", "build", "debian/12"]
    assert client.hull("image", "build", "debian/12", "--package", "a", "--package", "b", "--vm").stdout == "sha256-ab\n"
    client.hull("image", "import", "root.tar", "--alias", "bb", cwd=client.folder)
    client.hull("image", "import", "docker://docker.io/library/debian")
    client.hull("image", "export", "debian/12", "/tmp/x.tar", "--container")
    client.hull("image", "alias", "set", "web", "sha256-ab")
    assert [request.body for request in client.hulld.asked("POST", "/v1/images")] == [
        {"source": "build", "distribution": "debian/12", "alias": "debian/12", "forms": ["vm"], "packages": ["a", "b"]},
        {"source": "import", "path": f"{client.folder}/root.tar", "alias": "bb"},
        {"source": "import", "url": "docker://docker.io/library/debian"}]
    assert client.body("POST", "/v1/images/debian/12/export") == {"form": "container", "path": "/tmp/x.tar"}
    assert client.body("PUT", "/v1/aliases/web") == {"image": "sha256-ab"}


def test_objects(client):
    for path in ("networks", "pools", "volumes", "profiles"):
        client.routes[f"POST /v1/{path}"] = client.operations.done()
    client.routes["PATCH /v1/networks/lab"] = client.operations.done()
    client.routes["PATCH /v1/volumes/fast/data"] = client.operations.done()
    client.routes["DELETE /v1/volumes/fast/data"] = client.operations.done()
    client.routes["GET /v1/pools"] = [{"name": "default", "driver": "dir", "total_bytes": 1 << 40, "free_bytes": 1 << 39, "description": "x"}]
    client.hull("network", "create", "lab", "--type", "bridge", "bridge=br0")
    client.hull("network", "set", "lab", "a.b=c")
    client.hull("pool", "create", "fast", "path=/mnt")
    client.hull("volume", "create", "fast/data", "--size", "20G")
    client.hull("volume", "resize", "fast/data", "40G")
    client.hull("volume", "delete", "fast/data")
    client.routes["GET /v1/profiles/p"] = {"name": "p", "config": {"cpus": "1"}, "devices": {"eth0": {"type": "nic"}}}
    client.routes["PUT /v1/profiles/p"] = {}
    client.hull("profile", "set", "p", "memory=1G", "eth0.network=lab")
    assert client.body("PUT", "/v1/profiles/p") == {
        "name": "p", "config": {"cpus": "1", "memory": "1G"}, "devices": {"eth0": {"type": "nic", "network": "lab"}}}
    client.hull("profile", "create", "small", "memory=256M", "eth0.network=lab", "--description", "d")
    assert client.body("POST", "/v1/networks") == {"name": "lab", "type": "bridge", "description": "", "config": {"bridge": "br0"}}
    assert client.body("PATCH", "/v1/networks/lab") == {"config": {"a.b": "c"}}
    assert client.body("POST", "/v1/pools") == {"name": "fast", "driver": "dir", "description": "", "config": {"path": "/mnt"}}
    assert client.body("POST", "/v1/volumes") == {"pool": "fast", "name": "data", "type": "block", "size_bytes": 20 << 30}
    assert client.body("PATCH", "/v1/volumes/fast/data") == {"size_bytes": 40 << 30}
    assert client.body("POST", "/v1/profiles") == {"name": "small", "description": "d", "config": {"memory": "256M"}, "devices": {"eth0": {"network": "lab"}}}
    assert client.hull("pool", "list").stdout.splitlines()[1].split() == ["default", "dir", "1T", "512G", "x"]


def test_system(client):
    client.routes["GET /v1/system"] = {"version": "1", "engines": [{"name": "kvm"}]}
    client.routes["POST /v1/system/check"] = client.operations.done({"problems": [{"about": "instance/x", "what": "no folder", "repaired": False}]})
    assert json.loads(client.hull("system", "info", "--json").stdout)["version"] == "1"
    assert "no folder" in client.hull("system", "check", check=1).stdout
    client.routes["POST /v1/system/df"] = client.operations.done({"bytes": {"images": 3 << 20}, "total_bytes": 3 << 20, "free_bytes": 1 << 30})
    assert [line.split() for line in client.hull("system", "df").stdout.splitlines()] == [
        ["WHAT", "SIZE"], ["images", "3M"], ["all", "of", "it", "3M"], ["free", "1G"], ["the", "disk", "-"]]
    client.routes["POST /v1/system/check"] = client.operations.done({"problems": []})
    assert client.hull("system", "check").stdout == ""


def test_top_where_there_is_no_terminal(client):
    looks = []

    def full(request):
        assert request.query == {"full": "1"}
        looks.append(request)
        info = {"ipv4": ["10.1.2.3"], "cpu_time_ns": len(looks) * 10 ** 9, "memory_used_bytes": 100 << 20,
                "network": [{"name": "eth0", "received_bytes": len(looks) << 20, "sent_bytes": 0}]}
        request.answer([VM1, {**WEB1, "expanded": {"config": {"memory": "512M"}}, "info": info}])

    client.routes["GET /v1/instances"] = full
    lines = client.hull("top").stdout.splitlines()
    assert lines[0].startswith("hull top: 2 instances, 1 running")
    web1 = lines[3].split()
    assert web1[:3] == ["web1", "container", "running"] and float(web1[3]) > 1 and web1[4:6] == ["100M", "512M"] and web1[8] == "10.1.2.3"


def test_top_on_a_terminal(client):
    client.routes["GET /v1/instances"] = [VM1, {**WEB1, "name": "evil\x1b]0;x\x07"}]
    status, shown = on_terminal(client, "top", typed=b"mnq", until=b"q quits")
    assert status == 0
    assert shown.startswith("\x1b[?1049h") and shown.endswith("\x1b[?1049l")
    assert "vm1" in shown and "\x1b]0" not in shown


def test_shells_complete_names(client):
    client.routes["GET /v1/instances"] = [VM1, WEB1]
    client.routes["GET /v1/instances/web1/snapshots"] = [{"name": "before"}, {"name": "other"}]
    script = client.hull("completion", "bash").stdout
    for words, expected in ((["hull", "start", "w"], "web1"), (["hull", "snapshot", "restore", "w"], "web1"),
                            (["hull", "snapshot", "restore", "-q", "web1", "be"], "before"), (["hull", "image", "al"], "alias"),
                            (["hull", "launch", "--network", "x"], "")):
        line = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _hull; echo ${{COMPREPLY[*]}}"
        done = subprocess.run(["bash", "-c", f"{script}\n{line}"], stdout=subprocess.PIPE, text=True, timeout=TIMEOUT, check=True,
                              env={**client.environment, "PATH": f"{HULL.parent}:{os.environ['PATH']}"})
        assert done.stdout == expected + "\n", words
    if shutil.which("zsh"):
        assert subprocess.run(["zsh", "-n"], input=client.hull("completion", "zsh").stdout, text=True, check=True).returncode == 0


def test_completion_knows_names(client):
    client.routes["GET /v1/instances"] = [VM1, WEB1, {"name": "bad name; rm"}]
    client.routes["GET /v1/instances/web1/snapshots"] = [{"name": "s1"}]
    assert client.hull("names", "instances").stdout == "vm1\nweb1\n"
    assert client.hull("names", "snapshots", "hull", "snapshot", "restore", "web1").stdout == "s1\n"
    assert client.hull("names", "networks").stdout == ""
    client.environment["HULL_SOCKET"] = "/no/such"
    done = client.hull("names", "instances")
    assert done.stdout == done.stderr == ""
