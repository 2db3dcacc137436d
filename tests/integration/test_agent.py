"""hull-agent on this machine, on a unix socket: what it does for one process. In guests: test_agent_guest.py."""
import contextlib
import io
import os
import pathlib
import pwd
import signal
import socket
import struct
import subprocess
import tarfile
import threading
import time

import pytest

from agent_client import CONTROL, STDIN, Agent
from conftest import BUILD

AGENT = BUILD / "bin/hull-agent"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners of files and other users: needs root")


@contextlib.contextmanager
def running(folder):
    path = folder / "agent"
    with subprocess.Popen([AGENT, "--listen", f"unix:{path}"]) as process:
        try:
            end = time.monotonic() + 30
            while not path.exists():
                assert process.poll() is None and time.monotonic() < end
                time.sleep(0.01)
            yield path, process.pid
        finally:
            process.terminate()


@pytest.fixture(name="agent", scope="module")
def fixture_agent(tmp_path_factory):
    with running(tmp_path_factory.mktemp("agent")) as (path, _):
        yield path


def execute(path, *command, data=b"", **request):
    with Agent(path, {"do": "exec", "command": command, **request}) as agent:
        agent.started()
        agent.write(data)
        agent.eof()
        return agent.finish()


def refused(socket_path, **request):
    with Agent(socket_path, request) as agent:
        return agent.answer()["error"]


def test_info(agent):
    with Agent(agent, {"do": "info"}) as connection:
        info = connection.answer()["ok"]
    assert info["hostname"] == socket.gethostname()
    assert info["kernel"] == os.uname().release
    memory = int(pathlib.Path("/proc/meminfo").read_text().split()[1]) << 10
    assert info["memory"]["total_bytes"] == memory
    assert 0 < info["memory"]["free_bytes"] < memory
    root = os.statvfs("/")
    assert info["root"]["size_bytes"] == root.f_blocks * root.f_frsize
    assert info["uptime_s"] > 0 and len(info["load"]) == 3
    assert all(a["interface"] != "lo" for a in info["addresses"])


def test_streams_and_status(agent):
    output, errors, end = execute(agent, "sh", "-c", "cat; echo wrong >&2; exit 7", data=b"words")
    assert (output, errors, end) == (b"words", b"wrong\n", {"exit": 7})
    assert execute(agent, "sh", "-c", "kill -SEGV $$")[2] == {"signalled": signal.SIGSEGV}


def test_much_data_both_ways_at_once(agent):
    data = os.urandom(20 << 20)
    with Agent(agent, {"do": "exec", "command": ["cat"]}) as connection:
        connection.started()
        writer = threading.Thread(target=lambda: (connection.write(data), connection.eof()))
        writer.start()
        output, _, end = connection.finish()
        writer.join()
    assert output == data and end == {"exit": 0}


def test_environment_and_folder(agent):
    output, _, _ = execute(agent, "sh", "-c", "echo $HOME $USER $WORD $(pwd); umask", environment={"WORD": "a b"}, cwd="/usr/bin")
    assert output == b"/root root a b /usr/bin\n0022\n"
    output, _, _ = execute(agent, "env", environment={"PATH": "/usr/bin"})
    assert b"PATH=/usr/bin\n" in output and b"TERM=" not in output


def test_users(agent):
    nobody = pwd.getpwnam("nobody")
    output, _, _ = execute(agent, "id", "-nu", user="nobody")
    assert output == b"nobody\n"
    output, _, _ = execute(agent, "sh", "-c", "id -u; id -g; id -G", user="12345:23456")
    assert output == b"12345\n23456\n23456\n"
    output, _, _ = execute(agent, "sh", "-c", "id -u; id -g", user=str(nobody.pw_uid))
    assert output.split() == [str(nobody.pw_uid).encode(), str(nobody.pw_gid).encode()]
    assert refused(agent, do="exec", command=["id"], user="no such user")["code"] == "not-found"


