"""From rows to the table: bytes of each variant where answers are as good as the reference's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.ablation.measure import Row

RESAMPLES = 2000


@dataclass(frozen=True)
class Curve:
    """Per-picture measurements of one variant: arrays [levels, pictures], the coarsest quality first.

    `loss` is what is held equal in a comparison, summed over `terms`: the "error" of the features (one term a
    picture), or the "cross_entropy" of the answers (a term a question).
    """

    bytes: NDArray[np.float64]
    loss: NDArray[np.float64]
    terms: NDArray[np.float64]
    right: NDArray[np.float64]
    questions: NDArray[np.float64]

    @classmethod
    def from_rows(cls, rows: Sequence[Row], loss: str = "cross_entropy") -> Curve:
        """Of rows of one variant, whose pictures must be the same at every quality."""
        qualities = sorted({row.quality for row in rows if row.quality > 0})
        pictures = sorted({row.picture for row in rows})
        found = {(row.quality, row.picture): row for row in rows}
        missing = [(q, p) for q in qualities for p in pictures if (q, p) not in found]
        if missing:
            raise ValueError(f"rows lack quality {missing[0][0]} of picture {missing[0][1]}: measure again")

        def table(name: str) -> NDArray[np.float64]:
            return np.array([[getattr(found[q, p], name) for p in pictures] for q in qualities], dtype=float)

        questions = table("questions")
        terms = questions if loss == "cross_entropy" else np.ones_like(questions)
        return cls(table("bytes"), table(loss), terms, table("right"), questions)


def bytes_at_equal_loss(variant: Curve, reference: Curve, pictures: NDArray[np.intp]) -> float:
    """Mean ratio of the variant's bytes to the reference's at the same loss, over chosen pictures.

    Each level of the variant within the reference's range is compared with the reference's curve there
    (log bytes linear in the logarithm of the loss between its levels); the ratios' geometric mean is
    returned, NaN where the ranges do not meet.
    """
    ratios = []
    size, loss = _means(reference, pictures)
    for own_size, own_loss in zip(*_means(variant, pictures), strict=True):
        if loss.min() <= own_loss <= loss.max():
            order = np.argsort(loss)
            there = np.interp(np.log(own_loss), np.log(loss[order]), np.log(size[order]))
            ratios.append(np.log(own_size) - there)
    return float(np.exp(np.mean(ratios))) if ratios else float("nan")


def _means(curve: Curve, pictures: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean bytes and cross-entropy of the levels that are worth their bytes: each better than all cheaper."""
    size = curve.bytes[:, pictures].mean(1)
    loss = curve.loss[:, pictures].sum(1) / curve.terms[:, pictures].sum(1)
    order = np.argsort(size)
    size, loss = size[order], loss[order]
    worth = loss < np.minimum.accumulate(np.concatenate([[np.inf], loss[:-1]]))
    return size[worth], loss[worth]


def interval(variant: Curve, reference: Curve, seed: int = 0) -> tuple[float, float, float]:
    """`bytes_at_equal_loss` over all pictures, and its 95 % bootstrap interval over pictures."""
    count = variant.bytes.shape[1]
    if reference.bytes.shape[1] != count:
        raise ValueError("variant and reference were measured on different numbers of pictures")
    rng = np.random.default_rng(seed)
    drawn = [bytes_at_equal_loss(variant, reference, rng.integers(0, count, count)) for _ in range(RESAMPLES)]
    kept = [ratio for ratio in drawn if not np.isnan(ratio)]
    if len(kept) < 0.9 * RESAMPLES:
        raise ValueError("the variant's losses lie outside the reference's: there are no equal losses")
    low, high = np.percentile(kept, [2.5, 97.5])
    return bytes_at_equal_loss(variant, reference, np.arange(count)), float(low), float(high)
