"""KVM's and Hyper-V's interfaces for guests as Debian's kernel uses them: what it says it took, clocks, TLB shoot-down under load."""
import re

import pytest

from conftest import hull, with_tool

STRESS_SECONDS = 10
CLOCKSOURCE = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
UNSTABLE = re.compile(r"(?i)tsc.*unstable|clocksource.*watchdog.*(skew|unstable)")


def check_clock(vm):
    assert vm.shell(f"cat {CLOCKSOURCE}").strip() in ("tsc", "kvm-clock")
    assert not UNSTABLE.search(vm.shell("dmesg"))


def test_kernel_uses_kvm_interfaces(boot, busybox, tmp_path):
    vm = boot("--engine", "soft", "--cpus", 2, *with_tool(busybox, "shootdown", tmp_path), "--append", "console=ttyS0 quiet")
    vm.expect("# ")
    log = vm.shell("dmesg")
    for line in ("Hypervisor detected: KVM", "KVM setup pv remote TLB flush", "setup PV sched yield",
                 "PV spinlocks enabled", "setup PV IPIs"):
        assert line in log, f"{line!r} not in:\n{log}"
    check_clock(vm)
    # Steal time: the ninth number of a "cpu" line; it may be 0, but the kernel must have it.
    assert len(vm.shell("grep '^cpu0 ' /proc/stat").split()) >= 9
    output = vm.shell(f"/shootdown {STRESS_SECONDS}", timeout=STRESS_SECONDS + 120)
    assert "shootdown: right" in output, output
    check_clock(vm)


@pytest.mark.parametrize("cpus", [1, 2, pytest.param(4, marks=pytest.mark.long)])
def test_clock_stays_after_restore(boot, busybox, tmp_path, cpus):
    control, saved = tmp_path / "control", tmp_path / "saved"
    common = ["--engine", "soft", "--memory", "256M", "--cpus", cpus, *busybox, "--append", "console=ttyS0 quiet"]
    vm = boot(*common, "--control", control)
    vm.expect("# ")
    check_clock(vm)
    result = hull("ctl", control, "save", f"file={saved}", "then=quit", timeout=120)
    assert result.returncode == 0, result.stderr
    restored = boot(*common, "--restore", saved)
    restored.send_line("")
    restored.expect("# ")
    restored.shell("sleep 2")
    check_clock(restored)


def test_kernel_uses_hyperv_interfaces(boot, busybox):
    """With KVM's interface hidden, as Debian's kernel prefers that."""
    vm = boot("--engine", "soft", "--cpus", 2, "--cpu", "host,hyperv=on,kvm=off", *busybox, "--append",
              "console=ttyS0 quiet")
    vm.expect("# ")
    log = vm.shell("dmesg")
    assert "Hypervisor detected: Microsoft Hyper-V" in log, log
    for line in ("Using hypercall for remote TLB flush", "Using IPI hypercalls"):
        assert line in log, f"{line!r} not in:\n{log}"
    assert "unchecked MSR access" not in log, log
    # The kernel calls its TSC unstable on every Hyper-V without invariant TSCs, and reads it through the page.
    assert vm.shell(f"cat {CLOCKSOURCE}").strip() == "hyperv_clocksource_tsc_page"
    vm.shell("sleep 1")
