"""hull-oci's systemd manager of control groups in a guest with systemd as PID 1 and cgroup v2: the host's systemd and a user's."""
import json
import pathlib
import shutil
import subprocess

import pytest

from conftest import BOOT_TIMEOUT, BUILD

pytestmark = pytest.mark.long

OCI = "/mnt/hull-oci --root /run/oci --systemd-cgroup"
GROUP = "/sys/fs/cgroup/machine.slice/machine-test.slice/libpod-web.scope"


def mapping(user):
    """The container's root alone, who is that user."""
    return {kind: [{"containerID": 0, "hostID": user, "size": 1}] for kind in ("uidMappings", "gidMappings")}


def configuration(path, resources, annotations=None, is_rootless=False):
    """A container that sleeps."""
    options = ["--rootless"] if is_rootless else []
    folder = path.parent
    folder.mkdir(parents=True)
    subprocess.run([BUILD / "bin/hull-oci", "spec", *options], cwd=folder, check=True)
    config = json.loads(path.read_text())
    config["process"] |= {"args": ["/bin/sleep", "1000"], "terminal": False, "env": ["PATH=/bin"]}
    config["root"] = {"path": "../rootfs", "readonly": True}
    config["linux"] |= resources
    config["annotations"] = annotations or {}
    path.write_text(json.dumps(config))


@pytest.fixture
def tools(tmp_path):
    """A disk with the runtime, a root file system and bundles."""
    folder = tmp_path / "tools"
    for name in ("bin", "proc", "dev", "sys"):
        (folder / "rootfs" / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox"), folder / "rootfs/bin/busybox")
    for name in ("sh", "sleep", "cat"):
        (folder / "rootfs/bin" / name).symlink_to("busybox")
    for name in ("hull-oci", "hull-oci-systemd"):
        subprocess.run(["strip", "-o", folder / name, BUILD / "bin" / name], check=True)
    resources = {"memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20}, "pids": {"limit": 50},
                 "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0", "mems": "0"}}
    web = {"cgroupsPath": "machine-test.slice:libpod:web", "resources": resources}
    configuration(folder / "older/config.json", web)
    web["resources"] = resources | {"unified": {"memory.high": "50331648"}}
    configuration(folder / "web/config.json", web, {"org.systemd.property.TimeoutStopSec": "7",
                                                    "org.systemd.property.Description": "'of the test'"})
    configuration(folder / "plain/config.json", {"cgroupsPath": ""})
    configuration(folder / "bad/config.json", {"cgroupsPath": "/machine/web"})
    limits = {"resources": {"memory": {"limit": 64 << 20}, "pids": {"limit": 40}}}
    configuration(folder / "user/config.json", {"cgroupsPath": "user.slice:libpod:own", **mapping(1000), **limits}, is_rootless=True)
    configuration(folder / "inner/config.json", {**mapping(0), **limits}, is_rootless=True)
    disk = tmp_path / "tools.raw"
    with open(disk, "wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", "-d", folder, disk], check=True)
    return disk


@pytest.fixture
def login(boot, debian, tools):
    """Boots with more words for the kernel, and logs in."""
    def start(words=""):
        console = boot("--engine", "soft", "--cpus", "2", "--memory", "1G", "--net", "none", *debian[:-1], f"{debian[-1]} {words}",
                       "--disk", tools, timeout=2 * BOOT_TIMEOUT)
        console.expect("login: ")
        console.send_line("root")
        console.expect("# ")
        console.shell("mount -o ro /dev/vdb /mnt")
        return console

    return start


