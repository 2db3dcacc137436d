"""System containers of each side: how they are made, started and ended. Used inside the bench's own namespaces alone."""
import json
import os
import pathlib
import subprocess
import time

BRIDGE = "bench0"
GROUPS = pathlib.Path("/sys/fs/cgroup")
FIRST_ID = 1000000  # of the peers' user namespaces; their copy of the files belongs to it
MEMORY = "512M"
TIMEOUT = 30  # seconds that something may take which takes far less than one


def run(*words, check=True):
    """Its output; where it may fail, what it says about that is not shown."""
    return subprocess.run([str(word) for word in words], check=check, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=None if check else subprocess.DEVNULL, text=True).stdout


def started_ns(path, since):
    """When the first instruction ran that has written this file."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        if path.exists() and int(path.read_text(encoding="ascii")) > since:
            return int(path.read_text(encoding="ascii"))
        time.sleep(0.001)
    raise RuntimeError(f"{path} has not been written")


def memory_kib(pid):
    """What a process occupies, by the kinds of smaps."""
    lines = [line.split() for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]]
    sizes = {words[0].rstrip(":"): int(words[1]) for words in lines}
    return {"rss": sizes["Rss"], "pss": sizes["Pss"], "private": sizes["Private_Clean"] + sizes["Private_Dirty"]}


def find_process(match):
    """The process whose command line this accepts."""
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if match((folder / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")):
                return int(folder.name)
        except OSError:
            continue  # it has ended
    raise RuntimeError("no such process")


class Place:
    """Where the files of one run lie: root (the template's, with the bench's programs) and shifted (the same with the peers' owners)."""

    def __init__(self, folder, hull, template):
        self.folder, self.hull, self.state, self.template = folder, hull, folder / "state", template
        self.root, self.shifted = folder / "root", folder / "shifted"

    def make_upper(self, name, owner):
        """An empty private layer, with the folders that overlayfs and the peers want beside it."""
        own = self.folder / "peers" / name
        for path in (own, own / "upper", own / "work", own / "root"):
            path.mkdir(parents=True)
            os.chown(path, owner, owner)
        return own


class HullSide:
    """hull ct, with all that it does by default: ids, seccomp, views, limits, a card."""
    name = "hull"

    def __init__(self, place):
        self.place = place

    def ct(self, *words, check=True):
        return run(self.place.hull, "ct", words[0], "--state", self.place.state, *words[1:], check=check)

    def make(self, name, address, *options):
        self.ct("create", name, "--root", self.place.root, "--ip", f"{address}/16", "--bridge", BRIDGE, "--memory", MEMORY, *options)

    def make_first(self, address):
        self.make("first", address, "--set", "init=/first")

    def start_first(self):
        """(seconds to its first instruction, seconds until the command returned)"""
        began = time.time_ns()
        self.ct("start", "-q", "first")
        ended = time.time_ns()
        return started_ns(self.place.state / "containers/first/upper/first-instruction", began) - began, ended - began

    def keeper(self, name="first"):
        return find_process(lambda words: words[0].endswith(b"hull-ct-keeper") and words[-1] == name.encode())

    def stop_first(self):
        self.ct("stop", "--force", "first")

    def make_many(self, count):
        """Nothing: they are made and started by the one command."""

    def start_many(self, count, first_address):
        self.ct("create", "many", "--from", self.place.template, "--count", count, "--ip-start", f"{first_address}/16", "--bridge", BRIDGE,
                "--memory", MEMORY, "--start", "-q")

    def enter(self, index, *words):
        return self.ct("exec", f"many-{index + 1}", "--", *words, check=False)

    def begin_exec(self, name, *words):
        return subprocess.Popen([self.place.hull, "ct", "exec", "--state", self.place.state, name, "--", *words], stdin=subprocess.DEVNULL)

    def keepers(self, count):
        return [self.keeper(f"many-{index + 1}") for index in range(count)]

    def end_many(self, count):
        self.ct("delete", "--force", "--all", "-q", check=False)

    def end(self):
        self.ct("delete", "--force", "--all", "-q", check=False)


LXC_CONFIG = """lxc.uts.name = {name}
lxc.rootfs.path = overlay:{lower}:{own}/upper
lxc.include = /usr/share/lxc/config/common.conf
lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed
lxc.net.0.type = veth
lxc.net.0.link = {bridge}
lxc.net.0.flags = up
lxc.net.0.ipv4.address = {address}/16
lxc.cgroup.memory.limit_in_bytes = {memory}
lxc.cgroup.dir = hull-bench/{name}
"""
LXC_IDS = f"""lxc.include = /usr/share/lxc/config/userns.conf
lxc.idmap = u 0 {FIRST_ID} 65536
lxc.idmap = g 0 {FIRST_ID} 65536
lxc.init.cmd = /first
"""


class LxcSide:
    """lxc-start, with its usual configuration: seccomp, limits, a card; ids where init is not systemd, which is degraded with them."""
    name = "lxc"

    def __init__(self, place):
        self.place = place
        self.folder = place.folder / "peers"

    def lxc(self, verb, name, *words, check=True):
        return run(f"lxc-{verb}", "-P", self.folder, "-n", name, *words, check=check)

    def make(self, name, address, lower, owner, more=""):
        own = self.place.make_upper(name, owner)
        text = LXC_CONFIG.format(name=name, lower=lower, own=own, bridge=BRIDGE, address=address, memory=MEMORY) + more
        (own / "config").write_text(text, encoding="ascii")

    def make_first(self, address):
        self.make("first", address, self.place.shifted, FIRST_ID, LXC_IDS)

    def start_first(self):
        began = time.time_ns()
        self.lxc("start", "first", "-d")
        ended = time.time_ns()
        return started_ns(self.folder / "first/upper/first-instruction", began) - began, ended - began

    def keeper(self, name="first"):
        return find_process(lambda words: words[0].startswith(b"[lxc monitor]") and words[0].endswith(b" " + name.encode()))

    def stop_first(self):
        self.lxc("stop", "first", "-k")

    def make_many(self, count):
        for index in range(count):
            self.make(f"many-{index + 1}", "{address}", self.place.root, 0)

    def start_many(self, count, first_address):
        base, last = first_address.rsplit(".", 1)
        for index in range(count):
            config = self.folder / f"many-{index + 1}/config"
            config.write_text(config.read_text(encoding="ascii").replace("{address}", f"{base}.{int(last) + index}"), encoding="ascii")
        for index in range(count):
            self.lxc("start", f"many-{index + 1}", "-d")

    def enter(self, index, *words):
        return self.lxc("attach", f"many-{index + 1}", "--", *words, check=False)

    def keepers(self, count):
        return [self.keeper(f"many-{index + 1}") for index in range(count)]

    def end_many(self, count):
        for index in range(count):
            self.lxc("stop", f"many-{index + 1}", "-k", check=False)
        for index in range(count):
            run("rm", "-rf", self.folder / f"many-{index + 1}")

    def end(self):
        for config in self.folder.glob("*/config"):
            self.lxc("stop", config.parent.name, "-k", check=False)


class NspawnSide:
    """systemd-nspawn on an overlay that is mounted before, with ids, seccomp and a card; limits would need systemd on the host."""
    name = "nspawn"

    def __init__(self, place):
        self.place, self.process, self.own = place, None, None

    def make_first(self, address):
        self.own = self.place.make_upper("first-nspawn", FIRST_ID)
        options = f"lowerdir={self.place.shifted},upperdir={self.own}/upper,workdir={self.own}/work"
        run("mount", "-t", "overlay", "-o", options, "overlay", self.own / "root")

    def start_first(self):
        words = ["systemd-nspawn", "--register=no", "--keep-unit", "-q", "-D", self.own / "root", f"--private-users={FIRST_ID}:65536",
                 "--private-users-ownership=off", f"--network-bridge={BRIDGE}", "--machine=first", "--link-journal=no", "--resolv-conf=off",
                 "--timezone=off", "--console=pipe", "/first"]
        began = time.time_ns()
        self.process = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        return started_ns(self.own / "upper/first-instruction", began) - began, None

    def keeper(self):
        return self.process.pid

    def stop_first(self):
        if self.process is not None:
            self.process.terminate()
            self.process.wait(TIMEOUT)
            self.process = None

    def end(self):
        self.stop_first()
        if self.own is not None:
            run("umount", "-l", self.own / "root", check=False)


def hull_info(side, name):
    return json.loads(side.ct("info", name, "--json"))
