"""hull disk serve, with the NBD clients of others: libnbd's tools and Python module, qemu-img, qemu-io; and with clients that do not
keep to the protocol, or are killed."""
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest

from conftest import HULL, hull

nbd = pytest.importorskip("nbd", reason="python3-libnbd is not installed")
MIB = 1 << 20
MISSING = [tool for tool in ("qemu-img", "qemu-io", "nbdinfo", "nbdcopy") if shutil.which(tool) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


def run(*words, **options):
    return subprocess.run([str(w) for w in words], check=True, capture_output=True, text=True, timeout=60, **options).stdout


class Server:
    """A running `hull disk serve`."""

    def __init__(self, words, **options):
        self.process = subprocess.Popen([str(HULL), "disk", "serve", *map(str, words), "--json"], stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, **options)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(self.process.communicate()[1])
        self.about = json.loads(line)
        self.uri = self.about["uri"]

    def stop(self, how=signal.SIGTERM):
        """Its messages."""
        self.process.send_signal(how)
        return self.wait()

    def wait(self):
        errors = self.process.communicate(timeout=30)[1]
        assert self.process.returncode == 0, errors
        return errors

    def client(self, uri=None):
        handle = nbd.NBD()
        handle.add_meta_context("base:allocation")
        handle.connect_uri(uri or self.uri)
        return handle


@contextlib.contextmanager
def serving(*words, **options):
    server = Server(words, **options)
    try:
        yield server
        if server.process.poll() is None:
            server.stop()
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
        server.process.stdout.close()
        server.process.stderr.close()


def make_image(path, image_format, size=64 * MIB, options=""):
    run("qemu-img", "create", "-q", "-f", image_format, *(["-o", options] if options else []), path, size)
    return path


def make_data(path, size=64 * MIB, seed=1):
    """Data and holes."""
    rng = random.Random(seed)
    with open(path, "wb") as file:
        file.truncate(size)
        for at in range(0, size, 4 * MIB):
            file.seek(at + rng.randrange(64) * 4096)
            file.write(rng.randbytes(rng.randrange(1, 256) * 4096 + 512))
    return path


def test_what_clients_are_told(tmp_path):
    one = make_image(tmp_path / "one.raw", "raw", 8 * MIB)
    two = make_image(tmp_path / "two.qcow2", "qcow2", 16 * MIB)
    with serving(one, two, "--socket", tmp_path / "s", "--persistent", "--description", "for tests") as server:
        told = json.loads(run("nbdinfo", "--json", "--list", server.uri))
        assert [(e["export-name"], e["export-size"], e["description"]) for e in told["exports"]] == [
            ("one.raw", 8 * MIB, "for tests"), ("two.qcow2", 16 * MIB, "for tests")]
        for export in told["exports"]:
            assert export["can_multi_conn"] and export["can_df"] and export["can_fast_zero"] and export["can_trim"]
            assert not export["is_read_only"]
            assert export["block_minimum"] == 512 if "block_minimum" in export else True
        assert [e["export"] for e in server.about["exports"]] == ["one.raw", "two.qcow2"]
        assert subprocess.run(["nbdinfo", server.uri.replace("one.raw", "nothing")], capture_output=True).returncode == 1
    assert not (tmp_path / "s").exists()
    with serving(two, "--socket", tmp_path / "s", "-t", "--read-only", "--export", "a b/c") as server:
        assert "a%20b/c" in server.uri
        handle = server.client()
        assert handle.is_read_only() and handle.get_export_name() == "a b/c"
        with pytest.raises(nbd.Error):
            handle.pwrite(bytes(512), 0)
        handle.shutdown()


@pytest.mark.parametrize("image_format,options", [
    ("raw", ""), ("qcow2", "cluster_size=64k"), ("qcow2", "cluster_size=4k,extended_l2=off,lazy_refcounts=on"),
    ("qcow2", "extended_l2=on")], ids=["raw", "qcow2", "qcow2-small", "qcow2-extended"])
def test_copies(tmp_path, image_format, options):
    data = make_data(tmp_path / "data.raw")
    image = make_image(tmp_path / f"disk.{image_format}", image_format, options=options)
    with serving(image, "--socket", tmp_path / "s", "--persistent") as server:
        run("nbdcopy", "--connections=4", data, server.uri)
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", data, server.uri)
        run("nbdcopy", "--connections=4", server.uri, tmp_path / "back.raw")
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", server.uri, tmp_path / "back.qcow2")
        extents = json.loads(run("nbdinfo", "--json", "--map", server.uri))
        run("qemu-io", "-f", "raw", "-c", "write -P 7 1000 5000", "-c", "read -P 7 1000 5000", "-c", "write -z -u 1M 3M",
            "-c", "discard 8M 4M", "-c", "flush", server.uri)
        run("qemu-img", "convert", "-n", "-W", "-f", "raw", "-O", "raw", data, server.uri)
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", data, server.uri)
    assert sum(e["length"] for e in extents) == 64 * MIB
    assert any(e["type"] == 3 for e in extents) and any(e["type"] == 0 for e in extents)
    content = data.read_bytes()
    for extent in extents:  # what is told to be a hole is one
        if extent["type"] == 3:
            assert not any(content[extent["offset"]:extent["offset"] + extent["length"]])
    assert (tmp_path / "back.raw").read_bytes() == content
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", data, tmp_path / "back.qcow2")
    run("qemu-img", "compare", "-f", "raw", "-F", image_format, data, image)
    if image_format == "qcow2":
        run("qemu-img", "check", "-q", image)


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_random_requests_of_several_clients(tmp_path, image_format):
    """Each of four clients has every fourth piece of 1000 bytes, so that they share sectors; some hundred requests in flight."""
    size, step, clients = 2 * MIB, 1000, 4
    image = make_image(tmp_path / f"disk.{image_format}", image_format, size)
    rng = random.Random(7)
    model = bytearray(size)
    with serving(image, "--socket", tmp_path / "s", "-t") as server:
        handles = [server.client() for _ in range(clients)]
        for handle in handles:  # the server told them 512: this is about those who do not ask
            handle.set_strict_mode(0)
        for _ in range(6):
            in_flight = []
            places = rng.sample(range(size // step - 1), 400)
            for place in places:
                handle, at = handles[place % clients], place * step
                kind = rng.randrange(10)
                if kind < 7:
                    data = rng.randbytes(step)
                    model[at:at + step] = data
                    buffer = nbd.Buffer.from_bytearray(bytearray(data))
                    in_flight.append((handle, handle.aio_pwrite(buffer, at, flags=nbd.CMD_FLAG_FUA if kind == 0 else 0)))
                elif kind < 9:
                    model[at:at + step] = bytes(step)
                    in_flight.append((handle, handle.aio_zero(step, at, flags=nbd.CMD_FLAG_NO_HOLE if kind == 7 else 0)))
                else:
                    in_flight.append((handle, handle.aio_flush()))
            for handle, cookie in in_flight:
                while not handle.aio_command_completed(cookie):
                    handle.poll(-1)
            for place in rng.sample(range(size // step), 50):
                length = min(rng.choice([1, 511, 3000, 70000, 300000]), size - place * step)
                assert handles[0].pread(length, place * step) == model[place * step:place * step + length]
        for handle in handles:
            handle.shutdown()
    with serving(image, "--socket", tmp_path / "s", "--read-only") as server:
        assert server.client().pread(size, 0) == model
        server.wait()  # the last client has gone
    if image_format == "qcow2":
        run("qemu-img", "check", "-q", image)


def test_flush_of_one_client_covers_what_others_wrote(tmp_path):
    """Killed right after the flush: all that had an answer is there."""
    image = make_image(tmp_path / "disk.qcow2", "qcow2", options="cluster_size=4k")
    with serving(image, "--socket", tmp_path / "s", "-t") as server:
        first, second = server.client(), server.client()
        for i in range(50):
            first.pwrite(bytes([i + 1]) * 4096, i * MIB)
        second.flush()
        first.pwrite(b"x" * 4096, 60 * MIB, nbd.CMD_FLAG_FUA)
        server.process.kill()
        server.process.wait()
    wait_for_locks(image)
    run("qemu-img", "check", "-q", image)
    run("qemu-img", "convert", "-O", "raw", image, tmp_path / "disk.raw")
    content = (tmp_path / "disk.raw").read_bytes()
    assert all(content[i * MIB:i * MIB + 4096] == bytes([i + 1]) * 4096 for i in range(50))
    assert content[60 * MIB:60 * MIB + 4096] == b"x" * 4096


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Two authorities with a server's and a client's certificate each, and keys that are shared."""
    if shutil.which("certtool") is None or shutil.which("psktool") is None:
        pytest.skip("gnutls-bin is not installed")
    top = tmp_path_factory.mktemp("tls")
    for name in ("right", "wrong"):
        folder = top / name
        folder.mkdir()

        def certtool(*words):
            run("certtool", *words, cwd=folder)
        certtool("--generate-privkey", "--key-type=ed25519", "--outfile", "ca-key.pem")
        (folder / "ca.info").write_text("cn = test\nca\ncert_signing_key\n")
        certtool("--generate-self-signed", "--load-privkey", "ca-key.pem", "--template", "ca.info", "--outfile", "ca-cert.pem")
        for who in ("server", "client"):
            certtool("--generate-privkey", "--key-type=ed25519", "--outfile", f"{who}-key.pem")
            (folder / f"{who}.info").write_text(f"cn = localhost\ndns_name = localhost\nsigning_key\ntls_www_{who}\n")
            certtool("--generate-certificate", "--load-ca-certificate", "ca-cert.pem", "--load-ca-privkey", "ca-key.pem",
                     "--load-privkey", f"{who}-key.pem", "--template", f"{who}.info", "--outfile", f"{who}-cert.pem")
        run("psktool", "-u", "alice", "-p", folder / "keys.psk")
    for mixed, files in (("nobody", {"ca-cert.pem": "right"}),
                         ("stranger", {"ca-cert.pem": "right", "client-cert.pem": "wrong", "client-key.pem": "wrong"})):
        (top / mixed).mkdir()
        for file, source in files.items():
            shutil.copy(top / source / file, top / mixed / file)
    return top


def tls_size(port, folder=None, **options):
    """What a client with these certificates is told; None: refused."""
    handle = nbd.NBD()
    handle.set_tls(nbd.TLS_REQUIRE)
    if folder is not None:
        handle.set_tls_certificates(str(folder))
        handle.set_tls_username("")
    for name, value in options.items():
        getattr(handle, name)(value)
    try:
        handle.connect_tcp("localhost", str(port))
        return handle.get_size()
    except nbd.Error:
        return None


def port_of(server):
    return int(server.uri.split(":")[2].split("/")[0])


def test_tls(tmp_path, certificates):
    image = make_image(tmp_path / "disk.raw", "raw")
    with serving(image, "--port", "0", "-t", "--tls-dir", certificates / "right") as server:
        assert server.uri.startswith("nbds://127.0.0.1:")
        port = port_of(server)
        assert tls_size(port, certificates / "right") == 64 * MIB
        assert tls_size(port, certificates / "wrong") is None
        assert tls_size(port, certificates / "stranger") is None
        assert tls_size(port, certificates / "nobody") is None
        with pytest.raises(nbd.Error, match="TLS"):  # in plain
            nbd.NBD().connect_tcp("localhost", str(port))
        data = make_data(tmp_path / "data.raw")
        uri = f"nbds://localhost:{port}/?tls-certificates={certificates / 'right'}"
        run("nbdcopy", data, uri)
        run("nbdcopy", uri, tmp_path / "back.raw")
        assert (tmp_path / "back.raw").read_bytes() == data.read_bytes()
        creds = f"tls-creds-x509,id=t,dir={certificates / 'right'},endpoint=client"
        assert json.loads(run("qemu-img", "info", "--output=json", "--object", creds, "--image-opts",
                              f"driver=nbd,host=localhost,port={port},tls-creds=t"))["virtual-size"] == 64 * MIB
        errors = server.stop()
        assert "the client's certificate: The certificate is NOT trusted" in errors, errors
    with serving(image, "--port", "0", "-t", "--tls-dir", certificates / "right", "--tls-any-client") as server:
        assert tls_size(port_of(server), certificates / "nobody") == 64 * MIB
        assert tls_size(port_of(server), certificates / "wrong") is None  # does not trust the server
    with serving(image, "--port", "0", "-t", "--tls-psk", certificates / "right/keys.psk") as server:
        port = port_of(server)

        def psk(file, name):
            return tls_size(port, set_tls_psk_file=str(file), set_tls_username=name)
        (tmp_path / "bob.psk").write_text((certificates / "right/keys.psk").read_text().replace("alice", "bob"))
        assert psk(certificates / "right/keys.psk", "alice") == 64 * MIB
        assert psk(certificates / "wrong/keys.psk", "alice") is None
        assert psk(tmp_path / "bob.psk", "bob") is None


def test_tls_that_is_set_up_wrong(tmp_path, certificates):
    image = make_image(tmp_path / "disk.raw", "raw")
    (tmp_path / "bad.psk").write_text("alice:12zz\n")
    (tmp_path / "empty").mkdir()
    for words, text in ((["--tls-psk", tmp_path / "bad.psk"], "bad.psk line 1: NAME:HEX is accepted"),
                        (["--tls-psk", tmp_path / "nothing"], "nothing: No such file"),
                        (["--tls-dir", tmp_path / "empty"], "ca-cert.pem: No such file"),
                        (["--tls-dir", certificates / "right", "--tls-psk", tmp_path / "bad.psk"], "either")):
        result = hull("disk", "serve", image, "--socket", tmp_path / "s", *words)
        assert result.returncode == 1 and text in result.stderr, result.stderr


def test_starttls_is_no_way_in_for_bytes_in_plain(tmp_path, certificates):
    image = make_image(tmp_path / "disk.raw", "raw")
    with serving(image, "--socket", tmp_path / "s", "-t", "--tls-dir", certificates / "right") as server:
        with connected(tmp_path / "s") as peer:
            peer.sendall(struct.pack(">I", 3) + option(5) + option(8))
            assert drain(peer)[38:] == b""  # the greeting, one acknowledgement, and the end
        for rubbish in (b"\0" * 400, bytes(range(256)), b"\x16\x03\x01\xff\xff" + b"A" * 300):
            with connected(tmp_path / "s") as peer:
                peer.sendall(struct.pack(">I", 3) + option(5))
                peer.recv(38)
                peer.sendall(rubbish)
                peer.shutdown(socket.SHUT_WR)
                drain(peer)
        errors = server.stop()
        assert "bytes in plain after the wish for TLS" in errors


@contextlib.contextmanager
def connected(path):
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(20)
        peer.connect(str(path))
        yield peer


def option(number, data=b""):
    return b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data


def drain(peer):
    """Until it closes."""
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while part := peer.recv(65536):
            got += part
    return got


def test_rubbish(tmp_path):
    """At each place where a client may speak; a proper client is served meanwhile."""
    image = make_image(tmp_path / "disk.qcow2", "qcow2")
    rng = random.Random(3)
    go = option(7, struct.pack(">IH", 0, 0))
    starts = [b"", struct.pack(">I", 3), struct.pack(">I", 3) + option(8),
              struct.pack(">I", 3) + option(8) + option(10, struct.pack(">III", 0, 1, 15) + b"base:allocation") + go,
              struct.pack(">I", 3) + go]
    with serving(image, "--socket", tmp_path / "s", "-t", "-e", "64") as server:
        proper = server.client()
        for round_number in range(120):
            with connected(tmp_path / "s") as peer:
                peer.sendall(rng.choice(starts))
                kind = rng.randrange(4)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    if kind == 0:
                        peer.sendall(rng.randbytes(rng.randrange(1, 5000)))
                    elif kind == 1:
                        peer.sendall(option(rng.randrange(13), rng.randbytes(rng.randrange(64))))
                    elif kind == 2:
                        for _ in range(rng.randrange(1, 50)):
                            peer.sendall(struct.pack(">IHHQQI", 0x25609513, rng.choice([0, 0, 1, 4, 8, 31]), rng.randrange(9),
                                                     1, rng.choice([0, 64 * MIB, 2 ** 64 - 1, rng.randrange(64 * MIB)]),
                                                     rng.choice([0, 1, 512, 4096, MIB, 2 ** 32 - 1])))
                    else:
                        peer.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 1, 1, 0, MIB) + bytes(rng.randrange(MIB)))
                if rng.randrange(2):
                    peer.shutdown(socket.SHUT_WR)
            if round_number % 10 == 0:
                proper.pwrite(bytes([round_number]) * 512, 63 * MIB)
                assert proper.pread(512, 63 * MIB) == bytes([round_number]) * 512
        proper.shutdown()
    run("qemu-img", "check", "-q", image)


def test_more_clients_than_are_allowed(tmp_path):
    image = make_image(tmp_path / "disk.raw", "raw", 4 * MIB)
    with serving(image, "--socket", tmp_path / "s", "-t", "-e", "3") as server:
        results = []

        def work(number):
            handle = server.client()
            handle.pwrite(bytes([number]) * 4096, number * 4096)
            results.append(handle.pread(4096, number * 4096) == bytes([number]) * 4096)
            handle.shutdown()
        threads = [threading.Thread(target=work, args=(n,)) for n in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert results == [True] * 40


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_clients_that_are_killed(tmp_path, image_format):
    image = make_image(tmp_path / f"disk.{image_format}", image_format)
    data = make_data(tmp_path / "data.raw")
    rng = random.Random(5)
    with serving(image, "--socket", tmp_path / "s", "-t") as server:
        for _ in range(12):
            copies = [subprocess.Popen(["nbdcopy", "--connections=4", *words], stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
                      for words in ([str(data), server.uri], [server.uri, "null:"])]
            time.sleep(rng.random() / 20)
            for copy in copies:
                copy.kill()
                copy.wait()
        run("nbdcopy", data, server.uri)
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", data, server.uri)
    if image_format == "qcow2":
        run("qemu-img", "check", "-q", image)


def test_stopped_in_the_middle(tmp_path):
    """Clients that write, read and connect while the server is told to end: it does so in good order."""
    rng = random.Random(9)
    for _ in range(8):
        image = make_image(tmp_path / "disk.qcow2", "qcow2", options="cluster_size=4k")
        done = threading.Event()
        with serving(image, "--socket", tmp_path / "s", "-t") as server:
            written = []

            def write():
                try:
                    handle = server.client()
                    for i in range(100000):
                        handle.pwrite(struct.pack("<Q", i) * 512, i % 10000 * 4096)
                        written.append(i)
                except nbd.Error:
                    pass

            def connect():
                with contextlib.suppress(OSError, nbd.Error):
                    while not done.is_set():
                        server.client().shutdown()
            threads = [threading.Thread(target=write)] + [threading.Thread(target=connect) for _ in range(3)]
            for thread in threads:
                thread.start()
            time.sleep(rng.random() / 5)
            server.stop(rng.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP]))
            done.set()
            for thread in threads:
                thread.join(20)
        run("qemu-img", "check", "-q", image)
        last = {i % 10000: i for i in written}
        with serving(image, "--socket", tmp_path / "s", "--read-only") as server:
            handle = server.client()
            for place, i in rng.sample(sorted(last.items()), min(len(last), 50)):
                found = struct.unpack("<Q", handle.pread(512, place * 4096)[:8])[0]
                assert found >= i, (place, i, found)  # the answer to the very last one may not have arrived
            handle.shutdown()


def test_in_the_background(tmp_path):
    image = make_image(tmp_path / "disk.raw", "raw", MIB)
    result = subprocess.run([str(HULL), "disk", "serve", str(image), "--socket", str(tmp_path / "s"), "--fork", "--pid-file",
                             str(tmp_path / "pid"), "--json"], capture_output=True, text=True, timeout=20)
    assert result.returncode == 0, result.stderr
    about = json.loads(result.stdout)
    pid = int((tmp_path / "pid").read_text())
    assert about["pid"] == pid
    assert int(run("nbdinfo", "--size", about["uri"])) == MIB  # and was the last client
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        deadline = time.monotonic() + 20
        while stat.read().split()[2] != "Z":  # nobody may have taken note of its end yet
            assert time.monotonic() < deadline
            time.sleep(0.02)
            stat.seek(0)
    result = hull("disk", "serve", tmp_path / "nothing.raw", "--socket", tmp_path / "s", "--fork")
    assert result.returncode == 1 and "No such file" in result.stderr


def test_sockets_that_are_passed(tmp_path):
    image = make_image(tmp_path / "disk.raw", "raw", MIB)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        def prepare():
            os.dup2(listening.fileno(), 3)
        program = ["sh", "-c", 'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"', "sh", str(HULL), "disk", "serve", str(image), "-t"]
        process = subprocess.Popen(program, preexec_fn=prepare, pass_fds=(3,), stdout=subprocess.PIPE, text=True)
        try:
            port = listening.getsockname()[1]
            assert process.stdout.readline() == f"serving {image} as nbd://127.0.0.1:{port}/\n"
            assert int(run("nbdinfo", "--size", f"nbd://127.0.0.1:{port}/")) == MIB
        finally:
            process.terminate()
            assert process.wait(20) == 0
            process.stdout.close()


def test_what_is_refused(tmp_path):
    image = make_image(tmp_path / "disk.raw", "raw", MIB)
    for words, text in (([], "something is missing"), ([image, "--socket", "/s", "--port", "1"], "either --socket"),
                        ([image, "--export", "a", "--export", "b"], "2 names for 1 files"),
                        ([image, image, "--socket", tmp_path / "s", "--read-only"], "there is one of that name already"),
                        ([image, "--address", "300.1.1.1"], "listening on 300.1.1.1")):
        result = hull("disk", "serve", *words)
        assert result.returncode == 1 and text in result.stderr, result.stderr
    with serving(image, "--socket", tmp_path / "s", "-t"):
        result = hull("disk", "serve", image, "--socket", tmp_path / "t")
        assert result.returncode == 1 and "in use by another process" in result.stderr
        result = hull("disk", "serve", image, "--socket", tmp_path / "s", "--read-only")
        assert result.returncode == 1


def test_snapshots(tmp_path):
    """What an internal snapshot holds, while the disk itself has gone on, and grown."""
    image = make_image(tmp_path / "disk.qcow2", "qcow2", 8 * MIB)

    def qemu_io(*commands):
        run("qemu-io", "-f", "qcow2", *[word for c in commands for word in ("-c", c)], image)
    qemu_io("write -P 1 0 2M", "write -P 2 4M 1M")
    run("qemu-img", "snapshot", "-c", "before", image)
    run("qemu-img", "resize", "-q", image, "16M")
    qemu_io("write -P 3 1M 2M", "discard 4M 1M", "write -P 4 12M 1M")
    content = image.read_bytes()
    with serving(image, "--socket", tmp_path / "s", "--snapshot", "before") as server:
        handle = server.client()
        assert handle.is_read_only() and handle.get_size() == 8 * MIB
        assert handle.pread(8 * MIB, 0) == b"\1" * 2 * MIB + bytes(2 * MIB) + b"\2" * MIB + bytes(3 * MIB)
        handle.shutdown()
        server.wait()
    assert image.read_bytes() == content
    result = hull("disk", "serve", image, "--socket", tmp_path / "s", "--snapshot", "after")
    assert result.returncode == 1 and "no snapshot of that name" in result.stderr
    raw = make_image(tmp_path / "disk.raw", "raw", MIB)
    result = hull("disk", "serve", raw, "--socket", tmp_path / "s", "--snapshot", "after")
    assert result.returncode == 1 and "raw images have no snapshots" in result.stderr


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_writes_that_are_lost_at_the_end(tmp_path, image_format):
    image = make_image(tmp_path / f"disk.{image_format}", image_format, 8 * MIB)
    run("qemu-io", "-f", image_format, "-c", "write -P 1 0 2M", image)
    content = image.read_bytes()
    with serving(image, "--socket", tmp_path / "s", "--temporary", env={**os.environ, "TMPDIR": str(tmp_path)}) as server:
        handle = server.client()
        handle.set_strict_mode(0)
        handle.pwrite(b"\5" * 1000, MIB)
        handle.zero(4096, 0)
        handle.flush()
        assert handle.pread(2 * MIB, 0) == bytes(4096) + b"\1" * (MIB - 4096) + b"\5" * 1000 + b"\1" * (MIB - 1000)
        handle.shutdown()
        server.wait()
    assert image.read_bytes() == content
    assert sorted(file.name for file in tmp_path.iterdir()) == [image.name]


def test_rights_that_are_given_up(tmp_path):
    image = make_image(tmp_path / "disk.qcow2", "qcow2", MIB)
    with serving(image, "--socket", tmp_path / "s", "-t") as server:
        server.client().shutdown()
        status = dict(line.split(":\t", 1) for line in
                      pathlib.Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii").splitlines() if ":\t" in line)
        assert status["Seccomp"] == "2" and status["NoNewPrivs"] == "1"
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0


def dirty_map(uri, name):
    return [(e["offset"], e["length"], e["type"]) for e in
            json.loads(run("nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{name}", uri))]


def test_bitmaps(tmp_path):
    """They follow what clients write, stay valid, and are told; as qemu-nbd sees them too."""
    base = make_data(tmp_path / "base.raw", 16 * MIB)
    image = tmp_path / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", image)
    run("qemu-img", "bitmap", "--add", "-g", "64k", image, "daily")
    run("qemu-img", "bitmap", "--add", "-g", "4k", "--disable", image, "weekly")
    opened = [image, "--backing", base, "--backing-format", "raw", "--socket", tmp_path / "s"]
    with serving(*opened) as server:
        handle = server.client()
        handle.set_strict_mode(0)
        handle.pwrite(b"x" * 100, MIB + 5)
        handle.zero(3 * 65536, 2 * MIB)
        handle.trim(65536, 8 * MIB)
        handle.shutdown()
        server.wait()
    clean, dirty = 0, 1
    expected = [(0, MIB, clean), (MIB, 65536, dirty), (MIB + 65536, MIB - 65536, clean), (2 * MIB, 3 * 65536, dirty),
                (2 * MIB + 3 * 65536, 6 * MIB - 3 * 65536, clean), (8 * MIB, 65536, dirty),
                (8 * MIB + 65536, 8 * MIB - 65536, clean)]
    with serving(*opened, "--read-only", "-t", "--bitmap", "daily", "-B", "weekly") as server:
        assert dirty_map(server.uri, "daily") == expected
        assert dirty_map(server.uri, "weekly") == [(0, 16 * MIB, clean)]
        run("nbdcopy", server.uri, tmp_path / "copy.raw")
        depths = json.loads(run("nbdinfo", "--json", "--map=qemu:allocation-depth", server.uri))
        assert {e["type"] for e in depths} >= {1, 2}
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", tmp_path / "copy.raw", image)
    info = json.loads(run("qemu-img", "info", "--output=json", image))
    assert {b["name"]: b["flags"] for b in info["format-specific"]["data"]["bitmaps"]} == {"daily": ["auto"], "weekly": []}
    other = subprocess.Popen(["qemu-nbd", "-r", "-t", "-B", "daily", "-f", "qcow2", "-k", str(tmp_path / "q"), str(image)])
    try:
        end = time.monotonic() + 20
        while not (tmp_path / "q").exists() and time.monotonic() < end:
            time.sleep(0.02)
        assert dirty_map(f"nbd+unix:///?socket={tmp_path / 'q'}", "daily") == expected
    finally:
        other.terminate()
        other.wait(20)
    result = hull("disk", "serve", *opened, "--read-only", "--bitmap", "hourly")
    assert result.returncode == 1 and "has no bitmap hourly" in result.stderr


def wait_for_locks(image):
    """The kernel takes down the ring of a process that was killed some moments after it; the file's locks go then."""
    end = time.monotonic() + 20
    while subprocess.run(["qemu-io", "-c", "read 0 512", image], capture_output=True, check=False).returncode != 0:
        assert time.monotonic() < end, "the image stays locked"
        time.sleep(0.01)


def kill_while_writing(folder, image_format, options, rng):
    """A client that writes numbered blocks, zeros and trims with flushes between them, until the server is killed: each block holds
    at least what it did at the last flush."""
    blocks = 2000
    image = make_image(folder / f"disk.{image_format}", image_format, blocks * 8192, options)
    written, durable, trimmed = [0] * blocks, [0] * blocks, set()
    with serving(image, "--socket", folder / "s", "-t") as server:
        handle = server.client()
        threading.Timer(0.05 + rng.random() / 2, server.process.kill).start()
        number = 0
        with contextlib.suppress(nbd.Error):
            while True:
                for _ in range(rng.randrange(1, 60)):
                    block, number = rng.randrange(blocks), number + 1
                    kind = rng.randrange(12)
                    if kind == 0:
                        trimmed.add(block)
                        handle.trim(8192, block * 8192)
                    elif kind == 1:
                        trimmed.add(block)  # zeros are no number
                        handle.zero(8192, block * 8192)
                    else:
                        handle.pwrite(struct.pack("<Q", number) * 1024, block * 8192, nbd.CMD_FLAG_FUA if kind == 2 else 0)
                        written[block] = number
                        if kind == 2:
                            durable[block] = number
                handle.flush()
                durable = list(written)
        server.process.wait()
    wait_for_locks(image)
    if image_format == "qcow2":
        checked = subprocess.run(["qemu-img", "check", "-q", image], capture_output=True, text=True, check=False)
        assert checked.returncode in (0, 3), checked.stdout + checked.stderr  # 3: clusters that nobody has
    run("qemu-img", "convert", "-f", image_format, "-O", "raw", image, folder / "content")
    content = (folder / "content").read_bytes()
    for block in range(blocks):
        halves = struct.unpack("<2Q", content[block * 8192:block * 8192 + 8] + content[block * 8192 + 8184:block * 8192 + 8192])
        assert block in trimmed or min(halves) >= durable[block], (block, halves, durable[block])
    return sum(1 for n in durable if n)


KILLED = [("raw", ""), ("qcow2", "cluster_size=64k"), ("qcow2", "cluster_size=1k"), ("qcow2", "extended_l2=on,cluster_size=16k")]


@pytest.mark.parametrize("image_format,options", KILLED, ids=["raw", "qcow2", "qcow2-small", "qcow2-extended"])
def test_killed_server(tmp_path, image_format, options):
    kill_while_writing(tmp_path, image_format, options, random.Random())


@pytest.mark.long
def test_killed_server_many_times(tmp_path):
    rng = random.Random()
    assert sum(kill_while_writing(tmp_path, *rng.choice(KILLED), rng) for _ in range(150)) > 1000
