"""Two clients that want different things of one object at the same moment: each is told what became of it, and the object is whole."""
import threading

import pytest
from hulld import NEEDS_ROOT, Failure, manager  # noqa: F401 (a fixture)

pytestmark = NEEDS_ROOT
NO_CARD = {"eth0": {"type": "none"}}
ROUNDS = 4
CODES = ("not-found", "busy", "exists", "invalid")  # errors that say what the other one did


def made(manager, name="one", start=False):
    manager.do("POST", "/v1/instances", {"name": name, "kind": "container", "image": "bb", "devices": NO_CARD, "start": start})


def together(manager, *requests):
    """Asks all at once. What became of each: None, or its error."""
    begin, ends = threading.Barrier(len(requests)), [None] * len(requests)

    def ask(number, request):
        begin.wait()
        try:
            answer = manager.ok(*request)
            if "resources" in answer:
                ended = manager.wait(answer)
                assert ended["status"] in ("done", "failed"), ended
                ends[number] = ended.get("error")
        except Failure as failure:
            ends[number] = failure.error
        except Exception as error:  # pylint: disable=broad-except
            ends[number] = {"code": "test", "message": repr(error)}
    threads = [threading.Thread(target=ask, args=each) for each in enumerate(requests)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for request, end in zip(requests, ends):
        assert end is None or end["code"] in CODES and end["message"], (request, end)
    return ends


@pytest.fixture(autouse=True)
def fixture_clean(manager):
    yield
    manager.hull("delete", "--force", "--all", check=False)


def cleaned(manager):
    """Nothing is wrong, and what is there can be deleted."""
    found = manager.hull("system", "check", check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    for row in manager.get("/v1/instances"):
        assert row["status"] in ("running", "stopped"), row
        manager.do("DELETE", f"/v1/instances/{row['name']}?force=true")
    assert manager.names() == set() and not list((manager.state / "instances").iterdir())


DELETE = ("DELETE", "/v1/instances/one?force=true")
ACT = "/v1/instances/one/actions"


@pytest.mark.parametrize("other", [("POST", ACT, {"action": "start"}), ("POST", "/v1/instances/one/snapshots", {"name": "s"}),
                                   ("POST", "/v1/instances/one/clone", {"name": "two"}),
                                   ("PATCH", "/v1/instances/one", {"config": {"memory": "48M"}}), DELETE], ids=("start", "snapshot", "clone", "config", "delete"))
def test_something_and_delete(manager, other):
    """It is gone in the end, whoever was first."""
    for turn in range(ROUNDS):
        made(manager)
        ends = together(manager, *((other, DELETE) if turn % 2 else (DELETE, other)))
        assert "one" not in manager.names(), ends
        assert None in ends
        if other[1].endswith("clone") and "two" in manager.names():
            manager.do("POST", "/v1/instances/two/actions", {"action": "start"})
        cleaned(manager)


def test_two_configurations(manager):
    """Both hold; where they are of the same key it has one of the values, in all places."""
    made(manager, start=True)
    for turn in range(ROUNDS):
        ends = together(manager, ("PATCH", "/v1/instances/one", {"config": {"memory": f"{40 + turn}M"}}),
                        ("PATCH", "/v1/instances/one", {"config": {"cpus": str(turn % 2 + 1)}}))
        assert ends == [None, None]
        assert manager.get("/v1/instances/one")["config"] == {"memory": f"{40 + turn}M", "cpus": str(turn % 2 + 1)}
        assert together(manager, *(("PATCH", "/v1/instances/one", {"config": {"memory": f"{size}M"}}) for size in (50, 60))) == [None, None]
        memory = manager.get("/v1/instances/one")["config"]["memory"]
        assert memory in ("50M", "60M")
        assert f"memory: {memory}" in (manager.state / "instances/one/instance.yaml").read_text()
        assert manager.json("list")[0]["memory_bytes"] == int(memory[:-1]) << 20
    cleaned(manager)


def test_the_same_name(manager):
    """One makes it, the other is told that it is there."""
    body = {"name": "one", "kind": "container", "image": "bb", "devices": NO_CARD}
    for request in (("POST", "/v1/instances", body), ("POST", "/v1/profiles", {"name": "one"}), ("POST", "/v1/volumes", {"name": "one", "size_bytes": 1 << 20}),
                    ("POST", "/v1/pools", {}), ("POST", "/v1/networks", {"name": "one"})):
        if request[1] == "/v1/pools":  # at places of their own
            ends = together(manager, *(("POST", "/v1/pools", {"name": "one", "config": {"path": str(manager.folder / f"one{number}")}}) for number in range(3)))
            assert len(list(manager.folder.glob("one?"))) == 1
        else:
            ends = together(manager, request, request, request)
        assert ends.count(None) == 1 and all(end is None or end["code"] in ("exists", "busy") for end in ends), (request, ends)
    for path in ("profiles/one", "volumes/default/one", "pools/one", "networks/one"):
        manager.ok("DELETE", f"/v1/{path}?wait=60" if "profiles" not in path else f"/v1/{path}")
    cleaned(manager)


def test_starts_and_stops(manager):
    """Of many that ask for the same one gets it; of a start and a stop both are told the truth."""
    made(manager)
    for action, status in (("start", "running"), ("stop", "stopped")) * 2:
        ends = together(manager, *(("POST", ACT, {"action": action, "force": action == "stop"}) for _ in range(4)))
        assert None in ends and manager.get("/v1/instances/one")["status"] == status, ends
    for _ in range(ROUNDS):
        ends = together(manager, ("POST", ACT, {"action": "start"}), ("POST", ACT, {"action": "stop", "force": True}))
        assert ends[0] is None
        assert manager.get("/v1/instances/one")["status"] == ("stopped" if ends[1] is None else "running"), ends
        together(manager, ("POST", ACT, {"action": "stop", "force": True}))
    cleaned(manager)


def test_an_image_that_is_wanted(manager):
    """Deleted while an instance is made of it: one of them is told so, and the instance works or is not there."""
    manager.do("POST", "/v1/images/bb/export", {"path": str(manager.folder / "again.tar"), "format": "tar"})
    for turn in range(ROUNDS):
        ends = together(manager, ("DELETE", "/v1/images/bb"),
                        ("POST", "/v1/instances", {"name": "one", "kind": "container", "image": "bb", "devices": NO_CARD, "start": True}))
        if ends[1] is None:
            assert manager.hull("exec", "one", "--", "echo", "here").stdout == "here\n"
        else:
            assert ends[0] is None and "one" not in manager.names(), ends
        cleaned(manager)
        if ends[0] is None:
            manager.do("POST", "/v1/images", {"source": "import", "path": str(manager.folder / "again.tar"), "alias": "bb"})
        assert turn < ROUNDS and [row["aliases"] for row in manager.get("/v1/images")] == [["bb"]]
