"""A process in a guest that counts and hashes, and the proof that it went on without a gap."""
import hashlib
import re

COUNTER = ("n=0; h=start; while :; do n=$((n+1)); h=$(echo $h | sha256sum | cut -d' ' -f1); "
           "[ $((n % 20)) = 0 ] && echo count=$n=$h=; done")
REPORT = r"count=(\d+)=([0-9a-f]{64})="


def expected_hash(count):
    text = "start"
    for _ in range(count):
        text = hashlib.sha256((text + "\n").encode()).hexdigest()
    return text


def check_reports(transcripts, at_least):
    """The consoles of one VM, before and after each move: all reports in order, with the right hashes.

    A move may fall into the middle of a line, so only all transcripts together show each report."""
    whole = "".join(transcripts).replace("\r", "")
    reports = [(int(count), digest) for count, digest in re.findall(REPORT, whole)]
    assert [count for count, _ in reports] == [20 * (i + 1) for i in range(len(reports))], whole[-3000:]
    assert len(reports) >= at_least
    for count, digest in reports:
        assert digest == expected_hash(count)
