"""Save and restore: a process in the guest that counts and hashes goes on without a gap."""
import hashlib
import re

import pexpect

from conftest import hull

COUNTER = ("n=0; h=start; while :; do n=$((n+1)); h=$(echo $h | sha256sum | cut -d' ' -f1); "
           "[ $((n % 20)) = 0 ] && echo count=$n=$h=; done")


def expected_hash(count):
    text = "start"
    for _ in range(count):
        text = hashlib.sha256((text + "\n").encode()).hexdigest()
    return text


def check_counts(vm, rounds, last):
    """The next 'rounds' reports follow 'last' without a gap, and each hash is right."""
    for _ in range(rounds):
        match = vm.expect(r"count=(\d+)=([0-9a-f]{64})=")
        count = int(match[1])
        assert last is None or count == last + 20
        assert match[2] == expected_hash(count)
        last = count
    return last


def test_save_on_soft_restore_on_soft(boot, busybox, tmp_path):
    control, saved = tmp_path / "control", tmp_path / "saved"
    common = ["--engine", "soft", "--memory", "256M", *busybox, "--append", "console=ttyS0 quiet"]
    vm = boot(*common, "--control", control)
    vm.expect("# ")
    vm.send_line(COUNTER)
    check_counts(vm, 3, None)
    result = hull("ctl", control, "pause")
    assert result.returncode == 0, result.stderr
    result = hull("ctl", control, "save", f"file={saved}", timeout=120)
    assert result.returncode == 0, result.stderr
    assert saved.stat().st_size > 1 << 20
    # What was printed before the save has reached the console; the last report is the state that was saved.
    seen = [int(n) for n in re.findall(r"count=(\d+)=", vm.child.buffer)]
    result = hull("ctl", control, "quit")
    assert result.returncode == 0, result.stderr
    vm.child.expect(pexpect.EOF)
    seen += [int(n) for n in re.findall(r"count=(\d+)=", vm.child.before or "")]
    last = max(seen) if seen else None

    restored = boot(*common, "--restore", saved)
    check_counts(restored, 4, last)


def test_save_to_impossible_place_leaves_nothing(boot, busybox, tmp_path):
    control = tmp_path / "control"
    vm = boot("--engine", "soft", *busybox, "--control", control, "--append", "console=ttyS0 quiet")
    vm.expect("# ")
    result = hull("ctl", control, "save", f"file={tmp_path}/no/such/folder/file")
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["control"]
    assert hull("ctl", control, "status").returncode == 0
