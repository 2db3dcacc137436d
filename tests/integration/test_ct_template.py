"""hull ct template: building, listing, checking and deleting what containers are made from."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest
from conftest import HULL
from ct import BUILD_TIMEOUT, NEEDS_ROOT, STATE, debian_template, hull_ct, templates  # noqa: F401 (a fixture)

pytestmark = NEEDS_ROOT


@pytest.fixture(name="state")
def state_fixture(tmp_path):
    return tmp_path / "state"


@pytest.fixture(name="busybox")
def busybox_fixture(state):
    """The name of a template in this test's own state."""
    if shutil.which("busybox") is None:
        pytest.skip("busybox is not installed")
    hull_ct("template", "build", "bb", "--variant", "busybox", state=state)
    return "bb"


def root_of(name, state):
    """The folder with the template's own files."""
    layers = json.loads(hull_ct("template", "info", name, "--json", state=state).stdout)["layers"]
    return pathlib.Path(layers[0])


def unfinished(state):
    return list((state / "templates").glob(".build-*"))


def failure(*arguments, state):
    """What it says, in one line."""
    done = hull_ct("template", *arguments, *(["-q"] if arguments[0] == "build" else []), state=state, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("hull: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def wait_for(condition, what):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


def test_busybox(state, busybox):
    row = templates(state)[busybox]
    assert row["variant"] == "busybox" and row["used_by"] == [] and row["files"] > 100 and row["size_bytes"] > 100000
    root = root_of(busybox, state)
    assert os.readlink(root / "bin/sh") == "/bin/busybox"
    assert (root / "sbin/init").is_symlink() and (root / "etc/inittab").exists()
    assert (root / "etc/resolv.conf").read_text() == ""
    # Users of the host do not get at programs that are root's.
    assert root.parent.stat().st_mode & 0o777 == 0o700
    assert subprocess.run(["chroot", root, "/bin/sh", "-c", "echo works"], stdout=subprocess.PIPE, text=True, check=True).stdout == "works\n"
    # The same content is the same template.
    digest = hull_ct("template", "build", "again", "--variant", "busybox", state=state).stdout.strip()
    assert digest == row["digest"] and set(templates(state)) == {"bb", "again"}
    assert len(list((state / "templates").glob("sha256-*"))) == 1
    assert "as it was built" in hull_ct("template", "check", digest[7:15], state=state).stdout
    hull_ct("template", "delete", "bb", state=state)
    assert root.exists()
    hull_ct("template", "delete", "again", state=state)
    assert not root.exists() and templates(state) == {}


def test_layer(state, busybox, tmp_path):
    source = tmp_path / "site"
    (source / "deep").mkdir(parents=True)
    (source / "deep/page").write_text("hello")
    (source / "script").write_text("#!/bin/sh\nexit 3\n")
    (source / "script").chmod(0o750)
    os.chown(source / "script", 1000, 1000)
    (source / "link").symlink_to("/etc/passwd")
    hull_ct("template", "build", "site", "--from", busybox, "--file", f"{source}:/srv/site", "--file", f"{source}/deep/page:/page",
            "--run", "cat /srv/site/deep/page /page > /made; id -u >> /made; rm /etc/profile; echo x > /tmp/x; echo x > /run/x", state=state)
    root = root_of("site", state)
    assert (root / "made").read_text() == "hellohello0\n"
    script = (root / "srv/site/script").stat()
    assert (script.st_mode & 0o7777, script.st_uid, script.st_gid) == (0o750, 0, 0)
    assert os.readlink(root / "srv/site/link") == "/etc/passwd"
    # Removed from the one below: a whiteout. The rest is there alone, and nothing of the building.
    assert (root / "etc/profile").is_char_device()
    assert {p.name for p in root.iterdir()} == {"made", "page", "srv", "etc"}
    assert {p.name for p in (root / "etc").iterdir()} == {"profile"}
    row = templates(state)["site"]
    assert row["from"] == busybox and row["variant"] == "application"
    assert templates(state)[busybox]["used_by"] == ["template site"]
    assert "template site" in failure("delete", busybox, state=state)
    hull_ct("template", "delete", busybox, "--force", state=state)
    hull_ct("template", "check", "site", state=state)
    hull_ct("template", "delete", "site", state=state)
    assert list((state / "templates").glob("sha256-*")) == []


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_root_tree(state, tmp_path, kind):
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/hostname").write_text("of-another-host\n")
    (tree / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (tree / "file").write_text("content")
    os.chown(tree / "file", 1234, 4321)
    os.setxattr(tree / "file", "trusted.kept", b"1")
    (tree / "out").symlink_to("/etc/hostname")
    if kind == "archive":
        subprocess.run(["tar", "-C", tree, "--xattrs", "--xattrs-include=*", "-czf", tmp_path / "tree.tar.gz", "."], check=True)
        tree = tmp_path / "tree.tar.gz"
    hull_ct("template", "build", "mine", "--root-tree", tree, state=state)
    root = root_of("mine", state)
    status = (root / "file").stat()
    assert (status.st_uid, status.st_gid) == (1234, 4321)
    assert os.getxattr(root / "file", "trusted.kept") == b"1"
    assert (root / "etc/hostname").read_text() == "" and (root / "etc/machine-id").read_text() == ""
    assert os.readlink(root / "out") == "/etc/hostname"


def test_hostile_tree(state, tmp_path):
    """Links where the build writes lead nowhere outside."""
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    tree.mkdir()
    outside.mkdir()
    (outside / "hostname").write_text("keep")
    for name in ("etc", "run", "tmp", "dev", "proc"):
        (tree / name).symlink_to(outside)
    done = hull_ct("template", "build", "bad", "--root-tree", tree, state=state, check=False)
    assert done.returncode == 1 and "hull: building the template bad" in done.stderr
    assert [p.name for p in outside.iterdir()] == ["hostname"] and (outside / "hostname").read_text() == "keep"
    assert unfinished(state) == []


def test_changed(state, busybox):
    root = root_of(busybox, state)
    with open(root / "etc/profile", "a", encoding="ascii") as file:
        file.write("evil\n")
    assert "/etc/profile was changed" in failure("check", busybox, state=state)
    assert "its files were changed" in failure("build", "on", "--from", busybox, state=state)
    hull_ct("template", "build", busybox, "--variant", "busybox", state=state)
    hull_ct("template", "check", busybox, state=state)


def test_errors(state, busybox):
    assert "minimal, standard, web or busybox" in failure("build", "x", "--variant", "huge", state=state)
    assert "has no packages" in failure("build", "x", "--variant", "busybox", "-p", "nginx", state=state)
    assert "one of" in failure("build", "x", "--variant", "busybox", "--from", busybox, state=state)
    assert "does not exist: there are bb" in failure("build", "x", "--from", "nothing", state=state)
    assert "template name" in failure("build", "../x", "--variant", "busybox", state=state)
    assert "something is missing" in failure("build", state=state)
    assert "FILE:/PATH" in failure("build", "x", "--from", busybox, "--file", "nowhere", state=state)
    assert "/nowhere" in failure("build", "x", "--from", busybox, "--file", "/nowhere:/x", state=state)
    assert "the command failed: it says so" in failure("build", "x", "--from", busybox, "--run", "echo it says so; false", state=state)
    assert "/nowhere" in failure("build", "x", "--root-tree", "/nowhere", state=state)
    for verb in ("info", "check", "delete"):
        assert "does not exist" in failure(verb, "nothing", state=state)
    assert set(templates(state)) == {"bb"} and unfinished(state) == []
    done = subprocess.run([HULL, "ct", "template", "bild"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1 and "did you mean build?" in done.stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_ended_while_building(state, busybox, tmp_path, how):
    word = f"97{os.getpid()}"  # seconds that no other sleep on this machine has
    process = subprocess.Popen([HULL, "ct", "template", "build", "x", "--from", busybox, "--run", f"sleep {word}", "--state", state],
                               stderr=subprocess.PIPE, text=True)

    def sleepers():
        return [p for p in pathlib.Path("/proc").glob("[0-9]*/cmdline") if read(p).split(b"\0")[:2] == [b"sleep", word.encode()]]

    def read(path):
        try:
            return path.read_bytes()
        except OSError:
            return b""

    wait_for(sleepers, "the command runs")
    assert len(unfinished(state)) == 1
    # Somebody else's build of the same name does not take it away.
    hull_ct("template", "build", "x", "--from", busybox, "--run", "echo other > /other", state=state)
    assert len(unfinished(state)) == 1
    process.send_signal(how)
    stderr = process.communicate(timeout=60)[1]
    wait_for(lambda: not sleepers(), "the command has ended")
    if how == signal.SIGKILL:
        assert len(unfinished(state)) == 1
        hull_ct("template", "build", "y", "--variant", "busybox", state=state)
    else:
        assert process.returncode == 1 and "interrupted" in stderr
    assert unfinished(state) == []
    assert (root_of("x", state) / "other").exists()


def test_same_name_at_once(state, busybox):
    words = [HULL, "ct", "template", "build", "x", "--from", busybox, "--state", state]
    processes = [subprocess.Popen([*words, "--run", f"echo {i} > /made"], stdout=subprocess.PIPE, text=True) for i in range(4)]
    digests = [p.communicate(timeout=BUILD_TIMEOUT)[0].strip() for p in processes]
    assert all(p.returncode == 0 for p in processes)
    row = templates(state)["x"]
    assert row["digest"] in digests and unfinished(state) == []
    hull_ct("template", "check", "x", state=state)


def test_help_and_completion():
    for words in (["ct", "template", "build", "--help"], ["help", "ct", "template", "build"]):
        assert "Usage: hull ct template build" in subprocess.run([HULL, *words], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert "hull ct template build" in subprocess.run([HULL, "man", "ct", "template", "build"], stdout=subprocess.PIPE, text=True, check=True).stdout
    script = f"source <({HULL} completion bash); COMP_WORDS=(hull {{}}); COMP_CWORD={{}}; _hull 2>/dev/null; echo ${{{{COMPREPLY[@]}}}}"

    def complete(words):
        return subprocess.run(["bash", "-c", script.format(words, len(words.split(" ")))], stdout=subprocess.PIPE, text=True,
                              check=True).stdout.split()

    assert complete("ct te") == ["template"]
    assert complete("ct template bu") == ["build"]
    assert complete("ct template build --var") == ["--variant"]
    assert complete("ct template build --variant b") == ["busybox"]
    assert complete("disk inf") == ["info"]


def test_debian(debian_template):  # noqa: F811
    root = root_of(debian_template, STATE)
    row = templates()[debian_template]
    assert row["variant"] == "minimal" and row["suite"]
    for name in ("machine-id", "hostname", "hosts", "resolv.conf"):
        assert (root / "etc" / name).read_text() == "", name
    assert list((root / "etc/ssh").glob("ssh_host_*")) == [] if (root / "etc/ssh").exists() else True
    assert list((root / "var/lib/apt/lists").glob("*_Packages")) == [] and list((root / "var/cache/apt").glob("*.bin")) == []
    shadow = [line for line in (root / "etc/shadow").read_text().splitlines() if line.startswith("root:")][0]
    assert shadow.split(":")[1].startswith(("!", "*"))
    assert not (root / "usr/sbin/policy-rc.d").exists() and not (root / "etc/apt/apt.conf.d/99mmdebstrap").exists()
    assert "@" not in (root / "etc/apt/sources.list").read_text()
    for program in ("sbin/init", "bin/systemctl", "sbin/ip", "bin/ping", "usr/bin/apt-get", "bin/ps", "usr/bin/less"):
        assert os.path.lexists(root / program), program
    for unit in ("systemd-udevd.service", "sys-kernel-debug.mount", "getty@tty1.service"):
        assert os.readlink(root / "etc/systemd/system" / unit) == "/dev/null"


def test_debian_packages(debian_template):  # noqa: F811
    name = "test-packages"
    hull_ct("template", "build", name, "--from", debian_template, "-p", "hello", "--run", "hello > /said")
    try:
        root = root_of(name, STATE)
        assert (root / "said").read_text() == "Hello, world!\n" and (root / "usr/bin/hello").exists()
        left = {str(p.relative_to(root)) for p in root.rglob("*") if not p.is_dir()}
        assert not [p for p in left if p.startswith(("var/lib/apt/lists", "var/cache/apt", "var/log", "run", "tmp", "dev", "etc/resolv.conf",
                                                     "etc/apt", "usr/sbin/policy-rc.d"))], left
    finally:
        hull_ct("template", "delete", name)
    assert "nothing-of-that-name" in failure("build", name, "--from", debian_template, "-p", "nothing-of-that-name", state=STATE)
