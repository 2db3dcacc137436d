"""A hulld that does nothing: it answers what a test tells it to, on a unix socket, and remembers what it was asked."""
import base64
import hashlib
import json
import socket
import struct
import threading
import urllib.parse

MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
STDIN, STDOUT, STDERR, CONTROL = range(4)


class Request:
    """What was asked, and the connection on which the answer goes."""

    def __init__(self, connection, method, target, headers, body):
        self.connection, self.method, self.headers = connection, method, headers
        self.target = target
        path, _, query = target.partition("?")
        self.path = urllib.parse.unquote(path)
        self.query = dict(urllib.parse.parse_qsl(query))
        self.body = json.loads(body) if body else None
        self.received = b""

    def send(self, data):
        self.connection.sendall(data)

    def answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send(b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)

    def fail(self, status, message):
        self.answer({"error": {"code": "some", "message": message}}, status)

    def chunks(self, *parts, kind=b"text/plain"):
        self.send(b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n" % kind)
        for part in parts:
            self.send(b"%x\r\n" % len(part) + part + b"\r\n")
        self.send(b"0\r\n\r\n")

    # WebSocket

    def upgrade(self):
        accept = base64.b64encode(hashlib.sha1((self.headers["sec-websocket-key"] + MAGIC).encode()).digest())
        self.send(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n")

    def send_frame(self, opcode, payload, is_final=True):
        size = len(payload)
        head = bytes([(0x80 if is_final else 0) | opcode])
        head += bytes([size]) if size < 126 else b"\x7e" + struct.pack(">H", size) if size < 65536 else b"\x7f" + struct.pack(">Q", size)
        self.send(head + payload)

    def send_packet(self, kind, data):
        self.send_frame(2, bytes([kind]) + data)

    def control(self, **members):
        self.send_packet(CONTROL, json.dumps(members).encode())

    def take(self, size):
        while len(self.received) < size:
            data = self.connection.recv(65536)
            if not data:
                raise EOFError
            self.received += data
        data, self.received = self.received[:size], self.received[size:]
        return data

    def receive_frame(self):
        first, second = self.take(2)
        assert second & 0x80, "a client masks"
        size = second & 0x7F
        if size >= 126:
            size = int.from_bytes(self.take(2 if size == 126 else 8), "big")
        mask = self.take(4)
        return first & 0x0F, bytes(byte ^ mask[i % 4] for i, byte in enumerate(self.take(size)))

    def receive_packet(self):
        opcode, payload = self.receive_frame()
        assert opcode == 2
        return payload[0], payload[1:]


class FakeHulld:
    """'routes' has functions of a request, by "METHOD /path"."""

    def __init__(self, path):
        self.path = path
        self.routes = {}
        self.requests = []
        self.problems = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(64)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.handle, args=(connection,), daemon=True).start()

    def handle(self, connection):
        with connection:
            data = b""
            while b"\r\n\r\n" not in data:
                part = connection.recv(65536)
                if not part:
                    return  # it only looked whether somebody listens
                data += part
            head, _, body = data.partition(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            method, target, _ = lines[0].split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            while len(body) < int(headers.get("content-length", 0)):
                body += connection.recv(65536)
            request = Request(connection, method, target, headers, body)
            self.requests.append(request)
            route = self.routes.get(f"{method} {request.path}")
            try:
                if route is None:
                    request.fail(404, f"{request.path}: there is none")
                elif callable(route):
                    route(request)
                else:
                    request.answer(route)
            except (BrokenPipeError, ConnectionResetError, EOFError):
                pass
            except AssertionError as problem:
                self.problems.append(problem)
                raise

    def asked(self, method, path):
        return [request for request in self.requests if request.method == method and request.path == path]

    def end(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(10)
        assert not self.problems


class Operations:
    """Operations of a fake hulld: each goes through the states that it was given, one a look; the last one stays."""

    def __init__(self, hulld):
        self.hulld, self.count = hulld, 0

    def begin(self, request, *states, description="doing it", on_cancel=None):
        self.count += 1
        name = f"{self.count:032x}"
        looks = [{"name": name, "description": description, "status": "running", **state} for state in states]
        path = f"/v1/operations/{name}"

        def look(seen):
            seen.answer(looks[0] if len(looks) == 1 else looks.pop(0))

        def cancel(seen):
            looks[:] = [{"name": name, "description": description, **(on_cancel or {"status": "cancelled"})}]
            seen.answer(looks[0], 202)

        self.hulld.routes[f"GET {path}"] = look
        self.hulld.routes[f"DELETE {path}"] = cancel
        request.answer({"name": name, "description": description, "status": "waiting"}, 202)

    def done(self, result=None, **options):
        return lambda request: self.begin(request, {"status": "done", "result": result}, **options)

    def failed(self, message, **options):
        return lambda request: self.begin(request, {"status": "failed", "error": {"code": "x", "message": message}}, **options)