def shown(console, unit, *names, user=""):
    """Properties of a unit."""
    text = console.shell(f"{user} systemctl {'--user' if user else ''} show {unit} {' '.join('-p ' + name for name in names)}")
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def test_host(login):
    """A scope from creation to deletion, by the host's systemd."""
    vm = login()
    vm.shell(f"{OCI} create -b /mnt/web web")
    assert f"{OCI.split()[0]}" and "created" in vm.shell(f"{OCI} state web")
    unit = shown(vm, "libpod-web.scope", "ActiveState", "Slice", "Delegate", "Description", "MemoryMax", "MemoryLow", "MemoryHigh",
                 "MemorySwapMax", "TasksMax", "CPUWeight", "CPUQuotaPerSecUSec", "AllowedCPUs", "TimeoutStopUSec", "ControlGroup")
    assert unit == {
        "ActiveState": "active", "Slice": "machine-test.slice", "Delegate": "yes", "Description": "of the test",
        "MemoryMax": str(64 << 20), "MemoryLow": str(32 << 20), "MemoryHigh": str(48 << 20), "MemorySwapMax": str(32 << 20),
        "TasksMax": "50", "CPUWeight": "59", "CPUQuotaPerSecUSec": "500ms", "AllowedCPUs": "0", "TimeoutStopUSec": "7s",
        "ControlGroup": GROUP.removeprefix("/sys/fs/cgroup"),
    }
    pid = json.loads(vm.shell(f"{OCI} state web").strip())["pid"]
    assert vm.shell(f"cat {GROUP}/cgroup.procs").split() == [str(pid)]
    # systemd keeps to it when it reads its files again.
    vm.shell("systemctl daemon-reload")
    values = "memory.max memory.high pids.max cpu.weight cpu.max cpuset.cpus"
    assert vm.shell(f"cd {GROUP} && cat {values}; cd").split() == [str(64 << 20), str(48 << 20), "50", "59", "50000", "100000", "0"]
    vm.shell(f"{OCI} start web")
    vm.shell(f"{OCI} update --memory 134217728 --memory-swap 134217728 --pids-limit 60 --cpu-quota 33333 web")
    assert vm.shell(f"cd {GROUP} && cat memory.max pids.max cpu.max; cd").split() == [str(128 << 20), "60", "33333", "100000"]
    assert shown(vm, "libpod-web.scope", "MemoryMax", "TasksMax") == {"MemoryMax": str(128 << 20), "TasksMax": "60"}
    vm.shell(f"{OCI} pause web")
    assert vm.shell(f"cat {GROUP}/cgroup.freeze").strip() == "1"
    vm.shell(f"{OCI} resume web")
    assert "libpod-web.scope" in vm.shell(f"{OCI} exec web /bin/sh -c 'true' && cat /proc/{pid}/cgroup")
    assert json.loads(vm.shell(f"{OCI} events --stats web").strip())["data"]["pids"]["limit"] == 60
    # The name is taken while it runs, whatever the other's id.
    assert "libpod-web.scope" in vm.shell(f"! {OCI} create -b /mnt/web other 2>&1")
    vm.shell(f"! {OCI} state other 2>/dev/null")
    assert vm.shell(f"cat {GROUP}/cgroup.procs").split() == [str(pid)]
    vm.shell(f"{OCI} kill web KILL")
    vm.shell(f"{OCI} delete --force web")
    assert shown(vm, "libpod-web.scope", "LoadState", "ActiveState") == {"LoadState": "not-found", "ActiveState": "inactive"}
    vm.shell(f"! test -e {GROUP}")
    # The name is free again, also while it runs for `delete --force`; other managers' files are not needed.
    vm.shell(f"{OCI} run -d -b /mnt/web web && /mnt/hull-oci --root /run/oci delete --force web && ! test -e {GROUP}")
    # Defaults, and a path that is the other manager's.
    vm.shell(f"{OCI} run -d -b /mnt/plain plain")
    assert shown(vm, "hull-oci-plain.scope", "ActiveState", "Slice") == {"ActiveState": "active", "Slice": "system.slice"}
    vm.shell(f"{OCI} delete --force plain")
    assert "SLICE:PREFIX:NAME" in vm.shell(f"! {OCI} run -b /mnt/bad bad 2>&1")
    assert vm.shell("systemctl list-units --no-legend '*.scope' | grep -c -e libpod -e hull-oci || true").strip() == "0"


