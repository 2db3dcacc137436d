"""Remote disks, with the servers that people use: qemu-nbd, nbdkit; and with servers that nobody should use."""
import contextlib
import fcntl
import http.server
import json
import os
import pathlib
import random
import shutil
import socket
import struct
import subprocess
import tempfile
import textwrap
import threading
import time
import uuid

import pytest

from conftest import HULL, hull
from test_disk import make_raw, ok, refused, run

MIB = 1 << 20
pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
needs_nbdkit = pytest.mark.skipif(shutil.which("nbdkit") is None, reason="nbdkit is not installed")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_raw(tmp_path_factory.mktemp("remote") / "source.raw", 20 * MIB + 512 * 3)


def until(condition, what, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def can_connect(path):
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
        return client.connect_ex(str(path)) == 0


def free_port():
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def takes_connections(port):
    with contextlib.closing(socket.socket()) as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """A server of one command on a unix socket, that can be killed and started again."""

    def __init__(self, path, command):
        self.path, self.command = path, [str(word) for word in command]
        self.start()

    def start(self):
        self.child = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: self.child.poll() is not None or can_connect(self.path), f"{self.command[0]} does not start")
        assert self.child.poll() is None, f"{self.command} ended"

    def kill(self):
        self.child.kill()
        self.child.wait()
        self.path.unlink(missing_ok=True)

    def stop(self):
        if self.child.poll() is None:
            self.child.terminate()
            self.child.wait(20)


@contextlib.contextmanager
def serving(path, *command):
    server = Server(path, command)
    try:
        yield server
    finally:
        server.stop()


def qemu_nbd(path, image, image_format, *options):
    return serving(path, "qemu-nbd", "-t", "-e", "16", "-f", image_format, "-k", path, "-x", "disk", *options, image)


def uri(path, export="disk"):
    return f"nbd+unix:///{export}?socket={path}"


def allocated(text):
    return sum(row["length"] for row in json.loads(text) if row["data"])


@pytest.mark.sanitizer
@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_qemu_nbd(image_format, source, tmp_path):
    """Every verb that reads, on what qemu-nbd exports; then a conversion into it."""
    image, path = tmp_path / f"a.{image_format}", tmp_path / "nbd"
    run("qemu-img", "convert", "-O", image_format, source, image)
    with qemu_nbd(path, image, image_format):
        info = json.loads(ok("info", "--json", uri(path)))
        assert info["format"] == "raw" and info["size_bytes"] == source.stat().st_size
        assert "identical" in ok("compare", source, uri(path))
        ok("convert", uri(path), tmp_path / "copy.qcow2", "--image-format", "raw")
        assert allocated(ok("map", "--json", uri(path))) < source.stat().st_size  # holes are told
        assert json.loads(ok("measure", "--json", uri(path)))["required_bytes"] <= source.stat().st_size
        ok("bench", uri(path), "--count", "200", "--random", "--image-format", "raw")
    assert "identical" in ok("compare", source, tmp_path / "copy.qcow2")
    other = make_raw(tmp_path / "other.raw", source.stat().st_size, seed=9)
    with qemu_nbd(path, image, image_format):
        ok("convert", other, uri(path))
    run("qemu-img", "compare", "-f", "raw", "-F", image_format, other, image)


@pytest.mark.sanitizer
def test_image_behind_nbd(source, tmp_path):
    """A qcow2 whose bytes are behind NBD: found out for reading, said for writing; snapshots and checks."""
    image, path = tmp_path / "a.qcow2", tmp_path / "nbd"
    run("qemu-img", "convert", "-O", "qcow2", source, image)
    os.truncate(image, image.stat().st_size + 8 * MIB)  # what is served cannot grow
    with qemu_nbd(path, image, "raw"):
        assert json.loads(ok("info", "--json", uri(path)))["format"] == "qcow2"
        assert "identical" in ok("compare", source, uri(path))
        ok("snapshot", "--create", "one", uri(path), "--image-format", "qcow2")
        assert "one" in ok("snapshot", uri(path), "--image-format", "qcow2")
        assert json.loads(ok("check", "--json", uri(path), "--image-format", "qcow2"))["errors"] == 0
        # What stands in an image is not opened, and a pattern that is meant for files does not open a URI.
        overlay = tmp_path / "overlay.qcow2"
        run("qemu-img", "create", "-f", "qcow2", "-F", "raw", "-b", uri(path), "-u", overlay, "20M")
        assert "not allowed" in refused("map", overlay)
        assert "not allowed" in refused("map", overlay, "--allow", "*")
        run("qemu-img", "create", "-f", "qcow2", "-F", "qcow2", "-b", uri(path), "-u", overlay,
            source.stat().st_size)
        assert "identical" in ok("compare", source, overlay, "--allow", uri(path))
    run("qemu-img", "check", "-f", "qcow2", image)


