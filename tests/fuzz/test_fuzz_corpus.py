"""The fuzz targets' seeds, and small damages of them, through the same checks as in fuzzing."""

from __future__ import annotations

import random
import runpy
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
TARGETS = {path.stem[5:]: runpy.run_path(str(path)) for path in sorted(HERE.glob("fuzz_*.py"))}
SEEDS = [(name, n, seed) for name, target in TARGETS.items() for n, seed in enumerate(target["seeds"]())]
# Each raised another exception than the reader promises, or was accepted.
FOUND = [(name, data) for name, target in TARGETS.items() for data in target.get("found", list)()]


@pytest.mark.parametrize("target, number, data", SEEDS, ids=[f"{name}-{n}" for name, n, _ in SEEDS])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_seeds_are_accepted_and_their_damages_survived(target: str, number: int, data: bytes) -> None:
    check: Any = TARGETS[target]["check"]
    assert check(data)
    generator = random.Random(number)
    for _ in range(20 if len(data) < 5000 else 4):
        damaged = bytearray(data)
        damaged[generator.randrange(1, len(data))] = generator.randrange(256)
        check(bytes(damaged[: generator.randrange(1, len(data) + 1)]))


@pytest.mark.parametrize("target, data", FOUND)
def test_what_fuzzing_found_is_refused(target: str, data: bytes) -> None:
    assert not TARGETS[target]["check"](data)
