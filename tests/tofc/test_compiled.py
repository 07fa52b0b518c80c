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

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = (
    "import numpy as np; from tofc.compiled import load_kernels\n"
    "load_kernels('encoders.merging_search', '_lowest'); from encoders import merging_search\n"
    "lowest, chosen = np.zeros(2), np.zeros(2, np.int64)\n"
    "merging_search._lowest(np.array([3.0, 1.0, 2.0]), lowest, chosen)\n"
    "print(chosen.tolist(), sorted(merging_search._lowest.stats.cache_hits.values()))"
)


def run(cache: Path) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip(), done.stderr


def test_a_packet_that_needs_kernels_says_that_it_compiles(tmp_path: Path) -> None:
    """The next one does not: what was compiled is on disk. Nor does one that is asked to be quiet."""
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")

    def encode(cache: str, *words: str) -> str:
        written = ["encode", "a.png", "-o", "a.tofc", "--model", "scenes-tiny"]
        done = subprocess.run(
            [sys.executable, "-m", "tofc", *words, *written],
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / cache), "PYTHONPATH": str(ROOT)},
            cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stderr

    assert "once after each installation" in encode("cache")
    assert "once after each installation" not in encode("cache")
    assert encode("another", "--quiet") == ""


def test_without_a_compiler_the_packet_is_the_same(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    packets = []
    for disabled in ("0", "1"):
        command = "encode a.png -o a.tofc --model scenes-tiny --tokens 8"
        done = subprocess.run(
            [sys.executable, "-m", "tofc", *command.split()],
            env={**os.environ, "NUMBA_DISABLE_JIT": disabled, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        packets.append((tmp_path / "a.tofc").read_bytes())
    assert packets[0] == packets[1]
    assert "once after each installation" not in done.stderr


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
    assert len(done.stderr.splitlines()) == 2  # and one that says that it compiles
