"""Networks, pools and volumes by hulld's API: what is checked, who is in the way, and what is left behind. The contents of disks are tests/unit/manager/test_pool.c's."""
import os
import shutil
import subprocess

import pytest
from conftest import BUILD
from hulld import NEEDS_ROOT, Failure, Manager

pytestmark = NEEDS_ROOT


@pytest.fixture(scope="module", name="manager")
def make_manager(tmp_path_factory):
    """Without images."""
    if shutil.which("nft") is None or shutil.which("dnsmasq") is None:
        pytest.skip("needs nft and dnsmasq")
    made = Manager(tmp_path_factory.mktemp("storage"))
    try:
        yield made
    finally:
        made.end()


def refused(manager, status, word, method, path, body=None):
    """By the route, or by the worker (status None)."""
    try:
        ended = manager.wait(manager.ok(method, path, body))
    except Failure as failure:
        assert failure.status == status and word in failure.error["message"], failure
        return
    assert status is None and ended["status"] == "failed" and word in ended["error"]["message"], ended


def on_host(manager, *words):
    return subprocess.run(manager.within(*words), capture_output=True, text=True, check=True).stdout


def test_networks(manager):
    manager.do("POST", "/v1/networks", {"name": "lab", "config": {"ipv4": "10.99.1.1/24"}})
    assert "10.99.1.1/24" in on_host(manager, "ip", "addr", "show", "hull-lab")
    assert "hull_lab" in on_host(manager, "nft", "list", "tables")
    for status, word, body in (
            (409, "there is one", {"name": "lab"}), (400, "type", {"name": "x", "type": "tube"}), (400, "ipv4", {"name": "x", "config": {"ipv4": "10.1.2.0/24"}}),
            (400, "../x", {"name": "../x"}), (400, "colour", {"name": "x", "config": {"colour": "red"}}),
            (409, "has the bridge", {"name": "x", "config": {"bridge": "hull-lab"}}), (None, "nope", {"name": "x", "type": "bridge", "config": {"bridge": "nope"}}),
            (None, "overlaps", {"name": "x", "config": {"ipv4": "10.99.1.129/25"}})):
        refused(manager, status, word, "POST", "/v1/networks", body)
    assert {row["name"] for row in manager.get("/v1/networks")} == {"default", "lab"}
    assert not [path for path in (manager.state / "networks").glob("*") if path.name not in ("lab", "default", "lock")]
    # Two that choose their addresses themselves.
    manager.do("POST", "/v1/networks", {"name": "one"})
    manager.do("POST", "/v1/networks", {"name": "two", "config": {"ipv6": "auto"}})
    one, two = manager.get("/v1/networks/one"), manager.get("/v1/networks/two")
    assert one["config"]["ipv4"] != two["config"]["ipv4"] and two["config"]["ipv6"].startswith("fd"), (one, two)
    assert two["config"]["ipv6"] in on_host(manager, "ip", "addr", "show", "hull-two")
    # A change of addresses, and of the description, which needs nothing to be made anew.
    manager.do("PATCH", "/v1/networks/one", {"config": {"ipv4": "10.99.2.1/24"}})
    assert "10.99.2.1/24" in on_host(manager, "ip", "addr", "show", "hull-one")
    pid = (manager.state / "run/networks/one/dns/dnsmasq.pid").read_text()
    manager.do("PATCH", "/v1/networks/one", {"description": "changed"})
    assert manager.get("/v1/networks/one")["description"] == "changed"
    assert (manager.state / "run/networks/one/dns/dnsmasq.pid").read_text() == pid
    refused(manager, None, "overlaps", "PATCH", "/v1/networks/one", {"config": {"ipv4": "10.99.1.5/24"}})
    assert "10.99.2.1/24" in on_host(manager, "ip", "addr", "show", "hull-one")
    assert manager.get("/v1/networks/one")["config"]["ipv4"] == "10.99.2.1/24"
    refused(manager, 409, "profile default", "DELETE", "/v1/networks/default")
    refused(manager, 404, "none", "DELETE", "/v1/networks/lob")
    assert manager.get("/v1/networks/lab/leases") == []
    # One that somebody else has taken away is there again.
    on_host(manager, "nft", "flush", "ruleset")
    manager.do("POST", "/v1/networks/lab/up")
    assert "hull_lab" in on_host(manager, "nft", "list", "tables")
    for name in ("lab", "one", "two"):
        manager.do("DELETE", f"/v1/networks/{name}")
    assert "hull-" not in on_host(manager, "ip", "link").replace("hull-default", "")
    assert not [path for path in (manager.state / "networks").glob("*") if path.name not in ("default", "lock")]


def test_a_bridge_of_somebody_else(manager):
    """A nat network does not take it, as it would be removed with the network."""
    on_host(manager, "ip", "link", "add", "br7", "type", "bridge")
    refused(manager, None, "br7", "POST", "/v1/networks", {"name": "x", "config": {"bridge": "br7"}})
    manager.do("POST", "/v1/networks", {"name": "x", "type": "bridge", "config": {"bridge": "br7"}})
    manager.do("DELETE", "/v1/networks/x")
    assert "br7" in on_host(manager, "ip", "link")


