"""hulld killed at random moments while it is asked for one thing after the other: what it has promised happens, and nothing is left behind."""
import contextlib
import http.client
import json
import os
import random

import pytest
from hulld import NEEDS_ROOT, Failure, manager, until  # noqa: F401 (a fixture)

pytestmark = NEEDS_ROOT
NAMES = [f"c{index}" for index in range(5)]
SNAPSHOTS = ["s1", "s2"]


def requests(rng):
    """(method, path, body) of something that may or may not be possible now."""
    name, other, snapshot = rng.choice(NAMES), rng.choice(NAMES), rng.choice(SNAPSHOTS)
    path = f"/v1/instances/{name}"
    action = rng.choice(["start", "stop", "restart", "pause", "resume"])
    return rng.choice([
        ("POST", "/v1/instances", {"name": name, "kind": "container", "image": "bb", "start": rng.random() < 0.5}),
        ("POST", "/v1/instances", {"name": name, "kind": "container", "image": "bb", "start": True}),
        ("POST", f"{path}/actions", {"action": action, "force": action == "stop"}),
        ("POST", f"{path}/actions", {"action": "start"}),
        ("DELETE", f"{path}?force=true", None),
        ("POST", f"{path}/snapshots", {"name": snapshot}),
        ("POST", f"{path}/snapshots/{snapshot}/restore", {}),
        ("DELETE", f"{path}/snapshots/{snapshot}", None),
        ("POST", f"{path}/clone", {"name": other}),
        ("PATCH", path, {"config": {"memory": f"{rng.randrange(32, 64)}M"}}),
    ])


def check(manager, promised):
    """Each promised operation has ended, each instance is whole, and `hull system check` finds nothing."""
    for operation in promised:
        ended = manager.wait(operation)
        assert ended["status"] in ("done", "failed", "cancelled"), ended
        if ended["status"] == "failed":  # for a reason, not since somebody died
            assert ended["error"]["message"] and "died" not in ended["error"]["message"], ended
    for row in manager.get("/v1/instances"):
        assert row["status"] in ("running", "stopped", "paused"), row
        seen = manager.get(f"/v1/instances/{row['name']}")
        assert not seen.get("incomplete"), seen
        manager.wait(manager.ok("POST", f"/v1/instances/{row['name']}/actions", {"action": "stop", "force": True}))
        manager.do("POST", f"/v1/instances/{row['name']}/actions", {"action": "start"})
        assert manager.hull("exec", row["name"], "--", "echo", "here").stdout == "here\n"
    found = manager.hull("system", "check", check=False)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("count", [60, pytest.param(500, marks=pytest.mark.long)])
def test_killed_at_random_moments(manager, count):
    seed = int(os.environ.get("HULL_TEST_SEED", "1"))
    rng, promised, kills = random.Random(seed), [], 0
    for _ in range(count):
        method, path, body = requests(rng)
        with contextlib.suppress(Failure):  # not possible at the moment
            answer = manager.ok(method, path, body)
            if "kind" in answer and "status" in answer and "name" in answer and len(answer["name"]) == 32:
                promised.append(answer)
        if rng.random() < 0.1:
            manager.wait(promised[-1]) if promised and rng.random() < 0.5 else None
            manager.kill()
            kills += 1
            manager.start()
    assert kills > 0 and promised
    check(manager, promised)
    manager.hull("delete", "--force", "--all")
    assert manager.names() == set()
    assert manager.hull("system", "check", check=False).returncode == 0


def test_killed_in_the_middle_of_a_request(manager):
    """A client that sees its connection end asks again, and finds the instance made once."""
    for _ in range(5):
        with contextlib.suppress(OSError, http.client.HTTPException, Failure, json.JSONDecodeError):
            manager.ok("POST", "/v1/instances", {"name": "once", "kind": "container", "image": "bb"})
        manager.kill()
        manager.start()
    until(lambda: all(row["status"] in ("done", "failed", "cancelled") for row in manager.get("/v1/operations")), "operations")
    assert [row["name"] for row in manager.get("/v1/instances")] == ["once"]
    manager.do("DELETE", "/v1/instances/once?force=true")
