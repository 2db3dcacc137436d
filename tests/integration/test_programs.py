"""Programs compute the same in a guest as on the host: the cases of hull-bench, by their checksums."""
import re
import subprocess
import sys

import pytest

from conftest import BUILD, ROOT, kernel_arguments

sys.path.insert(0, str(ROOT / "tools/guest"))
from overlay import add_files  # noqa: E402

HULL_BENCH = BUILD / "tests/bench/hull-bench"
TIMEOUT = 600  # seconds; an upper bound for a loaded machine


def checksums(text):
    """{case: its checksum, or why there is none}"""
    return dict(re.findall(r"^(?:check|failed) case=(\S+) ([^\r\n]*)", text, re.MULTILINE))


@pytest.fixture(scope="module")
def bench_guest(tmp_path_factory):
    """Arguments that boot a guest with hull-bench."""
    kernel_option, kernel, _, initrd = kernel_arguments("cloud")
    with_bench = tmp_path_factory.mktemp("bench") / "initrd"
    add_files(initrd, with_bench, {"bin/hull-bench": HULL_BENCH.read_bytes()})
    return [kernel_option, kernel, "--initrd", with_bench, "--memory", "1G", "--net", "none"]


@pytest.mark.parametrize("engine, cpus", [("soft", 1), ("soft", 2), ("soft,cache=4M", 1),
                                          pytest.param("soft", 4, marks=pytest.mark.long)])
def test_checksums(boot, bench_guest, engine, cpus):
    host = subprocess.run([HULL_BENCH, "--check", "all"], capture_output=True, text=True, timeout=TIMEOUT, check=True)
    vm = boot("--engine", engine, "--cpus", cpus, *bench_guest, "--append",
              "console=ttyS0 quiet hull.run=hull-bench,--check,all", timeout=TIMEOUT)
    assert vm.wait(TIMEOUT) == 0
    expected, found = checksums(host.stdout), checksums(vm.transcript())
    # A case that the guest's processor lacks something for is not there at all.
    missing = set(expected) - set(found) - set(re.findall(r"^lacks case=(\S+)", vm.transcript(), re.MULTILINE))
    assert not missing, vm.transcript()[-3000:]
    assert {name: expected[name] for name in found} == found