def test_killed_in_the_middle(tmp_path):
    """qemu-nbd forgets tables of its qcow2 with kill -9: what was written and not flushed is written again."""
    image, path, big = tmp_path / "a.qcow2", tmp_path / "nbd", tmp_path / "big.raw"
    big.write_bytes(random.Random(4).randbytes(160 * MIB))
    run("qemu-img", "create", "-f", "qcow2", image, "160M")
    with qemu_nbd(path, image, "qcow2") as server:
        convert = subprocess.Popen([HULL, "disk", "convert", big, uri(path), "--parallel", "4"],
                                   stderr=subprocess.PIPE, text=True)
        kills = 0
        while convert.poll() is None and kills < 3:
            size = image.stat().st_size
            until(lambda: convert.poll() is not None or image.stat().st_size > size + 4 * MIB, "nothing is written")
            server.kill()
            kills += 1
            time.sleep(0.1)
            server.start()
        error = convert.communicate(timeout=60)[1]
        assert convert.returncode == 0, error
        assert "trying to connect again" in error and "connected again" in error
    # What was allocated and lost again may leak.
    assert subprocess.run(["qemu-img", "check", "-f", "qcow2", image], stdout=subprocess.DEVNULL, check=False).returncode in (0, 3)
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", big, image)


@needs_nbdkit
def test_requests_wait_and_fail(source, tmp_path):
    path, log = tmp_path / "nbd", tmp_path / "log"
    with serving(path, "nbdkit", "-f", "-U", path, "--filter=log", "--filter=delay", "file", source, "rdelay=100ms",
                 f"logfile={log}") as server:
        compare = subprocess.Popen([HULL, "disk", "compare", source, uri(path, ""), "--reconnect", "1"],
                                   stderr=subprocess.PIPE, text=True)
        until(lambda: log.read_text(encoding="utf-8").count(" Read ") > 3, "nothing is read")
        server.kill()
        start = time.monotonic()
        error = compare.communicate(timeout=30)[1]
        assert compare.returncode == 2 and "no connection for 1 s" in error and "reading" in error, error
        assert 0.5 < time.monotonic() - start < 10


@needs_nbdkit
@pytest.mark.parametrize("filters, settings, status", [
    (["delay"], ["rdelay=2ms"], 0),
    (["error"], ["error-pread-rate=100%"], 1),
    (["noextents", "nozero"], [], 0),
    (["blocksize-policy"], ["blocksize-maximum=64K", "blocksize-minimum=512", "blocksize-preferred=4K"], 0)])
def test_nbdkit(filters, settings, status, source, tmp_path):
    path, copy = tmp_path / "nbd", tmp_path / "copy.raw"
    with serving(path, "nbdkit", "-f", "-U", path, *[f"--filter={name}" for name in filters], "file", source, *settings):
        result = hull("disk", "convert", uri(path, ""), copy, "--image-format", "raw")
        assert result.returncode == status, result.stderr
        if status == 0:
            run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, copy)
        else:
            assert "reading" in result.stderr and "Input/output error" in result.stderr


needs_certtool = pytest.mark.skipif(shutil.which("certtool") is None, reason="certtool is not installed")


def make_certificate(folder):
    """A server's certificate and key, and the authority: itself."""
    folder.mkdir()
    template = folder / "template"
    template.write_text("cn = localhost\nip_address = 127.0.0.1\ndns_name = localhost\ntls_www_server\nca\ncert_signing_key\n",
                        encoding="ascii")
    run("certtool", "--generate-privkey", "--key-type", "ecdsa", "--outfile", folder / "server-key.pem")
    run("certtool", "--generate-self-signed", "--load-privkey", folder / "server-key.pem", "--template", template,
        "--outfile", folder / "server-cert.pem")
    shutil.copy(folder / "server-cert.pem", folder / "ca-cert.pem")
    return folder


