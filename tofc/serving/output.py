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


def as_line(text: str, seconds: float) -> str:
    """The line for a text that was written at this time: the text itself where it is a line of the log.

    Lines of Ray's workers lose their prefix and get "worker" and "pid" instead.
    """
    given = _WORKER.fullmatch(text)
    origin = {} if given is None else {"worker": given["worker"] or "ray", "pid": given["pid"]}
    written = text if given is None else given["text"]
    try:
        found = json.loads(written)
    except ValueError:
        found = None
    if isinstance(found, dict) and {"time", "level", "event"} <= found.keys():
        return json.dumps({**found, **origin})
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    line: dict[str, Any] = {
        "time": f"{stamp}.{int(seconds % 1 * 1000):03d}Z",
        "level": "info",
        "event": "printed",
        "text": written,
        **origin,
    }
    return json.dumps(line)


def _wrap() -> None:
    """Standard input line by line, until the last process that writes to it has ended."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the server, whose last words come through here
        signal.signal(number, signal.SIG_IGN)
    while raw := sys.stdin.buffer.readline(_LONGEST):
        for text in raw.decode("utf-8", "replace").splitlines():
            if text.strip():
                print(as_line(text, time.time()), flush=True)


if __name__ == "__main__":
    _wrap()
