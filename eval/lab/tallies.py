"""Right answers and questions by picture, system and group: from rows to accuracies with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow
from numpy.typing import NDArray

from tofc.errors import UserError

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