class SecureServer:
    """nbdkit on a port, with TLS."""

    def __init__(self, certificates, file):
        self.port = free_port()
        self.command = ["nbdkit", "-f", "-p", str(self.port), "-i", "127.0.0.1", "--tls=require",
                        f"--tls-certificates={certificates}", "file", str(file)]
        self.start()

    def start(self):
        self.child = subprocess.Popen(self.command, stderr=subprocess.DEVNULL)
        until(lambda: takes_connections(self.port), "nbdkit does not start")

    def kill(self):
        self.child.kill()
        self.child.wait()


@needs_nbdkit
@needs_certtool
def test_tls(source, tmp_path):
    """Certificates and shared keys; a wrong authority and no TLS at all are refused."""
    ours, theirs = make_certificate(tmp_path / "ours"), make_certificate(tmp_path / "theirs")
    server = SecureServer(ours, source)
    try:
        address = f"//localhost:{server.port}/"
        assert "identical" in ok("compare", source, f"nbds:{address}?tls-certificates={ours}")
        assert "certificate" in refused("info", f"nbds:{address}?tls-certificates={theirs}")
        assert "TLS" in refused("info", f"nbd:{address}")
    finally:
        server.kill()
    keys, path = tmp_path / "keys.psk", tmp_path / "nbd"
    run("psktool", "-u", "alice", "-p", keys)
    with serving(path, "nbdkit", "-f", "-U", path, "--tls=require", f"--tls-psk={keys}", "file", source):
        assert "identical" in ok("compare", source, f"nbds+unix://alice@/?socket={path}&tls-psk-file={keys}")


@pytest.mark.sanitizer
def test_clear_errors(source, tmp_path):
    path = tmp_path / "nbd"
    assert f"socket={path}: connecting: connect: No such file" in refused("info", uri(path))
    assert "protocol gopher is unknown: nbd, nbds" in refused("info", "gopher://host/disk")
    with qemu_nbd(path, source, "raw", "-r"):
        assert "no export named 'other'" in refused("info", uri(path, "other"))
        assert "lets nobody write" in refused("convert", source, uri(path))


NBD_MAGIC, OPTION_MAGIC, REPLY_MAGIC = b"NBDMAGIC", b"IHAVEOPT", 0x3E889045565A9


def exactly(client, size):
    data = b""
    while len(data) < size:
        part = client.recv(size - len(data))
        if not part:
            raise ConnectionError
        data += part
    return data


def greet(client, size=MIB, flags=0x5, zeroes=False):
    """A server's part up to the transmission: one export of 'size' bytes, simple replies only."""
    client.sendall(NBD_MAGIC + OPTION_MAGIC + struct.pack(">H", 3))
    exactly(client, 4)
    while True:
        exactly(client, 8)
        option, length = struct.unpack(">II", exactly(client, 8))
        exactly(client, length)
        if option != 7:  # NBD_OPT_GO
            client.sendall(struct.pack(">QIII", REPLY_MAGIC, option, 0x80000001, 0))  # not supported
            continue
        info = struct.pack(">HQH", 0, size, flags)
        client.sendall(struct.pack(">QIII", REPLY_MAGIC, option, 3, len(info)) + info)
        client.sendall(struct.pack(">QIII", REPLY_MAGIC, option, 1, 0))
        return


def request(client):
    _, _, kind, handle, offset, length = struct.unpack(">IHHQQI", exactly(client, 28))
    return kind, handle, offset, length


def peer_rubbish(client):
    client.sendall(random.Random(1).randbytes(4096))


def peer_silence(client):
    client.sendall(NBD_MAGIC)


def peer_huge_option(client):
    client.sendall(NBD_MAGIC + OPTION_MAGIC + struct.pack(">H", 3))
    exactly(client, 4)
    client.sendall(struct.pack(">QIII", REPLY_MAGIC, 7, 3, 0xFFFFFFFF) + bytes(4096))


def peer_odd_size(client):
    greet(client, size=(1 << 63) + 5)


def peer_wrong_magic(client):
    greet(client)
    request(client)
    client.sendall(struct.pack(">IIQ", 0x12345678, 0, 1) + bytes(65536))


def peer_wrong_handle(client):
    greet(client)
    _, handle, _, length = request(client)
    client.sendall(struct.pack(">IIQ", 0x67446698, 0, handle ^ 0xFFFF) + bytes(length))


