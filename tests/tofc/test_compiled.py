"""Compiled code on disk, in processes of their own: damage is a miss, and a full disk is no fault."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = (
    "import numpy as np; from encoders import merging_search; from tofc.compiled import check_caches\n"
    "check_caches(merging_search)\n"
    "sums, counts = np.zeros((2, 3), np.float32), np.zeros(2, np.int64)\n"
    "merging_search.sum_by_cluster(np.ones((4, 3), np.float32), np.array([0, 1, 1, -1]), sums, counts)\n"
    "print(counts.tolist(), sorted(merging_search.sum_by_cluster.stats.cache_hits.values()))"
)


def run(cache: Path) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip(), done.stderr


def test_the_first_packet_says_that_it_compiles(tmp_path: Path) -> None:
    """And the second does not: what was compiled is on disk."""
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    command = [
        sys.executable,
        "-m",
        "tofc",
        "encode",
        str(tmp_path / "a.png"),
        "-o",
        str(tmp_path / "a.tofc"),
    ]
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    said = [
        subprocess.run(command, env=env, capture_output=True, text=True, check=True).stderr for _ in range(2)
    ]
    assert "once after each installation" in said[0]
    assert "once after each installation" not in said[1]


@pytest.mark.parametrize(
    "suffix, damage",
    [
        (".nbi", lambda content: content[: len(content) // 2]),
        (".nbc", lambda content: bytes(len(content))),
    ],
)
def test_damaged_code_is_compiled_anew(tmp_path: Path, suffix: str, damage: Callable[[bytes], bytes]) -> None:
    assert run(tmp_path)[0] == "[1, 2] []"
    files = list(tmp_path.rglob(f"*{suffix}"))
    assert files
    for file in files:
        file.write_bytes(damage(file.read_bytes()))
    assert run(tmp_path)[0] == "[1, 2] []"
    assert run(tmp_path)[0] == "[1, 2] [1]"


def test_a_full_disk_costs_a_line(tmp_path: Path) -> None:
    """Every file that is written there is refused for want of space."""
    script = (
        "import errno; from tofc.compiled import CheckedCacheFile as File\n"
        "def full(self, path): raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "File._open_for_write = full\n" + SCRIPT
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True,
                          env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)})  # fmt: skip
    assert done.stdout.startswith("[1, 2]")
    assert done.stderr.count("No space left on device") == 1
    assert len(done.stderr.splitlines()) == 1
