"""Which classes to ask for in which pictures, by the protocol of POPE (arXiv 2305.10355) within each class.

Every picture in which a class surely is gives a yes; as many pictures without it give a no, chosen in three
ways by turns: at random; where the class is the most frequent one of those absent ("popular"); where it
stands beside what is there most often ("adversarial"). A yes and a no of one class and way are a pair, so
that every way by itself is balanced within every class. A class that is in more pictures than not is asked
for in as many as there are without it.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from eval.photos.facts import View

WAYS = ("random", "popular", "adversarial")


@dataclass(frozen=True)
class ExistenceQuestion:
    """A class asked for in picture number `picture`; `pair` is shared by a yes and its no."""

    picture: int
    name: str
    there: bool
    way: str
    pair: int


def existence_plan(views: Sequence[View]) -> list[ExistenceQuestion]:
    """All that is asked for over pictures that share one label space; the same for the same pictures."""
    present = [set(view.present) & view.photo.labelled for view in views]
    absent = [set(view.absent) for view in views]
    frequency = Counter(name for names in present for name in names)
    beside = Counter((one, other) for names in present for one in names for other in names if one != other)
    plan: list[ExistenceQuestion] = []
    for name in sorted(frequency):
        yes = sorted((p for p in range(len(views)) if name in present[p]), key=lambda p: _lot(views[p], name))
        free = {p for p in range(len(views)) if name in absent[p]}
        for number, picture in enumerate(yes[: len(free)]):
            way = WAYS[number % len(WAYS)]
            if way == "random":
                order = {p: (0.0, _lot(views[p], name)) for p in free}
            elif way == "popular":
                ranks = {p: sum(frequency[other] > frequency[name] for other in absent[p]) for p in free}
                order = {p: (float(rank), _lot(views[p], name)) for p, rank in ranks.items()}
            else:
                near = {p: max((_share(beside, frequency, one, name) for one in present[p]), default=0.0)
                        for p in free}  # fmt: skip
                order = {p: (-share, _lot(views[p], name)) for p, share in near.items()}
            other = min(free, key=lambda p: order[p])
            free.remove(other)
            pair = len(plan) // 2
            plan += [
                ExistenceQuestion(picture, name, True, way, pair),
                ExistenceQuestion(other, name, False, way, pair),
            ]
    return plan


def _share(beside: Counter[tuple[str, str]], frequency: Counter[str], one: str, other: str) -> float:
    """Of the pictures of one class the share that shows the other, too."""
    return beside[one, other] / frequency[one]


def _lot(view: View, name: str) -> int:
    """A number for a picture and a class, which looks random and is the same on every machine."""
    return zlib.crc32(f"{view.photo.source}/{view.photo.file.name}/{name}".encode())
