"""Standard streams that are closed, full or given by name: one line, or the bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tofc.packet import Packet

PACKET = bytes(Packet(payload=b"payload", image_sizes=((30, 40),), model_tag=b"???"))


@pytest.mark.parametrize(
    "words, streams, told",
    [
        ("info packet.tofc --json", "> /dev/full", "No space left"),
        ("info -", "<&-", "standard input is closed"),
        ("info packet.tofc", ">&-", "standard output is closed"),
    ],
)
def test_streams_that_cannot_be_used_are_one_line(
    tmp_path: Path, words: str, streams: str, told: str
) -> None:
    (tmp_path / "packet.tofc").write_bytes(PACKET)
    command = f"{sys.executable} -m tofc {words} {streams}"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_standard_output_by_name_keeps_what_stands_in_the_file(tmp_path: Path) -> None:
    script = "from tofc.cli.files import write_output; write_output('/dev/stdout', b'bytes')"
    with (tmp_path / "log").open("ab") as log:
        log.write(b"before ")
        log.flush()
        subprocess.run([sys.executable, "-c", script], stdout=log, check=True)
    assert (tmp_path / "log").read_bytes() == b"before bytes"
