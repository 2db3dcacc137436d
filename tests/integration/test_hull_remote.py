"""HULL_REMOTE: hull with a hulld on another host, over TLS and over ssh. The other host is a network namespace."""
import contextlib
import os
import shutil
import subprocess

import pytest

from conftest import HULL
from hulld import NEEDS_ROOT, TIMEOUT, Manager, busybox_root

pytestmark = NEEDS_ROOT
NO_CARD = ("--set", "eth0.type=none")
PORT = 18443


def certificate(folder, name, authority=None, *extra):
    """NAME.pem and NAME.key, by 'authority' or by itself."""
    signer = ["-CA", folder / f"{authority}.pem", "-CAkey", folder / f"{authority}.key"] if authority else []
    leaf = ["-addext", "basicConstraints=critical,CA:FALSE"] if authority else []
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}", "-days", "2",
                    "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem", *signer, *leaf, *extra], check=True, capture_output=True)


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    """A hulld with TLS. Its socket, too, is only named where ssh arrives."""
    if shutil.which("busybox") is None:
        pytest.skip("busybox is not installed")
    folder = tmp_path_factory.mktemp("remote")
    folder.chmod(0o755)
    certificate(folder, "ca")
    certificate(folder, "stranger")
    certificate(folder, "server", "ca", "-addext", "subjectAltName=IP:127.0.0.1")
    certificate(folder, "client", "ca")
    made = Manager(folder, "--tls", f"127.0.0.1:{PORT}", "--certificate", folder / "server.pem", "--key", folder / "server.key", "--client-ca", folder / "ca.pem")
    try:
        certificates = folder / "config/hull/certificates"
        certificates.mkdir(parents=True)
        for name in ("ca.pem", "client.pem", "client.key"):
            shutil.copy(folder / name, certificates)
        made.hull("image", "import", busybox_root(folder / "root.tar"), "--alias", "bb")
        made.remote = {**os.environ, "HULL_REMOTE": f"https://127.0.0.1:{PORT}", "XDG_CONFIG_HOME": str(folder / "config")}
        yield made
    finally:
        made.end()


def hull(manager, *words, environment=None, **options):
    """hull there, with HULL_REMOTE."""
    if "input" not in options:
        options["stdin"] = subprocess.DEVNULL
    return subprocess.run(manager.within(HULL, *words), env={**manager.remote, **(environment or {})}, capture_output=True, text=True, timeout=TIMEOUT, check=False, **options)


def good(done):
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def instance(manager, name, environment=None):
    good(hull(manager, "launch", "bb", name, "--memory", "64M", *NO_CARD, environment=environment))
    try:
        yield
    finally:
        good(hull(manager, "delete", "--force", name, environment=environment))


def test_tls(remote, tmp_path):
    """Verbs, sessions with streams, files and exit statuses."""
    with instance(remote, "web1"):
        assert "web1" in good(hull(remote, "list"))
        assert hull(remote, "exec", "web1", "--", "sh", "-c", "cat; exit 7", input="words\n").stdout == "words\n"
        assert hull(remote, "exec", "web1", "--", "sh", "-c", "exit 7").returncode == 7
        data = os.urandom(3 << 20)
        (tmp_path / "file").write_bytes(data)
        good(hull(remote, "push", tmp_path / "file", "web1:/root/file"))
        good(hull(remote, "pull", "web1:/root/file", tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == data
        good(hull(remote, "export", "web1", tmp_path / "web1.hull"))
        good(hull(remote, "import", tmp_path / "web1.hull", "web9"))
        good(hull(remote, "delete", "web9"))
        # More than all buffers hold, both ways at once.
        text = "0123456789abcdef" * (1 << 18)
        assert hull(remote, "exec", "web1", "--", "cat", input=text).stdout == text


def test_errors_of_tls(remote, tmp_path):
    def error(address=None, **files):
        folder = tmp_path / "-".join(files.values() or ["none"])
        folder.mkdir(exist_ok=True)
        for name, source in files.items():
            for end in ("pem", "key"):
                if (name, end) != ("ca", "key"):
                    shutil.copy(remote.folder / f"{source}.{end}", folder / f"{name}.{end}")
        environment = {"HULL_REMOTE_CERTIFICATES": str(folder)}
        if address:
            environment["HULL_REMOTE"] = address
        done = hull(remote, "list", environment=environment)
        assert done.returncode == 1 and done.stderr.startswith("hull: ") and done.stderr.count("\n") == 1, done
        return done.stderr

    assert "ca.pem" in error() and "client.key" in error()
    assert "certificate" in error(ca="stranger", client="client"), "of a hulld that nobody vouches for"
    assert "refuses" in error(ca="ca", client="stranger")
    assert "Connection refused" in error(f"https://127.0.0.1:{PORT + 1}", ca="ca", client="client")
    assert "certificate" in error(f"https://localhost:{PORT}", ca="ca", client="client"), "it is of another name"
    for address in ("hulld", "http://x", "https://", "https://-x", "https://a:0", "https://a:99999", "https://a/b", "https://u@a", "ssh://", "ssh://-oProxyCommand=x",
                    "ssh://@a", "ssh://a b", "https://[::1", "ssh://a:x", "https://a;b"):
        done = hull(remote, "list", environment={"HULL_REMOTE": address})
        assert done.returncode == 1 and "https://HOST[:PORT] or ssh://[USER@]HOST[:PORT]" in done.stderr, (address, done.stderr)


def test_ssh(remote, tmp_path):
    """What ssh is asked to run is `hull dial`, which meets that host's hulld."""
    (tmp_path / "ssh").write_text('#!/bin/sh\necho "$*" >> "$SSH_CALLS"\nwhile [ "$1" != -- ]; do shift; done; shift 2\n'
                                  f'test "$1" = hull && shift\nHULL_SOCKET={remote.socket} exec {HULL} "$@"\n')
    (tmp_path / "ssh").chmod(0o755)
    environment = {"HULL_REMOTE": "ssh://root@other:2222", "PATH": f"{tmp_path}:{os.environ['PATH']}", "SSH_CALLS": str(tmp_path / "calls")}
    with instance(remote, "web2", environment):
        text = "0123456789abcdef" * (1 << 17)
        assert hull(remote, "exec", "web2", "--", "cat", input=text, environment=environment).stdout == text
    assert "-p 2222 -- root@other hull dial" in (tmp_path / "calls").read_text()
    (tmp_path / "ssh").write_text("#!/bin/sh\necho Permission denied, please try again. >&2\nexit 255\n")
    done = hull(remote, "list", environment=environment)
    assert done.returncode == 1 and done.stderr == "hull: hulld at root@other: Permission denied, please try again.\n"
    (tmp_path / "ssh").write_text("#!/bin/sh\necho Welcome\n")
    assert "hull: hulld at root@other: Welcome" in hull(remote, "list", environment=environment).stderr
    (tmp_path / "ssh").unlink()
    (tmp_path / "nsenter").symlink_to(shutil.which("nsenter"))
    assert "ssh" in hull(remote, "list", environment={**environment, "PATH": str(tmp_path)}).stderr


def test_dial_says_why_it_cannot(tmp_path):
    done = subprocess.run([HULL, "dial"], env={**os.environ, "HULL_SOCKET": str(tmp_path / "none")}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=TIMEOUT, check=False)
    assert done.returncode == 1 and "HULL_SOCKET" in done.stdout
