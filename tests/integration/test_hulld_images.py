"""Images of hulld: built, imported, exported, named, checked and removed."""
import gzip
import hashlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

import pytest
from conftest import HULL
from hulld import NEEDS_ROOT, Failure, Manager, busybox_root, manager, quoted, until  # noqa: F401 (a fixture)

pytestmark = NEEDS_ROOT


def image(manager, name):
    return manager.get(f"/v1/images/{quoted(name)}")


def imported(manager, **what):
    """The digest of what the body describes."""
    return manager.do("POST", "/v1/images", {"source": "import", **what})["result"]["digest"]


def refusal(manager, method, path, body=None):
    """Why the operation failed."""
    ended = manager.wait(manager.ok(method, path, body))
    assert ended["status"] == "failed", ended
    return ended["error"]


@pytest.fixture(name="disk", scope="module")
def disk_fixture(tmp_path_factory):
    path = tmp_path_factory.mktemp("disk") / "disk.raw"
    with open(path, "wb") as file:
        file.truncate(8 << 20)
        for at in range(0, 8 << 20, 1 << 20):
            file.seek(at)
            file.write(bytes(str(at), "ascii") * 100)
    return path


def test_container_form(manager, tmp_path):
    first = image(manager, "bb")
    assert first["forms"] == ["container"] and first["aliases"] == ["bb"] and first["used_by"] == [] and first["size_bytes"] > 100000
    assert image(manager, first["name"]) == image(manager, first["name"][7:15]) == first
    # What is exported is the same image when it comes back.
    path = tmp_path / "bb.tar.zst"
    manager.do("POST", "/v1/images/bb/export", {"path": str(path)})
    assert imported(manager, path=str(path), alias="again/1") == first["name"]
    assert image(manager, "again/1")["aliases"] == ["again/1", "bb"]
    assert refusal(manager, "POST", "/v1/images/bb/export", {"path": str(path)})["code"] == "exists"
    assert not list(tmp_path.glob("*.part"))
    assert manager.do("POST", "/v1/images/bb/check")["result"]["checked"] == ["container"]
    manager.ok("DELETE", f"/v1/aliases/{quoted('again/1')}")
    assert image(manager, "bb")["aliases"] == ["bb"]


def test_aliases(manager):
    digest = image(manager, "bb")["name"]
    assert manager.ok("PUT", f"/v1/aliases/{quoted('my/own')}", {"image": digest[7:20]}) == {"name": "my/own", "digest": digest}
    assert {row["name"] for row in manager.get("/v1/aliases")} == {"bb", "my/own"}
    for wrong in ("a b", "a/..", "sha256-1"):
        with pytest.raises(Failure, match="alias"):
            manager.ok("PUT", f"/v1/aliases/{quoted(wrong)}", {"image": "bb"})
    with pytest.raises(Failure, match="there is none"):
        manager.ok("PUT", "/v1/aliases/other", {"image": "nothing"})
    manager.ok("DELETE", f"/v1/aliases/{quoted('my/own')}")
    with pytest.raises(Failure):
        manager.ok("DELETE", f"/v1/aliases/{quoted('my/own')}")


@pytest.mark.parametrize("kind", ["raw", "qcow2", "vmdk", "vhdx"])
def test_disks(manager, disk, tmp_path, kind):
    source = tmp_path / f"source.{kind}"
    subprocess.run([HULL, "disk", "convert", "-q", disk, source], check=True)
    digest = imported(manager, path=str(source), alias=f"disk/{kind}")
    vm = image(manager, digest)["vm"]
    assert vm["format"] == "qcow2" and vm["virtual_size_bytes"] == 8 << 20 and vm["kernel"] == ""
    folder = manager.state / "images" / digest
    assert manager.do("POST", f"/v1/images/{digest}/check")["result"]["checked"] == ["vm"]
    back = tmp_path / f"back.{kind}"
    manager.do("POST", f"/v1/images/{digest}/export", {"path": str(back), "format": kind})
    subprocess.run([HULL, "disk", "compare", back, disk], check=True, stdout=subprocess.DEVNULL)
    # The same disk is the same image; one with a kernel is another.
    assert imported(manager, path=str(source)) == digest
    other = imported(manager, path=str(source), kernel=str(disk), append="root=/dev/vda")
    assert other != digest and image(manager, other)["vm"]["kernel"] == "vmlinuz"
    # Somebody writes to it.
    with open(folder / "disk.qcow2", "r+b") as file:
        file.seek(70000)
        file.write(b"changed")
    assert "disk.qcow2 was changed" in refusal(manager, "POST", f"/v1/images/{digest}/check")["message"]
    assert "disk.qcow2 was changed" in refusal(manager, "POST", f"/v1/images/{digest}/export", {"path": str(tmp_path / "no")})["message"]
    manager.do("DELETE", f"/v1/images/{digest}")
    manager.do("DELETE", f"/v1/images/{other}")
    assert not folder.exists()