def test_programs_that_do_not_start(agent):
    assert refused(agent, do="exec", command=["/no/such/program"])["code"] == "not-found"
    assert refused(agent, do="exec", command=["/etc/passwd"])["code"] == "forbidden"
    assert refused(agent, do="exec", command=["true"], cwd="/no/such/folder")["code"] == "not-found"
    assert refused(agent, do="exec", command=[""])["code"] == "invalid"


def test_terminal(agent):
    with Agent(agent, {"do": "exec", "command": ["sh"], "terminal": True, "columns": 100, "rows": 30,
                       "environment": {"PS1": "prompt> "}}) as connection:
        connection.started().until(b"prompt> ")
        connection.write(b"tty; stty size; echo $TERM\n")
        seen = connection.until(b"xterm\r\n")
        assert b"/dev/pts/" in seen and b"30 100" in seen
        connection.control(resize=[132, 43])
        connection.write(b"stty size\n")
        connection.until(b"43 132")
        connection.write(b"sleep 1000\n")
        time.sleep(0.2)
        connection.write(b"\x03")
        connection.write(b"echo still''here\n")
        connection.until(b"stillhere")
        connection.write(b"exit 3\n")
        assert connection.finish()[2] == {"exit": 3}


def test_last_words_on_a_terminal_are_whole(agent):
    for _ in range(20):
        output, _, end = execute(agent, "seq", "5000", terminal=True)
        assert output.split()[-1] == b"5000" and len(output.split()) == 5000 and end == {"exit": 0}


def test_end_of_input_on_a_terminal(agent):
    output, _, end = execute(agent, "cat", data=b"line\n", terminal=True)
    assert b"line" in output and end == {"exit": 0}


def test_signals(agent):
    with Agent(agent, {"do": "exec", "command": ["sh", "-c", "trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.05; done"]}) as c:
        c.started().until(b"ready")
        c.control(signal=signal.SIGTERM)
        output, _, end = c.finish()
        assert output == b"got\n" and end == {"exit": 5}
    with Agent(agent, {"do": "exec", "command": ["sleep", "1000"]}) as c:
        c.started().control(signal=signal.SIGKILL)
        assert c.finish()[2] == {"signalled": signal.SIGKILL}


def is_alive(pid):
    """Zombies are not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("terminal", [False, True])
def test_programs_end_with_the_connection(agent, terminal):
    script = "trap '' HUP TERM; set -m; sleep 1001 & echo pid $! end; echo pid $$ end; while :; do sleep 0.1; done"
    with Agent(agent, {"do": "exec", "command": ["bash", "-c", script], "terminal": terminal}) as connection:
        seen = connection.started().until(b"pid")
        while seen.count(b"end") < 2:
            seen += connection.receive()[1]
        pids = [int(word) for word in seen.split() if word.isdigit()]
    assert len(pids) == 2
    end = time.monotonic() + 30
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < end, "a program outlived its connection"
        time.sleep(0.05)


def test_a_program_in_the_background_does_not_hold_the_session(agent):
    with Agent(agent, {"do": "exec", "command": ["sh", "-c", "sleep 1002 & echo $!"]}) as connection:
        output, _, end = connection.started().finish()
    os.kill(int(output), signal.SIGKILL)
    assert end == {"exit": 0}


def test_control_comes_through_while_the_program_does_not_read(agent):
    with Agent(agent, {"do": "exec", "command": ["sleep", "1000"]}) as connection:
        connection.started().write(bytes(100000))  # more than its pipe takes
        connection.control(signal=signal.SIGINT)
        assert connection.finish()[2] == {"signalled": signal.SIGINT}


def test_bad_requests(agent):
    for request in [{"do": "nothing"}, {"do": 1}, {"do": "exec", "command": "true"}, {"do": "exec", "command": ["true"], "cwd": 1},
                    {"do": "push", "path": "relative"}, {"do": "pull"}, {"do": "exec", "command": ["x"], "environment": {"a=b": "c"}},
                    {"do": "identity", "hostname": "a b"}, {"do": "time"}, {"do": "shutdown", "how": "now"}]:
        assert refused(agent, **request)["code"] == "invalid", request
    with Agent(agent) as connection:
        connection.send(STDIN, b"hello")
        assert connection.answer()["error"]["code"] == "invalid"
    with Agent(agent) as connection:
        connection.send(CONTROL, b"[" * 60000)
        assert connection.answer()["error"]["code"] == "invalid"
    with Agent(agent) as connection:
        connection.socket.sendall(struct.pack("<IB", 1 << 31, CONTROL))
        assert connection.answer()["error"]["code"] == "invalid"


def test_this_machine_stays_as_it_is(agent):
    for what in ["shutdown", "freeze", "thaw", "grow", "identity"]:
        assert refused(agent, do=what)["code"] == "forbidden"
    assert refused(agent, do="time", ns=1)["code"] == "forbidden"


def test_too_many_connections(tmp_path):
    with running(tmp_path) as (path, _):
        held = [Agent(path, {"do": "exec", "command": ["sleep", "1000"]}).started() for _ in range(64)]
        assert refused(path, do="info")["code"] == "busy"
        for agent in held:
            agent.socket.close()
        end = time.monotonic() + 30
        while True:
            with Agent(path, {"do": "info"}) as agent:
                if "ok" in agent.answer():
                    break
            assert time.monotonic() < end
            time.sleep(0.1)


def push(path, target, data):
    with Agent(path, {"do": "push", "path": str(target)}) as agent:
        answer = agent.answer()
        if "error" in answer:
            return answer
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            agent.write(data)
            agent.eof()
        return agent.finish()[2]


def pull(path, source):
    with Agent(path, {"do": "pull", "path": str(source)}) as agent:
        answer = agent.answer()
        return (b"", b"", answer) if "error" in answer else agent.finish()


def tree_of(folder):
    """All that matters of each file."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, content, status.st_rdev,
                                                status.st_nlink if path.is_file() else 0)
    return found


