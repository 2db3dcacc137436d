"""Every route of hulld's API by a client made from its description: what it does on real objects, and what it says to those who ask wrongly."""
import contextlib
import contextlib
import json
import tarfile
import tarfile

import pytest
from api_client import Client, broken, made
from hulld import NEEDS_ROOT, Failure, busybox_root, manager, until  # noqa: F401 (a fixture)

pytestmark = NEEDS_ROOT
NO_CARD = {"eth0": {"type": "none"}}
UNKNOWN = "no-such-one"
NO_OPERATION = "0" * 32


@pytest.fixture(name="client", scope="module")
def fixture_client(manager):
    return Client(manager)


@pytest.fixture(name="objects", scope="module")
def fixture_objects(client, manager):
    """One of each kind, and their names as the words of paths."""
    def do(operation):
        ended = manager.wait(operation)
        assert ended["status"] == "done", ended
    client.createProfile(body={"name": "prof"})
    do(client.createNetwork(body={"name": "net1", "config": {"ipv4": "10.88.1.1/24"}}))
    do(client.createPool(body={"name": "pool1", "config": {"path": str(manager.folder / "pool1")}}))
    do(client.createVolume(body={"name": "vol1", "size_bytes": 1 << 20}))
    do(client.createInstance(body={"name": "inst1", "kind": "container", "image": "bb", "devices": NO_CARD}))
    do(client.createSnapshot(name="inst1", body={"name": "snap1"}))
    client.putAlias(name="other", body={"image": "bb"})
    do(client.createTemplate(body={"instance": "inst1", "name": "golden"}))
    yield {"templates": {"name": "golden"}, "imports": {}, "instances": {"name": "inst1", "snapshot": "snap1"}, "profiles": {"name": "prof"}, "networks": {"name": "net1"}, "pools": {"name": "pool1"},
           "volumes": {"pool": "default", "name": "vol1"}, "images": {"name": "bb"}, "aliases": {"name": "other"},
           "operations": {"id": client.listOperations()[0]["name"]}, "system": {}, "schemas": {}, "openapi.json": {}, "metrics": {}, "events": {}}
    do(client.deleteTemplate(name="golden"))
    do(client.deleteInstance(name="inst1", query={"force": "true"}))
    do(client.deleteVolume(pool="default", name="vol1"))
    do(client.deletePool(name="pool1"))
    do(client.deleteNetwork(name="net1"))
    client.deleteProfile(name="prof")
    client.deleteAlias(name="other")


def area(route):
    return route.path.split("/")[2]


def words_of(route, objects):
    return {name: objects[area(route)][name] for name in route.words}


def everything(manager):
    """What there is, without what changes by itself."""
    return {what: sorted(row["name"] for row in manager.get(f"/v1/{what}")) for what in ("instances", "profiles", "networks", "pools", "volumes", "images", "aliases", "templates")}


