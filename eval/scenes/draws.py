"""Reproducible draws: floats of one explicit PCG64, turned into choices by plain arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


class Draws:
    """Hands out random choices for one scene.

    Only `Generator.random` is drawn from, whose stream is the same in every numpy; `entropy` are the integers
    that seed it, and different tuples give independent streams.
    """

    def __init__(self, entropy: tuple[int, ...]) -> None:
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
        self._buffer: list[float] = []

    def unit(self) -> float:
        """Draw a float in [0, 1)."""
        if not self._buffer:
            self._buffer = self._generator.random(512).tolist()
        return self._buffer.pop()

    def between(self, low: float, high: float) -> float:
        """Draw a float in [low, high)."""
        return low + (high - low) * self.unit()

    def integer(self, low: int, high: int) -> int:
        """Draw an integer from low to high, both included."""
        return low + int(self.unit() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """Draw True with this probability."""
        return self.unit() < probability

    def pick(self, items: Sequence[Item]) -> Item:
        """Draw one of the items."""
        return items[int(self.unit() * len(items))]
