"""The mix of questions that training asks about a photograph, balanced over the photographs of a corpus."""

from __future__ import annotations

from collections.abc import Callable

from eval.asking.question import Draw, Question
from eval.photos.balance import Balance
from eval.photos.facts import View, half, third
from eval.photos.questions import (
    Asker,
    beside,
    bigger,
    choice,
    contents,
    count,
    count_check,
    existence,
    identity,
    indoors_or_outdoors,
    main_thing,
    member,
    part,
    side_check,
    where,
)

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
    return existence(asker, names[0], truth) if balance.asks(names[0], truth, asker.draw) else LEFT_OUT


def _identity(view: View, balance: Balance, asker: Asker) -> Question | None:
    main = view.main()
    if main is None or main not in view.photo.labelled:
        return None
    if asker.draw.chance(0.5):
        return identity(asker, main, True)
    missing = balance.missing(view, asker.draw, 1, groups=False)
    return identity(asker, missing[0], False) if missing else None


def _choice(view: View, balance: Balance, asker: Asker) -> Question | None:
    there = balance.present(view, asker.draw, groups=False)
    if there is None:
        return None
    wrong = balance.missing(view, asker.draw, _CHOICES - 1 - asker.draw.below(2), groups=False)
    return choice(asker, there, wrong, asker.draw.chance(_LETTERS)) if wrong else None


def _count(view: View, balance: Balance, asker: Asker) -> Question | None:
    counts = view.counts()
    if not counts:
        return None
    if asker.draw.chance(0.06) and (missing := balance.missing(view, asker.draw, 1, groups=False)):
        return count(asker, missing[0], 0)
    name = asker.draw.weighted(list(counts), [1.0 if number == 1 else 2.0 for number in counts.values()])
    if counts[name] == 1 and asker.draw.chance(_ONES_LEFT_OUT):
        return None
    if counts[name] > 1 and asker.draw.chance(0.25):
        truth = asker.draw.chance(0.5)
        near = [n for n in (counts[name] - 1, counts[name] + 1, counts[name] + 2) if n > 1]
        return count_check(asker, name, counts[name], counts[name] if truth else asker.draw.pick(near))
    return count(asker, name, counts[name])


def _where(view: View, balance: Balance, asker: Asker) -> Question | None:
    axis = 0 if asker.draw.chance(0.7) else 1
    things = [thing for thing in view.single() if half(thing, axis) is not None]
    if not things:
        return None
    thing = asker.draw.pick(things)
    if axis == 1 and half(thing, axis) == 1 and asker.draw.chance(_BOTTOMS_LEFT_OUT):
        return None
    if axis == 0 and asker.draw.chance(0.25):
        return side_check(asker, thing, asker.draw.chance(0.5))
    return where(asker, thing, axis)


def _part(view: View, balance: Balance, asker: Asker) -> Question | None:
    things = [thing for thing in view.single() if third(thing) is not None]
    return part(asker, asker.draw.pick(things)) if things else None


def _place(view: View, balance: Balance, asker: Asker) -> Question | None:
    outdoors = view.outdoors()
    return None if outdoors is None else indoors_or_outdoors(asker, outdoors)


def _two(view: View, balance: Balance, asker: Asker) -> Question | None:
    things = asker.draw.shuffled(view.single())
    if len(things) < 2:
        return None
    if asker.draw.chance(0.5):
        return beside(asker, things[0], things[1], asker.draw.chance(0.5))
    return bigger(asker, things[0], things[1])


def _main(view: View, balance: Balance, asker: Asker) -> Question | None:
    groups = [group for group in ("animal", "vehicle") if view.member(group)]
    if groups and asker.draw.chance(0.4):
        group = asker.draw.pick(groups)
        return member(asker, group, view.member(group) or "")
    main = view.main()
    return main_thing(asker, main) if main else None


def _list(view: View, balance: Balance, asker: Asker) -> Question | None:
    boxed = all(thing.box for things in view.by_name.values() for thing in things)
    return contents(asker, view) if view.present and boxed else None


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
