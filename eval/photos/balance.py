"""The mix of questions that training asks about a photograph, with as many no as yes within each class.

Data sets are lopsided: where every picture shows an animal, asking for absent classes at random would teach
that "Is there a dog?" is answered with yes. Each class gets a weight such that, over all pictures of a label
space, it is asked about as often where it is absent as where it is there; where weights do not suffice, some
of the questions are left out. More than half of the choice goes by the classes that often stand beside what
the picture shows (POPE's adversarial negatives, arXiv 2305.10355).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.asking.question import Draw, Question
from eval.photos import questions as asking
from eval.photos.facts import View, half, third
from eval.photos.questions import Asker

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


_ONES_LEFT_OUT = 0.5  # of the questions that are answered with 1, which would be nine of ten
_BOTTOMS_LEFT_OUT = 0.45  # of the questions about top or bottom that are answered with bottom
_CHOICES = 4
_LETTERS = 0.65  # of the choices are by letters, which is the harder half: the answer stands for a name

LEFT_OUT = Question("yes_no", "existence", "", "")  # stands for a question that would upset the balance
Maker = Callable[[View, Balance, Asker], Question | None]


def _existence(view: View, balance: Balance, asker: Asker) -> Question | None:
    there = balance.present(view, asker.draw, groups=True)
    if there is None:
        return None  # a picture without anything sure would only be asked for what is absent
    truth = asker.draw.chance(0.5)
    names = [there] if truth else balance.missing(view, asker.draw, 1, groups=True)
    if not names:
        return None
    return asking.existence(asker, names[0], truth) if balance.asks(names[0], truth, asker.draw) else LEFT_OUT


def _identity(view: View, balance: Balance, asker: Asker) -> Question | None:
    main = view.main()
    if main is None or main not in view.photo.labelled:
        return None
    if asker.draw.chance(0.5):
        return asking.identity(asker, main, True)
    missing = balance.missing(view, asker.draw, 1, groups=False)
    return asking.identity(asker, missing[0], False) if missing else None


def _choice(view: View, balance: Balance, asker: Asker) -> Question | None:
    there = balance.present(view, asker.draw, groups=False)
    if there is None:
        return None
    wrong = balance.missing(view, asker.draw, _CHOICES - 1 - asker.draw.below(2), groups=False)
    return asking.choice(asker, there, wrong, asker.draw.chance(_LETTERS)) if wrong else None


def _count(view: View, balance: Balance, asker: Asker) -> Question | None:
    counts = view.counts()
    if not counts:
        return None
    if asker.draw.chance(0.06) and (missing := balance.missing(view, asker.draw, 1, groups=False)):
        return asking.count(asker, missing[0], 0)
    name = asker.draw.weighted(list(counts), [1.0 if number == 1 else 2.0 for number in counts.values()])
    if counts[name] == 1 and asker.draw.chance(_ONES_LEFT_OUT):
        return None
    if counts[name] > 1 and asker.draw.chance(0.25):
        truth = asker.draw.chance(0.5)
        near = [n for n in (counts[name] - 1, counts[name] + 1, counts[name] + 2) if n > 1]
        return asking.count_check(asker, name, counts[name], counts[name] if truth else asker.draw.pick(near))
    return asking.count(asker, name, counts[name])


def _where(view: View, balance: Balance, asker: Asker) -> Question | None:
    axis = 0 if asker.draw.chance(0.7) else 1
    things = [thing for thing in view.single() if half(thing, axis) is not None]
    if not things:
        return None
    thing = asker.draw.pick(things)
    if axis == 1 and half(thing, axis) == 1 and asker.draw.chance(_BOTTOMS_LEFT_OUT):
        return None
    if axis == 0 and asker.draw.chance(0.25):
        return asking.side_check(asker, thing, asker.draw.chance(0.5))
    return asking.where(asker, thing, axis)


def _part(view: View, balance: Balance, asker: Asker) -> Question | None:
    things = [thing for thing in view.single() if third(thing) is not None]
    return asking.part(asker, asker.draw.pick(things)) if things else None


def _place(view: View, balance: Balance, asker: Asker) -> Question | None:
    outdoors = view.outdoors()
    return None if outdoors is None else asking.indoors_or_outdoors(asker, outdoors)


def _two(view: View, balance: Balance, asker: Asker) -> Question | None:
    things = asker.draw.shuffled(view.single())
    if len(things) < 2:
        return None
    if asker.draw.chance(0.5):
        return asking.beside(asker, things[0], things[1], asker.draw.chance(0.5))
    return asking.bigger(asker, things[0], things[1])


def _main(view: View, balance: Balance, asker: Asker) -> Question | None:
    groups = [group for group in ("animal", "vehicle") if view.member(group)]
    if groups and asker.draw.chance(0.4):
        group = asker.draw.pick(groups)
        return asking.member(asker, group, view.member(group) or "")
    main = view.main()
    return asking.main_thing(asker, main) if main else None


def _list(view: View, balance: Balance, asker: Asker) -> Question | None:
    boxed = all(thing.box for things in view.by_name.values() for thing in things)
    return asking.contents(asker, view) if view.present and boxed else None


TRAINING: dict[str, tuple[float, Maker]] = {
    "existence": (0.32, _existence),
    "identity": (0.04, _identity),
    "choice": (0.22, _choice),
    "count": (0.14, _count),
    "where": (0.9, _where),
    "part": (0.03, _part),
    "place": (0.02, _place),
    "two": (0.08, _two),
    "main": (0.07, _main),
    "list": (0.07, _list),
}
_ATTEMPTS = 5


def ask(view: View, balance: Balance, draw: Draw, number: int) -> list[Question]:
    """Up to `number` different training questions, kinds by the weights of `TRAINING`.

    A question left out for balance takes its place with it: another in its stead would upset the balance
    again.
    """
    asker = Asker(draw, careless=True)
    kinds = list(TRAINING)
    weights = [TRAINING[kind][0] for kind in kinds]
    questions: list[Question] = []
    asked: set[str] = set()
    for _ in range(number * _ATTEMPTS):
        if len(questions) >= number:
            break
        made = TRAINING[draw.weighted(kinds, weights)][1](view, balance, asker)
        if made is LEFT_OUT:
            number -= 1
        elif made is not None and made.prompt not in asked:
            asked.add(made.prompt)
            questions.append(made)
    return questions
