"""Completion scripts and man pages against the verbs and options that there are, and completion in the shells themselves."""
import os
import re
import shutil
import subprocess
import tempfile

import pytest
from conftest import HULL, hull
from hulld import NEEDS_ROOT, manager  # noqa: F401 (a fixture)

MAN = HULL.parent.parent / "man"
PATH = f"{HULL.parent}:{os.environ['PATH']}"
BASH_CASES = 40  # verbs whose completion bash itself is asked for, spread over all


def verbs(*group):
    """Each verb, as words, with the text of its help, and whether it has verbs of its own."""
    text = hull(*group, "--help").stdout
    for name in re.findall(r"^  ([a-z-]+) +[A-Z]", text.partition("Verbs:\n")[2].partition("\n\n")[0], re.MULTILINE):
        inner = hull(*group, name, "--help").stdout
        below = list(verbs(*group, name)) if "\nVerbs:\n" in inner else []
        yield [*group, name], inner, below != []
        yield from below


def options(text):
    """(letter or "", name, has a value) of each option that a help tells of."""
    part = text.partition("\nOptions:\n")[2].partition("\n\n")[0]
    return [(letter, name, bool(value)) for letter, name, value in re.findall(r"^  (?:-(\w), |    )--([a-z0-9-]+)( [A-Z\[]\S*)?", part, re.MULTILINE)]


@pytest.fixture(name="table", scope="module")
def fixture_table():
    found = list(verbs())
    assert len(found) > 80 and sum(len(options(text)) for _, text, _ in found) > 200
    return found


def test_man_pages(table):
    """One for each verb, installed, with each option, in all of which groff finds nothing wrong."""
    overview = hull("man").stdout
    for words, text, is_group in table:
        page = hull("man", *words).stdout
        assert page.startswith(".TH " + "\\-".join(["HULL", *words]) + " 1")
        built = MAN / f"hull-{'-'.join(words)}.1"
        assert built.exists() and built.read_text() == page, words
        for letter, name, value in options(text):
            head = (rf"\-{letter}\fR, \fB" if letter else "") + r"\-\-" + name.replace("-", r"\-")
            assert re.search(r"(?m)^\.(B|TP\n\.B) .*" + re.escape(head), page), (words, name)
        if is_group:
            assert ".SH VERBS" in page
        if len(words) == 1:
            assert r"hull\-" + words[0] + " (1)" in overview
        # What the pages refer to is there.
        for other in re.findall(r"\.BR hull\\-(\S+) \(1\)", page):
            assert (MAN / f"hull-{other.replace(chr(92), '')}.1").exists(), (words, other)
    pages = {f"hull-{'-'.join(words)}.1" for words, _, _ in table} | {"hull.1"}
    assert {file.name for file in MAN.glob("hull*.1")} == pages


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_man_pages_are_roff(table):
    pages = [MAN / f"hull-{'-'.join(words)}.1" for words, _, _ in table]
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", MAN / "hull.1", *pages], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "", done.stderr


def test_fish_knows_all(table):
    """Each verb and each option stand in the script, behind the verb that has them."""
    lines = hull("completion", "fish").stdout.splitlines()
    for words, text, is_group in table:
        named = [line for line in lines if f" -a {words[-1]} " in line and all(word in line for word in words[:-1])]
        assert named, words
        own = [line for line in lines if f"from {words[0]}" in line and all(word in line for word in words)]
        for letter, name, value in options(text):
            found = [line for line in own if re.search(rf" -l {name}( |$)", line)]
            assert is_group or name == "help" or found, (words, name)
            assert is_group or not value or any(" -r" in line or " -x" in line or " -F" in line or " -a" in line for line in found), (words, name)


