"""System containers with Debian's systemd: they boot whole, restart, stop in time, and many of them are at work at once."""
import concurrent.futures
import json
import os
import time
import uuid

import pytest
from ct import NEEDS_ROOT, STATE, debian_template  # noqa: F401 (a fixture)
from ct_life import Place, network, network_namespace, until  # noqa: F401 (fixtures)

pytestmark = NEEDS_ROOT

BOOT_TIMEOUT = 240  # seconds; an upper bound for a loaded machine, not an expectation


@pytest.fixture
def debian(debian_template):  # noqa: F811
    """A place in the state that is kept from run to run, with a network of the test's own."""
    with network_namespace() as pid:
        place = Place(STATE, pid)
        place.template = debian_template
        yield place
        made = list(place.made)
        place.close()
        until(lambda: place.devices() == [], 60)
        assert place.groups(made) == [] and place.processes(made) == [] and not any((STATE / "run/keeper" / name).exists() for name in made)


def booted(place, name):
    """Its state once systemd has started all that it is to start, and the units that failed."""
    end = time.monotonic() + BOOT_TIMEOUT
    while True:
        done = place.run("exec", name, "systemctl", "is-system-running", "--wait")
        state = done.stdout.strip()
        if state in ("running", "degraded"):
            failed = place.run("exec", name, "systemctl", "--failed", "--plain", "--no-legend").stdout
            return state, failed
        assert time.monotonic() < end, f"{name} never came up: {done.stdout}{done.stderr}\n{place.ok('logs', name)[-3000:]}"
        time.sleep(0.1)


def name_of_many():
    return f"d{uuid.uuid4().hex[:7]}"


def test_systemd(debian):
    one, two = (debian.create(template=debian.template, ip=None) for _ in range(2))
    assert booted(debian, one) == ("running", "") and booted(debian, two) == ("running", "")
    first, second = (debian.info(name)["ipv4"][0] for name in (one, two))
    debian.ok("exec", one, "ping", "-c", "1", "-W", "30", second)
    debian.on_host("ping", "-c", "1", "-W", "30", first)
    assert debian.ok("exec", one, "cat", "/etc/machine-id") != debian.ok("exec", two, "cat", "/etc/machine-id")
    assert debian.ok("exec", one, "hostname").strip() == one
    debian.shell(one, "logger -t hull-test works; journalctl --sync; journalctl -t hull-test | grep works")
    assert debian.ok("exec", one, "systemd-detect-virt", "--container").strip() != "none"
    debian.shell(one, "systemd-run --wait --pipe -p User=nobody true; systemctl status systemd-journald.service > /dev/null; ps -ef | grep -q journald")
    # Units get groups of their own below the container's.
    assert "journald" in debian.ok("exec", one, "systemd-cgls", "--no-pager")
    # It reboots: the same files, a new boot.
    debian.shell(one, "echo kept > /root/kept")
    boot = debian.info(one)["pid"]
    debian.run("exec", one, "reboot")
    until(lambda: debian.info(one).get("pid") not in (None, boot), 120)
    assert booted(debian, one) == ("running", "")
    assert debian.ok("exec", one, "cat", "/root/kept") == "kept\n"
    debian.ok("exec", two, "ping", "-c", "1", "-W", "30", first)
    # It stops by itself, without being killed, which would be status 1.
    debian.ok("stop", one)
    assert debian.status(one) == "stopped"
    debian.run("exec", two, "poweroff")
    until(lambda: debian.status(two) == "stopped", 120)
    debian.ok("start", one)
    assert booted(debian, one) == ("running", "")


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.long)])
def test_many_systemd(debian, count):
    """By one command: all start, answer, none is degraded, all stop, none leaks. Prints what each costs."""
    base = name_of_many()
    names = [f"{base}-{i}" for i in range(1, count + 1)]
    debian.made += names
    start = time.monotonic()
    debian.ok("create", base, "--from", debian.template, "--count", count, "--ip-start", "10.90.0.10", "--start", "-q", "--memory", "256M")
    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() * 2) as pool:
        states = dict(zip(names, pool.map(lambda name: booted(debian, name), names)))
        up = time.monotonic()
        assert {name: state for name, state in states.items() if state != ("running", "")} == {}
        list(pool.map(lambda i: debian.on_host("ping", "-c", "1", "-W", "60", f"10.90.0.{10 + i}"), range(count)))
    debian.ok("exec", names[0], "ping", "-c", "1", "-W", "60", f"10.90.0.{9 + count}")
    rows = json.loads(debian.ok("list", "--json"))
    used = [row["memory_used_bytes"] for row in rows if row["name"] in names]
    assert [row["ipv4"] for row in rows if row["name"] in names] == [[f"10.90.0.{10 + i}"] for i in range(count)]
    before_stop = time.monotonic()
    debian.ok("stop", "-q", *names)
    stopped = time.monotonic()
    assert {row["status"] for row in json.loads(debian.ok("list", "--json")) if row["name"] in names} == {"stopped"}
    debian.ok("delete", "-q", *names)
    gone = time.monotonic()
    print(f"\n{count} containers with systemd: {started - start:.1f} s to make and start, all up after {up - start:.1f} s "
          f"({(up - start) / count:.2f} s each), {sum(used) / count / 1e6:.1f} MB each, stopped in {stopped - before_stop:.1f} s, deleted in {gone - stopped:.1f} s")
