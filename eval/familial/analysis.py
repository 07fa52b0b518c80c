"""From rows to accuracies with intervals: each system by category, and its share of the full model's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.familial.answers import Row
from tofc.familial import FULL

RESAMPLES = 2000
QUANTILES = (0.025, 0.975)
AVERAGE = "average"


@dataclass(frozen=True)
class Estimate:
    """A figure with its bootstrap 95 % interval over pictures, all in 0..1 (kept: beyond 1 is possible)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """A system on one category (or their `AVERAGE`): accuracy, and accuracy over the full model's."""

    system: str
    category: str
    questions: int
    accuracy: Estimate
    kept: Estimate


def analyse(rows: Sequence[Row], seed: int = 0) -> list[Result]:
    """Results of every system and category, all forms of question together.

    The average weighs categories alike. The same resamples of pictures serve all systems, so that `kept`
    compares like with like.
    """
    scenes = sorted({row.scene for row in rows})
    place = {scene: number for number, scene in enumerate(scenes)}
    names = list(dict.fromkeys(row.system for row in rows))
    categories = sorted({row.category for row in rows})
    shape = (len(scenes), len(categories))
    right = {name: np.zeros(shape) for name in names}
    of = {name: np.zeros(shape) for name in names}
    for row in rows:
        at = place[row.scene], categories.index(row.category)
        right[row.system][at] += row.right
        of[row.system][at] += row.of
    weights = resamples(len(scenes), seed)

    def accuracies(name: str) -> np.ndarray:
        shares = weights @ right[name] / np.maximum(weights @ of[name], 1)  # [1 + R, categories]
        return np.concatenate([shares, shares.mean(1, keepdims=True)], axis=1)

    full = accuracies(FULL)
    results = []
    for name in names:
        shares = accuracies(name)
        kept = shares / np.maximum(full, 1e-9)
        for number, category in enumerate([*categories, AVERAGE]):
            asked = of[name].sum() if category == AVERAGE else of[name][:, number].sum()
            pair = (estimate(shares[:, number]), estimate(kept[:, number]))
            results.append(Result(name, category, int(asked), *pair))
    return results


def resamples(count: int, seed: int) -> np.ndarray:
    """How often each of `count` pictures stands in each resample, [1 + R, count]: first as they are."""
    draws = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    counts = np.stack([np.bincount(draw, minlength=count) for draw in draws])
    return np.concatenate([np.ones((1, count)), counts])


def estimate(values: np.ndarray) -> Estimate:
    """The first value with the interval of the others."""
    low, high = np.quantile(values[1:], QUANTILES)
    return Estimate(float(values[0]), float(low), float(high))