def peer_short_reply(client):
    greet(client)
    _, handle, _, _ = request(client)
    client.sendall(struct.pack(">IIQ", 0x67446698, 0, handle) + bytes(100))


def peer_structured_reply(client):
    """A chunk that nobody agreed on, far larger than what was asked for."""
    greet(client)
    _, handle, _, _ = request(client)
    client.sendall(struct.pack(">IHHQI", 0x668E33EF, 1, 1, handle, 0xFFFFFFFF) + bytes(65536))


@pytest.mark.sanitizer
@pytest.mark.parametrize("peer", [peer_rubbish, peer_silence, peer_huge_option, peer_odd_size, peer_wrong_magic,
                                  peer_wrong_handle, peer_short_reply, peer_structured_reply],
                         ids=lambda peer: peer.__name__[5:])
def test_bad_servers(peer, tmp_path):
    """An error in words, in time; never a crash."""
    path = tmp_path / "nbd"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve():
        with contextlib.suppress(OSError):
            while True:
                client = listener.accept()[0]
                with client, contextlib.suppress(OSError, ConnectionError):
                    client.settimeout(2)
                    peer(client)
                    if peer is not peer_silence:
                        client.shutdown(socket.SHUT_WR)
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    result = hull("disk", "info", uri(path), "--reconnect", "1")
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)
    assert result.returncode == 1, (result.returncode, result.stderr)
    assert result.stderr.splitlines()[-1].startswith("hull: "), result.stderr


class Web(http.server.BaseHTTPRequestHandler):
    """A server of one file, with faults."""
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        state = self.server.state
        word = self.path.strip("/").split("/")[0]
        first, last = [int(n) for n in self.headers["Range"].removeprefix("bytes=").split("-")]
        data = state["file"].read_bytes()
        last = min(last, len(data) - 1)
        part, whole = data[first:last + 1], f"bytes {first}-{last}/{len(data)}"
        state["count"] += 1
        if word == "redirect":
            self.answer(302, {"Location": "/file"})
        elif word == "away":
            self.answer(302, {"Location": "file:///etc/passwd"})
        elif word == "loop":
            self.answer(302, {"Location": "/loop"})
        elif word == "whole":
            self.answer(200, {}, data)
        elif word == "other":
            self.answer(206, {"Content-Range": f"bytes 1-1/{len(data)}"}, b"x")
        elif word == "more":
            self.answer(206, {"Content-Range": whole}, part + b"more")
        elif word == "huge":
            self.answer(206, {"Content-Range": f"bytes {first}-{last}/99999999999999999999999"}, part)
        elif word != "file":
            self.answer(404, {})
        elif state["count"] % 7 == 0 and state["is_flaky"]:
            self.answer(503, {}, b"later") if state["count"] % 2 else self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self.answer(206, {"Content-Range": whole, "ETag": state["tag"]}, part)


