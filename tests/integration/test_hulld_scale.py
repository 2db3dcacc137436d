"""Many instances at once: they are listed, reported and counted right, hulld stays small, and all of them stop and go."""
import re
import shutil

import pytest
from hulld import NEEDS_ROOT, Manager, manager, until  # noqa: F401 (a fixture)
from test_hulld_vms import Existing, fixture_image  # noqa: F401 (a fixture)

pytestmark = NEEDS_ROOT
NO_CARD = ("--set", "eth0.type=none")
MAX_RESIDENT = 15 << 20


def figures(manager):
    """The metrics by their names and labels."""
    return {name: float(value) for name, value in re.findall(r"(?m)^([a-z_]+(?:\{.*\})?) (\S+)$", manager.get("/v1/metrics"))}


def is_small(manager):
    """Not asserted of a build with sanitizers, whose shadow memory counts too."""
    with open(f"/proc/{manager.process.pid}/maps", encoding="ascii") as maps:
        has_sanitizer = "libasan" in maps.read()
    return has_sanitizer or figures(manager)["hull_resident_memory_bytes"] < MAX_RESIDENT


def test_the_first_disks(tmp_path):
    """Made at once in a pool that is not there yet."""
    made = Manager(tmp_path)
    try:
        disk = tmp_path / "disk.raw"
        disk.write_bytes(bytes(1 << 20))
        made.do("POST", "/v1/images", {"source": "import", "path": str(disk), "format": "raw", "alias": "disk", "kernel": str(disk)})
        for _ in range(5):
            made.hull("create", "disk", "first", "--vm", "--count", "6", *NO_CARD)
            made.hull("delete", "--all", "--force")
            shutil.rmtree(made.state / "pools/default")
    finally:
        made.end()


@pytest.mark.parametrize("defined, containers, vms", [(200, 50, 4)])
def test_many(manager, image, defined, containers, vms):
    stopped = defined - containers - vms
    names = [f"idle-{number + 1}" for number in range(stopped)] + [f"busy-{number + 1}" for number in range(containers)]
    guests = [f"guest-{number + 1}" for number in range(vms)]
    manager.hull("create", "bb", "idle", "--count", stopped, *NO_CARD)
    manager.hull("launch", "bb", "busy", "--count", containers, "--memory", "32M", *NO_CARD)
    manager.hull("launch", image, "guest", "--vm", "--count", vms, "--memory", "128M", "--set", "engine=soft", "--disk", "128M", *NO_CARD)
    for name in guests:
        Existing(manager, name).up()
    rows = manager.json("list")
    assert {row["name"] for row in rows} == set(names + guests)
    running = {row["name"] for row in rows if row["status"] == "running"}
    assert running == set(names[stopped:] + guests) and {row["status"] for row in rows} == {"running", "stopped"}
    assert {row["name"] for row in rows if row["kind"] == "vm"} == set(guests)
    assert {row["memory_bytes"] for row in rows} == {None, 32 << 20, 128 << 20}
    assert is_small(manager)
    # What they use.
    used = {row["name"]: row for row in manager.json("top")}
    assert set(used) == set(names + guests)
    for name, row in used.items():
        assert (row["memory_bytes"] > 0) == (name in running) and row["status"] == ("running" if name in running else "stopped"), row
    metrics = figures(manager)
    assert sum(value for name, value in metrics.items() if name.startswith("hull_instance_running{")) == containers + vms
    assert sum(name.startswith("hull_instance_running{") for name in metrics) == defined
    for number in (0, containers // 2, containers - 1):
        assert manager.hull("exec", names[stopped + number], "hostname").stdout.strip() == names[stopped + number]
    print(f"hulld: {metrics['hull_resident_memory_bytes'] / (1 << 20):.1f} MiB")
    # A new hulld finds them as they are.
    manager.kill()
    manager.start()
    assert {row["name"] for row in until(lambda: [row for row in manager.json("list") if row["status"] == "running"], "a list")} == running
    assert is_small(manager)
    assert manager.hull("system", "check", check=False).returncode == 0
    manager.hull("stop", "--all", "--force")
    assert {row["status"] for row in manager.json("list")} == {"stopped"}
    manager.hull("delete", "--all", "--force")
    assert manager.names() == set() and is_small(manager)
    assert manager.hull("system", "check", check=False).returncode == 0
    assert not list((manager.state / "instances").iterdir()) and not list((manager.state / "run/instances").glob("*"))
