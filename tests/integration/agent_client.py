"""A client of hull-agent: frames of session/frames.h on a stream."""
import contextlib
import json
import socket
import struct

STDIN, STDOUT, STDERR, CONTROL = range(4)
MAX_PAYLOAD = 65536


class Agent:
    """One connection, which is one request."""

    def __init__(self, path, request=None, is_vsock=False, timeout=60):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        self.socket.connect(str(path))
        if is_vsock:
            self.socket.sendall(b"CONNECT 1023\n")
            line = b""
            while not line.endswith(b"\n"):
                byte = self.socket.recv(1)
                if not byte:
                    raise ConnectionRefusedError("nobody listens in the guest")
                line += byte
        if request is not None:
            with contextlib.suppress(BrokenPipeError):  # refused before it was read: the answer says why
                self.control(**request)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, kind, data=b""):
        self.socket.sendall(struct.pack("<IB", len(data) + 1, kind) + data)

    def control(self, **what):
        self.send(CONTROL, json.dumps(what).encode())

    def _read(self, size):
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def receive(self):
        """The next frame: (kind, bytes); controls as objects."""
        size, kind = struct.unpack("<IB", self._read(5))
        assert 1 <= size <= MAX_PAYLOAD + 1
        data = self._read(size - 1)
        return kind, json.loads(data) if kind == CONTROL else data

    def answer(self):
        """Of a request that is no session."""
        kind, answer = self.receive()
        assert kind == CONTROL
        return answer

    def started(self):
        assert self.answer() == {"started": True}
        return self

    def finish(self):
        """The rest of a session: (output, errors, the control that ended it)."""
        streams = {STDOUT: bytearray(), STDERR: bytearray()}
        while True:
            kind, data = self.receive()
            if kind == CONTROL:
                return bytes(streams[STDOUT]), bytes(streams[STDERR]), data
            streams[kind] += data

    def until(self, text):
        """Output up to a text."""
        seen = b""
        while text not in seen:
            kind, data = self.receive()
            assert kind == STDOUT, data
            seen += data
        return seen

    def write(self, data):
        for start in range(0, len(data), MAX_PAYLOAD):
            self.send(STDIN, data[start:start + MAX_PAYLOAD])

    def eof(self):
        self.control(eof=True)
