"""The programs of Debian that are measured in a root file system of their own, see make_guest.py: {name: (command, verify)}.

What both print must be the same everywhere; only the command is timed.
"""
DIGEST = "sha256sum </tmp/out"

PROGRAMS = {
    "gzip": ("gzip -nc /data/text >/tmp/out", DIGEST),
    "gunzip": ("gzip -dc /data/text.gz >/tmp/out", DIGEST),
    "xz": ("xz -3 -T1 -c /data/text3 >/tmp/out", DIGEST),
    "python_loop": ("python3 -Sc 'd = {}\nfor i in range(600000): d[i & 1023] = d.get(i & 511, 1) * 3 + i & 0xffff\n"
                    "print(sum(d.values()))'", None),
    "python_starts": ("for i in 0 1 2 3 4 5 6 7 8 9; do python3 -c 'print(1)'; done", None),
    "gcc": ("gcc -O2 -c /data/program.c -o /tmp/out", DIGEST),
    "shell_loop": ("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo $i", None),
    "shell_forks": ("i=0; while [ $i -lt 300 ]; do /bin/true; i=$((i+1)); done; echo $i", None),
    "find": ("find /usr /etc -type f | wc -l", None),
    "sha256sum": ("sha256sum /data/large", None),
}

# How many times TCG's speed each is meant to have.
SPEED_AIM = {name: 4 if name.startswith("python") or name == "gcc" else 3 for name in PROGRAMS}


def arguments(name, root):
    """Options of hull-bench."""
    command, verify = PROGRAMS[name]
    return ["--root", str(root), "--name", name, "--command", command, *(["--verify", verify] if verify else [])]
