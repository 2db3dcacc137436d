"""Whole boots under the soft engine's own checks: lock-step with the interpreter, and the verifier of translated code."""
import re

import pytest

from conftest import BOOT_TIMEOUT, hull

LOCKSTEP_TIMEOUT = 3600  # seconds; under lock-step a boot takes some hundred times longer


def counters(path):
    """{name: value} of the running VM's first vCPU."""
    return {name: int(value) for name, value in
            re.findall(r"^vcpu\.0\.(\S+)\s+(\d+)", hull("ctl", path, "stats").stdout, re.MULTILINE)}


def boot_checked(boot, engine, guest, prompt, tmp_path, timeout=2 * BOOT_TIMEOUT):
    """Boots to a prompt, returns the counters. A difference or a refused block would have ended the VM."""
    control = tmp_path / "control"
    log = tmp_path / "log"
    log.touch()
    vm = boot("--engine", engine, "--control", control, "--log", log, *guest, timeout=timeout)
    try:
        vm.expect(prompt)
    except AssertionError as error:
        raise AssertionError(f"{error}\nlog:\n{log.read_text()[-8000:]}") from error
    return counters(control)


@pytest.mark.parametrize("cpus", [1, 2])
def test_busybox_guest_verified(boot, busybox, tmp_path, cpus):
    guest = ["--cpus", cpus, *busybox, "--append", "console=ttyS0 quiet"]
    count = boot_checked(boot, "soft,verify=on", guest, "# ", tmp_path)
    assert count["blocks_translated"] > 10000


@pytest.mark.long
def test_systemd_guest_verified(boot, debian, tmp_path):
    count = boot_checked(boot, "soft,verify=on", ["--memory", "1G", *debian], "login: ", tmp_path)
    assert count["blocks_translated"] > 50000


@pytest.mark.parametrize("engine", ["soft,cache=4M", pytest.param("soft,cache=4M,verify=on", marks=pytest.mark.long)])
@pytest.mark.parametrize("cpus", [pytest.param(1, marks=pytest.mark.long), 2])
def test_systemd_guest_with_small_cache(boot, debian, tmp_path, cpus, engine):
    """Parts of the code cache are emptied all the time."""
    count = boot_checked(boot, engine, ["--memory", "1G", "--cpus", cpus, *debian], "login: ", tmp_path)
    assert count["code_cache_flushes"] > 20


@pytest.mark.long
def test_busybox_guest_in_lockstep(boot, busybox, tmp_path):
    guest = [*busybox, "--append", "console=ttyS0"]
    count = boot_checked(boot, "soft,lockstep=on", guest, "# ", tmp_path, LOCKSTEP_TIMEOUT)
    assert count["lockstep_equal"] > 10_000_000


@pytest.mark.long
def test_systemd_guest_in_lockstep(boot, debian, tmp_path):
    # In time of its own: else it does little but serve timer interrupts, and units time out.
    guest = ["--memory", "1G", "--net", "none", *debian]
    count = boot_checked(boot, "soft,lockstep=on,icount=on", guest, "login: ", tmp_path, LOCKSTEP_TIMEOUT)
    assert count["lockstep_equal"] > 10_000_000
