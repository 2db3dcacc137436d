"""The unit tests of container/cgroup in guests, whose control groups are laid out as hosts have them: v2, v1, hybrid."""
import pathlib
import re
import subprocess
import sys

import pytest

from conftest import BUILD, ROOT, kernel_arguments

sys.path.insert(0, str(ROOT / "tools/guest"))
from overlay import add_files  # noqa: E402

PROGRAMS = [BUILD / f"tests/unit/container/cgroup/test_container_cgroup_{name}" for name in ("cgroup", "cgroup_limits")]
SCRIPT = ROOT / "tests/container/cgroup-guest"
TIMEOUT = 600  # seconds; an upper bound for a loaded machine


def with_libraries(program):
    """{path in the guest: bytes} of a program and the libraries that it is linked with."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    paths = [pathlib.Path(path) for path in re.findall(r"(/\S+) \(0x", listed)]
    return {f"bin/{program.name}": program.read_bytes(), **{str(path)[1:]: path.read_bytes() for path in paths}}


@pytest.fixture(scope="module")
def guest(tmp_path_factory):
    """Arguments that boot a guest with the test programs."""
    kernel_option, kernel, _, initrd = kernel_arguments("cloud")
    with_test = tmp_path_factory.mktemp("cgroup") / "initrd"
    add_files(initrd, with_test, {"bin/cgroup-guest": SCRIPT.read_bytes(), **{path: data for program in PROGRAMS for path, data in with_libraries(program).items()}})
    return [kernel_option, kernel, "--initrd", with_test, "--memory", "512M", "--cpus", "2", "--net", "none"]


@pytest.mark.parametrize("layout, words", [("v2", "cgroup_no_v1=all"), ("v1", ""), ("hybrid", "")])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_layout(boot, guest, layout, words, program):
    vm = boot("--engine", "soft", *guest, "--append",
              f"console=ttyS0 quiet {words} hull.run=cgroup-guest,{layout},{program.name}", timeout=TIMEOUT)
    assert vm.wait(TIMEOUT) == 0
    assert re.search(r"status=0\s", vm.transcript()), vm.transcript()[-8000:]
    assert re.search(r"\[  PASSED  \] \d+ test", vm.transcript())
