"""A hulld of a test's own, and small clients: HTTP over its socket, and WebSockets by hand."""
import base64
import hashlib
import http.client
import json
import os
import pathlib
import select
import signal
import socket
import struct
import subprocess
import time

from conftest import BUILD

HULLD = BUILD / "bin/hulld"
TIMEOUT = 30  # seconds; an upper bound for a loaded machine
WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path):
        super().__init__("hull", timeout=TIMEOUT)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)  # with a timeout it would not wait for its turn
        self.sock.settimeout(TIMEOUT)


class Hulld:
    """Starts when it is made, and is ready then."""

    def __init__(self, state, *arguments, environment=None):
        self.state = pathlib.Path(state)
        self.socket = self.state / "run/hulld.sock"
        self.arguments = arguments
        self.environment = {**os.environ, **(environment or {})}
        self.log = self.state.parent / f"{self.state.name}.log"
        self.process = None
        self.start()

    def start(self):
        """Starts it, and waits until it says that it serves."""
        notices = self.state.parent / f"{self.state.name}.notify"
        notices.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, open(self.log, "ab") as log:
            ready.bind(str(notices))
            ready.settimeout(0.2)
            self.process = subprocess.Popen([HULLD, "--state", self.state, *self.arguments], stderr=log,
                                            env={**self.environment, "NOTIFY_SOCKET": str(notices)})
            deadline = time.monotonic() + TIMEOUT
            while True:
                try:
                    assert ready.recv(100) == b"READY=1"
                    return
                except TimeoutError:
                    assert self.process.poll() is None, self.log.read_text()
                    assert time.monotonic() < deadline, self.log.read_text()

    def stop(self, how=signal.SIGTERM):
        """Ends it, and returns its exit status."""
        self.process.send_signal(how)
        return self.process.wait(TIMEOUT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def ask(self, method, path, body=None, headers=None):
        """One request by a connection of its own: status, headers, and what was answered (JSON, else the text)."""
        connection = Connection(self.socket)
        try:
            return exchange(connection, method, path, body, headers)
        finally:
            connection.close()

    def get(self, path):
        """What GET answers, which has to be fine."""
        status, _, answer = self.ask("GET", path)
        assert status == 200, answer
        return answer

    def raw(self):
        """A connection on which nothing was said yet."""
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(self.socket))  # with a timeout it would not wait for its turn
        client.settimeout(TIMEOUT)
        return client

    def figure(self, name):
        """A figure of /v1/metrics."""
        for line in self.get("/v1/metrics").splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
        raise AssertionError(f"there is no {name}")


def exchange(connection, method, path, body=None, headers=None):
    """One request on a connection."""
    if body is not None and not isinstance(body, (bytes, str)):
        body = json.dumps(body)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    text = response.read()
    if response.getheader("Content-Type") == "application/json" and text:
        return response.status, response.headers, json.loads(text)
    return response.status, response.headers, text.decode()


class WebSocket:
    """A client's end, without a library."""

    def __init__(self, hulld, path, **headers):
        self.socket = hulld.raw()
        key = base64.b64encode(os.urandom(16))
        lines = {"Host": "hull", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": key.decode(),
                 "Sec-WebSocket-Version": "13", **headers}
        self.socket.sendall((f"GET {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) +
                             "\r\n").encode())
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            more = self.socket.recv(65536)
            assert more, self.buffer
            self.buffer += more
        self.head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        self.status = int(self.head.split()[1])
        if self.status == 101:
            accepted = base64.b64encode(hashlib.sha1(key + WEBSOCKET_GUID).digest())
            assert b"sec-websocket-accept: " + accepted.lower() in self.head.lower()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, opcode, data, final=True, masked=True):
        """One frame."""
        head = bytes([opcode | (0x80 if final else 0)])
        mask_bit = 0x80 if masked else 0
        if len(data) < 126:
            head += bytes([mask_bit | len(data)])
        elif len(data) < 65536:
            head += bytes([mask_bit | 126]) + struct.pack(">H", len(data))
        else:
            head += bytes([mask_bit | 127]) + struct.pack(">Q", len(data))
        if masked:
            mask = os.urandom(4)
            repeated = (mask * (len(data) // 4 + 1))[:len(data)]
            data = (int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(data), "big")
            head += mask
        self.socket.sendall(head + data)

    def _take(self, size):
        while len(self.buffer) < size:
            more = self.socket.recv(1 << 20)
            if not more:
                raise EOFError
            self.buffer += more
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def receive(self):
        """The next frame: opcode and data."""
        first, second = self._take(2)
        size = second & 0x7f
        assert not second & 0x80, "a server masks nothing"
        if size == 126:
            size, = struct.unpack(">H", self._take(2))
        elif size == 127:
            size, = struct.unpack(">Q", self._take(8))
        return first & 0x0f, self._take(size)

    def event(self):
        """The next event."""
        opcode, data = self.receive()
        assert opcode == 1
        return json.loads(data)

    def is_silent(self, seconds=0.3):
        """Does nothing come for so long?"""
        return not self.buffer and not select.select([self.socket], [], [], seconds)[0]