@pytest.fixture(name="tree")
def fixture_tree(tmp_path):
    """Files of all kinds, with names, times and owners that are hard to keep."""
    tree = tmp_path / "tree"
    deep = tree.joinpath(*["a folder with a long name"] * 12)
    deep.mkdir(parents=True)
    (deep / ("n" * 200)).write_bytes(os.urandom(100001))
    (tree / "empty").touch()
    (tree / "blocks").write_bytes(bytes(1024))
    (tree / "program").write_text("#!/bin/sh\n")
    os.chown(tree / "program", 1000, 3000000)
    (tree / "program").chmod(0o6755)
    os.link(tree / "program", tree / "program too")
    (tree / "link").symlink_to("/etc/passwd")
    (tree / "long link").symlink_to("x/" * 150)
    (tree / "übung\n").write_text("")
    (tree / "closed").mkdir(mode=0o500)
    (tree / "closed/file").write_text("inside")
    os.mkfifo(tree / "pipe")
    os.mknod(tree / "device", 0o20600, os.makedev(1, 3))
    os.utime(tree / "blocks", ns=(0, -1500000000))
    os.utime(tree / "empty", ns=(0, 123456789012345678))
    return tree


def test_pull_and_push_keep_everything(agent, tree, tmp_path):
    before = tree_of(tree)
    data, errors, end = pull(agent, tree)
    assert (errors, end) == (b"", {"exit": 0})
    assert push(agent, tmp_path / "new/place", data) == {"exit": 0}
    assert tree_of(tmp_path / "new/place/tree") == before
    assert push(agent, tmp_path / "new/place", data) == {"exit": 0}  # over what is there
    assert tree_of(tmp_path / "new/place/tree") == before


