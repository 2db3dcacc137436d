"""hull ct after crashes: what was killed at any step is named by `hull ct check`, removed by --repair, and nothing of it remains."""
import os
import pathlib
import signal
import subprocess
import uuid

import pytest
from ct import NEEDS_ROOT
from ct_life import alone, network, until  # noqa: F401 (fixtures)

pytestmark = NEEDS_ROOT

KEEPER_STEPS = ("keeper-locked", "keeper-listens", "keeper-mounted", "keeper-views", "keeper-created", "keeper-connected", "keeper-started")
# The host's groups are everybody's: those of another run's container of the same name would be taken for left over.
NEW = f"new{uuid.uuid4().hex[:6]}"
# Of the runtime, which the keeper does the work of.
RUNTIME_STEPS = ("folder", "prepared", "planned", "made", "groups", "process", "guided", "finished")


def crash(place, step, verb, *words):
    """True: it was killed there."""
    done = place.run(verb, *words, env={**os.environ, "HULL_OCI_FAULT": step})
    if done.returncode == 0:
        pytest.skip("hull was built without tests")
    assert done.returncode in (1, -signal.SIGKILL), done.stderr
    return done


def repaired(place, *, names=()):
    """What check names goes with --repair, and then there is nothing to find, nor is anything there."""
    said = place.run("check")
    assert said.returncode == 1 and "--repair" in said.stdout, said.stdout + said.stderr
    fixed = place.run("check", "--repair")
    assert fixed.returncode == 0 and ": removed" in fixed.stdout, fixed.stdout + fixed.stderr
    assert place.run("check").stdout == ""
    assert set(place.list()) == set(names)
    left = [what for what in place.left() if what not in [place.folder(name) for name in names]]
    assert left == []
    return said.stdout


@pytest.mark.parametrize("ends", ["repair", "stop", "start"])
def test_keeper_killed_while_it_runs(alone, ends):
    name = alone.create("--disk", "32M", ip="10.90.0.20")
    os.kill(alone.keeper(name), signal.SIGKILL)
    until(lambda: alone.status(name) == "error")
    assert "without its keeper" in alone.refused("start", name)
    if ends == "repair":
        assert f"container {name}: has processes" in repaired(alone, names=[name])
    else:
        alone.ok("stop", "--force", name)
    assert alone.status(name) == "stopped"
    alone.ok("start", name)
    alone.shell(name, "ping -c 1 -W 30 10.90.0.1")
    alone.ok("stop", "--force", name)
    assert [what for what in alone.left() if what != alone.folder(name)] == []
    alone.ok("delete", name)


@pytest.mark.parametrize("step", ["start-folder", *KEEPER_STEPS, *RUNTIME_STEPS])
def test_killed_while_starting(alone, step):
    name = alone.create(ip="10.90.0.20", start=False)
    other = alone.create(ip="10.90.0.21")
    crash(alone, step, "start", name)
    assert alone.status(name) in ("stopped", "error")
    said = alone.run("check").stdout
    assert name in said and other not in said
    assert alone.run("check", "--repair").returncode == 0
    assert alone.run("check").stdout == ""
    assert alone.status(name) == "stopped" and alone.status(other) == "running"
    # Only the other one's are there.
    assert not [what for what in map(str, alone.left(running=1)) if name in what and what != str(alone.folder(name))]
    alone.ok("start", name)
    alone.shell(name, "ping -c 1 -W 30 10.90.0.21")
    # A crash needs no repair for the next start, either.
    alone.ok("stop", "--force", name)
    crash(alone, step, "start", name)
    if alone.status(name) == "error":
        alone.ok("stop", "--force", name)
    alone.ok("start", name)
    alone.ok("delete", "--force", name, other)
    assert alone.left() == []


@pytest.mark.parametrize("step", ["keeper-ended", "keeper-removed"])
def test_killed_while_stopping(alone, step):
    name = alone.create(start=False)
    alone.ok("start", name, env={**os.environ, "HULL_OCI_FAULT": step})
    alone.run("stop", "--force", name)
    until(lambda: alone.keeper(name) is None)
    repaired(alone, names=[name])
    alone.ok("start", name)
    alone.ok("delete", "--force", name)
    assert alone.left() == []


@pytest.mark.parametrize("ends", ["repair", "delete"])
def test_groups_that_cannot_be_removed(alone, ends):
    """It says so and keeps what it needs to find them: whoever is in a group of v1 alone is not the container's to kill."""
    name = alone.create()
    groups = [path for path in alone.groups() if path.parts[4] == "pids"]
    if not groups or not pathlib.Path("/sys/fs/cgroup/unified").exists():
        pytest.skip("needs a hybrid host")
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        (groups[0] / "cgroup.procs").write_text(str(stranger.pid))
        said = alone.refused(*(("stop", "--force", "--quiet", name) if ends == "repair" else ("delete", "--force", "--quiet", name)))
        assert "has ended, but is not removed: removing group" in said and str(groups[0]) in said
        assert alone.groups() == groups and alone.status(name) == "error" and alone.keeper(name) is None
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
    if ends == "repair":
        repaired(alone, names=[name])
        alone.ok("delete", name)
    else:
        alone.ok("delete", "--force", name)
    assert alone.left() == []


def fill(alone, *words):
    """A stopped container with a file, and its name."""
    name = alone.create(*words)
    alone.shell(name, "mkdir /root/folder; echo one > /root/folder/file; sync")
    alone.ok("stop", "--force", name)
    return name