def test_user(login):
    """The systemd of a user without rights."""
    vm = login()
    vm.shell("useradd -u 1000 -m somebody && mkdir -p /run/user/1000 && chown 1000 /run/user/1000")
    vm.shell("systemd-run -q -p Delegate=yes --uid 1000 -E XDG_RUNTIME_DIR=/run/user/1000 --unit own /lib/systemd/systemd --user")
    as_user = "setpriv --reuid 1000 --regid 1000 --clear-groups env XDG_RUNTIME_DIR=/run/user/1000"
    vm.shell("until test -S /run/user/1000/systemd/private; do sleep 0.2; done")
    # As a session is: without a D-Bus daemon a user's systemd takes processes from below its own group alone.
    vm.shell("mkdir /sys/fs/cgroup/system.slice/own.service/session && chown -R 1000 /sys/fs/cgroup/system.slice/own.service/session")
    vm.shell("printf '%s\\n' '#!/bin/sh' 'echo $$ >/sys/fs/cgroup/system.slice/own.service/session/cgroup.procs' 'exec \"$@\"' "
             ">/run/inside && chmod 755 /run/inside")
    oci = f"/run/inside {as_user} /mnt/hull-oci --systemd-cgroup"
    vm.shell(f"{oci} run -d -b /mnt/user own")
    unit = shown(vm, "libpod-own.scope", "ActiveState", "MemoryMax", "TasksMax", "ControlGroup", user=as_user)
    group = pathlib.Path("/sys/fs/cgroup" + unit.pop("ControlGroup"))
    assert unit == {"ActiveState": "active", "MemoryMax": str(64 << 20), "TasksMax": "40"}
    assert group.name == "libpod-own.scope" and "own.service" in str(group)
    pid = json.loads(vm.shell(f"{oci} state own").strip())["pid"]
    assert vm.shell(f"cat {group}/cgroup.procs").split() == [str(pid)]
    assert vm.shell(f"cat {group}/memory.max {group}/pids.max").split() == [str(64 << 20), "40"]
    vm.shell(f"{oci} update --memory 33554432 own")
    assert vm.shell(f"cat {group}/memory.max").strip() == str(32 << 20)
    vm.shell(f"{oci} delete --force own")
    vm.shell(f"! test -e {group}")
    # podman calls it in the user's namespace, as its root.
    nested = f"/run/inside {as_user} unshare -r /mnt/hull-oci --systemd-cgroup"
    vm.shell(f"{nested} run -d -b /mnt/inner inner")
    unit = shown(vm, "hull-oci-inner.scope", "ActiveState", "Slice", "MemoryMax", user=as_user)
    assert unit == {"ActiveState": "active", "Slice": "user.slice", "MemoryMax": str(64 << 20)}
    vm.shell(f"{nested} delete --force inner")
    assert shown(vm, "hull-oci-inner.scope", "LoadState", user=as_user) == {"LoadState": "not-found"}


@pytest.mark.parametrize("layout, words", [("v1", "systemd.legacy_systemd_cgroup_controller=1"), ("hybrid", "")])
def test_older_hosts(login, layout, words):
    """Controllers of v1: systemd's words for them, and groups that it does not make. In hybrid hosts the device filter is v2's."""
    vm = login(f"systemd.unified_cgroup_hierarchy=0 {words}")
    vm.shell(("! " if layout == "v1" else "") + "test -d /sys/fs/cgroup/unified")
    below = GROUP.removeprefix("/sys/fs/cgroup/")
    vm.shell(f"{OCI} create -b /mnt/older web && {OCI} start web")
    pid = json.loads(vm.shell(f"{OCI} state web").strip())["pid"]
    unit = shown(vm, "libpod-web.scope", "ActiveState", "MemoryLimit", "CPUShares", "TasksMax", "CPUQuotaPerSecUSec", "DevicePolicy")
    assert unit == {"ActiveState": "active", "MemoryLimit": str(64 << 20), "CPUShares": "512", "TasksMax": "50",
                    "CPUQuotaPerSecUSec": "500ms", "DevicePolicy": "strict" if layout == "v1" else "auto"}
    groups = vm.shell(f"cat /proc/{pid}/cgroup").splitlines()
    assert all(line.split(":", 2)[2] == f"/{below}" for line in groups if not (layout == "v1" and line.startswith("0:"))), groups
    inside = f"nsenter -t {pid} -m /bin/busybox"
    vm.shell(f"{inside} mount -t tmpfs none /dev && {inside} mknod -m 666 /dev/null c 1 3 && "
             f"{inside} mknod /dev/disk b $(tr : ' ' </sys/block/vda/dev) && {inside} sh -c ': </dev/disk'")
    devices = f"{OCI} exec web /bin/sh -c '/bin/busybox true </dev/null && ! /bin/busybox true </dev/disk' 2>/dev/null"
    vm.shell(devices)
    vm.shell("systemctl daemon-reload")
    vm.shell(devices)
    vm.shell(f"cd /sys/fs/cgroup; grep -x {64 << 20} memory/{below}/memory.limit_in_bytes && grep -x 50 pids/{below}/pids.max && "
             f"grep -x 0 cpuset/{below}/cpuset.cpus; cd")
    vm.shell(f"{OCI} update --memory 33554432 --memory-swap 33554432 --cpu-share 256 web")
    vm.shell(f"grep -x {32 << 20} /sys/fs/cgroup/memory/{below}/memory.limit_in_bytes && "
             f"grep -x 256 /sys/fs/cgroup/cpu/{below}/cpu.shares")
    assert shown(vm, "libpod-web.scope", "MemoryLimit", "CPUShares") == {"MemoryLimit": str(32 << 20), "CPUShares": "256"}
    vm.shell(f"{OCI} pause web && {OCI} resume web && {OCI} kill web KILL && {OCI} delete --force web")
    assert shown(vm, "libpod-web.scope", "LoadState") == {"LoadState": "not-found"}
    assert vm.shell("find /sys/fs/cgroup -name 'libpod*'").strip() == ""