@pytest.fixture
def web(source):
    """(address, state) of a web server that serves 'source'."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web)
    server.daemon_threads = True
    server.handle_error = lambda *_: None
    server.state = {"file": source, "tag": '"one"', "count": 0, "is_flaky": False}
    threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", server.state
    server.shutdown()
    server.server_close()


@pytest.mark.sanitizer
def test_http(source, web, tmp_path):
    address, state = web
    assert json.loads(ok("info", "--json", f"{address}/file"))["size_bytes"] == source.stat().st_size
    assert "identical" in ok("compare", source, f"{address}/redirect")
    state["is_flaky"] = True
    assert "identical" in ok("compare", source, f"{address}/file")
    state["is_flaky"] = False
    ok("convert", f"{address}/file", tmp_path / "copy.qcow2", "--image-format", "raw")
    assert "identical" in ok("compare", source, tmp_path / "copy.qcow2")
    for word, why in {"nothing": "status 404", "whole": "sends the whole file only", "away": "file", "loop": "redirects",
                      "other": "another part", "more": "", "huge": "too large"}.items():
        assert why in refused("info", f"{address}/{word}")
    assert "for reading only" in refused("convert", source, f"{address}/file")


def test_http_file_that_changes(source, web):
    address, state = web
    child = subprocess.Popen([HULL, "disk", "bench", f"{address}/file", "--count", "100000", "--depth", "1"],
                             stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    until(lambda: state["count"] > 20, "nothing is read")
    state["tag"] = '"two"'
    error = child.communicate(timeout=30)[1]
    assert child.returncode == 1 and "its content has changed" in error, error


class Target:
    """tgtd with one disk."""
    NAME = "iqn.2026-01.test:disk"

    def __init__(self, folder, disk):
        self.disk, self.port = disk, free_port()
        self.environment = {**os.environ, "TGT_IPC_SOCKET": str(folder / "ipc")}
        self.log = open(folder / "tgtd.log", "ab")
        self.secret = None
        self.start()

    def admin(self, *words):
        subprocess.run(["tgtadm", "-C", "0", "--lld", "iscsi", *words], env=self.environment, check=True, capture_output=True)

    def start(self):
        for stale in pathlib.Path(self.environment["TGT_IPC_SOCKET"]).parent.glob("ipc.*"):
            stale.unlink()
        self.child = subprocess.Popen(["tgtd", "-f", "-C", "0", "--iscsi", f"portal=127.0.0.1:{self.port}"],
                                      env=self.environment, stdout=self.log, stderr=self.log)
        until(lambda: self.child.poll() is not None or takes_connections(self.port), "tgtd does not start")
        if self.child.poll() is not None:
            pytest.skip("tgtd does not run here")
        self.admin("--mode", "target", "--op", "new", "--tid", "1", "-T", self.NAME)
        self.admin("--mode", "logicalunit", "--op", "new", "--tid", "1", "--lun", "1", "-b", str(self.disk))
        if self.secret:
            self.admin("--mode", "account", "--op", "new", "--user", self.secret[0], "--password", self.secret[1])
            self.admin("--mode", "account", "--op", "bind", "--tid", "1", "--user", self.secret[0])
        self.admin("--mode", "target", "--op", "bind", "--tid", "1", "-I", "ALL")

    def kill(self):
        self.child.kill()
        self.child.wait()

    def uri(self, rest=""):
        return f"iscsi://127.0.0.1:{self.port}/{self.NAME}/1{rest}"


@pytest.fixture
def target(tmp_path):
    if shutil.which("tgtd") is None or os.geteuid() != 0:
        pytest.skip("tgt is not installed, or this is not root")
    disk = tmp_path / "lun.raw"
    disk.touch()
    os.truncate(disk, 48 * MIB)
    target = Target(tmp_path, disk)
    yield target
    target.kill()
    target.log.close()


def convert_while(server, address, big, file=None):
    """A conversion into the remote disk, whose server is killed in the middle of it: when its file has got some of it."""
    child = subprocess.Popen([HULL, "disk", "convert", big, address], stderr=subprocess.PIPE, text=True)
    while child.poll() is None and file and file.stat().st_blocks < 2048:
        time.sleep(0.001)
    server.kill()
    time.sleep(0.2)
    server.start()
    error = child.communicate(timeout=60)[1]
    assert child.returncode == 0, error
    return error


def test_iscsi(target, tmp_path, source):
    big = tmp_path / "big.raw"
    big.write_bytes(random.Random(6).randbytes(48 * MIB))
    assert json.loads(ok("info", "--json", target.uri()))["size_bytes"] == 48 * MIB
    assert "Target not found" in refused("info", target.uri().replace(":disk", ":other"))
    assert "no place on a command line" in refused("info", target.uri().replace("://", "://bob%secret@"))
    assert "connected again" in convert_while(target, target.uri(), big, target.disk)
    assert big.read_bytes() == target.disk.read_bytes()
    assert "identical" in ok("compare", big, target.uri())
    # A format over blocks of 512 bytes, of which it changes parts.
    run("qemu-img", "convert", "-O", "qcow2", source, target.disk)
    os.truncate(target.disk, 48 * MIB)
    assert "identical" in ok("compare", source, target.uri())
    ok("snapshot", "--create", "one", target.uri(), "--image-format", "qcow2")
    run("qemu-img", "check", "-f", "qcow2", target.disk)
    target.secret = ("bob", "secretsecret12")
    target.kill()
    target.start()
    secret = tmp_path / "secret"
    secret.write_text("bob:secretsecret12\n", encoding="ascii")
    assert "Authentication failure" in refused("info", target.uri())
    ok("info", target.uri(f"?chap={secret}"))
    result = hull("disk", "info", target.uri(), env={**os.environ, "LIBISCSI_CHAP_USERNAME": "bob",
                                                     "LIBISCSI_CHAP_PASSWORD": "secretsecret12"})
    assert result.returncode == 0, result.stderr
    secret.write_text("bob:somethingelse\n", encoding="ascii")
    assert "Authentication failure" in refused("info", target.uri(f"?chap={secret}"))


class Ganesha:
    """nfs-ganesha with one folder; rpcbind for its sake where none runs."""

    def __init__(self, folder):
        self.folder, self.port, self.mount_port = folder, free_port(), free_port()
        self.export = folder / "export"
        self.export.mkdir()
        self.rpcbind = None
        if not takes_connections(111):
            self.rpcbind = subprocess.Popen(["rpcbind", "-f", "-w"], stderr=subprocess.DEVNULL)
            until(lambda: self.rpcbind.poll() is not None or takes_connections(111), "rpcbind does not start")
        (folder / "conf").write_text(f"""
            NFS_CORE_PARAM {{ Protocols = 3; NFS_Port = {self.port}; MNT_Port = {self.mount_port}; Bind_addr = 127.0.0.1;
                Enable_NLM = false; Enable_RQUOTA = false; Plugins_Dir = /usr/lib/{os.uname().machine}-linux-gnu/ganesha; }}
            NFSv4 {{ Graceless = true; RecoveryBackend = fs; }}
            EXPORT {{ Export_Id = 1; Path = {self.export}; Pseudo = /export; Access_Type = RW; Squash = None; SecType = sys;
                Protocols = 3; Transports = TCP; FSAL {{ Name = VFS; }} }}
        """, encoding="ascii")
        self.start()

    def start(self):
        self.child = subprocess.Popen(["ganesha.nfsd", "-F", "-f", self.folder / "conf", "-L", self.folder / "log",
                                       "-p", self.folder / "pid"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: self.child.poll() is not None or
              (takes_connections(self.port) and takes_connections(self.mount_port)), "ganesha does not start")
        if self.child.poll() is not None:
            self.stop()
            pytest.skip("nfs-ganesha does not run here")

    def kill(self):
        self.child.kill()
        self.child.wait()
        (self.folder / "pid").unlink(missing_ok=True)

    def stop(self):
        self.kill()
        if self.rpcbind:
            self.rpcbind.terminate()
            self.rpcbind.wait()

    def uri(self, name):
        return f"nfs://127.0.0.1{self.export}/{name}?nfsport={self.port}&mountport={self.mount_port}"


@pytest.fixture
def ganesha(tmp_path):
    if shutil.which("ganesha.nfsd") is None or shutil.which("rpcbind") is None or os.geteuid() != 0:
        pytest.skip("nfs-ganesha or rpcbind is not installed, or this is not root")
    with open(pathlib.Path(tempfile.gettempdir()) / "hull-ganesha.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # rpcbind knows one NFS server at a time
        server = Ganesha(tmp_path)
        yield server
        server.stop()


def test_nfs(ganesha, tmp_path, source):
    shutil.copy(source, ganesha.export / "a.raw")
    assert "identical" in ok("compare", source, ganesha.uri("a.raw"))
    assert "NFS3ERR_NOENT" in refused("info", ganesha.uri("b.raw"))
    big = tmp_path / "big.raw"
    big.write_bytes(random.Random(7).randbytes(48 * MIB))
    (ganesha.export / "c.raw").touch()
    os.truncate(ganesha.export / "c.raw", 48 * MIB)
    assert "connected again" in convert_while(ganesha, ganesha.uri("c.raw"), big, ganesha.export / "c.raw")
    assert big.read_bytes() == (ganesha.export / "c.raw").read_bytes()
    # One process writes at a time; others may read.
    socket_path = tmp_path / "served"
    with serving(socket_path, HULL, "disk", "serve", ganesha.uri("c.raw"), "--image-format", "raw", "--persistent", "--socket", socket_path):
        assert "another process" in refused("convert", source, ganesha.uri("c.raw"))
        ok("convert", source, ganesha.uri("a.raw"))
        assert "identical" in ok("compare", big, ganesha.uri("c.raw"))
    ok("convert", big, ganesha.uri("c.raw"))


class Ceph:
    """A cluster of one monitor and one disk, on loopback: about 100 MiB of memory."""

    def __init__(self, folder):
        self.folder, self.conf, self.children = folder, folder / "ceph.conf", {}
        port, fsid, osd_id = free_port(), str(uuid.uuid4()), str(uuid.uuid4())
        self.conf.write_text(textwrap.dedent(f"""\
            [global]
            fsid = {fsid}
            mon_host = [v1:127.0.0.1:{port}]
            auth_cluster_required = none
            auth_service_required = none
            auth_client_required = none
            osd_pool_default_size = 1
            osd_pool_default_min_size = 1
            mon_allow_pool_size_one = true
            ms_bind_msgr2 = false
            osd_crush_chooseleaf_type = 0
            osd_class_update_on_start = false
            osd_crush_update_on_start = false
            mon_data = {folder}/mon
            osd_data = {folder}/osd
            run_dir = {folder}
            log_file = {folder}/$name.log
            admin_socket = {folder}/$name.asok
            bluestore_block_size = 1073741824
            bluestore_cache_autotune = false
            bluestore_cache_size = 33554432
            """), encoding="ascii")
        run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v1:127.0.0.1:{port}]", folder / "monmap")
        (folder / "mon").mkdir()
        (folder / "osd").mkdir()
        run("ceph-mon", "-c", self.conf, "--mkfs", "-i", "a", "--monmap", folder / "monmap")
        try:
            self.make(port, osd_id)
        except BaseException:
            self.stop()
            raise

    def make(self, port, osd_id):
        self.spawn("ceph-mon", "a")
        until(lambda: takes_connections(port), "the monitor does not start")
        self.ceph("osd", "new", osd_id)
        run("ceph-osd", "-c", self.conf, "-i", "0", "--mkfs", "--osd-uuid", osd_id)
        self.start()
        self.ceph("osd", "crush", "add", "osd.0", "1", "root=default")
        self.ceph("osd", "pool", "create", "rbd", "8")

    def spawn(self, program, name):
        self.children[program] = subprocess.Popen([program, "-c", self.conf, "-f", "-i", name],
                                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ceph(self, *words):
        """Its own client hangs or fails now and then while a cluster starts."""
        for _ in range(10):
            with contextlib.suppress(subprocess.SubprocessError):
                return run("ceph", "-c", self.conf, *words, timeout=10)
        raise AssertionError(f"ceph {words} fails")

    def start(self):
        self.spawn("ceph-osd", "0")
        until(lambda: "1 up" in self.ceph("osd", "stat"), "the disk does not start", 60)
        time.sleep(1)

    def kill(self):
        child = self.children.pop("ceph-osd")
        child.kill()
        child.wait()

    def stop(self):
        for child in self.children.values():
            child.kill()
            child.wait()

    def uri(self, image):
        return f"rbd://rbd/{image}?conf={self.conf}"


@pytest.mark.long
def test_rbd(boot, busybox, source, tmp_path):
    if shutil.which("ceph-mon") is None or shutil.which("ceph-osd") is None or os.geteuid() != 0:
        pytest.skip("ceph-mon or ceph-osd is not installed, or this is not root")
    ceph = Ceph(tmp_path)
    try:
        big = tmp_path / "big.raw"
        big.write_bytes(random.Random(8).randbytes(64 * MIB))
        run("rbd", "-c", ceph.conf, "create", "--size", "64M", "disk", timeout=60)
        assert allocated(ok("map", "--json", ceph.uri("disk"))) == 0
        convert_while(ceph, ceph.uri("disk"), big)
        assert "identical" in ok("compare", big, ceph.uri("disk"))
        run("rbd", "-c", ceph.conf, "snap", "create", "disk@one")
        assert "No such file" in refused("info", ceph.uri("other"))
        vm = boot("--engine", "soft", "--memory", "256M", "--net", "none", *busybox, "--append", "console=ttyS0 quiet",
                  "--disk", f"{ceph.uri('disk')},format=raw")
        vm.expect("# ")
        vm.shell("dd if=/dev/zero of=/dev/vda bs=1M count=8 2>/dev/null; sync; echo 3 > /proc/sys/vm/drop_caches")
        vm.shell("cmp -n 8388608 /dev/vda /dev/zero")
        vm.send_line("poweroff -f")
        assert vm.wait() == 0
        assert "differ" in hull("disk", "compare", big, ceph.uri("disk")).stdout
        assert "identical" in ok("compare", big, ceph.uri("disk@one"))
    finally:
        ceph.stop()
