"""Questions of every kind about a photograph, with the answers that its boxes give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eval.asking.draw import Draw
from eval.asking.language import NUMBER_WORDS, listed, plural, with_article
from eval.asking.question import Question, with_letters
from eval.photos.balance import Balance
from eval.photos.facts import MARGIN, View, area, half, left_of
from eval.photos.names import GROUP_MEMBERS, spoken
from eval.photos.photo import Thing
from eval.photos.phrases import content_list
from eval.photos.wordings import PICTURES, held_out_wordings, trained_wordings

SIDES, HEIGHTS = ("left", "right"), ("top", "bottom")
_SYNONYM_SHARE = 0.35  # of questions that use another word than the canonical one
_NO_ARTICLE_SHARE = 0.06  # "is there dog in picture"
_SOMEONE_SHARE = 0.25  # of the questions for people that ask for anyone
_CHOICES = 4
_BOTTOMS_LEFT_OUT = 0.45  # of the questions about top or bottom that are answered with bottom
_ONES_LEFT_OUT = 0.5  # of the questions that are answered with 1, which would be nine of ten


@dataclass(frozen=True)
class Asker:
    """Words questions: in a trained wording or, if `held_out`, in one that training never uses."""

    draw: Draw
    held_out: bool = False
    careless: bool = False  # drop articles now and then

    def word(self, kind: str, *, one: str = "", other: str = "", **slots: str) -> str:
        """A question of `kind` in a random wording, its slots filled for the class `one`."""
        wordings = (held_out_wordings if self.held_out else trained_wordings)(kind)
        bare = self.careless and self.draw.chance(_NO_ARTICLE_SHARE)
        return self.draw.pick(wordings).format(
            pic=self.draw.pick(PICTURES),
            one=one,
            a=one if bare else with_article(one) if one else "",
            many=plural(one) if one else "",
            other=other,
            **slots,
        )

    def name(self, name: str) -> str:
        """A word for a class: mostly the canonical one."""
        words = spoken(name)
        if len(words) == 1 or not self.draw.chance(_SYNONYM_SHARE):
            return name
        return self.draw.pick(words[1:])


def existence(asker: Asker, name: str, there: bool, negatives: str = "") -> Question:
    """Whether there is something of a class."""
    if name == "person" and asker.draw.chance(_SOMEONE_SHARE):
        prompt = asker.word("someone")
    else:
        prompt = asker.word("existence", one=asker.name(name))
    answer = "Yes" if there else "No"
    return Question("yes_no", "existence", prompt, answer, None, asker.held_out, name, negatives)


def identity(asker: Asker, name: str, there: bool) -> Question:
    """Whether the picture is one of a class."""
    prompt = asker.word("identity", one=asker.name(name))
    return Question("yes_no", "identity", prompt, "Yes" if there else "No", None, asker.held_out, name)


def choice(asker: Asker, name: str, wrong: Sequence[str], letters: bool) -> Question:
    """Which of several classes is there: by a letter, or by its name."""
    if letters:
        prompt, answer = with_letters(asker.word("choice"), name, wrong, asker.draw)
        return Question("choice", "choice", prompt, answer, None, asker.held_out, name)
    options = listed([with_article(one) for one in asker.draw.shuffled([name, *wrong])], "or")
    prompt = asker.word("choice_words", list=options)
    return Question("free", "choice", prompt, name, None, asker.held_out, name)


def count(asker: Asker, name: str, number: int) -> Question:
    """How many there are of a class, answered in digits."""
    prompt = asker.word("count", one=asker.name(name))
    return Question("free", "count", prompt, str(number), None, asker.held_out, name)


def count_check(asker: Asker, name: str, number: int, asked: int) -> Question:
    """Whether there are as many as `asked` (at least two)."""
    prompt = asker.word("count_check", one=asker.name(name), number=NUMBER_WORDS[asked])
    answer = "Yes" if number == asked else "No"
    return Question("yes_no", "count", prompt, answer, None, asker.held_out, name)


def where(asker: Asker, thing: Thing, axis: int) -> Question | None:
    """In which half of the picture a thing is: left or right (axis 0), top or bottom (1)."""
    place = half(thing, axis)
    if place is None:
        return None
    kind, answers = ("side", SIDES) if axis == 0 else ("height", HEIGHTS)
    prompt = asker.word(kind, one=asker.name(thing.name))
    category = "left/right" if axis == 0 else "top/bottom"
    return Question("free", category, prompt, answers[place], None, asker.held_out, thing.name)


def side_check(asker: Asker, thing: Thing, there: bool) -> Question | None:
    """Whether a thing is on one side."""
    place = half(thing, 0)
    if place is None:
        return None
    side = SIDES[place if there else 1 - place]
    prompt = asker.word("side_check", one=asker.name(thing.name), side=side)
    return Question("yes_no", "position", prompt, "Yes" if there else "No", None, asker.held_out, thing.name)


def beside(asker: Asker, one: Thing, other: Thing, there: bool) -> Question | None:
    """Whether one of two things is left of the other."""
    order = left_of(one, other)
    if order is None:
        return None
    first, second = (one, other) if order == there else (other, one)
    prompt = asker.word("left_of", one=asker.name(first.name), other=asker.name(second.name))
    return Question("yes_no", "position", prompt, "Yes" if there else "No", None, asker.held_out, first.name)


def bigger(asker: Asker, one: Thing, other: Thing) -> Question | None:
    """Which of two things covers more of the picture."""
    large, small = sorted((one, other), key=area, reverse=True)
    if area(large) < MARGIN * area(small) or area(small) == 0:
        return None
    first, second = asker.draw.shuffled([large.name, small.name])
    prompt = asker.word("bigger", one=first, other=second)
    return Question("free", "bigger", prompt, large.name, None, asker.held_out, large.name)


def main_thing(asker: Asker, name: str) -> Question:
    """What the picture is of."""
    return Question("free", "main", asker.word("main"), name, None, asker.held_out, name)


def member(asker: Asker, group: str, name: str) -> Question:
    """Which animal or vehicle it is."""
    return Question("free", "main", asker.word(f"which_{group}"), name, None, asker.held_out, name)


def contents(asker: Asker, view: View) -> Question:
    """What is in the picture: everything, largest first."""
    return Question(
        "describe", "list", asker.word("list"), content_list(view.contents()), None, asker.held_out
    )


# --- training: one question of a kind, or None where the picture allows none ---

LEFT_OUT = Question("yes_no", "existence", "", "")  # stands for a question that would upset the balance
Maker = Callable[[View, Balance, Asker], Question | None]


def _existence(view: View, balance: Balance, asker: Asker) -> Question | None:
    there = balance.present(view, asker.draw)
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
    there = balance.present(view, asker.draw)
    if there is None or there in GROUP_MEMBERS:
        return None
    wrong = balance.missing(view, asker.draw, _CHOICES - 1 - asker.draw.below(2), groups=False)
    return choice(asker, there, wrong, asker.draw.chance(0.5)) if wrong else None


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
    "existence": (0.34, _existence),
    "identity": (0.06, _identity),
    "choice": (0.14, _choice),
    "count": (0.14, _count),
    "where": (0.18, _where),
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