def test_every_route(manager, tmp_path):
    """From the first to the last in an order in which each has something to do; none is left out."""
    client = Client(manager)

    def do(operation_id, words=None, /, query=None, **values):
        """A call whose operation has to succeed."""
        route = client.route(operation_id)
        answer = client.call(route, words or {}, query, made(route, **values) if route.body is not None else None)
        if not route.is_operation:
            return answer
        ended = manager.wait(answer)
        assert ended["status"] == "done", ended
        assert client.getOperation(id=answer["name"])["status"] == "done"
        return ended

    def session(name, request, words):
        """The frames of a session, until it ends or has said something."""
        with client.call(client.route(name), words, {"request": json.dumps(request)}) as opened:
            frames = []
            while not frames or frames[-1][1][:1] == b"\3" and b"started" in frames[-1][1]:
                frames.append(opened.receive())
            return frames

    assert do("getSystem")["pid"] == manager.process.pid
    assert do("getOpenapi") == client.document
    assert "hull_resident_memory_bytes" in do("getMetrics")
    assert do("getInstanceSchema")["type"] == "object"
    events = client.listenEvents(query={"type": "instance"})

    p1 = {"name": "p1"}
    assert do("createProfile", name="p1", config={"memory": "64M"})["name"] == "p1"
    assert "p1" in {row["name"] for row in do("listProfiles")}
    assert do("putProfile", p1, config={"memory": "48M"}) == do("getProfile", p1)

    lab = {"name": "lab"}
    do("createNetwork", name="lab", type="nat", config={"ipv4": "10.88.2.1/24"})
    assert "lab" in {row["name"] for row in do("listNetworks")}
    do("changeNetwork", lab, description="changed")
    assert do("getNetwork", lab)["description"] == "changed"
    do("upNetwork", lab)
    assert do("listLeases", lab) == []

    fast = {"name": "fast"}
    do("createPool", name="fast", driver="dir", config={"path": str(tmp_path / "fast")})
    assert "fast" in {row["name"] for row in do("listPools")}
    assert do("changePool", fast, description="changed")["description"] == "changed"
    assert do("getPool", fast)["total_bytes"] > 0
    do("checkPool", fast)
    data = {"pool": "fast", "name": "data"}
    do("createVolume", size_bytes=1 << 20, type="block", **data)
    assert [row["name"] for row in do("listVolumes", query={"pool": "fast"})] == ["fast/data"]
    do("changeVolume", data, size_bytes=2 << 20)
    assert do("getVolume", data)["size_bytes"] == 2 << 20

    digest = do("createImage", source="import", path=str(other_root(tmp_path)), alias="small")["result"]["digest"]
    small = {"name": "small"}
    assert digest in {row["name"] for row in do("listImages")}
    assert do("getImage", small)["name"] == digest
    do("checkImage", small)
    do("exportImage", small, path=str(tmp_path / "out.tar"), format="tar")
    assert (tmp_path / "out.tar").stat().st_size > 0
    do("putAlias", {"name": "tiny"}, image="small")
    assert do("getAlias", {"name": "tiny"}) == {"name": "tiny", "digest": digest}
    assert {"small", "tiny"} <= {row["name"] for row in do("listAliases")}

    web = {"name": "web"}
    do("createInstance", name="web", kind="container", image="small", profiles=["default", "p1"], devices=NO_CARD, start=True)
    assert client.getInstance(name="web")["status"] == "running"
    assert json.loads(events.receive()[1])["type"].startswith("instance")
    events.socket.close()
    for query in (None, {"full": "true"}):
        assert "web" in {row["name"] for row in do("listInstances", query=query)}
    do("patchInstance", web, description="changed")
    assert do("getInstance", web)["description"] == "changed"
    do("putInstance", web, profiles=["default"], config={"memory": "32M"}, devices=NO_CARD)
    assert do("getInstance", web)["profiles"] == ["default"]
    assert isinstance(do("getInstanceLogs", web, query={"lines": "5"}), str)
    assert session("execInInstance", {"command": ["echo", "said"]}, web)[-1] == (2, b"\1said\n")
    assert session("pullFiles", {"path": "/etc/passwd"}, web)[-1][1][:1] == b"\1"
    for name in ("openConsole", "followInstanceLogs", "pushFiles"):
        client.call(client.route(name), web, {"request": '{"path":"/tmp"}' if name == "pushFiles" else "{}"}).socket.close()
    do("createSnapshot", web, name="s1")
    assert [row["name"] for row in do("listSnapshots", web)] == ["s1"]
    for operation, said in ((client.exportInstance(name="web", body={"compress": "none"}), b"\1"), (client.importInstance(body={"name": "other"}), None)):
        def stream(operation=operation):
            with contextlib.suppress(Failure):  # its worker is not there yet
                return client.call(client.route("openOperationStream"), {"id": operation["name"]}, None)

        with until(stream, "the operation's stream") as opened:
            while said is not None and opened.receive()[1][:1] != said:
                pass
        assert manager.wait(operation)["status"] in ("done", "failed")  # its client has gone
    do("actOnInstance", web, action="stop", force=True)
    do("createTemplate", instance="web", name="golden")
    assert "golden" in {row["name"] for row in do("listTemplates")}
    assert do("getTemplate", {"name": "golden"})["from"] == "web"
    do("deleteTemplate", {"name": "golden"})
    do("restoreSnapshot", {**web, "snapshot": "s1"})
    do("cloneInstance", web, name="copy")
    ended = do("checkSystem")
    assert ended["result"] == {"problems": []}
    for _ in range(100):  # one that has not ended yet
        operation = client.actOnInstance(name="web", body={"action": "start"})
        with contextlib.suppress(Failure):
            client.cancelOperation(id=operation["name"])
        manager.wait(operation)
        if "cancelOperation" in client.called:
            break
        do("actOnInstance", web, action="stop", force=True)
    assert do("countSpace")["result"]["total_bytes"] > 0
    assert len(do("listOperations")) > 20

    for name in ("copy", "web"):
        do("deleteSnapshot", {"name": name, "snapshot": "s1"}) if name == "web" else None
        do("deleteInstance", {"name": name}, query={"force": "true"})
    do("deleteAlias", {"name": "tiny"})
    do("deleteImage", small)
    do("pruneImages")
    assert digest not in {row["name"] for row in do("listImages")}
    do("deleteVolume", data)
    do("deletePool", fast)
    do("deleteNetwork", lab)
    do("deleteProfile", p1)
    assert {route.id for route in client.routes} == client.called


