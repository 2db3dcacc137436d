"""The guest programs of tests/guest, which check the virtual machine from inside, on the soft engine."""
import pytest

from conftest import BUILD, ROOT, hull

PROGRAMS = sorted(path.stem for path in (ROOT / "tests/guest").glob("*.c"))
PROGRAM_DIR = BUILD / "tests/guest"
PASSED = 1  # status of a write of 0 to the debug exit port
TIMEOUT = 180  # seconds; an upper bound for a loaded machine

# Known failures: engine -> {program: {name of the check: reason}}. Nothing may be here that fails no longer.
KNOWN_FAILURES = {
    "soft": {},
}


def failures(output):
    """Names of the checks that failed, from "FAIL NAME: expected E, got G"."""
    return {line[len("FAIL "):].rsplit(": expected", 1)[0] for line in output.splitlines() if line.startswith("FAIL ")}


@pytest.mark.parametrize("cpus", [1, 2, pytest.param(4, marks=pytest.mark.long)])
@pytest.mark.parametrize("program", PROGRAMS)
def test_guest_program(program, cpus):
    result = hull("boot", "--engine", "soft", "--cpus", cpus, "--memory", "64M", "--net", "none", "--debug-exit",
                  "--kernel", PROGRAM_DIR / program, timeout=TIMEOUT, errors="replace")
    known = KNOWN_FAILURES["soft"].get(program, {})
    assert failures(result.stdout) == set(known), result.stdout[-3000:] + result.stderr[-1000:]
    assert known or result.returncode == PASSED, result.stdout[-3000:] + result.stderr[-1000:]
    assert "ok " in result.stdout


def test_hostile_guest_stops_its_vm():
    """A guest that breaks a virtio device again and again: the device asks for resets, then stops the VM."""
    result = hull("boot", "--engine", "soft", "--memory", "64M", "--net", "none", "--debug-exit",
                  "--kernel", PROGRAM_DIR / "hostile_virtio", timeout=TIMEOUT, errors="replace")
    assert result.returncode == 4, result.stdout[-3000:] + result.stderr[-1000:]
    assert result.stdout.count("broken") >= 2
    assert any("virtio-rng" in line for line in result.stderr.splitlines()), result.stderr
