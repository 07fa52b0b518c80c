"""Made-up rows of every evaluation, the same on each machine: what the golden figures were computed from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np


def uniform(*place: int) -> float:
    """A number in 0..1 that looks random and is told by its place alone."""
    state = 0x9E3779B97F4A7C15
    for number in place:
        state = (state ^ (number + 1)) * 0xBF58476D1CE4E5B9 % 2**64
        state ^= state >> 29
    return state * 0x94D049BB133111EB % 2**64 / 2**64


SWEPT = {
    "raw": ((0, 100_000, 0.95),),
    "tofc": ((1, 60, 0.70), (2, 120, 0.88), (3, 240, 0.98), (4, 480, 0.97)),
    "jpeg": ((1, 300, 0.60), (5, 600, 0.85), (9, 900, 0.99)),
    "webp": ((1, 250, 0.75), (5, 550, 0.945)),
}
"""By system: quality, bytes and accuracy of its points."""


def sweep_rows(pictures: int = 30) -> Iterator[dict[str, Any]]:
    """Rows of a sweep: four yes/no questions and two with a choice about each picture."""
    for s, (system, points) in enumerate(SWEPT.items()):
        for quality, size, accuracy in points:
            for picture in range(pictures):
                num_bytes = round(size * (0.7 + 0.6 * uniform(1, s, quality, picture)))
                for question in range(6):
                    right = uniform(2, picture, question) < accuracy - 0.1 * uniform(3, s, picture, question)
                    yield {
                        "system": system, "point": f"quality {quality}" if quality else "-",
                        "picture": f"p{picture:03d}", "bytes": num_bytes, "tokens": 64, "question": question,
                        "form": "yes_no" if question < 4 else "choice", "category": "count",
                        "truth": "Yes", "answer": "Yes" if right else "No", "right": int(right), "of": 1,
                    }  # fmt: skip


def member_rows(scenes: int = 15) -> Iterator[dict[str, Any]]:
    """Rows of a family's members: right answers by scene, form and category."""
    for system, accuracy in (("full", 0.95), ("e1", 0.7), ("e2", 0.85), ("direct1", 0.4)):
        for scene in range(scenes):
            for f, form in enumerate(("yes_no", "choice")):
                for c, category in enumerate(("colour", "count", "text")):
                    of = 2 + (scene + c) % 3
                    right = sum(uniform(4, scene, f, c, i) < accuracy - 0.1 * c for i in range(of))
                    yield {"picture": scene, "system": system, "form": form, "category": category,
                           "right": right, "of": of}  # fmt: skip


def codec_rows(variant: str, factor: float, pictures: int = 25) -> Iterator[dict[str, Any]]:
    """Rows of a variant of the codec at four qualities, its bytes `factor` times those of others."""
    for picture in range(pictures):
        for quality in range(5):
            noise = np.exp(0.3 * (uniform(5, picture, quality, len(variant)) - 0.5))
            yield {
                "variant": variant, "picture": picture, "quality": quality,
                "bytes": round(factor * 100 * 2**quality * noise), "error": 0.8 * 0.6**quality * noise,
                "cross_entropy": 3.0 * 0.8**quality * noise, "questions": 6,
                "right": round(6 * (0.5 + 0.1 * quality)),
            }  # fmt: skip