def test_streams_are_those_of_tar(agent, tree, tmp_path):
    before = tree_of(tree)
    data, _, _ = pull(agent, tree)
    (tmp_path / "tar").mkdir()
    subprocess.run(["tar", "-xpf", "-", "--numeric-owner", "-C", tmp_path / "tar"], input=data, check=True)
    assert tree_of(tmp_path / "tar/tree") == before
    for form in ["gnu", "posix"]:
        target = tmp_path / form
        data = subprocess.run(["tar", "-cf", "-", f"--format={form}", "--numeric-owner", "-C", tmp_path, "tree"], check=True,
                              stdout=subprocess.PIPE).stdout
        assert push(agent, target, data) == {"exit": 0}
        after = tree_of(target / "tree")
        if form == "gnu":  # has whole seconds
            before = {name: (*value[:3], value[3] // 10**9, *value[4:]) for name, value in before.items()}
            after = {name: (*value[:3], value[3] // 10**9, *value[4:]) for name, value in after.items()}
            assert after == before
            before = tree_of(tree)
        else:
            assert after == before


def test_pull_of_one_file_and_of_none(agent):
    data, _, end = pull(agent, "/etc/passwd")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["passwd"]
        assert archive.extractfile("passwd").read() == pathlib.Path("/etc/passwd").read_bytes()
    assert end == {"exit": 0}
    assert pull(agent, "/no/such/file")[2]["error"]["code"] == "not-found"


def archive_of(*entries):
    """Entries: (name, type, content or target)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, content in entries:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.linkname = content
                info.mode = 0o755
                archive.addfile(info)
    return stream.getvalue()


FILE, LINK, HARD, FOLDER = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE


@pytest.mark.parametrize("entries", [
    [("../outside/new", FILE, b"bad")],
    [("a/../../outside/new", FILE, b"bad")],
    [("link", LINK, "../outside"), ("link/new", FILE, b"bad")],
    [("link", LINK, "OUTSIDE"), ("link/new", FILE, b"bad")],
    [("link", LINK, "OUTSIDE/new"), ("link/deeper/x", FILE, b"bad")],
    [("hard", HARD, "../outside/secret"), ("hard", FILE, b"bad")],
    [("hard", HARD, "OUTSIDE/secret")],
    [("link", LINK, "OUTSIDE"), ("hard", HARD, "link/secret")],
    [("link", LINK, "OUTSIDE"), ("link/folder", FOLDER, "")],
    [("one", LINK, "."), ("one/two", LINK, "../outside"), ("two/new", FILE, b"bad")],
])
def test_nothing_leads_out_of_the_folder(agent, tmp_path, entries):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    entries = [(name, kind, content.replace("OUTSIDE", str(outside)) if isinstance(content, str) else content)
               for name, kind, content in entries]
    end = push(agent, inside, archive_of(*entries))
    assert "error" in end, end
    assert [p.name for p in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_text() == "secret" and (outside / "secret").stat().st_nlink == 1


def test_links_are_replaced_and_not_written_through(agent, tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.write_text("before")
    assert push(agent, inside, archive_of(("file", LINK, str(outside)), ("file", FILE, b"new"))) == {"exit": 0}
    assert outside.read_text() == "before"
    assert (inside / "file").read_text() == "new" and not (inside / "file").is_symlink()


def test_a_running_program_can_be_replaced(agent, tmp_path):
    program = tmp_path / "program"
    program.write_bytes(pathlib.Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    with subprocess.Popen([program, "1000"]) as process:
        assert push(agent, tmp_path, archive_of(("program", FILE, b"new"))) == {"exit": 0}
        process.kill()
    assert program.read_text() == "new"


@pytest.mark.parametrize("damage", ["cut in a header", "cut in data", "checksum", "no tar"])
def test_damaged_streams(agent, tmp_path, damage):
    data = archive_of(("one", FILE, b"1" * 2000), ("two", FILE, b"2" * 2000))
    data = {"cut in a header": data[:3000], "cut in data": data[:1500], "checksum": b"X" + data[1:], "no tar": os.urandom(5000)}[damage]
    assert push(agent, tmp_path / "new", data)["error"]["code"] in ("invalid", "failed")


def test_warnings_of_a_pull(agent, tmp_path):
    """The kernel's file says that it has 4096 bytes and gives fewer."""
    data, errors, end = pull(agent, "/sys/kernel/uevent_seqnum")
    assert end == {"exit": 1} and b"uevent_seqnum: it shrank" in errors
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getmember("uevent_seqnum").size == 4096
