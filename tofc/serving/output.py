"""A process whose standard output and error hold JSON lines only, whatever its libraries write there.

Both go through a pipe to a small process of its own, this file, which lets lines of the log pass and wraps
everything else. In a thread it could not write down what a library says before it ends the process.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_LONGEST = 1 << 20  # bytes of a line; a longer one becomes several
# What Ray puts before each line that one of its processes writes.
_WORKER = re.compile(r"\((?:(?P<worker>[^()]*) )?pid=(?P<pid>\w+)[^()]*\) (?P<text>.*)", flags=re.DOTALL)


@contextmanager
def json_output() -> Iterator[None]:
    """Inside, all that this process and its children write is on standard error as JSON lines, in order."""
    sys.stdout.flush(), sys.stderr.flush()
    before = os.dup(1), os.dup(2)
    read, write = os.pipe()
    command = [sys.executable, "-I", "-S", __file__]
    wrapper = subprocess.Popen(command, stdin=read, stdout=before[1], stderr=before[1], close_fds=True)
    os.close(read)
    for number in (1, 2):
        os.dup2(write, number)
    os.close(write)
    try:
        yield
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        for number, file in zip((1, 2), before, strict=True):
            os.dup2(file, number)
            os.close(file)
        with suppress(subprocess.TimeoutExpired):  # a child that lives on may still write
            wrapper.wait(5)


def as_lines(text: str, seconds: float) -> Iterator[str]:
    """Lines for a line that was written at this time: the same where it is one of the log.

    What Ray's workers write loses its prefix and gets "worker" and "pid" instead. Progress bars write several
    lines in one.
    """
    given = _WORKER.fullmatch(text)
    origin = {} if given is None else {"worker": given["worker"] or "ray", "pid": given["pid"]}
    for written in (text if given is None else given["text"]).splitlines():
        if written.strip():
            yield json.dumps({**(_logged(written) or _printed(written, seconds)), **origin})


def _logged(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and {"time", "level", "event"} <= found.keys() else None


def _printed(text: str, seconds: float) -> dict[str, Any]:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    time_ = f"{stamp}.{int(seconds % 1 * 1000):03d}Z"
    return {"time": time_, "level": "info", "event": "printed", "text": text}


def _wrap() -> None:
    """Standard input line by line, until the last process that writes to it has ended."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the server, whose last words come through here
        signal.signal(number, signal.SIG_IGN)
    while raw := sys.stdin.buffer.readline(_LONGEST):
        for line in as_lines(raw.decode("utf-8", "replace"), time.time()):
            print(line, flush=True)


if __name__ == "__main__":
    _wrap()
