"""The fuzz target's seeds, and small damages of them, through the same checks as in fuzzing."""

from __future__ import annotations

import random
import runpy
from pathlib import Path

import pytest

HERE = Path(__file__).parent
check = runpy.run_path(str(HERE / "fuzz_packet.py"))["check"]
SEEDS = sorted((HERE / "corpus").iterdir())


def test_there_are_seeds() -> None:
    assert len(SEEDS) >= 15


@pytest.mark.parametrize("seed", SEEDS, ids=lambda path: path.name)
def test_seeds_are_accepted_and_their_damages_survived(seed: Path) -> None:
    data = seed.read_bytes()
    assert check(data)
    generator = random.Random(seed.name)
    for _ in range(20):
        damaged = bytearray(data)
        damaged[generator.randrange(1, len(data))] = generator.randrange(256)
        check(bytes(damaged[: generator.randrange(1, len(data) + 1)]))
