"""Adds files to an initrd: an archive after the first one, as Linux unpacks them in turn."""
import pathlib


def entry(name, mode, content, number):
    """One file of a cpio archive in the "newc" format (the kernel's buffer-format.rst)."""
    fields = [number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
    head = b"070701" + "".join(f"{field:08X}" for field in fields).encode() + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


def add_files(initrd, out, files):
    """Writes the initrd 'out': that of the path 'initrd' with files {path in the guest: its bytes}, all executable."""
    base = pathlib.Path(initrd).read_bytes()
    folders = sorted({str(parent) for path in files for parent in pathlib.PurePosixPath(path).parents} - {"."})
    parts = [base, bytes(-len(base) % 512)]
    for number, folder in enumerate(folders, 1):
        parts.append(entry(folder, 0o040755, b"", number))
    for number, (path, content) in enumerate(files.items(), len(folders) + 1):
        parts.append(entry(path, 0o100755, content, number))
    parts.append(entry("TRAILER!!!", 0, b"", 0))
    pathlib.Path(out).write_bytes(b"".join(parts))
