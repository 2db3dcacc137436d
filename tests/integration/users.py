"""Ordinary users made for a test: each with a home, ranges of ids, and a manager of his own, in a mount namespace where /etc knows them."""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess

import hulld
from conftest import BUILD, HULL

# Devices are 0666 on Debian; here nobody else need find them so.
PREPARE = r"""
set -e
ip link set lo up
for file in passwd group subuid subgid; do
    mount --bind "$1/$file" /etc/$file
done
mount -t tmpfs -o mode=755 none "$1/dev"
mkdir "$1/dev/net" "$1/dev/shm"
for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 fuse:10:229 net/tun:10:200; do
    rest=${node#*:}
    mknod -m 666 "$1/dev/${node%%:*}" c "${rest%:*}" "${rest#*:}"
done
chmod 1777 "$1/dev/shm"
mkdir "$1/dev/pts"
mount --bind /dev/pts "$1/dev/pts"
ln -s pts/ptmx "$1/dev/ptmx"
ln -s /proc/self/fd "$1/dev/fd"
mount --rbind "$1/dev" /dev
echo
exec sleep 100000
"""


class Place:
    """Where some users are."""

    def __init__(self, folder, uids, without_ids=()):
        self.folder = folder
        (folder / "dev").mkdir()
        for name in ("passwd", "group"):
            text = pathlib.Path("/etc", name).read_text()
            shell = "::/nonexistent:/bin/sh" if name == "passwd" else ""
            text += "".join(f"tester{uid}:x:{uid}:{f'{uid}{shell}' if name == 'passwd' else ''}\n" for uid in uids)
            (folder / name).write_text(text)
        for name in ("subuid", "subgid"):
            (folder / name).write_text("".join(f"tester{uid}:{uid * 100000}:65536\n" for uid in uids if uid not in without_ids))
        self.holder = subprocess.Popen(["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", PREPARE, "sh", str(folder)],
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert self.holder.stdout.readline() == b"\n"

    def end(self):
        self.holder.kill()
        self.holder.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class UserManager(hulld.Manager):
    """hulld of one of them; `hull` and words of the shell are called as him."""

    def __init__(self, place, uid):
        self.uid, self.process, self.options = uid, None, ()
        self.place, self.holder, self.folder = place, place.holder, place.folder / f"u{uid}"
        self.folder.mkdir()
        self.runtime = self.folder / "run"
        self.runtime.mkdir(mode=0o700)
        for path in (self.folder, self.runtime):
            os.chown(path, uid, uid)
        self.state, self.socket = self.folder / ".local/share/hull", self.runtime / "hull/hulld.sock"
        self.environment = {"PATH": f"{BUILD / 'bin'}:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(self.folder), "XDG_RUNTIME_DIR": str(self.runtime),
                            "LANG": "C.UTF-8"}
        self.start()

    def within(self, *words):
        return super().within("setpriv", "--reuid", self.uid, "--regid", self.uid, "--clear-groups", "--inh-caps=-all", *words)

    def start(self):
        with open(self.folder / "hulld.log", "ab") as log:
            self.process = subprocess.Popen(self.within(BUILD / "bin/hulld"), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment, cwd="/")
        hulld.until(self.answers, "hulld")

    def run(self, *words, check=True, **options):
        done = subprocess.run(self.within(*words), stdin=None if "input" in options else subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=options.pop("text", True), timeout=hulld.TIMEOUT, check=False, env=self.environment, cwd="/", **options)
        assert not check or done.returncode == 0, f"{words}: status {done.returncode}: {done.stderr}"
        return done

    def hull(self, *words, **options):
        return self.run(HULL, *words, **options)

    def json(self, *words):
        return json.loads(self.hull(*words, "--json").stdout)

    def processes(self):
        """Of this user and of ids that are his, by number: their command lines."""
        own = range(self.uid * 100000, self.uid * 100000 + 65536)
        found = {}
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                uid = folder.stat().st_uid
                if uid == self.uid or uid in own:
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return found

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(hulld.TIMEOUT)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
