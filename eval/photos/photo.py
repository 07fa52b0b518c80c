"""A photograph with what is known about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

Region = tuple[float, float, float, float]  # x0, y0, x1, y1 in shares of the picture's width and height
WHOLE: Region = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class PhotoObject:
    """One object: its class and, where it is known, its box; one that is not `sure` is never asked about."""

    name: str
    box: Region | None = None
    sure: bool = True
    truncated: bool = False


@dataclass(frozen=True)
class Photo:
    """One photograph and what is known about it.

    `labelled` are the classes of which nothing is left out: only of these may a question say that they are
    absent. `pairs` are questions with answers that hold for the whole picture.
    """

    source: str
    file: Path
    things: tuple[PhotoObject, ...] = ()
    labelled: frozenset[str] = frozenset()
    pairs: tuple[tuple[str, str], ...] = ()
