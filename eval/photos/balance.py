"""Which absent class to ask about, so that within each class as many answers are no as yes.

Data sets are lopsided: where every picture shows an animal, asking for absent classes at random would teach
that "Is there a dog?" is answered with yes. Each class gets a weight such that, over all pictures of a label
space, it is asked about as often where it is absent as where it is there; where weights do not suffice, some
of the questions are left out. More than half of the choice goes by the classes that often stand beside what
the picture shows (POPE's adversarial negatives, arXiv 2305.10355).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.asking.question import Draw
from eval.photos.facts import View

_ROUNDS = 60
_LEAST = 1e-4  # weight of an absent class, of the largest
_EVEN = 0.4  # share of the choice that does not look at what stands beside
_RARE = -0.5  # power of its frequency by which a class is chosen of those in a picture: rare ones more often


@dataclass(frozen=True)
class Balance:
    """Weights of the classes of one label space, and how often they stand beside one another."""

    places: dict[str, int]
    asked: NDArray[np.float64]  # [C] weight of a class that is there
    absent: NDArray[np.float64]  # [C] weight of a class that is not there
    beside: NDArray[np.float64]  # [C, C] 0..1: how often the second stands beside the first
    kept: NDArray[np.float64]  # [C, 2] share of the questions answered with no, with yes that are asked

    @classmethod
    def of(cls, views: Sequence[View]) -> Balance:
        """The weights for pictures that share one label space."""
        names = sorted({name for view in views for name in (*view.asked_present, *view.asked_absent)})
        places = {name: place for place, name in enumerate(names)}
        there = np.zeros((len(views), len(names)))  # [P, C]
        gone = np.zeros_like(there)
        for row, view in enumerate(views):
            there[row, [places[name] for name in view.asked_present]] = 1
            gone[row, [places[name] for name in view.asked_absent]] = 1
        frequency = there.sum(0)
        asked = np.where((frequency > 0) & (gone.sum(0) > 0), np.maximum(frequency, 1) ** _RARE, 0.0)
        beside = there.T @ there
        np.fill_diagonal(beside, 0)
        beside /= np.maximum(beside.max(1, keepdims=True), 1)
        yes = there * asked  # [P, C], then shares of each picture's questions
        yes /= np.maximum(yes.sum(1, keepdims=True), 1e-12)
        possible = gone * (_EVEN + _nearest(there, beside)) * (there @ asked > 0)[:, None]
        absent = np.where(asked > 0, 1.0, 0.0)
        for _ in range(_ROUNDS):
            no = possible * absent
            no /= np.maximum(no.sum(1, keepdims=True), 1e-12)
            absent *= np.where(asked > 0, yes.sum(0) / np.maximum(no.sum(0), 1e-12), 0)
            # A class that is nearly everywhere cannot be balanced by weights: it must not take them all.
            absent = np.where(asked > 0, np.maximum(absent / max(absent.max(), 1e-12), _LEAST), 0)
        sums = np.stack([no.sum(0), yes.sum(0)], axis=1)  # [C, 2]
        kept = sums.min(1, keepdims=True) / np.maximum(sums, 1e-12)
        return cls(places, asked, absent, beside, kept)

    def asks(self, name: str, there: bool, draw: Draw) -> bool:
        """Whether a drawn question for a class is asked: all but those that would outweigh its opposites."""
        return draw.chance(self.kept[self.places[name], int(there)])

    def present(self, view: View, draw: Draw, groups: bool) -> str | None:
        """A class or, with `groups`, a group that is there to ask about, None where there is none."""
        names = view.asked_present if groups else [n for n in view.present if n in self.places]
        names = [name for name in names if self.asked[self.places[name]] > 0]
        return draw.weighted(names, [self.asked[self.places[name]] for name in names]) if names else None

    def missing(self, view: View, draw: Draw, count: int, groups: bool) -> list[str]:
        """Up to `count` different classes that are not there; with `groups`, groups too."""
        names = view.asked_absent if groups else view.absent
        names = [name for name in names if self.absent[self.places[name]] > 0]
        here = [self.places[name] for name in view.asked_present]
        near = self.beside[here].max(0) if here else np.zeros(len(self.places))
        weights = {name: self.absent[self.places[name]] * (_EVEN + near[self.places[name]]) for name in names}
        chosen: list[str] = []
        while weights and len(chosen) < count:
            name = draw.weighted(list(weights), list(weights.values()))
            del weights[name]
            chosen.append(name)
        return chosen


def _nearest(there: NDArray[np.float64], beside: NDArray[np.float64]) -> NDArray[np.float64]:
    """For every picture and class, how much the class belongs to what is there: [P, C] in 0..1."""
    nearest = np.zeros_like(there)
    for place in range(there.shape[1]):
        nearest = np.maximum(nearest, there[:, [place]] * beside[place])
    return nearest