def test_what_is_no_disk(manager, tmp_path):
    path = tmp_path / "file"
    path.write_text("a secret of the host's\n" * 100)
    assert "format raw" in refusal(manager, "POST", "/v1/images", {"source": "import", "path": str(path)})["message"]
    # An image that stands on a file of the host's does not show it.
    overlay = tmp_path / "overlay.qcow2"
    subprocess.run([HULL, "disk", "create", "--backing", path, "--backing-format", "raw", overlay], check=True, stdout=subprocess.DEVNULL)
    refusal(manager, "POST", "/v1/images", {"source": "import", "path": str(overlay)})
    for url in ("file:///etc/passwd", "--help", "dir:/etc"):
        assert "docker://" in refusal(manager, "POST", "/v1/images", {"source": "import", "url": url})["message"]
    assert not list((manager.state / "images").glob(".build-*"))


class Layout:
    """An OCI image layout."""

    def __init__(self, folder):
        self.folder, self.layers, self.contents = folder, [], []
        (folder / "blobs/sha256").mkdir(parents=True)

    def blob(self, data, kind):
        digest = hashlib.sha256(data).hexdigest()
        (self.folder / "blobs/sha256" / digest).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

    def layer(self, *entries):
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name, what in entries:
                info = tarfile.TarInfo(name)
                info.mtime = 1000
                if what is None:
                    info.type, info.mode = tarfile.DIRTYPE, 0o755
                elif isinstance(what, str):
                    info.type, info.linkname = tarfile.SYMTYPE, what
                else:
                    info.size, info.mode = len(what), 0o755
                archive.addfile(info, io.BytesIO(what if isinstance(what, bytes) else b""))
        self.contents.append(hashlib.sha256(data.getvalue()).hexdigest())
        self.layers.append(self.blob(gzip.compress(data.getvalue(), mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip"))

    def finish(self):
        config = self.blob(json.dumps({"architecture": "amd64", "os": "linux", "config": {},
                                       "rootfs": {"type": "layers", "diff_ids": [f"sha256:{c}" for c in self.contents]}}).encode(),
                           "application/vnd.oci.image.config.v1+json")
        manifest = self.blob(json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config,
                                         "layers": self.layers}).encode(), "application/vnd.oci.image.manifest.v1+json")
        (self.folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
        (self.folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        return str(self.folder)


def test_oci(manager, tmp_path):
    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is not installed")
    layout = Layout(tmp_path / "layout")
    layout.layer(("etc", None), ("etc/os-release", b"ID=own\nVERSION_ID='7'\n"), ("usr/lib", None), ("lib", "usr/lib"), ("out", "/usr/lib"), ("etc/gone", b"x"))
    layout.layer(("etc/.wh.gone", b""), ("lib/file", b"by a link"), ("out/of-this-test", b"within"))
    digest = imported(manager, path=layout.finish(), alias="own")
    assert image(manager, "own")["os"] == {"id": "own", "version": "7"}
    root = manager.state / "templates" / digest / "root"
    assert (root / "usr/lib/file").read_text() == "by a link"
    assert (root / "usr/lib/of-this-test").read_text() == "within"
    assert not (root / "etc/gone").exists() and not os.path.exists("/usr/lib/of-this-test")

    bad = Layout(tmp_path / "bad")
    bad.layer(("../../escaped", b"x"))
    assert "'..'" in refusal(manager, "POST", "/v1/images", {"source": "import", "path": bad.finish()})["message"]
    assert not list(manager.state.rglob("escaped"))


def test_registry(tmp_path):
    """docker://: an image of a registry, which starts as a container. The registry serves without TLS, as its users' configuration says."""
    if shutil.which("skopeo") is None or shutil.which("busybox") is None:
        pytest.skip("skopeo or busybox is not installed")
    layout = Layout(tmp_path / "layout")
    with open(shutil.which("busybox"), "rb") as file:
        layout.layer(*((name, None) for name in ("bin", "sbin", "dev", "proc", "sys", "tmp", "etc", "run", "root", "var")), ("bin/busybox", file.read()),
                     ("bin/sh", "busybox"), ("bin/cat", "busybox"), ("sbin/init", "../bin/busybox"), ("etc/inittab", b"::sysinit:/bin/true\n"))
    layout.layer(("etc/from", b"a registry\n"))
    layout.finish()
    (tmp_path / "hulld").mkdir()
    manager = Manager(tmp_path / "hulld")
    registry = subprocess.Popen(manager.within(sys.executable, pathlib.Path(__file__).with_name("oci_registry.py"), layout.folder), stdout=subprocess.PIPE, text=True)
    try:
        where = f"127.0.0.1:{registry.stdout.readline().strip()}"
        (tmp_path / ".config/containers").mkdir(parents=True)
        (tmp_path / ".config/containers/registries.conf").write_text(f'[[registry]]\nlocation = "{where}"\ninsecure = true\n')
        manager.environment["HOME"] = str(tmp_path)
        manager.restart()
        manager.hull("image", "import", f"docker://{where}/own", "--alias", "own")
        manager.hull("launch", "own", "web1", "--memory", "64M", "--set", "eth0.type=none")
        assert manager.hull("exec", "web1", "--", "cat", "/etc/from").stdout == "a registry\n"
        missing = manager.hull("image", "import", f"docker://{where}/none", check=False)
        assert missing.returncode == 1 and "manifest unknown" in missing.stderr and "level=" not in missing.stderr, missing.stderr
    finally:
        registry.kill()
        registry.wait()
        manager.end()


def test_prune_and_delete(manager, disk, tmp_path):
    kept = image(manager, "bb")["name"]
    manager.ok("PUT", "/v1/aliases/for-a-time", {"image": imported(manager, path=str(disk))})
    digest = image(manager, "for-a-time")["name"]
    leftover = manager.state / "images/.build-0123456789abcdef"
    leftover.mkdir(parents=True, exist_ok=True)
    # What a worker leaves that dies before it tells of its image, and that nobody follows.
    manager.hull("ct", "template", "build", "building-0123", "--variant", "busybox", "--state", manager.state)
    manager.do("POST", "/v1/images/prune")
    assert image(manager, "for-a-time")["name"] == digest and not leftover.exists()
    assert "building-0123" not in {path.name for path in (manager.state / "templates/names").iterdir()}
    assert manager.do("POST", "/v1/images/bb/check")
    manager.ok("DELETE", "/v1/aliases/for-a-time")
    assert digest in manager.do("POST", "/v1/images/prune")["result"]["removed"]
    assert {row["name"] for row in manager.get("/v1/images")} >= {kept} and not (manager.state / "images" / digest).exists()


def test_used(manager, tmp_path):
    root = busybox_root(tmp_path / "used.tar")
    digest = imported(manager, path=str(root), alias="used")
    folder = manager.state / "instances/somebody"
    folder.mkdir(parents=True)
    (folder / "instance.yaml").write_text(f"name: somebody\nimage_digest: {digest}\n")
    error = refusal(manager, "DELETE", "/v1/images/used")
    assert error["code"] == "busy" and "somebody" in error["message"]
    shutil.rmtree(folder)
    manager.do("DELETE", "/v1/images/used")
    with pytest.raises(Failure, match="there is none"):
        image(manager, "used")
    assert not (manager.state / "templates" / digest).exists()


def test_refused(manager):
    for body, why in (({"source": "build", "distribution": "fedora/40"}, "debian/12"), ({"source": "import"}, "path"), ({"source": "import", "path": "relative"}, "path"),
                      ({"source": "build", "distribution": "debian/12", "alias": "../x"}, "alias"), ({"source": "other"}, "source")):
        with pytest.raises(Failure, match=why):
            manager.ok("POST", "/v1/images", body)


class OnHost(Manager):
    """In the network of the host."""

    def within(self, *words):
        return ["nsenter", "--mount", "-t", str(self.holder.pid), *map(str, words)]


def reachable():
    return shutil.which("mmdebstrap") is not None and subprocess.run(["apt-cache", "show", "linux-image-cloud-amd64"], stdout=subprocess.DEVNULL,
                                                                     stderr=subprocess.DEVNULL, check=False).returncode == 0


def test_build(tmp_path):
    """A real one, with its form for VMs; needs the archive."""
    if not reachable():
        pytest.skip("mmdebstrap is not installed, or apt knows no kernel for clouds")
    state = tmp_path / "state"
    made = OnHost(tmp_path)
    try:
        ended = made.wait(made.ok("POST", "/v1/images", {"source": "build", "distribution": "debian/12", "forms": ["container", "vm"]}))
        if ended["status"] == "failed" and "mmdebstrap failed" in ended["error"]["message"]:
            pytest.skip(f"the archive is not reachable: {ended['error']['message']}")
        assert ended["status"] == "done", ended
        found = image(made, "debian/12")
        assert found["os"]["codename"] == "bookworm" and found["forms"] == ["container", "vm"]
        folder = state / "images" / found["name"]
        root = state / "templates" / found["name"] / "root"
        assert os.readlink(root / "etc/systemd/system/systemd-udevd.service") == "/dev/null"
        vm = found["vm"]
        console = tmp_path / "console"
        with open(console, "wb") as output:
            boot = subprocess.Popen([HULL, "boot", "--engine", "soft", "--memory", "512", "--kernel", folder / vm["kernel"], "--initrd", folder / vm["initrd"],
                                     "--disk", f"{folder / vm['disk']},format=qcow2,snapshot=on", "--console-device", "virtio", "--append", vm["append"],
                                     "--timeout", "300"], stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT)
            try:
                until(lambda: b"login:" in console.read_bytes() or boot.poll() is not None, "a login")
                assert b"login:" in console.read_bytes(), console.read_text(errors="replace")[-2000:]
            finally:
                boot.kill()
                boot.wait()
        assert made.do("POST", f"/v1/images/{found['name']}/check")["result"]["checked"] == ["container", "vm"]
    finally:
        made.end()
