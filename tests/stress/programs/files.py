"""files.py ROUNDS: random writes, cuts, maps and renames of files, each checked against a copy in memory. Prints digests."""
import hashlib
import mmap
import os
import random
import sys

ROUNDS = int(sys.argv[1])
LIMIT = 3 << 20
draw = random.Random(5)


class File:
    def __init__(self, name):
        self.name, self.copy = name, bytearray()
        self.fd = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)

    def write(self):
        at, data = draw.randrange(LIMIT), draw.randbytes(draw.choice([1, 100, 4096, 5000, 70000]))
        os.pwrite(self.fd, data, at)
        if len(self.copy) < at:
            self.copy += bytes(at - len(self.copy))
        self.copy[at:at + len(data)] = data

    def cut(self):
        size = draw.randrange(LIMIT)
        os.ftruncate(self.fd, size)
        if size <= len(self.copy):
            del self.copy[size:]
        else:
            self.copy += bytes(size - len(self.copy))

    def write_mapped(self):
        if len(self.copy) < 10000:
            return
        with mmap.mmap(self.fd, len(self.copy)) as view:
            for _ in range(20):
                at = draw.randrange(len(self.copy) - 9000)
                data = draw.randbytes(draw.choice([1, 8, 4096, 9000]))
                view[at:at + len(data)] = data
                self.copy[at:at + len(data)] = data

    def read(self):
        at, size = draw.randrange(LIMIT), draw.randrange(200000)
        assert os.pread(self.fd, size, at) == self.copy[at:at + size], (self.name, at, size)

    def rename(self):
        os.rename(self.name, self.name + ".new")
        os.rename(self.name + ".new", self.name)

    def drop(self):
        os.fsync(self.fd)
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)


def main():
    files = [File(f"file{number}") for number in range(6)]
    actions = [File.write] * 8 + [File.read] * 6 + [File.write_mapped] * 3 + [File.cut, File.rename, File.drop]
    for _ in range(ROUNDS):
        draw.choice(actions)(draw.choice(files))
    for file in files:
        file.drop()
        with open(file.name, "rb") as again:
            content = again.read()
        assert content == file.copy, file.name
        print(file.name, len(content), hashlib.sha256(content).hexdigest())


main()
