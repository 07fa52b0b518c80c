"""The bootstrap over pictures: every interval of every evaluation.

Questions about one picture are not independent, so pictures are what is drawn. One set of draws serves all
systems of a run: a figure of two of them, such as a difference or a ratio, is that of the same pictures
(paired).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tofc.errors import UserError

RESAMPLES = 2000
QUANTILES = (0.025, 0.975)
MIN_COMPUTED = 0.95  # share of the resamples that must have a figure before an interval is given
NOT_REACHED = "not reached"  # an infinite bound, in JSON


class NotComputable(UserError):
    """A figure that the rows do not have; the message says why."""


@dataclass(frozen=True)
class Estimate:
    """A figure of all pictures with its bootstrap 95 % interval; a bound may be infinite."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Estimate:
        """Of a figure as `resamples` gave it: of all pictures, then of each resample.

        Bounds are quantiles rounded outwards to a value that was drawn, for there is no mean with infinity.
        Resamples without the figure (NaN) do not count.
        """
        drawn = values[1:][~np.isnan(values[1:])]
        low = np.quantile(drawn, QUANTILES[0], method="lower")
        high = np.quantile(drawn, QUANTILES[1], method="higher")
        return cls(float(values[0]), float(low), float(high))

    def as_json(self) -> dict[str, Any]:
        """Value and bounds, an infinite one in words."""
        bounds = {"low": self.low, "high": self.high}
        return {"value": self.value} | {
            name: bound if np.isfinite(bound) else NOT_REACHED for name, bound in bounds.items()
        }


def resamples(
    num_pictures: int, count: int = RESAMPLES, seed: int = 0, strata: Sequence[Any] | None = None
) -> NDArray[np.float64]:
    """How often each picture is drawn, [1 + count, num_pictures]: first each once, then the resamples.

    Multiplied with figures by picture it gives their sums over all pictures, and over each resample. With
    `strata`, a label a picture, as many of each label are drawn as there are.
    """
    generator = np.random.default_rng(seed)
    labels = np.array(strata if strata is not None else [0] * num_pictures)
    drawn = np.zeros((count, num_pictures))
    for label in dict.fromkeys(labels.tolist()):
        own = np.flatnonzero(labels == label)
        drawn[:, own] = generator.multinomial(len(own), np.full(len(own), 1 / len(own)), count)
    return np.vstack([np.ones(num_pictures), drawn])


def over_resamples(figure: Callable[..., float], *series: Sequence[Any]) -> tuple[Estimate | float, float]:
    """A figure of all pictures with its interval, and the share of the resamples that have it.

    Each of `series` holds an argument of `figure`: of all pictures, then of each resample. Without interval
    where fewer than `MIN_COMPUTED` of the resamples have the figure. NotComputable where all pictures lack
    it.
    """
    arguments = list(zip(*series, strict=True))
    values = [figure(*arguments[0])]
    for sample in arguments[1:]:
        try:
            values.append(figure(*sample))
        except NotComputable:
            continue
    computed = (len(values) - 1) / (len(arguments) - 1)
    return (Estimate.of(np.array(values)) if computed >= MIN_COMPUTED else values[0]), computed
