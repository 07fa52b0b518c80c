"""A library that talks in every way there is, in each Python process of a server, and who reads its log."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from eval.serving.process import ROOT

# Runs at the start of each Python process that finds it; says everything once the file beside it is there.
LIBRARY = """
import logging, os, pathlib, subprocess, sys, threading, time, warnings

def speak():
    while not pathlib.Path(__file__).with_name("speak").exists():
        time.sleep(0.05)
    print("printed to standard output", flush=True)
    print("printed to standard error", file=sys.stderr)
    os.write(1, b"written to descriptor 1\\n")
    os.write(2, b"50 %\\r100 % of a progress bar\\n")
    subprocess.run([sys.executable, "-S", "-c", "print('printed by a child')"])
    logging.getLogger("some.library").warning("logged")
    own = logging.getLogger("library.with.handler")
    own.addHandler(logging.StreamHandler())
    own.propagate = False
    own.warning("logged by a handler of its own")
    warnings.warn("warned", FutureWarning)
    raise RuntimeError("raised in a thread")

threading.Thread(target=speak, daemon=True).start()
"""
SAID = [
    "printed to standard output", "printed to standard error", "written to descriptor 1", "50 %",
    "100 % of a progress bar", "printed by a child", "logged", "logged by a handler of its own",
    "FutureWarning: warned", "RuntimeError: raised in a thread",
]  # fmt: skip


def talkative(folder: Path) -> str:
    """A folder for PYTHONPATH whose library speaks in every process."""
    (folder / "sitecustomize.py").write_text(LIBRARY)
    return os.pathsep.join((str(folder), str(ROOT)))


def log_lines(log: Path) -> list[dict[str, Any]]:
    """All lines; fails where one is no line of the log."""
    whole = log.read_text().rpartition("\n")[0]  # the last line may still be on its way
    lines: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]
    for line in lines:
        assert {"time", "level", "event"} <= line.keys()
    return lines


def all_was_said(lines: list[dict[str, Any]]) -> bool:
    """Whether all that the library says is there."""
    told = [line.get("text", line["event"]) for line in lines]
    return all(any(words in one for one in told) for words in SAID)
