"""32-bit code on the soft engine: a 32-bit kernel of Debian, and 32-bit programs under a 64-bit one."""
import hashlib

import pytest

from conftest import kernel_arguments

COUNT = 3 << 20

pytestmark = pytest.mark.long


def check_programs(vm):
    """busybox as one program after the other: sums, arithmetic, text, processes."""
    zeros = bytes(COUNT)
    for name in ["md5sum", "sha1sum", "sha256sum", "sha512sum"]:
        expected = hashlib.new(name.removesuffix("sum"), zeros).hexdigest()
        assert vm.shell(f"head -c {COUNT} /dev/zero | {name}").split()[0] == expected
    assert vm.shell(f"head -c {COUNT} /dev/zero | gzip | gunzip | sha1sum").split()[0] == hashlib.sha1(zeros).hexdigest()
    assert vm.shell("awk 'BEGIN { for (i = 1; i < 20000; i++) s += i / 3; printf \"%.6f\\n\", s }'").strip() == "66663333.333333"
    assert vm.shell("i=0; s=0; while [ $i -lt 2000 ]; do i=$((i + 1)); s=$((s * 31 % 65537 + i)); done; echo $s").strip() == str(sums())
    assert vm.shell("for i in 1 2 3 4 5 6 7 8; do (echo $i | sort -r) & done; wait").split()


def sums():
    total = 0
    for i in range(1, 2001):
        total = total * 31 % 65537 + i
    return total


@pytest.mark.parametrize("cpus", [1, 2])
def test_kernel(boot, cpus):
    vm = boot("--engine", "soft", "--cpus", cpus, *kernel_arguments("686"), "--append", "console=ttyS0 quiet")
    vm.expect("# ")
    assert vm.shell("uname -m").strip() == "i686"
    assert int(vm.shell("nproc")) == cpus
    check_programs(vm)
    vm.shell("ping -c 1 -w 20 10.0.2.2")
    vm.send_line("poweroff -f")
    assert vm.wait(120) == 0


def test_programs_under_64_bit_kernel(boot):
    kernel, initrd = kernel_arguments("cloud")[1], kernel_arguments("686")[3]
    vm = boot("--engine", "soft", "--kernel", kernel, "--initrd", initrd, "--append", "console=ttyS0 quiet")
    vm.expect("# ")
    check_programs(vm)
    vm.send_line("poweroff -f")
    assert vm.wait(120) == 0
