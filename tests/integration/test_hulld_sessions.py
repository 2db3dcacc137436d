"""Sessions and waiting as hulld's API has them, with workers that misbehave: tests/unit/manager/api/api_server.c."""
import json
import os
import signal
import subprocess
import threading
import time

import pytest
from conftest import BUILD
from hulld_wire import TIMEOUT, Connection, Hulld, WebSocket, exchange

SERVER = BUILD / "tests/unit/manager/api/api-server"
STDIN, STDOUT, CONTROL = 0, 1, 3
LARGEST = 65536


class Server(Hulld):
    """The server of the tests in hulld's place."""

    def __init__(self, folder):
        self.socket = folder / "api.sock"
        self.process = subprocess.Popen([SERVER, self.socket])
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                self.raw().close()
                return
            except (FileNotFoundError, ConnectionRefusedError):
                assert self.process.poll() is None and time.monotonic() < deadline
                time.sleep(0.01)


@pytest.fixture(name="server")
def _server(tmp_path):
    with Server(tmp_path) as server:
        yield server
        assert server.stop(signal.SIGTERM) == 0


def close_status(frame):
    """Of a frame that closes."""
    opcode, data = frame
    assert opcode == 8
    return int.from_bytes(data[:2], "big") if data else None


def test_echo(server):
    """Frames of all sizes, whole and in fragments, come back as they were."""
    with WebSocket(server, "/v1/session/echo") as client:
        assert client.status == 101
        for size in (0, 1, 125, 126, 4096, 16384, 16385, LARGEST):
            data = os.urandom(size)
            client.send(2, bytes([STDIN]) + data)
            assert client.receive() == (2, bytes([STDOUT]) + data)
        data = os.urandom(50000)
        client.send(2, bytes([STDIN]) + data[:10], final=False)
        client.send(0, data[10:40000], final=False)
        client.send(9, b"in the middle")
        client.send(0, data[40000:])
        assert client.receive() == (10, b"in the middle")
        assert client.receive() == (2, bytes([STDOUT]) + data)
        client.send(2, bytes([CONTROL]) + b"end")
        assert close_status(client.receive()) == 1000


@pytest.mark.parametrize("opcode, data, status", [
    (1, b"\0text", 1003),
    (2, b"", 1002),
    (2, b"\4", 1002),
    (2, bytes(LARGEST + 2), 1009),
], ids=range(4))
def test_what_is_no_frame(server, opcode, data, status):
    """Closes the session, and says why."""
    with WebSocket(server, "/v1/session/echo") as client:
        client.send(opcode, data)
        assert close_status(client.receive()) == status
    assert server.ask("POST", "/v1/end")[0] == 200


@pytest.mark.parametrize("first", [b"\x83\x80abcd", b"\x82\x05hello", b"\xf2\x80abcd", b"\x88\x81abcdx",
                                   bytes(range(256)) * 20], ids=range(5))
def test_what_is_no_websocket(server, first):
    """Ends the connection alone."""
    with WebSocket(server, "/v1/session/echo") as client:
        client.socket.sendall(first)
        client.socket.settimeout(5)
        try:
            while client.socket.recv(65536):
                pass
        except (ConnectionResetError, TimeoutError):
            pass
    assert server.ask("POST", "/v1/end")[0] == 200


def test_flood(server):
    """A client that reads late gets all of it, and how it ended; nothing piles up in hulld."""
    with WebSocket(server, "/v1/session/flood") as client:
        time.sleep(1)
        with open(f"/proc/{server.process.pid}/statm", encoding="ascii") as file:
            assert int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") < 15 << 20
        for number in range(200):
            opcode, data = client.receive()
            assert opcode == 2 and data == bytes([STDOUT]) + bytes([number]) * LARGEST
        opcode, data = client.receive()
        assert opcode == 2 and data[0] == CONTROL and json.loads(data[1:]) == {"exit": 3}
        assert close_status(client.receive()) == 1000


def test_deaf_worker(server):
    """What a worker does not read waits on the client's side; the API goes on meanwhile."""
    with WebSocket(server, "/v1/session/deaf") as client:
        frame = bytes([STDIN]) + bytes(LARGEST)

        def send_all():
            for _ in range(100):
                client.send(2, frame)
            client.send(2, bytes([STDIN]))

        sender = threading.Thread(target=send_all)
        sender.start()
        time.sleep(1)
        assert sender.is_alive()
        begin = time.monotonic()
        assert server.ask("POST", "/v1/end")[0] == 200
        assert time.monotonic() - begin < TIMEOUT
        with open(f"/proc/{server.process.pid}/statm", encoding="ascii") as file:
            assert int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") < 15 << 20
        opcode, data = client.receive()
        assert opcode == 2 and json.loads(data[1:]) == {"exit": 100 * LARGEST}
        sender.join()


def test_sessions_that_the_client_leaves(server):
    """Their workers see it and end."""
    for name in ("echo", "flood", "deaf"):
        for _ in range(5):
            with WebSocket(server, f"/v1/session/{name}") as client:
                client.send(2, bytes([STDIN]) + b"x")
    deadline = time.monotonic() + TIMEOUT
    while subprocess.run(["pgrep", "-P", str(server.process.pid)], capture_output=True, check=False).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    descriptors = os.listdir(f"/proc/{server.process.pid}/fd")
    assert len(descriptors) < 20
    with WebSocket(server, "/v1/session/none") as client:
        assert client.status == 404


def test_waiting_for_an_operation(server):
    """?wait answers at its end, or when the time is over; without it at once."""
    status, headers, answer = server.ask("POST", "/v1/begin")
    assert status == 202 and answer["status"] == "running"
    assert headers["Location"] == "/v1/operations/00000000000000000000000000000001"
    begin = time.monotonic()
    status, _, answer = server.ask("POST", "/v1/begin?wait=1")
    assert status == 202 and time.monotonic() - begin >= 0.9
    answers = []
    connection = Connection(server.socket)

    def wait():
        answers.append(exchange(connection, "POST", "/v1/begin?wait=60"))
        answers.append(exchange(connection, "POST", "/v1/begin"))

    waiting = threading.Thread(target=wait)
    waiting.start()
    while server.ask("POST", "/v1/end")[2]["waited"] == 0:
        time.sleep(0.02)
    waiting.join(TIMEOUT)
    assert [answer[0] for answer in answers] == [200, 202]
    assert answers[0][2]["status"] == "done"
    connection.close()


def test_waiting_clients_that_leave_or_go_on(server):
    """One that is gone is forgotten; one that asks more meanwhile gets its first answer."""
    request = b"POST /v1/begin?wait=60 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    for more in (b"", request, b"rubbish" * 1000):
        client = server.raw()
        client.sendall(request + more)
        time.sleep(0.2)
        client.close()
    deadline = time.monotonic() + TIMEOUT
    with server.raw() as client:
        client.sendall(request + b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n")
        while (waited := server.ask("POST", "/v1/end")[2]["waited"]) == 0:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert waited == 1
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
