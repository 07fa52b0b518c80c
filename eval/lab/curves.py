"""Curves of accuracy against bytes: Pareto fronts, bytes at an accuracy, and Bjøntegaard differences.

A curve is a pair of arrays, mean bytes [P] and accuracy [P]: in 0..1, or another figure of which more is
better.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.interpolate import PchipInterpolator

from eval.lab.intervals import NotComputable


class Curve(NamedTuple):
    """Mean bytes [P] and accuracy [P] of the points of a system."""

    num_bytes: np.ndarray
    accuracy: np.ndarray


def pareto(curve: Curve) -> np.ndarray:
    """Indices of the points that no cheaper or equal point matches, by rising bytes and accuracy."""
    order = np.lexsort((-curve.accuracy, curve.num_bytes))
    accuracy = curve.accuracy[order]
    best_before = np.concatenate([[-np.inf], np.maximum.accumulate(accuracy)[:-1]])
    return order[accuracy > best_before]


def front(curve: Curve) -> Curve:
    """The Pareto front as a curve of its own."""
    best = pareto(curve)
    return Curve(curve.num_bytes[best], curve.accuracy[best])


def bytes_at(best: Curve, target: float) -> tuple[float, bool]:
    """Bytes at which a front reaches an accuracy, linear in log-bytes between its points.

    The second value is true where already the cheapest point reaches it: then fewer bytes may do. Raises
    NotComputable where no point does.
    """
    enough = np.flatnonzero(best.accuracy >= target)
    if not len(enough):
        raise NotComputable(
            f"{100 * target:.1f} % is not reached: the best is {100 * best.accuracy[-1]:.1f} % at "
            f"{best.num_bytes[-1]:.0f} bytes"
        )
    first = enough[0]
    if first == 0:
        return float(best.num_bytes[0]), True
    between = slice(first - 1, first + 1)
    return float(np.exp(np.interp(target, best.accuracy[between], np.log(best.num_bytes[between])))), False


def accuracy_at(best: Curve, num_bytes: float) -> float:
    """The accuracy of a front for so many bytes, linear in log-bytes between its points.

    Raises NotComputable where its cheapest point takes more.
    """
    if best.num_bytes[0] > num_bytes:
        raise NotComputable(
            f"{num_bytes:.0f} bytes are too few: the cheapest point takes {best.num_bytes[0]:.0f}"
        )
    return float(np.interp(np.log(num_bytes), np.log(best.num_bytes), best.accuracy))


def bd_rate(ours: Curve, other: Curve) -> float:
    """Mean difference in bytes at equal accuracy, as a share of the other's: -0.5 is half the bytes.

    Fronts are interpolated by PCHIP, log-bytes over accuracy, and compared where both have accuracies.
    Source: G. Bjøntegaard, VCEG-M33, 2001, with PCHIP for his polynomials. Raises NotComputable where a front
    has fewer than two points or the two share no accuracy.
    """
    difference = _mean_difference(ours, other, lambda c: (c.accuracy, np.log(c.num_bytes)), "accuracies")
    return float(np.expm1(difference))


def bd_accuracy(ours: Curve, other: Curve) -> float:
    """Mean difference in accuracy, in 0..1, over the log-bytes that both fronts have; else like `bd_rate`."""
    return _mean_difference(ours, other, lambda c: (np.log(c.num_bytes), c.accuracy), "sizes")


def _mean_difference(
    ours: Curve, other: Curve, axes: Callable[[Curve], tuple[np.ndarray, np.ndarray]], what: str
) -> float:
    """Mean of ours minus other over the range of the first axis that both fronts cover."""
    curves = [axes(front(curve)) for curve in (ours, other)]
    if min(len(x) for x, _ in curves) < 2:
        raise NotComputable("a front of a single point has no curve: sweep more points")
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if low >= high:
        raise NotComputable(f"the fronts have no {what} in common: sweep more points")
    mine, theirs = (float(PchipInterpolator(x, y).integrate(low, high)) for x, y in curves)
    return (mine - theirs) / (high - low)
