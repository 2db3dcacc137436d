"""The guest programs of tests/guest, which check the virtual machine from inside: on the soft engine, and on KVM in the
nested bed (one boot of the bed for all of them)."""
import os
import re
import shutil
import subprocess
import sys

import pytest

from conftest import BUILD, HULL, ROOT, hull
from known_guest_failures import KNOWN_FAILURES, ONLY_NESTED

PROGRAMS = sorted(path.stem for path in (ROOT / "tests/guest").glob("*.c"))
PROGRAM_DIR = BUILD / "tests/guest"
ARGUMENTS = ["--memory", "64M", "--net", "none", "--debug-exit"]
MORE_ARGUMENTS = {"hyperv": ["--cpu", "host,hyperv=on"]}
PASSED, FAILED = 1, 3  # statuses of writes of 0 and 1 to the debug exit port
TIMEOUT = 180  # seconds; an upper bound for a loaded machine
BED_TIMEOUT = 1500
BED_SKIPPED = 77


def failures(output):
    """Names of the checks that failed, from "FAIL NAME: expected E, got G"."""
    names = set()
    for line in output.splitlines():
        if line.startswith("FAIL "):
            name = line[len("FAIL "):]
            trap = re.match(r"unexpected trap \d+", name)
            names.add(trap[0] if trap else name.split(": expected ")[0].strip())
    return names


def judge(engine, program, output, status):
    """What always fails is known; what may fail is in the list, too, but need not."""
    known = KNOWN_FAILURES[engine].get(program, {})
    unknown = failures(output) - set(known)
    assert not unknown, f"{unknown}:\n{output[-4000:]}"
    if failures(output):
        assert status == FAILED, output[-4000:]
    else:
        assert status == PASSED and "all right" in output, output[-4000:]


@pytest.mark.parametrize("cpus", [1, 2, pytest.param(4, marks=pytest.mark.long)])
@pytest.mark.parametrize("program", PROGRAMS)
def test_soft(program, cpus):
    result = hull("boot", "--engine", "soft", "--cpus", cpus, *ARGUMENTS, *MORE_ARGUMENTS.get(program, []),
                  "--kernel", PROGRAM_DIR / program, timeout=TIMEOUT, errors="replace")
    judge("soft", program, result.stdout + result.stderr, result.returncode)


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("program", PROGRAMS)
def test_windows(program, cpus):
    """Whatever runs at CPL 3 sees its memory through windows from its first instruction on."""
    result = hull("boot", "--engine", "soft,windows=always,verify=on", "--cpus", cpus, *ARGUMENTS,
                  *MORE_ARGUMENTS.get(program, []), "--kernel", PROGRAM_DIR / program, timeout=TIMEOUT, errors="replace")
    judge("soft", program, result.stdout + result.stderr, result.returncode)


@pytest.mark.parametrize("program", ["atomics", "litmus", "smc", "smp"])
def test_interpreter(program):
    result = hull("boot", "--engine", "soft,translate=off", "--cpus", 2, *ARGUMENTS, "--kernel", PROGRAM_DIR / program,
                  timeout=TIMEOUT, errors="replace")
    judge("soft", program, result.stdout + result.stderr, result.returncode)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="processors that run at the same time need two of the host's")
def test_stores_are_buffered():
    """Memory order is the host's, and no stronger: what x86 allows is seen."""
    for _ in range(5):  # a machine under load may not run both at once
        result = hull("boot", "--engine", "soft", "--cpus", 2, *ARGUMENTS, "--kernel", PROGRAM_DIR / "litmus",
                      timeout=TIMEOUT, errors="replace")
        if int(re.search(r"allowed: store buffering: seen (\d+)", result.stdout)[1]) > 0:
            return
    pytest.fail(result.stdout)


@pytest.fixture(scope="module")
def nested(tmp_path_factory):
    """Output and status of each program with 1 and 2 CPUs: {(program, cpus): (output, status)}."""
    script = tmp_path_factory.mktemp("nested") / "run_programs"
    script.write_text("\n".join(
        f"echo '@@ begin {program} {cpus}'; timeout -s KILL 100 /test/bin/hull boot --engine kvm --cpus {cpus} "
        f"{' '.join(ARGUMENTS + MORE_ARGUMENTS.get(program, []))} --kernel /test/guest/{program} </dev/null 2>&1; "
        f"status=$?; echo; echo \"@@ end $status\""
        for program in PROGRAMS for cpus in (1, 2)) + "\n")
    added = [f"{HULL}:/test/bin/hull", f"{HULL}-vmm:/test/bin/hull-vmm", f"{script}:/test/run_programs",
             *(f"{PROGRAM_DIR / program}:/test/guest/{program}" for program in PROGRAMS)]
    bed = subprocess.run([sys.executable, ROOT / "tests/nested/run.py", "--skip", "--timeout", str(BED_TIMEOUT),
                          "--cache", BUILD / "nested", *(word for item in added for word in ("--add", item)),
                          "--", "sh /test/run_programs"],
                         capture_output=True, text=True, errors="replace", check=False)
    if bed.returncode == BED_SKIPPED:
        pytest.skip(f"no nested bed: {bed.stderr.strip()}")
    return {(found[1], int(found[2])): (found[3], int(found[4]))
            for found in re.finditer(r"(?s)@@ begin (\w+) (\d)\n(.*?)\n@@ end (\d+)", bed.stdout)}


@pytest.mark.long
@pytest.mark.xdist_group("nested")
@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("program", PROGRAMS)
def test_kvm_nested(nested, program, cpus):
    assert (program, cpus) in nested, "the bed ended before"
    judge("kvm", program, *nested[program, cpus])


@pytest.mark.parametrize("program", sorted(KNOWN_FAILURES["kvm"]))
def test_known_failures_are_the_emulators(program):
    """What is put down to QEMU's processor fails there without KVM and Hull, too."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    command = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "64", "-nodefaults", "-display",
               "none", "-serial", "stdio", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
               "-kernel", PROGRAM_DIR / program]
    alone = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                           timeout=TIMEOUT, check=False)
    known = {name for name, reason in KNOWN_FAILURES["kvm"][program].items() if reason not in ONLY_NESTED}
    assert known <= failures(alone.stdout), f"{known - failures(alone.stdout)} passed:\n{alone.stdout[-4000:]}"


def test_hostile_guest_stops_its_vm():
    """A guest that breaks a virtio device again and again: the device asks for resets, then stops the VM."""
    result = hull("boot", "--engine", "soft", "--memory", "64M", "--net", "none", "--debug-exit",
                  "--kernel", PROGRAM_DIR / "hostile_virtio", timeout=TIMEOUT, errors="replace")
    assert result.returncode == 4, result.stdout[-3000:] + result.stderr[-1000:]
    assert result.stdout.count("broken") >= 2
    assert any("virtio-rng" in line for line in result.stderr.splitlines()), result.stderr
