"""Whatever a server's libraries print, log or warn of is JSON lines in its log."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from eval.serving.process import ROOT, running_server
from tests.tofc.serving.talkative import all_was_said, log_lines, talkative
from tests.tofc.serving.test_server import wait_for
from tofc.serving.output import as_lines


def test_whatever_a_library_says_is_a_line_of_the_log(tmp_path: Path) -> None:
    with running_server(tmp_path, "--packets-only", PYTHONPATH=talkative(tmp_path)) as server:
        (tmp_path / "speak").touch()
        wait_for(lambda: all_was_said(log_lines(server.log)))
    assert "model ready" in [line["event"] for line in log_lines(server.log)]


def wrapped(text: str, seconds: float = 0.0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in as_lines(text, seconds)]


def test_lines_of_the_log_pass_and_all_else_is_wrapped() -> None:
    ours = {"time": "2026-01-01T00:00:00.000Z", "level": "info", "event": "request", "status": 200}
    assert wrapped(json.dumps(ours) + "\n") == [ours]
    for text in ("hello", '{"a": 1}', "[1]", '{"time": 1', "(a pid=", "\x1b[31mred \udcff"):
        line = {"time": "1970-01-01T00:00:01.500Z", "level": "info", "event": "printed", "text": text}
        assert wrapped(text, 1.5) == [line]
    assert wrapped(" \n") == []
    worker = {"worker": "ServeReplica:tofc:Edge", "pid": "41"}
    prefix = "(ServeReplica:tofc:Edge pid=41, ip=10.0.0.2) "
    assert wrapped(prefix + json.dumps(ours) + "\n") == [{**ours, **worker}]
    first, second = wrapped(prefix + "50 %\r100 %\n")
    assert first.items() >= {"text": "50 %", **worker}.items()
    assert second.items() >= {"text": "100 %", **worker}.items()


def test_last_words_are_in_the_log(tmp_path: Path) -> None:
    """What is written just before a process ends itself, which leaves no thread time to read it."""
    script = (
        "import os\nfrom tofc.serving.output import json_output\n"
        "with json_output():\n    os.write(2, b'out of memory\\n')\n    os.abort()\n"
    )
    log = tmp_path / "log"
    with log.open("wb") as file:
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stdout=file, stderr=file, check=False)
    assert done.returncode < 0
    wait_for(lambda: log.read_text().endswith("\n"))
    assert [line["text"] for line in log_lines(log)] == ["out of memory"]
