"""Limits of system containers in a guest whose control groups are those of v2 alone."""
import re
import subprocess
import sys

import pytest

from conftest import BUILD, GUESTS, ROOT, kernel_arguments
from test_checkpoint import modules
from test_container_cgroups import with_libraries

sys.path.insert(0, str(ROOT / "tools/guest"))
from overlay import add_files  # noqa: E402

SCRIPT = ROOT / "tests/container/ct-limits-guest"
TIMEOUT = 900  # seconds; an upper bound for a loaded machine

WANTED = {
    "made": f"cpu.weight 300 cpu.max 50000 100000 cpuset.cpus 1 memory.max {64 << 20} memory.swap.max {32 << 20} pids.max 40 "
            f"io.max rbps={20 << 20} wbps={10 << 20} riops=100 wiops=50",
    "degraded": "1",
    "changed": f"cpu.weight 100 cpu.max 150000 100000 cpuset.cpus 0 memory.max {96 << 20} memory.swap.max 0 pids.max 60 "
               f"io.max rbps=max wbps={5 << 20} riops=max wiops=max",
    "pool": "0-1",
    "none": "cpu.weight 100 cpu.max max 100000 cpuset.cpus 0-1 memory.max max memory.swap.max max pids.max max io.max",
    "too-much-memory": "137", "written": "slowly", "memory_oom_kills": "some", "processes_limit": "some", "groups": "0",
    # What says 100 has what says nothing has, and what says nothing any more.
    "weight": "default 100 default 100 default 500", "no-weight": "default 100", "bfq-weights": "default 100 default 900", "end": "0",
}


@pytest.mark.long
def test_limits_of_v2(boot, tmp_path):
    kernel_option, kernel, _, initrd = kernel_arguments("cloud")
    files = {"bin/ct-limits-guest": SCRIPT.read_bytes(), **modules(("overlay", "fuse"))}
    files["lib/bfq.ko"] = (GUESTS / "modules-cloud/kernel/block/bfq.ko").read_bytes()
    for program in ("hull", "hull-ct-keeper"):
        stripped = tmp_path / program
        subprocess.run(["strip", "-o", stripped, BUILD / "bin" / program], check=True)
        libraries = with_libraries(stripped) if program == "hull" else {f"bin/{program}": stripped.read_bytes()}
        files |= libraries
    add_files(initrd, tmp_path / "initrd", files)
    disk = tmp_path / "disk.raw"
    with open(disk, "wb") as file:
        file.truncate(256 << 20)
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", disk], check=True)
    vm = boot("--engine", "soft", "--cpus", "2", kernel_option, kernel, "--initrd", tmp_path / "initrd", "--memory", "1G", "--net", "none",
              "--disk", disk, "--append", "console=ttyS0 quiet panic=-1 cgroup_no_v1=all rdinit=/bin/ct-limits-guest", timeout=TIMEOUT)
    assert vm.wait(TIMEOUT) == 0
    text = vm.transcript()
    seen = {key: value.strip() for key, value in re.findall(r"^([a-z_-]+)=(.*?)\r*$", text, re.MULTILINE)}
    assert {key: seen.get(key) for key in WANTED} == WANTED, text[-8000:]
    assert "can't fork" in text
    assert abs(int(seen["hundredths"]) - 300) <= 15, seen["hundredths"]  # of 10 s on a machine that others use, too
    light, heavy = map(int, seen["written-by-weight"].split())
    assert 0 < 1.5 * light < heavy, seen["written-by-weight"]  # 1:9 is asked for, of a disk that is not always busy
