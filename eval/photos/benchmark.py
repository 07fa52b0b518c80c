"""The fixed questions of a set of photographs, each in a wording of training and in one kept out of it.

Which classes to ask for in which pictures follows POPE (arXiv 2305.10355) within each class. Every picture in
which a class surely is gives a yes; as many pictures without it give a no, chosen in three ways by turns: at
random; where the class is the most frequent one of those absent ("popular"); where it stands beside what is
there most often ("adversarial"). A yes and a no of one class and way are a pair, so that every way by itself
is balanced within every class. A class that is in more pictures than not is asked for in as many as there are
without it.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from eval.asking.question import CHOICE_SUFFIX, FREE_SUFFIX, YES_NO_SUFFIX, Draw, Question
from eval.photos import questions as asking
from eval.photos.balance import Balance
from eval.photos.facts import MARGIN, View, area, half
from eval.photos.questions import Asker
from eval.photos.records import Photo
from eval.photos.wordings import SUFFIXES, carelessly

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


KINDS = ("existence", "choice", "count", "left/right", "top/bottom", "bigger", "main", "list", "people")
_SEED = 20_250_807
_OPTIONS = 4
_SUFFIX_SHARE = 0.5  # of the questions as people ask them that end in a request for a short answer
PUBLISHED = {"yes_no": YES_NO_SUFFIX, "choice": CHOICE_SUFFIX, "free": FREE_SUFFIX}

Maker = Callable[[Asker], Question | None]


@dataclass(frozen=True)
class Benchmark:
    """All questions about `photos`, fixed by the photographs alone.

    Existence, one choice of four, up to two counts, left or right, top or bottom, which of two is bigger,
    what it is, and what is in it; of pictures with people's own questions, those that have one answer.
    """

    photos: tuple[Photo, ...]

    @cached_property
    def views(self) -> tuple[View, ...]:
        """What is known of each photograph."""
        return tuple(View(photo) for photo in self.photos)

    @cached_property
    def _spaces(self) -> dict[frozenset[str], list[int]]:
        spaces: dict[frozenset[str], list[int]] = defaultdict(list)
        for number, view in enumerate(self.views):
            if view.photo.labelled:
                spaces[view.photo.labelled].append(number)
        return spaces

    @cached_property
    def _existence(self) -> dict[int, list[ExistenceQuestion]]:
        planned: dict[int, list[ExistenceQuestion]] = defaultdict(list)
        for numbers in self._spaces.values():
            for asked in existence_plan([self.views[number] for number in numbers]):
                planned[numbers[asked.picture]].append(asked)
        return planned

    @cached_property
    def _balances(self) -> dict[frozenset[str], Balance]:
        return {
            space: Balance.of([self.views[n] for n in numbers]) for space, numbers in self._spaces.items()
        }

    def questions(self, number: int) -> list[Question]:
        """The questions about photograph `number`: in wordings of training, then again in others.

        As people type them, half of them with some request for a short answer.
        """
        view, draw = self.views[number], self._draw(number)
        makers = list(self._makers(number, draw))
        made = []
        for held_out in (False, True):
            asked = [maker(Asker(draw, held_out)) for maker in makers]
            made += [_as_people_type(question, draw) for question in asked if question is not None]
        return made + own_questions(view)

    def published(self, number: int) -> list[Question]:
        """The questions about photograph `number` for MME and RealWorldQA, with their suffixes.

        Yes/no questions come in pairs about the picture, one answered with yes and one with no.
        """
        view, draw = self.views[number], self._draw(number)
        asker = Asker(draw)
        made = [maker(asker) for maker in self._makers(number, draw)]
        planned = self._existence[number]
        pairs = zip((a for a in planned if a.there), (a for a in planned if not a.there), strict=False)
        opposites: list[tuple[Question | None, Question | None]] = [
            (_existence(yes, asker), _existence(no, asker)) for yes, no in pairs
        ]
        for name, count in view.counts().items():
            if count > 1:
                other = count + 1 if count == 2 or draw.chance(0.5) else count - 1
                checks = [asking.count_check(asker, name, count, asked) for asked in (count, other)]
                opposites.append((checks[0], checks[1]))
                break
        for thing in view.single():
            if half(thing, 0) is not None:
                opposites.append(
                    (asking.side_check(asker, thing, True), asking.side_check(asker, thing, False))
                )
                break
        asked = [question for question in made if question is not None and question.category != "existence"]
        for pair, both in enumerate(opposites):
            asked += [replace(question, pair=pair) for question in both if question is not None]
        return [replace(one, prompt=one.prompt + PUBLISHED.get(one.form, "")) for one in asked]

    def _draw(self, number: int) -> Draw:
        photo = self.photos[number]
        return Draw(np.random.default_rng([_SEED, zlib.crc32(f"{photo.source}/{photo.file.name}".encode())]))

    def _makers(self, number: int, draw: Draw) -> Iterator[Maker]:
        """What is asked about a photograph, still without words."""
        view = self.views[number]
        for asked in self._existence[number]:
            yield partial(_existence, asked)
        if not view.photo.labelled:
            return
        balance = self._balances[view.photo.labelled]
        right = balance.present(view, draw, groups=False)
        wrong = balance.missing(view, draw, _OPTIONS - 1, groups=False)
        if right is not None and len(wrong) == _OPTIONS - 1:
            yield partial(asking.choice, name=right, wrong=wrong, letters=draw.chance(0.5))
        for name, count in draw.shuffled(list(view.counts().items()))[:2]:
            yield partial(asking.count, name=name, number=count)
        for axis in (0, 1):
            things = [thing for thing in view.single() if half(thing, axis) is not None]
            if things:
                yield partial(asking.where, thing=draw.pick(things), axis=axis)
        things = draw.shuffled(view.single())
        pairs = [(one, other) for place, one in enumerate(things) for other in things[place + 1 :]
                 if max(area(one), area(other)) >= MARGIN * min(area(one), area(other))]  # fmt: skip
        if pairs:
            yield partial(asking.bigger, one=pairs[0][0], other=pairs[0][1])
        main = view.main()
        if main is not None:
            yield partial(asking.main_thing, name=main)
        if view.present and all(thing.box for things in view.by_name.values() for thing in things):
            yield partial(asking.contents, view=view)


def _existence(asked: ExistenceQuestion, asker: Asker) -> Question:
    question = asking.existence(asker, asked.name, asked.there, asked.way)
    return replace(question, pair=asked.pair)


def _as_people_type(question: Question, draw: Draw) -> Question:
    prompt = question.prompt if question.form == "choice" else carelessly(question.prompt, draw)
    short = question.form in SUFFIXES and " " not in question.answer
    if short and draw.chance(_SUFFIX_SHARE):
        prompt += draw.pick(SUFFIXES[question.form])
    return replace(question, prompt=prompt)


def own_questions(view: View) -> list[Question]:
    """The picture's own questions as they were asked, but for those with a list for an answer."""
    pairs = [(prompt, answer) for prompt, answer in view.photo.pairs if "," not in answer]
    return [Question("free", "people", prompt, answer) for prompt, answer in dict.fromkeys(pairs)]