def test_pools_and_volumes(manager):
    path = manager.folder / "fast"
    manager.do("POST", "/v1/pools", {"name": "fast", "config": {"path": str(path)}})
    seen = manager.get("/v1/pools/fast")
    assert seen["total_bytes"] > seen["free_bytes"] > 0 and (path / "pool.json").exists()
    for status, word, body in (
            (409, "there is one", {"name": "fast"}), (409, "in the way", {"name": "x", "config": {"path": f"{path}/x"}}),
            (409, "in the way", {"name": "x", "config": {"path": str(path.parent)}}), (400, "absolute", {"name": "x", "config": {"path": "relative"}}),
            (400, "driver", {"name": "x", "driver": "tape"}), (400, "../x", {"name": "../x"}), (None, "not empty", {"name": "x", "config": {"path": "/etc"}})):
        refused(manager, status, word, "POST", "/v1/pools", body)
    manager.do("POST", "/v1/volumes", {"name": "data", "size_bytes": 64 << 20})
    manager.do("POST", "/v1/volumes", {"pool": "fast", "name": "shared", "type": "tree"})
    for status, word, body in (
            (409, "there is one", {"name": "data", "size_bytes": 512}), (400, "size_bytes", {"name": "x"}), (400, "size_bytes", {"name": "x", "size_bytes": 1000}),
            (404, "none", {"pool": "slow", "name": "x", "size_bytes": 512}), (400, "../x", {"name": "../x", "size_bytes": 512}),
            (None, "cannot limit", {"name": "x", "type": "tree", "size_bytes": 1 << 20})):
        refused(manager, status, word, "POST", "/v1/volumes", body)
    assert manager.get("/v1/volumes/default/data")["size_bytes"] == 64 << 20
    assert [row["name"] for row in manager.get("/v1/volumes?pool=fast")] == ["fast/shared"]
    manager.do("PATCH", "/v1/volumes/default/data", {"size_bytes": 128 << 20})
    assert manager.get("/v1/volumes/default/data")["size_bytes"] == 128 << 20
    refused(manager, None, "larger", "PATCH", "/v1/volumes/default/data", {"size_bytes": 1 << 20})
    refused(manager, 400, "size_bytes or pool", "PATCH", "/v1/volumes/default/data", {})
    # There and back again.
    (path / "trees/volumes/shared/file").write_text("kept")
    disk = next(manager.state.glob("pools/default/layers/*.raw"))
    with open(disk, "r+b") as file:
        file.seek(5 << 20)
        file.write(b"kept")
    manager.do("PATCH", "/v1/volumes/default/data", {"pool": "fast"})
    manager.do("PATCH", "/v1/volumes/fast/shared", {"pool": "default"})
    assert {row["name"] for row in manager.get("/v1/volumes")} == {"default/shared", "fast/data"}
    assert (manager.state / "pools/default/trees/volumes/shared/file").read_text() == "kept"
    assert not disk.exists() and not list((path / "trees").iterdir())
    moved = next((path / "layers").glob("*.raw"))
    with open(moved, "rb") as file:
        file.seek(5 << 20)
        assert file.read(5) == b"kept\0"
    assert moved.stat().st_size == 128 << 20 and moved.stat().st_blocks < 4096
    # In use.
    refused(manager, 409, "fast/data", "DELETE", "/v1/pools/fast")
    refused(manager, 409, "profile default", "DELETE", "/v1/pools/default")
    manager.ok("POST", "/v1/profiles", {"name": "p1", "devices": {"d": {"type": "disk", "pool": "fast", "source": "data"}}})
    assert manager.get("/v1/volumes/fast/data")["used_by"] == ["profile p1"]
    refused(manager, 409, "profile p1", "DELETE", "/v1/volumes/fast/data")
    refused(manager, 409, "profile p1", "PATCH", "/v1/volumes/fast/data", {"pool": "default"})
    manager.ok("DELETE", "/v1/profiles/p1")
    # The pool's file system is gone.
    path.rename(manager.folder / "away")
    assert "is not there" in manager.get("/v1/pools/fast")["problem"]
    refused(manager, None, "is not there", "POST", "/v1/volumes", {"pool": "fast", "name": "x", "size_bytes": 512})
    (manager.folder / "away").rename(path)
    (path / "layers/nobody-1.qcow2").write_text("left by a worker that was killed")
    assert manager.do("POST", "/v1/pools/fast/check")["result"] == {"removed": ["nobody-1.qcow2"]}
    for volume in ("fast/data", "default/shared"):
        manager.do("DELETE", f"/v1/volumes/{volume}")
    manager.do("DELETE", "/v1/pools/fast")
    assert not path.exists()


def can_mount(kind, folder):
    """A file system of that kind in a file, mounted on a new folder; False: not on this host."""
    if shutil.which(f"mkfs.{kind}") is None:
        return False
    image = folder / f"{kind}.img"
    with open(image, "wb") as file:
        file.truncate(400 << 20)
    where = folder / kind
    where.mkdir()
    return all(subprocess.run(words, capture_output=True, check=False).returncode == 0
               for words in ((f"mkfs.{kind}", "-q", image), ("mount", "-o", "loop", image, where)))


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_copies_by_reference(kind, tmp_path):
    """The unit tests of pools, where the file system shares blocks; they choose it by themselves."""
    test = BUILD / "tests/unit/manager/test_manager_pool"
    if not test.exists() or not can_mount(kind, tmp_path):
        pytest.skip(f"no {kind} in a file on this host")
    try:
        done = subprocess.run([test], env={**os.environ, "HULL_TEST_POOL": str(tmp_path / kind)}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        if kind == "btrfs":
            done = subprocess.run([test], env={**os.environ, "HULL_TEST_POOL": str(tmp_path / kind), "HULL_TEST_POOL_DRIVER": "btrfs"}, capture_output=True,
                                  text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
    finally:
        subprocess.run(["umount", tmp_path / kind], check=True)