def other_root(folder):
    """The tar of another image than "bb"."""
    path = busybox_root(folder / "other.tar")
    (folder / "more").write_text("different")
    with tarfile.open(path, "a") as tar:
        tar.add(folder / "more", "./etc/more")
    return path


def test_unknown_names(client, objects, manager):
    """404 for each word of each path, and nothing happens."""
    before, tried = everything(manager), 0
    for route in client.routes:
        for word in route.words:
            words = {**words_of(route, objects), word: NO_OPERATION if area(route) == "operations" else UNKNOWN}
            body = acceptable(route, objects)
            if (route.id, word) == ("putAlias", "name"):  # it makes one; what has to be there is the image
                words, body = {"name": "new"}, {"image": UNKNOWN}
            if route.is_socket:
                with pytest.raises(Failure) as caught:
                    client.call(route, words, {"request": "{}"} if route.query else None)
                assert caught.value.status == 404, route.id
            else:
                status, answer = client.send(route, words, None, body)
                if word == "snapshot" and status == 202:  # it might have been about to be made
                    ended = manager.wait(answer)
                    assert ended["status"] == "failed", ended
                    status, answer = 404, ended
                assert status == 404 and answer["error"]["code"] == "not-found" and answer["error"]["message"], (route.id, word, status, answer)
            tried += 1
    assert tried > 30 and everything(manager) == before


def acceptable(route, objects):
    """A body that breaks no rule."""
    if route.body is None:
        return None
    values = {"createInstance": {"image": "bb"}, "cloneInstance": {"name": "new"}, "putAlias": {"image": "bb"}, "exportImage": {"path": "/nowhere/x.tar"},
              "createVolume": {"size_bytes": 1 << 20}, "changeVolume": {"size_bytes": 1 << 21}}.get(route.id, {})
    return made(route, **values)


def test_broken_bodies(client, objects, manager):
    """400 for each way in which a schema can be broken, and nothing happens."""
    before, tried = everything(manager), 0
    for route in client.routes:
        if route.body is None:
            continue
        for how, body in broken(route, acceptable(route, objects)):
            status, answer = client.send(route, words_of(route, objects), None, body)
            assert (status, answer["error"]["code"]) == (400, "invalid"), (route.id, how, status, answer)
            tried += 1
    assert tried > 200 and everything(manager) == before


def test_bodies_queries_and_methods_that_are_not_there(client, objects, manager):
    """Each is refused in words."""
    before = everything(manager)
    by_path = {}
    for route in client.routes:
        by_path.setdefault(route.path, []).append(route)
        if route.is_socket:
            continue
        words = words_of(route, objects)
        body = acceptable(route, objects)
        status, answer = client.send(route, words, {"nonsense": "1"}, body)
        assert (status, answer["error"]["code"]) == (400, "invalid"), (route.id, answer)
        if "wait" in route.query:
            for wait in ("x", "-1", "", "99999999999999999999"):
                status, answer = client.send(route, words, {"wait": wait}, body)
                assert status == 400, (route.id, wait, answer)
    for path, routes in by_path.items():
        address = routes[0].address(words_of(routes[0], objects), None)
        others = {"POST", "PUT", "PATCH", "DELETE"} - {route.method for route in routes}
        for method in others if path != "/v1/images/prune" else ():  # that may be the name of an image
            status, headers, answer = manager.call(method, address, {})
            assert (status, answer["error"]["code"]) == (405, "method-not-allowed"), (method, path)
            assert set(headers["Allow"].split(", ")) - {"HEAD"} == {route.method for route in routes}, (method, path)
    assert everything(manager) == before


def test_names_that_are_none(client, objects, manager):
    """Names of new objects: too long, with slashes, dots, control characters, of no characters."""
    before = everything(manager)
    for name in ("", ".", "..", "../x", "a/b", "a b", "-a", "a\n", "a\x7f", "x" * 65, "x" * 5000, "\u00e4", "a'b", "a%b", "$(x)"):
        for route in (client.route(id) for id in ("createProfile", "createNetwork", "createPool", "createVolume", "createInstance", "createSnapshot",
                                                  "cloneInstance")):
            body = {**(acceptable(route, objects)), "name": name}
            status, answer = client.send(route, words_of(route, objects), None, body)
            assert status == 400, (route.id, name, answer)
        if name not in ("a/b", "x" * 65):  # aliases may be debian/12, and longer
            status, answer = client.send(client.route("putAlias"), {"name": name}, None, {"image": "bb"})
            assert status in ((404, 405) if name in ("", ".", "..", "../x") else (400,)), (name, answer)
    assert everything(manager) == before
