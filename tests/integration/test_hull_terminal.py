"""The verbs that need a terminal, on one that tmux emulates: what is seen on the screen, what keys do, and how the terminal is left."""
import contextlib
import os
import re
import shutil
import subprocess

import pytest
from conftest import HULL
from hulld import NEEDS_ROOT, manager, until  # noqa: F401 (a fixture)

pytestmark = [NEEDS_ROOT, pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")]
NO_CARD = ("--set", "eth0.type=none")


class Terminal:
    """A shell in a tmux of its own, which has `hull` in its PATH."""

    def __init__(self, manager, socket, columns=90, rows=25):
        self.socket, self.count = str(socket), 0
        environment = {**manager.environment, "PATH": f"{HULL.parent}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
        for name in ("TMUX", "NO_COLOR", "ENV"):
            environment.pop(name, None)
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", columns, "-y", rows, "sh -i", env=environment)
        self.type("echo rea''dy")
        self.shows("ready")

    def tmux(self, *words, **options):
        return subprocess.run(["tmux", "-S", self.socket, *map(str, words)], stdout=subprocess.PIPE, text=True, check=True, **options).stdout

    def keys(self, *names):
        self.tmux("send-keys", *names)

    def type(self, text):
        """A line."""
        self.tmux("send-keys", "-l", text)
        self.keys("Enter")

    def screen(self, *options):
        return self.tmux("capture-pane", "-p", *options)

    def shows(self, text):
        """Waits for it."""
        seen = ""

        def look():
            nonlocal seen
            seen = self.screen()
            return text in seen
        with contextlib.suppress(AssertionError):
            until(look, text, 20)
        assert text in seen, f"never showed {text!r}:\n{seen}"
        return seen

    def begin(self, command):
        """Of the outer shell, on an empty screen."""
        self.count += 1
        self.tmux("send-keys", "-R")
        self.type(f"{command}; echo ended{self.count}=$?.")

    def run(self, command):
        """A command of the outer shell to its end: (status, screen)."""
        self.begin(command)
        return self.ended()

    def ended(self):
        def told():
            return f"the end of a command; the screen:\n{self.screen()}"
        found = until(lambda: re.search(rf"(?ms)(.*)^ended{self.count}=(\d+)\.$", self.screen()), told(), 15)
        return int(found[2]), found[1].rstrip()

    def resize(self, columns, rows):
        self.tmux("resize-window", "-x", columns, "-y", rows)

    def on_other_screen(self):
        return self.tmux("display-message", "-p", "#{alternate_on}").strip() == "1"

    def is_sane(self):
        """Is the terminal as a shell wants it?"""
        has_cursor = self.tmux("display-message", "-p", "#{cursor_flag}").strip() == "1"
        return has_cursor and {"icanon", "echo", "isig", "opost", "icrnl"} <= set(self.run("stty -a")[1].replace(";", " ").split())

    def close(self):
        with contextlib.suppress(subprocess.CalledProcessError):
            self.tmux("kill-server")


@pytest.fixture(scope="module", name="web1")
def fixture_web1(manager):
    manager.hull("launch", "bb", "web1", "--memory", "64M", *NO_CARD)
    yield manager
    manager.hull("delete", "--force", "web1")


@pytest.fixture(name="terminal")
def fixture_terminal(web1, tmp_path):
    made = Terminal(web1, tmp_path / "tmux")
    yield made
    made.close()


def test_shell(terminal):
    """The window's size, also when it changes; Ctrl-C is the program's; the exit status is the shell's."""
    terminal.begin("hull shell web1")
    terminal.shows("~ #")
    terminal.type("stty size")
    terminal.shows("\n25 90\n")
    terminal.resize(70, 20)
    until(lambda: terminal.type("stty size") or "\n20 70\n" in terminal.screen(), "the new size", 60)
    terminal.type("sleep 1000")
    terminal.type("echo not-yet")
    terminal.keys("C-c")
    terminal.type("clear; echo after $((40 + 2))")
    terminal.shows("after 42")
    terminal.type("exit 7")
    assert terminal.ended()[0] == 7
    assert terminal.is_sane()


def test_exec_with_a_terminal(terminal):
    """A program that handles Ctrl-C gets it; without a terminal the size is nobody's."""
    terminal.begin("hull exec -t web1 -- sh -c 'trap \"echo caught; exit 9\" INT; stty size; echo rea''dy; while :; do sleep 0.1; done'")
    assert "25 90" in terminal.shows("ready")
    terminal.keys("C-c")
    status, seen = terminal.ended()
    assert status == 9 and "caught" in seen
    for _ in range(20):  # the size is there from the start
        assert terminal.run("hull exec -t web1 stty size")[1].endswith("\n25 90")
    assert terminal.run("hull exec web1 -- sh -c 'test -t 0 || echo no terminal' < /dev/null")[1].endswith("no terminal")
    assert terminal.run("hull exec -t web1 -- sh -c 'kill -TERM $$'")[0] == 128 + 15
    assert terminal.is_sane()


def test_console(terminal, web1):
    """Ctrl-] and q leave it, and the terminal is as before."""
    terminal.begin("hull console web1")
    terminal.shows("leaves it")
    web1.hull("exec", "web1", "--", "sh", "-c", "echo from-inside > /dev/console")
    terminal.shows("from-inside")
    terminal.keys("C-c")  # not ours
    terminal.keys("C-]")
    terminal.keys("q")
    assert terminal.ended()[0] == 0
    assert terminal.is_sane()


def test_top(terminal, web1):
    """On the other screen, in the window's size, sorted by what keys say; q brings back what was there."""
    web1.hull("launch", "bb", "zz", *NO_CARD)
    try:
        web1.hull("exec", "zz", "--", "sh", "-c", "sh -c 'x=$(yes | head -c 6000000); echo held; exec 1>&-; while :; do sleep 1; done' > /root/held 2>&1 &")
        until(lambda: "held" in web1.hull("exec", "zz", "cat", "/root/held").stdout, "memory that is held")
        terminal.begin("hull top")
        seen = terminal.shows("q quits")
        assert terminal.on_other_screen() and "echo" not in seen and seen.splitlines()[0].startswith("hull top: 2 instances, 2 running")

        def order():
            return [line.split()[0] for line in terminal.screen().splitlines() if " container " in line]
        terminal.keys("a")
        until(lambda: order() == ["web1", "zz"], "the order of names")
        terminal.keys("m")
        until(lambda: order() == ["zz", "web1"], "the order of memory")
        terminal.resize(60, 12)
        until(lambda: (lines := terminal.screen().splitlines()) and len(lines) == 12 and lines[-1].startswith("q quits"), "the new size")
        terminal.keys("q")
        assert terminal.ended()[0] == 0
        assert not terminal.on_other_screen() and "hull top; echo" in terminal.screen()
        terminal.begin("hull top")
        terminal.shows("q quits")
        terminal.keys("C-c")
        assert terminal.ended()[0] == 0 and not terminal.on_other_screen()
        assert terminal.is_sane()
    finally:
        web1.hull("delete", "--force", "zz")


def test_config_edit(terminal, web1, tmp_path):
    """The editor has the terminal; when it fails, or what it leaves is wrong, nothing is changed."""
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\ngrep memory \"$1\"\nprintf 'new? '\nread line || exit 1\n"
                      "[ \"$line\" = fail ] && exit 4\nsed -i \"s/memory: .*/memory: '$line'/\" \"$1\"\n")
    editor.chmod(0o755)
    terminal.type(f"export EDITOR={editor}")
    for answer, status, memory in (("80M", 0, "80M"), ("fail", 1, "80M"), ("much", 1, "80M"), ("64M", 0, "64M")):
        terminal.begin("hull config web1 edit")
        terminal.shows("new?")
        terminal.type(answer)
        seen = terminal.ended()
        assert seen[0] == status, seen
        assert status == 0 or "hull: " in seen[1]
        assert web1.json("config", "web1")["config"]["memory"] == memory
    assert terminal.is_sane()


def slow_stop(manager, seconds):
    """web1 takes so long to stop."""
    manager.hull("exec", "web1", "--", "sh", "-c", f"echo '::shutdown:/bin/sleep {seconds}' > /etc/inittab; kill -HUP 1")


def test_progress_and_cancelling(terminal, web1):
    """What takes longer than a second shows itself on a line that is gone at the end; Ctrl-C cancels it, and says so."""
    slow_stop(web1, 3)
    terminal.begin("hull stop web1")
    terminal.shows("stopping web1")
    status, seen = terminal.ended()
    assert status == 0 and "stopping" not in seen
    web1.hull("start", "web1")
    slow_stop(web1, 100)
    terminal.begin("hull stop web1")
    terminal.shows("stopping web1")
    terminal.keys("C-c")
    status, seen = terminal.ended()
    assert status == 130 and "cancelling" in seen and "hull: stopping web1: " in seen and "cancel" in seen.split("hull: stopping web1: ")[1], seen
    until(lambda: not any(row["status"] in ("waiting", "running") for row in web1.get("/v1/operations")), "the operation's end")
    web1.hull("stop", "--force", "web1")
    web1.hull("start", "web1")
    assert terminal.is_sane()


def test_colours(terminal, web1):
    """On a terminal alone, and never with NO_COLOR."""
    def colours(command):
        terminal.run(command)
        return "\x1b[3" in "\n".join(line for line in terminal.screen("-e").splitlines() if "web1" in line and "running" in line)
    assert colours("hull list")
    assert not colours("NO_COLOR=1 hull list")
    assert not colours("hull list | cat")
    for words in (("list",), ("top",), ("image", "list"), ("system", "df")):
        done = web1.hull(*words)
        assert "\x1b" not in done.stdout + done.stderr and "\r" not in done.stdout + done.stderr, words


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_tab_in_zsh(terminal, web1, tmp_path):
    """Verbs, options and names, as the user's own shell completes them."""
    (tmp_path / "_hull").write_text(web1.hull("completion", "zsh").stdout)
    terminal.begin("zsh -f")
    terminal.type(f"PS1='inner '; fpath=({tmp_path} $fpath); autoload -U compinit; compinit -u -D; echo rea''dy")
    terminal.shows("ready")
    for typed, completed in (("hull sta", "hull start "), ("hull start we", "hull start web1"), ("hull image inf", "hull image info "),
                             ("hull image info b", "hull image info bb"),
                             ("hull launch --netw", "hull launch --network"), ("hull snapshot restore w", "hull snapshot restore web1")):
        terminal.tmux("send-keys", "-l", typed)
        terminal.keys("Tab")
        terminal.shows(f"inner {completed}".rstrip())
        terminal.keys("C-u")
    terminal.type("exit")
    assert terminal.ended()[0] == 0