def completed(words, environment=None, shell="bash"):
    """What is offered for the last word."""
    if shell == "fish":
        line = " ".join(words)
        with tempfile.TemporaryDirectory() as home:  # fish writes to it
            done = subprocess.run(["fish", "--no-config", "-c", f"source (hull completion fish | psub); complete -C '{line}'"], capture_output=True, text=True, check=True,
                                  env={**(environment or os.environ), "PATH": PATH, "HOME": home})
        return [row.split("\t")[0] for row in done.stdout.splitlines()]
    script = hull("completion", "bash").stdout
    quoted = " ".join(f"'{word}'" for word in words)
    done = subprocess.run(["bash", "-c", f"{script}\ncompopt() {{ :; }}; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _hull; printf '%s\\n' \"${{COMPREPLY[@]}}\""],
                          capture_output=True, text=True, check=True, env={**(environment or os.environ), "PATH": PATH})
    assert done.stderr == "", done.stderr
    return [word.strip() for word in done.stdout.split("\n") if word.strip()]


def test_bash_completes_all(table):
    """By bash itself: verbs of verbs, and the options of some of them, which differ each time the table grows."""
    groups = {(): [words[0] for words, _, _ in table if len(words) == 1]}
    for words, _, _ in table:
        if len(words) > 1:
            groups.setdefault(tuple(words[:-1]), []).append(words[-1])
    for group, names in groups.items():
        assert set(completed(["hull", *group, ""])) >= set(names), group
    script = hull("completion", "bash").stdout
    leaves = [(words, text) for words, text, is_group in table if not is_group]
    for words, text in leaves:
        for letter, name, value in options(text):
            assert f"--{name}" in script, (words, name)
    for words, text in leaves[::max(1, len(leaves) // BASH_CASES)]:
        expected = {f"--{name}" for letter, name, value in options(text)}
        assert expected <= set(completed(["hull", *words, "--"])), words


def test_zsh_script(table):
    script = hull("completion", "zsh").stdout
    for words, text, is_group in table:
        assert re.search(rf"(?<![a-z-]){words[-1]}(?![a-z])", script), words
        for letter, name, value in options(text):
            assert is_group or name == "help" or f"--{name}" in script, (words, name)
    if shutil.which("zsh"):
        assert subprocess.run(["zsh", "-n"], input=script, text=True, capture_output=True, check=True).stderr == ""


SHELLS = ["bash", pytest.param("fish", marks=pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed"))]


@NEEDS_ROOT
@pytest.mark.parametrize("shell", SHELLS)
def test_names_of_what_there_is(manager, shell):
    """Instances, snapshots, images and the others, from hulld."""
    if "web1" not in manager.names():
        for name in ("web1", "web2"):
            manager.hull("create", "bb", name, "--set", "eth0.type=none")
        manager.hull("snapshot", "create", "web1", "before")
        manager.hull("profile", "create", "small")
        manager.hull("volume", "create", "data", "--size", "1M")
    for words, names in ((["start", ""], {"web1", "web2"}), (["stop", "web1", "we"], {"web1", "web2"}), (["delete", "--force", "web"], {"web1", "web2"}), (["launch", ""], {"bb"}),
                         (["image", "info", ""], {"bb"}), (["snapshot", "restore", "web1", ""], {"before"}), (["config", "w"], {"web1", "web2"}), (["exec", "w"], {"web1", "web2"}),
                         (["profile", "info", ""], {"default", "small"}), (["volume", "info", ""], {"default/data"}), (["pool", "info", ""], {"default"}),
                         (["network", "info", ""], {"default"}), (["launch", "--network", ""], {"default"}), (["console", "w"], {"web1", "web2"}), (["clone", "w"], {"web1", "web2"})):
        assert set(completed(["hull", *words], manager.environment, shell)) >= names, words


@pytest.mark.parametrize("shell", SHELLS)
def test_nothing_is_said_without_hulld(tmp_path, shell):
    """Nor is one started."""
    environment = {**os.environ, "HULL_SOCKET": str(tmp_path / "none"), "HULL_STATE": str(tmp_path / "state")}
    assert [name for name in completed(["hull", "start", ""], environment, shell) if not name.startswith("-")] == []
    assert not (tmp_path / "state").exists()
