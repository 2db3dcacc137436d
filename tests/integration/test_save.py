"""Save and restore: a process in the guest that counts and hashes goes on without a gap."""
import pexpect

from conftest import hull
from counting import COUNTER, REPORT, check_reports


def test_save_on_soft_restore_on_soft(boot, busybox, tmp_path):
    control, saved = tmp_path / "control", tmp_path / "saved"
    common = ["--engine", "soft", "--memory", "256M", *busybox, "--append", "console=ttyS0 quiet"]
    vm = boot(*common, "--control", control)
    vm.expect("# ")
    vm.send_line(COUNTER)
    for _ in range(3):
        vm.expect(REPORT)
    result = hull("ctl", control, "pause")
    assert result.returncode == 0, result.stderr
    result = hull("ctl", control, "save", f"file={saved}", timeout=120)
    assert result.returncode == 0, result.stderr
    assert saved.stat().st_size > 1 << 20
    result = hull("ctl", control, "quit")
    assert result.returncode == 0, result.stderr
    vm.child.expect(pexpect.EOF)

    restored = boot(*common, "--restore", saved)
    for _ in range(4):
        restored.expect(REPORT)
    check_reports([vm.transcript(), restored.transcript()], at_least=7)


def test_save_to_impossible_place_leaves_nothing(boot, busybox, tmp_path):
    control = tmp_path / "control"
    vm = boot("--engine", "soft", *busybox, "--control", control, "--append", "console=ttyS0 quiet")
    vm.expect("# ")
    result = hull("ctl", control, "save", f"file={tmp_path}/no/such/folder/file")
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["control"]
    assert hull("ctl", control, "status").returncode == 0
