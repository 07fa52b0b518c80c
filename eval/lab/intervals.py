"""The bootstrap over pictures: every interval of every evaluation, and the tallies that it draws from.

Questions about one picture are not independent, so pictures are what is drawn. One set of draws serves all
systems of a run: a figure of two of them, such as a difference or a ratio, is that of the same pictures
(paired).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tofc.errors import UserError

if TYPE_CHECKING:
    import pyarrow

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


Array = NDArray[np.float64]


@dataclass(frozen=True)
class Tallies:
    """Sums by picture and system, by group: `right` of `of`, and questions `asked`, each [pictures, systems].

    A description states many facts, so that its `of` is not 1. `picture_values` are columns with one value
    for all questions of a system about a picture, such as its bytes.
    """

    pictures: tuple[object, ...]
    systems: tuple[tuple[str, ...], ...]
    right: dict[str, Array] = field(default_factory=dict)
    of: dict[str, Array] = field(default_factory=dict)
    asked: dict[str, Array] = field(default_factory=dict)
    picture_values: dict[str, Array] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        table: pyarrow.Table,
        *,
        system: Sequence[str] = ("system",),
        group: str = "category",
        picture: str = "picture",
        picture_values: Sequence[str] = (),
    ) -> Tallies:
        """Of rows with the columns `right` and `of`; the arguments name the columns of all else.

        Pictures are sorted by name, systems stand in the order of the rows.
        """
        keys = list(zip(*(table[name].to_pylist() for name in system), strict=True))
        place = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        column = np.array([place[key] for key in keys], dtype=np.intp)
        pictures, row = np.unique(np.array(table[picture].to_pylist()), return_inverse=True)
        made = cls(tuple(pictures.tolist()), tuple(place))
        shape = (len(pictures), len(place))
        groups = np.array(table[group].to_pylist())
        values = {
            "right": table["right"].to_numpy(),
            "of": table["of"].to_numpy(),
            "asked": np.ones(len(keys)),
        }
        for one in dict.fromkeys(groups.tolist()):
            chosen = groups == one
            for name, given in values.items():
                sums = getattr(made, name)[one] = np.zeros(shape)
                np.add.at(sums, (row[chosen], column[chosen]), given[chosen])
        for name in picture_values:
            made.picture_values[name] = np.zeros(shape)
            made.picture_values[name][row, column] = table[name].to_numpy()
        return made

    def check_equal_questions(self, source: object) -> None:
        """UserError unless every system has answered as many questions about every picture."""
        for group, counts in self.asked.items():
            if (counts != counts[:, :1]).any():
                raise UserError(
                    f"{source}: not every system has answered every {group} question about every picture; "
                    "run again"
                )

    def accuracy(self, weights: Array, group: str) -> Array:
        """Accuracy in 0..1 of each system, [1 + R, systems]: of all pictures, then of each of `resamples`.

        NaN for a resample without such a question.
        """
        return _share(weights, self.right[group], self.of[group])

    def mme_score(self, weights: Array, groups: Sequence[str]) -> Array:
        """MME's score over the categories `groups` as a share of its maximum, in 0..1; as `accuracy` else.

        A category has 100 (accuracy + accuracy+) points, of which accuracy+ counts pictures with no wrong
        answer. Source: C. Fu et al., "MME", arXiv 2306.13394.
        """
        halves = [half(weights, group) for group in groups for half in (self.accuracy, self.whole)]
        return np.mean(halves, axis=0)

    def whole(self, weights: Array, group: str) -> Array:
        """The share of pictures with no wrong answer of a group, accuracy+; as `accuracy` else."""
        of = self.of[group]
        right = (self.right[group] == of) & (of > 0)
        return _share(weights, right.astype(float), (of > 0).astype(float))


def _share(weights: Array, right: Array, of: Array) -> Array:
    total = weights @ of
    return np.divide(weights @ right, total, out=np.full(total.shape, np.nan), where=total > 0)