def content(alone, name):
    alone.ok("start", name)
    said = alone.shell(name, "cat /root/folder/file")
    alone.ok("stop", "--force", name)
    return said


@pytest.mark.parametrize("disk", [[], ["--disk", "32M"]], ids=["folder", "disk"])
@pytest.mark.parametrize("step", ["create-folder", "create-files", "create-saved"])
def test_killed_while_creating(alone, step, disk):
    crash(alone, step, "create", NEW, "--from", "bb", "--ip", "none", *disk)
    assert NEW not in alone.list()
    repaired(alone)
    crash(alone, step, "create", NEW, "--from", "bb", "--ip", "none", *disk)
    alone.create(*disk, name=NEW)  # and no repair is needed
    alone.ok("delete", "--force", NEW)
    assert alone.left() == []


@pytest.mark.parametrize("step", ["still-paused", "still-frozen", "snapshot-copied"])
def test_killed_while_it_stands_still(alone, step):
    """Whatever is done with it next has it go on before."""
    name = alone.create("--disk", "32M")
    crash(alone, step, "snapshot create", name, "s")
    alone.ok("snapshot create", name, "other")
    assert alone.shell(name, "echo on > /root/file; sync; cat /root/file") == "on\n"
    crash(alone, step, "snapshot create", name, "s")
    alone.ok("stop", "--force", name)
    alone.ok("start", name)
    assert alone.shell(name, "cat /root/file") == "on\n"
    alone.ok("delete", "--force", name)
    assert alone.run("check", "--repair").returncode == 0 and alone.left() == []


@pytest.mark.parametrize("step", ["create-folder", "create-files", "create-saved", "copied", "renamed-away"])
def test_killed_while_cloning(alone, step):
    """The new one is there whole or not at all."""
    name = fill(alone)
    crash(alone, step, "clone", name, NEW)
    assert set(alone.list()) == {name}
    repaired(alone, names=[name])
    crash(alone, step, "clone", name, NEW)
    alone.ok("clone", name, NEW)
    assert content(alone, NEW) == "one\n"
    alone.ok("delete", NEW, name)
    # A clone that was begun anew has left nothing of the first.
    assert alone.run("check", "--repair").returncode == 0 and alone.left() == []


@pytest.mark.parametrize("disk", [[], ["--disk", "32M"]], ids=["folder", "disk"])
@pytest.mark.parametrize("step", ["copied", "snapshot-copied", "snapshot-saved"])
def test_killed_while_making_a_snapshot(alone, step, disk):
    if disk and step == "copied":
        pytest.skip("a disk is no tree")
    name = fill(alone, *disk)
    crash(alone, step, "snapshot create", name, "s")
    assert alone.ok("snapshot list", name, "--json").strip() == "[]"
    assert name in repaired(alone, names=[name])
    assert not list((alone.folder(name) / "snapshots").iterdir())
    crash(alone, step, "snapshot create", name, "s")
    alone.ok("snapshot create", name, "s")
    assert content(alone, name) == "one\n"
    alone.ok("delete", name)
    assert alone.left() == []


def test_killed_while_making_a_snapshot_of_one_that_runs(alone):
    """It stays frozen until somebody looks after it, and nothing is lost."""
    name = alone.create()
    crash(alone, "snapshot-copied", "snapshot create", name, "s")
    assert alone.status(name) == "paused"
    assert alone.run("check", "--repair").returncode == 0
    assert alone.status(name) == "running"
    assert alone.shell(name, "echo goes on") == "goes on\n"
    alone.ok("delete", "--force", name)


@pytest.mark.parametrize("disk", [[], ["--disk", "32M"]], ids=["folder", "disk"])
@pytest.mark.parametrize("step", ["copied", "restore-copied", "restore-swapped", "renamed-away"])
def test_killed_while_restoring(alone, step, disk):
    if disk and step in ("copied", "renamed-away"):
        pytest.skip("a disk is no tree")
    name = fill(alone, *disk)
    alone.ok("snapshot create", name, "s")
    alone.ok("start", name)
    alone.shell(name, "echo two > /root/folder/file; sync")
    alone.ok("stop", "--force", name)
    crash(alone, step, "snapshot restore", name, "s")
    assert name in repaired(alone, names=[name])
    assert [path.name for path in (alone.folder(name) / "snapshots").iterdir()] == ["s"]
    assert content(alone, name) in ("one\n", "two\n")
    alone.ok("snapshot restore", name, "s")
    assert content(alone, name) == "one\n"
    alone.ok("delete", name)
    assert alone.left() == []


def test_killed_while_deleting(alone):
    name = fill(alone)
    alone.ok("snapshot create", name, "s")
    crash(alone, "renamed-away", "snapshot delete", name, "s")
    assert alone.ok("snapshot list", name, "--json").strip() == "[]"
    assert name in repaired(alone, names=[name])
    crash(alone, "renamed-away", "delete", name)
    assert alone.list() == {}
    repaired(alone)
    # Its name is free.
    alone.create(name=name)
    alone.ok("delete", "--force", name)


def test_nothing_to_find(alone):
    """Work of others is not taken for leftovers."""
    name, other = alone.create(ip=None), alone.create(start=False)
    alone.ok("pause", name)
    alone.ok("snapshot create", other, "s")
    assert alone.run("check", "--repair").stdout == "" and alone.status(name) == "paused"
    begun = [subprocess.Popen(alone.words("start", other), stderr=subprocess.DEVNULL) for _ in range(2)]
    while any(process.poll() is None for process in begun):
        assert alone.run("check", "--repair").stdout == ""
    assert alone.status(other) == "running"
